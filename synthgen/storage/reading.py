"""Reading a file wherever it is, with failures reported in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TypeVar

from synthgen.common.errors import SynthgenError
from synthgen.common.records import record
from synthgen.storage.places import store_of
from synthgen.storage.regular import LIMIT
from synthgen.storage.store import Place

T = TypeVar("T")


def open_file(path: Place) -> IO[bytes]:
    """Open a file for reading; see ``Store.open``."""
    return store_of(path).open(path)


def read_file(path: Place, *, limit: int = LIMIT, patient: bool = False) -> bytes:
    """The content of a file; see ``Store.read``."""
    return store_of(path).read(path, limit=limit, patient=patient)


def read_record(path: Place, kind: type[T], *, limit: int = LIMIT) -> T:
    """The record in a file, as a type that pydantic knows; raises OSError, or SynthgenError naming file and key."""
    return record(read_file(path, limit=limit), kind, path)


@contextmanager
def opened(path: Place) -> Iterator[IO[bytes]]:
    """A file open for reading; whatever fails in the block becomes a SynthgenError that names the file."""
    with reading(path), open_file(path) as file:
        try:
            yield file
        except SynthgenError as error:
            raise SynthgenError(f"{path}: {error}") from None


@contextmanager
def reading(path: Place) -> Iterator[None]:
    """Report failures to read a file as SynthgenError, in one line that names it."""
    try:
        yield
    except OSError as error:
        raise SynthgenError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from None
    except SynthgenError:
        raise
    except Exception as error:
        if not store_of(path).remote:
            raise
        # Each store's client has its own errors, whose messages may contain requests and keys.
        raise SynthgenError(f"{path}: cannot be read ({type(error).__name__})") from None
