"""A finished set as its users see it: images with labels and captions, read one by one from its tars.

The tars of a set that is not on a local disk are copied to a cache, each when it is first needed.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from synthgen.common.errors import SynthgenError
from synthgen.common.printing import counted
from synthgen.dataset.manifest import Manifest, read_manifest
from synthgen.dataset.shard import Shard, data_path, image_members
from synthgen.kinds.base import Content, origin_of
from synthgen.storage.atomic import FULL, claimed, move_into_place, remove_orphans
from synthgen.storage.places import place, store_of
from synthgen.storage.reading import open_file, reading
from synthgen.storage.store import Place

POLL = 0.2  # seconds between checks for a shard that another process is fetching


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """The file of an image in a set."""

    name: str  # of the tar and of the file in it, for messages
    data: bytes


class OpenedSet:
    """A finished set; its images may be read by any number of threads."""

    def __init__(self, manifest: Manifest) -> None:
        self._plan, self._shards, self._tars = manifest.plan, manifest.shards, _tars(manifest)
        spans = [manifest.plan.shard(shard.index) for shard in manifest.shards]
        self._origins = [data_path(manifest.directory, span) for span in spans]
        self._starts = [span.start for span in spans]
        self._members: dict[int, list[tuple[str, int, int]]] = {}
        self._locks = [threading.Lock() for _ in spans]

    @property
    def content(self) -> Content:
        """All that the images depend on."""
        return self._plan.content

    @property
    def digest(self) -> str:
        """The plan's: SHA-256 of the content, 64 hex digits."""
        return self._plan.digest

    @property
    def origin(self) -> str:
        """In words, what made the images: prompts, model and versions, and the plan's digest."""
        return origin_of(self.content)

    @property
    def n_images(self) -> int:
        """How many images there are."""
        return self._plan.n

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names, by label."""
        return self.content.class_names

    def label(self, index: int) -> int:
        """The position of an image's class in ``class_names``."""
        return self.content.sample(index).label

    def caption(self, index: int) -> str | None:
        """The text that an image was drawn from; None if the kind has none."""
        return self.content.caption(self.content.sample(index))

    def image(self, index: int) -> ImageFile:
        """An image's file; raises SynthgenError naming the shard if that is damaged or unavailable."""
        number = bisect_right(self._starts, index) - 1
        key, offset, n_bytes = self._images(number)[index - self._starts[number]]
        tar = self._tars[number]
        with reading(tar), open_file(tar) as file:
            data = os.pread(file.fileno(), n_bytes, offset)
        return ImageFile(name=f"{tar}: {key}", data=data)

    def _images(self, number: int) -> list[tuple[str, int, int]]:
        """Key, offset and size in bytes of the images of a shard, read once; the shard is local from then on."""
        with self._locks[number]:
            if number not in self._members:
                shard, tar, origin = self._shards[number], self._tars[number], self._origins[number]
                if store_of(origin).local(origin) != tar:
                    _fetch(origin, tar, shard)
                members = image_members(tar)
                if len(members) != shard.n_samples:
                    raise SynthgenError(f"{origin}: {counted(len(members), 'image')}, recorded {shard.n_samples}")
                self._members[number] = members
            return self._members[number]


def open_set(where: str) -> OpenedSet:
    """The finished set in a folder or at a URL; raises SynthgenError if it is not a set, or not finished."""
    manifest = read_manifest(place(where))
    if not manifest.complete:
        raise SynthgenError(
            f"{where}: {manifest.n_samples} of {manifest.plan.n} images are there; finish it with"
            " the command that began it"
        )
    return OpenedSet(manifest)


def cache_folder() -> Path:
    """Where copies of shards are kept: $XDG_CACHE_HOME/synthgen, by default ~/.cache/synthgen."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "synthgen"


def _tars(manifest: Manifest) -> list[Path]:
    """Where the tars of a set are read: in its directory or, for a remote set, in the cache, named by SHA-256."""
    here = store_of(manifest.directory).local(manifest.directory)
    if here is not None:
        return [data_path(here, manifest.plan.shard(shard.index)) for shard in manifest.shards]
    folder = cache_folder() / manifest.plan.digest / "data"
    remove_orphans(folder)  # left by processes killed while fetching
    return [folder / f"{shard.index:06d}-{shard.sha256[:16]}.tar" for shard in manifest.shards]


def _fetch(origin: Place, path: Path, shard: Shard) -> None:
    """Copy a shard to ``path``, complete and checked against its record, unless it is there.

    Of several processes one does it and the others wait.  Raises SynthgenError if the shard is unavailable or damaged,
    or the disk is full.
    """
    while not _is_there(path, shard):
        try:
            with claimed(path) as file:
                if file is None:
                    time.sleep(POLL)
                elif not _is_there(path, shard):  # another process may just have finished
                    _download(origin, Path(file.name), shard)
                    move_into_place(file, path)
        except OSError as error:
            if error.errno in FULL:
                raise SynthgenError(
                    f"no space left on the device at {path.parent} for {origin} ({shard.n_bytes / 1e6:.1f} MB);"
                    " free some, or set XDG_CACHE_HOME to a folder on another disk"
                ) from None
            raise SynthgenError(f"{path}: cannot be written ({error.strerror}); set XDG_CACHE_HOME") from None


def _is_there(path: Path, shard: Shard) -> bool:
    return path.exists() and path.stat().st_size == shard.n_bytes


def _download(origin: Place, part: Path, shard: Shard) -> None:
    try:
        store_of(origin).fetch(origin, part)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        with reading(origin):
            raise
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != shard.sha256:
        raise SynthgenError(
            f"{origin}: {part.stat().st_size} bytes with another SHA-256 than recorded, damaged there or in transit;"
            " run again, or see synthgen verify"
        )
