"""Every arm against the baseline, and every ordered factor: estimates, tests and conclusions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from synthgen.common.printing import counted

from ..judgement import DEFAULT, Judgement
from ..runs import Arm
from .checks import check
from .choices import choices
from .copies import same_runs
from .estimators import Line
from .lines import line_slope, slope_difference, unbridged
from .pairing import ARCHITECTURE, RUN, Paired, complete_blocks, units_of
from .power import TARGET, power, smallest_effect, units_needed
from .results import AtEpoch, Choices, Conclusion, Contrast, Estimate, OnLine, OrderedTrend, Verdict
from .scoring import Scored
from .significance import LEVEL, sidak, sidak_level
from .trends import Slope
from .uncertainty import (
    estimate,
    id_difference,
    ood_difference,
    robustness_difference,
    step,
    without_largest,
)

NUMBER = re.compile(r"(\d+(?:\.\d+)?|\d{1,3}(?:,\d{3})+)([KkMm]?)")
MANY = {"": 1, "k": 1e3, "m": 1e6}
FEWEST_LEVELS = 3  # two are a difference
WHOSE: Mapping[Slope, str] = {"between": "between models", "within": "within runs"}


def contrast_arms(
    scored: Scored, arms: Sequence[Arm], baseline: str, judgement: Judgement = DEFAULT
) -> tuple[Contrast, ...]:
    """Every arm but the baseline against the baseline; empty if the baseline has no scores.

    The primary comparisons are corrected together, over all factors; arms that are the same runs as another are none.
    """
    if baseline not in scored.table.arm:
        return ()
    others = [arm for arm in arms if arm.name != baseline]
    pairs = {arm.name: paired(scored, (baseline, arm.name), judgement) for arm in others}
    primary = [name for name in pairs if name in (judgement.primary or pairs)]
    same = same_runs(scored, baseline, dict(sorted(pairs.items(), key=lambda pair: pair[0] not in primary)))
    family = [name for name in primary if name not in same]
    return tuple(
        _same(arm, pairs[arm.name], same[arm.name])
        if arm.name in same
        else _contrast(scored, arm, pairs[arm.name], judgement, tests=len(family) if arm.name in family else None)
        for arm in others
    )


def paired(scored: Scored, arms: Sequence[str], judgement: Judgement) -> Paired:
    """The runs of some arms in the blocks that have one of each, at the compared epoch and at all."""
    final = complete_blocks(scored.table, arms, where=scored.compared)
    names = [architecture for architecture, _ in final.names]
    architectures = np.unique(names, return_inverse=True)[1].astype(np.intp)
    units = units_of([scored.table.start[rows[rows >= 0]].tolist() for rows in final.rows])
    new = judgement.architectures == "new"
    one_run_each = len(set(names)) == len(names) > 1
    return Paired(
        final=final,
        every=complete_blocks(scored.table, arms),
        units=architectures if new else units,
        architectures=architectures,
        unit=ARCHITECTURE if new or one_run_each else RUN,
    )


def _contrast(scored: Scored, arm: Arm, pairs: Paired, judgement: Judgement, *, tests: int | None) -> Contrast:
    """One arm against the first of ``pairs``; ``tests`` are corrected together, None if this is not one of them."""
    level = sidak_level(tests or 1, judgement.level)
    new = judgement.clusters == "new"
    measured = partial(estimate, paired=pairs, clusters=scored.clusters, new_clusters=new)
    lines = _lines(scored, pairs, judgement, level)
    chosen, line = lines[0], replace(scored.line, slope=lines[0].slope)
    robustness = chosen.estimate
    along = partial(robustness_difference, line=line)
    by_epoch = _by_epoch(scored, pairs, partial(measured, level=judgement.level), line)
    return Contrast(
        arm=arm,
        unpaired=pairs.final.unpaired[1],
        units=pairs.n_units,
        unit=pairs.unit,
        architectures=_architectures(pairs),
        primary=tests is not None,
        id=measured(id_difference, line=None, level=level),
        ood=measured(ood_difference, line=None, level=level),
        robustness=robustness,
        p_adjusted=None if robustness.p is None else sidak(robustness.p, tests or 1),
        here=estimate(along, pairs, line, None, level=level)
        if robustness.value is not None
        else Estimate(n=len(pairs)),
        lines=lines,
        epochs=by_epoch,
        without_largest=None if robustness.value is None else without_largest(along, pairs, line, scored.clusters),
        choices=choices(scored, pairs, [one.epoch for one in by_epoch], level=judgement.level),
        smallest=smallest_effect(robustness.parts, level=level),
        slope=slope_difference(pairs, scored.line, level=judgement.level),
        checks=check(pairs, line),
        conclusion=_collapsed(scored, pairs) or _over_lines(lines),
    )


def _architectures(pairs: Paired) -> tuple[str, ...]:
    """Those of the paired runs, in order."""
    return tuple(dict.fromkeys(architecture for architecture, _ in pairs.final.names))


def _lines(scored: Scored, pairs: Paired, judgement: Judgement, level: float) -> tuple[OnLine, ...]:
    """The difference along the judgement's line, and along the other one if it can be used.

    The other one does not stand in where the judgement's cannot be used: it answers another question, and where slopes
    differ, a false one (with one architecture and ten points of ID macro-F1 in between, in half of simulated studies).
    """
    first: Slope = judgement.line
    second: Slope = "within" if first == "between" else "between"
    chosen, other = (_on_line(scored, pairs, slope, judgement, level) for slope in (first, second))
    return (chosen,) if other.estimate.value is None else (chosen, other)


def _on_line(scored: Scored, pairs: Paired, slope: Slope, judgement: Judgement, level: float) -> OnLine:
    line = replace(scored.line, slope=slope)
    why = unbridged(pairs, line) if len(pairs) else ""
    found = Estimate(n=len(pairs), note=why)
    if not why:
        found = estimate(
            partial(robustness_difference, line=line),
            pairs,
            line,
            scored.clusters,
            new_clusters=judgement.clusters == "new",
            level=level,
        )
    conclusion = conclude(found, judgement.margin, level=level, units=pairs.n_units, unit=pairs.unit)
    fitted = line_slope(pairs, line, level=judgement.level)
    return OnLine(slope=slope, fitted=fitted, estimate=found, conclusion=conclusion)


def _over_lines(lines: Sequence[OnLine]) -> Conclusion:
    """The conclusion along the first line, or that it would be another one along the second."""
    open_ended = {Verdict.NOT_SHOWN, Verdict.CANNOT_TELL}
    verdicts = [one.conclusion.verdict for one in lines]
    if len(set(verdicts)) == 1 or set(verdicts) <= open_ended:
        return lines[0].conclusion
    stated = (f"{WHOSE[one.slope]} {one.conclusion.verdict.value}" for one in lines)
    return Conclusion(verdict=Verdict.DEPENDS, reason="; ".join(stated))


def _by_epoch(scored: Scored, pairs: Paired, measured: Callable[..., Estimate], line: Line) -> tuple[AtEpoch, ...]:
    """The differences at every epoch that all paired runs evaluated."""
    table, arms = scored.table, pairs.final.arms
    rows = pairs.every.rows
    numbers = [set(table.epoch[run[run >= 0]].tolist()) for block in rows for run in block]
    found = []
    for epoch in sorted(set.intersection(*numbers)) if numbers else ():
        at = replace(pairs, final=complete_blocks(table, arms, where=table.epoch == epoch))
        along, why = partial(robustness_difference, line=line), unbridged(at, line)
        found.append(
            AtEpoch(
                epoch=epoch,
                id=measured(id_difference, paired=at, line=None),
                ood=measured(ood_difference, paired=at, line=None),
                robustness=Estimate(n=len(at), note=why) if why else measured(along, paired=at, line=line),
            )
        )
    return tuple(found)


def conclude(found: Estimate, margin: float, *, level: float = LEVEL, units: int = 0, unit: str = RUN) -> Conclusion:
    """What an estimate supports, by its interval alone, so that no verdict contradicts the interval beside it.

    HIGHER or LOWER if it leaves out 0, also within the margin; EQUIVALENT if it holds 0 and lies within the margin;
    CANNOT_TELL if there is none, or if an effect of the margin would be found in less than 80% of such studies; else
    NOT_SHOWN. ``level`` is the interval's.
    """
    if not found.n:
        return Conclusion(verdict=Verdict.CANNOT_TELL, reason="no architecture and seed has a run of each arm")
    if found.value is None or found.low is None or found.high is None or found.parts is None:
        return Conclusion(verdict=Verdict.CANNOT_TELL, reason=found.note)
    within = -margin < found.low and found.high < margin
    if found.low > 0 or found.high < 0:
        less = f"by less than the margin of {counted(margin, 'point', form='g')}" if within else ""
        return Conclusion(verdict=Verdict.HIGHER if found.low > 0 else Verdict.LOWER, reason=less)
    if within:
        return Conclusion(verdict=Verdict.EQUIVALENT, reason=f"within {counted(margin, 'point', form='g')}")
    chance = power(margin, found.parts.error, found.parts.freedom, level=level)
    if chance >= TARGET:
        return Conclusion(verdict=Verdict.NOT_SHOWN)
    needed = units_needed(margin, found.parts, units, level=level)
    too_few = (
        "more architectures would not be enough on these test images"
        if unit == ARCHITECTURE
        else "more of these architectures and test images would not be enough"
    )
    answer = f"{needed} are needed" if needed else too_few
    sought = f"a difference of {counted(margin, 'point', form='g')}"
    why = f"{counted(units, unit)} find {sought} in {100 * chance:.0f}% of studies"
    return Conclusion(verdict=Verdict.CANNOT_TELL, reason=f"{why}; {answer}")


def _collapsed(scored: Scored, pairs: Paired) -> Conclusion | None:
    """The conclusion if models of an arm learned nothing, which makes any difference meaningless."""
    stated, total = [], 0
    for k, arm in enumerate(pairs.final.arms):
        rows = pairs.final.rows[:, k]
        rows = rows[rows >= 0]
        n = int(scored.collapsed[rows].sum())
        if n:
            stated.append(f"{n} of {len(rows)} models of {arm}")
            total += n
    if not stated:
        return None
    do = "predicts one class or scores" if total == 1 else "predict one class or score"
    why = f"{' and '.join(stated)} {do} no better than a constant guess"
    return Conclusion(verdict=Verdict.COLLAPSED, reason=why)


def _same(arm: Arm, pairs: Paired, why: str) -> Contrast:
    """The entry of an arm whose runs are another's."""
    nothing = Estimate(n=len(pairs))
    return Contrast(
        arm=arm,
        unpaired=pairs.final.unpaired[1],
        units=pairs.n_units,
        unit=pairs.unit,
        architectures=_architectures(pairs),
        primary=False,
        id=nothing,
        ood=nothing,
        robustness=nothing,
        p_adjusted=None,
        here=nothing,
        lines=(),
        epochs=(),
        without_largest=None,
        choices=Choices(choices=()),
        smallest=None,
        slope=nothing,
        checks=(),
        conclusion=Conclusion(verdict=Verdict.SAME_RUNS, reason=why),
    )


# --- Ordered factors -----------------------------------------------------------------------------------------


def ordered_trends(
    scored: Scored, arms: Sequence[Arm], judgement: Judgement, effects: Sequence[Contrast] = ()
) -> tuple[OrderedTrend, ...]:
    """A test along the levels of every factor of ``arms`` that has at least three different numbers as levels.

    There is no estimate if one of them is the same runs as another arm, or collapsed, by its entry in ``effects``.
    """
    found = []
    unfit = {
        one.arm.name: f"{one.arm.name}: {one.conclusion.in_words()}"
        for one in effects
        if one.conclusion.verdict in (Verdict.SAME_RUNS, Verdict.COLLAPSED)
    }
    for factor in dict.fromkeys(arm.factor for arm in arms):
        levels = {arm.name: arm.level for arm in arms if arm.factor == factor and arm.name in scored.table.arm}
        names = in_order(levels)
        if names:
            order = tuple(levels[name] for name in names)
            why = "; ".join(unfit[name] for name in names if name in unfit)
            found.append(ordered_trend(scored, names, judgement, factor=factor, levels=order, why=why))
    return tuple(found)


def in_order(levels: Mapping[str, str]) -> tuple[str, ...]:
    """The arms whose level is a number ("150000", "150,000", "150K"), in ascending order; others are left out.

    Empty if fewer than three are left or two have the same level.
    """
    found = {arm: NUMBER.fullmatch(level.strip()) for arm, level in levels.items()}
    sizes = {arm: float(m[1].replace(",", "")) * MANY[m[2].lower()] for arm, m in found.items() if m}
    if len(sizes) < FEWEST_LEVELS or len(set(sizes.values())) < len(sizes):
        return ()
    return tuple(sorted(sizes, key=lambda arm: sizes[arm]))


def ordered_trend(
    scored: Scored, arms: Sequence[str], judgement: Judgement, *, factor: str, levels: tuple[str, ...], why: str = ""
) -> OrderedTrend:
    """Test effective robustness at the compared epoch for a trend over ``arms``, in their order.

    The estimate is the rise from an arm to the next (``uncertainty.step``), with the error of every other difference;
    there is none if ``why`` says so.
    """
    pairs = paired(scored, arms, judgement)
    line = replace(scored.line, slope=judgement.line)
    new = judgement.clusters == "new"
    why = why or (unbridged(pairs, line) if len(pairs) else "")
    found = Estimate(n=len(pairs), note=why)
    if not why:
        along = partial(step, line=line)
        found = estimate(along, pairs, line, scored.clusters, new_clusters=new, level=judgement.level)
    conclusion = conclude(found, judgement.margin, level=judgement.level, units=pairs.n_units, unit=pairs.unit)
    if found.side:
        conclusion = replace(conclusion, reason="")  # the margin is that of an arm, not of a step
    return OrderedTrend(factor=factor, levels=levels, step=found, conclusion=conclusion)
