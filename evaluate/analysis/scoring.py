"""The scores of finished runs as a table, as observed and in resamples of blocks and clusters of test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .bootstrap import Resamples, draw
from .counts import Counts, LocationScores, count, location_scores, macro_f1
from .estimators import Line
from .load import EvaluatedEpoch, LoadedRun, Predicted
from .pairing import Array, RunEpochs
from .trends import Scale, clip_epsilon

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


def score(
    finished: Sequence[LoadedRun], arms: Sequence[str], *, scale: Scale, resamples: int = RESAMPLES, seed: int = 0
) -> Scored:
    """Score finished runs, one per arm and block; ``arms`` has the baseline first, whose blocks are numbered first."""
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
        id_f1=np.array([epoch.id.macro_f1 for epoch in epochs]),
        ood_f1=np.array([epoch.ood.macro_f1 for epoch in epochs]),
    )
    sizes = [n for epoch in epochs for n in (epoch.n_id, epoch.n_ood) if n is not None]
    line = Line(epsilon=clip_epsilon(min(sizes)) if sizes else PUBLISHED_EPSILON, scale=scale)
    in_domain = _counted([epoch.id_predicted for epoch in epochs])
    out_of_domain = _counted([epoch.ood_predicted for epoch in epochs])
    found = locations = worst = None
    if in_domain is not None and out_of_domain is not None:
        locations = location_scores(out_of_domain)
        if locations.worst is not None:
            worst = locations.macro_f1[np.arange(len(epochs)), locations.worst]
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
    return Scored(run=runs, epoch=epochs, table=table, line=line, resamples=found, locations=locations, worst=worst)


def _counted(predicted: Sequence[Predicted | None]) -> Counts | None:
    """The predictions of a split as counts; None if some scores have no predictions."""
    known = [one for one in predicted if one is not None]
    if not known or len(known) < len(predicted):
        return None
    return count((one.truth.y, one.y, one.truth.location) for one in known)
