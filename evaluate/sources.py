"""Image sources for pre-training: an image folder, synthgen shards, fractals on the fly.

A source knows its classes and labels at once and decodes images when asked, from any number of threads.
``identity`` is what it says of itself in a run's configuration; it changes when the images do.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import fsspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fractaldb.ifs import Category
from fractaldb.render import palette
from synthgen.content import DiffusionContent
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

CAPTION = "a photo of a {}."  # of an image of which only the class is known (Radford et al. 2021)
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class ImageSource(Protocol):
    """Labelled images to pre-train on."""

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]  # [n_images], positions in class_names
    n_images: int
    identity: dict[str, Any]

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """The images at ``indices`` as uint8 [size, size, 3], in that order; callable from threads."""
        ...

    def captions(self, indices: NDArray[np.int64], names: Mapping[str, str] | None) -> list[str]:
        """A text for each of the images at ``indices``; ``names`` has words for class names.

        Raises EvaluateError where the images have none, or where ``names`` lacks a class.
        """
        ...


def open_source(spec: Source, image_size: int) -> ImageSource:
    """The source that a suite file describes; raises EvaluateError where it cannot be read.

    The same description gives the same object while its folder or file stands as it was: the arms of
    a suite list a source once.
    """
    place = spec.categories if spec.kind == "fractals" else spec.path
    return _open_source(spec, image_size, _state(place) if isinstance(place, str) else ())


@lru_cache(maxsize=16)  # more than a suite has
def _open_source(spec: Source, image_size: int, state: tuple[tuple[str, int, int], ...]) -> ImageSource:
    if spec.kind == "folder":
        return ImageFolder(spec.path, spec.depth)
    if spec.kind == "shards":
        return Shards(spec.path)
    return Fractals(spec, image_size)


def _state(place: str) -> tuple[tuple[str, int, int], ...]:
    """Name, time of change and size of a local file, or of a folder and what is in it; empty for other URLs."""
    path = Path(place.rsplit("::", 1)[-1].removeprefix("file://"))
    inside = sorted(path.iterdir()) if path.is_dir() else []
    stats = [(str(one), one.stat()) for one in (path, *inside) if one.exists()]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


class Joined:
    """Several sources one after the other; classes of one name are one class."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self._sources = sources
        self.class_names = tuple(dict.fromkeys(name for source in sources for name in source.class_names))
        number = {name: label for label, name in enumerate(self.class_names)}
        own = [np.array([number[name] for name in source.class_names]) for source in sources]
        self.n_images = sum(len(source.labels) for source in sources)
        self.labels = np.concatenate([mine[source.labels] for mine, source in zip(own, sources, strict=True)])
        self._starts = np.cumsum([0, *(len(source.labels) for source in sources[:-1])])
        self.identity = {"kind": "mixture", "parts": [source.identity for source in sources]}

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """See ImageSource."""
        which = self._which(indices)
        for number, group in groupby(range(len(indices)), key=lambda place: int(which[place])):
            yield from self._sources[number].decode(indices[list(group)] - self._starts[number], size)

    def parts(self, indices: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], ImageSource, NDArray[np.int64]]]:
        """By source: the positions in ``indices`` that are its own, the source, and its own indices there."""
        which = self._which(indices)
        places = [np.flatnonzero(which == number) for number in range(len(self._sources))]
        return [
            (place, source, indices[place] - start)
            for place, source, start in zip(places, self._sources, self._starts, strict=True)
            if len(place)
        ]

    def captions(self, indices: NDArray[np.int64], names: Mapping[str, str] | None) -> list[str]:
        """See ImageSource."""
        texts = [""] * len(indices)
        for places, source, own in self.parts(indices):
            for place, text in zip(places.tolist(), source.captions(own, names), strict=True):
                texts[place] = text
        return texts

    def _which(self, indices: NDArray[np.int64]) -> NDArray[np.intp]:
        return np.searchsorted(self._starts, indices, side="right") - 1


def fit(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """RGB pixels of the central square, uint8 [size, size, 3], resized with antialiasing.

    A JPEG that is not yet loaded and has twice the size or more is first scaled by its decoder, by 2, 4
    or 8 and never below ``size``: four times as fast, and within one gray level on average.  EXIF
    rotation is applied, 16-bit gray is scaled to 8 bits and other modes are converted.  Raises
    ValueError for the modes whose range of values is unknown (32-bit integers and floats).
    """
    image.draft(None, (size, size))
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}: 32 bits a pixel; save it with 8 or 16")
    return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR))


class ImageFolder:
    """A folder (or any fsspec URL, such as one into a zip file) with a sub-folder a class.

    With ``depth`` 2 the classes are the folders in its sub-folders, named SUB-FOLDER/CLASS, and so on.
    """

    def __init__(self, path: str, depth: int = 1) -> None:
        try:
            self._fs, self._root = fsspec.url_to_fs(path)
            found = self._fs.find(self._root, detail=True)
        except (OSError, ValueError, KeyError) as error:
            raise EvaluateError(f"{path}: cannot be read as an image folder ({error})") from None
        names = sorted(name for name in found if name.lower().endswith(IMAGE_ENDINGS))
        inside = [PurePosixPath(name).relative_to(self._root or ".") for name in names]
        loose = [name for name, rest in zip(names, inside, strict=True) if len(rest.parts) <= depth]
        layout = "/".join(["FOLDER"] * (depth - 1) + ["CLASS/IMAGE"])
        if loose:
            raise EvaluateError(f"{path}: {loose[0]} lies in no class folder; expected {layout}")
        classes = ["/".join(rest.parts[:depth]) for rest in inside]
        self.class_names = tuple(sorted(set(classes)))
        if len(self.class_names) < 2:
            raise EvaluateError(
                f"{path}: {len(self.class_names)} class folders with images; expected {layout} with at least 2"
            )
        number = {name: label for label, name in enumerate(self.class_names)}
        self.labels = np.array([number[name] for name in classes], np.int64)
        self._path, self._names, self.n_images = path, names, len(names)
        listing = json.dumps([[str(rest), found[name]["size"]] for rest, name in zip(inside, names, strict=True)])
        self.identity = {
            "kind": "folder",
            "n_images": len(names),
            "n_classes": len(self.class_names),
            "digest": hashlib.sha256(listing.encode()).hexdigest()[:16],  # of names and sizes
        }

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """See ImageSource; raises EvaluateError naming an image that cannot be read or decoded."""
        for index in indices.tolist():
            name = self._names[index]
            try:
                data = self._fs.cat_file(name)
            except Exception as error:  # archives and remote stores have errors of their own
                raise EvaluateError(f"{name}: cannot be read ({error})") from None
            yield decode_named(name, data, size)

    def captions(self, indices: NDArray[np.int64], names: Mapping[str, str] | None) -> list[str]:
        """See ImageSource; "a photo of a NAME.", by default with the class folder's name."""
        labels = self.labels[indices].tolist()
        words = {label: self.class_names[label] for label in labels}
        for label, folder in words.items():
            if names is not None and folder not in names:
                raise EvaluateError(f"{self._path}: class {folder} is not in the class list; add it there")
            words[label] = folder.replace("_", " ") if names is None else names[folder]
        return [CAPTION.format(words[label]) for label in labels]


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
        self._path, self._plan, self.n_images = path, manifest.plan, manifest.plan.n
        self.class_names = manifest.plan.content.class_names
        self.labels = np.array([self._plan.sample(index).label for index in range(self._plan.n)], np.int64)
        self._paths = [data_path(Path(path), self._plan.shard(shard.index)) for shard in manifest.shards]
        self._starts = np.array([self._plan.shard(shard.index).start for shard in manifest.shards])
        self._index: dict[int, list[tuple[str, int, int]]] = {}
        self._lock = threading.Lock()
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
            try:
                with self._paths[shard].open("rb") as file:
                    data = os.pread(file.fileno(), n_bytes, offset)
            except OSError as error:
                raise EvaluateError(f"{self._paths[shard]}: cannot be read ({error})") from None
            yield decode_named(f"{self._paths[shard]}: {key}", data, size)

    def captions(self, indices: NDArray[np.int64], names: Mapping[str, str] | None) -> list[str]:
        """See ImageSource; the prompt that each image was drawn from, whatever ``names`` says."""
        content = self._plan.content
        if not isinstance(content, DiffusionContent):
            raise EvaluateError(f"{self._path}: fractals have no text")
        return [content.prompt(content.sample(index)) for index in indices.tolist()]

    def _members(self, shard: int) -> list[tuple[str, int, int]]:
        """Key, offset and size of the images of a shard, read once."""
        with self._lock:
            if shard not in self._index:
                try:
                    self._index[shard] = image_members(self._paths[shard])
                except SynthgenError as error:
                    raise EvaluateError(str(error)) from None
            return self._index[shard]


@lru_cache(maxsize=4)
def _categories(n: int, seed: int) -> list[Category]:
    """The categories of a seed, searched once: styles of drawing share them."""
    return find_categories(n, seed=seed)


class Fractals:
    """FractalDB drawn when asked, with no files: the images that ``synthgen fractal`` would write."""

    def __init__(self, spec: FractalSource, image_size: int) -> None:
        try:
            style = fractal_style(
                draw=spec.draw, size=spec.size or image_size, points=spec.points, weights=spec.weights
            )
            categories = (
                _categories(spec.categories, spec.seed)
                if isinstance(spec.categories, int)
                else read_category_folder(Path(spec.categories))
            )
            self._content = fractal_content(categories, seed=spec.seed, style=style)
        except SynthgenError as error:
            raise EvaluateError(f"fractals: {error}") from None
        n = self._content.n_available if spec.n is None else spec.n
        if not 1 <= n <= self._content.n_available:
            raise EvaluateError(f"fractals: n = {n}; {len(categories)} categories have {self._content.n_available}")
        self.n_images = n
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

    def captions(self, indices: NDArray[np.int64], names: Mapping[str, str] | None) -> list[str]:
        """See ImageSource; raises EvaluateError."""
        raise EvaluateError("fractals have no text")
