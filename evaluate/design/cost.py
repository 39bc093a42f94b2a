"""What a suite costs in GPU-hours, from rates that are stated or were measured by finished runs.

The images that pass through a model are counted.  Decoding, start-up and the idle time of a device with small
batches are not; ``measured`` rates include the last.  Imports no torch, so that showing a plan is instant.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from pydantic import with_config

from synthgen import MAX_IMAGES
from synthgen.common.records import STRICT

from ..recipe import Recipe
from ..runs import Run, RunConfig

if TYPE_CHECKING:
    from ..tasks.base import Task

VIEWS = {"simclr": 2}  # images that pass through the model for each image of an epoch; others: 1
FASTEST = 1e9  # images per second
FORWARD = 1 / 3  # cost of a forward pass, as a share of a training image's: a backward pass costs about two


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost section of a suite file."""

    device: str  # device that the rates apply to
    source: str  # source of the rates
    images_per_second: Mapping[str, float]  # training images, by architecture, at the suite's size and precision
    pretrain_images: Mapping[str, int] = field(default_factory=dict)  # number of images of arms without n, by name
    finetune_images: int | None = None  # training images of the task, if no copy of it is available
    evaluated_images: int | None = None  # images of the task's evaluated splits, likewise

    def problems(self) -> list[str]:
        """What is out of range, one line each, beginning with the key."""
        counts = {
            **{f"pretrain_images.{name}": count for name, count in self.pretrain_images.items()},
            "finetune_images": self.finetune_images,
            "evaluated_images": self.evaluated_images,
        }
        wrong = [
            f"images_per_second.{name}: {rate:g}; above 0, to {FASTEST:g}"
            for name, rate in self.images_per_second.items()
            if not 0 < rate <= FASTEST
        ]
        return wrong + [
            f"{key}: {count}; at least 1, to {MAX_IMAGES}"
            for key, count in counts.items()
            if count is not None and not 1 <= count <= MAX_IMAGES
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How fast one device trains."""

    device: str
    source: str  # where the rates are from
    images_per_second: Mapping[tuple[str, int], float]  # by architecture and image size in pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSize:
    """Images of a fine-tuning task; None if they are not known."""

    train: int | None
    evaluated: int | None  # of all splits whose predictions are stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What some runs cost."""

    hours: float  # of one device, for the runs whose cost is known
    runs: int
    missing: Mapping[str, int]  # by reason, how many runs are left out

    def describe(self, rates: Rates) -> str:
        """The estimate in one line, with what it leaves out."""
        words = f"{self.runs} runs: {'at least' if self.missing else 'about'} {significant(self.hours):,} hours on one"
        words += f" {rates.device} ({rates.source})"
        return words + "".join(f"; {count} runs left out: {reason}" for reason, count in self.missing.items())


def stated(cost: Cost, image_size: int) -> Rates:
    """The rates that a suite file states."""
    rates = {(name, image_size): rate for name, rate in cost.images_per_second.items()}
    return Rates(device=cost.device, source=cost.source, images_per_second=rates)


def measured(runs: Path) -> Rates | None:
    """The median rates of the finished runs of a directory; None if no run recorded its rate.

    A rate is that of one device: if several processes shared a run, one process's part.  Runs of SimCLR count
    both views.
    """
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    devices = set()
    for path in sorted(runs.glob("*/state.json")):
        run = Run(directory=path.parent)
        state = run.state
        if state.status == "done" and state.train_images_per_second is not None:
            config = run.config
            rate = VIEWS.get(config.recipe.objective, 1) * state.train_images_per_second / (state.processes or 1)
            found[config.architecture, config.image_size].append(rate)
            devices.add(state.device or "unnamed device")
    if not found:
        return None
    return Rates(
        device=" or ".join(sorted(devices)),
        source=f"medians of {sum(map(len, found.values()))} finished runs in {runs}",
        images_per_second={key: median(values) for key, values in found.items()},
    )


def size_of(task: Task) -> TaskSize:
    """The size of an opened task."""
    counts = {name: len(split.y) for name, split in task.splits.items()}
    train = counts.pop("train")
    return TaskSize(train=train, evaluated=sum(counts.values()))


def training_hours(recipe: Recipe, images: int, rate: float, *, evaluated: int = 0) -> float:
    """Hours of one run at ``rate`` training images per second, with ``evaluated`` predicted at each evaluated epoch."""
    trained = images * recipe.epochs * VIEWS.get(recipe.objective, 1)
    return (trained + FORWARD * evaluated * len(recipe.evaluate_epochs)) / rate / 3600


def estimate(configs: Iterable[RunConfig], rates: Rates, size: TaskSize) -> Estimate:
    """The cost of individual runs, such as those still to do."""
    return total(
        of_run(
            rates,
            config.architecture,
            config.image_size,
            config.recipe,
            images=int(config.data["n_images"]) if config.kind == "pretrain" else size.train,
            evaluated=0 if config.kind == "pretrain" else size.evaluated,
            of="the task",
        )
        for config in configs
    )


def total(estimates: Iterable[Estimate]) -> Estimate:
    """Several estimates as one."""
    every = list(estimates)
    missing: Counter[str] = Counter()
    for one in every:
        missing.update(one.missing)
    return Estimate(hours=sum(one.hours for one in every), runs=sum(one.runs for one in every), missing=dict(missing))


def stated_size(cost: Cost | None) -> TaskSize:
    """The size of the task as a suite file states it."""
    if cost is None:
        return TaskSize(train=None, evaluated=None)
    return TaskSize(train=cost.finetune_images, evaluated=cost.evaluated_images)


def significant(hours: float) -> float:
    """Three significant digits; an integer if these leave no fraction."""
    value = float(f"{hours:.3g}")
    return int(value) if value.is_integer() else value


def of_run(
    rates: Rates,
    architecture: str,
    image_size: int,
    recipe: Recipe,
    *,
    images: int | None,
    evaluated: int | None,
    of: str,
) -> Estimate:
    """The cost of one run, or why it is unknown; ``of`` names the owner of the number of images."""
    rate = rates.images_per_second.get((architecture, image_size))
    if rate is None:
        return Estimate(hours=0.0, runs=1, missing={f"no rate of {architecture} at {image_size} px": 1})
    if images is None or evaluated is None:
        return Estimate(hours=0.0, runs=1, missing={f"the number of images of {of} is not known": 1})
    return Estimate(hours=training_hours(recipe, images, rate, evaluated=evaluated), runs=1, missing={})
