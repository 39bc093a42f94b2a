"""Numbers as readers see them: percent, signed points, intervals, p-values."""

from __future__ import annotations

import math
from collections.abc import Callable

from .comparison import Estimate

NONE = "–"  # stands where there is no value


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction in percent, without the sign."""
    return NONE if fraction is None or not math.isfinite(fraction) else f"{100 * fraction:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """A number with its sign, and a minus as wide as the plus; what rounds to zero has none."""
    text = plain(value, digits)
    return f"+{text}" if value is not None and value > 0 and text.strip(f"0.{NONE}") else text


def plain(value: float | None, digits: int = 1) -> str:
    """A number with a sign only where it is negative."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:z.{digits}f}".replace("-", "−")


def estimate(value: Estimate | None, digits: int = 1, number: Callable[[float, int], str] = signed) -> str:
    """A value and its interval: "+1.2 (−0.3 to +2.7)"."""
    if value is None:
        return NONE
    text = number(value.value, digits)
    if value.low is None or value.high is None:
        return text
    return f"{text} ({number(value.low, digits)} to {number(value.high, digits)})"


def p_value(p: float | None) -> str:
    """A p-value to two digits; below 0.001 only that."""
    if p is None or not math.isfinite(p):
        return NONE
    return "<0.001" if p < 0.001 else f"{p:.2g}" if p < 0.0995 else f"{p:.2f}"
