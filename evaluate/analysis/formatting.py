"""Numbers as readers see them: percent, signed points, intervals, p-values."""

from __future__ import annotations

import math
from collections.abc import Callable

from .results import Estimate
from .significance import LEVEL

NONE = "–"  # shown when there is no value
MOST_DIGITS = 6


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction in percent, without the sign."""
    return NONE if fraction is None or not math.isfinite(fraction) else f"{100 * fraction:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """A number with its sign, and a minus as wide as the plus; what rounds to zero has no sign."""
    text = plain(value, digits)
    return f"+{text}" if value is not None and value > 0 and text.strip(f"0.{NONE}") else text


def plain(value: float | None, digits: int = 1) -> str:
    """A number with a sign only if it is negative."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:z.{digits}f}".replace("-", "−")


def estimate(value: Estimate, digits: int = 1, number: Callable[[float, int], str] = signed) -> str:
    """A value and its interval: "+1.2 (−0.3 to +2.7)"; with more digits if it leaves out zero and would seem not to."""
    if value.value is None:
        return NONE
    if value.low is None or value.high is None:
        return number(value.value, digits)
    digits = _telling(value, digits)
    return f"{number(value.value, digits)} ({number(value.low, digits)} to {number(value.high, digits)})"


def _telling(value: Estimate, digits: int) -> int:
    """At least ``digits`` after the point, so many that an interval that leaves out zero does so in print."""
    if value.side and value.low is not None and value.high is not None:
        nearest = min(abs(value.low), abs(value.high))
        while digits < MOST_DIGITS and not float(f"{nearest:.{digits}f}"):
            digits += 1
    return digits


def in_full(value: Estimate) -> str:
    """The result of a check: "+1.20 points, 95% interval −0.30 to +2.70, p = 0.12", or why it found nothing."""
    if value.value is None:
        return f"not fitted: {value.note}" if value.note else NONE
    digits = _telling(value, 2)
    words = f"{signed(value.value, digits)} points"
    if value.low is not None:
        words += f", 95% interval {signed(value.low, digits)} to {signed(value.high, digits)}"
    if value.p is not None:
        words += f", p = {value.p:.2g}"
    return f"{words} ({value.note})" if value.note else words


def p_value(p: float | None) -> str:
    """A p-value to two digits, or as many as tell it from 0.05; below 0.001, only that it is."""
    if p is None or not math.isfinite(p):
        return NONE
    if p < 0.001:
        return "<0.001"
    digits = 2
    while float(f"{p:.{digits}g}") == LEVEL != p and digits < MOST_DIGITS:  # which side it is on matters
        digits += 1
    return f"{p:.{digits}g}" if p < 0.0995 else f"{p:.2f}"
