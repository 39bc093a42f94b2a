"""Run directories: what was asked (config.json), how it went (state.json), what was predicted.

``RUNS/<digest>/`` holds one run; ``RUNS/suites/<name>.json`` says which runs make up the arms of a
suite, since one run may serve several.  Predictions are stored, statistics come later.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import with_config

from synthgen.content import STRICT
from synthgen.shard import write_atomically

from .errors import EvaluateError

FORMAT = 1  # of the run and suite records


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a model is trained: the hyperparameters of one run."""

    epochs: int
    batch_size: int = 64  # images
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"  # sgd with momentum 0.9
    lr: float = 1e-3  # peak learning rate
    weight_decay: float = 0.05
    schedule: Literal["cosine", "constant"] = "cosine"  # after the warm-up
    warmup_epochs: float = 0.0  # linear from zero
    label_smoothing: float = 0.0
    min_crop: float = 1.0  # smallest share of the area that a random crop keeps; 1 is no cropping
    flip: bool = True  # mirror left to right at random
    evaluate_epochs: tuple[int, ...] = ()  # epochs after which predictions are stored (1 = after the first)

    def describe(self) -> str:
        """The hyperparameters in words."""
        words = [f"{self.epochs} epochs", f"batch {self.batch_size}", f"{self.optimizer} {self.lr:g}"]
        words += [f"weight decay {self.weight_decay:g}", self.schedule]
        if self.warmup_epochs:
            words.append(f"warm-up {self.warmup_epochs:g}")
        if self.label_smoothing:
            words.append(f"label smoothing {self.label_smoothing:g}")
        if self.min_crop < 1:
            words.append(f"crops from {self.min_crop:g}")
        return ", ".join([*words, *(["flips"] if self.flip else [])])

    def problems(self) -> list[str]:
        """What is out of range, a line each, beginning with the key."""
        late = [epoch for epoch in self.evaluate_epochs if not 1 <= epoch <= self.epochs]
        checks = (
            (self.epochs >= 1, f"epochs: {self.epochs}; at least 1"),
            (self.batch_size >= 3, f"batch_size: {self.batch_size}; at least 3"),
            (self.lr > 0, f"lr: {self.lr}; above 0"),
            (self.weight_decay >= 0, f"weight_decay: {self.weight_decay}; at least 0"),
            (0 <= self.warmup_epochs <= self.epochs, f"warmup_epochs: {self.warmup_epochs}; 0 to {self.epochs}"),
            (0 <= self.label_smoothing < 1, f"label_smoothing: {self.label_smoothing}; 0 to below 1"),
            (0 < self.min_crop <= 1, f"min_crop: {self.min_crop}; above 0, to 1"),
            (not late, f"evaluate_epochs: {late} outside 1 to {self.epochs}"),
        )
        return [text for holds, text in checks if not holds]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything a run's result depends on; its digest names the run's directory."""

    kind: str  # "pretrain" or "finetune"
    architecture: str
    seed: int
    image_size: int  # pixels
    data: Mapping[str, Any]  # what the source or task says of itself, its content digest included
    recipe: Recipe
    init: str | None = None  # digest of the run whose weights this one starts from

    @property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 of the configuration as canonical JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """What a model said of every image of one split, at one epoch."""

    image_id: NDArray[np.object_]  # str [n]
    y_true: NDArray[np.int64]  # [n]
    y_pred: NDArray[np.int64]  # [n]
    location: NDArray[np.int64]  # [n], camera location; a cluster of dependent images

    def __len__(self) -> int:
        return len(self.y_true)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One fine-tuned run in its place in a suite."""

    arm: str
    architecture: str
    seed: int
    pretrain: str | None  # digest of the pre-training run; None from scratch
    finetune: str  # digest of the fine-tuning run


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One condition of an experiment: what the models were pre-trained on."""

    name: str
    factor: str  # what it varies: source, quantity, ...
    level: str  # the value of that factor
    description: str  # the images in words, for tables


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRecord:
    """``suites/<name>.json``: the experiment as it was planned, with the digests of its runs."""

    name: str
    baseline: str  # name of the arm that others are compared with
    task: Mapping[str, Any]  # what the fine-tuning task says of itself; holds "class_names"
    arms: tuple[Arm, ...]
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run on disk."""

    directory: Path

    @property
    def config(self) -> dict[str, Any]:
        """The stored configuration."""
        return read_json(self.directory / "config.json")

    @property
    def state(self) -> dict[str, Any]:
        """``{"status": "absent"}`` before the run has started, else its state record."""
        path = self.directory / "state.json"
        return read_json(path) if path.exists() else {"status": "absent"}

    @property
    def done(self) -> bool:
        """Whether the run is finished; a finished run is never repeated."""
        return bool(self.state["status"] == "done")

    @property
    def weights(self) -> Path:
        """The final weights, written when the run is done."""
        return self.directory / "weights.safetensors"

    @property
    def selection(self) -> Path:
        """Of a pre-training run: which images of its source it trains on, and with which labels."""
        return self.directory / "selection.parquet"

    def evaluated(self) -> list[tuple[int, str]]:
        """(epoch, split) of all stored predictions, in order."""
        found = []
        for path in (self.directory / "predictions").glob("*.parquet"):
            epoch, _, split = path.stem.partition("-")
            found.append((int(epoch), split))
        return sorted(found)

    def predictions(self, epoch: int, split: str) -> Predictions:
        """Read stored predictions."""
        table = pq.read_table(self.directory / "predictions" / f"{epoch:04d}-{split}.parquet")
        return Predictions(
            image_id=np.asarray(table["image_id"].to_pylist(), dtype=object),
            y_true=table["y_true"].to_numpy().astype(np.int64),
            y_pred=table["y_pred"].to_numpy().astype(np.int64),
            location=table["location"].to_numpy().astype(np.int64),
        )

    def write_predictions(self, epoch: int, split: str, predictions: Predictions) -> None:
        """Store predictions, whole or not at all."""
        table = pa.table(
            {
                "image_id": pa.array(predictions.image_id.tolist(), pa.string()),
                "y_true": pa.array(predictions.y_true, pa.int32()),
                "y_pred": pa.array(predictions.y_pred, pa.int32()),
                "location": pa.array(predictions.location, pa.int32()),
            }
        )
        path = self.directory / "predictions" / f"{epoch:04d}-{split}.parquet"
        sink = io.BytesIO()
        pq.write_table(table, sink)
        write_atomically(path, sink.getvalue())


def read_json(path: Path) -> dict[str, Any]:
    """Read a record; raises EvaluateError naming the file where it is not one."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise EvaluateError(f"{path}: not a readable record ({error})") from None
    if not isinstance(record, dict):
        raise EvaluateError(f"{path}: not a record, but a {type(record).__name__}")
    return record


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all."""
    write_atomically(path, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())


def write_suite_record(runs: Path, suite: SuiteRecord) -> None:
    """Store what a suite consists of beside its runs."""
    write_json(runs / "suites" / f"{suite.name}.json", {"format": FORMAT, **asdict(suite)})


def read_suite_records(runs: Path) -> list[SuiteRecord]:
    """All suites of a runs directory, by name."""
    if not runs.is_dir():
        raise EvaluateError(f"{runs}: no such directory of runs; `evaluate run SUITE --out {runs}` makes one")
    records = []
    for path in sorted((runs / "suites").glob("*.json")):
        record = read_json(path)
        if record.pop("format", None) != FORMAT:
            raise EvaluateError(f"{path}: not a suite record of format {FORMAT}")
        record["arms"] = tuple(Arm(**arm) for arm in record["arms"])
        record["members"] = tuple(Member(**member) for member in record["members"])
        records.append(SuiteRecord(**record))
    if not records:
        raise EvaluateError(f"{runs}: holds no suite; `evaluate run SUITE --out {runs}` makes one")
    return records
