import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from synthgen.common.errors import SynthgenError
from synthgen.dataset.manifest import Manifest, read_manifest
from synthgen.dataset.shard import Item, data_path, read_shard
from synthgen.publishing.export import LAYOUTS, bytes_of, cut, export
from synthgen.storage.object_store import OBJECTS
from synthgen.storage.places import place

pytestmark = [  # of third parties
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(datasets|dill|multiprocess|webdataset|fsspec).*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning:webdataset"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

N, SIZE = 400, 40
SMALL = 800_000  # bytes: two of the four shards in a file
Pictures = list[tuple[str, int, NDArray[np.uint8]]]  # key, label, RGB pixels


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command, categories: Path) -> Path:
    out = tmp_path_factory.mktemp("export") / "set"
    settings = ("--n", N, "--size", SIZE, "--points", 1500, "--shard-size", 100, "--workers", 1)
    done = synthgen_here("fractal", "--out", out, "--categories", categories, *settings)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def stored(dataset: Path) -> Pictures:
    return [(item.key, item.label, rgb(item.image)) for item in items(dataset)]


def items(dataset: Path) -> Iterator[Item]:
    manifest = read_manifest(dataset)
    for shard in manifest.shards:
        yield from read_shard(data_path(dataset, manifest.plan.shard(shard.index)))


def rgb(image: bytes | Path) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
        return np.asarray(opened.convert("RGB"))


def same(read: Pictures, stored: Pictures) -> None:
    assert [(key, label) for key, label, _ in read] == [(key, label) for key, label, _ in stored]
    for (key, _, pixels), (_, _, expected) in zip(read, stored, strict=True):
        assert np.array_equal(pixels, expected), key


def silent(done: int) -> None:
    pass


def written(dataset: Path | Manifest, out: Path, layout: str, shard_bytes: int = SMALL) -> Path:
    manifest = dataset if isinstance(dataset, Manifest) else read_manifest(dataset)
    export(manifest, out, layout=layout, shard_bytes=shard_bytes, progress=silent)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("draw", ["patch_gray", "point_color"])
def test_an_image_folder_has_the_published_layout_and_the_files_of_the_shards(
    tmp_path: Path, synthgen_here: Command, categories: Path, draw: str
) -> None:
    settings = ("--n", 300, "--size", SIZE, "--points", 500, "--draw", draw, "--workers", 1)
    assert synthgen_here("fractal", "--out", tmp_path / "set", "--categories", categories, *settings).returncode == 0
    out = written(tmp_path / "set", tmp_path / "out", "imagefolder")
    expected = {f"{item.record['class']}/{item.record['name']}.png": item.image for item in items(tmp_path / "set")}
    assert len(expected) == 300
    found = files(out)
    assert found.keys() - expected.keys() == {"classes.json", ".synthgen-export.json"}
    assert {name: found[name] for name in expected} == expected


def test_torchvision_and_datasets_read_an_image_folder_with_its_labels_names_and_pixels(
    dataset: Path, stored: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    torchvision = pytest.importorskip("torchvision.datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    out = written(dataset, tmp_path / "out", "imagefolder")
    by_path = {f"{i.record['class']}/{i.record['name']}.png": s for i, s in zip(items(dataset), stored, strict=True)}
    class_names = list(read_manifest(dataset).plan.content.class_names)
    folder = torchvision.ImageFolder(str(out))
    assert folder.classes == class_names
    assert len(folder) == N
    for path, label in folder.samples:
        _, expected, pixels = by_path[str(Path(path).relative_to(out))]
        assert label == expected
        assert np.array_equal(rgb(Path(path)), pixels)
    loaded = datasets.load_dataset("imagefolder", data_dir=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["label"].names == class_names
    assert len(loaded) == N
    loaded = loaded.cast_column("image", datasets.Image(decode=False))
    for row in loaded:
        _, expected, pixels = by_path[str(Path(row["image"]["path"]).relative_to(out))]
        assert row["label"] == expected
        assert np.array_equal(rgb(Path(row["image"]["path"])), pixels)


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_reads_parquet_with_its_labels_names_records_and_pixels(
    dataset: Path, stored: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    out = written(dataset, tmp_path / "out", "parquet")
    loaded = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"), streaming=streaming)
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded.features["label"].names == list(read_manifest(dataset).plan.content.class_names)
    rows = list(loaded)
    same([(row["key"], row["label"], np.asarray(row["image"].convert("RGB"))) for row in rows], stored)
    for row, item in zip(rows, items(dataset), strict=True):
        assert {name: row[name] for name in item.record} == item.record


def test_parquet_is_what_datasets_itself_would_write(dataset: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    parquet = pytest.importorskip("pyarrow.parquet")
    out = written(dataset, tmp_path / "out", "parquet")
    paths = sorted(out.glob("data/*.parquet"))
    assert [path.name for path in paths] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    for path in paths:
        schema = parquet.read_schema(path)
        features = datasets.Features.from_arrow_schema(schema)
        assert schema.equals(features.arrow_schema)
        assert json.loads(schema.metadata[b"huggingface"]) == json.loads(features.arrow_schema.metadata[b"huggingface"])
    table = parquet.read_table(out / "data")
    assert table["image"].combine_chunks().field("bytes").to_pylist() == [item.image for item in items(dataset)]
    assert table["image"].combine_chunks().field("path").to_pylist() == [f"{item.key}.png" for item in items(dataset)]


def test_row_groups_hold_a_bounded_number_of_bytes(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("synthgen.publishing.export_parquet.GROUP_BYTES", 20_000)
    (path,) = written(dataset, tmp_path / "out", "parquet", 1 << 30).glob("data/*.parquet")
    found = parquet.ParquetFile(path)
    assert found.num_row_groups > 2
    assert sum(found.metadata.row_group(k).num_rows for k in range(found.num_row_groups)) == N
    for k in range(found.num_row_groups):
        sizes = [len(image["bytes"]) for image in found.read_row_group(k, columns=["image"])["image"].to_pylist()]
        assert sum(sizes[:-1]) < 20_000


@pytest.mark.parametrize("shard_bytes", [SMALL, 100_000])
def test_webdataset_and_datasets_read_tars_of_another_size(
    dataset: Path, stored: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int
) -> None:
    datasets = pytest.importorskip("datasets")
    webdataset = pytest.importorskip("webdataset")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    out = written(dataset, tmp_path / "out", "webdataset", shard_bytes)
    tars = [str(path) for path in sorted(out.glob("data/*.tar"))]
    assert len(tars) == (2 if shard_bytes == SMALL else 16)
    assert max(os.path.getsize(path) for path in tars) <= 1.1 * shard_bytes
    samples = webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8")
    same([(sample["__key__"], sample["cls"], sample["png"]) for sample in samples], stored)
    loaded = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    same([(row["__key__"], row["cls"], np.asarray(row["png"].convert("RGB"))) for row in loaded], stored)
    index = json.loads((out / "index.json").read_text())
    assert tuple(index["class_names"]) == read_manifest(dataset).plan.content.class_names
    assert [(one["name"], one["n_bytes"]) for one in index["files"]] == [
        (f"data/{Path(path).name}", os.path.getsize(path)) for path in tars
    ]
    assert sum(one["stop"] - one["start"] for one in index["files"]) == N


def test_tars_put_together_have_the_bytes_of_the_shards(dataset: Path, tmp_path: Path) -> None:
    out = written(dataset, tmp_path / "out", "webdataset", 1 << 30)
    end = bytes(2 * tarfile.BLOCKSIZE)
    shards = [path.read_bytes().removesuffix(end) for path in sorted(dataset.glob("data/*.tar"))]
    assert (out / "data" / "train-00000-of-00001.tar").read_bytes() == b"".join(shards) + end


@given(data=st.data(), shard_bytes=st.integers(1, 5000))
def test_the_files_of_an_export_hold_every_sample_once_in_order_and_keep_to_their_size(
    dataset: Path, data: st.DataObject, shard_bytes: int
) -> None:
    manifest = read_manifest(dataset)
    sizes = data.draw(st.lists(st.integers(1, 3000), min_size=4, max_size=4))
    each = tuple(replace(shard, n_bytes=size) for shard, size in zip(manifest.shards, sizes, strict=True))
    parts = cut(replace(manifest, shards=each), "parquet", shard_bytes)
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == N
    assert all(part.start < part.stop for part in parts)
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        whole = [s for s, size in enumerate(sizes) if 100 * s < part.stop and part.start < 100 * (s + 1)]
        if len(whole) > 1:
            assert (part.start % 100, part.stop % 100) == (0, 0)
            assert sum(sizes[s] for s in whole) <= shard_bytes
        elif part.stop - part.start > 1:
            assert (part.stop - part.start) / 100 * sizes[whole[0]] <= shard_bytes + sizes[whole[0]] / 100


KILLED = """
import os, signal, sys
from pathlib import Path
from synthgen.publishing.export import export
from synthgen.dataset.manifest import read_manifest

def stop(done):
    if done >= int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

export(read_manifest(Path(sys.argv[1])), Path(sys.argv[2]), layout=sys.argv[3], shard_bytes=150_000, progress=stop)
"""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_export_killed_twice_ends_with_the_files_of_one_that_was_not(
    dataset: Path, tmp_path: Path, layout: str
) -> None:
    whole = written(dataset, tmp_path / "whole", layout, 150_000)
    out, kept = tmp_path / "out", dict[Path, int]()
    for at in (128, 256):
        command = [sys.executable, "-c", KILLED, dataset, out, layout, at]
        killed = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        stand = [path for path in out.rglob("*.*") if path.is_file() and path.suffix in (".png", ".parquet", ".tar")]
        expected = files(whole)
        for path in stand:
            assert path.read_bytes() == expected[str(path.relative_to(out))]
        assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
        assert len(kept) < len(stand) < len(expected) - 2
        kept = {path: path.stat().st_mtime_ns for path in stand}
    written(dataset, out, layout, 150_000)
    assert files(out) == files(whole)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    written(dataset, out, layout, 150_000)  # nothing to do
    assert files(out) == files(whole)


def test_progress_counts_what_stood_already(dataset: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    out = written(dataset, tmp_path / "out", "webdataset", 150_000)
    (out / "data" / "train-00003-of-00012.tar").unlink()
    export(read_manifest(dataset), out, layout="webdataset", shard_bytes=150_000, progress=seen.append)
    assert seen
    assert all(N - 40 < done <= N for done in seen)
    assert seen[-1] == N


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scheme", ["file", "memory", "s3"])
def test_a_set_at_a_url_gives_the_files_of_the_local_one(
    dataset: Path, tmp_path: Path, layout: str, scheme: str, request: pytest.FixtureRequest
) -> None:
    if scheme == "file":
        url = f"file://{dataset}"
    else:
        url = f"memory://{tmp_path.name}" if scheme == "memory" else request.getfixturevalue("s3")
        there = OBJECTS.place(f"{url}/set")
        there.fs.put(f"{dataset}/", there.path, recursive=True)
        url = str(there)
    remote = export_from(url, tmp_path / "remote", layout)
    assert files(remote) == files(written(dataset, tmp_path / "local", layout))


def export_from(url: str, out: Path, layout: str) -> Path:
    export(read_manifest(place(url)), out, layout=layout, shard_bytes=SMALL, progress=silent)
    return out


def members(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as opened:
        return {one.name: opened.extractfile(one).read() for one in opened}  # type: ignore[union-attr]


def rewrite(dataset: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> Manifest:
    """A set whose second shard was changed by somebody who set its record right."""
    tar = sorted(dataset.glob("data/*.tar"))[1]
    changed = change(members(tar))
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as opened:
        for name, data in changed.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    record = json.loads(tar.with_suffix(".json").read_text())
    record |= {"n_bytes": tar.stat().st_size, "sha256": hashlib.sha256(tar.read_bytes()).hexdigest()}
    tar.with_suffix(".json").write_text(json.dumps(record))
    return read_manifest(dataset)


DAMAGES: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "image": (lambda m: m | {"000000117.png": m["000000118.png"]}, "image 000000117 differs from its record"),
    "label": (lambda m: m | {"000000117.cls": b"4" if m["000000117.cls"] != b"4" else b"0"}, "sample 000000117 has"),
    "gone": (lambda m: {k: v for k, v in m.items() if "000000199" not in k}, "99 samples, planned 100"),
    "more": (lambda m: m | {k.replace("199", "200"): v for k, v in m.items() if "199." in k}, "more samples than"),
    "key": (lambda m: {k.replace("000000117", "000000917"): v for k, v in m.items()}, "sample 000000917 has label"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_stops_an_export_with_its_name_and_key(
    dataset: Path, tmp_path: Path, layout: str, damage: str
) -> None:
    shutil.copytree(dataset, tmp_path / "set")
    change, told = DAMAGES[damage]
    manifest = rewrite(tmp_path / "set", change)
    with pytest.raises(SynthgenError, match=rf"fractal-train-000001\.tar: .*{told}.*synthgen verify") as error:
        written(manifest, tmp_path / "out", layout, 100_000)
    assert "\n" not in str(error.value)
    stand = files(tmp_path / "out")
    assert stand
    assert not [name for name in stand if name.endswith(".tmp")]


def test_a_record_with_other_columns_is_named(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "set")

    def extend(found: dict[str, bytes], **more: object) -> dict[str, bytes]:
        return found | {"000000117.json": json.dumps(json.loads(found["000000117.json"]) | more).encode()}

    manifest = rewrite(tmp_path / "set", lambda found: extend(found, extra=1))
    with pytest.raises(
        SynthgenError,
        match=r"000000\.parquet: its columns are not those of the record of 000000117 \(extra\)",
    ):
        written(manifest, tmp_path / "out", "parquet")
    shutil.rmtree(tmp_path / "set")
    shutil.copytree(dataset, tmp_path / "set")
    manifest = rewrite(tmp_path / "set", lambda found: extend(found, patch="none"))
    with pytest.raises(SynthgenError, match=r"000000\.parquet: its columns have other types than the records"):
        written(manifest, tmp_path / "other", "parquet")


HOSTILE: dict[str, tuple[str, dict[str, object]]] = {
    "absolute": ("/tmp/outside.png", {}),
    "upwards": ("../outside.png", {}),
    "a folder": ("x/000000100.png", {}),
    "symbolic link": ("000000100.png", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
    "hard link": ("000000100.png", {"type": tarfile.LNKTYPE, "linkname": "../outside"}),
    "device": ("000000100.png", {"type": tarfile.CHRTYPE}),
    "huge": ("000000100.png", {"size": 1 << 40}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_tar_writes_nothing_outside_the_export(
    dataset: Path, tmp_path: Path, layout: str, hostile: str
) -> None:
    shutil.copytree(dataset, tmp_path / "set")
    name, fields = HOSTILE[hostile]
    tar = sorted((tmp_path / "set").glob("data/*.tar"))[1]
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + tar.read_bytes())
    record = json.loads(tar.with_suffix(".json").read_text())
    tar.with_suffix(".json").write_text(json.dumps(record | {"n_bytes": tar.stat().st_size}))
    before = files(tmp_path)
    with pytest.raises(SynthgenError, match=r"fractal-train-000001\.tar: ") as error:
        written(tmp_path / "set", tmp_path / "out", layout)
    assert "\n" not in str(error.value)
    assert {k: v for k, v in files(tmp_path).items() if not k.startswith("out/")} == before
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert not Path("/tmp/outside.png").exists()


def test_an_unfinished_set_is_not_exported(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "set")
    (tmp_path / "set" / "data" / "fractal-train-000002.json").unlink()
    with pytest.raises(SynthgenError, match="300 of 400 images exist"):
        written(tmp_path / "set", tmp_path / "out", "parquet")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_this_export_is_refused_and_left_as_it_is(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").touch()
    (tmp_path / "file").touch()
    out = written(dataset, tmp_path / "out", "webdataset")
    before = files(tmp_path)
    for folder, layout, shard_bytes, told in (
        (tmp_path / "photos", "parquet", SMALL, "not empty and not an export"),
        (tmp_path / "file", "parquet", SMALL, "not a directory"),
        (out, "parquet", SMALL, "another export .layout webdataset there, parquet asked.; choose"),
        (out, "imagefolder", SMALL, "another export .layout webdataset there, imagefolder asked.; choose"),
        (out, "webdataset", SMALL + 1, f"another export .shard_bytes {SMALL} there, {SMALL + 1} asked"),
        (dataset / "out", "parquet", SMALL, "is inside the dataset .* itself; choose another place"),
        (dataset, "parquet", SMALL, "is inside the dataset .* itself; choose another place"),
    ):
        with pytest.raises(SynthgenError, match=told):
            written(dataset, folder, layout, shard_bytes)
        with pytest.raises(SynthgenError, match=told):
            export_from_file_url(dataset, folder, layout, shard_bytes)
    assert files(tmp_path) == before
    assert not (dataset / "out").exists()
    record = (out / ".synthgen-export.json").read_text()
    for strange in ("[]", "{", record.replace('"complete"', '"colour": 1, "complete"'), record[:-2] + ', "format": 1}'):
        (out / ".synthgen-export.json").write_text(strange)
        with pytest.raises(SynthgenError, match=r"export\.json: .*: not a record of an export; choose another"):
            written(dataset, out, "webdataset")


def export_from_file_url(dataset: Path, out: Path, layout: str, shard_bytes: int) -> None:
    manifest = read_manifest(place(f"file://{dataset}"))
    export(manifest, out, layout=layout, shard_bytes=shard_bytes, progress=silent)


def test_another_plans_export_is_refused(
    dataset: Path, tmp_path: Path, synthgen_here: Command, categories: Path
) -> None:
    settings = ("--n", 40, "--size", SIZE, "--points", 500, "--workers", 1)
    assert synthgen_here("fractal", "--out", tmp_path / "set", "--categories", categories, *settings).returncode == 0
    out = written(tmp_path / "set", tmp_path / "out", "imagefolder")
    with pytest.raises(SynthgenError, match=r"another export \(plan \w{16} there, \w{16} asked\)"):
        written(dataset, out, "imagefolder")


def test_two_processes_do_not_export_to_one_folder(dataset: Path, tmp_path: Path) -> None:
    def second(done: int) -> None:
        with pytest.raises(SynthgenError, match="another process is exporting to it"):
            written(dataset, tmp_path / "out", "parquet", 1 << 30)
        raised.append(done)

    raised: list[int] = []
    export(read_manifest(dataset), tmp_path / "out", layout="parquet", shard_bytes=1 << 30, progress=second)
    assert raised


def test_an_image_folder_grows_with_its_set(tmp_path: Path, synthgen_here: Command, categories: Path) -> None:
    settings = ("--size", SIZE, "--points", 500, "--workers", 1, "--categories", categories, "--out", tmp_path / "set")
    assert synthgen_here("fractal", "--n", 40, *settings).returncode == 0
    out = written(tmp_path / "set", tmp_path / "out", "imagefolder")
    assert len(list(out.rglob("*.png"))) == 40
    assert synthgen_here("fractal", "--n", 100, *settings).returncode == 0
    assert files(written(tmp_path / "set", out, "imagefolder")) == files(
        written(tmp_path / "set", tmp_path / "new", "imagefolder")
    )


def test_impossible_requests_are_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(SynthgenError, match="--format zip: unknown; there are imagefolder, parquet, webdataset"):
        written(dataset, tmp_path / "out", "zip")
    with pytest.raises(SynthgenError, match="--shard-bytes 0: at least 1"):
        written(dataset, tmp_path / "out", "parquet", 0)
    assert (bytes_of("1GB"), bytes_of("2GiB"), bytes_of("500"), bytes_of("1.5MB")) == (10**9, 2 << 30, 500, 1_500_000)
    for text in ("", "much", "-1GB", "1XB"):
        with pytest.raises(SynthgenError, match=r"--shard-bytes .*: not a size"):
            bytes_of(text)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_disk_that_is_too_small_is_told_before_work_starts(
    dataset: Path, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthgen.storage.disk.free_space", lambda path: 1000)
    with pytest.raises(SynthgenError, match=r"400 images need about .* GB, 1e-06 GB are free; free some space$"):
        written(dataset, tmp_path / "out", layout)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_disk_that_fills_up_gives_one_line_and_the_export_goes_on(
    dataset: Path, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = tmp_path / "device"
    mount.mkdir()
    size = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(size, capture_output=True).returncode:
        pytest.skip("mounting a small device needs root")
    monkeypatch.setattr("synthgen.storage.disk.free_space", lambda path: 1 << 40)
    try:
        with pytest.raises(SynthgenError, match=r"^no space left on the device at .*/out; what is finished is kept"):
            written(dataset, mount / "out", layout, 100_000)
        assert not list((mount / "out").rglob("*.parquet.tmp")) + list((mount / "out").rglob("*.tar.tmp"))
        subprocess.run(["mount", "-o", "remount,size=8m", str(mount)], check=True)
        found = files(written(dataset, mount / "out", layout, 100_000))
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    assert found == files(written(dataset, tmp_path / "other", layout, 100_000))


def test_a_class_whose_fractals_names_would_be_too_long_has_its_images_named_by_key(
    tmp_path: Path, categories: Path, synthgen_here: Command
) -> None:
    folder = tmp_path / "categories"
    shutil.copytree(categories, folder)
    (folder / "00000.csv").rename(folder / f"{'x' * 240}.csv")
    settings = ("--n", 200, "--size", SIZE, "--points", 500, "--workers", 1)
    assert synthgen_here("fractal", "--out", tmp_path / "set", "--categories", folder, *settings).returncode == 0
    out = written(tmp_path / "set", tmp_path / "out", "imagefolder")
    images = sorted(path.name for path in (out / ("x" * 240)).iterdir())
    assert len(images) == 40
    assert all(len(name) == len("000000000.png") for name in images)
