"""Runs read from disk and scored: every planned run of a suite, with its results so far."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import EvaluateError
from ..metrics import Scores, scores
from ..predictions import image_ids
from ..runs import Arm, Member, Run, RunConfig, State, SuiteRecord, read_suite_records

ID_SPLIT, OOD_SPLIT = "id_test", "test"
VAL_SPLIT = "val"  # WILDS's split for choosing epochs: other clusters than those of training and test
NO_PAIR_OF_SPLITS = f"done, but no epoch has predictions for both {ID_SPLIT} and {OOD_SPLIT}"
READERS = 2  # threads; the rest of reading holds Python's global lock


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """The images of a split, in the order of their ids; shared by the runs that were evaluated on them."""

    y: NDArray[np.int64]  # [n]
    location: NDArray[np.int64]  # [n], cluster of dependent images
    digest: str  # of ids and labels

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predicted:
    """A model's prediction for every image of a split."""

    truth: Truth
    y: NDArray[np.int32]  # [n], in the order of the truth


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluatedEpoch:
    """One epoch of a fine-tuning run, scored on both splits."""

    epoch: int  # 1 = after the first
    id: Scores
    ood: Scores
    id_predicted: Predicted | None  # None for published scores, which have no predictions
    ood_predicted: Predicted | None
    val: float | None = None  # macro-F1 on the split that epochs are chosen by, a fraction; None if not evaluated

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
    """One planned fine-tuning run of a suite, with its results so far."""

    suite: SuiteRecord
    arm: Arm
    member: Member
    status: str  # "done", or the state that it is in instead
    epochs: tuple[EvaluatedEpoch, ...]  # in order; empty unless done
    environment: str = ""  # machine and versions of the fine-tuning
    verified: bool = False  # whether the run recorded its configuration, and the SHA-256 of all predictions read
    init: str | None = None  # weights that it was fine-tuned from: a pre-training run, or a checkpoint; None: random

    @property
    def start(self) -> str:
        """What runs that are not independent share: their pre-training run or checkpoint; its own if from scratch."""
        return self.init or self.member.pretrain or f"{self.identity}, from scratch"

    @property
    def identity(self) -> str:
        """What no other run has: the digest, or for published scores, which name their source, the run in words."""
        published = any(epoch.images is None for epoch in self.epochs)
        return self.label if published else self.member.finetune

    @property
    def label(self) -> str:
        """The run in words, for messages."""
        member = self.member
        return f"{member.arm} / {member.architecture} / seed {member.seed} ({member.finetune})"


class _Asked(NamedTuple):
    """A run to read, and what its suite's record says about it."""

    directory: Path
    architecture: str
    seed: int
    n_classes: int | None
    val: bool  # whether the split that epochs are chosen by is read


class _Found(NamedTuple):
    """The contents of a run directory; see LoadedRun."""

    status: str
    epochs: tuple[EvaluatedEpoch, ...] = ()
    environment: str = ""
    verified: bool = False
    init: str | None = None


def load_runs(paths: Sequence[Path | str], *, val: bool = False) -> list[LoadedRun]:
    """Read all planned runs of all suites in the given runs directories, and score the finished ones.

    With ``val``, or where a suite's judgement is about the best epoch, the split that epochs are chosen by is read too,
    if it was evaluated.

    Raises EvaluateError, naming the file, if a directory holds no suite, a record or predictions cannot be read, a
    configuration was edited or is not that of the suite's record, or predictions are not those that the run planned
    and recorded, hold values that are not labels of the task, or list an image twice.
    """
    planned = []
    for path in map(Path, paths):
        for suite in read_suite_records(path):
            arms = {arm.name: arm for arm in suite.arms}
            for member in suite.members:
                chosen = val or suite.judgement.epoch == "best"
                asked = _Asked(path / member.finetune, member.architecture, member.seed, suite.n_classes, chosen)
                planned.append((suite, arms[member.arm], member, asked))
    truths = _Truths()
    runs = list(dict.fromkeys(one for *_, one in planned))
    with ThreadPoolExecutor(READERS) as pool:
        found = dict(zip(runs, pool.map(lambda one: _read_run(one, truths), runs), strict=True))
    return [
        LoadedRun(suite=suite, arm=arm, member=member, **found[one]._asdict()) for suite, arm, member, one in planned
    ]


def _read_run(asked: _Asked, truths: _Truths) -> _Found:
    """The run's status and, if it is done, its epochs with both splits and its environment."""
    run = Run(directory=asked.directory)
    state = run.state
    config = run.find_config() if state.epochs_done is None else run.config  # which every run that was trained has
    if config is not None:
        _check_config(config, asked)
    if state.status != "done":
        return _Found(state.status)
    evaluated, checksums = run.evaluated(), state.predictions or {}
    _check_complete(run, evaluated, checksums, config)
    splits = defaultdict(set)
    for epoch, split in evaluated:
        splits[epoch].add(split)
    complete = [epoch for epoch, present in splits.items() if {ID_SPLIT, OOD_SPLIT} <= present]
    if not complete:
        return _Found(NO_PAIR_OF_SPLITS)
    chosen = {epoch: asked.val and VAL_SPLIT in splits[epoch] for epoch in complete}
    read = {run.predictions_path(epoch, split).name for epoch in complete for split in (ID_SPLIT, OOD_SPLIT)}
    read |= {run.predictions_path(epoch, VAL_SPLIT).name for epoch in complete if chosen[epoch]}
    return _Found(
        status="done",
        epochs=tuple(_read_epoch(run, epoch, chosen[epoch], asked.n_classes, state, truths) for epoch in complete),
        environment=_environment(state),
        verified=config is not None and read <= checksums.keys(),
        init=None if config is None else config.init,
    )


def _check_config(config: RunConfig, asked: _Asked) -> None:
    """Raise EvaluateError if a run is not the one that its suite's record names."""
    for key in ("architecture", "seed"):
        said, stored = getattr(asked, key), getattr(config, key)
        if said != stored:
            raise EvaluateError(
                f"{asked.directory / 'config.json'}: {key}: {stored!r}, but the suite's record says {said!r}; restore"
                " that record: run the suite again"
            )


def _check_complete(
    run: Run, evaluated: Sequence[tuple[int, str]], checksums: Mapping[str, str], config: RunConfig | None
) -> None:
    """Raise EvaluateError if predictions of a finished run are missing, or of an epoch that it did not plan.

    Each split that was evaluated after one epoch was after every planned one.
    """
    there = {run.predictions_path(*one) for one in evaluated}
    needed = {run.directory / "predictions" / name for name in checksums}
    if config is not None:
        splits = {ID_SPLIT, OOD_SPLIT, *(split for _, split in evaluated)}
        planned = {run.predictions_path(epoch, split) for epoch in config.recipe.evaluate_epochs for split in splits}
        for path in sorted(there - planned):
            raise EvaluateError(f"{path}: of an epoch that the run did not evaluate; remove it")
        needed |= planned
    for path in sorted(needed - there):
        raise EvaluateError(f"{path}: missing, though the run is finished; {run.way_out}")


def _environment(state: State) -> str:
    """The machine and versions that a run's state records, in words."""
    versions = ", ".join(f"{name} {version}" for name, version in state.versions.items())
    machine = [] if state.device is None else [state.device]
    for number, one, more in ((state.cores, "core", "cores"), (state.processes, "process", "processes")):
        if number is not None:
            machine.append(f"{number} {one if number == 1 else more}")
    return ": ".join(filter(None, (", ".join(machine), versions)))


def _read_epoch(
    run: Run, epoch: int, val: bool, n_classes: int | None, state: State, truths: _Truths
) -> EvaluatedEpoch:
    (id_predicted, in_domain), (ood_predicted, out_of_domain) = (
        _read_split(run, epoch, split, n_classes, state, truths) for split in (ID_SPLIT, OOD_SPLIT)
    )
    return EvaluatedEpoch(
        epoch=epoch,
        id=in_domain,
        ood=out_of_domain,
        id_predicted=id_predicted,
        ood_predicted=ood_predicted,
        val=_read_split(run, epoch, VAL_SPLIT, n_classes, state, truths)[1].macro_f1 if val else None,
    )


def _read_split(
    run: Run, epoch: int, split: str, n_classes: int | None, state: State, truths: _Truths
) -> tuple[Predicted, Scores]:
    table = run.prediction_table(epoch, split, n_classes, state.predictions)
    truth, order = truths.of(table, run.predictions_path(epoch, split))
    predicted = Predicted(truth=truth, y=table["y_pred"].to_numpy()[order].astype(np.int32))
    return predicted, scores(truth.y, predicted.y.astype(np.int64))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Known:
    """The image columns of a file that was read, in its own order."""

    columns: pa.Table
    order: NDArray[np.intp]  # [n], that sorts them by image id
    truth: Truth


@dataclass(frozen=True, slots=True, eq=False)
class _Truths:
    """The splits that were read so far, so that the same images are sorted and checked only once."""

    known: list[_Known] = field(default_factory=list)

    def of(self, table: pa.Table, path: Path) -> tuple[Truth, NDArray[np.intp]]:
        """The truth of a table of predictions, and the order of its rows there; refuses repeated images."""
        columns = table.select(["image_id", "y_true", "location"])
        for one in self.known:
            if one.columns.equals(columns):
                return one.truth, one.order
        ids = image_ids(table, path)
        order = np.argsort(ids, kind="stable")
        y, location = (columns[name].to_numpy()[order].astype(np.int64) for name in ("y_true", "location"))
        digest = hashlib.sha256(repr((ids[order].tolist(), y.tolist(), location.tolist())).encode()).hexdigest()[:16]
        same = [one.truth for one in self.known if one.truth.digest == digest]
        truth = same[0] if same else Truth(y=y, location=location, digest=digest)
        self.known.append(_Known(columns=columns, order=order, truth=truth))
        return truth, order
