"""Pure selections over labels: what of a source a model is pre-trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synthgen.seeds import derive_seed

from .errors import EvaluateError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selection:
    """The images an intervention chose and the labels they are trained with."""

    indices: NDArray[np.int64]  # [n], positions in the source
    labels: NDArray[np.int64]  # [n], positions in class_names
    class_names: tuple[str, ...]
    rule: str  # in words and numbers, how the choice was made

    @property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 over indices and labels."""
        data = self.indices.astype("<i8").tobytes() + self.labels.astype("<i8").tobytes()
        return hashlib.sha256(data).hexdigest()[:16]


def everything(labels: NDArray[np.int64], class_names: tuple[str, ...]) -> Selection:
    """All images of a source."""
    return Selection(
        indices=np.arange(len(labels)), labels=labels, class_names=class_names, rule=f"all {len(labels)} images"
    )


def quantity(labels: NDArray[np.int64], class_names: tuple[str, ...], n: int, *, seed: int) -> Selection:
    """``n`` images, balanced over the classes to within one image, in the source's order.

    For one seed the selections are nested: a smaller one lies inside a larger one.  Each class is
    put in an order of its own and the classes take turns, in an order of theirs.  Raises
    EvaluateError where a class has too few images for its share.
    """
    n_classes = len(class_names)
    if not n_classes <= n <= len(labels):
        raise EvaluateError(f"n = {n} images of {n_classes} classes: ask for {n_classes} to {len(labels)}")
    turns = np.random.RandomState(derive_seed(seed, "classes") % 2**32).permutation(n_classes)
    share = -(-n // n_classes)
    chosen = np.full((share, n_classes), -1)
    for turn, label in enumerate(turns.tolist()):
        members = np.flatnonzero(labels == label)
        order = np.random.RandomState(derive_seed(seed, "images", label) % 2**32).permutation(len(members))
        wanted = share if turn < n - (share - 1) * n_classes else share - 1
        if len(members) < wanted:
            raise EvaluateError(
                f"n = {n} images of {n_classes} classes need {wanted} of class {class_names[label]},"
                f" which has {len(members)}"
            )
        chosen[:wanted, turn] = members[order[:wanted]]
    indices = np.sort(chosen[chosen >= 0])
    return Selection(
        indices=indices,
        labels=labels[indices],
        class_names=class_names,
        rule=f"{n} images balanced over {n_classes} classes, seed {seed}",
    )
