from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import logit
from test_evaluate_contrasts import BOTH, CALM, scored, study

from synthgen_evaluate.analysis.contrasts import paired
from synthgen_evaluate.analysis.estimators import Line
from synthgen_evaluate.analysis.lines import line_slope, slope_difference, unbridged
from synthgen_evaluate.analysis.pairing import Paired, RunEpochs
from synthgen_evaluate.judgement import DEFAULT, Judgement

LINE = Line(epsilon=1e-4, slope="between")


def pairs(table: RunEpochs, judgement: Judgement = DEFAULT) -> Paired:
    return paired(scored(table), BOTH, judgement)


def test_the_slope_between_models_is_that_of_least_squares_with_arms_as_fixed_effects() -> None:
    two = pairs(study(8, epochs=2))
    x, y = logit(two.final.id_f1[..., 0]), logit(two.final.ood_f1[..., 0])
    arm = np.indices(x.shape)[1]
    design = np.column_stack([x.ravel(), arm.ravel() == 0, arm.ravel() == 1])
    assert line_slope(two, LINE).value == pytest.approx(np.linalg.lstsq(design.astype(float), y.ravel())[0][0])
    assert unbridged(two, LINE) == ""
    flat = replace(two, final=replace(two.final, id_f1=np.full_like(two.final.id_f1, 0.4)))
    assert unbridged(flat, LINE).startswith("no line of OOD over ID macro-F1, since ID scores do not differ")


def test_a_planted_difference_between_slopes_within_runs_is_recovered() -> None:
    found = slope_difference(pairs(study(11, slopes=(0, -0.3), variation=CALM)), LINE)
    assert found.value == pytest.approx(-0.3, abs=1e-6)
    assert found.p < 0.001
    assert slope_difference(pairs(study(14, epochs=1)), LINE).value is None


def slope_within(table: RunEpochs, arm: str, kept: np.ndarray) -> float:
    """By plain loops over runs."""
    xy, xx = 0.0, 0.0
    for run in np.unique(table.run[(table.arm == arm) & kept]):
        x, y = (logit(f1[table.run == run]) for f1 in (table.id_f1, table.ood_f1))
        xy += float(((x - x.mean()) * (y - y.mean())).sum())
        xx += float(((x - x.mean()) ** 2).sum())
    return xy / xx


def test_the_error_of_a_difference_between_slopes_is_the_jackknifes_over_pre_training_runs() -> None:
    table = study(12, slopes=(0, -0.1))
    table = replace(table, start=np.char.add(np.char.add(table.arm, " of "), table.architecture))
    found = slope_difference(pairs(table), LINE, level=0.1)
    one = np.ones(len(table.arm), bool)
    value = slope_within(table, "arm 1", one) - slope_within(table, "arm 0", one)
    left = [table.architecture != name for name in np.unique(table.architecture)]
    without = np.array([slope_within(table, "arm 1", kept) - slope_within(table, "arm 0", kept) for kept in left])
    error = float(np.sqrt(4 / 5 * ((without - without.mean()) ** 2).sum()))
    low, high = stats.t.interval(0.9, 4, value, error)
    assert (found.value, found.low, found.high) == pytest.approx((value, low, high))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(value) / error, 4))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"rises": (1, 0.5)}])
def test_equal_slopes_within_runs_are_called_different_in_one_of_twenty_studies(options: Any) -> None:
    """Swapping runs between the arms would call them different in 13% where the arm's ID scores rise half as far."""
    tables = [study(seed, **options) for seed in range(1000)]
    called = [slope_difference(pairs(table), LINE).p <= 0.05 for table in tables]
    assert 0.03 < np.mean(called) < 0.07


def test_epochs_that_are_averaged_give_one_point_a_model() -> None:
    table = study(13)
    averaged = paired(scored(table, compared=np.ones(len(table.arm), bool)), BOTH, Judgement(epoch="mean"))
    x, y = (logit(f1).mean(-1) for f1 in (averaged.final.id_f1, averaged.final.ood_f1))
    dx, dy = x - x.mean(0), y - y.mean(0)
    assert line_slope(averaged, LINE).value == pytest.approx((dx * dy).sum() / (dx * dx).sum())
    assert line_slope(averaged, replace(LINE, slope="within")) == line_slope(
        pairs(table), replace(LINE, slope="within")
    )
