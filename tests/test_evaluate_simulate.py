from __future__ import annotations

import hashlib
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.tasks.simulated import simulate as module
from synthgen_evaluate.tasks.simulated.animals import (
    COATS,
    KINDS,
    MOST_SPECIES,
    Pose,
    burst_pose,
    draw_animal,
    generator,
    species,
)
from synthgen_evaluate.tasks.simulated.scenery import PLANTS, picture, plant_mask, scene
from synthgen_evaluate.tasks.simulated.simulate import SHARES, draw, least_images, plan, simulate

SMALL: dict[str, Any] = {"seed": 3, "n_classes": 4, "n_locations": 5, "n_images": 60, "size": 32}


def digests(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "set"
    simulate(out, **SMALL)
    return out


@pytest.fixture(scope="module")
def default_frames() -> list[module.Frame]:
    return plan(seed=0, n_classes=12, n_locations=24, n_images=1500)


@pytest.fixture(scope="module")
def thumbnails(default_frames: list[module.Frame]) -> np.ndarray:
    """The default set's pictures without their strip, float64 [1500, 8 * 8 * 3]: too coarse to tell animals."""
    small = []
    for frame in default_frames:
        image = Image.fromarray(draw(frame, seed=0, size=64)).crop((0, 0, 64, 56))
        small.append(np.asarray(image.resize((8, 8), Image.Resampling.BOX), float).ravel() / 255)
    return np.array(small)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_wilds_loads_the_set(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "outdated", None)  # wilds would ask the network for its newest version
    import wilds

    loaded = wilds.get_dataset("iwildcam", root_dir=str(small))
    assert len(loaded) == 60
    assert loaded.n_classes == 4
    for split in SHARES:
        assert len(loaded.get_subset(split)) > 0
    image, y, metadata = loaded[0]
    with image:
        assert image.size == (32, 32)
    assert 0 <= int(y) < 4
    assert len(metadata) == len(loaded.metadata_fields)


def test_categories_start_with_empty_and_have_unique_names(small: Path) -> None:
    categories = pd.read_csv(small / "iwildcam_v2.0" / "categories.csv")
    assert categories.y.tolist() == [0, 1, 2, 3]
    assert categories.name[0] == "empty"
    assert categories.name.is_unique


def test_metadata_has_the_columns_of_iwildcam_and_a_second_between_the_images_of_a_burst(small: Path) -> None:
    rows = pd.read_csv(small / "iwildcam_v2.0" / "metadata.csv", index_col=0)
    assert ",".join(["", *rows.columns]) == module.HEADER
    assert rows.image_id.is_unique
    for _, burst in rows.groupby("sequence_remapped"):
        times = pd.to_datetime(burst.datetime).to_numpy()
        assert (np.diff(times) == np.timedelta64(1, "s")).all()
        assert len(burst[["split", "location_remapped", "y"]].drop_duplicates()) == 1


def test_same_arguments_give_the_same_bytes(small: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "again", **SMALL)
    assert digests(tmp_path / "again") == digests(small)


def test_another_seed_gives_other_pictures(default_frames: list[module.Frame]) -> None:
    frame = default_frames[0]
    assert not np.array_equal(draw(frame, seed=0, size=32), draw(frame, seed=1, size=32))


def test_a_picture_does_not_depend_on_what_was_drawn_before(default_frames: list[module.Frame]) -> None:
    frame = default_frames[700]
    alone = draw(frame, seed=0, size=32)
    scene.cache_clear()
    for other in default_frames[695:700]:
        draw(other, seed=0, size=32)
    np.testing.assert_array_equal(draw(frame, seed=0, size=32), alone)


def test_a_stopped_run_resumes_to_identical_bytes(small: Path, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 20:
            raise StoppedError

    out = tmp_path / "set"
    with pytest.raises(StoppedError):
        simulate(out, **SMALL, progress=stop)
    base = out / "iwildcam_v2.0"
    assert not (base / "RELEASE_v2.0.txt").exists()
    (base / "train" / "00001.jpg.1.tmp").write_bytes(b"half")
    next((base / "train").glob("*.jpg")).write_bytes(b"")
    seen: list[tuple[int, int]] = []
    simulate(out, **SMALL, progress=lambda done, total: seen.append((done, total)))
    assert seen[0][0] >= 20
    assert seen[-1] == (60, 60)
    assert digests(out) == digests(small)


def test_a_finished_set_is_left_alone(small: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    simulate(small, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before


def test_other_arguments_are_refused_naming_the_one_that_differs(small: Path) -> None:
    with pytest.raises(EvaluateError, match=r"size 32 \(requested: 48\)"):
        simulate(small, **{**SMALL, "size": 48})


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(EvaluateError, match="not empty"):
        simulate(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(EvaluateError, match="not a directory"):
        simulate(tmp_path / "notes.txt", **SMALL)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"n_classes": 1}, "n_classes 1 .* from 2 "),
        ({"n_classes": MOST_SPECIES + 2}, f"n_classes {MOST_SPECIES + 2} .* to {MOST_SPECIES + 1}"),
        ({"n_locations": 2}, "n_locations 2 .* from 3 "),
        ({"size": 31}, "size 31 .* from 32 "),
        ({"seed": -1}, "seed -1 .* from 0 "),
        ({"n_images": 5}, f"n_images 5 .* at least {least_images(4, 5)}"),
    ],
)
def test_bad_arguments_are_told_before_anything_is_written(changed: dict[str, int], said: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match=said) as told:
        simulate(tmp_path / "set", **{**SMALL, **changed})
    assert "\n" not in str(told.value)
    assert not (tmp_path / "set").exists()


SETS = [(2, 3, 0), (12, 24, 1500), (5, 3, 0), (40, 9, 0), (MOST_SPECIES + 1, 30, 0), (3, 100, 0), (20, 50, 4000)]


@pytest.mark.parametrize(("n_classes", "n_locations", "n_images"), SETS)
def test_every_plan_has_all_splits_with_locations_and_sequences_kept_apart(
    n_classes: int, n_locations: int, n_images: int
) -> None:
    n_images = n_images or least_images(n_classes, n_locations)
    frames = plan(seed=1, n_classes=n_classes, n_locations=n_locations, n_images=n_images)
    assert [frame.index for frame in frames] == list(range(n_images))
    counts = Counter(frame.burst.split for frame in frames)
    for split, share in SHARES.items():
        assert counts[split] >= 1
        assert abs(counts[split] - share * n_images) < 1
    places = {split: {frame.burst.location for frame in frames if frame.burst.split == split} for split in SHARES}
    assert set.union(*places.values()) == set(range(n_locations))
    for apart in ("val", "test"):
        others = set.union(*(places[split] for split in SHARES if split != apart))
        assert not places[apart] & others
    assert places["id_val"] | places["id_test"] <= places["train"]
    sequences = {(frame.sequence, frame.burst.number) for frame in frames}
    assert {sequence for sequence, _ in sequences} == set(range(len(sequences)))
    assert {frame.burst.y for frame in frames if frame.burst.split == "train"} == set(range(n_classes))
    for split in ("test", "id_test"):
        classes = {frame.burst.y for frame in frames if frame.burst.split == split}
        if counts[split] >= n_classes + n_locations:
            assert classes == set(range(n_classes))


def test_id_splits_are_taken_on_other_days_than_train(default_frames: list[module.Frame]) -> None:
    days = {
        split: {frame.burst.start.timetuple().tm_yday for frame in default_frames if frame.burst.split == split}
        for split in ("train", "id_val", "id_test")
    }
    assert not days["train"] & (days["id_val"] | days["id_test"])
    assert not days["id_val"] & days["id_test"]


def test_classes_are_long_tailed_and_empty_is_common(default_frames: list[module.Frame]) -> None:
    counts = Counter(frame.burst.y for frame in default_frames)
    ordered = sorted(counts.values())
    assert counts[0] >= ordered[-3]
    assert ordered[-1] > 8 * ordered[0]


@pytest.mark.parametrize("size", [32, 100])
def test_the_smallest_sets_are_drawn(size: int, tmp_path: Path) -> None:
    n_images = least_images(2, 3)
    simulate(tmp_path, n_classes=2, n_locations=3, n_images=n_images, size=size)
    files = sorted((tmp_path / "iwildcam_v2.0" / "train").iterdir())
    assert [path.name for path in files] == [f"{i:05d}.jpg" for i in range(n_images)]
    for path in files:
        with Image.open(path) as image:
            assert image.size == (size, size)


def test_all_species_have_names_of_their_own_and_neighbours_differ_in_kind() -> None:
    all_species = [species(5, y) for y in range(1, MOST_SPECIES + 1)]
    assert len({one.name for one in all_species}) == MOST_SPECIES
    first = all_species[: len(KINDS)]
    assert all(sum(one.name.endswith(kind) for one in first) == 1 for kind in KINDS)
    assert {one.coat for one in first} == set(COATS)


def test_night_frames_are_grey_and_fall_off_from_the_flash_while_day_frames_have_colour(
    default_frames: list[module.Frame],
) -> None:
    night = [frame for frame in default_frames if module.is_night(frame.when)][:20]
    day = [frame for frame in default_frames if not module.is_night(frame.when)][:20]
    for frame in night:
        image = draw(frame, seed=0, size=64)[:58].astype(int)
        assert (image == image[..., :1]).all()
        assert image[36:48, 20:44].mean() > image[:8].mean()
    colours = [np.ptp(draw(frame, seed=0, size=64)[:58].astype(int), axis=-1).mean() for frame in day]
    assert min(colours) > 8


def test_an_animal_changes_the_picture_where_it_stands_and_plants_before_it_hide_it() -> None:
    view = scene(0, 1, 64)
    pose = Pose(x=0.5, feet=0.75)
    when = plan(seed=0, n_classes=2, n_locations=3, n_images=50)[0].when.replace(hour=12)
    animal = species(0, 1)
    empty, filled = (
        picture(view, one, pose, when=when, cloud=0.5, celsius=9, rng=np.random.default_rng(0)).astype(int)
        for one in (None, animal)
    )
    _, cover, _ = draw_animal(animal, pose, 64)
    hidden = np.max([layer.cover for layer in view.layers if layer.base > pose.feet], axis=0)
    change = np.abs(filled - empty).mean(-1)
    seen, apart = (cover > 0.9) & (hidden < 0.1), (cover == 0) & (np.arange(64) < 30)[:, None]
    assert change[seen].mean() > 4 * change[apart].mean()


@pytest.mark.parametrize("kind", PLANTS)
def test_plants_fill_part_of_their_drawing(kind: str) -> None:
    for individual in range(5):
        mask = plant_mask(kind, generator("plant", individual))
        assert 0.08 < (mask > 0).mean() < 0.9


def test_coverage_is_the_same_at_any_size() -> None:
    for y in range(1, 9):
        pose = Pose(scale=1.2)
        fine, coarse = draw_animal(species(0, y), pose, 128)[1], draw_animal(species(0, y), pose, 64)[1]
        assert np.abs(fine.reshape(64, 2, 64, 2).mean((1, 3)) - coarse).mean() < 0.004


def test_an_animal_out_of_view_leaves_no_mark_and_blur_keeps_its_area() -> None:
    assert draw_animal(species(0, 1), Pose(x=-3), 64)[1].sum() == 0
    still = draw_animal(species(0, 3), Pose(), 64)[1]
    moving = draw_animal(species(0, 3), Pose(blur=0.08), 64)[1]
    assert moving.sum() == pytest.approx(still.sum(), rel=0.02)
    assert (moving > 0).sum() > (still > 0).sum()


def test_the_background_alone_predicts_the_class_at_known_cameras_and_misleads_at_new_ones(
    default_frames: list[module.Frame], thumbnails: np.ndarray
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    y = np.array([frame.burst.y for frame in default_frames])
    split = np.array([frame.burst.split for frame in default_frames])
    inputs = StandardScaler().fit(thumbnails[split == "train"]).transform(thumbnails)
    model = LogisticRegression(C=0.3, max_iter=2000).fit(inputs[split == "train"], y[split == "train"])
    accuracy = {name: model.score(inputs[split == name], y[split == name]) for name in ("id_test", "test")}
    commonest = Counter(y[split == "train"].tolist()).most_common(1)[0][0]
    chance = (y[split == "id_test"] == commonest).mean()
    assert accuracy["id_test"] > 0.45 > 2 * chance
    assert accuracy["test"] < 0.6 * accuracy["id_test"]


def test_the_animals_pixels_carry_the_class_at_new_cameras(default_frames: list[module.Frame]) -> None:
    """Nearest neighbour on animals cut out of grey pictures of the training cameras and of new ones."""
    crops: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    for frame in default_frames:
        burst = frame.burst
        if burst.split in crops and burst.y and frame.at == 0:
            view = scene(0, burst.location, 64)
            rng = generator(0, "burst", burst.number)
            rng.uniform(), rng.normal()  # the weather is drawn first
            pose = burst_pose(rng, view.horizon, 0, slow=module.is_night(frame.when))
            _, cover, _ = draw_animal(species(0, burst.y), pose, 64)
            rows, columns = np.nonzero(cover > 0.5)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            grey = draw(frame, seed=0, size=64).mean(-1) * (cover > 0.5)
            crop = np.asarray(Image.fromarray(grey).crop(box).resize((16, 16), Image.Resampling.BILINEAR))
            crop = crop[:, :: pose.facing] / np.linalg.norm(crop)
            crops[burst.split].append(np.append(crop.ravel(), 0.5 * np.log((box[2] - box[0]) / (box[3] - box[1]))))
            labels[burst.split].append(burst.y)
    known, new = np.array(crops["train"]), np.array(crops["test"])
    nearest = ((new[:, None] - known[None]) ** 2).sum(-1).argmin(1)
    right = np.array(labels["train"])[nearest] == np.array(labels["test"])
    assert right.mean() > 0.75  # 11 species: chance is about 0.1, the commonest about 0.25
