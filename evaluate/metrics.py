"""Accuracy, macro recall and macro-F1 exactly as WILDS defines them.

WILDS (Koh et al. 2021, arXiv 2012.07421; ``wilds/common/metrics/all_metrics.py``) calls scikit-learn's
``recall_score`` and ``f1_score`` with ``average="macro", labels=unique(y_true)`` over a whole split:
a class that is predicted but never true does not enter the mean, yet such a prediction is still
a miss of the image's true class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import EvaluateError

TABLE = 2**16  # labels up to here are counted in a table, which takes a tenth of the time of sorting them
Labels = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Scores:
    """How well one split was classified; fractions from 0 to 1."""

    accuracy: float  # share of images whose prediction is right
    recall: float  # macro recall: mean over the true classes of the share found
    macro_f1: float  # mean over the true classes of 2 TP / (2 TP + FP + FN)


def scores(y_true: NDArray[np.int64], y_pred: NDArray[np.int64]) -> Scores:
    """Score the predictions of one whole split.

    ``y_true`` and ``y_pred`` are integer labels of shape [n], n >= 1; they need not be contiguous.
    Raises EvaluateError if there are no labels, or not one prediction per label.
    """
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    if y_true.ndim != 1 or y_true.shape != y_pred.shape:
        raise EvaluateError(
            f"labels of shape {y_true.shape} and predictions of shape {y_pred.shape} do not match: give one of each"
            " per image"
        )
    if not y_true.size:
        raise EvaluateError("no labels to score: the split is empty")
    hit = y_true == y_pred
    support, predicted, hits = _counts(y_true, y_pred, hit)
    return Scores(
        accuracy=float(hit.mean()),
        recall=float((hits / support).mean()),
        macro_f1=float((2 * hits / (support + predicted)).mean()),
    )


def _counts(y_true: Labels, y_pred: Labels, hit: NDArray[np.bool_]) -> tuple[Labels, Labels, Labels]:
    """For each true class of the split, ascending: its images, those predicted to be, and both; each [n_classes]."""
    ends = min(y_true.min(), y_pred.min()), max(y_true.max(), y_pred.max())
    if ends[0] < 0 or ends[1] >= TABLE:
        classes, y_true = np.unique(y_true, return_inverse=True)
        found = np.searchsorted(classes, y_pred).clip(max=len(classes) - 1)
        y_pred = found[classes[found] == y_pred]  # predictions of true classes only
    every = y_true, y_pred, y_true[hit]
    n = int(max(y_true.max(), y_pred.max(initial=0))) + 1
    support, predicted, hits = (np.bincount(one.astype(np.int64, copy=False), minlength=n) for one in every)
    true = support > 0
    return support[true], predicted[true], hits[true]
