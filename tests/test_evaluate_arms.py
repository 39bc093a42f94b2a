from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from synthgen_evaluate.arms import ArmSpec, FolderSource, Part, Thinning, select
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.sources import Joined
from synthgen_evaluate.taxonomy import imagenet1k

FOLDER = FolderSource(kind="folder", path="x")
WNIDS = tuple(sorted(imagenet1k().labels))


@dataclass
class Fake:
    """A source whose image i is a flat picture of its number plus ``base``."""

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    base: int = 0
    identity: dict[str, Any] = field(default_factory=dict)

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        for index in indices.tolist():
            yield np.full((size, size, 3), self.base + index, np.uint8)


def wnids(n_classes: int = 100, each: int = 12) -> Fake:
    return Fake(class_names=WNIDS[:: 1000 // n_classes][:n_classes], labels=np.repeat(np.arange(n_classes), each))


def arm(**keys: Any) -> ArmSpec:
    spec = ArmSpec(name="a", **({"source": FOLDER} | keys))
    assert spec.problems() == []
    return spec


def test_only_the_labels_differ_between_granularities_and_their_controls() -> None:
    source = wnids()
    classes = select(arm(n=600), [source])
    chosen = {
        (level, control): select(arm(n=600, granularity=level, control=control), [source])
        for level in (5, 17, 85)
        for control in (None, "random", "neighbours")
    }
    for (level, control), selection in chosen.items():
        assert np.array_equal(selection.indices, classes.indices)
        assert len(selection.class_names) == len(chosen[level, None].class_names)
        sizes = np.bincount(selection.labels)
        if control:  # classes of six images, spread evenly
            assert sizes.max() - sizes.min() <= 6
    assert len({selection.digest for selection in chosen.values()}) == 9


def test_groups_of_equal_size_hold_equally_many_classes_and_images() -> None:
    source = wnids()
    animals, objects = (select(arm(group=group, classes=30, n=300), [source]) for group in ("animals", "objects"))
    assert len(animals.class_names) == len(objects.class_names) == 30
    assert len(animals.indices) == len(objects.indices) == 300
    assert not set(animals.indices) & set(objects.indices)
    taxonomy = imagenet1k()
    assert set(taxonomy.at("85", animals.class_names)) == {"animal.n.01"}
    assert "animal.n.01" not in taxonomy.at("85", objects.class_names)


def test_diversity_keeps_the_total_and_thins_the_classes() -> None:
    source = wnids()
    found = [select(arm(n=300, diversity=factor), [source]) for factor in (1, 2, 4)]
    assert [len(selection.class_names) for selection in found] == [100, 50, 25]
    assert {len(selection.indices) for selection in found} == {300}
    thin = select(arm(n=200, subclasses=Thinning(level=17, factor=2, least=4)), [source])
    assert len(thin.indices) == 200
    assert set(thin.class_names) <= set(imagenet1k().at("17", list(WNIDS)))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"n": 5000}, "arm a: n = 5000 images of 100 classes: ask for 100 to 1200"),
        ({"granularity": 6}, "no level '6'; there are 5, 9, 17"),
        ({"group": "plants"}, "plants"),
        ({"n": 300, "diversity": 90}, "diversity = 90 of 100 classes"),
        ({"taxonomy": "absent.tsv", "granularity": 5}, "absent.tsv: No such file"),
    ],
)
def test_what_cannot_be_chosen_is_told_with_the_arm(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(EvaluateError) as caught:
        select(arm(**keys), [wnids()])
    assert str(caught.value).startswith("arm a: ")
    assert told in str(caught.value)


def test_a_taxonomy_that_lacks_classes_of_the_source_is_refused() -> None:
    source = Fake(class_names=("cat", "n01440764"), labels=np.array([0, 1, 0, 1]))
    with pytest.raises(EvaluateError, match=r"arm a: .*cat"):
        select(arm(granularity=5), [source])


def test_a_mixture_takes_each_sources_share_and_joins_classes_of_one_name() -> None:
    one = Fake(class_names=("bird", "cat"), labels=np.arange(40) % 2)
    two = Fake(class_names=("cat", "dog"), labels=np.arange(20) % 2, base=100)
    parts = tuple(Part(share=share, source=FOLDER) for share in (0.75, 0.25))
    joined = Joined([one, two])
    assert joined.class_names == ("bird", "cat", "dog")
    selection = select(arm(source=None, mixture=parts, n=40), [one, two])
    assert selection.class_names == joined.class_names
    assert np.array_equal(selection.labels, joined.labels[selection.indices])
    assert (selection.indices < 40).sum() == 30
    assert np.bincount(selection.labels).tolist() == [15, 20, 5]
    values = [int(image[0, 0, 0]) for image in joined.decode(np.array([0, 41, 39, 59, 40]), 4)]
    assert values == [0, 101, 39, 119, 100]


def test_each_arm_is_described_in_words() -> None:
    assert arm(source=None).describe() == "no pre-training"
    assert arm(n=600, granularity=17, control="random").describe() == (
        "image folder x, 600 images, labels of level 17, random control"
    )
    parts = (Part(share=0.75, source=FOLDER), Part(share=0.25, source=FOLDER))
    assert arm(source=None, mixture=parts, n=40).describe() == "0.75 image folder x + 0.25 image folder x, 40 images"
