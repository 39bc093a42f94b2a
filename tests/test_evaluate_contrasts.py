from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from synthgen_evaluate.analysis.checks import CHECKS, check
from synthgen_evaluate.analysis.contrasts import (
    conclude,
    contrast_arms,
    differences,
    in_order,
    ordered_trend,
    ordered_trends,
)
from synthgen_evaluate.analysis.estimators import Line, difference, jackknife
from synthgen_evaluate.analysis.mixed import mixed_model
from synthgen_evaluate.analysis.pairing import RunEpochs, complete_blocks
from synthgen_evaluate.analysis.power import against_margin, blocks_needed, equivalence_p, power
from synthgen_evaluate.analysis.results import Contrast, Estimate, OrderedTrend, Verdict
from synthgen_evaluate.analysis.significance import EXACT_BLOCKS, holm, pairs_needed
from synthgen_evaluate.analysis.simulation import DEFAULTS, simulate_study
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.runs import Arm

LINE = Line(epsilon=1e-4)
BOTH = ("arm 0", "arm 1")


def study(seed: int = 0, **options: Any) -> RunEpochs:
    return simulate_study(np.random.default_rng(seed), **options)


def arms_of(table: RunEpochs, factor: str = "quantity", **levels: str) -> list[Arm]:
    names = [str(arm) for arm in np.unique(table.arm)]
    return [
        Arm(name=name, factor=factor, level=levels.get(name.replace(" ", "_"), name), description="") for name in names
    ]


def contrasted(table: RunEpochs, *, margin: float | None = None) -> tuple[Contrast, ...]:
    return contrast_arms(table, arms_of(table), "arm 0", LINE, margin=margin)


def words(contrast: Contrast) -> str:
    return contrast.conclusion.in_words()


def trend_over(table: RunEpochs, arms: list[str]) -> OrderedTrend:
    return ordered_trend(complete_blocks(table, arms), LINE, factor="f", levels=tuple(arms))


def estimate_of(values: list[float]) -> Estimate:
    return jackknife(lambda array, weights: (weights @ array) / weights.sum(1), np.array(values))


# --- Corrections


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_step_down_procedure(p: list[float]) -> None:
    order, running, expected = np.argsort(p), 0.0, np.empty(len(p))
    for step, place in enumerate(order):
        running = max(running, min(1.0, (len(p) - step) * p[place]))
        expected[place] = running
    assert holm(p) == pytest.approx(expected)


def test_holm_agrees_with_statsmodels() -> None:
    p = [0.2, 0.01, 0.03, 0.03, 1.0, 0.0]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_what_was_not_tested_does_not_count() -> None:
    assert holm([0.01, None, 0.04]) == pytest.approx([0.02, None, 0.04])
    assert holm([None]) == [None]
    assert holm([]) == []


# --- Power


@pytest.mark.parametrize("n", [10, 14, 15, 40])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_power_is_about_that_of_the_t_test(n: int, level: float) -> None:
    expected = TTestPower().power(0.7, n, level)
    assert power(0.7, 1, n, level=level) == pytest.approx(expected, abs=0.05 if n <= EXACT_BLOCKS else 1e-3)


def test_power_is_zero_where_no_result_could_be_significant_and_the_level_without_effect() -> None:
    assert [power(9, 1, n) for n in (1, 5)] == [0, 0]
    assert power(9, 1, 6) == 1
    assert power(9, 1, 7, level=0.01) == 0
    assert power(0, 1, 12) == pytest.approx(0.05, abs=0.015)
    assert (power(0, 0, 9), power(1, 0, 9)) == (0, 1)
    assert power(-1, 1.3, 12) == pytest.approx(power(1, 1.3, 12), abs=0.04)


@pytest.mark.parametrize("effect", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("level", [0.05, 0.05 / 5])
def test_so_many_blocks_are_needed_and_no_fewer(effect: float, level: float) -> None:
    n = blocks_needed(effect, 1.4, level=level)
    assert power(effect, 1.4, n, level=level) >= 0.8
    assert n == pairs_needed(level) or power(effect, 1.4, n - 1, level=level) < 0.8


def test_an_effect_may_need_more_blocks_than_anyone_has() -> None:
    assert blocks_needed(0.01, 2) is None
    with pytest.raises(EvaluateError, match="power of 0 blocks"):
        power(1, 1, 0)


# --- Equivalence


def test_equivalence_is_two_one_sided_t_tests() -> None:
    values = [0.3, -0.1, 0.5, 0.2, -0.4, 0.7]  # mean 0.2, squares about it 0.80, sd 0.4, standard error 0.16330
    assert equivalence_p(values, 1.0) == pytest.approx(stats.t.cdf((0.2 - 1) / 0.16330, 5), rel=1e-4)
    lower = stats.ttest_1samp(values, -1, alternative="greater").pvalue
    upper = stats.ttest_1samp(values, 1, alternative="less").pvalue
    assert equivalence_p(values, 1.0) == pytest.approx(max(lower, upper))
    assert equivalence_p([-value for value in values], 1.0) == pytest.approx(equivalence_p(values, 1.0))


@settings(max_examples=40)
@given(st.lists(st.integers(-40, 40), min_size=3, max_size=12, unique=True), st.integers(1, 30))
def test_equivalence_is_a_ninety_percent_interval_within_the_margin(tenths: list[int], margin: int) -> None:
    values = np.array(tenths) / 10
    low, high = stats.t.interval(0.9, len(values) - 1, values.mean(), stats.sem(values))
    if min(abs(abs(low) - margin / 10), abs(abs(high) - margin / 10)) > 1e-9:
        assert (equivalence_p(values.tolist(), margin / 10) <= 0.05) == (-margin / 10 < low and high < margin / 10)


def test_equal_values_are_equivalent_and_one_value_is_no_test() -> None:
    assert equivalence_p([0.0] * 6, 0.5) == 0
    assert equivalence_p([0.5] * 6, 0.5) == 1
    assert equivalence_p([0.0], 0.5) is None
    with pytest.raises(EvaluateError, match="a margin of 0 points"):
        equivalence_p([0.0, 1.0], 0)


# --- Verdicts

UP = [1.0, 1.2, 0.8, 1.1, 0.9, 1.3]
WIDE = [3.0, -2.5, 2.0, -1.5, 1.0, -2.2, 0.4]


@pytest.mark.parametrize(
    ("values", "p", "comparisons", "margin", "told"),
    [
        (UP, 0.03125, 1, None, "higher"),
        ([-value for value in UP], 0.03125, 1, 0.5, "lower"),
        (UP, 0.0625, 2, None, "cannot tell: 6 blocks cannot reach p <= 0.05 over 2 comparisons, 7 are needed"),
        (UP[:5], 0.0625, 1, None, "cannot tell: 5 blocks cannot reach p <= 0.05, 6 are needed"),
        (UP[:1], None, 1, 1.0, "cannot tell: 1 block cannot reach p <= 0.05, 6 are needed"),
        (UP[:5], 0.0625, 1, 2.0, "equivalent (within 2 points)"),
        ([0.1, -0.2, 0.1, 0.0, -0.1, 0.2], 0.9, 1, 1.0, "equivalent (within 1 point)"),
        (WIDE, 0.9, 1, None, "not shown to differ"),
        (WIDE, 0.9, 1, 5.0, "equivalent (within 5 points)"),
        ([], None, 1, None, "cannot tell: no blocks with runs of all arms"),
    ],
)
def test_verdicts(values: list[float], p: float | None, comparisons: int, margin: float | None, told: str) -> None:
    effect = estimate_of(values) if values else Estimate()
    against = None if margin is None else against_margin(effect, margin, comparisons=comparisons)
    assert conclude(effect, p, comparisons=comparisons, against=against).in_words() == told


def test_low_power_for_the_margin_cannot_tell_and_says_how_many_blocks_would() -> None:
    effect = estimate_of(WIDE)
    against = against_margin(effect, 1.0)
    told = conclude(effect, effect.p, against=against).in_words()
    assert told == (
        f"cannot tell: 7 blocks would show a difference of 1 point in {100 * against.power:.0f}% of studies,"
        f" {against.needed} are needed"
    )
    assert against.power < 0.3
    assert against.needed == blocks_needed(1.0, effect.sd) > 30
    small = conclude(effect, effect.p, against=against_margin(effect, 1e-3))
    assert small.verdict is Verdict.CANNOT_TELL
    assert small.reason.endswith("over 1000 are needed")


def test_enough_power_for_the_margin_is_not_shown_to_differ() -> None:
    effect = estimate_of([0.9 + value for value in (0.9, -1.1, 0.6, -0.4, 0.8, -1.2, 0.3, -0.2, 0.9, -1.3, 0.5, -0.9)])
    against = against_margin(effect, 1.0)
    assert against.power > 0.8
    assert conclude(effect, 0.2, against=against).verdict is Verdict.NOT_SHOWN


# --- Ordered levels


@pytest.mark.parametrize(
    ("levels", "order"),
    [
        (("150000", "5000", "25000"), "bca"),
        (("17", "17, random", "5", "85"), "cad"),
        (("150K", "1M", "5,000", "62.5"), "dcab"),
        (("1000 classes", "500 classes", "250 classes"), ""),
        (("5", "17"), ""),
        (("5", "17", "17.0"), ""),
        ((), ""),
    ],
)
def test_levels_that_are_numbers_have_an_order(levels: tuple[str, ...], order: str) -> None:
    assert in_order(dict(zip("abcd", levels, strict=False))) == tuple(order)


def test_a_trend_over_levels_is_found_and_one_of_id_scores_alone_is_not() -> None:
    arms = [f"arm {k}" for k in range(5)]
    rising = trend_over(study(1, arms=5, effects=(0, 0.7, 1.4, 2.1, 2.8)), arms)
    assert rising.in_words() == "rises"
    assert rising.step.low < 0.7 < rising.step.high
    falling = trend_over(study(1, arms=5, effects=(2.8, 2.1, 1.4, 0.7, 0)), arms)
    assert falling.in_words() == "falls"
    gains = trend_over(study(2, arms=5, gains=(0, 0.15, 0.3, 0.45, 0.6)), arms)
    assert gains.in_words() == "no trend shown"


def test_few_blocks_cannot_tell_of_a_trend() -> None:
    found = trend_over(study(3, arms=3, architectures=2, seeds=2), ["arm 0", "arm 1", "arm 2"])
    assert found.in_words() == "cannot tell: 4 blocks cannot reach p <= 0.05, 6 are needed"


# --- The mixed model


def test_the_mixed_model_finds_what_was_planted_and_agrees_with_the_blocks() -> None:
    table = study(4, effects=(0, 2.0), gains=(0, 0.3))
    blocks = complete_blocks(table, BOTH)
    model, found = mixed_model(blocks, LINE), difference(blocks, LINE)
    assert model.low < 2 < model.high
    assert model.value == pytest.approx(found.value, abs=0.3)
    assert model.p == pytest.approx(found.p, abs=0.01)
    assert model.note == ""


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"epochs": 1}, "one evaluated epoch a run"),
        ({"architectures": 1, "seeds": 1}, "too few runs, or ID scores that do not vary"),
        ({"arms": 1}, "no paired runs"),
    ],
)
def test_a_mixed_model_that_cannot_be_fitted_says_so(options: dict[str, int], note: str) -> None:
    model = mixed_model(complete_blocks(study(5, **options), BOTH), LINE)
    assert (model.value, model.low, model.high, model.p, model.note) == (None, None, None, None, note)


def test_a_mixed_model_at_its_boundary_says_so_without_warnings() -> None:
    calm = replace(DEFAULTS, run_ood=0, seed_ood=0, architecture_ood=0, interaction=0, autocorrelation=0)
    notes = {mixed_model(complete_blocks(study(seed, variation=calm), BOTH), LINE).note for seed in range(4)}
    assert "runs vary no more than their epochs do, so the limits may be too narrow" in notes


# --- All together


def test_every_arm_is_tested_within_its_factor() -> None:
    table = study(6, arms=5, effects=(0, 3, 0, 0, 3), gains=(0, 0.2, 0.2, 0, 0))
    arms = [replace(arm, factor="source" if k < 3 else "other") for k, arm in enumerate(arms_of(table))]
    found = contrast_arms(table, arms, "arm 0", LINE, margin=2.0)
    assert [(one.arm.name, one.arm.factor) for one in found] == [
        ("arm 1", "source"), ("arm 2", "source"), ("arm 3", "other"), ("arm 4", "other"),
    ]  # fmt: skip
    same = "equivalent (within 2 points)"
    assert [words(one) for one in found] == ["higher", same, same, "higher"]
    for pair in (found[:2], found[2:]):
        p = [one.robustness.p for one in pair]
        assert [one.p_adjusted for one in pair] == pytest.approx(multipletests(p, method="holm")[1])
    first = found[0]
    assert first.overall.estimate == first.robustness
    assert first.margin.power == pytest.approx(power(2.0, first.robustness.sd, 15, level=0.025))
    assert first.margin.needed == blocks_needed(2.0, first.robustness.sd, level=0.025)
    assert first.n == 15
    assert ordered_trends(table, arms, LINE) == ()


def test_where_slopes_differ_differences_are_stated_at_id_scores() -> None:
    table = study(7, arms=3, slopes=(0, -0.5, 0), rises=(1, 1, 1))
    steep = contrasted(table, margin=1.0)[0]
    assert steep.slope.p <= 0.05
    assert steep.overall is None
    assert [one.id_f1 for one in steep.differences] == sorted(one.id_f1 for one in steep.differences)
    assert len(steep.differences) == 3
    assert steep.differences[0].conclusion.verdict is Verdict.HIGHER
    assert steep.differences[2].conclusion.verdict is Verdict.LOWER
    assert words(steep).startswith(f"slopes differ: at {100 * steep.differences[0].id_f1:.1f}% ID macro-F1 higher; at ")
    apart = replace(DEFAULTS, architecture_id=0.01, rise=0.3)
    far = contrasted(study(8, slopes=(0, -2), gains=(0, 3), variation=apart))[0]
    assert words(far) == "cannot tell: slopes differ, and no range of ID macro-F1 is covered by both arms"


def test_ordered_factors_are_tested_for_a_trend_without_their_controls() -> None:
    table = study(9, arms=5, effects=(0, 1, 2, 3, 0))
    levels = {"arm_0": "5", "arm_1": "17", "arm_2": "37", "arm_3": "85", "arm_4": "85, random"}
    (trend,) = ordered_trends(table, arms_of(table, **levels), LINE)
    assert trend.levels == ("5", "17", "37", "85")
    assert trend.conclusion.verdict is Verdict.HIGHER
    assert ordered_trends(table, arms_of(table), LINE) == ()


def test_few_blocks_and_arms_without_runs_cannot_tell() -> None:
    assert {words(one) for one in contrasted(study(10, arms=3, architectures=5, seeds=1))} == {
        "cannot tell: 5 blocks cannot reach p <= 0.05 over 2 comparisons, 7 are needed"
    }
    planned = Arm(name="planned", factor="source", level="", description="")
    (absent,) = contrast_arms(study(10), [planned], "arm 0", LINE, margin=1.0)
    assert words(absent) == "cannot tell: no blocks with runs of all arms"
    assert absent.checks[0].estimate.note == "no paired runs"
    one = contrasted(study(11, architectures=1, seeds=1, epochs=1), margin=1.0)
    assert one[0].conclusion.verdict is Verdict.CANNOT_TELL


def test_without_scores_of_the_baseline_there_is_nothing_to_contrast_and_a_margin_of_nothing_is_refused() -> None:
    table = study()
    assert contrast_arms(table, arms_of(table), "scratch", LINE) == ()
    with pytest.raises(EvaluateError, match="a margin of -1 points: give one above 0"):
        contrasted(table, margin=-1.0)


# --- Checks


def test_checks_tell_other_scales_noise_and_the_baselines_own_trend() -> None:
    blocks = complete_blocks(study(12, effects=(0, 2.0)), BOTH)
    found = {one.name: one.estimate for one in check(blocks, LINE)}
    assert list(found) == [
        "mixed model",
        "probit scale",
        "linear scale",
        "noise in ID macro-F1 too",
        "the baseline's own trend",
        "the baseline's own trend, noise in ID macro-F1 too",
    ]
    assert list(found) == [one.name for one in CHECKS if one.name != f"{LINE.scale} scale"]
    assert all(abs(estimate.value - 2) < 1.2 for estimate in found.values())
    assert len({estimate.value for estimate in found.values()}) == 6
    linear = [one.name for one in check(blocks, replace(LINE, scale="linear"))]
    assert linear[1:3] == ["logit scale", "probit scale"]


def test_differences_are_that_of_robustness_where_slopes_do_not_differ() -> None:
    blocks = complete_blocks(study(13), BOTH)
    slopes, whole, tested = differences(blocks, LINE)
    assert slopes.p > 0.05
    assert tested == {None: whole}


def test_scores_that_do_not_vary_cannot_tell() -> None:
    blocks = complete_blocks(study(14), BOTH)
    flat = difference(replace(blocks, id_f1=np.full_like(blocks.id_f1, 0.4)), LINE)
    told = conclude(flat, flat.p).in_words()
    assert told == "cannot tell: no slope of OOD over ID macro-F1 could be fitted"
