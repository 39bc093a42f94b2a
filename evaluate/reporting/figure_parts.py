"""What figures of all kinds are drawn with."""

from __future__ import annotations

from matplotlib.lines import Line2D

WIDTH = 5.5  # inches; the text width of a NeurIPS page
SOFT = "0.35"  # gray of everything that is not an arm


def mark(marker: str, color: str, size: float, *, filled: bool, label: str = "") -> Line2D:
    """A marker without a line."""
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
