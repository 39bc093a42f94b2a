"""What a set of a million images costs those who plan, watch and resume it, and what many images cost a worker."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest
from pretend import lay, plan

from fractaldb.ifs import write_csv
from fractaldb.sampling import sample_svd
from synthgen.dataset.manifest import read_manifest
from synthgen.dataset.plan import Plan
from synthgen.dataset.shard import Shard, data_path, record_path, record_text, table_path

ROOT = Path(__file__).parents[1]
SECONDS, MEBIBYTES = 2.0, 300.0


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    out: str
    seconds: float  # of its own processor time, which others on the machine do not change
    mebibytes: float  # at most


# A process begins with the memory of the one that it was forked from: this one is small.
LAUNCH = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]), file=sys.stderr)
"""


def cost(*arguments: object) -> Cost:
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "PYTHONWARNINGS": "ignore"},
    )
    code, seconds, mebibytes = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    found = Cost(out=done.stdout, seconds=seconds, mebibytes=mebibytes)
    print(f"{found.seconds:.2f} s, {found.mebibytes:.0f} MiB", file=sys.stderr)
    return found


def stand(directory: Path, asked: Plan, n_missing: int) -> None:
    """Have all shards but some at the end stand, as far as records tell."""
    lay(directory, asked)
    for folder in ("data", "metadata"):
        (directory / folder).mkdir()
    digest = asked.digest
    for index in range(asked.n_shards - n_missing):
        span = asked.shard(index)
        shard = Shard(
            index=index,
            filename=f"{span.stem}.tar",
            n_samples=span.stop - span.start,
            n_bytes=3_000_000,
            sha256=f"{index:064x}",
            table_n_bytes=0,
            table_sha256="0" * 64,
            plan_digest=digest,
            environment={"pretend": "1"},
        )
        with data_path(directory, span).open("wb") as file:
            file.truncate(shard.n_bytes)  # without taking any room
        table_path(directory, span).touch()
        record_path(directory, span).write_bytes(record_text(shard))


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("million") / "set"
    stand(folder, plan(1_000_000, 1000, categories=1000), n_missing=3)
    return folder


def test_the_status_of_a_million_images_is_told_at_once(million: Path) -> None:
    took = cost(Path(sys.executable).with_name("synthgen"), "status", million, "--json")
    state = json.loads(took.out)
    assert (state["n"], state["n_done"], state["n_shards_done"]) == (1_000_000, 997_000, 997)
    assert took.seconds < SECONDS
    assert took.mebibytes < MEBIBYTES


RESUME = """
import sys
from pathlib import Path
from synthgen.engines.generate import open_directory, _shared, _tasks
from synthgen.engines.claims import Watch
from synthgen.dataset.manifest import read_manifest
from synthgen.dataset.plan import read_plan
folder = Path(sys.argv[1])
open_directory(folder, read_plan(folder / "plan.json"))
manifest = read_manifest(folder)
print(*(task.span.index for task in _tasks(_shared(manifest, (0, 1)), Watch(folder))))
"""


def test_what_is_left_of_a_million_images_is_decided_at_once(million: Path) -> None:
    took = cost("-c", RESUME, million)
    assert took.out.split() == ["997", "998", "999"]
    assert took.seconds < SECONDS + 1.5  # of which the drawing of eight probes, for the room they need, has most
    assert took.mebibytes < MEBIBYTES


PLAN = """
import pretend, sys
from pathlib import Path
from synthgen.dataset.manifest import read_manifest
pretend.lay(Path(sys.argv[1]), pretend.plan(1_000_000, 1000, categories=1000))
print(len(read_manifest(Path(sys.argv[1])).missing))
"""


def test_a_million_images_are_planned_at_once(tmp_path: Path) -> None:
    took = cost("-c", PLAN, tmp_path / "set")
    assert took.out.split() == ["1000"]
    assert took.seconds < SECONDS
    assert took.mebibytes < MEBIBYTES
    few = cost("-c", PLAN.replace("1_000_000, 1000", "1_000_000, 1_000_000"), tmp_path / "other")
    assert took.mebibytes - few.mebibytes < 10


SD = """
import sys
from pathlib import Path
from synthgen.kinds.diffusion.models import find_model
from synthgen.dataset.plan import new_plan
from synthgen.kinds.diffusion.prompts import class_list_path, read_classes, read_prompts
from synthgen.kinds.diffusion.request import Settings, diffusion_content
from synthgen.dataset.manifest import read_manifest
import pretend
prompts = read_prompts(Path(sys.argv[1]))
classes = read_classes(class_list_path(Path(sys.argv[1]), prompts))
content = diffusion_content(prompts, classes, find_model("tiny"), Settings())
plan = new_plan(name="sd", content=content, n=1_000_000, shard_size=1000, origin={})
pretend.lay(Path(sys.argv[2]), plan)
print(len(read_manifest(Path(sys.argv[2])).missing), plan.sample(999_999).key)
"""


def test_a_million_diffusion_images_are_planned_at_once(tmp_path: Path) -> None:
    took = cost("-c", SD, ROOT / "prompts/imagenet80.txt", tmp_path / "set")
    assert took.out.split() == ["1000", "000999999"]
    assert took.seconds < SECONDS
    assert took.mebibytes < MEBIBYTES


def test_looking_again_reads_no_record_twice(million: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_manifest(million)
    read = list[Path]()
    monkeypatch.setattr("synthgen.dataset.manifest.read_record", lambda path: read.append(path))
    assert read_manifest(million, before.shards).shards == before.shards
    assert read == []


# The memory of a worker

GROWTH = 4.0  # mebibytes, from a fifth of the work to its end
WORK = """
import ctypes, sys
from pathlib import Path
from synthgen.engines.generate import generate, open_directory
from synthgen.dataset.shard import Item
from synthgen.kinds.base import Renderer
import synthgen.engines.work

def resident():
    ctypes.CDLL(None).malloc_trim(0)  # what is free counts as free: how much of it malloc keeps depends on its threads
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

sizes, real = [], synthgen.engines.work.write_one

def measured(*arguments):
    n = real(*arguments)
    sizes.append(resident())
    return n

synthgen.engines.work.write_one = measured
"""


def growth(text: str, *arguments: object) -> float:
    """By how many mebibytes a process grows over the last four fifths of its shards."""
    took = cost("-c", WORK + text + "\nprint(*sizes)", *arguments)
    sizes = [float(size) for size in took.out.split()]
    assert len(sizes) >= 10
    fifth = len(sizes) // 5
    print([round(size) for size in sizes[:: max(1, fifth // 2)]], file=sys.stderr)
    return median(sizes[-fifth:]) - median(sizes[:fifth])


FRACTALS = """
from fractaldb.ifs import read_categories
from fractaldb.render import Style
from synthgen.kinds.fractaldb.render import fractal_content
from synthgen.kinds.fractaldb.render import fractal_renderer
from synthgen.dataset.plan import new_plan
folder, categories, n, shard_size, size, points = sys.argv[1:]
style = Style(size=int(size), n_points=int(points))
content = fractal_content(read_categories(Path(categories)), seed=1, style=style)
plan = new_plan(name="f", content=content, n=int(n), shard_size=int(shard_size), origin={})
open_directory(Path(folder), plan)
generate(Path(folder), renderer=fractal_renderer(content))
"""


def test_a_worker_does_not_grow_with_the_fractals_it_draws(tmp_path: Path, categories: Path) -> None:
    assert growth(FRACTALS, tmp_path / "set", categories, 2000, 100, 64, 5000) < GROWTH


@pytest.mark.slow
def test_a_worker_does_not_grow_over_10_000_fractals(tmp_path: Path) -> None:
    for category in sample_svd(20, seed=1):
        (tmp_path / "categories").mkdir(exist_ok=True)
        write_csv(tmp_path / "categories" / f"{category.name}.csv", category.ifs)
    assert growth(FRACTALS, tmp_path / "set", tmp_path / "categories", 10_000, 250, 362, 200_000) < GROWTH


DIFFUSION = """
from synthgen.kinds.diffusion.models import find_model
from synthgen.storage.places import place
from synthgen.dataset.plan import new_plan
from synthgen.kinds.diffusion.prompts import class_list_path, read_classes, read_prompts
from synthgen.kinds.diffusion.request import Settings, diffusion_content, make
prompts = read_prompts(Path(sys.argv[2]))
classes = read_classes(class_list_path(Path(sys.argv[2]), prompts))
model = find_model("tiny")
content = diffusion_content(prompts, classes, model, Settings(steps=3))
from synthgen.engines.request import Request
plan = new_plan(name="sd", content=content, n=int(sys.argv[3]), shard_size=int(sys.argv[4]), origin={})
make(Path(sys.argv[1]), plan, model, device="cpu", batch=50, request=Request(workers=1))
"""


@pytest.mark.slow
def test_a_worker_does_not_grow_over_2_000_diffusion_images(tmp_path: Path) -> None:
    assert growth(DIFFUSION, tmp_path / "set", ROOT / "prompts/quickstart.txt", 2000, 50) < GROWTH
