"""A synthgen dataset as an image source; where it stands at a URL, its shards are fetched when first needed."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synthgen.common.errors import SynthgenError
from synthgen.common.records import digest
from synthgen.dataset.manifest import Manifest, read_manifest
from synthgen.dataset.shard import Shard, data_path, image_members
from synthgen.kinds.base import Content
from synthgen.storage.atomic import FULL, claimed, move_into_place, remove_orphans
from synthgen.storage.places import place, store_of
from synthgen.storage.reading import open_file, reading
from synthgen.storage.store import Place

from ..errors import EvaluateError
from .decoding import decode_named

POLL = 0.2  # seconds between looks at a shard that another process is fetching


class Shards:
    """A finished synthgen dataset directory, or its URL."""

    def __init__(self, path: str) -> None:
        try:
            manifest = read_manifest(place(path))
        except SynthgenError as error:
            raise EvaluateError(str(error)) from None
        if not manifest.complete:
            raise EvaluateError(
                f"{path}: {manifest.n_samples} of {manifest.plan.n} images stand;"
                " finish it with the command that began it"
            )
        self._path, self._plan, self.n_images = path, manifest.plan, manifest.plan.n
        self.class_names = manifest.plan.content.class_names
        self.labels = np.array([self._plan.sample(index).label for index in range(self._plan.n)], np.int64)
        self._manifest, self._paths = manifest, local_paths(manifest)
        self._starts = np.array([self._plan.shard(shard.index).start for shard in manifest.shards])
        self._index: dict[int, list[tuple[str, int, int]]] = {}
        self._locks = [threading.Lock() for _ in manifest.shards]
        self.identity = {
            "kind": "shards",
            "n_images": self._plan.n,
            "n_classes": len(self.class_names),
            "digest": self._plan.digest[:16],
        }
        self.origin: tuple[str, ...] = (origin_of(self._plan.content),)

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """See ImageSource; raises EvaluateError naming a damaged shard or image, or a shard that cannot be fetched."""
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        for index, shard in zip(indices.tolist(), shards.tolist(), strict=True):
            key, offset, n_bytes = self._members(shard)[index - int(self._starts[shard])]
            try:
                with open_file(self._paths[shard]) as file:
                    data = os.pread(file.fileno(), n_bytes, offset)
            except OSError as error:
                raise EvaluateError(f"{self._paths[shard]}: cannot be read ({error})") from None
            yield decode_named(f"{self._paths[shard]}: {key}", data, size)

    def captions(self, indices: NDArray[np.int64], names: Mapping[str, str] | None) -> list[str]:
        """See ImageSource; the prompt that each image was drawn from, whatever ``names`` says."""
        content = self._plan.content
        texts = [content.caption(content.sample(index)) for index in indices.tolist()]
        if None in texts:
            raise EvaluateError(f"{self._path}: its images have no text")
        return [text for text in texts if text is not None]

    def _members(self, number: int) -> list[tuple[str, int, int]]:
        """Key, offset and size of the images of a shard, which is here from then on; read once."""
        with self._locks[number]:
            if number not in self._index:
                shard, path = self._manifest.shards[number], self._paths[number]
                try:
                    origin = data_path(self._manifest.directory, self._plan.shard(shard.index))
                    if store_of(origin).local(origin) != path:
                        fetch(origin, path, shard)
                    members = image_members(path)
                except SynthgenError as error:
                    raise EvaluateError(str(error)) from None
                if len(members) != shard.n_samples:
                    raise EvaluateError(f"{origin}: {len(members)} images, recorded {shard.n_samples}")
                self._index[number] = members
            return self._index[number]


def origin_of(content: Content) -> str:
    """In words, what made a set's images: prompts, model and versions, and the plan's digest."""
    return f"{content.describe()}, plan {digest(content)[:16]}"


def cache_folder() -> Path:
    """Where copies of shards stand: $XDG_CACHE_HOME/synthgen, by default ~/.cache/synthgen."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "synthgen"


def local_paths(manifest: Manifest) -> list[Path]:
    """Where the tars of a set are read: in its directory, or for one elsewhere in the cache, by their SHA-256."""
    here = store_of(manifest.directory).local(manifest.directory)
    if here is not None:
        return [data_path(here, manifest.plan.shard(shard.index)) for shard in manifest.shards]
    folder = cache_folder() / manifest.plan.digest / "data"
    remove_orphans(folder)  # of processes killed while they fetched
    return [folder / f"{shard.index:06d}-{shard.sha256[:16]}.tar" for shard in manifest.shards]


def fetch(origin: Place, path: Path, shard: Shard) -> None:
    """Copy a shard to ``path``, whole and checked against its record, unless it stands there.

    Of several processes one does it and the others wait.  Raises SynthgenError or EvaluateError where the shard
    cannot be had or is damaged, or the disk is full.
    """
    while not _stands(path, shard):
        try:
            with claimed(path) as file:
                if file is None:
                    time.sleep(POLL)
                elif not _stands(path, shard):  # another process may just have finished
                    _download(origin, Path(file.name), shard)
                    move_into_place(file, path)
        except OSError as error:
            if error.errno in FULL:
                raise EvaluateError(
                    f"no space left on the device at {path.parent} for {origin} ({shard.n_bytes / 1e6:.1f} MB);"
                    " free some, or set XDG_CACHE_HOME to a folder on another disk"
                ) from None
            raise EvaluateError(f"{path}: cannot be written ({error.strerror}); set XDG_CACHE_HOME") from None


def _stands(path: Path, shard: Shard) -> bool:
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
        raise EvaluateError(
            f"{origin}: {part.stat().st_size} bytes with another SHA-256 than recorded, damaged there or on the way;"
            " run again, or see synthgen verify"
        )
