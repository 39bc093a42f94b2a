"""Reading files that come from elsewhere: regular files alone, of bounded size, with failures told in one line."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from synthgen.common.errors import SynthgenError
from synthgen.storage.places import is_url

if TYPE_CHECKING:
    from synthgen.storage.places import Place

LIMIT = 1 << 30  # bytes of a file that is read whole
PIECE = 1 << 20  # bytes of a file, such as most are, that one call of the system reads
KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_file(path: Place) -> IO[bytes]:
    """Open a file for reading, through links too, but a regular one alone: a pipe would block for ever.

    Raises OSError.
    """
    if not isinstance(path, Path):
        return path.open("rb")
    descriptor, _ = _open(path)
    try:
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: Place, *, limit: int = LIMIT) -> bytes:
    """The content of a regular file; raises OSError, also where it has more than ``limit`` bytes."""
    if not isinstance(path, Path):
        return path.read_bytes()
    descriptor, size = _open(path)
    try:
        if size > limit:
            raise OSError(errno.EFBIG, f"has {size} bytes; at most {limit}", str(path))
        if size > PIECE:
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        data = os.read(descriptor, size + 1)
        while piece := os.read(descriptor, PIECE):  # of a file that grew meanwhile
            data += piece
        return data
    finally:
        os.close(descriptor)


def _open(path: Path) -> tuple[int, int]:
    """A descriptor of a regular file, and the file's size in bytes; raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # which sockets answer
            raise OSError(errno.EINVAL, "a socket, not a regular file", str(path)) from None
        raise
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode):
        return descriptor, found.st_size
    os.close(descriptor)
    what = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
    raise OSError(errno.EINVAL, f"{what}, not a regular file", str(path))


@contextmanager
def opened(path: Place) -> Iterator[IO[bytes]]:
    """A file open for reading; whatever then goes wrong is a SynthgenError that names the file."""
    with reading(path), open_file(path) as file:
        try:
            yield file
        except SynthgenError as error:
            raise SynthgenError(f"{path}: {error}") from None


@contextmanager
def reading(path: Place) -> Iterator[None]:
    """Failures to read a file, in one line that names it."""
    try:
        yield
    except OSError as error:
        raise SynthgenError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from None
    except SynthgenError:
        raise
    except Exception as error:
        if not is_url(str(path)):
            raise
        # Each store's client has errors of its own, whose texts may tell of requests and keys.
        raise SynthgenError(f"{path}: cannot be read ({type(error).__name__})") from None
