import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import Command
from files import contents
from upath import UPath

from synthgen.common.errors import SynthgenError
from synthgen.dataset.manifest import read_manifest
from synthgen.dataset.plan import Segment, read_plan
from synthgen.dataset.shard import Shard, data_path, read_shard, record_path, record_text, table_path
from synthgen.storage.object_store import OBJECTS
from synthgen.storage.places import place, store_of

SETTINGS = ("--n", 200, "--size", 32, "--points", 1000, "--shard-size", 70, "--workers", 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command, categories: Path) -> Path:
    out = tmp_path_factory.mktemp("manifest") / "set"
    done = synthgen_here("fractal", "--out", out, "--categories", categories, *SETTINGS)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


def tar(dataset: Path, index: int) -> Path:
    return dataset / f"data/fractal-train-{index:06d}.tar"


def truncate(dataset: Path) -> None:
    os.truncate(tar(dataset, 1), 4321)


def delete_the_record(dataset: Path) -> None:
    tar(dataset, 1).with_suffix(".json").unlink()


def delete_the_tar(dataset: Path) -> None:
    tar(dataset, 1).unlink()


def delete_the_table(dataset: Path) -> None:
    (dataset / "metadata/fractal-train-000001.parquet").unlink()


def break_the_record(dataset: Path) -> None:
    tar(dataset, 1).with_suffix(".json").write_text("{")


@pytest.mark.parametrize("damage", [truncate, delete_the_record, delete_the_tar, delete_the_table, break_the_record])
def test_the_command_that_made_a_set_repairs_what_status_sees_and_nothing_else(
    whole: Path, dataset: Path, synthgen_here: Command, categories: Path, damage: Callable[[Path], None]
) -> None:
    damage(dataset)
    assert len(read_manifest(dataset).missing) == 1
    others = {path: path.stat().st_ino for index in (0, 2) for path in dataset.glob(f"*/*-{index:06d}.*")}
    done = synthgen_here("fractal", "--out", dataset, "--categories", categories, *SETTINGS)
    assert done.returncode == 0, done.stderr
    assert contents(dataset) == contents(whole)
    assert {path: path.stat().st_ino for path in others} == others


def test_the_sums_are_those_of_sha256sum_and_cover_every_file(whole: Path) -> None:
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=whole, capture_output=True, text=True, check=True)
    listed = [line.removesuffix(": OK") for line in checked.stdout.splitlines()]
    assert len(listed) == 7
    named = {path for path in contents(whole) if path.endswith((".tar", ".parquet")) or path == "plan.json"}
    assert set(listed) == named


def test_the_manifest_lists_every_shard(whole: Path) -> None:
    record = json.loads((whole / "manifest.json").read_text())
    plan = read_plan(whole / "plan.json")
    assert (record["n"], record["plan"], record["complete"]) == (200, plan.digest, True)
    assert record["class_names"] == list(plan.content.class_names)
    for index, shard in enumerate(record["shards"]):
        data = tar(whole, index).read_bytes()
        assert shard == json.loads(tar(whole, index).with_suffix(".json").read_text())
        assert (shard["n_bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert shard["filename"] == tar(whole, index).name
    assert [shard["n_samples"] for shard in record["shards"]] == [70, 70, 60]


def test_the_rows_of_the_tables_are_the_records_of_the_tars(whole: Path) -> None:
    plan = read_plan(whole / "plan.json")
    index = 0
    for shard in range(plan.n_shards):
        rows: list[dict[str, Any]] = pq.read_table(whole / f"metadata/fractal-train-{shard:06d}.parquet").to_pylist()
        samples = list(read_shard(tar(whole, shard)))
        assert rows == [sample.record for sample in samples]
        for sample in samples:
            planned = plan.sample(index)
            assert (sample.key, sample.label) == (planned.key, planned.label)
            assert sample.record["index"] == index
            assert sample.record["class"] == plan.content.class_names[sample.label]
            assert sample.record["sha256"] == hashlib.sha256(sample.image).hexdigest()
            index += 1
    assert index == 200


def test_status_tells_how_much_stands(dataset: Path, synthgen_here: Command) -> None:
    answer = json.loads(synthgen_here("status", dataset, "--json").stdout)
    assert answer["complete"] is True
    assert (answer["n"], answer["n_done"], answer["n_shards"], answer["n_shards_done"]) == (200, 200, 3, 3)
    assert answer["n_bytes"] == sum(path.stat().st_size for path in dataset.glob("data/*.tar"))
    delete_the_record(dataset)
    answer = json.loads(synthgen_here("status", dataset, "--json").stdout)
    assert (answer["complete"], answer["n_done"], answer["n_shards_done"]) == (False, 130, 2)
    words = synthgen_here("status", dataset)
    assert words.returncode == 0
    assert "130 of 200 images of 5 classes, 2 of 3 shards" in words.stdout
    assert "unfinished; run the same command again to go on" in words.stdout


def test_a_set_at_a_url_has_the_manifest_that_it_has_here(dataset: Path, s3: str) -> None:
    for path in dataset.rglob("*.*"):
        (OBJECTS.place(s3) / "sets/one" / path.relative_to(dataset).as_posix()).write_bytes(path.read_bytes())
    here, there = read_manifest(dataset), read_manifest(place(f"{s3}/sets/one"))
    assert (there.plan, there.shards, there.missing) == (here.plan, here.shards, ())
    (OBJECTS.place(s3) / "sets/one/data/fractal-train-000001.json").unlink()
    (OBJECTS.place(s3) / "sets/one/data/fractal-train-000002.tar").write_bytes(b"short")
    assert [span.index for span in read_manifest(place(f"{s3}/sets/one")).missing] == [1, 2]


def test_a_store_that_cannot_be_reached_is_told_in_one_line_without_keys(s3: str) -> None:
    with pytest.raises(SynthgenError, match=r"plan\.json") as error:
        read_manifest(place(f"{s3}-nowhere/set"))
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_a_listing_names_files_and_strange_folders(tmp_path: Path, s3: str) -> None:
    names = ("plan.json", "data/a.tar", "data/deep/er/x", "metadata/b.parquet", "other/c", "other/d")
    urls = (f"file://{tmp_path}/b", "memory://listing/set", f"{s3}/set")
    roots: tuple[Path | UPath, ...] = (tmp_path / "a", *map(OBJECTS.place, urls))
    for root in roots:
        for name in names:
            path = root / name
            if "s3://" not in str(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"12")
        sizes = {"plan.json": 2, "data/a.tar": 2, "data/deep/": 0, "metadata/b.parquet": 2, "other/": 0}
        assert store_of(root).listing(root) == sizes


def test_a_thousand_shards_are_listed_in_less_than_a_second(tmp_path: Path, whole: Path) -> None:
    plan = replace(read_plan(whole / "plan.json"), segments=(Segment(start=0, stop=5000, shard_size=5),))
    for folder in ("data", "metadata"):
        (tmp_path / folder).mkdir()
    (tmp_path / "plan.json").write_text(plan.to_json())
    for index in range(plan.n_shards):
        span = plan.shard(index)
        data_path(tmp_path, span).write_bytes(b"tar")
        table_path(tmp_path, span).touch()
        shard = Shard(
            index=index,
            filename=f"{span.stem}.tar",
            n_samples=5,
            n_bytes=3,
            sha256="a" * 64,
            table_n_bytes=0,
            table_sha256="0" * 64,
            plan_digest=plan.digest,
            environment={"numpy": "2"},
        )
        record_path(tmp_path, span).write_bytes(record_text(shard))
    start = time.perf_counter()
    manifest = read_manifest(tmp_path)
    assert time.perf_counter() - start < 1
    assert (manifest.complete, manifest.n_samples, manifest.n_bytes) == (True, 5000, 3000)
