"""A suite file: task, architectures, seeds, recipes and arms, checked before anything runs.

Imports no torch, so that looking at a plan is instant.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError, with_config

from synthgen.content import STRICT

from .arms import ArmSpec, Chosen
from .errors import EvaluateError
from .models import problem
from .recipe import Recipe


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What is fine-tuned on: a local copy in the iWildCam-WILDS layout."""

    path: str
    kind: Literal["iwildcam"] = "iwildcam"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A suite file.  Paths are relative to the working directory."""

    name: str
    baseline: str
    task: TaskSpec
    image_size: int  # pixels
    architectures: tuple[str, ...]
    seeds: tuple[int, ...]
    pretrain: Recipe
    finetune: Recipe
    arms: tuple[ArmSpec, ...]


def read_suite(path: Path) -> Suite:
    """Read and check a suite file; raises EvaluateError naming file and key."""
    try:
        text = path.read_text()
    except OSError as error:
        raise EvaluateError(f"{path}: {error.strerror}") from None
    try:
        suite = TypeAdapter(Suite).validate_python(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EvaluateError(f"{path}: not a TOML file ({error})") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        problem = "unknown key" if first["type"] == "unexpected_keyword_argument" else first["msg"]
        raise EvaluateError(f"{path}: {key}: {problem}") from None
    for problem in _problems(suite):
        raise EvaluateError(f"{path}: {problem}")
    return suite


def _problems(suite: Suite) -> list[str]:
    wrong = [problem(name, suite.image_size) for name in suite.architectures]
    problems = [f"architectures: {words}" for words in wrong if words]
    names = Counter(arm.name for arm in suite.arms)
    problems += [f"arms: {count} arms are named {name!r}" for name, count in names.items() if count > 1]
    problems += [f"arms: {arm.name}: {words}" for arm in suite.arms for words in arm.problems()]
    if suite.baseline not in names:
        problems.append(f"baseline: no arm is named {suite.baseline!r}; there are {', '.join(names)}")
    for key in ("architectures", "seeds"):
        values: tuple[Any, ...] = getattr(suite, key)
        if not values or len(set(values)) < len(values):
            problems.append(f"{key}: {list(values)} is empty or repeats a value")
    if suite.image_size < 16:
        problems.append(f"image_size: {suite.image_size} px; at least 16")
    for key, recipe in (("pretrain", suite.pretrain), ("finetune", suite.finetune)):
        problems += [f"{key}.{problem}" for problem in recipe.problems()]
    if not suite.finetune.evaluate_epochs:
        problems.append("finetune.evaluate_epochs: empty; name the epochs whose predictions are stored")
    return problems


def table(suite: Suite, chosen: Mapping[str, Chosen] | None = None) -> list[dict[str, Any]]:
    """The plan, a row an arm: what it varies, its images, how many runs it has.

    With what the arms have ``chosen`` the images are counted, and the rule and digest of each selection told.
    """
    rows = []
    for arm in suite.arms:
        row: dict[str, Any] = {
            "arm": arm.name,
            "factor": arm.factor,
            "level": arm.level or arm.name,
            "source": arm.describe(),
        }
        if chosen is not None:
            selection = chosen[arm.name].selection if arm.pretrains else None
            row |= {
                "images": len(selection.indices) if selection else 0,
                "classes": len(selection.class_names) if selection else 0,
                "rule": selection.rule if selection else "",
                "selection": selection.digest if selection else "",
            }
        rows.append(
            row
            | {
                "pretrain": suite.pretrain.describe() if arm.pretrains else "",
                "finetune": suite.finetune.describe(),
                "runs": len(suite.architectures) * len(suite.seeds),
                "baseline": arm.name == suite.baseline,
            }
        )
    return rows
