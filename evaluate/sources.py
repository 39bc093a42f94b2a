"""Image sources for pre-training: an image folder, synthgen shards, fractals on the fly.

A source knows its classes and labels at once and decodes images when asked.  ``identity`` is what
it says of itself in a run's configuration; it changes when the images do.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import fsspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fractaldb.render import palette
from synthgen.errors import SynthgenError
from synthgen.fractal import (
    find_categories,
    fractal_content,
    fractal_style,
    pictures,
    read_category_folder,
    style_of,
)
from synthgen.manifest import read_manifest
from synthgen.shard import data_path, image_members

from .errors import EvaluateError

if TYPE_CHECKING:
    from .arms import FractalSource, Source

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class ImageSource(Protocol):
    """Labelled images to pre-train on."""

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]  # [n_images], positions in class_names
    identity: dict[str, Any]

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """The images at ``indices`` as uint8 [size, size, 3], in that order; callable from threads."""
        ...


def open_source(spec: Source, image_size: int) -> ImageSource:
    """The source that a suite file describes; raises EvaluateError where it cannot be read."""
    if spec.kind == "folder":
        return ImageFolder(spec.path)
    if spec.kind == "shards":
        return Shards(spec.path)
    return Fractals(spec, image_size)


class Joined:
    """Several sources one after the other; classes of one name are one class."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self._sources = sources
        self.class_names = tuple(dict.fromkeys(name for source in sources for name in source.class_names))
        number = {name: label for label, name in enumerate(self.class_names)}
        own = [np.array([number[name] for name in source.class_names]) for source in sources]
        self.labels = np.concatenate([mine[source.labels] for mine, source in zip(own, sources, strict=True)])
        self._starts = np.cumsum([0, *(len(source.labels) for source in sources[:-1])])
        self.identity = {"kind": "mixture", "parts": [source.identity for source in sources]}

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """See ImageSource."""
        which = np.searchsorted(self._starts, indices, side="right") - 1
        for number, group in groupby(range(len(indices)), key=lambda place: int(which[place])):
            yield from self._sources[number].decode(indices[list(group)] - self._starts[number], size)


def fit(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """RGB pixels of the central square, uint8 [size, size, 3], resized with antialiasing.

    EXIF rotation is applied, 16-bit gray is scaled to 8 bits and other modes are converted.  Raises
    ValueError for the modes whose range of values is unknown (32-bit integers and floats).
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}: 32 bits a pixel; save it with 8 or 16")
    return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR))


class ImageFolder:
    """A folder (or any fsspec URL, such as one into a zip file) with a sub-folder a class."""

    def __init__(self, path: str) -> None:
        try:
            self._fs, self._root = fsspec.url_to_fs(path)
            found = self._fs.find(self._root, detail=True)
        except (OSError, ValueError, KeyError) as error:
            raise EvaluateError(f"{path}: cannot be read as an image folder ({error})") from None
        names = sorted(name for name in found if name.lower().endswith(IMAGE_ENDINGS))
        inside = [PurePosixPath(name).relative_to(self._root or ".") for name in names]
        loose = [name for name, rest in zip(names, inside, strict=True) if len(rest.parts) < 2]
        if loose:
            raise EvaluateError(f"{path}: {loose[0]} lies in no class folder; expected CLASS/IMAGE")
        self.class_names = tuple(sorted({rest.parts[0] for rest in inside}))
        if len(self.class_names) < 2:
            raise EvaluateError(
                f"{path}: {len(self.class_names)} class folders with images; expected CLASS/IMAGE with at least 2"
            )
        number = {name: label for label, name in enumerate(self.class_names)}
        self.labels = np.array([number[rest.parts[0]] for rest in inside], np.int64)
        self._names = names
        listing = json.dumps([[str(rest), found[name]["size"]] for rest, name in zip(inside, names, strict=True)])
        self.identity = {
            "kind": "folder",
            "n_images": len(names),
            "n_classes": len(self.class_names),
            "digest": hashlib.sha256(listing.encode()).hexdigest()[:16],  # of names and sizes
        }

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """See ImageSource; raises EvaluateError naming an image that cannot be decoded."""
        for index in indices.tolist():
            name = self._names[index]
            yield decode_named(name, self._fs.cat_file(name), size)


def decode_named(name: str, data: bytes, size: int) -> NDArray[np.uint8]:
    """Decode one image file; raises EvaluateError naming it where it is broken."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return fit(image, size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise EvaluateError(f"{name}: broken image ({error})") from None


class Shards:
    """A finished synthgen dataset directory."""

    def __init__(self, path: str) -> None:
        try:
            manifest = read_manifest(Path(path))
        except SynthgenError as error:
            raise EvaluateError(str(error)) from None
        if not manifest.complete:
            raise EvaluateError(
                f"{path}: {manifest.n_samples} of {manifest.plan.n} images stand;"
                " finish it with the command that began it"
            )
        self._plan = manifest.plan
        self.class_names = manifest.plan.content.class_names
        self.labels = np.array([self._plan.sample(index).label for index in range(self._plan.n)], np.int64)
        self._paths = [data_path(Path(path), self._plan.shard(shard.index)) for shard in manifest.shards]
        self._starts = np.array([self._plan.shard(shard.index).start for shard in manifest.shards])
        self._index: dict[int, list[tuple[str, int, int]]] = {}
        self.identity = {
            "kind": "shards",
            "n_images": self._plan.n,
            "n_classes": len(self.class_names),
            "digest": self._plan.digest[:16],
        }

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """See ImageSource; raises EvaluateError naming a damaged shard or image."""
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        for index, shard in zip(indices.tolist(), shards.tolist(), strict=True):
            key, offset, n_bytes = self._members(shard)[index - int(self._starts[shard])]
            with self._paths[shard].open("rb") as file:
                file.seek(offset)
                yield decode_named(f"{self._paths[shard]}: {key}", file.read(n_bytes), size)

    def _members(self, shard: int) -> list[tuple[str, int, int]]:
        """Key, offset and size of the images of a shard, read once."""
        if shard not in self._index:
            try:
                self._index[shard] = image_members(self._paths[shard])
            except SynthgenError as error:
                raise EvaluateError(str(error)) from None
        return self._index[shard]


class Fractals:
    """FractalDB drawn when asked, with no files: the images that ``synthgen fractal`` would write."""

    def __init__(self, spec: FractalSource, image_size: int) -> None:
        try:
            style = fractal_style(
                draw=spec.draw, size=spec.size or image_size, points=spec.points, weights=spec.weights
            )
            categories = (
                find_categories(spec.categories, seed=spec.seed)
                if isinstance(spec.categories, int)
                else read_category_folder(Path(spec.categories))
            )
            self._content = fractal_content(categories, seed=spec.seed, style=style)
        except SynthgenError as error:
            raise EvaluateError(f"fractals: {error}") from None
        n = self._content.n_available if spec.n is None else spec.n
        if not 1 <= n <= self._content.n_available:
            raise EvaluateError(f"fractals: n = {n}; {len(categories)} categories have {self._content.n_available}")
        self.class_names = self._content.class_names
        self.labels = np.array([self._content.sample(index).label for index in range(n)], np.int64)
        self.identity = {
            "kind": "fractals",
            "n_images": n,
            "n_classes": len(self.class_names),
            "digest": self._content.digest[:16],
        }

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """See ImageSource."""
        samples = (self._content.sample(index) for index in indices.tolist())
        colors = palette(style_of(self._content))
        for picture in pictures(self._content, samples):
            yield fit(Image.fromarray(colors[picture.image]), size)
