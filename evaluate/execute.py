"""Run a suite: open and decode everything first, then train what is not done."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from synthgen.progress import progress

from .data import cached_pixels
from .errors import EvaluateError
from .interventions import everything, quantity
from .runs import Arm, Member, Predictions, Run, RunConfig, SuiteRecord, write_suite_record
from .sources import open_source
from .suite import ArmSpec, Suite
from .tasks import Task, open_task
from .train import EvaluationSet, LabelledImages, fail, train

SELECTION_SEED = 0  # of the images that an arm takes from its source: the same for every run


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One run of the grid, with what it needs."""

    title: str
    config: RunConfig
    images: LabelledImages
    evaluation: dict[str, EvaluationSet]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of running a suite."""

    done: int  # runs finished now
    kept: int  # runs that were finished before
    failed: tuple[str, ...]  # a line a run


def run_suite(suite: Suite, out: Path, *, device: str, only: str | None = None) -> Outcome:
    """Run what is not done of a suite, all arms at one seed first.

    Sources and task are opened and decoded before the first training, so that a broken image or a
    missing folder is told at once.  A failed run does not stop the others.
    """
    where = _device(device)
    arms = [arm for arm in suite.arms if only in (None, arm.name)]
    if not arms:
        raise EvaluateError(f"--only {only}: no such arm; there are {', '.join(a.name for a in suite.arms)}")
    task = open_task(suite.task.path)
    fine, evaluation = _task_images(task, suite, out)
    pretraining = {arm.name: _arm_images(arm, suite, out) for arm in suite.arms}
    steps, members = _grid(suite, task, fine, evaluation, pretraining, {arm.name for arm in arms})
    write_suite_record(out, _record(suite, task, members))
    outcome = Outcome(done=0, kept=0, failed=())
    with _deterministic(where):
        for number, step in enumerate(steps, start=1):
            outcome = _run(step, f"{number}/{len(steps)} {step.title}", out, where, outcome)
    return outcome


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise EvaluateError(f"--device {name}: not a device; auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EvaluateError(f"--device {name}: no CUDA device here; use --device cpu")
    return device


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """The same results for the same runs on a CPU; CUDA kernels are left free to be fast."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _task_images(task: Task, suite: Suite, out: Path) -> tuple[LabelledImages, dict[str, EvaluationSet]]:
    images = {}
    for name, split in task.splits.items():
        with progress(f"decode {name}", len(split.y), "images") as show:
            images[name] = cached_pixels(
                split,
                everything(split.y, task.class_names).indices,
                suite.image_size,
                cache=out / "cache",
                key={**task.identity, "split": name},
                progress=show,
            )
    train_split = task.splits["train"]
    fine = LabelledImages(pixels=images["train"], labels=train_split.y, n_classes=len(task.class_names))
    evaluation = {
        name: EvaluationSet(
            pixels=images[name],
            truth=Predictions(image_id=split.image_id, y_true=split.y, y_pred=split.y, location=split.location),
        )
        for name, split in task.splits.items()
        if name != "train"
    }
    return fine, evaluation


def _arm_images(arm: ArmSpec, suite: Suite, out: Path) -> tuple[LabelledImages, dict[str, Any]] | None:
    """An arm's pre-training images and what its runs' configuration says of them."""
    if arm.source is None:
        return None
    source = open_source(arm.source, suite.image_size)
    if arm.n is None:
        selection = everything(source.labels, source.class_names)
    else:
        try:
            selection = quantity(source.labels, source.class_names, arm.n, seed=SELECTION_SEED)
        except EvaluateError as error:
            raise EvaluateError(f"arm {arm.name}: {error}") from None
    said = {
        "source": source.identity,
        "selection": selection.digest,
        "rule": selection.rule,
        "n_images": len(selection.indices),
        "n_classes": len(selection.class_names),
    }
    with progress(f"decode {arm.name}", len(selection.indices), "images") as show:
        pixels = cached_pixels(
            source, selection.indices, suite.image_size, cache=out / "cache", key=said, progress=show
        )
    images = LabelledImages(pixels=pixels, labels=selection.labels, n_classes=len(selection.class_names))
    return images, said


def _grid(
    suite: Suite,
    task: Task,
    fine: LabelledImages,
    evaluation: dict[str, EvaluationSet],
    pretraining: dict[str, tuple[LabelledImages, dict[str, Any]] | None],
    wanted: set[str],
) -> tuple[list[Step], list[Member]]:
    """The runs to do, pre-training before what needs it, and every run's place in the suite."""
    steps: dict[str, Step] = {}
    members = []
    for seed, arm, architecture in product(suite.seeds, suite.arms, suite.architectures):
        title = f"{arm.name}, {architecture}, seed {seed}"
        after = RunConfig(
            kind="finetune",
            architecture=architecture,
            seed=seed,
            image_size=suite.image_size,
            data=task.identity,
            recipe=suite.finetune,
        )
        ready = pretraining[arm.name]
        if ready is not None:
            images, said = ready
            before = replace(after, kind="pretrain", data=said, recipe=suite.pretrain)
            after = replace(after, init=before.digest)
            if arm.name in wanted:
                step = Step(title=f"pre-train {title}", config=before, images=images, evaluation={})
                steps.setdefault(before.digest, step)
        if arm.name in wanted:
            step = Step(title=f"fine-tune {title}", config=after, images=fine, evaluation=evaluation)
            steps.setdefault(after.digest, step)
        members.append(
            Member(arm=arm.name, architecture=architecture, seed=seed, pretrain=after.init, finetune=after.digest)
        )
    return list(steps.values()), members


def _record(suite: Suite, task: Task, members: list[Member]) -> SuiteRecord:
    arms = tuple(
        Arm(name=arm.name, factor=arm.factor, level=arm.level or arm.name, description=arm.describe())
        for arm in suite.arms
    )
    return SuiteRecord(
        name=suite.name,
        baseline=suite.baseline,
        task={**task.identity, "class_names": list(task.class_names)},
        arms=arms,
        members=tuple(members),
    )


def _run(step: Step, title: str, out: Path, device: torch.device, outcome: Outcome) -> Outcome:
    run = Run(directory=out / step.config.digest)
    run.directory.mkdir(parents=True, exist_ok=True)
    with _locked(run.directory / "lock", title), progress(title, step.config.recipe.epochs, "epochs") as show:
        if run.done:
            return Outcome(done=outcome.done, kept=outcome.kept + 1, failed=outcome.failed)
        try:
            _train(step, run, out, device, show)
        except EvaluateError as error:
            fail(run, error, device)
            return Outcome(done=outcome.done, kept=outcome.kept, failed=(*outcome.failed, f"{step.title}: {error}"))
    return Outcome(done=outcome.done + 1, kept=outcome.kept, failed=outcome.failed)


def _train(step: Step, run: Run, out: Path, device: torch.device, show: Callable[[int], None]) -> None:
    init = None
    if step.config.init is not None:
        before = Run(directory=out / step.config.init)
        if not before.done:
            raise EvaluateError(f"its pre-training run {step.config.init} is not done")
        init = before.weights
    train(run, step.config, step.images, step.evaluation, init=init, device=device, progress=show)


@contextmanager
def _locked(path: Path, title: str) -> Iterator[None]:
    """Hold a run's lock, waiting for another process that holds it."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{title}: another process is at it; waiting", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
