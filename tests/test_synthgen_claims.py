import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from files import contents, objects
from fsspec.implementations.memory import MemoryFileSystem
from pretend import Maker, command, environment, lay, plan, read_log
from processes import Popen, Start, wait

from synthgen.common.processes import worker_name
from synthgen.dataset.manifest import read_manifest
from synthgen.dataset.plan import Plan
from synthgen.dataset.shard import data_path
from synthgen.engines import claims
from synthgen.engines import generate as generate_module
from synthgen.engines.claims import Claim, Watch, claim_path, claiming, read_claims, remove_claims, report_failure
from synthgen.engines.generate import generate
from synthgen.engines.local import local
from synthgen.storage.atomic import claimed
from synthgen.storage.object_store import OBJECTS
from synthgen.storage.places import place

pytest.importorskip("s3fs")

PLAN = plan()  # 6 shards of 10 images
SPAN = PLAN.shard(2)
SHORT = {"timeout": 1.0, "heartbeat": 0.2}


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://pretended/set"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "TIMEOUT", SHORT["timeout"])
    monkeypatch.setattr(claims, "HEARTBEAT", SHORT["heartbeat"])
    monkeypatch.setattr(generate_module, "HEARTBEAT", SHORT["heartbeat"])


@pytest.fixture
def start(launch: Start) -> Start:
    """Start a run of a worker."""

    def run(out: object, maker: Maker, asked: Plan = PLAN, **options: object) -> Popen:
        return launch(command(out, maker, asked, **{"devices": (), **SHORT, **options}), env=environment())

    return run


def filled(folder: Path, mark: str = "", asked: Plan = PLAN) -> dict[str, bytes]:
    lay(folder, asked)
    generate(folder, renderer=Maker(log=f"{folder}.log", mark=mark)(None))
    return contents(folder)


def fill(url: str, log: str) -> None:
    lay(place(url), PLAN)
    generate(place(url), renderer=Maker(log=log)(None))


def put(url: str, data: bytes) -> None:
    path = claim_path(OBJECTS.place(url), SPAN)
    path.fs.pipe_file(path.path, data)


FOREIGN = b'{"worker": "far-7", "shard": 2, "done": 3, "of": 10, "rate": 1.5, "beat": 4, "failed": ""}'


@pytest.mark.parametrize("n", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_drivers_on_one_bucket_share_the_shards_without_doing_any_twice(
    tmp_path: Path, s3: str, log: str, start: Start, n: int
) -> None:
    asked = plan(240)  # 24 shards
    runs = [start(f"{s3}/set", Maker(log=log, seconds=0.01), asked, timeout=10.0) for _ in range(n)]
    for run in runs:
        _, told = run.communicate(timeout=60)
        assert run.returncode == 0, told
    assert objects(f"{s3}/set") == filled(tmp_path / "set", asked=asked)  # claims/ is gone
    begun = read_log(log)
    assert len({pid for pid, _, _ in begun}) == n
    assert {index for index, times in Counter(index for _, _, index in begun).items() if times > 1} == set()


@pytest.mark.parametrize("claim", [FOREIGN, b"no claim", b""], ids=["dead", "unreadable", "empty"])
def test_a_claim_that_does_not_change_is_taken_over_after_a_while_and_not_before(
    memory: str, log: str, short: None, claim: bytes
) -> None:
    lay(place(memory), PLAN)
    put(memory, claim)
    start = time.monotonic()
    fill(memory, log)
    assert claims.TIMEOUT < time.monotonic() - start < claims.TIMEOUT + 10
    assert read_manifest(place(memory)).complete
    assert [index // 10 for _, _, index in read_log(log)][-1] == SPAN.index  # the others were done in the meantime
    assert not read_claims(place(memory))


def test_a_claim_that_changes_is_respected_however_long_its_shard_takes(memory: str, log: str, short: None) -> None:
    lay(place(memory), PLAN)
    over, begun = threading.Event(), threading.Event()

    def work_slowly() -> None:
        with claiming(place(memory), SPAN) as progress:
            assert progress is not None
            begun.set()
            over.wait(20)

    other = threading.Thread(target=work_slowly)
    other.start()
    begun.wait()
    driver = threading.Thread(target=fill, args=(memory, log))
    driver.start()
    time.sleep(2.5 * claims.TIMEOUT)
    assert {index // 10 for _, _, index in read_log(log)} == {0, 1, 3, 4, 5}
    over.set()  # it ends without a shard
    other.join()
    driver.join()
    assert read_manifest(place(memory)).complete


def test_a_shard_that_another_driver_gave_up_is_tried_at_once(memory: str, log: str) -> None:
    lay(place(memory), PLAN)
    report_failure(place(memory), SPAN, "far-7", "no memory")
    start = time.monotonic()
    fill(memory, log)
    assert time.monotonic() - start < claims.HEARTBEAT


def test_a_claim_is_made_once_by_however_many_ask_at_a_time(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "worker_name", lambda: f"node-{threading.get_ident()}")
    root, got, all_asked = place(s3), list[bool](), threading.Barrier(8)

    def ask() -> None:
        with claiming(root, SPAN) as progress:
            got.append(progress is not None)
            all_asked.wait(20)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 7 + [True]
    assert read_claims(root) == {}


def test_who_was_frozen_neither_renews_nor_drops_a_claim_that_is_another_worker_s_now(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "TIMEOUT", 0.3)
    path = claim_path(OBJECTS.place(memory), SPAN)
    with claiming(place(memory), SPAN, heartbeat=0.6):  # of which the first comes too late
        put(memory, FOREIGN)
        time.sleep(1.0)
        assert path.read_bytes() == FOREIGN
    assert path.read_bytes() == FOREIGN


def test_a_worker_that_dies_is_replaced_by_its_own_driver_without_a_wait(
    tmp_path: Path, s3: str, log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "TIMEOUT", 3600.0)
    lay(place(s3), PLAN)
    generate(place(s3), engine=local([None, None]), make=Maker(log=log, dies={25: 2, 41: 1}))
    assert objects(s3) == filled(tmp_path / "set")


@pytest.mark.parametrize(
    "mark", [pytest.param("", id="same bytes", marks=pytest.mark.slow), pytest.param("other", id="other bytes")]
)
def test_a_frozen_worker_is_harmless_when_it_wakes_after_its_shard_was_taken_over(
    tmp_path: Path, s3: str, log: str, start: Start, mark: str
) -> None:
    frozen = start(f"{s3}/set", Maker(log=log, seconds=0.05, mark=mark))
    wait(lambda: len(read_log(log)) >= 25)
    frozen.send_signal(signal.SIGSTOP)
    # Not the process that is stopped, whose shard is taken over.
    other = start(f"{s3}/set", Maker(log=f"{log}-2"))
    _, told = other.communicate(timeout=60)
    assert other.returncode == 0, told
    whole = objects(f"{s3}/set")
    frozen.send_signal(signal.SIGCONT)
    _, told = frozen.communicate(timeout=60)
    assert frozen.returncode == 0, told
    assert objects(f"{s3}/set") == whole
    ours, theirs = filled(tmp_path / "ours"), filled(tmp_path / "theirs", mark=mark)
    for index in range(PLAN.n_shards):
        stem = PLAN.shard(index).stem
        names = [f"data/{stem}.tar", f"data/{stem}.json", f"metadata/{stem}.parquet"]
        assert [whole[name] for name in names] in ([one[name] for name in names] for one in (ours, theirs))
    taken_over = {index // 10 for _, _, index in read_log(log)} & {index // 10 for _, _, index in read_log(f"{log}-2")}
    assert len(taken_over) == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", range(6))
def test_workers_frozen_at_random_moments_leave_a_set_of_whole_shards(
    tmp_path: Path, s3: str, log: str, start: Start, case: int
) -> None:
    rng = random.Random(case)
    runs = [start(f"{s3}/set", Maker(log=log, seconds=0.03, mark=mark)) for mark in ("a", "b", "c")]
    for _ in range(4):
        run = rng.choice(runs)
        time.sleep(rng.uniform(0.2, 1.0))
        if run.poll() is None:
            run.send_signal(signal.SIGSTOP)
            time.sleep(rng.uniform(0.1, 2.5))
            run.send_signal(signal.SIGCONT)
    for run in runs:
        _, told = run.communicate(timeout=60)
        assert run.returncode == 0, told
    found = objects(f"{s3}/set")
    made = [filled(tmp_path / mark, mark=mark) for mark in ("a", "b", "c")]
    for index in range(PLAN.n_shards):
        stem = PLAN.shard(index).stem
        names = [f"data/{stem}.tar", f"data/{stem}.json", f"metadata/{stem}.parquet"]
        assert [found[name] for name in names] in ([one[name] for name in names] for one in made)


def test_a_clock_that_jumps_changes_nothing(
    tmp_path: Path, memory: str, log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(0)
    whole, real = filled(tmp_path / "set"), time.time
    monkeypatch.setattr(time, "time", lambda: real() + rng.uniform(-1e9, 1e9))
    start = time.monotonic()
    fill(memory, log)
    assert objects(memory) == whole
    assert len(read_log(log)) == PLAN.n
    assert time.monotonic() - start < claims.HEARTBEAT
    lay(tmp_path / "again", PLAN)
    generate(tmp_path / "again", engine=local([None, None]), make=Maker(log=f"{log}-2"))
    assert contents(tmp_path / "again") == whole


def test_the_claims_of_a_folder_tell_who_is_where_and_go_with_the_last_shard(tmp_path: Path) -> None:
    with claiming(tmp_path, SPAN, heartbeat=0.05) as progress:
        assert progress is not None
        progress.done = 4
        wait(lambda: next(iter(read_claims(tmp_path).values())).done == 4)
        claim = read_claims(tmp_path)[SPAN.stem]
        with claiming(tmp_path, SPAN) as another:
            assert another is not None  # there the lock on the tar decides
    assert (claim.worker, claim.shard, claim.of, claim.failed) == (worker_name(), 2, 10, "")
    assert claim.rate > 0
    with claiming(tmp_path, SPAN):  # before it has anything to tell of its own
        assert 0 < read_claims(tmp_path)[SPAN.stem].rate < claim.rate
    (tmp_path / "claims/.x.json.1.tmp").write_text("{")  # of a worker that was killed
    remove_claims(tmp_path)
    assert not (tmp_path / "claims").exists()


def test_a_shard_of_a_folder_that_another_process_writes_is_not_tried(tmp_path: Path) -> None:
    spans = [PLAN.shard(index) for index in range(3)]
    watch = Watch(tmp_path)
    with claimed(data_path(tmp_path, spans[1])):
        assert watch.free(spans) == ([spans[0], spans[2]], set())
    assert watch.free(spans) == (spans, set())


def test_claims_that_cannot_be_written_cost_nothing_but_being_told(tmp_path: Path, log: str) -> None:
    lay(tmp_path / "set", PLAN)
    (tmp_path / "set/claims").write_text("a file in the way")
    generate(tmp_path / "set", renderer=Maker(log=log)(None))
    assert read_manifest(tmp_path / "set").complete


def test_no_claim_reads_as_one(memory: str) -> None:
    put(memory, FOREIGN.replace(b'"beat"', b'"heart"'))
    assert read_claims(place(memory)) == {}
    put(memory, FOREIGN)
    assert read_claims(place(memory)) == {
        SPAN.stem: Claim(worker="far-7", shard=2, done=3, of=10, rate=1.5, beat=4, failed="")
    }
