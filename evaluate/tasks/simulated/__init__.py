"""Simulated camera traps, in the layout of WILDS's iWildCam: a copy of that set as well as a task of its own."""

from __future__ import annotations

from pathlib import Path

from ..base import MACRO_F1, Task, TaskKind, Words

NAME = "simulated"
WORDS = Words(
    metric=MACRO_F1,
    cluster="simulated camera",
    clusters="simulated cameras",
    id="from simulated cameras that were also in the training images",
    ood="from simulated cameras that were not in the training images",
)


def _open(path: Path) -> Task:
    from .opening import open_simulated

    return open_simulated(NAME, path)


TASKS = [TaskKind(name=NAME, words=WORDS, open=_open)]
