"""The places, light and pictures of the simulated camera traps.

Pure: everything follows from seeds; no file is read or written.  A picture is composed of
reflectances (background, animal, plants in front of it), which are then lit by one light, so an animal
is lit like its surroundings.  Lengths are fractions of the picture's side, y pointing down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from fractaldb import chaos

from .animals import Array, Pose, Species, draw_animal, generator

# a, b, c, d, e, f, p per row, as in fractaldb: x' = ax + by + e, y' = cx + dy + f
PLANTS = {
    "fern": (  # Barnsley, Fractals Everywhere (1988)
        (0.0, 0.0, 0.0, 0.16, 0.0, 0.0, 0.02),
        (0.85, 0.04, -0.04, 0.85, 0.0, 1.6, 0.78),
        (0.20, -0.26, 0.23, 0.22, 0.0, 1.6, 0.10),
        (-0.15, 0.28, 0.26, 0.24, 0.0, 0.44, 0.10),
    ),
    "tree": (  # the same book's tree, its trunk thicker
        (0.06, 0.0, 0.0, 0.5, 0.0, 0.0, 0.12),
        (0.42, -0.42, 0.42, 0.42, 0.0, 0.2, 0.38),
        (0.42, 0.42, -0.42, 0.42, 0.0, 0.2, 0.38),
        (0.20, 0.0, 0.0, 0.20, 0.0, 0.22, 0.12),
    ),
    "conifer": (
        (0.03, 0.0, 0.0, 0.30, 0.0, 0.0, 0.05),
        (0.80, 0.0, 0.0, 0.80, 0.0, 1.0, 0.50),
        (0.10, -0.42, 0.26, 0.12, 0.0, 0.85, 0.225),
        (-0.10, 0.42, 0.26, 0.12, 0.0, 0.85, 0.225),
    ),
    "shrub": (
        (0.04, 0.0, 0.0, 0.40, 0.0, 0.0, 0.07),
        (0.56, -0.33, 0.33, 0.50, 0.0, 0.28, 0.33),
        (0.56, 0.33, -0.33, 0.50, 0.0, 0.28, 0.33),
        (0.50, 0.0, 0.0, 0.52, 0.0, 0.42, 0.27),
    ),
}
GROUNDS = (  # reflectances: litter, dry grass, red soil, sand, meadow, dark mud, pale rock
    (0.42, 0.33, 0.24),
    (0.66, 0.57, 0.34),
    (0.58, 0.36, 0.24),
    (0.72, 0.64, 0.50),
    (0.40, 0.50, 0.24),
    (0.27, 0.23, 0.20),
    (0.56, 0.55, 0.53),
)
FOLIAGE = ((0.24, 0.40, 0.15), (0.38, 0.46, 0.18), (0.16, 0.30, 0.18), (0.50, 0.48, 0.20), (0.33, 0.42, 0.30))
ROOTS = (
    (0.0, 0.08),
    (0.52, 0.62),
    (0.74, 0.82),
    (1.0, 1.1),
)  # y from .. to, of each layer's plants; the first from the horizon
MASK_SIZE = 224  # pixels of a plant's drawing before it is scaled into the scene


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """Plants that hide what is behind them."""

    base: float  # y at which they grow; animals with feet above it are behind
    color: Array  # float32 [size, size, 3], reflectance times cover
    cover: Array  # float32 [size, size], 0..1
    distance: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """What one camera sees when no animal is there."""

    horizon: float
    color: Array  # float32 [size, size, 3], reflectance
    distance: Array  # float32 [size, size], 1 where a flash lights well
    layers: tuple[Layer, ...]  # from far to near
    canopy: Array  # float32 [size, size], share of sunlight let through
    tint: Array  # float32 [3], the camera's colour balance
    flash: tuple[float, float, float]  # x and y of the flash's centre, its width
    grain: float  # noise at mid brightness


def _noise(rng: np.random.Generator, size: int, cells: int, octaves: int = 3) -> Array:
    """Smooth noise, float32 [size, size], about -1..1; the draws do not depend on the size."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        grid = rng.uniform(-1, 1, (cells << octave, cells << octave)).astype(np.float32)
        total += np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)) * 0.6**octave
    return total


def _float(values: ArrayLike) -> Array:
    return np.array(values, np.float32)


def _grid(size: int) -> tuple[Array, Array]:
    """x and y of the pixels' centres, float32 [1, size] and [size, 1]."""
    centres = _float((np.arange(size) + 0.5) / size)
    return centres[None, :], centres[:, None]


def plant_mask(kind: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One individual of a plant, drawn as a fractal: uint8 [MASK_SIZE, MASK_SIZE], 0 or 255, root at the bottom."""
    table = np.array(PLANTS[kind])
    maps = table[:, :6] * rng.normal(1, 0.06, (len(table), 6))
    points = chaos.orbit(maps, np.cumsum(table[:, 6]), rng.random(30_000))
    return np.asarray(chaos.draw_points(chaos.to_pixels(points, MASK_SIZE, 2), MASK_SIZE, False)[::-1] * np.uint8(255))


def _plant(
    layer: Layer, mask: NDArray[np.uint8], place: tuple[float, float], shape: tuple[float, float], color: Array
) -> None:
    """Draw a plant into a layer: ``place`` is its root's x and y, ``shape`` its width and height."""
    size = layer.cover.shape[0]
    width, height = (max(2, round(length * size)) for length in shape)
    thin = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.BOX), np.float32) / 255
    drawn = _float(np.clip(thin * 1.7, 0, 1))
    left, top = round(place[0] * size - width / 2), round(place[1] * size - height)
    rows = slice(max(top, 0), min(top + height, size))
    columns = slice(max(left, 0), min(left + width, size))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    drawn = drawn[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    shade = np.linspace(1.15, 0.7, height, dtype=np.float32)[rows.start - top : rows.stop - top, None]
    _cover(layer, (rows, columns), color * shade[..., None], drawn)


def _cover(layer: Layer, at: tuple[slice, slice], color: Array, cover: Array) -> None:
    below = layer.cover[at]
    layer.color[at] += (color - layer.color[at]) * cover[..., None]
    layer.cover[at] = below + (1 - below) * cover


def _far(rng: np.random.Generator, size: int, horizon: float, leaves: Array | None) -> tuple[Array, Array]:
    """Sky and hills, or a wall of ``leaves``: reflectance [size, size, 3] and distance [size, size]."""
    x, y = _grid(size)
    wall = 1 + 0.6 * _noise(rng, size, 7, 4)[..., None]
    if leaves is not None:
        return _float(leaves * 0.55 * wall), np.full((size, size), 4.5, np.float32)
    sky = _float([0.62, 0.74, 0.92]) * np.float32(rng.uniform(0.85, 1.15)) + np.float32(rng.uniform(0, 0.15))
    pale = 0.6 * np.clip(y / horizon, 0, 1) + 0 * x
    color, distance = sky + (1 - sky) * pale[..., None], np.full((size, size), 30.0, np.float32)
    hills = _float(FOLIAGE[rng.integers(len(FOLIAGE))])
    for ridge in range(int(rng.integers(1, 4))):
        edge = horizon - (0.22 - 0.07 * ridge) * rng.uniform(0.5, 1.1) + np.zeros_like(x)
        for k in (1, 2, 4):
            edge += rng.normal(0, 0.045 / k) * np.sin(2 * np.pi * (k * x * rng.uniform(0.6, 1.2) + rng.random()))
        cover = np.clip((y - edge) * size + 0.5, 0, 1)[..., None]
        haze = 0.5 - 0.15 * ridge
        tone = (hills * (0.5 + 0.25 * ridge) * (1 - haze) + sky * haze) * (0.6 + 0.4 * wall)
        color = color * (1 - cover) + tone * cover
        distance = np.where(cover[..., 0] > 0.5, 7.0 - ridge, distance)
    return _float(color), _float(distance)


def _ground(rng: np.random.Generator, size: int, horizon: float, closed: bool) -> tuple[Array, Array]:
    """Everything but plants: reflectance float32 [size, size, 3] and distance float32 [size, size]."""
    x, y = _grid(size)
    leaves = _float(FOLIAGE[rng.integers(len(FOLIAGE))])
    color, distance = _far(rng, size, horizon, leaves if closed else None)
    soil = _float(GROUNDS[rng.integers(len(GROUNDS))]) * np.float32(rng.uniform(0.8, 1.15))
    near = np.clip((y - horizon) / (1 - horizon), 0, 1)
    rough = _noise(rng, size, 5, 5) * (0.35 + 0.65 * near)
    litter = soil * (1 + 0.22 * rough[..., None] + 0.10 * near[..., None])
    grown = np.clip(_noise(rng, size, 3, 3) * 1.6 + rng.uniform(-1.0, 0.6), 0, 1)[..., None]
    litter = litter * (1 - 0.6 * grown) + leaves * 0.6 * grown * (1 + 0.3 * rough[..., None])
    path = np.clip(1.4 - np.abs(x - rng.uniform(0.2, 0.8) - rng.uniform(-0.5, 0.5) * near) / (0.05 + 0.16 * near), 0, 1)
    litter = litter * (1 + rng.choice([0.0, 0.25]) * path[..., None])
    cover = np.clip((y - horizon - 0.01 * rough) * size + 0.5, 0, 1)[..., None]
    distance = np.where(cover[..., 0] > 0.5, np.minimum(0.8 / (near + 0.08), 5.0), distance)
    return _float(np.maximum(color * (1 - cover) + litter * cover, 0.02)), _float(distance)


def _nothing(size: int, base: float, distance: float) -> Layer:
    color, cover = np.zeros((size, size, 3), np.float32), np.zeros((size, size), np.float32)
    return Layer(base=base, color=color, cover=cover, distance=distance)


def _over(color: Array, distance: Array, layer: Layer) -> tuple[Array, Array]:
    behind = 1 - layer.cover
    return color * behind[..., None] + layer.color, distance * behind + layer.distance * layer.cover


@lru_cache(maxsize=6)
def scene(seed: int, location: int, size: int) -> Scene:
    """The fixed view of a camera location; its composition does not depend on the picture's size."""
    rng = generator(seed, "location", location)
    horizon = float(rng.uniform(0.22, 0.46))
    closed = bool(rng.random() < 0.45)  # inside a forest, or open land
    color, distance = _ground(rng, size, horizon, closed)
    kinds = [str(kind) for kind in rng.permutation(list(PLANTS))[: rng.integers(2, 4)]]
    greens = [_float(FOLIAGE[k]) for k in rng.permutation(len(FOLIAGE))[:3]]
    bark = _float([0.36, 0.28, 0.21]) * np.float32(rng.uniform(0.5, 1.5))
    x, y = _grid(size)
    layers = [_nothing(size, base, far) for base, far in ((horizon, 3.5), (0.62, 1.7), (0.82, 1.0), (2.0, 0.55))]
    for depth, (layer, roots, fewest, most) in enumerate(zip(layers, ROOTS, (5, 0, 0, 0), (16, 4, 3, 4), strict=True)):
        low, high = horizon * (depth == 0) + np.array(roots)
        for _ in range(int(rng.integers(1, 6)) if closed and depth < 2 else 0):  # trunks, cut off at the picture's top
            middle = rng.random() + rng.normal(0, 0.05) * y
            wide, root = rng.uniform(0.012, 0.03) * (1 + depth), rng.uniform(low, high)
            off = (x - middle) / (wide * (0.8 + 0.4 * np.clip(y / root, 0, 1.2) ** 6))
            cover = np.clip((1 - np.abs(off)) * wide * size, 0, 1) * np.clip((root - y) * size + 0.5, 0, 1)
            round_ = (1 - 0.45 * np.clip(off, -1, 1) ** 2) * rng.uniform(0.8, 1.1)
            _cover(layer, (slice(None), slice(None)), bark * round_[..., None], cover)
        for _ in range(int(rng.integers(fewest, most))):
            kind, green = kinds[rng.integers(len(kinds))], greens[rng.integers(len(greens))]
            tall = (
                rng.uniform(0.14, 0.34) * (1 + 0.25 * depth) * (1.5 if kind in ("tree", "conifer") and depth < 2 else 1)
            )
            place = (rng.beta(*((1, 1) if depth == 0 else (0.5, 0.5))) * 1.1 - 0.05, rng.uniform(low, high))
            tone = green * np.float32(rng.uniform(0.7, 1.15) * (1 - 0.12 * depth))
            _plant(layer, plant_mask(kind, rng), place, (tall * rng.uniform(0.6, 1.0), tall), tone)
    color, distance = _over(color, distance, layers.pop(0))
    return Scene(
        horizon=horizon,
        color=color,
        distance=distance,
        layers=tuple(layers),
        canopy=np.clip(0.7 + _noise(rng, size, 5, 3) * (0.7 if closed else 0.15), 0.1, 1.2).astype(np.float32),
        tint=rng.normal(1, 0.05, 3).astype(np.float32),
        flash=(float(rng.uniform(0.4, 0.6)), float(rng.uniform(0.5, 0.65)), float(rng.uniform(0.35, 0.6))),
        grain=float(rng.uniform(0.012, 0.03)),
    )


def is_night(when: datetime) -> bool:
    """Whether the camera takes grey infrared pictures (before 6 and from 19 o'clock)."""
    return not 6 <= when.hour < 19


def _light(color: Array, distance: Array, view: Scene, when: datetime, cloud: float) -> Array:
    """What the camera sees of reflectances [size, size, 3]: float32 [size, size, 3], about 0..1."""
    x, y = _grid(color.shape[0])
    if is_night(when):
        infrared = color @ _float([0.3, 0.5, 0.2])
        off = (x - view.flash[0]) ** 2 + (y - view.flash[1]) ** 2
        reach = 1.25 * np.exp(-off / (2 * view.flash[2] ** 2)) / (0.55 + 0.45 * distance**1.5)
        grey = 0.03 + infrared**0.8 * reach
        return np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    hour = when.hour + when.minute / 60
    height = np.sin(np.pi * (hour - 5.5) / 14)  # of the sun, 0..1
    warm = (1 - height) ** 1.3
    sun = _float([1.05, 0.95 - 0.35 * warm, 0.82 - 0.7 * warm])
    sky = _float([0.88, 0.95, 1.05]) * np.float32(0.5 + 0.35 * cloud)
    there_and_back = np.concatenate([view.canopy, view.canopy[:, ::-1]], axis=1)
    canopy = np.roll(there_and_back, round((hour - 12) * 0.05 * len(color)), axis=1)[:, : len(color)]  # shadows wander
    side = 1 + 0.5 * (hour - 12.5) / 7 * (x - 0.5) * 2
    direct = ((1 - cloud) * (0.3 + 0.7 * height) * canopy * side)[..., None]
    lit = color * (sky * (0.4 + 0.6 * height) + sun * direct) * view.tint
    return _float(lit * (0.42 / max(float(lit.mean()), 0.05)) ** 0.6)


def picture(
    view: Scene,
    animal: Species | None,
    pose: Pose,
    *,
    when: datetime,
    cloud: float,
    celsius: int,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """One exposure, uint8 [size, size, 3]; ``cloud`` is the cover 0..1, ``rng`` draws the sensor's noise."""
    size = view.color.shape[0]
    color, distance, layers, glint = view.color, view.distance, list(view.layers), None
    if animal is not None:
        body, shadow, glint = _animal_layers(view, animal, pose, size)
        layers = sorted([*layers, body], key=lambda layer: layer.base)
        color, distance = _over(color, distance, shadow)
    for layer in layers:
        color, distance = _over(color, distance, layer)
        if glint is not None and layer.base > pose.feet:
            glint = glint * (1 - layer.cover)
    seen = _light(color, distance, view, when, cloud)
    night = is_night(when)
    if night and glint is not None:
        seen = seen + glint[..., None]
    noise = rng.normal(0, 1, (size, size, 1 if night else 3)).astype(np.float32)
    grain = view.grain * (1.3 if night else 1.0) * (0.5 + np.sqrt(np.clip(seen, 0, 1)))
    image = Image.fromarray((np.clip(seen + noise * grain, 0, 1) * 255 + 0.5).astype(np.uint8))
    _stamp(image, when, celsius)
    return np.asarray(image)


def _animal_layers(view: Scene, animal: Species, pose: Pose, size: int) -> tuple[Layer, Layer, Array]:
    """The animal, the shade under it and the shine of its eye (float32 [size, size])."""
    color, cover, (eye_x, eye_y) = draw_animal(animal, pose, size)
    near = np.clip((pose.feet - view.horizon) / (1 - view.horizon), 0, 1)
    distance = float(0.8 / (near + 0.08))
    body = Layer(base=pose.feet, color=color * cover[..., None], cover=cover, distance=distance)
    x, y = _grid(size)
    wide = animal.plan[-1] * pose.scale * 0.55
    shade = 0.45 * np.exp(-(((x - pose.x) / wide) ** 4) - ((y - pose.feet) / (0.16 * wide)) ** 2)
    shadow = _nothing(size, pose.feet, distance)
    shadow = replace(shadow, cover=shade.astype(np.float32))
    glint = 0.9 * np.exp(-((x - eye_x) ** 2 + (y - eye_y) ** 2) / (2 * (0.011 * pose.scale) ** 2))
    return body, shadow, (glint * (cover > 0.2)).astype(np.float32)


@lru_cache(maxsize=4)
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)


def _stamp(image: Image.Image, when: datetime, celsius: int) -> None:
    """The camera's dark strip with date, time and temperature, along the bottom."""
    size = image.width
    height = max(6, size // 14)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, size - height, size, size), fill=(14, 14, 16))
    text = f"{when:%Y-%m-%d  %H:%M:%S}   {celsius}C"
    draw.text((height // 3, size - height), text, fill=(225, 225, 220), font=_font(max(5, round(height * 0.75))))
