"""A store in one file: shelf://NAME is a dictionary of this process.  ``STORES.insert(0, SHELVES)`` adds it."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeGuard

from synthgen.common.errors import SynthgenError
from synthgen.storage.file_by_file import FileByFile
from synthgen.storage.inside import check_name
from synthgen.storage.outlet import Outlet, refuse_public
from synthgen.storage.regular import LIMIT
from synthgen.storage.store import FOLDERS, Publishable

FILES: dict[str, bytes] = {}  # of all shelves: URL -> content


@dataclass(frozen=True)
class Spot:
    """A place on a shelf."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str, /) -> Spot:
        return Spot(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> Spot:
        return Spot(self.url.rpartition("/")[0])

    def absolute(self) -> Spot:
        return self


class Shelves(Publishable[Spot]):
    remote = True
    locks = False
    spools = False

    def names(self, text: str) -> bool:
        return text.startswith("shelf://")

    def holds(self, place: object) -> TypeGuard[Spot]:
        return isinstance(place, Spot)

    def place(self, text: str) -> Spot:
        return Spot(text.rstrip("/"))

    def local(self, path: Spot) -> None:
        return None

    def open(self, path: Spot) -> IO[bytes]:
        return io.BytesIO(self.read(path))

    def read(self, path: Spot, *, limit: int = LIMIT, patient: bool = False) -> bytes:
        if path.url not in FILES:
            raise FileNotFoundError(2, "not on the shelf", path.url)
        return FILES[path.url]

    def fetch(self, path: Spot, to: Path) -> None:
        to.write_bytes(self.read(path))

    def exists(self, path: Spot) -> bool:
        return path.url in FILES

    def size(self, path: Spot) -> int | None:
        return len(self.read(path)) if self.exists(path) else None

    def listing(self, directory: Spot) -> dict[str, int]:
        sizes = {}
        for name, size in self.find(directory).items():
            top, slash, _ = name.partition("/")
            sizes[name if not slash or top in FOLDERS else f"{top}/"] = 0 if slash and top not in FOLDERS else size
        return sizes

    def names_in(self, folder: Spot) -> list[str]:
        return list({name.partition("/")[0] for name in self.find(folder)})

    def check_writable(self, directory: Spot) -> None:
        pass

    def check_folder(self, folder: Spot) -> None:
        pass

    def target(self, directory: Spot, name: str) -> Spot:
        check_name(directory, name)
        return directory / name

    def write(self, path: Spot, data: bytes) -> None:
        FILES[path.url] = data

    def update(self, path: Spot, data: bytes) -> None:
        if not self.exists(path) or self.read(path) != data:
            self.write(path, data)

    def create(self, path: Spot, data: bytes) -> bool:
        return FILES.setdefault(path.url, data) == data

    def replace(self, path: Spot, data: bytes, *, unchanged: Callable[[], bool], first: Callable[[], object]) -> bool:
        if not unchanged():
            return False
        first()
        self.write(path, data)
        return True

    def remove(self, path: Spot) -> None:
        FILES.pop(path.url, None)

    def remove_folder(self, folder: Spot) -> None:
        pass

    def put(self, path: Spot, source: Path) -> None:
        self.write(path, source.read_bytes())

    @contextmanager
    def draft(self, tar: Spot, table: Spot, record: Spot, stands: Callable[[], bool]) -> Iterator[Sketch | None]:
        yield None if stands() else Sketch(io.BytesIO(), tar, table, record)

    def clear(self, directory: Spot) -> None:
        pass

    def disk(self, directory: Spot) -> Path:
        return Path(os.devnull).parent

    def claim(self, path: Spot, data: bytes, *, force: bool, timeout: float) -> Label | None:
        if not force and not self.create(path, data):
            return None
        label = Label(path, timeout)
        label.renew(data)
        return label

    def is_locked(self, path: Spot) -> bool:
        return False

    def outlet(self, text: str, *, source: Path, public: bool) -> Outlet:
        refuse_public(text, public=public)
        return FileByFile(store=self, root=self.place(text), shown=text, secrets=())

    def check_outlet(self, root: Spot, shown: str, *, write: bool) -> None:
        if "readonly" in shown:
            raise SynthgenError(f"{shown}: behind glass")

    def find(self, root: Spot) -> dict[str, int]:
        start = f"{root}/"
        return {url.removeprefix(start): len(data) for url, data in FILES.copy().items() if url.startswith(start)}

    def loads(self, shown: str) -> str:
        return f'take it from "{shown}"'


SHELVES = Shelves()


@dataclass(frozen=True)
class Sketch:
    file: IO[bytes]
    tar: Spot
    table: Spot
    record: Spot

    def commit(self, table: bytes, record: bytes) -> bool:
        self.file.seek(0)
        for path, data in ((self.tar, self.file.read()), (self.table, table), (self.record, record)):
            SHELVES.write(path, data)
        return True


class Label:
    def __init__(self, path: Spot, timeout: float) -> None:
        self._path, self._timeout, self._since = path, timeout, time.monotonic()

    @property
    def lost(self) -> bool:
        return time.monotonic() - self._since > self._timeout

    def renew(self, data: bytes) -> None:
        SHELVES.write(self._path, data)
        self._since = time.monotonic()

    def drop(self) -> None:
        with suppress(KeyError):
            if not self.lost:
                del FILES[self._path.url]
