import hashlib
import io
import json
import os
import shutil
import signal
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Command
from files import contents, edit
from PIL import Image
from processes import Start

from synthgen.common.errors import SynthgenError
from synthgen.dataset import scan, verify
from synthgen.dataset.manifest import finish, read_manifest
from synthgen.dataset.plan import read_plan
from synthgen.dataset.quality import measure
from synthgen.dataset.repair import repair
from synthgen.dataset.shard import Item, read_record, read_shard, record_text
from synthgen.dataset.verify import Defect, check, inspect
from synthgen.kinds.base import Renderer
from synthgen.kinds.diffusion.content import DiffusionContent
from synthgen.kinds.diffusion.request import plan_renderer
from synthgen.kinds.fractaldb.render import fractal_renderer
from synthgen.storage.atomic import claimed
from synthgen.storage.object_store import OBJECTS
from synthgen.storage.store import Place

pytestmark = pytest.mark.filterwarnings("ignore:CUDA initialization:UserWarning:torch")

N, SIZE = 200, 32
PROMPTS = Path(__file__).parents[1] / "prompts/quickstart.txt"
Members = dict[str, bytes]
TAR, RECORD = "data/fractal-train-000001.tar", "data/fractal-train-000001.json"
TABLE = "metadata/fractal-train-000001.parquet"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command, categories: Path) -> Path:
    out = tmp_path_factory.mktemp("verify") / "set"
    settings = ("--n", N, "--size", SIZE, "--points", 1000, "--shard-size", 70, "--workers", 1)
    done = synthgen_here("fractal", "--out", out, "--categories", categories, *settings)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command) -> Path:
    out = tmp_path_factory.mktemp("verify") / "sd"
    command = ("sd", "--prompts", PROMPTS, "--model", "tiny", "--steps", 1, "--batch", 8, "--size", SIZE)
    done = synthgen_here(*command, "--n", 50, "--shard-size", 20, "--device", "cpu", "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


def stats(directory: Path) -> dict[str, tuple[int, int]]:
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def rewrite(dataset: Path, change: Callable[[Members], Members], *, forge: bool = True) -> None:
    """Change samples of shard 1 and forge what is said of it, so that only the plan can tell."""
    path = dataset / TAR
    with tarfile.open(path) as old:
        members = {member.name: old.extractfile(member).read() for member in old}  # type: ignore[union-attr]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as new:
        for name, data in change(members).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))
    if not forge:
        return
    forged = {"n_bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    edit(dataset / RECORD, **forged)
    record = json.loads((dataset / "manifest.json").read_text())
    record["shards"][1] |= forged
    edit(dataset / "manifest.json", shards=record["shards"], n_bytes=sum(s["n_bytes"] for s in record["shards"]))
    sums = (dataset / "SHA256SUMS").read_text().splitlines()
    sums = [f"{forged['sha256']}  {TAR}" if line.endswith(TAR) else line for line in sums]
    (dataset / "SHA256SUMS").write_text("\n".join(sums) + "\n")


# Damages


def truncate(dataset: Path) -> None:
    os.truncate(dataset / TAR, 4321)


def cut_the_end_marks(dataset: Path) -> None:
    os.truncate(dataset / TAR, (dataset / TAR).stat().st_size - 512)


def flip_a_bit(dataset: Path) -> None:
    data = bytearray((dataset / TAR).read_bytes())
    data[len(data) // 2] ^= 4
    (dataset / TAR).write_bytes(data)


def flip_a_bit_of_padding(dataset: Path) -> None:
    data = bytearray((dataset / TAR).read_bytes())
    data[511] ^= 1  # of the first header, behind all its fields
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + sum(data[156:512]) + 256)
    (dataset / TAR).write_bytes(data)


def delete_the_record(dataset: Path) -> None:
    (dataset / RECORD).unlink()


def delete_the_tar(dataset: Path) -> None:
    (dataset / TAR).unlink()


def delete_the_table(dataset: Path) -> None:
    (dataset / TABLE).unlink()


def delete_a_shard(dataset: Path) -> None:
    for name in (TAR, RECORD, TABLE):
        (dataset / name).unlink()


def break_the_record(dataset: Path) -> None:
    (dataset / RECORD).write_text("{")


def record_of_another_plan(dataset: Path) -> None:
    edit(dataset / RECORD, plan_digest="f" * 64)


def edit_the_records_sum(dataset: Path) -> None:
    edit(dataset / RECORD, sha256="0" * 64)


def swap_two_tars(dataset: Path, *, records: bool = False) -> None:
    for ending in (".tar", ".json") if records else (".tar",):
        one, other = (dataset / f"data/fractal-train-{index:06d}{ending}" for index in (0, 1))
        spare = dataset / "spare"
        one.rename(spare)
        other.rename(one)
        spare.rename(other)


def swap_two_shards(dataset: Path) -> None:
    swap_two_tars(dataset, records=True)


def edit_a_label(dataset: Path) -> None:
    rewrite(dataset, lambda members: members | {"000000072.cls": b"9"})


def edit_a_label_and_its_records(dataset: Path) -> None:
    def change(members: Members) -> Members:
        record = json.loads(members["000000072.json"]) | {"label": 2, "class": "00002"}
        return members | {"000000072.cls": b"2", "000000072.json": json.dumps(record).encode()}

    rewrite(dataset, change)


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


def put_an_image(dataset: Path, image: bytes) -> None:
    def change(members: Members) -> Members:
        record = json.loads(members["000000072.json"]) | {"sha256": hashlib.sha256(image).hexdigest()}
        return members | {"000000072.png": image, "000000072.json": json.dumps(record).encode()}

    rewrite(dataset, change)


def break_an_image(dataset: Path) -> None:
    put_an_image(dataset, next(read_shard(dataset / TAR)).image[:60])


def png(width: int, height: int) -> bytes:
    sink = io.BytesIO()
    Image.new("1", (width, height)).save(sink, "PNG")
    return sink.getvalue()


def put_a_decompression_bomb(dataset: Path) -> None:
    put_an_image(dataset, png(30_000, 12_000))


def put_an_image_of_another_size(dataset: Path) -> None:
    put_an_image(dataset, png(SIZE, SIZE + 1))


def edit_the_table(dataset: Path) -> None:
    rows = pq.read_table(dataset / TABLE).to_pylist()
    rows[2]["class"] = "00009"
    pq.write_table(pa.Table.from_pylist(rows), dataset / TABLE)


def write_the_table_otherwise(dataset: Path) -> None:
    pq.write_table(pq.read_table(dataset / TABLE), dataset / TABLE, compression="gzip")


def break_the_table(dataset: Path) -> None:
    data = bytearray((dataset / TABLE).read_bytes())
    data[4:200] = bytes(196)
    (dataset / TABLE).write_bytes(data)


def edit_a_line(dataset: Path, name: str) -> None:
    lines = (dataset / "SHA256SUMS").read_text().splitlines(keepends=True)
    lines = [line.replace(line[:8], "01234567") if line.endswith(f"{name}\n") else line for line in lines]
    (dataset / "SHA256SUMS").write_text("".join(lines))


def edit_a_tars_sum(dataset: Path) -> None:
    edit_a_line(dataset, TAR)


def edit_a_tables_sum(dataset: Path) -> None:
    edit_a_line(dataset, TABLE)


def drop_a_line_of_sums(dataset: Path) -> None:
    lines = (dataset / "SHA256SUMS").read_text().splitlines(keepends=True)
    (dataset / "SHA256SUMS").write_text("".join(line for line in lines if TAR not in line))


def add_lines_to_sums(dataset: Path) -> None:
    with (dataset / "SHA256SUMS").open("a") as file:
        file.write(f"{'a' * 64}  ../../etc/passwd\nnonsense\n")


def delete_the_sums(dataset: Path) -> None:
    (dataset / "SHA256SUMS").unlink()


def delete_the_manifest(dataset: Path) -> None:
    (dataset / "manifest.json").unlink()


def edit_the_manifest(dataset: Path) -> None:
    edit(dataset / "manifest.json", class_names=["cat"], n=7)


def break_the_manifest(dataset: Path) -> None:
    (dataset / "manifest.json").write_text("[1, 2")


def edit_the_manifests_sum(dataset: Path) -> None:
    record = json.loads((dataset / "manifest.json").read_text())
    record["shards"][1]["sha256"] = "0" * 64
    edit(dataset / "manifest.json", shards=record["shards"])


SUMS, MANIFEST = "SHA256SUMS", "manifest.json"
DAMAGES: list[tuple[Callable[[Path], None], dict[str, str]]] = [  # what is done -> all that is told of, and how
    (truncate, {TAR: "damaged tar (truncated at byte 4321, within member 0000000"}),
    (cut_the_end_marks, {TAR: "damaged tar (truncated at byte"}),
    (flip_a_bit, {TAR: "has sha256"}),
    (flip_a_bit_of_padding, {TAR: "has sha256"}),
    (delete_the_record, {RECORD: "missing, though other files of its shard are there"}),
    (delete_the_tar, {TAR: "missing, though other files of its shard are there"}),
    (delete_the_table, {TABLE: "missing, though other files of its shard are there"}),
    (delete_a_shard, {TAR: "missing"}),
    (break_the_record, {RECORD: "not JSON"}),
    (record_of_another_plan, {RECORD: "of plan ffffffffffffffff, not of"}),
    (edit_the_records_sum, {RECORD: f"says sha256 0000000000000000 of {TAR}, which has"}),
    (
        swap_two_tars,
        {TAR.replace("1.", "0."): "sample 000000070 has label", TAR: "sample 000000000 has label"},
    ),
    (
        swap_two_shards,
        {
            TAR.replace("1.", "0."): "sample 000000070 has label",
            RECORD.replace("1.", "0."): "it is the record of shard 1, fractal-train-000001.tar",
            TAR: "sample 000000000 has label",
            RECORD: "it is the record of shard 0, fractal-train-000000.tar",
        },
    ),
    (edit_a_label, {TAR: "sample 000000072 has label 9, planned 000000072: 4"}),
    (edit_a_label_and_its_records, {TAR: "the record of 000000072 has label 2, planned 4"}),
    (swap_two_images, {TAR: "image 000000072 differs from its record"}),
    (swap_two_samples_of_a_class, {TAR: "the record of 000000072 has index 73, planned 72"}),
    (drop_a_sample, {TAR: "69 samples, planned 70"}),
    (add_a_sample, {TAR: "more samples than the plan's 70"}),
    (break_an_image, {TAR: "image 000000072 cannot be decoded"}),
    (put_a_decompression_bomb, {TAR: "image 000000072 cannot be decoded (Image size (360000000 pixels)"}),
    (put_an_image_of_another_size, {TAR: "image 000000072 has 32 x 33 pixels, planned 32 x 32"}),
    (edit_the_table, {TABLE: "the row of 000000072 differs from its record in the tar: class"}),
    (write_the_table_otherwise, {TABLE: "has sha256"}),
    (break_the_table, {TABLE: "cannot be read"}),
    (edit_a_tars_sum, {SUMS: "says sha256 01234567"}),
    (edit_a_tables_sum, {SUMS: "says sha256 01234567"}),
    (drop_a_line_of_sums, {SUMS: f"has no line for {TAR}"}),
    (add_lines_to_sums, {SUMS: "line 8 names '../../etc/passwd', which is not a file of this dataset"}),
    (delete_the_sums, {SUMS: "missing, though the other files of a finished dataset are there"}),
    (delete_the_manifest, {MANIFEST: "missing, though the other files of a finished dataset are there"}),
    (edit_the_manifest, {MANIFEST: "n: differs from plan and shards"}),
    (break_the_manifest, {MANIFEST: "cannot be read"}),
    (edit_the_manifests_sum, {MANIFEST: f"says sha256 0000000000000000 of {TAR}"}),
]
IDS = [damage.__name__ for damage, _ in DAMAGES]


@pytest.mark.parametrize(("damage", "told"), DAMAGES, ids=IDS)
def test_a_damage_is_found_and_its_files_alone_are_named_and_repair_restores_every_byte_and_touches_nothing_else(
    whole: Path, dataset: Path, damage: Callable[[Path], None], told: dict[str, str]
) -> None:
    damage(dataset)
    forged = {name for name, data in contents(dataset).items() if data != (whole / name).read_bytes()}
    before = stats(dataset)
    faults = check(dataset)
    assert stats(dataset) == before
    assert {fault.name for fault in faults} == set(told)
    for name, what in told.items():
        assert any(fault.name == name and what in fault.what for fault in faults), faults
    assert all("\n" not in str(fault) for fault in faults)

    indices = {fault.shard for fault in faults if fault.shard is not None}
    assert repair(dataset, faults) == sorted(indices)
    after = stats(dataset)
    untouched = before.keys() - told.keys() - forged
    assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}
    assert contents(dataset) == contents(whole)
    assert check(dataset) == []


def test_a_whole_set_has_no_faults(whole: Path, diffusion: Path) -> None:
    assert check(whole) == []
    assert check(diffusion) == []


def test_extra_files_are_named_and_left_and_what_publishing_adds_is_none(whole: Path, dataset: Path) -> None:
    extras = ("notes.txt", "data/more.tar", "metadata/.hidden", "images/")
    for name in (*extras[:3], "images/1/2/3.png", "README.md", "croissant.json", "samples.jpg", "quality.json"):
        (dataset / name).parent.mkdir(parents=True, exist_ok=True)
        (dataset / name).write_text("?")
    for name in (".cache/huggingface/x", ".git/config", ".gitattributes"):
        (dataset / name).parent.mkdir(parents=True, exist_ok=True)
        (dataset / name).write_text("?")
    faults = check(dataset)
    assert {fault.name for fault in faults} == set(extras)
    assert repair(dataset, faults) == []
    assert check(dataset) == faults


def test_the_unfinished_file_of_a_running_process_is_none_and_that_of_a_killed_one_is_named(dataset: Path) -> None:
    with claimed(dataset / "data/x.tar"):
        assert check(dataset) == []
    (dataset / "data/x.tar.tmp").touch()
    assert [str(fault) for fault in check(dataset)] == ["data/x.tar.tmp: unfinished, left by a process that was killed"]


def test_missing_shards_of_an_unfinished_set_are_told_and_nothing_else(dataset: Path) -> None:
    for name in (TAR, RECORD, TABLE, SUMS, MANIFEST):
        (dataset / name).unlink()
    assert check(dataset) == [Defect(name=TAR, what="missing", shard=1)]


def test_an_edited_plan_is_named_and_nothing_is_made_from_it(dataset: Path) -> None:
    edit(dataset / "plan.json", origin={"batch": 3})
    faults = check(dataset)
    assert [fault.name for fault in faults] == ["plan.json"]
    before = stats(dataset)
    with pytest.raises(SynthgenError, match=r"plan\.json: has sha256 .*nothing can be generated from a plan in doubt"):
        repair(dataset, faults)
    assert stats(dataset) == before


def test_many_faults_of_a_tar_are_counted(dataset: Path) -> None:
    swap_two_tars(dataset)
    told = [str(fault) for fault in check(dataset) if fault.name == TAR]
    assert len(told) == scan.LISTED + 2
    assert any(line.endswith("more defects") for line in told)


def test_processes_find_what_one_finds(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for damage in (truncate, edit_the_manifest, delete_the_sums):
        damage(dataset)
    (dataset / "data/fractal-train-000000.json").unlink()
    alone = check(dataset)
    monkeypatch.setattr(verify, "FEW", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    done: list[int] = []
    assert check(dataset, progress=done.append) == alone
    assert done == [1, 2, 3]


def test_quality_comes_of_the_same_look_and_not_at_all_of_damaged_shards(
    whole: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "BATCH", 32)
    faults, quality = inspect(whole, quality=True)
    assert faults == []
    assert quality is not None
    assert quality.summary() == measure(read_manifest(whole)).summary()
    truncate(dataset)
    assert inspect(dataset, quality=True)[1] is None


# Repair


def others_bytes(plan_path: Path) -> Renderer:
    """A renderer of another version: the same pictures in other bytes."""
    content = read_plan(plan_path).content
    renderer = fractal_renderer(content)  # type: ignore[arg-type]

    def render(samples: Any) -> Iterator[Item]:
        for item in renderer.render(samples):
            yield replace(item, image=item.image + b"\0")

    return Renderer(render=render, environment=renderer.environment | {"numba": "9.9"})


def test_a_shard_that_comes_out_otherwise_is_refused_and_the_damaged_one_stays(whole: Path, dataset: Path) -> None:
    flip_a_bit(dataset)
    delete_the_tar(Path(shutil.copytree(whole, dataset.parent / "gone")))
    for directory in (dataset, dataset.parent / "gone"):
        before, faults = stats(directory), check(directory)
        with pytest.raises(SynthgenError, match=r"other bytes than it had \(numba .* then, 9\.9 now\), so it was left"):
            repair(directory, faults, renderer=lambda: others_bytes(whole / "plan.json"))
        assert stats(directory) == before
        assert check(directory) == faults


def test_a_shard_of_which_nothing_is_known_any_more_is_made_as_it_is_made_now(dataset: Path) -> None:
    for name in (TAR, RECORD, SUMS, MANIFEST):
        (dataset / name).unlink()
    assert repair(dataset, check(dataset), renderer=lambda: others_bytes(dataset / "plan.json")) == [1]
    assert [f.name for f in check(dataset)] == []
    assert json.loads((dataset / RECORD).read_text())["environment"]["numba"] == "9.9"


def test_a_table_in_other_bytes_is_told_of_and_summed_anew(whole: Path, dataset: Path) -> None:
    write_the_table_otherwise(dataset)
    table, record = (dataset / TABLE).read_bytes(), read_record(dataset / RECORD)
    record = replace(record, table_n_bytes=len(table), table_sha256=hashlib.sha256(table).hexdigest())
    (dataset / RECORD).write_bytes(record_text(record))
    finish(read_manifest(dataset))  # as if another pyarrow had written it
    assert check(dataset) == []
    flip_a_bit(dataset)
    before = stats(dataset)[TABLE]
    assert repair(dataset, check(dataset)) == [1]
    assert stats(dataset)[TABLE] == before
    delete_the_table(dataset)
    with pytest.raises(SynthgenError, match=r"000001\.parquet: has the same rows in other bytes"):
        repair(dataset, check(dataset))
    assert check(dataset) == []
    assert contents(dataset) == contents(whole)


def test_what_is_damaged_before_a_set_is_finished_is_found_without_its_sums(whole: Path, dataset: Path) -> None:
    for name in (SUMS, MANIFEST):
        (dataset / name).unlink()
    table = bytearray((dataset / TABLE).read_bytes())
    table[5] ^= 1  # of no value, perhaps; its record knows
    (dataset / TABLE).write_bytes(table)
    assert {fault.name for fault in check(dataset) if fault.shard is not None} == {TABLE}
    finish(read_manifest(dataset))  # of which the sums tell as it was made
    assert (dataset / SUMS).read_bytes() == (whole / SUMS).read_bytes()
    assert repair(dataset, check(dataset)) == [1]
    assert contents(dataset) == contents(whole)
    os.truncate(dataset / TABLE, 100)  # of another size is not there
    assert [span.index for span in read_manifest(dataset).missing] == [1]


class Killed(BaseException):
    """Stands for the death of the process, as far as one process can show it."""


def dying(real: Callable[..., None], step: int) -> Callable[..., None]:
    """A function that kills the process when it is called for the ``step``-th time."""
    calls = iter(range(1, step + 1))

    def call(*args: Any) -> None:
        if next(calls, 0) == step:
            raise Killed
        real(*args)

    return call


@pytest.mark.parametrize("damage", [swap_two_shards, delete_a_shard, edit_a_label], ids=lambda damage: damage.__name__)
def test_a_repair_killed_at_any_step_and_run_again_restores_every_byte(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    died, step = True, 0
    while died:
        step += 1
        dataset = Path(shutil.copytree(whole, tmp_path / str(step)))
        damage(dataset)
        faults, died = check(dataset), False
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", dying(os.replace, step))
            try:
                repair(dataset, faults)
            except Killed:
                died = True
        if died:
            repair(dataset, check(dataset))
        assert contents(dataset) == contents(whole)
    assert step > 2


def test_repair_draws_diffusion_images_again_as_they_were(diffusion: Path, tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(diffusion, tmp_path / "sd"))
    tar = dataset / "data/sd-train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:9000])
    before = stats(dataset)
    plan = read_plan(dataset / "plan.json")
    assert repair(dataset, check(dataset), renderer=lambda: plan_renderer(plan, device="cpu")) == [1]
    assert contents(dataset) == contents(diffusion)
    changed = {name for name, stat in stats(dataset).items() if stat != before[name]}
    assert changed == {"data/sd-train-000001.tar"}
    tar.unlink()
    assert repair(dataset, check(dataset)) == [1]  # by the plan's own model
    assert contents(dataset) == contents(diffusion)


def test_the_renderer_of_a_plan_refuses_another_model(diffusion: Path) -> None:
    plan = read_plan(diffusion / "plan.json")
    assert isinstance(plan.content, DiffusionContent)
    recorded = replace(plan.content.model, revision="sha256:" + "0" * 64)
    other = replace(plan, content=replace(plan.content, model=recorded))
    with pytest.raises(SynthgenError, match="the plan's is tiny at sha256:0000000000000; give it as --model"):
        plan_renderer(other)
    unknown = replace(recorded, name="a-folder-of-then")
    other = replace(plan, content=replace(plan.content, model=unknown))
    with pytest.raises(SynthgenError, match=r"the model that drew these images, a-folder-of-then: "):
        plan_renderer(other)


# At URLs


def publish(dataset: Path, url: str) -> Place:
    there = OBJECTS.place(url)
    for name, data in contents(dataset).items():
        (there / name).write_bytes(data)
    return there


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, swap_two_shards, edit_the_table, delete_the_sums])
def test_a_published_set_is_checked_where_it_stands_and_has_the_faults_that_it_has_here(
    dataset: Path, s3: str, damage: Callable[[Path], None]
) -> None:
    damage(dataset)
    there = publish(dataset, f"{s3}/a/set")
    assert check(there) == check(dataset) != []


def test_a_published_sets_images_are_downloaded_once_with_quality_too(
    dataset: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3fs = pytest.importorskip("s3fs")
    there = publish(dataset, f"{s3}/set")
    fetched: list[tuple[str, int]] = []
    fetch = s3fs.core.S3File._fetch_range

    def counting(self: Any, start: int, end: int) -> bytes:
        data: bytes = fetch(self, start, end)
        fetched.append((self.path, len(data)))
        return data

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", counting)
    faults, quality = inspect(there, quality=True)
    assert faults == []
    assert quality is not None
    total = sum(size for path, size in fetched if path.endswith(".tar"))
    assert total == sum(path.stat().st_size for path in dataset.glob("data/*.tar"))


# Interruption and size


def test_ctrl_c_ends_it_at_once_and_leaves_no_process(dataset: Path, launch: Start) -> None:
    code = (
        "import sys, os; from pathlib import Path; from synthgen.dataset import verify\n"
        "verify.FEW = 0; os.cpu_count = lambda: 2\n"
        "if __name__ == '__main__':\n"
        "    verify.check(Path(sys.argv[1]), progress=lambda done: print(done, flush=True))\n"
    )
    script = dataset.parent / "script.py"
    script.write_text(code)
    for index in (1, 2):  # endless ones, for what a test lasts
        os.truncate(dataset / f"data/fractal-train-{index:06d}.tar", 1 << 36)
    process = launch([sys.executable, script, dataset])
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    start = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=20)  # its children hold the same pipes
    assert time.monotonic() - start < 2
    assert told.strip().endswith("KeyboardInterrupt")


def test_reading_at_a_url_ends_when_it_is_told_to(dataset: Path) -> None:
    stop = threading.Event()
    stop.set()
    plan = read_plan(dataset / "plan.json")
    job = scan.Job(directory=dataset, plan=plan, digest=plan.digest, quality=False)
    with pytest.raises(KeyboardInterrupt):
        scan.scan(job, plan.shard(1), dict.fromkeys((TAR, RECORD, TABLE), 1), stop)
