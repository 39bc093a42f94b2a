"""Several workers at one suite: each is the command ``evaluate run`` itself, and they share the directory of runs.

A run is locked while a worker is at it and taken over where the worker dies, so workers need no
coordinator; the fleet only starts them, again where they are killed, and says what stands in the end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import EvaluateError

STARTS = 4  # of a worker that is killed, in all
LOOK_EVERY = 0.2  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """How a worker is started."""

    arguments: tuple[str, ...]  # of ``evaluate run``
    environment: dict[str, str]  # what is set for it

    def command(self) -> list[str]:
        """Its command line."""
        return [sys.executable, "-m", "synthgen_evaluate", "run", *self.arguments]


def workers_of(suite: Path, out: Path, devices: Sequence[str], options: Sequence[str]) -> list[Worker]:
    """One worker a device, which share the cores of this machine."""
    threads = str(max(1, (os.cpu_count() or 1) // len(devices)))
    common = (str(suite), "--out", str(out), *options)
    return [
        Worker(arguments=(*common, "--device", device), environment={"OMP_NUM_THREADS": threads}) for device in devices
    ]


def run_local(workers: Sequence[Worker]) -> None:
    """Have the workers run to their end on this machine.

    Raises EvaluateError with a worker's own words where it refuses to start (exit code 2), and where one
    was killed STARTS times.
    """
    with _crew(workers) as crew:
        starts = [1] * len(workers)
        while any(process.poll() is None for process in crew) or _killed(crew):
            for number, process in enumerate(crew):
                code = process.poll()
                if code == 2:
                    raise EvaluateError(_last_words(process))
                if code is not None and code < 0:
                    if starts[number] == STARTS:
                        raise EvaluateError(
                            f"worker {number} was killed {STARTS} times ({signal.Signals(-code).name}); the finished"
                            " runs stand: run the same command again, with fewer --workers if memory is short"
                        )
                    starts[number] += 1
                    crew[number] = _start(workers[number])
            time.sleep(LOOK_EVERY)


def _killed(crew: Sequence[subprocess.Popen[str]]) -> bool:
    return any((process.poll() or 0) < 0 or process.poll() == 2 for process in crew)


@contextmanager
def _crew(workers: Sequence[Worker]) -> Iterator[list[subprocess.Popen[str]]]:
    crew = [_start(worker) for worker in workers]
    try:
        yield crew
    finally:
        for process in crew:
            if process.poll() is None:
                process.terminate()
        for process in crew:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(worker: Worker) -> subprocess.Popen[str]:
    return subprocess.Popen(
        worker.command(), env={**os.environ, **worker.environment}, stderr=subprocess.PIPE, text=True
    )


def _last_words(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    lines = process.stderr.read().strip().splitlines()
    return lines[-1].removeprefix("evaluate: ") if lines else "a worker refused to start"


def run_on_ray(workers: Sequence[Worker], connected: Any, resources: dict[str, float]) -> None:
    """Have the workers run on a cluster, whose nodes all reach the directory of runs; a lost one is started again."""
    amounts = dict(resources)
    task = connected.remote(_on_node).options(
        num_cpus=amounts.pop("CPU", 0), num_gpus=amounts.pop("GPU", 0), resources=amounts, max_retries=STARTS - 1
    )
    folder = os.getcwd()
    for code, words in connected.get([task.remote(worker, folder) for worker in workers]):
        if code == 2:
            raise EvaluateError(words)


def _on_node(worker: Worker, folder: str) -> tuple[int, str]:
    """Run a worker on a node; Ray has set which GPU it sees."""
    done = subprocess.run(
        worker.command(), cwd=folder, env={**os.environ, **worker.environment}, capture_output=True, text=True
    )
    if done.returncode < 0:
        raise RuntimeError(f"killed by signal {-done.returncode}")  # Ray tries again
    lines = done.stderr.strip().splitlines()
    return done.returncode, lines[-1].removeprefix("evaluate: ") if lines else ""
