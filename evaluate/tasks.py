"""The fine-tuning task: iWildCam through the ``wilds`` package, from a local copy.

``evaluate simulate`` makes such a copy with simulated camera traps; see ``simulate``.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import EvaluateError
from .sources import decode_named

SPLITS = ("train", "val", "test", "id_val", "id_test")
FOLDER = "iwildcam_v2.0"
COLUMNS = ("split", "location_remapped", "sequence_remapped", "datetime", "y", "filename")
ORIGIN = (
    "the original download host has been down for months: the images are those of the iWildCam 2020 competition"
    " (Kaggle, LILA BC); metadata.csv is WILDS's"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """The images of one split."""

    files: tuple[Path, ...]
    image_id: NDArray[np.object_]  # str [n], the file name without ending: unique, also where frames are cropped
    y: NDArray[np.int64]  # [n], class
    location: NDArray[np.int64]  # [n], camera location

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """The images at ``indices`` as uint8 [size, size, 3]; raises EvaluateError naming a broken one."""
        for index in indices.tolist():
            path = self.files[index]
            yield decode_named(str(path), path.read_bytes(), size)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """A classification task with held-out camera locations; ID is ``id_test``, OOD is ``test``."""

    class_names: tuple[str, ...]
    splits: dict[str, Split]
    identity: dict[str, Any]


def import_wilds() -> Any:
    """Import ``wilds`` without the thread that asks the network for its newest version."""
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


def open_task(path: str) -> Task:
    """Open a local copy of iWildCam-WILDS v2.0, or anything in its layout.

    Raises EvaluateError, saying what is expected where, for a missing or incomplete copy.
    """
    root = Path(path)
    rows = _checked_rows(root)
    wilds = import_wilds()
    try:
        dataset = wilds.get_dataset("iwildcam", root_dir=path, download=False)
    except (AssertionError, KeyError, ValueError) as error:
        raise EvaluateError(
            f"{root / FOLDER / 'metadata.csv'}: wilds refuses it ({error or 'y, location_remapped and'} "
            "sequence_remapped must run from 0 without gaps)"
        ) from None
    images = root / FOLDER / "train"
    fields = dataset.metadata_fields
    location = dataset.metadata_array[:, fields.index("location")].numpy()
    y = dataset.y_array.numpy()
    names = [row["filename"] for row in rows]
    ids = np.array([Path(name).stem for name in names], dtype=object)
    splits = {}
    for name in SPLITS:
        where = np.flatnonzero(dataset.split_array == dataset.split_dict[name])
        splits[name] = Split(
            files=tuple(images / names[index] for index in where),
            image_id=ids[where],
            y=y[where].astype(np.int64),
            location=location[where].astype(np.int64),
        )
    metadata = (root / FOLDER / "metadata.csv").read_bytes()
    return Task(
        class_names=_class_names(root, int(dataset.n_classes)),
        splits=splits,
        identity={
            "kind": "iwildcam",
            "n_images": len(rows),
            "n_classes": int(dataset.n_classes),
            "digest": hashlib.sha256(metadata).hexdigest()[:16],  # of metadata.csv
        },
    )


def _checked_rows(root: Path) -> list[dict[str, str]]:
    folder = root / FOLDER
    for name in ("", "RELEASE_v2.0.txt", "metadata.csv", "train"):
        if not (folder / name).exists():
            raise EvaluateError(
                f"{folder / name}: missing; expected {root}/{FOLDER} with RELEASE_v2.0.txt, metadata.csv,"
                f" categories.csv and train/*.jpg, as in iWildCam-WILDS v2.0; {ORIGIN}"
            )
    with (folder / "metadata.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if lacking:
            raise EvaluateError(f"{folder / 'metadata.csv'}: columns missing: {', '.join(lacking)}")
        rows = list(reader)
    found = {row["split"] for row in rows}
    if found != set(SPLITS):
        raise EvaluateError(
            f"{folder / 'metadata.csv'}: splits {', '.join(sorted(found))}; expected {', '.join(SPLITS)}"
        )
    repeated = len(rows) - len({row["filename"] for row in rows})
    if repeated:
        raise EvaluateError(f"{folder / 'metadata.csv'}: {repeated} file names stand more than once")
    there = {path.name for path in (folder / "train").iterdir()}
    absent = [row["filename"] for row in rows if row["filename"] not in there]
    if absent:
        raise EvaluateError(
            f"{folder / 'train'}: {len(absent)} of {len(rows)} images are missing, the first is {absent[0]}"
        )
    return rows


def _class_names(root: Path, n_classes: int) -> tuple[str, ...]:
    path = root / FOLDER / "categories.csv"
    names = {number: f"class {number}" for number in range(n_classes)}
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if (row.get("y") or "").isdigit() and int(row["y"]) in names:
                    names[int(row["y"])] = row["name"]
    return tuple(names.values())
