"""The paper's scale: every figure and table of docs/scale.md, and the simulation of the scheduler behind them.

Run as ``python tests/benchmarks/scale.py``: prints the tables.  ``--write`` puts them into docs/scale.md, each
between its marks, and draws docs/scale.png.  Rates and prices are those stated below, with their sources in the
page; GPU-hours of training come from ``evaluate/suites/paper.toml``.  Simulations are means of SEEDS seeds.
"""

from __future__ import annotations

import argparse
import heapq
import math
import re
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np

from synthgen.engines.claims import HEARTBEAT, TIMEOUT
from synthgen_evaluate.design.cost import of_run, stated, stated_size
from synthgen_evaluate.design.suite import read_suite

ROOT = Path(__file__).parents[2]
SEEDS = 8
HOUR = 3600.0
MIB = 2**20

# --- What is known, low, likely and high.  Sources: docs/scale.md, "Rates" and "Prices" ---------------------
SD_A100 = (3.04 * 16 / 25, 4.68 * 16 / 25)  # images/s at 25 steps, of 16 images' steps a second in diffusers' table
SD_RATIO = (2496, 3704, 1471, 2742)  # ms of H100 and A100, plain and TensorRT: SDXL
SD_H100 = (SD_A100[0] * SD_RATIO[1] / SD_RATIO[0], SD_A100[1] * SD_RATIO[3] / SD_RATIO[2])
SD_RATE = round(math.sqrt(SD_H100[0] * SD_H100[1]), 1)  # images/s of one H100
TRAIN_RATIO = 14.4 / 7.8  # H100 to A100: minutes of ResNet-50 on 16, MLPerf Training 3.0
TRAIN_SLACK = (1.0, 1.4, 2.0)  # by how much our loop takes longer than the stated rate: guesses
EIGHT = 16621 / 2470  # speed of 8 GPUs on one training, of one's
PRICE = (2.0, 2.7, 5.0)  # dollars an H100 and hour
GB_MONTH, PUT, GET, EGRESS = 0.023, 0.005 / 1000, 0.0004 / 1000, 0.09  # dollars of S3, US East
GETS = 5500  # reads a second that S3 takes of a prefix
FRACTALS = 6000 / 2  # images a core and second
FRACTAL_BYTES = 1.005e9 / 1e5
SD_BYTES = {"jpg": 6 * 1024 + 0.5 * 512**2, "png": 6 * 1024 + 1.8 * 512**2}  # as synthgen/engines/generate.py estimates
ROW_BYTES = 42  # of a stored prediction
PARAMETERS = {  # torchvision's and OpenAI's, 1,000 classes
    "resnet50": 25.6e6,
    "resnext50_32x4d": 25.0e6,
    "densenet121": 8.0e6,
    "alexnet": 61.1e6,
    "mobilenet_v3_large": 5.5e6,
    "timm:resnet50": 25.6e6,
    "open_clip:RN50": 38.3e6,
}
IMAGENET, WILDCAM = 1_281_167, 203_029
CACHED = {"ImageNet": IMAGENET, "Stable Diffusion": 10**6, "FractalDB": 10**6, "iNaturalist": 150_000}
CACHED |= {"fractals drawn for arms": 150_000, "iWildCam": WILDCAM}


# --- The simulation -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Shards to write, all alike."""

    shards: int
    useful: float  # seconds of rendering on a device that is never held up
    filled: float = 1.0  # by how much longer it takes as the last batch of a shard is filled up
    overhead: float = 0.0  # seconds a shard in which the device waits: claims, table, record, the last images
    n_bytes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Workers of one device each, and what befalls them."""

    workers: int
    shared: bool = True  # each takes what is free; else worker i of w has shards i, i + w, ... and no others
    startup: float = 0.0  # seconds to load and compile
    cv: float = 0.0  # of the time of a shard, lognormal
    slow_share: float = 0.0  # of workers
    slow_factor: float = 1.0  # by which those take longer
    preempted: float = 0.0  # times a worker and hour
    away: float = 600.0  # seconds until a replacement
    silent: float = TIMEOUT  # seconds until a dead worker's shard may be taken over
    upload: float = math.inf  # bytes a second of one worker
    store: float = math.inf  # bytes a second of all together


@dataclass(slots=True, kw_only=True)
class Outcome:
    """Where the seconds of all workers went."""

    makespan: float = 0.0
    paid: float = 0.0
    useful: float = 0.0
    slow: float = 0.0  # slow workers and filled-up batches
    store: float = 0.0  # waiting for the store
    startup: float = 0.0
    lost: float = 0.0  # work on shards that pre-emption took
    idle: float = 0.0
    commits: list[int] = field(default_factory=list)  # by shard, how often
    attempts: int = 0

    @property
    def efficiency(self) -> float:
        """Useful of paid time."""
        return self.useful / self.paid


def simulate(job: Job, fleet: Fleet, *, seed: int) -> Outcome:
    """Play a run, event by event.

    A worker takes fresh shards first, then those of the dead, once their claims have been silent.  Workers
    that share stay until all is done, to take over; the others leave with their last shard.  The store is a
    pipe: an upload takes a worker's own time at least, and the sum of all no less than the pipe's.  Idle
    workers are not pre-empted.
    """
    rng, out, order = np.random.default_rng(seed), Outcome(commits=[0] * job.shards), count()
    w = fleet.workers
    fresh = [deque(range(job.shards))] if fleet.shared else [deque(range(i, job.shards, w)) for i in range(w)]
    left = [len(queue) for queue in fresh]
    orphans: list[deque[int]] = [deque() for _ in fresh]
    idle: list[dict[int, float]] = [{} for _ in fresh]  # worker -> since when
    begin: dict[int, float] = {}  # of the workers that are paid now
    loading: dict[int, float] = {}
    dies, speed = [math.inf] * w, [1.0] * w
    spread = math.sqrt(math.log1p(fleet.cv**2))
    pipe = 0.0  # when the store is done with what it was given
    events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []

    def at(time: float, what: Callable[..., None], *about: object) -> None:
        heapq.heappush(events, (time, next(order), what, about))

    def of(worker: int) -> int:
        return 0 if fleet.shared else worker

    def arrive(now: float, worker: int) -> None:
        begin[worker] = loading[worker] = now
        speed[worker] = fleet.slow_factor if rng.random() < fleet.slow_share else 1.0
        dies[worker] = now + rng.exponential(HOUR / fleet.preempted) if fleet.preempted else math.inf
        ready = now + fleet.startup
        at(min(ready, dies[worker]), work if ready <= dies[worker] else die, worker)

    def work(now: float, worker: int) -> None:
        queue = of(worker)
        if worker in loading:
            out.startup += now - loading.pop(worker)
        if worker in idle[queue]:
            out.idle += now - idle[queue].pop(worker)
            dies[worker] = now + rng.exponential(HOUR / fleet.preempted) if fleet.preempted else math.inf
        waiting = fresh[queue] or orphans[queue]
        if not waiting:
            idle[queue][worker] = now
            return
        shard = waiting.popleft()
        out.attempts += 1
        seconds = job.useful * job.filled * speed[worker] * math.exp(spread * rng.normal() - spread**2 / 2)
        end = now + seconds
        at(min(end, dies[worker]), rendered if end <= dies[worker] else die, worker, shard, now, seconds)

    def rendered(now: float, worker: int, shard: int, start: float, seconds: float) -> None:
        nonlocal pipe
        pipe = max(pipe, now) + job.n_bytes / fleet.store
        end = max(pipe, now + job.n_bytes / fleet.upload) + job.overhead
        at(min(end, dies[worker]), finish if end <= dies[worker] else die, worker, shard, start, seconds)

    def finish(now: float, worker: int, shard: int, start: float, seconds: float) -> None:
        queue = of(worker)
        out.commits[shard] += 1
        out.useful += job.useful
        out.slow += seconds - job.useful
        out.store += now - start - seconds
        left[queue] -= 1
        if left[queue]:
            work(now, worker)
            return
        out.makespan = max(out.makespan, now)
        for each in [each for each in begin if of(each) == queue]:
            out.paid += now - begin.pop(each)
            out.startup += now - loading.pop(each, now)
            out.idle += now - idle[queue].pop(each, now)

    def die(now: float, worker: int, shard: int | None = None, start: float = 0.0, seconds: float = 0.0) -> None:
        out.paid += now - begin.pop(worker)
        out.startup += now - loading.pop(worker, now)
        if shard is not None:
            out.lost += now - start
            at(now + fleet.silent, orphaned, worker, shard)
        at(now + fleet.away, arrive, worker)

    def orphaned(now: float, worker: int, shard: int) -> None:
        queue = of(worker)
        orphans[queue].append(shard)
        if idle[queue]:
            work(now, next(iter(idle[queue])))

    for worker in range(w):
        at(0.0, arrive, worker)
    while events:
        now, _, what, about = heapq.heappop(events)
        if left[of(int(about[0]))]:  # type: ignore[call-overload]  # else its shards are done
            what(now, *about)
    return out


def schedule(chains: Sequence[tuple[float, float]], gpus: int) -> tuple[float, float]:
    """Hours until all chains of pre-training and fine-tuning are done, and the share of them that GPUs work.

    A free GPU takes the first run, in order, whose pre-training is done.  GPUs are kept until the end.
    """
    ready = [(i, 0 if before else 1) for i, (before, _) in enumerate(chains)]
    heapq.heapify(ready)
    running: list[tuple[float, int, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < gpus:
            i, part = heapq.heappop(ready)
            heapq.heappush(running, (now + chains[i][part], i, part))
        now, i, part = heapq.heappop(running)
        if part == 0:
            heapq.heappush(ready, (i, 1))
    return now, sum(map(sum, chains)) / (now * gpus)


# --- What is asked of it ------------------------------------------------------------------------------------
BATCH = 64  # images drawn at once: a guess; found on the device, 256 at most
CALM = Fleet(workers=1, startup=180, cv=0.03, upload=85e6)
SLOW = replace(CALM, slow_share=0.1, slow_factor=1.5)
TAKEN = replace(CALM, preempted=0.3)
BOTH = replace(SLOW, preempted=0.3)
NARROW = replace(BOTH, store=125e6)
SETS = (150_000, 10**6)
FIRST = ("imagenet", "fractals-1m", "sd-1m", "simclr-imagenet", "simclr-sd", "simclr-fractals")
SCENES = {"calm": CALM, "stragglers": SLOW, "pre-emption": TAKEN, "both": BOTH, "both, store of 1 Gb/s": NARROW}
WORKERS = (1, 8, 32, 64, 128, 256, 512)


def images(n: int, size: int) -> Job:
    """Stable Diffusion images on H100s, in shards of so many."""
    filled = math.ceil(size / BATCH) * BATCH / size
    return Job(shards=-(-n // size), useful=size / SD_RATE, filled=filled, overhead=2, n_bytes=size * SD_BYTES["jpg"])


@cache
def mean(job: Job, fleet: Fleet) -> dict[str, float]:
    """The shares of paid time and the makespan in hours, over SEEDS seeds."""
    runs = [simulate(job, fleet, seed=seed) for seed in range(SEEDS)]
    told = {key: float(np.mean([getattr(run, key) / run.paid for run in runs])) for key in PARTS}
    return told | {"hours": float(np.mean([run.makespan for run in runs])) / HOUR}


PARTS = ("useful", "slow", "store", "startup", "lost", "idle")


@cache
def chains(pretrain: int = 224, finetune: int = 224) -> list[tuple[float, float]]:
    """A100-hours of each model's pre-training, 0 where it has none, and fine-tuning, in the suite's order."""
    return [(before, fine) for *_, before, fine in _models(pretrain, finetune)]


def _models(pretrain: int, finetune: int) -> list[tuple[str, str, int, float, float]]:
    suite = read_suite(ROOT / "evaluate/suites/paper.toml")
    assert suite.cost is not None
    rates, size, px, seen, found = stated(suite.cost, suite.image_size), stated_size(suite.cost), 224, set(), []
    assert suite.image_size == px
    for seed in suite.seeds:
        for arm in suite.arms:
            content = repr(replace(arm.pretraining, pretrain={}) if arm.pretraining else arm.weights)
            n = arm.pretraining.n if arm.pretraining else None
            n = n if n is not None else suite.cost.pretrain_images.get(arm.name)
            for name in suite.architectures_of(arm):
                recipe = suite.recipe(arm, name) if arm.pretraining else None
                if (seed, content, repr(recipe), name) in seen:
                    continue
                seen.add((seed, content, repr(recipe), name))
                before = of_run(rates, name, px, recipe, images=n, evaluated=0, of=arm.name).hours if recipe else 0.0
                fine = of_run(
                    rates, name, px, suite.finetune, images=size.train, evaluated=size.evaluated, of="the task"
                ).hours
                found.append((arm.name, name, seed, before * (pretrain / px) ** 2, fine * (finetune / px) ** 2))
    return found


def trained(pretrain: int, finetune: int) -> tuple[float, float, float]:
    """H100-hours of the grid: low, likely, high."""
    low, likely, high = (slack * sum(map(sum, chains(pretrain, finetune))) / TRAIN_RATIO for slack in TRAIN_SLACK)
    return low, likely, high


def drawn(n: int) -> tuple[float, float, float]:
    """H100-hours of so many Stable Diffusion images: low, likely, high."""
    return n / SD_H100[1] / HOUR, n / SD_RATE / HOUR, n / SD_H100[0] / HOUR


def pilot() -> tuple[float, float, float]:
    """H100-hours of 25,000 images, and two networks from scratch and on 25,000 of three sources, 5 seeds each."""
    models = [model for model in _models(224, 224) if model[1] in ("resnet50", "mobilenet_v3_large") and not model[2]]
    fine = sum(fine for arm, *_, fine in models if arm == "scratch")
    before = sum(before for arm, *_, before, _ in models if arm == "quantity-25k")
    training = 5 * (4 * fine + 3 * before) / TRAIN_RATIO
    low, likely, high = (a + training * b for a, b in zip(drawn(25_000), TRAIN_SLACK, strict=True))
    return low, likely, high


# --- Tables -------------------------------------------------------------------------------------------------
def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; all columns but the first to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Two or three significant digits."""
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}" if value >= 100 else f"{float(f'{value:.2g}'):g}"


def span(values: Sequence[float], unit: str = "") -> str:
    """Likely, and from low to high."""
    low, likely, high = map(number, values)
    return f"{unit}{likely} ({low} to {high})"


def percent(share: float) -> str:
    """A share."""
    return f"{100 * share:.0f}%" if share >= 0.095 or share < 0.0005 else f"{100 * share:.1f}%"


PARTS_OF_GRID = {
    "150,000 Stable Diffusion images, 512 px, 25 steps": lambda: drawn(150_000),
    "1,000,000 of them, the 150,000 included": lambda: drawn(10**6),
    "training, all at 224 px, as the suite stands": lambda: trained(224, 224),
    "training, pre-training at 224 px, fine-tuning at 448 px": lambda: trained(224, 448),
    "training, all at 448 px": lambda: trained(448, 448),
}


def rates_table() -> str:
    """What one device does."""
    resnet = 2470 * TRAIN_RATIO
    return table(
        ["one device", "A100", "H100"],
        [
            [
                "Stable Diffusion 1.5, 512 px, 25 steps, guidance, half precision, images/s",
                f"{SD_A100[0]:.2f} to {SD_A100[1]:.2f}",
                f"{SD_RATE:g} ({SD_H100[0]:.1f} to {SD_H100[1]:.1f})",
            ],
            [
                "ResNet-50 training, 224 px, mixed precision, images/s",
                "2,470",
                f"{number(resnet / TRAIN_SLACK[1])} ({number(resnet / TRAIN_SLACK[2])} to {number(resnet)})",
            ],
            [
                "H100 to A100, Stable Diffusion XL",
                "",
                f"{SD_RATIO[1] / SD_RATIO[0]:.2f} to {SD_RATIO[3] / SD_RATIO[2]:.2f}",
            ],
            ["H100 to A100, ResNet-50 training", "", f"{TRAIN_RATIO:.2f}"],
            ["8 GPUs on one training, to one", f"{EIGHT:.2f}", ""],
        ],
    )


def hours_table() -> str:
    """GPU-hours and what they cost."""
    rows = []
    for name, hours in PARTS_OF_GRID.items():
        low, likely, high = hours()
        money = (low * PRICE[0], likely * PRICE[1], high * PRICE[2])
        rows.append([name, span((low, likely, high)), span(money, "$"), number(likely / 8 / 24)])
    fractals = 10**6 / FRACTALS / 60
    rows.append([f"FractalDB-1k, 1,000,000 images, {number(fractals)} minutes of one core", "0", "$0", "0"])
    return table(["", "H100-hours", "dollars", "days of 8 H100s"], rows)


def storage_table() -> str:
    """Bytes of everything."""
    models = chains()
    gb = {
        "1,000,000 Stable Diffusion images, JPEG": SD_BYTES["jpg"] * 1e6,
        "the same as PNG": SD_BYTES["png"] * 1e6,
        "FractalDB-1k, 1,000,000 images": FRACTAL_BYTES * 1e6,
        "iWildCam as WILDS packs it": 11_957_415_473,
        f"predictions, {len(models)} models x 4 epochs x 73,220 images": len(models) * 4 * 73_220 * ROW_BYTES,
        "weights of all runs, float32": sum(
            4 * PARAMETERS[name] * (2 if before else 1) for _, name, _, before, _ in _models(224, 224)
        ),
        "checkpoints of 64 runs in hand (weights, moments, twice while written)": 64 * 6 * 4 * PARAMETERS["resnet50"],
        "decoded pixels at 224 px, per file system": sum(CACHED.values()) * 3 * 224**2,
        "decoded pixels at 448 px, per file system": sum(CACHED.values()) * 3 * 448**2,
    }
    return table(
        ["", "GB", "dollars a month in S3"], [[k, number(v / 1e9), f"{v / 1e9 * GB_MONTH:.2f}"] for k, v in gb.items()]
    )


def requests(n: int, size: int, workers: int) -> dict[str, float]:
    """Requests of a set that is written, opened once by each worker, and listed once more: PUT-like and GET-like."""
    job = images(n, size)
    parts = 1 if job.n_bytes < 100 * MIB else 2 + math.ceil(job.n_bytes / (50 * MIB))
    beats = math.floor(job.useful * job.filled / HEARTBEAT)
    opened = (math.ceil(3 * job.shards / 1000) + 1, job.shards + 2)  # the listing in pages, claims; plan, records
    return {
        "shard": 5 + parts,  # claim, look for a record, table, record, end of the claim; the tar
        "beats": beats,
        "puts": job.shards * (5 + parts + beats) + (workers + 1) * opened[0],
        "gets": job.shards * 3 + (workers + 1) * opened[1],
        "opening": sum(opened),
    }


def requests_table() -> str:
    """Requests by set and shard size, 64 workers."""
    rows = []
    for n, size in ((150_000, 1000), (10**6, 250), (10**6, 1000), (10**6, 4000)):
        told = requests(n, size, 64)
        money = told["puts"] * PUT + told["gets"] * GET
        rows.append(
            [f"{n:,} in shards of {size:,}", f"{told['shard']:.0f} + {told['beats']:.0f}"]
            + [f"{told[key]:,.0f}" for key in ("opening", "puts", "gets")]
            + [f"{money:.2f}"]
        )
    head = ["", "writes per shard + heartbeats", "to open the set once", "PUT, POST, LIST", "GET, HEAD", "dollars"]
    return table(head, rows)


def scaling_row(job: Job, workers: int) -> list[str]:
    """Hours and efficiency of a job at so many workers, and where the rest goes."""
    cells = []
    for fleet in SCENES.values():
        told = mean(job, replace(fleet, workers=workers))
        cells.append(f"{number(told['hours'])} h, {percent(told['useful'])}")
    return [str(workers), *cells]


def losses_row(job: Job, workers: int) -> list[str]:
    """Where the paid time goes with stragglers and pre-emption."""
    told = mean(job, replace(BOTH, workers=workers))
    return [str(workers), *(percent(told[key]) for key in PARTS)]


def scaling_table(n: int = 10**6) -> str:
    """Hours and efficiency by workers."""
    return table(["GPUs", *SCENES], [scaling_row(images(n, 1000), w) for w in WORKERS])


def losses_table() -> str:
    """Where the paid time goes, by workers."""
    head = [
        "GPUs",
        "useful",
        "slow GPUs, filled batches",
        "store",
        "start-up",
        "lost to pre-emption",
        "idle at the end",
    ]
    return table(head, [losses_row(images(10**6, 1000), w) for w in WORKERS])


SIZES = (100, 250, 500, 1000, 2000, 4000)


def size_row(workers: int, size: int) -> list[str]:
    """What a shard size does, with stragglers and pre-emption."""
    told = mean(images(10**6, size), replace(BOTH, workers=workers))
    return [
        f"{size:,}",
        number(images(10**6, size).useful / 60),
        f"{number(told['hours'])} h, {percent(told['useful'])}",
    ]


def sizes_table() -> str:
    """Hours and efficiency by shard size."""
    rows = [[*size_row(8, size)[:2], *(size_row(w, size)[2] for w in (8, 64, 256))] for size in SIZES]
    return table(["images per shard", "minutes per shard", "8 GPUs", "64 GPUs", "256 GPUs"], rows)


def sharing_table() -> str:
    """Shards taken as they are free, beside fixed shares."""
    rows = []
    for workers in (8, 64, 256):
        for name, fleet in SCENES.items():
            if fleet in (CALM, BOTH):
                told = [mean(images(10**6, 1000), replace(fleet, workers=workers, shared=s)) for s in (True, False)]
                rows.append(
                    [f"{workers} GPUs, {name}", *(f"{number(t['hours'])} h, {percent(t['useful'])}" for t in told)]
                )
    return table(["", "taken as they are free", "fixed shares"], rows)


def training_table() -> str:
    """The grid on so many GPUs, likely H100-hours at 224 px."""
    factor = TRAIN_SLACK[1] / TRAIN_RATIO
    hours = {arm: [] for arm, *_ in _models(224, 224)}  # type: dict[str, list[tuple[float, float]]]
    suite = [(before * factor, fine * factor) for before, fine in chains()]
    for (arm, *_), chain in zip(_models(224, 224), suite, strict=True):
        hours[arm].append(chain)
    ordered = sorted(hours, key=lambda arm: arm not in FIRST)
    orders = (suite, [chain for arm in ordered for chain in hours[arm]])
    total, longest = sum(map(sum, suite)), max(map(sum, suite))
    rows = []
    for gpus in (1, 8, 16, 32, 64, 128, 256):
        cells = [f"{number(end)} h, {percent(share)}" for end, share in (schedule(order, gpus) for order in orders)]
        rows.append([str(gpus), *cells, f"{number(max(total / gpus, longest))} h"])
    return table(["GPUs", "in the suite's order", "the longest arms first", "no order is faster than"], rows)


def limits() -> str:
    """Where each thing stops, in lines."""
    factor = TRAIN_SLACK[1] / TRAIN_RATIO
    rate = SD_RATE * SD_BYTES["jpg"]
    epoch = max(before for before, _ in chains()) * factor / 90
    look = math.ceil(3 * 1000 / 1000) + 1 + 1 + 64  # the listing of 1,000 shards, of the claims; plan, claims
    late = TAKEN.preempted * (epoch / 2 + TAKEN.startup / HOUR)
    good = {
        n: max(w for w in WORKERS if mean(images(n, 1000), replace(BOTH, workers=w))["useful"] >= 0.8) for n in SETS
    }
    lines = [
        f"With stragglers and pre-emption, at least 80% of the paid hours are useful up to {good[150_000]} GPUs for"
        f" 150,000 images and {good[10**6]} for 1,000,000.",
        f"A GPU writes {rate / 1e6:.2f} MB/s, so a store of 1 Gb/s is full at {125e6 / rate:.0f} GPUs, one of 10 Gb/s"
        f" at {1250e6 / rate:,.0f}.",
        f"512 workers send {512 / HEARTBEAT:.0f} heartbeats per second; S3 takes 3,500 writes and {GETS:,} reads"
        " per second and prefix.",
        f"A driver that waits for others looks every {HEARTBEAT:.0f} seconds, {look} requests at 1,000 shards and 64"
        f" workers: about {GETS * HEARTBEAT / look:.0f} waiting drivers reach what S3 takes of one prefix.",
        f"Reading the million JPEGs out of S3 to another provider costs ${number(SD_BYTES['jpg'] * 1e6 / 1e9 * EGRESS)}"
        " each time.",
        f"Training keeps a checkpoint per epoch.  The longest epoch takes {number(epoch * 60)} minutes, so"
        f" {TAKEN.preempted:g} pre-emptions per hour cost at most {percent(late)} of it.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def findings() -> str:
    """The figures of the page's first lines."""
    factor = TRAIN_SLACK[1] / TRAIN_RATIO
    longest = max(chains(), key=sum)
    whole = trained(448, 448)[1] + drawn(10**6)[1]
    part = pilot()
    lines = [
        f"all at 224 px: {span([a + b for a, b in zip(trained(224, 224), drawn(10**6), strict=True)])} H100-hours; "
        f"all at 448 px: {span([a + b for a, b in zip(trained(448, 448), drawn(10**6), strict=True)])}.",
        f"Images are {percent(drawn(10**6)[1] / (drawn(10**6)[1] + trained(224, 224)[1]))} of the first and "
        f"{percent(drawn(10**6)[1] / whole)} of the second; the rest is training.",
        f"{len(chains())} models, {sum(1 for a, _ in chains() if a)} of them pre-trained; the longest chain takes "
        f"{number(longest[0] * factor)} + {number(longest[1] * factor)} hours at 224 px, and "
        f"{number((longest[0] / EIGHT + longest[1]) * factor)} where 8 GPUs share its pre-training.",
        f"The pilot: {span(part)} H100-hours, {span([a * b for a, b in zip(part, PRICE, strict=True)], '$')}; "
        f"{percent(part[1] / whole)} of the grid at 448 px, "
        f"{percent(part[1] / (trained(224, 224)[1] + drawn(10**6)[1]))} of that at 224 px.",
    ]
    return "\n".join(f"- {line[0].upper()}{line[1:]}" for line in lines)


TABLES: dict[str, Callable[[], str]] = {
    "findings": findings,
    "rates": rates_table,
    "hours": hours_table,
    "storage": storage_table,
    "requests": requests_table,
    "scaling": scaling_table,
    "scaling-150k": lambda: scaling_table(150_000),
    "losses": losses_table,
    "sizes": sizes_table,
    "sharing": sharing_table,
    "training": training_table,
    "limits": limits,
}


def figure(path: Path) -> None:
    """Efficiency by workers and by shard size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    styles = [("#000000", "o"), ("#E69F00", "s"), ("#0072B2", "^"), ("#D55E00", "D"), ("#CC79A7", "v")]
    plot, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for (name, fleet), (colour, marker) in zip(SCENES.items(), styles, strict=True):
        shares = [100 * mean(images(10**6, 1000), replace(fleet, workers=w))["useful"] for w in WORKERS]
        left.plot(WORKERS, shares, marker=marker, color=colour, label=name)
    left.set(xscale="log", xticks=WORKERS, xlabel="GPUs", ylabel="useful of paid GPU-hours (%)", ylim=(0, 102))
    left.set_title("1,000,000 images in shards of 1,000")
    for workers, (colour, marker) in zip((8, 64, 256), (styles[0], styles[2], styles[3]), strict=True):
        shares = [100 * mean(images(10**6, size), replace(BOTH, workers=workers))["useful"] for size in SIZES]
        right.plot(SIZES, shares, marker=marker, color=colour, label=f"{workers} GPUs")
    right.set(xscale="log", xticks=SIZES, xlabel="images a shard")
    right.set_title("stragglers and pre-emption")
    for axes, ticks in ((left, WORKERS), (right, SIZES)):
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(loc="lower left", frameon=False)
    plot.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(plot)


def written(page: str) -> str:
    """A page with every table in its place: between <!-- NAME --> and <!-- end -->."""
    for name, make in TABLES.items():
        page = _with_table(page, name, make())
    return page


def _with_table(page: str, name: str, table: str) -> str:
    block = f"<!-- {name} -->\n{table}\n<!-- end -->"
    page, found = re.subn(rf"<!-- {name} -->\n.*?<!-- end -->", lambda _: block, page, flags=re.S)
    assert found == 1, name
    return page


def main() -> None:
    """Print, or write into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/scale.md and docs/scale.png")
    if parser.parse_args().write:
        page = ROOT / "docs/scale.md"
        page.write_text(written(page.read_text()))
        figure(ROOT / "docs/scale.png")
        return
    for name, make in TABLES.items():
        sys.stdout.write(f"{name}\n\n{make()}\n\n")


if __name__ == "__main__":
    main()
