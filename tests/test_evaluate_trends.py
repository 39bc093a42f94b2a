from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import linregress

from synthgen_evaluate.analysis.trends import Scale, clip_epsilon, effective_robustness, fit_trend, from_scale, to_scale
from synthgen_evaluate.errors import EvaluateError

SCALES = ("logit", "probit", "linear")
EPSILON = clip_epsilon(8154)


@given(st.sampled_from(SCALES), st.lists(st.floats(0.001, 0.999), min_size=1, max_size=20))
def test_scales_are_inverted(scale: Scale, f1: list[float]) -> None:
    assert from_scale(to_scale(f1, scale, EPSILON), scale) == pytest.approx(f1, abs=1e-9)


@pytest.mark.parametrize("scale", SCALES)
def test_an_exact_zero_or_one_stays_finite_and_in_order(scale: Scale) -> None:
    values = to_scale([0, EPSILON, 0.5, 1 - EPSILON, 1], scale, EPSILON)
    assert np.isfinite(values).all()
    assert (np.diff(values) >= 0).all()


def test_clipping_is_half_an_image() -> None:
    assert clip_epsilon(8154) == 0.5 / 8154
    with pytest.raises(EvaluateError, match="at least one"):
        clip_epsilon(0)


@pytest.mark.parametrize("scale", SCALES)
def test_a_line_on_the_scale_is_found_and_predicted(scale: Scale) -> None:
    id_f1 = np.array([0.1, 0.2, 0.35, 0.5])
    ood_f1 = from_scale(0.8 * to_scale(id_f1, scale, EPSILON) - 0.03, scale)
    trend = fit_trend(id_f1, ood_f1, scale=scale, epsilon=EPSILON)
    assert trend is not None
    assert (trend.slope, trend.intercept, trend.r2) == pytest.approx((0.8, -0.03, 1))
    assert trend.n == 4
    assert trend.predict(id_f1) == pytest.approx(ood_f1)


@given(st.integers(0, 10**6))
def test_the_fit_equals_scipy(seed: int) -> None:
    id_f1, ood_f1 = np.random.default_rng(seed).uniform(0.01, 0.9, (2, 8))
    trend = fit_trend(id_f1, ood_f1, epsilon=EPSILON)
    expected = linregress(to_scale(id_f1, "logit", EPSILON), to_scale(ood_f1, "logit", EPSILON))
    assert trend is not None
    assert trend.slope == pytest.approx(expected.slope, abs=1e-9)
    assert trend.intercept == pytest.approx(expected.intercept, abs=1e-9)
    assert trend.r2 == pytest.approx(expected.rvalue**2, abs=1e-9)


@pytest.mark.parametrize(
    ("id_f1", "ood_f1"),
    [
        ([], []),
        ([0.1], [0.1]),
        ([0.1, 0.2], [0.1, 0.2]),
        ([0.2] * 4, [0.1, 0.2, 0.3, 0.4]),
        ([0.1, 0.2, np.nan], [0.1] * 3),
    ],
)
def test_too_little_to_draw_a_line_through_gives_none(id_f1: list[float], ood_f1: list[float]) -> None:
    assert fit_trend(id_f1, ood_f1, epsilon=EPSILON) is None


def test_a_constant_ood_score_has_no_r2() -> None:
    trend = fit_trend([0.1, 0.2, 0.3], [0.2] * 3, epsilon=EPSILON)
    assert trend is not None
    assert trend.slope == pytest.approx(0)
    assert trend.r2 is None


def test_effective_robustness_is_the_distance_to_the_trend_in_points() -> None:
    trend = fit_trend([0.1, 0.2, 0.3], [0.05, 0.10, 0.15], scale="linear", epsilon=EPSILON)
    assert trend is not None
    assert effective_robustness([0.4, 0.4], [0.23, 0.2], trend) == pytest.approx([3, 0])


def test_mistakes_are_told() -> None:
    with pytest.raises(EvaluateError, match="scale 'log' is unknown: choose one of logit, probit, linear"):
        fit_trend([0.1], [0.1], scale="log", epsilon=EPSILON)  # type: ignore[arg-type]
    with pytest.raises(EvaluateError, match="do not pair up"):
        fit_trend([0.1, 0.2], [0.1], epsilon=EPSILON)
