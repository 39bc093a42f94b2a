"""Publishing a dataset directory: check it, describe it, send it.

What cannot work is refused before the hours that checking takes: a bad target, no permission, an
unfinished set, a place that holds something else.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from synthgen.common.errors import SynthgenError
from synthgen.common.masking import shown
from synthgen.common.progress import progress
from synthgen.common.records import parsed
from synthgen.dataset.manifest import DOCUMENTS, Manifest, read_manifest
from synthgen.dataset.shard import data_name, data_path, record_name, record_path, table_name, table_path
from synthgen.dataset.verify import inspect
from synthgen.publishing.card import documents
from synthgen.publishing.upload import CLOSING, arrange
from synthgen.storage.atomic import reporting_full_disk, write_if_new
from synthgen.storage.outlet import File, Outlet, Standing, Work
from synthgen.storage.places import store_named, store_of
from synthgen.storage.reading import opened

if TYPE_CHECKING:
    from synthgen.dataset.quality import Quality

TOLD = 3  # faults that a refusal names
WELCOME = {"README.md", "LICENSE"}  # of a new repository, whose history keeps them


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What becomes of one file."""

    name: str
    size: int | None  # bytes; None of a document that is still to be written
    state: str  # "new", "same", "different"; of documents that are still to be written "to write"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where a dataset stands now, and how it got there."""

    target: str  # without secrets
    n_sent: int  # files
    n_bytes: int  # of them
    n_kept: int  # files that stood there already
    tag: str | None  # on the Hub
    faults: tuple[str, ...]  # of a set that was published all the same; its shards with faults were left out
    load: str  # how to read it

    def lines(self) -> list[str]:
        """The same in words."""
        what = f"{self.n_sent} files sent ({self.n_bytes / 1e6:.1f} MB), {self.n_kept} stood there already"
        lines = [f"{self.target}: {what}" + (f", tag {self.tag}" if self.tag else "")]
        if self.faults:
            lines.append(f"unfinished, as its card says: {_some(self.faults)}")
        return [*lines, f"load it: {self.load}"]


def publish(directory: Path, target: str, *, public: bool = False, allow_incomplete: bool = False) -> Published:
    """Verify a dataset directory, write its documents into it, and send it to ``target``.

    The target is hf://datasets/USER/NAME[@BRANCH], a URL that fsspec reaches, or a folder.  A killed
    run is taken up by the next one.  With ``allow_incomplete`` the shards that are whole are sent,
    without manifest, and the card tells of the faults.  Raises SynthgenError, in one line without
    secrets, where anything is in the way.
    """
    to = store_named(target).outlet(target, source=directory, public=public)
    manifest = _readable(directory, allow_incomplete)
    to.check(write=True)
    _refuse_another(to, to.standing(), manifest, _names(manifest))
    manifest, faults, quality = _checked(manifest, allow_incomplete)
    for name, content in documents(manifest, quality, faults=faults, repo=to.repo).items():
        with reporting_full_disk(directory / name):
            write_if_new(directory / name, content)
    files = _files(directory, manifest, finished=not faults)
    standing = to.standing()
    _refuse_another(to, standing, manifest, {file.name for file in files})
    work = arrange(files, standing, to.same(files, standing), DOCUMENTS)
    _send(to, work)
    sums = next((file for file in files if file.name == "SHA256SUMS"), None)
    tag = to.finish(f"plan-{manifest.plan.digest[:16]}-{manifest.plan.n}", sums)
    return Published(
        target=shown(target),
        n_sent=len(work.files),
        n_bytes=sum(file.size for file in work.files),
        n_kept=len(files) - len(work.files),
        tag=tag,
        faults=tuple(faults),
        load=to.load(tag),
    )


def _send(to: Outlet, work: Work) -> None:
    sizes = {file.name: file.size for file in work.files}
    total = -(-sum(sizes.values()) // 10**6)
    lock = threading.Lock()

    def sent(file: File) -> None:
        with lock:
            sizes.pop(file.name, None)  # once, however often it was tried
            show(total - -(-sum(sizes.values()) // 10**6))

    with progress("publish", total, "MB") as show:
        to.send(work, sent)


def plan_upload(directory: Path, target: str, *, public: bool = False, allow_incomplete: bool = False) -> list[Step]:
    """What ``publish`` would send, touching neither the directory nor the target.

    Images are not checked.  Raises SynthgenError as ``publish`` does before it checks them.
    """
    to = store_named(target).outlet(target, source=directory, public=public)
    manifest = _readable(directory, allow_incomplete)
    to.check(write=False)
    files = _files(directory, manifest, finished=_finished(manifest))
    standing = to.standing()
    _refuse_another(to, standing, manifest, {file.name for file in files})
    same = to.same(files, standing)
    states = {file.name: "different" if file.name in standing else "new" for file in files}
    states |= dict.fromkeys(same, "same")
    there = {file.name for file in files}
    made = [Step(name=name, size=None, state="to write") for name in DOCUMENTS if name not in there]
    return [*(Step(name=file.name, size=file.size, state=states[file.name]) for file in files), *made]


def step_lines(steps: Sequence[Step], target: str) -> list[str]:
    """What ``plan_upload`` found, in words."""
    lines = [f"{step.state:>10}  {'-' if step.size is None else step.size:>13}  {step.name}" for step in steps]
    for state in ("new", "different", "same"):
        sizes = [step.size or 0 for step in steps if step.state == state]
        lines.append(f"{state}: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB")
    return [*lines, f"{shown(target)}: nothing was sent, and the images were not checked"]


def _readable(directory: Path, allow_incomplete: bool) -> Manifest:
    manifest = read_manifest(directory)
    if not manifest.shards:
        raise SynthgenError(f"{directory}: no shard stands yet; there is nothing to publish")
    if not (allow_incomplete or _finished(manifest)):
        raise SynthgenError(
            f"{directory}: unfinished, {manifest.n_samples} of {manifest.plan.n} images in {len(manifest.shards)} of"
            f" {manifest.plan.n_shards} shards; finish it, or publish what there is with --allow-incomplete"
        )
    return manifest


def _finished(manifest: Manifest) -> bool:
    store, directory = store_of(manifest.directory), manifest.directory
    return manifest.complete and all(store.exists(directory / name) for name in CLOSING)


def _checked(manifest: Manifest, allow_incomplete: bool) -> tuple[Manifest, list[str], Quality]:
    """The manifest with the whole shards alone, what is wrong with the rest, and what the images are like."""
    from synthgen.dataset.quality import measure

    directory = manifest.directory
    with progress("verify", manifest.plan.n_shards, "shards") as show:
        faults, quality = inspect(directory, quality=True, progress=show)
    told = [str(fault) for fault in faults]
    if not told and not _finished(manifest):
        told = ["manifest.json or SHA256SUMS: missing"]
    if told and not allow_incomplete:
        raise SynthgenError(
            f"{directory}: {_some(told)}; mend shards with synthgen verify --repair and take away what does not belong"
            " there, or publish what is whole with --allow-incomplete"
        )
    damaged = {fault.shard for fault in faults}
    whole = tuple(shard for shard in manifest.shards if shard.index not in damaged)
    if not whole:
        raise SynthgenError(f"{directory}: {_some(told)}; no shard is whole, there is nothing to publish")
    stands = {shard.index for shard in whole}
    spans = manifest.plan.shards()
    manifest = replace(manifest, shards=whole, missing=tuple(span for span in spans if span.index not in stands))
    return manifest, told, quality or measure(manifest)


def _some(faults: Sequence[str]) -> str:
    """The first faults, and how many there are."""
    more = ", ..." if len(faults) > TOLD else ""
    return f"{len(faults)} fault{'s' * (len(faults) != 1)} ({', '.join(faults[:TOLD])}{more})"


def _files(directory: Path, manifest: Manifest, *, finished: bool) -> list[File]:
    """What is to stand at the target, in the order of sending; without the closing files where unfinished."""
    files = [_file(directory, directory / "plan.json")]
    for shard in manifest.shards:
        span = manifest.plan.shard(shard.index)
        record = _file(directory, record_path(directory, span))
        tar = File(
            name=f"data/{shard.filename}",
            source=data_path(directory, span),
            size=shard.n_bytes,
            sha256=shard.sha256,
            record=record.name,
        )
        files += [_file(directory, table_path(directory, span), record.name), tar, record]
    last = ("SHA256SUMS", *DOCUMENTS, "manifest.json") if finished else DOCUMENTS
    return files + [_file(directory, directory / name) for name in last if (directory / name).exists()]


def _file(directory: Path, path: Path, record: str | None = None) -> File:
    with opened(path) as stream:
        digest = hashlib.file_digest(cast("Any", stream), "sha256").hexdigest()
    name = path.relative_to(directory).as_posix()
    return File(name=name, source=path, size=path.stat().st_size, sha256=digest, record=record)


def _names(manifest: Manifest) -> set[str]:
    """The names that files of a set's shards have."""
    return {name(span) for span in manifest.plan.shards() for name in (table_name, data_name, record_name)}


def _digest_and_n(data: bytes, where: str) -> tuple[str, int]:
    """What a plan.json elsewhere says of its set; raises SynthgenError."""
    plan = parsed(data, f"{where}: plan.json")
    digest, n = (plan.get("digest"), plan.get("n")) if isinstance(plan, dict) else (None, None)
    if not isinstance(digest, str) or type(n) is not int:
        raise SynthgenError(f"{where}: its plan.json is not that of a dataset; choose an empty place")
    return digest, n


def _refuse_another(to: Outlet, standing: Mapping[str, Standing], manifest: Manifest, ours: Iterable[str]) -> None:
    """Raise where the target holds something that is not this set, or more of it."""
    where = to.shown
    strange = sorted(standing.keys() - (WELCOME if to.repo else set()))
    strange = [name for name in strange if not name.startswith(".")]
    if "plan.json" not in standing:
        if strange:
            raise SynthgenError(f"{where}: holds {strange[0]} and is not a dataset; choose an empty place")
        return
    digest, n = _digest_and_n(to.read("plan.json"), where)
    if digest != manifest.plan.digest:
        raise SynthgenError(
            f"{where}: holds a set of another plan ({digest[:16]} there, {manifest.plan.digest[:16]} here);"
            " choose another place"
        )
    if n > manifest.plan.n:
        raise SynthgenError(f"{where}: holds the same set with {n} images, more than the {manifest.plan.n} here")
    mine = set(ours)
    more = [name for name in strange if name.startswith(("data/", "metadata/")) and name not in mine]
    if more:
        raise SynthgenError(
            f"{where}: holds {more[0]}, which this set does not have (whole); readers would take it for a part of it:"
            " remove it there or choose another place"
        )
