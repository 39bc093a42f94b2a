"""Places that finished sets are published to: what is there, what remains to be sent, and how it is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from synthgen.common.errors import SynthgenError
from synthgen.common.masking import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to be sent."""

    name: str  # within the dataset, with slashes
    source: Path
    size: int  # bytes
    sha256: str
    record: str | None = None  # of a table or tar: name of the completion record that vouches for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a place reports about a file that is there, without reading it."""

    size: int  # bytes
    sha256: str | None = None
    git: str | None = None  # its git hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What remains to be sent, in this order."""

    withdraw: tuple[str, ...]  # names to remove first: they list a file that is about to be replaced
    claim: tuple[File, ...]
    shards: tuple[tuple[File, ...], ...]  # per shard, the missing ones of table, tar and record
    withdraw_late: tuple[str, ...]  # names to remove before the closing files
    closing: tuple[File, ...]  # manifest last

    @property
    def files(self) -> tuple[File, ...]:
        """All files to be sent."""
        return (*self.claim, *(file for shard in self.shards for file in shard), *self.closing)


class Outlet(Protocol):
    """A place to publish to.  Its methods raise SynthgenError, with one line without secrets."""

    @property
    def shown(self) -> str:
        """The place in words, without secrets."""
        ...

    @property
    def repo(self) -> str | None:
        """USER/NAME on the Hub; None elsewhere."""
        ...

    def check(self, *, write: bool) -> None:
        """Raise SynthgenError if the place cannot be reached or, with ``write``, cannot be written to."""
        ...

    def standing(self) -> dict[str, Standing]:
        """The files that are there already, by name."""
        ...

    def read(self, name: str) -> bytes:
        """The content of a small file that is there."""
        ...

    def same(self, files: Sequence[File], standing: Mapping[str, Standing]) -> set[str]:
        """Names of those of ``files`` that are there already with the same content."""
        ...

    def send(self, work: Work, sent: Callable[[File], object]) -> None:
        """Send the files of ``work``; ``sent`` is called with each file, from any thread."""
        ...

    def finish(self, name: str, sums: File | None) -> str | None:
        """After sending: tag a finished set, whose checksums are given, if the place has tags; returns the tag."""
        ...

    def load(self, tag: str | None) -> str:
        """Code that reads the set with the datasets library."""
        ...


def refuse_public(text: str, *, public: bool) -> None:
    """Raise SynthgenError if ``--public`` is given for a place other than the Hub."""
    if public:
        raise SynthgenError(f"--public is for hf://; who may read {shown(text)} is configured there")
