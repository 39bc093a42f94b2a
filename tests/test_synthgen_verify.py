import hashlib
import io
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from damages import (
    DAMAGES,
    IDS,
    MANIFEST,
    RECORD,
    SIZE,
    SUMS,
    TABLE,
    TAR,
    delete_a_shard,
    delete_the_sums,
    delete_the_table,
    delete_the_tar,
    edit_a_label,
    edit_the_manifest,
    edit_the_table,
    flip_a_bit,
    swap_two_shards,
    swap_two_tars,
    truncate,
    write_the_table_otherwise,
)
from files import contents, edit
from PIL import Image
from processes import Start

from synthgen.common.errors import SynthgenError
from synthgen.dataset import scan, verify
from synthgen.dataset.manifest import finish, read_manifest
from synthgen.dataset.plan import read_plan
from synthgen.dataset.quality import measure
from synthgen.dataset.repair import repair
from synthgen.dataset.shard import Item, read_record, record_text
from synthgen.dataset.verify import Defect, check, inspect
from synthgen.kinds.base import Renderer
from synthgen.kinds.diffusion.content import DiffusionContent
from synthgen.kinds.diffusion.request import plan_renderer
from synthgen.kinds.fractaldb.render import fractal_renderer
from synthgen.storage.atomic import claimed
from synthgen.storage.object_store import OBJECTS
from synthgen.storage.store import Place

pytestmark = pytest.mark.filterwarnings("ignore:CUDA initialization:UserWarning:torch")

N = 200
PROMPTS = Path(__file__).parents[1] / "prompts/quickstart.txt"


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


def test_an_edited_plan_is_named_once_and_nothing_is_made_from_it(dataset: Path, synthgen_here: Command) -> None:
    edit(dataset / "plan.json", origin={"batch": 3})
    faults = check(dataset)
    assert [fault.name for fault in faults] == ["plan.json"]
    before = stats(dataset)
    with pytest.raises(SynthgenError, match=r"nothing can be generated from a plan in doubt; restore plan\.json"):
        repair(dataset, faults)
    told = synthgen_here("verify", dataset, "--repair")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.count("plan.json: has sha256 ") == 1
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
            file = io.BytesIO()
            Image.open(io.BytesIO(item.image)).save(file, "PNG")
            yield replace(item, image=file.getvalue())

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
