from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit
from test_evaluate_contrasts import scored, study

from synthgen_evaluate.analysis.contrasts import paired
from synthgen_evaluate.analysis.estimators import Line
from synthgen_evaluate.analysis.pairing import Paired, RunEpochs
from synthgen_evaluate.analysis.results import Variance
from synthgen_evaluate.analysis.uncertainty import (
    Clusters,
    estimate,
    id_difference,
    ood_difference,
    robustness_difference,
)
from synthgen_evaluate.judgement import DEFAULT, Judgement

LINE = Line(epsilon=1e-4, slope="between")
BOTH = ("arm 0", "arm 1")


def shares(rng: np.random.Generator, n: int, sigma: float = 1.0) -> np.ndarray:
    sizes = rng.lognormal(0, sigma, n)
    return np.maximum(1, np.round(2000 * sizes / sizes.sum())).astype(np.int64)


def with_clusters(table: RunEpochs, rng: np.random.Generator, sd: float = 0.03) -> tuple[RunEpochs, Clusters]:
    """A table whose scores are means over clusters of images, weighted by size, and the scores without each."""
    found, parts = {}, {}
    for split, n in (("id", 12), ("ood", 9)):
        images = shares(rng, n)
        weights = images / images.sum()
        own = (getattr(table, f"{split}_f1")[:, None] + sd * rng.standard_normal((len(table.arm), n))).clip(0, 1)
        found[f"{split}_f1"] = own @ weights
        parts[f"{split}_f1"] = ((own @ weights)[:, None] - own * weights) / (1 - weights)
        parts[f"{split}_images"] = images
    return replace(table, **found), Clusters(**parts)


def simple(seed: int = 0, **options: Any) -> tuple[Paired, Clusters]:
    rng = np.random.default_rng(seed)
    table, clusters = with_clusters(study(seed, epochs=2, **options), rng)
    return paired(scored(table), BOTH, DEFAULT), clusters


def by_loops(pairs: Paired, clusters: Clusters) -> tuple[float, Variance]:
    """The difference in effective robustness and its variance, with plain loops over one block, camera, arm at once."""
    n, epsilon = len(pairs), LINE.epsilon
    rows = pairs.final.rows[..., 0]

    def scale(f1: float) -> float:
        return float(logit(min(max(f1, epsilon), 1 - epsilon)))

    def slope(ids: np.ndarray, oods: np.ndarray, kept: list[int]) -> float:
        xy, xx = np.float64(0), np.float64(0)
        for arm in (0, 1):
            x = [scale(ids[block, arm]) for block in kept]
            y = [scale(oods[block, arm]) for block in kept]
            for a, b in zip(x, y, strict=True):
                xy += (a - np.mean(x)) * (b - np.mean(y))
                xx += (a - np.mean(x)) ** 2
        return float(xy / xx)

    def values(ids: np.ndarray, oods: np.ndarray, beta: float) -> list[float]:
        return [
            100 * (oods[b, 1] - expit(scale(oods[b, 0]) + beta * (scale(ids[b, 1]) - scale(ids[b, 0]))))
            for b in range(n)
        ]

    ids, oods, everyone = pairs.final.id_f1[..., 0], pairs.final.ood_f1[..., 0], list(range(n))
    beta = slope(ids, oods, everyone)
    each = values(ids, oods, beta)
    units = float(np.var(each, ddof=1)) / n
    architectures = sorted(set(pairs.architectures.tolist()))
    moved = [
        np.mean(values(ids, oods, slope(ids, oods, [b for b in everyone if pairs.architectures[b] != one])))
        for one in architectures
    ]
    k = len(architectures)
    line = (k - 1) / k * sum((one - np.mean(moved)) ** 2 for one in moved)
    splits, cells, freedoms = [], 0.0, []
    for without, images, is_id in (
        (clusters.id_f1, clusters.id_images, True),
        (clusters.ood_f1, clusters.ood_images, False),
    ):
        m = len(images)
        means, single = [], np.empty((m, n))
        for cluster in range(m):
            left = without[rows, cluster]
            a, b = (left, oods) if is_id else (ids, left)
            means.append(np.mean(values(a, b, slope(a, b, everyone))))
            single[cluster] = np.array(values(a, b, beta)) / n
        splits.append((m - 1) / m * sum((one - np.mean(means)) ** 2 for one in means))
        for cluster in range(m):
            for block in range(n):
                centred = single[cluster, block] - single[cluster].mean() - single[:, block].mean() + single.mean()
                cells += (m - 1) / m * n / (n - 1) * centred**2
        share = images / images.sum()
        freedoms.append(np.sqrt((m - 1) * (share**2).sum() ** 2 / (share**4).sum()))
    return float(np.mean(each)), Variance(
        units=units,
        line=float(line),
        id_clusters=float(splits[0]),
        ood_clusters=float(splits[1]),
        cells=cells,
        freedoms=(n - 1, k - 1, freedoms[0], freedoms[1]),
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_difference_and_every_part_of_its_variance_are_those_of_plain_loops(seed: int) -> None:
    pairs, clusters = simple(seed, gains=(0, 0.3), effects=(0, 1.5))
    found = estimate(partial(robustness_difference, line=LINE), pairs, LINE, clusters)
    value, expected = by_loops(pairs, clusters)
    assert found.value == pytest.approx(value)
    for name in ("units", "line", "id_clusters", "ood_clusters", "cells", "freedoms"):
        assert getattr(found.parts, name) == pytest.approx(getattr(expected, name)), name
    runs, images = expected.units + expected.line, expected.id_clusters + expected.ood_clusters
    total = max(runs + images - expected.cells, runs, images)
    sizes = (expected.units, expected.line, expected.id_clusters, expected.ood_clusters)
    freedom = total**2 / sum(size**2 / free for size, free in zip(sizes, expected.freedoms, strict=True))
    half = stats.t.ppf(0.975, freedom) * total**0.5
    assert (found.low, found.high) == pytest.approx((value - half, value + half))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(value) / total**0.5, freedom))


def test_the_error_of_averaged_epochs_is_that_of_their_mean_scores() -> None:
    rng = np.random.default_rng(3)
    table, clusters = with_clusters(study(3, epochs=4), rng)
    every = paired(scored(table, compared=np.ones(len(table.arm), bool)), BOTH, Judgement(epoch="mean"))
    last, first = table.epoch == 4, table.epoch == 1
    means: Any = {
        name: getattr(clusters, name).reshape(-1, 4, getattr(clusters, name).shape[1]).mean(1)[np.cumsum(first) - 1]
        for name in ("id_f1", "ood_f1")
    }
    averages: Any = {name: getattr(table, name).reshape(-1, 4).mean(1).repeat(4) for name in ("id_f1", "ood_f1")}
    one = paired(scored(replace(table, **averages), compared=last), BOTH, DEFAULT)
    for measure in (id_difference, ood_difference):
        found, expected = (
            estimate(measure, pairs, None, own) for pairs, own in ((every, clusters), (one, replace(clusters, **means)))
        )
        for name in ("units", "id_clusters", "ood_clusters", "cells"):
            assert getattr(found.parts, name) == pytest.approx(getattr(expected.parts, name)), name
        assert found.value == pytest.approx(expected.value)


def test_what_fine_tunings_of_one_pre_training_run_add_is_told_from_what_it_adds_itself() -> None:
    table = study(4, architectures=8, seeds=4, epochs=1)
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(200):
        shape = (2, 8, 4)
        effect = 0.02 * rng.standard_normal((2, 8, 1)) + 0.03 * rng.standard_normal(shape)
        own = replace(table, start=np.char.add(table.arm, table.architecture), ood_f1=0.4 + effect.ravel())
        errors.append(estimate(ood_difference, paired(scored(own), BOTH, DEFAULT), None, None).parts)
    assert np.mean([one.units for one in errors]) == pytest.approx(2 * (4 + 9 / 4) / 8, rel=0.1)
    assert np.mean([one.fine_tunings for one in errors]) == pytest.approx(2 * 9 / 4 / 8, rel=0.1)
    assert estimate(ood_difference, paired(scored(table), BOTH, DEFAULT), None, None).parts.fine_tunings == 0


def test_what_the_line_adds_by_chance_is_what_it_adds_where_arms_are_alike() -> None:
    alike, apart = (
        [
            estimate(partial(robustness_difference, line=LINE), simple(seed, gains=(0, gain))[0], LINE, None)
            for seed in range(60)
        ]
        for gain in (0, 0.5)
    )
    chance = np.mean([one.parts.by_chance for one in alike])
    assert chance == pytest.approx(np.mean([one.parts.line for one in alike]), rel=0.5)
    assert np.mean([one.parts.line for one in apart]) > 20 * np.mean([one.parts.by_chance for one in apart])


def test_without_clusters_the_error_of_a_mean_is_students() -> None:
    pairs, clusters = simple(5)
    for measure, scores in ((id_difference, pairs.final.id_f1), (ood_difference, pairs.final.ood_f1)):
        values = 100 * (scores[:, 1, 0] - scores[:, 0, 0])
        found = estimate(measure, pairs, None, clusters, new_clusters=False)
        low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
        assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))
        assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


@pytest.mark.parametrize(("of_arm", "of_run"), [(0.0, 0.06), (0.05, 0.03)])
def test_the_variance_is_that_of_many_studies_with_new_clusters(of_arm: float, of_run: float) -> None:
    """Crossed effects: what runs do, what arms do at clusters, and what single runs do there."""
    rng = np.random.default_rng(1)
    base = study(1, epochs=1, architectures=2, seeds=5)
    rows = paired(scored(base), BOTH, DEFAULT).final.rows
    values, variances = [], []
    for _ in range(400):
        images = shares(rng, 14)
        weights = images / images.sum()
        effect = 0.02 * rng.standard_normal((10, 2))[..., None] + of_run * rng.standard_normal((10, 2, 14))
        effect = effect + of_arm * rng.standard_normal((2, 14))
        own = np.full((len(base.arm), 14), 0.4)
        own[rows[..., 0]] += effect
        ood = own @ weights
        without = (ood[:, None] - own * weights) / (1 - weights)
        table = replace(base, ood_f1=ood)
        clusters = Clusters(
            id_f1=np.full((len(ood), 1), np.nan),
            ood_f1=without,
            id_images=np.ones(1, np.int64),
            ood_images=images,
        )
        found = estimate(ood_difference, paired(scored(table), BOTH, DEFAULT), None, clusters)
        values.append(found.value)
        variances.append(found.parts.total)
    ratio = np.sqrt(np.mean(variances)) / np.std(values)
    assert 0.92 < ratio < 1.2  # above 1 where arms do nothing at clusters: the variance is at least that of runs


def test_two_independent_runs_have_no_interval_and_the_reason() -> None:
    pairs, clusters = simple(6, architectures=2, seeds=1)
    found = estimate(ood_difference, pairs, None, clusters)
    assert found.value is not None
    assert (found.low, found.high, found.p) == (None, None, None)
    assert found.note == "2 independent runs are too few for an interval"


def test_limits_stay_within_what_is_possible() -> None:
    table = study(7, architectures=3, seeds=1, epochs=1)
    wild = replace(table, ood_f1=np.where(table.arm == "arm 1", np.resize([0.0, 1.0], len(table.arm)), 0.5))
    found = estimate(ood_difference, paired(scored(wild), BOTH, DEFAULT), None, None)
    assert -100 <= found.low <= found.high <= 100
