"""One training loop; pre-training and fine-tuning differ by configuration alone.

Every random draw comes from the run's seed and the epoch, so a run that was killed resumes from
its last epoch with the result that it would have had.  With several processes (``accelerate launch``)
each takes its share of every batch; order and augmentation are those of one process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from synthgen.common.records import plain
from synthgen.common.seeds import derive_seed
from synthgen.storage.atomic import write_atomically

from ..errors import EvaluateError
from ..images.pixels import Pixels
from ..models import load_backbone
from ..predictions import Predictions
from ..recipe import Recipe
from ..runs import Run, RunConfig, write_json
from .augment import Draws, apply, batches, draw, resident, to_batch
from .journal import Checkpoint, log_epoch, set_state
from .objectives import Batch, Learner, make_learner

EVAL_BATCH = 256  # images per process
CHECK_EVERY = 50  # steps between checks of the losses, which wait for the device


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledImages:
    """What a model trains on."""

    pixels: Pixels
    labels: NDArray[np.int64]  # [n]
    n_classes: int
    captions: tuple[str, ...] = ()  # one per image, for the image-text objective


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluationSet:
    """A split whose predictions are stored."""

    pixels: Pixels
    truth: Predictions  # with y_pred not yet known: a copy of y_true


class DivergedError(EvaluateError):
    """The loss is no longer a finite number."""


def train(
    run: Run,
    config: RunConfig,
    train_set: LabelledImages,
    evaluation: Mapping[str, EvaluationSet],
    *,
    init: Path | Mapping[str, torch.Tensor] | None,
    accelerator: Accelerator,
    progress: Callable[[int], None],
) -> None:
    """Train one run to its end, from its last checkpoint if there is one, and mark it done.

    Writes config.json, log.jsonl, predictions, weights.safetensors and, last, state.json.  Raises
    DivergedError, naming epoch and step, when the loss stops being finite.
    """
    recipe, main = config.recipe, accelerator.is_main_process
    _check_batches(recipe, len(train_set.labels), accelerator.num_processes)
    learner = new_learner(config, train_set.n_classes, init)
    learner.to(memory_format=torch.channels_last)
    train_set = replace(train_set, pixels=resident(train_set.pixels, accelerator.device))
    loop = _Loop.prepare(config, train_set, learner, accelerator)
    checkpoint = Checkpoint(
        run=run, epochs=recipe.epochs, learner=learner, optimizer=loop.optimizer, scaler=accelerator.scaler
    )
    begin = checkpoint.load()
    sums: dict[str, str] = {}  # of the stored predictions; those of later epochs are rewritten
    if main:
        before = run.state.predictions or {}
        sums = {name: digest for name, digest in before.items() if int(name.partition("-")[0]) <= begin}
        write_json(run.directory / "config.json", plain(config))
        set_state(run, "running", accelerator, predictions=sums, epochs_done=begin)
    seconds, n_seen = 0.0, 0
    for epoch in range(begin + 1, recipe.epochs + 1):
        progress(epoch - 1)
        started = time.monotonic()
        row = loop.epoch(epoch)
        seconds, n_seen = seconds + time.monotonic() - started, n_seen + len(train_set.labels)
        if epoch in recipe.evaluate_epochs:
            _same_buffers(learner, accelerator)
            for split, images in evaluation.items():
                predictions = predict(learner.backbone, images, accelerator)
                if main:
                    sums |= run.write_predictions(epoch, split, predictions)
        if main:
            log_epoch(run, row, epoch)
            checkpoint.save(epoch)
            if epoch in recipe.evaluate_epochs:
                set_state(run, "running", accelerator, predictions=sums, epochs_done=epoch)
    if main:
        weights = {name: value.cpu().contiguous() for name, value in learner.backbone.state_dict().items()}
        write_atomically(run.weights, save(weights))
        rate = {"train_images_per_second": round(n_seen / seconds, 1)} if seconds else {}
        sums = run.sums(recipe.evaluate_epochs, list(evaluation), sums)  # including those that an earlier version wrote
        set_state(run, "done", accelerator, predictions=sums, epochs_done=recipe.epochs, **rate)
        checkpoint.path.unlink(missing_ok=True)
    accelerator.free_memory()
    accelerator.wait_for_everyone()
    progress(recipe.epochs)


def new_learner(config: RunConfig, n_classes: int, init: Path | Mapping[str, torch.Tensor] | None) -> Learner:
    """What is trained, at the start: initialised from the run's seed, with the backbone loaded from ``init``."""
    with torch.random.fork_rng():
        torch.manual_seed(_seed(config, "init"))
        learner = make_learner(config.recipe, config.architecture, n_classes, config.image_size)
    if init is not None:
        load_backbone(learner.backbone, config.architecture, init)
    return learner


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
    if recipe.schedule == "step":
        return recipe.lr * 0.1 ** math.floor(progress / recipe.step_epochs)
    share = (progress - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * share))


def predict(model: nn.Module, images: EvaluationSet, accelerator: Accelerator) -> Predictions:
    """The model's label for every image of a split; every process has all of them."""
    model.eval()
    n = len(images.pixels)
    mine = np.arange(accelerator.process_index, n, accelerator.num_processes)
    parts = np.array_split(mine, max(1, -(-len(mine) // EVAL_BATCH)))
    found = torch.zeros(n, dtype=torch.int64, device=accelerator.device)
    with torch.inference_mode(), accelerator.autocast():
        for part, pixels in zip(parts, batches(images.pixels, parts, accelerator.device), strict=True):
            found[torch.from_numpy(part)] = model(to_batch(pixels, accelerator.device)).argmax(1)
    found = accelerator.reduce(found)  # each image belongs to one process, and is zero in the others
    truth = images.truth
    return Predictions(
        image_id=truth.image_id,
        y_true=truth.y_true,
        y_pred=found.cpu().numpy(),
        location=truth.location,
        sequence=truth.sequence,
    )


def shares(n: int, n_processes: int, accumulate: int, *, equal: bool) -> list[list[slice]]:
    """A batch of ``n`` images in parts: for each process, ``accumulate`` slices, to be taken one after the other.

    Together they are the whole batch, each image once.  ``equal`` parts leave out the remaining images,
    since contrastive objectives compare whole parts across processes.
    """
    n_parts = n_processes * accumulate
    sizes = [n // n_parts + (not equal and part < n % n_parts) for part in range(n_parts)]
    ends = np.cumsum(sizes).tolist()
    parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return [parts[process::n_processes] for process in range(n_processes)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Loop:
    """What the epochs of a run have in common."""

    config: RunConfig
    train_set: LabelledImages
    model: nn.Module  # the learner, wrapped for several processes
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator

    @staticmethod
    def prepare(config: RunConfig, train_set: LabelledImages, learner: Learner, accelerator: Accelerator) -> _Loop:
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(learner)
        if config.recipe.compile:
            learner.backbone.compile()
        learner.to(accelerator.device)
        model, optimizer = accelerator.prepare(learner, make_optimizer(learner, config.recipe))
        return _Loop(config=config, train_set=train_set, model=model, optimizer=optimizer, accelerator=accelerator)

    def epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the images; its mean loss, share of hits and last learning rate."""
        recipe, accelerator = self.config.recipe, self.accelerator
        n, rank = len(self.train_set.labels), accelerator.process_index
        self.model.train()
        # Dropout layers use only the global generator; the first process draws what it would draw alone.
        torch.manual_seed(_seed(self.config, "dropout", epoch, *([rank] if rank else [])))
        generator = torch.Generator().manual_seed(_seed(self.config, "epoch", epoch))
        mixing = np.random.default_rng(_seed(self.config, "mixup", epoch))
        order = torch.randperm(n, generator=generator).numpy()
        steps = [np.sort(part) for part in np.array_split(order, -(-n // recipe.batch_size))]
        equal = recipe.objective != "supervised"
        mine = [shares(len(step), accelerator.num_processes, recipe.accumulate, equal=equal)[rank] for step in steps]
        taken = (np.concatenate([step[part] for part in own]) for step, own in zip(steps, mine, strict=True))
        losses = torch.zeros(len(steps), device=accelerator.device)
        hits = torch.zeros(len(steps), dtype=torch.int64, device=accelerator.device)
        for number, pixels in enumerate(batches(self.train_set.pixels, taken, accelerator.device)):
            rate = learning_rate(recipe, epoch - 1 + (number + 0.5) / len(steps))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            mix = float(mixing.beta(recipe.mixup, recipe.mixup)) if recipe.mixup else 1.0
            draws = [draw(len(steps[number]), recipe, generator) for _ in range(1 + (recipe.objective == "simclr"))]
            losses[number], hits[number] = self._step(steps[number], mine[number], pixels, draws, mix)
            if number % CHECK_EVERY == CHECK_EVERY - 1:
                self._check_finite(losses[: number + 1], epoch, len(steps))
        self._check_finite(losses, epoch, len(steps))
        seen = np.array([sum(part.stop - part.start for part in own) for own in mine])
        return self._row(losses, hits, seen) | {"lr": rate}

    def _step(
        self,
        chosen: NDArray[np.int64],
        own: list[slice],
        pixels: torch.Tensor,
        draws: list[Draws],
        mix: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of the optimizer on this process's share of a batch.

        Returns this share's part of the batch's mean loss, and its hits.
        """
        accelerator = self.accelerator
        sizes = [part.stop - part.start for part in own]
        whole = len(chosen) if self.config.recipe.objective == "supervised" else sum(sizes) * accelerator.num_processes
        loss, hits = torch.zeros((), device=accelerator.device), torch.zeros((), device=accelerator.device)
        self.optimizer.zero_grad(set_to_none=True)
        for part, size, images in zip(own, sizes, torch.split(pixels, sizes), strict=True):
            batch = self._batch(chosen[part], images, [one[part] for one in draws], mix)
            with nullcontext() if part is own[-1] else accelerator.no_sync(self.model):
                mean, right = self.model(batch)
                # DistributedDataParallel averages the processes' gradients, each of which is that of a partial sum.
                accelerator.backward(mean * (size * accelerator.num_processes / whole))
            loss += mean.detach() * (size / whole)
            hits += right
        self.optimizer.step()
        return loss, hits

    def _batch(self, chosen: NDArray[np.int64], pixels: torch.Tensor, draws: list[Draws], mix: float) -> Batch:
        views = [apply(pixels, one, self.accelerator.device) for one in draws]
        if mix < 1:
            views = [mix * view + (1 - mix) * view.flip(0) for view in views]
        captions = self.train_set.captions
        return Batch(
            views=tuple(views),
            labels=torch.from_numpy(self.train_set.labels[chosen]).to(self.accelerator.device),
            captions=tuple(captions[index] for index in chosen) if captions else (),
            mix=mix,
        )

    def _check_finite(self, losses: torch.Tensor, epoch: int, n_steps: int) -> None:
        """Raise DivergedError in every process if the loss of a step is not finite in one of them."""
        total = self.accelerator.reduce(losses.clone())
        wrong = (~total.isfinite()).nonzero()
        if len(wrong):
            step = int(wrong[0])
            raise DivergedError(f"loss is {float(total[step])} at epoch {epoch}, step {step + 1} of {n_steps}")

    def _row(self, losses: torch.Tensor, hits: torch.Tensor, seen: NDArray[np.int64]) -> dict[str, float]:
        """An epoch's mean loss and share of hits over the images of all processes."""
        counts = torch.from_numpy(seen).to(losses.device)
        counts, hits, losses = (self.accelerator.reduce(values) for values in (counts, hits.clone(), losses.clone()))
        n = int(counts.sum())
        return {
            "loss": float((losses.double() * counts).sum()) / n,
            "train_accuracy": int(hits.sum()) / n,
        }


def _same_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """Give every process the running statistics of the first, which are stored."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def _check_batches(recipe: Recipe, n: int, n_processes: int) -> None:
    smallest = n // -(-n // recipe.batch_size) // (n_processes * recipe.accumulate)
    if smallest < 2:
        raise EvaluateError(
            f"batches of {recipe.batch_size} from {n} images leave {smallest} to each of {n_processes} processes x"
            f" {recipe.accumulate} parts; at least 2 are needed: raise batch_size or lower accumulate"
        )


def _seed(config: RunConfig, *key: int | str) -> int:
    return derive_seed(config.seed, config.architecture, *key) % 2**63
