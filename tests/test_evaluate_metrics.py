from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.metrics import scores

labels = st.one_of(st.integers(0, 6), st.sampled_from([-1, 99, 181, 10**9]))
pairs = st.lists(st.tuples(labels, labels), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def wilds_metrics() -> Iterator[ModuleType]:
    patch = pytest.MonkeyPatch()
    patch.setitem(sys.modules, "outdated", None)  # with it, wilds asks the network for its newest version
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import wilds.common.metrics.all_metrics as module
    yield module
    patch.undo()


def split(drawn: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.array(drawn, dtype=np.int64).T)  # type: ignore[return-value]


@settings(deadline=None)
@given(pairs)
def test_scores_equal_scikit_learn(drawn: list[tuple[int, int]]) -> None:
    y_true, y_pred = split(drawn)
    found = scores(y_true, y_pred)
    options = {"average": "macro", "labels": np.unique(y_true), "zero_division": 0}
    assert found.accuracy == pytest.approx(sklearn.metrics.accuracy_score(y_true, y_pred), abs=1e-12)
    assert found.recall == pytest.approx(sklearn.metrics.recall_score(y_true, y_pred, **options), abs=1e-12)
    assert found.macro_f1 == pytest.approx(sklearn.metrics.f1_score(y_true, y_pred, **options), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(drawn=pairs)
def test_scores_equal_wilds(wilds_metrics: ModuleType, drawn: list[tuple[int, int]]) -> None:
    torch = pytest.importorskip("torch")
    y_true, y_pred = split(drawn)
    found = scores(y_true, y_pred)
    given_to_wilds = torch.from_numpy(y_pred), torch.from_numpy(y_true)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # else WILDS rounds what scikit-learn returns to float32
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scikit-learn, for classes without predictions
            f1 = wilds_metrics.F1(average="macro")._compute(*given_to_wilds)
            recall = wilds_metrics.Recall(average="macro")._compute(*given_to_wilds)
            accuracy = wilds_metrics.Accuracy()._compute(*given_to_wilds)
    finally:
        torch.set_default_dtype(usual)
    assert found.macro_f1 == pytest.approx(float(f1), abs=1e-12)
    assert found.recall == pytest.approx(float(recall), abs=1e-12)
    assert found.accuracy == pytest.approx(float(accuracy), abs=1e-6)  # WILDS averages in float32


def test_a_class_that_is_never_true_is_no_class_but_a_miss() -> None:
    found = scores(np.array([0, 0, 1, 1]), np.array([0, 5, 1, 1]))
    assert found.macro_f1 == pytest.approx((2 / 3 + 1) / 2)
    assert found.recall == pytest.approx(0.75)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(EvaluateError, match="the split is empty"):
        scores(np.array([], dtype=np.int64), np.array([], dtype=np.int64))


def test_labels_that_do_not_match_are_refused() -> None:
    with pytest.raises(EvaluateError, match=r"shape \(3,\) and predictions of shape \(2,\)"):
        scores(np.array([0, 1, 2]), np.array([0, 1]))
    with pytest.raises(EvaluateError, match="do not match"):
        scores(np.zeros((2, 2), dtype=np.int64), np.zeros((2, 2), dtype=np.int64))
