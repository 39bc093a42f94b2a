"""What the code's own checks say of a value, from which the ranges of fields are read."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fields import Check
from sections import RUNS

from synthgen_evaluate.errors import EvaluateError

ROOT = Path(__file__).parents[2]
BESIDE: dict[str, dict[str, Any]] = {"classes": {"group": "animals"}, "diversity": {"n": 100}}  # what a key needs
LAST = "77777"  # epochs of the recipe whose problems give the ranges


def thing(path: str) -> Any:
    """What an import path names: a class, a function, a method or a table."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            found = getattr(found, name)
        return found
    raise ImportError(path)


def check_suite(name: str, value: Any) -> Sequence[str]:
    """Of the suite that comes with the project."""
    suite = thing(f"{RUNS}.design.suite.read_suite")(ROOT / "evaluate/suites/quickstart.toml")
    return list(thing(f"{RUNS}.design.suite.problems_of")(dataclasses.replace(suite, **{name: value})))


def check_recipe(name: str, value: Any) -> Sequence[str]:
    """Of a recipe of LAST epochs, in words about its epochs."""
    recipe = thing(f"{RUNS}.recipe.Recipe")(epochs=int(LAST))
    return [text.replace(LAST, "epochs") for text in dataclasses.replace(recipe, **{name: value}).problems()]


def check_fractals(name: str, value: Any) -> Sequence[str]:
    """Of fractals drawn on the fly."""
    source = thing(f"{RUNS}.design.sources.FractalSource")(kind="fractals")
    return list(dataclasses.replace(source, **{name: value}).problems())


def check_arm(name: str, value: Any) -> Sequence[str]:
    """Of an arm with a source."""
    source = {} if name in ("checkpoint", "mixture") else {"source": {"kind": "fractals"}}
    return _arm({**source, **BESIDE.get(name, {}), name: value})


def _arm(keys: dict[str, Any]) -> Sequence[str]:
    try:
        arm = thing(f"{RUNS}.design.variants.read")(thing(f"{RUNS}.design.arms.ArmSpec"), {"name": "a", **keys})
    except EvaluateError as error:
        return [str(error)]
    return list(arm.problems())


def check_subclasses(name: str, value: Any) -> Sequence[str]:
    """Of an arm with fewer subclasses."""
    thinning = {"level": 1, "factor": 2, name: value}
    return _arm({"source": {"kind": "fractals"}, "n": 100, "subclasses": thinning})


def check_cost(name: str, value: Any) -> Sequence[str]:
    """Of the costs of a suite."""
    inner = {"images_per_second": {}, "device": "", "source": ""}
    return list(thing(f"{RUNS}.design.cost.Cost")(**{**inner, name: value}).problems())


CHECKS: dict[str, Check] = {
    name.removeprefix("check_"): function for name, function in list(globals().items()) if name.startswith("check_")
}
