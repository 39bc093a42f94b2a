from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import t as student

from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.judging import bootstrap as module
from synthgen_evaluate.judging.bootstrap import (
    Design,
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
from synthgen_evaluate.judging.counts import count, macro_f1
from synthgen_evaluate.judging.trends import MIN_POINTS, clip_epsilon, effective_robustness, fit_trend
from synthgen_evaluate.metrics import scores

EPSILON = clip_epsilon(8154)
Row = tuple[int, int, int]  # arm, block, epoch


@dataclass(frozen=True)
class Study:
    rows: list[Row]
    design: Design
    id_f1: np.ndarray  # [n_run_epochs, n_resamples]
    ood_f1: np.ndarray
    blocks: np.ndarray  # [n_resamples, n_blocks]

    def resampled(self, scale: str = "logit", threads: int | None = None) -> Resampled:
        return resample(
            self.design,
            self.id_f1,
            self.ood_f1,
            self.blocks,
            scale=scale,  # type: ignore[arg-type]
            epsilon=EPSILON,
            threads=threads,
        )


def design_of(rows: list[Row], n_arms: int, n_blocks: int, baseline: int = 0) -> Design:
    arm, block, epoch = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return arrange(arm, block, epoch, n_arms=n_arms, n_blocks=n_blocks, baseline=baseline)


def make_study(
    seed: int = 0,
    *,
    n_arms: int = 3,
    n_blocks: int = 5,
    n_epochs: int = 3,
    n_resamples: int = 7,
    missing: float = 0.0,
    baseline: int = 0,
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
    return Study(rows, design_of(rows, n_arms, n_blocks, baseline), id_f1, ood_f1, blocks)


def the_long_way(study: Study, r: int, scale: str) -> tuple[list, dict[tuple[int, int], float], list]:
    """Trends of the arms, run-mean effective robustness and effects of one resample, by loops over drawn runs."""
    drawn = np.repeat(np.arange(study.design.n_blocks), study.blocks[r]).tolist()
    trends = []
    for arm in range(study.design.n_arms):
        points = [at for block in drawn for at, row in enumerate(study.rows) if row[:2] == (arm, block)]
        options = {"scale": scale, "epsilon": EPSILON}
        enough = len(set(points)) >= MIN_POINTS
        trends.append(fit_trend(study.id_f1[points, r], study.ood_f1[points, r], **options) if enough else None)
    baseline = study.design.baseline
    trend, robustness = trends[baseline], {}
    for run in dict.fromkeys(row[:2] for row in study.rows):
        of_run = [at for at, row in enumerate(study.rows) if row[:2] == run]
        er = effective_robustness(study.id_f1[of_run, r], study.ood_f1[of_run, r], trend) if trend else [np.nan]
        robustness[run] = float(np.mean(er))
    effects = []
    for arm in range(study.design.n_arms):
        pairs = [b for b in drawn if {(arm, b), (baseline, b)} <= robustness.keys()]
        differences = [robustness[arm, b] - robustness[baseline, b] for b in pairs]
        effects.append(np.mean(differences) if differences else np.nan)
    return trends, robustness, effects


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
    seed: int, n_arms: int, n_blocks: int, n_epochs: int, missing: float, scale: str, last: bool
) -> None:
    baseline = n_arms - 1 if last else 0
    study = make_study(seed, n_arms=n_arms, n_blocks=n_blocks, n_epochs=n_epochs, missing=missing, baseline=baseline)
    found = study.resampled(scale)
    runs = list(zip(study.design.run_arm.tolist(), study.design.run_block.tolist(), strict=True))
    assert runs == sorted({row[:2] for row in study.rows})
    grid = [0.2, 0.5]
    for r in range(len(study.blocks)):
        trends, robustness, effects = the_long_way(study, r, scale)
        close(found.slope[:, r], [one.slope if one else np.nan for one in trends])
        close(found.intercept[:, r], [one.intercept if one else np.nan for one in trends])
        close(found.run_er[:, r], [robustness[run] for run in runs])
        close(effects_of(found, study.blocks)[:, r], effects)
        lines = [one.predict(grid) if one else np.full(2, np.nan) for one in trends]
        for arm, line in enumerate(lines):
            close(predicted(found, arm, grid)[:, r], line)
            close(differences_at(found, arm, grid)[:, r], 100 * (line - lines[baseline]))


def effects_of(found: Resampled, blocks: np.ndarray) -> np.ndarray:
    return paired_effects(found.design, found.run_er, blocks)


def close(found: np.ndarray, wanted: object) -> None:
    """Equal but for rounding, which few points close together magnify."""
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-8)


def test_weights_of_one_give_the_estimates() -> None:
    study = make_study(n_resamples=1)
    trends, robustness, effects = the_long_way(study, 0, "logit")
    found = study.resampled()
    assert found.slope[:, 0] == pytest.approx([one.slope for one in trends], rel=1e-12)
    assert found.run_er[:, 0] == pytest.approx([robustness[run] for run in sorted(robustness)], rel=1e-12)
    assert effects_of(found, study.blocks)[:, 0] == pytest.approx(effects, abs=1e-12)
    assert slope_differences(found)[:, 0] == pytest.approx(found.slope[:, 0] - found.slope[0, 0])


def test_the_same_seed_gives_identical_results_with_any_number_of_threads() -> None:
    rng = np.random.default_rng(3)
    y_true, location = rng.integers(0, 9, 900), rng.integers(0, 20, 900)
    rows = [(a, b, e) for a in range(3) for b in range(4) for e in range(2)]
    y_pred = [np.where(rng.random(900) < 0.3 + 0.1 * e, y_true, rng.integers(0, 9, 900)) for _, _, e in rows]
    counts = count((y_true, one, location) for one in y_pred)

    def result(threads: int | None) -> Resampled:
        drawn = draw(module.CHUNK + 99, n_blocks=4, n_id_locations=20, n_ood_locations=20, seed=7)
        f1 = (macro_f1(counts, one, threads=threads) for one in (drawn.id_locations, drawn.ood_locations))
        return resample(design_of(rows, 3, 4), *f1, drawn.blocks, epsilon=EPSILON, threads=threads)

    first = result(1)
    for threads in (1, 2, 5, None):
        again = result(threads)
        for name in ("slope", "intercept", "run_er"):
            np.testing.assert_array_equal(getattr(again, name), getattr(first, name))


def test_draws_repeat_and_are_independent_of_each_other() -> None:
    sizes = {"n_blocks": 6, "n_id_locations": 30, "n_ood_locations": 30}
    first, again = (draw(4000, **sizes, seed=5) for _ in range(2))
    for name in ("blocks", "id_locations", "ood_locations"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not (first.blocks == draw(4000, **sizes, seed=6).blocks).all()
    assert not (first.id_locations == first.ood_locations).all()
    other = draw(4000, n_blocks=9, n_id_locations=11, n_ood_locations=30, seed=5)
    np.testing.assert_array_equal(other.ood_locations, first.ood_locations)
    for drawn, n in ((first.blocks, 6), (first.id_locations, 30)):
        assert (drawn.sum(axis=1) == n).all()
        assert drawn.mean(axis=0) == pytest.approx(np.ones(n), abs=0.08)  # sd of a mean is below 0.016
        assert drawn.var(axis=0) == pytest.approx(np.full(n, 1 - 1 / n), abs=0.15)


def test_one_block_and_one_location_are_always_drawn() -> None:
    drawn = draw(10, n_blocks=1, n_id_locations=1, n_ood_locations=1, seed=0)
    assert (drawn.blocks == 1).all()
    assert (drawn.id_locations == 1).all()
    with pytest.raises(EvaluateError, match="0 OOD locations to draw: at least one"):
        draw(10, n_blocks=1, n_id_locations=1, n_ood_locations=0, seed=0)


def test_an_effect_is_over_the_blocks_that_have_both_runs() -> None:
    rows = [(0, 0, 1), (0, 1, 1), (0, 2, 1), (1, 1, 1), (1, 2, 1), (1, 3, 1), (3, 3, 1)]
    design = design_of(rows, n_arms=4, n_blocks=4)
    assert design.n_pairs.tolist() == [3, 2, 0, 0]
    values = np.array([1.0, 2, 4, 10, 20, 100, 7])[:, None] * np.ones((1, 3))
    blocks = np.array([[1, 1, 1, 1], [1, 3, 0, 0], [2, 0, 0, 2]])
    effects = paired_effects(design, values, blocks)
    np.testing.assert_array_equal(effects[0], [0, 0, 0])
    np.testing.assert_array_equal(effects[1], [(8 + 16) / 2, 8, np.nan])  # the last draws no pair of it
    assert np.isnan(effects[2:]).all()


def test_resamples_that_cannot_tell_are_counted_and_told() -> None:
    rows = [(a, b, 1) for a in range(2) for b in range(4)]
    rng = np.random.default_rng(0)
    drawn = draw(2000, n_blocks=4, n_id_locations=1, n_ood_locations=1, seed=1)
    f1 = rng.uniform(0.2, 0.5, (2, 8, 1)) * np.ones((1, 1, 2000))
    found = resample(design_of(rows, 2, 4), *f1, drawn.blocks, epsilon=EPSILON)
    few = (drawn.blocks > 0).sum(axis=1) < MIN_POINTS
    assert 0.3 < few.mean() < 0.4  # 88 of the 4^4 ways hold one or two different blocks
    told = interval(1.0, effects_of(found, drawn.blocks)[1], 4)
    assert (told.left_out, told.n_resamples) == (few.sum(), 2000 - few.sum())
    low, high, left_out = band(predicted(found, 1, [0.3, 0.4]))
    assert left_out == few.sum()
    assert (low < high).all()


def test_a_baseline_without_runs_leaves_nothing_to_tell() -> None:
    rows = [(1, b, e) for b in range(3) for e in range(2)]
    found = resample(design_of(rows, 2, 3), *np.full((2, 6, 4), 0.3), np.ones((4, 3), int), epsilon=EPSILON)
    for name in ("slope", "intercept", "run_er"):
        assert np.isnan(getattr(found, name)).all()
    told = interval(float("nan"), effects_of(found, np.ones((4, 3), int))[1], 0)
    assert (told.estimate, told.low, told.high, told.n_resamples, told.left_out) == (None, None, None, 0, 4)
    low, high, left_out = band(predicted(found, 0, [0.1]))
    assert np.isnan([low, high]).all()
    assert left_out == 4


def test_an_interval_is_students_with_the_standard_error_of_few_blocks() -> None:
    resamples = np.random.default_rng(0).normal(3, 2, 50_000)
    resamples[:10] = np.nan
    found = interval(2.9, resamples, 6, level=0.9)
    half = student.ppf(0.95, 5) * np.nanstd(resamples, ddof=1) * np.sqrt(6 / 5)
    assert (found.low, found.high) == pytest.approx((2.9 - half, 2.9 + half))
    assert (found.estimate, found.level, found.n_resamples, found.left_out) == (2.9, 0.9, 49_990, 10)
    alone = interval(2.9, resamples, 1)
    assert (alone.estimate, alone.low, alone.high) == (2.9, None, None)
    assert interval(2.9, np.array([1.0, np.nan]), 6).low is None


def test_the_interval_of_a_mean_of_blocks_is_students() -> None:
    values = np.random.default_rng(4).normal(size=7)
    drawn = draw(100_000, n_blocks=7, n_id_locations=1, n_ood_locations=1, seed=0).blocks
    found = interval(values.mean(), drawn @ values / 7, 7)
    wanted = student.interval(0.95, 6, values.mean(), values.std(ddof=1) / np.sqrt(7))
    assert (found.low, found.high) == pytest.approx(wanted, rel=0.02)


def test_a_band_holds_the_middle_of_the_resamples_at_each_point() -> None:
    resamples = np.stack([np.arange(1001.0), 5 - 2 * np.arange(1001.0)])
    low, high, left_out = band(resamples, level=0.9)
    assert (low.tolist(), high.tolist()) == (pytest.approx([50, -1895]), pytest.approx([950, -95]))
    assert left_out == 0


def planted(seed: int, location_effect: np.ndarray | float = 0.0) -> Study:
    """Arms on lines of slope 0.9 and 0.7 on the logit scale, runs around them, the same runs in all resamples."""
    rng = np.random.default_rng(seed)
    rows = [(a, b, e) for a in range(2) for b in range(12) for e in range(5)]
    arm, block, epoch = np.array(rows).T
    x = -1.5 + 0.25 * epoch + rng.normal(0, 0.3, 12)[block] + rng.normal(0, 0.05, len(rows))
    run = rng.normal(0, 0.08, (2, 12))[arm, block]
    y = np.array([-0.6, -0.2])[arm] + np.array([0.9, 0.7])[arm] * x + run + rng.normal(0, 0.03, len(rows))
    drawn = draw(2000, n_blocks=12, n_id_locations=1, n_ood_locations=1, seed=seed)
    id_f1, ood_f1 = (np.repeat(expit(values)[:, None], 2000, axis=1) for values in (x, y))
    return Study(rows, design_of(rows, 2, 12), id_f1, ood_f1 + location_effect, drawn.blocks)


def estimates(study: Study) -> Resampled:
    """The same quantities of the data as they are."""
    ones = np.ones((1, study.design.n_blocks), int)
    return Study(study.rows, study.design, study.id_f1[:, :1], study.ood_f1[:, :1], ones).resampled()


def test_a_planted_trend_is_recovered() -> None:
    at = np.array([-1.0, -0.5])
    covered = []
    for seed in range(12):
        study = planted(seed)
        found, plain = study.resampled(), estimates(study)
        true_difference = 100 * (expit(-0.2 + 0.7 * at) - expit(-0.6 + 0.9 * at))
        differences = (differences_at(one, 1, expit(at)) for one in (plain, found))
        quantities = [
            (0.9, plain.slope[0], found.slope[0]),
            (0.7, plain.slope[1], found.slope[1]),
            (-0.2, plain.intercept[1], found.intercept[1]),
            (-0.2, slope_differences(plain)[1], slope_differences(found)[1]),
            *zip(true_difference, *differences, strict=True),
        ]
        for truth, plainly, resampled in quantities:
            told = interval(float(plainly[0]), resampled, 12)
            assert told.low is not None
            assert told.high is not None
            covered.append(told.low <= truth <= told.high)
        assert plain.slope[:, 0] == pytest.approx([0.9, 0.7], abs=0.3)
        assert effects_of(plain, np.ones((1, 12), int))[1, 0] > 0
    assert 0.85 < np.mean(covered) <= 1  # 72 intervals of 95%, six a study


def test_what_all_arms_share_leaves_differences_as_they_are() -> None:
    shared_by_all = np.random.default_rng(1).normal(0, 0.05, 2000)
    quiet, shaken = (planted(0, effect) for effect in (0.0, shared_by_all))
    before, after = quiet.resampled("linear"), shaken.resampled("linear")
    np.testing.assert_allclose(effects_of(after, shaken.blocks), effects_of(before, quiet.blocks), atol=1e-9)
    np.testing.assert_allclose(slope_differences(after), slope_differences(before), atol=1e-9)
    np.testing.assert_allclose(differences_at(after, 1, [0.3]), differences_at(before, 1, [0.3]), atol=1e-9)
    assert width(predicted(after, 1, [0.3])[0]) > 3 * width(predicted(before, 1, [0.3])[0])


def width(resamples: np.ndarray) -> float:
    found = interval(0.0, resamples, 12)
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
        first, second = (draw(1000, n_blocks=6, n_id_locations=1, n_ood_locations=25, seed=seed) for seed in (0, 1))
        ood, apart = (100 * macro_f1(counts, one.ood_locations) for one in (first, second))
        effects = [
            paired_effects(design_of(rows, 2, 6), values, first.blocks)[1]
            for values in (ood, np.concatenate([ood[:6], apart[6:]]))
        ]
        return width(ood[0]), width(effects[0]), width(effects[1])

    (arm, paired, unpaired), (arm_of_hard, paired_of_hard, unpaired_of_hard) = widths(0), widths(1)
    assert arm_of_hard > 3 * arm
    assert unpaired_of_hard > 3 * unpaired
    assert paired_of_hard < 1.5 * paired
    assert paired_of_hard < unpaired_of_hard / 4


def test_the_whole_way_from_counts_equals_the_images_of_drawn_locations() -> None:
    rng = np.random.default_rng(9)
    rows = [(a, b, e) for a in range(2) for b in range(3) for e in range(2)]
    splits, f1 = [], []
    drawn = draw(5, n_blocks=3, n_id_locations=7, n_ood_locations=4, seed=2)
    for n_locations, weights in ((7, drawn.id_locations), (4, drawn.ood_locations)):
        y_true = rng.integers(0, 6, 120)
        location = np.r_[np.arange(n_locations), rng.integers(0, n_locations - 1, 120 - n_locations)]
        y_pred = [np.where(rng.random(120) < rng.uniform(0.3, 0.8), y_true, rng.integers(0, 9, 120)) for _ in rows]
        splits.append(macro_f1(count((y_true, one, location) for one in y_pred), weights))
        images = [np.repeat(np.arange(120), row[location]) for row in weights]
        f1.append(np.array([[scores(y_true[at], one[at]).macro_f1 for at in images] for one in y_pred]))
    np.testing.assert_allclose(splits, f1, rtol=0, atol=1e-12)
    study = Study(rows, design_of(rows, 2, 3), *f1, drawn.blocks)
    found = resample(study.design, *splits, drawn.blocks, epsilon=EPSILON)
    for r in range(5):
        trends, _, effects = the_long_way(study, r, "logit")
        close(effects_of(found, study.blocks)[:, r], effects)
        close(found.slope[:, r], [one.slope if one else np.nan for one in trends])


def test_designs_that_are_none_are_refused() -> None:
    with pytest.raises(EvaluateError, match="arm 1 has epoch 5 of block 2 twice"):
        design_of([(0, 0, 1), (1, 2, 5), (1, 2, 4), (1, 2, 5)], 2, 3)
    with pytest.raises(EvaluateError, match="arm 2 is none of the 2"):
        design_of([(0, 0, 1), (2, 0, 1)], 2, 3)
    with pytest.raises(EvaluateError, match="block -1 is none of the 3"):
        design_of([(0, -1, 1)], 2, 3)
    with pytest.raises(EvaluateError, match="arm 2 is none of the 2"):
        design_of([(0, 0, 1)], 2, 3, baseline=2)
    with pytest.raises(EvaluateError, match="do not match: give one of each a run-epoch"):
        arrange([0, 1], [0], [1, 1], n_arms=2, n_blocks=1, baseline=0)


def test_scores_that_do_not_match_the_design_are_refused() -> None:
    study = make_study()
    with pytest.raises(EvaluateError, match=r"shape \(45, 6\), .* not match 45 run-epochs and 5 blocks"):
        resample(study.design, study.id_f1[:, 1:], study.ood_f1, study.blocks, epsilon=EPSILON)
