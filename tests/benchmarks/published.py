"""The published FractalDB renderer's algorithm in plain Python: what the compiled kernels are measured against.

Written from its description: the orbit is a loop over points in Python lists; for each point a
3 x 3 picture is built pixel by pixel from random digits and pasted; each of four flips is saved as
an RGB PNG.  It is the same picture, so it is a reference for tests as well.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence

from PIL import Image

from fractaldb.chaos import hue_table

PADDING = 6  # pixels
GRAY = (127, 127, 127)
HUES = [tuple(color) for color in hue_table()[1:].tolist()]

Points = tuple[list[float], list[float]]


def orbit(maps: Sequence[Sequence[float]], probs: Sequence[float], draws: Sequence[float]) -> Points:
    """The chaos game from (0, 0): x and y of as many points as there are draws, fewer where it diverges."""
    xs, ys = [0.0], [0.0]
    for draw in draws[:-1]:
        x, y = xs[-1], ys[-1]
        total = 0.0
        for (a, b, c, d, e, f), p in zip(maps, probs, strict=True):
            total += p
            if total >= draw:
                x, y = a * x + b * y + e, c * x + d * y + f
                break
        xs.append(x)
        ys.append(y)
    for axis in (xs, ys):
        first = next((i for i, value in enumerate(axis) if math.isnan(value)), None)
        if first is not None:
            del xs[max(first - 100, 0) :], ys[max(first - 100, 0) :]
    return xs, ys


def to_pixels(values: list[float], size: int) -> list[int]:
    """One axis, rescaled to the picture within its padding and truncated."""
    low = min(values)
    if low < 0:
        values = [value - low for value in values]
    low, high = min(values), max(values)
    return [int(value / (high - low) * float(size - 2 * PADDING) + float(PADDING)) for value in values]


def draw(points: Points, draw_type: str, size: int, rng: random.Random) -> Image.Image:
    """One of the four draw types, turned top to bottom; ``rng`` gives the patches."""
    image = Image.new("RGB", (size, size))
    columns, rows = (to_pixels(axis, size) for axis in points)
    for i in range(len(columns)):
        color = HUES[i % len(HUES)] if draw_type.endswith("color") else GRAY
        if draw_type.startswith("patch"):
            image.paste(patch(color, rng), (columns[i] + 1, rows[i] + 1))
        else:
            image.putpixel((columns[i], rows[i]), color)
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def patch(color: tuple[int, ...], rng: random.Random) -> Image.Image:
    """A 3 x 3 picture of nine random digits, not all zero."""
    digits = f"{rng.randint(1, 511):09b}"
    image = Image.new("RGB", (3, 3))
    for k in range(9):
        image.putpixel((k % 3, k // 3), color if digits[k] == "1" else (0, 0, 0))
    return image


def flips(image: Image.Image) -> list[Image.Image]:
    """The picture as it is, turned top to bottom, left to right, and both."""
    top_bottom = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    left_right = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return [image, top_bottom, left_right, top_bottom.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]


def save(image: Image.Image) -> list[bytes]:
    """The four flips as RGB PNG files."""
    files = []
    for flipped in flips(image):
        file = io.BytesIO()
        flipped.save(file, format="PNG")
        files.append(file.getvalue())
    return files
