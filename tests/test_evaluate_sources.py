import io
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from PIL import Image, ImageFilter

from synthgen.dataset.plan import new_plan
from synthgen.dataset.shard import Item
from synthgen.engines.generate import generate, open_directory
from synthgen.kinds.base import Renderer, Sample
from synthgen.kinds.diffusion.content import ClassRecord, DiffusionContent, ModelRecord, PromptRecord, Sampling
from synthgen.kinds.fractaldb import drawn
from synthgen.kinds.fractaldb.render import find_categories
from synthgen_evaluate.design.sources import FolderSource, FractalSource, ShardSource
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.images.decoding import fit
from synthgen_evaluate.images.shard_source import Shards
from synthgen_evaluate.images.sources import Fractals, ImageFolder, Joined, open_source


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


def large_photo(mode: str = "RGB") -> Image.Image:
    """1,000 x 760 pixels, smooth, as photos are."""
    noise = np.random.default_rng(0).integers(0, 256, (15, 20, 4), np.uint8)
    image = Image.fromarray(noise).resize((1000, 760), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(3))
    return Image.merge(mode, image.split()[: len(mode)]) if mode != "L" else image.split()[0]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(("size", "scale"), [(64, 8), (100, 4), (300, 2), (380, 2), (381, 1), (800, 1)])
def test_a_large_jpeg_is_scaled_while_it_is_decoded_and_looks_the_same(
    tmp_path: Path, mode: str, size: int, scale: int
) -> None:
    large_photo(mode).save(tmp_path / "1.jpg", quality=95)
    with Image.open(tmp_path / "1.jpg") as image, Image.open(tmp_path / "1.jpg") as whole:
        whole.load()
        assert image.size == (1000, 760)
        found, plain = fit(image, size).astype(int), fit(whole, size).astype(int)
        assert image.size == (1000 // scale, 760 // scale)
        assert min(image.size) >= size or scale == 1
    assert np.abs(found - plain).mean() < 1
    assert np.abs(found - plain).max() < 30


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_jpeg_is_turned_as_its_exif_says(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    large_photo().save(tmp_path / "1.jpg", quality=95, exif=exif)
    with Image.open(tmp_path / "1.jpg") as image, Image.open(tmp_path / "1.jpg") as whole:
        whole.load()
        assert np.abs(fit(image, 60).astype(int) - fit(whole, 60)).mean() < 1


def test_a_broken_image_is_named(folder: Path) -> None:
    (folder / "cat" / "1.png").write_bytes((folder / "cat" / "1.png").read_bytes()[:50])
    source = ImageFolder(str(folder))
    with pytest.raises(EvaluateError, match=r"cat/1\.png: broken image"):
        list(source.decode(np.arange(3), 8))


def test_an_image_that_is_gone_is_named(folder: Path, tmp_path: Path) -> None:
    source = ImageFolder(str(folder))
    (folder / "cat" / "1.png").unlink()
    with pytest.raises(EvaluateError, match=r"cat/1\.png: cannot be read"):
        list(source.decode(np.arange(3), 8))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for name in "ab":
            file.write(folder / "a dog.v2" / "1.PNG", f"{name}/1.png")
    zipped = ImageFolder(f"zip://::{tmp_path / 'set.zip'}")
    content = bytearray((tmp_path / "set.zip").read_bytes())
    content[50] ^= 255
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(EvaluateError, match=r"a/1\.png: cannot be read"):
        list(zipped.decode(np.arange(2), 8))


def test_a_source_decodes_for_many_threads_at_once(tmp_path: Path, synthgen_here: Command) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for number in range(60):
            paint(tmp_path / "1.png", (number, 3 * number, 7), size=(16, 16))
            file.write(tmp_path / "1.png", f"class{number % 3}/{number}.png")
    command = "fractal --categories 2 --n 60 --size 32 --points 500 --shard-size 25 --workers 1 --out"
    assert synthgen_here(*command.split(), tmp_path / "shards").returncode == 0
    for source in (ImageFolder(f"zip://::{tmp_path / 'set.zip'}"), Shards(str(tmp_path / "shards"))):
        plain = np.stack(list(source.decode(np.arange(60), 16)))

        def shuffled(seed: int, source: ImageFolder | Shards = source, plain: np.ndarray = plain) -> bool:
            chosen = np.random.default_rng(seed).permutation(60)
            return bool((np.stack(list(source.decode(chosen, 16))) == plain[chosen]).all())

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(shuffled, range(24)))


def test_a_source_is_opened_once_until_its_folder_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = FolderSource(kind="folder", path=str(folder))
    source = open_source(spec, 32)
    assert open_source(FolderSource(kind="folder", path=str(folder)), 32) is source
    paint(folder / "cat" / "3.png", (1, 2, 3))
    again = open_source(spec, 32)
    assert again.n_images == 4
    (folder / "cat" / "3.png").unlink()
    assert open_source(spec, 32).n_images == 3
    searches = []

    def counted(n: int, *, seed: int) -> object:
        searches.append((n, seed))
        return find_categories(n, seed=seed)

    monkeypatch.setattr(drawn, "_searched", lru_cache(counted))
    for size, points in ((32, 500), (32, 500), (40, 500), (40, 600)):
        open_source(FractalSource(kind="fractals", categories=2, n=10, points=points), size)
    assert searches == [(2, 1)]


def diffusion_set(folder: Path, templates: tuple[str, ...], names: tuple[str, ...], n: int) -> Path:
    """A finished set with the prompts of a diffusion set; its images are plain."""
    content = DiffusionContent(
        seed=1,
        prompts=PromptRecord(name="p", version="1", sha256="", templates=templates),
        classes=ClassRecord(name="c", sha256="", ids=tuple(f"n{number}" for number in range(len(names))), names=names),
        model=ModelRecord(name="none", revision="", variant=None),
        sampling=Sampling(scheduler="ddim", steps=1, guidance=1.0, negative_prompt="", size=8, dtype="float32"),
        image_format="png",
        quality=90,
        exclude_flagged=False,
    )
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")

    def render(samples: Iterable[Sample]) -> Iterator[Item]:
        for sample in samples:
            record = {"index": sample.index, "label": sample.label, "seed": content.image_seed(sample.index)}
            yield Item(key=sample.key, label=sample.label, ending="png", image=png.getvalue(), record=record)

    open_directory(folder, new_plan(name="sd", content=content, n=n, shard_size=4, origin={}))
    generate(folder, renderer=Renderer(render=render, environment={}))
    return folder


def test_captions_name_the_class_or_are_the_prompts(folder: Path, tmp_path: Path, synthgen_here: Command) -> None:
    (folder / "cat").rename(folder / "big_cat")
    source = ImageFolder(str(folder))
    assert source.class_names == ("a dog.v2", "big_cat")
    assert source.captions(np.array([2, 0]), None) == ["a photo of a big cat.", "a photo of a a dog.v2."]
    names = {"a dog.v2": "dog", "big_cat": "tiger"}
    assert source.captions(np.array([0, 1]), names) == ["a photo of a dog.", "a photo of a tiger."]
    assert source.captions(np.array([0]), {"a dog.v2": "dog"}) == ["a photo of a dog."]
    with pytest.raises(EvaluateError, match="class big_cat is not in the class list; add it there"):
        source.captions(np.array([0, 1]), {"a dog.v2": "dog"})
    drawn = diffusion_set(tmp_path / "drawn", ("a drawing of a {}.", "{}, far away."), ("cat", "dog"), n=6)
    shards = Shards(str(drawn))
    texts = shards.captions(np.arange(6), None)
    assert len(set(texts)) == 4
    for name, text in zip(np.array(["cat", "dog"])[shards.labels], texts, strict=True):
        assert text in {f"a drawing of a {name}.", f"{name}, far away."}
    both = Joined([source, shards])
    assert both.captions(np.array([5, 0, 3]), names) == [texts[2], "a photo of a dog.", texts[0]]


def test_fractals_have_no_captions(tmp_path: Path, synthgen_here: Command) -> None:
    command = "fractal --categories 2 --n 80 --size 32 --points 500 --workers 1 --out"
    assert synthgen_here(*command.split(), tmp_path).returncode == 0
    with pytest.raises(EvaluateError, match=f"^{tmp_path}: its images have no text$"):
        Shards(str(tmp_path)).captions(np.arange(3), None)
    drawn = Fractals(FractalSource(kind="fractals", categories=2, points=500), 32)
    with pytest.raises(EvaluateError, match=r"^fractals have no text$"):
        drawn.captions(np.arange(3), {"a": "b"})


def test_classes_may_lie_in_folders_of_folders_as_inaturalists_do(tmp_path: Path) -> None:
    for place in ("Aves/12/a.png", "Aves/7/b.png", "Plantae/12/c.png"):
        paint(tmp_path / place, (0, 0, 0))
    source = open_source(FolderSource(kind="folder", path=str(tmp_path), depth=2), 8)
    assert source.class_names == ("Aves/12", "Aves/7", "Plantae/12")
    assert source.labels.tolist() == [0, 1, 2]
    assert open_source(FolderSource(kind="folder", path=str(tmp_path)), 8).class_names == ("Aves", "Plantae")
    with pytest.raises(EvaluateError, match=r"is not in a class folder; expected FOLDER/FOLDER/CLASS/IMAGE"):
        ImageFolder(str(tmp_path), 3)


def test_folders_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match="0 class folders"):
        ImageFolder(str(tmp_path / "missing"))
    paint(tmp_path / "one" / "only" / "1.png", (0, 0, 0))
    with pytest.raises(EvaluateError, match="1 class folders with images; expected CLASS/IMAGE with at least 2"):
        ImageFolder(str(tmp_path / "one"))
    paint(tmp_path / "one" / "loose.png", (0, 0, 0))
    with pytest.raises(EvaluateError, match=r"loose\.png is not in a class folder"):
        ImageFolder(str(tmp_path / "one"))
    with pytest.raises(EvaluateError, match="cannot be read as an image folder"):
        ImageFolder(f"zip://train::{tmp_path / 'missing.zip'}")


def test_fractals_on_the_fly_are_the_images_of_the_shards(tmp_path: Path, synthgen_here: Command) -> None:
    command = "fractal --categories 3 --n 500 --size 40 --points 2000 --shard-size 150 --workers 1 --out"
    assert synthgen_here(*command.split(), tmp_path / "set").returncode == 0
    shards = open_source(ShardSource(kind="shards", path=str(tmp_path / "set")), 40)
    drawn = open_source(FractalSource(kind="fractals", categories=3, n=500, points=2000), 40)
    assert shards.identity["digest"] == drawn.identity["digest"]
    assert (shards.labels == drawn.labels).all()
    chosen = np.array([499, 0, 151, 37, 149])
    for one, other in zip(shards.decode(chosen, 40), drawn.decode(chosen, 40), strict=True):
        assert set(np.unique(one)) == {0, 127}
        assert (one == other).all()


def test_an_unfinished_set_is_refused(tmp_path: Path, synthgen_here: Command) -> None:
    command = "fractal --categories 2 --n 80 --size 32 --points 500 --shard-size 40 --workers 1 --out"
    assert synthgen_here(*command.split(), tmp_path).returncode == 0
    (tmp_path / "data" / "fractal-train-000001.json").unlink()
    with pytest.raises(EvaluateError, match="40 of 80 images are there"):
        Shards(str(tmp_path))


@pytest.mark.parametrize(
    ("setting", "problem"),
    [({"n": 0}, "n = 0"), ({"n": 2001}, "have 2000"), ({"draw": "lines"}, "'lines'"), ({"size": 5}, "5 px")],
)
def test_impossible_fractals_are_refused(setting: dict[str, object], problem: str) -> None:
    spec = FractalSource(kind="fractals", categories=2, points=500, **setting)  # type: ignore[arg-type]
    with pytest.raises(EvaluateError, match=problem):
        Fractals(spec, 32)
