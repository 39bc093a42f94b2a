"""Image sources for pre-training: an image folder, synthgen shards, fractals drawn on demand.

A source knows its classes and labels from the start and decodes images on demand, from any number of threads.
``identity`` stands for it in a run's configuration; it changes when the images do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import fsspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from synthgen import ClassTable, draw_fractals
from synthgen.common.errors import SynthgenError
from synthgen.storage.places import extra_of, state_of

from ..errors import EvaluateError
from .decoding import decode_named, fit
from .shard_source import Shards

if TYPE_CHECKING:
    from ..design.sources import FractalSource, Source

CAPTION = "a photo of a {}."  # of an image with only a class (Radford et al. 2021)
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class ImageSource(Protocol):
    """Labelled images to pre-train on."""

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]  # [n_images], positions in class_names
    n_images: int
    identity: dict[str, Any]
    origin: tuple[str, ...]  # one line per source: how its images were made or found, with versions and digests

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """The images at ``indices`` as uint8 [size, size, 3], in that order; callable from threads."""
        ...

    def captions(self, indices: NDArray[np.int64], names: Mapping[str, str] | None) -> list[str]:
        """A caption for each of the images at ``indices``; ``names`` maps class names to words.

        Raises EvaluateError if the images have none, or if ``names`` lacks a class.
        """
        ...


def open_source(spec: Source, image_size: int) -> ImageSource:
    """The source that a suite file describes; raises EvaluateError if it cannot be read.

    The same description gives the same object while its folder or file is unchanged, so that the arms of
    a suite list a source only once.
    """
    place = spec.categories if spec.kind == "fractals" else spec.path
    return _open_source(spec, image_size, state_of(place) if isinstance(place, str) else ())


@lru_cache(maxsize=16)  # more than a suite has
def _open_source(spec: Source, image_size: int, state: tuple[tuple[str, int, int], ...]) -> ImageSource:
    if spec.kind == "folder":
        return ImageFolder(spec.path, spec.depth)
    if spec.kind == "shards":
        return Shards(spec.path)
    return Fractals(spec, image_size)


class Joined:
    """Several sources, concatenated; classes of the same name are one class."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self._sources = sources
        self.class_names = tuple(dict.fromkeys(name for source in sources for name in source.class_names))
        number = {name: label for label, name in enumerate(self.class_names)}
        own = [np.array([number[name] for name in source.class_names]) for source in sources]
        self.n_images = sum(len(source.labels) for source in sources)
        self.labels = np.concatenate([mine[source.labels] for mine, source in zip(own, sources, strict=True)])
        self._starts = np.cumsum([0, *(len(source.labels) for source in sources[:-1])])
        self.identity = {"kind": "mixture", "parts": [source.identity for source in sources]}
        self.origin = tuple(line for source in sources for line in source.origin)

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """See ImageSource."""
        which = self._which(indices)
        for number, group in groupby(range(len(indices)), key=lambda place: int(which[place])):
            yield from self._sources[number].decode(indices[list(group)] - self._starts[number], size)

    def parts(self, indices: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], ImageSource, NDArray[np.int64]]]:
        """By source: the positions in ``indices`` that belong to it, the source, and the indices within it."""
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


class ImageFolder:
    """A folder (or any fsspec URL, such as one into a zip file) with one subfolder per class.

    With ``depth`` 2 the classes are the folders in its subfolders, named SUBFOLDER/CLASS, and so on.
    The table that ``synthgen export`` writes gives the classes the names and labels of the exported set.
    """

    def __init__(self, path: str, depth: int = 1) -> None:
        self._path = path
        found = self._find()
        names = sorted(name for name in found if name.lower().endswith(IMAGE_ENDINGS))
        inside = [PurePosixPath(name).relative_to(self._root or ".") for name in names]
        loose = [name for name, rest in zip(names, inside, strict=True) if len(rest.parts) <= depth]
        layout = "/".join(["FOLDER"] * (depth - 1) + ["CLASS/IMAGE"])
        for name in names:
            if found[name].get("type") not in ("file", "link"):
                raise EvaluateError(f"{name}: not a regular file; remove it")  # reading a pipe would block
        if loose:
            raise EvaluateError(f"{path}: {loose[0]} is not in a class folder; expected {layout}")
        classes = ["/".join(rest.parts[:depth]) for rest in inside]
        folders = sorted(set(classes))
        if len(folders) < 2:
            raise EvaluateError(f"{path}: {len(folders)} class folders with images; expected {layout} with at least 2")
        table = self._table(found) if depth == 1 else None
        number = self._numbered(folders, table)
        self.class_names = table.names if table else tuple(folders)
        self.labels = np.array([number[name] for name in classes], np.int64)
        self._names, self.n_images = names, len(names)
        listing = json.dumps([[str(rest), found[name]["size"]] for rest, name in zip(inside, names, strict=True)])
        if table:
            listing += json.dumps(self.class_names)
        self.identity = {
            "kind": "folder",
            "n_images": len(names),
            "n_classes": len(self.class_names),
            "digest": hashlib.sha256(listing.encode()).hexdigest()[:16],  # of names and sizes
        }
        self.origin: tuple[str, ...] = (f"image folder {PurePosixPath(path).name}, listing {self.identity['digest']}",)

    def _find(self) -> dict[str, dict[str, Any]]:
        """Every file, by its name in its file system, with its size."""
        try:
            self._fs, self._root = fsspec.url_to_fs(self._path)
            found: dict[str, dict[str, Any]] = self._fs.find(self._root, detail=True)
        except Exception as error:  # each store's client has errors of its own
            reason = str(error) if isinstance(error, OSError | ValueError | KeyError) else type(error).__name__
            extra = extra_of(self._path) if isinstance(error, ImportError) else None
            reason = f"pip install 'synthgen[{extra}]'" if extra else reason
            raise EvaluateError(f"{self._path}: cannot be read as an image folder ({reason})") from None
        return found

    def _table(self, found: Mapping[str, Any]) -> ClassTable | None:
        """The class table of an exported set; None if there is none."""
        name = f"{self._root}/{ClassTable.FILE}" if self._root else ClassTable.FILE
        if name not in found:
            return None
        try:
            return ClassTable.read(self._fs.cat_file(name), name)
        except SynthgenError as error:
            raise EvaluateError(str(error)) from None

    def _numbered(self, folders: Sequence[str], table: ClassTable | None) -> dict[str, int]:
        """The label of each folder."""
        if table is None:
            return {folder: label for label, folder in enumerate(folders)}
        labels = {folder: label for folder in folders if (label := table.label(folder)) is not None}
        for folder in folders:
            if folder not in labels:
                raise EvaluateError(
                    f"{self._path}: folder {folder} is not in its {ClassTable.FILE}; without it, folders name their"
                    " classes"
                )
        return labels

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


class Fractals:
    """FractalDB drawn on demand, without files: the images that ``synthgen fractal`` would write."""

    def __init__(self, spec: FractalSource, image_size: int) -> None:
        try:
            self._drawn = draw_fractals(
                spec.categories,
                seed=spec.seed,
                draw=spec.draw,
                size=spec.size or image_size,
                points=spec.points,
                weights=spec.weights,
                n=spec.n,
            )
        except SynthgenError as error:
            raise EvaluateError(f"fractals: {error}") from None
        self.n_images = self._drawn.n_images
        self.class_names = self._drawn.class_names
        self.labels = np.array([self._drawn.label(index) for index in range(self.n_images)], np.int64)
        self.identity = {
            "kind": "fractals",
            "n_images": self.n_images,
            "n_classes": len(self.class_names),
            "digest": self._drawn.digest[:16],
        }
        self.origin: tuple[str, ...] = (f"{self._drawn.origin}, drawn when needed",)

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """See ImageSource."""
        for image in self._drawn.draw(indices.tolist()):
            yield fit(Image.fromarray(image), size)

    def captions(self, indices: NDArray[np.int64], names: Mapping[str, str] | None) -> list[str]:
        """See ImageSource; raises EvaluateError."""
        raise EvaluateError("fractals have no text")
