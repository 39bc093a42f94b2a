"""Comparison -> tables of differences between arms, of their checks, and of ordered factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis.formatting import NONE, estimate, in_full, p_value, plain, signed
from ..analysis.results import AtEpoch, Comparison, Contrast, Estimate, OrderedTrend, Variance
from .score_tables import when
from .stored import by_part
from .table_model import Table, interval, table_of


def first_table(effects: Sequence[Contrast], comparison: Comparison) -> Table:
    """The table of the first screen, in short words; it has no files, since the table of effects has all of it."""
    columns = (
        ("Arm", "name"),
        ("ID", "number"),
        ("OOD", "number"),
        ("ER (interval)", "number"),
        ("Verdict", "text"),
    )
    caption = f"Arm minus {comparison.baseline}, percentage points."

    def row(e: Contrast) -> tuple[str, Sequence[str], Mapping[str, Any]]:
        name = e.arm.name
        return name, (name, signed(e.id.value), signed(e.ood.value), estimate(e.robustness), in_short(e)), {}

    return table_of("first", caption, columns, map(row, effects))


def in_short(effect: Contrast) -> str:
    """The verdict without its reason."""
    return effect.conclusion.verdict.value + (" (exploratory)" if effect.exploratory else "")


def effects_table(comparison: Comparison) -> Table:
    """Differences of every arm from the baseline, and what they support."""
    columns = (
        ("Arm", "name"),
        ("Factor", "text"),
        ("Level", "text"),
        ("Independent runs", "number"),
        ("ID, difference in points (interval)", "number"),
        ("OOD, difference in points (interval)", "number"),
        ("ER, difference in points (interval)", "number"),
        ("p", "number"),
        ("Adjusted p", "number"),
        ("What the runs support", "text"),
        ("Smallest effect found (points)", "number"),
    )

    def row(e: Contrast) -> tuple[str, Sequence[str], Mapping[str, Any]]:
        name, factor, level = e.arm.name, e.arm.factor, e.arm.level
        verdict = e.conclusion.in_words() + (" (exploratory)" if e.exploratory else "")
        intervals = estimate(e.id), estimate(e.ood), estimate(e.robustness)
        values = p_value(e.robustness.p), p_value(e.p_adjusted) if e.primary else NONE
        record: dict[str, Any] = {"arm": name, "factor": factor, "level": level, "blocks": e.n, "units": e.units}
        record |= {"unpaired_runs": e.unpaired, "primary": e.primary}
        record |= {**interval("id_points", e.id), **interval("ood_points", e.ood)}
        record |= {**interval("effective_robustness_points", e.robustness)}
        parts = e.robustness.parts
        record |= {"error_points": parts and parts.error, "freedom": parts and parts.freedom}
        record |= {"p": e.robustness.p, "p_adjusted": e.p_adjusted, "verdict": verdict, "smallest_points": e.smallest}
        return name, (name, factor, level, str(e.units), *intervals, *values, verdict, plain(e.smallest)), record

    return table_of("effects", _effects_caption(comparison), columns, map(row, comparison.effects))


def _effects_caption(comparison: Comparison) -> str:
    """What the table of effects shows; of columns that are left out it says nothing."""
    effects, metric, judgement = comparison.effects, comparison.words.metric, comparison.judgement
    tests = sum(effect.primary for effect in effects)
    caption = f"Arm minus {comparison.baseline}{when(comparison)}, {comparison.scope}: {metric}"
    if any(effect.robustness.value is not None for effect in effects):
        caption += f", and effective robustness (ER), which is OOD {metric} at equal ID {metric}"
    if with_intervals(effects):
        caption += f". Intervals are {judgement.confidence}"
        caption += f", simultaneous over the {tests} primary comparisons" if tests > 1 else ""
    if any(effect.primary and effect.p_adjusted is not None for effect in effects):
        caption += f"; adjusted p agrees with them: it is below {judgement.level:g} if the interval of ER leaves out 0"
    if any(effect.smallest is not None for effect in effects):
        caption += ". The last column is the effect that 80% of such studies find"
    return f"{caption}."


def with_intervals(effects: Sequence[Contrast]) -> bool:
    """Whether any of the differences has an interval."""
    return any(one.low is not None for effect in effects for one in (effect.id, effect.ood, effect.robustness))


def epochs_table(comparison: Comparison) -> Table:
    """The differences at every epoch."""
    columns = [("Arm", "name"), ("Epoch", "number")]
    sure = comparison.judgement.confidence
    columns += [(f"{what}, difference in points ({sure} interval)", "number") for what in ("ID", "OOD", "ER")]

    def row(effect: Contrast, at: AtEpoch) -> tuple[str, Sequence[str], Mapping[str, Any]]:
        cells = (effect.arm.name, str(at.epoch), *map(estimate, (at.id, at.ood, at.robustness)))
        record: dict[str, Any] = {"arm": effect.arm.name, "epoch": at.epoch, **interval("id_points", at.id)}
        record |= {**interval("ood_points", at.ood), **interval("effective_robustness_points", at.robustness)}
        return effect.arm.name, cells, record

    several = [effect for effect in comparison.effects if len(effect.epochs) > 1]
    caption = (
        f"Differences from {comparison.baseline} at every epoch that all paired runs evaluated"
        f"{'; each interval is on its own' if with_intervals(several) else ''}."
    )
    return table_of("epochs", caption, columns, [row(effect, at) for effect in several for at in effect.epochs])


def checks_table(comparison: Comparison) -> Table:
    """What else was estimated of each difference, which decides nothing."""
    ways, others = (
        tuple(dict.fromkeys(one.name for effect in comparison.effects for one in by_part(effect)[part]))
        for part in ("sensitivity", "checks")
    )
    sure = comparison.judgement.confidence
    columns = (
        ("Arm", "name"),
        (f"Line between models: slope ({sure} interval)", "number"),
        ("Line between models: ER, difference in points (interval)", "number"),
        (f"Line within runs: slope ({sure} interval)", "number"),
        ("Line within runs: ER, difference in points (interval)", "number"),
        (f"ER on these {comparison.words.clusters}, points (interval)", "number"),
        (f"Slope within runs, difference ({sure} interval)", "number"),
        ("p of slopes", "number"),
        ("Shares of the variance (%)", "text"),
        (f"Without the largest {comparison.words.cluster}, points", "number"),
        ("Other choices: same sign, same side of 0 (%)", "text"),
        ("ER difference otherwise, points", "text"),
        ("Mixed model", "text"),
        *((name, "text") for name in others),
    )

    def row(e: Contrast) -> tuple[str, Sequence[str], Mapping[str, Any]]:
        by_slope = {one.slope: one for one in e.lines}
        lines: list[str] = []
        record: dict[str, Any] = {"arm": e.arm.name, "factor": e.arm.factor, "level": e.arm.level}
        for slope in ("between", "within"):
            one = by_slope.get(slope)
            fitted, along = (one.fitted, one.estimate) if one else (Estimate(), Estimate())
            lines += [estimate(fitted, 2, plain), estimate(along)]
            record |= {**interval(f"slope_{slope}", fitted), **interval(f"points_{slope}", along)}
        parts = by_part(e)
        values = {one.name: one.estimate.value for one in parts["sensitivity"]}
        otherwise = "; ".join(f"{way}: {signed(value)}" for way, value in values.items())
        mixed = "; ".join(in_full(one.estimate) for one in parts["mixed_model"])
        found = {one.name: one.estimate for one in parts["checks"]}
        slopes = estimate(e.slope, 2), p_value(e.slope.p)
        shares = _shares(e, comparison.words.clusters, known=bool(comparison.clusters))
        at_hand = e.here if comparison.clusters else Estimate()  # else the difference itself is about them
        cells = (
            e.arm.name,
            *lines,
            estimate(at_hand),
            *slopes,
            shares,
            signed(e.without_largest),
            _choices(e),
            otherwise,
            mixed,
        )
        record |= {**interval("points_on_these_clusters", at_hand)}
        record |= {**interval("slope_difference", e.slope), "slope_p": e.slope.p, "variance": shares}
        record |= {"points_without_largest_cluster": e.without_largest, "choices": _choices(e)}
        record |= {"margin_points": comparison.margin, "mixed_model": mixed}
        record |= {f"otherwise: {way}": values.get(way) for way in ways}
        for name in others:
            record |= {**interval(name, found[name]), f"{name}_p": found[name].p}
        return e.arm.name, (*cells, *(in_full(found[name]) for name in others)), record

    known = [effect for effect in comparison.effects if effect.lines]
    caption = (
        f"Checks of each difference from {comparison.baseline}: along either line, on the test images at hand, where"
        " its uncertainty comes from, and the results of other analyses. They decide nothing,"
        " except that a verdict which changes with the line is none."
    )
    return table_of("checks", caption, columns, map(row, known))


def sources(parts: Variance, clusters: str) -> dict[str, float]:
    """What the variance of a difference comes from, in words that name its clusters."""
    both = parts.id_clusters + parts.ood_clusters
    return {"runs": parts.units, "line": parts.line, clusters: max(both - parts.cells, 0.0)}


def _choices(effect: Contrast) -> str:
    """In how many combinations of choices the difference and its interval are on the side of those reported."""
    shares, values = effect.choices.share(effect.robustness), effect.choices.values
    if shares is None:
        return NONE
    sign, side = (f"{100 * share:.0f}" for share in shares)
    return f"{sign}, {side} of {len(values)} ({signed(min(values))} to {signed(max(values))})"


def _shares(effect: Contrast, clusters: str, *, known: bool) -> str:
    """What the variance of a difference is made of, in percent of the sum of its parts that are ``known``."""
    if effect.robustness.parts is None:
        return NONE
    named = sources(effect.robustness.parts, clusters)
    if not known:
        del named[clusters]
    total = sum(named.values())
    return ", ".join(f"{name} {100 * value / total:.0f}" for name, value in named.items()) if total else NONE


def ordered_table(comparison: Comparison) -> Table:
    """The tests of ordered factors."""
    sure = comparison.judgement.confidence
    columns = (
        ("Factor", "name"),
        ("Levels in order", "text"),
        ("Blocks", "number"),
        (f"Rise of ER from a level to the next, points ({sure} interval)", "number"),
        ("p", "number"),
        ("What the test supports", "text"),
    )

    def row(o: OrderedTrend) -> tuple[None, Sequence[str], Mapping[str, Any]]:
        levels = " → ".join(o.levels)
        n, p, verdict = o.step.n, o.step.p, o.in_words()
        record: dict[str, Any] = {"factor": o.factor, "levels": levels, "blocks": n, **interval("rise_points", o.step)}
        record |= {"p": p, "verdict": verdict}
        return None, (o.factor, levels, str(n), estimate(o.step), p_value(p), verdict), record

    caption = "One test per factor: whether effective robustness rises or falls along its levels."
    return table_of("ordered", caption, columns, map(row, comparison.ordered))
