"""Draw instances: a category, a weight row and a patch number become a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from fractaldb import chaos
from fractaldb.ifs import Category, FractalError, weight_table
from fractaldb.instances import N_FLIPS, N_PATCHES, N_WEIGHTS, Instance, patch_seed

DRAW_TYPES = ("patch_gray", "patch_color", "point_gray", "point_color")
GRAY = 127  # level of a set pixel in the published gray pictures
MAX_POINTS = 2**27 - 1  # per orbit: chaos.cover numbers them in 32 bits
ORBIT_SEED = 100  # the published renderer reseeds numpy with it before each orbit


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How pictures are drawn; the defaults are those of the published FractalDB-1k."""

    draw: str = "patch_gray"  # one of DRAW_TYPES
    size: int = 362  # pixels
    n_points: int = 200_000  # of the orbit, including its start (0, 0)
    weight_step: float = 0.4  # one of the published tables, 0.1 to 0.5

    def __post_init__(self) -> None:
        if self.draw not in DRAW_TYPES:
            raise FractalError(f"draw type {self.draw!r} is not one of {', '.join(DRAW_TYPES)}")
        if self.size <= 2 * chaos.PADDING:
            raise FractalError(
                f"size {self.size} px leaves nothing inside the padding of {chaos.PADDING} px per side;"
                f" at least {2 * chaos.PADDING + 1}"
            )
        if self.size > 4096:
            raise FractalError(f"size {self.size} px is above the largest supported, 4096")
        if not 1 <= self.n_points <= MAX_POINTS:
            raise FractalError(f"{self.n_points} points: 1 to {MAX_POINTS}")
        weight_table(self.weight_step)

    @property
    def color(self) -> bool:
        """Whether the palette is the hue circle."""
        return self.draw.endswith("color")

    @property
    def n_patches(self) -> int:
        """Different drawings of one weight row: 10 with patch masks, 1 of points."""
        return N_PATCHES if self.draw.startswith("patch") else 1

    @property
    def n_instances(self) -> int:
        """Pictures per category: 1,000 in patch mode, 100 in point mode."""
        return N_WEIGHTS * self.n_patches * N_FLIPS


@lru_cache(maxsize=4)
def orbit_draws(n_points: int) -> Annotated[NDArray[np.float64], "n_points"]:
    """The published uniform draws of an orbit, float64 [n_points], the same for every picture."""
    return np.random.RandomState(ORBIT_SEED).random_sample(n_points)


def orbit_pixels(category: Category, weight: int, style: Style) -> Annotated[NDArray[np.int32], "n_points"]:
    """The orbit of one weight row in pixels (see chaos.to_pixels).

    Raises FractalError if no finite point is left, or all points share a coordinate and nothing can be scaled.
    """
    ifs = category.ifs.weighted(weight_table(style.weight_step)[weight])
    points = chaos.orbit(ifs.maps, ifs.thresholds, orbit_draws(style.n_points))
    if points.shape[1] == 0:
        raise FractalError(
            f"category {category.name}, weight row {weight}: the system diverges and leaves no finite point"
        )
    if any((axis[:100] == axis[0]).all() and (axis == axis[0]).all() for axis in points):  # mostly decided by 100
        raise FractalError(
            f"category {category.name}, weight row {weight}: all {points.shape[1]} points share one coordinate"
        )
    pixels: NDArray[np.int32] = chaos.to_pixels(points, style.size, chaos.PADDING)
    return pixels


def check_drawable(category: Category, style: Style) -> None:
    """Raise FractalError naming the first weight row under which a category cannot be drawn."""
    # The 100 points before the first NaN are dropped, so 102 show whether any point is left; they
    # nearly always show, too, that the points do not all share a coordinate.
    start = replace(style, n_points=min(style.n_points, 102))
    for weight in range(N_WEIGHTS):
        try:
            orbit_pixels(category, weight, start)
        except FractalError:
            orbit_pixels(category, weight, style)


def orbit_cover(
    pixels: Annotated[NDArray[np.int32], "n_points"], style: Style
) -> Annotated[NDArray[np.int32], "n_pixels"] | None:
    """What the drawings of one orbit share in patch mode (chaos.cover); None in point mode."""
    if style.n_patches == 1:
        return None
    cover: NDArray[np.int32] = chaos.cover(pixels, style.size)
    return cover


def drawing_masks(
    category: str, weight: int, patch: int, style: Style, n_points: int, *, seed: int
) -> Annotated[NDArray[np.uint16], "n_points"] | None:
    """The patch masks of a drawing, uint16 [n_points], from its own seed (instances.patch_seed); None in point mode."""
    if style.n_patches == 1:
        return None
    masks: NDArray[np.uint16] = chaos.patch_masks(np.uint64(patch_seed(seed, category, weight, patch)), n_points)
    return masks


def drawing(
    pixels: Annotated[NDArray[np.int32], "n_points"],
    masks: Annotated[NDArray[np.uint16], "n_points"] | None,
    style: Style,
    cover: Annotated[NDArray[np.int32], "n_pixels"] | None = None,
) -> Annotated[NDArray[np.uint8], "size size"]:
    """The picture before its flips, uint8 [size, size], one palette index per pixel.

    0 is black; 1 is gray in gray styles; 1 + k is hue k of chaos.hue_table() in colour.  Like
    the published renderer, this flips the picture top to bottom once.  ``masks`` (uint16
    [n_points], 1..511) are needed in patch mode and must be None in point mode.  ``cover`` is the
    orbit's orbit_cover, if several drawings share it.
    """
    if masks is None:
        image = chaos.draw_points(pixels, style.size, style.color)
    elif cover is None:
        image = chaos.draw_patches(pixels, masks, style.size, style.color)
    else:
        image = chaos.draw_cover(cover, masks, style.size, style.color)
    flipped: NDArray[np.uint8] = image[::-1]
    return flipped


def flip(
    image: Annotated[NDArray[np.uint8], "height width *channels"], number: int
) -> Annotated[NDArray[np.uint8], "height width *channels"]:
    """Flip a picture [size, size, ...]: 0 none, 1 top-bottom, 2 left-right, 3 both."""
    return image[:: -1 if number & 1 else 1, :: -1 if number & 2 else 1]


def drawings(
    category: Category, weight: int, patches: range, style: Style, *, seed: int
) -> Iterator[NDArray[np.uint8]]:
    """The drawings of one weight row with the given patch numbers; they share one orbit."""
    pixels = orbit_pixels(category, weight, style)
    cover = orbit_cover(pixels, style)
    for patch in patches:
        masks = drawing_masks(category.name, weight, patch, style, len(pixels), seed=seed)
        yield drawing(pixels, masks, style, cover)


def picture(
    category: Category, instance: Instance, style: Style, *, seed: int
) -> Annotated[NDArray[np.uint8], "size size"]:
    """One instance, uint8 [size, size], one palette index per pixel (see ``drawing``)."""
    one = range(instance.patch, instance.patch + 1)
    (image,) = drawings(category, instance.weight, one, style, seed=seed)
    return flip(image, instance.flip)


def palette(style: Style) -> Annotated[NDArray[np.uint8], "n_colors 3"]:
    """RGB of each palette index, uint8 [n_colors, 3]: 2 colours in gray styles, 129 in colour."""
    return chaos.hue_table() if style.color else np.array([[0] * 3, [GRAY] * 3], np.uint8)
