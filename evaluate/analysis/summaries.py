"""Each arm, run and location on its own, as entries of a Comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np

from synthgen.common.printing import counted

from ..runs import Arm
from .bootstrap import band, bootstrap, with_interval
from .estimators import Line, own_trend
from .load import LoadedRun
from .pairing import Array, Blocks, averaged, complete_blocks, of_rows
from .results import ArmSummary, Band, Estimate, Location, Row
from .scoring import Scored
from .selection import Selection
from .significance import LEVEL
from .trends import Trend, effective_robustness, fit_trend, from_scale, to_scale

BAND_POINTS = 25  # of an arm's band


def rows_of(scored: Scored, trend: Trend | None) -> tuple[Row, ...]:
    """A row per run and epoch; effective robustness is measured from the baseline's own trend."""
    final = {id(run): number for number, run in enumerate(scored.run) if scored.compared[number]}.values()
    return tuple(
        Row(
            arm=run.arm.name,
            factor=run.arm.factor,
            level=run.arm.level,
            architecture=run.member.architecture,
            seed=run.member.seed,
            epoch=epoch.epoch,
            final=number in final,
            id=epoch.id,
            ood=epoch.ood,
            effective_robustness=(
                None if trend is None else float(effective_robustness(epoch.id.macro_f1, epoch.ood.macro_f1, trend))
            ),
            n_id=epoch.n_id,
            n_ood=epoch.n_ood,
            worst_location=None if scored.worst is None else float(scored.worst[number]),
            pretrain=run.member.pretrain,
            finetune=run.member.finetune,
        )
        for number, (run, epoch) in enumerate(zip(scored.run, scored.epoch, strict=True))
    )


def summarise(scored: Scored, arm: Arm, chosen: Selection, *, level: float = LEVEL) -> ArmSummary:
    """One arm over its finished runs; intervals miss the truth in a share ``level`` of studies."""
    planned = [run for run in chosen.runs if run.arm.name == arm.name]
    models = averaged(_compared(scored, arm.name))
    id_f1, ood_f1 = models.id_f1.ravel(), models.ood_f1.ravel()
    id_mean, id_sd = _mean_sd(id_f1)
    ood_mean, ood_sd = _mean_sd(ood_f1)
    trend = fit_trend(id_f1, ood_f1, scale=scored.line.scale, epsilon=scored.line.epsilon)
    slope, limits = _trend_and_band(scored, arm.name, level)
    return ArmSummary(
        arm=arm,
        planned=len(planned),
        finished=len(models),
        id_mean=id_mean,
        id_sd=id_sd,
        ood_mean=ood_mean,
        ood_sd=ood_sd,
        trend=trend,
        slope=slope,
        band=limits,
        effective_robustness=mean_robustness(scored, arm.name, chosen.baseline),
        worst_location=None if scored.worst is None else _mean_sd(_of_runs(scored.worst[:, None], scored, arm.name))[0],
        extrapolated=_extrapolated(id_f1, averaged(_compared(scored, chosen.baseline)).id_f1),
    )


def _compared(scored: Scored, arm: str) -> Blocks:
    """The runs of an arm, each a block, at the compared epochs."""
    return complete_blocks(scored.table, (arm,), where=scored.compared)


def _of_runs(scores: Array, scored: Scored, arm: str) -> Array:
    """Scores [n_run_epochs, r] of an arm's runs, each the mean over its compared epochs, [n_runs, r]."""
    return np.asarray(np.nanmean(of_rows(scores, _compared(scored, arm).rows), -1)[:, :, 0].T)


def _extrapolated(own: Array, baseline: Array) -> int:
    """Runs whose ID macro-F1 lies outside that of the baseline's; 0 if it has none."""
    return int(((own < baseline.min()) | (own > baseline.max())).sum()) if baseline.size else 0


def mean_robustness(scored: Scored, arm: str, baseline: str) -> float | None:
    """Mean over an arm's runs of effective robustness from ``baseline``'s own trend, in percentage points."""
    line, runs, of_baseline = scored.line, _compared(scored, arm), _compared(scored, baseline)
    (slope,), (intercept,) = _trend(of_baseline, np.ones((1, len(of_baseline))), line=line)
    predicted = from_scale(intercept + slope * to_scale(runs.id_f1, line.scale, line.epsilon), line.scale)
    beyond = 100 * (runs.ood_f1 - predicted)  # [n_runs, 1, n_epochs]
    values = np.nansum(beyond, -1) / np.isfinite(runs.ood_f1).sum(-1)
    return float(values.mean()) if values.size and np.isfinite(slope) else None


def _trend(runs: Blocks, weights: Array, *, line: Line) -> Array:
    """Slope and intercept of the trend of an arm's runs, one point each, [2, r]."""
    return own_trend(averaged(runs), weights, line=line)


def _trend_and_band(scored: Scored, arm: str, level: float) -> tuple[Estimate, Band | None]:
    """The slope of an arm's trend with its interval, and the trend over the arm's own ID scores with its limits."""
    line, runs = scored.line, _compared(scored, arm)
    point = _trend(runs, np.ones((1, len(runs))), line=line)
    slope = float(point[0, 0])
    if not np.isfinite(slope):
        return Estimate(), None
    found = Estimate(value=slope, n=len(runs))
    if scored.resamples is None:
        return found, None
    resampled = bootstrap(partial(_trend, line=line), runs, scored.resamples)
    models = averaged(runs).id_f1
    grid = np.linspace(models.min(), models.max(), BAND_POINTS)
    x = to_scale(grid, line.scale, line.epsilon)[:, None]
    low, high = band(from_scale(resampled[1] + resampled[0] * x, line.scale), level=level)
    limits = None
    if np.isfinite([low, high]).all():
        on_line = from_scale(point[1] + point[0] * x, line.scale)[:, 0]
        limits = Band(
            id=tuple(grid.tolist()), ood=tuple(on_line.tolist()), low=tuple(low.tolist()), high=tuple(high.tolist())
        )
    return with_interval(found, resampled[0], level=level), limits


def locations_of(scored: Scored, arms: Sequence[Arm]) -> tuple[Location, ...]:
    """Every OOD cluster, and each arm's macro-F1 there: mean over runs, of their compared epochs."""
    found = scored.locations
    if found is None:
        return ()
    models = [_of_runs(found.macro_f1, scored, arm.name) for arm in arms]  # [n_runs, n_locations]
    means = [own.mean(axis=0) if len(own) else None for own in models]
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
    """The machines and versions that the runs were trained with, and how many runs each."""
    counts = Counter(run.environment for run in finished if run.environment)
    return tuple(f"{counted(n, 'run')} on {environment}" for environment, n in counts.most_common())


def _mean_sd(values: Sequence[float] | Array) -> tuple[float | None, float | None]:
    mean = float(np.mean(values)) if len(values) else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None
