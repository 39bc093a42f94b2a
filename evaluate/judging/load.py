"""Runs from disk, scored: every planned run of a suite and what it found so far."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import EvaluateError
from ..metrics import Scores, scores
from ..runs import Arm, Member, Run, SuiteRecord, read_suite_records

ID_SPLIT, OOD_SPLIT = "id_test", "test"
NO_PAIR_OF_SPLITS = f"done, but no epoch has predictions for both {ID_SPLIT} and {OOD_SPLIT}"
READERS = 2  # threads; the rest of reading holds Python's lock


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """The images of a split, in the order of their ids; the runs that were evaluated on them share one."""

    y: NDArray[np.int64]  # [n]
    location: NDArray[np.int64]  # [n], camera location
    digest: str  # of ids and labels

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predicted:
    """What a model said of every image of a split."""

    truth: Truth
    y: NDArray[np.int32]  # [n], in the order of the truth


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluatedEpoch:
    """One epoch of a fine-tuning run, scored on both splits."""

    epoch: int  # 1 = after the first
    id: Scores
    ood: Scores
    id_predicted: Predicted | None  # None for published scores, which come without
    ood_predicted: Predicted | None

    @property
    def n_id(self) -> int | None:
        """Images of the ID split."""
        return len(self.id_predicted.truth) if self.id_predicted else None

    @property
    def n_ood(self) -> int | None:
        """Images of the OOD split."""
        return len(self.ood_predicted.truth) if self.ood_predicted else None

    @property
    def images(self) -> tuple[str, str] | None:
        """Which images were evaluated and what they show: the digests of both splits."""
        if self.id_predicted is None or self.ood_predicted is None:
            return None
        return self.id_predicted.truth.digest, self.ood_predicted.truth.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """One planned fine-tuning run of a suite, with what it found so far."""

    suite: SuiteRecord
    arm: Arm
    member: Member
    status: str  # "done", or what it is instead
    epochs: tuple[EvaluatedEpoch, ...]  # in order; empty unless done
    environment: str = ""  # machine and versions of the fine-tuning

    @property
    def label(self) -> str:
        """The run in words, for messages."""
        member = self.member
        return f"{member.arm} / {member.architecture} / seed {member.seed} ({member.finetune})"


def load_runs(paths: Sequence[Path | str]) -> list[LoadedRun]:
    """Read all planned runs of all suites in the given runs directories, and score the finished ones.

    Raises EvaluateError where a directory holds no suite, a record or predictions cannot be read,
    or predictions name an image twice.
    """
    planned = []
    for path in map(Path, paths):
        for suite in read_suite_records(path):
            arms = {arm.name: arm for arm in suite.arms}
            for member in suite.members:
                if member.arm not in arms:
                    raise EvaluateError(f"suite {suite.name!r}: run {member.finetune} is of unknown arm {member.arm!r}")
                planned.append((suite, arms[member.arm], member, path / member.finetune))
    truths = _Truths()
    directories = list(dict.fromkeys(directory for *_, directory in planned))
    with ThreadPoolExecutor(READERS) as pool:
        read = pool.map(lambda path: _read_run(Run(directory=path), truths), directories)
        found = dict(zip(directories, read, strict=True))
    return [
        LoadedRun(suite=suite, arm=arm, member=member, status=status, epochs=epochs, environment=environment)
        for suite, arm, member, directory in planned
        for status, epochs, environment in (found[directory],)
    ]


def _read_run(run: Run, truths: _Truths) -> tuple[str, tuple[EvaluatedEpoch, ...], str]:
    """The run's status and, where it is done, its epochs with both splits, and what trained it."""
    state = run.state
    if state["status"] != "done":
        return str(state["status"]), (), ""
    splits = defaultdict(set)
    for epoch, split in run.evaluated():
        splits[epoch].add(split)
    complete = [epoch for epoch, present in splits.items() if {ID_SPLIT, OOD_SPLIT} <= present]
    if not complete:
        return NO_PAIR_OF_SPLITS, (), ""
    return "done", tuple(_read_epoch(run, epoch, truths) for epoch in complete), _environment(state)


def _environment(state: Mapping[str, Any]) -> str:
    """What a run's state says of machine and versions, in words."""
    versions = ", ".join(f"{name} {version}" for name, version in state.get("versions", {}).items())
    machine = [state["device"]] if "device" in state else []
    for keys, one in (("cores", "core"), ("processes", "process")):
        if keys in state:
            machine.append(f"{state[keys]} {one if state[keys] == 1 else keys}")
    return ": ".join(filter(None, (", ".join(machine), versions)))


def _read_epoch(run: Run, epoch: int, truths: _Truths) -> EvaluatedEpoch:
    (id_predicted, in_domain), (ood_predicted, out_of_domain) = (
        _read_split(run, epoch, split, truths) for split in (ID_SPLIT, OOD_SPLIT)
    )
    return EvaluatedEpoch(
        epoch=epoch, id=in_domain, ood=out_of_domain, id_predicted=id_predicted, ood_predicted=ood_predicted
    )


def _read_split(run: Run, epoch: int, split: str, truths: _Truths) -> tuple[Predicted, Scores]:
    where = f"{run.directory}: predictions of epoch {epoch} on {split}"
    try:
        table = run.prediction_table(epoch, split)
        truth, order = truths.of(table)
        predicted = Predicted(truth=truth, y=table["y_pred"].to_numpy()[order].astype(np.int32))
        return predicted, scores(truth.y, predicted.y.astype(np.int64))
    except EvaluateError as error:
        raise EvaluateError(f"{where}: {error}") from None
    except (OSError, ValueError, KeyError) as error:  # what pyarrow raises for damaged files and missing columns
        raise EvaluateError(f"{where} cannot be read ({error}); run it again") from None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Known:
    """The image columns of a file that was read, in its own order."""

    columns: pa.Table
    order: NDArray[np.intp]  # [n], that puts them in the order of the ids
    truth: Truth


@dataclass(frozen=True, slots=True, eq=False)
class _Truths:
    """The splits that were read so far: the same images need to be sorted and checked once."""

    known: list[_Known] = field(default_factory=list)

    def of(self, table: pa.Table) -> tuple[Truth, NDArray[np.intp]]:
        """The truth of a table of predictions, and the order of its rows there; refuses repeated images."""
        columns = table.select(["image_id", "y_true", "location"])
        for one in self.known:
            if one.columns.equals(columns):
                return one.truth, one.order
        ids = np.asarray(columns["image_id"].to_pylist(), dtype=object)
        if any(one is None for one in ids):
            raise EvaluateError(f"{sum(one is None for one in ids)} images have no id; every image must have one")
        repeated = len(ids) - len(set(ids))
        if repeated:
            raise EvaluateError(f"{repeated} images are named more than once; every image must be there once")
        order = np.argsort(ids, kind="stable")
        y, location = (columns[name].to_numpy()[order].astype(np.int64) for name in ("y_true", "location"))
        digest = hashlib.sha256(repr((ids[order].tolist(), y.tolist(), location.tolist())).encode()).hexdigest()[:16]
        same = [one.truth for one in self.known if one.truth.digest == digest]
        truth = same[0] if same else Truth(y=y, location=location, digest=digest)
        self.known.append(_Known(columns=columns, order=order, truth=truth))
        return truth, order
