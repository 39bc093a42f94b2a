"""A suite with its sources and its task opened: what there is to do."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ..design.choice import Chosen, captions_of, choose
from ..design.suite import Suite
from ..errors import EvaluateError
from ..tasks.base import Task
from ..tasks.spec import open_task
from .grid import Grid, Step, make_grid


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """A suite with its sources and its task opened: what there is to do."""

    suite: Suite
    task: Task
    chosen: dict[str, Chosen]  # by arm
    captions: dict[str, tuple[str, ...]]  # by arm, if its objective reads them
    grid: Grid

    def steps(self, share: tuple[int, int] = (0, 1)) -> list[Step]:
        """The runs of a share (i, k): every k-th pre-training from the i-th, with what starts from it."""
        index, n = share
        chains = {chain: number for number, chain in enumerate(dict.fromkeys(map(_chain, self.grid.steps)))}
        return [step for step in self.grid.steps if chains[_chain(step)] % n == index]

    def todo(self, out: Path, share: tuple[int, int] = (0, 1)) -> list[Step]:
        """The runs of a share that are not done."""
        return [step for step in self.steps(share) if not step.run(out).done]


def _chain(step: Step) -> str:
    """The digest of the run that a run's path begins with."""
    return step.config.digest if step.checkpoint is not None or step.config.init is None else step.config.init


def open_suite(suite: Suite, only: Collection[str] = ()) -> Plan:
    """Open the sources and the task of a suite and lay out its runs, for the arms in ``only`` if it names any.

    Raises EvaluateError if a source, the task or a checkpoint cannot be used as the suite requires.
    """
    names = [arm.name for arm in suite.arms]
    for name in only:
        if name not in names:
            raise EvaluateError(f"--only {name}: no such arm; there are {', '.join(names)}")
    task = open_task(suite.task)
    chosen = {arm.name: choose(arm, suite.image_size) for arm in suite.arms if arm.pretraining}
    captions = {
        arm.name: captions_of(arm, chosen[arm.name])
        for arm in suite.arms
        if arm.pretraining and suite.recipe(arm).objective == "image-text"
    }
    grid = make_grid(suite, task, chosen, captions, set(only) or set(names))
    return Plan(suite=suite, task=task, chosen=chosen, captions=captions, grid=grid)
