"""Engines: what a second worker brings, and what Ray costs, on fractals in shards of a few seconds.

Run as ``python tests/benchmarks/engines.py [--quick] [--rounds N] [--images N]``.  Each round draws the same set in
the published style with one local worker, with two, and with two of Ray, in turns.  Ratios are of the runs of
one round; given are their median, and in brackets the least and the greatest.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

from fractaldb.render import Style
from fractaldb.search import search
from synthgen.dataset.plan import Plan, new_plan
from synthgen.engines.cluster import Cluster
from synthgen.engines.generate import generate, open_directory
from synthgen.engines.local import local
from synthgen.engines.on_ray import on_ray
from synthgen.engines.work import Engine
from synthgen.kinds.fractaldb.render import fractal_content

N_SHARDS = 8
TWO = Cluster(address=None, resources={"CPU": 1.0}, workers=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run took."""

    seconds: float  # from the engine's start, with that of its workers, to the finished manifest
    start: float  # before: to start Ray
    cpu: float  # seconds of all processes that have ended; Ray's are not among them
    digest: str  # of all files


def plan_of(n: int) -> Plan:
    """The published style: 362 px, 200,000 points."""
    style = Style()
    content = fractal_content(search(-(-n // 1000), seed=1), seed=1, style=style)
    return new_plan(name="fractal", content=content, n=n, shard_size=-(-n // N_SHARDS), origin={})


def drawn(plan: Plan, engine: Engine) -> tuple[float, str]:
    """Seconds that an engine takes for the whole set, and what its files hash to."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        open_directory(out, plan)
        begin = time.monotonic()
        generate(out, engine=engine)
        seconds = time.monotonic() - begin
        return seconds, hashlib.sha256((out / "SHA256SUMS").read_bytes()).hexdigest()


def run_local(plan: Plan, workers: int) -> Run:
    """With so many processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, digest = drawn(plan, local([None] * workers))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(seconds=seconds, start=0.0, cpu=cpu, digest=digest)


def run_ray(plan: Plan) -> Run:
    """With two actors of a Ray that is started here."""
    begin = time.monotonic()
    with TWO.connected():
        start = time.monotonic() - begin
        seconds, digest = drawn(plan, on_ray(TWO, None))
    return Run(seconds=seconds, start=start, cpu=0.0, digest=digest)


def spread(values: Sequence[float], digits: str = ".3g") -> str:
    """Median [least, greatest]."""
    return f"{statistics.median(values):{digits}} [{min(values):{digits}}, {max(values):{digits}}]"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small shards, one round: does it run?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=100_000, help="of a set of 8 shards")
    asked = parser.parse_args()
    n, rounds = (4_000, 1) if asked.quick else (asked.images, asked.rounds)
    plan = plan_of(n)
    kinds: dict[str, Callable[[], Run]] = {
        "1 local worker": partial(run_local, plan, 1),
        "2 local workers": partial(run_local, plan, 2),
        "2 Ray workers": partial(run_ray, plan),
    }
    runs: dict[str, list[Run]] = {name: [] for name in kinds}
    names = list(kinds)
    for number in range(rounds):
        for place in range(len(names)):  # another one first in every round
            name = names[(place + number) % len(names)]
            runs[name].append(kinds[name]())
            print(f"round {number + 1}, {name}: {runs[name][-1].seconds:.1f} s", file=sys.stderr, flush=True)
    digests = {run.digest for found in runs.values() for run in found}
    assert len(digests) == 1, "the sets differ"
    one, two, ray = (runs[name] for name in names)
    print(f"{platform.machine()}, {os.cpu_count()} cores, numba {version('numba')}, Ray {version('ray')}")
    print(f"{n} images of 362 px in {N_SHARDS} shards of {plan.segments[0].shard_size}, {rounds} rounds; all equal")
    for name, found in runs.items():
        cpu = f", CPU {spread([run.cpu for run in found])} s" if found[0].cpu else ""
        print(f"{name:>16}: {spread([run.seconds for run in found])} s{cpu}")
    print(f"      start of Ray: {spread([run.start for run in ray])} s")
    print(f" a shard, 1 worker: {spread([run.seconds / N_SHARDS for run in one])} s")
    scaling = [first.seconds / second.seconds for first, second in zip(one, two, strict=True)]
    over = [second.seconds / first.seconds for first, second in zip(two, ray, strict=True)]
    started = [(second.seconds + second.start) / first.seconds for first, second in zip(two, ray, strict=True)]
    print(f"1 -> 2 local workers: {spread(scaling)} times as fast (wanted: at least 1.8)")
    print(f"Ray over local, 2 workers: {spread(over)} of its time (wanted: below 1.10)")
    print(f"the same with Ray's start: {spread(started)}")


if __name__ == "__main__":  # workers are spawned
    main()
