"""Other labels for the same images: a level of a taxonomy, and balanced controls with as many labels.

The labels of a level are very unequal in size (955 of ImageNet-1k's 1,000 classes are objects, one label
of five), so the effect of coarse labels cannot be told apart from that of unequal ones.  A control has the
same number of labels with equally many classes under each: unrelated ones at random, or related ones.

The functions are pure.  The variants of ``Labels`` are what a suite file may ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from synthgen.common.seeds import derive_seed

from ..errors import EvaluateError
from .selection import SEED, Selection
from .taxonomy import Taxonomy
from .variants import Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLabels(Variant):
    """The classes of the source."""

    words: ClassVar[str] = ""

    def of(self, selection: Selection, taxonomy: Callable[[], Taxonomy]) -> Selection:
        """The selection as it is."""
        return selection


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelLabels(Variant):
    """The labels of a level of the taxonomy instead of the classes."""

    TAG = "granularity"

    granularity: str | int  # the labels of a level of the taxonomy instead of the classes

    @property
    def words(self) -> str:
        """Words for the description of an arm."""
        return f", labels of level {self.granularity}"

    def of(self, selection: Selection, taxonomy: Callable[[], Taxonomy]) -> Selection:
        """See ``granularity``."""
        return granularity(selection, taxonomy(), str(self.granularity))


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlLabels(Variant):
    """As many labels as the level has, the classes spread evenly over them."""

    TAG = "control"

    granularity: str | int  # the level that is matched
    control: Literal["random", "neighbours"]  # as many labels, the classes spread evenly over them

    @property
    def words(self) -> str:
        """Words for the description of an arm."""
        return f", labels of level {self.granularity}, {self.control} control"

    def of(self, selection: Selection, taxonomy: Callable[[], Taxonomy]) -> Selection:
        """See ``random_control`` and ``neighbour_control``."""
        known = taxonomy()
        n_labels = len(granularity(selection, known, str(self.granularity)).class_names)
        if self.control == "random":
            return random_control(selection, n_labels, seed=SEED)
        return neighbour_control(selection, n_labels, known)


Labels = ClassLabels | LevelLabels | ControlLabels


def granularity(selection: Selection, taxonomy: Taxonomy, level: str) -> Selection:
    """The same images with the labels of a level of a taxonomy; labels that do not occur are dropped."""
    used = np.unique(selection.labels)
    names = taxonomy.at(level, [selection.class_names[label] for label in used])
    return _relabel(selection, used, names, f"at level {level} of {taxonomy}")


def random_control(selection: Selection, n_labels: int, *, seed: int) -> Selection:
    """The same images with ``n_labels`` labels, over which the classes are spread at random, evenly to within one.

    The classes, in an order drawn from the seed, are cut into runs; the first runs are the longer ones.
    """
    used = np.unique(selection.labels)
    order = np.random.RandomState(derive_seed(seed, "control") % 2**32).permutation(len(used))
    return _cut(selection, used, order.tolist(), n_labels, "random", f"at random, seed {seed}")


def neighbour_control(selection: Selection, n_labels: int, taxonomy: Taxonomy) -> Selection:
    """The same images with ``n_labels`` labels of related classes, equally many under each to within one.

    The classes, in the order of a depth-first, alphabetical walk through the taxonomy
    (``Taxonomy.order``), are cut into runs; the first runs are the longer ones.
    """
    used = np.unique(selection.labels)
    order = taxonomy.order([selection.class_names[label] for label in used])
    return _cut(selection, used, order, n_labels, "neighbours", f"by neighbourhood in {taxonomy}")


def _cut(
    selection: Selection, used: NDArray[np.int64], order: Sequence[int], n_labels: int, what: str, how: str
) -> Selection:
    """Relabel by runs of classes of equal length to within one."""
    if not 2 <= n_labels <= len(used):
        raise EvaluateError(f"control of {n_labels} labels: there are {len(used)} classes; ask for 2 to {len(used)}")
    names = [""] * len(used)
    for run, classes in enumerate(np.array_split(np.asarray(order), n_labels)):
        for position in classes:
            names[position] = f"{what}-{run:0{len(str(n_labels - 1))}d}"
    return _relabel(selection, used, names, f"{len(used)} classes spread evenly {how}")


def _relabel(selection: Selection, used: NDArray[np.int64], names: Sequence[str], how: str) -> Selection:
    """The same images, with class ``used[i]`` named ``names[i]``; the labels are in alphabetical order."""
    class_names = tuple(sorted(set(names)))
    if len(class_names) < 2:
        raise EvaluateError(f"all {len(used)} classes have the label {', '.join(class_names)} {how}; 2 are the minimum")
    number = {name: label for label, name in enumerate(class_names)}
    of_class = np.zeros(len(selection.class_names), np.int64)
    of_class[used] = [number[name] for name in names]
    return Selection(
        indices=selection.indices,
        labels=of_class[selection.labels],
        class_names=class_names,
        rule=f"{selection.rule}; {len(class_names)} labels: {how}",
    )
