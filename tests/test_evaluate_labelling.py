from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_evaluate_interventions import check, classified, even, imagenet_like
from test_evaluate_taxonomy import taxonomy_of

from synthgen_evaluate.design.interventions import everything, quantity, semantics
from synthgen_evaluate.design.labelling import granularity, neighbour_control, random_control
from synthgen_evaluate.design.selection import Selection
from synthgen_evaluate.design.taxonomy import Taxonomy
from synthgen_evaluate.errors import EvaluateError

Source = tuple[np.ndarray, tuple[str, ...], Taxonomy]
LETTERS = taxonomy_of({"a": "xu", "b": "xv", "c": "yw", "d": "yw", "e": "yw"})


def classes_of(relabelled: Selection, selection: Selection) -> list[list[int]]:
    """Under each label the classes that have it; every class has one."""
    pairs = sorted(set(zip(relabelled.labels.tolist(), selection.labels.tolist(), strict=True)))
    assert len(pairs) == len(selection.class_names)
    return [[old for new, old in pairs if new == label] for label in range(len(relabelled.class_names))]


@given(classified(), st.integers(0, 5), st.data())
def test_at_every_level_and_in_every_control_the_images_are_the_same(
    source: Source, seed: int, data: st.DataObject
) -> None:
    labels, names, taxonomy = source
    n = data.draw(st.integers(len(names), min(np.bincount(labels)) * len(names)))
    n_labels = data.draw(st.integers(2, len(names)))
    selection = quantity(labels, names, n, seed=seed)
    for relabelled in (
        granularity(selection, taxonomy, "fine"),
        random_control(selection, n_labels, seed=seed),
        neighbour_control(selection, n_labels, taxonomy),
    ):
        check(relabelled, n)
        assert relabelled.indices.tolist() == selection.indices.tolist()
        assert relabelled.rule.startswith(f"{selection.rule}; {len(relabelled.class_names)} labels: ")


@given(classified())
def test_every_image_has_its_class_s_label_and_labels_that_do_not_occur_are_dropped(source: Source) -> None:
    labels, names, taxonomy = source
    fine = granularity(everything(labels, names), taxonomy, "fine")
    assert [fine.class_names[label] for label in fine.labels] == taxonomy.at("fine", [names[label] for label in labels])
    assert set(fine.class_names) == set(taxonomy.at("fine", names))


def test_a_class_without_images_needs_no_label_and_gets_none() -> None:
    selection = everything(np.array([0, 2, 0]), ("a", "unknown", "c"))
    assert granularity(selection, LETTERS, "fine").class_names == ("u", "w")
    assert neighbour_control(selection, 2, LETTERS).labels.tolist() == [0, 1, 0]
    assert sorted(random_control(selection, 2, seed=0).labels.tolist()[:2]) == [0, 1]


@given(classified(), st.integers(0, 5), st.data())
def test_controls_spread_the_classes_evenly_and_neighbours_in_runs(
    source: Source, seed: int, data: st.DataObject
) -> None:
    labels, names, taxonomy = source
    n_labels = data.draw(st.integers(2, len(names)))
    selection = everything(labels, names)
    spread = classes_of(random_control(selection, n_labels, seed=seed), selection)
    runs = classes_of(neighbour_control(selection, n_labels, taxonomy), selection)
    for under in (spread, runs):
        assert len(under) == n_labels
        assert even(np.array([len(classes) for classes in under]))
    order = taxonomy.order(names)
    assert [sorted(run, key=order.index) for run in runs] == [run.tolist() for run in np.array_split(order, n_labels)]


def test_a_class_keeps_its_random_label_whatever_number_of_images() -> None:
    labels, names, _ = imagenet_like()
    few, many = (quantity(labels, names, n, seed=0) for n in (1000, 5000))
    assert classes_of(random_control(few, 17, seed=3), few) == classes_of(random_control(many, 17, seed=3), many)
    assert random_control(few, 17, seed=3).digest != random_control(few, 17, seed=4).digest


def test_a_group_can_be_relabelled_too() -> None:
    labels, names, taxonomy = imagenet_like()
    animals = semantics(labels, names, taxonomy, "animals", n=5000, seed=0)
    coarse = granularity(animals, taxonomy, "232")
    assert coarse.class_names == ("chordate.n.01", "invertebrate.n.01")
    assert coarse.indices.tolist() == animals.indices.tolist()


RELABELLED: dict[str, tuple[str, Callable[[Selection, Taxonomy], Selection]]] = {
    "5": ("e98d5329fd209059", lambda s, t: granularity(s, t, "5")),
    "17": ("c570d6844c6723c2", lambda s, t: granularity(s, t, "17")),
    "1000": ("a3e568c50182b489", lambda s, t: granularity(s, t, "1000")),
    "random": ("db6f306dd1d669d1", lambda s, t: random_control(s, 17, seed=0)),
    "neighbours": ("e23a16350cb6f076", lambda s, t: neighbour_control(s, 17, t)),
}


@pytest.mark.parametrize("name", RELABELLED)
def test_labels_are_the_same_on_every_machine_whatever_numpy_drew_before(name: str) -> None:
    digest, relabel = RELABELLED[name]
    labels, names, taxonomy = imagenet_like()
    np.random.seed(len(name))
    before = np.random.get_state(legacy=False)["state"]["key"].copy()
    relabelled = relabel(quantity(labels, names, 5000, seed=0), taxonomy)
    assert (np.random.get_state(legacy=False)["state"]["key"] == before).all()
    assert relabelled.digest == digest


def test_a_rule_says_how_to_repeat_the_labels() -> None:
    selection = quantity(np.arange(5), tuple("abcde"), 5, seed=0)
    before = "5 images balanced over 5 classes, seed 0; "
    assert granularity(selection, LETTERS, "fine").rule == f"{before}3 labels: at level fine of {LETTERS}"
    assert random_control(selection, 3, seed=2).rule == f"{before}3 labels: 5 classes spread evenly at random, seed 2"
    assert neighbour_control(selection, 3, LETTERS).rule == (
        f"{before}3 labels: 5 classes spread evenly by neighbourhood in {LETTERS}"
    )


@pytest.mark.parametrize(
    ("relabel", "problem"),
    [
        (lambda s: granularity(s, LETTERS, "genus"), "two.tsv: no level 'genus'; there are coarse, fine"),
        (lambda s: granularity(s, taxonomy_of({"a": "xu"}), "fine"), "two.tsv: lacks 2 of the source's 3 classes: b"),
        (lambda s: neighbour_control(s, 2, taxonomy_of({})), "two.tsv: lacks 3 of the source's 3 classes: a, b, c;"),
        (
            lambda s: granularity(s, taxonomy_of({"a": "xu", "b": "xv", "c": "xw"}), "coarse"),
            "all 3 classes have the label x at level coarse of two.tsv (",
        ),
        (lambda s: random_control(s, 4, seed=0), "control of 4 labels: there are 3 classes; ask for 2 to 3"),
        (lambda s: random_control(s, 1, seed=0), "control of 1 labels: there are 3 classes; ask for 2 to 3"),
        (lambda s: neighbour_control(s, 0, LETTERS), "control of 0 labels: there are 3 classes; ask for 2 to 3"),
    ],
)
def test_impossible_labels_are_refused_with_what_there_is(
    relabel: Callable[[Selection], Selection], problem: str
) -> None:
    with pytest.raises(EvaluateError) as caught:
        relabel(everything(np.arange(3), ("a", "b", "c")))
    assert str(caught.value).startswith(problem)
    assert "\n" not in str(caught.value)
