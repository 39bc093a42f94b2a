"""Publishing to a place that accepts files one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from synthgen.common.errors import SynthgenError
from synthgen.common.masking import one_line
from synthgen.storage.atomic import FULL
from synthgen.storage.outlet import File, Standing, Work
from synthgen.storage.retries import with_retries
from synthgen.storage.store import CLAIMS, FOLDERS, Place, Publishable

SENDERS = 4  # shards sent at once
READERS = 16  # files read at once, mostly waiting
SMALL = 8 * 2**20  # bytes; files up to this size are read whole to be compared


@dataclass(frozen=True, slots=True, kw_only=True)
class FileByFile:
    """A place in a store, as an ``Outlet``."""

    store: Publishable[Any]
    root: Place
    shown: str  # without secrets
    secrets: tuple[str, ...]

    @property
    def repo(self) -> None:
        """None: it is not a repository."""
        return None

    def check(self, *, write: bool) -> None:
        """Raise SynthgenError if the place cannot be reached or, with ``write``, cannot be written to."""
        with self._told():
            self.store.check_outlet(self.root, self.shown, write=write)
            for name in (*FOLDERS, CLAIMS):
                self.store.check_folder(self.root / name)

    def standing(self) -> dict[str, Standing]:
        """The files that are there already, by name."""
        with self._told():
            return {name: Standing(size=size) for name, size in self.store.find(self.root).items()}

    def read(self, name: str) -> bytes:
        """The content of a small file that is there."""
        with self._told():
            return self.store.read(self.root / name, patient=True)

    def same(self, files: Sequence[File], standing: Mapping[str, Standing]) -> set[str]:
        """Names of those of ``files`` that are there already with the same content.

        A table and a tar of the right size are trusted if their record is there, as it is sent after them; everything
        else is read.
        """
        alike = [file for file in files if file.name in standing and standing[file.name].size == file.size]
        with self._told(), ThreadPoolExecutor(READERS) as pool:
            first = [file for file in alike if file.record is None]
            same = {file.name for file, is_same in zip(first, pool.map(self._is, first), strict=True) if is_same}
            rest = [file for file in alike if file.record is not None and file.record not in same]
            vouched = {file.name for file in alike if file.record in same}
            checked = zip(rest, pool.map(self._is, rest), strict=True)
            return same | vouched | {file.name for file, is_same in checked if is_same}

    def _is(self, file: File) -> bool:
        if file.size <= SMALL:
            return hashlib.sha256(self.read(file.name)).hexdigest() == file.sha256
        with self.store.open(self.root / file.name) as stream:
            return hashlib.file_digest(cast("Any", stream), "sha256").hexdigest() == file.sha256

    def send(self, work: Work, sent: Callable[[File], object]) -> None:
        """Send the files of ``work``; ``sent`` is called with each file, from any thread."""
        self.store.clear(self.root)  # what killed copies left

        def one(files: Iterable[File]) -> None:
            for file in files:
                with_retries(partial(self._put, file))
                sent(file)

        with self._told():
            self._withdraw(work.withdraw)
            one(work.claim)
            pool = ThreadPoolExecutor(SENDERS)
            try:
                for _ in pool.map(one, work.shards):
                    pass
            finally:
                pool.shutdown(cancel_futures=True)
            self._withdraw(work.withdraw_late)
            one(work.closing)

    def finish(self, name: str, sums: File | None) -> None:
        """Do nothing: stores have no tags."""

    def load(self, tag: str | None) -> str:
        """Code that reads the set with the datasets library."""
        return self.store.loads(self.shown)

    def _put(self, file: File) -> None:
        self.store.put(self.store.target(self.root, file.name), file.source)

    def _withdraw(self, names: Iterable[str]) -> None:
        for name in names:
            self.store.remove(self.root / name)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Report whatever errors a store's client raises in one line."""
        try:
            yield
        except SynthgenError:
            raise
        except Exception as error:
            full = isinstance(error, OSError) and error.errno in FULL
            todo = "; what was sent is kept: free some space and run the same command again to go on" if full else ""
            raise SynthgenError(f"{self.shown}: {one_line(error, self.secrets)}{todo}") from None
