"""Scores of a study from its stored predictions, by plain loops and scikit-learn; see test_evaluate_recomputed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from math import log
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import accuracy_score, f1_score, recall_score

FEW = 10
TO = {"logit": lambda v: log(v / (1 - v)), "probit": NormalDist().inv_cdf, "linear": lambda v: v}
FROM = {"logit": expit, "probit": norm.cdf, "linear": lambda v: v}
Block = tuple[str, int]  # architecture and seed
Cell = tuple[str, Block, int]  # arm, block, epoch
View = Callable[[Cell, str], float]  # macro-F1 of a run at an epoch on a split, of all images or of some


class Split(NamedTuple):
    """One run's predictions of a split at an epoch."""

    y: np.ndarray
    predicted: np.ndarray
    cluster: np.ndarray


def macro_f1(y: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Macro-F1 over the classes of images that count, by a loop over classes."""
    found = []
    for one in np.unique(y[weights > 0]):
        hits = weights[(y == one) & (predicted == one)].sum()
        found.append(2 * hits / (weights[y == one].sum() + weights[predicted == one].sum()))
    return float(np.mean(found))


def sklearn_f1(split: Split, keep: np.ndarray) -> float:
    y, predicted = split.y[keep], split.predicted[keep]
    return float(f1_score(y, predicted, average="macro", labels=np.unique(y), zero_division=0))


class Study:
    """A suite and its predictions."""

    def __init__(self, folder: Path) -> None:
        (record,) = (folder / "suites").glob("*.json")
        self.suite = json.loads(record.read_text())
        self.member: dict[tuple[str, Block], dict[str, Any]] = {}
        self.splits: dict[tuple[Cell, str], Split] = {}
        self.unfinished: list[str] = []
        for member in self.suite["members"]:
            arm, block = member["arm"], (member["architecture"], member["seed"])
            state = json.loads((folder / member["finetune"] / "state.json").read_text())
            if state["status"] != "done":
                name = f"{arm} / {block[0]} / seed {block[1]} ({member['finetune']})"
                self.unfinished.append(f"{name}: {state['status']}")
                continue
            self.member[arm, block] = member
            for path in sorted((folder / member["finetune"] / "predictions").iterdir()):
                epoch, split = path.stem.split("-", 1)
                table = pq.read_table(path).sort_by("image_id")
                columns = (table[name].to_numpy() for name in ("y_true", "y_pred", "location"))
                self.splits[(arm, block, int(epoch)), "id" if split == "id_test" else "ood"] = Split(*columns)
        self.cells = sorted({cell for cell, _ in self.splits}, key=lambda cell: (self.arms.index(cell[0]), *cell[1:]))

    @cached_property
    def arms(self) -> list[str]:
        names = [arm["name"] for arm in self.suite["arms"]]
        return [self.suite["baseline"], *(name for name in names if name != self.suite["baseline"])]

    def blocks(self, arms: Sequence[str]) -> list[Block]:
        """The blocks in which all arms have a run."""
        every = sorted({block for _, block in self.member})
        return [block for block in every if all((arm, block) in self.member for arm in arms)]

    def epochs(self, arm: str, block: Block) -> list[int]:
        return sorted(cell[2] for cell in self.cells if cell[:2] == (arm, block))

    def last(self, arm: str, block: Block) -> Cell:
        return arm, block, max(self.epochs(arm, block))

    def start(self, arm: str, block: Block) -> str:
        member = self.member[arm, block]
        return str(member["pretrain"] or member["finetune"])

    def clusters(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """The clusters of a split, and the images of each."""
        return np.unique(self.splits[self.cells[0], split].cluster, return_counts=True)

    @cached_property
    def epsilon(self) -> float:
        return 0.5 / min(len(self.splits[self.cells[0], split].y) for split in ("id", "ood"))

    def scaled(self, value: float, scale: str) -> float:
        kept = value if scale == "linear" else min(max(value, self.epsilon), 1 - self.epsilon)
        return float(TO[scale](kept))

    # --- Views ---------------------------------------------------------------------------------------------

    @cached_property
    def scores(self) -> dict[tuple[Cell, str], tuple[float, float, float]]:
        """Accuracy, macro recall and macro-F1."""
        found = {}
        for key, split in self.splits.items():
            labels = np.unique(split.y)
            recall = recall_score(split.y, split.predicted, average="macro", labels=labels, zero_division=0)
            accuracy = accuracy_score(split.y, split.predicted)
            found[key] = float(accuracy), float(recall), sklearn_f1(split, np.ones(len(split.y), bool))
        return found

    def full(self, metric: str = "macro_f1") -> View:
        place = ("accuracy", "recall", "macro_f1").index(metric)
        return lambda cell, split: self.scores[cell, split][place]

    @cached_property
    def _without(self) -> dict[tuple[Cell, str, int], float]:
        return {
            (*key, number): macro_f1(split.y, split.predicted, 1.0 * (split.cluster != cluster))
            for key, split in self.splits.items()
            for number, cluster in enumerate(self.clusters(key[1])[0])
        }

    def without(self, of: str, number: int) -> View:
        """Scores without one cluster of a split."""
        return lambda cell, split: self._without[cell, split, number] if split == of else self.scores[cell, split][2]

    def resampled(self, split: str, times: np.ndarray) -> Callable[[Cell], float]:
        """Scores of drawn clusters; ``times`` says how often each was drawn."""
        clusters = self.clusters(split)[0]

        def score(cell: Cell) -> float:
            own = self.splits[cell, split]
            return macro_f1(own.y, own.predicted, times[np.searchsorted(clusters, own.cluster)])

        return score

    @cache  # noqa: B019, one study is kept for a module of tests
    def at_cluster(self, cell: Cell, cluster: int) -> float:
        own = self.splits[cell, "ood"]
        return sklearn_f1(own, own.cluster == cluster)

    def worst(self, cell: Cell) -> float:
        return min(self.at_cluster(cell, c) for c, n in zip(*self.clusters("ood"), strict=True) if n >= FEW)
