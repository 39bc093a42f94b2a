"""The list of all tasks, by the modules that define them; a new one is a module and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from ..errors import EvaluateError
from .base import METRICS, UNKNOWN, TaskKind, Words

KNOWN = [
    "synthgen_evaluate.tasks.wilds",
    "synthgen_evaluate.tasks.simulated",
]


@cache
def kinds() -> dict[str, TaskKind]:
    """All tasks, by their names in suite files; raises EvaluateError for an unknown metric."""
    found: list[TaskKind] = [kind for name in KNOWN for kind in import_module(name).TASKS]
    for kind in found:
        if kind.words.metric not in METRICS:
            raise EvaluateError(
                f"task {kind.name}: metric {kind.words.metric!r}; arms can be compared by {', '.join(METRICS)}"
            )
    return {kind.name: kind for kind in found}


def words_of(task: Mapping[str, Any]) -> Words:
    """The words for a task, by its description in a suite's record."""
    kind = kinds().get(str(task.get("kind")))
    return UNKNOWN if kind is None else kind.words
