"""Comparison -> what the first screen of its page says: the arms that matter most, and the answer in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from synthgen.common.printing import counted

from ..analysis.contrasts import WHOSE
from ..analysis.formatting import plain, signed
from ..analysis.lines import FEWEST_UNITS
from ..analysis.power import units_needed
from ..analysis.results import Comparison, Contrast, Verdict
from ..analysis.significance import sidak_level
from .effect_tables import first_table, sources
from .score_tables import when
from .table_model import Table

ROWS = 7  # arms of the table
NAMED = 3  # most arms that a sentence names
RESULTS = {  # in the order of the sentence: what effective robustness is with the arms that have the verdict
    Verdict.HIGHER: "higher with {}",
    Verdict.LOWER: "lower with {}",
    Verdict.EQUIVALENT: "equivalent with {}, within the margin of ±{margin}",
    Verdict.DEPENDS: "higher, lower or neither with {}, depending on the line",
    Verdict.NOT_SHOWN: "not shown to differ with {}",
    Verdict.CANNOT_TELL: "undecided with {}, since these runs cannot tell",
}
DECIDED = (Verdict.HIGHER, Verdict.LOWER, Verdict.EQUIVALENT)
OPEN = (Verdict.DEPENDS, Verdict.NOT_SHOWN, Verdict.CANNOT_TELL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The first screen."""

    warnings: tuple[str, ...]  # of arms that cannot be compared, whatever their numbers are
    table: Table  # at most ``ROWS`` arms, from the highest effective robustness down
    more: int  # arms that are not in the table
    compared: str  # sentence: what, and whom it speaks for
    result: str  # sentence
    settling: str  # what would settle what is open


def answer(comparison: Comparison) -> Answer | None:
    """What the comparison says first; None if there is nothing to compare."""
    effects = comparison.effects
    if not effects:
        return None
    shown = most_decided(effects, ROWS)
    return Answer(
        warnings=_warnings(comparison),
        table=first_table(shown, comparison),
        more=len(effects) - len(shown),
        compared=_compared(comparison),
        result=_result(comparison),
        settling=_settling(comparison),
    )


def by_robustness(effects: Sequence[Contrast]) -> tuple[Contrast, ...]:
    """The effects from the highest to the lowest effective robustness, those without an estimate last."""
    return tuple(sorted(effects, key=lambda e: (e.robustness.value is None, -(e.robustness.value or 0.0))))


def most_decided(effects: Sequence[Contrast], limit: int) -> tuple[Contrast, ...]:
    """As many effects as the limit allows, sorted: those with a decided verdict first, then those of largest size."""

    def rank(effect: Contrast) -> tuple[int, float]:
        verdict = effect.conclusion.verdict
        return (0 if verdict in DECIDED else 1 if verdict in OPEN else 2), -abs(effect.robustness.value or 0.0)

    return by_robustness(sorted(effects, key=rank)[:limit])


def _of(effects: Sequence[Contrast], verdict: Verdict) -> list[Contrast]:
    return [effect for effect in effects if effect.conclusion.verdict is verdict]


def _listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; of more, the first and how many others."""
    if len(names) > NAMED:
        names = [*names[: NAMED - 1], f"{len(names) - NAMED + 1} other arms"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _warnings(comparison: Comparison) -> tuple[str, ...]:
    found = []
    if collapsed := _of(comparison.effects, Verdict.COLLAPSED):
        found.append(
            f"Models collapsed, so that nothing can be said of {_listed([e.arm.name for e in collapsed])}: some predict"
            " one class for every image, or score no better than that."
        )
    if same := _of(comparison.effects, Verdict.SAME_RUNS):
        named = [f"{effect.arm.name} ({effect.conclusion.reason})" for effect in same]
        found.append(f"The same runs as another arm, or copies: {_listed(named)}.")
    return tuple(found)


def _compared(comparison: Comparison) -> str:
    judgement = comparison.judgement
    effects = [one for one in comparison.effects if one.conclusion.verdict is not Verdict.SAME_RUNS]
    arms = effects[0].arm.name if len(effects) == 1 else f"{len(effects) or 'no'} arms"
    where = f"task {comparison.task}"
    if comparison.suites:
        where = f"suite{'s' if len(comparison.suites) > 1 else ''} {', '.join(comparison.suites)}, {where}"
    return (
        f"{arms} {'is' if len(effects) == 1 else 'are'} compared with {comparison.baseline} ({where})"
        f"{when(comparison)}, for effective robustness (ER) at equal ID macro-F1 along the line"
        f" {WHOSE[judgement.line]}; results speak for what would be found {comparison.scope}."
    )


def _result(comparison: Comparison) -> str:
    """The verdicts on all arms in one sentence."""
    parts = []
    for verdict, words in RESULTS.items():
        found = sorted(_of(comparison.effects, verdict), key=lambda e: -abs(e.robustness.value or 0.0))
        if found:
            names = _listed([_with_value(effect) if verdict in DECIDED else effect.arm.name for effect in found])
            parts.append(words.format(names, margin=counted(comparison.margin, "point", form="g")))
    if not parts:
        return f"No arm can be compared with {comparison.baseline}."
    return f"Against {comparison.baseline}, ER is {'; '.join(parts)}."


def _with_value(effect: Contrast) -> str:
    value = effect.robustness.value
    return effect.arm.name if value is None else f"{effect.arm.name} ({signed(value)} points)"


def _settling(comparison: Comparison) -> str:
    """What would lead to a verdict on the arms that have none."""
    missing: dict[str, list[tuple[Contrast, int]]] = {}
    for effect in comparison.effects:
        what, units = _missing(effect, comparison)
        if what:
            missing.setdefault(what, []).append((effect, units))
    if not missing:
        return f"nothing is open at a margin of {counted(comparison.margin, 'point', form='g')}."
    parts = []
    for what, group in sorted(missing.items(), key=lambda one: -len(one[1])):
        sizes = sorted(units for _, units in group)
        number = f"{_range([str(units) for units in sizes])} " if sizes[-1] else ""
        plural = "s" if sizes[-1] > 1 else ""
        whom = "" if len(group) == len(comparison.effects) else f", for {_listed([e.arm.name for e, _ in group])}"
        parts.append(f"{number}{what}{plural}{whom}")
    words = "; ".join(parts)
    smallest = sorted(e.smallest for e in _of(comparison.effects, Verdict.CANNOT_TELL) if e.smallest is not None)
    if smallest:
        words += (
            f". As they are, such runs find differences of {_range([plain(size) for size in smallest])} points or more"
        )
    return f"{words}."


def _missing(effect: Contrast, comparison: Comparison) -> tuple[str, int]:
    """What a verdict on an arm takes, and how many more units if it takes those; empty if there is a verdict."""
    verdict, found = effect.conclusion.verdict, effect.robustness
    if verdict is Verdict.COLLAPSED:
        return "models that learn the task", 0
    if verdict is Verdict.SAME_RUNS:
        return "runs of its own", 0
    if verdict is Verdict.DEPENDS:
        return "epochs or architectures at which both arms have the same ID macro-F1, where lines agree", 0
    if verdict is not Verdict.CANNOT_TELL:
        return "", 0
    if not found.n:
        return f"runs of the same architectures and seeds as those of {comparison.baseline}", 0
    if found.value is None:
        return "models whose ID macro-F1 differs more, so that a line reaches from one arm to the other", 0
    if effect.units < FEWEST_UNITS:
        return f"more {effect.unit}", FEWEST_UNITS - effect.units
    if found.parts is None:
        return "more architectures", 0
    tests = sum(one.primary for one in comparison.effects) if effect.primary else 1
    level = sidak_level(tests, comparison.judgement.level)
    needed = units_needed(comparison.margin, found.parts, effect.units, level=level)
    sizes = sources(found.parts, comparison.words.clusters)
    largest = max(sizes, key=lambda one: sizes[one])
    if largest == "runs" and needed:
        return f"more {effect.unit}", needed - effect.units
    return (
        "more architectures"
        if sizes["line"] >= sizes[comparison.words.clusters]
        else f"more {comparison.words.clusters}"
    ), 0


def _range(sizes: Sequence[str]) -> str:
    """The first and the last of sorted numbers, in words."""
    return sizes[0] if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
