"""Reading files of a local disk that come from elsewhere: regular files alone, and of bounded size."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

LIMIT = 1 << 30  # bytes of a file that is read whole
KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading, through links too, but a regular one alone: a pipe would block for ever.

    Raises OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # which sockets answer
            raise OSError(errno.EINVAL, "a socket, not a regular file", str(path)) from None
        raise
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind != stat.S_IFREG:
            what = KINDS.get(kind, "something else")
            raise OSError(errno.EINVAL, f"{what}, not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, limit: int = LIMIT) -> bytes:
    """The content of a regular file; raises OSError, also where it has more than ``limit`` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"has {size} bytes; at most {limit}", str(path))
        return file.read()
