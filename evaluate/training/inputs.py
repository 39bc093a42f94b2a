"""The decoded images of runs: those that a pre-training arm chose, and the splits of the task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from synthgen.common.progress import progress

from ..design.choice import Chosen
from ..images.pixels import Identified, PixelCache
from ..predictions import Predictions
from ..tasks.base import Task
from .train import EvaluationSet, LabelledImages


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """What a run sees, decoded."""

    train: LabelledImages
    evaluation: dict[str, EvaluationSet]
    chosen: Chosen | None = None  # of a pre-training run: the choice, which is stored beside it


def pretraining_images(
    name: str, chosen: Chosen, captions: tuple[str, ...], size: int, cache: PixelCache, accelerator: Accelerator
) -> Images:
    """Decode the images that an arm chose."""
    selection = chosen.selection
    with shown(f"decode {name}", len(selection.indices), "images", accelerator) as show:
        pixels = cache.open(chosen.source, selection.indices, size, progress=show)
    train_set = LabelledImages(
        pixels=pixels, labels=selection.labels, n_classes=len(selection.class_names), captions=captions
    )
    return Images(train=train_set, evaluation={}, chosen=chosen)


def split_images(task: Task) -> dict[str, tuple[Identified, NDArray[np.int64]]]:
    """What a cache has to open, by split: the images, and the positions of all of them."""
    return {
        name: (
            Identified(decoder=split, identity={**task.identity, "split": name}, n_images=len(split.y)),
            np.arange(len(split.y)),
        )
        for name, split in task.splits.items()
    }


def task_images(task: Task, size: int, cache: PixelCache, accelerator: Accelerator) -> Images:
    """Decode all splits of a task."""
    pixels, wanted = {}, split_images(task)
    for name, split in task.splits.items():
        with shown(f"decode {name}", len(split.y), "images", accelerator) as show:
            pixels[name] = cache.open(*wanted[name], size, progress=show)
    train_set = LabelledImages(pixels=pixels["train"], labels=task.splits["train"].y, n_classes=len(task.class_names))
    evaluation = {
        name: EvaluationSet(
            pixels=pixels[name],
            truth=Predictions(
                image_id=split.image_id,
                y_true=split.y,
                y_pred=split.y,
                location=split.cluster,
                sequence=split.sequence,
            ),
        )
        for name, split in task.splits.items()
        if name != "train"
    }
    return Images(train=train_set, evaluation=evaluation)


@contextmanager
def shown(what: str, total: int, unit: str, accelerator: Accelerator) -> Iterator[Callable[[int], None]]:
    """Progress, shown by the first process only."""
    if accelerator.is_main_process:
        with progress(what, total, unit) as show:
            yield show
    else:
        yield lambda done: None
