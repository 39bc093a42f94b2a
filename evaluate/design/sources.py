"""The sources of images that a suite file may name.

Imports no torch, so that showing a plan is instant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, with_config

from synthgen import MAX_IMAGES
from synthgen.common.masking import shown
from synthgen.common.records import STRICT

SIZES = (16, 4096)  # width and height in pixels that fractals can be drawn at
POINTS = 2**27 - 1  # of an orbit; as in fractaldb.render, whose import would take as long as the rest of a plan
WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5)  # published steps, likewise
MOST_CATEGORIES = 100_000  # twice as many as the largest published set of fractals has
LARGEST_SEED = 2**32 - 1  # that a category search takes


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSource:
    """Images in class folders; a path or an fsspec URL such as zip://FOLDER::FILE.zip."""

    kind: Literal["folder"]  # kind of source
    path: str  # a folder or a URL
    depth: Annotated[int, Field(ge=1, le=32)] = 1  # folders whose names make a class; 2 for iNaturalist 2017 to 2019

    def __str__(self) -> str:
        return f"image folder {shown(self.path)}"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSource:
    """A finished synthgen dataset directory, or its URL."""

    kind: Literal["shards"]  # kind of source
    path: str  # a folder or a URL

    def __str__(self) -> str:
        return f"synthgen set {shown(self.path)}"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class FractalSource:
    """FractalDB drawn on the fly."""

    kind: Literal["fractals"]  # kind of source
    categories: int | str = 1000  # number of categories, or a folder of category CSVs
    n: int | None = None  # images; all that exist by default
    seed: int = 1  # seed of the category search and the patch masks
    draw: Literal["patch_gray", "patch_color", "point_gray", "point_color"] = "patch_gray"  # type of drawing
    size: int | None = None  # width and height in pixels; the suite's image size by default
    points: int = 200_000  # points per orbit
    weights: float = 0.4  # step of the weight table

    def problems(self) -> list[str]:
        """What is out of range, one line each, beginning with the key."""
        n = self.categories if isinstance(self.categories, int) else 1
        checks = (
            (1 <= n <= MOST_CATEGORIES, f"categories: {n}; 1 to {MOST_CATEGORIES}, or a folder"),
            (self.n is None or 1 <= self.n <= MAX_IMAGES, f"n: {self.n}; 1 to {MAX_IMAGES}"),
            (0 <= self.seed <= LARGEST_SEED, f"seed: {self.seed}; 0 to {LARGEST_SEED}"),
            (self.size is None or SIZES[0] <= self.size <= SIZES[1], f"size: {self.size} px; {SIZES[0]} to {SIZES[1]}"),
            (1 <= self.points <= POINTS, f"points: {self.points}; 1 to {POINTS}"),
            (self.weights in WEIGHTS, f"weights: {self.weights}; one of {', '.join(map(str, WEIGHTS))}"),
        )
        return [text for holds, text in checks if not holds]

    def __str__(self) -> str:
        return f"fractals of {self.categories} categories, seed {self.seed}, {self.draw}"


Source = Annotated[FolderSource | ShardSource | FractalSource, Field(discriminator="kind")]


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One source of a mixture."""

    share: float  # share of the images
    source: Source
