"""Training images: crops, mirror images and normalisation from a filled cache, beside torchvision's loader.

Run as ``python tests/benchmarks/datapath.py [--rounds R] [--size 64 224]``.  Both read the same JPEG files, in
class folders: Tiny-ImageNet's as they are for 64 px, and camera-trap photos of 224 px.  torchvision's side is
ImageFolder, RandomResizedCrop, RandomHorizontalFlip, ToTensor and Normalize through a DataLoader with 2 workers,
which live through all rounds.  The two take turns; each round is a pass over all files, and several of ours.
Medians, in brackets the least and the greatest; the ratio's interval is Student's, of the mean of its logarithm
over the rounds.
"""

from __future__ import annotations

import argparse
import math
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import PIL
import torch
import torchvision
from scipy import stats
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from synthgen_evaluate.images.pixels import PixelCache, Pixels
from synthgen_evaluate.images.sources import ImageFolder
from synthgen_evaluate.recipe import Recipe
from synthgen_evaluate.training.augment import MEAN, STD, apply, batches, draw

DATA = Path(__file__).parents[3] / "shared/data"
BATCH, MIN_CROP, N_CLASSES = 64, 0.35, 10
CPU = torch.device("cpu")


def write_files(folder: Path, size: int, n: int) -> None:
    """At most ``n`` JPEG files of a size in class folders; which class is of no matter here."""
    if size == 64:
        with zipfile.ZipFile(DATA / "tiny_imagenet.zip") as file:
            names = [name for name in file.namelist() if name.lower().endswith((".jpg", ".jpeg"))]
            files = [file.read(name) for name in random.Random(0).sample(names, min(n, len(names)))]
    else:
        paths = sorted((DATA / "missouri/frames/iwildcam_v2.0/train").glob("*.jpg"))
        files = [path.read_bytes() for path in paths[:n]]
    for number, data in enumerate(files):
        path = folder / f"class{number % N_CLASSES}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def ours(pixels: Pixels, recipe: Recipe, generator: torch.Generator) -> float:
    """Images a second of a pass in random order."""
    start = time.perf_counter()
    order = torch.randperm(len(pixels), generator=generator).numpy()
    orders = [np.sort(part) for part in np.array_split(order, -(-len(order) // BATCH))]
    for images in batches(pixels, orders, CPU):
        batch = apply(images, draw(len(images), recipe, generator), CPU)
        assert batch.shape[1] == 3
    return len(pixels) / (time.perf_counter() - start)


def torchvisions(loader: DataLoader[object]) -> float:
    """Images a second of a pass in random order."""
    start = time.perf_counter()
    n = sum(len(images) for images, _ in loader)
    return n / (time.perf_counter() - start)


def make_loader(folder: Path, size: int) -> DataLoader[object]:
    """torchvision's recipe."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(MIN_CROP, 1)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    dataset = datasets.ImageFolder(str(folder), transform)
    return DataLoader(dataset, BATCH, shuffle=True, num_workers=2, persistent_workers=True)


def spread(values: list[float]) -> str:
    """Median [least, greatest]."""
    return f"{statistics.median(values):.4g} [{min(values):.4g}, {max(values):.4g}]"


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Geometric mean and its 95% interval."""
    logs = [math.log(ratio) for ratio in ratios]
    middle = statistics.mean(logs)
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def measure(size: int, n: int, rounds: int, passes: int, work: Path) -> bool:
    """Print the rates at one size; whether the ratio is surely 4 or more."""
    folder = work / f"{size}px"
    write_files(folder, size, n)
    source = ImageFolder(str(folder))
    start = time.perf_counter()
    everything = np.arange(source.n_images)
    pixels = PixelCache(work / "cache").open(source, everything, size, progress=lambda done: None)
    seconds = time.perf_counter() - start
    print(f"\n{size} px, {source.n_images} files, {sum(p.stat().st_size for p in folder.rglob('*.jpg')) / 1e6:.1f} MB")
    print(f"filling the cache      {seconds:.3g} s, once: {source.n_images / seconds:.4g} images/s")
    recipe, generator = Recipe(epochs=1, min_crop=MIN_CROP), torch.Generator().manual_seed(0)
    loader = make_loader(folder, size)
    pairs = []
    for _ in range(rounds + 1):  # the first compiles and warms
        rates = [ours(pixels, recipe, generator) for _ in range(passes)]
        pairs.append((statistics.harmonic_mean(rates), torchvisions(loader)))
    fast, slow = ([pair[side] for pair in pairs[1:]] for side in (0, 1))
    middle, low, high = interval([a / b for a, b in zip(fast, slow, strict=True)])
    print(f"from the cache         {spread(fast)} images/s")
    print(f"torchvision, 2 workers {spread(slow)} images/s")
    print(f"ratio                  {middle:.3g}, 95% interval {low:.3g} to {high:.3g}", flush=True)
    shutil.rmtree(folder)
    return low >= 4


def main() -> None:
    """Measure and print; exit code 1 where the ratio may be below 4."""
    if not DATA.is_dir():
        print(f"not measured: {DATA} is not here")
        return
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--passes", type=int, default=3, help="of ours, which are short, in each round")
    options.add_argument("--files", type=int, default=6000)
    options.add_argument("--size", type=int, nargs="+", choices=(64, 224), default=(64, 224))
    asked = options.parse_args()
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, pillow {PIL.__version__}"
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads; {versions}")
    print(f"batches of {BATCH}, crops from {MIN_CROP}; {asked.rounds} rounds after one that warms up")
    with tempfile.TemporaryDirectory() as work:
        good = [measure(size, asked.files, asked.rounds, asked.passes, Path(work)) for size in asked.size]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
