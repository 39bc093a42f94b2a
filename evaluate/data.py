"""Decoded images: the cache on disk, batches, and augmentation on the training device."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from synthgen.shard import claimed

from .recipe import Recipe

CHUNK = 256  # images decoded by one thread at a time
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's recipes use


class Decoder(Protocol):
    """Anything that decodes images by position: a source or a split."""

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """The images at ``indices`` as uint8 [size, size, 3]."""
        ...


def cached_pixels(
    decoder: Decoder,
    indices: NDArray[np.int64],
    size: int,
    *,
    cache: Path,
    key: dict[str, Any],
    progress: Callable[[int], None],
) -> NDArray[np.uint8]:
    """The images at ``indices``, decoded once: uint8 [n, size, size, 3], memory-mapped from the cache.

    ``key`` says what is decoded (identity and selection).  The file appears whole or not at all.
    Raises EvaluateError naming an image that cannot be decoded.
    """
    text = json.dumps([key, size], sort_keys=True)
    path = cache / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.npy"
    while not path.exists():
        with claimed(path) as file:
            if file is None:  # another process decodes the same
                time.sleep(1)
                continue
            pixels = np.lib.format.open_memmap(file.name, "w+", np.uint8, (len(indices), size, size, 3))
            _decode_into(pixels, decoder, indices, size, progress)
            pixels.flush()
            os.replace(file.name, path)
    mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return mapped


def _decode_into(
    pixels: NDArray[np.uint8],
    decoder: Decoder,
    indices: NDArray[np.int64],
    size: int,
    progress: Callable[[int], None],
) -> None:
    def one(start: int) -> int:
        chunk = indices[start : start + CHUNK]
        for offset, image in enumerate(decoder.decode(chunk, size)):
            pixels[start + offset] = image
        return len(chunk)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = 0
        try:
            for n in pool.map(one, range(0, len(indices), CHUNK)):
                done += n
                progress(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def to_batch(pixels: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """uint8 [n, height, width, 3] to normalised float32 [n, 3, height, width] in channels_last memory."""
    batch = torch.from_numpy(np.array(pixels)).to(device).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return ((batch - mean) / std).contiguous(memory_format=torch.channels_last)


def augment(batch: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """Random resized crops and mirror images, one draw an image; float32 [n, 3, height, width].

    A crop keeps a share of the area drawn uniformly from ``recipe.min_crop`` to 1 and an aspect
    ratio drawn log-uniformly from 3/4 to 4/3 (Szegedy et al. 2015), inside the image.
    """
    n = len(batch)
    if recipe.min_crop < 1:
        area = torch.empty(n).uniform_(recipe.min_crop, 1, generator=generator)
        aspect = torch.empty(n).uniform_(-1, 1, generator=generator).mul(np.log(4 / 3)).exp()
        width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
        shift = torch.empty(2, n).uniform_(-1, 1, generator=generator)
        zeros = torch.zeros(n)
        rows = [torch.stack(row, 1) for row in _affine(width, height, shift, zeros)]
        theta = torch.stack(rows, 1).to(batch.device)
        grid = functional.affine_grid(theta, list(batch.shape), align_corners=False)
        batch = functional.grid_sample(batch, grid, padding_mode="reflection", align_corners=False)
    if recipe.flip:
        mirrored = torch.rand(n, generator=generator).lt(0.5).to(batch.device).view(n, 1, 1, 1)
        batch = torch.where(mirrored, batch.flip(3), batch)
    return batch.contiguous(memory_format=torch.channels_last)


def _affine(
    width: torch.Tensor, height: torch.Tensor, shift: torch.Tensor, zeros: torch.Tensor
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    return (width, zeros, (1 - width) * shift[0]), (zeros, height, (1 - height) * shift[1])
