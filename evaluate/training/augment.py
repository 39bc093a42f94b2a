"""Random crops, mirror images, colours and blur, drawn per image and applied in batches on the training device."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..images.crops import cropped
from ..images.pixels import Pixels
from ..recipe import Recipe

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's recipes use
GRAY = (0.299, 0.587, 0.114)  # luma of RGB (ITU-R BT.601)
YIQ = (GRAY, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))  # of RGB, as NTSC television has it
JITTER_SHARE = 0.8  # of the images change colour (Chen et al. 2020, appendix A)
FACTORS, TURN = 0.8, 0.2  # ranges at strength 1: of brightness, contrast and saturation; of hue, in turns
SIGMA = (0.1, 2.0)  # of the blur, pixels of an image of BLUR_SIZE
BLUR_SIZE = 224
IN_MEMORY = 0.5  # share of a device's free memory that decoded images may take
CHUNK = 1024  # images that are copied to a device at a time
AHEAD = 2  # batches prefetched


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draws:
    """What is done to each of n images; None means nothing to any.  On the CPU."""

    n: int
    boxes: Tensor | None = None  # float32 [n, 4], left, top, width, height as shares of the image
    mirror: Tensor | None = None  # bool [n]
    color: Tensor | None = None  # float32 [n, 3, 4], of red, green, blue and the image's mean gray
    sigma: Tensor | None = None  # float32 [n], of the blur in shares of the width; 0 is none

    def __len__(self) -> int:
        return self.n

    @property
    def moves(self) -> bool:
        """Whether pixels move."""
        return self.boxes is not None or self.mirror is not None

    def __getitem__(self, part: slice) -> Draws:
        boxes, mirror, color, sigma = (
            None if values is None else values[part] for values in (self.boxes, self.mirror, self.color, self.sigma)
        )
        return Draws(n=len(range(self.n)[part]), boxes=boxes, mirror=mirror, color=color, sigma=sigma)


def draw(n: int, recipe: Recipe, generator: torch.Generator) -> Draws:
    """Draw for ``n`` images what the recipe asks for, and nothing else, from a CPU generator."""
    uniform = partial(_uniform, generator)
    mirrored = uniform(n, 0, 1) < 0.5 if recipe.flip else None
    return Draws(
        n=n,
        boxes=_boxes(n, recipe.min_crop, uniform) if recipe.min_crop < 1 else None,
        mirror=mirrored,
        color=_colors(n, recipe.jitter, recipe.gray, uniform) if recipe.jitter or recipe.gray else None,
        sigma=torch.where(uniform(n, 0, 1) < recipe.blur, uniform(n, *SIGMA) / BLUR_SIZE, 0) if recipe.blur else None,
    )


def _uniform(generator: torch.Generator, n: int, low: float, high: float) -> Tensor:
    return torch.empty(n).uniform_(low, high, generator=generator)


def _boxes(n: int, min_crop: float, uniform: Callable[[int, float, float], Tensor]) -> Tensor:
    """Crops as in Szegedy et al. 2015, float32 [n, 4].

    A crop keeps a share of the area drawn uniformly from ``min_crop`` to 1 and has an aspect ratio drawn
    log-uniformly from 3/4 to 4/3; a side longer than the image's is shortened to it.  Its place is
    uniform inside the image.
    """
    area, aspect = uniform(n, min_crop, 1), uniform(n, -1, 1).mul(math.log(4 / 3)).exp()
    sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)
    return torch.cat([uniform(2 * n, 0, 1).view(n, 2) * (1 - sides), sides], 1)


def _colors(n: int, jitter: float, gray: float, uniform: Callable[[int, float, float], Tensor]) -> Tensor:
    """Changes of brightness, then contrast, saturation, hue, and last gray, as one matrix per image.

    The distributions are those of SimCLR (Chen et al. 2020, appendix A).  Unlike torchvision's ColorJitter,
    the order is fixed, the hue is turned in YIQ, not HSV, and values are clipped to 0..1 once, at the end: all
    changes are linear in the pixel and in the image's mean gray, about which contrast is changed.
    """
    to_yiq = torch.tensor(YIQ, dtype=torch.float64)
    luma = to_yiq[:1].expand(3, 3)  # RGB to gray RGB
    matrix = torch.eye(3, dtype=torch.float64).expand(n, 3, 3)
    offset = torch.zeros(n, dtype=torch.float64)  # in mean grays
    if jitter:
        changed = uniform(n, 0, 1) < JITTER_SHARE
        bright, contrast, saturation = (
            torch.where(changed, uniform(n, 1 - FACTORS * jitter, 1 + FACTORS * jitter), 1).double() for _ in range(3)
        )
        angle = 2 * math.pi * torch.where(changed, uniform(n, -TURN * jitter, TURN * jitter), 0).double()
        turn = torch.eye(3, dtype=torch.float64).repeat(n, 1, 1)
        turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
        turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
        saturate = saturation.view(n, 1, 1) * (matrix - luma) + luma
        matrix = to_yiq.inverse() @ turn @ to_yiq @ saturate * (bright * contrast).view(n, 1, 1)
        offset = bright * (1 - contrast)  # gray, so neither saturation nor hue changes it
    if gray:
        matrix = torch.where((uniform(n, 0, 1) < gray).view(n, 1, 1), luma @ matrix, matrix)
    return torch.cat([matrix, offset.view(n, 1, 1).expand(n, 3, 1)], 2).float()


def apply(pixels: NDArray[np.uint8] | Tensor, draws: Draws, device: torch.device) -> Tensor:
    """Augmented and normalised images, float32 [n, 3, height, width] in channels_last memory.

    ``pixels`` are uint8 [n, height, width, 3], on the device or not.  Crops are resized to the image's own
    size, bilinearly.  The order is crop, mirror, colour, blur.
    """
    images = _tensor(pixels).to(device, non_blocking=True)
    plain = draws.color is None and draws.sigma is None  # otherwise colours are changed between 0 and 1 first
    scale, shift = (
        _normal(device) if plain else (torch.full((3,), 1 / 255, device=device), torch.zeros(3, device=device))
    )
    batch = (_crop_compiled if device.type == "cpu" and draws.moves else _crop)(images, draws, scale, shift)
    if draws.color is not None:
        batch = _recolor(batch, draws.color.to(device, non_blocking=True))
    if draws.sigma is not None:
        batch = _blur(batch, draws.sigma)
    return batch if plain else _scaled(batch.mul_(255), *_normal(device))


def to_batch(pixels: NDArray[np.uint8] | Tensor, device: torch.device) -> Tensor:
    """uint8 [n, height, width, 3] to normalised float32 [n, 3, height, width] in channels_last memory."""
    images = _tensor(pixels).to(device, non_blocking=True)
    return _scaled(images.permute(0, 3, 1, 2).float(), *_normal(device))


def _tensor(pixels: NDArray[np.uint8] | Tensor) -> Tensor:
    return pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.require(pixels, requirements=["C", "W"]))


@lru_cache(maxsize=8)
def _normal(device: torch.device) -> tuple[Tensor, Tensor]:
    """The factor for byte values, and the offset added then: float32 [3] each."""
    mean, std = torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)
    return 1 / (255 * std), -mean / std


def _scaled(batch: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """In place, float32 [n, 3, height, width]."""
    return batch.mul_(scale.view(1, 3, 1, 1)).add_(shift.view(1, 3, 1, 1))


def _crop(images: Tensor, draws: Draws, scale: Tensor, shift: Tensor) -> Tensor:
    """As ``crops.cropped``, in torch."""
    batch = images.permute(0, 3, 1, 2).float()
    if draws.moves:
        boxes, mirror = _places(draws)
        left, top, width, height = boxes.unbind(1)
        zero = torch.zeros(len(draws))
        rows = (width * torch.where(mirror, -1, 1), zero, 2 * left + width - 1), (zero, height, 2 * top + height - 1)
        theta = torch.stack([torch.stack(row, 1) for row in rows], 1).to(batch.device, non_blocking=True)
        grid = functional.affine_grid(theta, list(batch.shape), align_corners=False)
        batch = functional.grid_sample(batch, grid, padding_mode="border", align_corners=False)
    return _scaled(batch.contiguous(memory_format=torch.channels_last), scale, shift)


def _crop_compiled(images: Tensor, draws: Draws, scale: Tensor, shift: Tensor) -> Tensor:
    pixels, boxes, mirror = (values.contiguous().numpy() for values in (images, *_places(draws)))
    n_threads = min(torch.get_num_threads(), max(len(draws), 1))
    out = cropped(pixels, boxes, mirror, scale=scale.numpy(), shift=shift.numpy(), n_threads=n_threads)
    return torch.from_numpy(out).permute(0, 3, 1, 2)


def _places(draws: Draws) -> tuple[Tensor, Tensor]:
    """Boxes and mirror, with neutral values if none are drawn."""
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(len(draws), 4) if draws.boxes is None else draws.boxes
    return boxes, torch.zeros(len(draws), dtype=torch.bool) if draws.mirror is None else draws.mirror


def _recolor(batch: Tensor, color: Tensor) -> Tensor:
    """Values 0..1 in channels_last memory, through matrices [n, 3, 4]."""
    n, _, height, width = batch.shape
    flat = batch.permute(0, 2, 3, 1).reshape(n, height * width, 3)
    gray = flat.mean(1) @ torch.tensor(GRAY, device=batch.device)
    offset = color[:, :, 3] * gray.view(n, 1)
    flat = torch.baddbmm(offset.view(n, 1, 3), flat, color[:, :, :3].mT).clamp_(0, 1)
    return flat.view(n, height, width, 3).permute(0, 3, 1, 2)


def _blur(batch: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur in place; weights that would fall outside the image are shared among those inside.

    As matrix products, rows and columns apart.  SimCLR cuts its kernel at 10% of the side, which is 5.6 times the
    largest sigma: weights of 1e-7.
    """
    which = sigma.nonzero().view(-1)
    if len(which):
        own = sigma[which].to(batch.device, non_blocking=True) * batch.shape[3]
        which = which.to(batch.device, non_blocking=True)
        rows, columns = (_gaussian(size, own) for size in batch.shape[2:])
        batch[which] = rows @ batch[which] @ columns.mT
    return batch


def _gaussian(size: int, sigma: Tensor) -> Tensor:
    """Weights [n, 1, size, size] of each pixel for each; ``sigma`` [n] in pixels."""
    places = torch.arange(size, device=sigma.device)
    distance = (places.view(-1, 1) - places) / sigma.view(-1, 1, 1, 1)
    return distance.square().mul(-0.5).softmax(-1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resident:
    """Decoded images in a device's memory; see Pixels."""

    images: Tensor  # uint8 [n, size, size, 3]
    decodes: bool = False

    @property
    def size(self) -> int:
        """See Pixels."""
        return self.images.shape[1]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See Pixels."""
        return self.images[torch.from_numpy(indices).to(self.images.device)].cpu().numpy()


def resident(pixels: Pixels, device: torch.device) -> Pixels:
    """The same images in the memory of a CUDA device, if they take no more than IN_MEMORY of what is free."""
    n, size = len(pixels), pixels.size
    if device.type != "cuda" or n * 3 * size**2 > IN_MEMORY * torch.cuda.mem_get_info(device)[0]:
        return pixels
    images = torch.empty((n, size, size, 3), dtype=torch.uint8, device=device)
    parts = np.split(np.arange(n), range(CHUNK, n, CHUNK))
    for part, some in zip(parts, batches(pixels, parts, device), strict=True):
        images[part[0] : part[-1] + 1] = some
    return Resident(images=images)


def batches(pixels: Pixels, orders: Iterable[NDArray[np.int64]], device: torch.device) -> Iterator[Tensor]:
    """The images at each of ``orders``, uint8 [k, size, size, 3] on the device.

    If they must be decoded or copied to a device, a thread prefetches AHEAD of them, and takes ``orders`` so
    much earlier; its errors are raised here, and closing the iterator stops it.
    """
    if isinstance(pixels, Resident):
        for order in orders:
            yield pixels.images[torch.from_numpy(order).to(device, non_blocking=True)]
    elif device.type == "cpu" and not pixels.decodes:
        for order in orders:
            yield torch.from_numpy(pixels.take(order))
    else:
        cuda = device.type == "cuda"

        def load(order: NDArray[np.int64]) -> Tensor:
            images = torch.from_numpy(pixels.take(order))
            return images.pin_memory() if cuda else images

        for images in _ahead(load, orders):
            yield images.to(device, non_blocking=True)


def _ahead(work: Callable[[NDArray[np.int64]], Tensor], orders: Iterable[NDArray[np.int64]]) -> Iterator[Tensor]:
    waiting: deque[Future[Tensor]] = deque()
    with ThreadPoolExecutor(1) as pool:
        try:
            for order in orders:
                waiting.append(pool.submit(work, order))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
