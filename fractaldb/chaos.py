"""Compiled kernels: the orbit of an IFS, its rescaling to pixels, point and patch drawing.

All kernels are pure functions of explicit inputs, release the GIL and use plain IEEE arithmetic
(no fused or reordered operations), so their results are the same on every machine.  Pixel
arrays have one byte per pixel: 0 or 1 in gray drawings, 0 or 1 + the hue number in colour.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

PADDING = 6  # pixels, on each side of the published pictures
N_HUES = 128  # the published hue circle is walked once in 128 points
LOW_BITS = np.uint64(sum(1 << 9 * k for k in range(7)))  # of seven 9-bit numbers in a word
HIGH_BITS = np.uint64(sum(1 << 9 * k + 8 for k in range(7)))

jit = numba.njit(cache=True, nogil=True)


@jit
def orbit(maps, thresholds, draws):
    """The chaos game from (0, 0): float64 [2, n_kept], x in row 0 and y in row 1.

    maps float64 [n_maps, 6], thresholds float64 [n_maps] (cumulative probabilities), draws
    float64 [n_points] in [0, 1).  Point i + 1 applies the first map whose threshold is >= draws[i];
    if rounding leaves the draw above the last threshold, the point repeats.  The last draw is
    not used.  If the orbit overflows to NaN, the NaN points and the 100 before the first are
    dropped, first by x, then by y, as the published renderer does: n_kept may be 0.
    """
    n = draws.shape[0]
    n_maps = maps.shape[0]
    points = np.empty((2, n))
    points[0, 0] = 0.0
    points[1, 0] = 0.0
    chosen = np.zeros(n, np.uint8)
    for j in range(n_maps):  # counting thresholds below the draw is free of branches
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
        if kept > 0 and np.isnan(points[axis, kept - 1]):  # once NaN, the orbit stays NaN
            first = kept - 1
            while first > 0 and np.isnan(points[axis, first - 1]):
                first -= 1
            kept = max(first - 100, 0)
    return points[:, :kept]


@jit
def _extremes(values):
    """Minimum and maximum of float64 [n] without NaN; four accumulators of each do not wait for one another."""
    n = values.shape[0]
    low_0 = low_1 = low_2 = low_3 = np.inf
    high_0 = high_1 = high_2 = high_3 = -np.inf
    for i in range(0, n - n % 4, 4):
        v, w, x, y = values[i], values[i + 1], values[i + 2], values[i + 3]
        low_0 = v if v < low_0 else low_0
        low_1 = w if w < low_1 else low_1
        low_2 = x if x < low_2 else low_2
        low_3 = y if y < low_3 else low_3
        high_0 = v if v > high_0 else high_0
        high_1 = w if w > high_1 else high_1
        high_2 = x if x > high_2 else high_2
        high_3 = y if y > high_3 else high_3
    for i in range(n - n % 4, n):
        low_0 = min(low_0, values[i])
        high_0 = max(high_0, values[i])
    return min(low_0, low_1, low_2, low_3), max(high_0, high_1, high_2, high_3)


@jit
def to_pixels(points, size, padding):
    """Rescale an orbit to the picture: int32 [n_points], flat index row * size + column.

    points float64 [2, n_points] with n_points >= 1.  Each axis is scaled on its own: the minimum is
    subtracted if it is negative, then v / (max - min) * (size - 2 * padding) + padding,
    truncated.  Values without a finite result (one coordinate for all points, infinite points)
    become 0, as in numpy's conversion of NaN on x86.
    """
    n = points.shape[1]
    pixels = np.zeros(n, np.int32)
    inside = float(size - 2 * padding)
    offset = float(padding)
    for axis in range(2):
        values = points[axis]
        stride = np.int32(1 if axis == 0 else size)
        low, high = _extremes(values)
        shift = low if low < 0.0 else 0.0
        span = (high - shift) - (low - shift)
        for i in range(n):
            value = (values[i] - shift) / span * inside + offset
            pixels[i] += np.int32(value if abs(value) < 2.0**31 else 0.0) * stride
    return pixels


@jit
def draw_points(pixels, size, color):
    """One pixel per point: uint8 [size, size], 0 where empty, else 1, or 1 + hue if ``color``."""
    image = np.zeros(size * size, np.uint8)
    if color:
        for i in range(pixels.shape[0]):
            image[pixels[i]] = 1 + i % N_HUES
    else:
        for i in range(pixels.shape[0]):
            image[pixels[i]] = 1
    return image.reshape(size, size)


@jit
def cover(pixels, size):
    """What a patch drawing shows at each pixel: int32 [size * size], 16 * point + digit, negative where empty.

    Patches are pasted whole, so a pixel shows a digit (0..8, rows first) of the last point whose
    patch covers it; that does not depend on the masks, and drawings of one orbit share it.
    pixels int32 [n_points] as ``to_pixels`` makes them, n_points < 2**27.  The patch's first pixel
    lies one right of and one below the point.
    """
    n = size * size
    last = np.full(n, np.int32(-16), np.int32)  # 16 * the point that lies at a pixel
    for i in range(pixels.shape[0]):
        last[pixels[i]] = np.int32(16 * i)
    shown = np.full(n, np.int32(-1), np.int32)
    for digit in range(9):  # a maximum of two arrays at a time is vector code
        offset = (digit // 3 + 1) * size + digit % 3 + 1
        point = last[: n - offset]
        target = shown[offset:]
        for at in range(n - offset):
            target[at] = max(target[at], np.int32(point[at] + np.int32(digit)))
    return shown


@jit
def draw_cover(shown, masks, size, color):
    """The drawing of ``cover``'s result with patch masks: uint8 [size, size], values as draw_points.

    masks uint16 [n_points], 1..511; the nine binary digits, highest first, are the patch in rows.
    """
    image = np.zeros(size * size, np.uint8)
    for at in range(size * size):
        code = shown[at]
        if code >= 0:
            point = code >> 4
            digit = (masks[point] >> (8 - (code & 15))) & 1
            image[at] = digit * (1 + point % N_HUES) if color else digit
    return image.reshape(size, size)


@jit
def draw_patches(pixels, masks, size, color):
    """One 3 x 3 patch per point, pasted whole (its zeros overwrite): uint8 [size, size], values as draw_points."""
    return draw_cover(cover(pixels, size), masks, size, color)


@jit
def patch_masks(seed, n):
    """Uniform patch masks from 1..511, uint16 [n], from a uint64 seed.

    SplitMix64 (Steele, Lea & Flood, OOPSLA 2014); each word gives seven 9-bit numbers, of which
    zeros are skipped.
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
        if filled + 7 <= n and not ((word - LOW_BITS) & ~word & HIGH_BITS):  # none of the seven is zero
            for k in range(7):
                masks[filled + k] = (word >> np.uint64(9 * k)) & np.uint64(511)
            filled += 7
            continue
        for k in range(7):
            mask = (word >> np.uint64(9 * k)) & np.uint64(511)
            if mask != 0 and filled < n:
                masks[filled] = mask
                filled += 1
    return masks


@jit
def n_filled(maps, thresholds, draws, size, padding):
    """How many pixels of a size x size point drawing are set (0 if no point is left)."""
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
