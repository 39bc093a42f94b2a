"""One training loop; pre-training and fine-tuning differ by configuration alone.

Every random draw comes from the run's seed and the epoch, so a run that was killed goes on from
its last epoch with the result that it would have had.
"""

from __future__ import annotations

import io
import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn
from torch.nn import functional

from synthgen.seeds import derive_seed
from synthgen.shard import write_atomically

from .data import augment, to_batch
from .errors import EvaluateError
from .models import build, load_backbone
from .recipe import Recipe
from .runs import Predictions, Run, RunConfig, write_json

EVAL_BATCH = 256  # images


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledImages:
    """What a model trains on."""

    pixels: NDArray[np.uint8]  # [n, size, size, 3]
    labels: NDArray[np.int64]  # [n]
    n_classes: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluationSet:
    """A split whose predictions are stored."""

    pixels: NDArray[np.uint8]  # [n, size, size, 3]
    truth: Predictions  # with y_pred not yet known: a copy of y_true


class DivergedError(EvaluateError):
    """The loss is not a finite number any more."""


def train(
    run: Run,
    config: RunConfig,
    train_set: LabelledImages,
    evaluation: Mapping[str, EvaluationSet],
    *,
    init: Path | None,
    device: torch.device,
    progress: Callable[[int], None],
) -> None:
    """Train one run to its end, from its last checkpoint where there is one, and mark it done.

    Writes config.json, log.jsonl, predictions, weights.safetensors and, last, state.json.  Raises
    DivergedError, naming epoch and step, when the loss stops being finite.
    """
    started = time.monotonic()
    recipe = config.recipe
    model = new_model(config, train_set.n_classes, init).to(device).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, recipe)
    begin = _prepare(run, config, model, optimizer, device)
    n_steps = -(-len(train_set.labels) // recipe.batch_size)
    for epoch in range(begin + 1, recipe.epochs + 1):
        progress(epoch - 1)
        row = _train_epoch(model, optimizer, train_set, config, epoch, n_steps, device)
        if epoch in recipe.evaluate_epochs:
            for split, images in evaluation.items():
                run.write_predictions(epoch, split, predict(model, images, device))
        _log(run, row, epoch)
        _checkpoint(run, model, optimizer, epoch)
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomically(run.weights, save(weights))
    _set_state(run, "done", device, epochs_done=recipe.epochs, seconds=round(time.monotonic() - started, 1))
    _checkpoint_path(run).unlink(missing_ok=True)
    progress(recipe.epochs)


def new_model(config: RunConfig, n_classes: int, init: Path | None) -> nn.Module:
    """The model at its start: initialised from the run's seed, its backbone loaded from ``init``."""
    with torch.random.fork_rng():
        torch.manual_seed(_seed(config, "init"))
        model = build(config.architecture, n_classes)
    if init is not None:
        load_backbone(model, config.architecture, init)
    return model


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer; biases and normalisation parameters are not decayed."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=recipe.lr)


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The rate after ``progress`` epochs (a fraction is part of an epoch): linear warm-up, then the schedule."""
    if progress < recipe.warmup_epochs:
        return recipe.lr * progress / recipe.warmup_epochs
    if recipe.schedule == "constant":
        return recipe.lr
    share = (progress - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * share))


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train_set: LabelledImages,
    config: RunConfig,
    epoch: int,
    n_steps: int,
    device: torch.device,
) -> dict[str, float]:
    recipe = config.recipe
    model.train()
    generator = torch.Generator().manual_seed(_seed(config, "epoch", epoch))
    torch.manual_seed(_seed(config, "dropout", epoch))  # dropout layers know no other generator
    order = torch.randperm(len(train_set.labels), generator=generator).numpy()
    total, hits, seen = 0.0, 0, 0
    for step, chosen in enumerate(np.array_split(order, n_steps)):
        rate = learning_rate(recipe, epoch - 1 + (step + 0.5) / n_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        images = augment(to_batch(train_set.pixels[np.sort(chosen)], device), recipe, generator)
        labels = torch.from_numpy(train_set.labels[np.sort(chosen)]).to(device)
        logits = model(images)
        loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if not math.isfinite(loss.item()):
            raise DivergedError(f"loss is {loss.item()} at epoch {epoch}, step {step + 1} of {n_steps}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        hits += int((logits.argmax(1) == labels).sum())
        seen += len(labels)
    return {"loss": total / seen, "train_accuracy": hits / seen, "lr": rate}


def predict(model: nn.Module, images: EvaluationSet, device: torch.device) -> Predictions:
    """The model's label for every image of a split."""
    model.eval()
    predicted = []
    with torch.inference_mode():
        for start in range(0, len(images.pixels), EVAL_BATCH):
            batch = to_batch(images.pixels[start : start + EVAL_BATCH], device)
            predicted.append(model(batch).argmax(1).cpu().numpy())
    truth = images.truth
    return Predictions(
        image_id=truth.image_id, y_true=truth.y_true, y_pred=np.concatenate(predicted), location=truth.location
    )


def fail(run: Run, error: Exception, device: torch.device) -> None:
    """Mark a run as failed, with the reason; a later start tries it again from its last checkpoint."""
    _set_state(run, "failed", device, error=str(error))


def _seed(config: RunConfig, *key: int | str) -> int:
    return derive_seed(config.seed, config.architecture, *key) % 2**63


def _prepare(
    run: Run, config: RunConfig, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> int:
    """Lay the run down, or load its checkpoint; returns how many epochs are done."""
    write_json(run.directory / "config.json", asdict(config))
    done = 0
    if _checkpoint_path(run).exists():
        state = torch.load(_checkpoint_path(run), map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = int(state["epoch"])
    _set_state(run, "running", device, epochs_done=done)
    return done


def _checkpoint_path(run: Run) -> Path:
    return run.directory / "checkpoint.pt"


def _checkpoint(run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    sink = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}, sink)
    write_atomically(_checkpoint_path(run), sink.getvalue())


def _log(run: Run, row: dict[str, float], epoch: int) -> None:
    """Append an epoch's row; an epoch done again after a kill replaces what it had written."""
    path = run.directory / "log.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    rows = [old for old in rows if old["epoch"] < epoch] + [{"epoch": epoch, **row}]
    write_atomically(path, "".join(json.dumps(one) + "\n" for one in rows).encode())


def _set_state(run: Run, status: str, device: torch.device, **more: Any) -> None:
    packages = ("torch", "torchvision", "numpy", "pillow")
    record = {
        "status": status,
        **more,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in packages},
    }
    write_json(run.directory / "state.json", record)
