"""The scores of finished runs as a table, as observed and in resamples of blocks and clusters of test images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import EvaluateError
from ..judgement import Judgement
from .bootstrap import Resamples, draw
from .counts import Counts, LocationScores, count, location_scores
from .estimators import Line
from .load import VAL_SPLIT, EvaluatedEpoch, LoadedRun, Predicted
from .pairing import Array, RunEpochs
from .resampled import macro_f1
from .trends import clip_epsilon
from .uncertainty import Clusters

RESAMPLES = 10_000
PUBLISHED_EPSILON = 0.0005  # scores without images: half of the last digit of a percentage with one decimal


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """All evaluated epochs of the finished runs: by arm, block and epoch, one per row."""

    run: tuple[LoadedRun, ...]  # [n_run_epochs]
    epoch: tuple[EvaluatedEpoch, ...]  # [n_run_epochs]
    table: RunEpochs  # [n_run_epochs]
    line: Line  # on the scale of the comparison
    resamples: Resamples | None  # None for scores without predictions
    locations: LocationScores | None  # of the OOD split
    worst: Array | None  # [n_run_epochs], macro-F1 of the OOD location where it is lowest
    compared: NDArray[np.bool_]  # [n_run_epochs], whether it is one of its run's compared epochs
    clusters: Clusters | None  # scores without each cluster; None for scores without predictions
    collapsed: NDArray[np.bool_]  # [n_run_epochs], one class predicted, or no better than a constant guess
    predictions: NDArray[np.str_]  # [n_run_epochs], digest of those of both splits; the scores where there are none


def score(
    finished: Sequence[LoadedRun],
    arms: Sequence[str],
    judgement: Judgement,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Scored:
    """Score finished runs, one per arm and block; ``arms`` has the baseline first, whose blocks are numbered first.

    The judgement names the scale, and which epochs of each run are compared. Raises EvaluateError if it is the best one
    and a run has no predictions of the split that it is chosen by.
    """
    blocks = list(dict.fromkeys((run.member.architecture, run.member.seed) for run in finished))
    pairs = sorted(
        ((run, epoch) for run in finished for epoch in run.epochs),
        key=lambda pair: (
            arms.index(pair[0].arm.name),
            blocks.index((pair[0].member.architecture, pair[0].member.seed)),
            pair[1].epoch,
        ),
    )
    runs, epochs = zip(*pairs, strict=True)
    table = RunEpochs(
        arm=np.array([run.arm.name for run in runs]),
        architecture=np.array([run.member.architecture for run in runs]),
        seed=np.array([run.member.seed for run in runs], np.int64),
        epoch=np.array([epoch.epoch for epoch in epochs], np.int64),
        run=np.array([run.identity for run in runs]),
        start=np.array([run.start for run in runs]),
        id_f1=np.array([epoch.id.macro_f1 for epoch in epochs]),
        ood_f1=np.array([epoch.ood.macro_f1 for epoch in epochs]),
    )
    sizes = [n for epoch in epochs for n in (epoch.n_id, epoch.n_ood) if n is not None]
    line = Line(epsilon=clip_epsilon(min(sizes)) if sizes else PUBLISHED_EPSILON, scale=judgement.scale)
    in_domain = _counted([epoch.id_predicted for epoch in epochs])
    out_of_domain = _counted([epoch.ood_predicted for epoch in epochs])
    found = locations = worst = clusters = None
    if in_domain is not None and out_of_domain is not None:
        locations = location_scores(out_of_domain)
        if locations.worst is not None:
            worst = locations.macro_f1[np.arange(len(epochs)), locations.worst]
        clusters = Clusters(
            id_f1=_without_each(in_domain),
            ood_f1=_without_each(out_of_domain),
            id_images=in_domain.n_images,
            ood_images=out_of_domain.n_images,
        )
        draws = draw(
            resamples,
            n_blocks=len(blocks),
            n_id_clusters=len(in_domain.locations),
            n_ood_clusters=len(out_of_domain.locations),
            seed=seed,
        )
        found = Resamples(
            names=tuple(blocks),
            blocks=draws.blocks,
            id_f1=macro_f1(in_domain, draws.id_clusters),
            ood_f1=macro_f1(out_of_domain, draws.ood_clusters),
        )
    chosen = {id(run): {one.epoch for one in _compared(run, judgement.epoch)} for run in finished}
    return Scored(
        run=runs,
        epoch=epochs,
        table=table,
        line=line,
        resamples=found,
        locations=locations,
        worst=worst,
        compared=np.array([one.epoch in chosen[id(run)] for run, one in pairs]),
        clusters=clusters,
        collapsed=np.array([_is_collapsed(one) for one in epochs]),
        predictions=np.array([_predictions(one) for one in epochs]),
    )


def _compared(run: LoadedRun, epoch: Literal["last", "best", "mean"]) -> Sequence[EvaluatedEpoch]:
    """The epochs of a run that are compared; of equally good ones the first."""
    if epoch == "mean":
        return run.epochs
    if epoch == "last":
        return run.epochs[-1:]
    lacking = [one.epoch for one in run.epochs if one.val is None]
    if lacking:
        raise EvaluateError(
            f"{run.label}: epoch {lacking[0]} has no predictions of {VAL_SPLIT}, which the best epoch is chosen by;"
            " compare the last one"
        )
    return (max(run.epochs, key=lambda one: one.val or 0.0),)


def _without_each(counts: Counts) -> Array:
    """Macro-F1 of every run-epoch without each cluster, fractions [n_run_epochs, n_clusters]; NaN if there is one."""
    if len(counts.locations) < 2:
        return np.full((counts.n_run_epochs, 1), np.nan)
    return macro_f1(counts, 1 - np.eye(len(counts.locations), dtype=np.int64))


def _is_collapsed(one: EvaluatedEpoch) -> bool:
    """Whether a model predicts one class for all images of a split, or is no better than guessing one on ID images."""
    if one.id_predicted is None or one.ood_predicted is None:
        return False
    if any(np.ptp(predicted.y) == 0 for predicted in (one.id_predicted, one.ood_predicted)):
        return True
    sizes = np.unique(one.id_predicted.truth.y, return_counts=True)[1]
    constant = 2 * sizes.max() / (sizes.max() + sizes.sum()) / len(sizes)  # macro-F1 of the best constant guess
    return bool(one.id.macro_f1 <= constant)


def _predictions(one: EvaluatedEpoch) -> str:
    """A text that differs if, and only if, what a model predicted does; for published scores, if they do."""
    if one.id_predicted is None or one.ood_predicted is None:
        return f"{one.id.macro_f1!r} {one.ood.macro_f1!r}"
    return hashlib.sha256(one.id_predicted.y.tobytes() + one.ood_predicted.y.tobytes()).hexdigest()


def _counted(predicted: Sequence[Predicted | None]) -> Counts | None:
    """The predictions of a split as counts; None if some scores have no predictions."""
    known = [one for one in predicted if one is not None]
    if not known or len(known) < len(predicted):
        return None
    return count((one.truth.y, one.y, one.truth.location) for one in known)
