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
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from synthgen.shard import write_atomically

from .errors import EvaluateError
from .recipe import Recipe

FORMAT = 1  # of the run and suite records


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything a run's result depends on; its digest names the run's directory."""

    kind: str  # "pretrain" or "finetune"
    architecture: str
    seed: int
    image_size: int  # pixels
    data: Mapping[str, Any]  # what the source or task says of itself, its content digest included
    recipe: Recipe
    precision: str = "float32"  # of the arithmetic; parameters and optimizer are always float32
    init: str | None = None  # digest of the run, or name of the outside checkpoint, that this one starts from

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
    sequence: NDArray[np.int64]  # [n], burst of frames within a location; -1 where a set knows none

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
    origin: tuple[str, ...] = ()  # a line a source: how its images were made or found, with versions and digests


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRecord:
    """``suites/<name>.json``: the experiment as it was planned, with the digests of its runs."""

    name: str
    baseline: str  # name of the arm that others are compared with
    task: Mapping[str, Any]  # what the fine-tuning task says of itself; holds "class_names"
    arms: tuple[Arm, ...]
    members: tuple[Member, ...]
    reference: str | None = None  # name of an arm that others are compared with too, such as the natural images


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
        table = self.prediction_table(epoch, split)
        return Predictions(
            image_id=np.asarray(table["image_id"].to_pylist(), dtype=object),
            y_true=table["y_true"].to_numpy().astype(np.int64),
            y_pred=table["y_pred"].to_numpy().astype(np.int64),
            location=table["location"].to_numpy().astype(np.int64),
            sequence=table["sequence"].to_numpy().astype(np.int64),
        )

    def prediction_table(self, epoch: int, split: str) -> pa.Table:
        """Stored predictions as they lie on disk."""
        return pq.read_table(self.directory / "predictions" / f"{epoch:04d}-{split}.parquet")

    def write_predictions(self, epoch: int, split: str, predictions: Predictions) -> None:
        """Store predictions, whole or not at all."""
        table = pa.table(
            {
                "image_id": pa.array(predictions.image_id.tolist(), pa.string()),
                "y_true": pa.array(predictions.y_true, pa.int32()),
                "y_pred": pa.array(predictions.y_pred, pa.int32()),
                "location": pa.array(predictions.location, pa.int32()),
                "sequence": pa.array(predictions.sequence, pa.int32()),
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
        record["arms"] = tuple(Arm(**{**arm, "origin": tuple(arm.get("origin", ()))}) for arm in record["arms"])
        record["members"] = tuple(Member(**member) for member in record["members"])
        records.append(SuiteRecord(**record))
    if not records:
        raise EvaluateError(f"{runs}: holds no suite; `evaluate run SUITE --out {runs}` makes one")
    return records
