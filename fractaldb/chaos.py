"""Compiled kernels: the orbit of an IFS, its rescaling to pixels, point and patch drawing.

All kernels are pure functions of explicit inputs, release the GIL and use plain IEEE arithmetic
(no fused or reordered operations), so their results are the same on every machine.  Pixel
arrays are one byte a pixel: 0 or 1 in gray drawings, 0 or 1 + the hue number in colour.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

PADDING = 6  # pixels, on each side of the published pictures
N_HUES = 128  # the published hue circle is walked once in 128 points

jit = numba.njit(cache=True, nogil=True)


@jit
def orbit(maps, thresholds, draws):
    """The chaos game from (0, 0): float64 [2, n_kept], x in row 0 and y in row 1.

    maps float64 [n_maps, 6], thresholds float64 [n_maps] (cumulative probabilities), draws
    float64 [n_points] in [0, 1).  Point i + 1 applies the first map whose threshold is >= draws[i];
    where rounding leaves the draw above the last threshold, the point repeats.  The last draw is
    not used.  Where the orbit overflows to NaN, the NaN points and the 100 before the first are
    dropped, first by x, then by y, as the published renderer does: n_kept may be 0.
    """
    n = draws.shape[0]
    n_maps = maps.shape[0]
    points = np.empty((2, n))
    points[0, 0] = 0.0
    points[1, 0] = 0.0
    chosen = np.zeros(n, np.uint8)
    for j in range(n_maps):  # counting thresholds below the draw needs no branch to predict
        for i in range(n - 1):
            chosen[i] += draws[i] > thresholds[j]
    x = 0.0
    y = 0.0
    for i in range(n - 1):
        j = chosen[i]
        if j < n_maps:
            x, y = x * maps[j, 0] + y * maps[j, 1] + maps[j, 4], x * maps[j, 2] + y * maps[j, 3] + maps[j, 5]
        points[0, i + 1] = x
        points[1, i + 1] = y
    kept = n
    for axis in range(2):
        if kept > 0 and np.isnan(points[axis, kept - 1]):  # NaN never goes away again
            first = kept - 1
            while first > 0 and np.isnan(points[axis, first - 1]):
                first -= 1
            kept = max(first - 100, 0)
    return points[:, :kept]


@jit
def to_pixels(points, size, padding):
    """Rescale an orbit to the picture: int32 [n_points], flat index row * size + column.

    points float64 [2, n_points] with n_points >= 1.  Each axis is scaled on its own: the minimum is
    subtracted where it is negative, then v / (max - min) * (size - 2 * padding) + padding,
    truncated.  Values without a finite result (one coordinate for all points, infinite points)
    become 0, as numpy's conversion of NaN makes them on x86.
    """
    n = points.shape[1]
    pixels = np.zeros(n, np.int32)
    inside = float(size - 2 * padding)
    offset = float(padding)
    for axis in range(2):
        stride = 1 if axis == 0 else size
        low = np.inf
        high = -np.inf
        for i in range(n):
            low = min(low, points[axis, i])
            high = max(high, points[axis, i])
        shift = low if low < 0.0 else 0.0
        span = (high - shift) - (low - shift)
        for i in range(n):
            value = (points[axis, i] - shift) / span * inside + offset
            if np.isfinite(value):
                pixels[i] += np.int32(value) * stride
    return pixels


@jit
def draw_points(pixels, size, color):
    """One pixel a point: uint8 [size, size], 0 where empty, else 1, or 1 + hue where ``color``."""
    image = np.zeros(size * size, np.uint8)
    if color:
        for i in range(pixels.shape[0]):
            image[pixels[i]] = 1 + i % N_HUES
    else:
        for i in range(pixels.shape[0]):
            image[pixels[i]] = 1
    return image.reshape(size, size)


@jit
def draw_patches(pixels, masks, size, color):
    """A 3 x 3 patch a point, pasted whole (its zeros overwrite): uint8 [size, size], values as draw_points.

    masks uint16 [n_points], 1..511; the nine binary digits, highest first, are the patch in rows.
    The patch's first pixel lies one right of and one below the point.
    """
    image = np.zeros(size * size, np.uint8)
    for i in range(pixels.shape[0]):
        mask = masks[i]
        value = np.uint8(1 + i % N_HUES) if color else np.uint8(1)
        at = pixels[i] + size + 1
        image[at] = value * ((mask >> 8) & 1)
        image[at + 1] = value * ((mask >> 7) & 1)
        image[at + 2] = value * ((mask >> 6) & 1)
        at += size
        image[at] = value * ((mask >> 5) & 1)
        image[at + 1] = value * ((mask >> 4) & 1)
        image[at + 2] = value * ((mask >> 3) & 1)
        at += size
        image[at] = value * ((mask >> 2) & 1)
        image[at + 1] = value * ((mask >> 1) & 1)
        image[at + 2] = value * (mask & 1)
    return image.reshape(size, size)


@jit
def patch_masks(seed, n):
    """Uniform patch masks from 1..511, uint16 [n], from a uint64 seed.

    SplitMix64 (Steele, Lea & Flood, OOPSLA 2014); each word gives seven 9-bit numbers, zeros are
    drawn again.
    """
    masks = np.empty(n, np.uint16)
    state = np.uint64(seed)
    filled = 0
    while filled < n:
        state += np.uint64(0x9E3779B97F4A7C15)
        word = state
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        word ^= word >> np.uint64(31)
        for _ in range(7):
            mask = word & np.uint64(511)
            word >>= np.uint64(9)
            if mask != 0 and filled < n:
                masks[filled] = mask
                filled += 1
    return masks


@jit
def n_filled(maps, thresholds, draws, size, padding):
    """How many pixels of a size x size point drawing are set (0 where no point is left)."""
    points = orbit(maps, thresholds, draws)
    if points.shape[1] == 0:
        return 0
    image = draw_points(to_pixels(points, size, padding), size, False).reshape(size * size)
    count = 0
    for i in range(size * size):
        count += image[i]
    return count


def hue_table() -> NDArray[np.uint8]:
    """The published hue circle as a palette, uint8 [1 + 128, 3], black first.

    HSI colours with S = I = 0.75, hue 2 pi k / 128, in the published (blue first) channel order.
    """
    table = np.zeros((1 + N_HUES, 3), np.uint8)
    saturation = intensity = 0.75
    for k in range(N_HUES):
        hue = 2.0 * np.pi * (k / N_HUES)
        sector = int((3.0 / np.pi) * hue)
        i = int(intensity * 255.0)
        p = int(intensity * (1.0 - saturation) * 255.0)
        q = int(intensity * (1.0 - saturation * ((3.0 / np.pi) * hue - sector)) * 255.0)
        t = int(intensity * (1.0 - saturation * ((1.0 - (3.0 / np.pi) * hue) + sector)) * 255.0)
        table[1 + k] = ((p, t, i), (p, i, q), (t, i, p), (i, q, p), (i, p, t), (q, p, i))[sector]
    return table
