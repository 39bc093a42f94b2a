"""What is in a dataset directory: which shards are finished, and which are missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from synthgen.common.errors import SynthgenError
from synthgen.common.printing import counted
from synthgen.dataset.plan import Plan, ShardSpan, read_plan
from synthgen.dataset.shard import Shard, data_name, mismatch, read_record, record_name, table_name
from synthgen.storage.places import store_of
from synthgen.storage.reading import read_file, reading
from synthgen.storage.store import CLAIMS, FOLDERS, NO_FILE, Place

T = TypeVar("T")
U = TypeVar("U")

SUMS, MANIFEST, PLAN = "SHA256SUMS", "manifest.json", "plan.json"
DOCUMENTS = ("README.md", "croissant.json", "samples.jpg", "quality.json")  # of a published dataset
CONNECTIONS = 16  # to a store, at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A dataset directory, according to its completion records."""

    directory: Place
    plan: Plan
    shards: tuple[Shard, ...]  # committed, by index
    missing: tuple[ShardSpan, ...]  # planned, without a valid record
    foreign: tuple[Shard, ...] = ()  # records in their place that belong to another plan

    @property
    def n_samples(self) -> int:
        """Images in committed shards."""
        return sum(shard.n_samples for shard in self.shards)

    @property
    def n_bytes(self) -> int:
        """Size of the committed tars."""
        return sum(shard.n_bytes for shard in self.shards)

    @property
    def complete(self) -> bool:
        """Whether every planned shard is committed."""
        return not self.missing

    def summary(self) -> dict[str, Any]:
        """For ``synthgen status --json``."""
        return {
            "directory": str(self.directory),
            "plan": self.plan.digest,
            "n": self.plan.n,
            "n_done": self.n_samples,
            "n_shards": self.plan.n_shards,
            "n_shards_done": len(self.shards),
            "n_bytes": self.n_bytes,
            "n_classes": len(self.plan.content.class_names),
            "complete": self.complete,
        }

    def made(self, out: str, class_: str, classes: str) -> str:
        """What is now at ``out``, in words; ``class_`` and ``classes`` are what the kind calls its classes."""
        left = "" if self.complete else f"; {counted(self.plan.n - self.n_samples, 'image')} left to other tasks"
        n_classes = counted(len(self.plan.content.class_names), class_, classes)
        return (
            f"{out}: {counted(self.n_samples, 'image')} of {n_classes} in {counted(len(self.shards), 'shard')},"
            f" {self.n_bytes / 1e6:.1f} MB, plan {self.plan.digest[:16]}{left}"
        )


def read_manifest(directory: Place, known: Iterable[Shard] = ()) -> Manifest:
    """Read the plan and the completion records of a dataset directory, here or at a URL.

    A record is valid if it belongs to this plan and shard, and the tar and the table beside it have the recorded sizes.
    Those ``known`` from an earlier look are not read again.  Raises SynthgenError if there is no readable plan, or the
    store cannot be reached.
    """
    path = directory / PLAN
    with reading(path):
        plan = read_plan(path)
    sizes, digest = store_of(directory).listing(directory), plan.digest
    before = {shard.index: shard for shard in known}
    spans, foreign = plan.shards(), list[Shard]()

    def valid(span: ShardSpan) -> Shard | None:
        if sizes.get(record_name(span), NO_FILE) == NO_FILE:
            return None
        there = sizes.get(data_name(span)), sizes.get(table_name(span))
        try:
            shard = before.get(span.index) or read_record(directory / record_name(span))
        except (FileNotFoundError, SynthgenError):
            return None
        if shard.plan_digest != digest:
            foreign.append(shard)
        whole = there == (shard.n_bytes, shard.table_n_bytes) and not mismatch(shard, span, digest)
        return shard if whole else None

    found = list(zip(spans, concurrently(valid, spans, at=directory), strict=True))
    return Manifest(
        directory=directory,
        plan=plan,
        shards=tuple(shard for _, shard in found if shard),
        missing=tuple(span for span, shard in found if not shard),
        foreign=tuple(foreign),
    )


def check_own(manifest: Manifest) -> None:
    """Raise SynthgenError if shards belong to another plan: they, or the plan, are not what was there before."""
    if manifest.foreign:
        first, more = manifest.foreign[0], len(manifest.foreign) - 1
        others = f" and {counted(more, 'other shard')} belong" if more else " belongs"
        raise SynthgenError(
            f"{manifest.directory}: data/{first.filename}{others} to plan {first.plan_digest[:16]}, plan.json is"
            f" {manifest.plan.digest[:16]}: restore what was edited, or choose another --out; verify --repair"
            " restores edited records"
        )


def check_plan(directory: Place) -> None:
    """Raise SynthgenError if the SHA256SUMS of a finished set says that its plan.json was another file."""
    if plan_edited(directory) and (words := plan_edited(directory)):  # another process may just have grown the set
        raise SynthgenError(f"{directory}: {PLAN} {words}")


def plan_edited(directory: Place) -> str | None:
    """How plan.json differs from what SHA256SUMS says about it; None if it does not, or nothing is said."""
    with reading(directory / SUMS):
        try:
            lines = read_file(directory / SUMS, patient=True).decode(errors="replace").splitlines()
        except FileNotFoundError:  # never finished, or another process is growing the set
            return None
    with reading(directory / PLAN):
        own = hashlib.sha256(read_file(directory / PLAN, patient=True)).hexdigest()
    said = next((line.partition("  ")[0] for line in lines if line.partition("  ")[2] == PLAN), own)
    return None if said == own else unlike_plan(own, said)


def unlike_plan(own: str, said: str) -> str:
    """In words, that plan.json has another SHA-256 than SHA256SUMS says."""
    return f"has sha256 {own[:16]}, {SUMS} says {said[:16]}: restore the one of the two that was edited"


def concurrently(function: Callable[[T], U], items: Iterable[T], *, at: Place) -> Iterator[U]:
    """The results of a function that reads, for each item in order; several at a time if ``at`` is remote."""
    if not store_of(at).remote:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(CONNECTIONS) as pool, reading(at):
        yield from pool.map(function, items)


def check_folders(directory: Place) -> None:
    """Raise SynthgenError if a folder that a set is written in is a link."""
    for name in (*FOLDERS, CLAIMS):
        store_of(directory).check_folder(directory / name)


def finish(manifest: Manifest) -> None:
    """Write ``SHA256SUMS`` and then ``manifest.json`` of a complete directory; identical ones are left alone.

    All checksums except the plan's are those of the completion records: a file that was damaged since must not be
    recorded as it is now.
    """
    directory = manifest.directory
    sums = {f"data/{shard.filename}": shard.sha256 for shard in manifest.shards}
    sums |= {table_name(manifest.plan.shard(shard.index)): shard.table_sha256 for shard in manifest.shards}
    plan = directory / PLAN
    with reading(plan):
        sums[PLAN] = hashlib.sha256(read_file(plan, patient=True)).hexdigest()
    record = summary_of(manifest.plan, manifest.shards)
    for name, text in (
        (SUMS, "".join(f"{digest}  {name}\n" for name, digest in sums.items())),
        (MANIFEST, json.dumps(record, indent=1) + "\n"),
    ):
        store_of(directory).update(directory / name, text.encode())


def summary_of(plan: Plan, shards: Sequence[Shard]) -> dict[str, Any]:
    """What ``manifest.json`` says about a complete dataset."""
    return {
        "format": 1,  # version of the file's format
        "plan": plan.digest,  # the plan's digest
        "n": plan.n,  # images
        "n_shards": plan.n_shards,  # shards
        "n_bytes": sum(shard.n_bytes for shard in shards),  # of all tars
        "n_classes": len(plan.content.class_names),  # classes
        "complete": True,  # always true
        "class_names": list(plan.content.class_names),  # by label
        "shards": [asdict(shard) for shard in shards],  # the completion records, by index
    }
