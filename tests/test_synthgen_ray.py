"""The Ray engine on a real cluster of several nodes, all on this machine."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from files import contents
from processes import Popen, Start, children, installed, members, parent, wait

from synthgen.dataset.manifest import read_manifest
from synthgen.engines import claims
from synthgen.engines.on_ray import LOSSES
from synthgen.engines.work import ATTEMPTS

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning:ray", "ignore:.*:DeprecationWarning:ray")

PROMPTS = Path(__file__).parents[1] / "prompts"
STORE = 80_000_000  # bytes of a node's object store, about the least there is


class Nodes:
    """A cluster of one node that has no CPU, and those that a test adds to it."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args=self._options(num_cpus=0))
        self.address: str = self._cluster.address
        self._added: list[Any] = []

    def _options(self, **options: Any) -> dict[str, Any]:
        return {"include_dashboard": False, "object_store_memory": STORE, **options}

    def add(self, **options: Any) -> int:
        """Add a node of one CPU; returns the process that all its workers descend from."""
        node = self._cluster.add_node(**self._options(**{"num_cpus": 1, **options}))
        self._added.append(node)
        return self._raylet(node)

    def _raylet(self, node: Any) -> int:
        (process,) = node.all_processes["raylet"]
        return int(process.process.pid)

    def kill(self, raylet: int) -> None:
        """Kill a node, which has no time to say so."""
        (node,) = (node for node in self._added if self._raylet(node) == raylet)
        workers = children(raylet)
        for pid in (raylet, *workers):
            os.kill(pid, signal.SIGKILL)
        self._remove(node)

    def _remove(self, node: Any) -> None:
        self._added.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def clear(self) -> None:
        """Take all nodes away that were added."""
        for node in list(self._added):
            self._remove(node)

    def end(self) -> None:
        """End the cluster."""
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    folder = tempfile.mkdtemp(prefix="ray")  # short, as sockets stand in it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        found = Nodes()
        yield found
        found.end()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def nodes(cluster: Nodes) -> Iterator[Nodes]:
    """The cluster, without nodes of other tests."""
    yield cluster
    cluster.clear()


@pytest.fixture(scope="module")
def command(categories: Path) -> list[str]:
    """12 shards of about half a second each."""
    settings = ("--n", 480, "--size", 40, "--points", 2_000_000, "--shard-size", 40)
    return ["fractal", "--categories", str(categories), *map(str, settings)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, command: list[str]) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "set"
    run = [installed("synthgen"), *command, "--workers", "2", "--out", str(out)]
    subprocess.run(run, check=True, capture_output=True, timeout=120)
    return contents(out)


@pytest.fixture
def start(launch: Start, command: list[str]) -> Start:
    """Start the command, or a program with the same arguments."""

    def run(out: object, *options: object, code: str = "") -> Popen:
        begin = [sys.executable, "-c", code] if code else [installed("synthgen")]
        return launch([*begin, *command, "--out", out, "--engine", "ray", *options])

    return run


def committed(directory: Path) -> int:
    return len(list(directory.glob("data/*.json")))


def workers(directory: Path) -> dict[str, int]:
    """The shards that are being written, and the process at each."""
    found = claims.read_claims(directory)
    return {stem: int(claim.worker.rpartition("-")[2]) for stem, claim in found.items() if not claim.failed}


def succeeded(process: Popen) -> None:
    """It ends well, and says nothing but how far it is."""
    out, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert len(out.splitlines()) == 1
    assert [line for line in told.splitlines() if not line.startswith(("generate: ", "search: "))] == []


def test_a_cluster_of_two_nodes_writes_the_bytes_of_the_local_engine(
    tmp_path: Path, nodes: Nodes, undisturbed: dict[str, bytes], start: Start
) -> None:
    raylets = {nodes.add(), nodes.add()}
    process = start(tmp_path / "set", "--address", nodes.address)
    seen = set[int]()
    while process.poll() is None:
        seen |= {parent(pid) for pid in workers(tmp_path / "set").values()}
        time.sleep(0.01)
    succeeded(process)
    assert contents(tmp_path / "set") == undisturbed
    assert raylets <= seen  # both nodes were at it


@pytest.mark.slow
def test_a_killed_node_gives_its_shards_to_another_and_nobody_is_told(
    tmp_path: Path, nodes: Nodes, undisturbed: dict[str, bytes], start: Start
) -> None:
    _, doomed = nodes.add(), nodes.add()
    process = start(tmp_path / "set", "--address", nodes.address)
    wait(lambda: committed(tmp_path / "set") >= 2)
    wait(lambda: doomed in map(parent, workers(tmp_path / "set").values()))  # it is at a shard
    nodes.kill(doomed)
    assert committed(tmp_path / "set") < 12, "killed too late to say anything"
    succeeded(process)
    assert contents(tmp_path / "set") == undisturbed


@pytest.mark.slow
def test_a_node_that_joins_late_is_used(
    tmp_path: Path, nodes: Nodes, undisturbed: dict[str, bytes], start: Start
) -> None:
    nodes.add()
    process = start(tmp_path / "set", "--address", nodes.address)
    (first,) = wait(lambda: committed(tmp_path / "set") >= 1 and workers(tmp_path / "set").values())
    os.kill(first, signal.SIGSTOP)  # for as long as a node needs to come
    before = committed(tmp_path / "set")
    nodes.add()
    wait(lambda: committed(tmp_path / "set") >= before + 2)
    os.kill(first, signal.SIGCONT)
    succeeded(process)
    assert contents(tmp_path / "set") == undisturbed


IMPATIENT = """
from synthgen import cli
from synthgen.engines import on_ray
on_ray.PATIENCE = 1.0
cli.main()
"""


@pytest.mark.slow
def test_a_cluster_without_room_is_waited_for_in_one_line(
    tmp_path: Path, nodes: Nodes, undisturbed: dict[str, bytes], start: Start
) -> None:
    nodes.add()
    process = start(tmp_path / "set", "--address", nodes.address, "--resources", "GPU=1", code=IMPATIENT)
    time.sleep(5)
    assert process.poll() is None
    nodes.add(num_gpus=1)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    lines = [line for line in told.splitlines() if not line.startswith("generate: ")]
    assert lines == ["synthgen: the cluster has no room yet for a worker (GPU 1); waiting for it"]
    assert contents(tmp_path / "set") == undisturbed


@pytest.mark.slow
def test_resources_are_asked_for_by_name_and_workers_are_bounded(tmp_path: Path, nodes: Nodes, start: Start) -> None:
    _, blue = nodes.add(), nodes.add(num_cpus=2, resources={"blue": 2})
    for options, most in ((("--resources", "blue=1", "--resources", "CPU=1"), 2), (("--workers", "1"), 1)):
        seen = set[int]()
        process = start(tmp_path / str(most), "--address", nodes.address, *options)
        while process.poll() is None:
            seen |= set(workers(tmp_path / str(most)).values())
            if most == 2:
                assert {parent(pid) for pid in workers(tmp_path / "2").values()} <= {blue, 0}  # 0 is gone
            time.sleep(0.01)
        succeeded(process)
        assert len(seen) == most


FAULTY = """
import os, sys
from synthgen import cli
from synthgen.kinds.base import Renderer
from synthgen.kinds.fractaldb import render

real, key, fault = render.fractal_renderer, {key!r}, {fault!r}

def faulty(content):
    renderer = real(content)
    def render(samples):
        for item in renderer.render(samples):
            if item.key == key:
                exec(fault)
            yield item
    return Renderer(render=render, environment=renderer.environment)

render.fractal_renderer = faulty
cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("raise ZeroDivisionError('never mind')", "ZeroDivisionError: never mind"),
        ("import os; os.kill(os.getpid(), 9)", f"{LOSSES} workers were lost on it (ActorDiedError"),
    ],
)
def test_a_shard_that_always_fails_is_given_up_and_all_others_stand(
    tmp_path: Path, nodes: Nodes, undisturbed: dict[str, bytes], start: Start, fault: str, why: str
) -> None:
    nodes.add()
    program = FAULTY.format(key=key_of_shard(undisturbed, 5), fault=fault)
    process = start(tmp_path / "set", "--address", nodes.address, code=program)
    _, told = process.communicate(timeout=200)
    assert process.returncode == 1, told
    (line,) = [line for line in told.splitlines() if not line.startswith("generate: ")]
    assert "1 shards" in line
    assert f"fractal-train-000005: {why}" in line
    manifest = read_manifest(tmp_path / "set")
    assert [span.index for span in manifest.missing] == [5]
    succeeded(start(tmp_path / "set", "--address", nodes.address))  # without the fault
    assert contents(tmp_path / "set") == undisturbed


@pytest.mark.slow
def test_a_shard_may_lose_more_workers_than_it_may_fail(
    tmp_path: Path, nodes: Nodes, undisturbed: dict[str, bytes], start: Start
) -> None:
    nodes.add()
    tally = tmp_path / "tally"
    fault = f"""
import os
with open({str(tally)!r}, "a") as file:
    file.write("x")
if os.path.getsize({str(tally)!r}) <= {ATTEMPTS + 1}:
    os.kill(os.getpid(), 9)
"""
    program = FAULTY.format(key=key_of_shard(undisturbed, 11), fault=fault)
    succeeded(start(tmp_path / "set", "--address", nodes.address, code=program))
    assert tally.read_text() == "x" * (ATTEMPTS + 2)
    assert contents(tmp_path / "set") == undisturbed


def key_of_shard(data: dict[str, bytes], index: int) -> str:
    """The key of an image in the middle of a shard, which no estimate of sizes draws."""
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(data[f"data/fractal-train-{index:06d}.tar"])) as tar:
        return tar.getnames()[3 * 17].partition(".")[0]


@pytest.mark.slow
def test_a_killed_driver_leaves_no_worker_and_the_run_resumes(
    tmp_path: Path, nodes: Nodes, undisturbed: dict[str, bytes], start: Start
) -> None:
    raylet = nodes.add()
    process = start(tmp_path / "set", "--address", nodes.address)
    (worker,) = wait(lambda: committed(tmp_path / "set") >= 2 and workers(tmp_path / "set").values())
    assert parent(worker) == raylet
    process.kill()
    process.wait(20)
    wait(lambda: parent(worker) != raylet, 20)
    stood = {path: path.stat().st_mtime_ns for path in (tmp_path / "set/data").glob("*.json")}
    assert len(stood) < 12, "killed too late to say anything"
    succeeded(start(tmp_path / "set", "--address", nodes.address))
    assert contents(tmp_path / "set") == undisturbed
    assert {path: path.stat().st_mtime_ns for path in stood} == stood


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("here", [True, False], ids=["Ray started here", "cluster"])
def test_an_interrupted_run_ends_with_one_line_leaves_no_claim_and_resumes(
    tmp_path: Path, nodes: Nodes, undisturbed: dict[str, bytes], start: Start, number: signal.Signals, here: bool
) -> None:
    nodes.add()
    options = () if here else ("--address", nodes.address)
    process = start(tmp_path / "set", *options)
    pids = wait(lambda: committed(tmp_path / "set") >= 2 and set(workers(tmp_path / "set").values()))
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # a terminal sends it to every process of the group
    else:
        process.send_signal(number)
    out, told = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    lines = [line for line in told.splitlines() if not line.startswith("generate: ")]
    assert lines == ["synthgen: interrupted; run the same command again to go on"]
    wait(lambda: not any(parent(pid) for pid in pids), 10)
    assert not workers(tmp_path / "set")
    assert committed(tmp_path / "set") < 12
    succeeded(start(tmp_path / "set", *options))
    assert contents(tmp_path / "set") == undisturbed


@pytest.mark.slow
def test_two_drivers_on_one_plan_end_with_the_bytes_of_one(
    tmp_path: Path, nodes: Nodes, undisturbed: dict[str, bytes], start: Start
) -> None:
    nodes.add(num_cpus=2)
    both = [start(tmp_path / "set", "--address", nodes.address, "--workers", "1") for _ in range(2)]
    for process in both:
        succeeded(process)
    assert contents(tmp_path / "set") == undisturbed


@pytest.mark.slow
def test_a_store_gets_the_bytes_that_a_folder_gets_and_an_interrupted_run_goes_on_at_once(
    s3: str, nodes: Nodes, undisturbed: dict[str, bytes], start: Start
) -> None:
    from synthgen.storage.object_store import OBJECTS

    for _ in range(2):
        nodes.add(resources={"s3": 1})  # with the keys in its environment
    options = ("--address", nodes.address, "--resources", "s3=1")
    out = OBJECTS.place(f"{s3}/set")
    process = start(out, *options)
    wait(lambda: len(listed(out, "data/*.json")) >= 2)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 130
    begin = time.monotonic()
    succeeded(start(out, *options))
    assert time.monotonic() - begin < claims.TIMEOUT  # no dead worker's claim was waited for
    found = {path.removeprefix(f"{out.path}/"): out.fs.cat_file(path) for path in listed(out, "**/*")}
    assert found == undisturbed


def listed(out: Any, pattern: str) -> list[str]:
    """The paths of a store, as they are now."""
    out.fs.invalidate_cache()
    return [path for path in out.fs.glob(f"{out.path}/{pattern}") if out.fs.isfile(path)]


@pytest.mark.slow
def test_diffusion_images_of_two_nodes_are_those_of_the_local_engine(
    tmp_path: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what Ray gives an actor of one CPU; sums depend on it in the last bit
    for _ in range(2):
        nodes.add()
    asked = [installed("synthgen"), "sd", "--prompts", str(PROMPTS / "quickstart.txt"), "--model", "tiny", "--n", "40"]
    asked += ["--steps", "1", "--size", "32", "--shard-size", "10", "--batch", "5"]
    for out, options in (("local", []), ("ray", ["--engine", "ray", "--address", nodes.address])):
        command = [*asked, "--out", str(tmp_path / out), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "local") == contents(tmp_path / "ray")


REFUSED = {
    "nobody": "Ray does not respond (Connection refused); start it with `ray start --head`",
    "web": "what responds is not Ray; give the port of `ray start --head`",
    "silent": "Ray does not respond (timed out); start it with `ray start --head`",
    "no.such.host.invalid:6379": "Ray does not respond (",
    "127.0.0.1": "HOST:PORT, such as 10.0.0.1:6379, or auto",
    "127.0.0.1:99999": "Ray does not respond (",
    "ray://127.0.0.1:10001": "HOST:PORT or auto, on a node of the cluster; from elsewhere use `ray job submit`",
}


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def addresses() -> Iterator[dict[str, str]]:
    """Where nobody, a web server, and somebody who says nothing listen."""
    with socket.create_server(("127.0.0.1", 0)) as silent, HTTPServer(("127.0.0.1", 0), Quiet) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = closed.getsockname()[1]
        ports = {"nobody": nobody, "web": web.server_address[1], "silent": silent.getsockname()[1]}
        yield {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        web.shutdown()


@pytest.mark.parametrize("where", REFUSED)
def test_an_address_where_no_ray_answers_is_one_line_before_long(
    tmp_path: Path, categories: Path, synthgen_here: Any, addresses: dict[str, str], where: str
) -> None:
    address = addresses.get(where, where)
    begin = time.monotonic()
    asked = ("fractal", "--categories", categories, "--n", 40, "--size", 40, "--points", 1000, "--engine", "ray")
    done = synthgen_here(*asked, "--out", tmp_path / "set", "--address", address)
    assert time.monotonic() - begin < 15
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"synthgen: --address {address}: {REFUSED[where]}")
    assert not (tmp_path / "set").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ("green=1", "synthgen: --resources: no node of the cluster has green 1"),
        ("CPU=1.5", ""),
        ("GPU=1.5", "synthgen: --resources: GPU resource quantities >1 must be whole numbers. The specified quantity"),
    ],
)
def test_what_no_node_has_is_one_line_before_any_work(
    tmp_path: Path, nodes: Nodes, start: Start, resources: str, told: str
) -> None:
    nodes.add(num_cpus=2)
    process = start(tmp_path / "set", "--address", nodes.address, "--resources", resources)
    _, lines = process.communicate(timeout=60)
    assert process.returncode == (2 if told else 0)
    found = [line for line in lines.splitlines() if not line.startswith("generate: ")]
    assert len(found) == bool(told)
    assert all(line.startswith(told) for line in found)
    assert (tmp_path / "set").exists() == (resources != "green=1")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--engine nonsense", "--engine nonsense: one of local, ray"),
        ("--num-tasks 0 --task-index 0", "--num-tasks 0: at least 1"),
        ("--num-tasks 4 --task-index 4", "--task-index 4: 0 to 3, as --num-tasks is 4"),
        ("--num-tasks 4 --task-index -1", "--task-index -1: 0 to 3, as --num-tasks is 4"),
        ("--num-tasks 4", "--task-index is missing: --task-index and --num-tasks go together"),
        ("--task-index 4", "--num-tasks is missing: --task-index and --num-tasks go together"),
        ("--engine ray --resources GPU", "--resources GPU: NAME=AMOUNT, such as GPU=1 or CPU=4"),
        ("--engine ray --resources GPU=nan", "--resources GPU=nan: NAME=AMOUNT, such as GPU=1 or CPU=4"),
        ("--address auto", "--address: only with --engine ray"),
        ("--resources GPU=1", "--resources: only with --engine ray"),
    ],
)
def test_options_of_engines_that_make_no_sense_are_one_line(
    tmp_path: Path, categories: Path, synthgen_here: Any, options: str, told: str
) -> None:
    done = synthgen_here("fractal", "--categories", categories, "--out", tmp_path / "set", *options.split())
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"synthgen: {told}\n")
    assert not (tmp_path / "set").exists()


def test_an_engine_that_is_not_installed_names_its_extra(
    tmp_path: Path, categories: Path, synthgen_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = synthgen_here("fractal", "--categories", categories, "--out", tmp_path / "set", "--engine", "ray")
    wanted = "synthgen: --engine ray: Ray is not installed; pip install 'synthgen[ray]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", wanted)


@pytest.mark.slow
def test_ray_started_here_writes_nothing_home_asks_no_network_and_is_gone_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes], start: Start
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    process = start(tmp_path / "set", "--workers", 2)
    succeeded(process)
    assert contents(tmp_path / "set") == undisturbed
    assert not (home / ".ray").exists()
    wait(lambda: not members(process.pid), 10)
