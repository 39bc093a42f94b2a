"""Several workers at one suite: the results of one, whoever dies."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from processes import Start, command_line, entries, installed, wait
from small_suite import make_world, results

from synthgen.common.errors import SynthgenError
from synthgen.engines.request import Request
from synthgen_evaluate.design.suite import read_suite
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.training import fleet
from synthgen_evaluate.training.execute import run_suite
from synthgen_evaluate.training.fleet import run_fleet
from synthgen_evaluate.training.plan import open_suite

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wilds.*", "ignore::DeprecationWarning:ogb.*")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def alone(world: Path) -> dict[str, bytes]:
    """What one process finds, with the threads that each of two workers has."""
    program = (
        "from pathlib import Path; from synthgen_evaluate.training.execute import run_suite;"
        "from synthgen_evaluate.design.suite import read_suite;"
        f"run_suite(read_suite(Path({str(world / 'suite.toml')!r})), Path({str(world / 'runs')!r}), device='cpu')"
    )
    threads = str(max(1, (os.cpu_count() or 1) // 2))
    subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": threads}, check=True, timeout=200
    )
    return results(world / "runs")


def workers_at_work(out: Path) -> list[int]:
    """The processes that are workers for a directory of runs."""
    lines = {entry.pid: command_line(entry.pid) for entry in entries()}
    return sorted(
        pid
        for pid, words in lines.items()
        if "synthgen_evaluate" in words and str(out) in words and "--workers" not in words
    )


def command(world: Path, out: Path, *more: str) -> list[str]:
    return [installed("evaluate"), "run", str(world / "suite.toml"), "--out", str(out), "--device", "cpu", *more]


@pytest.mark.slow
def test_two_workers_find_what_one_process_finds_though_one_is_killed_and_one_asked_to_end(
    world: Path, alone: dict[str, bytes], tmp_path: Path, launch: Start
) -> None:
    out = tmp_path / "runs"
    process = launch(command(world, out, "--workers", "2"))
    wait(lambda: any(out.glob("*/log.jsonl")))
    for pid, number in zip(workers_at_work(out), (signal.SIGKILL, signal.SIGTERM), strict=True):
        os.kill(pid, number)
    told, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    assert told.splitlines()[-1] == f"{out}: 5 runs done, 0 done before, 0 failed"
    assert results(out) == alone
    assert workers_at_work(out) == []


@pytest.mark.slow
def test_a_stopped_fleet_leaves_no_worker_and_goes_on(
    world: Path, alone: dict[str, bytes], tmp_path: Path, launch: Start
) -> None:
    out = tmp_path / "runs"
    process = launch(command(world, out, "--workers", "2"))
    wait(lambda: any(out.glob("*/log.jsonl")))
    process.terminate()
    assert process.wait(30) == 130
    assert workers_at_work(out) == []
    assert subprocess.run(command(world, out, "--workers", "2"), capture_output=True, timeout=200).returncode == 0
    assert results(out) == alone


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, ...]]:
    """Options for two workers of a Ray that the command starts, with as many threads as those of `alone`."""
    pytest.importorskip("ray")
    folder = tempfile.mkdtemp(prefix="ray")  # short, as sockets stand in it
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield ("--engine", "ray", "--workers", "2", "--resources", f"CPU={max(1, (os.cpu_count() or 1) // 2)}")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_two_workers_of_ray_find_what_one_process_finds_though_one_is_killed(
    world: Path, alone: dict[str, bytes], tmp_path: Path, ray: tuple[str, ...], launch: Start
) -> None:
    out = tmp_path / "runs"
    process = launch(command(world, out, *ray))
    wait(lambda: any(out.glob("*/log.jsonl")))
    assert len(workers_at_work(out)) == 2
    os.kill(workers_at_work(out)[-1], signal.SIGKILL)
    told, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert errors.splitlines()[-1] == "run: 5 of 5 runs"
    assert told.splitlines()[-1] == f"{out}: 5 runs done, 0 done before, 0 failed"
    assert results(out) == alone
    assert workers_at_work(out) == []


class Growing:
    """As much of Ray as a fleet asks for, with other room at each look, and a run done at each from the second."""

    def __init__(self, rooms: list[int], n_runs: int) -> None:
        self.rooms, self.left, self.begun = rooms, n_runs, list[int]()

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.rooms.pop(0) if len(self.rooms) > 1 else self.rooms[0]}

    def remote(self, **options: object) -> Callable[[object], Any]:
        self.begun.append(0)
        return lambda function: SimpleNamespace(remote=self._begin)

    def _begin(self, *arguments: object) -> object:
        self.begun[-1] += 1
        return object()

    def wait(self, futures: list[object], **options: object) -> tuple[list[object], list[object]]:
        self.left -= len(self.begun) > 1
        self.begun.append(0)
        return [], futures


@pytest.mark.parametrize(
    ("workers", "rooms", "begun"),
    [(None, [0, 1, 3, 9], [1, 0, 2, 1, 0]), (None, [2], [2, 0, 0, 0, 0]), (32, [0], [6, 0, 0, 0, 0]), (1, [9], [1])],
)
def test_room_that_comes_late_is_used_and_what_was_asked_for_is_asked_of_ray(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int | None,
    rooms: list[int],
    begun: list[int],
) -> None:
    ray = Growing(rooms, n_runs=6)

    @contextmanager
    def connected(cluster: object) -> Iterator[Growing]:
        yield ray

    monkeypatch.setattr("synthgen.engines.cluster.Cluster.connected", connected)
    plan = open_suite(read_suite(world / "suite.toml"))
    monkeypatch.setattr(fleet.Plan, "todo", lambda self, out: plan.grid.steps[:1] * ray.left)
    fleet._run_on_ray(world / "suite.toml", tmp_path, plan, Request(engine="ray", workers=workers), ())
    assert ray.begun[: len(begun)] == begun
    assert sum(ray.begun) == sum(begun)


@pytest.mark.slow
def test_a_stopped_fleet_on_ray_leaves_no_worker(
    world: Path, tmp_path: Path, ray: tuple[str, ...], launch: Start
) -> None:
    out = tmp_path / "runs"
    process = launch(command(world, out, *ray))
    wait(lambda: any(out.glob("*/log.jsonl")))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "evaluate: interrupted; run the same command again to go on"
    assert "Traceback" not in errors
    wait(lambda: workers_at_work(out) == [], seconds=10)


def test_shares_are_disjoint_and_together_the_whole_suite(world: Path, tmp_path: Path) -> None:
    suite = read_suite(world / "suite.toml")
    plan = open_suite(suite)
    shares = [[step.config.digest for step in plan.steps((index, 2))] for index in range(2)]
    assert sorted([*shares[0], *shares[1]]) == sorted(step.config.digest for step in plan.grid.steps)
    for steps in shares:  # what a run starts from is in its share
        starts = {step.config.init for step in plan.grid.steps if step.config.digest in steps} - {None}
        assert starts <= set(steps)
    assert run_suite(suite, tmp_path, device="cpu", share=(1, 2)).done == len(shares[1])
    assert {path.parent.name for path in tmp_path.glob("*/state.json")} == set(shares[1])


@pytest.mark.parametrize(
    ("end", "how"),
    [("os.kill(os.getpid(), 9)", "SIGKILL, perhaps for lack of memory"), ("sys.exit(130)", "exit code 130")],
)
def test_a_worker_that_is_ended_again_and_again_ends_the_fleet_with_one_line(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, how: str
) -> None:
    suicide = [sys.executable, "-c", f"import os, sys; {end}"]
    monkeypatch.setattr(fleet.Worker, "command", lambda self: suicide)
    with pytest.raises(EvaluateError, match=f"killed 4 times \\({how}\\)"):
        run_fleet(world / "suite.toml", read_suite(world / "suite.toml"), tmp_path, Request(workers=2), device="cpu")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(num_tasks=0, task_index=0), "--num-tasks 0: at least 1"),
        (Request(num_tasks=2, task_index=2), "--task-index 2: 0 to 1"),
        (Request(num_tasks=2), "--task-index is missing"),
        (Request(engine="slurm"), "--engine slurm: one of local, ray"),
        (Request(address="auto"), "--address: only with --engine ray"),
        (Request(engine="ray", resources=("GPU",)), "--resources GPU: NAME=AMOUNT"),
    ],
)
def test_what_cannot_be_asked_of_an_engine_is_refused(request_: Request, words: str) -> None:
    with pytest.raises(SynthgenError, match=words):
        request_.check()
