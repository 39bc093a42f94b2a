"""A check is one row of CHECKS: what reports, tables and records show of it follows."""

from __future__ import annotations

import csv
import html
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from simulated_studies import DEFAULTS
from test_evaluate_compare import compared, fake_runs
from test_evaluate_contrasts import contrasted, study

from synthgen_evaluate.analysis import checks
from synthgen_evaluate.analysis.estimators import Line, jackknife
from synthgen_evaluate.analysis.pairing import Blocks, Paired
from synthgen_evaluate.analysis.results import Estimate, Verdict
from synthgen_evaluate.analysis.wording import flattened
from synthgen_evaluate.reporting.report import write_report
from synthgen_evaluate.reporting.stored import stored

NAME = "last epochs alone"


def last_epochs(paired: Paired, line: Line) -> Estimate:
    """OOD macro-F1 at the last epoch, second arm minus first, in percentage points."""

    def estimator(blocks: Blocks, weights: np.ndarray) -> np.ndarray:
        values = 100 * (blocks.ood_f1[:, 1, -1] - blocks.ood_f1[:, 0, -1])
        return (weights @ values) / weights.sum(1)

    return jackknife(estimator, paired.final)


def test_a_row_of_checks_shows_in_record_table_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = fake_runs(tmp_path / "runs", {"scratch": 0.3, "natural": 0.5, "fractals": 0.4})
    before = stored(compared(runs, reference="natural"))
    monkeypatch.setattr(checks, "CHECKS", (*checks.CHECKS, checks.Check(name=NAME, run=last_epochs)))
    comparison = compared(runs, reference="natural")
    page = write_report(comparison, tmp_path / "after", command="compare")

    final = {s.arm.name: 100 * s.ood_mean for s in comparison.arms}
    effects = json.loads((page.parent / "comparison.json").read_text())["comparison"]["effects"]
    for effect in effects:
        found = effect["checks"][NAME]
        assert found["value"] == pytest.approx(final[effect["arm"]] - final["scratch"])
        assert found["low"] < found["value"] < found["high"]
        assert 0 < found["p"] <= 1
    with (page.parent / "tables" / "checks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row[NAME]) for row in rows] == [effect["checks"][NAME]["value"] for effect in effects]
    assert {f"{NAME}_low", f"{NAME}_high", f"{NAME}_p"} <= rows[0].keys()
    for kind in ("md", "tex"):
        assert NAME in (page.parent / "tables" / f"checks-reference.{kind}").read_text()
    assert f">{NAME}</th>" in html.unescape(page.read_text())

    for effect in effects:  # without the row the record is as it was
        del effect["checks"][NAME]
    assert json.loads(json.dumps(before["effects"])) == effects


def test_no_check_crosses_a_gap_that_no_line_bridges() -> None:
    """Arms 0.6 logit apart in ID scores that vary by 0.02: only a model of all epochs has a value."""
    calm = replace(DEFAULTS, architecture_id=0.01, seed_id=0.01, run_id=0.01, epoch_id=0.01, rise=0.05, noise_id=0.01)
    (found,) = contrasted(study(2, gains=(0, 0.6), variation=calm))
    others = [check for check in found.checks if check.name != "mixed model"]
    assert len(others) == len(checks.CHECKS) - 2
    assert {check.estimate.value for check in others} == {None}
    assert all("times as far apart as those of models vary" in check.estimate.note for check in others)


def test_a_difference_that_noise_in_id_scores_can_explain_is_noted() -> None:
    """Twelve models on one line, ID scores known to 0.15 logit, an arm 0.8 logit higher: the line is too flat."""
    rng = np.random.default_rng(9)
    table = study(9, seeds=1, architectures=12, epochs=1, effects=(0, 0))
    model = np.unique(table.architecture, return_inverse=True)[1]
    true = rng.normal(0, 0.3, 12)[model] + 0.8 * (table.arm == "arm 1")
    shown, ood = true + rng.normal(0, 0.15, len(true)), 0.85 * true - 0.5 + rng.normal(0, 0.15, len(true))
    (effect,) = contrasted(replace(table, id_f1=expit(shown), ood_f1=expit(ood)))
    assert effect.conclusion.verdict is Verdict.HIGHER
    (note,) = flattened((effect,), "macro-F1")
    assert note.startswith("arm 1: noise in ID macro-F1 makes a line too flat; along one that allows for as much of it")
    assert note.endswith("the difference in effective robustness is +3.9 (−0.3 to +8.1) points.")
    (sound,) = contrasted(study(3, effects=(0, 5)))
    assert sound.conclusion.verdict is Verdict.HIGHER
    assert flattened((sound,), "macro-F1") == ()
