"""Formula-driven images drawn on demand: those that ``synthgen fractal`` would write, without files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synthgen.common.errors import SynthgenError
from synthgen.common.records import digest
from synthgen.kinds.base import origin_of
from synthgen.kinds.fractaldb.content import FractalContent
from synthgen.kinds.fractaldb.render import (
    colors_of,
    find_categories,
    fractal_content,
    fractal_style,
    pictures,
    read_category_folder,
)

_searched = lru_cache(maxsize=4)(find_categories)  # the categories of a seed: styles of drawing share them


class DrawnFractals:
    """The images of a content; each depends on the content and its index alone."""

    def __init__(self, content: FractalContent, n_images: int) -> None:
        self.content = content
        self.n_images = n_images
        self.class_names = content.class_names

    @property
    def digest(self) -> str:
        """The content's SHA-256, 64 hex digits."""
        return digest(self.content)

    @property
    def origin(self) -> str:
        """What makes the images, in words: categories, versions, and the content's digest."""
        return origin_of(self.content)

    def label(self, index: int) -> int:
        """The position of an image's class in ``class_names``."""
        return self.content.sample(index).label

    def draw(self, indices: Iterable[int]) -> Iterator[NDArray[np.uint8]]:
        """The images at ``indices``, uint8 [size, size, 3], in that order.

        Raises SynthgenError naming category and weight row if a system leaves no finite point.
        """
        colors = colors_of(self.content)
        for picture in pictures(self.content, map(self.content.sample, indices)):
            yield colors[picture.image]


def draw_fractals(
    categories: int | str, *, seed: int, draw: str, size: int, points: int, weights: float, n: int | None = None
) -> DrawnFractals:
    """The first ``n`` images, or all, of ``categories`` found from ``seed``, or read from a folder of category CSVs.

    ``draw``, ``size`` (pixels), ``points`` and ``weights`` are as for ``synthgen fractal``.  Raises SynthgenError
    if a setting is out of range or a category cannot be read or drawn.
    """
    style = fractal_style(draw=draw, size=size, points=points, weights=weights)
    found = _searched(categories, seed=seed) if isinstance(categories, int) else read_category_folder(Path(categories))
    content = fractal_content(found, seed=seed, style=style)
    n = content.n_available if n is None else n
    if not 1 <= n <= content.n_available:
        raise SynthgenError(f"n = {n}; {content.stock}")
    return DrawnFractals(content, n)
