"""Decoded images: cached on disk for all selections of a source, or decoded each time if there is no room."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from synthgen.storage.inside import check_folder
from synthgen.storage.reading import open_file

from ..errors import told_here
from .pixelfile import ENDING, Decoder, PixelFile, busy


class Source(Decoder, Protocol):
    """A decoder that says which images it has."""

    @property
    def identity(self) -> dict[str, Any]:
        """A JSON object; other images have another identity."""
        ...

    @property
    def n_images(self) -> int:
        """How many there are."""
        ...


@runtime_checkable
class Composite(Protocol):
    """A source made of others, under which its decoded images are cached."""

    def parts(self, indices: NDArray[np.int64]) -> Sequence[tuple[NDArray[np.intp], Source, NDArray[np.int64]]]:
        """By source: the positions in ``indices`` that belong to it, the source, and the indices within it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Identified:
    """A decoder whose identity another object knows, such as a split of a task."""

    decoder: Decoder
    identity: dict[str, Any]
    n_images: int

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """See Decoder."""
        return self.decoder.decode(indices, size)


class Pixels(Protocol):
    """Chosen images as pixels; position i is the i-th chosen image."""

    @property
    def size(self) -> int:
        """Width and height in pixels."""
        ...

    @property
    def decodes(self) -> bool:
        """Whether ``take`` decodes rather than only copies."""
        ...

    def __len__(self) -> int: ...

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images at positions [k], uint8 [k, size, size, 3]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stored:
    """Decoded images in memory, or in a file mapped into it."""

    images: NDArray[np.uint8]  # [n_images, size, size, 3]
    chosen: NDArray[np.int64]  # [n], positions in images
    decodes: bool = False

    @property
    def size(self) -> int:
        """See Pixels."""
        return int(self.images.shape[1])

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See Pixels."""
        return self.images[self.chosen[indices]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Streamed:
    """Images decoded whenever they are requested; EvaluateError names one that cannot be."""

    source: Decoder
    chosen: NDArray[np.int64]  # [n], positions in the source
    size: int
    decodes: bool = True
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(os.cpu_count()))

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See Pixels."""
        pixels = np.empty((len(indices), self.size, self.size, 3), np.uint8)

        def one(places: NDArray[np.intp]) -> None:
            images = self.source.decode(self.chosen[indices[places]], self.size)
            for place, image in zip(places.tolist(), images, strict=True):
                pixels[place] = image

        list(self.pool.map(one, np.array_split(np.arange(len(indices)), os.cpu_count() or 1)))
        return pixels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Assembled:
    """Images of several sources."""

    parts: tuple[Pixels, ...]
    part: NDArray[np.intp]  # [n], which part has an image
    place: NDArray[np.intp]  # [n], its position there
    size: int

    @property
    def decodes(self) -> bool:
        """See Pixels."""
        return any(part.decodes for part in self.parts)

    def __len__(self) -> int:
        return len(self.part)

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See Pixels."""
        pixels = np.empty((len(indices), self.size, self.size, 3), np.uint8)
        for number, part in enumerate(self.parts):
            own = np.flatnonzero(self.part[indices] == number)
            if len(own):
                pixels[own] = part.take(self.place[indices[own]])
        return pixels


class PixelCache:
    """A folder of decoded images, which several processes may use at once.

    ``limit`` is in bytes.  Files that this process has opened are kept; others are evicted, least recently used
    first, to make room.  Processes that fill files at the same time do not see what the others are about to write.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder, self.limit = folder, limit
        self._used: set[Path] = set()

    def open(
        self, source: Source | Composite, indices: NDArray[np.int64], size: int, *, progress: Callable[[int], None]
    ) -> Pixels:
        """The images at ``indices``, decoded now unless they are cached, or streamed if they do not fit.

        ``progress`` is called with how many of them are cached.  Raises EvaluateError naming an image that cannot
        be decoded, and if the disk is full; what was decoded before is kept.
        """
        if not isinstance(source, Composite):
            return self._open(source, indices, size, progress)
        part, place = np.empty((2, len(indices)), np.intp)
        parts: list[Pixels] = []
        for places, one, own in source.parts(indices):
            before = sum(map(len, parts))
            part[places], place[places] = len(parts), np.arange(len(places))
            parts.append(self._open(one, own, size, partial(_further, progress, before)))
        return Assembled(parts=tuple(parts), part=part, place=place, size=size)

    def missing_bytes(self, wanted: Iterable[tuple[Source | Composite, NDArray[np.int64]]], size: int) -> int:
        """By how much the folder grows when sources and indices are opened, with shared images counted once."""
        asked: dict[PixelFile, list[NDArray[np.int64]]] = defaultdict(list)
        for source, indices in wanted:
            for _, one, own in source.parts(indices) if isinstance(source, Composite) else [((), source, indices)]:
                asked[self._file(one, size)].append(own)
        missing = 0
        for file, selections in asked.items():
            together = np.unique(np.concatenate(selections))
            missing += file.room(together[~file.present()[together]])
        if self.limit is None:
            return missing
        return min(missing, max(0, self.limit - sum(n_bytes for _, _, n_bytes in _files(self.folder))))

    def _file(self, source: Source, size: int) -> PixelFile:
        return PixelFile.of(self.folder, source.identity, source.n_images, size)

    def _open(self, source: Source, indices: NDArray[np.int64], size: int, progress: Callable[[int], None]) -> Pixels:
        pixels = self._file(source, size)
        wanted = np.unique(indices)
        with suppress(OSError), open_file(pixels.path) as found:  # the claim below reports errors other than absence
            if pixels.present(found)[wanted].all():
                progress(len(indices))
                return self._stored(pixels, found, indices)
        while True:
            with pixels.claimed() as file:
                present = pixels.present(file)
                if not self._make_room(pixels, present, wanted):
                    if not present.any():
                        pixels.path.unlink()
                    return Streamed(source=source, chosen=indices, size=size)
                if pixels.is_linked(file):  # it may have been evicted to make room for itself
                    missing = wanted[~present[wanted]]
                    pixels.fill(file, source, missing, partial(_further, progress, len(indices) - len(missing)))
                    return self._stored(pixels, file, indices)

    def _stored(self, pixels: PixelFile, file: IO[bytes], indices: NDArray[np.int64]) -> Stored:
        self._used.add(pixels.path)
        with suppress(OSError):  # removed meanwhile, or another user's
            os.utime(pixels.path)
        return Stored(images=pixels.map(file), chosen=indices)

    def _make_room(self, pixels: PixelFile, present: NDArray[np.bool_], wanted: NDArray[np.int64]) -> bool:
        """Whether the images at ``wanted``, in ascending order, fit, after removing files that are not in use."""
        if self.limit is None:
            return True
        over = pixels.room(wanted[~present[wanted]]) - self.limit
        idle = []
        for path, last_used, n_bytes in _files(self.folder):
            over += n_bytes
            if path == pixels.path and present.any():  # the last to go; its wanted images are decoded again
                again = pixels.start + pixels.room(wanted[present[wanted]])
                idle.append((float("inf"), path, n_bytes - again))
            elif path != pixels.path and not busy(path):
                idle.append((last_used, path, n_bytes))
        idle = sorted(entry for entry in idle if entry[1] not in self._used)
        if over > sum(gain for _, _, gain in idle):
            return False
        for _, path, gain in idle:
            if over > 0:
                path.unlink(missing_ok=True)
                over -= gain
        return True


def _further(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The images of one source at one size that a cache holds."""

    path: Path
    what: str  # the source's identity in words
    size: int  # pixels
    n_images: int  # of the source
    n_present: int  # decoded
    n_bytes: int  # on the disk
    last_used: float  # seconds since 1970


def entries(folder: Path) -> list[Entry]:
    """What a cache holds, last used first; raises EvaluateError naming a file that is not one of its own."""
    found = []
    for path, last_used, n_bytes in sorted(_files(folder), key=lambda file: -file[1]):
        with suppress(FileNotFoundError):  # removed at this moment
            pixels = PixelFile.read(path)
            if pixels is None:
                continue
            found.append(
                Entry(
                    path=path,
                    what=", ".join(f"{key} {value}" for key, value in pixels.identity.items()),
                    size=pixels.size,
                    n_images=pixels.n_images,
                    n_present=pixels.n_present(),
                    n_bytes=n_bytes,
                    last_used=last_used,
                )
            )
    return found


def clear(folder: Path) -> int:
    """Remove all images of a cache, even while others use it; returns the bytes that were on the disk.

    Raises EvaluateError if the cache is a link: nothing behind a link is removed.
    """
    with told_here():
        check_folder(folder)
    files = _files(folder)
    for path, _, _ in files:
        path.unlink(missing_ok=True)
    return sum(n_bytes for _, _, n_bytes in files)


def _files(folder: Path) -> list[tuple[Path, float, int]]:
    """Path, time of last use and bytes on the disk of each file of pixels."""
    found = []
    for path in folder.glob(f"*{ENDING}"):
        with suppress(FileNotFoundError):  # removed at this moment
            stat = path.lstat()
            found.append((path, stat.st_mtime, stat.st_blocks * 512))
    return found
