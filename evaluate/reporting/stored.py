"""``comparison.json``: a comparison as it is stored, in format 2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ..analysis.formatting import in_full
from ..analysis.results import CheckResult, Contrast, Estimate, OrderedTrend
from ..analysis.significance import smallest_p

FORMAT = 2


def stored(value: Any) -> Any:
    """A comparison, or a part of it, for JSON, which has only finite numbers.

    Fields are stored under their names, except for the parts below, whose stored form is older than the classes.
    """
    if isinstance(value, Estimate):
        return None if value.value is None else {"value": value.value, "low": value.low, "high": value.high}
    if isinstance(value, Contrast):
        return stored(_contrast(value))
    if isinstance(value, OrderedTrend):
        n, p = value.step.n, value.step.p
        return {"factor": value.factor, "levels": [*value.levels], "n": n, "p": p, "verdict": value.in_words()}
    if is_dataclass(value):
        return {field.name: stored(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: stored(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [stored(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _contrast(effect: Contrast) -> dict[str, Any]:
    stated = [(one.id_f1, one.estimate) for one in effect.differences if one.id_f1 is not None]
    margin, checks = effect.margin, by_part(effect)
    record = {
        "arm": effect.arm.name,
        "factor": effect.arm.factor,
        "level": effect.arm.level,
        "n": effect.n,
        "unpaired": effect.unpaired,
        "ood": effect.ood,
        "robustness": effect.robustness,
        "p": effect.robustness.p,
        "p_adjusted": effect.p_adjusted,
        "smallest_p": smallest_p(effect.n),
        "verdict": effect.conclusion.in_words(),
        "slope": effect.slope,
        "slope_p": effect.slope.p,
        "at": [pair for pair in stated if pair[1].value is not None],
        "mixed_model": "; ".join(in_full(one.estimate) for one in checks["mixed_model"]),
        "sensitivity": [(one.name, one.estimate.value) for one in checks["sensitivity"]],
        "equivalence_p": margin and margin.equivalence_p,
        "power": margin and margin.power,
        "blocks_needed": margin and margin.needed,
    }
    if checks["checks"]:  # only if there are some, so that older records stay as they are
        record["checks"] = {
            one.name: {
                "value": one.estimate.value,
                "low": one.estimate.low,
                "high": one.estimate.high,
                "p": one.estimate.p,
                "note": one.estimate.note,
            }
            for one in checks["checks"]
        }
    return record


def by_part(effect: Contrast) -> dict[str, list[CheckResult]]:
    """The results of an effect's checks, by the key of the stored effect that holds them."""
    parts: dict[str, list[CheckResult]] = {"mixed_model": [], "sensitivity": [], "checks": []}
    for one in effect.checks:
        parts[one.stored_as].append(one)
    return parts
