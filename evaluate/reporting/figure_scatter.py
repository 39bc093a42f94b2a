"""Figures of OOD over ID scores: of all arms, and of those of each factor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import offset_copy

from ..analysis.results import ArmSummary, Comparison, Row
from .figure_parts import SOFT, WIDTH, mark
from .figure_style import (
    Frame,
    coincident,
    frame,
    in_front,
    line_on_scale,
    looks,
    marked_epoch,
    on_scale,
    shown,
    trend_line,
)

BANDS = 8  # most arms of the scatter that are drawn with bands; with more, the baseline alone has one


def factors(comparison: Comparison) -> dict[str, list[ArmSummary]]:
    """The finished arms of each factor, without the baseline, in the order of the arms."""
    found: dict[str, list[ArmSummary]] = {}
    for summary in comparison.arms:
        if summary.finished and summary.arm.name != comparison.baseline:
            found.setdefault(summary.arm.factor, []).append(summary)
    return found


def scatter(comparison: Comparison) -> Figure:
    """OOD over ID scores of all evaluated epochs of all arms."""
    drawn = [summary for summary in comparison.arms if summary.finished]
    if len(drawn) > BANDS:  # their bands would hide the points; the panels of the factors have them
        drawn = [s if s.arm.name == comparison.baseline else replace(s, band=None) for s in drawn]
    columns = 2 if max(len(shown(s.arm.name)) for s in drawn) <= 30 else 1
    lines = -(-(len(drawn) + 4) // columns)
    figure = Figure(figsize=(WIDTH, 5.3 + 0.175 * lines), layout="compressed")
    axes = figure.add_subplot()
    box = frame(comparison, comparison.scale)
    handles: list[Line2D | Patch] = [_set_axes(axes, box)]
    for summary in drawn:
        handles.append(_draw_arm(axes, comparison, summary, label=_named(summary, comparison, 44)))
    handles += _draw_rings(axes, comparison, comparison.rows, box)
    handles += _common(comparison)
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, handlelength=4, frameon=False)
    return figure


def by_factor(comparison: Comparison) -> Figure:
    """One panel per factor: the baseline and the factor's arms, with trends and bands, on the same axes."""
    panels = factors(comparison)
    columns = 1 if len(panels) == 1 else 2
    lines = max(len(arms) for arms in panels.values()) + 1
    width, height = (3.6, 3.75) if columns == 1 else (WIDTH, 2.95)  # inches of the figure, and of a panel
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(width, rows * (height + 0.14 * lines) + 0.4), layout="compressed")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    box = frame(comparison, comparison.scale)
    baseline = comparison.arms[0]
    rings: list[Line2D] = []
    for axes, (factor, arms) in zip(grid, panels.items(), strict=False):
        diagonal = _set_axes(axes, box, size=7)
        axes.set_title(shown(factor, 40), fontsize=8, fontweight="bold", loc="left")
        drawn = [baseline, *arms] if baseline.finished else arms
        handles = [
            _draw_arm(axes, comparison, summary, label=_named(summary, comparison, 30), size=0.7) for summary in drawn
        ]
        names = {summary.arm.name for summary in drawn}
        rings = _draw_rings(axes, comparison, [row for row in comparison.rows if row.arm in names], box) or rings
        axes.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0, 0),
            bbox_transform=offset_copy(axes.transAxes, figure, y=-42, units="points"),  # below the axis label
            fontsize=6.5,
            handlelength=4,
            labelspacing=0.35,
            borderaxespad=0,
            frameon=False,
        )
    for axes in grid[len(panels) :]:
        axes.remove()
    shared = [diagonal, *rings, *_common(comparison)]
    figure.legend(handles=shared, loc="outside lower left", ncols=columns, fontsize=6.5, handlelength=4, frameon=False)
    return figure


def _draw_arm(axes: Axes, comparison: Comparison, summary: ArmSummary, *, label: str, size: float = 1) -> Line2D:
    """Points and trend of one arm; returns its entry in the legend."""
    name, scale = summary.arm.name, comparison.scale
    style = looks(comparison)[name]
    dashes = (0, style.dash) if style.dash else "-"
    rows = [row for row in comparison.rows if row.arm == name]
    for row in rows:
        x, y = on_scale(comparison, scale, (row.id.macro_f1, row.ood.macro_f1))
        dot = mark(style.marker, style.color, size * (6.5 if row.final else 4), filled=row.final)
        dot.set_data([x], [y])
        on_top, final = in_front(comparison, row)
        dot.set_zorder(3 + 2 * on_top + final)
        axes.add_line(dot)
    if summary.trend:
        spans = [([row.id.macro_f1 for row in rows], 1.3)]
        if name == comparison.baseline:  # effective robustness extrapolates it to all arms
            spans.append(([row.id.macro_f1 for row in comparison.rows], 0.6))
        for ids, width in spans:
            x, y = line_on_scale(scale, trend_line(summary, ids)).T
            axes.plot(x, y, color=style.color, linestyle=dashes, linewidth=width, scalex=False, scaley=False)
    if summary.band:
        edges = summary.band.id, summary.band.low, summary.band.high
        x, low, high = (line_on_scale(scale, edge) for edge in edges)
        limits = axes.get_xlim(), axes.get_ylim()
        axes.fill_between(x, low, high, color=style.color, alpha=0.15, linewidth=0, zorder=2)
        axes.set(xlim=limits[0], ylim=limits[1])
    entry = mark(style.marker, style.color, size * 6.5, filled=True, label=label)
    entry.set(linestyle=dashes if summary.trend else "none", linewidth=1.2)
    return entry


def _draw_rings(axes: Axes, comparison: Comparison, rows: Sequence[Row], box: Frame) -> list[Line2D]:
    """A ring around points at one place, and how many they are; returns the entry in the legend if there is one."""
    places = on_scale(comparison, comparison.scale, [(row.id.macro_f1, row.ood.macro_f1) for row in rows])
    groups = coincident(box.parts(places))
    for group in groups:
        x, y = places[group[0]]
        ring = Line2D([x], [y], marker="o", markersize=11, markerfacecolor="none", color=SOFT, zorder=7)
        axes.add_line(ring)
        axes.annotate(str(len(group)), (x, y), (5, 5), textcoords="offset points", fontsize=7, zorder=8)
    entry = Line2D([], [], marker="o", markersize=9, markerfacecolor="none", color=SOFT, linestyle="none")
    entry.set_label("points at one place, and how many")
    return [entry] if groups else []


def _common(comparison: Comparison) -> list[Line2D | Patch]:
    """Entries of the legend for what all arms share."""
    handles: list[Line2D | Patch] = []
    if any(not row.final for row in comparison.rows):  # in a shape that no arm has
        handles.append(mark("h", SOFT, 6.5, filled=True, label=f"{marked_epoch(comparison)} epoch of a run"))
        handles.append(mark("h", SOFT, 4, filled=False, label="another epoch"))
    if any(summary.band for summary in comparison.arms):
        label = f"{comparison.judgement.confidence} band of a trend"
        handles.append(Patch(color=SOFT, alpha=0.15, linewidth=0, label=label))
    return handles


def _named(summary: ArmSummary, comparison: Comparison, limit: int) -> str:
    name = shown(summary.arm.name, limit)
    several = len(comparison.arms) > 1
    return f"{name} (baseline)" if several and summary.arm.name == comparison.baseline else name


def _set_axes(axes: Axes, box: Frame, size: float = 8) -> Line2D:
    """Limits, ticks, labels and the line y = x; returns its entry in the legend."""
    for axis, what in ((axes.xaxis, box.x), (axes.yaxis, box.y)):
        axis.set_ticks([place for place, _ in what.ticks], [text for _, text in what.ticks])
        axis.set_label_text(what.label if size == 8 else what.label.replace(", ", ",\n", 1), fontsize=size)
    axes.set_xlim(box.x.start, box.x.end)
    axes.set_ylim(box.y.start, box.y.end)
    axes.set_aspect("equal" if box.alike else "auto")
    axes.tick_params(labelsize=size)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    middle = (box.x.start + box.x.end) / 2
    axes.axline((middle, middle), slope=1, color="0.45", linewidth=0.8, zorder=1)
    seen = max(box.x.start, box.y.start) < min(box.x.end, box.y.end)
    label = f"y = x: OOD as good as ID{'' if seen else ' (outside)'}"
    return Line2D([], [], color="0.45", linewidth=0.8, label=label)
