import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.interventions import everything, quantity


@st.composite
def label_sets(draw: st.DrawFn) -> tuple[np.ndarray, tuple[str, ...]]:
    counts = draw(st.lists(st.integers(3, 12), min_size=2, max_size=8))
    labels = np.repeat(np.arange(len(counts)), counts)
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(labels))
    return labels[order], tuple(f"class{k}" for k in range(len(counts)))


@given(label_sets(), st.integers(0, 5), st.data())
def test_quantities_are_balanced_to_one_image_and_nested(
    labelled: tuple[np.ndarray, tuple[str, ...]], seed: int, data: st.DataObject
) -> None:
    labels, names = labelled
    largest = min(np.bincount(labels)) * len(names)
    large = data.draw(st.integers(len(names), largest))
    small = data.draw(st.integers(len(names), large))
    chosen = {n: quantity(labels, names, n, seed=seed) for n in (small, large)}
    for n, selection in chosen.items():
        counts = np.bincount(selection.labels, minlength=len(names))
        assert len(set(selection.indices.tolist())) == len(selection.indices) == n
        assert counts.max() - counts.min() <= 1
        assert (selection.labels == labels[selection.indices]).all()
    assert set(chosen[small].indices.tolist()) <= set(chosen[large].indices.tolist())


def test_a_selection_depends_on_its_seed_alone() -> None:
    labels, names = np.repeat(np.arange(4), 50), ("a", "b", "c", "d")
    once, again, other = (quantity(labels, names, 40, seed=seed) for seed in (1, 1, 2))
    assert once.digest == again.digest != other.digest
    assert once.digest == "b0950fbe4bd6365b"  # the same on every machine


@pytest.mark.parametrize("n", [0, 1, 7, 100])
def test_impossible_quantities_are_refused_with_what_there_is(n: int) -> None:
    labels = np.array([0, 0, 0, 0, 1])
    with pytest.raises(EvaluateError, match=f"n = {n} images of 2 classes"):
        quantity(labels, ("many", "one"), n, seed=0)


def test_a_class_too_small_for_its_share_is_named() -> None:
    with pytest.raises(EvaluateError, match="need 2 of class one, which has 1"):
        quantity(np.array([0, 0, 0, 0, 1]), ("many", "one"), 4, seed=0)


def test_everything_is_everything() -> None:
    labels = np.array([1, 0, 1])
    selection = everything(labels, ("a", "b"))
    assert selection.indices.tolist() == [0, 1, 2]
    assert selection.labels.tolist() == [1, 0, 1]
