import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from files import contents
from processes import Popen, Start, installed, members, wait

from fractaldb.ifs import read_categories
from fractaldb.render import Style
from synthgen.common.errors import SynthgenError
from synthgen.dataset.manifest import finish, read_manifest
from synthgen.dataset.plan import Plan, new_plan
from synthgen.engines import generate as module
from synthgen.engines import work
from synthgen.engines.generate import generate, open_directory
from synthgen.kinds.fractaldb.render import fractal_content
from synthgen.storage.atomic import write_atomically
from synthgen.storage.places import place

# 25 shards: enough to be killed between, about a second in all.
SETTINGS = ("--n", 1000, "--size", 40, "--points", 30_000, "--shard-size", 40)


def files(directory: Path) -> dict[Path, tuple[int, int, int]]:
    stats = {path: path.stat() for path in directory.rglob("*") if path.is_file()}
    return {path: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}


def committed(directory: Path) -> list[Path]:
    return sorted(directory.glob("data/*.json"))


@pytest.fixture(scope="module")
def command(categories: Path) -> list[str]:
    return [installed("synthgen"), "fractal", "--categories", str(categories), *map(str, SETTINGS)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, command: list[str]) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "set"
    subprocess.run([*command, "--workers", "1", "--out", str(out)], check=True, capture_output=True, timeout=60)
    assert len(committed(out)) == 25
    return contents(out)


@pytest.fixture
def start(launch: Start, command: list[str]) -> Start:
    """Start the command."""

    def run(out: Path, workers: int = 2) -> Popen:
        return launch([*command, "--workers", workers, "--out", out])

    return run


def resume(command: list[str], out: Path, undisturbed: dict[str, bytes]) -> None:
    """Run the command again: identical bytes, and what was finished is not touched."""
    before = files(out)
    finished = {
        path
        for record in committed(out)
        for path in (record, record.with_suffix(".tar"), out / "metadata" / f"{record.stem}.parquet")
    }
    again = subprocess.run([*command, "--workers", "1", "--out", str(out)], capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert contents(out) == undisturbed
    after = files(out)
    assert {path: after[path] for path in finished} == {path: before[path] for path in finished}


@pytest.mark.parametrize("k", [9, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 22))])
def test_a_run_killed_after_k_shards_resumes_to_identical_bytes(
    tmp_path: Path,
    command: list[str],
    undisturbed: dict[str, bytes],
    start: Start,
    k: int,
) -> None:
    process = start(tmp_path / "set")
    wait(lambda: len(committed(tmp_path / "set")) >= k)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL
    assert len(committed(tmp_path / "set")) < 25, "killed too late to say anything"
    resume(command, tmp_path / "set", undisturbed)


@pytest.mark.parametrize("case", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_killed_at_any_time_twice_over_resumes_to_identical_bytes(
    tmp_path: Path,
    command: list[str],
    undisturbed: dict[str, bytes],
    start: Start,
    case: int,
) -> None:
    rng = random.Random(case)
    for _ in range(2):
        process = start(tmp_path / "set")
        time.sleep(rng.uniform(0.3, 1.6))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
    (tmp_path / "set").mkdir(exist_ok=True)
    resume(command, tmp_path / "set", undisturbed)


def test_workers_do_not_survive_their_killed_parent_and_the_run_resumes(
    tmp_path: Path, command: list[str], undisturbed: dict[str, bytes], start: Start
) -> None:
    process = start(tmp_path / "set")
    wait(lambda: len(committed(tmp_path / "set")) >= 3)
    assert len(members(process.pid)) >= 3  # the parent and two workers
    process.kill()
    process.wait(20)
    wait(lambda: not members(process.pid), 5)
    assert len(committed(tmp_path / "set")) < 25, "killed too late to say anything"
    resume(command, tmp_path / "set", undisturbed)


def test_killed_workers_are_replaced_and_the_run_goes_on(
    tmp_path: Path, undisturbed: dict[str, bytes], start: Start
) -> None:
    process = start(tmp_path / "set")
    for n in (2, 6):
        wait(lambda n=n: len(committed(tmp_path / "set")) >= n)  # type: ignore[misc]
        os.kill(max(members(process.pid)), signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    wait(lambda: not members(process.pid), 5)
    assert contents(tmp_path / "set") == undisturbed


def test_ctrl_c_ends_a_run_with_one_line_and_it_resumes(
    tmp_path: Path, command: list[str], undisturbed: dict[str, bytes], start: Start
) -> None:
    process = start(tmp_path / "set")
    wait(lambda: len(committed(tmp_path / "set")) >= 2)
    before = len(committed(tmp_path / "set"))
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to every process of the group
    out, told = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    lines = [line for line in told.splitlines() if not line.startswith("generate: ")]
    assert lines == ["synthgen: interrupted; run the same command again to go on"]
    wait(lambda: not members(process.pid), 5)
    assert len(committed(tmp_path / "set")) <= min(before + 2, 24)  # the waiting shards were not begun
    resume(command, tmp_path / "set", undisturbed)


def test_two_processes_at_once_end_with_the_bytes_of_one(
    tmp_path: Path, undisturbed: dict[str, bytes], start: Start
) -> None:
    both = [start(tmp_path / "set", workers=1) for _ in range(2)]
    for process in both:
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0, told
    assert contents(tmp_path / "set") == undisturbed  # no .tmp among them


def test_a_survivor_takes_over_the_shards_of_a_killed_process(
    tmp_path: Path, undisturbed: dict[str, bytes], start: Start
) -> None:
    killed, survivor = start(tmp_path / "set", workers=1), start(tmp_path / "set", workers=1)
    wait(lambda: len(committed(tmp_path / "set")) >= 4)
    os.killpg(killed.pid, signal.SIGKILL)
    _, told = survivor.communicate(timeout=60)
    assert survivor.returncode == 0, told
    assert contents(tmp_path / "set") == undisturbed


def small(categories: Path, n: int, *, shard_size: int = 60, seed: int = 1, name: str = "fractal") -> Plan:
    style = Style(size=32, n_points=1000)
    content = fractal_content(read_categories(categories), seed=seed, style=style)
    return new_plan(name=name, content=content, n=n, shard_size=shard_size, origin={})


def make(directory: Path, plan: Plan) -> None:
    open_directory(directory, plan)
    generate(directory, workers=1)


def images(directory: Path) -> dict[str, bytes]:
    from synthgen.dataset.shard import read_shard

    return {item.key: item.image for path in sorted(directory.glob("data/*.tar")) for item in read_shard(path)}


def test_a_set_grows_and_leaves_what_stands(tmp_path: Path, categories: Path) -> None:
    make(tmp_path / "set", small(categories, 200))
    before = {path: stat for path, stat in files(tmp_path / "set").items() if path.parent.name in ("data", "metadata")}
    assert len(before) == 3 * 4
    make(tmp_path / "set", small(categories, 500, shard_size=100))
    manifest = read_manifest(tmp_path / "set")
    assert manifest.complete
    assert [shard.n_samples for shard in manifest.shards] == [60, 60, 60, 20, 100, 100, 100]
    after = files(tmp_path / "set")
    assert {path: after[path] for path in before} == before
    make(tmp_path / "once", small(categories, 500))
    assert images(tmp_path / "set") == images(tmp_path / "once")
    assert len(images(tmp_path / "set")) == 500
    record = json.loads((tmp_path / "set/manifest.json").read_text())
    assert record["n"] == 500
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path / "set", check=True)


def test_a_growing_set_has_no_manifest_until_it_is_whole_again(tmp_path: Path, categories: Path) -> None:
    make(tmp_path / "set", small(categories, 100))
    open_directory(tmp_path / "set", small(categories, 300))
    assert not (tmp_path / "set/manifest.json").exists()
    assert not (tmp_path / "set/SHA256SUMS").exists()
    assert not read_manifest(tmp_path / "set").complete


def test_a_finished_set_is_not_touched_by_the_same_command(tmp_path: Path, categories: Path) -> None:
    make(tmp_path / "set", small(categories, 100))
    before, data = files(tmp_path / "set"), contents(tmp_path / "set")
    make(tmp_path / "set", small(categories, 100))
    after = files(tmp_path / "set")
    assert contents(tmp_path / "set") == data
    assert {path for path in before if before[path] != after[path]} <= {
        tmp_path / "set/manifest.json",
        tmp_path / "set/SHA256SUMS",
    }


def test_what_a_process_leaves_that_dies_during_our_work_goes_too(
    tmp_path: Path, categories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small(categories, 100)
    open_directory(tmp_path / "set", plan)
    real = work.write_one

    def beside_a_dying_process(one: work.Work, renderer: work.Renderer, task: work.Task, *rest: Any) -> int:
        n_samples = real(one, renderer, task, *rest)
        # claimed, and dead before it saw the record
        (Path(one.directory) / "data" / f"{task.span.stem}.tar.tmp").write_bytes(b"")
        return n_samples

    monkeypatch.setattr(work, "write_one", beside_a_dying_process)
    generate(tmp_path / "set", workers=1)
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_a_dead_process_left_unfinished_goes_from_a_finished_set(tmp_path: Path, categories: Path) -> None:
    make(tmp_path / "set", small(categories, 100))
    data = contents(tmp_path / "set")
    for name in ("plan.json", "data/fractal-train-000000.tar", "metadata/fractal-train-000000.parquet"):
        (tmp_path / "set" / f"{name}.tmp").write_bytes(b"half")
    make(tmp_path / "set", small(categories, 100))
    assert contents(tmp_path / "set") == data


def test_fewer_images_than_planned_and_another_plan_are_refused_and_nothing_changes(
    tmp_path: Path, categories: Path
) -> None:
    directory = tmp_path / "set"
    plan = small(categories, 100)
    make(directory, plan)
    before = files(directory)
    with pytest.raises(SynthgenError, match=r"set: already planned for 100 images; asked for 60"):
        open_directory(directory, small(categories, 60))
    other = small(categories, 100, seed=2)
    with pytest.raises(SynthgenError) as error:
        open_directory(directory, other)
    assert str(error.value) == (
        f"{directory}: made by another plan ({plan.digest[:16]} there, {other.digest[:16]} asked):"
        " seed: 1 there, 2 asked"
    )
    assert files(directory) == before


def test_a_plan_that_another_process_is_just_laying_down_is_taken_up(
    tmp_path: Path, categories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small(categories, 100)
    (tmp_path / "set").mkdir()
    real = Path.iterdir

    def just_then(path: Path) -> Iterator[Path]:
        monkeypatch.undo()
        entries = list(real(path))
        make(path, plan)
        return iter(entries)

    monkeypatch.setattr(Path, "iterdir", just_then)
    found = module.existing_plan(tmp_path / "set")
    assert found is not None
    assert found.digest == plan.digest


def together(*calls: Callable[[], object]) -> list[str]:
    """Call all at once; what was refused."""

    def one(call: Callable[[], object]) -> str:
        barrier.wait()
        try:
            call()
        except SynthgenError as error:
            return str(error)
        return ""

    barrier = threading.Barrier(len(calls))
    with ThreadPoolExecutor(len(calls)) as pool:
        return [told for told in pool.map(one, calls) if told]


@pytest.mark.parametrize("where", ["folder", "store"])
def test_of_two_plans_that_are_laid_down_at_once_one_is_refused(tmp_path: Path, categories: Path, where: str) -> None:
    plans = [small(categories, 100, seed=seed) for seed in (1, 2)]
    for number in range(10):
        directory = tmp_path / str(number) if where == "folder" else place(f"memory://plans/{tmp_path.name}/{number}")
        (told,) = together(*(partial(open_directory, directory, plan) for plan in plans))
        assert "made by another plan" in told
        assert told.count(read_manifest(directory).plan.digest[:16]) == 1
        assert f"({read_manifest(directory).plan.digest[:16]} there" in told


def test_a_finished_set_may_be_grown_by_several_at_once_and_never_shrinks(tmp_path: Path, categories: Path) -> None:
    make(tmp_path / "set", small(categories, 60))
    for n in range(100, 1100, 100):
        made = small(categories, n)
        finish(replace(read_manifest(tmp_path / "set"), missing=()))  # as of a finished set
        more = small(categories, n + 20)
        told = together(*(partial(open_directory, tmp_path / "set", plan) for plan in (made, more, made, more)))
        assert all(f"already planned for {n + 20} images; asked for {n}" in line for line in told)
        assert read_manifest(tmp_path / "set").plan.n == n + 20
        assert {path.name for path in (tmp_path / "set").iterdir()} == {"plan.json", "data", "metadata"}


def test_a_plan_is_not_exchanged_under_a_run(tmp_path: Path, categories: Path) -> None:
    open_directory(tmp_path / "set", small(categories, 100))

    def exchange(plan: Plan) -> Iterator[work.Done]:
        write_atomically(tmp_path / "set/plan.json", plan.to_json().encode())
        yield from ()

    other = small(categories, 100, seed=2)
    with pytest.raises(SynthgenError, match="set: another plan was written while this one was being carried out"):
        generate(tmp_path / "set", engine=lambda *_: exchange(other))


FULL_DEVICE = """
import shutil, sys
from synthgen import cli
shutil.disk_usage = lambda path: shutil._ntuple_diskusage(1 << 40, 0, 1 << 40)  # the check before work sees enough
sys.exit(cli.main())
"""


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_device_that_fills_up_in_mid_shard_gives_one_line_and_the_run_resumes(
    tmp_path: Path, categories: Path, workers: int
) -> None:
    mount = tmp_path / "device"
    mount.mkdir()
    size = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(size, capture_output=True).returncode:
        pytest.skip("mounting a small device needs root")
    try:
        wanted = ["--n", "600", "--size", "40", "--points", "1000", "--shard-size", "40", "--workers", str(workers)]
        command = [sys.executable, "-c", FULL_DEVICE, "fractal", "--categories", str(categories), *wanted]
        out = mount / "set"
        stopped = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, timeout=60)
        assert stopped.returncode == 2
        lines = [line for line in stopped.stderr.splitlines() if not line.startswith("generate: ")]
        assert len(lines) == 1
        assert lines[0].startswith(f"synthgen: no space left on the device at {out}/data/fractal-train-0000")
        assert not list(mount.rglob("*.tmp"))
        manifest = read_manifest(out)
        assert 0 < len(manifest.shards) < 15
        assert len(committed(out)) == len(manifest.shards)
        subprocess.run(["mount", "-o", "remount,size=8m", str(mount)], check=True)
        before = files(out)
        again = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, timeout=60)
        assert again.returncode == 0, again.stderr
        after = files(out)
        stood = {out / "data" / shard.filename for shard in manifest.shards}
        assert {path: after[path] for path in stood} == {path: before[path] for path in stood}
        assert read_manifest(out).complete
        assert len(images(out)) == 600
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_disk_too_small_for_the_plan_is_refused_before_anything_is_written(
    tmp_path: Path, categories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(SynthgenError, match=r"500 images need about 0\.00\d+ GB, 0\.0001 GB are free"):
        open_directory(tmp_path / "set", small(categories, 500))
    assert not (tmp_path / "set").exists()


def test_the_estimate_of_the_disk_check_covers_what_is_written(
    tmp_path: Path, categories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Free:
        def __lt__(self, needed: int) -> bool:
            asked.append(needed)
            return False

    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": Free()}))
    make(tmp_path / "set", small(categories, 400, shard_size=100))
    written = sum(len(data) for data in contents(tmp_path / "set").values())
    assert written < asked[0] < 2 * written
    make(tmp_path / "set", small(categories, 400, shard_size=100))
    assert len(asked) == 1  # nothing is missing, nothing is needed
