from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_scores import plain_scores

from synthgen_evaluate.analysis.counts import FEW_IMAGES, Counts, count, location_scores
from synthgen_evaluate.analysis.resampled import BLOCK, macro_f1
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.metrics import Scores, scores

FAR = 10**9  # labels this far apart are not looked up in a table


@dataclass(frozen=True)
class Split:
    y_true: np.ndarray  # [n]
    location: np.ndarray  # [n]
    y_pred: np.ndarray  # [n_run_epochs, n]

    def run_epochs(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return ((self.y_true, y_pred, self.location) for y_pred in self.y_pred)


def make_split(
    *, seed: int = 0, n: int = 300, n_locations: int = 9, n_classes: int = 12, n_run_epochs: int = 3, spread: int = 1
) -> Split:
    """Locations with one image and many, with classes of their own; predictions right, biased, or never true."""
    rng = np.random.default_rng(seed)
    size = 1 + rng.multinomial(n, rng.dirichlet(np.full(n_locations, 0.4)))
    location = np.repeat(rng.permutation(3 * n_locations)[:n_locations] - n_locations, size)
    here = {place: rng.integers(0, n_classes, rng.integers(1, 4)) for place in np.unique(location)}
    y_true = np.array([rng.choice(here[place]) for place in location])
    wild = rng.integers(-2, n_classes + 4, (n_run_epochs, len(location)))  # some are true nowhere in the split
    y_pred = np.where(rng.random(wild.shape) < rng.uniform(0, 1, (n_run_epochs, 1)), y_true, wild)
    order = rng.permutation(len(location))
    return Split(y_true=spread * y_true[order], location=location[order], y_pred=spread * y_pred[:, order])


def draws(rng: np.random.Generator, n_resamples: int, n_locations: int) -> np.ndarray:
    """How often each location is drawn; the first resample holds one location alone, the last each once."""
    weights = rng.multinomial(n_locations, np.full(n_locations, 1 / n_locations), n_resamples)
    weights[0] = np.eye(n_locations, dtype=np.int64)[rng.integers(n_locations)]
    weights[-1] = 1
    return weights


def resampled_images(split: Split, weights: np.ndarray) -> np.ndarray:
    """Macro-F1 the long way: the images of the drawn locations, each as often as it is drawn."""
    locations = np.unique(split.location)
    found = np.empty((len(split.y_pred), len(weights)))
    for r, row in enumerate(weights):
        images = np.repeat(np.arange(len(split.y_true)), row[np.searchsorted(locations, split.location)])
        for e, y_pred in enumerate(split.y_pred):
            found[e, r] = scores(split.y_true[images], y_pred[images]).macro_f1
    return found


splits = st.builds(
    make_split,
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([0, 5, 60, 400]),
    n_locations=st.sampled_from([1, 2, 9, 40]),
    n_classes=st.sampled_from([1, 2, 12, 100]),
    spread=st.sampled_from([1, FAR]),
)


@settings(max_examples=60)
@given(split=splits, seed=st.integers(0, 2**32 - 1))
def test_resampling_counts_equals_resampling_images(split: Split, seed: int) -> None:
    counts = count(split.run_epochs())
    weights = draws(np.random.default_rng(seed), 6, len(counts.locations))
    np.testing.assert_allclose(macro_f1(counts, weights), resampled_images(split, weights), rtol=0, atol=1e-12)


@given(split=splits)
def test_weights_of_one_give_the_plain_score(split: Split) -> None:
    counts = count(split.run_epochs())
    ones = np.ones((1, len(counts.locations)), dtype=np.int16)
    plain = [[one.macro_f1] for one in plain_scores(counts)]
    np.testing.assert_allclose(macro_f1(counts, ones), plain, rtol=0, atol=1e-14)


@given(split=splits)
def test_plain_scores_equal_those_of_images_to_the_last_bit(split: Split) -> None:
    assert plain_scores(count(split.run_epochs())) == [scores(split.y_true, y_pred) for y_pred in split.y_pred]


@settings(max_examples=30)
@given(split=splits)
def test_a_location_scores_as_its_own_images(split: Split) -> None:
    counts = count(split.run_epochs())
    found = location_scores(counts)
    assert found.locations.tolist() == np.unique(split.location).tolist()
    for at, place in enumerate(found.locations):
        images = split.location == place
        assert found.n_images[at] == images.sum()
        wanted = [scores(split.y_true[images], y_pred[images]).macro_f1 for y_pred in split.y_pred]
        np.testing.assert_allclose(found.macro_f1[:, at], wanted, rtol=0, atol=1e-14)


def test_a_class_that_is_absent_from_a_resample_is_no_class_there() -> None:
    location, y_true, y_pred = np.array([0, 0, 1]), np.array([0, 0, 1]), np.array([0, 1, 1])
    counts = count([(y_true, y_pred, location)])
    assert macro_f1(counts, np.array([[1, 0], [0, 1], [2, 0]])).tolist() == [[2 / 3, 1.0, 2 / 3]]


def test_a_location_drawn_often_counts_as_often() -> None:
    location, y_true, y_pred = np.array([5, 9, 9]), np.array([0, 0, 1]), np.array([1, 0, 1])
    counts = count([(y_true, y_pred, location)])
    by_hand = (2 * 1 / (4 + 1) + 2 * 1 / (1 + 4)) / 2  # three missed images of class 0, predicted to be of class 1
    assert macro_f1(counts, np.array([[3, 1]])) == pytest.approx(by_hand, abs=1e-15)


def test_many_resamples_do_not_depend_on_threads_or_on_what_is_computed_beside_them() -> None:
    split = make_split(n=2000, n_locations=30, n_classes=40, n_run_epochs=5)
    counts = count(split.run_epochs())
    weights = draws(np.random.default_rng(1), 2 * BLOCK + 77, len(counts.locations))
    once = macro_f1(counts, weights, threads=1)
    for threads in (2, 3, 8, None):
        assert (macro_f1(counts, weights, threads=threads) == once).all()
    part = slice(100, 400)
    assert (macro_f1(counts, weights[part]) == once[:, part]).all()
    one = count([(split.y_true, split.y_pred[3], split.location)])
    assert (macro_f1(one, weights) == once[3]).all()


def test_counts_too_large_for_single_precision_are_still_exact() -> None:
    split = make_split(n=50, n_locations=4)
    counts = count(split.run_epochs())
    weights = np.array([[1, 2, 0, 3], [5, 1, 1, 1]])
    assert (macro_f1(counts, 10_000_019 * weights) == macro_f1(counts, weights)).all()


def test_the_order_of_images_is_of_no_matter() -> None:
    split = make_split()
    order = np.random.default_rng(2).permutation(len(split.y_true))
    mixed = [
        (split.y_true, split.y_pred[0], split.location),
        (split.y_true[order], split.y_pred[1][order], split.location[order]),
        (split.y_true, split.y_pred[2].astype(np.int32), split.location),
    ]
    assert_same(count(mixed), count(split.run_epochs()))


def assert_same(found: Counts, wanted: Counts) -> None:
    for field in fields(Counts):
        ours, theirs = getattr(found, field.name), getattr(wanted, field.name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_predictions_are_read_one_run_epoch_at_a_time() -> None:
    split = make_split(n_run_epochs=4)
    alive: list[Any] = []

    def reading() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        import weakref

        for y_pred in split.y_pred:
            assert sum(one() is not None for one in alive) <= 1
            read = y_pred.copy()
            alive.append(weakref.ref(read))
            yield split.y_true, read, split.location

    assert count(reading()).n_run_epochs == 4


def test_only_cells_with_predictions_are_kept() -> None:
    split = make_split(n_locations=40, n_classes=100)
    counts = count(split.run_epochs())
    assert counts.predictions.min() > 0
    assert (counts.hits <= counts.predictions).all()
    true = np.isin(split.y_pred, split.y_true)
    assert counts.predictions.sum() == true.sum()
    assert counts.hits.sum() == (split.y_pred == split.y_true).sum()
    assert len(counts.location) <= true.sum()


def test_the_worst_location_is_found_among_those_with_enough_images() -> None:
    size = [FEW_IMAGES - 1, FEW_IMAGES, 50]
    location = np.repeat([7, 8, 9], size)
    y_true = np.zeros(len(location), dtype=np.int64)
    some_wrong = np.concatenate([np.ones(size[0]), np.repeat([0, 1], 5), np.repeat([0, 1], [40, 10])]).astype(np.int64)
    others_wrong = np.concatenate([np.zeros(sum(size[:2])), np.ones(size[2])]).astype(np.int64)
    counts = count([(y_true, some_wrong, location), (y_true, others_wrong, location)])
    found = location_scores(counts)
    assert found.few.tolist() == [True, False, False]
    assert found.n_images.tolist() == size
    assert found.macro_f1[:, 0].tolist() == [0, 1]  # told all the same
    assert found.worst is not None
    assert found.locations[found.worst].tolist() == [8, 9]
    all_of_them = location_scores(counts, few_images=1)
    assert all_of_them.worst is not None
    assert all_of_them.locations[all_of_them.worst].tolist() == [7, 9]


def test_no_location_is_the_worst_where_all_have_few_images() -> None:
    found = location_scores(count([(np.array([0, 1]), np.array([0, 0]), np.array([3, 4]))]))
    assert found.worst is None
    assert found.macro_f1.tolist() == [[1, 0]]


def test_one_image_scores_one_or_nothing() -> None:
    y_true, location = np.array([4]), np.array([77])
    counts = count([(y_true, y_pred, location) for y_pred in (np.array([4]), np.array([5]))])
    assert plain_scores(counts) == [Scores(1.0, 1.0, 1.0), Scores(0.0, 0.0, 0.0)]
    assert macro_f1(counts, np.array([[1], [3]])).tolist() == [[1, 1], [0, 0]]


def test_different_splits_are_refused() -> None:
    split = make_split()
    first = (split.y_true, split.y_pred[0], split.location)
    other = split.y_true.copy()
    other[0] = split.y_true[split.y_true != other[0]][0]
    with pytest.raises(EvaluateError, match=r"run-epoch 1 \(309 images, 9 locations, .* differ in what the images"):
        count([first, (other, split.y_pred[1], split.location)])
    with pytest.raises(EvaluateError, match=r"run-epoch 1 .* differ in what the images"):
        count([first, (split.y_true[1:], split.y_pred[1][1:], split.location[1:])])
    with pytest.raises(EvaluateError, match=r"run-epoch 1 .* differ in what the images"):
        count([first, (split.y_true, split.y_pred[1], split.location + 1)])


def test_missing_predictions_are_refused() -> None:
    with pytest.raises(EvaluateError, match="no predictions to count"):
        count([])
    empty = np.array([], dtype=np.int64)
    with pytest.raises(EvaluateError, match="the split is empty"):
        count([(empty, empty, empty)])
    with pytest.raises(EvaluateError, match=r"labels of shape \(3,\), predictions of shape \(2,\)"):
        count([(np.zeros(3, int), np.zeros(2, int), np.zeros(3, int))])


@pytest.mark.parametrize(
    ("weights", "wrong"),
    [
        (np.ones((2, 8), int), r"shape \(2, 8\) do not match 9 locations"),
        (np.ones(9, int), r"shape \(9,\) do not match"),
        (np.full((1, 9), 0.5), "type float64"),
        (np.full((1, 9), -1), "from -1"),
        (np.eye(9, dtype=int) - np.eye(9, dtype=int), "9 of 9 resamples draw no location"),
    ],
)
def test_weights_that_are_none_are_refused(weights: np.ndarray, wrong: str) -> None:
    counts = count(make_split().run_epochs())
    with pytest.raises(EvaluateError, match=wrong):
        macro_f1(counts, weights)


def test_no_resamples_have_no_scores() -> None:
    counts = count(make_split().run_epochs())
    assert macro_f1(counts, np.ones((0, 9), int)).shape == (3, 0)
