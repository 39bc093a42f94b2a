import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from fractaldb.render import Style
from synthgen.common.errors import SynthgenError
from synthgen.dataset import quality as module
from synthgen.dataset.manifest import Manifest, read_manifest
from synthgen.dataset.plan import Plan, new_plan
from synthgen.dataset.quality import fault, fingerprint, measure, near_pairs, perceptual_hash
from synthgen.dataset.shard import Item, data_path, write_shard
from synthgen.kinds.fractaldb.render import encode_png, fractal_content, read_category_folder, render
from synthgen.storage.atomic import write_atomically

RGB = NDArray[np.uint8]  # [height, width, 3]
GRAY = np.array([[0, 0, 0], [127, 127, 127]], np.uint8)


def flat(level: float, noise: float = 0.0) -> RGB:
    drawn = np.random.default_rng(0).normal(level, noise, (64, 64, 3))
    return drawn.clip(0, 255).round().astype(np.uint8)


def scene(seed: int) -> RGB:
    """A smooth picture, 48 pixels, unlike that of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    return np.array(Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC), np.uint8)


def encoded(image: RGB, file_format: str = "PNG", **options: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, file_format, **options)
    return file.getvalue()


def brighter(image: RGB, levels: int) -> RGB:
    return (image.astype(int) + levels).clip(0, 255).astype(np.uint8)


def spotted(image: RGB, level: int, *, size: int = 4) -> RGB:
    image = image.copy()
    image[20 : 20 + size, 30 : 30 + size] = level
    return image


BLACK = {
    "zeros, as a safety checker returns": flat(0),
    "NaN cast to uint8": np.nan_to_num(np.full((8, 8, 3), np.nan)).astype(np.uint8),
    "nearly black": flat(3, 1),
    "zeros in float": np.zeros((8, 8, 3), np.float32),
}
CONSTANT = {
    "gray": flat(128),
    "white": flat(255),
    "with the noise of a decoder": flat(128, 0.7),
    "coloured": flat(0) + np.array([250, 40, 0], np.uint8),
    "coloured, through JPEG": np.asarray(
        Image.open(io.BytesIO(encoded(flat(0) + np.array([9, 140, 77], np.uint8), "JPEG")))
    ),
    "in float16": np.full((8, 8, 3), 0.5, np.float16),
}
PICTURES = {
    "noise": flat(128, 30),
    "weak noise": flat(128, 2),
    "a night with one spot of light": spotted(flat(2, 1), 60),
    "one bird in a plain sky": spotted(flat(200), 150, size=1),
    "white on white with a shadow": spotted(flat(254), 225),
    "a faint gradient": np.repeat(np.arange(100, 148, 3, dtype=np.uint8), 48).reshape(16, 16, 3),
    "one colour fading": np.dstack([np.tile(np.arange(64, dtype=np.uint8), (64, 1)), np.zeros((64, 64, 2), np.uint8)]),
    "three dots of a fractal": GRAY[(np.arange(64 * 64).reshape(64, 64) % 1500 == 700).astype(int)],
    "a scene in float": scene(0) / 255,
}


@pytest.mark.parametrize(
    ("image", "verdict"),
    [(image, "black") for image in BLACK.values()]
    + [(image, "constant") for image in CONSTANT.values()]
    + [(image, None) for image in PICTURES.values()],
    ids=[*BLACK, *CONSTANT, *PICTURES],
)
def test_the_gate_stops_black_and_constant_images_and_lets_pictures_pass(image: Any, verdict: str | None) -> None:
    assert fault(image) == verdict


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_value_that_is_not_finite_is_a_fault(value: float, dtype: type[np.floating[Any]]) -> None:
    image = (scene(1) / 255).astype(dtype)
    assert fault(image) is None
    image[3, 4, 2] = value
    assert fault(image) == "non-finite"


@given(arrays(np.float32, (4, 5, 3), elements=st.floats(0, 0.0625, width=32) | st.floats(0, 1, width=32)))
@example(np.full((4, 5, 3), (module.BLACK + 0.4) / 255, np.float32))
def test_a_float_image_is_judged_as_the_uint8_image_it_makes(image: NDArray[np.float32]) -> None:
    assert fault(image) == fault((image * 255).round().astype(np.uint8))


def thumbs(images: Sequence[RGB]) -> NDArray[np.float32]:
    grays = [Image.fromarray(image).convert("L").resize((64, 64), Image.Resampling.BOX) for image in images]
    return np.array([np.asarray(gray) for gray in grays], np.float32)


def test_the_hash_is_the_sign_of_the_lowest_cosine_frequencies_against_their_median() -> None:
    many = thumbs([scene(seed) for seed in range(20)])
    for found, thumb in zip(perceptual_hash(many), many, strict=True):
        low = dctn(thumb.reshape(32, 2, 32, 2).mean(axis=(1, 3)))[:8, :8].ravel()
        bits = [int(value > np.median(low)) for value in low]
        assert list(np.unpackbits(np.array([found]).view(np.uint8))) == bits


def test_fingerprints_tell_correlations_to_about_twelve_percent() -> None:
    rng = np.random.default_rng(0)
    one = np.repeat(thumbs([scene(seed) for seed in range(40)]), 5, axis=0)
    other = one + rng.normal(0, 15, one.shape).astype(np.float32)
    told = 1 - (fingerprint(one) * fingerprint(other)).sum(axis=1)
    true = [1 - np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one, other, strict=True)]
    error = told / np.array(true) - 1
    assert 0.09 < np.sqrt((error**2).mean()) < 0.15
    assert abs(error.mean()) < 0.03


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(1, 9))
def test_pairs_in_blocks_are_those_of_the_naive_loop(seed: int, n: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    flips = rng.random((n, 64)) < 0.1  # of bits that all have in common: about 12 differ in a pair
    hashes = np.packbits(flips, axis=1).view(np.uint64)[:, 0]
    vectors = rng.integers(0, 2, (n, 1)) + rng.normal(0, 0.05, (n, 8))
    prints = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    naive = []
    for a in range(n):
        for b in range(a + 1, n):
            bits = (int(hashes[a]) ^ int(hashes[b])).bit_count()
            if bits <= module.NEAR_BITS and prints[a] @ prints[b] >= module.NEAR_CORRELATION:
                naive.append([a, b, bits])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "BATCH", block)
        found = [row for rows in near_pairs(hashes, prints) for row in rows.tolist()]
    assert sorted(found) == naive


@pytest.fixture(scope="module")
def plan_of(categories: Path) -> Callable[[int, int], Plan]:
    content = fractal_content(
        read_category_folder(categories), seed=1, style=Style(draw="patch_gray", size=64, n_points=20_000)
    )
    return lambda n, shard_size: new_plan(name="set", content=content, n=n, shard_size=shard_size, origin={})


Build = Callable[..., Manifest]


@pytest.fixture
def build(tmp_path: Path, plan_of: Callable[[int, int], Plan]) -> Build:
    """Write a dataset of (label, image file) or items, in shards of seven, the last ones left out on demand."""

    def write(samples: Sequence[tuple[int, bytes] | Item], *, left_out: int = 0, shard_size: int = 7) -> Manifest:
        plan = plan_of(len(samples), shard_size)
        made = [sample if isinstance(sample, Item) else item(i, *sample) for i, sample in enumerate(samples)]
        for index in range(plan.n_shards - left_out):
            span = plan.shard(index)
            write_shard(tmp_path, span, made[span.start : span.stop], plan_digest=plan.digest, environment={})
        write_atomically(tmp_path / "plan.json", plan.to_json().encode())
        return read_manifest(tmp_path)

    return write


def item(index: int, label: int, image: bytes, **record: Any) -> Item:
    ending = "jpg" if image[:2] == b"\xff\xd8" else "png"
    return Item(key=key(index), label=label, ending=ending, image=image, record={"label": label, **record})


def key(index: int) -> str:
    return f"{index:09d}"


def test_planted_duplicates_are_found_and_nothing_else(build: Build) -> None:
    samples = [(seed % 3, encoded(scene(seed))) for seed in range(60)]
    samples += [
        (1, encoded(scene(4), "JPEG", quality=90)),  # 60
        (2, encoded(brighter(scene(5), 12))),  # 61
        (0, samples[6][1]),  # 62: the same file
        (1, samples[8][1]),  # 63: the same file, in another class
        (0, encoded(scene(9), compress_level=0)),  # 64: the same pixels in another file
        (1, encoded(scene(11)[:, ::-1])),  # 65: mirrored, another picture
        (2, encoded(scene(12), "JPEG", quality=90)),  # 66: alike, but of another class
        (2, encoded(scene(15), "JPEG", quality=90)),  # 67: no class has both ...
        (2, encoded(brighter(scene(15), 12))),  # 68: ... but these two are
    ]
    found = measure(build(samples))
    assert sorted(pair[:2] for pair in found.near) == [(key(4), key(60)), (key(5), key(61)), (key(67), key(68))]
    assert all(0 <= distance <= module.NEAR_BITS for _, _, distance in found.near)
    assert (found.n_near.tolist(), found.n_near_images) == ([0, 1, 2, 0, 0], 6)
    assert found.copies == [(key(6), key(62)), (key(8), key(63)), (key(9), key(64))]
    assert found.n_copies == 3
    assert not any(found.faults.values())


def test_fractals_of_one_class_are_no_duplicates_of_each_other(
    build: Build, plan_of: Callable[[int, int], Plan]
) -> None:
    plan = plan_of(5 * 80, 100)  # two weight rows: of each, ten patch draws of one orbit in four flips
    made = list(render(plan.content, (plan.sample(i) for i in range(plan.n))))  # type: ignore[arg-type]
    found = measure(build(made, shard_size=100))
    assert found.n_images.tolist() == [80] * 5
    assert (found.n_near.sum(), found.n_copies) == (0, 0)
    assert not any(found.faults.values())


def test_a_few_dots_on_black_are_alike_only_in_the_same_places(build: Build) -> None:
    dots = [np.random.default_rng(i).random((64, 64)) < 0.003 for i in range(40)]
    samples = [(0, encode_png(d.astype(np.uint8), GRAY)) for d in dots]
    samples.append((0, encode_png(dots[7].astype(np.uint8), GRAY + np.array([[0], [20]], np.uint8))))
    assert [pair[:2] for pair in measure(build(samples)).near] == [(key(7), key(40))]


def test_real_photos_are_like_their_own_copies_and_like_no_other(build: Build, shared: Path) -> None:
    with ZipFile(shared / "data/cifar10.zip") as file:
        names = sorted(name for name in file.namelist() if name.startswith("cifar10/train/truck/"))[:300]
        files = [file.read(name) for name in names]
    photos = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]
    copies = [encoded(photo, "JPEG", quality=90) for photo in photos]
    copies += [encoded(brighter(photo, 12)) for photo in photos]
    found = measure(build([(0, data) for data in files + copies], shard_size=200))
    planted = {(key(i), key(i + other)) for i in range(300) for other in (300, 600)}
    planted |= {(key(300 + i), key(600 + i)) for i in range(300)}
    assert {pair[:2] for pair in found.near} == planted
    assert found.n_near.tolist() == [900, 0, 0, 0, 0]
    assert not any(found.faults.values())


def test_pieces_of_a_photo_are_like_no_other_piece(build: Build) -> None:
    photos = pytest.importorskip("sklearn.datasets").load_sample_images().images  # two, of 427 x 640 pixels
    corners = [(y, x) for y in range(0, 400, 80) for x in range(0, 640, 80)]
    pieces = [photo[y : y + 80, x : x + 80] for photo in photos for y, x in corners]
    copies = [encoded(piece, "JPEG", quality=90) for piece in pieces]
    found = measure(build([(0, data) for data in [*map(encoded, pieces), *copies]], shard_size=200))
    planted = {(key(i), key(80 + i)) for i in range(80)}
    pairs = {pair[:2] for pair in found.near}
    assert pairs <= planted
    assert len(pairs) >= 72  # of a piece that is nearly plain, the sky's, noise decides
    assert not any(found.faults.values())


def test_black_and_constant_images_are_told_once_and_are_no_duplicates(build: Build) -> None:
    samples = [(0, encoded(scene(0))), (0, encoded(flat(0))), (0, encoded(flat(0))), (1, encoded(flat(90, 0.5)))]
    samples += [(1, encoded(flat(90))), (1, encoded(flat(90)))]
    found = measure(build(samples))
    assert found.faults["black"] == [key(1), key(2)]
    assert found.faults["constant"] == [key(3), key(4), key(5)]
    assert (found.n_copies, found.n_near.sum()) == (0, 0)
    assert found.n_faulty.tolist() == [2, 3, 0, 0, 0]


def test_what_the_records_tell_is_counted(build: Build) -> None:
    records: list[dict[str, Any]] = [
        {},
        {"fault": None, "flagged": False, "attempt": 0},
        {"fault": "", "flagged": False, "attempt": 2},
        {"fault": "non-finite", "flagged": False, "attempt": 4},
        {"fault": "", "flagged": True, "attempt": 0},
    ]
    found = measure(build([item(i, 1, encoded(scene(i)), **record) for i, record in enumerate(records)], shard_size=1))
    assert found.faults == {"black": [], "constant": [], "recorded faulty": [key(3)], "recorded flagged": [key(4)]}
    assert found.n_remade == 2
    assert found.n_faulty.tolist() == [0, 2, 0, 0, 0]


def test_brightness_and_contrast_are_mean_and_deviation_of_gray(build: Build) -> None:
    images = [scene(i) for i in range(9)]
    dots = (np.arange(64 * 64).reshape(64, 64) % 5 == 0).astype(np.uint8)
    samples = [(i % 2, encoded(image)) for i, image in enumerate(images)] + [(3, encode_png(dots, GRAY))]
    found = measure(build(samples))
    grays = [np.asarray(Image.fromarray(image).convert("L")) for image in images]
    for label, members in ((0, grays[::2]), (1, grays[1::2]), (3, [GRAY[dots][..., 0]])):
        assert found.brightness[label] == pytest.approx(np.mean([gray.mean() for gray in members]), rel=1e-5)
        assert found.contrast[label] == pytest.approx(np.mean([gray.std() for gray in members]), rel=1e-5)
    assert np.isnan(found.brightness[[2, 4]]).all()
    assert np.isnan(found.contrast[[2, 4]]).all()
    means = [*(gray.mean() for gray in grays), GRAY[dots][..., 0].mean()]
    assert found.histogram.tolist() == np.histogram(means, bins=16, range=(0, 256))[0].tolist()


def test_only_committed_shards_are_looked_at_and_each_is_told(build: Build) -> None:
    manifest = build([(0, encoded(scene(i))) for i in range(30)], left_out=2)
    told: list[int] = []
    found = measure(manifest, progress=told.append)
    assert told == [1, 2, 3]
    assert found.n_images.tolist() == [21, 0, 0, 0, 0]


def test_a_directory_without_a_shard_has_nothing_to_tell(build: Build) -> None:
    found = measure(build([(0, encoded(scene(0)))], left_out=1))
    assert found.n_images.sum() == 0
    assert found.lines()[0] == "0 images of 5 classes, 0 regenerated"
    assert found.summary()["classes"][0]["brightness"] is None


def test_an_image_that_cannot_be_decoded_is_named(build: Build) -> None:
    manifest = build([(0, encoded(scene(0))), (0, encoded(scene(1))[:200])])
    path = data_path(manifest.directory, manifest.plan.shard(0))
    with pytest.raises(SynthgenError, match=f"image {key(1)} cannot be decoded") as error:
        measure(manifest)
    assert str(error.value).startswith(f"{path}: ")


def test_a_label_without_a_class_is_named(build: Build) -> None:
    manifest = build([(5, encoded(scene(0)))])
    with pytest.raises(SynthgenError, match=r"set-train-000000\.tar: a label is not one of the 5 classes"):
        measure(manifest)


def test_lists_are_cut_and_counts_are_not(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTED", 4)
    samples = [(2, encoded(brighter(scene(0) // 2, i))) for i in range(6)] + [(1, encoded(scene(1)))] * 7
    found = measure(build(samples))
    assert (found.n_near.tolist(), found.n_near_images, len(found.near)) == ([0, 0, 15, 0, 0], 6, 4)
    assert (found.n_copies, len(found.copies)) == (6, 4)


def test_the_closest_pairs_come_first(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEAR_CORRELATION", 0.8)
    mixed = np.asarray(Image.blend(Image.fromarray(scene(0)), Image.fromarray(scene(1)), 0.25))
    images = [scene(0), mixed, scene(2), brighter(scene(2), 2)]
    found = measure(build([(i // 2, encoded(image)) for i, image in enumerate(images)]))
    assert [pair[:2] for pair in found.near] == [(key(2), key(3)), (key(0), key(1))]
    assert found.near[0][2] < found.near[1][2]


def test_the_summary_is_json_and_the_lines_are_words(build: Build) -> None:
    samples = [(i % 2, encoded(scene(i))) for i in range(20)] + [(0, encoded(flat(0)))] * 12
    samples += [(0, encoded(scene(2), "JPEG", quality=90)), samples[3]]
    found = measure(build(samples))
    names = found.class_names
    summary = json.loads(json.dumps(found.summary(), allow_nan=False))
    assert (summary["n_images"], summary["n_copies"], summary["n_near_pairs"]) == (34, 1, 1)
    assert summary["near_pairs"] == [[key(2), key(32), found.near[0][2]]]
    assert summary["faults"]["black"] == [key(i) for i in range(20, 32)]
    assert sum(summary["brightness_histogram"]) == 34
    assert [(row["class"], row["n"], row["n_faulty"], row["n_near_pairs"]) for row in summary["classes"][:3]] == [
        (names[0], 23, 12, 1),
        (names[1], 11, 0, 0),
        (names[2], 0, 0, 0),
    ]
    lines = found.lines()
    assert lines[:2] == [
        "34 images of 5 classes, 0 regenerated",
        f"black: 12 ({', '.join(key(i) for i in range(20, 30))}, ...)",
    ]
    assert f"copies: 1 ({key(33)} of {key(3)})" in lines
    assert "near-duplicates: 1 pair, of 2 images" in lines
    assert f"  {key(2)} and {key(32)}: {found.near[0][2]} of 64 bits differ" in lines
    assert f"most faults: {names[0]} (12)" in lines
    assert f"lowest contrast: {names[0]} ({found.contrast[0]:.1f}), {names[1]} ({found.contrast[1]:.1f})" in lines
    assert f"    0- 15 {'#' * round(40 * 12 / found.histogram.max()):40s} 12" in lines
    assert len(lines) < 30
