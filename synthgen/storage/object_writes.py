"""Writing objects: at most one of several concurrent writers creates one, and claims and shards rest on that."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from synthgen.storage.retries import refused, with_retries

if TYPE_CHECKING:
    from upath import UPath

COMPARED = 1 << 18  # first bytes of a tar, by which it is distinguished from another worker's


def write_object(path: UPath, data: bytes) -> None:
    """Write an object, after retries."""
    # Not through an open file, which its client writes again when it is garbage-collected.
    with_retries(lambda: path.fs.pipe_file(path.path, data))


def remove_object(path: UPath) -> None:
    """Remove an object, if there is one, after retries."""
    with suppress(FileNotFoundError):
        with_retries(lambda: path.fs.rm_file(path.path))


def exists_now(path: UPath) -> bool:
    """Whether an object exists, as the store has it now."""
    path.fs.invalidate_cache()
    return path.exists()


def create_object(path: UPath, data: bytes) -> bool:
    """Write an object if there is none; whether it then has this content."""

    def send(mode: str) -> None:
        path.fs.pipe_file(path.path, data, mode=mode)

    def same() -> bool:
        with suppress(FileNotFoundError, PermissionError):
            return with_retries(path.read_bytes, brief=True) == data
        return False

    return _sent_anew(path, send, same)


def _sent_anew(path: UPath, send: Callable[[str], object], same: Callable[[], bool]) -> bool:
    """Have ``send`` create an object if there is none; whether the object is then the one sent.

    ``send`` takes the mode, "create" or "overwrite".  An object that exists already may be our own, if the response
    was lost: ``same`` says.  A store without conditional writes is first asked whether the object exists.
    """
    try:
        with_retries(lambda: send("create"), final=_final)
    except FileExistsError:
        return same()
    except Exception:  # perhaps a store without conditional writes
        if with_retries(lambda: exists_now(path)):
            return same()
        with_retries(lambda: send("overwrite"))
    return True


def _unsupported(error: Exception) -> bool:
    """Whether a store may have refused because it does not support the request; clients report it in several ways."""
    return isinstance(error, TypeError) or getattr(error, "errno", None) in (errno.EINVAL, errno.ENOSYS)


def _final(error: Exception) -> bool:
    return refused(error) or _unsupported(error)


def start_of(path: UPath, n: int) -> bytes | None:
    """The first ``n`` bytes of an object; None if there is none."""
    try:
        return bytes(with_retries(lambda: path.fs.cat_file(path.path, start=0, end=n), final=_final))
    except FileNotFoundError:
        return None
    except OSError as error:
        if _unsupported(error):  # S3 refuses ranges of an empty object
            return bytes(with_retries(path.read_bytes)[:n])
        raise


class ChangingClaim:
    """An object created on the condition that there is none; it counts as long as it keeps changing.  See ``Hold``."""

    def __init__(self, path: UPath, timeout: float) -> None:
        self._path, self._timeout, self._renewed = path, timeout, time.monotonic()

    @property
    def lost(self) -> bool:
        return time.monotonic() - self._renewed > self._timeout

    def renew(self, data: bytes) -> None:
        self._path.fs.pipe_file(self._path.path, data)
        self._renewed = time.monotonic()

    def drop(self) -> None:
        if not self.lost:
            with suppress(Exception):
                self._path.fs.rm_file(self._path.path)


class Upload:
    """A shard being sent to a store, to which another worker may be sending the same shard.  See ``Draft``.

    The tar is first written to an unnamed local file, which disappears with its process.  The bytes of a worker on
    another kind of machine differ: a tar never replaces one that was not there at the start, and the record comes
    last, once the tar and the table are known to be ours.
    """

    def __init__(self, file: IO[bytes], tar: UPath, table: UPath, record: UPath, standing: Callable[[], bool]) -> None:
        self.file = file
        self._tar, self._table, self._record, self._standing = tar, table, record, standing
        self._overwrite = with_retries(lambda: exists_now(tar))  # damaged, or left by a killed worker

    def commit(self, table: bytes, record: bytes) -> bool:
        if self._standing():  # we were slow or suspended, and another worker did it
            return False
        self.file.flush()
        self.file.seek(0)
        start = self.file.read(COMPARED)

        def tar_is_ours() -> bool:
            """Whether it begins as ours does; one drawn on another kind of machine differs in its first images."""
            return start_of(self._tar, len(start)) == start

        if self._overwrite:
            with_retries(lambda: self._put("overwrite"))
        elif not _sent_anew(self._tar, self._put, tar_is_ours):
            return False
        write_object(self._table, table)
        if not self._overwrite or tar_is_ours():
            write_object(self._record, record)
            if tar_is_ours() and start_of(self._table, len(table) + 1) == table:
                return True
        remove_object(self._record)  # without a record the shard is written again
        return False

    def _put(self, mode: str) -> None:
        self.file.seek(0)
        self._tar.fs.put_file(f"/dev/fd/{self.file.fileno()}", self._tar.path, mode=mode)
