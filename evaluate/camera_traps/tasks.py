"""The fine-tuning task: an image classification set of WILDS, read from a local copy by the ``wilds`` package.

``evaluate simulate`` makes such a copy with simulated camera traps; see ``simulate``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import with_config

from synthgen.common.records import STRICT
from synthgen.storage.reading import open_file, read_file, reading

from ..errors import EvaluateError, told_here
from .wilds_sets import ALL_SPLITS, SETS, WildsSet, import_wilds, load

__all__ = ["EMPTY", "SPLITS", "Split", "Task", "TaskSpec", "import_wilds", "open_task"]

SPLITS = tuple(ALL_SPLITS)
CATEGORIES = "categories.csv"
EMPTY = "empty"  # name of the class of frames without an animal


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What is fine-tuned on: a local copy of a WILDS set, or anything in its layout."""

    path: str  # the folder that holds iwildcam_v2.0, or the folder of another kind
    kind: Literal["iwildcam", "fmow", "camelyon17", "rxrx1"] = "iwildcam"
    empty: bool = True  # with the images of the class "empty"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """The images of one split."""

    files: NDArray[np.object_]  # str [n], paths
    image_id: NDArray[np.object_]  # str [n], the path below the set's images, without ending: unique in the task
    y: NDArray[np.int64]  # [n], class
    location: NDArray[np.int64]  # [n], cluster of dependent images: camera location, country, slide, experiment
    sequence: NDArray[np.int64]  # [n], burst of frames; -1 where the set has none

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """The images at ``indices`` as uint8 [size, size, 3]; raises EvaluateError naming a broken one."""
        from ..images.decoding import decode_named

        for path in self.files[indices].tolist():
            with told_here(), reading(path):
                data = read_file(Path(path))
            yield decode_named(path, data, size)

    def at(self, where: NDArray[Any]) -> Split:
        """The images at ``where``, positions or a mask."""
        return Split(
            files=self.files[where],
            image_id=self.image_id[where],
            y=self.y[where],
            location=self.location[where],
            sequence=self.sequence[where],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """A classification task with a shift between its splits; ID is ``id_test``, OOD is ``test``."""

    class_names: tuple[str, ...]
    splits: dict[str, Split]  # those of SPLITS that the set has: train, val, test and id_test, most often id_val
    identity: dict[str, Any]  # changes when images or labels do; "n_images" counts those of all splits


def open_task(spec: TaskSpec) -> Task:
    """Open a local copy of a WILDS set, or anything in its layout; nothing is ever downloaded.

    Raises EvaluateError, saying what is expected where, for a missing or incomplete copy, and where
    the images of the class "empty" are to be left out of a set that has no such class.
    """
    if spec.kind not in SETS:
        raise EvaluateError(f"task kind {spec.kind!r}: not known; one of {', '.join(SETS)}")
    known = SETS[spec.kind]
    folder = Path(spec.path) / f"{spec.kind}_v{known.version}"
    _check_files(folder, known)
    try:
        dataset = load(spec.kind, spec.path)
    except Exception as error:  # wilds and pandas fail as they may where the metadata are not what they expect
        said = " ".join(f"{type(error).__name__} {error}".split())
        raise EvaluateError(f"{folder / known.metadata}: wilds refuses it ({said}); {known.rules}") from error
    splits = _splits(dataset, folder, known)
    task = Task(
        class_names=_class_names(dataset, folder, known),
        splits=splits,
        identity={
            "kind": spec.kind,
            "n_images": sum(len(split.y) for split in splits.values()),
            "n_classes": int(dataset.n_classes),
            "digest": hashlib.sha256((folder / known.metadata).read_bytes()).hexdigest()[:16],  # of the metadata
        },
    )
    return task if spec.empty else _without_empty(task, folder)


def _check_files(folder: Path, known: WildsSet) -> None:
    needed = (f"RELEASE_v{known.version}.txt", known.metadata, *known.others)
    for name in ("", *needed, known.images):
        if not (folder / name).exists():
            raise EvaluateError(
                f"{folder / name}: missing; expected {folder} with {', '.join(needed)} and the images in"
                f" {known.images}/, as WILDS lays them out; {known.origin}"
            )
    for name in (known.metadata, *known.others):  # pandas would wait for a pipe
        with told_here(), reading(folder / name):
            open_file(folder / name).close()
    next(_rows(folder / known.metadata, known.columns), None)


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file; raises EvaluateError where it is none, or lacks a column."""
    with told_here(), reading(path), io.TextIOWrapper(open_file(path), encoding="utf-8", newline="") as file:
        try:
            reader = csv.DictReader(file)
            lacking = [name for name in columns if name not in (reader.fieldnames or ())]
            if lacking:
                raise EvaluateError(f"{path}: columns missing: {', '.join(lacking)}")
            yield from reader
        except (UnicodeDecodeError, csv.Error) as error:
            raise EvaluateError(f"{path}: not a CSV file ({error})") from None


def _splits(dataset: Any, folder: Path, known: WildsSet) -> dict[str, Split]:
    """The splits of an open set, checked."""
    names = known.files(dataset)
    y, location = dataset.y_array.numpy(), known.cluster(dataset)
    sequence = known.sequence(dataset) if known.sequence else np.full(len(names), -1)
    for what, values in (("labels", y), ("clusters", location), ("sequences", sequence)):
        if values.dtype.kind not in "iu":
            raise EvaluateError(f"{folder / known.metadata}: {what} that are no whole numbers; {known.rules}")
    images = Split(
        files=np.array([f"{folder / known.images}/{name}" for name in names], dtype=object),
        image_id=np.array([os.path.splitext(name)[0] for name in names], dtype=object),
        y=y.astype(np.int64),
        location=location.astype(np.int64),
        sequence=sequence.astype(np.int64),
    )
    splits = {
        name: images.at(np.flatnonzero(dataset.split_array == dataset.split_dict[own]))
        for name, own in known.splits.items()
    }
    found = [own for name, own in known.splits.items() if len(splits[name].y)]
    if len(found) < len(splits):
        raise EvaluateError(
            f"{folder / known.metadata}: splits {', '.join(sorted(found))}; expected {', '.join(known.splits.values())}"
        )
    y = np.concatenate([split.y for split in splits.values()])
    if y.min() < 0 or y.max() >= dataset.n_classes:
        raise EvaluateError(f"{folder / known.metadata}: labels {y.min()} to {y.max()}; {known.rules}")
    ids = np.concatenate([split.image_id for split in splits.values()])
    repeated = len(ids) - len(set(ids))
    if repeated:
        raise EvaluateError(f"{folder / known.metadata}: {repeated} file names stand more than once")
    _check_images(folder / known.images, np.concatenate([split.files for split in splits.values()]))
    return splits


def _check_images(folder: Path, files: NDArray[np.object_]) -> None:
    """Raise EvaluateError where images are missing; a listing of each folder is quicker than a look at each file."""
    there: dict[str, set[str]] = {}
    absent = []
    for path in files.tolist():
        parent, _, name = path.rpartition("/")
        if parent not in there:
            there[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
        if name not in there[parent]:
            absent.append(path)
    if absent:
        first = os.path.relpath(absent[0], folder)
        raise EvaluateError(f"{folder}: {len(absent)} of {len(files)} images are missing, the first is {first}")


def _class_names(dataset: Any, folder: Path, known: WildsSet) -> tuple[str, ...]:
    if known.class_names:
        return tuple(known.class_names(dataset))
    names = [f"class {number}" for number in range(int(dataset.n_classes))]
    if (folder / CATEGORIES).exists():
        for number, row in enumerate(_rows(folder / CATEGORIES, ("y", "name")), start=1):
            y, name = row["y"] or "", row["name"]
            if not re.fullmatch("[0-9]{1,9}", y):
                raise EvaluateError(f"{folder / CATEGORIES}: row {number}: y is {y[:40]!r}, not the number of a class")
            if name and int(y) < len(names):  # classes without images have numbers beyond
                names[int(y)] = name
    return tuple(names)


def _without_empty(task: Task, folder: Path) -> Task:
    """The task without the images of the class "empty", its other classes numbered anew."""
    kept = np.array([name != EMPTY for name in task.class_names])
    if kept.all():
        raise EvaluateError(
            f"{folder}: empty = false, but no class is named {EMPTY!r} ({CATEGORIES} names iWildCam's);"
            " leave empty = false out"
        )
    number = np.cumsum(kept) - 1  # new label of each old one
    splits = {}
    for name, split in task.splits.items():
        left = split.at(kept[split.y])
        if not len(left.y):
            raise EvaluateError(f"{folder}: empty = false leaves no image in the split {name}")
        splits[name] = replace(left, y=number[left.y])
    return Task(
        class_names=tuple(name for name in task.class_names if name != EMPTY),
        splits=splits,
        identity={
            **task.identity,
            "n_images": sum(len(split.y) for split in splits.values()),
            "n_classes": int(kept.sum()),
            "left_out": {EMPTY: np.flatnonzero(~kept).tolist()},  # labels, which the metadata do not name
        },
    )
