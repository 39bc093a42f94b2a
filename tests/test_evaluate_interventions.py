from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_evaluate_taxonomy import taxonomy_of

from synthgen_evaluate.design.interventions import (
    Selection,
    diversity,
    everything,
    mixture,
    quantity,
    semantics,
    subclasses,
)
from synthgen_evaluate.design.taxonomy import Taxonomy, imagenet1k, parse_group
from synthgen_evaluate.errors import EvaluateError

Labelled = tuple[np.ndarray, tuple[str, ...]]


@st.composite
def label_sets(draw: st.DrawFn, least: int = 2, most: int = 8) -> Labelled:
    """Labels of 3 to 12 images of each of some classes, in any order."""
    counts = draw(st.lists(st.integers(3, 12), min_size=least, max_size=most))
    labels = np.repeat(np.arange(len(counts)), counts)
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(labels))
    return labels[order], tuple(f"class{k}" for k in range(len(counts)))


@st.composite
def classified(draw: st.DrawFn) -> tuple[np.ndarray, tuple[str, ...], Taxonomy]:
    """Labels and a taxonomy of two levels, the finer one of at least two labels."""
    labels, names = draw(label_sets(most=14))
    rest = draw(st.lists(st.integers(0, 5), min_size=len(names) - 2, max_size=len(names) - 2))
    fine = draw(st.permutations([0, draw(st.integers(1, 5)), *rest]))
    return labels, names, taxonomy_of({name: (f"c{k // 3}", f"f{k}") for name, k in zip(names, fine, strict=True)})


def check(selection: Selection, n: int) -> np.ndarray:
    """What holds for every selection; returns how many images each label has."""
    counts = np.bincount(selection.labels, minlength=len(selection.class_names))
    assert len(selection.indices) == len(selection.labels) == n
    assert (np.diff(selection.indices) > 0).all()  # in the source's order, none twice
    assert len(counts) == len(selection.class_names) == len(set(selection.class_names))
    assert counts.min() > 0
    assert selection.indices.dtype == selection.labels.dtype == np.int64
    return counts


def even(counts: np.ndarray) -> bool:
    return bool(counts.max() - counts.min() <= 1)


def sources_of(selection: Selection, labels: np.ndarray) -> set[int]:
    """The source's classes that a selection has images of."""
    return set(labels[selection.indices].tolist())


@given(label_sets(), st.integers(0, 5), st.data())
def test_quantities_are_balanced_to_one_image_and_nested(labelled: Labelled, seed: int, data: st.DataObject) -> None:
    labels, names = labelled
    largest = min(np.bincount(labels)) * len(names)
    large = data.draw(st.integers(len(names), largest))
    small = data.draw(st.integers(len(names), large))
    chosen = {n: quantity(labels, names, n, seed=seed) for n in (small, large)}
    for n, selection in chosen.items():
        assert even(check(selection, n))
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


@given(label_sets(least=4), st.integers(0, 5), st.data())
def test_groups_share_nothing_and_can_be_made_equal_in_classes_and_images(
    labelled: Labelled, seed: int, data: st.DataObject
) -> None:
    labels, names = labelled
    wild = data.draw(st.sets(st.sampled_from(names), min_size=2, max_size=len(names) - 2))
    taxonomy = taxonomy_of({name: ("all", "wild" if name in wild else "tame") for name in names})
    groups = ["fine = wild", "fine != wild"]
    n_classes = min(len(wild), len(names) - len(wild))
    whole = [semantics(labels, names, taxonomy, group, seed=seed) for group in groups]
    assert sorted(np.concatenate([group.indices for group in whole]).tolist()) == list(range(len(labels)))
    n = data.draw(st.integers(n_classes, n_classes * int(min(np.bincount(labels)))))
    equal = [semantics(labels, names, taxonomy, group, n_classes=n_classes, n=n, seed=seed) for group in groups]
    for group, selection in zip(whole, equal, strict=True):
        check(group, len(group.indices))
        counts = check(selection, n)
        assert even(counts)
        assert len(counts) == n_classes
        assert set(selection.indices.tolist()) <= set(group.indices.tolist())
        assert [selection.class_names[k] for k in selection.labels] == [names[k] for k in labels[selection.indices]]


@given(classified(), st.integers(0, 5))
def test_fewer_classes_of_a_group_are_among_more(
    source: tuple[np.ndarray, tuple[str, ...], Taxonomy], seed: int
) -> None:
    labels, names, taxonomy = source
    group = f"fine != {taxonomy.at('fine', names)[0]}"
    size = int(taxonomy.inside(parse_group(group), names).sum())
    chosen = [semantics(labels, names, taxonomy, group, n_classes=k, seed=seed) for k in range(2, size + 1)]
    for fewer, more in pairwise(chosen):
        assert set(fewer.indices.tolist()) < set(more.indices.tolist())


@pytest.mark.parametrize(
    ("group", "n_classes", "problem"),
    [
        ("coarse = x", 3, "group 'coarse = x' has 2 of the source's 5 classes; 3 are asked for, and 2 is the minimum"),
        ("coarse = x", 1, "has 2 of the source's 5 classes; 1 are asked for"),
        ("fine = u", None, "has 1 of the source's 5 classes; 2 are asked for"),
        ("coarse = z", None, "level coarse has 2 labels, but not 'z'; there are x, y"),
        ("genus = x", None, "no level 'genus' for group genus = x; there are coarse, fine"),
        ("animals", None, "no level '85' for group 85 = animal.n.01; there are coarse, fine"),
        ("insects", None, "group 'insects': write animals, objects, artifacts, LEVEL = LABEL or LEVEL != LABEL"),
        ("coarse =", None, "group 'coarse =': write animals"),
        ("!= x", None, "group '!= x': write animals"),
    ],
)
def test_an_impossible_group_is_refused_with_what_there_is(group: str, n_classes: int | None, problem: str) -> None:
    taxonomy = taxonomy_of({"a": "xu", "b": "xv", "c": "yw", "d": "yw", "e": "yw"})
    with pytest.raises(EvaluateError) as caught:
        semantics(np.arange(5), tuple("abcde"), taxonomy, group, n_classes=n_classes, seed=0)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@given(label_sets(), st.integers(0, 5), st.data())
def test_fewer_classes_with_more_images_each_at_one_total(labelled: Labelled, seed: int, data: st.DataObject) -> None:
    labels, names = labelled
    factors = range(1, len(names) // 2 + 1)
    n = data.draw(st.integers(len(names), max(len(names), min(np.bincount(labels)) * (len(names) // factors[-1]))))
    assume(n <= min(np.bincount(labels)) * (len(names) // factors[-1]))
    chosen = [diversity(labels, names, n=n, factor=factor, seed=seed) for factor in factors]
    assert chosen[0].digest == quantity(labels, names, n, seed=seed).digest
    for factor, selection in zip(factors, chosen, strict=True):
        assert even(check(selection, n))
        assert len(selection.class_names) == len(names) // factor
    for more, fewer in pairwise(chosen):
        kept = sources_of(fewer, labels)
        assert kept <= sources_of(more, labels)
        of_kept = more.indices[np.isin(labels[more.indices], sorted(kept))]
        assert set(of_kept.tolist()) <= set(fewer.indices.tolist())  # a class's images are added to


@pytest.mark.parametrize("factor", [-1, 0, 3, 100])
def test_too_few_classes_to_divide_are_refused(factor: int) -> None:
    with pytest.raises(EvaluateError, match=f"diversity = {factor} of 5 classes: ask for 1 to 2"):
        diversity(np.arange(5), tuple("abcde"), n=5, factor=factor, seed=0)


@given(classified(), st.integers(1, 4), st.integers(1, 3), st.integers(0, 5), st.data())
def test_fewer_subclasses_under_every_label_at_one_total(
    source: tuple[np.ndarray, tuple[str, ...], Taxonomy], factor: int, least: int, seed: int, data: st.DataObject
) -> None:
    labels, names, taxonomy = source
    sizes = {name: size for name, size in Counter(taxonomy.at("fine", names)).items() if size >= least}
    assume(len(sizes) > 1)
    least_n = len(sizes) * max(sizes.values())
    most_n = len(sizes) * min(np.bincount(labels)) * min(-(-size // (2 * factor)) for size in sizes.values())
    assume(least_n <= most_n)
    n = data.draw(st.integers(least_n, most_n))
    chosen = [
        subclasses(labels, names, taxonomy, "fine", n=n, factor=k, least=least, seed=seed) for k in (factor, 2 * factor)
    ]
    for k, selection in zip((factor, 2 * factor), chosen, strict=True):
        assert even(check(selection, n))
        assert set(selection.class_names) == set(sizes)
        for label, name in enumerate(selection.class_names):
            counts = np.bincount(labels[selection.indices[selection.labels == label]])
            assert np.count_nonzero(counts) == -(-sizes[name] // k)
            assert even(counts[counts > 0])
    assert sources_of(chosen[1], labels) <= sources_of(chosen[0], labels)


@pytest.mark.parametrize(
    ("n", "factor", "least", "problem"),
    [
        (8, 0, 1, "subclasses: factor 0; ask for 1 or more"),
        (8, 1, 3, "subclasses: 1 of 2 labels at level coarse have 3 classes or more; 2 are the minimum"),
        (4, 1, 1, "n = 4 images of 2 labels at level coarse: 2 of y, of which 3 classes are kept"),
        (10, 1, 1, "n = 10 images of 5 classes need 3 of class a, which has 2"),
    ],
)
def test_impossible_subclasses_are_refused_with_what_there_is(n: int, factor: int, least: int, problem: str) -> None:
    taxonomy = taxonomy_of({"a": "xu", "b": "xv", "c": "yw", "d": "yw", "e": "yw"})
    with pytest.raises(EvaluateError) as caught:
        subclasses(
            np.repeat(np.arange(5), 2), tuple("abcde"), taxonomy, "coarse", n=n, factor=factor, least=least, seed=3
        )
    assert problem in str(caught.value)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6), st.integers(1000, 10**7), st.randoms())
def test_a_mixture_gives_each_source_its_share_to_within_one_image(weights: list[int], n: int, random: Random) -> None:
    assume(n * min(weights) >= sum(weights))
    shares = {f"source{k}": weight / sum(weights) for k, weight in enumerate(weights)}
    counts = mixture(shares, n)
    assert sum(counts.values()) == n
    assert all(abs(counts[name] - n * share) < 1 + 1e-6 for name, share in shares.items())
    names = list(shares)
    random.shuffle(names)
    assert mixture({name: shares[name] for name in names}, n) == counts


def test_largest_remainders_get_the_images_left_and_equal_ones_in_alphabetical_order() -> None:
    assert mixture({"c": 0.25, "b": 0.25, "a": 0.5}, 10) == {"a": 5, "b": 3, "c": 2}
    assert mixture({"a": 0.35, "b": 0.65}, 10) == {"a": 4, "b": 6}  # a tie, though 0.35 is less in binary
    assert mixture({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, 100) == {"a": 34, "b": 33, "c": 33}


@pytest.mark.parametrize(
    ("shares", "problem"),
    [
        ({"a": 0.5, "b": 0.4}, "shares: 0.5 + 0.4 is 0.9; they must sum to 1"),
        ({"a": 0.5, "b": 0.5 + 2e-9}, "shares: 0.5 + 0.500000002 is 1.000000002; they must sum to 1"),
        ({}, "they must sum to 1"),
        ({"a": 1.2, "b": -0.2}, "shares: a = 1.2; must be above 0 and at most 1"),
        ({"a": 1.0, "b": 0.0}, "shares: b = 0.0; must be above 0"),
        ({"a": float("nan")}, "shares: a = nan; must be above 0"),
        ({"a": 0.999, "b": 0.001}, "shares: b = 0.001 of 100 images is none; ask for more images"),
    ],
)
def test_shares_that_make_no_mixture_are_refused(shares: dict[str, float], problem: str) -> None:
    with pytest.raises(EvaluateError) as caught:
        mixture(shares, 100)
    assert problem in str(caught.value)


def imagenet_like() -> tuple[np.ndarray, tuple[str, ...], Taxonomy]:
    taxonomy = imagenet1k()
    return np.arange(100_000) * 7 % 1000, tuple(sorted(taxonomy.labels)), taxonomy  # 100 images a class


CHOICES: dict[str, tuple[str, Callable[..., Selection]]] = {
    "quantity": ("8516e411bd717b40", lambda x, c, t: quantity(x, c, 5000, seed=0)),
    "animals": ("41012fbd9e7ee2cc", lambda x, c, t: semantics(x, c, t, "animals", n_classes=300, n=5000, seed=0)),
    "objects": ("b2f93500456e6bb1", lambda x, c, t: semantics(x, c, t, "objects", n_classes=300, n=5000, seed=0)),
    "artifacts": ("b5c1a8a268e813da", lambda x, c, t: semantics(x, c, t, "artifacts", seed=0)),
    "diversity": ("274c2289d27a58d0", lambda x, c, t: diversity(x, c, n=5000, factor=4, seed=0)),
    "subclasses": ("659f5e3e15d7c94d", lambda x, c, t: subclasses(x, c, t, "17", n=1000, factor=4, least=8, seed=0)),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_the_same_on_every_machine_whatever_numpy_drew_before(name: str) -> None:
    digest, choose = CHOICES[name]
    np.random.seed(len(name))
    before = np.random.get_state(legacy=False)["state"]["key"].copy()
    selection = choose(*imagenet_like())
    assert (np.random.get_state(legacy=False)["state"]["key"] == before).all()
    assert selection.digest == digest


def test_a_rule_says_how_to_repeat_the_choice() -> None:
    labels, names, taxonomy = imagenet_like()
    animals = semantics(labels, names, taxonomy, "animals", n_classes=300, n=5000, seed=2)
    assert animals.rule == (
        "5000 images balanced over the first 300 of the 398 classes with level 85 = animal.n.01 in"
        f" imagenet1k.tsv ({taxonomy.digest}), in the order of seed 2"
    )
    assert diversity(labels, names, n=5000, factor=4, seed=2).rule == (
        "5000 images balanced over the first 250 of 1000 classes, in the order of seed 2"
    )
    assert subclasses(labels, names, taxonomy, "17", n=1000, factor=4, least=8, seed=2).rule == (
        "1000 images balanced over the 5 labels with 8 or more classes and over the first 1/4, rounded up, of the"
        f" classes under each (248 of 1000), in the order of seed 2; 5 labels: at level 17 of {taxonomy}"
    )
