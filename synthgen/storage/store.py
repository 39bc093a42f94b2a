"""What every kind of place that keeps files answers to: a folder, an object store, the Hub.

A store is stateless, one object for all places of its kind.  ``places.store_of`` gives that of a place; nobody
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
CLAIMS = "claims"  # its folder that tells who is at which shard
NO_FILE = -1  # the size of what is listed and is not a regular file: a pipe, a socket, a device, a link to nothing


class Place(Protocol):
    """Where a file or a folder is, as pathlib writes it: a Path, a UPath, or what another store has in their stead.

    Its text names it again, on another machine too.
    """

    @property
    def name(self) -> str:
        """The last part."""
        ...

    @property
    def parent(self) -> Self:
        """The folder that it is in."""
        ...

    def __truediv__(self, name: str, /) -> Self:
        """A file of the name, with slashes, in this folder."""
        ...

    def absolute(self) -> Self:
        """The same, wherever a process works."""
        ...


P = TypeVar("P", bound=Place)


class Draft(Protocol):
    """A shard that is being written: nobody sees it before it is committed."""

    @property
    def file(self) -> IO[bytes]:
        """Where the tar is written."""
        ...

    def commit(self, table: bytes, record: bytes) -> bool:
        """Put the tar, its table and, last, its record in place, each whole; whether all now stand as ours.

        A record stands only beside the tar and the table that it vouches for.  False where another worker's shard
        stands, or neither: then the shard is to be done again.  Raises what the disk or, after it was tried again, the
        store's client does.
        """
        ...


class Hold(Protocol):
    """A claim that is ours until another worker takes it over."""

    @property
    def lost(self) -> bool:
        """Whether it may be another worker's now, as we did not renew it in time."""
        ...

    def renew(self, data: bytes) -> None:
        """Write it anew, so that it goes on counting; tried once, and raises whatever the disk or the client does."""
        ...

    def drop(self) -> None:
        """Remove it, unless it is lost; failures are nobody's concern."""
        ...


class Store(Protocol[P]):
    """How files are read and written at one kind of place.

    Reading raises OSError or what a store's client raises, which ``reading.reading`` puts in one line.  Writing raises
    SynthgenError in one line without keys, after it was tried again where that may help (``retries.patiently``); a
    folder's OSError is left to the caller but for a full disk.  A file is whole or absent, whoever is killed when.
    """

    @property
    def remote(self) -> bool:
        """Whether reading waits for a network: several files at a time are read faster, and any error may pass."""
        ...

    @property
    def locks(self) -> bool:
        """Whether who writes a file holds a lock on it, which ends with its process; else claims decide."""
        ...

    @property
    def spools(self) -> bool:
        """Whether a local disk holds only the shards that are being written, until they are sent."""
        ...

    # Which places

    def names(self, text: str) -> bool:
        """Whether a path or URL is written as places of this kind are."""
        ...

    def holds(self, place: object) -> bool:
        """Whether a place is of this kind."""
        ...

    def place(self, text: str) -> P:
        """The place that a text names; raises SynthgenError where it cannot be reached, or holds keys."""
        ...

    def local(self, path: P) -> Path | None:
        """Where on a disk of this machine it is; None where it is nowhere there."""
        ...

    # Reading

    def open(self, path: P) -> IO[bytes]:
        """Open a file for reading, a regular one alone, through links too."""
        ...

    def read(self, path: P, *, limit: int = LIMIT, patient: bool = False) -> bytes:
        """The content of a file, at a folder of at most ``limit`` bytes.

        A store is asked again, for seconds, or with ``patient`` for half a minute; a folder is with ``patient`` alone.
        """
        ...

    def fetch(self, path: P, to: Path) -> None:
        """Copy a file to this machine; the copy may be cut where that fails."""
        ...

    def exists(self, path: P) -> bool:
        """Whether there is anything of that name now; tried once."""
        ...

    def size(self, path: P) -> int | None:
        """Bytes of a regular file; None where there is none.  Tried once."""
        ...

    def listing(self, directory: P) -> dict[str, int]:
        """Names within a directory, as in "data/x.tar", and their sizes in bytes, as of now.

        What is in FOLDERS is told by name; another folder as one, such as ".cache/", of 0 bytes; what is neither
        folder nor regular file has the size NO_FILE.  Tried again for seconds; raises SynthgenError of a store.
        """
        ...

    def names_in(self, folder: P) -> list[str]:
        """Names of what is in a folder now; none where there is no folder.  Tried once."""
        ...

    # Writing

    def check_writable(self, directory: P) -> None:
        """Raise SynthgenError where no set can be written, before work starts."""
        ...

    def check_folder(self, folder: P) -> None:
        """Raise SynthgenError where a folder to write in is a link, which leads elsewhere."""
        ...

    def target(self, directory: P, name: str) -> P:
        """Where a file ``name`` of a set is written; raises SynthgenError where it leaves the set."""
        ...

    def write(self, path: P, data: bytes) -> None:
        """Write a file; of several writers, the last one's content stands."""
        ...

    def update(self, path: P, data: bytes) -> None:
        """The same, but a file that has this content already is not touched."""
        ...

    def create(self, path: P, data: bytes) -> bool:
        """Write a file where there is none; whether it then has this content.

        Of several at a time one writes it, but in a store that knows no conditional writes.
        """
        ...

    def replace(self, path: P, data: bytes, *, unchanged: Callable[[], bool], first: Callable[[], object]) -> bool:
        """Write a file in place of what ``unchanged`` says still stands; False where it does not.

        ``first`` is done before.  A folder holds the file's lock meanwhile; elsewhere two at a time are not told
        apart.
        """
        ...

    def remove(self, path: P) -> None:
        """Remove a file, if there is one; tried again, and raises what the disk or the client does."""
        ...

    def remove_folder(self, folder: P) -> None:
        """Remove a folder that now holds nothing but unfinished files; tried once, and raises OSError."""
        ...

    def put(self, path: P, source: Path) -> None:
        """Copy a file of this machine there; tried once, and raises what the disk or the client does."""
        ...

    def draft(self, tar: P, table: P, record: P, stands: Callable[[], bool]) -> AbstractContextManager[Draft | None]:
        """A shard to be written to these places; None where it stands, as ``stands`` says, or another is at it.

        What was not committed is gone when the block ends, or with the process.  Raises SynthgenError where a disk of
        this machine is full.
        """
        ...

    def clear(self, directory: P) -> None:
        """Remove what killed processes left unfinished in a set; that of living ones stays."""
        ...

    def disk(self, directory: P) -> Path:
        """The folder of this machine on whose disk what is written takes space; see ``spools``."""
        ...

    # Who is at what

    def claim(self, path: P, data: bytes, *, force: bool, counts: float) -> Hold | None:
        """Write a claim; None where another worker has one.

        With ``force`` one that stands is taken over.  Ours is lost ``counts`` seconds after it was last renewed.  Where
        locks decide, a claim only tells, is always given and never lost, and is worth no failure.
        """
        ...

    def is_locked(self, path: P) -> bool:
        """Whether a process is writing a file, as far as locks tell; raises OSError where a disk has none."""
        ...

    # Publishing

    def outlet(self, text: str, *, source: Path, public: bool) -> Outlet:
        """The place that a text names, to publish the set in ``source`` to; raises SynthgenError where that cannot be.

        The text may hold keys, which nothing that is said repeats.
        """
        ...


class Publishable(Store[P], Protocol[P]):
    """A store to which files are published one by one; see ``outlet.FileByFile``."""

    def check_outlet(self, root: P, shown: str, *, write: bool) -> None:
        """Raise where a place cannot be reached, or, with ``write``, not be written to."""
        ...

    def find(self, root: P) -> Mapping[str, int]:
        """All finished files under a place, however deep: name -> bytes."""
        ...

    def loads(self, shown: str) -> str:
        """How to read a set at a place with the datasets library."""
        ...
