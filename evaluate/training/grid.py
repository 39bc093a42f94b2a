"""The run grid of a suite: its runs, their order, and which of them arms share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from os.path import realpath
from pathlib import Path

from ..design.arms import ArmSpec
from ..design.choice import Chosen
from ..design.suite import Suite
from ..runs import Arm, Member, Run, RunConfig, SuiteRecord
from ..tasks.base import Task
from .checkpoints import identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One run of the grid."""

    title: str
    arm: ArmSpec  # the first that needs it
    config: RunConfig
    checkpoint: str | None = None  # external weights that it starts from

    def run(self, out: Path) -> Run:
        """Its place on disk; raises EvaluateError if the configuration that is there was edited."""
        run = Run(directory=out / self.config.digest)
        run.find_config()
        return run


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """All runs of a suite."""

    steps: tuple[Step, ...]  # of the wanted arms, in running order; what one starts from comes before it
    members: tuple[Member, ...]  # every fine-tuned run's place in the suite, of all arms


def make_grid(
    suite: Suite,
    task: Task,
    chosen: Mapping[str, Chosen],
    captions: Mapping[str, tuple[str, ...]],
    wanted: Collection[str],
) -> Grid:
    """The run grid of a suite: all arms at one seed first, so that there is something to compare early.

    Arms that train on the same images with the same labels, captions and recipe share the run.
    """
    steps: dict[str, Step] = {}
    members = []
    for seed in suite.seeds:
        for arm in suite.arms:
            for architecture in suite.architectures_of(arm):
                path = _path(suite, task, chosen, captions, arm, architecture, seed)
                if arm.name in wanted:
                    for step in path:
                        steps.setdefault(step.config.digest, step)
                fine, before = path[-1].config, path[0].config if len(path) > 1 else None
                members.append(
                    Member(
                        arm=arm.name,
                        architecture=architecture,
                        seed=seed,
                        pretrain=before.digest if before else None,
                        finetune=fine.digest,
                    )
                )
    return Grid(steps=tuple(steps.values()), members=tuple(members))


def _path(
    suite: Suite,
    task: Task,
    chosen: Mapping[str, Chosen],
    captions: Mapping[str, tuple[str, ...]],
    arm: ArmSpec,
    architecture: str,
    seed: int,
) -> list[Step]:
    """The runs that lead to one fine-tuned model of an arm: pre-training, if there is any, and fine-tuning."""
    title = f"{arm.name}, {architecture}, seed {seed}"
    fine = RunConfig(
        kind="finetune",
        architecture=architecture,
        seed=seed,
        image_size=suite.image_size,
        data=task.identity,
        recipe=suite.finetune,
        precision=suite.precision,
    )
    if arm.pretraining:
        data = pretraining_data(chosen[arm.name], captions.get(arm.name, ()))
        before = replace(fine, kind="pretrain", data=data, recipe=suite.recipe(arm, architecture))
        return [
            Step(title=f"pre-train {title}", arm=arm, config=before),
            Step(title=f"fine-tune {title}", arm=arm, config=replace(fine, init=before.digest)),
        ]
    checkpoint = arm.checkpoint_of(architecture)
    init = identity(checkpoint, architecture) if checkpoint else None
    return [Step(title=f"fine-tune {title}", arm=arm, config=replace(fine, init=init), checkpoint=checkpoint)]


def pretraining_data(chosen: Chosen, captions: tuple[str, ...]) -> dict[str, object]:
    """What a pre-training run's configuration says about its images, and about their captions if it reads them."""
    if not captions:
        return chosen.identity
    digest = hashlib.sha256(json.dumps(captions).encode()).hexdigest()[:16]
    return {**chosen.identity, "captions": digest}


def suite_record(suite: Suite, task: Task, grid: Grid, chosen: Mapping[str, Chosen]) -> SuiteRecord:
    """The experiment as it was planned, with the digests of its runs."""
    arms = tuple(
        Arm(
            name=arm.name,
            factor=arm.factor,
            level=arm.level or arm.name,
            description=arm.weights.describe(),
            origin=chosen[arm.name].source.origin if arm.name in chosen else (),
        )
        for arm in suite.arms
    )
    return SuiteRecord(
        name=suite.name,
        baseline=suite.baseline,
        task={"name": Path(realpath(suite.task.path)).name, **task.identity, "class_names": list(task.class_names)},
        arms=arms,
        members=grid.members,
        reference=suite.reference,
        judgement=suite.judgement,
    )
