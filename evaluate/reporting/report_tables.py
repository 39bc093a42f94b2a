"""Comparison -> tables: the same values rounded for the page, Markdown and LaTeX, and in full for CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from markupsafe import Markup, escape

from synthgen.common.printing import printable

from ..analysis.counts import FEW_IMAGES
from ..analysis.formatting import NONE, estimate, in_full, p_value, percent, plain, signed
from ..analysis.results import (
    ArmSummary,
    AtEpoch,
    Comparison,
    Contrast,
    Estimate,
    Location,
    OrderedTrend,
    Row,
    Variance,
)
from .stored import by_part
from .tables import MARKDOWN, written


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column for readers."""

    title: str  # with the unit
    kind: str  # "name", "number", "code" or "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table in two forms: rounded for readers, and in full for programs."""

    name: str  # of its files
    caption: str
    columns: tuple[Column, ...]
    cells: tuple[tuple[str, ...], ...]  # [rows][columns]
    arms: tuple[str | None, ...]  # [rows], the arm whose mark is shown before the row
    records: tuple[Mapping[str, Any], ...]  # for CSV; scores are fractions, differences percentage points


def tables(comparison: Comparison) -> dict[str, Table]:
    """The tables by name: arms and runs always, the others if they have rows.

    Tables of effects against the reference have the names of those against the baseline, with "-reference".
    """
    made = [_arms(comparison), _effects(comparison), _epochs(comparison), _checks(comparison), _ordered(comparison)]
    if comparison.reference:
        against = replace(comparison, baseline=comparison.reference.arm, effects=comparison.reference.effects)
        made += [replace(table, name=f"{table.name}-reference") for table in (_effects(against), _checks(against))]
    made += [_worst(comparison), _clusters(comparison), _runs(comparison)]
    return {table.name: table for table in made if table.cells}


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

    return _table("first", caption, columns, map(row, effects))


def in_short(effect: Contrast) -> str:
    """The verdict without its reason."""
    return effect.conclusion.verdict.value + ("" if effect.primary or not effect.robustness.n else " (exploratory)")


def table_files(table: Table) -> dict[str, bytes]:
    """File name -> content, as CSV, Markdown and LaTeX."""
    titles = [column.title for column in table.columns]
    rows = [dict(zip(titles, cells, strict=True)) for cells in table.cells]
    caption = printable(" ".join(table.caption.split()))
    needs = "% Needs the package booktabs; names beyond Latin letters need lualatex or xelatex."
    texts = {
        "csv": written([{k: "" if v is None else v for k, v in record.items()} for record in table.records], "csv"),
        "md": f"{caption.translate(MARKDOWN)}\n\n{written(rows, 'markdown')}",
        "tex": f"{needs}\n% {caption}\n{written(rows, 'latex')}",
    }
    return {f"{table.name}.{kind}": f"{text}\n".encode() for kind, text in texts.items()}


def to_html(comparison: Comparison) -> str:
    """The comparison for a notebook: its sentences and the tables of arms and effects, as HTML."""
    made = tables(comparison)
    parts = [f"<p><b>Pre-training image sets compared on {_escaped(comparison.task)}</b></p>"]
    parts += [f"<p>{_escaped(sentence)}</p>" for sentence in comparison.summary]
    for table in (made[name] for name in ("arms", "effects", "effects-reference") if name in made):
        parts.append(f"<table><caption style='text-align:left'>{_escaped(table.caption)}</caption>")
        parts.append(
            f"<thead><tr>{''.join(f'<th>{_escaped(c.title)}</th>' for c in table.columns)}</tr></thead><tbody>"
        )
        parts += [f"<tr>{''.join(f'<td><bdi>{_escaped(cell)}</bdi></td>' for cell in row)}</tr>" for row in table.cells]
        parts.append("</tbody></table>")
    return f"<div style='overflow-x:auto'>{''.join(parts)}</div>"


def _escaped(text: str) -> Markup:
    return escape(printable(text))


def is_published(row: Row) -> bool:
    """Whether the row is a published score, without seed, epoch or images."""
    return row.n_id is None


def _table(
    name: str,
    caption: str,
    columns: Sequence[tuple[str, str]],
    rows: Iterable[tuple[str | None, Sequence[str], Mapping[str, Any]]],
) -> Table:
    """A table of ``rows`` of arm, cells and record; columns without any value are left out for readers."""
    rows = list(rows)
    kept = [i for i in range(len(columns)) if any(cells[i] not in ("", NONE) for _, cells, _ in rows)]
    return Table(
        name=name,
        caption=caption,
        columns=tuple(Column(title=columns[i][0], kind=columns[i][1]) for i in kept),
        cells=tuple(tuple(cells[i] for i in kept) for _, cells, _ in rows),
        arms=tuple(arm for arm, _, _ in rows),
        records=tuple(record for _, _, record in rows),
    )


def _interval(name: str, value: Estimate) -> dict[str, float | None]:
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def _mean_sd(mean: float | None, sd: float | None) -> str:
    return percent(mean) if sd is None else f"{percent(mean)} ± {percent(sd)}"


def _arms(comparison: Comparison) -> Table:
    published = all(map(is_published, comparison.rows))
    reference = comparison.reference
    beside = dict(reference.robustness) if reference else {}
    columns = (
        ("Arm", "name"),
        ("Factor", "text"),
        ("Level", "text"),
        ("Images", "text"),
        ("Models" if published else "Finished runs", "number"),
        ("ID macro-F1 (%)", "number"),
        ("OOD macro-F1 (%)", "number"),
        ("ER (points)", "number"),
        (f"ER from {reference.arm} (points)" if reference else "", "number"),
        (f"Trend slope ({comparison.judgement.confidence} interval)", "number"),
        ("Trend R²", "number"),
        ("Trend points", "number"),
    )

    def row(s: ArmSummary) -> tuple[str, Sequence[str], Mapping[str, Any]]:
        name, trend = s.arm.name, s.trend
        several = len(comparison.arms) > 1
        cells = (
            f"{name} (baseline)" if several and name == comparison.baseline else name,
            s.arm.factor,
            s.arm.level,
            s.arm.description,
            str(s.finished) if published else f"{s.finished} of {s.planned}",
            _mean_sd(s.id_mean, s.id_sd),
            _mean_sd(s.ood_mean, s.ood_sd),
            signed(s.effective_robustness) if several else NONE,
            signed(beside.get(name)),
            estimate(s.slope, 2, plain),
            NONE if trend is None or trend.r2 is None else f"{trend.r2:.2f}",
            str(trend.n) if trend else NONE,
        )
        record: dict[str, Any] = {
            "arm": name,
            "factor": s.arm.factor,
            "level": s.arm.level,
            "images": s.arm.description,
        }
        record |= {key: getattr(s, key) for key in ("planned", "finished", "id_mean", "id_sd", "ood_mean", "ood_sd")}
        record["effective_robustness"] = s.effective_robustness
        record |= {"effective_robustness_from_reference": beside.get(name)}
        record |= {"trend_scale": trend.scale if trend else None, **_interval("trend_slope", s.slope)}
        record |= {f"trend_{key}": getattr(trend, key, None) for key in ("intercept", "r2", "n")}
        record |= {"worst_location": s.worst_location, "extrapolated": s.extrapolated}
        return name, cells, record

    caption = (
        f"Macro-F1 as published: mean ± sd over models. Trends are on the {comparison.scale} scale."
        if published
        else f"What models were pre-trained on, and macro-F1 {comparison.judgement.when}: mean ± sd over finished runs,"
        f" architectures and seeds together. Trends are on the {comparison.scale} scale, one point per model; ER"
        " is effective robustness, here from the trend of the baseline"
        f"{f' or of {reference.arm}' if reference else ''}."
    )
    return _table("arms", caption, columns, map(row, comparison.arms))


def _effects(comparison: Comparison) -> Table:
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
        verdict = e.conclusion.in_words() + ("" if e.primary or not e.robustness.n else " (exploratory)")
        intervals = estimate(e.id), estimate(e.ood), estimate(e.robustness)
        values = p_value(e.robustness.p), p_value(e.p_adjusted) if e.primary else NONE
        record: dict[str, Any] = {"arm": name, "factor": factor, "level": level, "blocks": e.n, "units": e.units}
        record |= {"unpaired_runs": e.unpaired, "primary": e.primary}
        record |= {**_interval("id_points", e.id), **_interval("ood_points", e.ood)}
        record |= {**_interval("effective_robustness_points", e.robustness)}
        parts = e.robustness.parts
        record |= {"error_points": parts and parts.error, "freedom": parts and parts.freedom}
        record |= {"p": e.robustness.p, "p_adjusted": e.p_adjusted, "verdict": verdict, "smallest_points": e.smallest}
        return name, (name, factor, level, str(e.units), *intervals, *values, verdict, plain(e.smallest)), record

    tests, judgement = sum(effect.primary for effect in comparison.effects), comparison.judgement
    caption = (
        f"Arm minus {comparison.baseline} {judgement.when}, {comparison.scope}: macro-F1, and effective robustness"
        f" (ER), which is OOD macro-F1 at equal ID macro-F1. Intervals are {judgement.confidence}"
        f"{f', simultaneous over the {tests} primary comparisons' if tests > 1 else ''}; adjusted p agrees with them:"
        f" it is below {judgement.level:g} if the interval of ER leaves out 0. The last column is the effect that 80%"
        " of such studies find."
    )
    return _table("effects", caption, columns, map(row, comparison.effects))


def _epochs(comparison: Comparison) -> Table:
    columns = [("Arm", "name"), ("Epoch", "number")]
    columns += [
        (f"{what}, difference in points ({comparison.judgement.confidence} interval)", "number")
        for what in ("ID", "OOD", "ER")
    ]

    def row(effect: Contrast, at: AtEpoch) -> tuple[str, Sequence[str], Mapping[str, Any]]:
        cells = (effect.arm.name, str(at.epoch), *map(estimate, (at.id, at.ood, at.robustness)))
        record: dict[str, Any] = {"arm": effect.arm.name, "epoch": at.epoch, **_interval("id_points", at.id)}
        record |= {**_interval("ood_points", at.ood), **_interval("effective_robustness_points", at.robustness)}
        return effect.arm.name, cells, record

    several = [effect for effect in comparison.effects if len(effect.epochs) > 1]
    caption = (
        f"Differences from {comparison.baseline} at every epoch that all paired runs evaluated; each interval is on its"
        " own."
    )
    return _table("epochs", caption, columns, [row(effect, at) for effect in several for at in effect.epochs])


def _checks(comparison: Comparison) -> Table:
    ways, others = (
        tuple(dict.fromkeys(one.name for effect in comparison.effects for one in by_part(effect)[part]))
        for part in ("sensitivity", "checks")
    )
    sure = comparison.judgement.confidence
    columns = (
        ("Arm", "name"),
        (f"Line between models: slope ({sure} interval)", "number"),
        ("ER, difference in points (interval)", "number"),
        (f"Line within runs: slope ({sure} interval)", "number"),
        ("ER, difference in points (interval) ", "number"),
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
            record |= {**_interval(f"slope_{slope}", fitted), **_interval(f"points_{slope}", along)}
        parts = by_part(e)
        values = {one.name: one.estimate.value for one in parts["sensitivity"]}
        otherwise = "; ".join(f"{way}: {signed(value)}" for way, value in values.items())
        mixed = "; ".join(in_full(one.estimate) for one in parts["mixed_model"])
        found = {one.name: one.estimate for one in parts["checks"]}
        slopes = estimate(e.slope, 2), p_value(e.slope.p)
        shares = _shares(e, comparison.words.clusters)
        here = estimate(e.here)
        cells = (e.arm.name, *lines, here, *slopes, shares, signed(e.without_largest), _choices(e), otherwise, mixed)
        record |= {**_interval("points_on_these_clusters", e.here)}
        record |= {**_interval("slope_difference", e.slope), "slope_p": e.slope.p, "variance": shares}
        record |= {"points_without_largest_cluster": e.without_largest, "choices": _choices(e)}
        record |= {"margin_points": comparison.margin, "mixed_model": mixed}
        record |= {f"otherwise: {way}": values.get(way) for way in ways}
        for name in others:
            record |= {**_interval(name, found[name]), f"{name}_p": found[name].p}
        return e.arm.name, (*cells, *(in_full(found[name]) for name in others)), record

    known = [effect for effect in comparison.effects if effect.lines]
    caption = (
        f"Checks of each difference from {comparison.baseline}: along either line, on the test images at hand, where"
        " its uncertainty comes from, and the results of other analyses. They decide nothing,"
        " except that a verdict which changes with the line is none."
    )
    return _table("checks", caption, columns, map(row, known))


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


def _shares(effect: Contrast, clusters: str) -> str:
    """What the variance of a difference is made of, in percent of the sum of its parts."""
    if effect.robustness.parts is None:
        return NONE
    named = sources(effect.robustness.parts, clusters)
    total = sum(named.values())
    return ", ".join(f"{name} {100 * value / total:.0f}" for name, value in named.items()) if total else NONE


def _ordered(comparison: Comparison) -> Table:
    columns = (("Factor", "name"), ("Levels in order", "text"), ("Blocks", "number"), ("p", "number"))

    def row(o: OrderedTrend) -> tuple[None, Sequence[str], Mapping[str, Any]]:
        levels = " → ".join(o.levels)
        n, p, verdict = o.step.n, o.step.p, o.in_words()
        record: dict[str, Any] = {"factor": o.factor, "levels": levels, "blocks": n, "p": p, "verdict": verdict}
        return None, (o.factor, levels, str(n), p_value(p), verdict), record

    caption = "One test per factor: whether effective robustness rises or falls along its levels."
    return _table("ordered", caption, (*columns, ("What the test supports", "text")), map(row, comparison.ordered))


def _worst(comparison: Comparison) -> Table:
    words = comparison.words
    columns = (
        ("Arm", "name"),
        ("Runs", "number"),
        (f"OOD macro-F1 of all {words.clusters} (%)", "number"),
        (f"of the worst {words.cluster} (%), mean over runs", "number"),
        ("lowest run", "number"),
        ("highest run", "number"),
    )

    def row(s: ArmSummary) -> tuple[str, Sequence[str], Mapping[str, Any]]:
        name = s.arm.name
        found = [
            r.worst_location for r in comparison.rows if r.arm == name and r.final and r.worst_location is not None
        ]
        ends = (min(found), max(found)) if found else (None, None)
        record: dict[str, Any] = {
            "arm": name,
            "runs": len(found),
            "ood": s.ood_mean,
            "worst_location": s.worst_location,
        }
        record |= {"worst_location_lowest": ends[0], "worst_location_highest": ends[1]}
        values = (s.ood_mean, s.worst_location, *ends)
        return name, (name, str(len(found)), *map(percent, values)), record

    known = [summary for summary in comparison.arms if summary.worst_location is not None]
    caption = (
        f"OOD macro-F1 {comparison.judgement.when}, over all {words.clusters} of the OOD images and over the one where"
        " a run has its lowest score."
    )
    return _table("worst", caption, columns, map(row, known))


def _clusters(comparison: Comparison) -> Table:
    words = comparison.words
    names = [summary.arm.name for summary in comparison.arms]
    columns = [(_capital(words.cluster), "name"), ("Images", "number"), *((f"{name} (%)", "number") for name in names)]

    def row(one: Location) -> tuple[None, Sequence[str], Mapping[str, Any]]:
        record: dict[str, Any] = {"location": one.location, "images": one.n_images, "few_images": one.few}
        record |= {f"macro_f1: {name}": value for name, value in zip(names, one.macro_f1, strict=True)}
        few = " (few)" if one.few else ""
        return None, (str(one.location), f"{one.n_images:,}{few}", *map(percent, one.macro_f1)), record

    caption = (
        f"OOD macro-F1 at every {words.cluster} of the OOD images, over the classes that occur there: mean over runs"
        f" {comparison.judgement.when}. {_capital(words.clusters)} with fewer than {FEW_IMAGES} images are never the"
        " worst, since theirs is 0 or 1 by chance."
    )
    return _table("locations", caption, columns, map(row, sorted(comparison.locations, key=lambda one: -one.n_images)))


def _capital(words: str) -> str:
    """The text with a capital first letter."""
    return words[:1].upper() + words[1:]


def _runs(comparison: Comparison) -> Table:
    published = all(map(is_published, comparison.rows))
    columns = [("Arm", "name"), ("Factor", "text"), ("Level", "text"), ("Architecture", "text"), ("Seed", "number")]
    columns.append(("Epoch", "number"))
    for split in ("ID", "OOD"):
        columns += [(f"{split} {what}", "number") for what in ("macro-F1 (%)", "recall (%)", "accuracy (%)", "images")]
    columns += [
        (f"Worst {comparison.words.cluster} (%)", "number"),
        ("ER (points)", "number"),
        ("Pre-training run", "code"),
    ]
    columns.append(("Source", "text") if published else ("Fine-tuning run", "code"))

    def row(r: Row) -> tuple[str, Sequence[str], Mapping[str, Any]]:
        record = asdict(r)
        for split in ("id", "ood"):
            record |= {f"{split}_{key}": value for key, value in record.pop(split).items()}
        when = (NONE, NONE) if is_published(r) else (str(r.seed), str(r.epoch))
        cells = [r.arm, r.factor, r.level, r.architecture, *when]
        for scores, n in ((r.id, r.n_id), (r.ood, r.n_ood)):
            cells += [percent(scores.macro_f1), percent(scores.recall), percent(scores.accuracy)]
            cells.append(NONE if n is None else f"{n:,}")
        robustness = signed(r.effective_robustness) if len(comparison.arms) > 1 else NONE
        cells += [percent(r.worst_location), robustness, r.pretrain or NONE, r.finetune]
        return r.arm, cells, record

    caption = "Scores as published." if published else "Every finished run at its last evaluated epoch."
    final = _table("runs", caption, columns, [row(r) for r in comparison.rows if r.final])
    return replace(final, records=tuple(row(r)[2] for r in comparison.rows))
