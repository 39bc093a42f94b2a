"""Run directories: what was requested (config.json), how it went (state.json), what was predicted.

``RUNS/<digest>/`` holds one run; ``RUNS/suites/<name>.json`` says which runs make up the arms of a
suite, since one run may serve several.  Predictions are stored; statistics are computed later.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, with_config

from synthgen.common.records import STRICT, added, digest, plain, validated
from synthgen.storage.atomic import write_atomically
from synthgen.storage.inside import RULE, check_folder, fits_stored
from synthgen.storage.reading import read_file, read_record, reading

from .errors import EvaluateError, told_here
from .judgement import DEFAULT, Judgement
from .predictions import COLUMNS, Predictions, check_columns, image_ids, read_table
from .recipe import Recipe

T = TypeVar("T")
FORMAT = 1  # of the run and suite records
PREDICTED = re.compile(r"([0-9]{4,9})-([a-z_]+)\.parquet")  # names of files of predictions: epoch and split
MISTAKABLE = re.compile(r"\s*[+-]?(\d+)\s*-\s*([a-z_]+)\s*\.parquet", re.IGNORECASE)
NAMED = r"^[0-9]{4,9}-[a-z_]+\.parquet$"
DIGEST = "^[0-9a-f]{16}$"
Digest = Annotated[str, Field(pattern=DIGEST)]  # of a run's configuration, which names its directory
Checksums = Mapping[Annotated[str, Field(pattern=NAMED)], Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything a run's result depends on; its digest names the run's directory."""

    kind: str  # "pretrain" or "finetune"
    architecture: str  # name of the network
    seed: int  # seed of initial weights, order and augmentation
    image_size: int  # width and height in pixels
    data: Mapping[str, Any]  # how the source or task describes itself, with the digest of its content
    recipe: Recipe  # hyperparameters
    precision: str = "float32"  # precision of the arithmetic; parameters and optimizer are always float32
    init: str | None = None  # digest of the run, or name of the external checkpoint, that this one starts from

    @property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 of the configuration as canonical JSON."""
        return digest(self)[:16]


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """``state.json``: how far a run is, on what machine, with which versions."""

    status: Literal["absent", "running", "done", "failed"]  # absent: not started, without a record
    error: str | None = None  # why it failed
    epochs_done: int | None = None  # finished epochs
    device: str | None = None  # GPU, or the machine's type
    cores: int | None = None  # cores of the machine
    processes: Annotated[int, Field(ge=1)] | None = None  # number of processes that shared the run
    versions: Mapping[str, str] = field(default_factory=dict)  # versions of libraries
    train_images_per_second: Annotated[float, Field(gt=0)] | None = None  # images per second while it trained
    predictions: Checksums | None = None  # SHA-256 by file name; missing from older runs


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One fine-tuned run in its place in a suite."""

    arm: str  # name of its arm
    architecture: str  # name of the network
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]  # seed of its runs
    pretrain: Digest | None  # digest of the pre-training run; None if trained from scratch
    finetune: Digest  # digest of the fine-tuning run


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One condition of an experiment: what the models were pre-trained on."""

    name: str  # unique in the suite
    factor: str  # what it varies: source, quantity, ...
    level: str  # the value of that factor
    description: str  # the images in words, for tables
    origin: tuple[str, ...] = ()  # one line per source: how its images were made or found, with versions and digests


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """The classes in a suite's record of its task, which holds other keys too."""

    class_names: tuple[str, ...] | None = None
    n_classes: int | None = None


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRecord:
    """``suites/<name>.json``: the experiment as it was planned, with the digests of its runs."""

    name: str  # name of the suite
    baseline: str  # name of the arm that others are compared with
    task: Mapping[str, Any]  # how the fine-tuning task describes itself; holds "class_names"
    arms: tuple[Arm, ...]  # the conditions
    members: tuple[Member, ...]  # the fine-tuned runs
    reference: str | None = None  # name of a second arm to compare with, such as natural images
    judgement: Judgement = added(DEFAULT)  # what is compared, and whom a sentence about it speaks for

    @property
    def n_classes(self) -> int | None:
        """Classes of the task; None if an older record does not say."""
        names = self.task.get("class_names")
        return self.task.get("n_classes") if names is None else len(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run on disk."""

    directory: Path

    @property
    def config(self) -> RunConfig:
        """The stored configuration.

        Raises EvaluateError if it is invalid, or if the directory is named by another digest; a copy of a run may have
        any other name.
        """
        path, name = self.directory / "config.json", self.directory.name
        config = stored(path, RunConfig)
        if re.match(DIGEST, name) and name != config.digest:
            raise EvaluateError(
                f"{path}: its content was edited: digest {config.digest}, its folder's is {name}; {self.way_out}"
            )
        return config

    def find_config(self) -> RunConfig | None:
        """``config``, with its errors, or None if none is stored."""
        return self.config if (self.directory / "config.json").exists() else None

    @property
    def state(self) -> State:
        """How far the run is; raises EvaluateError if its record is invalid."""
        path = self.directory / "state.json"
        if not path.exists():
            return State(status="absent")
        state = stored(path, State)
        if state.status == "failed" and state.error is None:
            raise EvaluateError(f"{path}: error: missing, though the run failed")
        return state

    @property
    def done(self) -> bool:
        """Whether the run is finished; a finished run is never repeated."""
        return self.state.status == "done"

    @property
    def way_out(self) -> str:
        """What to do about a file of it that is not as it was."""
        return f"restore it, or remove {self.directory} and run its suite again"

    @property
    def weights(self) -> Path:
        """The final weights, written when the run is done."""
        return self.directory / "weights.safetensors"

    @property
    def selection(self) -> Path:
        """Of a pre-training run: which images of its source it trains on, and with which labels."""
        return self.directory / "selection.parquet"

    def evaluated(self) -> list[tuple[int, str]]:
        """(epoch, split) of all stored predictions, in order.

        These are the files with names as ``write_predictions`` gives them.  Others, such as a backup copy
        ``0001-test (copy).parquet``, are ignored; one that a person would take for predictions, such as
        ``1-test.parquet``, raises EvaluateError.
        """
        found = []
        for path in (self.directory / "predictions").glob("*.parquet"):
            match = PREDICTED.fullmatch(path.name)
            if match and path.name == _file_name(int(match[1]), match[2]):
                found.append((int(match[1]), match[2]))
            elif loose := MISTAKABLE.fullmatch(path.name):
                name = _file_name(int(loose[1]), loose[2].lower())
                raise EvaluateError(f"{path}: may be mistaken for {name}; rename it, or remove it")
        return sorted(found)

    def predictions(self, epoch: int, split: str, n_classes: int | None = None) -> Predictions:
        """Read stored predictions; raises EvaluateError as ``prediction_table`` and ``image_ids`` do."""
        table = self.prediction_table(epoch, split, n_classes, self.state.predictions)
        y_true, y_pred, location, sequence = (table[name].to_numpy().astype(np.int64) for name in COLUMNS[1:])
        return Predictions(
            image_id=image_ids(table, self.predictions_path(epoch, split)),
            y_true=y_true,
            y_pred=y_pred,
            location=location,
            sequence=sequence,
        )

    def prediction_table(
        self, epoch: int, split: str, n_classes: int | None = None, checksums: Checksums | None = None
    ) -> pa.Table:
        """Stored predictions as they are on disk.

        Labels are whole numbers from 0 to ``n_classes`` - 1, if that is known.  Raises EvaluateError, naming the
        file, if it is not such a table, or not the one whose SHA-256 is in ``checksums``.
        """
        path = self.predictions_path(epoch, split)
        with told_here(), reading(path):
            data = read_file(path)
        expected = (checksums or {}).get(path.name)
        if expected is not None and hashlib.sha256(data).hexdigest() != expected:
            raise EvaluateError(
                f"{path}: not the file whose SHA-256 the run recorded: it was changed or damaged; {self.way_out}"
            )
        try:
            table = read_table(data)
            check_columns(table, n_classes)
        except EvaluateError as error:
            raise EvaluateError(f"{path}: {error}") from None
        except (OSError, ValueError, pa.ArrowException) as error:  # what pyarrow raises for damaged files
            raise EvaluateError(f"{path}: cannot be read as predictions ({_brief(error)}); run it again") from None
        return table

    def predictions_path(self, epoch: int, split: str) -> Path:
        """The file of a split's predictions after an epoch."""
        return self.directory / "predictions" / _file_name(epoch, split)

    def write_predictions(self, epoch: int, split: str, predictions: Predictions) -> dict[str, str]:
        """Store predictions, whole or not at all; returns the SHA-256 of the file by its name."""
        table = pa.table(
            {
                "image_id": pa.array(predictions.image_id.tolist(), pa.string()),
                "y_true": pa.array(predictions.y_true, pa.int32()),
                "y_pred": pa.array(predictions.y_pred, pa.int32()),
                "location": pa.array(predictions.location, pa.int32()),
                "sequence": pa.array(predictions.sequence, pa.int32()),
            }
        )
        path = self.predictions_path(epoch, split)
        sink = io.BytesIO()
        pq.write_table(table, sink)
        with told_here():
            check_folder(path.parent)
        write_atomically(path, sink.getvalue())
        return {path.name: hashlib.sha256(sink.getvalue()).hexdigest()}

    def sums(self, epochs: Sequence[int], splits: Sequence[str], known: Checksums) -> dict[str, str]:
        """The SHA-256 of the existing predictions, by file: as ``known``, or else of the file as it is."""
        found = dict(known)
        for epoch in epochs:
            for split in splits:
                path = self.predictions_path(epoch, split)
                if path.name not in found and path.exists():
                    with told_here(), reading(path):
                        found[path.name] = hashlib.sha256(read_file(path)).hexdigest()
        return found


def _file_name(epoch: int, split: str) -> str:
    return f"{epoch:04d}-{split}.parquet"


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def stored(path: Path, kind: type[T]) -> T:
    """The record in a file; raises EvaluateError, naming file and key, if it is invalid."""
    with told_here(), reading(path):
        return read_record(path, kind)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all."""
    write_atomically(path, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())


def write_suite_record(runs: Path, suite: SuiteRecord) -> None:
    """Store what a suite consists of beside its runs; raises EvaluateError if its name cannot be that of a file."""
    if not fits_stored(suite.name):
        raise EvaluateError(f"name: {suite.name[:80]!r} becomes a file's name; {RULE} only")
    with told_here():
        check_folder(runs / "suites")
    write_json(runs / "suites" / f"{suite.name}.json", {"format": FORMAT, **plain(suite)})


def read_suite_records(runs: Path) -> list[SuiteRecord]:
    """All suites of a runs directory, by name; raises EvaluateError naming file and key if a record is invalid."""
    if not runs.is_dir():
        raise EvaluateError(f"{runs}: no such directory of runs; `evaluate run SUITE --out {runs}` makes one")
    records = [read_suite_record(path) for path in sorted((runs / "suites").glob("*.json"))]
    if not records:
        raise EvaluateError(f"{runs}: contains no suite; `evaluate run SUITE --out {runs}` makes one")
    return records


def read_suite_record(path: Path) -> SuiteRecord:
    """One suite of a runs directory; raises EvaluateError naming file and key if it is invalid."""
    content = stored(path, dict[str, Any])
    version = content.pop("format", None)
    if type(version) is not int or version != FORMAT:
        raise EvaluateError(f"{path}: format: {str(version)[:40]}; this version reads suite records of format {FORMAT}")
    with told_here():
        suite = validated(content, SuiteRecord, path)
        validated(suite.task, Classes, path, "task")
    names, n_classes = suite.task.get("class_names"), suite.task.get("n_classes")
    if names is not None and n_classes not in (None, len(names)):
        raise EvaluateError(f"{path}: task: n_classes is {n_classes}, but class_names are {len(names)}")
    if suite.n_classes is not None and suite.n_classes < 1:
        raise EvaluateError(f"{path}: task: of {suite.n_classes} classes; at least 1")
    _check_unique(path, "arms", [arm.name for arm in suite.arms])
    _check_unique(path, "members", [f"{one.arm} / {one.architecture} / seed {one.seed}" for one in suite.members])
    arms = {arm.name for arm in suite.arms}
    for member in suite.members:
        if member.arm not in arms:
            raise EvaluateError(f"{path}: members: run {member.finetune} has the unknown arm {member.arm!r}")
    return suite


def _check_unique(path: Path, key: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name, n in Counter(names).items() if n > 1)
        raise EvaluateError(f"{path}: {key}: {twice} appears more than once")
