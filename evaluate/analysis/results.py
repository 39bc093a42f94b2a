"""The results of a comparison, as values: every run, every arm, every contrast, and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import numpy as np

from ..judgement import Judgement
from ..metrics import Scores
from ..runs import Arm
from ..tasks.base import UNKNOWN, Words
from .trends import Scale, Slope, Trend

StoredAs = Literal["mixed_model", "sensitivity", "checks"]  # the key of a stored effect that holds a check's result


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run at one epoch."""

    arm: str
    factor: str
    level: str
    architecture: str
    seed: int
    epoch: int
    final: bool  # whether it is the run's compared epoch, the last one by default; the last compared of several
    id: Scores  # fractions
    ood: Scores
    effective_robustness: float | None  # percentage points; None without a baseline trend
    n_id: int | None  # images; None for published scores
    n_ood: int | None
    worst_location: float | None  # OOD macro-F1 of the cluster where it is lowest, a fraction
    pretrain: str | None  # digest
    finetune: str  # digest; the source of published scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Variance:
    """Where the variance of an estimate comes from, squared units of the estimate; see ``uncertainty``."""

    units: float  # independent pre-training runs
    line: float  # slope of OOD over ID macro-F1
    id_clusters: float  # clusters of ID test images
    ood_clusters: float  # clusters of OOD test images
    cells: float  # what single units do at single clusters, which is in the first and the last two
    freedoms: tuple[float, float, float, float]  # degrees of freedom of the first four
    fine_tunings: float = 0.0  # of that of units: fine-tunings of one pre-training run
    by_chance: float = 0.0  # that of the line if ID scores differ between arms by no more than their error

    @property
    def total(self) -> float:
        """The variance of the estimate."""
        runs, clusters = self.units + self.line, self.id_clusters + self.ood_clusters
        return max(runs + clusters - self.cells, runs, clusters)

    @property
    def error(self) -> float:
        """The standard error."""
        return float(np.sqrt(self.total))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the total (Satterthwaite 1946), at least 1."""
        parts = (self.units, self.line, self.id_clusters, self.ood_clusters)
        spread = sum(part**2 / max(free, 1.0) for part, free in zip(parts, self.freedoms, strict=True))
        return max(1.0, self.total**2 / spread) if spread else self.freedoms[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value over blocks of paired runs, with its interval and test; None if something cannot be estimated."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None  # two-sided, for a value of zero
    n: int = 0  # blocks
    contributions: tuple[float, ...] = ()  # [n], jackknife pseudo-values, whose mean is the value; or none
    note: str = ""  # why it cannot be estimated, or a caveat
    parts: Variance | None = None  # what its error, and so its interval and p, are made of

    @property
    def side(self) -> int:
        """1 if the interval lies above zero, -1 if below, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    @property
    def sd(self) -> float | None:
        """Standard deviation of the contributions, from which power follows."""
        return float(np.std(self.contributions, ddof=1)) if len(self.contributions) > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """An arm's trend at ID scores, with a pointwise 95% interval; fractions, each [n]."""

    id: tuple[float, ...]
    ood: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSummary:
    """One arm over its finished runs; means and sds are None if there are too few."""

    arm: Arm
    planned: int  # runs
    finished: int
    id_mean: float | None  # macro-F1 at the compared epoch, fraction
    id_sd: float | None  # over runs (n - 1), architectures and seeds together
    ood_mean: float | None
    ood_sd: float | None
    trend: Trend | None  # over its models, one point each
    slope: Estimate  # of the trend
    band: Band | None
    effective_robustness: float | None  # mean over runs, from the baseline's trend; percentage points
    worst_location: float | None  # mean over runs, fraction
    extrapolated: int  # runs whose ID macro-F1 lies outside the points of the baseline's trend


class Verdict(Enum):
    """What the runs support; the value is the word for it."""

    COLLAPSED = "models collapsed"
    SAME_RUNS = "the same runs"
    HIGHER = "higher"
    LOWER = "lower"
    EQUIVALENT = "equivalent"
    DEPENDS = "depends on the line"
    NOT_SHOWN = "not shown to differ"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """A verdict, and its reason if the word alone does not say it."""

    verdict: Verdict
    reason: str = ""

    def in_words(self, words: Mapping[Verdict, str] | None = None) -> str:
        """The conclusion for readers; ``words`` replace those of some verdicts."""
        word = (words or {}).get(self.verdict, self.verdict.value)
        if not self.reason:
            return word
        if self.verdict in (Verdict.HIGHER, Verdict.LOWER):
            return f"{word}, {self.reason}"
        return f"{word} ({self.reason})" if self.verdict is Verdict.EQUIVALENT else f"{word}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnLine:
    """A difference in effective robustness as measured along one line."""

    slope: Slope  # whose slope the line has
    fitted: Estimate  # that slope, scale units
    estimate: Estimate  # percentage points
    conclusion: Conclusion  # by the interval of the estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class AtEpoch:
    """The differences at one evaluated epoch, percentage points."""

    epoch: int
    id: Estimate
    ood: Estimate
    robustness: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A difference in effective robustness under one combination of choices, on the test images at hand."""

    scale: Scale
    epoch: int
    line: Slope
    metric: str
    estimate: Estimate  # percentage points


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The same difference under all combinations."""

    choices: tuple[Choice, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """The differences."""
        return tuple(one.estimate.value for one in self.choices if one.estimate.value is not None)

    def share(self, headline: Estimate) -> tuple[float, float] | None:
        """Shares of the combinations with the sign of the headline, and with an interval on its side of zero."""
        if not self.choices or headline.value is None:
            return None
        sign = sum((value > 0) == (headline.value > 0) for value in self.values)
        side = sum(one.estimate.side == headline.side for one in self.choices)
        return sign / len(self.choices), side / len(self.choices)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The result of one of ``checks.CHECKS``; it decides nothing."""

    name: str
    estimate: Estimate
    stored_as: StoredAs = "checks"  # the key of a stored effect that holds it


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """One arm against the baseline, over blocks: runs paired by architecture and seed.

    Differences are in percentage points at the compared epoch; their intervals are simultaneous over the primary
    comparisons, and each arm's own if it is not one.
    """

    arm: Arm
    unpaired: int  # finished runs of the arm without a baseline run of their architecture and seed
    units: int  # independent pre-training runs, or architectures
    unit: str  # which of them: ``pairing.RUN`` or ``pairing.ARCHITECTURE``
    architectures: tuple[str, ...]  # of its paired runs
    primary: bool  # whether its test is corrected; if not, the comparison is exploratory
    id: Estimate
    ood: Estimate
    robustness: Estimate  # OOD at equal ID macro-F1, along the line that the judgement names
    p_adjusted: float | None  # of the last, over all primary comparisons
    here: Estimate  # the same about the test images at hand
    lines: tuple[OnLine, ...]  # along every line that can be fitted, the judgement's first
    epochs: tuple[AtEpoch, ...]
    without_largest: float | None  # ER difference without the largest OOD cluster; None if clusters are unknown
    choices: Choices
    smallest: float | None  # percentage points of effective robustness that would be found in 80% of studies
    slope: Estimate  # slope within runs minus that of the baseline, scale units
    checks: tuple[CheckResult, ...]
    conclusion: Conclusion

    @property
    def n(self) -> int:
        """Blocks."""
        return self.robustness.n

    @property
    def exploratory(self) -> bool:
        """Whether it is a comparison whose test is not corrected."""
        return not self.primary and self.n > 0 and self.conclusion.verdict is not Verdict.SAME_RUNS


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedTrend:
    """Whether effective robustness rises or falls along the ordered levels of a factor."""

    factor: str
    levels: tuple[str, ...]  # in order
    step: Estimate  # percentage points from a level to the next, over the blocks that have all levels
    conclusion: Conclusion

    def in_words(self) -> str:
        """What the test supports."""
        return self.conclusion.in_words(
            {Verdict.HIGHER: "rises", Verdict.LOWER: "falls", Verdict.NOT_SHOWN: "no trend shown"}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The arms against a second arm, such as the natural images, in place of the baseline."""

    arm: str
    effects: tuple[Contrast, ...]
    robustness: tuple[tuple[str, float | None], ...]  # by arm: mean over runs, from this arm's trend, points
    summary: tuple[str, ...]  # plain sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFit:
    """Whether OOD over ID macro-F1 is straight on a scale; see ``fit``."""

    line: Slope  # between models, or within runs
    scale: Scale
    bend: Estimate  # percentage points of OOD macro-F1 above the straight line in the middle; n are the groups left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One source of the variance of OOD macro-F1; see ``components``."""

    name: str
    variance: float  # squared percentage points, at least 0
    share: float | None  # of the sum of all, a fraction; None if that is 0
    shared: bool  # whether the arms of a block have it in common, so that differences between them are free of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """The variance of OOD macro-F1 by its sources."""

    parts: tuple[Component, ...]
    unknown: tuple[str, ...]  # sentences: what this design cannot tell apart


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSizes:
    """The clusters of one split's test images."""

    split: Literal["id", "ood"]
    clusters: int
    images: int
    effective: float  # how many clusters of equal size they are worth
    largest: float  # share of the images in the largest one, a fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """One OOD cluster of the task, such as a camera location."""

    location: int
    n_images: int
    few: bool  # whether it has too few images to be the worst
    macro_f1: tuple[float | None, ...]  # by arm: mean over runs at the last evaluated epoch, fractions


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that a report says."""

    suites: tuple[str, ...]
    task: str
    n_classes: int | None  # classes of the task, including those that do not occur
    baseline: str  # arm name
    scale: Scale
    epsilon: float  # macro-F1 is kept this far from 0 and 1 on the scale
    margin: float  # equivalence margin in percentage points
    judgement: Judgement  # what is compared, and whom a sentence speaks for
    chosen_after: tuple[str, ...]  # what of it was given after the runs, in words
    scope: str  # whom a sentence about a difference speaks for, in words
    resamples: int  # bootstrap resamples; 0 for published scores alone
    arms: tuple[ArmSummary, ...]  # the baseline first
    rows: tuple[Row, ...]
    effects: tuple[Contrast, ...]
    ordered: tuple[OrderedTrend, ...]
    reference: Reference | None
    fit: tuple[LineFit, ...]  # of both lines on every scale, the comparison's first
    components: Components  # of the variance of OOD macro-F1
    clusters: tuple[ClusterSizes, ...]  # of the ID and the OOD images; empty for published scores
    locations: tuple[Location, ...]
    environments: tuple[str, ...]  # machines and versions that trained the runs, and how many runs each
    unfinished: tuple[str, ...]  # planned runs that are not in the results, and why
    notes: tuple[str, ...]  # what a reader should know before believing the numbers
    summary: tuple[str, ...]  # plain sentences
    words: Words = UNKNOWN  # what the task calls its clusters and splits
    unverified: str = ""  # a sentence if predictions have no checksums that would reveal an edit
