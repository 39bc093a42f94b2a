"""The table of all experiments of a suite: what each arm varies, its images, recipe and cost.

Imports no torch, so that showing a plan is instant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ..recipe import Recipe
from .arms import ArmSpec
from .choice import Chosen
from .cost import Cost, Estimate, Rates, TaskSize, of_run, significant, stated, stated_size, total
from .suite import Suite


def table(
    suite: Suite,
    chosen: Mapping[str, Chosen] | None = None,
    *,
    rates: Rates | None = None,
    size: TaskSize | None = None,
    compact: bool = False,
) -> list[dict[str, Any]]:
    """The plan, one row per arm: what it varies, its images, its recipe, how many runs it has, and their cost.

    Given what the arms have ``chosen``, the images are counted, and the rule and digest of each selection shown.
    Costs come from ``rates`` and the task's ``size``, by default those that the suite file states.  A
    ``compact`` table shows only how a recipe differs from the suite's, which ``recipe_lines`` give, and leaves out
    the architectures of individual arms.
    Columns that would be empty are left out.
    """
    rates = rates or (stated(suite.cost, suite.image_size) if suite.cost else None)
    costs = by_arm(suite, rates, chosen=chosen, size=size) if rates else {}
    rows = []
    for arm in suite.arms:
        row: dict[str, Any] = {
            "arm": arm.name,
            "factor": arm.factor,
            "level": arm.level or arm.name,
            "source": arm.weights.describe(),
        }
        if chosen is not None:
            selection = chosen[arm.name].selection if arm.pretraining else None
            row |= {
                "images": len(selection.indices) if selection else 0,
                "classes": len(selection.class_names) if selection else 0,
                "rule": selection.rule if selection else "",
                "selection": selection.digest if selection else "",
            }
        cost = costs.get(arm.name)
        row |= {
            "pretrain": _pretraining(suite, arm, compact) if arm.pretraining else "",
            "finetune": "" if compact else suite.finetune.describe(),
            "architectures": "" if compact else ", ".join(arm.architectures),
            "runs": len(suite.architectures_of(arm)) * len(suite.seeds),
            "GPU-hours": significant(cost.hours) if cost and not cost.missing else "",
            "baseline": arm.name == suite.baseline,
        }
        rows.append(row)
    empty = {key for key in rows[0] if all(row[key] == "" for row in rows)}
    return [{key: value for key, value in row.items() if key not in empty} for row in rows]


def by_arm(
    suite: Suite, rates: Rates, *, chosen: Mapping[str, Chosen] | None = None, size: TaskSize | None = None
) -> dict[str, Estimate]:
    """The cost of each arm, over its architectures and seeds.

    Runs that arms share, since they train on the same choice of images by the same recipe, are counted
    in the arm where they first appear.  The numbers of images are those of the ``chosen`` and of the task's
    ``size``; without these, what the suite file states.
    """
    size = size or stated_size(suite.cost)
    seen: set[tuple[str, str, str]] = set()
    costs = {}
    for arm in suite.arms:
        images = _images(arm, suite.cost, chosen)
        content = repr(replace(arm.pretraining, pretrain={}) if arm.pretraining else arm.weights)
        runs = []
        for architecture in suite.architectures_of(arm):
            recipe = suite.recipe(arm, architecture) if arm.pretraining else None
            key = (content, repr(recipe), architecture)
            if key in seen:
                continue
            seen.add(key)
            place = (rates, architecture, suite.image_size)
            if recipe:
                runs.append(of_run(*place, recipe, images=images, evaluated=0, of=f"arm {arm.name}"))
            runs.append(of_run(*place, suite.finetune, images=size.train, evaluated=size.evaluated, of="the task"))
        costs[arm.name] = total(runs * len(suite.seeds))
    return costs


def recipe_lines(suite: Suite) -> list[str]:
    """The recipes that a suite states, one line each."""
    lines = [f"pre-training: {suite.pretrain.describe()}"]
    for name in suite.pretrain_for:
        lines.append(
            f"pre-training of {name}: {_differences(suite.pretrain.changed(suite.pretrain_for[name]), suite.pretrain)}"
        )
    return [*lines, f"fine-tuning: {suite.finetune.describe()}"]


def _pretraining(suite: Suite, arm: ArmSpec, compact: bool) -> str:
    recipe = suite.recipe(arm)
    if compact:
        return _differences(recipe, suite.pretrain)
    words = [recipe.describe()]
    for name in suite.architectures_of(arm):
        differences = _differences(suite.recipe(arm, name), recipe)
        words += [f"{name}: {differences}"] if differences else []
    return "; ".join(words)


def _differences(recipe: Recipe, base: Recipe) -> str:
    """The keys of a recipe that differ from those of another."""
    values = {key.name: getattr(recipe, key.name) for key in fields(recipe)}
    differing = {key: value for key, value in values.items() if value != getattr(base, key)}
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in differing.items()
    )


def _images(arm: ArmSpec, cost: Cost | None, chosen: Mapping[str, Chosen] | None) -> int | None:
    """How many images an arm pre-trains on, if that is known without opening its sources."""
    if chosen is not None and arm.name in chosen:
        return len(chosen[arm.name].selection.indices)
    n = arm.pretraining.n if arm.pretraining else None
    return n if n is not None or cost is None else cost.pretrain_images.get(arm.name)
