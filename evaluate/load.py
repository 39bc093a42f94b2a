"""Runs from disk, scored: every planned run of a suite and what it found so far."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import EvaluateError
from .metrics import Scores, scores
from .runs import Arm, Member, Predictions, Run, SuiteRecord, read_suite_records

ID_SPLIT, OOD_SPLIT = "id_test", "test"
NO_PAIR_OF_SPLITS = f"done, but no epoch has predictions for both {ID_SPLIT} and {OOD_SPLIT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedEpoch:
    """One epoch of a fine-tuning run with predictions for both splits."""

    epoch: int  # 1 = after the first
    id: Scores
    ood: Scores
    n_id: int  # images
    n_ood: int  # images
    images: str  # digest of the image ids and true labels of both splits, in any order


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """One planned fine-tuning run of a suite, with what it found so far."""

    suite: SuiteRecord
    arm: Arm
    member: Member
    status: str  # "done", or what it is instead
    epochs: tuple[EvaluatedEpoch, ...]  # in order; empty unless done

    @property
    def label(self) -> str:
        """The run in words, for messages."""
        member = self.member
        return f"{member.arm} / {member.architecture} / seed {member.seed} ({member.finetune})"


def load_runs(paths: Sequence[Path]) -> list[LoadedRun]:
    """Read all planned runs of all suites in the given runs directories, and score the finished ones.

    Raises EvaluateError where a directory holds no suite, a record or predictions cannot be read,
    or predictions name an image twice.
    """
    loaded = []
    for path in paths:
        cache: dict[str, tuple[str, tuple[EvaluatedEpoch, ...]]] = {}
        for suite in read_suite_records(path):
            arms = {arm.name: arm for arm in suite.arms}
            for member in suite.members:
                if member.arm not in arms:
                    raise EvaluateError(f"suite {suite.name!r}: run {member.finetune} is of unknown arm {member.arm!r}")
                if member.finetune not in cache:
                    cache[member.finetune] = _read_run(Run(directory=path / member.finetune))
                status, epochs = cache[member.finetune]
                loaded.append(LoadedRun(suite=suite, arm=arms[member.arm], member=member, status=status, epochs=epochs))
    return loaded


def _read_run(run: Run) -> tuple[str, tuple[EvaluatedEpoch, ...]]:
    """The run's status and, where it is done, its epochs with both splits."""
    if not run.done:
        return str(run.state["status"]), ()
    splits = defaultdict(set)
    for epoch, split in run.evaluated():
        splits[epoch].add(split)
    complete = [epoch for epoch, present in splits.items() if {ID_SPLIT, OOD_SPLIT} <= present]
    if not complete:
        return NO_PAIR_OF_SPLITS, ()
    return "done", tuple(_read_epoch(run, epoch) for epoch in complete)


def _read_epoch(run: Run, epoch: int) -> EvaluatedEpoch:
    digest = hashlib.sha256()
    found: dict[str, Scores] = {}
    sizes: dict[str, int] = {}
    for split in (ID_SPLIT, OOD_SPLIT):
        where = f"{run.directory}: predictions of epoch {epoch} on {split}"
        try:
            predictions = run.predictions(epoch, split)
            found[split] = scores(predictions.y_true, predictions.y_pred)
        except EvaluateError as error:
            raise EvaluateError(f"{where}: {error}") from None
        except (OSError, ValueError, KeyError) as error:  # what pyarrow raises for damaged files and missing columns
            raise EvaluateError(f"{where} cannot be read ({error}); run it again") from None
        repeated = len(predictions) - len(set(predictions.image_id))
        if repeated:
            raise EvaluateError(f"{where} name {repeated} images more than once; every image must be there once")
        sizes[split] = len(predictions)
        digest.update(_images(split, predictions))
    return EvaluatedEpoch(
        epoch=epoch,
        id=found[ID_SPLIT],
        ood=found[OOD_SPLIT],
        n_id=sizes[ID_SPLIT],
        n_ood=sizes[OOD_SPLIT],
        images=digest.hexdigest()[:16],
    )


def _images(split: str, predictions: Predictions) -> bytes:
    """Which images were evaluated and what they show, in any order."""
    pairs = sorted(zip(predictions.image_id.tolist(), predictions.y_true.tolist(), strict=True))
    return repr((split, pairs)).encode()
