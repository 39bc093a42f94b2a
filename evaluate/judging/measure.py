"""The scores of finished runs as arrays, and what resampling blocks and camera locations makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .blocks import Blocks
from .bootstrap import (
    Design,
    Draws,
    Resampled,
    arrange,
    band,
    differences_at,
    draw,
    interval,
    paired_effects,
    predicted,
    resample,
    slope_differences,
)
from .comparison import Band, Estimate
from .counts import Counts, LocationScores, count, location_scores, macro_f1
from .inference import BlockEstimate, Line, robustness
from .load import EvaluatedEpoch, LoadedRun, Predicted
from .trends import Scale, clip_epsilon

RESAMPLES = 10_000
PUBLISHED_EPSILON = 0.0005  # scores without images: half of the last digit of a percentage with one decimal
BAND_POINTS = 25  # of an arm's band
CHUNK = 500  # resamples at a time
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """All evaluated epochs of the finished runs, in the order of the design, and their resamples."""

    arms: tuple[str, ...]  # the baseline first
    blocks: tuple[tuple[str, int], ...]  # architecture and seed
    design: Design
    run: tuple[LoadedRun, ...]  # [n_run_epochs]
    epoch: tuple[EvaluatedEpoch, ...]  # [n_run_epochs]
    id_f1: Array  # [n_run_epochs], fractions
    ood_f1: Array
    point: Resampled  # the estimates themselves: one "resample" of everything once
    ood_effect: Array  # [n_arms], mean difference of OOD macro-F1 over paired blocks, points
    resampled: Resampled | None  # None for scores without predictions
    ood_effects: Array | None  # [n_arms, n_resamples]
    scores: tuple[Array, Array] | None  # ID and OOD macro-F1 in every resample, [n_run_epochs, n_resamples]
    draws: Draws | None
    locations: LocationScores | None  # of the OOD split
    worst: Array | None  # [n_run_epochs], macro-F1 of the OOD location where it is lowest

    @property
    def baseline(self) -> str:
        """The arm that others are measured against."""
        return self.arms[self.design.baseline]

    def against(self, arm: int) -> Measured:
        """The same scores and draws with another arm as the baseline."""
        design, line = replace(self.design, baseline=arm), self.point
        once = np.ones((1, design.n_blocks), np.int32)
        point, effect = _resample(design, (self.id_f1[:, None], self.ood_f1[:, None]), once, line.scale, line.epsilon)
        again = replace(self, design=design, point=point, ood_effect=effect[:, 0])
        if self.scores is None or self.draws is None:
            return again
        resampled, effects = _resample(design, self.scores, self.draws.blocks, line.scale, line.epsilon)
        return replace(again, resampled=resampled, ood_effects=effects)

    def _estimate(self, value: float, resamples: Callable[[Resampled], Array], n_blocks: int) -> Estimate | None:
        if not np.isfinite(value):
            return None
        if self.resampled is None:
            return Estimate(value=float(value), low=None, high=None)
        found = interval(float(value), resamples(self.resampled), n_blocks)
        return Estimate(value=float(value), low=found.low, high=found.high)

    def difference(self, arm: int, found: BlockEstimate, line: Line) -> Estimate | None:
        """An arm's effective robustness minus the baseline's, as ``inference.difference`` found it.

        The interval is of both levels: blocks, and the camera locations of the test images.
        """
        if found.value is None:
            return None
        if self.scores is None or self.draws is None:
            return Estimate(value=found.value, low=found.low, high=found.high)
        ours, theirs = self.design.pairs(arm)
        places = np.stack([self._epochs(theirs), self._epochs(ours)], 1)  # [n_blocks, 2, n_epochs], -1 for none
        names = tuple(self.blocks[block] for block in self.design.run_block[ours].tolist())
        arms = (self.arms[self.design.baseline], self.arms[arm])
        counts = self.draws.blocks[:, self.design.run_block[ours]].astype(np.float64)
        values = np.full(len(counts), np.nan)
        for start in range(0, len(counts), CHUNK):
            weights = counts[start : start + CHUNK]
            ids, oods = (
                np.moveaxis(np.where(places[..., None] < 0, np.nan, side[places, start : start + CHUNK]), -1, 0)
                for side in self.scores
            )
            blocks = Blocks(names=names, arms=arms, unpaired=(0, 0), id_f1=ids, ood_f1=oods)
            with np.errstate(invalid="ignore"):  # resamples without a pair, or without a slope, are left out
                er = robustness(blocks, line, weights)
                values[start : start + CHUNK] = (weights * (er[..., 1] - er[..., 0])).sum(1) / weights.sum(1)
        limits = interval(found.value, values, len(ours))
        return Estimate(value=found.value, low=limits.low, high=limits.high)

    def _epochs(self, runs: NDArray[np.intp]) -> NDArray[np.intp]:
        """The run-epochs of runs, [n_runs, most epochs]; -1 where a run has fewer."""
        starts, ends = self.design.run_start[runs], self.design.run_start[runs + 1]
        most = np.diff(self.design.run_start).max(initial=0)
        places = starts[:, None] + np.arange(most)
        return np.where(places < ends[:, None], places, -1)

    def ood(self, arm: int) -> Estimate | None:
        """OOD macro-F1 of an arm minus the baseline's, in points."""
        effects = self.ood_effects
        return self._estimate(
            self.ood_effect[arm],
            lambda _: effects[arm] if effects is not None else np.empty(0),
            int(self.design.n_pairs[arm]),
        )

    def slope(self, arm: int) -> Estimate | None:
        """The slope of an arm's trend."""
        return self._estimate(self.point.slope[arm, 0], lambda r: r.slope[arm], self._n_runs(arm))

    def slope_difference(self, arm: int) -> Estimate | None:
        """The slope of an arm's trend minus that of the baseline's."""
        value = slope_differences(self.point)[arm, 0]
        return self._estimate(value, lambda r: slope_differences(r)[arm], self._fewer(arm))

    def at(self, arm: int, id_f1: float) -> Estimate | None:
        """What an arm's trend predicts at an ID score, minus what the baseline's does, in points."""
        value = differences_at(self.point, arm, [id_f1])[0, 0]
        return self._estimate(value, lambda r: differences_at(r, arm, [id_f1])[0], self._fewer(arm))

    def band(self, arm: int) -> Band | None:
        """An arm's trend over its own ID scores, with pointwise limits."""
        rows = self.rows(arm)
        if self.resampled is None or not np.isfinite(self.point.slope[arm, 0]):
            return None
        grid = np.linspace(self.id_f1[rows].min(), self.id_f1[rows].max(), BAND_POINTS)
        low, high, _ = band(predicted(self.resampled, arm, grid))
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            return None
        line = predicted(self.point, arm, grid)[:, 0]
        return Band(
            id=tuple(grid.tolist()), ood=tuple(line.tolist()), low=tuple(low.tolist()), high=tuple(high.tolist())
        )

    def rows(self, arm: int) -> slice:
        """The run-epochs of an arm."""
        runs = self.design.runs(arm)
        return slice(int(self.design.run_start[runs.start]), int(self.design.run_start[runs.stop]))

    def _n_runs(self, arm: int) -> int:
        runs = self.design.runs(arm)
        return int(runs.stop - runs.start)

    def _fewer(self, arm: int) -> int:
        return min(self._n_runs(arm), self._n_runs(self.design.baseline))


def measure(
    runs: Sequence[LoadedRun], arms: Sequence[str], *, scale: Scale, resamples: int = RESAMPLES, seed: int = 0
) -> Measured:
    """Measure finished runs, one an arm and block; ``arms`` has the baseline first."""
    blocks = list(dict.fromkeys((run.member.architecture, run.member.seed) for run in runs))
    pairs = [(run, epoch) for run in runs for epoch in run.epochs]
    design = arrange(
        [arms.index(run.arm.name) for run, _ in pairs],
        [blocks.index((run.member.architecture, run.member.seed)) for run, _ in pairs],
        [epoch.epoch for _, epoch in pairs],
        n_arms=len(arms),
        n_blocks=len(blocks),
        baseline=0,
    )
    pairs = [pairs[place] for place in design.order]
    design = _in_order(design)
    epochs = [epoch for _, epoch in pairs]
    id_f1, ood_f1 = (np.array([getattr(epoch, side).macro_f1 for epoch in epochs]) for side in ("id", "ood"))
    sizes = [n for epoch in epochs for n in (epoch.n_id, epoch.n_ood) if n is not None]
    epsilon = clip_epsilon(min(sizes)) if sizes else PUBLISHED_EPSILON
    once = np.ones((1, len(blocks)), np.int32)
    point, effect = _resample(design, (id_f1[:, None], ood_f1[:, None]), once, scale, epsilon)
    resampled = ood_effects = scores = draws = locations = worst = None
    sides = [_counted([getattr(epoch, f"{side}_predicted") for epoch in epochs]) for side in ("id", "ood")]
    in_domain, out_of_domain = sides
    if in_domain is not None and out_of_domain is not None:
        locations = location_scores(out_of_domain)
        if locations.worst is not None:
            worst = locations.macro_f1[np.arange(len(epochs)), locations.worst]
        draws = draw(
            resamples,
            n_blocks=len(blocks),
            n_id_locations=len(in_domain.locations),
            n_ood_locations=len(out_of_domain.locations),
            seed=seed,
        )
        scores = macro_f1(in_domain, draws.id_locations), macro_f1(out_of_domain, draws.ood_locations)
        resampled, ood_effects = _resample(design, scores, draws.blocks, scale, epsilon)
    return Measured(
        arms=tuple(arms),
        blocks=tuple(blocks),
        design=design,
        run=tuple(run for run, _ in pairs),
        epoch=tuple(epochs),
        id_f1=id_f1,
        ood_f1=ood_f1,
        point=point,
        ood_effect=effect[:, 0],
        resampled=resampled,
        ood_effects=ood_effects,
        scores=scores,
        draws=draws,
        locations=locations,
        worst=worst,
    )


def _resample(
    design: Design, scores: tuple[Array, Array], blocks: NDArray[np.int32], scale: Scale, epsilon: float
) -> tuple[Resampled, Array]:
    """Trends in every resample, and the effects on OOD macro-F1, points [n_arms, n_resamples]."""
    found = resample(design, *scores, blocks, scale=scale, epsilon=epsilon)
    return found, paired_effects(design, _run_means(design, scores[1]), blocks)


def _in_order(design: Design) -> Design:
    """The same design for run-epochs that were put in its order."""
    return Design(
        n_arms=design.n_arms,
        n_blocks=design.n_blocks,
        baseline=design.baseline,
        order=np.arange(len(design.order)),
        run_start=design.run_start,
        run_arm=design.run_arm,
        run_block=design.run_block,
    )


def _counted(predicted: Sequence[Predicted | None]) -> Counts | None:
    """The predictions of a split as counts; None where some scores came without."""
    known = [one for one in predicted if one is not None]
    if not known or len(known) < len(predicted):
        return None
    return count((one.truth.y, one.y, one.truth.location) for one in known)


def _run_means(design: Design, values: Array) -> Array:
    """Each run's mean over its epochs, of 100 times the values [n_run_epochs, n], [n_runs, n]."""
    sums = np.add.reduceat(100 * values, design.run_start[:-1], axis=0)
    return np.asarray(sums / np.diff(design.run_start)[:, None])
