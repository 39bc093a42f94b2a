"""What a fractal image depends on, and which fractal image i is: pure values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import with_config

from synthgen.common.printing import counted
from synthgen.common.records import STRICT
from synthgen.kinds.base import MAX_SIDE, ImageFormat, Sample
from synthgen.kinds.order import permuted

LONGEST = 255  # bytes in a file's name


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryRecord:
    """One fractal category, as stored: rows of a,b,c,d,e,f,p."""

    name: str  # the class's
    rows: tuple[tuple[float, float, float, float, float, float, float], ...]


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class FractalContent:
    """All that a fractal image depends on; see ``kinds.base.Content``."""

    kind: ClassVar[str] = "fractal"

    seed: int  # of the patch masks and of the order of categories
    draw: str  # patch_gray, patch_color, point_gray or point_color
    size: int  # width and height in pixels
    n_points: int  # per orbit
    weight_step: float  # of the table of weights
    layout: tuple[int, int, int]  # weight rows, patch draws, flips: the instances of a category
    categories: tuple[CategoryRecord, ...]  # the classes, by label

    @property
    def class_names(self) -> tuple[str, ...]:
        """The categories' names, by label."""
        return tuple(category.name for category in self.categories)

    @property
    def class_words(self) -> None:
        """Categories have no other names."""
        return None

    @property
    def n_available(self) -> int:
        """How many images exist: categories x weight rows x patch draws x flips."""
        return len(self.categories) * math.prod(self.layout)

    @property
    def stock(self) -> str:
        """The same in words."""
        return fractal_stock(len(self.categories), self.layout)

    @property
    def image(self) -> ImageFormat:
        """Palette PNGs."""
        return ImageFormat(ending="png", side=self.size)

    def problem(self) -> str | None:
        """Which value of a stored content is out of range, beginning with its key; None if all are valid."""
        if not 1 <= self.size <= MAX_SIDE:
            return f"size: {self.size} is not 1 to {MAX_SIDE}"
        if self.n_points < 1:
            return f"n_points: {self.n_points} is not 1 or more"
        if min(self.layout) < 1:
            return f"layout: {list(self.layout)} are not all 1 or more"
        if not self.categories:
            return "categories: there is none"
        empty = next((place for place, category in enumerate(self.categories) if not category.rows), None)
        return None if empty is None else f"categories.{empty}.rows: there is none"

    def sample(self, index: int) -> Sample:
        """Image ``index``: weight row by weight row, through the categories in an order permuted by row.

        The pictures of one category and weight row share an orbit and are adjacent, so any
        number of images is balanced over the categories to within one such group (40 in patch mode).
        """
        _, patches, flips = self.layout
        group = patches * flips
        weight, rest = divmod(index, len(self.categories) * group)
        slot, within = divmod(rest, group)
        label = permuted(len(self.categories), self.seed, "order", weight)[slot]
        return Sample(index=index, key=f"{index:09d}", label=label, variant=weight * group + within)

    def instance(self, sample: Sample) -> tuple[int, int, int]:
        """Weight row, patch draw and flip of a sample."""
        _, patches, flips = self.layout
        weight, within = divmod(sample.variant, patches * flips)
        return weight, within // flips, within % flips

    def caption(self, sample: Sample) -> None:
        """None: fractals are drawn from numbers."""
        return None

    def record(self, sample: Sample, stored: dict[str, Any]) -> dict[str, Any]:
        """See Content: which instance of its category it is."""
        return dict(zip(("weight", "patch", "flip"), self.instance(sample), strict=True))

    def file_stem(self, sample: Sample, folder: str) -> str | None:
        """Its name in FractalDB, if the folder's name leaves room for it."""
        weight, patch, flip = self.instance(sample)
        stem = f"{folder}_{weight:02d}_count_{patch}_flip{flip}"
        return stem if len(f".{stem}.webp.tmp".encode()) <= LONGEST else None

    def describe(self) -> str:
        """See Content."""
        return f"fractals of {len(self.categories)} categories, {self.draw}, {self.size} px, seed {self.seed}"


def fractal_stock(n_categories: int, layout: tuple[int, int, int]) -> str:
    """How many images so many categories have, in words."""
    each = " x ".join(map(str, layout))
    have = f"{counted(n_categories, 'category', 'categories')} {'has' if n_categories == 1 else 'have'}"
    return f"{have} {n_categories * math.prod(layout)} images ({each} each)"
