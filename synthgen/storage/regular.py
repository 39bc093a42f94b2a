"""Reading local files that may come from elsewhere: only regular files, and of bounded size."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

LIMIT = 1 << 30  # most bytes of a file that is read whole
PIECE = 1 << 20  # bytes; smaller files, as most are, are read by one system call
KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading, also through links, but only a regular one: a pipe would block forever.

    Raises OSError.
    """
    descriptor, _ = _open(path)
    try:
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, limit: int = LIMIT) -> bytes:
    """The content of a regular file; raises OSError, also if it has more than ``limit`` bytes."""
    descriptor, size = _open(path)
    try:
        if size > limit:
            raise OSError(errno.EFBIG, f"has {size} bytes; at most {limit}", str(path))
        if size > PIECE:
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        data = os.read(descriptor, size + 1)
        while piece := os.read(descriptor, PIECE):  # it grew in the meantime
            data += piece
        return data
    finally:
        os.close(descriptor)


def _open(path: Path) -> tuple[int, int]:
    """A descriptor of a regular file, and the size in bytes; raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # what opening a socket gives
            raise OSError(errno.EINVAL, "a socket, not a regular file", str(path)) from None
        raise
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode):
        return descriptor, found.st_size
    os.close(descriptor)
    what = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
    raise OSError(errno.EINVAL, f"{what}, not a regular file", str(path))
