"""Which runs are compared: one run per arm and block, all of one task and the same test images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ..errors import EvaluateError
from ..judgement import Judgement
from ..runs import Arm
from ..tasks.base import Words
from ..tasks.known import words_of
from .load import ID_SPLIT, OOD_SPLIT, LoadedRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Comparable runs, by arm (the baseline first), architecture and seed."""

    suites: tuple[str, ...]
    baseline: str
    reference: str | None  # a second arm to compare with
    runs: tuple[LoadedRun, ...]  # planned ones

    @property
    def finished(self) -> tuple[LoadedRun, ...]:
        """The runs that have scores."""
        return tuple(run for run in self.runs if run.epochs)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """All arms, the baseline first."""
        return tuple({run.arm.name: run.arm for run in self.runs}.values())

    @property
    def task(self) -> str:
        """What the runs were fine-tuned on."""
        return str(self.runs[0].suite.task.get("name", "unnamed task"))

    @property
    def judgement(self) -> Judgement:
        """What the suites ask."""
        return self.runs[0].suite.judgement

    def chosen_after(self, given: Mapping[str, object]) -> tuple[str, ...]:
        """What of the judgement was given after the runs, in words: values that differ from those of the suites."""
        suite = self.runs[0].suite
        stated = {**asdict(suite.judgement), "baseline": suite.baseline, "reference": suite.reference}
        return tuple(f"{key} {value}" for key, value in given.items() if value is not None and value != stated.get(key))

    @property
    def words(self) -> Words:
        """What the task calls its clusters and splits."""
        return words_of(self.runs[0].suite.task)

    @property
    def n_classes(self) -> int | None:
        """Classes of the task, including those that do not occur."""
        return _n_classes(self.runs[0].suite.task)


def select(runs: Sequence[LoadedRun], *, baseline: str | None, reference: str | None) -> Selection:
    """Choose one run for each arm, architecture and seed, and the arms to compare with.

    Raises EvaluateError if runs are of different tasks or were evaluated on different images, if suites
    disagree on an arm, a run, the baseline or the reference, if one of these two is unknown, or if no run is
    finished.
    """
    if not runs:
        raise EvaluateError("the suites plan no runs, so there is nothing to compare")
    _check_same_task(runs)
    _check_same_judgement(runs)
    suites = tuple(dict.fromkeys(run.suite.name for run in runs))
    names = list(dict.fromkeys(run.arm.name for run in runs))
    runs = _one_of_each(runs)
    baseline = _choose_baseline(runs, names, baseline)
    _check_primary(runs)
    reference = _choose_reference(runs, names, reference, baseline)
    names = [baseline, *(name for name in names if name != baseline)]
    runs = sorted(runs, key=lambda run: (names.index(run.arm.name), run.member.architecture, run.member.seed))
    chosen = Selection(suites=suites, baseline=baseline, reference=reference, runs=tuple(runs))
    if not chosen.finished:
        states = ", ".join(f"{n} {status}" for status, n in Counter(run.status for run in runs).items())
        raise EvaluateError(f"no run is finished, so there is nothing to compare ({states})")
    return chosen


def _one_of_each(runs: Sequence[LoadedRun]) -> list[LoadedRun]:
    """One entry for each arm, architecture and seed: suites may share runs, but must agree on them."""
    arms: dict[str, LoadedRun] = {}
    chosen: dict[tuple[str, str, int], LoadedRun] = {}
    for run in runs:
        first = arms.setdefault(run.arm.name, run)
        if first.arm != run.arm:
            raise EvaluateError(
                f"arm {run.arm.name!r} means different things in suites {first.suite.name!r} and {run.suite.name!r}"
            )
        key = (run.arm.name, run.member.architecture, run.member.seed)
        other = chosen.setdefault(key, run)
        if other.member.finetune != run.member.finetune:
            raise EvaluateError(
                f"two different runs have the same arm, architecture and seed: {other.label} of suite"
                f" {other.suite.name!r} and {run.label} of suite {run.suite.name!r}; compare them separately"
            )
        if run.epochs and not other.epochs:
            chosen[key] = run
    return list(chosen.values())


def _check_same_task(runs: Sequence[LoadedRun]) -> None:
    for run in runs:
        ours, theirs = runs[0].suite, run.suite
        differing = [key for key in {**ours.task, **theirs.task} if ours.task.get(key) != theirs.task.get(key)]
        if differing:
            raise EvaluateError(
                f"suites {ours.name!r} and {theirs.name!r} fine-tune on different tasks"
                f" ({_task(ours.task)} and {_task(theirs.task)}; {', '.join(differing)} differ):"
                " compare them separately"
            )
    evaluated = [(run, epoch) for run in runs for epoch in run.epochs]
    for run, epoch in evaluated:
        first, start = evaluated[0]
        if epoch.images != start.images:
            raise EvaluateError(
                f"{first.label} at epoch {start.epoch} and {run.label} at epoch {epoch.epoch} were evaluated on"
                f" different images or labels ({start.n_id} and {epoch.n_id} of {ID_SPLIT}, {start.n_ood} and"
                f" {epoch.n_ood} of {OOD_SPLIT}): their scores cannot be compared"
            )


def _check_same_judgement(runs: Sequence[LoadedRun]) -> None:
    first = runs[0].suite
    for run in runs:
        if run.suite.judgement != first.judgement:
            raise EvaluateError(
                f"suites {first.name!r} and {run.suite.name!r} state different judgements: compare them separately"
            )


def _check_primary(runs: Sequence[LoadedRun]) -> None:
    """Raise EvaluateError if a suite's primary comparisons name what is none of its arms but the baseline."""
    for suite in {run.suite.name: run.suite for run in runs}.values():
        for name in suite.judgement.primary:
            if name == suite.baseline or name not in {arm.name for arm in suite.arms}:
                raise EvaluateError(
                    f"suite {suite.name!r}: judgement.primary: {name!r} is not an arm other than the baseline"
                )


def _task(task: Mapping[str, object]) -> str:
    return f"{task.get('name', 'unnamed')!r} with {_n_classes(task) or 'unknown'} classes"


def _n_classes(task: Mapping[str, object]) -> int | None:
    names = task.get("class_names")
    return len(names) if isinstance(names, Sequence) else None


def _choose_baseline(runs: Sequence[LoadedRun], names: Sequence[str], baseline: str | None) -> str:
    planned = list(dict.fromkeys(run.suite.baseline for run in runs))
    if baseline is None and len(planned) > 1:
        raise EvaluateError(f"the suites name different baselines ({', '.join(planned)}): choose one with --baseline")
    chosen = planned[0] if baseline is None else baseline
    if chosen not in names:
        raise EvaluateError(f"no arm is called {chosen!r}: choose the baseline from {', '.join(names)}")
    return chosen


def _choose_reference(
    runs: Sequence[LoadedRun], names: Sequence[str], reference: str | None, baseline: str
) -> str | None:
    planned = {run.suite.reference for run in runs}
    chosen = reference or (planned.pop() if len(planned) == 1 else None)
    if reference is not None and (reference not in names or reference == baseline):
        others = [name for name in names if name != baseline]
        raise EvaluateError(
            f"reference {reference!r} is not an arm other than the baseline: choose from {', '.join(others)}"
        )
    return chosen if chosen in names and chosen != baseline else None
