"""The fine-tuning task as a suite file describes it, and how it is opened.

Imports no torch, so that showing a plan is instant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, with_config
from pydantic_core import PydanticCustomError

from synthgen.common.records import STRICT

from ..errors import EvaluateError
from .base import NEEDED, SPLITS, Task
from .known import kinds

EMPTY = "empty"  # name of the class of images without a subject


def _known(name: str) -> str:
    if name not in kinds():
        raise PydanticCustomError("task_kind", "Input should be one of {known}", {"known": ", ".join(kinds())})
    return name


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What is fine-tuned on, as a suite file describes it."""

    path: str  # the folder that holds the local copy, such as the one that contains iwildcam_v2.0
    kind: Annotated[str, AfterValidator(_known)] = "iwildcam"  # iwildcam, fmow, camelyon17, rxrx1 or simulated
    empty: bool = True  # keep the images of the class "empty"


def open_task(spec: TaskSpec) -> Task:
    """Open a local copy; nothing is ever downloaded.

    Raises EvaluateError, saying what is expected where, for a missing or incomplete copy, and if
    the images of the class "empty" are to be left out of a set without such a class.
    """
    task = kinds()[spec.kind].open(Path(spec.path))
    assert {*NEEDED} <= task.splits.keys() <= {*SPLITS}
    return task if spec.empty else _without_empty(task, spec.path)


def _without_empty(task: Task, path: str) -> Task:
    """The task without the images of the class "empty", its other classes renumbered."""
    kept = np.array([name != EMPTY for name in task.class_names])
    if kept.all():
        raise EvaluateError(f"{path}: empty = false, but no class is named {EMPTY!r}; leave empty = false out")
    number = np.cumsum(kept) - 1  # new label of each old one
    splits = {}
    for name, split in task.splits.items():
        left = split.at(kept[split.y])
        if not len(left.y):
            raise EvaluateError(f"{path}: empty = false leaves no image in the split {name}")
        splits[name] = replace(left, y=number[left.y])
    return Task(
        class_names=tuple(name for name in task.class_names if name != EMPTY),
        splits=splits,
        identity={
            **task.identity,
            "n_images": sum(len(split.y) for split in splits.values()),
            "n_classes": int(kept.sum()),
            "left_out": {EMPTY: np.flatnonzero(~kept).tolist()},  # labels, which the metadata do not name
        },
    )
