import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from files import contents
from pretend import Maker, command, environment, lay, plan, read_log
from processes import Popen, Start, command_line, installed, members, wait, zombies

from synthgen.common.errors import SynthgenError
from synthgen.dataset.manifest import read_manifest
from synthgen.dataset.plan import Plan
from synthgen.engines import local as module
from synthgen.engines.generate import generate
from synthgen.engines.local import local
from synthgen.engines.watch import Observer, words
from synthgen.engines.work import ATTEMPTS, Done, FailedShardsError, Task, Work

PROMPTS = Path(__file__).parents[1] / "prompts/quickstart.txt"
PLAN = plan()  # 6 shards of 10 images


def fill(out: Path, maker: Maker, devices: tuple[str | None, ...] = (None, None), asked: Plan = PLAN) -> None:
    lay(out, asked)
    generate(out, engine=local(devices), make=maker)


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    lay(folder / "set", PLAN)
    generate(folder / "set", renderer=Maker(log=str(folder / "log"))(None))
    return contents(folder / "set")


@pytest.fixture
def start(launch: Start) -> Start:
    """Start a run."""

    def run(out: Path, maker: Maker, asked: Plan = PLAN, **options: Any) -> Popen:
        return launch(command(out, maker, asked, **options), env=environment())

    return run


@pytest.mark.parametrize("case", range(3))
def test_workers_killed_at_random_images_are_replaced_and_nothing_tells_of_it(
    tmp_path: Path, log: str, undisturbed: dict[str, bytes], case: int
) -> None:
    rng = random.Random(case)
    dies = {index: rng.randint(1, 2) for index in rng.sample(range(0, PLAN.n, 10), 2)}  # of two shards
    dies[rng.randrange(PLAN.n)] = 1
    dies = {index: times for index, times in dies.items() if sum(dies.get(i, 0) for i in shard(index)) < ATTEMPTS}
    fill(tmp_path / "set", Maker(log=log, dies=dies))
    assert contents(tmp_path / "set") == undisturbed
    begun = Counter(index for _, _, index in read_log(log))
    assert sum(begun.values()) > PLAN.n  # there were deaths
    assert all(begun[index] >= 1 + times for index, times in dies.items())


def shard(index: int) -> range:
    return range(index // 10 * 10, index // 10 * 10 + 10)


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        ("dies", "its worker was killed (SIGKILL, perhaps for lack of memory)"),
        ("fails", "RuntimeError: no image 33 on None"),
    ],
)
def test_a_shard_that_ends_each_attempt_is_given_up_told_and_done_by_a_later_run(
    tmp_path: Path, log: str, undisturbed: dict[str, bytes], start: Start, trouble: str, why: str
) -> None:
    out = tmp_path / "set"
    always = {33: 100}
    process = start(out, Maker(log=log, dies=always) if trouble == "dies" else Maker(log=log, fails=always))
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    logs = sorted((out / "logs").glob("*")) if trouble == "fails" else []
    assert len(logs) == (ATTEMPTS if trouble == "fails" else 0)
    why += f" (traceback in {logs[-1]})" if logs else ""
    lines = [line for line in told.splitlines() if not line.startswith("generate: ")]
    assert lines == [
        f"synthgen: {out}: 1 shard given up: pretend-train-000003: {why}; the others are finished: run the same"
        " command again to retry them"
    ]
    assert Counter(index for _, _, index in read_log(log))[33] == ATTEMPTS
    manifest = read_manifest(out)
    assert [span.index for span in manifest.missing] == [3]
    for shard_ in manifest.shards:
        assert contents(out)[f"data/{shard_.filename}"] == undisturbed[f"data/{shard_.filename}"]
    state = Observer(out).look()
    assert state["failed"] == {"pretend-train-000003": why}
    assert state["workers"] == []
    assert words("set", state)[1:] == [f"  failed: pretend-train-000003: {why}"]
    assert not list(out.rglob("*.tmp"))
    fill(out, Maker(log=log))
    assert contents(out) == undisturbed  # claims and logs are gone, too


def test_an_exception_costs_no_worker(tmp_path: Path, log: str, undisturbed: dict[str, bytes]) -> None:
    fill(tmp_path / "set", Maker(log=log, fails={5: 1, 6: 1, 42: 2}))
    assert contents(tmp_path / "set") == undisturbed
    assert len({pid for pid, _, _ in read_log(log)}) == 2


def test_in_this_process_too_a_shard_that_fails_is_given_up_and_the_others_stand(tmp_path: Path, log: str) -> None:
    lay(tmp_path / "set", PLAN)
    maker = Maker(log=log, fails={33: 100, 50: 1})
    with pytest.raises(FailedShardsError, match="no image 33 on None"):
        generate(tmp_path / "set", renderer=maker(None))
    assert [span.index for span in read_manifest(tmp_path / "set").missing] == [3]


def test_what_nothing_helps_against_ends_the_run_at_once(tmp_path: Path, log: str, start: Start) -> None:
    big = plan(400)  # 40 shards
    process = start(tmp_path / "set", Maker(log=log, stops=21, seconds=0.02), big)
    _, told = process.communicate(timeout=60)
    lines = [line for line in told.splitlines() if not line.startswith("generate: ")]
    assert (process.returncode, lines) == (2, ["synthgen: the model is gone; look for it"])
    assert not list((tmp_path / "set").rglob("*.tmp"))
    wait(lambda: not members(process.pid), 2)
    assert Counter(index for _, _, index in read_log(log))[21] == 1
    assert max(index for _, _, index in read_log(log)) < 60  # of what was under way


def interrupt(process: Popen) -> None:
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does


def preempt(process: Popen) -> None:
    process.terminate()


def preempt_all(process: Popen) -> None:
    os.killpg(process.pid, signal.SIGTERM)


def insist(process: Popen) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        os.killpg(process.pid, number)
        time.sleep(0.02)


@pytest.mark.parametrize(
    "end", [interrupt, preempt, *(pytest.param(end, marks=pytest.mark.slow) for end in (preempt_all, insist))]
)
def test_a_signal_ends_a_run_cleanly_and_it_resumes(
    tmp_path: Path,
    log: str,
    undisturbed: dict[str, bytes],
    start: Start,
    end: Callable[[Popen], None],
) -> None:
    out = tmp_path / "set"
    process = start(out, Maker(log=log, seconds=0.1))
    wait(lambda: len(read_log(log)) > 25)
    before = time.monotonic()
    end(process)
    told, errors = process.communicate(timeout=20)
    assert time.monotonic() - before < module.GRACE
    assert (process.returncode, told) == (130, "")
    lines = [line for line in errors.splitlines() if not line.startswith("generate: ")]
    assert lines == ["synthgen: interrupted; run the same command again to go on"]
    assert not list(out.rglob("*.tmp"))
    wait(lambda: not members(process.pid), 2)  # Python's own tracker of resources ends a moment later
    assert 0 < len(read_manifest(out).shards) < 6
    fill(out, Maker(log=log))
    assert contents(out) == undisturbed


STARTING = """
import os, signal, sys
from multiprocessing import popen_spawn_posix
real, started = popen_spawn_posix.Popen._launch, []

def launch(self, process):
    started.append(process)
    if len(started) == 2:
        os.kill(os.getpid(), signal.{name})
    real(self, process)

popen_spawn_posix.Popen._launch = launch
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_while_a_worker_starts_ends_a_run_as_well(tmp_path: Path, log: str, name: str) -> None:
    program, flag, text = command(tmp_path / "set", Maker(log=log, seconds=0.1), PLAN)
    done = subprocess.run(
        [program, flag, STARTING.format(name=name) + text],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("generate: ")]
    assert (done.returncode, lines) == (130, ["synthgen: interrupted; run the same command again to go on"])
    assert not list((tmp_path / "set").rglob("*.tmp"))


def test_workers_that_hear_no_signal_are_killed_after_the_grace_and_leave_nothing(
    tmp_path: Path, log: str, start: Start
) -> None:
    process = start(tmp_path / "set", Maker(log=log, seconds=60, deaf=True))
    wait(lambda: len(read_log(log)) == 2)
    before = time.monotonic()
    interrupt(process)
    _, errors = process.communicate(timeout=20)
    assert module.GRACE <= time.monotonic() - before < module.GRACE + 2
    assert (process.returncode, "Traceback" in errors) == (130, False)
    assert not list((tmp_path / "set").rglob("*.tmp"))
    wait(lambda: not members(process.pid), 2)


@pytest.mark.parametrize("deaf", [False, True])
def test_workers_end_with_a_killed_parent(tmp_path: Path, log: str, start: Start, deaf: bool) -> None:
    process = start(tmp_path / "set", Maker(log=log, seconds=60, deaf=deaf))
    wait(lambda: len(read_log(log)) == 2)
    assert len(members(process.pid)) >= 3  # the parent and two workers
    process.kill()
    process.wait(20)
    wait(lambda: not members(process.pid), 5)


def test_there_are_no_more_workers_than_shards(tmp_path: Path, log: str, undisturbed: dict[str, bytes]) -> None:
    fill(tmp_path / "set", Maker(log=log, seconds=0.05), devices=(None,) * 9, asked=plan(20))
    assert len({pid for pid, _, _ in read_log(log)}) == 2


def test_a_worker_stays_on_its_device_and_so_does_the_one_that_replaces_it(tmp_path: Path, log: str) -> None:
    fill(tmp_path / "set", Maker(log=log, seconds=0.02, dies={4: 1, 25: 1, 41: 2}), devices=("a", "b", "c"))
    seen = read_log(log)
    device_of = {pid: device for pid, device, _ in seen}
    assert all(device_of[pid] == device for pid, device, _ in seen)
    assert set(device_of.values()) == {"a", "b", "c"}
    for device in "abc":  # no two of one device at a time
        pids = [pid for pid, on, _ in seen if on == device]
        changes = sum(one != other for one, other in pairwise(pids))
        assert changes == len(set(pids)) - 1
    assert 3 < len(device_of) <= 3 + 4  # an idle worker may take the shard of one that died


def test_a_device_on_which_nothing_works_does_not_take_the_shards_with_it(tmp_path: Path, log: str) -> None:
    asked = plan(400)  # 40 shards, of which a worker that fails at once could fail most
    fill(tmp_path / "set", Maker(log=log, broken="bad", seconds=0.001), devices=("bad", "good"), asked=asked)
    assert read_manifest(tmp_path / "set").complete
    assert sum(device == "bad" for _, device, _ in read_log(log)) == ATTEMPTS


def test_many_restarts_leave_no_zombie_and_no_open_file(tmp_path: Path, log: str) -> None:
    tasks, work = laid_down(tmp_path, Maker(log=log, dies={index * 10: 2 for index in range(6)}))
    list(local([None])(work, tasks[:1], lambda n: None))  # what is opened once and for all
    before = len(os.listdir("/proc/self/fd"))
    ends = list(local([None, None])(work, tasks[1:], lambda n: None))
    assert [done.failed for done in ends] == [""] * 5
    assert len({pid for pid, _, _ in read_log(log)}) >= 13
    assert len(os.listdir("/proc/self/fd")) == before
    assert multiprocessing.active_children() == []
    assert zombies() == []


def laid_down(tmp_path: Path, maker: Maker) -> tuple[list[Task], Work]:
    lay(tmp_path / "set", PLAN)
    spans = [PLAN.shard(index) for index in range(PLAN.n_shards)]
    return [Task(span=span) for span in spans], Work(directory=str(tmp_path / "set"), plan=PLAN, make=maker)


def test_the_progress_that_is_told_only_grows_and_comes_to_the_number_of_images(tmp_path: Path, log: str) -> None:
    tasks, work = laid_down(tmp_path, Maker(log=log, dies={8: 1, 39: 2}, fails={27: 1}, seconds=0.03))
    told: list[int] = []
    ends = list(local([None, None])(work, tasks, told.append))
    assert all(n > 0 for n in told)
    assert len(told) > 10
    assert sum(told) == PLAN.n
    assert sum(done.n_samples for done in ends) == PLAN.n


def test_the_end_of_every_task_is_told_once(tmp_path: Path, log: str) -> None:
    tasks, work = laid_down(tmp_path, Maker(log=log, dies={8: 100}, fails={27: 1}))
    ends: list[Done] = list(local([None, None])(work, tasks, lambda n: None))
    assert sorted(done.span.index for done in ends) == [0, 1, 2, 3, 4, 5]
    assert [done.span.index for done in ends if done.failed] == [0]


def test_a_run_whose_shards_are_written_where_it_does_not_look_ends(tmp_path: Path, log: str) -> None:
    def elsewhere(work: Work, tasks: list[Task], advance: Callable[[int], None]) -> Iterator[Done]:
        for task in tasks:
            yield Done(span=task.span, n_samples=10, worker="far-1")

    lay(tmp_path / "set", PLAN)
    with pytest.raises(SynthgenError, match="all workers must reach the same place"):
        generate(tmp_path / "set", engine=elsewhere, make=Maker(log=log))  # type: ignore[arg-type]


@pytest.mark.slow
def test_killed_workers_of_diffusion_leave_no_semaphore_and_nobody_says_a_word(tmp_path: Path, launch: Start) -> None:
    asked = ["sd", "--prompts", str(PROMPTS), "--model", "tiny", "--n", "24", "--size", "32", "--shard-size", "4"]
    asked += ["--steps", "4", "--batch", "4", "--device", "cpu", "--workers", "2", "--out", str(tmp_path / "set")]
    process = launch([installed("synthgen"), *asked])
    wait(lambda: any((tmp_path / "set/data").glob("*.json")))
    workers = [pid for pid in members(process.pid) if "spawn_main" in " ".join(command_line(pid))]
    os.kill(workers[0], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0
    assert [line for line in said.splitlines() if not line.startswith("generate: ")] == []


def test_an_interruption_inside_a_callback_from_c_is_not_lost() -> None:
    program = (
        "import ctypes, os, signal, time, typer; from synthgen import cli\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def work() -> None:\n"
        "    def hit() -> None: os.kill(os.getpid(), signal.SIGTERM); [None for _ in range(10_000)]\n"
        "    ctypes.CFUNCTYPE(None)(hit)()\n"
        "    time.sleep(30)\n"
        "raise SystemExit(cli.run(app, 'work', ()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=25)
    assert (done.returncode, done.stderr) == (130, "work: interrupted; run the same command again to go on\n")


def test_a_worker_whose_parent_died_with_its_words_unheard_says_nothing() -> None:
    program = (
        "from multiprocessing import Pipe; from synthgen.engines import local;"
        "local.end_with_parent = lambda: None; ours, theirs = Pipe();"
        "theirs.send(1); ours.close(); local._work(theirs, None, None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


IMPORTING = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.{number})
            [None for _ in range(10_000)]
sys.meta_path.insert(0, Finder())
from {package}.__main__ import main
sys.argv = ["x", "--version"]
main()
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("package", "module"), [("synthgen", "synthgen.cli_sets"), ("synthgen_evaluate", "synthgen_evaluate.cli_kept")]
)
def test_a_command_that_is_interrupted_while_it_is_imported_ends_at_once_and_says_nothing(
    package: str, module: str, number: str
) -> None:
    program = IMPORTING.format(package=package, module=module, number=number)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (-getattr(signal, number), "")


@pytest.mark.parametrize("package", ["synthgen", "synthgen_evaluate"])
def test_a_command_that_is_interrupted_after_its_work_says_nothing(package: str) -> None:
    program = (
        "import atexit, os, signal, sys\n"
        "def late():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    [None for _ in range(10_000)]\n"
        "atexit.register(late)\n"
        f"from {package}.__main__ import main\n"
        "sys.argv = ['x', '--help']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_a_command_under_nohup_does_not_hear_ctrl_c() -> None:
    program = (
        "import os, signal, typer; signal.signal(signal.SIGINT, signal.SIG_IGN); from synthgen import cli\n"
        "cli.end_silently(); app = typer.Typer()\n"
        "@app.command()\n"
        "def work() -> None:\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('on')\n"
        "raise SystemExit(cli.run(app, 'work', ()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "on\n", "")


def test_an_interruption_waits_for_a_start_even_if_another_thread_receives_it() -> None:
    program = (
        "import os, signal, threading, time; from synthgen.common.processes import interrupts_later\n"
        "over = threading.Event(); threading.Thread(target=over.wait, daemon=True).start(); told = []\n"
        "try:\n"
        "    with interrupts_later():\n"
        "        os.kill(os.getpid(), signal.SIGINT); time.sleep(0.2); told.append('started')\n"
        "    told.append('went on')\n"
        "except KeyboardInterrupt: told.append('interrupted')\n"
        "print(*told)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("started interrupted\n", "")
