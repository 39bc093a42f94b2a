"""One standard error for intervals, tests, equivalence and power: of runs, of the line, and of clusters of images.

A difference between two arms is uncertain for three reasons, whose variances add:

- **units**: other pre-training runs would have come out differently. A unit is a block (architecture x seed), or all
  blocks whose runs start from one pre-training run, since fine-tunings of one are not independent. The variance is
  that between units, with the line taken as known.
- **line**: the slope of OOD over ID macro-F1 is fitted to few architectures, and an arm of other ID macro-F1 is moved
  along it. The variance is the jackknife's, without each architecture in the fit.
- **clusters**: other test images, such as those of other camera locations, would have given other scores. The variance
  is the jackknife's, without each cluster of the ID and of the OOD split.

What single runs do at single clusters is in the first and in the third, and is subtracted once: V = V_units +
V_line + V_clusters - V_cells, the two-way variance of Cameron, Gelbach and Miller 2011 (doi 10.1198/jbes.2010.07136),
with cells centred both ways, so that it is unbiased for crossed random effects (Owen 2007, arXiv 0712.1111). V is at
least V_units + V_line and V_clusters. Quantiles are Student's, with the degrees of freedom of Satterthwaite 1946: units
- 1 of the first, architectures - 1 of the second. Those of a split's clusters are the geometric mean of clusters - 1
and of the effective number (sum s^2)^2 / sum s^4 for clusters of s images: the jackknife overstates the part of
large clusters, which makes the effective number alone too strict (MacKinnon, Nielsen and Webb 2023, doi
10.1002/jae.2969), and the number of clusters alone is too lenient where a few hold most images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from .estimators import Line, Values, beyond, fit_slopes, paired_robustness
from .lines import FEWEST_UNITS, carrying, jackknife_variance, leaving_out, p_of_zero
from .pairing import Array, Blocks, Paired, of_rows
from .results import Estimate, Variance
from .significance import LEVEL

Split = Literal["id", "ood"]
SPLITS: tuple[Split, Split] = ("id", "ood")
STEP = 0.01  # of a slope
FULL = 100.0  # points that two macro-F1 can differ by


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clusters:
    """The scores of all run-epochs without each cluster of a split's images, and how many images each has."""

    id_f1: Annotated[Array, "n_run_epochs n_id_clusters"]  # fractions
    ood_f1: Annotated[Array, "n_run_epochs n_ood_clusters"]
    id_images: Annotated[NDArray[np.int64], "n_id_clusters"]
    ood_images: Annotated[NDArray[np.int64], "n_ood_clusters"]

    def of(self, split: Split) -> tuple[Array, NDArray[np.int64]]:
        """The scores without each cluster of a split, and the clusters' images."""
        return (self.id_f1, self.id_images) if split == "id" else (self.ood_f1, self.ood_images)


# For blocks [(r,) n_blocks, n_arms, n_epochs] and the slopes of r lines: means over epochs, points, [r, n_blocks].
Measure = Callable[[Blocks, Values], Array]


def id_difference(blocks: Blocks, slopes: Values) -> Array:
    """ID macro-F1 of the second arm minus that of the first, percentage points."""
    return _difference(blocks.id_f1, slopes)


def ood_difference(blocks: Blocks, slopes: Values) -> Array:
    """OOD macro-F1 of the second arm minus that of the first, percentage points."""
    return _difference(blocks.ood_f1, slopes)


def _difference(f1: Array, slopes: Values) -> Array:
    means = np.nanmean(f1, -1)
    values = 100 * (means[..., 1] - means[..., 0])  # [(r,) n_blocks]
    return np.broadcast_to(values, (len(slopes), values.shape[-1]))


def robustness_difference(blocks: Blocks, slopes: Values, *, line: Line) -> Array:
    """OOD macro-F1 of the second arm beyond the line through the first's run of the block, percentage points."""
    return paired_robustness(blocks, line, slopes)


def step(blocks: Blocks, slopes: Values, *, line: Line) -> Array:
    """Rise of effective robustness from an arm to the next, percentage points, for any number of arms in order.

    It is the slope of the runs' effective robustness over the number of the arm, from lines through their means.
    """
    values = beyond(blocks, line, slopes, reference=range(len(blocks.arms)))
    contrast = np.arange(len(blocks.arms)) - (len(blocks.arms) - 1) / 2
    return np.asarray(values @ (contrast / (contrast @ contrast)))


def estimate(
    measure: Measure,
    paired: Paired,
    line: Line | None,
    clusters: Clusters | None,
    *,
    new_clusters: bool = True,
    level: float = LEVEL,
) -> Estimate:
    """The mean difference over units, with its error, interval and test; ``parts`` says where the error comes from.

    The interval misses the truth in a share ``level`` of studies. With ``new_clusters`` it is about other clusters of
    test images as well, where predictions are known; otherwise about the images at hand. Limits stay within what two
    macro-F1 can differ by.
    """
    n = len(paired)
    if not n:
        return Estimate()
    weights = _weights(paired.units)  # [n_blocks], sum to 1
    slopes = _fitted(paired, line, np.ones((1, n)))
    (values,) = measure(paired.final, slopes)  # [n_blocks]
    value = float(weights @ values)
    if not np.isfinite(value):
        return Estimate(n=n, note="no line of OOD over ID macro-F1 could be fitted")
    n_units = paired.n_units
    if n_units < FEWEST_UNITS:
        runs = "1 independent run is" if n_units == 1 else f"{n_units} independent runs are"
        return Estimate(value=value, n=n, note=f"{runs} too few for an interval")
    parts = _parts(measure, paired, line, clusters if new_clusters else None, weights, slopes, values)
    if not np.isfinite(parts.error):
        return Estimate(value=value, n=n, note="the line of OOD over ID macro-F1 rests on one architecture")
    half = student.ppf(1 - level / 2, parts.freedom) * parts.error
    return Estimate(
        value=value,
        low=max(value - half, -FULL),
        high=min(value + half, FULL),
        p=p_of_zero(value, parts.error, parts.freedom),
        n=n,
        parts=parts,
    )


def without_largest(measure: Measure, paired: Paired, line: Line, clusters: Clusters | None) -> float | None:
    """The mean difference without the OOD cluster that has most images; None if there are not several."""
    if clusters is None or len(clusters.ood_images) < 2 or not len(paired):
        return None
    without, images = _without(paired, clusters, "ood")
    slopes = _fitted(without, line, np.ones((len(images), len(paired))))
    value = float(measure(without.final, slopes)[images.argmax()] @ _weights(paired.units))
    return value if np.isfinite(value) else None


def _weights(units: NDArray[np.intp]) -> Array:
    """Equal weights of units, shared equally by the blocks of each, [n_blocks]."""
    sizes = np.bincount(units)
    return np.asarray(1 / (len(sizes) * sizes[units]))


def _fitted(paired: Paired, line: Line | None, weights: Array) -> Values:
    """The slope for each row of weights, [r]; zeros if the measure needs none."""
    return np.zeros(len(weights)) if line is None else fit_slopes(paired.final, paired.every, line, weights)


def _parts(
    measure: Measure,
    paired: Paired,
    line: Line | None,
    clusters: Clusters | None,
    weights: Array,
    slopes: Values,
    values: Array,
) -> Variance:
    n_units = paired.n_units
    of_units = _of_units(paired.units, values)
    of_line, by_chance, n_lines = (0.0, 0.0, 2) if line is None else _of_line(measure, paired, line, weights, slopes)
    of_splits, cells, freedoms = [0.0, 0.0], 0.0, [np.inf, np.inf]
    for number, split in enumerate(SPLITS):
        if clusters is None or len(clusters.of(split)[1]) < 2:  # one cluster says nothing about others
            continue
        without, images = _without(paired, clusters, split)
        m = len(images)
        refitted = _fitted(without, line, np.ones((m, len(paired))))
        moved = measure(without.final, refitted) @ weights  # [m]
        of_splits[number] = jackknife_variance(moved)
        freedoms[number] = _cluster_freedom(images)
        each = measure(without.final, np.repeat(slopes, m)) * weights  # [m, n_blocks]
        by_unit = np.stack([each[:, paired.units == unit].sum(1) for unit in range(n_units)], axis=1)
        by_unit -= by_unit.mean(0)
        by_unit -= by_unit.mean(1, keepdims=True)
        cells += float((m - 1) / m * n_units / (n_units - 1) * np.square(by_unit).sum())
    return Variance(
        units=of_units,
        line=of_line,
        id_clusters=of_splits[0],
        ood_clusters=of_splits[1],
        cells=cells,
        freedoms=(n_units - 1, n_lines - 1, freedoms[0], freedoms[1]),
        fine_tunings=_of_fine_tunings(paired.units, values),
        by_chance=by_chance,
    )


def _of_units(units: NDArray[np.intp], values: Array) -> float:
    """The variance between units of the mean of values [n_blocks]."""
    means = np.bincount(units, values) / np.bincount(units)  # [n_units]
    return float(means.var(ddof=1)) / len(means)


def _of_fine_tunings(units: NDArray[np.intp], values: Array) -> float:
    """The part of the same that blocks of one unit account for: one-way variance components."""
    sizes = np.bincount(units)
    freedom = len(units) - len(sizes)
    if not freedom:
        return 0.0
    within = float(np.square(values - (np.bincount(units, values) / sizes)[units]).sum()) / freedom
    return within * float((1 / sizes).sum()) / len(sizes) ** 2


def _of_line(measure: Measure, paired: Paired, line: Line, weights: Array, slopes: Values) -> tuple[float, float, int]:
    """The variance that comes from the slope of the line, what it is by chance, and of how many groups.

    By chance: the variance of the slope, times that of how far a change of the slope moves the difference.
    """
    refitted = _fitted(paired, line, leaving_out(carrying(paired)))
    moved = measure(paired.final, refitted) @ weights  # [n_groups]
    steeper, flatter = measure(paired.final, slopes + np.array([STEP, -STEP]))  # [n_blocks]
    pull = _of_units(paired.units, (steeper - flatter) / (2 * STEP))
    return jackknife_variance(moved), jackknife_variance(refitted) * pull, len(refitted)


def _without(paired: Paired, clusters: Clusters, split: Split) -> tuple[Paired, NDArray[np.int64]]:
    """The pairs scored without each cluster of one split, [n_clusters, n_blocks, ...], and the clusters' images."""
    own, images = clusters.of(split)

    def scored(blocks: Blocks) -> Blocks:
        found = of_rows(own, blocks.rows)
        other = np.broadcast_to(blocks.ood_f1 if split == "id" else blocks.id_f1, found.shape)
        id_f1, ood_f1 = (found, other) if split == "id" else (other, found)
        return replace(blocks, id_f1=id_f1, ood_f1=ood_f1)

    return replace(paired, final=scored(paired.final), every=scored(paired.every)), images


def _cluster_freedom(images: NDArray[np.int64]) -> float:
    """Degrees of freedom of the variance between clusters of these sizes; see the module."""
    shares = images / images.sum()
    effective = float(np.square(shares).sum() ** 2 / (shares**4).sum())
    return float(np.sqrt(effective * (len(images) - 1)))
