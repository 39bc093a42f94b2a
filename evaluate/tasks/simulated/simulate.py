"""A simulated camera-trap set in the on-disk layout of iWildCam-WILDS v2.0.

Each camera location has its own view and its own few species, so the background predicts the
species at the training locations and misleads at new ones.  A set is planned first (which burst of
which species, where and when: pure), then drawn image by image, each from its own seed.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import with_config

from synthgen.common.records import STRICT
from synthgen.storage.inside import check_folder

from ...errors import EvaluateError, told_here
from ...runs import stored, write_json
from .animals import MOST_SPECIES, burst_pose, generator, species
from .scenery import is_night, picture, scene

RECORD = "simulated.json"  # how a set was made
FORMAT = 1  # of the drawings: raised when the same arguments give different pictures
SHARES = {"train": 0.50, "val": 0.08, "test": 0.20, "id_val": 0.08, "id_test": 0.14}  # of the images
DAYS = {"train": (0, 1, 2, 3, 4, 5), "id_val": (6,), "id_test": (7, 8, 9)}  # last digit of a burst's day
LONGEST_BURST = 5  # images
NIGHT = 0.4  # share of bursts
JPEG_QUALITY = 92
SMALLEST, LARGEST = 32, 1024  # width and height in pixels
MOST_IMAGES = 1_000_000  # five times iWildCam's; all are planned before one is drawn
DEFAULTS = {"seed": 0, "n_classes": 12, "n_locations": 24, "n_images": 1500, "size": 64}
HEADER = ",split,location_remapped,location,sequence_remapped,datetime,y,filename,image_id"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """``simulated.json``: how a set was made; see ``simulate``."""

    format: int  # of the drawings
    seed: int
    n_classes: int
    n_locations: int
    n_images: int
    size: int  # pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Images of one individual (or of nothing), taken a second apart."""

    split: str
    location: int
    y: int  # class, 0 is empty
    n: int  # images
    start: datetime
    number: int  # identifies it in seeds; unique in the set


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One image of the set."""

    index: int  # gives the file its name
    sequence: int
    at: int  # place in its burst, from 0
    burst: Burst

    @property
    def filename(self) -> str:
        """The image's file in ``train/``."""
        return f"{self.index:05d}.jpg"

    @property
    def when(self) -> datetime:
        """The time of the exposure."""
        return self.burst.start + timedelta(seconds=self.at)


def simulate(
    out: Path,
    *,
    seed: int = 0,
    n_classes: int = 12,
    n_locations: int = 24,
    n_images: int = 1500,
    size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Make a simulated set that ``wilds.get_dataset("iwildcam", root_dir=out)`` loads.

    ``out/iwildcam_v2.0`` then holds ``n_images`` square JPEGs of ``size`` x ``size`` pixels, of
    ``n_classes`` classes (including "empty") at ``n_locations`` cameras; ``val`` and ``test`` have
    cameras of their own.  The same arguments give the same bytes with the same library
    versions.  A call that was interrupted is resumed; a finished one returns at once.  ``progress`` is
    called with the numbers of images done and requested.  Raises EvaluateError, before anything is
    written, for arguments out of bounds and for an ``out`` that holds anything else.
    """
    arguments = {"seed": seed, "n_classes": n_classes, "n_locations": n_locations, "n_images": n_images, "size": size}
    _check(arguments)
    _claim(out, {"format": FORMAT, **arguments})
    base = out / "iwildcam_v2.0"
    with told_here():
        for folder in (base, base / "train"):
            check_folder(folder)
    release = base / "RELEASE_v2.0.txt"
    if release.exists():
        if progress:
            progress(n_images, n_images)
        return
    write_json(out / RECORD, {"format": FORMAT, **arguments})
    frames = plan(seed=seed, n_classes=n_classes, n_locations=n_locations, n_images=n_images)
    _draw_missing(base / "train", frames, seed, size, progress)
    names = ["empty", *(species(seed, y).name for y in range(1, n_classes))]
    _write(
        base / "categories.csv", "".join(f"{row}\n" for row in ["y,name", *(f"{y},{n}" for y, n in enumerate(names))])
    )
    _write(base / "metadata.csv", "".join(f"{row}\n" for row in [HEADER, *map(_row, frames)]))
    _write(release, "simulated camera traps in the iWildCam-WILDS v2.0 layout; see ../simulated.json\n")


def settled(out: Path, asked: Mapping[str, int | None]) -> dict[str, int]:
    """Arguments of ``simulate``: those given, else those of the set that is at ``out``, else DEFAULTS."""
    record = out / RECORD
    there = asdict(stored(record, Simulated)) if record.exists() else {}
    known = {name: value for name, value in there.items() if name in DEFAULTS}
    return {**DEFAULTS, **known, **{name: value for name, value in asked.items() if value is not None}}


def _check(arguments: dict[str, int]) -> None:
    """Raise EvaluateError, with the value, for an argument out of bounds."""
    bounds = {
        "seed": (0, 2**63 - 1),
        "n_classes": (2, MOST_SPECIES + 1),
        "n_locations": (3, 9999),
        "n_images": (1, MOST_IMAGES),
        "size": (SMALLEST, LARGEST),
    }
    for name, (least, most) in bounds.items():
        if not least <= arguments[name] <= most:
            raise EvaluateError(f"{name} {arguments[name]} is out of bounds: from {least} to {most}")
    least = least_images(arguments["n_classes"], arguments["n_locations"])
    if arguments["n_images"] < least:
        raise EvaluateError(
            f"n_images {arguments['n_images']} is too few for {arguments['n_classes']} classes"
            f" at {arguments['n_locations']} locations: at least {least}"
        )


def _claim(out: Path, arguments: dict[str, int]) -> None:
    """Refuse a directory that holds anything but a started or finished set with the same arguments."""
    if out.exists() and not out.is_dir():
        raise EvaluateError(f"{out}: not a directory")
    record = out / RECORD
    if not record.exists():
        if out.exists() and any(path.name.partition(".json.")[0] != "simulated" for path in out.iterdir()):
            raise EvaluateError(f"{out}: not empty and not a simulated set; choose a new directory")
        return
    known = asdict(stored(record, Simulated))
    differing = [
        f"{name} {known[name]} (requested: {value})" for name, value in arguments.items() if known[name] != value
    ]
    if differing:
        raise EvaluateError(f"{out}: was made with {', '.join(differing)}; choose a new directory")


def _counts(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in the given proportions with the given sum (largest remainders)."""
    exact = [total * share / sum(shares) for share in shares]
    counts = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _n_locations(n_locations: int) -> dict[str, int]:
    """Cameras of train (shared with id_val and id_test), val and test."""
    n_val, n_test = max(1, round(n_locations / 6)), max(1, round(n_locations / 4))
    return {"train": n_locations - n_val - n_test, "val": n_val, "test": n_test}


def least_images(n_classes: int, n_locations: int) -> int:
    """The fewest images with every class in train, every camera in use and no split empty."""
    groups = _n_locations(n_locations)
    needed = {
        "train": n_classes + groups["train"],
        "val": groups["val"],
        "test": groups["test"],
        "id_val": 1,
        "id_test": 1,
    }
    n = sum(needed.values())
    while any(count < needed[split] for split, count in zip(SHARES, _counts(n, list(SHARES.values())), strict=True)):
        n += 1
    return n


def plan(*, seed: int, n_classes: int, n_locations: int, n_images: int) -> list[Frame]:
    """Every image of the set, in file order: by location, then by time."""
    rng = generator(seed, "plan")
    order = iter(rng.permutation(n_locations).tolist())
    cameras = {split: [next(order) for _ in range(n)] for split, n in _n_locations(n_locations).items()}
    fauna = {split: _fauna(rng, n_classes, len(where)) for split, where in cameras.items()}
    bursts: list[Burst] = []
    for split, count in zip(SHARES, _counts(n_images, list(SHARES.values())), strict=True):
        home = split if split in cameras else "train"
        for place, y, n in _visits(rng, fauna[home], count, all_places=split == home):
            start = _start(rng, DAYS.get(split, range(10)))
            bursts.append(Burst(split=split, location=cameras[home][place], y=y, n=n, start=start, number=len(bursts)))
    bursts.sort(key=lambda burst: (burst.location, burst.start, burst.number))
    frames: list[Frame] = []
    for sequence, burst in enumerate(bursts):
        frames += [Frame(index=len(frames) + at, sequence=sequence, at=at, burst=burst) for at in range(burst.n)]
    return frames


def _fauna(rng: np.random.Generator, n_classes: int, n_places: int) -> NDArray[np.float64]:
    """How often each class visits each place, float64 [n_places, n_classes], rows sum to one.

    A place has three species (more if there are fewer places than species), one of them
    common; each species lives somewhere; popularity falls as 1 / rank ** 0.7.
    """
    n_species = n_classes - 1
    n_each = max(min(3, n_species), math.ceil(n_species / n_places))
    popularity = np.log(1 / np.arange(1, n_species + 1) ** 0.7)
    residents: list[list[int]] = [[] for _ in range(n_places)]
    for i, kind in enumerate(rng.permutation(n_species).tolist()):
        residents[i % n_places].append(kind)
    table = np.zeros((n_places, n_classes))
    for place, kinds in enumerate(residents):
        drawn = np.argsort(-(popularity + rng.gumbel(size=n_species))).tolist()
        kinds += [kind for kind in drawn if kind not in kinds][: n_each - len(kinds)]
        kinds.sort(key=drawn.index)
        table[place, 0] = rng.uniform(0.15, 0.30)
        share = np.power(0.32, np.arange(len(kinds))) + 0.06
        table[place, np.array(kinds) + 1] = (1 - table[place, 0]) * share / np.sum(share)
    return table


def _visits(
    rng: np.random.Generator, fauna: NDArray[np.float64], count: int, *, all_places: bool
) -> list[tuple[int, int, int]]:
    """Bursts (place, class, number of images) with ``count`` images in all.

    First one for each place, if asked, and one to three for each class, as far as the images
    suffice; then by chance.  Where bursts would give too many images, the longest are cut.
    """
    n_places, n_classes = fauna.shape
    busy = rng.dirichlet(np.full(n_places, 4.0))  # how often each place's camera is triggered
    visits = [(place, int(rng.choice(n_classes, p=fauna[place]))) for place in range(n_places if all_places else 0)]
    rounds = min(max(count // (10 * n_classes), 1), 3)
    for y in np.tile(rng.permutation(n_classes), rounds).tolist():
        chance = busy * fauna[:, y]
        visits.append((int(rng.choice(n_places, p=chance / chance.sum())), y))
    visits = visits[:count]
    lengths = rng.integers(1, LONGEST_BURST + 1, len(visits)).tolist()
    while sum(lengths) < count:
        place = int(rng.choice(n_places, p=busy))
        visits.append((place, int(rng.choice(n_classes, p=fauna[place]))))
        lengths.append(int(rng.integers(1, LONGEST_BURST + 1)))
    while sum(lengths) > count:
        lengths[lengths.index(max(lengths))] -= 1
    return [(place, y, n) for (place, y), n in zip(visits, lengths, strict=True)]


def _start(rng: np.random.Generator, digits: Sequence[int]) -> datetime:
    """A burst's first exposure: a day of 2024 whose number ends in one of ``digits``, by day or night."""
    day = 10 * int(rng.integers(36)) + digits[int(rng.integers(len(digits)))]
    hour = rng.uniform(19, 30) % 24 if rng.random() < NIGHT else rng.uniform(6, 19)
    return datetime(2024, 1, 1) + timedelta(days=day, seconds=int(hour * 3600))


def draw(frame: Frame, *, seed: int, size: int) -> NDArray[np.uint8]:
    """One image of a set, uint8 [size, size, 3]; it depends only on the arguments."""
    burst = frame.burst
    view = scene(seed, burst.location, size)
    rng = generator(seed, "burst", burst.number)
    cloud, celsius = float(rng.uniform(0, 0.9)), int(rng.normal(6 if is_night(burst.start) else 16, 6))
    pose = burst_pose(rng, view.horizon, frame.at, slow=is_night(frame.when))
    animal = species(seed, burst.y) if burst.y else None
    noise = generator(seed, "frame", burst.number, frame.at)
    return picture(view, animal, pose, when=frame.when, cloud=cloud, celsius=celsius, rng=noise)


def _draw_missing(
    folder: Path, frames: list[Frame], seed: int, size: int, progress: Callable[[int, int], None] | None
) -> None:
    """Draw the missing images, on all cores."""
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in folder.glob("*.jpg") if path.stat().st_size}
    missing = [frame for frame in frames if frame.filename not in there]
    done = len(frames) - len(missing)

    def make(frame: Frame) -> None:
        coded = io.BytesIO()
        Image.fromarray(draw(frame, seed=seed, size=size)).save(coded, "JPEG", quality=JPEG_QUALITY)
        _write(folder / frame.filename, coded.getvalue())

    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        for future in as_completed([pool.submit(make, frame) for frame in missing]):
            future.result()
            done += 1
            if progress:
                progress(done, len(frames))
    finally:
        pool.shutdown(cancel_futures=True)
    for orphan in folder.glob("*.tmp"):  # of runs that were killed
        orphan.unlink(missing_ok=True)


def _write(path: Path, content: bytes | str) -> None:
    """Write a file, whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    with suppress(FileNotFoundError):  # another process has just finished the same set and cleaned up
        part.replace(path)


def _row(frame: Frame) -> str:
    """A line of metadata.csv."""
    burst = frame.burst
    when = f"{frame.when:%Y-%m-%d %H:%M:%S}.000000"
    names = f"{frame.filename},SIM{frame.sequence:05d}_{frame.at:03d}"
    place = f"{burst.location},CAM-{burst.location:03d}"
    return f"{frame.index},{burst.split},{place},{frame.sequence},{when},{burst.y},{names}"
