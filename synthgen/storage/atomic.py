"""Files that stand whole or not at all.

A file is written beside its place, flushed to disk and renamed.  Whoever writes one holds a lock on the
unfinished file, so several processes can work on one directory, and a killed one leaves only an
unlocked orphan.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from synthgen.common.errors import SynthgenError
from synthgen.storage.regular import read_regular

FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk, or a user's share of it


@contextmanager
def claimed(path: Path) -> Iterator[IO[bytes] | None]:
    """Hold the unfinished file of ``path`` for writing; None where another process holds it.

    On leaving, what was not renamed into place is removed.  Raises SynthgenError where the unfinished file
    is none, but a link or a pipe that somebody put in its place.
    """
    part = path.with_name(path.name + ".tmp")
    part.parent.mkdir(parents=True, exist_ok=True)
    with open_own(part, "ab+") as file:
        if not _lock(part, file):
            yield None
            return
        file.truncate(0)
        try:
            yield file
        finally:
            if _is(part, file):
                part.unlink()


def remove_orphans(directory: Path) -> None:
    """Remove the unfinished files that killed processes left in a folder."""
    for part in directory.glob("*.tmp"):
        # Open for writing, without which NFS gives no lock; another user's file is that user's to remove, and what
        # is no regular file is nobody's unfinished one.
        with suppress(FileNotFoundError, PermissionError, SynthgenError), open_own(part, "rb+") as file:
            if _lock(part, file):
                part.unlink()


def held(path: Path) -> bool:
    """Whether a process is writing a file; raises OSError where that cannot be told, as on a disk without locks."""
    part = path.with_name(path.name + ".tmp")
    with suppress(FileNotFoundError, SynthgenError), open_own(part, "rb") as file:
        return not _lock(part, file, fcntl.LOCK_SH) and _is(part, file)
    return False


def open_own(path: Path | str, mode: str) -> IO[bytes]:
    """Open a file that is ours to write; raises SynthgenError for all but a regular one.

    A link would lead elsewhere, and a pipe would block.
    """
    try:
        return open(path, mode, opener=_open_regular)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            what = "a link, a pipe or a folder, where a file of ours is to stand"
            raise SynthgenError(f"{path}: {what}; remove it") from None
        raise


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENXIO, "not a regular file", path)
    return descriptor


def _lock(path: Path, file: IO[bytes], kind: int = fcntl.LOCK_EX) -> bool:
    """Whether we now hold the lock of a file that still has its name (its last owner may have finished)."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return _is(path, file)


def _is(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; of several writers, the last one's content stands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with claimed(path) as file:
            if file is None:
                time.sleep(0.01)
                continue
            file.write(data)
            move_into_place(file, path)
            return


def write_if_new(path: Path, data: bytes) -> None:
    """The same, but a file that has this content already, here or behind a link, is not touched."""
    with suppress(OSError):  # among them that of a pipe, which is replaced
        if read_regular(path) == data:
            return
    write_atomically(path, data)


def move_into_place(file: IO[bytes], path: Path) -> None:
    """Give a claimed file, now whole, the name ``path``, safely on the disk.

    Raises SynthgenError where a folder has that name.
    """
    file.flush()
    os.fsync(file.fileno())
    try:
        os.replace(file.name, path)
    except IsADirectoryError:
        raise SynthgenError(f"{path}: a folder has the name that this file is to have; move it away") from None
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def told_of_space(path: Path) -> Iterator[None]:
    """A full disk, in one line."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise SynthgenError(
                f"no space left on the device at {path}; the finished shards stand: free some space and run again"
            ) from None
        raise
