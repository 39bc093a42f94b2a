"""What was measured and judged, as the entries of a Comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from . import judgement
from .comparison import ArmSummary, Effect, Estimate, Location, OrderedTrend, Row
from .formatting import signed
from .inference import BlockEstimate, Line
from .judgement import ArmTests
from .load import LoadedRun
from .measure import Measured
from .mixed import MixedModel
from .stats import smallest_p
from .trends import effective_robustness, fit_trend
from .wording import count


def rows_of(measured: Measured, baseline: ArmSummary) -> tuple[Row, ...]:
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


def summarise(measured: Measured, number: int, runs: Sequence[LoadedRun]) -> ArmSummary:
    """One arm over its finished runs."""
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
        effective_robustness=_robustness(measured, number),
        worst_location=_mean_sd(worst)[0],
        extrapolated=len(outside),
    )


def _robustness(measured: Measured, number: int) -> float | None:
    """Mean over an arm's runs of effective robustness from the baseline's trend, percentage points."""
    values = measured.point.run_er[measured.design.runs(number), 0]
    return float(values.mean()) if values.size and np.isfinite(values).all() else None


def robustness_by_arm(measured: Measured) -> tuple[tuple[str, float | None], ...]:
    """Each arm's effective robustness: mean over its runs, percentage points."""
    return tuple((name, _robustness(measured, number)) for number, name in enumerate(measured.arms))


def locations_of(measured: Measured) -> tuple[Location, ...]:
    """Every OOD cluster, and each arm's macro-F1 there: mean over runs at their last evaluated epoch."""
    found = measured.locations
    if found is None:
        return ()
    final = np.array([epoch is run.epochs[-1] for run, epoch in zip(measured.run, measured.epoch, strict=True)])
    means: list[NDArray[np.float64] | None] = []
    for number in range(len(measured.arms)):
        rows = measured.rows(number)
        own = found.macro_f1[rows][final[rows]]  # [n_runs, n_locations]
        means.append(own.mean(axis=0) if len(own) else None)
    return tuple(
        Location(
            location=int(location),
            n_images=int(found.n_images[place]),
            few=bool(found.few[place]),
            macro_f1=tuple(None if mean is None else float(mean[place]) for mean in means),
        )
        for place, location in enumerate(found.locations)
    )


def environments_of(finished: Sequence[LoadedRun]) -> tuple[str, ...]:
    """On what machines, with what versions, the runs were trained, and how many of them."""
    counts = Counter(run.environment for run in finished if run.environment)
    return tuple(f"{count(n, 'run')} on {environment}" for environment, n in counts.most_common())


def _mean_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    mean = float(np.mean(values)) if len(values) else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def effect_of(measured: Measured, tests: ArmTests, runs: Sequence[LoadedRun], line: Line) -> Effect:
    """One arm against the baseline of these measurements, as it was tested."""
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


def ordered_of(trend: judgement.OrderedTrend, levels: Mapping[str, str]) -> OrderedTrend:
    """A trend along the levels of a factor; ``levels`` are those of the arms."""
    return OrderedTrend(
        factor=trend.factor,
        levels=tuple(levels[arm] for arm in trend.arms),
        n=trend.step.n,
        p=trend.step.p,
        verdict=trend.verdict,
    )
