"""Scores of whole splits from counts."""

import numpy as np

from synthgen_evaluate.analysis.counts import Counts, dense
from synthgen_evaluate.metrics import Scores


def plain_scores(counts: Counts) -> list[Scores]:
    """The scores of each run-epoch over the whole split: those of ``metrics.scores``, to the last bit."""
    support = counts.support.sum(axis=1, dtype=np.int64)  # [n_classes]
    found = []
    for predictions, hits in (dense(counts, e) for e in range(counts.n_run_epochs)):
        predicted, hit = predictions.sum(axis=1, dtype=np.int64), hits.sum(axis=1, dtype=np.int64)
        found.append(
            Scores(
                accuracy=float(hit.sum() / support.sum()),
                recall=float((hit / support).mean()),
                macro_f1=float((2 * hit / (support + predicted)).mean()),
            )
        )
    return found
