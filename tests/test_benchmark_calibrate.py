"""The simulated studies of ``make calibrate``: that they are what they say, so that their truth is the truth."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from plain_scores import plain_scores
from scipy.special import expit

from synthgen_evaluate.analysis.counts import count
from synthgen_evaluate.analysis.resampled import macro_f1
from synthgen_evaluate.analysis.results import Estimate, Verdict

sys.path.append(str(Path(__file__).parent / "benchmarks"))

import calibrate
import predicted
from calibration_cells import EVERY, Cell
from predicted import Study


def test_every_cell_has_a_seed_of_its_own() -> None:
    assert len({cell.seed for cell in EVERY}) == len({cell.name for cell in EVERY}) == len(EVERY)


@pytest.mark.parametrize("rare", [0, 120])
def test_the_short_form_of_counting_is_that_of_the_comparison(rare: int) -> None:
    rng = np.random.default_rng(0)
    study = Study(architectures=2, seeds=2, rare=rare, cameras=(20, 9), images=(400, 400))
    found = predicted.predict(study, predicted.targets(study, rng=rng)[0][0], predicted.ID, rng=rng)
    whole, without, images = predicted.leaving_out(found)
    counts = count((found.y_true, y_pred, found.camera) for y_pred in found.y_pred)
    assert whole == pytest.approx([one.macro_f1 for one in plain_scores(counts)])
    assert without == pytest.approx(macro_f1(counts, 1 - np.eye(20, dtype=np.int64)))
    assert np.array_equal(images, counts.n_images)


@pytest.mark.parametrize("arm_camera", [0.0, 0.4])
def test_many_images_of_many_cameras_have_the_macro_f1_that_was_wanted(arm_camera: float) -> None:
    rng = np.random.default_rng(1)
    study = Study(architectures=2, seeds=1, epochs=2, arm_camera=arm_camera, cameras=(4000, 4000), images=(60_000, 1))
    wanted = np.linspace(-1.5, 0.5, 8).reshape(2, 2, 1, 2)
    scores = predicted.leaving_out(predicted.predict(study, wanted, predicted.ID, rng=rng))[0]
    assert scores == pytest.approx(expit(wanted).ravel(), abs=0.015)


def test_runs_lie_on_the_line_and_an_arm_beyond_it_by_the_truth() -> None:
    study = Study(architectures=300, seeds=20, gain=0.4, effect=2.0, first=4.0, within=0.6, arm_architecture=0.06)
    (x, y), truth = predicted.targets(study, rng=np.random.default_rng(2))
    beyond = 100 * (expit(y[1]) - expit(y[0] + predicted.BETWEEN * (x[1] - x[0])))
    assert beyond[..., -1].mean() == pytest.approx(truth, abs=0.1)
    assert truth == pytest.approx(2.0, abs=0.3)
    assert predicted.targets(Study(), rng=np.random.default_rng(2))[1] == 0
    dx, dy = (v[0, ..., -1] - v[0, ..., 0] for v in (x, y))
    assert dy.mean() / dx.mean() == pytest.approx(0.6, abs=0.02)


def test_runs_from_one_pre_training_share_their_start_and_are_one_unit() -> None:
    cell = Cell(name="", seed=0, study=Study(architectures=3, seeds=3, shared=3), asked=2.0)
    assert calibrate.measure(cell, 0)["units"] == 3


def test_a_verdict_is_held_against_the_interval_beside_it() -> None:
    beside = Estimate(value=0.5, low=-0.2, high=1.2)
    assert calibrate.contradicts(Verdict.HIGHER, beside, 1.0)
    assert calibrate.contradicts(Verdict.EQUIVALENT, beside, 1.0)
    assert not calibrate.contradicts(Verdict.EQUIVALENT, beside, 1.3)
    assert not calibrate.contradicts(Verdict.CANNOT_TELL, beside, 1.0)


def test_a_small_calibration() -> None:
    cell = Cell(name="", seed=0, study=Study(architectures=4, seeds=2))
    found = [calibrate.measure(cell, number) for number in range(25)]
    assert np.mean([one["low"] <= one["truth"] <= one["high"] for one in found]) >= 0.8
    assert sum(one["contradicted"] for one in found) == 0
