"""What a study asks, stated before its runs: ``[judgement]`` of a suite, part of its record and of no run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, with_config

from synthgen.common.records import STRICT, added, digest

Share = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Level = Annotated[float, Field(gt=0, le=0.5, allow_inf_nan=False)]
WHEN = {"last": "at the last epoch", "best": "at the best epoch", "mean": "averaged over all evaluated epochs"}


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The estimand: what is compared, and whom a sentence about it speaks for."""

    epoch: Literal["last", "best", "mean"] = "last"  # compared; best: of highest macro-F1 on val; mean: average of all
    line: Literal["between", "within"] = "between"  # slope of OOD over ID macro-F1: between models, or within runs
    clusters: Literal["new", "these"] = "new"  # clusters of test images (cameras) spoken for: others, or those at hand
    architectures: Literal["these", "new"] = "these"  # architectures spoken for, likewise
    margin: Share = 1.0  # percentage points of effective robustness that count as no difference
    primary: tuple[str, ...] = ()  # arms whose comparisons are corrected together; all arms by default
    level: Level = added(0.05)  # of tests and intervals: 0.05 for 95% intervals
    scale: Literal["logit", "probit", "linear"] = added("logit")  # scale of macro-F1 on which lines are straight

    @property
    def identity(self) -> str:
        """Digest of the values, which a report prints."""
        return digest(self)[:16]

    @property
    def when(self) -> str:
        """At which epoch the arms are compared, in words."""
        return WHEN[self.epoch]

    @property
    def confidence(self) -> str:
        """How often intervals hold the truth: ``95%``."""
        return f"{100 * (1 - self.level):g}%"

    def changed(self, given: Mapping[str, Any]) -> Judgement:
        """The judgement with the values that are given; None stands for one that is not."""
        return Judgement(**{**asdict(self), **{key: value for key, value in given.items() if value is not None}})


DEFAULT = Judgement()
