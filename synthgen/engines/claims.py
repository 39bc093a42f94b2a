"""Who is at which shard: small files under ``claims/``.

They tell those who watch a dataset how far each worker is, and keep workers apart where no locks do.
Where a store has locks, as a folder does, that on the unfinished tar decides who writes a shard.  Elsewhere
a claim is made on the condition that there is none, and counts as long as it changes; its holder writes it
anew every BEAT seconds.  No clock is compared with another one: who finds a claim watches whether it changes.
Two workers at one shard are harmless, as a shard is committed or absent.
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

BEAT = 5.0  # seconds between two writings of a claim
SILENT = 30.0  # seconds without a change after which a claim no longer counts
LONGEST = 1 << 16  # bytes of a claim
ENDING = ".json"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a worker reports of the shard it is working on, or the last worker that failed at it."""

    worker: str  # host and process
    shard: int  # index
    done: int  # images drawn
    of: int  # images of the shard
    rate: float  # images per second
    beat: int  # how many times it was written
    failed: str = ""  # why the shard was given up; empty while it is being drawn


class Progress:
    """How far a worker is; it counts, and the thread that tells reads."""

    rate = 0.0  # images a second of the last shard of this process: what the next one tells at first

    def __init__(self) -> None:
        self.done = 0  # images


def claim_path(directory: P, span: ShardSpan) -> P:
    """Where the claim of a shard stands."""
    return directory / CLAIMS / f"{span.stem}.json"


def read_claims(directory: Place) -> dict[str, Claim]:
    """All claims, by the stem of their shard; what is none is left out.

    Raises SynthgenError where a store cannot be reached.
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
    except (FileNotFoundError, PermissionError):  # dropped in the meantime; not for us
        return None
    except OSError:
        if store_of(path).remote:
            raise
        return None  # not a file


def _parsed(data: bytes) -> Claim | None:
    """A claim whose numbers can be; None for anything else."""
    with suppress(SynthgenError):
        claim = record(data, Claim, "a claim")
        counts = 0 <= claim.done <= MAX_IMAGES and 0 < claim.of <= MAX_IMAGES and 0 <= claim.beat <= MAX_IMAGES
        if counts and 0 <= claim.shard < MAX_SHARDS and 0 <= claim.rate <= MAX_IMAGES:
            return claim
    return None


def _files(directory: Place) -> list[Place]:
    folder = directory / CLAIMS
    return [folder / name for name in store_of(folder).names_in(folder) if name.endswith(ENDING)]


@contextmanager
def telling(
    directory: Place, span: ShardSpan, *, force: bool = False, beat: float | None = None
) -> Iterator[Progress | None]:
    """Claim a shard and tell, while the block runs, how far it is; None where another worker's claim stands.

    With ``force`` that is taken over.  A claim is dropped when the block ends; that of a
    killed worker stays behind.  It is written anew every ``beat`` seconds (BEAT).
    """
    path, progress = claim_path(directory, span), Progress()
    n_samples = span.stop - span.start
    claim = Claim(worker=worker_name(), shard=span.index, done=0, of=n_samples, rate=progress.rate, beat=0)
    hold = store_of(path).claim(path, _bytes(claim), force=force, timeout=SILENT)
    if hold is None:
        yield None
        return
    over, start = threading.Event(), time.monotonic()
    thread = threading.Thread(target=_tell, args=(hold, claim, progress, over, beat or BEAT), daemon=True)
    thread.start()
    try:
        yield progress
        Progress.rate = _rate(progress, start)
    finally:
        over.set()
        thread.join()
        hold.drop()


def _tell(hold: Hold, claim: Claim, progress: Progress, over: threading.Event, beat: float) -> None:
    start = time.monotonic()
    while not over.wait(beat) and not hold.lost:
        rate = _rate(progress, start) or claim.rate
        claim = replace(claim, done=progress.done, rate=rate, beat=claim.beat + 1)
        with suppress(Exception):  # telling is worth no failure; a store's client has errors of its own
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


def drop_of(directory: Place, workers: Collection[str]) -> None:
    """Remove the claims of workers that are no more.  Raises SynthgenError where a store cannot be reached."""
    for stem, claim in (read_claims(directory) if workers else {}).items():
        if claim.worker in workers:
            _drop(directory / CLAIMS / f"{stem}{ENDING}")


def tell_failed(directory: Place, span: ShardSpan, worker: str, why: str) -> None:
    """Leave word that a shard was given up; a later run tries it again."""
    claim = Claim(
        worker=worker, shard=span.index, done=0, of=span.stop - span.start, rate=0.0, beat=0, failed=why[:500]
    )
    path = claim_path(directory, span)
    store_of(path).claim(path, _bytes(claim), force=True, timeout=SILENT)


def remove_claims(directory: Place) -> None:
    """Remove what workers left behind, of a complete dataset."""
    with suppress(Exception):
        for path in _files(directory):
            _drop(path)
        store_of(directory).remove_folder(directory / CLAIMS)


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
    """Which shards nobody is at: as locks tell, or else by which claims change."""

    def __init__(self, directory: Place) -> None:
        self._directory, self._unchanged = directory, Unchanged()

    def free(self, spans: Sequence[ShardSpan]) -> tuple[list[ShardSpan], set[int]]:
        """Those of the spans that nobody is at; and the indices of those whose claims no longer count.

        Raises SynthgenError where the store cannot be reached.
        """
        if store_of(self._directory).locks:
            return [span for span in spans if not _held(self._directory, span)], set()
        claims = _read_all(self._directory)
        still = self._unchanged.look(claims)
        silent = {span.index for span in spans if span.stem in claims and _over(claims[span.stem], still[span.stem])}
        return [span for span in spans if span.stem not in claims or span.index in silent], silent


def _held(directory: Place, span: ShardSpan) -> bool:
    with suppress(OSError):  # who tries the shard will tell
        return store_of(directory).is_locked(data_path(directory, span))
    return False


def _over(data: bytes, unchanged: float) -> bool:
    claim = _parsed(data)
    return unchanged > SILENT or (claim is not None and claim.failed != "")
