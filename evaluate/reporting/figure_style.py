"""How arms look in every figure, and where scores lie on its axes; nothing is drawn here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree

from ..analysis.load import ID_SPLIT, OOD_SPLIT
from ..analysis.results import ArmSummary, Comparison, Row
from ..analysis.trends import Scale, from_scale, to_scale

# Okabe and Ito 2008, "Color Universal Design"; without yellow, which is too light for lines on white.
COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")  # by matplotlib's names
# On and off lengths in line widths; an empty tuple is a solid line.
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.5), (4, 1, 1, 1), (1, 1), (7, 1.5, 1, 1.5, 1, 1.5), (9, 2))

# The markers as SVG paths around 0, about 11 units wide.
PATHS = {
    "o": "M-5,0A5,5 0 1 0 5,0A5,5 0 1 0 -5,0Z",
    "s": "M-4.5,-4.5H4.5V4.5H-4.5Z",
    "^": "M0,-5.5L5.5,4.5H-5.5Z",
    "D": "M0,-6L6,0L0,6L-6,0Z",
    "v": "M0,5.5L5.5,-4.5H-5.5Z",
    "P": "M-1.8,-5.4H1.8V-1.8H5.4V1.8H1.8V5.4H-1.8V1.8H-5.4V-1.8H-1.8Z",
    "X": "M0,-2.5L3,-5.5L5.5,-3L2.5,0L5.5,3L3,5.5L0,2.5L-3,5.5L-5.5,3L-2.5,0L-5.5,-3L-3,-5.5Z",
    "p": "M0,-5.6L5.3,-1.7L3.3,4.5H-3.3L-5.3,-1.7Z",
}
SAME_PLACE = 0.0005  # part of an axis, less than a pixel: of marks no farther apart only one is seen
CURVE = 41  # points of a trend that is drawn on a scale other than its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Color, marker and line style of one arm."""

    color: str  # "#rrggbb"
    marker: str  # one of MARKERS
    dash: tuple[float, ...]  # one of DASHES

    @property
    def path(self) -> str:
        """The marker as an SVG path."""
        return PATHS[self.marker]

    @property
    def dasharray(self) -> str:
        """The line style of an SVG line 1.5 units wide."""
        return " ".join(f"{1.5 * length:g}" for length in self.dash) or "none"


def look(position: int) -> Look:
    """The look of the arm at a position; 168 positions differ, and 56 of them in color or marker."""
    return Look(
        color=COLORS[position % len(COLORS)],
        marker=MARKERS[position % len(MARKERS)],
        dash=DASHES[position % len(DASHES)],
    )


def looks(comparison: Comparison) -> dict[str, Look]:
    """The look of every arm, by name."""
    return {summary.arm.name: look(position) for position, summary in enumerate(comparison.arms)}


def shown(name: str, limit: int = 44) -> str:
    """A name shortened to fit a figure, in its middle since ends tell names apart, without unprintable characters."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    end = limit // 2
    return text if len(text) <= limit else f"{text[: limit - end - 1]}…{text[-end:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of OOD over ID scores."""

    label: str
    start: float  # scale units
    end: float
    ticks: tuple[tuple[float, str], ...]  # scale units, and the percentage to write there

    def part(self, place: ArrayLike) -> NDArray[np.float64]:
        """Places in scale units as parts of the axis, 0 to 1."""
        return (np.asarray(place) - self.start) / (self.end - self.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Both axes."""

    x: Axis  # ID
    y: Axis  # OOD
    alike: bool  # whether both cover the same range, so that y = x is the diagonal

    def parts(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places on the scale, ID and OOD [n, 2], as parts of the axes."""
        x, y = places.reshape(-1, 2).T
        return np.column_stack([self.x.part(x), self.y.part(y)])


def frame(comparison: Comparison, scale: Scale) -> Frame:
    """Axes that hold all runs: of the same range, unless the points would become a speck in a corner."""
    places = on_scale(comparison, scale, [(row.id.macro_f1, row.ood.macro_f1) for row in comparison.rows])  # [n, 2]
    low, high = places.min(axis=0), places.max(axis=0)  # [2]: ID, OOD
    least = 0.03 if scale == "linear" else 0.3  # so that one point does not fill the figure
    gap = high.max() - low.min()
    alike = bool(gap < 5 * least or max(high - low) >= 0.3 * gap)
    axes = []
    for i, (name, split) in enumerate((("ID", ID_SPLIT), ("OOD", OOD_SPLIT))):
        start, end = (low.min(), high.max()) if alike else (low[i], high[i])
        margin = max(0.07 * (end - start), (least - (end - start)) / 2, 0.1 * least)
        start, end = float(start - margin), float(end + margin)
        label = f"{name} {comparison.words.metric} (%), split {split}, {scale} scale"
        axes.append(Axis(label=label, start=start, end=end, ticks=_ticks(start, end, scale)))
    return Frame(x=axes[0], y=axes[1], alike=alike)


def marked_epoch(comparison: Comparison) -> str:
    """Which epoch of each run is large and filled: the best one if that is compared, else the last one."""
    return "best" if comparison.judgement.epoch == "best" else "last"


def in_front(comparison: Comparison, row: Row) -> tuple[bool, bool]:
    """Where a run's point lies in the pile, for sorting: the baseline's on top, then large ones."""
    return row.arm == comparison.baseline, row.final


def coincident(places: NDArray[np.float64]) -> list[list[int]]:
    """Groups of at least two points at one place: positions in ``places``, parts of the axes [n, 2]."""
    near = KDTree(places).query_ball_point(places, SAME_PLACE, p=np.inf, return_sorted=True) if len(places) else ()
    groups: list[list[int]] = []
    taken: set[int] = set()
    for i, others in enumerate(near):
        group = [int(j) for j in others if j not in taken]
        if i not in taken and len(group) > 1:
            groups.append(group)
            taken.update(group)
    return groups


def on_scale(comparison: Comparison, scale: Scale, f1: ArrayLike) -> NDArray[np.float64]:
    """Fractions of any shape on a scale, kept away from 0 and 1 as in the comparison."""
    return to_scale(f1, scale, max(comparison.epsilon, 1e-6))


def line_on_scale(scale: Scale, f1: ArrayLike) -> NDArray[np.float64]:
    """Fractions of a trend or a band on a scale; kept away from 0 and 1 only as far as floating point needs."""
    return to_scale(f1, scale, 1e-12)


def trend_line(summary: ArmSummary, ids: Sequence[float]) -> NDArray[np.float64]:
    """The arm's trend from the lowest to the highest of ``ids``: ID and OOD fractions [CURVE, 2].

    Equally spaced on the trend's own scale, where it is straight.
    """
    if summary.trend is None:
        return np.empty((0, 2))
    trend = summary.trend
    start, end = to_scale([min(ids), max(ids)], trend.scale, trend.epsilon)
    x = from_scale(np.linspace(start, end, CURVE), trend.scale)
    return np.column_stack([x, trend.predict(x)])


def _ticks(start: float, end: float, scale: Scale) -> tuple[tuple[float, str], ...]:
    """Percentages to label between two ends on the scale: the roundest that are far enough apart."""
    rounds = [np.array([50, 10, 90, 20, 80, 30, 70, 40, 60, 5, 95, 1, 99, 2, 98, 0.1, 99.9, 0.01, 99.99, 0.5, 99.5])]
    rounds += [np.arange(1, round(100 / step)) * step for step in (5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)]
    if scale == "linear":
        rounds = [np.arange(0, round(100 / step) + 1) * step for step in (20, 10, 5, 2, 1, 0.5, 0.2, 0.1)]
    best: list[tuple[float, float]] = []  # percentage, place
    for candidates in rounds:
        chosen: list[tuple[float, float]] = []
        for tick in candidates.round(2):
            place = float(to_scale(tick / 100, scale, 1e-9))
            apart = all(abs(other - place) >= (end - start) / 9 for _, other in chosen)
            if start <= place <= end and apart:
                chosen.append((float(tick), place))
        best = max(best, chosen, key=len)
        if len(best) >= 4:
            break
    return tuple((place, f"{tick:g}") for tick, place in sorted(best))
