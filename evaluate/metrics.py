"""Accuracy, macro recall and macro-F1 exactly as WILDS defines them.

WILDS (Koh et al. 2021, arXiv 2012.07421; ``wilds/common/metrics/all_metrics.py``) calls scikit-learn's
``recall_score`` and ``f1_score`` with ``average="macro", labels=unique(y_true)`` over a whole split:
a class that is predicted but never true is no class of its own, yet such a prediction is still a
miss of the image's true class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import EvaluateError


@dataclass(frozen=True, slots=True)
class Scores:
    """How well one split was classified; fractions from 0 to 1."""

    accuracy: float  # share of images whose prediction is right
    recall: float  # macro recall: mean over the true classes of the share found
    macro_f1: float  # mean over the true classes of 2 TP / (2 TP + FP + FN)


def scores(y_true: NDArray[np.int64], y_pred: NDArray[np.int64]) -> Scores:
    """Score the predictions of one whole split.

    ``y_true`` and ``y_pred`` are integer labels of shape [n], n >= 1; they need not be contiguous.
    Raises EvaluateError where there are no labels, or not one prediction a label.
    """
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    if y_true.ndim != 1 or y_true.shape != y_pred.shape:
        raise EvaluateError(
            f"labels of shape {y_true.shape} and predictions of shape {y_pred.shape} do not match: give one of each"
            " an image"
        )
    if not y_true.size:
        raise EvaluateError("no labels to score: the split is empty")
    classes, true_index = np.unique(y_true, return_inverse=True)
    pred_index = np.searchsorted(classes, y_pred).clip(max=len(classes) - 1)
    is_class = classes[pred_index] == y_pred  # bool [n], whether the predicted class is a true class of the split
    hit = y_true == y_pred
    support = np.bincount(true_index)  # [n_classes], TP + FN, at least 1
    predicted = np.bincount(pred_index[is_class], minlength=len(classes))  # TP + FP
    hits = np.bincount(true_index[hit], minlength=len(classes))  # TP
    return Scores(
        accuracy=float(hit.mean()),
        recall=float((hits / support).mean()),
        macro_f1=float((2 * hits / (support + predicted)).mean()),
    )
