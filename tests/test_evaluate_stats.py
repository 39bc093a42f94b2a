from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthgen_evaluate.stats import (
    EXACT_BLOCKS,
    LEVEL,
    describe,
    paired_difference,
    pairs_needed,
    points,
    smallest_p,
    verdict,
)


def naive_p(differences: np.ndarray) -> float:
    """Two-sided as SciPy defines it: twice the smaller tail, at most 1."""
    means = [np.mean(differences * signs) for signs in itertools.product((1, -1), repeat=len(differences))]
    at, slack = differences.mean(), 1e-12
    tails = np.mean([m >= at - slack for m in means]), np.mean([m <= at + slack for m in means])
    return min(1.0, 2 * float(min(tails)))


@settings(max_examples=40)
@given(st.lists(st.integers(-30, 30), min_size=2, max_size=7))
def test_p_is_that_of_all_sign_patterns(tenths: list[int]) -> None:
    differences = np.array(tenths) / 10
    found = paired_difference(differences, np.zeros(len(differences)))
    assert found.exact
    assert found.p == pytest.approx(naive_p(differences))
    assert found.p >= found.smallest_p


def test_the_difference_is_described() -> None:
    found = paired_difference([3, 5, 10], [1, 4, 4])
    assert (found.n, found.mean, found.minimum, found.maximum) == (3, 3, 1, 6)
    assert found.sd == pytest.approx(np.std([2, 1, 6], ddof=1))
    assert found.p == found.smallest_p == 0.25


def test_six_pairs_are_the_fewest_that_reach_five_percent() -> None:
    assert pairs_needed() == 6
    assert [smallest_p(n) <= LEVEL for n in (1, 4, 5, 6)] == [False, False, False, True]
    assert pairs_needed(LEVEL / 5) == 8
    assert smallest_p(8) <= LEVEL / 5 < smallest_p(7)


def test_many_pairs_are_sampled_repeatably() -> None:
    values = np.random.default_rng(3).normal(0.4, 1, EXACT_BLOCKS + 6)
    first, again = (paired_difference(values, np.zeros_like(values)) for _ in range(2))
    assert first == again
    assert not first.exact
    other = paired_difference(values, np.zeros_like(values), rng=np.random.default_rng(1))
    assert other.p == pytest.approx(first.p, abs=0.01)


def test_the_test_keeps_its_level_when_there_is_no_difference() -> None:
    rng = np.random.default_rng(11)
    p = [paired_difference(rng.normal(size=7), rng.normal(size=7)).p for _ in range(400)]
    assert np.mean(np.array(p) <= LEVEL) < 0.08  # 400 draws of at most 5%: sd 1.1%


@pytest.mark.parametrize(("arm", "baseline"), [([], []), ([1.0, np.nan], [0.0, 0.0]), ([np.inf], [0.0])])
def test_what_cannot_be_known_is_none(arm: list[float], baseline: list[float]) -> None:
    found = paired_difference(arm, baseline)
    assert (found.mean, found.sd, found.minimum, found.maximum, found.p) == (None,) * 5
    assert verdict(found).startswith("cannot tell: ")


def test_one_pair_has_a_difference_and_no_p() -> None:
    found = paired_difference([3.0], [1.0])
    assert (found.mean, found.sd, found.p, found.smallest_p) == (2.0, None, None, 1.0)
    assert verdict(found) == "cannot tell: 1 paired run cannot reach p < 0.05, at least 6 are needed"


def test_verdicts_say_no_more_than_the_test() -> None:
    zeros = np.zeros(6)
    assert verdict(paired_difference([1, 2, 3, 4, 5, 6], zeros)) == "higher"
    assert verdict(paired_difference([-1, -2, -3, -4, -5, -6], zeros)) == "lower"
    assert verdict(paired_difference([1, -2, 3, -4, 5, -6], zeros)) == "cannot tell: p is not below 0.05"
    assert verdict(paired_difference([1, 2, 3, 4, 5, 6], zeros), comparisons=2) == (
        "cannot tell: 6 paired runs cannot reach p < 0.025 (0.05 over 2 comparisons), at least 7 are needed"
    )


def test_one_sentence_for_one_arm() -> None:
    few = paired_difference([0.5, 6.0, 3.0, 2.9], np.zeros(4))
    assert describe("OOD macro-F1", {"Fractals": few}, "scratch") == (
        "Fractals: OOD macro-F1 higher than with scratch by 3.1 points on average over 4 paired runs (range +0.5 to"
        " +6.0), but 4 paired runs cannot show a difference at the 5% level; at least 6 are needed."
    )
    unclear = paired_difference([1, -2, 3, -4, 5, -6], np.zeros(6))
    assert describe("OOD macro-F1", {"A": unclear}, "B").endswith(
        "which is not shown to be a difference at the 5% level (sign-flip permutation, p = 0.84)."
    )
    nothing = paired_difference([], [])
    assert describe("OOD macro-F1", {"A": nothing}, "B") == (
        "A: OOD macro-F1 cannot be compared with B, because there are no paired runs."
    )


def test_one_sentence_for_several_arms() -> None:
    up = paired_difference(np.arange(1, 9), np.zeros(8))
    mixed = paired_difference([1, -1, 2, -2, 1, -1, 2, -2], np.zeros(8))
    assert describe("effective robustness", {"up": up, "mixed": mixed}, "scratch") == (
        "Effective robustness against scratch, mean difference in points over 8 paired runs (range): up +4.5 (+1.0 to"
        " +8.0); mixed +0.0 (−2.0 to +2.0); shown to differ at the 5% level over 2 comparisons (Bonferroni): up"
        " (higher)."
    )
    few = paired_difference([1, 2], [0, 0])
    assert describe("OOD macro-F1", {"a": few, "b": paired_difference([1], [0])}, "s").endswith(
        "a +1.5 (2 paired runs, +1.0 to +2.0); b +1.0 (1 paired run, +1.0 to +1.0); 2 paired runs cannot show a"
        " difference at the 5% level over 2 comparisons (Bonferroni), at least 7 are needed."
    )


def test_points_have_a_real_minus_sign() -> None:
    assert [points(1.25), points(-1.26), points(None), points(-0.5, 2)] == ["+1.2", "−1.3", "–", "−0.50"]
