"""What a comparison says, as values: every run, every arm, every difference, and sentences."""

from __future__ import annotations

from dataclasses import dataclass

from ..metrics import Scores
from ..runs import Arm
from ..tasks.base import UNKNOWN, Words
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
    n_id: int | None  # images; None for published scores
    n_ood: int | None
    worst_location: float | None  # OOD macro-F1 of the cluster where it is lowest, a fraction
    pretrain: str | None  # digest
    finetune: str  # digest; the source of published scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value and its 95% interval from the two-level bootstrap; None where it cannot be had."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """An arm's trend at ID scores, with a pointwise 95% interval; fractions, each [n]."""

    id: tuple[float, ...]
    ood: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSummary:
    """One arm over its finished runs; means and sds are None where there are too few."""

    arm: Arm
    planned: int  # runs
    finished: int
    id_mean: float | None  # macro-F1 at the last evaluated epoch, fraction
    id_sd: float | None  # over runs (n - 1), architectures and seeds together
    ood_mean: float | None
    ood_sd: float | None
    trend: Trend | None  # over all evaluated epochs of all its runs
    slope: Estimate | None  # of the trend
    band: Band | None
    effective_robustness: float | None  # mean over runs, each the mean of its epochs; percentage points
    worst_location: float | None  # mean over runs, last epoch, fraction
    extrapolated: int  # runs with an epoch whose ID macro-F1 lies outside the points of the baseline's trend


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One arm against the baseline, over blocks: runs paired by architecture and seed."""

    arm: str
    factor: str
    level: str
    n: int  # blocks
    unpaired: int  # finished runs of the arm without a baseline run of their architecture and seed
    ood: Estimate | None  # OOD macro-F1, difference in percentage points; None without a block
    robustness: Estimate | None  # effective robustness, likewise; None without a baseline trend
    p: float | None  # of robustness: two-sided permutation
    p_adjusted: float | None  # within the factor
    smallest_p: float  # that so many blocks can give
    verdict: str  # in words
    slope: Estimate | None  # slope of the arm minus slope of the baseline, scale units
    slope_p: float | None
    at: tuple[tuple[float, Estimate], ...]  # where slopes differ: ID score (fraction) and difference in points
    mixed_model: str  # the check by a mixed model, in words
    sensitivity: tuple[tuple[str, float | None], ...]  # effect in points under other scales and an orthogonal trend
    equivalence_p: float | None  # two one-sided tests against the margin
    power: float | None  # chance that so many blocks show a difference as large as the margin
    blocks_needed: int | None  # for 80% power to show one


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedTrend:
    """Whether effective robustness rises or falls along the ordered levels of a factor."""

    factor: str
    levels: tuple[str, ...]  # in order
    n: int  # blocks that have all levels
    p: float | None
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The arms against a second arm, such as the natural images, in the baseline's place."""

    arm: str
    effects: tuple[Effect, ...]
    robustness: tuple[tuple[str, float | None], ...]  # by arm: mean over runs, from this arm's trend, points
    summary: tuple[str, ...]  # plain sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """One OOD cluster of the task, such as a camera location."""

    location: int
    n_images: int
    few: bool  # whether it has too few images to be the worst
    macro_f1: tuple[float | None, ...]  # by arm: mean over runs at the last evaluated epoch, fractions


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that a report says."""

    suites: tuple[str, ...]
    task: str
    n_classes: int | None  # of the task, not only those that occur
    baseline: str  # arm name
    scale: Scale
    epsilon: float  # macro-F1 is kept this far from 0 and 1 on the scale
    margin: float  # of equivalence, percentage points
    resamples: int  # of the bootstrap; 0 for published scores alone
    arms: tuple[ArmSummary, ...]  # the baseline first
    rows: tuple[Row, ...]
    effects: tuple[Effect, ...]
    ordered: tuple[OrderedTrend, ...]
    reference: Reference | None
    locations: tuple[Location, ...]
    environments: tuple[str, ...]  # machines and versions that trained the runs, and how many
    unfinished: tuple[str, ...]  # planned runs that are not in the numbers, and why
    notes: tuple[str, ...]  # what a reader should know before believing the numbers
    summary: tuple[str, ...]  # plain sentences
    words: Words = UNKNOWN  # what the task calls its clusters and splits
    unverified: str = ""  # a sentence, where predictions have no sums that would show an edit

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from ..reporting.report_tables import to_html

        return to_html(self)
