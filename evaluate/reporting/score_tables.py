"""Comparison -> tables of the scores of arms, runs and clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

from ..analysis.counts import FEW_IMAGES
from ..analysis.formatting import NONE, estimate, percent, plain, signed
from ..analysis.results import ArmSummary, Comparison, Location, Row
from .table_model import Table, capital, interval, table_of

RUNS_AT = {
    "last": "at its last evaluated epoch",
    "best": "at its best epoch",
    "mean": "with its mean scores and mean ER over all its evaluated epochs",
}


def is_published(row: Row) -> bool:
    """Whether the row is a published score, without seed, epoch or images."""
    return row.n_id is None


def of_runs(comparison: Comparison) -> list[Row]:
    """A row per run: that of its compared epoch, or the means over all its epochs if those are what is compared."""
    if comparison.judgement.epoch != "mean":
        return [row for row in comparison.rows if row.final]
    runs: dict[tuple[str, str, int], list[Row]] = {}
    for row in comparison.rows:
        runs.setdefault((row.arm, row.architecture, row.seed), []).append(row)
    return [_averaged(own) for own in runs.values()]


def _averaged(rows: Sequence[Row]) -> Row:
    """The last row of a run with the means over all its rows as scores."""
    ids, oods = (
        replace(scores[0], **{key: fmean(getattr(one, key) for one in scores) for key in asdict(scores[0])})
        for scores in ([row.id for row in rows], [row.ood for row in rows])
    )
    known = [row.effective_robustness for row in rows if row.effective_robustness is not None]
    worst = [row.worst_location for row in rows if row.worst_location is not None]
    return replace(
        rows[-1],
        id=ids,
        ood=oods,
        effective_robustness=fmean(known) if known else None,
        worst_location=fmean(worst) if worst else None,
    )


def when(comparison: Comparison) -> str:
    """At which epoch arms are compared, in words after a blank; empty for published scores, whose epoch is unknown."""
    return "" if all(map(is_published, comparison.rows)) else f" {comparison.judgement.when}"


def _mean_sd(mean: float | None, sd: float | None) -> str:
    return percent(mean) if sd is None else f"{percent(mean)} ± {percent(sd)}"


def arms_table(comparison: Comparison) -> Table:
    """Every arm: its images, mean scores and trend."""
    published = all(map(is_published, comparison.rows))
    reference = comparison.reference
    beside = dict(reference.robustness) if reference else {}
    columns = (
        ("Arm", "name"),
        ("Factor", "text"),
        ("Level", "text"),
        ("Images", "text"),
        ("Models" if published else "Finished runs", "number"),
        (f"ID {comparison.words.metric} (%)", "number"),
        (f"OOD {comparison.words.metric} (%)", "number"),
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
        record |= {"trend_scale": trend.scale if trend else None, **interval("trend_slope", s.slope)}
        record |= {f"trend_{key}": getattr(trend, key, None) for key in ("intercept", "r2", "n")}
        record |= {"worst_location": s.worst_location, "extrapolated": s.extrapolated}
        return name, cells, record

    metric, scale = comparison.words.metric, comparison.scale
    caption = (
        f"{capital(metric)} as published: mean ± sd over models. Trends are on the {scale} scale."
        if published
        else f"What models were pre-trained on, and {metric} {comparison.judgement.when}: mean ± sd over finished runs,"
        f" architectures and seeds together. Trends are on the {scale} scale, one point per model; ER"
        " is effective robustness, here from the trend of the baseline"
        f"{f' or of {reference.arm}' if reference else ''}."
    )
    return table_of("arms", caption, columns, map(row, comparison.arms))


def worst_table(comparison: Comparison) -> Table:
    """Every arm at the OOD cluster where its runs score lowest."""
    words = comparison.words
    columns = (
        ("Arm", "name"),
        ("Runs", "number"),
        (f"OOD {words.metric} of all {words.clusters} (%)", "number"),
        (f"of the worst {words.cluster} (%), mean over runs", "number"),
        ("lowest run", "number"),
        ("highest run", "number"),
    )

    runs = of_runs(comparison)

    def row(s: ArmSummary) -> tuple[str, Sequence[str], Mapping[str, Any]]:
        name = s.arm.name
        found = [r.worst_location for r in runs if r.arm == name and r.worst_location is not None]
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
        f"OOD {words.metric} {comparison.judgement.when}, over all {words.clusters} of the OOD images and over"
        " the one where a run has its lowest score."
    )
    return table_of("worst", caption, columns, map(row, known))


def clusters_table(comparison: Comparison) -> Table:
    """Every OOD cluster, the largest first."""
    words = comparison.words
    names = [summary.arm.name for summary in comparison.arms]
    columns = [(capital(words.cluster), "name"), ("Images", "number"), *((f"{name} (%)", "number") for name in names)]

    def row(one: Location) -> tuple[None, Sequence[str], Mapping[str, Any]]:
        record: dict[str, Any] = {"location": one.location, "images": one.n_images, "few_images": one.few}
        record |= {f"macro_f1: {name}": value for name, value in zip(names, one.macro_f1, strict=True)}
        few = " (few)" if one.few else ""
        return None, (str(one.location), f"{one.n_images:,}{few}", *map(percent, one.macro_f1)), record

    caption = (
        f"OOD {words.metric} at every {words.cluster} of the OOD images, over the classes that occur there: mean over"
        f" runs {comparison.judgement.when}. {capital(words.clusters)} with fewer than {FEW_IMAGES} images are never"
        " the worst, since theirs is 0 or 1 by chance."
    )
    return table_of(
        "locations", caption, columns, map(row, sorted(comparison.locations, key=lambda one: -one.n_images))
    )


def runs_table(comparison: Comparison) -> Table:
    """Every run at its compared epoch, or averaged over all, for readers; at every epoch for programs."""
    published, metric = all(map(is_published, comparison.rows)), comparison.words.metric
    epoch = comparison.judgement.epoch
    columns = [("Arm", "name"), ("Factor", "text"), ("Level", "text"), ("Architecture", "text"), ("Seed", "number")]
    columns.append(("Last epoch" if epoch == "mean" else "Epoch", "number"))
    for split in ("ID", "OOD"):
        columns += [(f"{split} {what}", "number") for what in (f"{metric} (%)", "recall (%)", "accuracy (%)", "images")]
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

    caption = "Scores as published." if published else f"Every finished run {RUNS_AT[epoch]}."
    for_readers = table_of("runs", caption, columns, map(row, of_runs(comparison)))
    return replace(for_readers, records=tuple(row(r)[2] for r in comparison.rows))
