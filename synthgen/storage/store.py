"""The protocol of every kind of place that keeps files: a folder, an object store, the Hub.

A store is one stateless object for all places of its kind.  ``places.store_of`` gives the store of a place; nothing
else asks what kind of place it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol, Self, TypeVar

from synthgen.storage.outlet import Outlet
from synthgen.storage.regular import LIMIT

FOLDERS = ("data", "metadata")  # of a set, for its shards
CLAIMS = "claims"  # its folder that says which worker is writing which shard
NO_FILE = -1  # the size listed for what is not a regular file: a pipe, a socket, a device, a broken link


class Place(Protocol):
    """Where a file or a folder is, in the manner of pathlib: a Path, a UPath, or another store's equivalent.

    Its text names the same place again, also on another machine.
    """

    @property
    def name(self) -> str:
        """The last part."""
        ...

    @property
    def parent(self) -> Self:
        """The folder that contains it."""
        ...

    def __truediv__(self, name: str, /) -> Self:
        """The file of this name, which may contain slashes, in this folder."""
        ...

    def absolute(self) -> Self:
        """The same place, independent of the working directory."""
        ...


P = TypeVar("P", bound=Place)


class Draft(Protocol):
    """A shard that is being written, invisible until it is committed."""

    @property
    def file(self) -> IO[bytes]:
        """Where the tar is written."""
        ...

    def commit(self, table: bytes, record: bytes) -> bool:
        """Put the tar, its table and, last, its record in place, each complete; whether all of them are now ours.

        A record exists only beside the tar and the table that it vouches for.  False if another worker's shard is
        there, or neither: then the shard must be written again.  Raises what the disk or, after retries, the store's
        client raises.
        """
        ...


class Hold(Protocol):
    """A claim that is ours until another worker takes it over."""

    @property
    def lost(self) -> bool:
        """Whether another worker may have taken it over, as we did not renew it in time."""
        ...

    def renew(self, data: bytes) -> None:
        """Write it again, so that it keeps counting; tried once, and raises what the disk or the client raises."""
        ...

    def drop(self) -> None:
        """Remove it, unless it is lost; failures are ignored."""
        ...


class Store(Protocol[P]):
    """How files are read and written at one kind of place.

    Reading raises OSError or what a store's client raises, which ``reading.reading`` reports in one line.  Writing
    raises SynthgenError in one line without keys, after retries if these may help (``retries.with_retries``); a
    folder's OSError is left to the caller, except for a full disk.  A file is complete or absent, whichever process
    is killed at whatever moment.
    """

    @property
    def remote(self) -> bool:
        """Whether reading waits for a network: concurrent reads are faster, and any error may be transient."""
        ...

    @property
    def locks(self) -> bool:
        """Whether the writer of a file holds a lock on it, which ends with its process; otherwise claims decide."""
        ...

    @property
    def spools(self) -> bool:
        """Whether shards take space on a local disk only while they are written, until they are sent."""
        ...

    # Which places

    def names(self, text: str) -> bool:
        """Whether a path or URL has the form of places of this kind."""
        ...

    def holds(self, place: object) -> bool:
        """Whether a place is of this kind."""
        ...

    def place(self, text: str) -> P:
        """The place that a text names; raises SynthgenError if it cannot be reached, or contains keys."""
        ...

    def local(self, path: P) -> Path | None:
        """Its path on a disk of this machine; None if it is elsewhere."""
        ...

    # Reading

    def open(self, path: P) -> IO[bytes]:
        """Open a regular file for reading, also through links."""
        ...

    def read(self, path: P, *, limit: int = LIMIT, patient: bool = False) -> bytes:
        """The content of a file; a folder refuses more than ``limit`` bytes.

        A store retries for seconds, with ``patient`` for half a minute; a folder retries only with ``patient``.
        """
        ...

    def fetch(self, path: P, to: Path) -> None:
        """Copy a file to this machine; a failure may leave a truncated copy."""
        ...

    def exists(self, path: P) -> bool:
        """Whether anything has that name now; tried once."""
        ...

    def size(self, path: P) -> int | None:
        """Size of a regular file in bytes; None if there is none.  Tried once."""
        ...

    def listing(self, directory: P) -> dict[str, int]:
        """Names within a directory, such as "data/x.tar", and their current sizes in bytes.

        The contents of FOLDERS are listed by name; any other folder is one entry, such as ".cache/", of 0 bytes; what
        is neither a folder nor a regular file has the size NO_FILE.  A store retries for seconds, then raises
        SynthgenError.
        """
        ...

    def names_in(self, folder: P) -> list[str]:
        """Names of what is in a folder now; none if there is no such folder.  Tried once."""
        ...

    # Writing

    def check_writable(self, directory: P) -> None:
        """Raise SynthgenError, before work starts, if no set can be written there."""
        ...

    def check_folder(self, folder: P) -> None:
        """Raise SynthgenError if a folder to write in is a link, which leads elsewhere."""
        ...

    def target(self, directory: P, name: str) -> P:
        """Where the file ``name`` of a set is written; raises SynthgenError if it leaves the set."""
        ...

    def write(self, path: P, data: bytes) -> None:
        """Write a file; of several writers, the last one wins."""
        ...

    def update(self, path: P, data: bytes) -> None:
        """Like ``write``, but leave a file alone that has this content already."""
        ...

    def create(self, path: P, data: bytes) -> bool:
        """Write a file if there is none; whether the file then has this content.

        Of several concurrent writers one writes it, except in a store without conditional writes.
        """
        ...

    def replace(self, path: P, data: bytes, *, unchanged: Callable[[], bool], first: Callable[[], object]) -> bool:
        """Replace a file if ``unchanged`` says that it is still the expected one; False if it is not.

        ``first`` is called before writing.  A folder holds the file's lock meanwhile; elsewhere two concurrent
        replacements are not detected.
        """
        ...

    def remove(self, path: P) -> None:
        """Remove a file, if there is one; a store retries.  Raises what the disk or the client raises."""
        ...

    def remove_folder(self, folder: P) -> None:
        """Remove a folder that contains only unfinished files; tried once, and raises OSError."""
        ...

    def put(self, path: P, source: Path) -> None:
        """Copy a local file there; tried once, and raises what the disk or the client raises."""
        ...

    def draft(self, tar: P, table: P, record: P, stands: Callable[[], bool]) -> AbstractContextManager[Draft | None]:
        """A shard to be written to these places; None if it exists, as ``stands`` says, or another worker writes it.

        What was not committed is gone when the block or the process ends.  Raises SynthgenError if a local disk is
        full.
        """
        ...

    def clear(self, directory: P) -> None:
        """Remove the unfinished files that killed processes left in a set, but not those of running ones."""
        ...

    def disk(self, directory: P) -> Path:
        """The local folder on whose disk writing takes space; see ``spools``."""
        ...

    # Which worker writes which shard

    def claim(self, path: P, data: bytes, *, force: bool, timeout: float) -> Hold | None:
        """Write a claim; None if another worker has one.

        With ``force`` an existing one is taken over.  Ours is lost ``timeout`` seconds after it was last renewed.
        Where locks decide, a claim only informs: it is always given, never lost, and its failures are ignored.
        """
        ...

    def is_locked(self, path: P) -> bool:
        """Whether a process is writing a file, as far as locks show; raises OSError if the disk has none."""
        ...

    # Publishing

    def outlet(self, text: str, *, source: Path, public: bool) -> Outlet:
        """The place that a text names, to publish the set in ``source`` to; raises SynthgenError if that is impossible.

        The text may contain keys, which no message repeats.
        """
        ...


class Publishable(Store[P], Protocol[P]):
    """A store to which files are published one by one; see ``file_by_file.FileByFile``."""

    def check_outlet(self, root: P, shown: str, *, write: bool) -> None:
        """Raise if a place cannot be reached or, with ``write``, cannot be written to."""
        ...

    def find(self, root: P) -> Mapping[str, int]:
        """All finished files under a place, at any depth: name -> size in bytes."""
        ...

    def loads(self, shown: str) -> str:
        """Code that reads a set at a place with the datasets library."""
        ...
