"""Runs -> Comparison: what pre-training on one image set rather than another did, and how sure that is.

Everything is recomputed from stored predictions. The unit of replication is the run, paired by block
(architecture x seed); epochs of a run and images of a cluster are never counted as repetitions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import EvaluateError
from ..tasks.known import words_of
from .blocks import RunEpochs
from .comparison import Comparison, Reference
from .entries import (
    effect_of,
    environments_of,
    locations_of,
    ordered_of,
    robustness_by_arm,
    rows_of,
    summarise,
)
from .inference import Line
from .judgement import Judgement, judge
from .load import ID_SPLIT, OOD_SPLIT, LoadedRun
from .measure import RESAMPLES, Measured, measure
from .trends import Scale
from .wording import notes, summary, unverified, verdicts

MARGIN = 1.0  # percentage points of effective robustness that count as none
MOST_POINTS = 100  # that two macro-F1 can differ by


def compare(
    runs: Sequence[LoadedRun],
    *,
    baseline: str | None = None,
    reference: str | None = None,
    scale: Scale = "logit",
    margin: float = MARGIN,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare arms with the baseline, and with a second arm, the reference (by default those that the suites name).

    ``margin`` in percentage points is what counts as equivalent. The same ``seed`` gives the same result.
    Raises EvaluateError where runs are of different tasks or were evaluated on different images,
    where baseline or reference are unknown or not agreed on, or where nothing is finished.
    """
    if not 0 < margin <= MOST_POINTS:
        raise EvaluateError(f"a margin of {margin:g} points: more than 0, at most {MOST_POINTS}")
    if not runs:
        raise EvaluateError("the suites plan no runs, so there is nothing to compare")
    suites = tuple(dict.fromkeys(run.suite.name for run in runs))
    _check_same_task(runs)
    names = list(dict.fromkeys(run.arm.name for run in runs))
    runs = _one_of_each(runs)
    baseline = _choose_baseline(runs, names, baseline)
    reference = _choose_reference(runs, names, reference, baseline)
    names = [baseline, *(name for name in names if name != baseline)]
    runs = sorted(runs, key=lambda run: (names.index(run.arm.name), run.member.architecture, run.member.seed))
    finished = [run for run in runs if run.epochs]
    if not finished:
        states = ", ".join(f"{n} {status}" for status, n in Counter(run.status for run in runs).items())
        raise EvaluateError(f"no run is finished, so there is nothing to compare ({states})")
    measured = measure(finished, names, scale=scale, resamples=resamples, seed=seed)
    line = Line(epsilon=measured.point.epsilon, scale=scale)
    judged = _judge(measured, runs, line, margin)
    beside = None if reference is None else _refer(measured.against(names.index(reference)), runs, line, margin)
    arms = tuple(summarise(measured, number, runs) for number in range(len(names)))
    rows = rows_of(measured, arms[0])
    effects = tuple(effect_of(measured, tests, runs, line) for tests in judged.arms)
    levels = {arm.arm.name: arm.arm.level for arm in arms}
    ordered = tuple(ordered_of(trend, levels) for trend in judged.trends)
    classes = runs[0].suite.task.get("class_names")
    return Comparison(
        suites=suites,
        task=str(runs[0].suite.task.get("name", "unnamed task")),
        n_classes=len(classes) if isinstance(classes, Sequence) else None,
        baseline=baseline,
        scale=scale,
        epsilon=line.epsilon,
        margin=margin,
        resamples=resamples if measured.resampled is not None else 0,
        arms=arms,
        rows=rows,
        effects=effects,
        ordered=ordered,
        reference=beside,
        locations=locations_of(measured),
        environments=environments_of(finished),
        unfinished=tuple(f"{run.label}: {run.status}" for run in runs if not run.epochs),
        notes=notes(arms, rows, effects, line.epsilon),
        summary=summary(arms, finished, effects, ordered) + (beside.summary if beside else ()),
        words=words_of(runs[0].suite.task),
        unverified=unverified(finished),
    )


def _judge(measured: Measured, runs: Sequence[LoadedRun], line: Line, margin: float) -> Judgement:
    """The tests of all arms that have finished runs, where the baseline has some."""
    done = {run.arm.name for run in measured.run}
    if measured.baseline not in done:
        return Judgement(baseline=measured.baseline, arms=(), trends=())
    table = RunEpochs(
        arm=np.array([run.arm.name for run in measured.run]),
        architecture=np.array([run.member.architecture for run in measured.run]),
        seed=np.array([run.member.seed for run in measured.run], np.int64),
        epoch=np.array([epoch.epoch for epoch in measured.epoch], np.int64),
        id_f1=measured.id_f1,
        ood_f1=measured.ood_f1,
    )
    known = {run.arm.name: run.arm for run in runs if run.arm.name in done}
    return judge(
        table,
        baseline=measured.baseline,
        factors={name: arm.factor for name, arm in known.items()},
        levels={name: arm.level for name, arm in known.items()},
        line=line,
        margin=margin,
    )


def _refer(measured: Measured, runs: Sequence[LoadedRun], line: Line, margin: float) -> Reference:
    """The tests of all arms against the arm that these measurements have as the baseline."""
    judged = _judge(measured, runs, line, margin)
    effects = tuple(effect_of(measured, tests, runs, line) for tests in judged.arms)
    return Reference(
        arm=measured.baseline,
        effects=effects,
        robustness=robustness_by_arm(measured),
        summary=verdicts(effects, measured.baseline),
    )


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
                f"two different runs stand for the same arm, architecture and seed: {other.label} of suite"
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


def _task(task: Mapping[str, object]) -> str:
    names = task.get("class_names")
    return f"{task.get('name', 'unnamed')!r} with {len(names) if isinstance(names, Sequence) else 'unknown'} classes"


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
        raise EvaluateError(f"reference {reference!r} is no arm beside the baseline: choose from {', '.join(others)}")
    return chosen if chosen in names and chosen != baseline else None
