"""Fractals: how fast each stage is, beside the published algorithm in plain Python, in the same run.

Run as ``python tests/benchmarks/fractals.py [--quick]``.  Numbers are of one core unless they say
otherwise: the median of several runs, and in brackets the least and the greatest.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import published

from fractaldb import chaos, cuda
from fractaldb.dataset import AugmentedFractalDataset, FractalDataset
from fractaldb.ifs import Category, weight_table
from fractaldb.render import Style, drawing, flip, orbit_draws, orbit_pixels, palette
from fractaldb.search import SEARCH_SIZE, candidate, filling_rate, search

PUBLISHED = Style()  # 362 px, 200,000 points, patch_gray
ON_THE_FLY = Style(size=224, n_points=100_000)
WEIGHT = 2  # the unchanged row

Times = list[float]  # seconds, one a run


def timed(work: Callable[[], object], runs: int) -> Times:
    """Seconds of each run after one that compiles and warms."""
    work()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def spread(values: Times, digits: str = ".3g") -> str:
    """Median [least, greatest]."""
    return f"{statistics.median(values):{digits}} [{min(values):{digits}}, {max(values):{digits}}]"


def row(stage: str, ours: Times, plain: Times) -> float:
    """Print one stage, times in milliseconds; returns the median ratio."""
    ratios = [p / o for o in ours for p in plain]
    ours, plain = ([1e3 * t for t in times] for times in (ours, plain))
    print(f"{stage:34} {spread(ours):>28} {spread(plain):>28} {spread(ratios, '.0f'):>22}", flush=True)
    return statistics.median(ratios)


class Plain:
    """The plain-Python stages; ``share`` of the points is drawn and the time scaled up in quick runs."""

    def __init__(self, category: Category, share: float, runs: int) -> None:
        self.maps = category.ifs.maps.tolist()
        self.probs = category.ifs.probs.tolist()
        self.share, self.runs = share, runs

    def times(self, style: Style) -> tuple[Times, Times, Times]:
        """Seconds of orbit, drawing, and saving four flips."""
        n = int(style.n_points * self.share)
        draws = orbit_draws(style.n_points)[:n].tolist()
        columns: tuple[Times, Times, Times] = ([], [], [])
        for _ in range(self.runs):
            marks = [time.perf_counter()]
            points = published.orbit(self.maps, self.probs, draws)
            marks.append(time.perf_counter())
            image = published.draw(points, style.draw, style.size, random.Random(0))
            marks.append(time.perf_counter())
            published.save(image)
            marks.append(time.perf_counter())
            for column, seconds, scale in zip(
                columns, np.diff(marks).tolist(), (1 / self.share, 1 / self.share, 1), strict=True
            ):
                column.append(seconds * scale)
        return columns

    def candidate(self) -> Times:
        """Seconds to judge one candidate of the search: 100,000 points, 512 px."""
        style = Style(draw="point_gray", size=SEARCH_SIZE, n_points=100_000)
        orbit, draw, _ = self.times(style)
        return [a + b for a, b in zip(orbit, draw, strict=True)]


def stages(category: Category, plain: Plain, runs: int) -> Times:
    """Search, orbit, drawing, encoding; returns the plain algorithm's seconds an image."""
    from synthgen.kinds.fractaldb.render import encode_png

    rng = np.random.RandomState(1)

    def judge() -> None:
        for _ in range(20):
            filling_rate(*candidate(rng))

    row("search, a candidate", [t / 20 for t in timed(judge, runs)], plain.candidate())
    orbit, draw, save = plain.times(PUBLISHED)
    row("orbit of 200,000 points", timed(lambda: orbit_pixels(category, WEIGHT, PUBLISHED), runs), orbit)
    pixels = orbit_pixels(category, WEIGHT, PUBLISHED)

    def paint() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return drawing(pixels, chaos.patch_masks(np.uint64(1), len(pixels)), PUBLISHED)

    row("patch drawing, 362 px", timed(paint, runs), draw)
    image, colors = paint(), palette(PUBLISHED)
    row("four flips as PNG", timed(lambda: [encode_png(flip(image, k), colors) for k in range(4)], runs), save)
    # Four images share a drawing; the published renderer walks the orbit anew for each drawing.
    return [(o + d + s) / 4 for o, d, s in zip(orbit, draw, save, strict=True)]


def written(categories: list[Category], plain: Times, n: int, workers: int, runs: int) -> None:
    """Images a second into shards whose checksums and pictures are then verified."""
    from synthgen.dataset.plan import new_plan
    from synthgen.dataset.verify import check
    from synthgen.engines.generate import generate, open_directory
    from synthgen.kinds.fractaldb.render import fractal_content

    content = fractal_content(categories, seed=1, style=PUBLISHED)
    seconds, size = [], 0
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            plan = new_plan(name="bench", content=content, n=n, shard_size=-(-n // (2 * workers)), origin={})
            open_directory(Path(folder), plan)
            start = time.perf_counter()
            size = generate(Path(folder), workers=workers).n_bytes
            seconds.append(time.perf_counter() - start)
            faults = check(Path(folder))
            assert not faults, faults
    ratio = row(f"an image in shards, {workers} processes", [t / n for t in seconds], plain)
    rates = [n / t for t in seconds]
    print(f"    {spread(rates, '.0f')} images/s, {1e-9 * size / n * 100_000:.2f} GB a 100,000 images,", end=" ")
    print(f"{ratio / workers:.0f} times plain Python a core")


def on_the_fly(categories: list[Category], plain: Plain, n: int, runs: int) -> None:
    """The datasets in random order: an orbit an image."""
    orbit, draw, _ = plain.times(ON_THE_FLY)
    reference = [o + d for o, d in zip(orbit, draw, strict=True)]
    exact = FractalDataset(categories, ON_THE_FLY)
    fresh = AugmentedFractalDataset(categories, ON_THE_FLY, length=n)
    order = np.random.RandomState(0).permutation(len(exact))[:n].tolist()
    for name, work in (
        ("dataset item, 224 px, random order", lambda: [exact[i] for i in order]),
        ("augmented item, 224 px", lambda: [fresh[i] for i in range(n)]),
    ):
        seconds = timed(work, runs)
        row(name, [t / n for t in seconds], reference)
        print(f"    {spread([n / t for t in seconds], '.0f')} images/s")


def on_device(categories: list[Category], n: int, runs: int) -> None:
    """Drawings a second of a CUDA device, copied to the host: 256 px, 100,000 points, point mode, all weight rows."""
    if not cuda.available():
        print("no CUDA device: the batched renderer is not timed")
        return
    style = Style(draw="point_gray", size=256, n_points=100_000)
    variants = [category.ifs.weighted(row) for category in categories for row in weight_table()]
    systems = (variants * -(-n // len(variants)))[:n]
    seconds = timed(lambda: cuda.render_batch(systems, style, [0] * n), runs)
    print(f"CUDA device, batches of {n}: {spread([n / t for t in seconds], '.0f')} drawings/s")


def training(categories: list[Category], steps: int) -> None:
    """The share of a ResNet-18's training time, on the CPU, spent waiting for one worker."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision.models import resnet18

    batch = 32
    fresh = AugmentedFractalDataset(categories, ON_THE_FLY, length=(steps + 2) * batch)
    loader = iter(
        DataLoader(
            fresh,  # type: ignore[arg-type]
            batch_size=batch,
            num_workers=1,
            multiprocessing_context="spawn",
        )
    )
    model = resnet18(num_classes=len(categories))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    waits, totals = [], []
    for _ in range(steps + 2):
        start = time.perf_counter()
        images, labels = next(loader)
        waits.append(time.perf_counter() - start)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images.float() / 255), labels).backward()
        optimizer.step()
        totals.append(time.perf_counter() - start)
    waits, totals = (
        [1e3 * t for t in times[2:]] for times in (waits, totals)
    )  # the first waits for the worker's start
    print(f"ResNet-18 step, batch {batch} at 224 px: {spread(totals)} ms, of which waiting {spread(waits)} ms")


def main() -> None:
    """Print machine, versions, command and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs; the plain algorithm draws 1/10 of the points")
    quick = parser.parse_args().quick
    share, plain_runs, runs, n_written, n_items = (0.1, 3, 5, 2_000, 100) if quick else (1.0, 3, 9, 20_000, 500)
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, {platform.platform()}")
    names = ("numpy", "numba", "pillow", "torch")
    print(f"python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in names))
    print(f"command: {shlex.join(['python', *sys.argv])}")
    if quick:
        print("quick: plain Python drew 1/10 of the points, its times are scaled by 10")
    categories = search(20, seed=1)
    plain = Plain(categories[0], share, plain_runs)
    print(f"\n{'stage (milliseconds)':34} {'compiled':>28} {'plain Python':>28} {'ratio':>22}")
    an_image = stages(categories[0], plain, runs)
    written(categories, an_image, n_written, 1, 3)
    if not quick and (os.cpu_count() or 1) > 1:
        written(categories, an_image, n_written, os.cpu_count() or 1, 3)
    on_the_fly(categories, plain, n_items, runs)
    on_device(categories, 20_000, runs)
    training(categories, 3 if quick else 10)


if __name__ == "__main__":
    main()
