import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from PIL import Image

from synthgen_evaluate.arms import FractalSource, ShardSource
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.sources import Fractals, ImageFolder, Shards, open_source


def paint(path: Path, color: tuple[int, ...], mode: str = "RGB", size: tuple[int, int] = (20, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    paint(root / "cat" / "1.png", (255, 0, 0))
    paint(root / "cat" / "deeper" / "2.jpg", (0, 255, 0))
    paint(root / "a dog.v2" / "1.PNG", (0, 0, 255, 128), mode="RGBA")
    (root / "cat" / "notes.txt").write_text("no image")
    return root


def test_a_folder_gives_its_classes_in_name_order(folder: Path) -> None:
    source = ImageFolder(str(folder))
    assert source.class_names == ("a dog.v2", "cat")
    assert source.labels.tolist() == [0, 1, 1]
    images = list(source.decode(np.array([2, 0]), 8))
    assert [image.shape for image in images] == [(8, 8, 3), (8, 8, 3)]
    assert images[1][0, 0].tolist() == [0, 0, 255]
    assert images[0][4, 4, 1] > 250  # green, through JPEG


def test_a_zip_file_reads_as_the_folder_in_it(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for path in folder.rglob("*.*"):
            if path.is_file():
                file.write(path, Path("train") / path.relative_to(folder))
    direct, zipped = ImageFolder(str(folder)), ImageFolder(f"zip://train::{tmp_path / 'set.zip'}")
    assert zipped.class_names == direct.class_names
    assert zipped.identity == direct.identity
    everything = np.arange(3)
    for one, other in zip(direct.decode(everything, 8), zipped.decode(everything, 8), strict=True):
        assert (one == other).all()


def test_the_identity_changes_when_an_image_does(folder: Path) -> None:
    before = ImageFolder(str(folder)).identity
    paint(folder / "cat" / "1.png", (255, 1, 0), size=(30, 12))
    assert ImageFolder(str(folder)).identity["digest"] != before["digest"]


@pytest.mark.parametrize(
    ("mode", "color"),
    [("L", (90,)), ("LA", (90, 255)), ("P", (3,)), ("1", (1,)), ("CMYK", (9, 9, 9, 9)), ("I;16", (30000,))],
)
def test_every_mode_of_pillow_becomes_rgb(tmp_path: Path, mode: str, color: tuple[int, ...]) -> None:
    ending = "tif" if mode in ("CMYK", "I;16") else "png"
    paint(tmp_path / "a" / f"1.{ending}", color if len(color) > 1 else color[0], mode=mode)  # type: ignore[arg-type]
    paint(tmp_path / "b" / "1.png", (0, 0, 0))
    (image, _) = ImageFolder(str(tmp_path)).decode(np.array([0, 1]), 16)
    assert image.shape == (16, 16, 3)
    if mode == "I;16":
        assert abs(int(image[0, 0, 0]) - 30000 // 256) <= 1  # scaled, not cut off


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 16, 8))  # white above
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    for name in "ab":
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "1.png", exif=exif)
    (turned, _) = ImageFolder(str(tmp_path)).decode(np.array([0, 1]), 16)
    assert turned[0, 0, 0] == 0
    assert turned[-1, 0, 0] == 255


def test_a_broken_image_is_named(folder: Path) -> None:
    (folder / "cat" / "1.png").write_bytes((folder / "cat" / "1.png").read_bytes()[:50])
    source = ImageFolder(str(folder))
    with pytest.raises(EvaluateError, match=r"cat/1\.png: broken image"):
        list(source.decode(np.arange(3), 8))


def test_folders_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match="0 class folders"):
        ImageFolder(str(tmp_path / "missing"))
    paint(tmp_path / "one" / "only" / "1.png", (0, 0, 0))
    with pytest.raises(EvaluateError, match="1 class folders with images; expected CLASS/IMAGE with at least 2"):
        ImageFolder(str(tmp_path / "one"))
    paint(tmp_path / "one" / "loose.png", (0, 0, 0))
    with pytest.raises(EvaluateError, match=r"loose\.png lies in no class folder"):
        ImageFolder(str(tmp_path / "one"))
    with pytest.raises(EvaluateError, match="cannot be read as an image folder"):
        ImageFolder(f"zip://train::{tmp_path / 'missing.zip'}")


def test_fractals_on_the_fly_are_the_images_of_the_shards(tmp_path: Path, synthgen: Command) -> None:
    command = "fractal --categories 3 --n 500 --size 40 --points 2000 --shard-size 150 --workers 1 --out"
    assert synthgen(*command.split(), tmp_path / "set").returncode == 0
    shards = open_source(ShardSource(kind="shards", path=str(tmp_path / "set")), 40)
    drawn = open_source(FractalSource(kind="fractals", categories=3, n=500, points=2000), 40)
    assert shards.identity["digest"] == drawn.identity["digest"]
    assert (shards.labels == drawn.labels).all()
    chosen = np.array([499, 0, 151, 37, 149])
    for one, other in zip(shards.decode(chosen, 40), drawn.decode(chosen, 40), strict=True):
        assert set(np.unique(one)) == {0, 127}
        assert (one == other).all()


def test_an_unfinished_set_is_refused(tmp_path: Path, synthgen: Command) -> None:
    command = "fractal --categories 2 --n 80 --size 32 --points 500 --shard-size 40 --workers 1 --out"
    assert synthgen(*command.split(), tmp_path).returncode == 0
    (tmp_path / "data" / "fractal-train-000001.json").unlink()
    with pytest.raises(EvaluateError, match="40 of 80 images stand"):
        Shards(str(tmp_path))


@pytest.mark.parametrize(
    ("setting", "problem"),
    [({"n": 0}, "n = 0"), ({"n": 2001}, "have 2000"), ({"draw": "lines"}, "'lines'"), ({"size": 5}, "5 px")],
)
def test_impossible_fractals_are_refused(setting: dict[str, object], problem: str) -> None:
    spec = FractalSource(kind="fractals", categories=2, points=500, **setting)  # type: ignore[arg-type]
    with pytest.raises(EvaluateError, match=problem):
        Fractals(spec, 32)
