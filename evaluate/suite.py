"""A suite file: task, architectures, seeds, recipes and arms, checked before anything runs.

Imports no torch, so that looking at a plan is instant.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, with_config

from synthgen.plan import STRICT

from .errors import EvaluateError
from .models import HEADS
from .runs import Recipe


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSource:
    """Images in class folders; a path or an fsspec URL such as zip://FOLDER::FILE.zip."""

    kind: Literal["folder"]
    path: str

    def __str__(self) -> str:
        return f"image folder {self.path}"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSource:
    """A finished synthgen dataset directory."""

    kind: Literal["shards"]
    path: str

    def __str__(self) -> str:
        return f"synthgen set {self.path}"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class FractalSource:
    """FractalDB drawn on the fly."""

    kind: Literal["fractals"]
    categories: int | str = 1000  # how many, or a folder of category CSVs
    n: int | None = None  # images; all there are by default
    seed: int = 1
    draw: str = "patch_gray"
    size: int | None = None  # pixels; the suite's image size by default
    points: int = 200_000
    weights: float = 0.4

    def __str__(self) -> str:
        return f"fractals of {self.categories} categories, seed {self.seed}, {self.draw}"


Source = Annotated[FolderSource | ShardSource | FractalSource, Field(discriminator="kind")]


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSpec:
    """One condition: what the models are pre-trained on."""

    name: str
    factor: str = "source"
    level: str | None = None  # the arm's name by default
    source: Source | None = None  # None: from scratch
    n: int | None = None  # images, balanced over the classes; all by default

    def describe(self) -> str:
        """The images in words."""
        if self.source is None:
            return "no pre-training"
        return f"{self.source}, {'all' if self.n is None else self.n} images"


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
    problems = []
    for name in suite.architectures:
        if name not in HEADS:
            problems.append(f"architectures: unknown {name!r}; known are {', '.join(HEADS)}")
    names = Counter(arm.name for arm in suite.arms)
    problems += [f"arms: {count} arms are named {name!r}" for name, count in names.items() if count > 1]
    problems += [f"arms: {arm.name}: n without a source" for arm in suite.arms if arm.n and not arm.source]
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


def table(suite: Suite) -> list[dict[str, Any]]:
    """The plan, a row an arm: what it varies, its images, how many runs it has."""
    return [
        {
            "arm": arm.name,
            "factor": arm.factor,
            "level": arm.level or arm.name,
            "images": arm.describe(),
            "pretrain_epochs": suite.pretrain.epochs if arm.source else 0,
            "finetune_epochs": suite.finetune.epochs,
            "runs": len(suite.architectures) * len(suite.seeds),
            "baseline": arm.name == suite.baseline,
        }
        for arm in suite.arms
    ]
