"""Runs -> Comparison: what pre-training on one image set rather than another did, and how sure that is.

Everything is recomputed from stored predictions. The unit of replication is the run: arms are
summarised over the last evaluated epoch of each run; earlier epochs only help to draw the trends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .comparison import ArmSummary, Comparison, Effect, Row
from .errors import EvaluateError
from .load import ID_SPLIT, OOD_SPLIT, EvaluatedEpoch, LoadedRun
from .stats import paired_difference, verdict
from .trends import Scale, Trend, clip_epsilon, effective_robustness, fit_trend
from .wording import notes, summary


def compare(runs: Sequence[LoadedRun], *, baseline: str | None = None, scale: Scale = "logit") -> Comparison:
    """Compare arms with the baseline (by default the one that the suites name).

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
    epsilon = clip_epsilon(min(min(epoch.n_id, epoch.n_ood) for run in finished for epoch in run.epochs))
    trends = {
        name: fit_trend(*_points(r for r in finished if r.arm.name == name), scale=scale, epsilon=epsilon)
        for name in names
    }
    trend = trends[baseline]
    rows = tuple(_row(run, epoch, trend) for run in finished for epoch in run.epochs)
    final = {name: [row for row in rows if row.final and row.arm == name] for name in names}
    span = [row.id.macro_f1 for row in rows if row.arm == baseline]
    tested = [name for name in names[1:] if final[name]] if final[baseline] else []
    effects = tuple(_effect(name, final[name], final[baseline], len(tested)) for name in tested)
    arms = tuple(_summarise(name, runs, final[name], trends[name], span if trend else []) for name in names)
    unfinished = tuple(f"{run.label}: {run.status}" for run in runs if not run.epochs)
    return Comparison(
        suites=suites,
        task=str(runs[0].suite.task.get("name", "unnamed task")),
        n_classes=len(runs[0].suite.task.get("class_names", ())),
        baseline=baseline,
        scale=scale,
        epsilon=epsilon,
        n_comparisons=len(effects),
        arms=arms,
        rows=rows,
        effects=effects,
        unfinished=unfinished,
        notes=notes(arms, rows, effects, epsilon),
        summary=summary(arms, finished, effects, trend),
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


def _points(runs: Iterable[LoadedRun]) -> tuple[list[float], list[float]]:
    """ID and OOD macro-F1 of all evaluated epochs."""
    epochs = [epoch for run in runs for epoch in run.epochs]
    return [epoch.id.macro_f1 for epoch in epochs], [epoch.ood.macro_f1 for epoch in epochs]


def _row(run: LoadedRun, epoch: EvaluatedEpoch, trend: Trend | None) -> Row:
    robustness = float(effective_robustness(epoch.id.macro_f1, epoch.ood.macro_f1, trend)) if trend else None
    return Row(
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
        pretrain=run.member.pretrain,
        finetune=run.member.finetune,
    )


def _summarise(
    name: str, runs: Sequence[LoadedRun], final: Sequence[Row], trend: Trend | None, span: Sequence[float]
) -> ArmSummary:
    """``span`` holds the ID macro-F1 of the points behind the baseline's trend; empty without one."""
    planned = [run for run in runs if run.arm.name == name]
    id_mean, id_sd = _mean_sd([row.id.macro_f1 for row in final])
    ood_mean, ood_sd = _mean_sd([row.ood.macro_f1 for row in final])
    robustness = [row.effective_robustness for row in final if row.effective_robustness is not None]
    return ArmSummary(
        arm=planned[0].arm,
        planned=len(planned),
        finished=len(final),
        id_mean=id_mean,
        id_sd=id_sd,
        ood_mean=ood_mean,
        ood_sd=ood_sd,
        trend=trend,
        effective_robustness=_mean_sd(robustness)[0],
        extrapolated=sum(not min(span) <= row.id.macro_f1 <= max(span) for row in final) if span else 0,
    )


def _mean_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    mean = float(np.mean(values)) if values else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def _effect(name: str, final: Sequence[Row], baseline: Sequence[Row], comparisons: int) -> Effect:
    partners = {(row.architecture, row.seed): row for row in baseline}
    pairs = [(row, partners[key]) for row in final if (key := (row.architecture, row.seed)) in partners]
    ood = paired_difference(*([100 * row.ood.macro_f1 for row in side] for side in _sides(pairs)))
    robustness = None
    if baseline[0].effective_robustness is not None:
        robustness = paired_difference(*([row.effective_robustness or 0.0 for row in side] for side in _sides(pairs)))
    return Effect(
        arm=name,
        unpaired=len(final) - len(pairs),
        ood=ood,
        ood_verdict=verdict(ood, comparisons=comparisons),
        robustness=robustness,
        robustness_verdict=verdict(robustness, comparisons=comparisons) if robustness else "no trend of the baseline",
    )


def _sides(pairs: Sequence[tuple[Row, Row]]) -> tuple[list[Row], list[Row]]:
    return [arm for arm, _ in pairs], [baseline for _, baseline in pairs]
