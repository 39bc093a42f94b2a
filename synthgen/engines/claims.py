"""Which worker is writing which shard: small files under ``claims/``.

They report each worker's progress, and keep workers off each other's shards where there are no locks.  In a store
with locks, such as a folder, the lock on the unfinished tar decides which worker writes a shard.  Elsewhere a claim is
created on the condition that there is none, and is valid as long as it keeps changing; its holder rewrites it every
HEARTBEAT seconds.  No two clocks are compared: a worker that finds a claim watches whether it changes.  Two workers on
one shard are harmless, as a shard is committed or absent.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace

from pydantic import with_config

from synthgen.common.errors import SynthgenError
from synthgen.common.processes import worker_name
from synthgen.common.records import STRICT, record
from synthgen.dataset.manifest import concurrently
from synthgen.dataset.plan import MAX_SHARDS, ShardSpan
from synthgen.dataset.shard import data_path
from synthgen.kinds.base import MAX_IMAGES
from synthgen.storage.places import store_of
from synthgen.storage.reading import read_file, reading
from synthgen.storage.retries import with_retries
from synthgen.storage.store import CLAIMS, Hold, P, Place

HEARTBEAT = 5.0  # seconds between two writes of a claim
TIMEOUT = 30.0  # seconds without a change after which a claim is no longer valid
LONGEST = 1 << 16  # most bytes of a claim
ENDING = ".json"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a worker reports about the shard it is writing, or the failure of the last worker that tried."""

    worker: str  # host and process
    shard: int  # index
    done: int  # images drawn
    of: int  # images of the shard
    rate: float  # images per second
    beat: int  # how many times it was written
    failed: str = ""  # why the shard was given up; empty while it is being drawn


class Progress:
    """How far a worker is; the worker counts, and the thread that writes its claim reads."""

    rate = 0.0  # images per second of this process's last shard: what the next one reports at first

    def __init__(self) -> None:
        self.done = 0  # images


def claim_path(directory: P, span: ShardSpan) -> P:
    """The path of a shard's claim."""
    return directory / CLAIMS / f"{span.stem}.json"


def read_claims(directory: Place) -> dict[str, Claim]:
    """All claims, by the stem of their shard; other files are ignored.

    Raises SynthgenError if a store cannot be reached.
    """
    return {stem: claim for stem, data in _read_all(directory).items() if (claim := _parsed(data))}


def _read_all(directory: Place) -> dict[str, bytes]:
    with reading(directory):
        paths = with_retries(lambda: _files(directory), brief=True)
    found = zip(paths, concurrently(_read, paths, at=directory), strict=True)
    return {path.name.removesuffix(ENDING): data for path, data in found if data is not None}


def _read(path: Place) -> bytes | None:
    try:
        return read_file(path, limit=LONGEST)
    except (FileNotFoundError, PermissionError):  # removed in the meantime; not readable for us
        return None
    except OSError:
        if store_of(path).remote:
            raise
        return None  # not a file


def _parsed(data: bytes) -> Claim | None:
    """A claim with possible numbers; None for anything else."""
    with suppress(SynthgenError):
        claim = record(data, Claim, "a claim")
        possible = 0 <= claim.done <= MAX_IMAGES and 0 < claim.of <= MAX_IMAGES and 0 <= claim.beat <= MAX_IMAGES
        if possible and 0 <= claim.shard < MAX_SHARDS and 0 <= claim.rate <= MAX_IMAGES:
            return claim
    return None


def _files(directory: Place) -> list[Place]:
    folder = directory / CLAIMS
    return [folder / name for name in store_of(folder).names_in(folder) if name.endswith(ENDING)]


@contextmanager
def claiming(
    directory: Place, span: ShardSpan, *, force: bool = False, heartbeat: float | None = None
) -> Iterator[Progress | None]:
    """Claim a shard and report its progress while the block runs; None if another worker has claimed it.

    With ``force`` an existing claim is taken over.  The claim is rewritten every ``heartbeat`` seconds (HEARTBEAT) and
    removed when the block ends; that of a killed worker is left behind.
    """
    path, progress = claim_path(directory, span), Progress()
    n_samples = span.stop - span.start
    claim = Claim(worker=worker_name(), shard=span.index, done=0, of=n_samples, rate=progress.rate, beat=0)
    hold = store_of(path).claim(path, _bytes(claim), force=force, timeout=TIMEOUT)
    if hold is None:
        yield None
        return
    over, start = threading.Event(), time.monotonic()
    thread = threading.Thread(target=_renew, args=(hold, claim, progress, over, heartbeat or HEARTBEAT), daemon=True)
    thread.start()
    try:
        yield progress
        Progress.rate = _rate(progress, start)
    finally:
        over.set()
        thread.join()
        hold.drop()


def _renew(hold: Hold, claim: Claim, progress: Progress, over: threading.Event, heartbeat: float) -> None:
    start = time.monotonic()
    while not over.wait(heartbeat) and not hold.lost:
        rate = _rate(progress, start) or claim.rate
        claim = replace(claim, done=progress.done, rate=rate, beat=claim.beat + 1)
        with suppress(Exception):  # must not cause a failure; a store's client has its own errors
            hold.renew(_bytes(claim))


def _rate(progress: Progress, start: float) -> float:
    return round(progress.done / max(time.monotonic() - start, 1e-3), 2)


def _bytes(claim: Claim) -> bytes:
    return json.dumps(asdict(claim)).encode()


def _drop(path: Place) -> None:
    store = store_of(path)
    with suppress(Exception):
        store.check_folder(path.parent)
        store.remove(path)


def drop_claims(directory: Place, workers: Collection[str]) -> None:
    """Remove the claims of workers that have ended.  Raises SynthgenError if a store cannot be reached."""
    for stem, claim in (read_claims(directory) if workers else {}).items():
        if claim.worker in workers:
            _drop(directory / CLAIMS / f"{stem}{ENDING}")


def report_failure(directory: Place, span: ShardSpan, worker: str, why: str) -> None:
    """Leave a claim that says that a shard was given up; a later run tries it again."""
    claim = Claim(
        worker=worker, shard=span.index, done=0, of=span.stop - span.start, rate=0.0, beat=0, failed=why[:500]
    )
    path = claim_path(directory, span)
    store_of(path).claim(path, _bytes(claim), force=True, timeout=TIMEOUT)


def remove_claims(directory: Place) -> None:
    """Remove what workers left behind in a complete dataset."""
    with suppress(Exception):
        for path in _files(directory):
            _drop(path)
        store_of(directory).remove_folder(directory / CLAIMS)


class Unchanged:
    """How long values have not changed, by our own clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float]] = {}  # name -> value, when it was first seen

    def look(self, values: Mapping[str, object]) -> dict[str, float]:
        """Seconds since each name was first seen with its current value."""
        now = time.monotonic()
        self._seen = {
            name: self._seen[name] if name in self._seen and self._seen[name][0] == value else (value, now)
            for name, value in values.items()
        }
        return {name: now - since for name, (_, since) in self._seen.items()}


class Watch:
    """Which shards no worker is writing: according to locks or, without locks, by which claims change."""

    def __init__(self, directory: Place) -> None:
        self._directory, self._unchanged = directory, Unchanged()

    def free(self, spans: Sequence[ShardSpan]) -> tuple[list[ShardSpan], set[int]]:
        """Those of the spans that no worker is writing, and the indices of those with claims that are no longer valid.

        Raises SynthgenError if the store cannot be reached.
        """
        if store_of(self._directory).locks:
            return [span for span in spans if not _held(self._directory, span)], set()
        claims = _read_all(self._directory)
        still = self._unchanged.look(claims)
        expired = {
            span.index for span in spans if span.stem in claims and _expired(claims[span.stem], still[span.stem])
        }
        return [span for span in spans if span.stem not in claims or span.index in expired], expired


def _held(directory: Place, span: ShardSpan) -> bool:
    with suppress(OSError):  # a worker that tries the shard will find out
        return store_of(directory).is_locked(data_path(directory, span))
    return False


def _expired(data: bytes, unchanged: float) -> bool:
    claim = _parsed(data)
    return unchanged > TIMEOUT or (claim is not None and claim.failed != "")
