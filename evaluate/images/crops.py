"""Crops on a CPU: cut out, resized, mirrored and normalised in one compiled pass."""

from __future__ import annotations

import math
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray


def cropped(
    pixels: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    mirror: NDArray[np.bool_],
    *,
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    n_threads: int,
) -> NDArray[np.float32]:
    """``scale * crop + shift`` of each image, resized to the image's own size: [n, height, width, 3].

    pixels [n, height, width, 3]; boxes [n, 4] left, top, width and height as shares of the image; mirror [n];
    scale and shift [3].  Bilinear between pixel centres, and the nearest pixel beyond the outer ones, as
    torch's grid_sample with padding_mode="border" and align_corners=False.  The result is the same for any
    number of threads.
    """
    out = _memory(pixels.shape)

    def one(part: slice) -> None:
        _crop_into(out[part], pixels[part], boxes[part], mirror[part], scale, shift)

    if n_threads == 1:
        one(slice(None))
    else:
        ends = np.linspace(0, len(out), n_threads + 1).astype(int).tolist()
        list(_pool(n_threads).map(one, map(slice, ends[:-1], ends[1:])))
    return out


@lru_cache(maxsize=1)
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads)


_spare: list[NDArray[np.float32]] = []  # memory of results that were freed


def _memory(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An uninitialised array, whose memory is reused once it is freed; new pages take half as long as the crops."""
    n = math.prod(shape)
    fitting = [number for number, memory in enumerate(_spare) if n <= memory.size <= 2 * n]
    if fitting:
        memory = _spare.pop(fitting[0])
    else:
        _spare.clear()
        memory = np.empty(n, np.float32)
    array = memory[:n].reshape(shape)
    weakref.finalize(array, _spare.append, memory).atexit = False
    return array


@numba.njit(cache=True, nogil=True)
def _crop_into(
    out: NDArray[np.float32],
    pixels: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    mirror: NDArray[np.bool_],
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
) -> None:
    """See cropped."""
    n, height, width, _ = pixels.shape
    row = np.empty(3 * width, np.float32)  # of the image, between two of its rows
    left = np.empty(width, np.int64)
    weight = np.empty(width, np.float32)
    scales = np.empty(3 * width, np.float32)
    shifts = np.empty(3 * width, np.float32)
    for j in range(3 * width):
        scales[j] = scale[j % 3]
        shifts[j] = shift[j % 3]
    for i in range(n):
        for j in range(width):
            column = width - 1 - j if mirror[i] else j
            x = boxes[i, 0] * width + (column + 0.5) * boxes[i, 2] - 0.5
            x = min(max(x, 0.0), width - 1.0)
            first = min(int(x), width - 2)
            left[j] = 3 * first
            weight[j] = x - first
        for k in range(height):
            y = boxes[i, 1] * height + (k + 0.5) * boxes[i, 3] - 0.5
            y = min(max(y, 0.0), height - 1.0)
            top = min(int(y), height - 2)
            share = np.float32(y - top)
            above = pixels[i, top].reshape(3 * width)
            below = pixels[i, top + 1].reshape(3 * width)
            for j in range(3 * width):  # as one long row, which the compiler vectorises
                value = np.float32(above[j])
                row[j] = (value + (np.float32(below[j]) - value) * share) * scales[j] + shifts[j]
            for j in range(width):
                first = left[j]
                for c in range(3):
                    value = row[first + c]
                    out[i, k, j, c] = value + (row[first + 3 + c] - value) * weight[j]
