"""Image classification sets of WILDS (Koh et al. 2021, arXiv 2012.07421), read from local copies."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..base import Task, TaskKind
from .sets import SETS


def _open(name: str, path: Path) -> Task:
    from .reading import open_set

    return open_set(name, SETS[name], path)


def tasks() -> list[TaskKind]:
    """The rows of the table as tasks."""
    return [TaskKind(name=name, words=row.words, open=partial(_open, name)) for name, row in SETS.items()]


TASKS = tasks()
