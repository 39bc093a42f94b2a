"""Who is at which shard: small files under ``claims/``.

They tell those who watch a dataset how far each worker is, and keep the workers of a store apart.  In a
folder, the lock on the unfinished tar decides who writes a shard.  A store has no locks: there a claim is
made on the condition that there is none, and counts as long as it changes; its holder writes it anew
every BEAT seconds.  No clock is compared with another one: who finds a claim watches whether it changes.
Two workers at one shard are harmless, as a shard is committed or absent.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import with_config

from synthgen.common.errors import SynthgenError
from synthgen.common.records import STRICT, record
from synthgen.dataset.manifest import concurrently
from synthgen.dataset.plan import MAX_SHARDS, ShardSpan
from synthgen.dataset.shard import data_path
from synthgen.kinds.base import MAX_IMAGES
from synthgen.storage.atomic import held, open_own
from synthgen.storage.inside import check_folder
from synthgen.storage.reading import read_file, reading
from synthgen.storage.stores import BRIEF, created, patiently

if TYPE_CHECKING:
    from synthgen.storage.places import Place

FOLDER = "claims"
BEAT = 5.0  # seconds between two writings of a claim
SILENT = 30.0  # seconds without a change after which a claim no longer counts
LONGEST = 1 << 16  # bytes of a claim


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a worker tells of the shard that it is at, or the last one to fail at it."""

    worker: str  # host and process
    shard: int
    done: int  # images
    of: int
    rate: float  # images a second
    beat: int  # how often it was written
    failed: str = ""  # why the shard was given up


class Progress:
    """How far a worker is; it counts, and the thread that tells reads."""

    rate = 0.0  # images a second of the last shard of this process: what the next one tells at first

    def __init__(self) -> None:
        self.done = 0  # images
        self.told = time.monotonic()  # when the claim was last written


def worker_name(process: int | None = None) -> str:
    """Host and process (this one), such as ``node7-4242``."""
    return f"{socket.gethostname()}-{process or os.getpid()}"


def claim_path(directory: Place, span: ShardSpan) -> Place:
    """Where the claim of a shard stands."""
    return directory / FOLDER / f"{span.stem}.json"


def read_claims(directory: Place) -> dict[str, Claim]:
    """All claims, by the stem of their shard; what is none is left out.

    Raises SynthgenError where a store cannot be reached.
    """
    return {stem: claim for stem, data in _read_all(directory).items() if (claim := _parsed(data))}


def _read_all(directory: Place) -> dict[str, bytes]:
    with reading(directory):
        paths = patiently(lambda: _files(directory), waits=BRIEF)
    found = zip(paths, concurrently(_read, paths, at=directory), strict=True)
    return {path.stem: data for path, data in found if data is not None}


def _read(path: Place) -> bytes | None:
    if isinstance(path, Path):
        with suppress(OSError):  # dropped in the meantime; not for us; no file
            return read_file(path, limit=LONGEST)
        return None
    with suppress(FileNotFoundError, PermissionError):
        return patiently(path.read_bytes, waits=BRIEF)
    return None


def _parsed(data: bytes) -> Claim | None:
    """A claim whose numbers can be; None for anything else."""
    with suppress(SynthgenError):
        claim = record(data, Claim, "a claim")
        counts = 0 <= claim.done <= MAX_IMAGES and 0 < claim.of <= MAX_IMAGES and 0 <= claim.beat <= MAX_IMAGES
        if counts and 0 <= claim.shard < MAX_SHARDS and 0 <= claim.rate <= MAX_IMAGES:
            return claim
    return None


def _files(directory: Place) -> list[Place]:
    folder = directory / FOLDER
    if not isinstance(folder, Path):
        folder.fs.invalidate_cache()
    try:
        return [path for path in folder.iterdir() if path.suffix == ".json"]
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextmanager
def telling(
    directory: Place, span: ShardSpan, *, force: bool = False, beat: float | None = None
) -> Iterator[Progress | None]:
    """Claim a shard and tell, while the block runs, how far it is; None where another worker of a store has it.

    With ``force`` a claim that stands is taken over.  A claim is dropped when the block ends; that of a
    killed worker stays behind.  It is written anew every ``beat`` seconds (BEAT).
    """
    path, progress = claim_path(directory, span), Progress()
    n_samples = span.stop - span.start
    claim = Claim(worker=worker_name(), shard=span.index, done=0, of=n_samples, rate=progress.rate, beat=0)
    if not _make(path, claim, force=force):
        yield None
        return
    over, start = threading.Event(), time.monotonic()
    thread = threading.Thread(target=_tell, args=(path, claim, progress, over, beat or BEAT), daemon=True)
    thread.start()
    try:
        yield progress
        Progress.rate = _rate(progress, start)
    finally:
        over.set()
        thread.join()
        if _ours(path, progress):
            _drop(path)


def _tell(path: Place, claim: Claim, progress: Progress, over: threading.Event, beat: float) -> None:
    start = time.monotonic()
    while not over.wait(beat) and _ours(path, progress):
        rate = _rate(progress, start) or claim.rate
        claim = replace(claim, done=progress.done, rate=rate, beat=claim.beat + 1)
        with suppress(Exception):  # telling is worth no failure; a store's client has errors of its own
            _write(path, claim)
            progress.told = time.monotonic()


def _rate(progress: Progress, start: float) -> float:
    return round(progress.done / max(time.monotonic() - start, 1e-3), 2)


def _ours(path: Place, progress: Progress) -> bool:
    """Whether nobody has taken a claim over: that of a worker which was frozen for a while may be another's now."""
    return isinstance(path, Path) or time.monotonic() - progress.told <= SILENT


def _make(path: Place, claim: Claim, *, force: bool) -> bool:
    """Write a first claim; False where a store has one already."""
    if isinstance(path, Path) or force:
        with suppress(Exception):  # a claim is worth no failure
            _write(path, claim)
        return True
    data = _bytes(claim)
    return created(path, lambda mode: path.fs.pipe_file(path.path, data, mode=mode), lambda: _read(path) == data)


def _write(path: Place, claim: Claim) -> None:
    if isinstance(path, Path):
        check_folder(path.parent)
        path.parent.mkdir(exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with open_own(part, "wb") as file:
            file.write(_bytes(claim))
        os.replace(part, path)
    else:
        path.fs.pipe_file(path.path, _bytes(claim))


def _bytes(claim: Claim) -> bytes:
    return json.dumps(asdict(claim)).encode()


def _drop(path: Place) -> None:
    with suppress(Exception):
        check_folder(path.parent)
        path.unlink() if isinstance(path, Path) else path.fs.rm_file(path.path)


def drop_of(directory: Place, workers: Collection[str]) -> None:
    """Remove the claims of workers that are no more.  Raises SynthgenError where a store cannot be reached."""
    for stem, claim in (read_claims(directory) if workers else {}).items():
        if claim.worker in workers:
            _drop(directory / FOLDER / f"{stem}.json")


def tell_failed(directory: Place, span: ShardSpan, worker: str, why: str) -> None:
    """Leave word that a shard was given up; a later run tries it again."""
    claim = Claim(
        worker=worker, shard=span.index, done=0, of=span.stop - span.start, rate=0.0, beat=0, failed=why[:500]
    )
    with suppress(Exception):
        _write(claim_path(directory, span), claim)


def remove_claims(directory: Place) -> None:
    """Remove what workers left behind, of a complete dataset."""
    with suppress(Exception):
        check_folder(directory / FOLDER)
        for path in _files(directory):
            _drop(path)
        if isinstance(directory, Path):
            for part in (directory / FOLDER).glob(".*.tmp"):
                part.unlink(missing_ok=True)
            (directory / FOLDER).rmdir()


class Unchanged:
    """For how long things have not changed, by our own clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float]] = {}  # name -> value, when it was first seen so

    def look(self, values: Mapping[str, object]) -> dict[str, float]:
        """Seconds since each was first seen with the value that it has now."""
        now = time.monotonic()
        self._seen = {
            name: self._seen[name] if name in self._seen and self._seen[name][0] == value else (value, now)
            for name, value in values.items()
        }
        return {name: now - since for name, (_, since) in self._seen.items()}


class Watch:
    """Which claims of a store still count, by whether they change."""

    def __init__(self, directory: Place) -> None:
        self._directory, self._unchanged = directory, Unchanged()

    def free(self, spans: Sequence[ShardSpan]) -> tuple[list[ShardSpan], set[int]]:
        """Those of the spans that nobody is at; and the indices of those whose claims no longer count.

        Raises SynthgenError where the store cannot be reached.
        """
        if isinstance(self._directory, Path):  # where locks decide
            return [span for span in spans if not _held(self._directory, span)], set()
        claims = _read_all(self._directory)
        still = self._unchanged.look(claims)
        silent = {span.index for span in spans if span.stem in claims and _over(claims[span.stem], still[span.stem])}
        return [span for span in spans if span.stem not in claims or span.index in silent], silent


def _held(directory: Path, span: ShardSpan) -> bool:
    with suppress(OSError):  # who tries the shard will tell
        return held(data_path(directory, span))
    return False


def _over(data: bytes, unchanged: float) -> bool:
    claim = _parsed(data)
    return unchanged > SILENT or (claim is not None and claim.failed != "")
