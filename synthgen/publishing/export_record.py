"""Which export a folder belongs to: checked before work starts, locked meanwhile, marked complete at the end."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

from pydantic import with_config

from synthgen.common.errors import SynthgenError
from synthgen.common.records import STRICT, added, plain
from synthgen.dataset.manifest import Manifest
from synthgen.storage.atomic import claimed, write_atomically, write_if_new
from synthgen.storage.inside import check_outside
from synthgen.storage.places import store_of
from synthgen.storage.reading import read_record
from synthgen.storage.store import Place

FORMAT = 1  # of the record and of index.json
RECORD = ".synthgen-export.json"
LOCK = ".synthgen-export"
LONGEST = 1 << 16  # bytes in a record
DISK_BLOCK = 4096  # bytes: what a small file takes on a disk
TAR_SHARE = 2560  # least bytes of a sample in a tar besides its image: headers, class and record


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of an export: samples start..stop - 1."""

    name: str  # within the export
    start: int
    stop: int


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecord:
    """Which export a folder belongs to; the optional keys are those of files of several images."""

    format: int
    layout: str
    plan: str  # its digest
    shard_bytes: int | None = added(None)  # asked for
    shards: str | None = added(None)  # SHA-256 of the SHA-256 of all tars
    complete: bool


@contextmanager
def opened_export(
    manifest: Manifest, out: Path, layout: str, shard_bytes: int, parts: Sequence[Part]
) -> Iterator[None]:
    """Hold ``out`` as the folder of this export alone, new or resumed; at the end mark its record as complete."""
    record = _record(manifest, layout, shard_bytes)
    _check_place(manifest.directory, out)
    _check_disk(manifest, out, layout, parts, resumed=_resumes(out, record))
    with claimed(out / LOCK) as lock:
        if lock is None:
            raise SynthgenError(f"{out}: another process is exporting to it; wait for it, or choose another --out")
        _resumes(out, record)  # checked again, now that no other process can start one
        write_if_new(out / RECORD, _text(record))
        yield
        write_atomically(out / RECORD, _text(replace(record, complete=True)))


def _record(manifest: Manifest, layout: str, shard_bytes: int) -> ExportRecord:
    """What identifies an export.  An image folder may grow with its set; files of several images may not."""
    record = ExportRecord(format=FORMAT, layout=layout, plan=manifest.plan.digest, complete=False)
    if layout == "imagefolder":
        return record
    checksums = "".join(shard.sha256 for shard in manifest.shards)
    return replace(record, shard_bytes=shard_bytes, shards=hashlib.sha256(checksums.encode()).hexdigest())


def _text(record: ExportRecord) -> bytes:
    return (json.dumps(plain(record), indent=1) + "\n").encode()


def _resumes(out: Path, record: ExportRecord) -> bool:
    """Whether ``out`` is an export of this record; raises SynthgenError if it is neither that nor empty."""
    try:
        old = read_record(out / RECORD, ExportRecord, limit=LONGEST)
    except FileNotFoundError:
        if out.is_dir() and any(path.suffix != ".tmp" for path in out.iterdir()):
            raise SynthgenError(f"{out}: not empty and not an export (no {RECORD}); choose another --out") from None
        return False
    except SynthgenError as error:
        raise SynthgenError(f"{error}: not a record of an export; choose another --out") from None
    for field in fields(record):
        there, asked = getattr(old, field.name), getattr(record, field.name)
        if there != asked and field.name != "complete":
            mismatch = f"{field.name} {str(there)[:16]} there, {str(asked)[:16]} asked"
            raise SynthgenError(f"{out}: another export ({mismatch}); choose another --out")
    return True


def _check_place(directory: Place, out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise SynthgenError(f"{out}: not a directory")
    here = store_of(directory).local(directory)
    if here is not None:
        check_outside(here, out)


def _check_disk(manifest: Manifest, out: Path, layout: str, parts: Sequence[Part], *, resumed: bool) -> None:
    from synthgen.storage.disk import free_space

    each = manifest.n_bytes / manifest.plan.n
    if layout != "webdataset":
        each = max(each - TAR_SHARE, 0) + (DISK_BLOCK / 2 if layout == "imagefolder" else 0)
    n = sum(part.stop - part.start for part in parts if not (out / part.name).exists())
    if layout == "imagefolder":
        n = 0 if resumed else manifest.plan.n  # how many exist already is not known
    free = free_space(out)
    if free < n * each:
        raise SynthgenError(
            f"{out}: {n} images need about {n * each / 1e9:.3g} GB, {free / 1e9:.3g} GB are free; free some space"
        )


@contextmanager
def reporting_full_disk(out: Path) -> Iterator[None]:
    """Turn a full device into a SynthgenError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SynthgenError(
                f"no space left on the device at {out}; what is finished is kept: free some space and run again"
            ) from None
        raise
