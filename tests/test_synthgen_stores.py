import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flaky
import pytest
from conftest import Command
from files import contents, objects
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from pretend import Maker, command, environment, item, lay, plan, read_log

from synthgen.common.errors import SynthgenError
from synthgen.dataset.manifest import read_manifest
from synthgen.dataset.plan import Plan
from synthgen.dataset.shard import committed, write_shard
from synthgen.dataset.verify import check
from synthgen.engines import claims
from synthgen.engines import generate as generate_module
from synthgen.engines.generate import generate
from synthgen.storage import retries
from synthgen.storage.object_store import OBJECTS
from synthgen.storage.places import place

s3fs = pytest.importorskip("s3fs")

PLAN = plan()  # 6 shards of 10 images
FRACTALS = ("--size", 40, "--points", 3000, "--shard-size", 40, "--workers", 2)
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI", "AWS_MAX_ATTEMPTS": "2"}


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return fill(str(folder / "set"), Maker(log=str(folder / "log")))


def fill(directory: str, maker: Maker, asked: Plan = PLAN) -> dict[str, bytes]:
    lay(place(directory), asked)
    generate(place(directory), renderer=maker(None))
    return objects(directory) if "://" in directory else contents(Path(directory))


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://pretended/set"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def through(s3: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., flaky.Proxy]]:
    """Put a proxy before the S3 server, for this process and others."""
    proxies = []

    def put(decide: Callable[[str, str], str | None] = lambda method, path: None) -> flaky.Proxy:
        proxies.append(flaky.Proxy(s3_server, decide))
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxies[-1].address)
        s3fs.S3FileSystem.clear_instance_cache()
        return proxies[-1]

    yield put
    for proxy in proxies:
        proxy.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims count for a second, and what fails is tried again at once."""
    monkeypatch.setattr(claims, "TIMEOUT", 1.0)
    monkeypatch.setattr(claims, "HEARTBEAT", 0.2)
    monkeypatch.setattr(generate_module, "HEARTBEAT", 0.2)
    monkeypatch.setattr(retries, "BACKOFF", (0.1, 0.1, 0.1))
    monkeypatch.setattr(retries, "BRIEF_BACKOFF", (0.1, 0.1))


def test_a_set_in_a_store_has_the_bytes_of_one_in_a_folder_also_when_it_grows(
    tmp_path: Path, s3: str, through: Callable[..., flaky.Proxy], categories: Path, synthgen_here: Command
) -> None:
    proxy, out = through(), tmp_path / "set"
    for n in (80, 180):
        for to in (out, f"{s3}/some/set"):
            done = synthgen_here("fractal", "--out", to, "--categories", categories, "--n", n, *FRACTALS)
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(f"{to}: {n} images of 5 categories in {-(-n // 40)} shards")
        assert objects(f"{s3}/some/set") == contents(out)
    assert check(place(f"{s3}/some/set")) == []
    assert set(proxy.puts(".tar").values()) == {1}  # what stood was not sent again


def test_a_shard_costs_a_dozen_requests(s3: str, log: str, through: Callable[..., flaky.Proxy]) -> None:
    proxy = through()
    fill(f"{s3}/set", Maker(log=log))
    for index in range(PLAN.n_shards):
        stem = PLAN.shard(index).stem
        asked = [one.method for one in proxy.requests if f"{stem}." in one.path]
        assert asked.index("DELETE") <= 12  # of the claim, when the shard stands


# A kill when this file of shard 2 is sent, before or after it stands there.
MOMENTS = [
    (f"data/{PLAN.shard(2).stem}.tar", "unheard"),
    (f"data/{PLAN.shard(2).stem}.tar", "unsaid"),
    (f"metadata/{PLAN.shard(2).stem}.parquet", "unheard"),
    (f"metadata/{PLAN.shard(2).stem}.parquet", "unsaid"),
    (f"data/{PLAN.shard(2).stem}.json", "unheard"),
    (f"data/{PLAN.shard(2).stem}.json", "unsaid"),
    ("SHA256SUMS", "unheard"),
    ("manifest.json", "unheard"),
]


@pytest.mark.parametrize("moments", [MOMENTS[1::3], pytest.param(MOMENTS, marks=pytest.mark.slow)])
def test_a_run_killed_between_any_two_writes_goes_on_from_what_the_store_has(
    s3: str,
    log: str,
    undisturbed: dict[str, bytes],
    through: Callable[..., flaky.Proxy],
    moments: list[tuple[str, str]],
) -> None:
    due = list(moments)
    running: list[subprocess.Popen[bytes]] = []

    def kill(method: str, path: str) -> str | None:
        if not due or method != "PUT" or not path.partition("?")[0].endswith(due[0][0]):
            return None
        running[-1].kill()
        return due.pop(0)[1]

    proxy, before = through(kill), dict[str, bytes]()
    while due:
        n = len(due)
        running.append(
            subprocess.Popen(
                command(f"{s3}/set", Maker(log=log), PLAN, devices=(), timeout=0.5, heartbeat=0.1),
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        assert running[-1].wait(60) == -signal.SIGKILL
        assert len(due) == n - 1
        stand = {name: data for name, data in objects(f"{s3}/set").items() if name.startswith("data/")}
        assert stand.items() >= before.items()
        before = stand
    assert fill(f"{s3}/set", Maker(log=log)) == undisturbed
    assert {name for name, n in proxy.puts(".tar").items() if n > 1} == {f"{PLAN.shard(2).stem}.tar"}


@pytest.mark.slow
def test_runs_killed_at_random_moments_go_on_from_what_the_store_has(
    s3: str, log: str, undisturbed: dict[str, bytes]
) -> None:
    rng = random.Random(0)
    for kill in (True,) * 6 + (False,):
        process = subprocess.Popen(
            command(f"{s3}/set", Maker(log=log, seconds=0.02), PLAN, timeout=0.5, heartbeat=0.1),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        due = len(read_log(log)) + rng.randint(1, 15)
        while process.poll() is None:
            if kill and len(read_log(log)) >= due:
                time.sleep(rng.uniform(0, 0.3))
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        process.wait()
    assert process.returncode == 0
    assert objects(f"{s3}/set") == undisturbed


@pytest.mark.parametrize("stored", ["s3", "memory"])
def test_what_is_missing_or_damaged_in_a_store_is_done_again_and_nothing_else(
    log: str, undisturbed: dict[str, bytes], stored: str, request: pytest.FixtureRequest
) -> None:
    url = f"{request.getfixturevalue(stored)}/set"
    assert fill(url, Maker(log=log)) == undisturbed
    folder, stems = OBJECTS.place(url), [PLAN.shard(index).stem for index in range(6)]
    store = folder.fs

    def path(name: str) -> str:
        return str((folder / name).path)

    store.rm_file(path(f"data/{stems[0]}.tar"))
    store.rm_file(path(f"data/{stems[1]}.json"))
    store.rm_file(path(f"metadata/{stems[2]}.parquet"))
    store.pipe_file(path(f"data/{stems[3]}.tar"), undisturbed[f"data/{stems[3]}.tar"][:-512])
    store.pipe_file(path(f"data/{stems[4]}.json"), b"")
    Path(log).unlink()
    assert fill(url, Maker(log=log)) == undisturbed
    assert {index // 10 for _, _, index in read_log(log)} == {0, 1, 2, 3, 4}


def test_another_plan_is_refused_with_both_digests_and_nothing_changes(
    s3: str, categories: Path, synthgen_here: Command
) -> None:
    command_line = ("fractal", "--out", f"{s3}/set", "--categories", categories, "--n", 40, "--size", 40)
    assert synthgen_here(*command_line, "--points", 1000).returncode == 0
    before = objects(f"{s3}/set")
    done = synthgen_here(*command_line, "--points", 2000)
    there = read_manifest(place(f"{s3}/set")).plan.digest[:16]
    assert done.returncode == 2
    assert done.stderr.startswith(f"synthgen: {s3}/set: made by another plan ({there} there, ")
    assert done.stderr.endswith(" asked): n_points: 1000 there, 2000 asked\n")
    assert len(done.stderr.splitlines()) == 1
    assert objects(f"{s3}/set") == before


def only_reading(method: str, path: str) -> str | None:
    return None if method in ("GET", "HEAD") else "denied"


@pytest.mark.parametrize(
    ("out", "decide", "told"),
    [
        ("s3://no-such-bucket/set", None, "The specified bucket does not exist"),
        ("{s3}/set", lambda method, path: "denied", "Access Denied"),
        ("{s3}/set", only_reading, "Access Denied"),
        ("{s3}/set", lambda method, path: "expired", "The provided token has expired."),
        ("{s3}/set", "http://127.0.0.1:9", "Could not connect to the endpoint URL"),
    ],
)
def test_a_store_that_cannot_be_written_to_is_told_in_one_line_before_work_starts(
    s3: str,
    through: Callable[..., flaky.Proxy],
    monkeypatch: pytest.MonkeyPatch,
    synthgen_here: Command,
    out: str,
    decide: Any,
    told: str,
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    if isinstance(decide, str):
        monkeypatch.setenv("AWS_ENDPOINT_URL", decide)
        s3fs.S3FileSystem.clear_instance_cache()
    else:
        through(*([decide] if decide else []))
    where = out.format(s3=s3)
    done = synthgen_here("fractal", "--out", where, "--categories", 1000)  # a search of a minute
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"synthgen: {where}: cannot be written to ({told}")
    assert len(done.stderr.splitlines()) == 1
    assert not any(secret in done.stderr for secret in ("AKIDEXAMPLE", "wJalrXUtnFEMI"))


def test_the_hub_is_no_store_to_write_to(synthgen_here: Command) -> None:
    done = synthgen_here("fractal", "--out", "hf://datasets/someone/set", "--categories", 1000)
    assert done.returncode == 2
    assert done.stderr == (
        "synthgen: hf://datasets/someone/set: the Hub cannot be written to shard by shard; write to a folder or"
        " an object store, then use synthgen publish\n"
    )


def test_keys_that_end_in_mid_run_end_it_with_one_line_and_without_another_attempt(
    s3: str, log: str, through: Callable[..., flaky.Proxy]
) -> None:
    proxy = through()

    def ended(method: str, path: str) -> str | None:
        return "expired" if method == "PUT" and proxy.puts(".tar").total() >= 2 else None

    proxy._decide = ended
    with pytest.raises(SynthgenError, match=r"set: cannot be written to \(The provided token has expired"):
        fill(f"{s3}/set", Maker(log=log))
    assert len(read_log(log)) <= 40


@pytest.mark.slow
def test_with_errors_now_and_then_a_set_is_complete_verified_and_the_same(
    tmp_path: Path, s3: str, s3_server: str, through: Callable[..., flaky.Proxy], categories: Path, synthgen: Command
) -> None:
    what = ("--categories", categories, "--n", 160, *FRACTALS)
    assert synthgen("fractal", "--out", tmp_path / "set", *what).returncode == 0
    proxy = through(flaky.now_and_then(0.05, seed=1))
    done = synthgen("fractal", "--out", f"{s3}/set", *what)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("generate: ")] == []
    assert proxy.faults().total() > 3
    through()
    assert objects(f"{s3}/set") == contents(tmp_path / "set")
    assert check(place(f"{s3}/set")) == []


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_with_every_kind_of_error_many_times_a_set_is_the_same(
    s3: str, log: str, through: Callable[..., flaky.Proxy], share: float
) -> None:
    asked = plan(600)  # 60 shards
    folder = fill(f"{Path(log).parent}/set", Maker(log=log), asked)
    proxy = through(flaky.now_and_then(share, seed=2))
    done = subprocess.run(
        command(f"{s3}/set", Maker(log=log), asked, timeout=3.0, heartbeat=0.5), env=environment(), capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert set(proxy.faults()) == set(flaky.FAULTS)
    through()
    assert objects(f"{s3}/set") == folder


def test_an_answer_that_is_lost_costs_neither_a_wait_nor_another_attempt(
    s3: str,
    log: str,
    undisturbed: dict[str, bytes],
    through: Callable[..., flaky.Proxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims, "TIMEOUT", 3600.0)
    heard = set()

    def once(method: str, path: str) -> str | None:
        if method != "PUT" or path in heard:
            return None
        heard.add(path)
        return "unsaid"

    through(once)
    assert fill(f"{s3}/set", Maker(log=log)) == undisturbed
    assert len(heard) > 4 * 6
    assert len(read_log(log)) == PLAN.n


@pytest.mark.slow
def test_the_local_disk_holds_less_than_two_shards_a_worker(
    tmp_path: Path, s3: str, through: Callable[..., flaky.Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    mount, peak = tmp_path / "device", 0
    mount.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(mount)], capture_output=True
        ).returncode
    ):
        pytest.skip("mounting a small device needs root")
    try:
        through(flaky.now_and_then(0.05, seed=3))
        asked = plan(200)  # 20 shards of a megabyte
        process = subprocess.Popen(
            command(f"{s3}/set", Maker(log=str(tmp_path / "log"), size=100_000, seconds=0.005), asked),
            env={**environment(), "TMPDIR": str(mount)},
            stderr=subprocess.PIPE,
        )
        while process.poll() is None:
            stat = os.statvfs(mount)  # also of files without a name
            peak = max(peak, (stat.f_blocks - stat.f_bfree) * stat.f_frsize)
            time.sleep(0.002)
        assert process.wait() == 0, process.stderr and process.stderr.read()
        sizes = [len(data) for name, data in objects(f"{s3}/set").items() if name.endswith(".tar")]
        assert len(sizes) == 20
        print(f"peak {peak} bytes, shard {max(sizes)}", file=sys.stderr)
        assert max(sizes) < peak < 2 * 2 * max(sizes)
        assert list(mount.iterdir()) == []
    finally:
        if process.stderr:
            process.stderr.close()
        subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.parametrize(
    "answer",
    [NotImplementedError(), TypeError("mode"), OSError(errno.ENOSYS, "no"), OSError(errno.EINVAL, "no"), None],
    ids=lambda answer: type(answer).__name__,
)
def test_a_store_without_conditional_writes_works_however_it_says_so(
    memory: str, log: str, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, answer: Exception | None
) -> None:
    for name in ("pipe_file", "put_file"):
        real = getattr(MemoryFileSystem, name)

        def refusing(*args: Any, mode: str = "overwrite", real: Any = real, **options: Any) -> Any:
            if mode == "create" and answer:
                raise answer
            return real(*args, **options)  # or the condition is passed over

        monkeypatch.setattr(MemoryFileSystem, name, refusing)
    assert fill(memory, Maker(log=log)) == undisturbed
    assert len(read_log(log)) == PLAN.n


class Turns:
    """Has two threads take turns at a store as a list says; a thread alone goes on alone."""

    def __init__(self, order: list[bool]) -> None:
        self._order, self._change, self._gone = order, threading.Condition(), set[bool]()

    def take(self, me: bool) -> None:
        with self._change:
            self._change.wait_for(lambda: not self._order or (not me) in self._gone or self._order[0] == me, 20)
            if self._order and self._order[0] == me:
                self._order.pop(0)
            self._change.notify_all()

    def go(self, me: bool) -> None:
        with self._change:
            self._gone.add(me)
            self._change.notify_all()


@settings(max_examples=300)
@given(order=st.lists(st.booleans(), max_size=40), stale=st.booleans())
def test_two_workers_at_one_shard_with_other_bytes_leave_the_shard_of_one_or_none(
    order: list[bool], stale: bool
) -> None:
    root, span, turns, whose = OBJECTS.place("memory://race/set"), PLAN.shard(1), Turns(order), threading.local()
    MemoryFileSystem.store.clear()
    fs = root.fs
    if stale:
        fs.pipe_file(str(root.path) + f"/data/{span.stem}.tar", b"cut")

    def write(me: bool) -> None:
        whose.me = me
        maker = Maker(log="", mark=str(me))
        items = (item(PLAN.sample(index), maker) for index in range(span.start, span.stop))
        try:
            write_shard(root, span, items, plan_digest=PLAN.digest, environment={"mark": str(me)})
        finally:
            turns.go(me)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("pipe_file", "put_file", "cat_file", "rm_file", "info"):
            real = getattr(MemoryFileSystem, name)

            def in_turn(*args: Any, real: Any = real, **options: Any) -> Any:
                depth = getattr(whose, "depth", 0)
                if hasattr(whose, "me") and not depth:
                    turns.take(whose.me)
                whose.depth = depth + 1
                try:
                    return real(*args, **options)
                finally:
                    whose.depth = depth

            patch.setattr(MemoryFileSystem, name, in_turn)
        threads = [threading.Thread(target=write, args=(me,)) for me in (False, True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    stands = committed(root, span, PLAN.digest)
    if stands is None:  # to be done again
        return
    mark = stands.environment["mark"]
    MemoryFileSystem.store, kept = {}, MemoryFileSystem.store
    alone = place("memory://race/set")
    items = (item(PLAN.sample(index), Maker(log="", mark=mark)) for index in range(span.start, span.stop))
    write_shard(alone, span, items, plan_digest=PLAN.digest, environment={"mark": mark})
    assert {name: file.getvalue() for name, file in kept.items()} == {
        name: file.getvalue() for name, file in MemoryFileSystem.store.items()
    }
