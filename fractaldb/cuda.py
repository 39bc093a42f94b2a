"""Many gray pictures at once on a CUDA device: one block of threads per picture.

The chaos game is a chain, but its maps contract on average, so where a point lies depends on the
last few hundred draws alone.  Every thread therefore walks its own slice of the same draws that
the CPU uses, first from the origin, then from where the thread before it ended, until all slices
join to within a thousandth of a pixel (two rounds as a rule).  The joined slices are the CPU's
orbit in single precision: same points, same order, same bounding box.  Systems whose slices do
not join (they diverge, or contract too slowly) are drawn by the CPU, as is everything if there is no device.

A point drawing is a bitmap in shared memory.  In a patch drawing a pixel shows a digit of the last
point that covers it, which is a maximum of point numbers and so needs no order of execution; the
masks are a hash of seed and point number: distributed like the CPU's, but not the same numbers.

Needs numba's CUDA target (the package ``numba-cuda``); ``available`` reports whether a device exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numba import cuda, float32, uint32
from numpy.typing import NDArray

from fractaldb import chaos
from fractaldb.ifs import IFS, Category, FractalError
from fractaldb.render import Style, drawing, orbit_draws, orbit_pixels

THREADS = 256  # per block, a power of two
MAX_MAPS = 32  # per system drawn on the device; the published ones have 2 to 7
ROUNDS = 8  # tried until the slices join
JOINED = 1e-3  # pixels between the end of a slice and the start of the next
SHARED_BYTES = 40_960  # for a bitmap: 572 x 572; every device has 48 KiB, some of it for other arrays
BATCH = 512  # patch drawings at a time, 4 * size**2 bytes of device memory each


def available() -> bool:
    """Whether a CUDA device, or numba's simulator of one, can be used."""
    return bool(cuda.is_available())


def render_batch(systems: Sequence[IFS], style: Style, seeds: Sequence[int]) -> NDArray[np.uint8]:
    """Draw systems as ``render.drawing`` does: uint8 [n, size, ceil(size / 8)], eight pixels per byte, high bit left.

    ``seeds`` are the uint64 seeds of the patch masks, one per picture; point mode ignores them.  The
    weights must already be applied to the systems (``IFS.weighted``).  A picture does not depend on the
    others in its batch.  Raises FractalError if the style is in colour or too large for shared
    memory (572 px in point mode), or a system leaves no finite point.
    """
    patches = style.n_patches > 1
    stride = -(-style.size // 8)  # bytes per row
    words = -(-style.size * stride // 4)
    if style.color:
        raise FractalError(f"draw type {style.draw}: the CUDA renderer draws gray pictures")
    if not patches and 4 * words > SHARED_BYTES:
        raise FractalError(f"size {style.size} px: a point drawing on a CUDA device has at most 572 px")
    if len(systems) != len(seeds):
        raise FractalError(f"{len(systems)} systems and {len(seeds)} seeds: one seed per picture")
    bitmaps = np.zeros((len(systems), style.size, stride), np.uint8)
    fitting = [i for i, ifs in enumerate(systems) if len(ifs.maps) <= MAX_MAPS] if available() else []
    rest = sorted(set(range(len(systems))) - set(fitting))
    step = BATCH if patches else max(len(fitting), 1)
    for first in range(0, len(fitting), step):
        chosen = fitting[first : first + step]
        n = len(chosen)
        bits = cuda.device_array((n, words), np.uint32)
        joined = cuda.device_array(n, np.uint8)
        last = cuda.device_array((n, style.size**2 if patches else 1), np.int32)
        packed = [cuda.to_device(array) for array in _packed([systems[i] for i in chosen])]
        dynamic = 0 if patches else 4 * words
        _draw[n, THREADS, 0, dynamic](
            *packed, _device_draws(style.n_points), style.size, chaos.PADDING, patches, last, bits, joined
        )
        if patches:
            keys = np.array([seeds[i] for i in chosen], np.uint64)
            _paint[n, THREADS](last, cuda.to_device(keys), style.size, bits)
        host = bits.copy_to_host().view(np.uint8)[:, : style.size * stride]
        bitmaps[chosen] = host.reshape(n, style.size, stride)
        rest += [i for i, ok in zip(chosen, joined.copy_to_host(), strict=True) if not ok]
    for i in rest:
        bitmaps[i] = _on_cpu(i, systems[i], style, seeds[i])
    return bitmaps


def _on_cpu(number: int, ifs: IFS, style: Style, seed: int) -> NDArray[np.uint8]:
    pixels = orbit_pixels(Category(name=f"number {number}", ifs=ifs), 2, style)  # row 2 leaves the system unchanged
    masks = chaos.patch_masks(np.uint64(seed), len(pixels)) if style.n_patches > 1 else None
    return np.packbits(drawing(pixels, masks, style), axis=1)


def _packed(systems: Sequence[IFS]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Maps float32 [n, MAX_MAPS, 6], thresholds float32 [n, MAX_MAPS] and numbers of maps int32 [n]."""
    maps = np.zeros((len(systems), MAX_MAPS, 6), np.float32)
    thresholds = np.ones((len(systems), MAX_MAPS), np.float32)
    for i, ifs in enumerate(systems):
        maps[i, : len(ifs.maps)] = ifs.maps
        thresholds[i, : len(ifs.maps)] = ifs.thresholds
    return maps, thresholds, np.array([len(ifs.maps) for ifs in systems], np.int32)


@lru_cache(maxsize=4)
def _device_draws(n_points: int) -> Any:
    return cuda.to_device(orbit_draws(n_points).astype(np.float32))


@cuda.jit(device=True)
def _step(maps, thresholds, n_maps, draw, x, y):
    """The next point of the chaos game; it repeats if the draw is above the last threshold."""
    j = 0
    for k in range(n_maps):
        if draw > thresholds[k]:
            j += 1
    if j == n_maps:
        return x, y
    return (
        x * maps[j, 0] + y * maps[j, 1] + maps[j, 4],
        x * maps[j, 2] + y * maps[j, 3] + maps[j, 5],
    )


@cuda.jit(device=True)
def _pixel(value, low, span, size, padding):
    """chaos.to_pixels for one coordinate; 0 if the result is not finite."""
    scaled = (value - low) / span * float32(size - 2 * padding) + float32(padding)
    return int(scaled) if scaled >= float32(0) and scaled < float32(size) else 0


@cuda.jit
def _draw(all_maps, all_thresholds, counts, draws, size, padding, patches, last, bits, joined):
    """One block per picture: walk, join, then set bits [n, words], or the last point at each pixel, last [n, size**2].

    joined uint8 [n]: whether the slices joined; if not, nothing is drawn.
    """
    maps = cuda.shared.array((MAX_MAPS, 6), float32)
    thresholds = cuda.shared.array(MAX_MAPS, float32)
    ends = cuda.shared.array((2, THREADS), float32)
    box = cuda.shared.array((4, THREADS), float32)  # least x and y, greatest x and y, of a slice
    bitmap = cuda.shared.array(0, uint32)
    picture = cuda.blockIdx.x
    thread = cuda.threadIdx.x
    n_maps = counts[picture]
    if thread < n_maps:
        thresholds[thread] = all_thresholds[picture, thread]
        for k in range(6):
            maps[thread, k] = all_maps[picture, thread, k]
    ends[0, thread] = float32(0)
    ends[1, thread] = float32(0)
    cuda.syncthreads()

    n = draws.shape[0]
    length = (n + THREADS - 1) // THREADS
    start = min(thread * length, n)
    stop = min(start + length, n)
    x_start = y_start = low_x = low_y = span_x = span_y = float32(0)
    ok = 0
    for _ in range(ROUNDS):
        if thread > 0:  # the first slice starts at the origin
            x_start = ends[0, thread - 1]
            y_start = ends[1, thread - 1]
        x, y = x_start, y_start
        min_x = min_y = float32(np.inf)
        max_x = max_y = float32(-np.inf)
        for i in range(start, stop):
            min_x, max_x = min(min_x, x), max(max_x, x)
            min_y, max_y = min(min_y, y), max(max_y, y)
            x, y = _step(maps, thresholds, n_maps, draws[i], x, y)
        box[0, thread], box[1, thread] = min_x, min_y
        box[2, thread], box[3, thread] = max_x, max_y
        cuda.syncthreads()  # the old ends are read, the slices' boxes are written
        ends[0, thread], ends[1, thread] = x, y
        half = THREADS // 2
        while half > 0:
            if thread < half:
                for k in range(2):
                    box[k, thread] = min(box[k, thread], box[k, thread + half])
                    box[k + 2, thread] = max(box[k + 2, thread], box[k + 2, thread + half])
            cuda.syncthreads()
            half //= 2
        low_x, low_y = min(box[0, 0], float32(0)), min(box[1, 0], float32(0))
        span_x, span_y = box[2, 0] - box[0, 0], box[3, 0] - box[1, 0]
        apart = 0 if span_x > 0 and span_y > 0 else 1  # written so that NaN counts as apart
        if thread > 0 and start < n and not apart:
            near_x = abs(ends[0, thread - 1] - x_start) * float32(size) <= float32(JOINED) * span_x
            near_y = abs(ends[1, thread - 1] - y_start) * float32(size) <= float32(JOINED) * span_y
            apart = 0 if near_x and near_y else 1
        if cuda.syncthreads_or(apart) == 0:
            ok = 1
            break
    if thread == 0:
        joined[picture] = ok
    if patches:
        for at in range(thread, last.shape[1], THREADS):
            last[picture, at] = -1
    else:
        for word in range(thread, bits.shape[1], THREADS):
            bitmap[word] = uint32(0)
    cuda.syncthreads()
    stride = (size + 7) // 8
    if not ok:
        stop = start
    x, y = x_start, y_start
    for i in range(start, stop):
        column = _pixel(x, low_x, span_x, size, padding)
        row = _pixel(y, low_y, span_y, size, padding)
        if patches:
            cuda.atomic.max(last, (picture, row * size + column), i)
        else:
            byte = (size - 1 - row) * stride + column // 8  # turned top to bottom
            bit = uint32(1 << (8 * (byte % 4) + 7 - column % 8))
            if bitmap[byte // 4] & bit == 0:  # most points fall on pixels that are set already
                cuda.atomic.or_(bitmap, byte // 4, bit)
        x, y = _step(maps, thresholds, n_maps, draws[i], x, y)
    if not patches:
        cuda.syncthreads()
        for word in range(thread, bits.shape[1], THREADS):
            bits[picture, word] = bitmap[word]


@cuda.jit(device=True)
def _mask(seed, point):
    """Uniform in 1..511 from seed and point number, by SplitMix64's finalizer."""
    word = seed + np.uint64(point + 1) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    return int(((word >> np.uint64(32)) * np.uint64(511)) >> np.uint64(32)) + 1


@cuda.jit
def _paint(last, seeds, size, bits):
    """One block per picture: the last point at each pixel, last [n, size**2], becomes a drawing, bits [n, words]."""
    picture = cuda.blockIdx.x
    stride = (size + 7) // 8
    for word in range(cuda.threadIdx.x, bits.shape[1], THREADS):
        value = 0
        for bit in range(32):
            byte = 4 * word + bit // 8
            row = size - 1 - byte // stride
            column = 8 * (byte % stride) + 7 - bit % 8
            shown = -1
            for digit in range(9):
                r = row - 1 - digit // 3
                c = column - 1 - digit % 3
                if r >= 0 and c >= 0 and c < size and column < size:
                    shown = max(shown, last[picture, r * size + c] * 16 + digit)
            if shown >= 0 and (_mask(seeds[picture], shown >> 4) >> (8 - (shown & 15))) & 1:
                value |= 1 << bit
        bits[picture, word] = uint32(value)
