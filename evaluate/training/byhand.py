"""One run by hand, without a suite file: pre-train on a source, or fine-tune some weights on a task.

Imports no torch, so that a wrong option is reported at once.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from synthgen.common.records import plain
from synthgen.storage.atomic import claimed, move_into_place
from synthgen.storage.places import place, store_of
from synthgen.storage.reading import open_file

from ..design.arms import ArmSpec, External, Scratch
from ..design.choice import captions_of, choose
from ..design.sources import FolderSource, FractalSource, ShardSource, Source
from ..design.suite import Suite, problems_of
from ..errors import EvaluateError
from ..metrics import Scores, scores
from ..models import problem
from ..recipe import Recipe
from ..tasks.spec import TaskSpec

PRETRAIN = Recipe(epochs=20, warmup_epochs=1.0, label_smoothing=0.1, min_crop=0.35)
FINETUNE = Recipe(epochs=12, batch_size=32, warmup_epochs=1.0, min_crop=0.5)

# The keys of an arm that fine-tuning by hand does not use, in the form that has always entered its name.
UNUSED: dict[str, Any] = {
    "factor": "source",
    "level": None,
    "source": None,
    "mixture": [],
    "n": None,
    "group": None,
    "classes": None,
    "diversity": None,
    "subclasses": None,
    "granularity": None,
    "control": None,
    "taxonomy": None,
    "captions": None,
    "pretrain": {},
    "architectures": [],
}


def recipe_of(default: Recipe, settings: Sequence[str]) -> Recipe:
    """A recipe with some settings changed, each written ``KEY=VALUE``; raises EvaluateError naming a wrong one."""
    keys = [key.name for key in fields(Recipe)]
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in keys:
            raise EvaluateError(f"--set {setting}: write KEY=VALUE; the keys are {', '.join(keys)}")
        try:
            changes[key] = tomllib.loads(f"value = {text}")["value"]
        except ValueError:
            changes[key] = text  # a word without quotes, or thousands of digits
    try:
        recipe = default.changed(changes)
    except EvaluateError as error:
        raise EvaluateError(f"--set {error}") from None
    for words in recipe.problems():
        raise EvaluateError(f"--set {words}")
    return recipe


def source_of(text: str) -> Source:
    """The source of a word: ``fractals[:CATEGORIES]``, a synthgen dataset directory or its URL, or an image folder."""
    kind, colon, number = text.partition(":")
    if kind == "fractals" and (not colon or re.fullmatch("[0-9]{1,18}", number)):
        fractals = FractalSource(kind="fractals")
        return replace(fractals, categories=int(number)) if number else fractals
    try:
        plan = place(text) / "plan.json"
        if store_of(plan).exists(plan):
            return ShardSource(kind="shards", path=text)
    except Exception:  # a store's client has errors of its own; the folder source reports them
        pass
    return FolderSource(kind="folder", path=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of both commands."""

    architecture: str
    image_size: int  # pixels
    seed: int
    recipe: Recipe
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    device: str = "auto"

    def check(self) -> None:
        """Raise EvaluateError if the images do not suit the architecture."""
        words = problem(self.architecture, self.image_size)
        if words:
            raise EvaluateError(f"--architecture: {words}")


def pretrain(arm: ArmSpec, settings: Settings, out: Path) -> Path:
    """Pre-train on an arm's images and write the weights to ``out`` (.safetensors); returns the run's directory.

    The run, its checkpoints and decoded images are beside ``out``; called again, it resumes.
    """
    settings.check()
    if out.suffix != ".safetensors":
        raise EvaluateError(f"--out {out}: a file of weights, ending in .safetensors")
    chosen = choose(arm, settings.image_size)
    captions = captions_of(arm, chosen) if settings.recipe.objective == "image-text" else ()

    from ..images.pixels import PixelCache
    from ..models import n_parameters
    from ..runs import RunConfig
    from .execute import make_accelerator, run_step
    from .grid import Step, pretraining_data
    from .inputs import pretraining_images

    n_parameters(settings.architecture, settings.image_size)  # only timm and open_clip know what they build
    config = RunConfig(
        kind="pretrain",
        architecture=settings.architecture,
        seed=settings.seed,
        image_size=settings.image_size,
        data=pretraining_data(chosen, captions),
        recipe=settings.recipe,
        precision=settings.precision,
    )
    accelerator = make_accelerator(settings.device, settings.precision)
    step = Step(title=f"pre-train {settings.architecture}, seed {settings.seed}", arm=arm, config=config)
    run = step.run(out.parent)
    if not run.done:
        cache = PixelCache(out.parent / "cache", limit=None)
        images = pretraining_images(arm.name, chosen, captions, settings.image_size, cache, accelerator)
        run_step(step, step.title, images, out.parent, accelerator)
    if accelerator.is_main_process:
        _copy(run.weights, out)
    return run.directory


def finetune(task: TaskSpec, checkpoint: str | None, settings: Settings, out: Path) -> list[tuple[int, str, Scores]]:
    """Fine-tune a checkpoint, or from scratch, into a runs directory; the scores by evaluated epoch and split."""
    settings.check()
    recipe = settings.recipe
    if not recipe.evaluate_epochs:
        recipe = replace(recipe, evaluate_epochs=(recipe.epochs,))
    weights = Scratch() if checkpoint is None else External(checkpoint=checkpoint)
    arm = ArmSpec(name=checkpoint or "scratch", weights=weights)
    suite = Suite(
        name="by-hand",
        baseline=arm.name,
        task=task,
        image_size=settings.image_size,
        architectures=(settings.architecture,),
        seeds=(settings.seed,),
        pretrain=FINETUNE,  # of no arm
        finetune=recipe,
        precision=settings.precision,
        arms=(arm,),
    )
    for words in problems_of(suite):
        raise EvaluateError(words)
    suite = replace(suite, name=_name(suite))

    from .execute import run_suite
    from .plan import open_suite

    outcome = run_suite(suite, out, device=settings.device)
    for line in outcome.failed:
        raise EvaluateError(line)
    plan = open_suite(suite)
    run, n_classes = plan.grid.steps[-1].run(out), len(plan.task.class_names)
    found = [(epoch, split, run.predictions(epoch, split, n_classes)) for epoch, split in run.evaluated()]
    return [(epoch, split, scores(one.y_true, one.y_pred)) for epoch, split, one in found]


def _copy(weights: Path, out: Path) -> None:
    """Copy a file completely or not at all; of several processes at the same copy, one makes it."""
    with claimed(out) as file:
        if file is not None:
            with open_file(weights) as stored:
                shutil.copyfileobj(stored, file)
            move_into_place(file, out)


def _name(suite: Suite) -> str:
    """A distinct name for each run by hand, the same if the command is repeated."""
    (arm,) = suite.arms
    record = {**plain(suite), "arms": [{**UNUSED, "name": arm.name, "checkpoint": arm.checkpoint}]}
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    architecture = re.sub(r"[^A-Za-z0-9_.-]", "-", suite.architectures[0])
    return f"by-hand-{architecture}-{suite.seeds[0]}-{digest[:8]}"
