import io
import json
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

from synthgen.common.errors import SynthgenError
from synthgen.dataset.manifest import read_manifest
from synthgen.dataset.plan import new_plan
from synthgen.dataset.shard import Item
from synthgen.engines.generate import generate, open_directory
from synthgen.kinds.base import Renderer, Sample
from synthgen.kinds.diffusion.content import ClassRecord, DiffusionContent, ModelRecord, PromptRecord, Sampling
from synthgen.publishing.export import export
from synthgen.publishing.names import ClassTable, class_folders, class_table, composed, portable
from synthgen_evaluate.images.shard_source import Shards
from synthgen_evaluate.images.sources import ImageFolder

pytestmark = [  # of third parties
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(datasets|dill|multiprocess|webdataset|fsspec).*"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def written(dataset: Path, out: Path, layout: str) -> Path:
    export(read_manifest(dataset), out, layout=layout, shard_bytes=1 << 30, progress=lambda done: None)
    return out


ODD = [
    *(
        "Cat",
        "cat",
        "CAT",
        "a/b",
        "a\\b",
        "a_b",
        "..",
        ".",
        "",
        " ",
        "CON",
        "_CON",
        "nul.txt",
        "COM1",
        "lpt¹",
        "con .x",
    ),
    *("x", "x.", "x ", " x", "n02119789", "😀", "\U0001f469\u200d\U0001f52c", "e\u0301", "\u00e9", "\u212b", "\u00c5"),
    *("a\tb\n", "\0", "__pycache__", ".hidden", "classes.json", ".synthgen-export", "ß", "SS", "日本", "~", "-rf"),
    *("abc\u202e", "train", "*", "[a]", "a:b", "<", '"', "|", "?", "%41", "$HOME", "y" * 300, "y" * 300 + "z"),
]


def plain_set(folder: Path, class_names: Iterable[str], n: int) -> Path:
    """A finished set with classes of any names; its images tell their index."""
    ids = tuple(class_names)
    content = DiffusionContent(
        seed=1,
        prompts=PromptRecord(name="p", version="1", sha256="", templates=("a {}.",)),
        classes=ClassRecord(name="c", sha256="", ids=ids, names=ids),
        model=ModelRecord(name="none", revision="", variant=None),
        sampling=Sampling(scheduler="ddim", steps=1, guidance=1.0, negative_prompt="", size=8, dtype="float32"),
        image_format="png",
        quality=90,
        exclude_flagged=False,
    )

    def render(samples: Iterable[Sample]) -> Iterator[Item]:
        for sample in samples:
            png = io.BytesIO()
            Image.new("RGB", (8, 8), (sample.index % 251, sample.index // 251, 7)).save(png, "PNG")
            record = {"index": sample.index, "label": sample.label, "class": ids[sample.label], "seed": sample.index}
            yield Item(key=sample.key, label=sample.label, ending="png", image=png.getvalue(), record=record)

    open_directory(folder, new_plan(name="sd", content=content, n=n, shard_size=100, origin={}))
    generate(folder, renderer=Renderer(render=render, environment={}))
    return folder


def comes_back(root: Path, class_names: list[str]) -> None:
    """An image folder of such classes has portable folders, and the names, labels and pixels come back."""
    n = 2 * len(class_names)
    dataset = plain_set(root / "set", class_names, n)
    out = written(dataset, root / "out", "imagefolder")
    folders = {path.name for path in out.iterdir() if path.is_dir()}
    assert len(folders) == len(class_names)
    assert all(portable(folder) for folder in folders)
    shards, folder = Shards(str(dataset)), ImageFolder(str(out))
    assert folder.class_names == shards.class_names == tuple(class_names)
    everything = np.arange(n)
    colors = {
        tuple(image[0, 0].tolist()): label
        for image, label in zip(folder.decode(everything, 8), folder.labels.tolist(), strict=True)
    }
    for image, label in zip(shards.decode(everything, 8), shards.labels.tolist(), strict=True):
        assert colors[tuple(image[0, 0].tolist())] == label
    assert len(colors) == n


def test_classes_of_odd_names_come_back_from_every_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comes_back(tmp_path, ODD)
    datasets = pytest.importorskip("datasets")
    torchvision = pytest.importorskip("torchvision.datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    table = ClassTable.read((tmp_path / "out" / "classes.json").read_bytes(), "classes.json")
    assert list(table.names) == ODD
    by_folder = {folder: table.names[label] for folder, label in table.labels.items()}
    assert {name for folder, name in by_folder.items() if folder == name} >= {
        "Cat",
        "n02119789",
        "😀",
        "日本",
        "train",
        "é",
    }
    folder = torchvision.ImageFolder(str(tmp_path / "out"))
    assert {by_folder[name] for name in folder.classes} == set(ODD)
    parquet = written(tmp_path / "set", tmp_path / "parquet", "parquet")
    loaded = datasets.load_dataset(str(parquet), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["label"].names == ODD
    assert [ODD[row["label"]] for row in loaded] == list(loaded["class"])
    tars = written(tmp_path / "set", tmp_path / "tars", "webdataset")
    assert json.loads((tars / "index.json").read_text())["class_names"] == ODD


@examples(max_examples=40)
@given(class_names=st.lists(st.text(max_size=8) | st.sampled_from(ODD), min_size=2, max_size=8, unique=True))
def test_classes_of_any_names_come_back_from_an_image_folder(class_names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as root:
        comes_back(Path(root), class_names)


@given(names=st.lists(st.text() | st.sampled_from(ODD) | st.text(alphabet="aA.: _\u0301é", max_size=3), max_size=30))
def test_folders_are_portable_and_different_whatever_the_names(names: list[str]) -> None:
    classes = class_folders(names)
    assert [one.name for one in classes] == names
    folders = [one.folder for one in classes]
    assert all(portable(folder) for folder in folders)
    assert len({folder.casefold() for folder in folders}) == len(names)
    for one in classes:
        assert len(one.folder.encode()) <= 255
        assert not set(one.folder) & set('<>:"/\\|?*\0\n')
        assert composed(one.folder) == one.folder
    assert class_folders(names) == classes
    table = ClassTable.read(class_table(classes), "it")
    assert table.names == tuple(names)
    assert [table.label(unicodedata.normalize("NFD", one.folder)) for one in classes] == list(range(len(names)))


@pytest.mark.parametrize("name", ["n02119789", "00000", "Great Dane", "a.b", "日本", "é", "c_1-2", "😀", "x" * 255])
def test_ordinary_names_are_portable(name: str) -> None:
    assert portable(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "CON",
        "con.txt",
        "Aux",
        "com9.tar.gz",
        "a ",
        "a.",
        "e\u0301",
        "x" * 256,
        "a\x7f",
        "_\u202e",
    ],
)
def test_names_that_some_system_cannot_hold_are_not_portable(name: str) -> None:
    assert not portable(name)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format": 2, "classes": []}',
        '{"format": 1, "classes": [{"label": 1, "name": "a", "folder": "a"}]}',
        '{"format": 1, "classes": [{"label": 0, "name": "a"}]}',
        '{"format": 1, "classes": [{"label": 0, "name": "a", "folder": "a"}, {"label": 1, "name": "", "folder": "a"}]}',
    ],
)
def test_a_table_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(SynthgenError, match=r"^out/classes\.json: ") as error:
        ClassTable.read(text.encode(), "out/classes.json")
    assert "\n" not in str(error.value)


@given(names=st.lists(st.text(alphabet="abcdefghij0123456789 .-é日", min_size=1, max_size=9), unique_by=str.casefold))
def test_names_that_no_system_confuses_are_their_own_folders(names: list[str]) -> None:
    ordinary = [name for name in names if name[0] not in " ." and name[-1] not in " ."]
    assert [one.folder for one in class_folders(ordinary)] == ordinary
