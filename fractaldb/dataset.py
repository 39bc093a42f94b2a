"""Pictures drawn during training: map-style datasets without files, for ``torch.utils.data.DataLoader``.

A picture depends on the categories, the style, the seed and its index alone, never on workers,
order or length.  Nothing here imports torch before the first tensor is made.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fractaldb import chaos
from fractaldb.ifs import IFS, Category, FractalError
from fractaldb.instances import N_FLIPS, Instance, instance
from fractaldb.render import Style, check_drawable, drawing, drawing_masks, flip, orbit_draws, orbit_pixels, palette

if TYPE_CHECKING:
    import torch

UNCHANGED = 2  # the row of ones in the published weight tables
STEPS = 2  # of the weight table: how far its rows and the fresh weights depart from 1
ATTEMPTS = 8  # at fresh weights, before a category is drawn unchanged


class FractalDataset:
    """The published instances of some categories, drawn on demand.

    Item i is ``(image, label)``: instance i % style.n_instances of category i // style.n_instances,
    in the published enumeration; image is a torch tensor uint8 [3, size, size] (RGB), or what
    ``transform`` makes of it.  ``seed`` is that of the patch masks: with the same seed a picture
    equals the one in a written set.  Neighbouring items are fastest: 40 share an orbit, 4 a drawing.

    Raises FractalError if there is no category, or a system leaves no finite point under one of
    the weight rows; IndexError for an item that does not exist.
    """

    def __init__(
        self,
        categories: Sequence[Category],
        style: Style = Style(),
        *,
        seed: int = 1,
        transform: Callable[[torch.Tensor], Any] | None = None,
    ) -> None:
        if not categories:
            raise FractalError("no categories: at least 1 is needed")
        self.categories = tuple(categories)
        self.style = style
        self.seed = seed
        self.transform = transform
        self._palette = palette(style).T.copy()  # uint8 [3, n_colors]
        self._orbit: tuple[tuple[int, int], NDArray[np.int32]] | None = None  # the last one, with its key
        self._drawing: tuple[tuple[int, int, int], NDArray[np.uint8]] | None = None
        self._check_categories()

    def _check_categories(self) -> None:
        for category in self.categories:
            check_drawable(category, self.style)

    def __len__(self) -> int:
        return len(self.categories) * self.style.n_instances

    def __getitem__(self, index: int) -> tuple[Any, int]:
        import torch

        image = torch.from_numpy(self.image(index))
        return (self.transform(image) if self.transform else image), self.label(index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_orbit": None, "_drawing": None}  # a worker draws its own

    def label(self, index: int) -> int:
        """The position of item ``index``'s category."""
        return self._checked(index) // self.style.n_instances

    def instance(self, index: int) -> Instance:
        """Which published instance item ``index`` is."""
        label, m = divmod(self._checked(index), self.style.n_instances)
        return instance(self.categories[label].name, m, n_patches=self.style.n_patches)

    def image(self, index: int) -> NDArray[np.uint8]:
        """The picture of item ``index`` without transform, uint8 [3, size, size], RGB."""
        label, which = self.label(index), self.instance(index)
        key = (label, which.weight, which.patch)
        if self._drawing is None or self._drawing[0] != key:
            self._drawing = (key, self._draw(label, which))
        return self._rgb(flip(self._drawing[1], which.flip))

    def _draw(self, label: int, which: Instance) -> NDArray[np.uint8]:
        key = (label, which.weight)
        if self._orbit is None or self._orbit[0] != key:
            self._orbit = (key, orbit_pixels(self.categories[label], which.weight, self.style))
        pixels = self._orbit[1]
        masks = drawing_masks(which.category, which.weight, which.patch, self.style, len(pixels), seed=self.seed)
        return drawing(pixels, masks, self.style)

    def _rgb(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.style.color:
            return np.take(self._palette, image, axis=1)
        rgb = np.empty((3, *image.shape), np.uint8)
        np.multiply(image, self._palette[0, 1], out=rgb[0])
        rgb[1:] = rgb[0]
        return rgb

    def _checked(self, index: int) -> int:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"item {index}: the dataset has {len(self)}")
        return index


class AugmentedFractalDataset(FractalDataset):
    """An endless supply of fresh pictures of some categories: training without storage or repeats.

    Item i is of category i % n_categories, so that any ``length`` is balanced to within one
    picture.  Where the published rows multiply one of a..f by one of five values, these multiply
    one of a..f by any value within two steps of 1, uniformly; patch masks and flip are drawn as
    well.  All of it depends on (seed, epoch, index); ``set_epoch`` before an epoch, as with
    ``DistributedSampler``, gives new pictures, and reaches persistent workers too.

    A system that diverges under its weights is given new ones, also seeded; after 8 attempts it is
    drawn unchanged.  Raises FractalError if an unchanged category leaves no finite point, or
    ``length`` is below 1.
    """

    def __init__(
        self,
        categories: Sequence[Category],
        style: Style = Style(),
        *,
        length: int,
        seed: int = 1,
        transform: Callable[[torch.Tensor], Any] | None = None,
    ) -> None:
        import torch

        if length < 1:
            raise FractalError(f"length {length}: at least 1")
        super().__init__(categories, style, seed=seed, transform=transform)
        self.length = length
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers see it change

    def _check_categories(self) -> None:
        for category in self.categories:
            orbit_pixels(category, UNCHANGED, self.style)

    def __len__(self) -> int:
        return self.length

    @property
    def epoch(self) -> int:
        """The epoch whose pictures are drawn; 0 at first."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw the pictures of another epoch from now on."""
        self._epoch.fill_(epoch)

    def label(self, index: int) -> int:
        """The position of item ``index``'s category."""
        return self._checked(index) % len(self.categories)

    def instance(self, index: int) -> Instance:
        """Not defined: fresh pictures are not published instances."""
        raise TypeError("fresh pictures are not published instances; see weight()")

    def weight(self, index: int) -> NDArray[np.float64]:
        """The multipliers of a..f that item ``index`` is drawn with in this epoch, float64 [6]."""
        return self._orbit_of(index)[0]

    def image(self, index: int) -> NDArray[np.uint8]:
        """The picture of item ``index`` without transform, uint8 [3, size, size], RGB."""
        pixels = self._orbit_of(index)[1]
        mask_seed, flip_number = self._words(index, "picture")[:2]
        masks = chaos.patch_masks(np.uint64(mask_seed), len(pixels)) if self.style.n_patches > 1 else None
        return self._rgb(flip(drawing(pixels, masks, self.style), flip_number % N_FLIPS))

    def _orbit_of(self, index: int) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        category = self.categories[self.label(index)]
        for attempt in range(ATTEMPTS):
            which, draw = self._words(index, f"weight {attempt}")[:2]
            weight = np.ones(6)
            weight[which % 6] += STEPS * self.style.weight_step * (2 * (draw / 2**64) - 1)
            pixels = self._finite_orbit(category.ifs.weighted(weight))
            if pixels is not None:
                return weight, pixels
        return np.ones(6), orbit_pixels(category, UNCHANGED, self.style)

    def _finite_orbit(self, ifs: IFS) -> NDArray[np.int32] | None:
        """The orbit in pixels; None if the system diverges within it."""
        points = chaos.orbit(ifs.maps, ifs.thresholds, orbit_draws(self.style.n_points))
        if points.shape[1] < self.style.n_points or not np.isfinite(points[:, -1]).all():  # neither ever recovers
            return None
        if (np.ptp(points[:, :100], axis=1) == 0).any() and (np.ptp(points, axis=1) == 0).any():  # nothing to scale
            return None
        pixels: NDArray[np.int32] = chaos.to_pixels(points, self.style.size, chaos.PADDING)
        return pixels

    def _words(self, index: int, purpose: str) -> list[int]:
        """Eight uint64 words, a hash of seed, epoch, index and purpose."""
        key = f"{self.seed}/{self.epoch}/{index}/{purpose}".encode()
        words: list[int] = np.frombuffer(hashlib.blake2b(key).digest(), "<u8").tolist()
        return words
