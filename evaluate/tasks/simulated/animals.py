"""The species of the simulated camera traps, and the drawing of one animal.

Pure: everything follows from seeds and poses.  Lengths are fractions of the picture's side, with y
pointing down, except in an animal's own frame: feet at 0, up and forward positive, trunk length
about 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synthgen.common.seeds import derive_seed

Array = NDArray[np.float32]

# Trunk length and depth; leg length and thickness, number; neck length, angle; head, snout, ear; tail
# length, thickness, angle; horns; trunk length in the picture.  Angles in degrees above horizontal.
KINDS = {
    "long-legged grazer": (0.95, 0.36, 0.62, 0.050, 4, 0.46, 58, 0.22, 0.13, 0.16, 0.13, 0.040, -60, 0.40, 0.36),
    "low-headed rooter": (1.00, 0.54, 0.26, 0.075, 4, 0.12, -15, 0.34, 0.26, 0.13, 0.20, 0.020, -70, 0.0, 0.36),
    "long-tailed stalker": (1.10, 0.31, 0.36, 0.070, 4, 0.16, 30, 0.19, 0.05, 0.08, 0.80, 0.045, 35, 0.0, 0.38),
    "long-eared hopper": (0.72, 0.50, 0.16, 0.090, 4, 0.12, 50, 0.25, 0.05, 0.50, 0.08, 0.100, 30, 0.0, 0.27),
    "two-legged strutter": (0.66, 0.42, 0.44, 0.036, 2, 0.44, 72, 0.16, 0.17, 0.0, 0.55, 0.130, 25, 0.0, 0.25),
    "heavy lumberer": (1.10, 0.66, 0.30, 0.140, 4, 0.14, 22, 0.36, 0.12, 0.14, 0.05, 0.050, -40, 0.0, 0.42),
    "flat digger": (1.15, 0.44, 0.09, 0.070, 4, 0.08, -5, 0.24, 0.26, 0.06, 0.60, 0.065, -4, 0.0, 0.34),
    "bushy-tailed trotter": (0.85, 0.29, 0.46, 0.050, 4, 0.22, 42, 0.19, 0.15, 0.17, 0.52, 0.125, -18, 0.0, 0.34),
}
COATS = ("plain", "striped", "spotted", "two-tone")
COLORS = {  # reflectances of the coat and of its markings, red green blue
    "rust": ((0.60, 0.28, 0.12), (0.93, 0.84, 0.70)),
    "black": ((0.10, 0.09, 0.09), (0.86, 0.84, 0.80)),
    "sand": ((0.82, 0.68, 0.44), (0.26, 0.16, 0.09)),
    "grey": ((0.50, 0.51, 0.53), (0.13, 0.13, 0.14)),
    "cream": ((0.94, 0.90, 0.80), (0.36, 0.20, 0.10)),
    "umber": ((0.30, 0.19, 0.11), (0.87, 0.73, 0.50)),
    "golden": ((0.86, 0.58, 0.14), (0.16, 0.10, 0.05)),
    "slate": ((0.22, 0.27, 0.33), (0.78, 0.82, 0.85)),
}
MOST_SPECIES = len(KINDS) * len(COATS) * len(COLORS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Species:
    """What all animals of a class have in common."""

    name: str
    plan: tuple[float, ...]  # the columns of KINDS, varied by the species
    coat: str  # one of COATS
    colors: Array  # float32 [2, 3], reflectances of coat and markings
    spots: Array  # float32 [n_spots, 2], centres in the trunk's frame
    stripes: float  # stripes along one trunk length


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """The position and posture of one animal."""

    x: float = 0.5  # trunk's middle
    feet: float = 0.75
    scale: float = 1.0  # 1 at the distance at which KINDS gives trunk lengths
    facing: int = 1  # 1 to the right, -1 to the left
    turn: float = 1.0  # foreshortening of lengths along the trunk
    stride: float = 0.0  # phase of the gait, radians
    head: float = 0.0  # 0 held up, 1 down at the ground
    tail: float = 0.0  # degrees raised
    blur: float = 0.0  # distance moved during the exposure


def generator(*key: int | str) -> np.random.Generator:
    """A separate generator for each thing that is drawn."""
    return np.random.default_rng(derive_seed(*key))


def species(seed: int, y: int) -> Species:
    """The species of class ``y`` (from 1; 0 is empty).  Neighbours differ in kind, coat and colour."""
    order = generator(seed, "kinds").permutation(len(KINDS))
    round_, at = divmod(y - 1, len(KINDS))
    kind = list(KINDS)[order[at]]
    coat = COATS[(round_ + at + order[0]) % len(COATS)]
    color = list(COLORS)[(round_ // len(COATS) + 3 * round_ + 3 * at + order[1]) % len(COLORS)]
    rng = generator(seed, "species", y)
    plan = np.array(KINDS[kind])
    varied = np.exp(rng.normal(0, 0.10, len(plan)))
    varied[[4, 6, 12]] = 1  # the number of legs and the angles stay
    grid = np.stack(np.meshgrid(np.linspace(-0.75, 0.75, 9), np.linspace(-0.36, 0.36, 5)), -1).reshape(-1, 2)
    return Species(
        name=f"{color} {coat} {kind}",
        plan=tuple((plan * varied).tolist()),
        coat=coat,
        colors=np.array(COLORS[color], np.float32) * np.float32(rng.uniform(0.92, 1.08)),
        spots=(grid + rng.normal(0, 0.028, grid.shape)).astype(np.float32),
        stripes=float(rng.uniform(4.5, 6.5)),
    )


def burst_pose(rng: np.random.Generator, horizon: float, at: int, *, slow: bool) -> Pose:
    """The individual of a burst in frame ``at``; ``slow`` exposures blur more."""
    near = float(rng.beta(1.4, 1.4))
    facing = int(rng.choice((-1, 1)))
    speed = float(rng.choice((0.0, 0.03, 0.06, 0.10))) * (0.6 + 0.8 * near)  # picture sides per second
    x, head = float(rng.uniform(0.25, 0.75)), float(rng.choice((0.0, 0.0, 0.3, 1.0)) if speed < 0.05 else 0.0)
    turn, stride, tail = float(rng.uniform(0.72, 1.0)), float(rng.uniform(0, 6.3)), float(rng.normal(0, 10))
    farthest = max(horizon + 0.16, 0.58)
    return Pose(
        x=min(max(x + facing * speed * (at - 1), 0.08), 0.92),  # some of it stays in view
        feet=farthest + near * (0.90 - farthest),
        scale=0.65 + 0.80 * near,
        facing=facing,
        turn=turn,
        stride=stride + 1.1 * at * (speed > 0),
        head=min(max(head + 0.15 * np.sin(stride + at), 0.0), 1.0),
        tail=tail + 4 * at,
        blur=speed * (0.35 if slow else 0.12),
    )


def _toward(start: NDArray[np.float64], degrees: float, length: float) -> NDArray[np.float64]:
    angle = np.radians(degrees)
    return start + length * np.array([np.cos(angle), np.sin(angle)])


def skeleton(plan: tuple[float, ...], pose: Pose) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The animal as tapered capsules, float64 [n, 7], and its eye, float64 [2], in its own frame.

    A row holds the two ends' x, y, their radii, and the brightness (the far side's legs are darker).
    """
    length, depth, leg, thick, n_legs, neck, neck_angle, head, snout, ear, tail, bush, tail_angle, horn, _ = plan
    radius = depth / 2
    middle = leg + radius
    hip, shoulder = np.array([radius - length / 2, middle]), np.array([length / 2 - radius * 0.9, middle * 1.02])
    parts: list[tuple[NDArray[np.float64], NDArray[np.float64], float, float, float]] = []
    on_trunk = (hip, shoulder) if n_legs == 4 else (np.array([0.0, middle]),)
    for side, bright in ((0, 0.62), (1, 1.0)):
        for pair, top in enumerate(on_trunk):
            swing = 0.34 * leg * np.sin(pose.stride + np.pi * (side + pair * 0.75)) + (0.12 * leg * (1 - 2 * side)) * (
                n_legs == 2
            )
            foot = np.array([top[0] + swing + 0.02 - 0.05 * side, thick * 0.6])
            knee = (top + foot) / 2 + np.array([(-0.22 if pair else 0.18) * leg * 0.5, 0.0])
            parts += [(top, knee, thick * 1.7, thick, bright), (knee, foot, thick, thick * 0.8, bright)]
    if tail > 0:
        root = hip + np.array([-radius * 0.85, radius * 0.4])
        bend = _toward(root, 180 - tail_angle * 0.3 - pose.tail, tail * 0.5)
        tip = _toward(bend, 180 - tail_angle * 1.5 - pose.tail, tail * 0.5)
        parts += [(root, bend, bush * 0.7, bush, 1.0), (bend, tip, bush, bush * 0.55, 1.0)]
    angle = neck_angle - pose.head * (neck_angle + 50)
    throat = shoulder + np.array([radius * 0.5, radius * 0.35])
    nape = _toward(throat, angle, neck + 0.02)
    level = -12 - 45 * pose.head
    skull = _toward(nape, level, head * 0.45)
    muzzle = _toward(skull, level - 6, head * 0.4 + snout)
    parts += [
        (hip, shoulder, radius, radius * 0.93, 1.0),
        (shoulder, nape, radius * 0.62, min(radius * 0.55, head * 0.42), 1.0),
        (nape, skull, head * 0.42, head * 0.40, 1.0),
        (skull, muzzle, head * 0.36, head * 0.17, 1.0),
    ]
    crown = nape + np.array([0.0, head * 0.28])
    for back, bright in ((18, 0.7), (0, 1.0)):
        if ear > 0:
            parts.append((crown, _toward(crown, level + 122 + back, ear), ear * 0.16 + 0.02, ear * 0.10, bright))
        if horn > 0:
            fork = _toward(crown, level + 100 + back, horn * 0.5)
            for tine, share in ((back - 20, 0.5), (back + 35, 0.35)):
                end = _toward(fork, level + 90 + tine, horn * share)
                parts += [(crown, fork, 0.024, 0.02, bright), (fork, end, 0.02, 0.012, bright)]
    rows = np.array([[*a, *b, ra, rb, bright] for a, b, ra, rb, bright in parts])
    return rows, _toward(skull, level + 80, head * 0.18)


def _markings(animal: Species, x: Array, y: Array) -> Array:
    """How much of the markings' colour the coat shows, 0..1, at points of the trunk's frame."""
    shown: NDArray[np.floating] = np.zeros_like(x)
    if animal.coat == "striped":
        wave = np.sin(2 * np.pi * animal.stripes * (x + 0.05 * np.sin(9 * y)))
        shown = wave * 4 + 0.3
    elif animal.coat == "spotted":
        nearest = np.full(x.shape, np.inf, np.float32)
        for cx, cy in animal.spots:
            nearest = np.minimum(nearest, (x - cx) ** 2 + (y - cy) ** 2)
        shown = (0.062 - np.sqrt(nearest)) * 60
    elif animal.coat == "two-tone":  # a saddle, as tapirs have
        shown = (0.30 - np.abs(x + 0.12)) * 25
    return np.asarray(np.clip(shown, 0, 1), np.float32)


def draw_animal(animal: Species, pose: Pose, size: int) -> tuple[Array, Array, tuple[float, float]]:
    """Reflectance float32 [size, size, 3], coverage float32 [size, size] (0..1), and the eye's (x, y).

    Distances to the capsules are sampled on a grid twice as fine, then averaged.
    """
    parts, eye = skeleton(animal.plan, pose)
    unit = animal.plan[-1] / animal.plan[0] * pose.scale  # picture sides per unit of the animal's frame
    across = unit * pose.turn * pose.facing
    fine = (np.arange(2 * size, dtype=np.float32) + 0.5) / (2 * size)
    reach = np.array([parts[:, [0, 2]].min() - 0.2, parts[:, [0, 2]].max() + 0.2]) * across + pose.x
    top = pose.feet - (parts[:, [1, 3]].max() + 0.2) * unit
    columns = _window(reach.min() - pose.blur, reach.max() + pose.blur, size)
    rows = _window(top, pose.feet + 0.1 * unit, size)
    color = np.zeros((size, size, 3), np.float32)
    cover = np.zeros((size, size), np.float32)
    x = ((fine[None, 2 * columns.start : 2 * columns.stop] - pose.x) / across).astype(np.float32)
    y = ((pose.feet - fine[2 * rows.start : 2 * rows.stop, None]) / unit).astype(np.float32)
    if x.size == 0 or y.size == 0:
        return color, cover, (0.0, 0.0)
    x, y = np.broadcast_arrays(x, y)
    outside = np.full(x.shape, np.inf, np.float32)
    bright = np.zeros(x.shape, np.float32)
    for ax, ay, bx, by, ra, rb, shade in parts.astype(np.float32):
        dx, dy = bx - ax, by - ay
        along = np.clip(((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-6), 0, 1)
        gap = np.sqrt((x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2) - (ra + along * (rb - ra))
        bright = np.where((gap < outside) | ((gap < 0) & (shade >= bright)), shade, bright)
        outside = np.minimum(outside, gap)
    middle, depth = animal.plan[2] + animal.plan[1] / 2, animal.plan[1]
    mix = _markings(animal, x, y - np.float32(middle))[..., None]
    coat = animal.colors[0] * (1 - mix) + animal.colors[1] * mix
    lit = (
        bright * (0.90 + 0.30 * np.clip((y - middle) / depth, -0.7, 0.7)) * (0.72 + 0.28 * np.clip(-outside * 18, 0, 1))
    )
    inside = np.clip(0.5 - outside * (2 * size * unit), 0, 1)
    painted = np.concatenate([coat * (lit * inside)[..., None], inside[..., None]], -1)
    painted = _moved(painted, round(pose.blur * 2 * size))
    painted = painted.reshape(painted.shape[0] // 2, 2, painted.shape[1] // 2, 2, 4).mean((1, 3))
    cover[rows, columns] = painted[..., 3]
    color[rows, columns] = painted[..., :3] / np.maximum(painted[..., 3:], 1e-3)
    return color, cover, (float(pose.x + eye[0] * across), float(pose.feet - eye[1] * unit))


def _window(low: float, high: float, size: int) -> slice:
    return slice(int(np.clip(low * size - 1, 0, size)), int(np.clip(high * size + 2, 0, size)))


def _moved(picture: Array, steps: int) -> Array:
    """The mean over ``steps`` positions one pixel apart, [height, width, channels]."""
    if steps < 2:
        return picture
    before = steps // 2
    padded = np.pad(picture, ((0, 0), (before + 1, steps - 1 - before), (0, 0)), mode="edge")
    total = np.cumsum(padded, axis=1, dtype=np.float64)
    return np.asarray((total[:, steps:] - total[:, :-steps]) / steps, np.float32)
