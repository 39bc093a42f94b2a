"""Writing to a store that fsspec reaches: objects are whole or absent, and what fails is tried again."""

from __future__ import annotations

import errno
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from synthgen.common.errors import SynthgenError
from synthgen.common.masking import one_line, secrets_in, shown
from synthgen.dataset.plan import ShardSpan
from synthgen.dataset.shard import (
    Item,
    Shard,
    committed,
    data_path,
    record_path,
    record_text,
    targets,
    told_of_space,
    write_shard,
    write_tar,
)
from synthgen.storage.atomic import write_atomically, write_if_new
from synthgen.storage.reading import reading

if TYPE_CHECKING:
    from upath import UPath

    from synthgen.storage.places import Place

WAITS = (1, 5, 20)  # seconds before trying again; the clients have tried for some seconds by then
BRIEF = (0.5, 2)  # the same where somebody waits for the answer
PROBE = "claims/write-test"
COMPARED = 1 << 18  # bytes of a tar that tell it from another worker's
# What a disk says that it will say again: full, over quota, read-only, no permission, a name that it cannot take.
FINAL = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EFBIG,
)
T = TypeVar("T")


def patiently(
    action: Callable[[], T], *, waits: Sequence[float] | None = None, final: Callable[[Exception], bool] | None = None
) -> T:
    """Do it, again after each of ``waits`` (WAITS) where it fails, unless the failure is ``final``."""
    for wait in WAITS if waits is None else waits:
        try:
            return action()
        except Exception as error:
            if (final or refused)(error):
                raise
            time.sleep(wait)
    return action()


def refused(error: Exception) -> bool:
    """Whether trying again would change nothing."""
    final = SynthgenError | FileNotFoundError | FileExistsError | PermissionError | NotImplementedError | ValueError
    return isinstance(error, final) or (isinstance(error, OSError) and error.errno in FINAL)


def write(path: Place, data: bytes) -> None:
    """Write a file of a folder or a store, whole or not at all; raises SynthgenError where it is not taken."""
    if isinstance(path, Path):
        with told_of_space(path):
            write_atomically(path, data)
        return
    with _told(path):
        _send(path, data)


def _send(path: UPath, data: bytes) -> None:
    # Not through an open file, which its client writes once more when it is collected.
    patiently(lambda: path.fs.pipe_file(path.path, data))


@contextmanager
def _told(path: UPath) -> Iterator[None]:
    """What a store refuses, in one line without keys."""
    try:
        yield
    except SynthgenError:
        raise
    except Exception as error:  # each client has errors of its own
        why = one_line(error, secrets_in(str(path)))
        raise SynthgenError(f"{shown(str(path))}: cannot be written to ({why})") from None


def created(path: UPath, send: Callable[[str], object], same: Callable[[], bool]) -> bool:
    """Have ``send`` make an object where there is none; whether it then stands as sent.

    ``send`` takes the mode, "create" or "overwrite".  An object that is there already may be our own,
    whose answer was lost: ``same`` tells.  A store that knows no conditions is asked what stands first.
    """
    try:
        patiently(lambda: send("create"), final=_final)
    except FileExistsError:
        return same()
    except Exception:  # perhaps a store that knows no conditions
        if patiently(lambda: there(path)):
            return same()
        patiently(lambda: send("overwrite"))
    return True


def create(path: UPath, data: bytes) -> bool:
    """Write an object where there is none; whether it then stands as sent.  Raises SynthgenError as ``write`` does."""
    with _told(path):
        return created(
            path, lambda mode: path.fs.pipe_file(path.path, data, mode=mode), lambda: bool(path.read_bytes() == data)
        )


def _unknown(error: Exception) -> bool:
    """Whether a store may have refused because it does not know what is asked; clients tell it in several ways."""
    return isinstance(error, TypeError) or getattr(error, "errno", None) in (errno.EINVAL, errno.ENOSYS)


def _final(error: Exception) -> bool:
    return refused(error) or _unknown(error)


def there(path: UPath) -> bool:
    """Whether an object stands, as the store has it now."""
    path.fs.invalidate_cache()
    return bool(path.exists())


def update(path: Place, data: bytes) -> None:
    """Write a file, unless it has this content already."""
    if isinstance(path, Path):
        with told_of_space(path):
            write_if_new(path, data)
        return
    with reading(path):
        stands = patiently(lambda: path.exists() and path.read_bytes() == data, waits=BRIEF)
    if not stands:
        write(path, data)


def check_writable(directory: UPath) -> None:
    """Raise SynthgenError, in one line without keys, where a store cannot be written to."""
    if directory.protocol == "hf":
        raise SynthgenError(
            f"{directory}: the Hub is no place to write to shard by shard; write to a folder or a store, then"
            " synthgen publish"
        )
    probe = directory / PROBE
    with _told(directory):
        directory.fs.pipe_file(probe.path, b"")
    with suppress(Exception):  # another process has; or the keys do not allow it, which is not needed
        directory.fs.rm_file(probe.path)


def write_anywhere(
    directory: Place, span: ShardSpan, items: Iterable[Item], *, plan_digest: str, environment: dict[str, str]
) -> Shard | None:
    """Write one shard to a folder (see ``write_shard``) or a store; None where it stands or another has it.

    For a store the tar is first written to a local file without a name, which goes with its process.
    Another worker may be at the same shard, and on another kind of machine its bytes differ: a tar takes
    no other's place where none stood before, and the record comes last, of a tar and a table that are ours.
    """
    if isinstance(directory, Path):
        return write_shard(directory, span, items, plan_digest=plan_digest, environment=environment)
    if _stands(directory, span, plan_digest):
        return None
    with told_of_space(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
        overwrite = patiently(lambda: there(data_path(directory, span)))  # damaged, or of a killed worker
        shard, table = write_tar(file, span, items, plan_digest, environment)
        if _stands(directory, span, plan_digest):  # we were slow, or frozen, and another did it
            return None
        return shard if _Upload(directory, span, file, shard, table).send(overwrite=overwrite) else None


def _stands(directory: UPath, span: ShardSpan, plan_digest: str) -> bool:
    directory.fs.invalidate_cache()
    record = _read(record_path(directory, span), 1)  # which costs one request where there is none
    return record is not None and patiently(lambda: committed(directory, span, plan_digest)) is not None


def _read(path: UPath, n: int) -> bytes | None:
    """The first so many bytes of an object; None where there is none."""
    try:
        return bytes(patiently(lambda: path.fs.cat_file(path.path, start=0, end=n), final=_final))
    except FileNotFoundError:
        return None
    except OSError as error:
        if _unknown(error):  # S3 has no range of an empty object
            return bytes(patiently(path.read_bytes)[:n])
        raise


class _Upload:
    """A shard on its way to a store, where another worker may be sending the same one."""

    def __init__(self, directory: UPath, span: ShardSpan, file: IO[bytes], shard: Shard, table: bytes) -> None:
        self._data, self._table, self._record = targets(directory, span)
        self._file, self._shard, self._rows = file, shard, table
        file.flush()
        file.seek(0)
        self._start = file.read(COMPARED)

    def send(self, *, overwrite: bool) -> bool:
        """Send tar, table and record; whether the shard then stands as we made it."""
        if overwrite:
            patiently(lambda: self._put("overwrite"))
        elif not created(self._data, self._put, self._tar_is_ours):
            return False
        _send(self._table, self._rows)
        if not overwrite or self._tar_is_ours():
            _send(self._record, record_text(self._shard))
            if self._tar_is_ours() and self._table_is_ours():
                return True
        with suppress(FileNotFoundError):  # whoever finds no record writes the shard again
            patiently(lambda: self._record.fs.rm_file(self._record.path))
        return False

    def _put(self, mode: str) -> None:
        self._file.seek(0)
        self._data.fs.put_file(f"/dev/fd/{self._file.fileno()}", self._data.path, mode=mode)

    def _tar_is_ours(self) -> bool:
        """Whether the tar begins as ours; one that another kind of machine drew differs in its first images."""
        return _read(self._data, len(self._start)) == self._start

    def _table_is_ours(self) -> bool:
        return _read(self._table, len(self._rows) + 1) == self._rows
