"""Runs -> Comparison: what pre-training on one image set rather than another did, and how sure that is.

Everything is recomputed from stored predictions. The unit of replication is the run, paired by block
(architecture x seed); epochs of a run and images of a camera location are never counted as repetitions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from . import judgement
from .blocks import RunEpochs
from .comparison import ArmSummary, Comparison, Effect, Estimate, OrderedTrend, Row
from .errors import EvaluateError
from .formatting import signed
from .inference import BlockEstimate, Line
from .judgement import ArmTests, Judgement, judge
from .load import ID_SPLIT, OOD_SPLIT, LoadedRun
from .measure import RESAMPLES, Measured, measure
from .mixed import MixedModel
from .stats import smallest_p
from .trends import Scale, effective_robustness, fit_trend
from .wording import notes, summary

MARGIN = 1.0  # percentage points of effective robustness that count as none


def compare(
    runs: Sequence[LoadedRun],
    *,
    baseline: str | None = None,
    scale: Scale = "logit",
    margin: float = MARGIN,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare arms with the baseline (by default the one that the suites name).

    ``margin`` in percentage points is what counts as equivalent. The same ``seed`` gives the same result.
    Raises EvaluateError where runs are of different tasks or were evaluated on different images,
    where the baseline is unknown or not agreed on, or where nothing is finished.
    """
    if not runs:
        raise EvaluateError("the suites plan no runs, so there is nothing to compare")
    suites = tuple(dict.fromkeys(run.suite.name for run in runs))
    _check_same_task(runs)
    names = list(dict.fromkeys(run.arm.name for run in runs))
    runs = _one_of_each(runs)
    baseline = _choose_baseline(runs, names, baseline)
    names = [baseline, *(name for name in names if name != baseline)]
    runs = sorted(runs, key=lambda run: (names.index(run.arm.name), run.member.architecture, run.member.seed))
    finished = [run for run in runs if run.epochs]
    if not finished:
        states = ", ".join(f"{n} {status}" for status, n in Counter(run.status for run in runs).items())
        raise EvaluateError(f"no run is finished, so there is nothing to compare ({states})")
    measured = measure(finished, names, scale=scale, resamples=resamples, seed=seed)
    line = Line(epsilon=measured.point.epsilon, scale=scale)
    judged = _judge(measured, runs, line, margin)
    arms = tuple(_summarise(measured, number, runs) for number in range(len(names)))
    rows = _rows(measured, arms[0])
    effects = tuple(_effect(measured, tests, runs, line) for tests in judged.arms)
    levels = {arm.arm.name: arm.arm.level for arm in arms}
    ordered = tuple(_ordered(trend, levels) for trend in judged.trends)
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
        unfinished=tuple(f"{run.label}: {run.status}" for run in runs if not run.epochs),
        notes=notes(arms, rows, effects, line.epsilon),
        summary=summary(arms, finished, effects, ordered),
    )


def _judge(measured: Measured, runs: Sequence[LoadedRun], line: Line, margin: float) -> Judgement:
    """The tests of all arms that have finished runs, where the baseline has some."""
    done = {run.arm.name for run in measured.run}
    if measured.arms[0] not in done:
        return Judgement(baseline=measured.arms[0], arms=(), trends=())
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
        baseline=measured.arms[0],
        factors={name: arm.factor for name, arm in known.items()},
        levels={name: arm.level for name, arm in known.items()},
        line=line,
        margin=margin,
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


def _rows(measured: Measured, baseline: ArmSummary) -> tuple[Row, ...]:
    """A row a run and epoch; effective robustness is measured from the baseline's own trend."""
    rows = []
    for number, (run, epoch) in enumerate(zip(measured.run, measured.epoch, strict=True)):
        robustness = None
        if baseline.trend is not None:
            robustness = float(effective_robustness(epoch.id.macro_f1, epoch.ood.macro_f1, baseline.trend))
        rows.append(
            Row(
                arm=run.arm.name,
                factor=run.arm.factor,
                level=run.arm.level,
                architecture=run.member.architecture,
                seed=run.member.seed,
                epoch=epoch.epoch,
                final=epoch is run.epochs[-1],
                id=epoch.id,
                ood=epoch.ood,
                effective_robustness=robustness,
                n_id=epoch.n_id,
                n_ood=epoch.n_ood,
                worst_location=None if measured.worst is None else float(measured.worst[number]),
                pretrain=run.member.pretrain,
                finetune=run.member.finetune,
            )
        )
    return tuple(rows)


def _summarise(measured: Measured, number: int, runs: Sequence[LoadedRun]) -> ArmSummary:
    name = measured.arms[number]
    planned = [run for run in runs if run.arm.name == name]
    final = [run.epochs[-1] for run in planned if run.epochs]
    id_mean, id_sd = _mean_sd([epoch.id.macro_f1 for epoch in final])
    ood_mean, ood_sd = _mean_sd([epoch.ood.macro_f1 for epoch in final])
    own, span = measured.rows(number), measured.id_f1[measured.rows(0)]
    outside = {
        (run.member.architecture, run.member.seed)
        for run, f1 in zip(measured.run[own], measured.id_f1[own], strict=True)
        if span.size and not span.min() <= f1 <= span.max()
    }
    robustness = measured.point.run_er[measured.design.runs(number), 0]
    worst = (
        []
        if measured.worst is None
        else [
            value
            for run, epoch, value in zip(measured.run[own], measured.epoch[own], measured.worst[own], strict=True)
            if epoch is run.epochs[-1]
        ]
    )
    return ArmSummary(
        arm=planned[0].arm,
        planned=len(planned),
        finished=len(final),
        id_mean=id_mean,
        id_sd=id_sd,
        ood_mean=ood_mean,
        ood_sd=ood_sd,
        trend=fit_trend(
            measured.id_f1[own], measured.ood_f1[own], scale=measured.point.scale, epsilon=measured.point.epsilon
        ),
        slope=measured.slope(number),
        band=measured.band(number),
        effective_robustness=float(robustness.mean()) if robustness.size and np.isfinite(robustness).all() else None,
        worst_location=_mean_sd(worst)[0],
        extrapolated=len(outside),
    )


def _mean_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    mean = float(np.mean(values)) if len(values) else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def _effect(measured: Measured, tests: ArmTests, runs: Sequence[LoadedRun], line: Line) -> Effect:
    number = measured.arms.index(tests.arm)
    main = next((finding for finding in tests.findings if finding.id_f1 is None), None)
    findings = tests.findings
    adjusted = [finding.p_adjusted for finding in findings if finding.p_adjusted is not None]
    return Effect(
        arm=tests.arm,
        factor=tests.factor,
        level=next(run.arm.level for run in runs if run.arm.name == tests.arm),
        n=len(tests.blocks),
        unpaired=tests.unpaired,
        ood=measured.ood(number),
        robustness=measured.difference(number, tests.difference, line),
        p=tests.difference.p,
        p_adjusted=main.p_adjusted if main else min(adjusted, default=None),
        smallest_p=smallest_p(len(tests.blocks)),
        verdict=tests.verdict,
        slope=_estimate(tests.slopes),
        slope_p=tests.slopes.p,
        at=tuple((f.id_f1, e) for f in findings if f.id_f1 is not None and (e := _estimate(f.effect)) is not None),
        mixed_model=_in_words(tests.mixed),
        sensitivity=tuple((name, estimate.value) for name, estimate in tests.sensitivity),
        equivalence_p=main.equivalence_p if main else None,
        power=main.power if main else None,
        blocks_needed=main.needed if main else None,
    )


def _estimate(found: BlockEstimate) -> Estimate | None:
    return None if found.value is None else Estimate(value=found.value, low=found.low, high=found.high)


def _in_words(model: MixedModel) -> str:
    if model.value is None:
        return f"not fitted: {model.note}"
    value, low, high = (signed(number, 2) for number in (model.value, model.low, model.high))
    words = f"{value} points, 95% interval {low} to {high}, p = {model.p:.2g}"
    return f"{words} ({model.note})" if model.note else words


def _ordered(trend: judgement.OrderedTrend, levels: Mapping[str, str]) -> OrderedTrend:
    return OrderedTrend(
        factor=trend.factor,
        levels=tuple(levels[arm] for arm in trend.arms),
        n=trend.step.n,
        p=trend.step.p,
        verdict=trend.verdict,
    )
