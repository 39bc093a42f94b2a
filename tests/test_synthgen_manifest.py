import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import Command

from synthgen.manifest import read_manifest
from synthgen.plan import read_plan
from synthgen.shard import read_shard

SETTINGS = ("--n", 200, "--size", 32, "--points", 1000, "--shard-size", 70, "--workers", 1)
Members = dict[str, bytes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, synthgen: Command, categories: Path) -> Path:
    out = tmp_path_factory.mktemp("manifest") / "set"
    done = synthgen("fractal", "--out", out, "--categories", categories, *SETTINGS)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


def tar(dataset: Path, index: int) -> Path:
    return dataset / f"data/fractal-train-{index:06d}.tar"


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def truncate(dataset: Path) -> None:
    os.truncate(tar(dataset, 1), 4321)


def flip_a_bit(dataset: Path) -> None:
    data = bytearray(tar(dataset, 1).read_bytes())
    data[len(data) // 2] ^= 4
    tar(dataset, 1).write_bytes(data)


def delete_the_record(dataset: Path) -> None:
    tar(dataset, 1).with_suffix(".json").unlink()


def delete_the_tar(dataset: Path) -> None:
    tar(dataset, 1).unlink()


def delete_the_table(dataset: Path) -> None:
    (dataset / "metadata/fractal-train-000001.parquet").unlink()


def break_the_record(dataset: Path) -> None:
    tar(dataset, 1).with_suffix(".json").write_text("{")


def record_of_another_plan(dataset: Path) -> None:
    path = tar(dataset, 1).with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"plan_digest": "f" * 64}))


def swap_two_shards(dataset: Path) -> None:
    for ending in (".tar", ".json"):
        one, other = tar(dataset, 0).with_suffix(ending), tar(dataset, 1).with_suffix(ending)
        spare = one.with_suffix(".spare")
        one.rename(spare)
        other.rename(one)
        spare.rename(other)


def rewrite(dataset: Path, change: Callable[[Members], Members]) -> None:
    """Change samples of shard 1 and forge its record, so that only its contents can tell."""
    path = tar(dataset, 1)
    with tarfile.open(path) as old:
        members = {member.name: old.extractfile(member).read() for member in old}  # type: ignore[union-attr]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as new:
        for name, data in change(members).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))
    data = path.read_bytes()
    record = path.with_suffix(".json")
    forged = {"n_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    record.write_text(json.dumps(json.loads(record.read_text()) | forged))


def edit_a_label(dataset: Path) -> None:
    rewrite(dataset, lambda members: members | {"000000072.cls": b"9"})


def swap_two_images(dataset: Path) -> None:
    rewrite(
        dataset,
        lambda m: m | {"000000072.png": m["000000073.png"], "000000073.png": m["000000072.png"]},
    )


def swap_two_samples_of_a_class(dataset: Path) -> None:
    def change(m: Members) -> Members:
        pair = ("000000072", "000000073")
        return m | {f"{a}.{e}": m[f"{b}.{e}"] for a, b in (pair, pair[::-1]) for e in ("png", "cls", "json")}

    rewrite(dataset, change)


def drop_a_sample(dataset: Path) -> None:
    rewrite(dataset, lambda members: {name: data for name, data in members.items() if "139" not in name})


def add_a_sample(dataset: Path) -> None:
    def change(m: Members) -> Members:
        return m | {f"000000140.{e}": m[f"000000139.{e}"] for e in ("png", "cls", "json")}

    rewrite(dataset, change)


def break_an_image(dataset: Path) -> None:
    def change(members: Members) -> Members:
        image = members["000000072.png"][:60]
        record = json.loads(members["000000072.json"]) | {"sha256": hashlib.sha256(image).hexdigest()}
        return members | {"000000072.png": image, "000000072.json": json.dumps(record).encode()}

    rewrite(dataset, change)


SHARD = "fractal-train-000001.tar"
DAMAGES: list[tuple[Callable[[Path], None], str, bool]] = [  # what is done, what verify says, whether status sees it
    (truncate, f"{SHARD}: 4321 bytes, recorded", True),
    (flip_a_bit, f"{SHARD}: sha256 differs from its record", False),
    (delete_the_record, f"{SHARD}: no completion record", True),
    (delete_the_tar, f"{SHARD}: missing, though recorded as complete", True),
    (delete_the_table, "fractal-train-000001.parquet: missing", True),
    (break_the_record, "fractal-train-000001.json: the file: ", True),
    (record_of_another_plan, f"{SHARD}: made by plan ffffffffffffffff, not by", True),
    (swap_two_shards, f"{SHARD}: its completion record is that of fractal-train-000000.tar, shard 0", True),
    (edit_a_label, f"{SHARD}: sample 000000072 has label 9, planned 000000072: ", False),
    (swap_two_images, f"{SHARD}: image 000000072 differs from its record", False),
    (swap_two_samples_of_a_class, f"{SHARD}: the record of 000000072 tells of image 73", False),
    (drop_a_sample, f"{SHARD}: 69 samples, planned 70", False),
    (add_a_sample, f"{SHARD}: more samples than the plan's 70", False),
    (break_an_image, f"{SHARD}: image 000000072 cannot be decoded", False),
]


@pytest.mark.parametrize(("damage", "told", "seen_by_status"), DAMAGES, ids=[d.__name__ for d, _, _ in DAMAGES])
def test_verify_names_a_damage_and_status_sees_what_records_and_sizes_tell(
    dataset: Path, synthgen_here: Command, damage: Callable[[Path], None], told: str, seen_by_status: bool
) -> None:
    damage(dataset)
    checked = synthgen_here("verify", dataset)
    assert checked.returncode == 1
    assert told in checked.stdout
    assert "Traceback" not in checked.stderr
    assert read_manifest(dataset).complete is not seen_by_status


@pytest.mark.parametrize("damage", [truncate, delete_the_record, delete_the_tar, delete_the_table, break_the_record])
def test_the_command_that_made_a_set_repairs_what_status_sees_and_nothing_else(
    whole: Path, dataset: Path, synthgen_here: Command, categories: Path, damage: Callable[[Path], None]
) -> None:
    damage(dataset)
    others = {path: path.stat().st_ino for index in (0, 2) for path in dataset.glob(f"*/*-{index:06d}.*")}
    done = synthgen_here("fractal", "--out", dataset, "--categories", categories, *SETTINGS)
    assert done.returncode == 0, done.stderr
    assert contents(dataset) == contents(whole)
    assert {path: path.stat().st_ino for path in others} == others


def test_a_whole_set_verifies(whole: Path, synthgen_here: Command) -> None:
    checked = synthgen_here("verify", whole)
    assert (checked.returncode, checked.stdout) == (0, f"{whole}: 3 shards, 0 faults\n")
    answer = synthgen_here("verify", whole, "--json")
    assert json.loads(answer.stdout) == {"directory": str(whole), "faults": []}


def test_verify_tells_faults_as_json_too(dataset: Path, synthgen_here: Command) -> None:
    truncate(dataset)
    answer = synthgen_here("verify", dataset, "--json")
    assert answer.returncode == 1
    assert all(SHARD in fault for fault in json.loads(answer.stdout)["faults"])


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
