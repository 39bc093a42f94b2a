"""Folders on local and mounted disks: files are locked while they are written, and then renamed."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeGuard

from synthgen.common.errors import SynthgenError
from synthgen.common.masking import secrets_in
from synthgen.storage.atomic import (
    claimed,
    has,
    held,
    move_into_place,
    open_own,
    remove_orphans,
    reporting_full_disk,
    write_atomically,
    write_if_new,
)
from synthgen.storage.file_by_file import FileByFile
from synthgen.storage.inside import check_folder, check_outside, target
from synthgen.storage.outlet import Outlet, refuse_public
from synthgen.storage.regular import LIMIT, open_regular, read_regular
from synthgen.storage.retries import with_retries
from synthgen.storage.store import FOLDERS as SETS
from synthgen.storage.store import NO_FILE, Publishable

BUSY = 0.01  # seconds before looking again at a file that another process is writing


class Folders(Publishable[Path]):
    """See ``Store``."""

    remote = False
    locks = True
    spools = False

    def names(self, text: str) -> bool:
        return "://" not in text

    def holds(self, place: object) -> TypeGuard[Path]:
        return isinstance(place, Path)

    def place(self, text: str) -> Path:
        return Path(text)

    def local(self, path: Path) -> Path:
        return path

    def open(self, path: Path) -> IO[bytes]:
        return open_regular(path)

    def read(self, path: Path, *, limit: int = LIMIT, patient: bool = False) -> bytes:
        return with_retries(lambda: read_regular(path, limit)) if patient else read_regular(path, limit)

    def fetch(self, path: Path, to: Path) -> None:
        with open_regular(path) as file, to.open("wb") as copy:
            shutil.copyfileobj(file, copy)

    def exists(self, path: Path) -> bool:
        return path.exists()

    def size(self, path: Path) -> int | None:
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def listing(self, directory: Path) -> dict[str, int]:
        names = dict(_entries(directory, ""))
        for folder in SETS:
            if names.pop(f"{folder}/", None) is not None:
                names.update(_entries(directory / folder, f"{folder}/"))
        return names

    def names_in(self, folder: Path) -> list[str]:
        try:
            return [path.name for path in folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def check_writable(self, directory: Path) -> None:
        if directory.exists() and not directory.is_dir():
            raise SynthgenError(f"{directory}: not a directory")

    def check_folder(self, folder: Path) -> None:
        check_folder(folder)

    def target(self, directory: Path, name: str) -> Path:
        return target(directory, name)

    def write(self, path: Path, data: bytes) -> None:
        with reporting_full_disk(path):
            write_atomically(path, data)

    def update(self, path: Path, data: bytes) -> None:
        with reporting_full_disk(path):
            write_if_new(path, data)

    def create(self, path: Path, data: bytes) -> bool:
        with suppress(OSError):
            if read_regular(path) == data:
                return True
        return self.replace(path, data, unchanged=lambda: not path.exists(), first=lambda: None)

    def replace(self, path: Path, data: bytes, *, unchanged: Callable[[], bool], first: Callable[[], object]) -> bool:
        with reporting_full_disk(path), claimed(path) as file:
            if file is None or not unchanged():
                time.sleep(BUSY)
                return False
            first()
            file.write(data)
            move_into_place(file, path)
        return True

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_folder(self, folder: Path) -> None:
        check_folder(folder)
        for part in folder.glob(".*.tmp"):
            part.unlink(missing_ok=True)
        folder.rmdir()

    def put(self, path: Path, source: Path) -> None:
        with claimed(path) as file, open_regular(source) as stream:
            if file is None:
                raise SynthgenError(f"{path}: another process is writing it")
            shutil.copyfileobj(stream, file, 2**20)
            move_into_place(file, path)

    @contextmanager
    def draft(self, tar: Path, table: Path, record: Path, stands: Callable[[], bool]) -> Iterator[_LockedDraft | None]:
        with reporting_full_disk(tar), claimed(tar) as file:
            if file is None or stands():
                yield None
                return
            yield _LockedDraft(file, tar, table, record)

    def clear(self, directory: Path) -> None:
        remove_orphans(directory)
        for name in SETS:
            if not (directory / name).is_symlink():  # what is behind it may not be ours
                remove_orphans(directory / name)

    def disk(self, directory: Path) -> Path:
        return directory

    def claim(self, path: Path, data: bytes, *, force: bool, timeout: float) -> _AdvisoryClaim:
        claim = _AdvisoryClaim(path)
        with suppress(Exception):
            claim.renew(data)
        return claim

    def is_locked(self, path: Path) -> bool:
        return held(path)

    def outlet(self, text: str, *, source: Path, public: bool) -> Outlet:
        refuse_public(text, public=public)
        root = Path(text)
        check_outside(source, root)
        return FileByFile(store=self, root=root, shown=str(root), secrets=secrets_in(text))

    def check_outlet(self, root: Path, shown: str, *, write: bool) -> None:
        if root.exists() and not root.is_dir():
            raise SynthgenError(f"{root}: not a folder")
        there = root.absolute()
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            raise SynthgenError(f"{there}: not a folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise SynthgenError(f"{there}: no permission to write there")

    def find(self, root: Path) -> dict[str, int]:
        paths = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".tmp"]
        return {path.relative_to(root).as_posix(): path.stat().st_size for path in paths}

    def loads(self, shown: str) -> str:
        return f'datasets.load_dataset("{shown.rstrip("/")}")'


FOLDERS = Folders()


@dataclass(frozen=True, slots=True)
class _LockedDraft:
    """A shard being written; the lock on its unfinished tar keeps others away."""

    file: IO[bytes]
    tar: Path
    table: Path
    record: Path

    def commit(self, table: bytes, record: bytes) -> bool:
        if not has(self.record, record):  # then it vouches for other files
            self.record.unlink(missing_ok=True)
        write_if_new(self.table, table)
        move_into_place(self.file, self.tar)
        write_if_new(self.record, record)
        return True


@dataclass(frozen=True, slots=True)
class _AdvisoryClaim:
    """A claim that only informs readers which worker is writing a shard; the lock on the tar decides."""

    path: Path
    lost = False

    def renew(self, data: bytes) -> None:
        check_folder(self.path.parent)
        self.path.parent.mkdir(exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        with open_own(part, "wb") as file:
            file.write(data)
        os.replace(part, self.path)

    def drop(self) -> None:
        with suppress(Exception):
            check_folder(self.path.parent)
            self.path.unlink()


def _entries(folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield f"{prefix}{entry.name}/", 0
            elif entry.is_file():  # or a link to one
                with suppress(FileNotFoundError):  # it has just gone
                    yield f"{prefix}{entry.name}", entry.stat().st_size
            else:
                yield f"{prefix}{entry.name}", NO_FILE
