from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.judging.blocks import RunEpochs, complete_blocks
from synthgen_evaluate.judging.inference import BlockEstimate, Line, block_estimate, difference, robustness
from synthgen_evaluate.judging.judgement import Judgement, findings, holm, in_order, judge, ordered_trend, sensitivity
from synthgen_evaluate.judging.mixed import mixed_model
from synthgen_evaluate.judging.power import against_margin, blocks_needed, equivalence_p, power, verdict
from synthgen_evaluate.judging.stats import EXACT_BLOCKS, pairs_needed
from synthgen_evaluate.judging.study import DEFAULTS, simulate_study

LINE = Line(epsilon=1e-4)
BOTH = ("arm 0", "arm 1")


def study(seed: int = 0, **options: object) -> RunEpochs:
    return simulate_study(np.random.default_rng(seed), **options)


def judged(table: RunEpochs, *, margin: float | None = None, **levels: str) -> Judgement:
    arms = [str(arm) for arm in np.unique(table.arm)]
    return judge(
        table,
        baseline="arm 0",
        factors=dict.fromkeys(arms, "quantity"),
        levels={arm: levels.get(arm.replace(" ", "_"), arm) for arm in arms},
        line=LINE,
        margin=margin,
    )


def estimate_of(values: list[float]) -> BlockEstimate:
    array = np.array(values)
    return block_estimate(lambda weights: (weights @ array) / weights.sum(1), len(array))


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
    assert equivalence_p(-np.array(values), 1.0) == pytest.approx(equivalence_p(values, 1.0))


@settings(max_examples=40)
@given(st.lists(st.integers(-40, 40), min_size=3, max_size=12, unique=True), st.integers(1, 30))
def test_equivalence_is_a_ninety_percent_interval_within_the_margin(tenths: list[int], margin: int) -> None:
    values = np.array(tenths) / 10
    low, high = stats.t.interval(0.9, len(values) - 1, values.mean(), stats.sem(values))
    if min(abs(abs(low) - margin / 10), abs(abs(high) - margin / 10)) > 1e-9:
        assert (equivalence_p(values, margin / 10) <= 0.05) == (-margin / 10 < low and high < margin / 10)


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
    effect = (
        estimate_of(values) if values else BlockEstimate(n=0, value=None, low=None, high=None, p=None, contributions=())
    )
    against = None if margin is None else against_margin(effect, margin, comparisons=comparisons)
    assert verdict(effect, p, comparisons=comparisons, against=against) == told


def test_low_power_for_the_margin_cannot_tell_and_says_how_many_blocks_would() -> None:
    effect = estimate_of(WIDE)
    against = against_margin(effect, 1.0)
    told = verdict(effect, effect.p, against=against)
    assert told == (
        f"cannot tell: 7 blocks would show a difference of 1 point in {100 * against.power:.0f}% of studies,"
        f" {against.needed} are needed"
    )
    assert against.power < 0.3
    assert against.needed == blocks_needed(1.0, effect.sd) > 30
    assert verdict(effect, effect.p, against=against_margin(effect, 1e-3)).endswith("over 1000 are needed")


def test_enough_power_for_the_margin_is_not_shown_to_differ() -> None:
    effect = estimate_of([0.9 + value for value in (0.9, -1.1, 0.6, -0.4, 0.8, -1.2, 0.3, -0.2, 0.9, -1.3, 0.5, -0.9)])
    against = against_margin(effect, 1.0)
    assert against.power > 0.8
    assert verdict(effect, 0.2, against=against) == "not shown to differ"


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
    rising = ordered_trend(complete_blocks(study(1, arms=5, effects=(0, 0.7, 1.4, 2.1, 2.8)), arms), LINE, factor="f")
    assert rising.verdict == "rises"
    assert rising.step.low < 0.7 < rising.step.high
    assert rising.page_p < 0.01
    falling = ordered_trend(complete_blocks(study(1, arms=5, effects=(2.8, 2.1, 1.4, 0.7, 0)), arms), LINE, factor="f")
    assert falling.verdict == "falls"
    gains = ordered_trend(complete_blocks(study(2, arms=5, gains=(0, 0.15, 0.3, 0.45, 0.6)), arms), LINE, factor="f")
    assert gains.verdict == "no trend shown"


def test_the_check_in_ranks_is_pages_test() -> None:
    arms = ["arm 0", "arm 1", "arm 2"]
    blocks = complete_blocks(study(3, arms=3, architectures=2, seeds=2), arms)
    found = ordered_trend(blocks, LINE, factor="f")
    values = robustness(blocks, LINE, np.ones((1, 4)), reference=(0, 1, 2))[0]
    ranks = values.argsort(1).argsort(1) + 1

    def level_sum(order: np.ndarray) -> float:
        return float(order.sum(0) @ [1, 2, 3])

    shuffles = [np.array(one) for one in itertools.product(itertools.permutations((1, 2, 3)), repeat=4)]
    sums = np.array([level_sum(one) for one in shuffles])
    tails = np.mean(sums >= level_sum(ranks)), np.mean(sums <= level_sum(ranks))
    assert found.page_p == pytest.approx(min(1, 2 * min(tails)))
    assert found.verdict == "cannot tell: 4 blocks cannot reach p <= 0.05, 6 are needed"


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


def test_every_arm_is_judged_within_its_factor() -> None:
    table = study(6, arms=5, effects=(0, 3, 0, 0, 3), gains=(0, 0.2, 0.2, 0, 0))
    result = judge(
        table,
        baseline="arm 0",
        factors={"arm 0": "source", "arm 1": "source", "arm 2": "source", "arm 3": "other", "arm 4": "other"},
        levels={},
        line=LINE,
        margin=2.0,
    )
    assert [(tests.arm, tests.factor) for tests in result.arms] == [
        ("arm 1", "source"), ("arm 2", "source"), ("arm 3", "other"), ("arm 4", "other"),
    ]  # fmt: skip
    assert [tests.verdict for tests in result.arms] == ["higher", "equivalent (within 2 points)"] * 1 + [
        "equivalent (within 2 points)",
        "higher",
    ]
    for pair in (result.arms[:2], result.arms[2:]):
        p = [tests.difference.p for tests in pair]
        assert [tests.findings[0].p_adjusted for tests in pair] == pytest.approx(multipletests(p, method="holm")[1])
    finding = result.arms[0].findings[0]
    assert finding.effect == result.arms[0].difference
    assert finding.power == pytest.approx(power(2.0, finding.effect.sd, 15, level=0.025))
    assert finding.needed == blocks_needed(2.0, finding.effect.sd, level=0.025)
    assert len(result.arms[0].blocks) == 15
    assert result.trends == ()


def test_where_slopes_differ_differences_are_stated_at_id_scores() -> None:
    table = study(7, arms=3, slopes=(0, -0.5, 0), rises=(1, 1, 1))
    steep = judged(table, margin=1.0).arms[0]
    assert steep.slopes.p <= 0.05
    assert [finding.id_f1 for finding in steep.findings] == sorted(finding.id_f1 for finding in steep.findings)
    assert len(steep.findings) == 3
    assert steep.findings[0].verdict == "higher"
    assert steep.findings[2].verdict == "lower"
    assert steep.verdict.startswith(f"slopes differ: at {100 * steep.findings[0].id_f1:.1f}% ID macro-F1 higher; at ")
    apart = replace(DEFAULTS, architecture_id=0.01, rise=0.3)
    far = judged(study(8, slopes=(0, -2), gains=(0, 3), variation=apart)).arms[0]
    assert far.verdict == "cannot tell: slopes differ, and no range of ID macro-F1 is covered by both arms"


def test_ordered_factors_are_tested_for_a_trend_without_their_controls() -> None:
    table = study(9, arms=5, effects=(0, 1, 2, 3, 0))
    levels = {"arm_0": "5", "arm_1": "17", "arm_2": "37", "arm_3": "85", "arm_4": "85, random"}
    (trend,) = judged(table, **levels).trends
    assert trend.arms == ("arm 0", "arm 1", "arm 2", "arm 3")
    assert trend.verdict == "rises"
    assert judged(table).trends == ()


def test_few_blocks_and_arms_without_runs_cannot_tell() -> None:
    result = judged(study(10, arms=3, architectures=5, seeds=1))
    assert {tests.verdict for tests in result.arms} == {
        "cannot tell: 5 blocks cannot reach p <= 0.05 over 2 comparisons, 7 are needed"
    }
    result = judge(study(10), baseline="arm 0", factors={"planned": "source"}, levels={}, line=LINE, margin=1.0)
    assert result.arms[0].verdict == "cannot tell: no blocks with runs of all arms"
    assert result.arms[0].mixed.note == "no paired runs"
    one = judged(study(11, architectures=1, seeds=1, epochs=1), margin=1.0)
    assert one.arms[0].verdict.startswith("cannot tell: ")


def test_a_table_without_the_baseline_or_a_margin_of_nothing_is_refused() -> None:
    with pytest.raises(EvaluateError, match="no scores of the baseline 'scratch': the arms are arm 0, arm 1"):
        judge(study(), baseline="scratch", factors={}, levels={}, line=LINE)
    with pytest.raises(EvaluateError, match="a margin of -1 points: give one above 0"):
        judged(study(), margin=-1.0)


def test_sensitivity_tells_other_scales_noise_and_the_baselines_own_trend() -> None:
    blocks = complete_blocks(study(12, effects=(0, 2.0)), BOTH)
    found = dict(sensitivity(blocks, LINE))
    assert list(found) == [
        "probit scale",
        "linear scale",
        "noise in ID macro-F1 too",
        "the baseline's own trend",
        "the baseline's own trend, noise in ID macro-F1 too",
    ]
    assert all(abs(estimate.value - 2) < 1.2 for estimate in found.values())
    assert len({estimate.value for estimate in found.values()}) == 5


def test_findings_are_the_difference_where_slopes_do_not_differ() -> None:
    blocks = complete_blocks(study(13), BOTH)
    slopes, whole, told = findings(blocks, LINE)
    assert slopes.p > 0.05
    assert told == {None: whole}


def test_scores_that_do_not_vary_cannot_tell() -> None:
    blocks = complete_blocks(study(14), BOTH)
    flat = difference(replace(blocks, id_f1=np.full_like(blocks.id_f1, 0.4)), LINE)
    assert verdict(flat, flat.p) == "cannot tell: no slope of OOD over ID macro-F1 could be fitted"
