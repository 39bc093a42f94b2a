"""No verdict or sentence contradicts the figures beside it, in generated comparisons."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from test_evaluate_contrasts import arms_of, scored, study
from test_evaluate_uncertainty import with_clusters

from synthgen_evaluate.analysis.contrasts import contrast_arms, ordered_trends
from synthgen_evaluate.analysis.formatting import estimate, p_value
from synthgen_evaluate.analysis.power import smallest_effect
from synthgen_evaluate.analysis.results import Conclusion, Contrast, Estimate, Verdict
from synthgen_evaluate.analysis.scoring import Scored
from synthgen_evaluate.analysis.significance import LEVEL, sidak_level
from synthgen_evaluate.analysis.wording import VERDICTS, verdicts
from synthgen_evaluate.judgement import Judgement

judgements = st.builds(
    Judgement,
    line=st.sampled_from(["between", "within"]),
    clusters=st.sampled_from(["new", "these"]),
    architectures=st.sampled_from(["these", "new"]),
    margin=st.sampled_from([0.5, 1.0, 5.0, 20.0]),
    primary=st.sampled_from([(), ("arm 1",), ("arm 1", "arm 2")]),
)


@st.composite
def studies(draw: st.DrawFn) -> Scored:
    """Two to five arms with and without effects, gains, slopes of their own, shared pre-training and dead models."""
    seed, arms = draw(st.integers(0, 2**32 - 1)), draw(st.integers(2, 5))
    rng = np.random.default_rng(seed)
    table = study(
        seed,
        arms=arms,
        architectures=draw(st.integers(1, 5)),
        seeds=draw(st.integers(1, 3)),
        epochs=draw(st.integers(1, 3)),
        effects=(0, *rng.choice([0, 0, 1, 5, -8, 25], arms - 1)),
        gains=(0, *rng.choice([0, 0, 0.3, 1.0], arms - 1)),
        slopes=(0, *rng.choice([0, 0, 0.3], arms - 1)),
    )
    if draw(st.booleans()):
        table = replace(table, start=np.char.add(np.char.add(table.arm, " of "), table.architecture))
    clusters = None
    if draw(st.booleans()):
        table, clusters = with_clusters(table, rng, draw(st.sampled_from([0.001, 0.03])))
    dead = (rng.random(len(table.arm)) < 0.1) & draw(st.booleans())
    return scored(table, clusters=clusters, collapsed=dead)


def check_print(found: Estimate) -> None:
    """The interval as it is printed leaves out zero if, and only if, it does."""
    low, high = (float(bound.replace("−", "-")) for bound in re.findall(r"\((.*) to (.*)\)", estimate(found))[0])
    assert (low > 0) - (high < 0) == found.side


@given(st.floats(1e-5, 100), st.floats(0, 100), st.sampled_from([1, -1]))
def test_a_printed_interval_shows_that_it_leaves_out_zero(near: float, length: float, sign: int) -> None:
    low, high = sorted((sign * near, sign * (near + length)))
    check_print(Estimate(value=(low + high) / 2, low=low, high=high))


@pytest.mark.parametrize(
    ("p", "words"),
    [(0.049996, "0.049996"), (0.0502, "0.0502"), (0.05, "0.05"), (0.0496, "0.0496"), (0.044, "0.044"), (0.31, "0.31")],
)
def test_a_printed_p_shows_which_side_of_the_level_it_is_on(p: float, words: str) -> None:
    assert p_value(p) == words


def check_verdict(verdict: Verdict, found: Estimate, margin: float, tests: int) -> None:
    """What the word says, the interval says too, and so do p and the smallest effect."""
    if found.low is None or found.high is None:
        assert verdict is Verdict.CANNOT_TELL
        return
    holds = found.low <= 0 <= found.high
    level = sidak_level(tests)
    if not found.side or min(abs(found.low), abs(found.high)) > 1e-5:
        check_print(found)
    assert -100 <= found.low <= found.value <= found.high <= 100
    assert found.p is not None
    assert (found.p < level) == (not holds) or abs(found.p - level) < 1e-9
    assert (verdict is Verdict.HIGHER) == (found.low > 0)
    assert (verdict is Verdict.LOWER) == (found.high < 0)
    within = -margin < found.low and found.high < margin
    assert (verdict is Verdict.EQUIVALENT) == (holds and within)
    if verdict in (Verdict.NOT_SHOWN, Verdict.CANNOT_TELL):
        smallest = smallest_effect(found.parts, level=level)
        assert smallest is not None
        assert (smallest <= margin * (1 + 1e-6)) if verdict is Verdict.NOT_SHOWN else (smallest >= margin * (1 - 1e-6))


def check_contrast(one: Contrast, judgement: Judgement, tests: int) -> None:
    first, *_ = one.lines
    assert first.slope == judgement.line
    assert first.estimate == one.robustness
    for line in one.lines:
        check_verdict(line.conclusion.verdict, line.estimate, judgement.margin, tests)
    words = {line.conclusion.verdict for line in one.lines}
    if one.conclusion.verdict is Verdict.DEPENDS:
        assert len(words) == 2
        assert words & {Verdict.HIGHER, Verdict.LOWER, Verdict.EQUIVALENT}
    elif one.conclusion.verdict is not Verdict.COLLAPSED:
        check_verdict(one.conclusion.verdict, one.robustness, judgement.margin, tests)
        assert words <= {one.conclusion.verdict} or words <= {Verdict.NOT_SHOWN, Verdict.CANNOT_TELL}
    if one.p_adjusted is not None and one.robustness.low is not None and abs(one.p_adjusted - LEVEL) > 1e-9:
        assert (one.p_adjusted < LEVEL) == bool(one.robustness.side)
    if one.robustness.value is None:
        assert (one.without_largest, one.smallest, one.p_adjusted, one.here.value) == (None, None, None, None)


@settings(max_examples=40, deadline=None)
@given(studies(), judgements)
def test_no_verdict_or_sentence_contradicts_the_figures_beside_it(found: Scored, judgement: Judgement) -> None:
    arms = arms_of(found.table)
    effects = contrast_arms(found, arms, "arm 0", judgement)
    assert effects
    tests = sum(one.primary for one in effects)
    for one in effects:
        check_contrast(one, judgement, tests if one.primary else 1)
        event(one.conclusion.verdict.value)
    sentences = verdicts(effects, "arm 0", "in these studies")
    for one in effects:
        said = [text for text in sentences if f"{one.arm.name} " in text.partition(": ")[2] + " "]
        (sentence,) = said or [text for text in sentences if one.arm.name in text.partition(": ")[2]]
        assert sentence.startswith(VERDICTS[one.conclusion.verdict])


@settings(max_examples=50, deadline=None)
@given(studies().filter(lambda found: len(set(found.table.arm)) > 2), judgements)
def test_no_ordered_trend_contradicts_its_step(found: Scored, judgement: Judgement) -> None:
    names = sorted(set(found.table.arm))
    arms = arms_of(found.table, **{name.replace(" ", "_"): str(10**k) for k, name in enumerate(names)})
    (trend,) = ordered_trends(found, arms, judgement)
    conclusion: Conclusion = trend.conclusion
    check_verdict(conclusion.verdict, trend.step, judgement.margin, 1)
    if trend.step.side:
        assert trend.in_words() == ("rises" if trend.step.side > 0 else "falls")
