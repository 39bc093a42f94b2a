"""Comparison -> the data that the page's script draws: places on every scale, and the words for every point."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..analysis.formatting import NONE, percent, signed
from ..analysis.results import ArmSummary, Comparison, Row
from ..analysis.trends import Scale
from .figure_style import (
    Axis,
    Frame,
    coincident,
    frame,
    in_front,
    line_on_scale,
    looks,
    marked_epoch,
    on_scale,
    trend_line,
)
from .score_tables import is_published


def scatter_data(comparison: Comparison) -> dict[str, Any]:
    """Values for JSON. Places are fractions of the axes, 0 to 1 from the left and the bottom, to 4 digits.

    ``scales``: for each scale its axes, the line y = x, the points that lie ``together`` at one place, and for each
    arm its trend, extension and band.
    ``points``: for each row its arm (a position in ``arms``), words in the order of ``fields``
    (None if there is none), and places ``at`` each scale.
    """
    scales: tuple[Scale, ...] = get_args(Scale)
    boxes = {scale: frame(comparison, scale) for scale in scales}
    style = looks(comparison)
    names, metric = [summary.arm.name for summary in comparison.arms], comparison.words.metric
    scores = f"ID {metric}", f"OOD {metric}"
    rows = sorted(comparison.rows, key=partial(in_front, comparison))  # those that lie on top come last
    return {
        "scale": comparison.scale,
        "fields": ("Arm", "Architecture", "Seed", "Epoch", *scores, "Effective robustness", "Source"),
        "arms": [
            {"name": s.arm.name, "factor": s.arm.factor, "baseline": s.arm.name == comparison.baseline}
            | {"color": style[s.arm.name].color, "path": style[s.arm.name].path, "dash": style[s.arm.name].dasharray}
            for s in comparison.arms
        ],
        "scales": {scale: _of_scale(comparison, rows, scale, box) for scale, box in boxes.items()},
        "points": [
            {
                "arm": names.index(row.arm),
                "architecture": row.architecture,
                "final": row.final,
                "words": _words(row, marked_epoch(comparison), with_robustness=len(names) > 1),
                "at": {
                    scale: _places(box, on_scale(comparison, scale, (row.id.macro_f1, row.ood.macro_f1)))[0]
                    for scale, box in boxes.items()
                },
            }
            for row in rows
        ],
    }


def _words(row: Row, marked: str, *, with_robustness: bool) -> list[str | None]:
    published = is_published(row)
    robustness = signed(row.effective_robustness) if with_robustness else NONE
    return [
        row.arm,
        row.architecture,
        None if published else str(row.seed),
        None if published else f"{row.epoch} ({marked})" if row.final else str(row.epoch),
        f"{percent(row.id.macro_f1)}%",
        f"{percent(row.ood.macro_f1)}%",
        None if robustness == NONE else f"{robustness} points",
        row.finetune if published else None,
    ]


def _of_scale(comparison: Comparison, rows: Sequence[Row], scale: Scale, box: Frame) -> dict[str, Any]:
    ends = np.array([max(box.x.start, box.y.start), min(box.x.end, box.y.end)])  # where y = x lies inside the axes
    diagonal = [[_part(box.x, end), _part(box.y, end)] for end in ends] if ends[0] < ends[1] else []
    places = on_scale(comparison, scale, [(row.id.macro_f1, row.ood.macro_f1) for row in rows])
    return {
        "x": _axis(box.x),
        "y": _axis(box.y),
        "diagonal": diagonal,
        "together": coincident(box.parts(places)),
        "arms": [_arm(comparison, scale, box, summary) for summary in comparison.arms],
    }


def _arm(comparison: Comparison, scale: Scale, box: Frame, summary: ArmSummary) -> dict[str, Any]:
    name, band = summary.arm.name, summary.band
    own = [row.id.macro_f1 for row in comparison.rows if row.arm == name]
    everyone = [row.id.macro_f1 for row in comparison.rows]
    spans = {"trend": own, "extension": everyone if name == comparison.baseline else []}
    lines: dict[str, ArrayLike] = {key: trend_line(summary, ids) if ids else () for key, ids in spans.items()}
    lines["band"] = ()
    if band:
        low, high = ([*zip(band.id, edge, strict=True)] for edge in (band.low, band.high))
        lines["band"] = [*low, *high[::-1]]  # once around the outline
    return {key: _places(box, line_on_scale(scale, f1)) for key, f1 in lines.items()}


def _places(box: Frame, places: NDArray[np.float64]) -> list[list[float]]:
    """Places on the scale, ID and OOD [n, 2], as fractions of the axes."""
    found: list[list[float]] = box.parts(places).round(4).tolist()
    return found


def _axis(axis: Axis) -> dict[str, Any]:
    return {"label": axis.label, "ticks": [[_part(axis, place), text] for place, text in axis.ticks]}


def _part(axis: Axis, place: float) -> float:
    return round(float(axis.part(place)), 4)
