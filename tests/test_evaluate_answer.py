from __future__ import annotations

from dataclasses import replace

import pytest
from comparisons import (
    all_collapsed,
    all_equal,
    estimated,
    few_arms,
    made,
    many_arms,
    one_block,
    one_winner,
    with_effect,
)

from synthgen_evaluate.analysis.power import units_needed
from synthgen_evaluate.analysis.results import Comparison, Conclusion, Estimate, Verdict
from synthgen_evaluate.reporting.answer import ROWS, Answer, answer, by_robustness, most_decided


def answered(comparison: Comparison) -> Answer:
    found = answer(comparison)
    assert found
    return found


def undecided(found: Estimate) -> Comparison:
    """Of three arms, one that the runs cannot tell of."""
    comparison = made(few_arms())
    first, *others = comparison.effects
    return replace(comparison, effects=(with_effect(first, found), *others))


def test_at_most_seven_arms_are_in_the_table_sorted_by_effective_robustness() -> None:
    comparison = made(many_arms(46))
    found = answered(comparison)
    assert len(found.table.cells) == ROWS
    assert found.more == 45 - ROWS
    chosen = most_decided(comparison.effects, ROWS)
    assert [cells[0] for cells in found.table.cells] == [effect.arm.name for effect in chosen]
    assert chosen == by_robustness(chosen)
    assert {effect.conclusion.verdict for effect in chosen} == {Verdict.HIGHER}


def test_decided_arms_come_before_larger_differences_that_nobody_can_be_sure_of() -> None:
    comparison = made(many_arms(12))
    noisy = [with_effect(effect, estimated(9.0, 8.0, 6)) for effect in comparison.effects]
    sure = with_effect(comparison.effects[0], estimated(0.0, 0.1, 6))
    assert sure in most_decided([*noisy[1:], sure], 3)


@pytest.mark.parametrize(
    ("comparison", "result", "settling"),
    [
        (
            all_equal(),
            "Against scratch, ER is equivalent with diffusion (+0.2 points), fractals"
            " (+0.1 points) and natural (0.0 points), within the margin of ±1 point.",
            "nothing is open at a margin of 1 point.",
        ),
        (
            one_winner(),
            "Against scratch, ER is higher with natural (+4.0 points); undecided with fractals and"
            " diffusion, since these runs cannot tell.",
            "more clusters, for fractals and diffusion. As they are, such runs find differences of 2.7 points or more.",
        ),
        (all_collapsed(), "No arm can be compared with scratch.", "models that learn the task."),
        (
            one_block(),
            "Against scratch, ER is undecided with natural, diffusion and fractals, since these runs cannot tell.",
            "2 more independent runs.",
        ),
    ],
)
def test_the_result_is_one_sentence_and_so_is_what_would_settle_it(
    comparison: Comparison, result: str, settling: str
) -> None:
    found = answered(comparison)
    assert found.result == result
    assert found.settling == settling


def test_the_largest_part_of_the_variance_says_what_to_add() -> None:
    assert "more clusters, for natural" in answered(undecided(estimated(0.2, 0.9, 6, clusters=0.7))).settling
    assert "more architectures, for natural" in answered(undecided(estimated(0.2, 0.9, 6, line=0.7))).settling
    of_runs = estimated(0.2, 0.9, 6, line=0.01, clusters=0.01)
    assert of_runs.parts
    needed = units_needed(1.0, of_runs.parts, 6, level=1 - 0.95 ** (1 / 3))
    assert needed
    assert answered(undecided(of_runs)).settling.startswith(f"{needed - 6} more independent runs, for natural.")


def test_a_missing_line_and_one_that_decides_are_named() -> None:
    gap = "the arms' ID scores are 12 times as far apart as those of models vary"
    assert "models whose ID macro-F1 differs more" in answered(undecided(Estimate(n=6, note=gap))).settling
    comparison = made(few_arms())
    first, *others = comparison.effects
    depends = replace(first, conclusion=Conclusion(verdict=Verdict.DEPENDS, reason="between models higher"))
    found = answered(replace(comparison, effects=(depends, *others)))
    assert "with natural, depending on the line" in found.result
    assert "at which both arms have the same ID macro-F1" in found.settling


def test_collapsed_models_and_the_same_runs_are_warned_of() -> None:
    assert answered(all_equal()).warnings == ()
    (collapsed,) = answered(all_collapsed()).warnings
    assert collapsed.startswith("Models collapsed, so that nothing can be said of natural, fractals and diffusion")
    comparison = all_equal()
    first, *others = comparison.effects
    same = replace(first, conclusion=Conclusion(verdict=Verdict.SAME_RUNS, reason="as scratch"))
    (named,) = answered(replace(comparison, effects=(same, *others))).warnings
    assert named == "The same runs as another arm, or copies: natural (as scratch)."
    found = answered(replace(comparison, effects=(same,)))
    assert found.compared.startswith("no arms are compared with scratch")
    assert found.settling == "runs of its own."


def test_the_first_sentence_says_what_is_compared_and_whom_it_speaks_for() -> None:
    said = answered(made(few_arms())).compared
    for part in ("3 arms", "scratch", "suite miniature", "last epoch", "line between models", "on new clusters"):
        assert part in said
    assert answer(made({"scratch": ("source", "none", 0.3)})) is None
