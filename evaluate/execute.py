"""Run a suite: open and decode everything first, then train what is not done."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch

from synthgen.generate import free_space
from synthgen.progress import progress

from .arms import Chosen, choose
from .data import cached_pixels
from .errors import EvaluateError
from .models import n_parameters
from .runs import Arm, Member, Predictions, Run, RunConfig, SuiteRecord, write_suite_record
from .selection import write_selection
from .suite import Suite
from .tasks import Task, open_task
from .train import EvaluationSet, LabelledImages, fail, train


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One run of the grid."""

    title: str
    arm: str
    config: RunConfig

    def run(self, out: Path) -> Run:
        """Its place on disk."""
        return Run(directory=out / self.config.digest)


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
    wanted = {arm.name for arm in suite.arms if only in (None, arm.name)}
    if not wanted:
        raise EvaluateError(f"--only {only}: no such arm; there are {', '.join(arm.name for arm in suite.arms)}")
    task = open_task(suite.task.path)
    chosen = {arm.name: choose(arm, suite.image_size) for arm in suite.arms if arm.pretrains}
    steps, members = _grid(suite, task, chosen, wanted)
    todo = [step for step in steps if not step.run(out).done]
    _check_disk(out, suite, task, chosen, todo)
    images = {arm: _pretraining_images(arm, chosen[arm], suite, out) for arm in _arms(todo, "pretrain")}
    fine, evaluation = _task_images(task, suite, out) if _arms(todo, "finetune") else (None, {})
    write_suite_record(out, _record(suite, task, members))
    failed, done = [], 0
    with _deterministic(where):
        for number, step in enumerate(todo, start=1):
            pretraining = step.config.kind == "pretrain"
            train_set = images[step.arm] if pretraining else fine
            assert train_set is not None
            title = f"{number}/{len(todo)} {step.title}"
            if pretraining:
                _keep_selection(step.run(out), chosen[step.arm])
            try:
                done += _run(step, title, train_set, {} if pretraining else evaluation, out, where)
            except EvaluateError as error:
                failed.append(f"{step.title}: {error}")
    return Outcome(done=done, kept=len(steps) - done - len(failed), failed=tuple(failed))


def _arms(steps: list[Step], kind: str) -> list[str]:
    return list(dict.fromkeys(step.arm for step in steps if step.config.kind == kind))


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


def _check_disk(out: Path, suite: Suite, task: Task, chosen: dict[str, Chosen], todo: list[Step]) -> None:
    """Raise EvaluateError where the decoded images and weights of the runs to do would not fit."""
    n_images = sum(len(chosen[arm].selection.indices) for arm in _arms(todo, "pretrain"))
    n_images += int(task.identity["n_images"]) if _arms(todo, "finetune") else 0
    n_bytes = {name: 4 * n_parameters(name) for name in suite.architectures}
    weights = sum(n_bytes[step.config.architecture] for step in todo)
    checkpoint = 6 * max(n_bytes.values())  # weights and two moments, while the old one still stands
    needed = 3 * n_images * suite.image_size**2 + weights + (checkpoint if todo else 0)
    free = free_space(out)
    if free < needed:
        raise EvaluateError(
            f"{out}: the runs to do need about {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB are free;"
            " free some space or use another --out"
        )


def _pretraining_images(arm: str, chosen: Chosen, suite: Suite, out: Path) -> LabelledImages:
    selection = chosen.selection
    with progress(f"decode {arm}", len(selection.indices), "images") as show:
        pixels = cached_pixels(
            chosen.source,
            selection.indices,
            suite.image_size,
            cache=out / "cache",
            key=chosen.identity,
            progress=show,
        )
    return LabelledImages(pixels=pixels, labels=selection.labels, n_classes=len(selection.class_names))


def _task_images(task: Task, suite: Suite, out: Path) -> tuple[LabelledImages, dict[str, EvaluationSet]]:
    images = {}
    for name, split in task.splits.items():
        with progress(f"decode {name}", len(split.y), "images") as show:
            images[name] = cached_pixels(
                split,
                np.arange(len(split.y)),
                suite.image_size,
                cache=out / "cache",
                key={**task.identity, "split": name},
                progress=show,
            )
    fine = LabelledImages(pixels=images["train"], labels=task.splits["train"].y, n_classes=len(task.class_names))
    evaluation = {
        name: EvaluationSet(
            pixels=images[name],
            truth=Predictions(image_id=split.image_id, y_true=split.y, y_pred=split.y, location=split.location),
        )
        for name, split in task.splits.items()
        if name != "train"
    }
    return fine, evaluation


def _grid(suite: Suite, task: Task, chosen: dict[str, Chosen], wanted: set[str]) -> tuple[list[Step], list[Member]]:
    """The runs of the wanted arms, pre-training before what needs it, and every run's place in the suite."""
    steps: dict[str, Step] = {}
    members = []
    for seed, arm, architecture in product(suite.seeds, suite.arms, suite.architectures):
        title = f"{arm.name}, {architecture}, seed {seed}"
        config = RunConfig(
            kind="finetune",
            architecture=architecture,
            seed=seed,
            image_size=suite.image_size,
            data=task.identity,
            recipe=suite.finetune,
        )
        if arm.name in chosen:
            before = replace(config, kind="pretrain", data=chosen[arm.name].identity, recipe=suite.pretrain)
            config = replace(config, init=before.digest)
            if arm.name in wanted:
                steps.setdefault(before.digest, Step(title=f"pre-train {title}", arm=arm.name, config=before))
        if arm.name in wanted:
            steps.setdefault(config.digest, Step(title=f"fine-tune {title}", arm=arm.name, config=config))
        members.append(
            Member(arm=arm.name, architecture=architecture, seed=seed, pretrain=config.init, finetune=config.digest)
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
        task={"name": Path(suite.task.path).resolve().name, **task.identity, "class_names": list(task.class_names)},
        arms=arms,
        members=tuple(members),
    )


def _keep_selection(run: Run, chosen: Chosen) -> None:
    """Write which images a run trains on, and with which labels, beside it."""
    if not run.selection.exists():
        write_selection(run.selection, chosen.selection, chosen.source.identity)


def _run(
    step: Step,
    title: str,
    images: LabelledImages,
    evaluation: dict[str, EvaluationSet],
    out: Path,
    device: torch.device,
) -> bool:
    """Train one run; False where another process has finished it meanwhile."""
    run = step.run(out)
    run.directory.mkdir(parents=True, exist_ok=True)
    with _locked(run.directory / "lock", title), progress(title, step.config.recipe.epochs, "epochs") as show:
        if run.done:
            return False
        try:
            init = _initial_weights(step.config, out)
            train(run, step.config, images, evaluation, init=init, device=device, progress=show)
        except EvaluateError as error:
            fail(run, error, device)
            raise
    return True


def _initial_weights(config: RunConfig, out: Path) -> Path | None:
    if config.init is None:
        return None
    before = Run(directory=out / config.init)
    if not before.done:
        raise EvaluateError(f"its pre-training run {config.init} is not done")
    return before.weights


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
