"""Predictions of many run-epochs as counts per location and class, and macro-F1 of each location."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from ..errors import EvaluateError

FEW_IMAGES = 10  # with fewer, one image moves a location's accuracy by more than ten percentage points
TABLE = 2**16  # largest span of labels that are looked up in a table

Labelled = tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.integer]]  # y_true, y_pred, location, each [n]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counts:
    """One split as many run-epochs predicted it.

    The predictions are kept in cells (run-epoch, class, location) that hold at least one, sorted by
    run-epoch and class, within a class those with hits first, then by location. Predictions of classes
    that are never true in the split are in no cell: they are not a class in any resample.
    """

    classes: Annotated[NDArray[np.int64], "n_classes"]  # labels that are true in the split, ascending
    locations: Annotated[NDArray[np.int64], "n_locations"]  # ascending
    support: Annotated[NDArray[np.int32], "n_classes n_locations"]  # images by true class; of all run-epochs
    # Cells of class c with hits: from 2 c to 2 c + 1.
    starts: Annotated[NDArray[np.int64], "n_run_epochs 2*n_classes+1"]
    location: Annotated[NDArray[np.int32], "n_cells"]  # index into locations
    predictions: Annotated[NDArray[np.int32], "n_cells"]  # images predicted to be of the class, at least 1
    hits: Annotated[NDArray[np.int32], "n_cells"]  # those of them that are correct

    @property
    def n_run_epochs(self) -> int:
        """How many run-epochs were counted."""
        return len(self.starts)

    @property
    def n_images(self) -> NDArray[np.int64]:
        """Images of each location, [n_locations]."""
        return np.asarray(self.support.sum(axis=0, dtype=np.int64))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LocationScores:
    """The macro-F1 of every run-epoch at every location, and its worst location.

    The worst location has the smallest macro-F1 of its own images, over the classes that are true
    there, as WILDS takes the minimum over groups that are not empty (``wilds/common/metrics/metric.py``).
    Locations with few images do not compete, since theirs is 0 or 1 by chance; they stay in the arrays.
    """

    locations: Annotated[NDArray[np.int64], "n_locations"]
    n_images: Annotated[NDArray[np.int64], "n_locations"]
    few: Annotated[NDArray[np.bool_], "n_locations"]  # whether the location has too few images to be the worst
    macro_f1: Annotated[NDArray[np.float64], "n_run_epochs n_locations"]  # fractions
    worst: Annotated[NDArray[np.int64], "n_run_epochs"] | None  # index into locations; None if all have few images


def count(run_epochs: Iterable[Labelled]) -> Counts:
    """Count the predictions of the run-epochs of one split, which are read one at a time.

    Each is ``(y_true, y_pred, location)``, integers [n], the images in any order. The same arrays of
    labels and locations given again are not processed again. Raises EvaluateError if there is no run-epoch
    or no image, if the three do not match, or if run-epochs differ in the labels of the images
    of a location: they are not of the same split.
    """
    split: _Split | None = None
    cells, starts, n_cells = [], [], 0
    for number, (y_true, y_pred, location) in enumerate(run_epochs):
        if y_true.ndim != 1 or not y_true.shape == y_pred.shape == location.shape:
            raise EvaluateError(
                f"run-epoch {number} has labels of shape {y_true.shape}, predictions of shape {y_pred.shape} and"
                f" locations of shape {location.shape}: give one of each per image"
            )
        if split is None or y_true is not split.y_true or location is not split.location:
            split = _read_truth(y_true, location, split, number)
        start, *of_run = _cells(split, y_pred)
        cells.append(of_run)
        starts.append(start + n_cells)
        n_cells = int(starts[-1][-1])
    if split is None:
        raise EvaluateError("no predictions to count: give those of at least one run-epoch")
    where, predictions, hits = (np.concatenate(parts) for parts in zip(*cells, strict=True))
    return Counts(
        classes=split.classes,
        locations=split.locations,
        support=split.support,
        starts=np.stack(starts),
        location=where,
        predictions=predictions,
        hits=hits,
    )


def location_scores(counts: Counts, *, few_images: int = FEW_IMAGES) -> LocationScores:
    """Macro-F1 of each location's own images; those with fewer than ``few_images`` cannot be the worst."""
    n_images = counts.n_images
    few = n_images < few_images
    n_classes = (counts.support > 0).sum(axis=0)  # [n_locations]
    macro_f1 = np.empty((counts.n_run_epochs, len(n_images)))
    for e in range(counts.n_run_epochs):
        predictions, hits = dense(counts, e)
        macro_f1[e] = (2 * hits / np.maximum(counts.support + predictions, 1)).sum(axis=0) / n_classes
    return LocationScores(
        locations=counts.locations,
        n_images=n_images,
        few=few,
        macro_f1=macro_f1,
        worst=None if few.all() else np.asarray(np.where(few, np.inf, macro_f1).argmin(axis=1)),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Split:
    """The truth of a split in one order of its images."""

    y_true: Annotated[NDArray[np.integer], "n"]
    location: Annotated[NDArray[np.integer], "n"]
    classes: Annotated[NDArray[np.int64], "n_classes"]
    locations: Annotated[NDArray[np.int64], "n_locations"]
    support: Annotated[NDArray[np.int32], "n_classes n_locations"]
    true_class: Annotated[NDArray[np.int64], "n"]  # index into classes
    where: Annotated[NDArray[np.int64], "n"]  # index into locations


def _read_truth(
    y_true: NDArray[np.integer], location: NDArray[np.integer], known: _Split | None, number: int
) -> _Split:
    """The truth of run-epoch ``number``; it must match those before it, in any order."""
    if not y_true.size:
        raise EvaluateError(f"run-epoch {number} has no labels to score: the split is empty")
    classes, true_class = np.unique(y_true, return_inverse=True)
    locations, where = np.unique(location, return_inverse=True)
    shape = (len(classes), len(locations))
    support = np.bincount(true_class * shape[1] + where, minlength=shape[0] * shape[1]).astype(np.int32).reshape(shape)
    if known is not None and not (
        np.array_equal(classes, known.classes)
        and np.array_equal(locations, known.locations)
        and np.array_equal(support, known.support)
    ):
        raise EvaluateError(
            f"run-epoch {number} ({len(y_true)} images, {shape[1]} locations, {shape[0]} true classes) and those before"
            f" it ({len(known.y_true)}, {len(known.locations)}, {len(known.classes)}) differ in what the images of"
            " a location show: count only predictions of one split together"
        )
    return _Split(
        y_true=y_true,
        location=location,
        classes=classes.astype(np.int64),
        locations=locations.astype(np.int64),
        support=support,
        true_class=true_class,
        where=where,
    )


def _cells(split: _Split, y_pred: NDArray[np.integer]) -> tuple[NDArray[np.int64], *tuple[NDArray[np.int32], ...]]:
    """Starts [2 * n_classes + 1], location, predictions and hits of one run-epoch's cells, in order."""
    n_classes, n_locations = split.support.shape
    predicted = _index(split.classes, y_pred)
    cell = predicted * n_locations + split.where
    predictions = np.bincount(cell[predicted >= 0], minlength=split.support.size)
    hits = np.bincount(cell[predicted == split.true_class], minlength=split.support.size)
    cells = np.flatnonzero(predictions)
    of_class, where = np.divmod(cells, n_locations)
    group = 2 * of_class + (hits[cells] == 0)
    order = np.argsort(group, kind="stable")
    cells, where = cells[order], where[order]
    starts = np.concatenate([[0], np.bincount(group, minlength=2 * n_classes).cumsum()])
    return starts, where.astype(np.int32), predictions[cells].astype(np.int32), hits[cells].astype(np.int32)


def _index(known: NDArray[np.int64], values: NDArray[np.integer]) -> NDArray[np.int64]:
    """The index of each value in ``known`` (ascending), -1 if it is absent; a table is faster than a search."""
    low, high = int(known[0]), int(known[-1])
    if high - low >= TABLE:
        at = np.searchsorted(known, values).clip(max=len(known) - 1)
        return np.where(known[at] == values, at, -1)
    table = np.full(high - low + 2, -1, np.int64)
    table[known - low] = np.arange(len(known))
    inside = (values >= low) & (values <= high)
    return np.asarray(table[np.where(inside, values, high + 1).astype(np.int64) - low])


def dense(
    counts: Counts, e: int
) -> tuple[
    Annotated[NDArray[np.int32], "n_classes n_locations"], Annotated[NDArray[np.int32], "n_classes n_locations"]
]:
    """Predictions and hits of a run-epoch."""
    first, last = counts.starts[e, 0], counts.starts[e, -1]
    of_class = np.repeat(np.arange(len(counts.classes)), np.diff(counts.starts[e, ::2]))
    predictions, hits = np.zeros_like(counts.support), np.zeros_like(counts.support)
    predictions[of_class, counts.location[first:last]] = counts.predictions[first:last]
    hits[of_class, counts.location[first:last]] = counts.hits[first:last]
    return predictions, hits
