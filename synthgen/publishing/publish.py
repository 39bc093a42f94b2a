"""Publishing a dataset directory: check it, describe it, send it.

What cannot work is refused before the checks, which may take hours: a bad target, no permission, an
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
from synthgen.common.printing import counted
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

LISTED = 3  # defects that a refusal names
TOLERATED = {"README.md", "LICENSE"}  # in a new repository, whose history keeps them


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What happens to one file."""

    name: str
    size: int | None  # bytes; None for a document that is not written yet
    state: str  # "new", "same" or "different"; "to write" for documents that are not written yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where a dataset was published, and what was sent."""

    target: str  # without secrets
    n_sent: int  # files
    n_bytes: int  # in those files
    n_kept: int  # files that were there already
    tag: str | None  # on the Hub
    faults: tuple[str, ...]  # defects of a set that was published anyway, without the shards that have them
    load: str  # how to read it

    def lines(self) -> list[str]:
        """The same in words."""
        what = f"{counted(self.n_sent, 'file')} sent ({self.n_bytes / 1e6:.1f} MB), {self.n_kept} were there already"
        lines = [f"{self.target}: {what}" + (f", tag {self.tag}" if self.tag else "")]
        if self.faults:
            lines.append(f"unfinished, as its card says: {_some(self.faults)}")
        return [*lines, f"load it: {self.load}"]


def publish(directory: Path, target: str, *, public: bool = False, allow_incomplete: bool = False) -> Published:
    """Verify a dataset directory, write its documents into it, and send it to ``target``.

    The target is hf://datasets/USER/NAME[@BRANCH], a URL that fsspec supports, or a folder.  A killed
    run is resumed by the next one.  With ``allow_incomplete`` only intact shards are sent, without
    manifest, and the card reports the defects.  Raises SynthgenError, with a message of one line without
    secrets, if the set cannot be published.
    """
    to = store_named(target).outlet(target, source=directory, public=public)
    manifest = _readable(directory, allow_incomplete)
    to.check(write=True)
    _refuse_another(to, to.standing(), manifest, _names(manifest))
    manifest, defects, quality = _checked(manifest, allow_incomplete)
    for name, content in documents(manifest, quality, defects=defects, repo=to.repo).items():
        with reporting_full_disk(directory / name):
            write_if_new(directory / name, content)
    files = _files(directory, manifest, finished=not defects)
    standing = to.standing()
    _refuse_another(to, standing, manifest, {file.name for file in files})
    work = arrange(files, standing, to.same(files, standing), DOCUMENTS)
    _send(to, work)
    checksums = next((file for file in files if file.name == "SHA256SUMS"), None)
    tag = to.finish(f"plan-{manifest.plan.digest[:16]}-{manifest.plan.n}", checksums)
    return Published(
        target=shown(target),
        n_sent=len(work.files),
        n_bytes=sum(file.size for file in work.files),
        n_kept=len(files) - len(work.files),
        tag=tag,
        faults=tuple(defects),
        load=to.load(tag),
    )


def _send(to: Outlet, work: Work) -> None:
    sizes = {file.name: file.size for file in work.files}
    total = -(-sum(sizes.values()) // 10**6)
    lock = threading.Lock()

    def sent(file: File) -> None:
        with lock:
            sizes.pop(file.name, None)  # once, however many attempts it took
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
        lines.append(f"{state}: {counted(len(sizes), 'file')}, {sum(sizes) / 1e6:.1f} MB")
    return [*lines, f"{shown(target)}: nothing was sent, and the images were not checked"]


def _readable(directory: Path, allow_incomplete: bool) -> Manifest:
    manifest = read_manifest(directory)
    if not manifest.shards:
        raise SynthgenError(f"{directory}: no shard is finished yet; there is nothing to publish")
    if not (allow_incomplete or _finished(manifest)):
        raise SynthgenError(
            f"{directory}: unfinished, {manifest.n_samples} of {manifest.plan.n} images in {len(manifest.shards)} of"
            f" {counted(manifest.plan.n_shards, 'shard')}; finish it, or publish what there is with --allow-incomplete"
        )
    return manifest


def _finished(manifest: Manifest) -> bool:
    store, directory = store_of(manifest.directory), manifest.directory
    return manifest.complete and all(store.exists(directory / name) for name in CLOSING)


def _checked(manifest: Manifest, allow_incomplete: bool) -> tuple[Manifest, list[str], Quality]:
    """The manifest with only the intact shards, what is wrong with the rest, and the quality of the images."""
    from synthgen.dataset.quality import measure

    directory = manifest.directory
    with progress("verify", manifest.plan.n_shards, "shards") as show:
        defects, quality = inspect(directory, quality=True, progress=show)
    lines = [str(defect) for defect in defects]
    if not lines and not _finished(manifest):
        lines = ["manifest.json or SHA256SUMS: missing"]
    if lines and not allow_incomplete:
        raise SynthgenError(
            f"{directory}: {_some(lines)}; repair shards with synthgen verify --repair and remove what does not belong"
            " there, or publish the intact shards with --allow-incomplete"
        )
    damaged = {defect.shard for defect in defects}
    intact = tuple(shard for shard in manifest.shards if shard.index not in damaged)
    if not intact:
        raise SynthgenError(f"{directory}: {_some(lines)}; no shard is intact, there is nothing to publish")
    kept = {shard.index for shard in intact}
    spans = manifest.plan.shards()
    manifest = replace(manifest, shards=intact, missing=tuple(span for span in spans if span.index not in kept))
    return manifest, lines, quality or measure(manifest)


def _some(defects: Sequence[str]) -> str:
    """The first defects, and how many there are."""
    more = ", ..." if len(defects) > LISTED else ""
    return f"{counted(len(defects), 'defect')} ({', '.join(defects[:LISTED])}{more})"


def _files(directory: Path, manifest: Manifest, *, finished: bool) -> list[File]:
    """The files that belong at the target, in the order of sending; without the closing files if unfinished."""
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
    """The digest and size of the set of another plan.json; raises SynthgenError if it has none."""
    plan = parsed(data, f"{where}: plan.json")
    digest, n = (plan.get("digest"), plan.get("n")) if isinstance(plan, dict) else (None, None)
    if not isinstance(digest, str) or type(n) is not int:
        raise SynthgenError(f"{where}: its plan.json is not a dataset's; choose an empty place")
    return digest, n


def _refuse_another(to: Outlet, standing: Mapping[str, Standing], manifest: Manifest, ours: Iterable[str]) -> None:
    """Raise SynthgenError if the target holds anything but this set, or more images of it."""
    where = to.shown
    strange = sorted(standing.keys() - (TOLERATED if to.repo else set()))
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
        raise SynthgenError(
            f"{where}: holds the same set with {counted(n, 'image')}, more than the {manifest.plan.n} here"
        )
    mine = set(ours)
    more = [name for name in strange if name.startswith(("data/", "metadata/")) and name not in mine]
    if more:
        raise SynthgenError(
            f"{where}: holds {more[0]}, which this set does not have (intact); readers would take it for part of it:"
            " remove it there or choose another place"
        )
