from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from simulated_studies import DEFAULTS, Variation, simulate_study

from synthgen_evaluate.analysis.estimators import (
    Line,
    beyond,
    difference,
    fit_slopes,
    jackknife,
    robustness,
    slopes_difference,
)
from synthgen_evaluate.analysis.pairing import Blocks, RunEpochs, complete_blocks
from synthgen_evaluate.analysis.significance import EXACT_BLOCKS, sign_flip_p
from synthgen_evaluate.analysis.trends import Scale, effective_robustness, fit_trend, to_scale
from synthgen_evaluate.errors import EvaluateError

LINE = Line(epsilon=1e-4)
BOTH = ("arm 0", "arm 1")
CALM = replace(
    DEFAULTS, **{name: 0.0 for name in Variation.__slots__ if name.endswith(("ood", "noise_id"))}, interaction=0
)


def study(seed: int = 0, **options: Any) -> RunEpochs:
    return simulate_study(np.random.default_rng(seed), **options)


def pairs(seed: int = 0, **options: Any) -> Blocks:
    return complete_blocks(study(seed, **options), BOTH)


def without(table: RunEpochs, *rows: int) -> RunEpochs:
    return RunEpochs(**{name: np.delete(getattr(table, name), rows) for name in RunEpochs.__slots__})


def on_scale(blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    return to_scale(blocks.id_f1, "logit", LINE.epsilon), to_scale(blocks.ood_f1, "logit", LINE.epsilon)


# --- The permutation


def naive_p(values: np.ndarray) -> float:
    means = [abs(np.dot(values, signs)) for signs in itertools.product((1, -1), repeat=len(values))]
    return float(np.mean([mean >= abs(values.sum()) - 1e-9 for mean in means]))


@settings(max_examples=60)
@given(st.lists(st.integers(-30, 30), min_size=1, max_size=8))
def test_p_is_that_of_all_sign_patterns(tenths: list[int]) -> None:
    values = np.array(tenths) / 10
    assert sign_flip_p(values) == pytest.approx(naive_p(values))
    assert sign_flip_p(values) >= min(1, 2 ** (1 - len(values)))


@pytest.mark.parametrize("n", [6, EXACT_BLOCKS, EXACT_BLOCKS + 1, 40])
def test_p_agrees_with_the_paired_test_and_repeats(n: int) -> None:
    values = np.random.default_rng(n).normal(0.4, 1, n)
    other = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**n if n <= EXACT_BLOCKS else 99_999,
        batch=10_000,
        rng=np.random.default_rng(0),
    )
    assert sign_flip_p(values) == pytest.approx(other.pvalue, abs=1e-12 if n <= EXACT_BLOCKS else 0.004)
    assert sign_flip_p(values) == sign_flip_p(values.copy())


@pytest.mark.parametrize("n", [7, 20])
def test_many_tests_at_once_are_each_as_alone(n: int) -> None:
    values = np.random.default_rng(1).normal(size=(3, 2, n))
    assert sign_flip_p(values).shape == (3, 2)
    assert sign_flip_p(values)[2, 1] == sign_flip_p(values[2, 1])


def test_a_strong_effect_in_many_blocks_has_the_smallest_p_that_was_drawn() -> None:
    assert sign_flip_p(np.ones(30)) == pytest.approx(1e-5)


# --- Estimates over blocks


@settings(max_examples=40)
@given(st.lists(st.floats(-50, 50), min_size=2, max_size=9))
def test_the_values_behind_a_mean_are_the_blocks_own(values: list[float]) -> None:
    array = np.array(values)
    found = jackknife(lambda values, weights: (weights @ values) / weights.sum(1), array)
    assert found.contributions == pytest.approx(array, abs=1e-8)
    low, high = stats.t.interval(0.95, len(array) - 1, array.mean(), max(array.std(ddof=1), 1e-300) / len(array) ** 0.5)
    assert (found.value, found.low, found.high) == pytest.approx((array.mean(), low, high), abs=1e-7)


def test_the_mean_of_the_values_is_the_estimate_also_where_it_is_no_mean() -> None:
    found = difference(pairs(2), LINE)
    assert np.mean(found.contributions) == pytest.approx(found.value)
    assert found.p == pytest.approx(sign_flip_p(found.contributions))


def test_leaving_out_a_block_is_the_same_as_not_having_it() -> None:
    table = study(3, gains=(0, 0.4))
    blocks = complete_blocks(table, BOTH)
    left = []
    for architecture, seed in blocks.names:
        rows = np.flatnonzero((table.architecture == architecture) & (table.seed == seed))
        left.append(difference(complete_blocks(without(table, *rows), BOTH), LINE).value)
    found = difference(blocks, LINE)
    assert found.contributions == pytest.approx(found.value + 14 * (np.mean(left) - np.array(left)))


# --- Lines and effective robustness


@pytest.mark.parametrize("slope", ["within", "between"])
def test_the_slope_is_that_of_regression_with_runs_or_arms_as_fixed_effects(slope: Any) -> None:
    blocks = pairs(4, epochs=4)
    x, y = on_scale(blocks)
    n, k, _ = x.shape
    block, arm, _ = np.indices(x.shape)
    cells = block * k + arm if slope == "within" else arm
    dummies = (cells.ravel()[:, None] == np.unique(cells)).astype(float)
    models, of_models = ((x, y), dummies) if slope == "within" else ((x.mean(2), y.mean(2)), dummies[::4])
    design = np.column_stack([models[0].ravel(), of_models])
    slope_of_all = np.linalg.lstsq(design, models[1].ravel())[0][0]
    x0, y0 = x[:, 0].mean(1), y[:, 0].mean(1)
    predicted = 1 / (1 + np.exp(-(y0[:, None, None] + slope_of_all * (x - x0[:, None, None]))))
    expected = 100 * (blocks.ood_f1 - predicted).mean(2)
    line = replace(LINE, slope=slope)
    assert robustness(blocks, line, np.ones((1, n)))[0] == pytest.approx(expected, abs=1e-9)


def test_a_slope_within_runs_is_that_of_all_epochs_also_where_one_is_compared() -> None:
    table = study(4)
    last, every = (complete_blocks(table, BOTH, where=table.epoch >= first) for first in (6, 1))
    weights = np.ones((1, len(last)))
    found = robustness(last, LINE, weights, every=every)
    assert found == pytest.approx(beyond(last, LINE, fit_slopes(every, every, LINE, weights)))
    assert np.isnan(robustness(last, LINE, weights)).all()


def test_the_baselines_own_trend_is_that_of_the_trends_module() -> None:
    blocks = pairs(5)
    trend = fit_trend(blocks.id_f1[:, 0].ravel(), blocks.ood_f1[:, 0].ravel(), epsilon=LINE.epsilon)
    expected = effective_robustness(blocks.id_f1, blocks.ood_f1, trend).mean(2)
    line = replace(LINE, through="baseline")
    assert robustness(blocks, line, np.ones((1, len(blocks))))[0] == pytest.approx(expected)


def test_an_orthogonal_line_is_the_first_principal_axis() -> None:
    blocks = pairs(6)
    x, y = (values[:, 0].ravel() for values in on_scale(blocks))
    axis = np.linalg.svd(np.stack([x - x.mean(), y - y.mean()], 1))[2][0]
    predicted = 1 / (1 + np.exp(-(y.mean() + axis[1] / axis[0] * (x - x.mean()))))
    expected = (100 * (blocks.ood_f1[:, 0].ravel() - predicted)).reshape(len(blocks), -1).mean(1)
    line = replace(LINE, through="baseline", fit="orthogonal")
    assert robustness(blocks, line, np.ones((1, len(blocks))))[0, :, 0] == pytest.approx(expected)


@pytest.mark.parametrize("through", ["blocks", "baseline"])
@pytest.mark.parametrize(("epochs", "slope"), [(1, "between"), (3, "within")])
def test_many_weights_and_scores_at_once_are_each_as_alone(through: Any, epochs: int, slope: Any) -> None:
    rng, line = np.random.default_rng(7), replace(LINE, through=through, slope=slope)
    several = [pairs(seed, epochs=epochs) for seed in range(3)]
    weights = rng.multinomial(15, np.full(15, 1 / 15), 3).astype(float)
    ids, oods = (np.stack([getattr(one, name) for one in several]) for name in ("id_f1", "ood_f1"))
    found = robustness(replace(several[0], id_f1=ids, ood_f1=oods), line, weights)
    for one, weight, expected in zip(several, weights, found, strict=True):
        assert robustness(one, line, weight[None])[0] == pytest.approx(expected)


def test_weights_count_blocks_as_often_as_copies_of_them() -> None:
    blocks = pairs(8, architectures=2)
    counts = np.array([3, 0, 1, 2, 0, 1])
    copies = np.repeat(np.arange(6), counts)
    scores = {name: getattr(blocks, name)[copies] for name in ("rows", "id_f1", "ood_f1")}
    copied = replace(blocks, names=tuple(("a", k) for k in range(7)), **scores)
    weighted = robustness(blocks, LINE, counts[None].astype(float))[0]
    assert robustness(copied, LINE, np.ones((1, 7)))[0] == pytest.approx(weighted[copies])


def test_scores_that_are_the_same_in_every_resample_give_the_estimate_in_each() -> None:
    blocks, estimator = pairs(8), partial(slopes_difference, line=LINE)
    again: dict[str, Any] = {name: np.stack([getattr(blocks, name)] * 3) for name in ("id_f1", "ood_f1")}
    (once,) = estimator(blocks, np.ones((1, len(blocks))))
    assert estimator(replace(blocks, **again), np.ones((3, len(blocks)))) == pytest.approx([once] * 3)


# --- What is found


@pytest.mark.parametrize(("epochs", "slope"), [(1, "between"), (6, "between"), (6, "within")])
def test_moving_along_the_line_is_no_effect(epochs: int, slope: Any) -> None:
    found = difference(pairs(9, gains=(0, 0.7), epochs=epochs, variation=CALM), replace(LINE, slope=slope))
    assert found.value == pytest.approx(0, abs=1e-9)
    assert (found.p, set(found.contributions)) == (1.0, {0.0})


def test_a_planted_difference_is_recovered() -> None:
    blocks = pairs(9, effects=(0, 2.5), gains=(0, 0.4), rises=(1, 0.5), variation=CALM)
    found = difference(blocks, LINE)
    assert found.value == pytest.approx(2.5, abs=0.1)  # equal points are not quite parallel on the logit
    assert found.p < 0.001
    noisy = difference(pairs(10, effects=(0, 2.5), gains=(0, 0.4)), LINE)
    assert noisy.low < 2.5 < noisy.high


# --- Awkward data


def test_equal_arms_do_not_differ() -> None:
    blocks = pairs(12)
    same = replace(blocks, id_f1=blocks.id_f1[:, [0, 0]], ood_f1=blocks.ood_f1[:, [0, 0]])
    found = difference(same, LINE)
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_one_block_has_a_difference_and_no_test() -> None:
    found = difference(pairs(13, architectures=1, seeds=1), LINE)
    assert found.n == 1
    assert found.value is not None
    assert (found.low, found.high, found.p, found.sd, found.contributions) == (None, None, None, None, ())


def test_without_blocks_or_spread_nothing_is_known() -> None:
    nothing = difference(complete_blocks(study(), ("arm 0", "arm 7")), LINE)
    assert (nothing.n, nothing.value, nothing.p) == (0, None, None)
    blocks = pairs(14)
    flat = difference(replace(blocks, id_f1=np.full_like(blocks.id_f1, 0.4)), LINE)
    assert (flat.n, flat.value, flat.p) == (15, None, None)


def test_runs_pair_by_architecture_and_seed_and_the_rest_is_counted() -> None:
    table = study(15, architectures=2)
    arm, architecture, seed = table.arm, table.architecture, table.seed
    gone = ((arm == "arm 1") & (architecture == "architecture 0") & (seed == 2)) | (
        (arm == "arm 0") & (architecture == "architecture 1") & (seed < 2)
    )
    blocks = complete_blocks(without(table, *np.flatnonzero(gone)), BOTH)
    assert blocks.names == (("architecture 0", 0), ("architecture 0", 1), ("architecture 1", 2))
    assert blocks.unpaired == (1, 2)
    assert difference(blocks, LINE).n == 3


def test_runs_of_unequal_length_count_each_as_one() -> None:
    table = study(16)
    short = without(table, *np.flatnonzero((table.seed == 1) & (table.epoch > 4)))
    blocks = complete_blocks(short, BOTH)
    assert np.isnan(blocks.id_f1).sum() == 2 * 5 * 2
    found = difference(blocks, LINE)
    whole = difference(complete_blocks(table, BOTH), LINE)
    assert found.contributions != whole.contributions
    assert found.value == pytest.approx(whole.value, abs=0.5)


@pytest.mark.parametrize("scale", ["logit", "probit", "linear"])
def test_scores_of_0_and_1_stay_finite(scale: Scale) -> None:
    blocks = pairs(17)
    ids, oods = blocks.id_f1.copy(), blocks.ood_f1.copy()
    ids[0, 0, 0], ids[1, 1, -1], oods[2, 0], oods[3, 1, 0] = 0, 1, 0, 1
    line = replace(LINE, scale=scale)
    found = difference(replace(blocks, id_f1=ids, ood_f1=oods), line)
    assert np.isfinite([found.value, found.low, found.high, found.p]).all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"id_f1": np.array([0.2, 31.0])}, "id_f1 holds 31.0: give macro-F1 as fractions"),
        ({"ood_f1": np.array([0.2, np.nan])}, "ood_f1 holds nan"),
        ({"epoch": np.array([1, 1])}, "arm 'a', resnet, seed 0, epoch 1 appears twice"),
        ({"seed": np.array([1])}, "do not form a table"),
    ],
)
def test_a_table_that_cannot_be_is_refused(change: dict[str, np.ndarray], told: str) -> None:
    columns = {
        "arm": np.array(["a", "a"]),
        "architecture": np.array(["resnet", "resnet"]),
        "seed": np.array([0, 0]),
        "epoch": np.array([1, 2]),
        "run": np.array(["r", "r"]),
        "start": np.array(["r", "r"]),
        "id_f1": np.array([0.2, 0.3]),
        "ood_f1": np.array([0.2, 0.3]),
    }
    RunEpochs(**columns)
    with pytest.raises(EvaluateError, match=told):
        RunEpochs(**columns | change)
