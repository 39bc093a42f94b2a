import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from pretend import Maker, command, environment, lay, plan, read_log
from processes import Start, wait

from synthgen.common.errors import SynthgenError
from synthgen.common.processes import worker_name
from synthgen.dataset.manifest import finish, read_manifest
from synthgen.engines import watch as module
from synthgen.engines.claims import claim_path, claiming, report_failure
from synthgen.engines.generate import generate
from synthgen.engines.watch import Observer, duration, events, words
from synthgen.storage.object_store import OBJECTS
from synthgen.storage.places import place

PLAN = plan()  # 6 shards of 10 images
KINDS = {"progress", "worker", "worker silent", "worker gone", "failed", "complete"}


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


@pytest.fixture
def start(launch: Start) -> Start:
    """Start a run or a watcher."""
    return lambda arguments: launch(arguments, env=environment())


def watching(directory: object, *, every: float = 0.1) -> list[str]:
    """``synthgen status DIR --watch --json`` with a quicker look."""
    text = (
        "import sys; from synthgen import cli; from synthgen.engines import watch;"
        f" watch.EVERY = {every}; sys.argv = ['synthgen', 'status', {str(directory)!r}, '--watch', '--json'];"
        " sys.exit(cli.main())"
    )
    return [sys.executable, "-c", text]


@pytest.mark.parametrize("where", ["folder", "store"])
def test_the_events_of_a_run_are_lines_of_json_that_grow_to_its_end(
    tmp_path: Path, log: str, start: Start, where: str, request: Any
) -> None:
    out = str(tmp_path / "set") if where == "folder" else f"{request.getfixturevalue('s3')}/set"
    lay(place(out), PLAN)
    watcher = start(watching(out))
    run = start(command(out, Maker(log=log, seconds=0.07), PLAN, heartbeat=0.2, timeout=20.0))
    told, errors = watcher.communicate(timeout=60)
    assert (watcher.returncode, errors) == (0, "")
    assert run.wait(60) == 0
    seen = [json.loads(line) for line in told.splitlines()]
    assert {event["event"] for event in seen} <= KINDS
    progress = [event for event in seen if event["event"] == "progress"]
    assert progress[0]["n_done"] == 0
    for key in ("n_done", "n_shards_done", "n_bytes"):
        assert [event[key] for event in progress] == sorted(event[key] for event in progress)
    assert progress[-1]["n_done"] == progress[-1]["n"] == 60
    workers = [event for event in seen if event["event"] == "worker"]
    host = worker_name().rpartition("-")[0]
    assert {event["worker"] for event in workers} == {f"{host}-{pid}" for pid, _, _ in read_log(log)}
    assert any(event["done"] for event in workers)
    for event in workers:
        assert 0 <= event["done"] <= event["of"] == 10
        assert not event["silent"]
    assert seen[-1] == {"event": "complete", "plan": PLAN.digest, "n": 60}
    assert [event["event"] for event in seen].count("complete") == 1


def test_workers_that_die_in_a_folder_are_told_as_silent_at_once(
    tmp_path: Path, log: str, start: Start, synthgen: Command
) -> None:
    out = tmp_path / "set"
    run = start(command(out, Maker(log=log, seconds=0.3), PLAN))
    wait(lambda: len({pid for pid, _, _ in read_log(log)}) == 2)
    alive = synthgen("status", out).stdout.splitlines()
    assert len(alive) == 3
    assert alive[0].endswith(("under way", "left"))
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    done = synthgen("status", out)
    assert done.returncode == 0
    first, *workers = done.stdout.splitlines()
    assert first.endswith("unfinished; run the same command again to go on")
    assert len(workers) == 2
    assert all(line.endswith("silent") for line in workers)
    state = json.loads(synthgen("status", out, "--json").stdout)
    assert [worker["silent"] for worker in state["workers"]] == [True, True]
    assert state["left"] is None


def test_a_worker_of_a_store_whose_claim_does_not_change_is_told_as_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    url = OBJECTS.place(f"memory://watched/{tmp_path.name}")
    lay(url, PLAN)
    observer, told = Observer(url), []
    with claiming(url, PLAN.shard(1), heartbeat=0.05):
        before = observer.look()
        for _ in range(3):
            time.sleep(0.2)
            state = observer.look()
            told += list(events(before, state))
            before = state
    assert "worker silent" not in [event["event"] for event in told]
    path = claim_path(url, PLAN.shard(1))
    path.write_bytes(b'{"worker": "far-7", "shard": 1, "done": 3, "of": 10, "rate": 1.5, "beat": 4, "failed": ""}')
    told = []
    for _ in range(3):
        state = observer.look()
        told += list(events(before, state))
        before = state
        time.sleep(0.2)
    silent = {"event": "worker silent", "worker": "far-7", "shard": PLAN.shard(1).stem, "done": 3, "of": 10}
    assert silent | {"rate": 1.5, "silent": True} in told
    assert state["rate"] == 0
    path.unlink()
    assert {"event": "worker gone", "worker": "far-7"} in list(events(before, observer.look()))


def test_failed_shards_are_told_once_and_until_they_are_done(tmp_path: Path, log: str, synthgen_here: Command) -> None:
    out = tmp_path / "set"
    lay(out, PLAN)
    report_failure(out, PLAN.shard(4), "node-7", "RuntimeError: no memory")
    observer = Observer(out)
    first, second = observer.look(), observer.look()
    failed = {"event": "failed", "shard": PLAN.shard(4).stem, "why": "RuntimeError: no memory"}
    assert [event for event in events(None, first) if event["event"] == "failed"] == [failed]
    assert list(events(first, second)) == []
    done = synthgen_here("status", out)
    assert done.stdout.splitlines()[1] == f"  failed: {PLAN.shard(4).stem}: RuntimeError: no memory"
    generate(out, renderer=Maker(log=log)(None))
    assert observer.look()["failed"] == {}


def test_status_is_one_object_with_all_that_is_told(tmp_path: Path, log: str, synthgen_here: Command) -> None:
    out = tmp_path / "set"
    lay(out, PLAN)
    generate(out, renderer=Maker(log=log)(None), share=(0, 2))
    state = json.loads(synthgen_here("status", out, "--json").stdout)
    assert state.pop("n_bytes") > 0
    assert state == {
        "directory": str(out),
        "plan": PLAN.digest,
        "n": 60,
        "n_done": 30,
        "n_shards": 6,
        "n_shards_done": 3,
        "n_classes": 5,
        "complete": False,
        "rate": 0.0,
        "left": None,
        "workers": [],
        "failed": {},
    }


def test_the_rate_is_what_was_seen_to_grow_and_gives_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = tmp_path / "set"
    lay(out, PLAN)
    observer = Observer(out)
    assert (observer.look()["rate"], observer.look()["left"]) == (0, None)
    now[0] += 10
    for share in range(2):
        generate(out, renderer=Maker(log=log)(None), share=(share, 6))
    state = observer.look()
    assert (state["rate"], state["left"]) == (2.0, 20)
    now[0] += module.WINDOW + 1  # nothing more: the old rate is no promise
    observer.look()
    now[0] += module.EVERY
    assert (observer.look()["rate"], observer.look()["left"]) == (0, None)


def test_watching_outlasts_a_store_that_fails_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthgen.storage.retries.BACKOFF", (0.01,) * 3)
    monkeypatch.setattr(module, "EVERY", 0.01)
    url = place(f"memory://watched/{tmp_path.name}")
    lay(url, PLAN)
    looks = module.follow(url)
    next(looks)
    real, left = module.read_manifest, [2]

    def failing(*args: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise SynthgenError("gone for a moment")
        return real(*args)

    monkeypatch.setattr(module, "read_manifest", failing)
    assert next(looks)["n_done"] == 0
    assert left[0] < 0


def test_a_set_is_finished_though_its_store_fails_for_a_moment(
    tmp_path: Path, log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthgen.storage.retries.BACKOFF", (0.01,) * 3)
    url = OBJECTS.place(f"memory://watched/{tmp_path.name}")
    lay(url, PLAN)
    generate(url, renderer=Maker(log=log)(None))
    manifest = read_manifest(url)
    (url / "manifest.json").unlink()
    real, left = type(url).read_bytes, [2]

    def failing(path: Any) -> bytes:
        left[0] -= 1
        if left[0] >= 0:
            raise RuntimeError("no connection")  # clients have errors of their own
        return real(path)

    monkeypatch.setattr(type(url), "read_bytes", failing)
    finish(manifest)
    assert left[0] < 0
    assert read_manifest(url).complete
    assert (url / "manifest.json").exists()
    left[0] = 9
    with pytest.raises(SynthgenError, match=r"plan\.json: cannot be read \(RuntimeError\)"):
        finish(manifest)


def test_ctrl_c_ends_the_watching_of_an_unfinished_set(tmp_path: Path, start: Start) -> None:
    lay(tmp_path / "set", PLAN)
    watcher = start(watching(tmp_path / "set"))
    assert watcher.stdout is not None
    assert json.loads(watcher.stdout.readline())["event"] == "progress"
    os.killpg(watcher.pid, signal.SIGINT)
    _, errors = watcher.communicate(timeout=20)
    assert watcher.returncode == 130
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(("seconds", "told"), [(5, "5 s"), (600, "10 min"), (9000, "2.5 h")])
def test_time_spans_are_told_in_words(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_a_complete_set_is_told_in_one_line(tmp_path: Path, log: str) -> None:
    lay(tmp_path / "set", PLAN)
    generate(tmp_path / "set", renderer=Maker(log=log)(None))
    assert not (tmp_path / "set/claims").exists()
    (line,) = words("set", Observer(tmp_path / "set").look())
    assert line.startswith("set: 60 of 60 images of 5 classes, 6 of 6 shards, ")
    assert line.endswith(" MB: complete")
