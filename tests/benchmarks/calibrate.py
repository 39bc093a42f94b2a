"""How often ``evaluate compare`` errs: simulated studies of known truth, as ``make calibrate`` runs them.

``python tests/benchmarks/calibrate.py [--studies 400] [--cells GLOB ...] [--report]`` draws the predictions of studies
(``predicted``) of every cell (``calibration_cells``), puts them through the comparison, and prints what came out
(``calibration_report``). Results are kept in ``build/calibrate.jsonl``, a line per study, and an interrupted run is
taken up where it was; results of other code count for nothing.

Fails where a rate lies outside of its band, beyond the chance of so many studies.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from calibration_cells import AS_BEFORE, CELLS, DESIGNS, EVERY, POWER, Cell
from calibration_report import (
    calibration,
    contradictions,
    power_beside_the_former,
    power_of_pilots,
    power_of_tests,
    provenance,
)
from predicted import simulate

import synthgen_evaluate
from synthgen_evaluate.analysis import contrasts
from synthgen_evaluate.analysis.estimators import Line, difference
from synthgen_evaluate.analysis.pairing import complete_blocks
from synthgen_evaluate.analysis.power import needs
from synthgen_evaluate.analysis.results import Estimate, Verdict
from synthgen_evaluate.analysis.scoring import Scored
from synthgen_evaluate.runs import Arm

HERE = Path(__file__).parent
STORE = HERE.parents[1] / "build/calibrate.jsonl"
ARMS = [Arm(name=f"arm {k}", factor="factor", level=str(k), description="") for k in range(2)]
IDLE = (  # they decide no verdict, and take long
    "check", "choices", "without_largest", "_by_epoch", "smallest_effect", "slope_difference", "units_needed",
)  # fmt: skip
AT_A_TIME = 10  # studies that a process takes
Found = dict[str, list[dict[str, Any]]]  # cell -> study -> what came out


def main() -> None:
    """Simulate, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400, help="of each cell")
    parser.add_argument("--cells", nargs="*", default=["*"], metavar="GLOB", help="names of cells to run")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--report", action="store_true", help="run nothing and print what is there")
    options = parser.parse_args()
    chosen = [cell for cell in EVERY if any(fnmatch(cell.name, pattern) for pattern in options.cells)]
    code = _code()
    if not options.report:
        run(chosen, options.studies, code, options.processes)
    found = stored(chosen, options.studies, code)
    tables, failed = calibration([cell for cell in CELLS if found[cell.name]], found)
    print(tables)
    print(power_of_tests([cell for cell in POWER if found[cell.name]], found))
    if all(found[cell.name] for cell in AS_BEFORE):
        print(power_beside_the_former(AS_BEFORE, found))
    print(power_of_pilots([design for design in DESIGNS if found[design.pilot.name]], found))
    said, wrong = contradictions(found)
    print(f"{said}\n\n{provenance(found)}")
    sys.exit("\n".join([*failed, *wrong]) or 0)


def run(cells: Sequence[Cell], studies: int, code: str, processes: int) -> None:
    """Measure the studies that are not stored, and store them."""
    known = {(name, one["study"]) for name, of_cell in stored(cells, studies, code).items() for one in of_cell}
    lacking = [(cell, number) for number in range(studies) for cell in cells if (cell.name, number) not in known]
    STORE.parent.mkdir(exist_ok=True)
    with multiprocessing.Pool(processes) as pool, STORE.open("a") as file:
        for one in pool.imap_unordered(_measured, lacking, chunksize=AT_A_TIME):
            file.write(json.dumps({"code": code, **one}) + "\n")
            file.flush()


def stored(cells: Sequence[Cell], studies: int, code: str) -> Found:
    """The results of this code, by cell; a line that was cut off counts for nothing."""
    found: dict[str, dict[int, dict[str, Any]]] = {cell.name: {} for cell in EVERY}
    kinds = {cell.name: repr(cell) for cell in cells}
    for line in STORE.read_text().splitlines() if STORE.exists() else ():
        try:
            one = json.loads(line)
        except ValueError:
            continue
        if one["code"] == code and one["of"] == kinds.get(one["cell"]) and one["study"] < studies:
            found[one["cell"]][one["study"]] = one
    return {name: list(of_cell.values()) for name, of_cell in found.items()}


def _code() -> str:
    """Digest of the comparison and of the simulation."""
    folder = Path(synthgen_evaluate.__file__).parent
    files = [*sorted(folder.glob("analysis/*.py")), folder / "judgement.py", HERE / "predicted.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _measured(task: tuple[Cell, int]) -> dict[str, Any]:
    return measure(*task)


def measure(cell: Cell, number: int) -> dict[str, Any]:
    """What the comparison says of one study of a cell, and the truth."""
    rng = np.random.default_rng([cell.seed, number])
    scored, truth = simulate(cell.study, rng=rng)
    if cell.judgement.epoch == "mean":
        scored = replace(scored, compared=np.ones_like(scored.compared))
    with ExitStack() as idle:
        for name in IDLE:
            idle.enter_context(mock.patch.object(contrasts, name, _nothing))
        (found,) = contrasts.contrast_arms(scored, ARMS, "arm 0", cell.judgement)
    if cell.judgement.architectures == "new":  # of which what an arm does is 0 on average
        truth = cell.study.effect
    margin = cell.judgement.margin
    stated = [(found.conclusion.verdict, found.robustness)]
    stated += [(one.conclusion.verdict, one.estimate) for one in found.lines]
    parts = found.robustness.parts
    result = {
        "cell": cell.name,
        "of": repr(cell),
        "study": number,
        "truth": truth,
        "verdict": found.conclusion.verdict.value,
        "value": found.robustness.value,
        "low": _plain(found.robustness.low),
        "high": _plain(found.robustness.high),
        "p": found.robustness.p,
        "freedom": parts and parts.freedom,
        "freedoms": parts and parts.freedoms,
        "parts": parts and [parts.units, parts.line, parts.id_clusters, parts.ood_clusters, parts.cells, parts.total],
        "reports": len(stated),
        "contradicted": sum(contradicts(verdict, estimate, margin) for verdict, estimate in stated),
        "old p": _old_p(scored) if cell in (*POWER, *AS_BEFORE) else None,
    }
    if cell.asked is not None and parts is not None:
        needed = needs(cell.asked, parts, found.units)
        result |= {"units": found.units, "needed": needed.needed, "low n": needed.low, "high n": needed.high}
    return result


def contradicts(verdict: Verdict, estimate: Estimate, margin: float) -> bool:
    """Whether a verdict is another one than the interval beside it supports."""
    if verdict not in (Verdict.HIGHER, Verdict.LOWER, Verdict.EQUIVALENT):
        return False
    if estimate.low is None or estimate.high is None:
        return True
    if verdict is Verdict.EQUIVALENT:
        return not -margin < estimate.low <= estimate.high < margin
    return not (estimate.low > 0 if verdict is Verdict.HIGHER else estimate.high < 0)


def _old_p(scored: Scored) -> float | None:
    """p of the test before: sign flips over blocks, lines within runs, all evaluated epochs."""
    blocks = complete_blocks(scored.table, ("arm 0", "arm 1"))
    return difference(blocks, Line(epsilon=scored.line.epsilon, slope="within")).p


def _nothing(*_: object, **__: object) -> tuple[()]:
    return ()


def _plain(value: float | None) -> float | None:
    return None if value is None else float(value)


if __name__ == "__main__":
    main()
