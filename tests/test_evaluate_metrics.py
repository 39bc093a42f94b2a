from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.metrics import Scores, scores
from synthgen_evaluate.tasks.spec import TaskSpec, open_task
from synthgen_evaluate.tasks.wilds.reading import import_wilds

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wilds.*", "ignore::DeprecationWarning:ogb.*")
labels = st.one_of(st.integers(0, 6), st.sampled_from([-1, 99, 181, 10**9]))
pairs = st.lists(st.tuples(labels, labels), min_size=1, max_size=60)
Pair = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def wilds_metrics() -> Iterator[ModuleType]:
    """WILDS's metrics, which compute in float64 here: else they round what scikit-learn returns to float32."""
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_wilds()
        import wilds.common.metrics.all_metrics as module
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield module
    torch.set_default_dtype(usual)


@st.composite
def hard_splits(draw: st.DrawFn) -> Pair:
    """A split of 1 to 182 classes of one or many images each, predicted well, badly or not at all."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_classes = draw(st.sampled_from([1, 2, 21, 182]))
    a_class = draw(st.sampled_from([1, 5]))  # images a class, on average
    y_true = rng.permutation(n_classes) if a_class == 1 else rng.integers(0, n_classes, a_class * n_classes)
    y_true = y_true[~np.isin(y_true, rng.integers(0, n_classes, n_classes // 4))]  # some classes miss in this split
    y_true = y_true if len(y_true) else np.zeros(1, np.int64)
    choices = {
        "right": y_true,
        "one class": np.full(len(y_true), y_true[0]),
        "a class that is never true": np.full(len(y_true), n_classes),
        "any class": rng.integers(0, n_classes + 3, len(y_true)),
        "few classes": rng.choice(y_true[:2], len(y_true)),
        "always the next": (y_true + 1) % n_classes,
    }
    y_pred = choices[draw(st.sampled_from(sorted(choices)))]
    return y_true, np.where(rng.random(len(y_true)) < draw(st.sampled_from([0, 0.5])), y_true, y_pred)


some_splits = st.one_of(pairs.map(lambda drawn: tuple(np.array(drawn, dtype=np.int64).T)), hard_splits())


def by_scikit_learn(y_true: np.ndarray, y_pred: np.ndarray) -> Scores:
    options = {"average": "macro", "labels": np.unique(y_true), "zero_division": 0}
    return Scores(
        accuracy=sklearn.metrics.accuracy_score(y_true, y_pred),
        recall=sklearn.metrics.recall_score(y_true, y_pred, **options),
        macro_f1=sklearn.metrics.f1_score(y_true, y_pred, **options),
    )


def assert_equal(found: Scores, wanted: Scores, *, accuracy: float = 1e-14) -> None:
    """Equal but for the rounding of float64; WILDS averages accuracy in float32."""
    assert found.recall == pytest.approx(wanted.recall, abs=1e-14)
    assert found.macro_f1 == pytest.approx(wanted.macro_f1, abs=1e-14)
    assert found.accuracy == pytest.approx(wanted.accuracy, abs=accuracy)


@given(some_splits)
def test_scores_equal_scikit_learn(drawn: Pair) -> None:
    assert scores(*drawn) == by_scikit_learn(*drawn)  # to the last bit


@given(drawn=some_splits)
def test_scores_equal_wilds(wilds_metrics: ModuleType, drawn: Pair) -> None:
    import torch

    y_true, y_pred = (torch.from_numpy(values) for values in drawn)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn, for classes without predictions
        wanted = Scores(
            accuracy=float(wilds_metrics.Accuracy()._compute(y_pred, y_true)),
            recall=float(wilds_metrics.Recall(average="macro")._compute(y_pred, y_true)),
            macro_f1=float(wilds_metrics.F1(average="macro")._compute(y_pred, y_true)),
        )
    assert_equal(scores(*drawn), wanted, accuracy=1e-6)


def test_scores_of_whole_splits_equal_the_evaluation_of_wilds(wilds_metrics: ModuleType, traps: Path) -> None:
    import torch

    root = str(traps)
    task = open_task(TaskSpec(path=root))
    dataset = import_wilds().get_dataset("iwildcam", root_dir=root, download=False)
    rng = np.random.default_rng(0)
    for split_name, images in task.splits.items():
        subset = dataset.get_subset(split_name)
        y, n = images.y, len(images.y)
        rare = int(np.bincount(y).argmax()), int(np.where(np.bincount(y), np.bincount(y), n).argmin())
        predicted = {
            "random": rng.integers(0, len(task.class_names), n),
            "constant": np.full(n, rare[0]),
            "all right": y,
            "all wrong": (y + 1) % len(task.class_names),
            "a rare class only": np.full(n, rare[1]),
            "half right": np.where(rng.random(n) < 0.5, y, rng.permutation(y)),
        }
        for how, y_pred in predicted.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results, _ = dataset.eval(torch.from_numpy(y_pred), subset.y_array, subset.metadata_array)
            wanted = Scores(results["acc_avg"], results["recall-macro_all"], results["F1-macro_all"])
            assert_equal(scores(y, y_pred), wanted, accuracy=1e-6)
            assert (scores(y, y_pred).macro_f1 == 1) == (how == "all right")
            assert (scores(y, y_pred).macro_f1 == 0) == (how == "all wrong")


def test_a_class_that_is_never_true_is_no_class_but_a_miss() -> None:
    found = scores(np.array([0, 0, 1, 1]), np.array([0, 5, 1, 1]))
    assert found.macro_f1 == pytest.approx((2 / 3 + 1) / 2)
    assert found.recall == pytest.approx(0.75)


@given(some_splits, st.integers(0, 2**32 - 1), st.integers(-5, 5))
def test_scores_depend_on_neither_order_nor_numbering(drawn: Pair, seed: int, shift: int) -> None:
    y_true, y_pred = drawn
    order = np.random.default_rng(seed).permutation(len(y_true))
    assert_equal(scores(y_true[order] * 3 + shift, y_pred[order] * 3 + shift), scores(y_true, y_pred))


@pytest.mark.parametrize(("truth", "said", "wanted"), [(4, 4, 1.0), (4, 0, 0.0), (0, 181, 0.0), (181, 0, 0.0)])
def test_one_image_scores_one_or_nothing(truth: int, said: int, wanted: float) -> None:
    assert scores(np.array([truth]), np.array([said])) == Scores(wanted, wanted, wanted)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(EvaluateError, match="the split is empty"):
        scores(np.array([], dtype=np.int64), np.array([], dtype=np.int64))


def test_labels_that_do_not_match_are_refused() -> None:
    with pytest.raises(EvaluateError, match=r"shape \(3,\) and predictions of shape \(2,\)"):
        scores(np.array([0, 1, 2]), np.array([0, 1]))
    with pytest.raises(EvaluateError, match="do not match"):
        scores(np.zeros((2, 2), dtype=np.int64), np.zeros((2, 2), dtype=np.int64))
