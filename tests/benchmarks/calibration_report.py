"""What came out of the simulated studies of ``calibrate.py``, as tables, and what lies outside of its band."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from calibration_cells import Cell, Design
from scipy.stats import norm
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
        estimated = " |  |  |"
        if known:
            error = np.sqrt(np.mean([one["parts"][-1] for one in known]))
            freedom = np.mean([one["freedom"] for one in known])
            estimated = f"{error:.2f}, {beyond.std(ddof=1):.2f} | {beyond.mean():+.2f} | {freedom:.1f} |"
        lines.append(f"| {cell.name} | {false} | {covered} | {shares} | {estimated}")
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
        shares = (_called(studies), _share(studies, "p"), _share(studies, "old p"))
        lines.append(f"| {cell.name} | {' | '.join(f'{share:.0%}' for share in shares)} |")
    return "\n".join(lines) + "\n"


def power_beside_the_former(cells: Sequence[Cell], found: Found) -> str:
    """False positives and power where epochs are averaged, beside the former method: also at its false positives."""
    lines = [
        "| true effect | verdict | p <= 0.05 | method before | the same at as many false positives |",
        "|---" * 5 + "|",
    ]
    alike = next(found[cell.name] for cell in cells if cell.alike)
    bound = float(np.quantile([one["old p"] for one in alike], _share(alike, "p")))
    for cell in cells:
        studies = found[cell.name]
        former = _share(studies, "old p"), _share(studies, "old p", bound)
        shares = (_called(studies), _share(studies, "p"), *former)
        lines.append(f"| {cell.name} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    return "\n".join(lines) + "\n"


def _called(studies: Sequence[dict[str, Any]]) -> float:
    """The share of studies with a verdict "higher" or "lower"."""
    return float(np.mean([one["verdict"] in CALLED for one in studies]))


def _share(studies: Sequence[dict[str, Any]], key: str, bound: float = LEVEL) -> float:
    """The share of studies whose p is at most the bound."""
    return float(np.mean([one[key] is not None and one[key] <= bound for one in studies]))


def power_of_pilots(designs: Sequence[Design], found: Found) -> str:
    """How often the number of runs that a pilot asks for is enough, by the power of studies of many sizes."""
    lines = [
        "| pilot | difference | runs needed in truth | upper end, median (10% to 90%) | none | not too few"
        " | estimate, median (10% to 90%) | none | not too few |",
        "|---" * 9 + "|",
    ]
    for design in designs:
        powers = {
            one.blocks // one.study.shared: _share(found[one.name], "p") for one in design.larger if found[one.name]
        }
        if not powers:
            continue
        truly = _needed(powers)
        shown = f"{truly:.0f}" if truly < np.inf else f"over {max(powers)}"
        said = " | ".join(_asked_for(found[design.pilot.name], end, truly) for end in ("high n", "needed"))
        lines.append(f"| {design.name} | {design.pilot.asked:g} | {shown} | {said} |")
    return "\n".join(lines) + "\n"


def _needed(powers: Mapping[int, float]) -> float:
    """The number with which power reaches the target; the power of a test is nearly straight in root n, as a probit."""
    roots = np.sqrt(list(powers))
    reached = np.maximum.accumulate(list(powers.values()))
    if reached[-1] < TARGET:
        return np.inf
    return float(np.interp(norm.ppf(TARGET), norm.ppf(reached.clip(0.001, 0.999)), roots)) ** 2


def _asked_for(pilots: Sequence[dict[str, Any]], end: str, truly: float) -> str:
    """The numbers of runs, in how many pilots none is said to be enough, and in how many of all no number too small."""
    numbers = np.array([one[end] for one in pilots if one.get(end) is not None])
    spread = "{:.0f} ({:.0f} to {:.0f})".format(*np.percentile(numbers, (50, 10, 90))) if len(numbers) else ""
    too_few = float((numbers < round(truly) if truly < np.inf else numbers > 0).sum())
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
