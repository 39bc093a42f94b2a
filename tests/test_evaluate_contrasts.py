from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from simulated_studies import DEFAULTS, Variation, simulate_study

from synthgen_evaluate.analysis.checks import CHECKS
from synthgen_evaluate.analysis.contrasts import (
    conclude,
    contrast_arms,
    in_order,
    ordered_trend,
    ordered_trends,
    paired,
)
from synthgen_evaluate.analysis.estimators import Line, difference, robustness
from synthgen_evaluate.analysis.mixed import mixed_model
from synthgen_evaluate.analysis.pairing import RunEpochs, complete_blocks
from synthgen_evaluate.analysis.power import (
    Needs,
    needs,
    power,
    smallest_effect,
    stated_needs,
    stated_variance,
    units_needed,
    with_units,
)
from synthgen_evaluate.analysis.results import Contrast, Estimate, OrderedTrend, Variance, Verdict
from synthgen_evaluate.analysis.scoring import Scored
from synthgen_evaluate.analysis.significance import sidak
from synthgen_evaluate.judgement import DEFAULT, Judgement
from synthgen_evaluate.runs import Arm

LINE = Line(epsilon=1e-4)
BOTH = ("arm 0", "arm 1")
CALM = replace(
    DEFAULTS, **{name: 0.0 for name in Variation.__slots__ if name.endswith(("ood", "noise_id"))}, interaction=0
)


def study(seed: int = 0, **options: Any) -> RunEpochs:
    return simulate_study(np.random.default_rng(seed), **options)


def scored(table: RunEpochs, **options: Any) -> Scored:
    """A table of scores as ``contrast_arms`` takes it, without predictions; the last epoch is compared."""
    return Scored(
        **{
            "run": (),
            "epoch": (),
            "table": table,
            "line": LINE,
            "resamples": None,
            "locations": None,
            "worst": None,
            "compared": table.epoch == table.epoch.max(),
            "clusters": None,
            "collapsed": np.zeros(len(table.arm), bool),
            "predictions": np.array([f"{x} {y}" for x, y in zip(table.id_f1, table.ood_f1, strict=True)]),
            **options,
        }
    )


def arms_of(table: RunEpochs, factor: str = "quantity", **levels: str) -> list[Arm]:
    names = [str(arm) for arm in np.unique(table.arm)]
    return [
        Arm(name=name, factor=factor, level=levels.get(name.replace(" ", "_"), name), description="") for name in names
    ]


def contrasted(table: RunEpochs, judgement: Judgement = DEFAULT, **options: Any) -> tuple[Contrast, ...]:
    return contrast_arms(scored(table, **options), arms_of(table), "arm 0", judgement)


def words(contrast: Contrast) -> str:
    return contrast.conclusion.in_words()


def trend_over(table: RunEpochs, arms: list[str]) -> OrderedTrend:
    return ordered_trend(scored(table), arms, DEFAULT, factor="f", levels=tuple(arms))


def variance(units: float = 1.0, freedom: float = 9, **parts: Any) -> Variance:
    zeros = {"line": 0.0, "id_clusters": 0.0, "ood_clusters": 0.0, "cells": 0.0}
    return Variance(**{**zeros, "units": units, "freedoms": (freedom, 4.0, 20.0, 20.0), **parts})


def interval(value: float, half: float, **parts: Any) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, p=0.5, n=10, parts=variance(**parts))


# --- Verdicts


@pytest.mark.parametrize(
    ("found", "margin", "verdict"),
    [
        (interval(2, 1), 1, "higher"),
        (interval(0.5, 0.4), 1, "higher"),
        (interval(-2, 1), 1, "lower"),
        (interval(0.2, 0.5), 1, "equivalent (within 1 point)"),
        (interval(0.2, 0.9), 0.5, "cannot tell: 10 independent runs find a difference of 0.5 points in 7% of studies;"),
        (interval(0.2, 0.9, units=0.01), 0.5, "not shown to differ"),
        (Estimate(), 1, "cannot tell: no architecture and seed has a run of each arm"),
        (Estimate(value=3.0, n=2, note="2 runs are too few"), 1, "cannot tell: 2 runs are too few"),
    ],
)
def test_verdicts_follow_from_the_interval(found: Estimate, margin: float, verdict: str) -> None:
    assert conclude(found, margin, units=10).in_words().startswith(verdict)


def test_how_many_runs_are_needed_is_said_or_that_no_number_is_enough() -> None:
    found = interval(0.2, 3, units=1.0)
    needed = units_needed(1.0, variance(), 10)
    assert needed > 10
    assert conclude(found, 1.0, units=10).reason.endswith(f"{needed} are needed")
    floor = interval(0.2, 9, ood_clusters=4.0)
    assert conclude(floor, 1.0, units=10).reason.endswith("test images would not be enough")


# --- Several tests


@settings(max_examples=40)
@given(st.floats(0, 1), st.integers(1, 50))
def test_the_adjusted_p_is_sidaks(p: float, tests: int) -> None:
    assert sidak(p, tests) == pytest.approx(1 - (1 - p) ** tests, abs=1e-12)
    assert sidak(p, 1) == pytest.approx(p)


def test_primary_comparisons_are_corrected_over_all_factors_and_others_are_exploratory() -> None:
    table = study(6, arms=5, effects=(0, 3, 0, 0, 3))
    arms = [replace(arm, factor="source" if k < 3 else "other") for k, arm in enumerate(arms_of(table))]
    found = contrast_arms(scored(table), arms, "arm 0")
    assert [(one.arm.name, one.arm.factor, one.primary) for one in found] == [
        ("arm 1", "source", True), ("arm 2", "source", True), ("arm 3", "other", True), ("arm 4", "other", True),
    ]  # fmt: skip
    assert [words(one) for one in found][::3] == ["higher", "higher"]
    for one in found:
        assert one.p_adjusted == pytest.approx(1 - (1 - one.robustness.p) ** 4)
    chosen = contrast_arms(scored(table), arms, "arm 0", Judgement(primary=("arm 1", "arm 4")))
    assert [one.primary for one in chosen] == [True, False, False, True]
    assert chosen[0].p_adjusted == pytest.approx(1 - (1 - chosen[0].robustness.p) ** 2)
    assert chosen[1].p_adjusted == pytest.approx(chosen[1].robustness.p)
    width = found[0].robustness.high - found[0].robustness.low
    freedom, error = found[0].robustness.parts.freedom, found[0].robustness.parts.error
    assert width == pytest.approx(2 * error * stats.t.ppf((1 + 0.95 ** (1 / 4)) / 2, freedom))


def test_an_arm_of_the_same_runs_is_named_and_no_member_of_the_family() -> None:
    table = study(3, arms=3, effects=(0, 0, 2))
    own = table.arm == "arm 1"
    same = {name: getattr(table, name).copy() for name in ("run", "start", "id_f1", "ood_f1")}
    for column in same.values():
        column[own] = column[table.arm == "arm 0"]
    first, second = contrasted(replace(table, **same))
    assert words(first) == "the same runs: as arm 0, under another name"
    assert not first.exploratory
    assert (first.primary, first.robustness.value) == (False, None)
    assert second.p_adjusted == pytest.approx(second.robustness.p)


def taken(table: RunEpochs, other: str, *columns: str, of: str = "arm 1") -> RunEpochs:
    """The table with an arm's columns as another arm has them."""
    changed = {name: getattr(table, name).copy() for name in columns}
    for column in changed.values():
        column[table.arm == of] = column[table.arm == other]
    return replace(table, **changed)


SCORES = ("id_f1", "ood_f1")


@pytest.mark.parametrize(
    ("columns", "words_of_it"),
    [
        (("run", "start", *SCORES), "as arm 2, under another name"),
        (SCORES, "scores identical to those of arm 2 in 15 blocks"),
    ],
)
def test_an_arm_that_is_another_one_or_its_copy_leaves_the_family_whichever_it_is(
    columns: tuple[str, ...], words_of_it: str
) -> None:
    """Of two equal arms the primary one is compared, of two primary ones the first."""
    table = taken(study(3, arms=4, effects=(0, 0, 2, 1)), "arm 2", *columns)
    first, second, third = contrasted(table)
    assert words(second) == f"the same runs: {words_of_it.replace('arm 2', 'arm 1')}"
    assert (first.primary, second.primary, third.primary) == (True, False, True)
    assert third.p_adjusted == pytest.approx(1 - (1 - third.robustness.p) ** 2)
    first, second, third = contrasted(table, Judgement(primary=("arm 2", "arm 3")))
    assert words(first) == f"the same runs: {words_of_it}"
    assert (second.primary, third.primary) == (True, True)


def test_a_copy_of_the_baseline_is_no_equivalence() -> None:
    table = taken(study(3, effects=(0, 2)), "arm 0", *SCORES)
    (copy,) = contrasted(table)
    assert words(copy) == "the same runs: scores identical to those of arm 0 in 15 blocks"
    one_other = table.ood_f1.copy()
    one_other[np.flatnonzero(table.arm == "arm 1")[0]] += 0.001
    (nearly,) = contrasted(replace(table, ood_f1=one_other))
    assert nearly.conclusion.verdict is Verdict.EQUIVALENT


def test_one_published_pair_of_equal_scores_may_be_chance() -> None:
    table = taken(study(3, effects=(0, 2)), "arm 0", *SCORES)
    kept = (table.architecture == "architecture 0") & (table.seed == table.seed.min())
    (found,) = contrasted(RunEpochs(**{name: getattr(table, name)[kept] for name in RunEpochs.__slots__}))
    assert found.conclusion.verdict is Verdict.CANNOT_TELL
    assert found.conclusion.reason == "no line of OOD over ID macro-F1, since there is one pair of models"


def test_equal_scores_that_are_all_alike_are_no_copies() -> None:
    table = study(3, epochs=1, effects=(0, 2))
    alike = np.full(len(table.arm), 0.5)
    (found,) = contrasted(replace(table, id_f1=alike, ood_f1=alike))
    assert found.conclusion.verdict is Verdict.CANNOT_TELL


def test_a_trend_over_a_copied_or_collapsed_level_is_none() -> None:
    table = taken(study(3, arms=4, effects=(0, 1, 2, 3)), "arm 2", *SCORES)
    arms = arms_of(table, arm_1="5", arm_2="17", arm_3="37")
    judgement = Judgement(primary=("arm 2", "arm 3"))

    def trend(found: Scored) -> OrderedTrend:
        (one,) = ordered_trends(found, arms, judgement, contrast_arms(found, arms, "arm 0", judgement))
        return one

    copied = trend(scored(table))
    assert copied.step.value is None
    assert copied.in_words() == ("cannot tell: arm 1: the same runs: scores identical to those of arm 2 in 15 blocks")
    dead = trend(scored(study(3, arms=4, effects=(0, 1, 2, 3)), collapsed=table.arm == "arm 3"))
    assert dead.step.value is None
    assert dead.in_words().startswith("cannot tell: arm 3: models collapsed: 15 of 15 models of arm 3")
    assert trend(scored(study(3, arms=4, effects=(0, 1, 2, 3)))).step.value is not None


def test_a_difference_smaller_than_the_margin_is_called_so() -> None:
    found = replace(interval(0.5, 9, units=0.01), low=0.3, high=0.7)
    assert conclude(found, 1.0, units=10).in_words() == "higher, by less than the margin of 1 point"
    assert conclude(found, 0.6, units=10).in_words() == "higher"


def test_collapsed_copies_are_collapsed() -> None:
    table = taken(study(3, effects=(0, 2)), "arm 0", *SCORES)
    (found,) = contrasted(table, collapsed=np.ones(len(table.arm), bool))
    assert found.conclusion.verdict is Verdict.COLLAPSED


def test_collapsed_models_are_named_in_place_of_a_verdict() -> None:
    table = study(4, effects=(0, 5))
    dead = (table.arm == "arm 1") & (table.architecture == "architecture 0")
    (found,) = contrasted(table, collapsed=dead)
    assert words(found) == (
        "models collapsed: 3 of 15 models of arm 1 predict one class or score no better than a constant guess"
    )


# --- Lines and epochs


def test_a_verdict_that_changes_with_the_line_is_none() -> None:
    """Epochs move runs along a slope of 0.45, models differ along one of 0.83; the arm raises ID scores."""
    calm = replace(CALM, architecture_id=0.6, run_ood=0.01)
    table = study(1, gains=(0, 0.8), variation=calm)
    x = np.log(table.id_f1 / (1 - table.id_f1))
    for arm in np.unique(table.arm):
        for architecture in np.unique(table.architecture):
            for seed in np.unique(table.seed):
                rows = (table.arm == arm) & (table.architecture == architecture) & (table.seed == seed)
                last = x[rows][-1]
                y = np.log(table.ood_f1[rows] / (1 - table.ood_f1[rows]))[-1] + 0.45 * (x[rows] - last)
                table.ood_f1[rows] = 1 / (1 + np.exp(-y))
    (found,) = contrasted(table)
    between, within = found.lines
    assert between.fitted.value == pytest.approx(0.83, abs=0.05)
    assert within.fitted.value == pytest.approx(0.45, abs=0.01)
    assert found.conclusion.verdict is Verdict.DEPENDS
    assert words(found).startswith("depends on the line: between models ")
    assert within.conclusion.verdict is Verdict.HIGHER
    assert found.robustness == between.estimate
    assert contrasted(table, Judgement(line="within"))[0].robustness == within.estimate


def test_a_gap_that_no_line_bridges_is_said() -> None:
    narrow = replace(DEFAULTS, architecture_id=0.01, seed_id=0.01, run_id=0.01, epoch_id=0.01, rise=0.05, noise_id=0.01)
    (found,) = contrasted(study(2, gains=(0, 0.6), variation=narrow))
    assert found.robustness.value is None
    assert found.conclusion.verdict is Verdict.CANNOT_TELL
    assert "times as far apart as those of models vary" in found.conclusion.reason
    assert found.ood.value is not None
    assert {one.robustness.value for one in found.epochs} == {None}
    assert all(one.ood.value is not None for one in found.epochs)


def test_an_advantage_that_is_gone_at_the_last_epoch_is_not_called_one() -> None:
    table = study(5)
    fading = np.array([4.0, 3.0, 2.0, 1.0, 0.5, 0.1])[table.epoch - 1] * (table.arm == "arm 1")
    (found,) = contrasted(replace(table, ood_f1=table.ood_f1 + fading / 100))
    assert [one.epoch for one in found.epochs] == [1, 2, 3, 4, 5, 6]
    assert found.epochs[0].robustness.low > 1
    assert found.epochs[-1].robustness.value == found.robustness.value
    assert found.conclusion.verdict not in (Verdict.HIGHER, Verdict.LOWER)


def test_epochs_are_averaged_if_the_judgement_says_so() -> None:
    table = study(6, effects=(0, 2.0), gains=(0, 0.2))
    judgement = Judgement(epoch="mean", line="within", clusters="these")
    (found,) = contrasted(table, judgement, compared=np.ones(len(table.arm), bool))
    blocks = complete_blocks(table, BOTH)
    assert found.robustness.value == pytest.approx(difference(blocks, LINE).value)
    values = robustness(blocks, LINE, np.ones((1, 15)))[0]
    assert found.robustness.parts.units == pytest.approx(np.var(values[:, 1] - values[:, 0], ddof=1) / 15)
    assert found.ood.value == pytest.approx(100 * float((blocks.ood_f1[:, 1] - blocks.ood_f1[:, 0]).mean()))
    (last,) = contrasted(table, replace(judgement, epoch="last"))
    assert found.robustness.parts.units < 0.8 * last.robustness.parts.units
    assert found.epochs == last.epochs
    assert found.checks[2].estimate.value != last.checks[2].estimate.value


def test_runs_of_unequal_length_are_averaged_over_their_own_epochs() -> None:
    table = study(6)
    kept = (table.epoch < 5) | (table.seed > 0)
    short = RunEpochs(**{name: getattr(table, name)[kept] for name in RunEpochs.__slots__})
    judgement = Judgement(epoch="mean", line="within")
    (found,) = contrasted(short, judgement, compared=np.ones(len(short.arm), bool))
    runs = [[short.ood_f1[short.run == run].mean() for run in np.unique(short.run[short.arm == arm])] for arm in BOTH]
    assert found.ood.value == pytest.approx(100 * (np.mean(runs[1]) - np.mean(runs[0])))
    assert [one.epoch for one in found.epochs] == [1, 2, 3, 4]


def test_another_level_widens_intervals_and_decides_verdicts() -> None:
    table = study(14, effects=(0, 1.0), architectures=4)
    for level in (0.05, 0.01, 0.3):
        (found,) = contrasted(table, Judgement(level=level))
        for one in (found.robustness, found.ood, found.here, found.epochs[0].ood, found.lines[1].estimate):
            assert one.parts is not None
            half = one.parts.error * stats.t.ppf(1 - level / 2, one.parts.freedom)
            assert (one.low, one.high) == pytest.approx((one.value - half, one.value + half))
        assert power(found.smallest, found.robustness.parts.error, found.robustness.parts.freedom, level=level) == (
            pytest.approx(0.8)
        )
        assert (found.robustness.p < level) == (found.robustness.low > 0)


def test_the_unit_is_the_pre_training_run() -> None:
    table = study(7, architectures=5, seeds=3)
    shared = np.char.add(np.char.add(table.arm, " of "), table.architecture)
    (alone,) = contrasted(table)
    (found,) = contrasted(replace(table, start=np.where(table.arm == "arm 1", shared, table.start)))
    assert (alone.units, found.units, found.n) == (15, 5, 15)
    blocks = paired(scored(table), BOTH, DEFAULT).final
    means = 100 * (blocks.ood_f1[:, 1, 0] - blocks.ood_f1[:, 0, 0]).reshape(5, 3).mean(1)
    assert found.ood.parts.error == pytest.approx(means.std(ddof=1) / 5**0.5)
    assert found.ood.parts.freedom == 4
    (broad,) = contrasted(table, Judgement(architectures="new"))
    assert broad.units == 5
    assert broad.ood.parts.error == pytest.approx(found.ood.parts.error)


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
    assert gains.conclusion.verdict not in (Verdict.HIGHER, Verdict.LOWER)


def test_ordered_factors_are_tested_for_a_trend_without_their_controls() -> None:
    table = study(9, arms=5, effects=(0, 1, 2, 3, 0))
    levels = {"arm_0": "5", "arm_1": "17", "arm_2": "37", "arm_3": "85", "arm_4": "85, random"}
    (trend,) = ordered_trends(scored(table), arms_of(table, **levels), DEFAULT)
    assert trend.levels == ("5", "17", "37", "85")
    assert trend.conclusion.verdict is Verdict.HIGHER
    assert ordered_trends(scored(table), arms_of(table), DEFAULT) == ()


# --- The mixed model


def test_the_mixed_model_finds_what_was_planted() -> None:
    model = mixed_model(complete_blocks(study(4, effects=(0, 2.0), gains=(0, 0.3)), BOTH), LINE)
    assert model.low < 2 < model.high
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


# --- Few runs


def test_few_runs_and_arms_without_runs_cannot_tell() -> None:
    two = contrasted(study(10, architectures=2, seeds=1))[0]
    assert words(two) == "cannot tell: 2 architectures are too few for an interval"
    assert two.robustness.value is not None
    planned = Arm(name="planned", factor="source", level="", description="")
    (absent,) = contrast_arms(scored(study(10)), [planned], "arm 0")
    assert words(absent) == "cannot tell: no architecture and seed has a run of each arm"
    one = contrasted(study(11, architectures=1, seeds=1, epochs=1))
    assert one[0].conclusion.verdict is Verdict.CANNOT_TELL


def test_without_scores_of_the_baseline_there_is_nothing_to_contrast() -> None:
    table = study()
    assert contrast_arms(scored(table), arms_of(table), "scratch") == ()


# --- Checks


def test_checks_tell_other_scales_noise_and_the_baselines_own_trend() -> None:
    (found,) = contrasted(study(12, effects=(0, 2.0)))
    estimates = {one.name: one.estimate for one in found.checks}
    assert list(estimates) == [one.name for one in CHECKS if one.name != f"{LINE.scale} scale"]
    assert all(abs(estimate.value - 2) < 1.5 for estimate in estimates.values())
    assert len({estimate.value for estimate in estimates.values()}) == 7


def test_a_prediction_for_another_architecture_is_as_wide_as_architectures_differ() -> None:
    apart = replace(DEFAULTS, interaction=0.2)
    (alike,), (different,) = (
        contrasted(study(12, effects=(0, 2.0), architectures=8, variation=one)) for one in (DEFAULTS, apart)
    )
    narrow, wide = (
        next(one.estimate for one in found.checks if one.name.startswith("another architecture"))
        for found in (alike, different)
    )
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)
    assert wide.note.count("architecture") == 8
    blocks = paired(scored(study(12, effects=(0, 2.0), architectures=8, variation=apart)), BOTH, DEFAULT)
    assert different.robustness.value == pytest.approx(wide.value)
    assert len(blocks) == 24


def test_choices_are_every_combination_and_their_shares() -> None:
    (found,) = contrasted(study(12, effects=(0, 4.0)))
    assert len(found.choices.choices) == 3 * 3 * 2  # scales, epochs, lines; other metrics need predictions
    assert {one.epoch for one in found.choices.choices} == {1, 3, 6}
    sign, side = found.choices.share(found.robustness)
    assert sign == 1
    assert side == np.mean([one.estimate.side == found.robustness.side for one in found.choices.choices])


# --- Power


@pytest.mark.parametrize(("error", "freedom", "level"), [(0.7, 14, 0.05), (0.3, 4.5, 0.05), (1.0, 40, 0.01)])
def test_power_is_the_share_of_t_tests_that_find_the_effect(error: float, freedom: float, level: float) -> None:
    rng = np.random.default_rng(0)
    estimates = 1.5 + error * rng.standard_normal(200_000)
    errors = error * np.sqrt(rng.chisquare(freedom, 200_000) / freedom)
    share = np.mean(np.abs(estimates / errors) > stats.t.ppf(1 - level / 2, freedom))
    assert power(1.5, error, freedom, level=level) == pytest.approx(share, abs=0.005)


def test_power_is_a_number_for_every_effect() -> None:
    """SciPy 1.17.1 gives NaN for the lower tail of the noncentral t distribution at many shifts above 7."""
    for freedom in (1, 2, 3.7, 9, 14, 100):
        found = [power(effect, 1.0, freedom) for effect in np.arange(0, 60, 0.5)]
        assert np.isfinite(found).all()
        assert np.all(np.diff(found) > -1e-9)
    assert (power(0, 0, 9), power(1, 0, 9)) == (0, 1)
    assert power(0, 1, 12) == pytest.approx(0.05)


def test_the_smallest_effect_is_found_in_four_of_five_studies() -> None:
    parts = variance(0.4, 9, ood_clusters=0.3, line=0.1)
    smallest = smallest_effect(parts)
    assert power(smallest, parts.error, parts.freedom) == pytest.approx(0.8)
    assert power(smallest, parts.error, parts.freedom, level=0.01) < 0.8 < power(1.1 * smallest, parts.error, 9.0)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 5), st.floats(0, 1), st.floats(0, 0.5), st.integers(3, 30), st.floats(0.5, 5))
def test_more_runs_shrink_what_runs_add_and_leave_what_clusters_add(
    of_runs: float, of_clusters: float, cells: float, units: int, effect: float
) -> None:
    parts = variance(of_runs + cells, units - 1, ood_clusters=of_clusters + cells, cells=cells)
    assert with_units(parts, units, units).total == pytest.approx(parts.total)
    many = with_units(parts, units, 10**6)
    assert many.total == pytest.approx(of_clusters, abs=1e-3)
    found = needs(effect, parts, units)
    if found.needed is not None and found.needed > 3:
        for n, enough in ((found.needed, True), (found.needed - 1, False)):
            one = with_units(parts, units, n)
            assert (power(effect, one.error, one.freedom) >= 0.8) == enough


@st.composite
def variances(draw: st.DrawFn) -> tuple[Variance, int]:
    """Any variance of a study, and its units; of as many architectures as there are units, or of few."""
    units = draw(st.integers(3, 30))
    lines = draw(st.sampled_from([2, min(5, units), units]))
    size = st.floats(1e-3, 9) | st.just(0.0)
    of = dict(zip(("line", "id_clusters", "ood_clusters"), (draw(size) for _ in range(3)), strict=True))
    cells = draw(st.floats(0, 1)) * min(of["id_clusters"] + of["ood_clusters"], 1.0)
    by_chance = draw(st.floats(0, 1)) * of["line"]
    freedoms = (units - 1, lines - 1, draw(st.floats(1, 40)), draw(st.floats(1, 40)))
    of_units = cells + draw(st.floats(1e-3, 9))
    return Variance(units=of_units, cells=cells, by_chance=by_chance, freedoms=freedoms, **of), units


@settings(max_examples=20, deadline=None)
@given(variances(), st.floats(0.3, 30), st.floats(1, 3))
def test_what_a_study_shows_so_do_larger_ones_and_larger_effects_take_no_more(
    pilot: tuple[Variance, int], effect: float, times: float
) -> None:
    parts, units = pilot
    assert with_units(parts, units, units).total == pytest.approx(parts.total)
    found = needs(effect, parts, units)
    assert found.floor <= found.smallest * (1 + 1e-9)
    assert found.floor <= found.floor_high
    assert (found.needed is not None and found.needed <= units) == (effect >= found.smallest)
    ends = [np.inf if n is None else n for n in (found.low, found.needed, found.high)]
    assert ends == sorted(ends)
    if found.needed is not None:
        assert effect >= found.floor * (1 - 1e-9)
        assert units_needed(times * effect, parts, units) <= found.needed
    shown = needs(found.smallest * 1.001, parts, units)
    assert shown.needed <= units


def test_degrees_of_freedom_that_fall_with_more_runs_hide_no_effect() -> None:
    """Of two architectures, whose line has one degree of freedom, and of which many runs leave nothing else."""
    parts = variance(10.0, 5, line=1.0, freedoms=(5, 1, 20, 20))
    many = with_units(parts, 6, 1_000)
    assert many.error < parts.error
    assert smallest_effect(many) > smallest_effect(parts)
    found = needs(smallest_effect(parts) + 0.1, parts, 6)
    assert found.needed <= 6
    assert found.floor <= found.smallest * (1 + 1e-9)


def test_the_line_rests_on_as_many_architectures_as_there_are_units() -> None:
    """Where each has one run, other units are other architectures; three runs of five architectures have three."""
    alone = variance(1.0, 11, line=1.0, freedoms=(11, 11, 20, 20))
    assert [with_units(alone, 12, n).line for n in (3, 12, 24)] == [4, 1, 0.5]
    assert with_units(alone, 12, 3).freedoms[1] == 2
    several = variance(1.0, 14, line=1.0, freedoms=(14, 4, 20, 20))
    assert [with_units(several, 15, n).line for n in (3, 5, 15, 30)] == [5 / 3, 1, 1, 1]


def test_the_upper_end_of_a_range_is_enough_after_four_of_five_pilots() -> None:
    """Of 6 runs each, whose differences have a variance of 6 between runs and of 0.15 that clusters leave."""
    rng = np.random.default_rng(0)
    expected = needs(2.0, variance(1.0, 5, ood_clusters=0.15), 6).needed
    pilots = [
        needs(2.0, variance(of_runs, 5, ood_clusters=of_clusters), 6)
        for of_runs, of_clusters in zip(rng.chisquare(5, 40) / 5, 0.15 * rng.chisquare(20, 40) / 20, strict=True)
    ]
    enough = np.mean([one.high is None or one.high >= expected for one in pilots])
    too_many = np.mean([one.low is not None and one.low <= expected for one in pilots])
    assert 0.72 < enough < 0.9
    assert 0.72 < too_many < 0.9


def test_what_the_line_adds_by_chance_shrinks_with_more_runs() -> None:
    parts = variance(1.0, 5, line=1.0, by_chance=0.9)
    assert with_units(parts, 6, 6).total == pytest.approx(parts.total)
    assert with_units(parts, 6, 60).line == pytest.approx(0.1 + 0.09)


def test_fine_tunings_are_an_addition_where_they_share_pre_training() -> None:
    shared = variance(1.0, 4, fine_tunings=0.6)
    found = needs(2.0, shared, 5, seeds=("pre-training seeds", "fine-tuning seeds")).helps
    lower = smallest_effect(variance(0.7, 4))
    assert found.startswith("twice as many pre-training seeds: ")
    assert found.endswith(f"; twice as many fine-tuning seeds: {lower:.1f} points")
    assert "fine-tuning" not in needs(2.0, variance(1.0, 4), 5).helps


def test_a_study_without_a_pilot_is_planned_from_stated_variances() -> None:
    found = stated_needs(2.0, 1.5, 0.0)
    expected = next(n for n in range(3, 99) if power(2.0, 1.5 / n**0.5, n - 1) >= 0.8)
    assert found == Needs(needed=expected, floor=0.0)
    assert stated_needs(2.0, 1.5, 0.9).needed is None
    assert needs(2.0, stated_variance(1.5, 0.0), 15).helps.startswith("twice as many seeds: ")
    assert needs(2.0, stated_variance(0.5, 0.9), 15).helps.startswith("twice as many clusters of test images: ")
