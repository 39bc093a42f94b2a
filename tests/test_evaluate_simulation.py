from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import stats
from scipy.special import logit
from simulated_studies import DEFAULTS, Variation, simulate_study

from synthgen_evaluate.analysis.estimators import Line, difference, robustness
from synthgen_evaluate.analysis.pairing import RunEpochs, complete_blocks
from synthgen_evaluate.analysis.trends import effective_robustness, fit_trend

LINE = Line(epsilon=0.5 / 8154)
STILL = {name: 0.0 for name in Variation.__slots__[3:] if name not in ("rise", "autocorrelation")}
SMOOTH = replace(DEFAULTS, **STILL)


def test_a_study_has_every_run_at_every_epoch_and_repeats_for_a_seed() -> None:
    simulate = partial(simulate_study, arms=3, architectures=4, seeds=2, epochs=5)
    one, again, other = (simulate(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert len(one.id_f1) == 3 * 4 * 2 * 5
    assert len(complete_blocks(one, ["arm 0", "arm 1", "arm 2"])) == 8
    for name in RunEpochs.__slots__:
        assert np.array_equal(getattr(one, name), getattr(again, name))
    assert not np.array_equal(one.ood_f1, other.ood_f1)


def test_arms_differ_as_was_asked() -> None:
    table = simulate_study(
        np.random.default_rng(0), arms=5, effects=(0, 1.5), gains=(0, 0, 0.4), slopes=(0,) * 3 + (-0.2,),
        rises=(1,) * 4 + (0.5,), variation=SMOOTH,
    )  # fmt: skip
    x, y = (logit(f1).reshape(5, -1, 6) for f1 in (table.id_f1, table.ood_f1))
    slopes = [np.polyfit(x[k].ravel(), y[k].ravel(), 1)[0] for k in range(5)]
    assert (slopes[0], slopes[2], slopes[3]) == pytest.approx((0.83, 0.83, 0.63))
    assert (x[2] - x[0]) == pytest.approx(0.4)
    assert y[2] - y[0] == pytest.approx(0.83 * 0.4)
    assert np.ptp(x[4]) == pytest.approx(0.4)
    ood = table.ood_f1.reshape(5, -1)
    assert 100 * (ood[1] - ood[0]) == pytest.approx(1.5)


def test_defaults_look_like_published_runs() -> None:
    table = simulate_study(np.random.default_rng(0), architectures=200, arms=1)
    x, y = (logit(f1).reshape(200, 3, 6) for f1 in (table.id_f1, table.ood_f1))
    assert 0.40 < table.id_f1.reshape(600, 6)[:, -1].mean() < 0.50  # ERM of iWildCam-WILDS: 47.0%
    assert 0.26 < table.ood_f1.reshape(600, 6)[:, -1].mean() < 0.36  # 31.0%
    spread = [v[..., -1].std(1, ddof=1).mean() for v in (x, y)]  # over seeds: 0.056 and 0.061
    assert 0.05 < spread[0] < 0.13
    assert 0.05 < spread[1] < 0.13
    residual = y - 0.83 * x + 0.69
    runs, epochs = residual.mean(2).std(), (residual - residual.mean(2, keepdims=True)).std()
    assert runs > epochs / 6**0.5 * 1.5  # epochs of a run are not independent


def naive_p(table: RunEpochs) -> float:
    ids, oods = (f1.reshape(2, -1) for f1 in (table.id_f1, table.ood_f1))
    trend = fit_trend(ids[0], oods[0], epsilon=LINE.epsilon)
    return float(stats.ttest_ind(*effective_robustness(ids, oods, trend)).pvalue)


@pytest.mark.parametrize("gain", [0.0, 0.4])
def test_a_small_calibration_of_sign_flips_over_blocks(gain: float) -> None:
    rng = np.random.default_rng(0)
    found, naive, fixed = [], [], []
    for _ in range(60):
        table = simulate_study(rng, gains=(0, gain))
        blocks = complete_blocks(table, ("arm 0", "arm 1"))
        found.append(difference(blocks, LINE))
        naive.append(naive_p(table) <= 0.05)
        trend = robustness(blocks, replace(LINE, through="baseline"), np.ones((1, 15)))[0]
        fixed.append(stats.ttest_1samp(trend[:, 1] - trend[:, 0], 0).pvalue <= 0.05)
    false = float(np.mean([one.p <= 0.05 for one in found]))
    covered = np.mean([one.low <= 0 <= one.high for one in found])
    assert false <= 0.15
    assert covered >= 0.85
    assert np.mean(naive) > max(false, 0.1)
    if gain:
        assert np.mean(fixed) > false  # the baseline's trend is not known for certain
