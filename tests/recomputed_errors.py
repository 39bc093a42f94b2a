"""Lines, differences, their errors and verdicts, by plain loops and SciPy; see test_evaluate_recomputed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from recomputed_scores import FROM, Block, Cell, Study, View
from scipy import integrate, optimize, stats

SCALES = ("logit", "probit", "linear")
MARGIN, LEVEL, TARGET = 1.0, 0.05, 0.8
Values = Callable[[View, float], list[float]]  # of blocks, from scores and a slope; percentage points


def residuals(y: np.ndarray, columns: Sequence[np.ndarray]) -> np.ndarray:
    design = np.column_stack(columns)
    return np.asarray(y - design @ np.linalg.lstsq(design, y, rcond=None)[0])


def dummies(names: Sequence[Any]) -> list[np.ndarray]:
    return [np.array([name == one for name in names], float) for one in dict.fromkeys(names)]


def chance(effect: float, error: float, freedom: float, level: float) -> float:
    """Power of a t test, by integration over the estimated standard error."""
    bound, shift = stats.t.ppf(1 - level / 2, freedom), abs(effect) / error

    def at(ratio: float) -> float:  # the estimated error over the true one
        beyond = stats.norm.sf(bound * ratio - shift) + stats.norm.cdf(-bound * ratio - shift)
        return float(beyond * 2 * ratio * freedom * stats.chi2.pdf(freedom * ratio**2, freedom))

    ends = np.sqrt(stats.chi2.ppf([1e-12, 1 - 1e-12], freedom) / freedom)
    return float(integrate.quad(at, *ends, limit=200)[0])


@dataclass
class Found:
    """An estimate."""

    value: float | None = None
    error: float | None = None
    freedom: float | None = None
    p: float | None = None
    low: float | None = None
    high: float | None = None
    parts: dict[str, Any] | None = None
    n: int = 0
    note: str = ""

    def stored(self) -> dict[str, float | None] | None:
        return None if self.value is None else {"value": self.value, "low": self.low, "high": self.high}


@dataclass
class Pairs:
    """Paired runs of arms at an epoch; the compared one by default."""

    study: Study
    arms: Sequence[str]
    epoch: int | None = None
    blocks: list[Block] = field(init=False)
    units: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.blocks = self.study.blocks(self.arms)
        groups: list[set[Block]] = []
        for block in self.blocks:
            starts = {self.study.start(arm, block) for arm in self.arms}
            linked = [g for g in groups if any(self.study.start(a, b) in starts for b in g for a in self.arms)]
            groups = [g for g in groups if g not in linked] + [{block}.union(*linked)]
        self.units = [next(k for k, group in enumerate(groups) if block in group) for block in self.blocks]

    @property
    def n_units(self) -> int:
        return len(set(self.units))

    @property
    def architectures(self) -> list[str]:
        return list(dict.fromkeys(block[0] for block in self.blocks))

    @property
    def weights(self) -> list[float]:
        return [1 / (self.n_units * self.units.count(unit)) for unit in self.units]

    def cell(self, arm: str, block: Block) -> Cell:
        return self.study.last(arm, block) if self.epoch is None else (arm, block, self.epoch)

    def xy(self, view: View, cell: Cell, scale: str) -> tuple[float, float]:
        return self.study.scaled(view(cell, "id"), scale), self.study.scaled(view(cell, "ood"), scale)

    def points(self, view: View, slope: str, scale: str, blocks: Sequence[Block]) -> list[tuple[str, float, float]]:
        """The points that a line goes through: what has a mean of its own, and ID and OOD scores on the scale."""
        found = []
        for block, arm in product(blocks, self.arms):
            run = f"{arm} {block}"
            cells = [(arm, block, epoch) for epoch in self.study.epochs(arm, block)]
            for cell in cells if slope == "within" else [self.cell(arm, block)]:
                found.append((run if slope == "within" else arm, *self.xy(view, cell, scale)))
        return found

    def slope(self, view: View, slope: str, scale: str, blocks: Sequence[Block] | None = None) -> float:
        """By least squares with a dummy for each mean, after Frisch and Waugh."""
        names, x, y = zip(*self.points(view, slope, scale, self.blocks if blocks is None else blocks), strict=True)
        dx, dy = residuals(np.array(x), dummies(names)), residuals(np.array(y), dummies(names))
        return float(dx @ dy / (dx @ dx)) if dx @ dx > 1e-12 else np.nan

    def unbridged(self, view: View, slope: str, scale: str) -> str:
        names, x, _ = zip(*self.points(view, slope, scale, self.blocks), strict=True)
        spread = np.sqrt(np.mean(residuals(np.array(x), dummies(names)) ** 2))
        means = [np.mean([self.xy(view, self.cell(arm, b), scale)[0] for b in self.blocks]) for arm in self.arms]
        gap = np.ptp(means)
        of, whole = ("models", "arm") if slope == "between" else ("epochs", "run")
        limit = 1.0 if slope == "between" and len(self.architectures) == 1 else 3.0
        if spread < 1e-9:
            return f"no line of OOD over ID macro-F1, since ID scores do not differ between {of} of one {whole}"
        if gap <= limit * spread:
            return ""
        return (
            f"the arms' ID scores are {gap / spread:.{2 if limit == 1 else 1}f} times as far apart as those of {of}"
            " vary, so that no line of OOD over ID macro-F1 bridges the gap"
        )

    def difference(self, split: str) -> Values:
        first, second = self.arms
        return lambda view, _: [
            100 * (view(self.cell(second, b), split) - view(self.cell(first, b), split)) for b in self.blocks
        ]

    def robustness(self, scale: str = "logit") -> Values:
        first, second = self.arms

        def values(view: View, slope: float) -> list[float]:
            found = []
            for block in self.blocks:
                (x0, y0), (x1, _) = (self.xy(view, self.cell(arm, block), scale) for arm in (first, second))
                on_line = FROM[scale](y0 + slope * (x1 - x0))
                found.append(100 * (view(self.cell(second, block), "ood") - float(on_line)))
            return found

        return values

    def step(self, view: View, slope: float) -> list[float]:
        """Rise of effective robustness from an arm to the next: the slope over their numbers."""
        found = []
        for block in self.blocks:
            cells = [self.cell(arm, block) for arm in self.arms]
            x, y = np.transpose([self.xy(view, cell, "logit") for cell in cells])
            on_line = FROM["logit"](y.mean() + slope * (x - x.mean()))
            beyond = [100 * (view(cell, "ood") - one) for cell, one in zip(cells, on_line, strict=True)]
            found.append(float(np.polyfit(range(len(cells)), beyond, 1)[0]))
        return found

    def slopes_without(self, view: View, slope: str, scale: str) -> list[float]:
        groups = [block[0] for block in self.blocks] if len(self.architectures) > 1 else self.units
        kept = [[b for b, g in zip(self.blocks, groups, strict=True) if g != out] for out in dict.fromkeys(groups)]
        return [self.slope(view, slope, scale, blocks) for blocks in kept]

    def fitted(self, slope: str) -> Found:
        view = self.study.full()
        value, without = self.slope(view, slope, "logit"), np.array(self.slopes_without(view, slope, "logit"))
        n = len(without)
        if n < 3:
            return Found(value=value)
        half = stats.t.ppf(0.975, n - 1) * np.sqrt((n - 1) ** 2 / n * np.var(without, ddof=1))
        return Found(value=value, low=value - half, high=value + half)

    def estimate(
        self,
        values: Values,
        slope: str | None,
        *,
        scale: str = "logit",
        view: View | None = None,
        tests: int = 1,
        clusters: bool = True,
    ) -> Found:
        """The mean over units with the two-way variance."""
        view, n, u = view or self.study.full(), len(self.blocks), self.n_units

        def mean(of: View, beta: float) -> float:
            return float(np.dot(self.weights, values(of, beta)))

        def fit(of: View) -> float:
            return 0.0 if slope is None else self.slope(of, slope, scale)

        beta = fit(view)
        value = mean(view, beta)
        if u < 3:
            return Found(value=value, n=n, note=f"{u} independent runs are too few for an interval")
        each = values(view, beta)
        units = [np.mean([v for v, k in zip(each, self.units, strict=True) if k == unit]) for unit in set(self.units)]
        line, lines, by_chance = 0.0, 2, 0.0
        if slope is not None:
            slopes = self.slopes_without(view, slope, scale)
            lines = len(slopes)
            line = (lines - 1) * float(np.var([mean(view, one) for one in slopes]))
            steeper, flatter = (np.array(values(view, beta + step)) for step in (0.01, -0.01))
            pulls = [np.mean([v for v, k in zip(steeper - flatter, self.units, strict=True) if k == unit]) / 0.02
                     for unit in set(self.units)]  # fmt: skip
            by_chance = (lines - 1) * float(np.var(slopes) * np.var(pulls, ddof=1) / u)
        of_splits, cells, freedoms = [0.0, 0.0], 0.0, [np.inf, np.inf]
        for number, split in enumerate(("id", "ood") if clusters else ()):
            images = self.study.clusters(split)[1]
            m = len(images)
            views = [self.study.without(split, c) for c in range(m)]
            of_splits[number] = (m - 1) * float(np.var([mean(one, fit(one)) for one in views]))
            freedoms[number] = np.sqrt((m - 1) * np.sum(images**2) ** 2 / np.sum(images.astype(float) ** 4))
            table = np.zeros((m, u))
            for c, one in enumerate(views):
                for unit, weight, moved_by in zip(self.units, self.weights, values(one, beta), strict=True):
                    table[c, unit] += weight * moved_by
            for c, k in product(range(m), range(u)):
                centred = table[c, k] - table[c].mean() - table[:, k].mean() + table.mean()
                cells += (m - 1) / m * u / (u - 1) * centred**2
        parts = [np.var(units, ddof=1) / u, line, *of_splits]
        degrees = [u - 1, lines - 1, *freedoms]
        total = max(sum(parts) - cells, parts[0] + parts[1], parts[2] + parts[3])
        freedom = max(1.0, total**2 / sum(part**2 / free for part, free in zip(parts, degrees, strict=True)))
        error = float(np.sqrt(total))
        half = stats.t.ppf(1 - level_of(tests) / 2, freedom) * error
        named = dict(zip(("units", "line", "id_clusters", "ood_clusters"), map(float, parts), strict=True))
        return Found(
            value=value,
            error=error,
            freedom=float(freedom),
            p=float(2 * stats.t.sf(abs(value) / error, freedom)),
            low=float(max(value - half, -100)),
            high=float(min(value + half, 100)),
            parts={
                **named,
                "cells": float(cells),
                "freedoms": [None if d == np.inf else float(d) for d in degrees],
                "fine_tunings": self.fine_tunings(each),
                "by_chance": by_chance,
            },
            n=n,
        )

    def fine_tunings(self, values: list[float]) -> float:
        """The part of the variance of the mean over units that comes from the blocks within each."""
        of = [[v for v, k in zip(values, self.units, strict=True) if k == unit] for unit in set(self.units)]
        freedom = sum(len(group) - 1 for group in of)
        within = sum(float(np.var(group)) * len(group) for group in of) / freedom if freedom else 0.0
        return within * sum(1 / len(group) for group in of) / len(of) ** 2


def level_of(tests: int) -> float:
    return float(1 - (1 - LEVEL) ** (1 / tests))


def smallest(found: Found, tests: int) -> float | None:
    if found.error is None or found.freedom is None:
        return None
    freedom, level = found.freedom, level_of(tests)
    return found.error * float(optimize.brentq(lambda d: chance(d, 1.0, freedom, level) - TARGET, 0.01, 500))


def needed(found: Found, units: int, tests: int) -> int | None:
    """The fewest independent runs, of more than the study's, that find the margin, in steps of a tenth up to 1,000."""
    assert found.parts is not None
    parts: Mapping[str, Any] = found.parts
    both = parts["id_clusters"] + parts["ood_clusters"]

    def enough(n: int) -> bool:
        share = units / n
        kept = (max(both - parts["cells"], 0) + share * parts["cells"]) / max(both, 1e-300)
        by_chance = min(parts["line"], parts["by_chance"])
        lines = parts["freedoms"][1] + 1  # groups that the line is fitted to: as many as units, or the same or fewer
        later = n if lines == units else min(lines, n)
        line = lines / later * (parts["line"] - by_chance + share * by_chance)
        sizes = [share * parts["units"], line, kept * parts["id_clusters"], kept * parts["ood_clusters"]]
        total = max(sum(sizes) - share * parts["cells"], sizes[0] + sizes[1], sizes[2] + sizes[3])
        degrees = [n - 1, later - 1, *(np.inf if d is None else d for d in parts["freedoms"][2:])]
        freedom = max(1.0, total**2 / sum(s**2 / max(d, 1) for s, d in zip(sizes, degrees, strict=True)))
        return chance(MARGIN, total**0.5, freedom, level_of(tests)) >= TARGET

    below = units
    while below < 1000:
        above = min(1000, max(below + 1, round(below * 1.1)))
        if enough(above):
            return next(n for n in range(below + 1, above + 1) if enough(n))
        below = above
    return None


def verdict(found: Found, units: int, tests: int) -> str:
    """What an interval supports, in words."""
    if found.value is None or found.low is None or found.high is None or found.error is None:
        return f"cannot tell: {found.note}"
    assert found.freedom is not None
    if found.low > 0 or found.high < 0:
        return "higher" if found.low > 0 else "lower"
    if found.low > -MARGIN and found.high < MARGIN:
        return "equivalent (within 1 point)"
    power = chance(MARGIN, found.error, found.freedom, level_of(tests))
    if power >= TARGET:
        return "not shown to differ"
    more = needed(found, units, tests)
    answer = f"{more} are needed" if more else "more of these architectures and test images would not be enough"
    return (
        f"cannot tell: {units} independent runs find a difference of 1 point in {100 * power:.0f}% of studies; {answer}"
    )
