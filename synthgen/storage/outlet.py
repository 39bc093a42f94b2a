"""Places that finished sets are published to: what is there, what is still to be sent, and how it gets there."""

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
    record: str | None = None  # name of the completion record that vouches for it, of a table or tar


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a place says of a file that stands there, without reading it."""

    size: int  # bytes
    sha256: str | None = None
    git: str | None = None  # git's hash of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is still to be sent, in this order."""

    withdraw: tuple[str, ...]  # names to remove first: a file that they tell of is about to be replaced
    claim: tuple[File, ...]
    shards: tuple[tuple[File, ...], ...]  # of each shard what is missing of table, tar and record
    withdraw_late: tuple[str, ...]  # names to remove before the closing files
    closing: tuple[File, ...]  # manifest last

    @property
    def files(self) -> tuple[File, ...]:
        """All of them."""
        return (*self.claim, *(file for shard in self.shards for file in shard), *self.closing)


class Outlet(Protocol):
    """A place to publish to.  Its methods raise SynthgenError, in one line without secrets."""

    @property
    def shown(self) -> str:
        """It in words, without secrets."""
        ...

    @property
    def repo(self) -> str | None:
        """USER/NAME on the Hub."""
        ...

    def check(self, *, write: bool) -> None:
        """Raise where the place cannot be reached, or, with ``write``, not be written to."""
        ...

    def standing(self) -> dict[str, Standing]:
        """The files that stand there, by name."""
        ...

    def read(self, name: str) -> bytes:
        """A small file that stands there."""
        ...

    def same(self, files: Sequence[File], standing: Mapping[str, Standing]) -> set[str]:
        """Names of those of ``files`` that stand there with the same content."""
        ...

    def send(self, work: Work, sent: Callable[[File], object]) -> None:
        """Send what is to be sent; ``sent`` is told of each file, from any thread."""
        ...

    def finish(self, name: str, sums: File | None) -> str | None:
        """After sending: tag a finished set, whose sums are given, where there are tags; returns the tag."""
        ...

    def load(self, tag: str | None) -> str:
        """How to read the set with the datasets library."""
        ...


def refuse_public(text: str, *, public: bool) -> None:
    """Raise SynthgenError where a set is to be public, and this is not for the command to say."""
    if public:
        raise SynthgenError(f"--public is for hf://; who may read {shown(text)} is settled there")
