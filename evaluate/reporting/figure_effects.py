"""Figures of differences between arms: all at a glance, by epoch, and as a forest plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator

from ..analysis.formatting import estimate, p_value
from ..analysis.results import Comparison, Contrast, Estimate, Verdict
from .answer import by_robustness, most_decided
from .figure_parts import SOFT, WIDTH, mark
from .figure_style import Look, looks, shown

NARROW = 4.0  # inches; a figure that is read on a phone too
PANELS = 8  # most arms of the figure by epoch
FARTHEST = 3.0  # median half widths of intervals beyond the values that are drawn; longer intervals end in arrows


def over_time(comparison: Comparison) -> tuple[Contrast, ...]:
    """The effects whose panels the figure by epoch has."""
    several = [e for e in comparison.effects if sum(at.robustness.value is not None for at in e.epochs) > 1]
    return most_decided(several, PANELS)


def overview(comparison: Comparison) -> Figure:
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
    hollow = [mark("o", "0.6", 6, filled=False, label="models collapsed")] if any(collapsed) else []
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


def by_epoch(comparison: Comparison) -> Figure:
    """Differences in effective robustness by epoch, a panel per arm, on the same axes."""
    effects, style = over_time(comparison), looks(comparison)
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


def forest(comparison: Comparison) -> Figure:
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
    dot = mark(style.marker, style.color, 6.5, filled=True)
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
