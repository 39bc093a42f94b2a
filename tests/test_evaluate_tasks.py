import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.tasks.base import SPLITS, Split, Task
from synthgen_evaluate.tasks.known import kinds, words_of
from synthgen_evaluate.tasks.simulated.simulate import simulate
from synthgen_evaluate.tasks.spec import TaskSpec, open_task
from synthgen_evaluate.tasks.wilds.reading import import_wilds
from synthgen_evaluate.tasks.wilds.sets import SETS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wilds.*", "ignore::DeprecationWarning:ogb.*")
SIZE = 32  # pixels of the images that these tests write


def opened(path: Path, kind: str = "iwildcam", *, empty: bool = True) -> Task:
    return open_task(TaskSpec(path=str(path), kind=kind, empty=empty))  # type: ignore[arg-type]


# Small sets in WILDS's layouts.  The column "task", which wilds does not read, is the split of the task.
FMOW = """\
split,img_filename,category,country_code,cloud_cover,timestamp,task
train,zoo_0_0_rgb.jpg,zoo,FRA,2,2002-02-07T02:48:56Z,train
train,airport_0_1_rgb.jpg,airport,USA,0,2012-12-31T23:59:59.643Z,train
seq,zoo_9_0_rgb.jpg,zoo,FRA,0,2010-02-07T02:48:56Z,
train,airport_0_2_rgb.jpg,airport,KEN,0,2014-02-07T02:48:56Z,
val,zoo_3_0_rgb.jpg,zoo,KEN,0,2011-02-07T02:48:56Z,id_val
val,zoo_3_1_rgb.jpg,zoo,,1,2013-01-01T00:00:00Z,val
test,airport_7_0_rgb.jpg,airport,USA,0,2012-02-07T02:48:56Z,id_test
test,zoo_5_0_rgb.jpg,zoo,KEN,0,2016-01-01T00:00:00Z,test
test,wind_farm_5_0_rgb.jpg,wind_farm,FRA,0,2017-02-07T02:48:56.1Z,test
"""
COUNTRIES = """\
name,alpha-2,alpha-3,region
France,FR,FRA,Europe
Kenya,KE,KEN,Africa
United States,US,USA,Americas
"""
CAMELYON17 = """\
,patient,node,x_coord,y_coord,tumor,slide,center,split,task
0,004,4,3328,21792,1,0,0,0,train
1,004,4,3200,22272,0,0,0,1,id_test
2,060,1,3168,22272,0,30,3,0,train
3,060,2,3328,21760,1,31,3,1,id_test
4,020,4,3232,22240,1,10,1,0,val
5,021,3,3328,21792,0,11,1,1,val
6,040,1,6144,64,0,20,2,0,test
7,041,0,3264,22336,1,21,2,1,test
"""
RXRX1 = """\
site_id,well_id,cell_type,dataset,experiment,plate,well,site,well_type,sirna,sirna_id,task
HEPG2-01_2_B02_1,HEPG2-01_2_B02,HEPG2,train,HEPG2-01,2,B02,1,treatment,s21721,0,train
HEPG2-01_2_B02_2,HEPG2-01_2_B02,HEPG2,train,HEPG2-01,2,B02,2,treatment,s21721,0,id_test
HUVEC-02_1_B03_1,HUVEC-02_1_B03,HUVEC,train,HUVEC-02,1,B03,1,treatment,s20894,1,train
HUVEC-02_1_B03_2,HUVEC-02_1_B03,HUVEC,train,HUVEC-02,1,B03,2,treatment,s20894,1,id_test
HEPG2-08_1_B02_1,HEPG2-08_1_B02,HEPG2,val,HEPG2-08,1,B02,1,treatment,s19179,2,val
HEPG2-08_1_B02_2,HEPG2-08_1_B02,HEPG2,val,HEPG2-08,1,B02,2,treatment,s19179,2,val
U2OS-04_1_B04_1,U2OS-04_1_B04,U2OS,test,U2OS-04,1,B04,1,treatment,s21721,0,test
U2OS-04_1_B04_2,U2OS-04_1_B04,U2OS,test,U2OS-04,1,B04,2,treatment,s21721,0,test
"""


def rows(text: str, split: str | None = None) -> list[dict[str, str]]:
    return [row for row in csv.DictReader(text.splitlines()) if split in (None, row["task"])]


def write_set(root: Path, kind: str, text: str, files: list[str]) -> None:
    """A copy of a WILDS set: its metadata, and an image a row that differs from all others."""
    folder = root / f"{kind}_v{SETS[kind].version}"
    folder.mkdir(parents=True)
    (folder / f"RELEASE_v{SETS[kind].version}.txt").touch()
    (folder / SETS[kind].metadata).write_text(text)
    for number, name in enumerate(files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIZE, SIZE), (7 * number, number, 255 - number)).save(folder / name)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy of every set, in one folder."""
    root = tmp_path_factory.mktemp("sets") / "wilds"
    simulate(root, n_classes=4, n_locations=6, n_images=90, size=SIZE)
    write_set(root, "fmow", FMOW, [f"images/rgb_img_{number}.png" for number in range(len(rows(FMOW)))])
    (root / "fmow_v1.1" / "country_code_mapping.csv").write_text(COUNTRIES)
    patches = "patches/patient_{patient}_node_{node}/patch_patient_{patient}_node_{node}_x_{x_coord}_y_{y_coord}.png"
    write_set(root, "camelyon17", CAMELYON17, [patches.format(**row) for row in rows(CAMELYON17)])
    sites = "images/{experiment}/Plate{plate}/{well}_s{site}.png"
    write_set(root, "rxrx1", RXRX1, [sites.format(**row) for row in rows(RXRX1)])
    return root


@pytest.fixture
def copy(sets: Path, tmp_path: Path) -> Path:
    shutil.copytree(sets, tmp_path / "copy")
    return tmp_path / "copy"


def pixels(split: Split) -> list[np.ndarray]:
    return list(split.decode(np.arange(len(split.y)), SIZE))


@pytest.mark.parametrize("kind", SETS)
def test_every_split_has_the_pixels_labels_and_order_that_wilds_gives(sets: Path, kind: str) -> None:
    task = opened(sets, kind)
    dataset = import_wilds().get_dataset(kind, root_dir=str(sets), download=False)
    for name, split in task.splits.items():
        subset = dataset.get_subset(SETS[kind].splits[name])
        assert len(split.y) == len(subset) > 0
        for (image, y, _), own_y, own_image in zip(subset, split.y, pixels(split), strict=True):
            assert own_y == y
            assert np.array_equal(own_image, np.asarray(image.convert("RGB")))
    assert len(task.class_names) == task.identity["n_classes"] == dataset.n_classes
    assert task.identity["n_images"] == sum(len(split.y) for split in task.splits.values())


@pytest.mark.parametrize("kind", SETS)
def test_image_ids_are_unique_and_all_arrays_of_a_length(sets: Path, kind: str) -> None:
    task = opened(sets, kind)
    ids = [name for split in task.splits.values() for name in split.image_id]
    assert len(set(ids)) == len(ids) == task.identity["n_images"]
    for split in task.splits.values():
        assert len(split.files) == len(split.image_id) == len(split.y) == len(split.cluster) == len(split.sequence)
        assert split.y.dtype == split.cluster.dtype == split.sequence.dtype == np.int64
        if kind != "iwildcam":
            assert (split.sequence == -1).all()


@pytest.mark.parametrize("kind", SETS)
def test_the_folders_and_splits_of_the_table_are_those_of_wilds(sets: Path, kind: str) -> None:
    opened(sets, kind)
    dataset = import_wilds().get_dataset(kind, root_dir=str(sets), download=False)
    assert Path(dataset.data_dir).name == f"{kind}_v{dataset.latest_version}" == f"{kind}_v{SETS[kind].version}"
    assert set(SETS[kind].splits.values()) == set(dataset.split_dict)  # none is left out
    assert {"train", "val", "test", "id_test"} <= set(SETS[kind].splits) <= set(SPLITS)


def test_all_five_splits_come_with_labels_and_locations(sets: Path) -> None:
    task = opened(sets)
    assert tuple(task.splits) == SPLITS
    assert sum(len(split.y) for split in task.splits.values()) == 90
    assert task.class_names[0] == "empty"
    at = {name: set(split.cluster.tolist()) for name, split in task.splits.items()}
    assert not (at["val"] | at["test"]) & at["train"]
    assert at["id_test"] <= at["train"]
    (image,) = task.splits["test"].decode(np.array([0]), 24)
    assert image.shape == (24, 24, 3)


def test_fmow_is_clustered_by_country_and_split_by_year(sets: Path) -> None:
    task = opened(sets, "fmow")
    assert tuple(task.splits) == SPLITS
    assert len(task.class_names) == 62
    countries = set()
    for name, split in task.splits.items():
        wanted = rows(FMOW, name)
        assert split.image_id.tolist() == [f"rgb_img_{rows(FMOW).index(row)}" for row in wanted]
        assert [task.class_names[y] for y in split.y] == [row["category"] for row in wanted]
        countries |= {(at, row["country_code"]) for at, row in zip(split.cluster, wanted, strict=True)}
    assert len(countries) == len({number for number, _ in countries}) == len({code for _, code in countries}) == 4


def test_camelyon17_is_clustered_by_slide_and_its_id_val_is_the_id_test(sets: Path) -> None:
    task = opened(sets, "camelyon17")
    assert set(task.splits) == {"train", "val", "test", "id_test"}
    assert task.class_names == ("no tumor", "tumor")
    for name, split in task.splits.items():
        assert split.y.tolist() == [int(row["tumor"]) for row in rows(CAMELYON17, name)]
        assert split.cluster.tolist() == [int(row["slide"]) for row in rows(CAMELYON17, name)]
    assert task.splits["test"].image_id[0] == "patient_040_node_1/patch_patient_040_node_1_x_6144_y_64"


def test_rxrx1_is_clustered_by_experiment_and_has_no_id_val(sets: Path) -> None:
    task = opened(sets, "rxrx1")
    assert set(task.splits) == {"train", "val", "test", "id_test"}
    assert task.class_names == ("class 0", "class 1", "class 2")
    experiments = set()
    for name, split in task.splits.items():
        assert split.y.tolist() == [int(row["sirna_id"]) for row in rows(RXRX1, name)]
        experiments |= {(at, row["experiment"]) for at, row in zip(split.cluster, rows(RXRX1, name), strict=True)}
    assert len(experiments) == len({number for number, _ in experiments}) == 4
    assert task.splits["id_test"].image_id.tolist() == ["HEPG2-01/Plate2/B02_s2", "HUVEC-02/Plate1/B03_s2"]


def test_real_camera_traps_open(shared: Path) -> None:
    task = opened(shared / "data" / "missouri" / "crops")
    assert {name: len(split.y) for name, split in task.splits.items()} == {
        "train": 595,
        "val": 81,
        "test": 214,
        "id_val": 90,
        "id_test": 128,
    }
    assert len(task.class_names) == 20
    for split in task.splits.values():
        assert len(set(split.image_id)) == len(split.y)  # several crops of one frame keep apart


def metadata(root: Path) -> dict[str, dict[str, str]]:
    with (root / "iwildcam_v2.0" / "metadata.csv").open(newline="") as file:
        return {Path(row["filename"]).stem: row for row in csv.DictReader(file)}


def test_labels_locations_and_sequences_are_those_of_the_metadata(traps: Path) -> None:
    found = metadata(traps)
    for split_name, split in opened(traps).splits.items():
        own = [found[image] for image in split.image_id]
        assert {row["split"] for row in own} == {split_name}
        assert split.y.tolist() == [int(row["y"]) for row in own]
        assert split.cluster.tolist() == [int(row["location_remapped"]) for row in own]
        assert split.sequence.tolist() == [int(row["sequence_remapped"]) for row in own]


@pytest.mark.parametrize("traps", ["simulated", "frames"], indirect=True)
def test_without_empty_frames_the_other_images_keep_their_class(traps: Path) -> None:
    found = metadata(traps)
    full, task = opened(traps), opened(traps, empty=False)
    assert task.class_names == full.class_names[1:]
    for name, split in task.splits.items():
        before = full.splits[name]
        kept = before.y != 0
        assert 0 < kept.sum() < len(kept)
        for key in ("files", "image_id", "cluster", "sequence"):
            assert np.array_equal(getattr(split, key), getattr(before, key)[kept])
        assert [task.class_names[y] for y in split.y] == [full.class_names[int(found[i]["y"])] for i in split.image_id]
    assert task.identity == full.identity | {
        "n_images": sum(row["y"] != "0" for row in found.values()),
        "n_classes": len(full.class_names) - 1,
        "left_out": {"empty": [0]},
    }


def rename_class(root: Path, old: str, new: str) -> None:
    path = root / "iwildcam_v2.0" / "categories.csv"
    path.write_text(path.read_text().replace(old, new))


def test_the_class_named_empty_is_left_out_whichever_number_it_has(copy: Path) -> None:
    names = opened(copy).class_names
    rename_class(copy, "empty", "nothing")
    rename_class(copy, f"2,{names[2]}", "2,empty")
    full, task = opened(copy), opened(copy, empty=False)
    assert task.class_names == ("nothing", names[1], names[3])
    assert task.identity["left_out"] == {"empty": [2]}
    train = full.splits["train"].y
    assert task.splits["train"].y.tolist() == [{0: 0, 1: 1, 3: 2}[y] for y in train.tolist() if y != 2]


def test_leaving_out_empty_frames_is_refused_where_no_class_is_named_so(sets: Path, copy: Path, tmp_path: Path) -> None:
    rename_class(copy, "empty", "nothing")
    nameless = shutil.copytree(copy, tmp_path / "nameless")
    (nameless / "iwildcam_v2.0" / "categories.csv").unlink()
    for path, kind in [(copy, "iwildcam"), (nameless, "iwildcam"), (sets, "fmow"), (sets, "rxrx1")]:
        with pytest.raises(EvaluateError, match="no class is named 'empty'") as caught:
            opened(path, kind, empty=False)
        assert "\n" not in str(caught.value)


def test_leaving_out_empty_frames_is_refused_where_nothing_would_be_left_of_a_split(copy: Path) -> None:
    path = copy / "iwildcam_v2.0" / "metadata.csv"
    found = metadata(copy).values()
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, next(iter(found)))
        writer.writeheader()
        writer.writerows(row | {"y": "0" if row["split"] == "id_val" else row["y"]} for row in found)
    with pytest.raises(EvaluateError, match="leaves no image in the split id_val"):
        opened(copy, empty=False)


def test_the_identity_of_a_whole_set_is_what_runs_have_always_been_named_by(sets: Path) -> None:
    assert set(opened(sets).identity) == {"kind", "n_images", "n_classes", "digest"}
    assert len({opened(sets, kind).identity["digest"] for kind in SETS}) == len(SETS)


def test_a_task_in_a_suite_file_is_checked() -> None:
    adapter = TypeAdapter(TaskSpec)
    assert adapter.validate_python({"path": "x"}) == TaskSpec(path="x", kind="iwildcam", empty=True)
    for wrong in ({"path": "x", "kind": "imagenet"}, {"path": "x", "emtpy": False}, {}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
    with pytest.raises(ValidationError, match=f"Input should be one of {', '.join(kinds())}"):
        adapter.validate_python({"path": "x", "kind": "imagenet"})
    assert set(SETS) <= set(kinds())


def test_importing_the_tasks_imports_neither_torch_nor_wilds() -> None:
    code = (
        "import sys, synthgen_evaluate.tasks.spec as spec; spec.kinds()\n"
        "assert not {'torch', 'wilds', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_wilds_starts_no_thread_and_asks_no_network() -> None:
    code = (
        "import socket, threading\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.getaddrinfo = refuse\n"
        "from synthgen_evaluate.tasks.wilds.reading import import_wilds\n"
        "started = []\n"
        "threading.Thread.start = lambda self: started.append(self)\n"
        "import_wilds()\n"
        "assert not started, started\n"
        "import sys; assert sys.modules.get('outdated', 1) is not None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_opening_fmow_leaves_the_guard_against_huge_images_in_place(sets: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    assert limit is not None
    sys.modules.pop("wilds.datasets.fmow_dataset", None)
    opened(sets, "fmow")
    assert limit == Image.MAX_IMAGE_PIXELS


Damage = Callable[[Path], object]


def remove(name: str) -> Damage:
    def change(root: Path) -> None:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def edit(old: str, new: str, count: int = -1, name: str = "iwildcam_v2.0/metadata.csv") -> Damage:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, count))

    return change


def overwrite(data: bytes, name: str = "iwildcam_v2.0/metadata.csv") -> Damage:
    return lambda root: (root / name).write_bytes(data)


FMOW_CSV = "fmow_v1.1/rgb_metadata.csv"
CAMELYON17_CSV = "camelyon17_v1.0/metadata.csv"
RXRX1_CSV = "rxrx1_v1.0/metadata.csv"
BAD = [
    ("iwildcam", edit("00003.jpg", "../../../00003.jpg"), "'../../../00003.jpg' leads out of train/"),
    ("iwildcam", edit("00003.jpg", "/etc/00003.jpg"), "'/etc/00003.jpg' leads out of train/"),
    ("iwildcam", remove("iwildcam_v2.0/RELEASE_v2.0.txt"), "RELEASE_v2.0.txt: missing; expected"),
    ("iwildcam", remove("iwildcam_v2.0/train/00003.jpg"), "1 of 90 images are missing, the first is 00003.jpg"),
    ("iwildcam", edit("location_remapped", "place"), "columns missing: location_remapped"),
    ("iwildcam", edit("id_val", "id_test"), "splits id_test, test, train, val; expected"),
    ("iwildcam", edit("00003.jpg", "00004.jpg"), "1 file names appear more than once"),
    (
        "iwildcam",
        edit("00003.jpg", "00004.png"),
        "1 file names appear more than once",
    ),  # an id is a name without ending
    ("iwildcam", edit(",id_val,", ",id_vla,", 1), "split is 'id_vla', not one of train, val, test, id_val, id_test"),
    ("iwildcam", overwrite(b""), "columns missing: split, location_remapped"),
    ("iwildcam", overwrite(b"\xff\xd8\xff\xe0"), "metadata.csv: not a CSV file"),
    ("iwildcam", remove(""), "missing; expected"),
    ("iwildcam", overwrite(b"y,nom\n", "iwildcam_v2.0/categories.csv"), "categories.csv: columns missing: name"),
    ("fmow", remove("fmow_v1.1"), "fmow_v1.1 with RELEASE_v1.1.txt, rgb_metadata.csv, country_code_mapping.csv and"),
    ("fmow", remove("fmow_v1.1/country_code_mapping.csv"), "country_code_mapping.csv: missing"),
    ("fmow", remove("fmow_v1.1/images/rgb_img_7.png"), "1 of 7 images are missing, the first is rgb_img_7.png"),
    ("fmow", edit("wind_farm", "farm", name=FMOW_CSV), "(row 9: category is 'farm'); every category must be one of"),
    (
        "fmow",
        edit("2017-02-07T", "7 February 2017 ", name=FMOW_CSV),
        "timestamp is '7 February 2017 02:48:56.1Z', not a time",
    ),
    ("fmow", edit("\ntest,", "\nval,", name=FMOW_CSV), "splits id_val, train, val; expected"),
    ("camelyon17", remove(CAMELYON17_CSV), "metadata.csv: missing; expected"),
    ("camelyon17", remove("camelyon17_v1.0/patches/patient_041_node_0"), "the first is patient_041_node_0/patch_p"),
    ("camelyon17", edit("tumor", "cancer", name=CAMELYON17_CSV), "columns missing: tumor"),
    ("camelyon17", edit(",0,30,3,", ",2,30,3,", name=CAMELYON17_CSV), "labels 0 to 2; tumor must be"),
    ("rxrx1", remove("rxrx1_v1.0/images"), "images: missing; expected"),
    ("rxrx1", remove("rxrx1_v1.0/images/U2OS-04"), "2 of 8 images are missing, the first is U2OS-04/Plate1/B04_s1.png"),
    ("rxrx1", edit("s20894,1", "s20894,7", name=RXRX1_CSV), "(AssertionError); sirna_id must run from 0"),
]


@pytest.mark.parametrize(("kind", "damage", "said"), BAD, ids=[f"{kind}-{said[:30]}" for kind, _, said in BAD])
def test_an_incomplete_copy_is_refused_saying_what_is_expected(
    copy: Path, kind: str, damage: Damage, said: str
) -> None:
    damage(copy)
    with pytest.raises(EvaluateError) as caught:
        opened(copy, kind)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def with_cell(root: Path, kind: str, column: str, value: str) -> Path:
    """Metadata with another value in the third row."""
    path = root / f"{kind}_v{SETS[kind].version}" / SETS[kind].metadata
    table = list(csv.reader(path.read_text().splitlines()))
    table[3][table[0].index(column)] = value
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(table)
    return path


CELLS = [(kind, column) for kind, known in SETS.items() for column in known.columns if column != "country_code"]


@pytest.mark.parametrize("value", ["nan", ""])
@pytest.mark.parametrize(("kind", "column"), CELLS)
def test_a_cell_that_wilds_cannot_use_is_named_with_row_and_column(
    copy: Path, kind: str, column: str, value: str
) -> None:
    path = with_cell(copy, kind, column, value)
    with pytest.raises(EvaluateError) as caught:
        opened(copy, kind)
    assert str(caught.value) == f"{path}: row 3: {column} is {value!r}, not {SETS[kind].columns[column].words}"


@pytest.mark.parametrize("value", ["inf", "1.5", "-1", "1e3", "٣", "1" + "0" * 18, "9" * 5000])
def test_a_cell_that_is_no_whole_number_is_named_with_row_and_column(copy: Path, value: str) -> None:
    with_cell(copy, "iwildcam", "y", value)
    with pytest.raises(
        EvaluateError, match=f"row 3: y is '{re.escape(value[:40])}', not a whole number of up to 18 digits$"
    ):
        opened(copy)


@pytest.mark.parametrize("kind", SETS)
def test_a_missing_copy_is_explained_and_nothing_made_or_loaded(tmp_path: Path, kind: str) -> None:
    with pytest.raises(EvaluateError, match="original download host has been down"):
        opened(tmp_path / "wilds", kind)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", SETS)
def test_a_broken_or_vanished_image_is_named(copy: Path, kind: str) -> None:
    split = opened(copy, kind).splits["test"]
    Path(split.files[0]).write_bytes(b"no image")
    Path(split.files[1]).unlink()
    for number, said in ((0, "broken image"), (1, "No such file")):
        with pytest.raises(EvaluateError, match=said) as caught:
            next(split.decode(np.array([number]), SIZE))
        assert split.files[number] in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_simulated_set_is_a_task_of_its_own_with_the_same_images(sets: Path, tmp_path: Path) -> None:
    own, copied = opened(sets, "simulated"), opened(sets, "iwildcam")
    assert own.class_names == copied.class_names
    for name, split in copied.splits.items():
        for field in fields(Split):
            assert np.array_equal(getattr(own.splits[name], field.name), getattr(split, field.name))
    assert own.identity == {**copied.identity, "kind": "simulated", "digest": own.identity["digest"]}
    simulate(tmp_path / "larger", n_classes=4, n_locations=6, n_images=90, size=SIZE + 8)
    assert opened(tmp_path / "larger", "iwildcam").identity == copied.identity  # of the metadata alone
    assert opened(tmp_path / "larger", "simulated").identity["digest"] != own.identity["digest"]
    assert words_of(own.identity).clusters == "simulated cameras"


def test_a_real_set_is_not_taken_for_a_simulated_one(copy: Path) -> None:
    (copy / "simulated.json").unlink()
    with pytest.raises(EvaluateError, match=r"simulated\.json: missing; `evaluate simulate"):
        opened(copy, "simulated")
