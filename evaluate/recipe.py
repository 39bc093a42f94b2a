"""Recipes: the hyperparameters of one training run, as a suite file says them.

Imports no torch, so that showing a plan is instant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from pydantic import ValidationError, with_config

from synthgen.common.records import STRICT, adapter, first_problem

from .errors import EvaluateError

# Bounds that a typing mistake exceeds, and that no real recipe comes near.
MOST_EPOCHS = 100_000
MOST_IN_BATCH = 1_000_000
MOST = 1_000.0  # of a learning rate, a weight decay, a temperature and mixup's parameter
OFF = {"mixup": 0.0, "label_smoothing": 0.0, "evaluate_epochs": ()}  # keys of supervised training alone, when unused


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a model is trained."""

    epochs: int  # passes over the images
    objective: Literal["supervised", "simclr", "image-text"] = "supervised"  # what pre-training learns from
    batch_size: int = 64  # images per step, over all processes
    accumulate: int = 1  # gradient accumulation: parts into which each process divides its share of a batch
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"  # optimizer; sgd has momentum 0.9
    lr: float = 1e-3  # peak learning rate
    weight_decay: float = 0.05  # weight decay, decoupled from the gradient with adamw
    schedule: Literal["cosine", "step", "constant"] = "cosine"  # schedule of the learning rate after the warm-up
    step_epochs: int = 30  # epochs between drops of the learning rate to a tenth, with the step schedule
    warmup_epochs: float = 0.0  # epochs over which the learning rate rises linearly from zero
    label_smoothing: float = 0.0  # share of the target that is spread over all classes
    mixup: float = 0.0  # both parameters of the Beta distribution (Zhang et al. 2018); 0 is off
    temperature: float = 0.1  # temperature of the contrastive objectives; image-text learns its own, starting here
    min_crop: float = 1.0  # smallest share of the area that a random crop keeps; 1 turns cropping off
    flip: bool = True  # mirror images left to right at random
    jitter: float = 0.0  # strength of random colour changes, on SimCLR's scale (1 is what it uses on ImageNet)
    gray: float = 0.0  # probability that an image is turned gray
    blur: float = 0.0  # probability that an image is blurred
    compile: bool = False  # use torch.compile
    evaluate_epochs: tuple[int, ...] = ()  # epochs after which predictions are stored (1 = after the first)

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """This recipe with some keys changed.

        If the objective becomes one without labels, the keys of supervised training alone are turned off,
        unless ``changes`` names them.  Raises EvaluateError, beginning with the key, for an
        unknown key or a value of the wrong type.
        """
        kept = asdict(self)
        if changes.get("objective", "supervised") != "supervised":
            kept |= OFF
        try:
            text = json.dumps(kept | dict(changes), default=str)
            return cast(Recipe, adapter(Recipe).validate_json(text, strict=True))
        except ValidationError as error:
            raise EvaluateError(first_problem(error)) from None

    def describe(self) -> str:
        """The hyperparameters in words."""
        schedule = f"step of {self.step_epochs} epochs" if self.schedule == "step" else self.schedule
        words = [f"{self.epochs} epochs", f"batch {self.batch_size}", f"{self.optimizer} {self.lr:g}"]
        words += [f"weight decay {self.weight_decay:g}", schedule]
        optional = (
            (self.warmup_epochs, f"warm-up {self.warmup_epochs:g}"),
            (self.label_smoothing, f"label smoothing {self.label_smoothing:g}"),
            (self.mixup, f"mixup {self.mixup:g}"),
            (self.objective != "supervised", f"temperature {self.temperature:g}"),
            (self.min_crop < 1, f"crops from {self.min_crop:g}"),
            (self.flip, "flips"),
            (self.jitter, f"colour jitter {self.jitter:g}"),
            (self.gray, f"gray {self.gray:g}"),
            (self.blur, f"blur {self.blur:g}"),
        )
        words += [text for given, text in optional if given]
        return ", ".join(words if self.objective == "supervised" else [self.objective, *words])

    def problems(self) -> list[str]:
        """What is out of range, one line each, beginning with the key."""
        late = [epoch for epoch in self.evaluate_epochs if not 1 <= epoch <= self.epochs]
        shares = [key for key in ("gray", "blur", "jitter") if not 0 <= getattr(self, key) <= 1]
        only_supervised = [key for key in OFF if getattr(self, key)]
        repeated = len(set(self.evaluate_epochs)) < len(self.evaluate_epochs)
        checks = (
            (1 <= self.epochs <= MOST_EPOCHS, f"epochs: {self.epochs}; 1 to {MOST_EPOCHS}"),
            (3 <= self.batch_size <= MOST_IN_BATCH, f"batch_size: {self.batch_size}; at least 3, to {MOST_IN_BATCH}"),
            (self.accumulate >= 1, f"accumulate: {self.accumulate}; at least 1"),
            (
                self.batch_size >= 3 * self.accumulate,
                f"accumulate: {self.accumulate} parts of a batch of {self.batch_size}; at least 3 images in each",
            ),
            (0 < self.lr <= MOST, f"lr: {self.lr}; above 0, to {MOST:g}"),
            (0 <= self.weight_decay <= MOST, f"weight_decay: {self.weight_decay}; at least 0, to {MOST:g}"),
            (1 <= self.step_epochs <= MOST_EPOCHS, f"step_epochs: {self.step_epochs}; at least 1, to {MOST_EPOCHS}"),
            (0 <= self.warmup_epochs <= self.epochs, f"warmup_epochs: {self.warmup_epochs}; 0 to {self.epochs}"),
            (0 <= self.label_smoothing < 1, f"label_smoothing: {self.label_smoothing}; 0 to below 1"),
            (0 <= self.mixup <= MOST, f"mixup: {self.mixup}; at least 0, to {MOST:g}"),
            (0 < self.temperature <= MOST, f"temperature: {self.temperature}; above 0, to {MOST:g}"),
            (0 < self.min_crop <= 1, f"min_crop: {self.min_crop}; above 0, to 1"),
            (not shares, "; ".join(f"{key}: {getattr(self, key)}, outside 0 to 1" for key in shares)),
            (not late, f"evaluate_epochs: {late} outside 1 to {self.epochs}"),
            (not repeated, f"evaluate_epochs: {list(self.evaluate_epochs)} repeats one"),
            (
                self.objective == "supervised" or not only_supervised,
                f"{', '.join(only_supervised)}: of supervised training; the objective is {self.objective}",
            ),
        )
        return [text for holds, text in checks if not holds]
