"""What a comparison says, as values: every run, every arm, every difference, and sentences."""

from __future__ import annotations

from dataclasses import dataclass

from .metrics import Scores
from .runs import Arm
from .stats import PairedDifference
from .trends import Scale, Trend


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run at one epoch."""

    arm: str
    factor: str
    level: str
    architecture: str
    seed: int
    epoch: int
    final: bool  # whether it is the run's last evaluated epoch
    id: Scores  # fractions
    ood: Scores
    effective_robustness: float | None  # percentage points; None without a baseline trend
    n_id: int  # images
    n_ood: int
    pretrain: str | None  # digest
    finetune: str  # digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSummary:
    """One arm over the final epochs of its finished runs; means and sds are None where there are too few."""

    arm: Arm
    planned: int  # runs
    finished: int
    id_mean: float | None  # macro-F1, fraction
    id_sd: float | None  # over runs (n - 1), architectures and seeds together
    ood_mean: float | None
    ood_sd: float | None
    trend: Trend | None  # over all evaluated epochs of all its runs
    effective_robustness: float | None  # mean over runs, percentage points
    extrapolated: int  # runs whose ID macro-F1 lies outside the points of the baseline's trend


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One arm against the baseline; differences in percentage points."""

    arm: str
    unpaired: int  # finished runs of the arm without a baseline run of their architecture and seed
    ood: PairedDifference  # OOD macro-F1
    ood_verdict: str
    robustness: PairedDifference | None  # effective robustness; None without a baseline trend
    robustness_verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that a report says."""

    suites: tuple[str, ...]
    task: str
    n_classes: int  # of the task, not only those that occur
    baseline: str  # arm name
    scale: Scale
    epsilon: float  # macro-F1 is kept this far from 0 and 1 on the scale
    n_comparisons: int  # arms tested against the baseline; the level is divided by it
    arms: tuple[ArmSummary, ...]  # the baseline first
    rows: tuple[Row, ...]
    effects: tuple[Effect, ...]
    unfinished: tuple[str, ...]  # planned runs that are not in the numbers, and why
    notes: tuple[str, ...]  # what a reader should know before believing the numbers
    summary: tuple[str, ...]  # three sentences
