"""Files that are complete or absent.

A file is written beside its final path, flushed to disk and renamed.  Its writer holds a lock on the unfinished file,
so several processes can work on one directory, and a killed one leaves only an unlocked orphan.
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

FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or a user's quota


@contextmanager
def claimed(path: Path) -> Iterator[IO[bytes] | None]:
    """Hold the unfinished file of ``path`` for writing; None if another process holds it.

    When the block ends, a file that was not renamed into place is removed.  Raises SynthgenError if there is a link or
    a pipe in place of the unfinished file.
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
        # Opened for writing, as NFS gives no lock otherwise.  Another user's file is left to that user, and what is not
        # a regular file is not an unfinished file of ours.
        with suppress(FileNotFoundError, PermissionError, SynthgenError), open_own(part, "rb+") as file:
            if _lock(part, file):
                part.unlink()


def held(path: Path) -> bool:
    """Whether a process is writing a file; raises OSError if that is unknown, as on a disk without locks."""
    part = path.with_name(path.name + ".tmp")
    with suppress(FileNotFoundError, SynthgenError), open_own(part, "rb") as file:
        return not _lock(part, file, fcntl.LOCK_SH) and _is(part, file)
    return False


def open_own(path: Path | str, mode: str) -> IO[bytes]:
    """Open a file for us to write; raises SynthgenError for anything but a regular file.

    A link would lead elsewhere, and a pipe would block.
    """
    try:
        return open(path, mode, opener=_open_regular)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            what = "a link, a pipe or a folder is in the place of a file to be written"
            raise SynthgenError(f"{path}: {what}; remove it") from None
        raise


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENXIO, "not a regular file", path)
    return descriptor


def _lock(path: Path, file: IO[bytes], kind: int = fcntl.LOCK_EX) -> bool:
    """Whether we now hold the lock on a file that still has its name (its last owner may have finished)."""
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
    """Write a file completely or not at all; of several writers, the last one wins."""
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
    """Like ``write_atomically``, but leave a file alone that has this content already, directly or through a link."""
    if not has(path, data):
        write_atomically(path, data)


def has(path: Path, data: bytes) -> bool:
    """Whether a file has this content, directly or through a link; a pipe, which would block, has none."""
    with suppress(OSError):
        return read_regular(path) == data
    return False


def move_into_place(file: IO[bytes], path: Path) -> None:
    """Flush a claimed file, now complete, to disk and rename it to ``path``.

    Raises SynthgenError if there is a folder of that name.
    """
    file.flush()
    os.fsync(file.fileno())
    try:
        os.replace(file.name, path)
    except IsADirectoryError:
        raise SynthgenError(f"{path}: a folder already has the name of this file; move it away") from None
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def reporting_full_disk(path: Path) -> Iterator[None]:
    """Report a full disk as a SynthgenError, in one line."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise SynthgenError(
                f"no space left on the device at {path}; the finished shards are kept: free some space and run again"
            ) from None
        raise
