"""Where OOD macro-F1 varies: variance components of the scores, and how many clusters they rest on.

The score of a run at an epoch is the mean of its arm at that epoch, plus random effects of the architecture, of the
pre-training run, of the fine-tuning run within it, and of the epoch, plus what all runs, arms and single runs do at
the clusters of test images, such as camera locations. Components are those of Henderson's method 3 (Henderson 1953,
doi 10.2307/3001853; Searle, Casella and McCulloch 1992, "Variance Components", section 5.5): the sum of squares of
each effect beyond those before it equals its expectation, which is linear in the components. They are unbiased, for
unbalanced studies too, and assume no distribution. What clusters do is estimated in the same way from the scores
without each cluster (the jackknife), and the part of single runs is taken out of the components of runs, which
contain it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr

from ..tasks.base import Words
from .pairing import Array
from .results import ClusterSizes, Component, Components
from .scoring import Scored
from .uncertainty import SPLITS, Clusters

SMALL = 1e-9  # what is left of a column of zeros and ones beyond others; less counts as nothing
EFFECTS = ("architecture", "pre-training run", "fine-tuning run", "epoch")
TOGETHER = {  # why an effect cannot be told from the one before it
    "pre-training run": "Architectures and pre-training runs cannot be told apart: each architecture has one.",
    "fine-tuning run": "Pre-training and fine-tuning runs cannot be told apart: no fine-tunings share pre-training.",
    "epoch": "Runs and their epochs cannot be told apart: one epoch of each run was evaluated.",
}
ALONE = {  # why nothing is known of an effect
    "architecture": "Nothing is known of other architectures: there is one.",
    "pre-training run": "Nothing is known of other pre-training runs: each arm has one.",
    "fine-tuning run": "Nothing is known of other fine-tuning runs: each arm has one.",
    "epoch": "Nothing is known of how epochs vary: each arm has one run.",
}
ONE_SEED = "Architectures and seeds cannot be told apart: each architecture has one seed."
FIXED = 3  # groups of columns before those of the effects: the mean, arms, and their epochs
Columns = Array  # [n, n_columns]


def components(scored: Scored, words: Words) -> Components:
    """The components of OOD macro-F1 over all evaluated epochs, in squared percentage points.

    Negative estimates are 0, in the total as well. Effects that the design cannot tell apart share a component, and
    ``unknown`` says why.
    """
    table, clusters = scored.table, scored.clusters
    rows = _once(table.run, table.epoch)
    levels = [
        np.ones((len(rows), 1)),
        _indicators(table.arm[rows]),
        _indicators(table.arm[rows], table.epoch[rows]),
        _indicators(table.architecture[rows]),
        _indicators(table.start[rows]),
        _indicators(table.run[rows]),
    ]
    bases = _bases(levels)
    separate = [bool(basis.shape[1]) for basis in bases] + [sum(basis.shape[1] for basis in bases) < len(rows)]
    found = _solved(bases, levels, 100 * table.ood_f1[rows, None])[FIXED:]
    sizes = []
    if clusters is not None and len(clusters.ood_images) > 1:
        m = len(clusters.ood_images)
        moved = 100 * clusters.ood_f1[rows]
        common, of_arms, of_epochs, *of_runs = _solved(
            bases, levels, np.sqrt((m - 1) / m) * (moved - moved.mean(1, keepdims=True))
        )
        found = found - of_runs
        sizes = [(words.cluster, common)]
        sizes += [(f"arm x {words.cluster}", of_arms + of_epochs)] if separate[1] else []
        sizes += [(f"run x {words.cluster}", sum(of_runs))]
    shared = {EFFECTS[0], words.cluster}
    names, unknown = _names(separate[FIXED:])
    if _one_seed(table.architecture[rows], table.seed[rows]):
        unknown = (*unknown, ONE_SEED)
    known = [size for size, one in zip(found, separate[FIXED:], strict=True) if one]
    sizes = [*zip(names, known, strict=True), *sizes]
    kept = [(name, max(0.0, float(size))) for name, size in sizes]
    total = sum(size for _, size in kept)
    return Components(
        parts=tuple(
            Component(name=name, variance=size, share=size / total if total else None, shared=name in shared)
            for name, size in kept
        ),
        unknown=unknown,
    )


def cluster_sizes(clusters: Clusters | None) -> tuple[ClusterSizes, ...]:
    """How many clusters of test images either split has, and how many equal ones they are worth; empty if unknown.

    The effective number of clusters of n images each is (sum n)^2 / sum n^2 (Kish 1965, "Survey Sampling"; Carter,
    Schnepel and Steigerwald 2017, doi 10.1162/REST_a_00639).
    """
    if clusters is None:
        return ()
    found = []
    for split in SPLITS:
        images = clusters.of(split)[1]
        shares = images / images.sum()
        found.append(
            ClusterSizes(
                split=split,
                clusters=len(images),
                images=int(images.sum()),
                effective=float(1 / np.square(shares).sum()),
                largest=float(shares.max()),
            )
        )
    return tuple(found)


def _once(run: NDArray[np.str_], epoch: NDArray[np.int64]) -> NDArray[np.intp]:
    """The rows of different run-epochs: a run that two arms share counts once, for the first."""
    first: dict[tuple[str, int], int] = {}
    for row, name in enumerate(zip(run.tolist(), epoch.tolist(), strict=True)):
        first.setdefault(name, row)
    return np.array([*first.values()], np.intp)


def _names(separate: Sequence[bool]) -> tuple[list[str], tuple[str, ...]]:
    """The names of the components that can be told apart, and sentences about the others."""
    names: list[list[str]] = []
    unknown = []
    for effect, own in zip(EFFECTS, separate, strict=True):
        if own:
            names.append([effect])
        elif names:
            names[-1].append(effect)
            unknown.append(TOGETHER[effect])
        else:
            unknown.append(ALONE[effect])
    return [" and ".join(filter(None, [", ".join(name[:-1]), name[-1]])) for name in names], tuple(unknown)


def _one_seed(architecture: NDArray[np.str_], seed: NDArray[np.int64]) -> bool:
    """Whether each of several architectures has one seed."""
    blocks = {*zip(architecture.tolist(), seed.tolist(), strict=True)}
    return 1 < len(blocks) == len({*architecture.tolist()})


def _indicators(*columns: NDArray[np.generic]) -> Columns:
    """A column of zeros and ones for each combination of values that occurs."""
    rows = [*zip(*(column.tolist() for column in columns), strict=True)]
    places = {row: place for place, row in enumerate(dict.fromkeys(rows))}
    return np.eye(len(places))[[places[row] for row in rows]]


def _bases(levels: Sequence[Columns]) -> list[Columns]:
    """Orthonormal bases of what each group of columns adds to those before it; some have no column."""
    found: list[Columns] = []
    for columns in levels:
        left = columns
        for _ in range(2):  # once more, for what rounding leaves
            for basis in found:
                left = left - basis @ (basis.T @ left)
        q, r, _ = qr(left, mode="economic", pivoting=True)
        found.append(np.asarray(q[:, : int((np.abs(np.diag(r)) > SMALL).sum())]))
    return found


def _solved(bases: Sequence[Columns], levels: Sequence[Columns], values: Columns) -> Array:
    """The component of each group of columns and, last, of single rows, summed over the columns of values.

    Those of groups that add nothing are 0, and so is the last where nothing is left for it.
    """
    n, ranks = len(values), [basis.shape[1] for basis in bases]
    squares = [float(np.square(basis.T @ values).sum()) for basis in bases]
    expected = np.zeros((len(bases) + 1, len(bases) + 1))
    for i, basis in enumerate(bases):
        expected[i, :-1] = [np.square(basis.T @ columns).sum() if ranks[j] else 0.0 for j, columns in enumerate(levels)]
        expected[i, -1] = ranks[i]
    expected[-1, -1] = n - sum(ranks)
    squares.append(max(0.0, float(np.square(values).sum()) - sum(squares)))
    own = np.array([*ranks, n - sum(ranks)]) > 0
    found = np.zeros(len(own))
    found[own] = np.linalg.solve(expected[np.ix_(own, own)], np.array(squares)[own])
    return found
