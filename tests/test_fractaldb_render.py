import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import chisquare

from fractaldb import chaos
from fractaldb.ifs import IFS, Category, FractalError, read_categories, read_csv
from fractaldb.instances import Instance, instance, patch_seed
from fractaldb.render import Style, drawing, drawings, flip, orbit_draws, orbit_pixels, palette, picture

SMALL = Style(size=40, n_points=2000)
DIVERGING = Category(
    name="runaway", ifs=IFS(maps=np.array([[1e200, -1e200, 1e200, 1e200, 1, 1.0]]), probs=np.array([1.0]))
)


def naive_orbit(maps: Sequence[Sequence[float]], thresholds: Sequence[float], draws: Sequence[float]) -> NDArray:
    """The published chaos game, a number at a time."""
    x = y = 0.0
    points = [(x, y)]
    for draw in draws[:-1]:
        for (a, b, c, d, e, f), threshold in zip(maps, thresholds, strict=True):
            if threshold >= draw:
                x, y = a * x + b * y + e, c * x + d * y + f
                break
        points.append((x, y))
    xy = np.array(points).T
    for axis in range(2):
        bad = np.isnan(xy[axis])
        if bad.any():
            first = int(np.argmax(bad))
            bad[max(first - 100, 0) : first] = True
            xy = xy[:, ~bad]
    return xy


def naive_pixels(points: NDArray, size: int, padding: int) -> NDArray:
    """Columns and rows as numpy rescales and truncates them; what has no finite value is 0."""
    pixels = []
    with np.errstate(all="ignore"):
        for values in points:
            low = values.min()
            if low < 0:
                values = values - low
            values = values / (values.max() - values.min()) * float(size - 2 * padding) + float(padding)
            pixels.append(np.where(np.isfinite(values), values, 0.0).astype(np.int64))
    return pixels[0] + size * pixels[1]


def naive_patches(pixels: Sequence[int], masks: Sequence[int], size: int, color: bool) -> NDArray:
    image = np.zeros((size, size), np.uint8)
    for i, (at, mask) in enumerate(zip(pixels, masks, strict=True)):
        y, x = divmod(at, size)
        patch = np.array([int(digit) for digit in f"{mask:09b}"], np.uint8).reshape(3, 3)
        image[y + 1 : y + 4, x + 1 : x + 4] = patch * (1 + i % 128 if color else 1)
    return image


@st.composite
def systems(draw: st.DrawFn) -> IFS:
    """Contracting, wandering and overflowing systems; some whose probabilities fall short of one."""
    n_maps = draw(st.integers(1, 7))
    scale = draw(st.sampled_from([0.5, 0.9, 1.2, 3.0, 20.0, 300.0, 1e30, 1e160]))
    number = st.floats(-1, 1, allow_subnormal=False)
    maps = np.array(draw(st.lists(st.tuples(*[number] * 6), min_size=n_maps, max_size=n_maps))) * scale
    shares = np.array(draw(st.lists(st.floats(0.01, 1), min_size=n_maps, max_size=n_maps)))
    return IFS(maps=maps, probs=shares / shares.sum() * draw(st.sampled_from([1.0, 0.8])))


@settings(max_examples=150, deadline=None)
@given(ifs=systems(), seed=st.integers(0, 2**32 - 1), n=st.sampled_from([2, 90, 150, 400]))
def test_an_orbit_and_its_pixels_equal_the_published_loop_overflow_or_not(ifs: IFS, seed: int, n: int) -> None:
    draws = np.random.RandomState(seed).random_sample(n)
    expected = naive_orbit(ifs.maps.tolist(), ifs.thresholds.tolist(), draws.tolist())
    points = chaos.orbit(ifs.maps, ifs.thresholds, draws)
    assert points.shape == expected.shape
    assert np.array_equal(points, expected)
    if points.shape[1] and (points.min(axis=1) < points.max(axis=1)).all():
        assert chaos.to_pixels(points, 37, 6).tolist() == naive_pixels(expected, 37, 6).tolist()


def test_an_overflowing_orbit_loses_its_nan_points_and_the_100_before() -> None:
    growing = IFS(maps=np.array([[-1.5, -1.5, 1.5, -1.5, 1, 1.0]]), probs=np.array([1.0]))
    draws = np.zeros(3000)
    kept = chaos.orbit(growing.maps, growing.thresholds, draws)
    whole = [(0.0, 0.0)]
    while not np.isnan(whole[-1]).any():
        x, y = whole[-1]
        whole.append((-1.5 * x - 1.5 * y + 1, 1.5 * x - 1.5 * y + 1))
    first_nan = next(i for i, (x, _) in enumerate(whole) if np.isnan(x)) if np.isnan(whole[-1][0]) else len(whole)
    assert kept.shape[1] == first_nan - 100 > 100
    assert np.array_equal(kept, np.array(whole[: first_nan - 100]).T)


def test_a_draw_above_the_last_threshold_repeats_the_point() -> None:
    ifs = IFS(maps=np.array([[0.5, 0, 0, 0.5, 1, 2.0]]), probs=np.array([0.5]))
    points = chaos.orbit(ifs.maps, ifs.thresholds, np.array([0.1, 0.9, 0.5, 0.7, 0.2, 0.0]))
    assert points[0].tolist() == [0, 1, 1, 1.5, 1.5, 1.75]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 300), size=st.integers(13, 40), color=st.booleans())
def test_drawings_equal_a_plain_loop(seed: int, n: int, size: int, color: bool) -> None:
    rng = np.random.RandomState(seed)
    at = rng.randint(6, size - 5, (2, n))
    pixels = (at[0] + size * at[1]).astype(np.int32)
    masks = rng.randint(1, 512, n).astype(np.uint16)
    drawn = chaos.draw_patches(pixels, masks, size, color)
    assert drawn.tolist() == naive_patches(pixels.tolist(), masks.tolist(), size, color).tolist()
    dots = np.zeros(size * size, int)
    for i, pixel in enumerate(pixels.tolist()):
        dots[pixel] = 1 + i % 128 if color else 1
    assert chaos.draw_points(pixels, size, color).ravel().tolist() == dots.tolist()


def test_every_golden_image_of_the_published_renderer_is_drawn_pixel_for_pixel() -> None:
    folder = Path(__file__).parent / "golden/fractaldb"
    index = json.loads((folder / "pictures/index.json").read_text())
    assert len(index) == 36
    published = random.Random(0)
    masks = np.array([published.randrange(1, 512) for _ in range(max(row["n_points"] for row in index))], np.uint16)
    for row in index:
        style = Style(draw=row["draw"], size=row["size"], n_points=row["n_points"])
        category = Category(name=row["category"], ifs=read_csv(folder / "categories" / f"{row['category']}.csv"))
        pixels = orbit_pixels(category, row["weight_index"], style)
        image = drawing(pixels, masks[: len(pixels)] if "patch" in row["draw"] else None, style)
        expected = np.asarray(Image.open(folder / "pictures" / row["file"]).convert("RGB"))
        assert np.array_equal(palette(style)[flip(image, row["flip"])], expected), row["file"]


def test_the_orbit_draws_are_the_published_ones_and_a_shorter_orbit_is_a_prefix() -> None:
    assert orbit_draws(500).tolist() == np.random.RandomState(100).random_sample(500).tolist()
    assert orbit_draws(100).tolist() == orbit_draws(500)[:100].tolist()


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1, 12345678901234567890])
def test_patch_masks_are_uniform_on_1_to_511(seed: int) -> None:
    masks = chaos.patch_masks(np.uint64(seed), 200_000)
    counts = np.bincount(masks, minlength=512)
    assert len(counts) == 512
    assert counts[0] == 0
    assert chisquare(counts[1:]).pvalue > 1e-3
    pairs = np.bincount((masks[:-1].astype(int) % 16) * 16 + masks[1:] % 16, minlength=256)
    expected = np.outer(share := np.bincount(np.arange(1, 512) % 16) / 511, share).ravel() * (len(masks) - 1)
    assert chisquare(pairs, expected).pvalue > 1e-3  # a mask says nothing about the next


def test_patch_masks_depend_on_the_seed_alone_and_fewer_are_the_first_of_more() -> None:
    many = chaos.patch_masks(np.uint64(7), 1000)
    assert chaos.patch_masks(np.uint64(7), 300).tolist() == many[:300].tolist()
    assert chaos.patch_masks(np.uint64(8), 1000).tolist() != many.tolist()
    assert many[:4].tolist() == [471, 262, 76, 139]


def test_patch_seeds_differ_wherever_a_drawing_does() -> None:
    keys = [(1, "a", 0, 0), (2, "a", 0, 0), (1, "b", 0, 0), (1, "a", 1, 0), (1, "a", 0, 1), (1, "a", 10, 0)]
    assert len({patch_seed(*key) for key in keys}) == len(keys)
    assert patch_seed(1, "00000", 0, 0) == 12241086344906145229


def test_a_picture_is_the_same_whatever_is_drawn_before_it(categories: Path) -> None:
    known = read_categories(categories)
    wanted = [instance(known[label].name, m) for label in (0, 3) for m in (0, 1, 41, 399, 999)]
    by_name = {category.name: category for category in known}

    def draw(which: Instance) -> bytes:
        return picture(by_name[which.category], which, SMALL, seed=1).tobytes()

    forwards = [draw(which) for which in wanted]
    backwards = [draw(which) for which in reversed(wanted)][::-1]
    assert forwards == backwards
    assert len(set(forwards)) == len(wanted)
    row = list(drawings(by_name[wanted[2].category], 1, range(10), SMALL, seed=1))
    assert flip(row[0], wanted[2].flip).tobytes() == forwards[2]


def test_a_patch_picture_changes_with_the_seed_and_a_point_picture_does_not(categories: Path) -> None:
    category = read_categories(categories)[0]
    which = instance(category.name, 4)
    assert not np.array_equal(picture(category, which, SMALL, seed=1), picture(category, which, SMALL, seed=2))
    dots = Style(draw="point_gray", size=40, n_points=2000)
    assert np.array_equal(picture(category, which, dots, seed=1), picture(category, which, dots, seed=2))


def test_instances_are_enumerated_by_weight_row_then_patch_then_flip() -> None:
    names = [instance("00000", m).name for m in range(1000)]
    assert names[:5] == [*(f"00000_00_count_0_flip{k}" for k in range(4)), "00000_00_count_1_flip0"]
    assert names[40] == "00000_01_count_0_flip0"
    assert names[999] == "00000_24_count_9_flip3"
    expected = [f"00000_{w:02d}_count_{p}_flip{f}" for w in range(25) for p in range(10) for f in range(4)]
    assert names == expected
    assert [instance("c", m, n_patches=1).name for m in (3, 4, 99)] == [
        "c_00_count_0_flip3",
        "c_01_count_0_flip0",
        "c_24_count_0_flip3",
    ]


@pytest.mark.parametrize(("m", "n_patches"), [(-1, 10), (1000, 10), (100, 1)])
def test_an_instance_that_does_not_exist_is_refused(m: int, n_patches: int) -> None:
    with pytest.raises(IndexError, match=f"instance {m} of category c"):
        instance("c", m, n_patches=n_patches)


def test_flips_are_none_top_bottom_left_right_and_both() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    flipped = [flip(image, number).tolist() for number in range(4)]
    assert flipped == [image.tolist(), np.flipud(image).tolist(), np.fliplr(image).tolist(), image[::-1, ::-1].tolist()]


@pytest.mark.parametrize(
    ("settings_", "complaint"),
    [
        ({"draw": "patch"}, "draw type 'patch' is not one of patch_gray, patch_color, point_gray, point_color"),
        ({"size": 12}, "size 12 px leaves nothing inside the padding of 6 px per side; at least 13"),
        ({"size": -1}, "size -1 px leaves nothing"),
        ({"size": 4097}, "size 4097 px is above the largest supported, 4096"),
        ({"n_points": 0}, "0 points: 1 to 134217727"),
        ({"weight_step": 0.6}, "weight step 0.6 is not one of the published"),
    ],
)
def test_a_style_out_of_range_is_refused(settings_: dict[str, object], complaint: str) -> None:
    with pytest.raises(FractalError) as error:
        Style(**settings_)  # type: ignore[arg-type]
    assert str(error.value).startswith(complaint)


@pytest.mark.parametrize("draw", ["patch_gray", "patch_color", "point_gray", "point_color"])
def test_the_smallest_and_odd_sizes_are_drawn_inside_the_picture(categories: Path, draw: str) -> None:
    for size in (13, 14, 33):
        style = Style(draw=draw, size=size, n_points=500)
        for category in read_categories(categories):
            image = picture(category, instance(category.name, 6, n_patches=style.n_patches), style, seed=1)
            assert image.shape == (size, size)
            assert 0 < image.max() < len(palette(style))


def test_the_palette_is_gray_127_or_the_hue_circle() -> None:
    assert palette(Style()).tolist() == [[0, 0, 0], [127, 127, 127]]
    hues = palette(Style(draw="point_color"))
    assert hues.shape == (129, 3)
    assert hues[0].tolist() == [0, 0, 0]
    assert len({tuple(hue) for hue in hues.tolist()}) > 100


def test_a_category_has_1000_patch_or_100_point_pictures() -> None:
    assert Style().n_instances == 1000
    assert Style(draw="point_gray").n_instances == 100


def test_a_system_without_a_finite_point_is_refused_by_name() -> None:
    with pytest.raises(FractalError, match=r"category runaway, weight row 2: the system diverges"):
        orbit_pixels(DIVERGING, 2, SMALL)
    assert chaos.n_filled(DIVERGING.ifs.maps, DIVERGING.ifs.thresholds, orbit_draws(500), 64, 6) == 0


@pytest.mark.parametrize(("maps", "n_points"), [([[0.0] * 6], 500), ([[0.5, 0, 0, 0.5, 1, 0]], 500), ([[0.5] * 6], 1)])
def test_a_system_whose_points_share_a_coordinate_is_refused_by_name(maps: list[list[float]], n_points: int) -> None:
    flat = Category(name="flat", ifs=IFS(maps=np.array(maps), probs=np.array([1.0])))
    with pytest.raises(FractalError, match=rf"category flat, weight row 4: all {n_points} points share one coordinate"):
        orbit_pixels(flat, 4, Style(size=40, n_points=n_points))
