"""Variance components of the scores, and effective numbers of clusters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.formula.api import ols
from test_evaluate_contrasts import scored, study

from synthgen_evaluate.analysis.components import cluster_sizes, components
from synthgen_evaluate.analysis.pairing import RunEpochs
from synthgen_evaluate.analysis.scoring import Scored
from synthgen_evaluate.analysis.uncertainty import Clusters
from synthgen_evaluate.tasks.base import UNKNOWN

SLIDES = replace(UNKNOWN, cluster="slide", clusters="slides")
SD = {"architecture": 4.0, "start": 1.0, "run": 0.8, "epoch": 0.6, "cluster": 3.0, "arm": 1.0, "cell": 1.5}


def crossed(
    seed: int,
    *,
    arms: int = 3,
    architectures: int = 5,
    starts: int = 2,
    runs: int = 2,
    epochs: int = 3,
    clusters: int = 12,
    lost: float = 0.0,
    sd: dict[str, float] = SD,
) -> Scored:
    """Scores that are sums of normal effects, percentage points; the sds of clusters are those of a score's mean."""
    rng = np.random.default_rng(seed)
    arm, architecture, start, run, epoch = np.indices((arms, architectures, starts, runs, epochs)).reshape(5, -1)
    block = start * runs + run
    start = (arm * architectures + architecture) * starts + start
    run = start * runs + run

    def effect(name: str, *levels: Any) -> np.ndarray:
        return sd[name] * rng.standard_normal([level.max() + 1 for level in levels])

    scores = 30 + 5 * arm + epoch + effect("architecture", architecture)[architecture] + effect("start", start)[start]
    scores = scores + effect("run", run)[run] + sd["epoch"] * rng.standard_normal(len(run))
    cluster = np.arange(clusters)
    moved = effect("cluster", cluster) + effect("arm", arm, cluster)[arm] + effect("cell", run, cluster)[run]
    at = scores[:, None] + clusters**0.5 * moved  # [n, n_clusters]
    kept = (rng.random(run.max() + 1) >= lost)[run]
    table = RunEpochs(
        arm=np.char.mod("arm %d", arm)[kept],
        architecture=np.char.mod("architecture %d", architecture)[kept],
        seed=block[kept],
        epoch=epoch[kept] + 1,
        run=np.char.mod("run %d", run)[kept],
        start=np.char.mod("start %d", start)[kept],
        id_f1=np.full(kept.sum(), 0.5),
        ood_f1=at.mean(1)[kept] / 100,
    )
    without = (at.sum(1, keepdims=True) - at)[kept] / (clusters - 1) / 100
    one = np.ones(1, np.int64)
    return scored(
        table,
        clusters=Clusters(
            id_f1=np.full((len(table.arm), 1), np.nan),
            ood_f1=without,
            id_images=one,
            ood_images=np.ones(clusters, np.int64),
        ),
    )


def sizes(found: Scored) -> dict[str, float]:
    return {part.name: part.variance for part in components(found, SLIDES).parts}


@pytest.mark.parametrize("lost", [0.0, 0.3])
def test_components_are_those_of_the_effects_on_average_in_unbalanced_studies_too(lost: float) -> None:
    found = [sizes(crossed(seed, lost=lost)) for seed in range(150)]
    expected = {
        "architecture": 16.0,
        "pre-training run": 1.0,
        "fine-tuning run": 0.64,
        "epoch": 0.36,
        "slide": 9.0,
        "arm x slide": 1.0,
        "run x slide": 2.25,
    }
    assert list(found[0]) == list(expected)
    for name, size in expected.items():
        values = [one[name] for one in found]
        assert abs(np.mean(values) - size) < 3.5 * np.std(values) / len(values) ** 0.5 + 0.02 * size, name


def test_a_balanced_study_has_the_components_of_its_analysis_of_variance() -> None:
    """Expected mean squares from textbooks, mean squares from statsmodels."""
    one = replace(crossed(3, runs=1, epochs=1, starts=3), clusters=None)
    table = one.table
    data = pd.DataFrame({"y": 100 * table.ood_f1, "arm": table.arm, "architecture": table.architecture})
    squares = sm.stats.anova_lm(ols("y ~ C(arm) + C(architecture)", data).fit())
    error = squares["mean_sq"]["Residual"]
    found = components(one, SLIDES)
    (architecture, run) = found.parts
    assert architecture.variance == pytest.approx((squares["mean_sq"]["C(architecture)"] - error) / 9)
    assert run.variance == pytest.approx(error)
    assert (architecture.name, run.name) == ("architecture", "pre-training run, fine-tuning run and epoch")
    assert (architecture.shared, run.shared) == (True, False)
    assert architecture.share + run.share == pytest.approx(1)
    assert found.unknown == (
        "Pre-training and fine-tuning runs cannot be told apart: no fine-tunings share pre-training.",
        "Runs and their epochs cannot be told apart: one epoch of each run was evaluated.",
    )


def test_negative_estimates_are_0_and_shares_add_up() -> None:
    calm = {**dict.fromkeys(SD, 0.0), "epoch": 1.0}
    negative = 0
    for seed in range(20):
        parts = components(crossed(seed, sd=calm), SLIDES).parts
        negative += sum(part.variance == 0 for part in parts)
        assert all(part.variance >= 0 for part in parts)
        assert sum(part.share for part in parts) == pytest.approx(1)
    assert negative > 20


def test_what_a_design_cannot_tell_apart_is_named() -> None:
    assert components(crossed(1, architectures=1), SLIDES).unknown == (
        "Nothing is known of other architectures: there is one.",
    )
    single = components(crossed(1, starts=1, runs=1), SLIDES)
    assert "Architectures and seeds cannot be told apart: each architecture has one seed." in single.unknown
    assert [part.name for part in single.parts][:3] == ["architecture", "pre-training run and fine-tuning run", "epoch"]
    assert components(crossed(1, architectures=1, starts=1, runs=1), SLIDES).unknown == (
        "Nothing is known of other architectures: there is one.",
        "Nothing is known of other pre-training runs: each arm has one.",
        "Nothing is known of other fine-tuning runs: each arm has one.",
        "Nothing is known of how epochs vary: each arm has one run.",
    )
    alone = components(crossed(1, arms=1, starts=1, runs=1), SLIDES)
    assert alone.unknown[0].startswith("Architectures and pre-training runs cannot be told apart")
    assert [part.name for part in alone.parts] == [
        "architecture, pre-training run and fine-tuning run", "epoch", "slide", "run x slide",
    ]  # fmt: skip
    assert components(replace(scored(study(1)), clusters=None), SLIDES).parts[-1].name == "epoch"


def test_runs_that_two_arms_share_count_once() -> None:
    one = crossed(2, arms=2)
    rows = np.concatenate([np.arange(len(one.table.arm)), np.flatnonzero(one.table.arm == "arm 1")])
    columns = {name: getattr(one.table, name)[rows] for name in RunEpochs.__slots__}
    columns["arm"][len(one.table.arm) :] = "the same"
    clusters = replace(one.clusters, id_f1=one.clusters.id_f1[rows], ood_f1=one.clusters.ood_f1[rows])
    assert sizes(replace(one, table=RunEpochs(**columns), clusters=clusters)) == pytest.approx(sizes(one))


def test_a_few_large_clusters_are_worth_few() -> None:
    images = np.array([900, 50, 50])
    clusters = Clusters(
        id_f1=np.ones((1, 4)), ood_f1=np.ones((1, 3)), id_images=np.full(4, 7), ood_images=images.astype(np.int64)
    )
    in_domain, out_of_domain = cluster_sizes(clusters)
    assert (in_domain.split, in_domain.clusters, in_domain.images) == ("id", 4, 28)
    assert in_domain.effective == pytest.approx(4)
    assert out_of_domain.effective == pytest.approx(1000**2 / (900**2 + 2 * 50**2))
    assert out_of_domain.largest == pytest.approx(0.9)
    assert cluster_sizes(None) == ()
