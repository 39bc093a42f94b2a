"""Writing to a store that fsspec reaches: objects are whole or absent, and what fails is tried again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from synthgen.atomic import write_atomically
from synthgen.errors import SynthgenError
from synthgen.masking import one_line, secrets_in
from synthgen.plan import ShardSpan
from synthgen.shard import (
    Item,
    Shard,
    committed,
    data_path,
    record_path,
    record_text,
    table_bytes,
    table_path,
    told_of_space,
    write_shard,
    write_tar,
)

if TYPE_CHECKING:
    from upath import UPath

    from synthgen.places import Place

WAITS = (1, 5, 20)  # seconds before trying again; the clients have tried for some seconds by then
PROBE = "claims/write-test"
COMPARED = 1 << 18  # bytes of a tar that tell it from another worker's
T = TypeVar("T")


def patiently(action: Callable[[], T], *, final: Callable[[Exception], bool] | None = None) -> T:
    """Do it, again after a while where it fails, unless the failure is ``final``."""
    for wait in WAITS:
        try:
            return action()
        except Exception as error:
            if (final or refused)(error):
                raise
            time.sleep(wait)
    return action()


def refused(error: Exception) -> bool:
    """Whether trying again would change nothing."""
    return isinstance(error, SynthgenError | FileNotFoundError | PermissionError | NotImplementedError | ValueError)


def write(path: Place, data: bytes) -> None:
    """Write a file of a folder or a store, whole or not at all."""
    if isinstance(path, Path):
        write_atomically(path, data)
    else:
        patiently(lambda: path.write_bytes(data))


def update(path: Place, data: bytes) -> None:
    """Write a file, unless it has this content already."""
    if not path.exists() or path.read_bytes() != data:
        write(path, data)


def check_writable(directory: UPath) -> None:
    """Raise SynthgenError, in one line without keys, where a store cannot be written to."""
    probe = directory / PROBE
    try:
        directory.fs.pipe_file(probe.path, b"")
        directory.fs.rm_file(probe.path)
    except Exception as error:  # each client has errors of its own
        raise SynthgenError(
            f"{directory}: cannot be written to ({one_line(error, secrets_in(str(directory)))})"
        ) from None


def write_anywhere(
    directory: Place, span: ShardSpan, items: Iterable[Item], *, plan_digest: str, environment: dict[str, str]
) -> Shard | None:
    """Write one shard to a folder (see ``write_shard``) or a store; None where it stands or another has it.

    For a store the tar is first written to a local file without a name, which goes with its process.
    The record comes last; it is left out where another worker's tar has taken the place of ours.
    """
    if isinstance(directory, Path):
        return write_shard(directory, span, items, plan_digest=plan_digest, environment=environment)
    store, path = directory.fs, data_path(directory, span)
    store.invalidate_cache()
    if committed(directory, span, plan_digest):
        return None
    with told_of_space(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
        shard, rows = write_tar(file, span, items, plan_digest, environment)
        file.flush()
        file.seek(0)
        write(table_path(directory, span), table_bytes(rows))
        patiently(lambda: store.put_file(f"/dev/fd/{file.fileno()}", path.path))
        file.seek(0)
        start = file.read(COMPARED)
        if not _stands(path, start):
            return None
        record = record_path(directory, span)
        write(record, record_text(shard))
        if not _stands(path, start):
            record.unlink()  # whoever finds none writes the shard again
            return None
    return shard


def _stands(path: UPath, start: bytes) -> bool:
    """Whether a tar is the one that begins so; one that another kind of machine drew differs in its first images."""
    return bool(patiently(lambda: path.fs.cat_file(path.path, start=0, end=len(start))) == start)
