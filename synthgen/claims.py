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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError, with_config

from synthgen.content import STRICT
from synthgen.plan import ShardSpan

if TYPE_CHECKING:
    from synthgen.places import Place

FOLDER = "claims"
BEAT = 5.0  # seconds between two writings of a claim
SILENT = 30.0  # seconds without a change after which a claim no longer counts


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
    """How many images of a shard are rendered; counted by the worker, read by the thread that tells."""

    def __init__(self) -> None:
        self.done = 0


def worker_name() -> str:
    """Host and process, such as ``node7-4242``."""
    return f"{socket.gethostname()}-{os.getpid()}"


def claim_path(directory: Place, span: ShardSpan) -> Place:
    """Where the claim of a shard stands."""
    return directory / FOLDER / f"{span.stem}.json"


def read_claims(directory: Place) -> dict[str, Claim]:
    """All claims, by the stem of their shard; what cannot be read is left out."""
    found = {}
    with suppress(OSError):
        for path in _files(directory):
            with suppress(OSError, ValidationError):
                found[path.stem] = TypeAdapter(Claim).validate_json(path.read_bytes())
    return found


def _files(directory: Place) -> list[Place]:
    folder = directory / FOLDER
    if not isinstance(folder, Path):
        folder.fs.invalidate_cache(folder.path)
    return [path for path in folder.iterdir() if path.suffix == ".json"] if folder.exists() else []


@contextmanager
def telling(directory: Place, span: ShardSpan, *, force: bool = False, beat: float = BEAT) -> Iterator[Progress | None]:
    """Claim a shard and tell, while the block runs, how far it is; None where another worker of a store has it.

    With ``force`` a claim that stands is taken over.  A claim is dropped when the block ends; that of a
    killed worker stays behind.
    """
    path, progress = claim_path(directory, span), Progress()
    claim = Claim(worker=worker_name(), shard=span.index, done=0, of=span.stop - span.start, rate=0.0, beat=0)
    if not _make(path, claim, force=force):
        yield None
        return
    over = threading.Event()
    thread = threading.Thread(target=_tell, args=(path, claim, progress, over, beat), daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        over.set()
        thread.join()
        _drop(path)


def _tell(path: Place, claim: Claim, progress: Progress, over: threading.Event, beat: float) -> None:
    start = time.monotonic()
    while not over.wait(beat):
        done = progress.done
        rate = round(done / (time.monotonic() - start), 2)
        claim = replace(claim, done=done, rate=rate, beat=claim.beat + 1)
        with suppress(Exception):  # telling is worth no failure; a store's client has errors of its own
            _write(path, claim)


def _make(path: Place, claim: Claim, *, force: bool) -> bool:
    """Write a first claim; False where a store has one already."""
    if isinstance(path, Path) or force:
        with suppress(OSError):
            _write(path, claim)
        return True
    try:
        path.fs.pipe_file(path.path, _bytes(claim), mode="create")
    except FileExistsError:
        return False
    except (NotImplementedError, TypeError):  # a store without conditions
        if path.exists():
            return False
        _write(path, claim)
    return True


def _write(path: Place, claim: Claim) -> None:
    if isinstance(path, Path):
        path.parent.mkdir(exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        part.write_bytes(_bytes(claim))
        os.replace(part, path)
    else:
        path.write_bytes(_bytes(claim))


def _bytes(claim: Claim) -> bytes:
    return json.dumps(asdict(claim)).encode()


def _drop(path: Place) -> None:
    with suppress(Exception):
        path.unlink()


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
        for path in _files(directory):
            _drop(path)
        if isinstance(directory, Path):
            for part in (directory / FOLDER).glob(".*.tmp"):
                part.unlink(missing_ok=True)
            (directory / FOLDER).rmdir()


class Watch:
    """Which claims of a store still count, by whether they change."""

    def __init__(self, directory: Place) -> None:
        self._directory = directory
        self._seen: dict[str, tuple[Claim, float]] = {}  # stem -> claim, when it was first seen so

    def free(self, spans: Sequence[ShardSpan]) -> tuple[list[ShardSpan], set[int]]:
        """Those of the spans that nobody is at; and the indices of those whose claims no longer count."""
        if isinstance(self._directory, Path):  # where locks decide
            return list(spans), set()
        claims, now = read_claims(self._directory), time.monotonic()
        self._seen = {
            stem: self._seen[stem] if stem in self._seen and self._seen[stem][0] == claim else (claim, now)
            for stem, claim in claims.items()
        }
        silent = {
            span.index
            for span in spans
            if span.stem in self._seen and (claims[span.stem].failed or now - self._seen[span.stem][1] > SILENT)
        }
        return [span for span in spans if span.stem not in claims or span.index in silent], silent
