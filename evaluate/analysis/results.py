"""The results of a comparison, as values: every run, every arm, every contrast, and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import numpy as np

from ..metrics import Scores
from ..runs import Arm
from ..tasks.base import UNKNOWN, Words
from .trends import Scale, Trend

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
    """A value over blocks of paired runs, with its 95% interval and test; None if something cannot be estimated."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None  # two-sided, for a value of zero
    n: int = 0  # blocks
    contributions: tuple[float, ...] = ()  # [n], jackknife pseudo-values, whose mean is the value; or none
    note: str = ""  # why it cannot be estimated, or a caveat

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
    id_mean: float | None  # macro-F1 at the last evaluated epoch, fraction
    id_sd: float | None  # over runs (n - 1), architectures and seeds together
    ood_mean: float | None
    ood_sd: float | None
    trend: Trend | None  # over all evaluated epochs of all its runs
    slope: Estimate  # of the trend
    band: Band | None
    effective_robustness: float | None  # mean over runs, each the mean of its epochs; percentage points
    worst_location: float | None  # mean over runs, last epoch, fraction
    extrapolated: int  # runs with an epoch whose ID macro-F1 lies outside the points of the baseline's trend


class Verdict(Enum):
    """What the blocks support; the value is the word for it."""

    HIGHER = "higher"
    LOWER = "lower"
    EQUIVALENT = "equivalent"
    SLOPES_DIFFER = "slopes differ"
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
        return f"{word} ({self.reason})" if self.verdict is Verdict.EQUIVALENT else f"{word}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginTest:
    """An estimate tested against the margin within which arms count as equivalent."""

    margin: float  # percentage points
    equivalence_p: float  # two one-sided tests that the effect lies within it
    power: float  # the probability that these blocks show an effect of the margin
    needed: int | None  # blocks that show it with 80% power; None if no number would suffice


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A difference from the baseline in percentage points, tested as one of the family of its factor."""

    id_f1: float | None  # the ID macro-F1 it is stated for; None for all
    estimate: Estimate
    p_adjusted: float | None  # Holm over the family
    margin: MarginTest | None
    conclusion: Conclusion


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The result of one of ``checks.CHECKS``; it decides nothing."""

    name: str
    estimate: Estimate
    stored_as: StoredAs = "checks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """One arm against the baseline, over blocks: runs paired by architecture and seed."""

    arm: Arm
    unpaired: int  # finished runs of the arm without a baseline run of their architecture and seed
    ood: Estimate  # OOD macro-F1, difference in percentage points
    robustness: Estimate  # effective robustness at equal ID macro-F1, likewise; its interval is the bootstrap's
    slope: Estimate  # slope within runs minus that of the baseline, scale units
    differences: tuple[Difference, ...]  # that of robustness; if slopes differ, those at stated ID scores
    checks: tuple[CheckResult, ...]

    @property
    def n(self) -> int:
        """Blocks."""
        return self.robustness.n

    @property
    def overall(self) -> Difference | None:
        """The tested difference over all ID scores; None if slopes differ."""
        return next((one for one in self.differences if one.id_f1 is None), None)

    @property
    def margin(self) -> MarginTest | None:
        """The overall difference tested against the margin."""
        return self.overall.margin if self.overall else None

    @property
    def p_adjusted(self) -> float | None:
        """Adjusted p within the factor; if slopes differ, the smallest over the stated ID scores."""
        return min((one.p_adjusted for one in self.differences if one.p_adjusted is not None), default=None)

    @property
    def conclusion(self) -> Conclusion:
        """What the tests support, over all stated ID scores."""
        if not self.differences:
            why = "slopes differ, and no range of ID macro-F1 is covered by both arms"
            return Conclusion(verdict=Verdict.CANNOT_TELL, reason=why)
        if self.overall:
            return self.overall.conclusion
        stated = (f"at {100 * (d.id_f1 or 0):.1f}% ID macro-F1 {d.conclusion.in_words()}" for d in self.differences)
        return Conclusion(verdict=Verdict.SLOPES_DIFFER, reason="; ".join(stated))


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
    resamples: int  # bootstrap resamples; 0 for published scores alone
    arms: tuple[ArmSummary, ...]  # the baseline first
    rows: tuple[Row, ...]
    effects: tuple[Contrast, ...]
    ordered: tuple[OrderedTrend, ...]
    reference: Reference | None
    locations: tuple[Location, ...]
    environments: tuple[str, ...]  # machines and versions that trained the runs, and how many runs each
    unfinished: tuple[str, ...]  # planned runs that are not in the results, and why
    notes: tuple[str, ...]  # what a reader should know before believing the numbers
    summary: tuple[str, ...]  # plain sentences
    words: Words = UNKNOWN  # what the task calls its clusters and splits
    unverified: str = ""  # a sentence if predictions have no checksums that would reveal an edit
