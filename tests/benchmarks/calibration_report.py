"""What came out of the simulated studies of ``calibrate.py``, as tables, and what lies outside of its band."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from calibration_cells import Cell, Design
from statsmodels.stats.proportion import proportion_confint

from synthgen_evaluate.analysis.power import TARGET
from synthgen_evaluate.analysis.results import Verdict
from synthgen_evaluate.analysis.significance import LEVEL

FALSE, COVERED = (0.03, 0.07), (0.93, 0.97)
COVERED_BY_FEW = (0.93, 0.98)  # with at most FEW blocks
FEW = 8
CALLED = (Verdict.HIGHER.value, Verdict.LOWER.value)
SHORT = {
    Verdict.HIGHER: "higher",
    Verdict.LOWER: "lower",
    Verdict.EQUIVALENT: "equivalent",
    Verdict.DEPENDS: "depends",
    Verdict.NOT_SHOWN: "not shown",
    Verdict.CANNOT_TELL: "cannot tell",
}
Found = Mapping[str, list[dict[str, Any]]]


def calibration(cells: Sequence[Cell], found: Found) -> tuple[str, list[str]]:
    """The table of cells, and a line for each rate that is too high or too low for a valid method."""
    lines = [
        f"| study | false positives | coverage | {' | '.join(SHORT.values())} | error, sd | bias | freedom |",
        "|---" * (len(SHORT) + 6) + "|",
    ]
    failed = []
    for cell in cells:
        studies = found[cell.name]
        verdicts = Counter(one["verdict"] for one in studies)
        known = [one for one in studies if one["low"] is not None]
        beyond = np.array([one["value"] - one["truth"] for one in known])
        false, covered = "", ""
        if cell.alike:
            called = sum(verdicts[verdict] for verdict in CALLED)
            false, wrong = _judged(called, len(studies), FALSE, too_high=True)
            failed += [f"{cell.name}: false positives {false}"] if wrong else []
        if cell.covers and known:
            hold = sum(one["low"] <= one["truth"] <= one["high"] for one in known)
            band = COVERED_BY_FEW if cell.blocks <= FEW else COVERED
            covered, wrong = _judged(hold, len(known), band, too_high=False)
            failed += [f"{cell.name}: coverage {covered}"] if wrong else []
        shares = " | ".join(f"{verdicts[verdict.value] / len(studies):.0%}" for verdict in SHORT)
        error = np.sqrt(np.mean([one["parts"][-1] for one in known]))
        freedom = np.mean([one["freedom"] for one in known])
        lines.append(
            f"| {cell.name} | {false} | {covered} | {shares} | {error:.2f}, {beyond.std(ddof=1):.2f}"
            f" | {beyond.mean():+.2f} | {freedom:.1f} |"
        )
    return "\n".join(lines) + "\n", failed


def _judged(count: int, n: int, band: tuple[float, float], *, too_high: bool) -> tuple[str, bool]:
    """A rate with its 95% interval, and whether that lies beyond the band on the side where the method errs."""
    low, high = proportion_confint(count, n, alpha=LEVEL, method="wilson")
    above, below = low > band[1], high < band[0]
    fails, strict = (above, below) if too_high else (below, above)
    remark = " **outside**" if fails else " conservative" if strict else ""
    return f"{count / n:.1%} ({low:.1%} to {high:.1%}){remark}", bool(fails)


def power_of_tests(cells: Sequence[Cell], found: Found) -> str:
    """How often an effect is found: as the verdict, along the line alone, and by the method before."""
    lines = ["| true effect | verdict | p <= 0.05 | method before |", "|---" * 4 + "|"]
    for cell in cells:
        studies = found[cell.name]
        of: tuple[Callable[[dict[str, Any]], bool], ...] = (
            lambda one: one["verdict"] == Verdict.HIGHER.value,
            lambda one: _found(one["p"]),
            lambda one: _found(one["old p"]),
        )
        shares = " | ".join(f"{np.mean([holds(one) for one in studies]):.0%}" for holds in of)
        lines.append(f"| {cell.name} | {shares} |")
    return "\n".join(lines) + "\n"


def _found(p: float | None) -> bool:
    return p is not None and p <= LEVEL


def power_of_pilots(designs: Sequence[Design], found: Found) -> str:
    """How often the number of runs that a pilot asks for is enough, by the power of studies of many sizes."""
    lines = [
        "| pilot | difference | runs needed in truth | upper end, median (10% to 90%) | none | not too few"
        " | estimate, median (10% to 90%) | none | not too few |",
        "|---" * 9 + "|",
    ]
    for design in designs:
        powers = {
            one.blocks // one.study.shared: np.mean([_found(study["p"]) for study in found[one.name]])
            for one in design.larger
            if found[one.name]
        }
        if not powers:
            continue
        sizes, reached = list(powers), np.maximum.accumulate(list(powers.values())).tolist()
        truly = f"{np.interp(TARGET, reached, sizes):.0f}" if reached[-1] >= TARGET else f"over {sizes[-1]}"
        said = " | ".join(_asked_for(found[design.pilot.name], end, sizes, reached) for end in ("high n", "needed"))
        lines.append(f"| {design.name} | {design.pilot.asked:g} | {truly} | {said} |")
    return "\n".join(lines) + "\n"


def _asked_for(pilots: Sequence[dict[str, Any]], end: str, sizes: Sequence[int], reached: Sequence[float]) -> str:
    """The numbers of runs, in how many pilots none is said to be enough, and in how many of all no number too small."""
    numbers = [one[end] for one in pilots if one.get(end) is not None]
    spread = "{:.0f} ({:.0f} to {:.0f})".format(*np.percentile(numbers or [np.nan], (50, 10, 90)))
    too_few = sum(np.interp(n, sizes, reached) < TARGET for n in numbers)
    return f"{spread} | {1 - len(numbers) / len(pilots):.0%} | {1 - too_few / len(pilots):.0%}"


def contradictions(found: Found) -> tuple[str, list[str]]:
    """How many verdicts the interval beside them contradicts, and a line that says so if any is."""
    every = [one for studies in found.values() for one in studies]
    n, wrong = len(every), sum(one["contradicted"] for one in every)
    verdicts = sum(one["reports"] for one in every)
    said = f"{wrong} of {verdicts:,} verdicts in {n:,} reports contradict the interval beside them."
    return said, [said] if wrong else []


def provenance(found: Found) -> str:
    """Where the numbers come from."""
    sizes = sorted({len(studies) for studies in found.values() if studies})
    versions = ", ".join(f"{name} {version(name)}" for name in ("synthgen", "numpy", "scipy", "statsmodels"))
    return (
        f"{sizes[0]} to {sizes[-1]} studies a cell, seeds as in calibration_cells.py, {platform.machine()},"
        f" {os.cpu_count()} cores, {platform.platform()}, python {platform.python_version()}, {versions}"
    )
