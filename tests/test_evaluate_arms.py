import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from synthgen.common.records import plain
from synthgen.kinds.diffusion.prompts import read_classes
from synthgen_evaluate.design.arms import ArmSpec, Part
from synthgen_evaluate.design.choice import Chosen, captions_of, choose, select
from synthgen_evaluate.design.select import Thinning
from synthgen_evaluate.design.sources import FolderSource, FractalSource, ShardSource
from synthgen_evaluate.design.taxonomy import imagenet1k
from synthgen_evaluate.design.variants import read
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.images.sources import Joined

FOLDER = FolderSource(kind="folder", path="x")
SHARDS = ShardSource(kind="shards", path="set")
FRACTALS = FractalSource(kind="fractals", categories=4)
CLASSES = Path(__file__).parents[1] / "prompts" / "classes"
WNIDS = tuple(sorted(imagenet1k().labels))


@dataclass
class Fake:
    """A source whose image i is a flat picture of its number plus ``base``."""

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    base: int = 0
    identity: dict[str, Any] = field(default_factory=dict)
    origin: tuple[str, ...] = ("made up",)
    n_images: int = field(init=False)

    def __post_init__(self) -> None:
        self.n_images = len(self.labels)

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        for index in indices.tolist():
            yield np.full((size, size, 3), self.base + index, np.uint8)

    def captions(self, indices: NDArray[np.int64], names: Mapping[str, str] | None) -> list[str]:
        words = [self.class_names[self.labels[index]] for index in indices]
        lacking = set(words) - set(names or ())
        if lacking:
            raise EvaluateError(f"no words for {lacking}")
        return [f"{(names or {})[word]} {index}" for word, index in zip(words, indices.tolist(), strict=True)]


def wnids(n_classes: int = 100, each: int = 12) -> Fake:
    return Fake(class_names=WNIDS[:: 1000 // n_classes][:n_classes], labels=np.repeat(np.arange(n_classes), each))


def written(**keys: Any) -> ArmSpec:
    """An arm as a suite file has it: keys of no value are left out."""
    return read(ArmSpec, {"name": "a", **{key: plain(value) for key, value in keys.items() if value is not None}})


def arm(**keys: Any) -> ArmSpec:
    spec = written(**({"source": FOLDER} | keys))
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
    assert arm(source=None).weights.describe() == "no pre-training"
    assert arm(n=600, granularity=17, control="random").weights.describe() == (
        "image folder x, 600 images, labels of level 17, random control"
    )
    parts = (Part(share=0.75, source=FOLDER), Part(share=0.25, source=FOLDER))
    assert (
        arm(source=None, mixture=parts, n=40).weights.describe()
        == "0.75 image folder x + 0.25 image folder x, 40 images"
    )


def test_an_arm_of_its_own_objective_or_of_outside_weights_says_so() -> None:
    assert arm(pretrain={"objective": "simclr", "epochs": 3}).weights.describe() == "image folder x, all images, simclr"
    text = written(source=FOLDER, n=9, captions="c.tsv", pretrain={"objective": "image-text"})
    assert text.weights.describe() == "image folder x, 9 images, image-text, captions from c.tsv"
    assert arm(source=None, checkpoint="torchvision:V1").weights.describe() == "weights torchvision:V1"


def test_a_checkpoint_is_named_for_each_architecture() -> None:
    outside = arm(source=None, checkpoint="w/{architecture}.safetensors")
    assert outside.checkpoint_of("resnet18") == "w/resnet18.safetensors"
    assert outside.checkpoint_of("timm:vit") == "w/timm:vit.safetensors"
    assert outside.pretraining is None
    assert arm(source=None).checkpoint_of("resnet18") is None


@pytest.mark.parametrize(
    ("keys", "objective", "told"),
    [
        ({"source": FOLDER, "granularity": 5}, "simclr", "granularity: simclr uses no labels"),
        (
            {"source": SHARDS, "granularity": 5, "control": "random"},
            "image-text",
            "control: image-text uses no labels",
        ),
        ({"source": FRACTALS}, "image-text", "source: fractals have no text"),
        (
            {"n": 4, "mixture": (Part(share=0.5, source=SHARDS), Part(share=0.5, source=FRACTALS))},
            "image-text",
            "mixture: fractals have no text",
        ),
        ({"source": FOLDER}, "image-text", "captions: an image folder has no text of its own; name a class list"),
        ({"source": SHARDS, "captions": "c.tsv"}, "image-text", "captions: only for image folders; a synthgen set has"),
        ({"source": FOLDER, "captions": "c.tsv"}, "supervised", "captions: supervised uses no text; set pretrain"),
        ({"source": FOLDER, "captions": "c.tsv"}, "simclr", "captions: simclr uses no text"),
        ({"captions": "c.tsv"}, "supervised", "captions: only with source or mixture"),
        ({"pretrain": {"epochs": 3}}, "supervised", "pretrain: only with source or mixture"),
        ({"source": FOLDER, "checkpoint": "w"}, "supervised", "checkpoint, source: only one of them at a time"),
        (
            {"n": 4, "mixture": (Part(share=1.0, source=SHARDS),), "checkpoint": "w"},
            "supervised",
            "checkpoint, mixture: only one of them at a time",
        ),
        (
            {"checkpoint": "w", "n": 5, "pretrain": {"epochs": 3}},
            "supervised",
            "n, pretrain: only with source or mixture",
        ),
        ({"checkpoint": ""}, "supervised", "checkpoint: '' names no weights; write a file"),
        ({"checkpoint": "torchvision:"}, "supervised", "names no weights; write torchvision:WEIGHTS"),
        ({"checkpoint": "timm:"}, "supervised", "names no weights; write timm:NAME.TAG"),
        ({"checkpoint": "open_clip:RN50"}, "supervised", "names no weights; write open_clip:NAME/PRETRAINED"),
        ({"checkpoint": "w/{model}.safetensors"}, "supervised", "only {architecture} is replaced"),
        ({"architectures": ("resnet18", "resnet18")}, "supervised", "architectures: ['resnet18', 'resnet18'] repeats"),
    ],
)
def test_what_does_not_fit_together_is_told_with_its_key(keys: dict[str, Any], objective: str, told: str) -> None:
    try:
        problems = written(**keys).problems(objective)
    except EvaluateError as error:
        problems = [str(error)]
    assert any(told in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("keys", "objective"),
    [
        ({"source": FOLDER, "diversity": 2, "n": 50}, "simclr"),
        ({"source": FRACTALS}, "simclr"),
        ({"source": SHARDS}, "image-text"),
        ({"source": FOLDER, "captions": "c.tsv"}, "image-text"),
        (
            {"n": 4, "captions": "c.tsv", "mixture": (Part(share=0.5, source=SHARDS), Part(share=0.5, source=FOLDER))},
            "image-text",
        ),
        ({"checkpoint": "torchvision:IMAGENET1K_V1"}, "supervised"),
        ({"checkpoint": "timm:resnet50"}, "supervised"),
        ({"checkpoint": "timm:resnet50.a1_in1k"}, "supervised"),
        ({"checkpoint": "open_clip:RN50/openai"}, "supervised"),
        ({"checkpoint": "C:/weights/one.safetensors"}, "supervised"),
    ],
)
def test_what_fits_together_is_let_through(keys: dict[str, Any], objective: str) -> None:
    assert written(**keys).problems(objective) == []


def a_few(captions: Path | None) -> tuple[ArmSpec, Chosen]:
    spec = written(source=FOLDER, captions=None if captions is None else str(captions), n=4)
    source = Fake(class_names=("airplane", "yeti"), labels=np.array([0, 1, 0, 1, 0, 1]))
    return spec, Chosen(source=source, selection=select(spec, [source]))


def test_the_texts_are_the_sources_own_for_the_chosen_images_and_the_names_of_the_class_list(tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_text("id\tname\nairplane\tplane\nyeti\tsnowman\n")
    spec, picked = a_few(tmp_path / "c.tsv")
    words = [("plane", "snowman")[label] for label in picked.selection.labels]
    assert captions_of(spec, picked) == tuple(
        f"{word} {i}" for word, i in zip(words, picked.selection.indices, strict=True)
    )


def test_texts_that_cannot_be_had_are_told_with_the_arm(tmp_path: Path) -> None:
    for captions, told in ((CLASSES / "cifar10.tsv", "yeti"), (tmp_path / "no.tsv", "no.tsv: No such file")):
        with pytest.raises(EvaluateError, match=rf"^arm a: captions: .*{told}"):
            captions_of(*a_few(captions))


def test_every_class_of_tiny_imagenet_has_a_name(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "gray").save(picture, "PNG")
    with ZipFile(tmp_path / "tiny_imagenet.zip", "w") as file:
        for wnid in read_classes(CLASSES / "tinyimagenet200.tsv").ids:
            file.writestr(f"tiny_imagenet/train/{wnid}/images/{wnid}_0.png", picture.getvalue())
    folder = FolderSource(kind="folder", path=f"zip://tiny_imagenet/train::{tmp_path / 'tiny_imagenet.zip'}")
    spec = written(source=folder, n=200, captions=str(CLASSES / "tinyimagenet200.tsv"))
    told = captions_of(spec, choose(spec, 64))
    assert len(set(told)) == 200
    assert "a photo of a goldfish." in told
