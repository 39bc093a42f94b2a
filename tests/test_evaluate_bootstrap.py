from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy.special import expit
from scipy.stats import t as student

from synthgen_evaluate.analysis import bootstrap as module
from synthgen_evaluate.analysis.bootstrap import Resamples, band, bootstrap, draw, with_interval
from synthgen_evaluate.analysis.counts import count
from synthgen_evaluate.analysis.estimators import (
    Line,
    own_trend,
    robustness_difference,
    slopes_difference,
)
from synthgen_evaluate.analysis.pairing import Blocks, RunEpochs, complete_blocks
from synthgen_evaluate.analysis.resampled import macro_f1
from synthgen_evaluate.analysis.results import Estimate
from synthgen_evaluate.analysis.trends import (
    MIN_POINTS,
    Scale,
    Trend,
    clip_epsilon,
    effective_robustness,
    fit_trend,
    from_scale,
)
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.metrics import scores

EPSILON = clip_epsilon(8154)


def ood_difference(blocks: Blocks, weights: np.ndarray) -> np.ndarray:
    """OOD macro-F1 of the second arm minus that of the first, percentage points [r]; NaN without a counted block."""
    runs = np.nansum(100 * blocks.ood_f1, -1) / np.isfinite(blocks.ood_f1).sum(-1)
    with np.errstate(invalid="ignore"):
        return (weights * (runs[..., 1] - runs[..., 0])).sum(-1) / weights.sum(-1)


Row = tuple[int, int, int]  # arm, block, epoch


@dataclass(frozen=True)
class Study:
    rows: list[Row]
    id_f1: np.ndarray  # [n_run_epochs, n_resamples]
    ood_f1: np.ndarray
    blocks: np.ndarray  # [n_resamples, n_blocks]

    @property
    def resamples(self) -> Resamples:
        names = tuple(("net", block) for block in range(self.blocks.shape[1]))
        return Resamples(names=names, blocks=self.blocks, id_f1=self.id_f1, ood_f1=self.ood_f1)

    def paired(self, *arms: int) -> Blocks:
        arm, block, epoch = np.array(self.rows, dtype=np.int64).reshape(-1, 3).T
        table = RunEpochs(
            arm=arm.astype(str),
            architecture=np.full(len(arm), "net"),
            seed=block,
            epoch=epoch,
            run=np.full(len(arm), "run"),
            start=np.full(len(arm), "run"),
            id_f1=self.id_f1[:, 0],
            ood_f1=self.ood_f1[:, 0],
        )
        return complete_blocks(table, [str(arm) for arm in arms])

    def trend(self, arm: int, scale: Scale = "logit", threads: int | None = None) -> np.ndarray:
        """Slope and intercept, [2, n_resamples]."""
        return bootstrap(partial(own_trend, line=line(scale)), self.paired(arm), self.resamples, threads=threads)

    def difference(self, arm: int, baseline: int = 0, **options: str) -> np.ndarray:
        estimator = partial(robustness_difference, line=line(**options))
        return bootstrap(estimator, self.paired(baseline, arm), self.resamples)

    def ood(self, arm: int, baseline: int = 0) -> np.ndarray:
        return bootstrap(ood_difference, self.paired(baseline, arm), self.resamples)


def line(scale: str = "logit", **options: str) -> Line:
    return Line(epsilon=EPSILON, scale=scale, **options)  # type: ignore[arg-type]


def make_study(
    seed: int = 0,
    *,
    n_arms: int = 3,
    n_blocks: int = 5,
    n_epochs: int = 3,
    n_resamples: int = 7,
    missing: float = 0.0,
) -> Study:
    """Runs in any order, of which a share is missing, with scores that differ in each resample; some are 0 or 1."""
    rng = np.random.default_rng(seed)
    there = rng.random((n_arms, n_blocks)) >= missing
    lengths = rng.integers(1, n_epochs + 1, (n_arms, n_blocks)) if missing else np.full((n_arms, n_blocks), n_epochs)
    rows = [(a, b, 2 * e) for a, b in np.argwhere(there).tolist() for e in range(lengths[a, b])]
    rows = [rows[at] for at in rng.permutation(len(rows))]
    id_f1 = rng.uniform(0.1, 0.6, (len(rows), n_resamples))
    ood_f1 = id_f1 * rng.uniform(0.5, 0.9, id_f1.shape)
    id_f1[rng.random(id_f1.shape) < 0.05 * (missing > 0)] = 0
    ood_f1[rng.random(id_f1.shape) < 0.05 * (missing > 0)] = 1
    blocks = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), n_resamples)
    blocks[-1] = 1
    return Study(rows, id_f1, ood_f1, blocks)


def the_long_way(study: Study, r: int, scale: Scale, n_arms: int, baseline: int = 0) -> tuple[list, list, list]:
    """Trends of the arms, and effects on effective robustness and OOD scores of one resample, by loops over drawn runs.

    Effective robustness is from the trend of the baseline's runs that have a pair.
    """
    drawn = np.repeat(np.arange(study.blocks.shape[1]), study.blocks[r]).tolist()
    runs = {row[:2] for row in study.rows}

    def points(arm: int, blocks: list[int]) -> list[int]:
        return [at for block in blocks for at, row in enumerate(study.rows) if row[:2] == (arm, block)]

    def trend_of(at: list[int]) -> Trend | None:
        if len(set(at)) < MIN_POINTS:
            return None
        return fit_trend(study.id_f1[at, r], study.ood_f1[at, r], scale=scale, epsilon=EPSILON)

    trends = [trend_of(points(arm, drawn)) for arm in range(n_arms)]
    robustness, ood = [], []
    for arm in range(n_arms):
        pairs = [b for b in drawn if {(arm, b), (baseline, b)} <= runs]
        trend = trend_of(points(baseline, pairs))
        differences, plain = [], []
        for block in pairs:
            ours, theirs = points(arm, [block]), points(baseline, [block])
            plain.append(100 * (study.ood_f1[ours, r].mean() - study.ood_f1[theirs, r].mean()))
            if trend:
                er = [effective_robustness(study.id_f1[at, r], study.ood_f1[at, r], trend) for at in (ours, theirs)]
                differences.append(er[0].mean() - er[1].mean())
        robustness.append(np.mean(differences) if differences else np.nan)
        ood.append(np.mean(plain) if plain else np.nan)
    return trends, robustness, ood


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_arms=st.integers(1, 4),
    n_blocks=st.sampled_from([1, 2, 6]),
    n_epochs=st.sampled_from([1, 2, 4]),
    missing=st.sampled_from([0.0, 0.3, 0.9]),
    scale=st.sampled_from(["logit", "probit", "linear"]),
    last=st.booleans(),
)
def test_trends_and_effects_equal_a_loop_over_the_drawn_runs(
    seed: int, n_arms: int, n_blocks: int, n_epochs: int, missing: float, scale: Scale, last: bool
) -> None:
    baseline = n_arms - 1 if last else 0
    study = make_study(seed, n_arms=n_arms, n_blocks=n_blocks, n_epochs=n_epochs, missing=missing)
    slopes, intercepts = np.stack([study.trend(arm, scale) for arm in range(n_arms)], axis=1)
    options = {"scale": scale, "through": "baseline"}
    robustness = [study.difference(arm, baseline, **options) for arm in range(n_arms) if arm != baseline]
    ood = [study.ood(arm, baseline) for arm in range(n_arms) if arm != baseline]
    for r in range(len(study.blocks)):
        trends, expected, plain = the_long_way(study, r, scale, n_arms, baseline)
        close(slopes[:, r], [one.slope if one else np.nan for one in trends])
        close(intercepts[:, r], [one.intercept if one else np.nan for one in trends])
        others = [arm for arm in range(n_arms) if arm != baseline]
        close(np.array([one[r] for one in ood]), [plain[arm] for arm in others])
        for found, arm in zip(robustness, others, strict=True):
            if np.isfinite(expected[arm]):  # estimators draw a line through two points, too
                close(found[r], expected[arm])


def close(found: np.ndarray, wanted: ArrayLike) -> None:
    """Equal but for rounding, which few points close together magnify."""
    np.testing.assert_allclose(found, np.asarray(wanted), rtol=1e-7, atol=1e-8)


def test_weights_of_one_give_the_estimates() -> None:
    study = make_study(n_resamples=1)
    trends, _, ood = the_long_way(study, 0, "logit", 3)
    once = np.ones((1, 5))
    for arm, trend in enumerate(trends):
        plain = own_trend(study.paired(arm), once, line=line())
        assert plain[:, 0] == pytest.approx([trend.slope, trend.intercept], rel=1e-12)
        assert study.trend(arm) == pytest.approx(plain, rel=1e-12)
        if arm:
            assert ood_difference(study.paired(0, arm), once) == pytest.approx(ood[arm])


def test_the_same_seed_gives_identical_results_with_any_number_of_threads() -> None:
    rng = np.random.default_rng(3)
    y_true, location = rng.integers(0, 9, 900), rng.integers(0, 20, 900)
    rows = [(a, b, e) for a in range(3) for b in range(4) for e in range(2)]
    y_pred = [np.where(rng.random(900) < 0.3 + 0.1 * e, y_true, rng.integers(0, 9, 900)) for _, _, e in rows]
    counts = count((y_true, one, location) for one in y_pred)

    def result(threads: int | None) -> np.ndarray:
        drawn = draw(module.CHUNK + 99, n_blocks=4, n_id_clusters=20, n_ood_clusters=20, seed=7)
        id_f1, ood_f1 = (macro_f1(counts, one, threads=threads) for one in (drawn.id_clusters, drawn.ood_clusters))
        return Study(rows, id_f1, ood_f1, drawn.blocks).trend(1, threads=threads)

    first = result(1)
    for threads in (1, 2, 5, None):
        np.testing.assert_array_equal(result(threads), first)


def test_draws_repeat_and_are_independent_of_each_other() -> None:
    sizes = {"n_blocks": 6, "n_id_clusters": 30, "n_ood_clusters": 30}
    first, again = (draw(4000, **sizes, seed=5) for _ in range(2))
    for name in ("blocks", "id_clusters", "ood_clusters"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not (first.blocks == draw(4000, **sizes, seed=6).blocks).all()
    assert not (first.id_clusters == first.ood_clusters).all()
    other = draw(4000, n_blocks=9, n_id_clusters=11, n_ood_clusters=30, seed=5)
    np.testing.assert_array_equal(other.ood_clusters, first.ood_clusters)
    for drawn, n in ((first.blocks, 6), (first.id_clusters, 30)):
        assert (drawn.sum(axis=1) == n).all()
        assert drawn.mean(axis=0) == pytest.approx(np.ones(n), abs=0.08)  # sd of a mean is below 0.016
        assert drawn.var(axis=0) == pytest.approx(np.full(n, 1 - 1 / n), abs=0.15)


def test_one_block_and_one_location_are_always_drawn() -> None:
    drawn = draw(10, n_blocks=1, n_id_clusters=1, n_ood_clusters=1, seed=0)
    assert (drawn.blocks == 1).all()
    assert (drawn.id_clusters == 1).all()
    with pytest.raises(EvaluateError, match="0 OOD clusters to draw: at least one"):
        draw(10, n_blocks=1, n_id_clusters=1, n_ood_clusters=0, seed=0)


def test_an_effect_is_over_the_blocks_that_have_both_runs() -> None:
    rows = [(0, 0, 1), (0, 1, 1), (0, 2, 1), (1, 1, 1), (1, 2, 1), (1, 3, 1), (3, 3, 1)]
    values = np.array([1.0, 2, 4, 10, 20, 100, 7])[:, None] / 100 * np.ones((1, 3))
    blocks = np.array([[1, 1, 1, 1], [1, 3, 0, 0], [2, 0, 0, 2]])
    study = Study(rows, values, values, blocks)
    assert [len(study.paired(0, arm)) for arm in (1, 2, 3)] == [2, 0, 0]
    close(study.ood(1), [(8 + 16) / 2, 8, np.nan])  # the last draws no pair of it
    assert np.isnan([study.ood(2), study.ood(3)]).all()


def test_resamples_that_cannot_tell_are_left_out() -> None:
    rows = [(a, b, 1) for a in range(2) for b in range(4)]
    rng = np.random.default_rng(0)
    drawn = draw(2000, n_blocks=4, n_id_clusters=1, n_ood_clusters=1, seed=1)
    id_f1, ood_f1 = rng.uniform(0.2, 0.5, (2, 8, 1)) * np.ones((1, 1, 2000))
    slopes, intercepts = Study(rows, id_f1, ood_f1, drawn.blocks).trend(1)
    few = (drawn.blocks > 0).sum(axis=1) < MIN_POINTS
    assert 0.3 < few.mean() < 0.4  # 88 of the 4^4 ways hold one or two different blocks
    assert (np.isnan(slopes) == few).all()
    plain = Estimate(value=1.0, n=4)
    assert with_interval(plain, slopes) == with_interval(plain, slopes[~few])
    low, high = band(np.stack([slopes, intercepts]))
    assert (low < high).all()


def test_an_arm_without_runs_leaves_nothing_to_tell() -> None:
    rows = [(1, b, e) for b in range(3) for e in range(2)]
    study = Study(rows, np.full((6, 4), 0.3), np.full((6, 4), 0.3), np.ones((4, 3), int))
    assert np.isnan(study.trend(0)).all()
    assert np.isnan(study.ood(1)).all()
    assert with_interval(Estimate(), study.ood(1)) == Estimate()
    assert np.isnan(band(study.trend(0))).all()


def test_an_interval_is_students_with_the_standard_error_of_few_blocks() -> None:
    resamples = np.random.default_rng(0).normal(3, 2, 50_000)
    resamples[:10] = np.nan
    found = with_interval(Estimate(value=2.9, n=6), resamples, level=0.1)
    half = student.ppf(0.95, 5) * np.nanstd(resamples, ddof=1) * np.sqrt(6 / 5)
    assert (found.low, found.high) == pytest.approx((2.9 - half, 2.9 + half))
    alone = with_interval(Estimate(value=2.9, n=1), resamples)
    assert (alone.value, alone.low, alone.high) == (2.9, None, None)
    assert with_interval(Estimate(value=2.9, n=6), np.array([1.0, np.nan])).low is None


def test_the_interval_of_a_mean_of_blocks_is_students() -> None:
    values = np.random.default_rng(4).normal(size=7)
    drawn = draw(100_000, n_blocks=7, n_id_clusters=1, n_ood_clusters=1, seed=0).blocks
    found = with_interval(Estimate(value=values.mean(), n=7), drawn @ values / 7)
    wanted = student.interval(0.95, 6, values.mean(), values.std(ddof=1) / np.sqrt(7))
    assert (found.low, found.high) == pytest.approx(wanted, rel=0.02)


def test_a_band_holds_the_middle_of_the_resamples_at_each_point() -> None:
    resamples = np.stack([np.arange(1001.0), 5 - 2 * np.arange(1001.0)])
    low, high = band(resamples, level=0.1)
    assert (low.tolist(), high.tolist()) == (pytest.approx([50, -1895]), pytest.approx([950, -95]))


def planted(seed: int, location_effect: np.ndarray | float = 0.0) -> Study:
    """Arms on lines of slope 0.9 and 0.7 on the logit scale, runs around them, the same runs in all resamples."""
    rng = np.random.default_rng(seed)
    rows = [(a, b, e) for a in range(2) for b in range(12) for e in range(5)]
    arm, block, epoch = np.array(rows).T
    x = -1.5 + 0.25 * epoch + rng.normal(0, 0.3, 12)[block] + rng.normal(0, 0.05, len(rows))
    run = rng.normal(0, 0.08, (2, 12))[arm, block]
    y = np.array([-0.6, -0.2])[arm] + np.array([0.9, 0.7])[arm] * x + run + rng.normal(0, 0.03, len(rows))
    drawn = draw(2000, n_blocks=12, n_id_clusters=1, n_ood_clusters=1, seed=seed)
    id_f1, ood_f1 = (np.repeat(expit(values)[:, None], 2000, axis=1) for values in (x, y))
    return Study(rows, id_f1, ood_f1 + location_effect, drawn.blocks)


def plain(study: Study) -> Study:
    """The data as they are, as one resample."""
    return Study(study.rows, study.id_f1[:, :1], study.ood_f1[:, :1], np.ones((1, study.blocks.shape[1]), int))


def test_a_planted_trend_is_recovered() -> None:
    covered = []
    for seed in range(12):
        study = planted(seed)
        found, once = ([one.trend(arm) for arm in (0, 1)] for one in (study, plain(study)))
        quantities = [
            (0.9, once[0][0], found[0][0]),
            (0.7, once[1][0], found[1][0]),
            (-0.2, once[1][1], found[1][1]),
            (-0.2, once[1][0] - once[0][0], found[1][0] - found[0][0]),
        ]
        for truth, plainly, resampled in quantities:
            told = with_interval(Estimate(value=float(plainly[0]), n=12), resampled)
            assert told.low is not None
            assert told.high is not None
            covered.append(told.low <= truth <= told.high)
        assert [one[0, 0] for one in once] == pytest.approx([0.9, 0.7], abs=0.3)
        assert plain(study).difference(1)[0] > 0
    assert 0.85 < np.mean(covered) <= 1  # 48 intervals of 95%, four per study


def test_what_all_arms_share_leaves_differences_as_they_are() -> None:
    shared_by_all = np.random.default_rng(1).normal(0, 0.05, 2000)
    quiet, shaken = (planted(0, effect) for effect in (0.0, shared_by_all))
    for one in (lambda study: study.difference(1, scale="linear"), lambda study: study.ood(1)):
        np.testing.assert_allclose(one(shaken), one(quiet), atol=1e-9)
    before, after = (
        bootstrap(partial(slopes_difference, line=line("linear")), one.paired(0, 1), one.resamples)
        for one in (quiet, shaken)
    )
    np.testing.assert_allclose(before, after, atol=1e-9)
    before, after = (one.trend(1, "linear") for one in (quiet, shaken))
    assert width(from_scale(after[1] + after[0] * 0.3, "linear")) > 3 * width(before[1] + before[0] * 0.3)


def width(resamples: np.ndarray) -> float:
    found = with_interval(Estimate(value=0.0, n=12), resamples)
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


def test_hard_locations_widen_the_scores_of_arms_but_not_their_difference() -> None:
    n_locations, n_classes = 25, 5

    def widths(spread: float) -> tuple[float, float, float]:
        """Widths of an arm's OOD score, of the paired difference, and of one with draws of its own for each arm."""
        rng = np.random.default_rng(2)
        location = np.repeat(np.arange(n_locations), 80)
        y_true = rng.integers(0, n_classes, len(location))
        ease = spread * rng.uniform(-0.4, 0.4, n_locations)[location]
        rows = [(a, b, 1) for a in range(2) for b in range(6)]
        said = [np.where(rng.random(len(location)) < 0.5 + 0.1 * a + ease, y_true, y_true - 1) for a, *_ in rows]
        counts = count((y_true, y_pred % n_classes, location) for y_pred in said)
        first, second = (draw(1000, n_blocks=6, n_id_clusters=1, n_ood_clusters=25, seed=seed) for seed in (0, 1))
        ood, apart = (macro_f1(counts, one.ood_clusters) for one in (first, second))
        mixed = np.concatenate([ood[:6], apart[6:]])
        effects = [Study(rows, values, values, first.blocks).ood(1) for values in (ood, mixed)]
        return width(100 * ood[0]), width(effects[0]), width(effects[1])

    (arm, paired, unpaired), (arm_of_hard, paired_of_hard, unpaired_of_hard) = widths(0), widths(1)
    assert arm_of_hard > 3 * arm
    assert unpaired_of_hard > 3 * unpaired
    assert paired_of_hard < 1.5 * paired
    assert paired_of_hard < unpaired_of_hard / 4


def test_the_whole_way_from_counts_equals_the_images_of_drawn_locations() -> None:
    rng = np.random.default_rng(9)
    rows = [(a, b, e) for a in range(2) for b in range(3) for e in range(2)]
    splits, f1 = [], []
    drawn = draw(5, n_blocks=3, n_id_clusters=7, n_ood_clusters=4, seed=2)
    for n_locations, weights in ((7, drawn.id_clusters), (4, drawn.ood_clusters)):
        y_true = rng.integers(0, 6, 120)
        location = np.r_[np.arange(n_locations), rng.integers(0, n_locations - 1, 120 - n_locations)]
        y_pred = [np.where(rng.random(120) < rng.uniform(0.3, 0.8), y_true, rng.integers(0, 9, 120)) for _ in rows]
        splits.append(macro_f1(count((y_true, one, location) for one in y_pred), weights))
        images = [np.repeat(np.arange(120), row[location]) for row in weights]
        f1.append(np.array([[scores(y_true[at], one[at]).macro_f1 for at in images] for one in y_pred]))
    np.testing.assert_allclose(splits, f1, rtol=0, atol=1e-12)
    study, ours = (Study(rows, id_f1, ood_f1, drawn.blocks) for id_f1, ood_f1 in (f1, splits))
    slopes, effects = [ours.trend(arm)[0] for arm in (0, 1)], ours.ood(1)
    for r in range(5):
        trends, _, expected = the_long_way(study, r, "logit", 2)
        close(effects[r], expected[1])
        close(np.array([one[r] for one in slopes]), [one.slope if one else np.nan for one in trends])
