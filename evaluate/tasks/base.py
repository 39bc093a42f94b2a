"""What all fine-tuning tasks have in common: splits of labelled images in clusters, and the words for them.

A task is classification with a shift between its splits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthgen.storage.reading import read_file, reading

from ..errors import told_here

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPLITS = ("train", "val", "test", "id_val", "id_test")  # ID is id_test, OOD is test
NEEDED = ("train", "test", "id_test")
MACRO_F1 = "macro-F1"  # as WILDS defines it: ``macro_f1`` of ``metrics.scores``, and of ``analysis.resampled``
METRICS = (MACRO_F1,)  # those that the analysis can resample by clusters


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a task's metric, clusters and splits are called, for reports and messages."""

    metric: str  # what arms are compared by: one of METRICS
    cluster: str  # images of one depend on each other: "camera location", "slide"
    clusters: str  # plural of ``cluster``
    id: str  # describes the ID images, after "images": "from camera locations that were also in the training images"
    ood: str  # likewise, the OOD images


UNKNOWN = Words(  # for a task that a suite's record does not name, such as that of published scores
    metric=MACRO_F1,
    cluster="cluster",
    clusters="clusters",
    id="from the distribution of the training images",
    ood="from a distribution other than that of the training images",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """The images of one split."""

    files: NDArray[np.object_]  # str [n], paths
    image_id: NDArray[np.object_]  # str [n], unique in the task
    y: NDArray[np.int64]  # [n], class
    cluster: NDArray[np.int64]  # [n], cluster of dependent images
    sequence: NDArray[np.int64]  # [n], images of a cluster that were taken together; -1 if the set has no sequences

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """The images at ``indices`` as uint8 [size, size, 3]; raises EvaluateError naming a broken file."""
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
            cluster=self.cluster[where],
            sequence=self.sequence[where],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """An opened task."""

    class_names: tuple[str, ...]
    splits: dict[str, Split]  # by names of SPLITS; at least those of NEEDED
    identity: dict[str, Any]  # changes when images or labels do; "kind" names the task, "n_images" counts all splits


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskKind:
    """One entry of the list in ``known``: a set of images that can be fine-tuned on."""

    name: str  # in suite files, on the command line, and as "kind" in the identity of its tasks
    words: Words
    open: Callable[[Path], Task]  # from the folder that holds a local copy; raises EvaluateError, downloads nothing
