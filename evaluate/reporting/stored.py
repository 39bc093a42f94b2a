"""``comparison.json``: a comparison as it is stored, in format 3."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ..analysis.formatting import in_full
from ..analysis.results import CheckResult, Contrast, Estimate, LineFit, OrderedTrend

FORMAT = 3


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
        found = {"step": value.step, "n": n, "p": p, "verdict": value.in_words()}
        return stored({"factor": value.factor, "levels": [*value.levels], **found})
    if isinstance(value, LineFit):
        return stored({"line": value.line, "scale": value.scale, "bend": value.bend, "p": value.bend.p})
    if is_dataclass(value):
        return {field.name: stored(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: stored(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [stored(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _contrast(effect: Contrast) -> dict[str, Any]:
    checks, parts = by_part(effect), effect.robustness.parts
    record = {
        "arm": effect.arm.name,
        "factor": effect.arm.factor,
        "level": effect.arm.level,
        "n": effect.n,
        "units": effect.units,
        "unpaired": effect.unpaired,
        "primary": effect.primary,
        "id": effect.id,
        "ood": effect.ood,
        "robustness": effect.robustness,
        "error": parts and parts.error,
        "freedom": parts and parts.freedom,
        "variance": parts,
        "p": effect.robustness.p,
        "p_adjusted": effect.p_adjusted,
        "verdict": effect.conclusion.in_words(),
        "on_these_clusters": effect.here,
        "without_largest_cluster": effect.without_largest,
        "choices": [
            [one.scale, one.epoch, one.line, one.metric, one.estimate.value, one.estimate.low, one.estimate.high]
            for one in effect.choices.choices
        ],
        "smallest": effect.smallest,
        "lines": {
            one.slope: {"slope": one.fitted, "robustness": one.estimate, "verdict": one.conclusion.in_words()}
            for one in effect.lines
        },
        "epochs": effect.epochs,
        "slope": effect.slope,
        "slope_p": effect.slope.p,
        "mixed_model": "; ".join(in_full(one.estimate) for one in checks["mixed_model"]),
        "sensitivity": [(one.name, one.estimate.value) for one in checks["sensitivity"]],
    }
    if checks["checks"]:  # only if there are some
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
