"""Comparison -> figures for print: every figure as SVG, PDF and PNG (300 dpi)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator
from matplotlib.transforms import offset_copy

from ..analysis.formatting import estimate, p_value
from ..analysis.results import ArmSummary, Comparison, Contrast, Estimate, Row, Verdict
from .answer import by_robustness, most_decided
from .figure_style import (
    Frame,
    Look,
    coincident,
    frame,
    in_front,
    line_on_scale,
    looks,
    on_scale,
    shown,
    trend_line,
)

WIDTH = 5.5  # inches; the text width of a NeurIPS page
NARROW = 4.0  # inches; a figure that is read on a phone too
PANELS = 8  # most arms of the figure by epoch
FARTHEST = 3.0  # median half widths of intervals beyond the values that are drawn; longer intervals end in arrows
BANDS = 8  # most arms of the scatter that are drawn with bands; with more, the baseline alone has one
STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that figures are the same everywhere
    "font.size": 8,
    "text.parse_math": False,  # a dollar sign in a name stays a dollar sign
    "svg.fonttype": "none",  # labels stay text
    "svg.hashsalt": "synthgen",
    "pdf.fonttype": 42,  # TrueType; publishers refuse Type 3 fonts
}
NO_DATE: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None},
    "png": {"Software": None},
}
SOFT = "0.35"  # gray of everything that is not an arm


def draw_figures(comparison: Comparison) -> dict[str, dict[str, bytes]]:
    """All figures that the comparison has data for, each as ``svg``, ``pdf`` and ``png``.

    ``scatter`` always exists; ``overview`` needs an effect, ``epochs`` one on effective robustness at several epochs,
    ``factors`` an arm besides the baseline, ``forest`` an effect on effective robustness, and ``forest-reference`` one
    against the reference.
    """
    drawings: dict[str, Callable[[Comparison], Figure]] = {"scatter": _scatter}
    if any(effect.ood.value is not None for effect in comparison.effects):
        drawings["overview"] = _overview
    if _over_time(comparison):
        drawings["epochs"] = _epochs
    if factors(comparison):
        drawings["factors"] = _factors
    if any(effect.robustness.value is not None for effect in comparison.effects):
        drawings["forest"] = _forest
    reference = comparison.reference
    if reference and any(effect.robustness.value is not None for effect in reference.effects):
        drawings["forest-reference"] = lambda c: _forest(replace(c, baseline=reference.arm, effects=reference.effects))
    with _style():
        return {name: _saved(draw(comparison)) for name, draw in drawings.items()}


def factors(comparison: Comparison) -> dict[str, list[ArmSummary]]:
    """The finished arms of each factor, without the baseline, in the order of the arms."""
    found: dict[str, list[ArmSummary]] = {}
    for summary in comparison.arms:
        if summary.finished and summary.arm.name != comparison.baseline:
            found.setdefault(summary.arm.factor, []).append(summary)
    return found


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # arms may have names in any script
        yield


def _saved(figure: Figure) -> dict[str, bytes]:
    for _ in range(3):  # with a fixed aspect a layout settles only when it is repeated
        figure.draw_without_rendering()
    figure.set_layout_engine("none")  # so that all formats have the same layout
    drawings = {}
    for kind, no_date in NO_DATE.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=300, metadata=no_date)
        drawings[kind] = buffer.getvalue()
    return drawings


def _over_time(comparison: Comparison) -> tuple[Contrast, ...]:
    """The effects whose panels the figure by epoch has."""
    several = [e for e in comparison.effects if sum(at.robustness.value is not None for at in e.epochs) > 1]
    return most_decided(several, PANELS)


def _overview(comparison: Comparison) -> Figure:
    """Differences from the baseline in ID, OOD and effective robustness, a row per arm, sorted by the last."""
    effects = by_robustness(comparison.effects)
    figure = Figure(figsize=(NARROW, 0.95 + 0.19 * len(effects)), layout="compressed")
    style, collapsed = looks(comparison), [e.conclusion.verdict is Verdict.COLLAPSED for e in effects]
    panels = figure.subplots(1, 3, sharey=True)
    for axes, what in zip(panels, ("ID", "OOD", "ER"), strict=True):
        found = [{"ID": e.id, "OOD": e.ood, "ER": e.robustness}[what] for e in effects]
        axes.axvline(0, color=SOFT, linewidth=0.8, zorder=1)
        if what == "ER":
            axes.axvspan(-comparison.margin, comparison.margin, color="0.9", linewidth=0, zorder=0)
        axes.set_xlim(*_reach(found, comparison.margin))
        for height, (effect, one, gray) in enumerate(zip(effects, found, collapsed, strict=True)):
            look = style[effect.arm.name]
            if one.value is None:
                place = axes.get_yaxis_transform()
                axes.text(0.5, height, "not estimated", transform=place, fontsize=6, ha="center", va="center")
            _draw_interval(axes, one, height, color="0.6" if gray else look.color, marker=look.marker, hollow=gray)
        axes.set_title(what, fontsize=8, fontweight="bold")
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[0].set_yticks(range(len(effects)), [shown(effect.arm.name, 18) for effect in effects])
    panels[0].set_ylim(len(effects) - 0.4, -0.6)
    panels[1].set_xlabel(f"arm minus {shown(comparison.baseline, 24)} (percentage points)")
    shaded = [Patch(color="0.9", label=f"margin: ±{comparison.margin:g}")]
    hollow = [_mark("o", "0.6", 6, filled=False, label="models collapsed")] if any(collapsed) else []
    figure.legend(handles=[*shaded, *hollow], loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    return figure


def _reach(found: Sequence[Estimate], margin: float) -> tuple[float, float]:
    """The ends of an axis for estimates: all values and zero, and intervals as far as most of them go."""
    values = [one.value for one in found if one.value is not None]
    ends = [(one.low, one.high) for one in found if one.low is not None and one.high is not None]
    far = FARTHEST * float(np.median([high - low for low, high in ends])) / 2 if ends else 0.0
    low = max(min(values, default=0.0) - far, min((low for low, _ in ends), default=0.0))
    high = min(max(values, default=0.0) + far, max((high for _, high in ends), default=0.0))
    low, high = min([low, -1.2 * margin, *values]), max([high, 1.2 * margin, *values])
    space = 0.07 * (high - low)
    return low - space, high + space


def _draw_interval(
    axes: Axes, found: Estimate, at: float, *, color: str, marker: str, hollow: bool = False, upright: bool = False
) -> None:
    """A value and its interval at a place of the other axis; intervals that leave the axis end in arrows."""
    if found.value is None:
        return

    def draw(values: Sequence[float], **how: Any) -> None:
        others = [at] * len(values)
        axes.plot(*((others, values) if upright else (values, others)), color=color, **how)

    start, end = axes.get_ylim() if upright else axes.get_xlim()
    if found.low is not None and found.high is not None:
        draw([max(found.low, start), min(found.high, end)], linewidth=1.2, solid_capstyle="butt")
        for beyond, place, arrow in ((found.low < start, start, "v<"), (found.high > end, end, "^>")):
            if beyond:
                draw([place], marker=arrow[not upright], markersize=4, linestyle="none", clip_on=False)
    face = "white" if hollow else color
    draw([found.value], marker=marker, markersize=5, markerfacecolor=face, linestyle="none", zorder=4)


def _epochs(comparison: Comparison) -> Figure:
    """Differences in effective robustness by epoch, a panel per arm, on the same axes."""
    effects, style = _over_time(comparison), looks(comparison)
    columns = min(2, len(effects))
    rows = -(-len(effects) // columns)
    figure = Figure(figsize=(NARROW * (0.3 + 0.35 * columns), 0.55 + 1.15 * rows), layout="compressed")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    numbers = sorted({at.epoch for effect in effects for at in effect.epochs})
    grid[0].set_ylim(*_reach([at.robustness for effect in effects for at in effect.epochs], comparison.margin))
    grid[0].set_xlim(1.08 * numbers[0] - 0.08 * numbers[-1], 1.08 * numbers[-1] - 0.08 * numbers[0])
    grid[0].xaxis.set_major_locator(MaxNLocator(5, integer=True) if len(numbers) > 5 else FixedLocator(numbers))
    for number, (axes, effect) in enumerate(zip(grid, effects, strict=False)):
        look = style[effect.arm.name]
        axes.axhline(0, color=SOFT, linewidth=0.8, zorder=1)
        axes.axhspan(-comparison.margin, comparison.margin, color="0.9", linewidth=0, zorder=0)
        found = [(at.epoch, at.robustness.value) for at in effect.epochs if at.robustness.value is not None]
        axes.plot(*zip(*found, strict=True), color=look.color, linewidth=0.6)
        for at in effect.epochs:
            _draw_interval(axes, at.robustness, at.epoch, color=look.color, marker=look.marker, upright=True)
        axes.set_title(shown(effect.arm.name, 24), fontsize=8, fontweight="bold", loc="left")
        axes.tick_params(labelsize=7, labelbottom=number + columns >= len(effects))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(effects) :]:
        axes.remove()
    figure.supxlabel("epoch", fontsize=8)
    figure.supylabel(f"ER minus that of {shown(comparison.baseline, 18)} (points)", fontsize=8)
    return figure


def _scatter(comparison: Comparison) -> Figure:
    """OOD over ID macro-F1 of all evaluated epochs of all arms."""
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


def _factors(comparison: Comparison) -> Figure:
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


def _forest(comparison: Comparison) -> Figure:
    """Effects on effective robustness with intervals, grouped by factor, and the equivalence margin."""
    lines: list[str | Contrast] = []
    for factor in dict.fromkeys(effect.arm.factor for effect in comparison.effects):
        lines += [factor, *(effect for effect in comparison.effects if effect.arm.factor == factor)]
    figure = Figure(figsize=(WIDTH + 0.6, 1.35 + 0.21 * len(lines)), layout="compressed")
    axes = figure.add_subplot()
    style = looks(comparison)
    margin = comparison.margin
    axes.axvspan(-margin, margin, color="0.9", linewidth=0, zorder=0)
    axes.axvline(0, color=SOFT, linewidth=0.8, zorder=1)
    for height, line in enumerate(lines):
        if isinstance(line, Contrast):
            _draw_effect(axes, height, line, style[line.arm.name])
    titles = (f"difference ({comparison.judgement.confidence} interval)", "blocks", "adjusted p")
    _beside(axes, -1, titles, color=SOFT)
    names = [shown(line.arm.name if isinstance(line, Contrast) else line, 30) for line in lines]
    axes.set_yticks(range(len(lines)), names)
    for line, label in zip(lines, axes.get_yticklabels(), strict=True):
        label.set_fontweight("normal" if isinstance(line, Contrast) else "bold")
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"effective robustness minus that of {shown(comparison.baseline, 24)} (percentage points)")
    axes.set_ylabel("arm, by factor")
    axes.spines[["top", "right", "left"]].set_visible(False)
    shaded = Patch(color="0.9", label=f"equivalence margin: −{margin:g} to +{margin:g} points")
    figure.legend(handles=[shaded], loc="outside lower left", frameon=False)
    return figure


def _draw_effect(axes: Axes, height: float, effect: Contrast, style: Look) -> None:
    found = effect.robustness
    if found.value is None:
        _beside(axes, height, ("not estimated", str(effect.n), "–"))
        return
    if found.low is not None and found.high is not None:
        axes.plot([found.low, found.high], [height, height], color=style.color, linewidth=1.4, solid_capstyle="butt")
        axes.plot([found.low, found.high], [height, height], color=style.color, linestyle="none", marker="|", ms=5)
    dot = _mark(style.marker, style.color, 6.5, filled=True)
    dot.set_data([found.value], [height])
    dot.set_zorder(4)
    axes.add_line(dot)
    axes.update_datalim([(found.value, height)])
    axes.autoscale_view(scaley=False)
    _beside(axes, height, (estimate(found), str(effect.n), p_value(effect.p_adjusted)))


def _beside(axes: Axes, height: float, texts: Sequence[str], color: str = "black") -> None:
    """Columns of text to the right of the axes, at a height in data units."""
    for text, (offset, align) in zip(texts, ((8, "left"), (136, "right"), (186, "right")), strict=True):  # points
        axes.annotate(
            text,
            (1, height),
            (offset, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            ha=align,
            fontsize=7,
            color=color,
            annotation_clip=False,
        )


def _draw_arm(axes: Axes, comparison: Comparison, summary: ArmSummary, *, label: str, size: float = 1) -> Line2D:
    """Points and trend of one arm; returns its entry in the legend."""
    name, scale = summary.arm.name, comparison.scale
    style = looks(comparison)[name]
    dashes = (0, style.dash) if style.dash else "-"
    rows = [row for row in comparison.rows if row.arm == name]
    for row in rows:
        x, y = on_scale(comparison, scale, (row.id.macro_f1, row.ood.macro_f1))
        dot = _mark(style.marker, style.color, size * (6.5 if row.final else 4), filled=row.final)
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
    entry = _mark(style.marker, style.color, size * 6.5, filled=True, label=label)
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
        handles.append(_mark("h", SOFT, 6.5, filled=True, label="last epoch of a run"))
        handles.append(_mark("h", SOFT, 4, filled=False, label="earlier epoch"))
    if any(summary.band for summary in comparison.arms):
        label = f"{comparison.judgement.confidence} band of a trend"
        handles.append(Patch(color=SOFT, alpha=0.15, linewidth=0, label=label))
    return handles


def _mark(marker: str, color: str, size: float, *, filled: bool, label: str = "") -> Line2D:
    return Line2D(
        [],
        [],
        marker=marker,
        markersize=size,
        color=color,
        markerfacecolor=color if filled else "white",
        markeredgecolor="white" if filled else color,
        markeredgewidth=0.6 if filled else 0.8,
        linestyle="none",
        label=label,
    )


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
