"""A task for tests, as a stranger might add one: plain tiles of a quilt, some of them from other quilts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.tasks.base import Split, Task, TaskKind, Words

WORDS = Words(
    metric="macro-F1",
    cluster="quilt",
    clusters="quilts",
    id="from quilts that were also in the training images",
    ood="from quilts that were not in the training images",
)
QUILTS = {
    "train": range(3),
    "id_test": range(3),
    "test": range(3, 6),
}  # by split


def write_quilts(folder: Path, each: int = 8) -> None:
    """Make a copy: files SPLIT/QUILT-CLASS-NUMBER.png."""
    rng = np.random.default_rng(0)
    for split, quilts in QUILTS.items():
        (folder / split).mkdir(parents=True)
        for quilt in quilts:
            for number in range(each):
                y = number % 2
                color = (120 + 100 * y, 30 * quilt, int(rng.integers(100)))
                Image.new("RGB", (32, 32), color).save(folder / split / f"{quilt}-{y}-{number}.png")


def open_quilts(folder: Path) -> Task:
    splits = {}
    for split in QUILTS:
        files = sorted((folder / split).glob("*.png"))
        if not files:
            raise EvaluateError(f"{folder / split}: no tiles")
        quilt, y, _ = np.array([path.stem.split("-") for path in files]).T.astype(np.int64)
        splits[split] = Split(
            files=np.array([str(path) for path in files], dtype=object),
            image_id=np.array([f"{split}/{path.stem}" for path in files], dtype=object),
            y=y,
            cluster=quilt,
            sequence=np.full(len(files), -1),
        )
    names = [name for split in splits.values() for name in split.image_id]
    return Task(
        class_names=("blue", "red"),
        splits=splits,
        identity={
            "kind": "quilts",
            "n_images": len(names),
            "n_classes": 2,
            "digest": hashlib.sha256("\n".join(names).encode()).hexdigest()[:16],
        },
    )


TASKS = [TaskKind(name="quilts", words=WORDS, open=open_quilts)]
