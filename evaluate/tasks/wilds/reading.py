"""A set of WILDS from a local copy, read by the ``wilds`` package; its row of ``sets`` says where everything is."""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import os
import re
import sys
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from synthgen.storage.reading import open_file, reading

from ...errors import EvaluateError, told_here
from ..base import Split, Task
from .sets import WildsSet

CATEGORIES = "categories.csv"


def open_set(name: str, known: WildsSet, path: Path) -> Task:
    """Open the copy of a set of WILDS in a folder.

    Raises EvaluateError, saying what is expected where, for a missing or incomplete copy.
    """
    folder = path / f"{name}_v{known.version}"
    _check_files(folder, known)
    try:
        dataset = _load(name, known, path)
    except Exception as error:  # wilds and pandas may raise anything if the metadata are not as expected
        said = _said(error, folder / known.metadata, known)
        raise EvaluateError(f"{folder / known.metadata}: wilds refuses it ({said}); {known.rules}") from error
    splits = _splits(dataset, folder, known)
    return Task(
        class_names=_class_names(dataset, folder, known),
        splits=splits,
        identity={
            "kind": name,
            "n_images": sum(len(split.y) for split in splits.values()),
            "n_classes": int(dataset.n_classes),
            "digest": hashlib.sha256((folder / known.metadata).read_bytes()).hexdigest()[:16],  # of the metadata
        },
    )


def _said(error: Exception, path: Path, known: WildsSet) -> str:
    """An error of wilds in words; if it did not find a value, where that is first."""
    if isinstance(error, KeyError):
        for number, row in enumerate(_rows(path, known.columns), start=1):
            for name in known.columns:
                if row[name] == error.args[0]:
                    return f"row {number}: {name} is {row[name][:40]!r}"
    return " ".join(f"{type(error).__name__} {error}".split())


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
    _check_cells(folder / known.metadata, known)


def _check_cells(path: Path, known: WildsSet) -> None:
    """Raise EvaluateError, with row, column and value, for a cell of the metadata that wilds cannot use."""
    columns = [(name, re.compile(cells.pattern), cells.words) for name, cells in known.columns.items()]
    for number, row in enumerate(_rows(path, known.columns), start=1):
        for name, pattern, words in columns:
            if not pattern.fullmatch(row[name] or ""):
                raise EvaluateError(f"{path}: row {number}: {name} is {(row[name] or '')[:40]!r}, not {words}")


def _rows(path: Path, columns: Collection[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file; raises EvaluateError if it is invalid or lacks a column."""
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
    outside = next((name for name in names if name.startswith("/") or ".." in name.split("/")), None)
    if outside is not None:
        raise EvaluateError(f"{folder / known.metadata}: file name {outside[:80]!r} leads out of {known.images}/")
    y, cluster = dataset.y_array.numpy(), known.cluster(dataset)
    sequence = known.sequence(dataset) if known.sequence else np.full(len(names), -1)
    for what, values in (("labels", y), ("clusters", cluster), ("sequences", sequence)):
        if values.dtype.kind not in "iu":
            raise EvaluateError(f"{folder / known.metadata}: {what} that are not integers; {known.rules}")
    images = Split(
        files=np.array([f"{folder / known.images}/{name}" for name in names], dtype=object),
        image_id=np.array([os.path.splitext(name)[0] for name in names], dtype=object),
        y=y.astype(np.int64),
        cluster=cluster.astype(np.int64),
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
        raise EvaluateError(f"{folder / known.metadata}: {repeated} file names appear more than once")
    _check_images(folder / known.images, np.concatenate([split.files for split in splits.values()]))
    return splits


def _check_images(folder: Path, files: NDArray[np.object_]) -> None:
    """Raise EvaluateError if images are missing; listing each folder is faster than checking each file."""
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
            if name and int(y) < len(names):  # classes without images have higher numbers
                names[int(y)] = name
    return tuple(names)


def import_wilds() -> Any:
    """Import ``wilds`` without the thread that asks the network for its latest version."""
    if "wilds" not in sys.modules:
        before = sys.modules.get("outdated")
        sys.modules["outdated"] = None  # type: ignore[assignment]
        try:
            importlib.import_module("wilds")
        finally:
            del sys.modules["outdated"]
            if before is not None:
                sys.modules["outdated"] = before
    return sys.modules["wilds"]


def _load(name: str, known: WildsSet, root: Path) -> Any:
    """The dataset object of ``wilds`` for a local copy; raises any error of wilds for a bad one."""
    wilds = import_wilds()
    limit = Image.MAX_IMAGE_PIXELS
    module = importlib.import_module(f"wilds.datasets.{name}_dataset")
    Image.MAX_IMAGE_PIXELS = limit  # FMoW's module disables the guard against huge images for the whole process
    module.pd = _earlier_pandas()  # type: ignore[attr-defined]
    return wilds.get_dataset(name, version=known.version, root_dir=str(root), download=False)


def _earlier_pandas() -> SimpleNamespace:
    """The pandas that these sets need, as wilds 2.0 expects it.

    Since pandas 2 all dates must have one format, but some of FMoW's have fractions of a second (wilds issue 146);
    since pandas 3 a column's values are read-only, but RxRx1 writes into them.
    """
    import pandas

    class Column(pandas.Series):  # type: ignore[misc]
        _constructor = property(lambda self: Column)
        values = property(lambda self: self.to_numpy(copy=True))

    class Table(pandas.DataFrame):  # type: ignore[misc]
        _constructor = property(lambda self: Table)
        _constructor_sliced = property(lambda self: Column)

    return SimpleNamespace(
        read_csv=lambda *args, **options: Table(pandas.read_csv(*args, **options)),
        to_datetime=partial(pandas.to_datetime, format="ISO8601"),
    )
