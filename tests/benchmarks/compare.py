"""A comparison at iWildCam's size, from predictions in memory to verdicts, beside resampling images.

Run as ``python tests/benchmarks/compare.py [--runs 200] [--epochs 5] [--resamples 10000]``.  Predictions are
generated: as many images, locations and classes as iWildCam's ``test`` and ``id_test`` have, with long-tailed
classes, a few of which occur at each location, and wrong predictions from the long tail.  Ours counts, resamples and
analyses everything.  The long way expands the images of drawn locations and scores them, for a few resamples of a few
run-epochs; its time for all of them is extrapolated.  Kernels are compiled before the clock starts.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))  # helpers of the tests

import numba
import numpy as np
from plain_scores import plain_scores

from synthgen_evaluate.analysis.bootstrap import Resamples, bootstrap, draw
from synthgen_evaluate.analysis.contrasts import contrast_arms
from synthgen_evaluate.analysis.counts import count, location_scores
from synthgen_evaluate.analysis.estimators import Line, own_trend
from synthgen_evaluate.analysis.pairing import RunEpochs, complete_blocks
from synthgen_evaluate.analysis.resampled import macro_f1
from synthgen_evaluate.analysis.scoring import Scored
from synthgen_evaluate.analysis.trends import clip_epsilon
from synthgen_evaluate.analysis.uncertainty import Clusters
from synthgen_evaluate.metrics import scores
from synthgen_evaluate.runs import Arm

N_CLASSES, N_ARMS, N_ARCHITECTURES = 182, 10, 5
SIZES = {"id_test": (8154, 240), "test": (42_791, 48)}  # images, locations
TAIL = 1.2  # exponent of the classes' frequencies: the rarest has a few images in ``test``
PAIRS = 20  # of run-epoch and resample, that are computed the long way


@dataclass(frozen=True)
class Split:
    y_true: np.ndarray  # int64 [n]
    location: np.ndarray  # int64 [n]
    y_pred: np.ndarray  # int32 [n_run_epochs, n]


def make_split(n: int, n_locations: int, skill: np.ndarray, rng: np.random.Generator) -> Split:
    """Images of unequally large locations; ``skill`` [n_run_epochs] is the share of right predictions."""
    share = 1 / np.arange(1, N_CLASSES + 1) ** TAIL
    share /= share.sum()
    size = 1 + rng.multinomial(n - n_locations, rng.dirichlet(np.full(n_locations, 0.7)))
    location = np.repeat(np.arange(n_locations), size)
    y_true = np.empty(n, dtype=np.int64)
    for place in range(n_locations):
        here = share * rng.gamma(0.15, size=N_CLASSES)  # a few classes make up most of a location
        y_true[location == place] = rng.choice(N_CLASSES, size[place], p=here / here.sum())
    y_pred = np.empty((len(skill), n), dtype=np.int32)
    for e, right in enumerate(skill):
        y_pred[e] = np.where(rng.random(n) < right, y_true, rng.choice(N_CLASSES, n, p=share))
    return Split(y_true, location, y_pred)


@contextmanager
def timed(what: str) -> Iterator[None]:
    start, processor = time.perf_counter(), time.process_time()
    yield
    wall, processor = time.perf_counter() - start, time.process_time() - processor
    print(f"{what:<62}{wall:8.2f} s  (processor {processor:.2f} s)", flush=True)


def analyse(splits: dict[str, Split], rows: np.ndarray, n_blocks: int, n_resamples: int) -> None:
    """All of it, once; ``rows`` [3, n_run_epochs] are arm, block and epoch."""
    with timed("count"):
        counts = {
            name: count((split.y_true, one, split.location) for one in split.y_pred) for name, split in splits.items()
        }
    with timed("plain scores, locations"):
        plain = {name: np.array([[one.macro_f1] for one in plain_scores(of)]) for name, of in counts.items()}
        for of in counts.values():
            location_scores(of)
    with timed("draw"):
        n = {name: len(of.locations) for name, of in counts.items()}
        drawn = draw(n_resamples, n_blocks=n_blocks, n_id_clusters=n["id_test"], n_ood_clusters=n["test"], seed=0)
    f1 = {}
    for name, weights in (("id_test", drawn.id_clusters), ("test", drawn.ood_clusters)):
        with timed(f"macro-F1 of resampled locations, {name}"):
            f1[name] = macro_f1(counts[name], weights)
    with timed("macro-F1 without each location"):
        without = {name: macro_f1(of, 1 - np.eye(len(of.locations), dtype=np.int64)) for name, of in counts.items()}
    with timed("trends and their bands"):
        line = Line(epsilon=clip_epsilon(SIZES["id_test"][0]))
        run = np.char.mod("run %d", rows[0] * n_blocks + rows[1])
        table = RunEpochs(
            arm=rows[0].astype(str),
            architecture=np.char.mod("net %d", rows[1] % N_ARCHITECTURES),
            seed=rows[1],
            epoch=rows[2],
            run=run,
            start=run,
            id_f1=plain["id_test"][:, 0],
            ood_f1=plain["test"][:, 0],
        )
        names = tuple((f"net {block % N_ARCHITECTURES}", block) for block in range(n_blocks))
        resamples = Resamples(names=names, blocks=drawn.blocks, id_f1=f1["id_test"], ood_f1=f1["test"])
        for arm in range(N_ARMS):
            bootstrap(partial(own_trend, line=line), complete_blocks(table, [str(arm)]), resamples)
    with timed("effective robustness, intervals, verdicts, checks"):
        scored = Scored(
            run=(),
            epoch=(),
            table=table,
            line=line,
            resamples=resamples,
            locations=None,
            worst=None,
            compared=rows[2] == rows[2].max(),
            clusters=Clusters(
                id_f1=without["id_test"],
                ood_f1=without["test"],
                id_images=counts["id_test"].n_images,
                ood_images=counts["test"].n_images,
            ),
            collapsed=np.zeros(rows.shape[1], bool),
            predictions=np.arange(rows.shape[1]).astype(str),
        )
        arms = [Arm(name=str(arm), factor="source", level=str(arm), description="") for arm in range(N_ARMS)]
        contrast_arms(scored, arms, "0")


def long_way(split: Split, weights: np.ndarray) -> float:
    """Seconds that one resample of one run-epoch takes, on one core."""
    start = time.perf_counter()
    for k, row in enumerate(weights):
        images = np.repeat(np.arange(len(split.y_true)), row[split.location])
        scores(split.y_true[images], split.y_pred[k % len(split.y_pred)][images])
    return (time.perf_counter() - start) / len(weights)


def main() -> None:
    """Print seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="a multiple of the 10 arms (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="evaluated ones (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=10_000, help="(default: %(default)s)")
    asked = parser.parse_args()
    n_blocks = asked.runs // N_ARMS
    rows = np.indices((N_ARMS, n_blocks, asked.epochs)).reshape(3, -1)
    rng = np.random.default_rng(0)
    skill = 0.2 + 0.08 * rows[2] + rng.uniform(0, 0.2, rows.shape[1])
    splits = {name: make_split(*size, skill * (1 if name == "id_test" else 0.8), rng) for name, size in SIZES.items()}
    small = {name: Split(one.y_true, one.location, one.y_pred[:20]) for name, one in splits.items()}
    print(
        f"Python {platform.python_version()}, numpy {np.__version__}, numba {numba.__version__}, {platform.machine()},"
        f" {os.cpu_count()} cores\n{asked.runs} runs x {asked.epochs} epochs, {asked.resamples} resamples,"
        f" {n_blocks} blocks, {N_ARMS} arms"
    )
    for name, one in splits.items():
        cells = np.unique(one.y_true * (1 + one.location.max()) + one.location).size
        print(f"{name}: {one.y_true.size} images, {np.unique(one.location).size} locations, {cells} true cells")
    with timed("(compile, or load what was compiled)"):
        for one in small.values():
            macro_f1(count([(one.y_true, one.y_pred[0], one.location)]), np.ones((1, one.location.max() + 1), int))
    with timed("in all"):
        analyse(splits, rows, n_blocks, asked.resamples)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"peak memory, predictions of {sum(s.y_pred.nbytes for s in splits.values()) / 2**30:.2f} GiB included:"
        f" {peak:.2f} GiB"
    )
    drawn = draw(PAIRS, n_blocks=1, n_id_clusters=SIZES["id_test"][1], n_ood_clusters=SIZES["test"][1], seed=1)
    each = long_way(splits["id_test"], drawn.id_clusters) + long_way(splits["test"], drawn.ood_clusters)
    hours = each * rows.shape[1] * asked.resamples / 3600
    print(f"the long way: {1000 * each:.2f} ms a run-epoch and resample on one core, {hours:.1f} hours in all")


if __name__ == "__main__":
    main()
