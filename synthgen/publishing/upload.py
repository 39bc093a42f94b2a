"""Sending a dataset's files to another place: what stands there, what is still to go, in which order.

A reader of the place never sees a manifest whose files are missing.  ``plan.json`` claims an empty
place; of each shard the record comes last; the sums and the manifest close the set, and go away
before a file that they tell of is replaced.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from synthgen.common.errors import SynthgenError
from synthgen.common.masking import one_line
from synthgen.dataset.manifest import check_folders, own_folders
from synthgen.storage.atomic import claimed, move_into_place, remove_orphans
from synthgen.storage.inside import target
from synthgen.storage.places import EXTRAS
from synthgen.storage.reading import open_file, read_file
from synthgen.storage.stores import patiently

if TYPE_CHECKING:
    from synthgen.storage.places import Place

CLOSING = ("SHA256SUMS", "manifest.json")  # they tell of a finished set
SENDERS = 4  # shards on their way at once
READERS = 16  # files read at once: mostly waiting
SMALL = 8 * 2**20  # bytes: read whole, to compare
PROBE = ".synthgen-write-test"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to be sent."""

    name: str  # within the dataset, with slashes
    source: Path
    size: int  # bytes
    sha256: str
    record: str | None = None  # name of the completion record that vouches for it, of a table or tar


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a place says of a file that stands there, without reading it."""

    size: int  # bytes
    sha256: str | None = None
    git: str | None = None  # git's hash of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is still to be sent, in this order."""

    withdraw: tuple[str, ...]  # names to remove first: a file that they tell of is about to be replaced
    claim: tuple[File, ...]
    shards: tuple[tuple[File, ...], ...]  # of each shard what is missing of table, tar and record
    withdraw_late: tuple[str, ...]  # names to remove before the closing files
    closing: tuple[File, ...]  # manifest last

    @property
    def files(self) -> tuple[File, ...]:
        """All of them."""
        return (*self.claim, *(file for shard in self.shards for file in shard), *self.closing)


class Target(Protocol):
    """A place to publish to.  Its methods raise SynthgenError, in one line without secrets."""

    @property
    def shown(self) -> str:
        """It in words, without secrets."""
        ...

    @property
    def repo(self) -> str | None:
        """USER/NAME on the Hub."""
        ...

    def check(self, *, write: bool) -> None:
        """Raise where the place cannot be reached, or, with ``write``, not be written to."""
        ...

    def standing(self) -> dict[str, Standing]:
        """The files that stand there, by name."""
        ...

    def read(self, name: str) -> bytes:
        """A small file that stands there."""
        ...

    def same(self, files: Sequence[File], standing: Mapping[str, Standing]) -> set[str]:
        """Names of those of ``files`` that stand there with the same content."""
        ...

    def send(self, work: Work, sent: Callable[[File], object]) -> None:
        """Send what is to be sent; ``sent`` is told of each file, from any thread."""
        ...

    def finish(self, name: str, sums: File | None) -> str | None:
        """After sending: tag a finished set, whose sums are given, where there are tags; returns the tag."""
        ...

    def load(self, tag: str | None) -> str:
        """How to read the set with the datasets library."""
        ...


def arrange(files: Sequence[File], standing: Mapping[str, Standing], same: set[str], documents: Iterable[str]) -> Work:
    """Put what is still to be sent in order.  Without ``manifest.json`` among ``files`` the set stays unfinished."""
    told = {file.name for file in files} - set(documents)  # by sums and manifest
    replaced = {name for name in told - same - set(CLOSING) if name in standing}
    todo = [file for file in files if file.name not in same]
    by_shard: dict[str, list[File]] = {}
    for file in todo:
        if file.name.startswith(("metadata/", "data/")):
            by_shard.setdefault(Path(file.name).stem, []).append(file)
    early = any(file.name in replaced for shard in by_shard.values() for file in shard)
    late = bool(replaced) or "manifest.json" not in told
    withdrawn = tuple(name for name in reversed(CLOSING) if name in standing) if late else ()
    claim = tuple(file for file in todo if file.name == "plan.json" and file.name not in standing)
    closing = [file for file in files if "/" not in file.name and file not in claim]
    return Work(
        withdraw=withdrawn if early else (),
        claim=claim,
        shards=tuple(tuple(shard) for shard in by_shard.values()),
        withdraw_late=() if early else withdrawn,
        closing=tuple(file for file in closing if file.name not in same or file.name in withdrawn),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A folder, or a prefix of a store that fsspec reaches."""

    root: Place
    shown: str  # without secrets
    secrets: tuple[str, ...]

    @property
    def repo(self) -> None:
        """It is no repository."""
        return None

    def check(self, *, write: bool) -> None:
        """Raise where the place cannot be reached, or, with ``write``, not be written to."""
        if isinstance(self.root, Path):
            _check_folder(self.root)
            check_folders(self.root)
            return
        with self._told():
            bucket = self.root.path.partition("/")[0]
            if bucket and not self.root.fs.exists(bucket):
                raise SynthgenError(f"{self.shown}: there is no {bucket}, or it cannot be seen with these keys")
            if write:
                self.root.fs.pipe_file((self.root / PROBE).path, b"")
                with suppress(Exception):  # no leave to delete is no hindrance to a first publication
                    self.root.fs.rm_file((self.root / PROBE).path)

    def standing(self) -> dict[str, Standing]:
        """The files that stand there, by name."""
        if isinstance(self.root, Path):
            paths = [path for path in self.root.rglob("*") if path.is_file() and path.suffix != ".tmp"]
            return {path.relative_to(self.root).as_posix(): Standing(size=path.stat().st_size) for path in paths}
        with self._told():
            root = self.root.path.rstrip("/")
            self.root.fs.invalidate_cache()
            found: dict[str, dict[str, int]] = self.root.fs.find(root, detail=True)
        named = {path.removeprefix(root).lstrip("/"): info["size"] for path, info in found.items()}
        return {name: Standing(size=size) for name, size in named.items() if name not in ("", PROBE)}

    def read(self, name: str) -> bytes:
        """A small file that stands there."""
        with self._told():
            return patiently(lambda: read_file(self.root / name))

    def same(self, files: Sequence[File], standing: Mapping[str, Standing]) -> set[str]:
        """Names of those of ``files`` that stand there with the same content.

        A table and a tar of the right size are taken for whole where their record stands, for it
        is sent after them; all else is read.
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
        with open_file(self.root / file.name) as stream:
            return hashlib.file_digest(cast("Any", stream), "sha256").hexdigest() == file.sha256

    def send(self, work: Work, sent: Callable[[File], object]) -> None:
        """Send what is to be sent; ``sent`` is told of each file, from any thread."""
        if isinstance(self.root, Path):
            for folder in own_folders(self.root):
                remove_orphans(folder)  # of copies that were killed

        def one(files: Iterable[File]) -> None:
            for file in files:
                patiently(lambda file=file: _put(target(self.root, file.name), file.source))  # type: ignore[misc]
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
        """Nothing: stores have no tags."""

    def load(self, tag: str | None) -> str:
        """How to read the set with the datasets library."""
        where = self.shown.rstrip("/")
        if isinstance(self.root, Path):
            return f'datasets.load_dataset("{where}")'
        return f'datasets.load_dataset("webdataset", data_files="{where}/data/*.tar", split="train")'

    def _withdraw(self, names: Iterable[str]) -> None:
        for name in names:
            if isinstance(self.root, Path):
                (self.root / name).unlink(missing_ok=True)
            else:
                self.root.fs.rm_file((self.root / name).path)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Clients raise all sorts of errors: tell each in one line."""
        try:
            yield
        except SynthgenError:
            raise
        except Exception as error:
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            todo = "; what was sent stands: free some space and run the same command again to go on" if full else ""
            raise SynthgenError(f"{self.shown}: {one_line(error, self.secrets)}{todo}") from None


def _check_folder(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise SynthgenError(f"{root}: not a folder")
    there = root.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise SynthgenError(f"{there}: not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SynthgenError(f"{there}: no permission to write there")


def _put(place: Place, source: Path) -> None:
    """Write one file: of a folder atomically, elsewhere as atomically as the store does it."""
    if isinstance(place, Path):
        _copy(place, source)
        return
    if place.protocol not in EXTRAS:  # stores of objects have no folders; SFTP and the like do
        place.fs.makedirs(place.fs._parent(place.path), exist_ok=True)
    place.fs.put_file(str(source), place.path)


def _copy(path: Path, source: Path) -> None:
    with claimed(path) as file, open_file(source) as stream:
        if file is None:
            raise SynthgenError(f"{path}: another process is writing it")
        shutil.copyfileobj(stream, file, 2**20)
        move_into_place(file, path)
