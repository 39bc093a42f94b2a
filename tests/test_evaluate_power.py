"""``evaluate power``, beside sums by hand."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from scipy.stats import nct
from scipy.stats import t as student

GAINS = (1.9, 0.4, 3.1, 2.2, 0.1, 1.3, 2.7, 0.9)  # points of OOD macro-F1, by architecture, at equal ID macro-F1


def found_by_t(effect: float, sd: float, n: int, level: float = 0.05) -> float:
    """How often the t test of n paired differences finds an effect."""
    limit, shift = student.ppf(1 - level / 2, n - 1), effect * np.sqrt(n) / sd
    return float(nct.sf(limit, n - 1, shift) + nct.sf(limit, n - 1, -shift))


def needed(effect: float, sd: float) -> int:
    return next(n for n in count(3) if found_by_t(effect, sd, n) >= 0.8)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Eight architectures with one run each of two arms."""
    rows = ["pretraining,architecture,seed,id_macro_f1,ood_macro_f1"]
    for k, gain in enumerate(GAINS):
        x, y = 40 + 3.0 * k, 25 + 2.5 * k + (-1) ** k
        rows += [f"none,net {k},0,{x},{y}", f"fractals,net {k},0,{x},{y + gain}"]
    path = tmp_path / "scores.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_published_scores_with_one_run_per_architecture_need_more_architectures(
    published: Path, evaluate_here: Command
) -> None:
    asked = ("power", "--results", published, "--difference", 1.5)
    told = evaluate_here(*asked)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("architectures to show 1.5 points of effective robustness against none in 80% of")
    assert "studies, on these test images: what others add is unknown; effects are in points" in told.stdout
    (one,) = json.loads(evaluate_here(*asked, "--json").stdout)
    sd = float(np.std(GAINS, ddof=1))
    assert (one["arm"], one["units"], one["needed"]) == ("fractals", 8, needed(1.5, sd))
    smallest = one["smallest"]
    assert found_by_t(smallest, sd, 8) == pytest.approx(0.8, abs=1e-6)
    assert one["low"] <= one["needed"] <= one["high"]
    assert "architectures" in one["helps"] or one["helps"] == ""


def test_stated_variances_stand_for_a_pilot(evaluate_here: Command) -> None:
    asked = ("power", "--run-sd", 1.2, "--difference", 1.5)
    told = evaluate_here(*asked)
    assert told.stdout.startswith(
        "independent runs to show 1.5 points of effective robustness against the baseline in 80% of studies, if other"
        " test images add no error; effects"
    )
    assert str(needed(1.5, 1.2)) in told.stdout.splitlines()[-1].split()
    (one,) = json.loads(evaluate_here(*asked, "--json").stdout)
    assert (one["arm"], one["needed"], one["floor"]) == ("stated", needed(1.5, 1.2), 0.0)


def test_no_number_of_runs_reaches_below_what_clusters_leave(evaluate_here: Command) -> None:
    (one,) = json.loads(
        evaluate_here("power", "--run-sd", 1.2, "--cluster-error", 1.0, "--difference", 1.5, "--json").stdout
    )
    assert one["needed"] is None
    assert one["floor"] > 1.5
    (enough,) = json.loads(
        evaluate_here("power", "--run-sd", 1.2, "--cluster-error", 0.3, "--difference", 1.5, "--json").stdout
    )
    assert enough["needed"] > needed(1.5, 1.2)


def test_stated_variances_and_a_pilot_are_two_questions(published: Path, evaluate_here: Command) -> None:
    refused = evaluate_here("power", "--results", published, "--run-sd", 1)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "evaluate: --run-sd: is for a study without a pilot; leave the runs away\n"
