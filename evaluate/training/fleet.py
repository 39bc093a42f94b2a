"""Several workers on one suite: each is the command ``evaluate run`` itself, and they share the directory of runs.

A run is locked while a worker is working on it and taken over if the worker dies, so workers need no
coordinator; the fleet only starts them, restarts them if they are killed, and reports the outcome.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from synthgen.common.logs import LONGEST, setting, show
from synthgen.common.printing import counted
from synthgen.common.processes import how_ended, unheard
from synthgen.common.progress import progress
from synthgen.engines import Request
from synthgen.storage.logs import go_beside

from ..design.suite import Suite
from ..errors import EvaluateError, FailedRunError
from .execute import Outcome
from .plan import Plan, open_suite

GRACE = 10.0  # seconds that a worker has to reach its next check for signals
STARTS = 4  # attempts at a worker that is killed, including the first
FINISHED = (0, 1)  # exit codes of a worker that did all there was to do
REFUSED = 2
POLL_EVERY = 0.2  # seconds between polls of workers on this machine
RAY_POLL_EVERY = 5.0  # seconds between polls of the runs of workers elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """How a worker is started."""

    arguments: tuple[str, ...]  # of ``evaluate run``
    environment: dict[str, str]  # variables that are set for it

    def command(self) -> list[str]:
        """Its command line."""
        return [sys.executable, "-m", "synthgen_evaluate", "run", *self.arguments]


def run_fleet(
    file: Path,
    suite: Suite,
    out: Path,
    request: Request,
    *,
    device: str = "auto",
    only: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Outcome:
    """Run a suite with several workers; ``options`` are options of ``evaluate run`` for each.

    Raises EvaluateError or SynthgenError if a worker refuses to start or is killed STARTS times, or Ray does not
    answer, and FailedRunError if runs that failed in the same way stopped the workers.
    """
    go_beside(out)
    plan = open_suite(suite, only)
    before, said = len(plan.todo(out)), "their messages are above"
    options = [*options, *(word for arm in only for word in ("--only", arm)), *["--debug"] * setting.debug]
    if request.engine == "local":
        _run_local(_workers(file, out, _devices(device, request.workers), options))
    else:
        said = _run_on_ray(file, out, plan, request, options)
    todo = plan.todo(out)
    states = {step.title: step.run(out).state for step in todo}
    failed = tuple(f"{title}: {state.error}" for title, state in states.items() if state.status == "failed")
    done, left = before - len(todo), len(todo) - len(failed)
    if left and "--max-hours" not in options:
        error = FailedRunError if failed else EvaluateError
        raise error(f"{counted(left, 'run')} {'is' if left == 1 else 'are'} not done, as the workers failed; {said}")
    return Outcome(done=done, kept=len(plan.grid.steps) - before, failed=failed, left=left)


def _devices(name: str, workers: int | None) -> list[str]:
    """The devices of the workers of this machine: one GPU each, else a share of its cores."""
    n_gpus = torch.cuda.device_count() if name in ("auto", "cuda") else 0
    if n_gpus:
        return [f"cuda:{index}" for index in range(n_gpus)][:workers]
    return [name if name != "auto" else "cpu"] * (workers or 1)


def _workers(file: Path, out: Path, devices: Sequence[str], options: Sequence[str]) -> list[Worker]:
    threads = str(max(1, (os.cpu_count() or 1) // len(devices)))
    common = (str(file), "--out", str(out), *options)
    return [
        Worker(arguments=(*common, "--device", device), environment={"OMP_NUM_THREADS": threads}) for device in devices
    ]


def _run_local(workers: Sequence[Worker]) -> None:
    """Let the workers run to their end on this machine, restarted if they are killed."""
    with _crew(workers) as crew:
        starts = [1] * len(crew)
        while True:
            for number, process in enumerate(crew):
                code = process.poll()
                if code == REFUSED:
                    raise EvaluateError(f"worker {number} refused to start; the reason is above")
                if code is None or code in FINISHED:
                    continue
                if starts[number] == STARTS:  # killed, asked to end, or failed
                    raise EvaluateError(
                        f"worker {number} was killed {STARTS} times ({how_ended(code)}); the finished runs are kept:"
                        " run the same command again, with fewer --workers if memory is short"
                    )
                starts[number] += 1
                crew[number] = _start(workers[number])
            if all(process.poll() in FINISHED for process in crew):
                return
            time.sleep(POLL_EVERY)


@contextmanager
def _crew(workers: Sequence[Worker]) -> Iterator[list[subprocess.Popen[bytes]]]:
    crew = list[subprocess.Popen[bytes]]()
    try:
        crew += map(_start, workers)
        yield crew
    finally:
        with unheard():
            _end(crew)


def _end(crew: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in crew:
        if process.poll() is None:
            process.terminate()
    for process in crew:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(worker: Worker) -> subprocess.Popen[bytes]:
    return subprocess.Popen(worker.command(), env={**os.environ, **worker.environment})


def _run_on_ray(file: Path, out: Path, plan: Plan, request: Request, options: Sequence[str]) -> str:
    """Let workers run on a cluster, whose nodes all reach suite, images and runs; a lost one is restarted.

    Returns the last message of a worker that failed.
    """
    cluster = request.cluster("GPU" if torch.cuda.is_available() else "CPU")
    worker = Worker(
        arguments=(str(file.absolute()), "--out", str(out.absolute()), *options),
        environment={"OMP_NUM_THREADS": str(max(1, int(cluster.resources.get("CPU", 1))))},
    )
    with cluster.connected() as ray:
        task = ray.remote(**cluster.remote_options, max_retries=STARTS - 1, retry_exceptions=True)(_on_node)
        futures, n_finished, said = list[Any](), 0, "they left no message"
        with progress("run", len(plan.grid.steps), "runs") as show:
            while todo := plan.todo(out):
                show(len(plan.grid.steps) - len(todo))
                if not n_finished:  # otherwise there are no more runs than workers; nodes may have joined
                    room = cluster.workers or cluster.room(ray.cluster_resources()) or 1
                    more = min(room, len(todo)) - len(futures)
                    futures += [task.remote(worker, os.getcwd()) for _ in range(more)]
                if not futures:
                    break
                ready, futures = ray.wait(futures, timeout=RAY_POLL_EVERY)
                n_finished += len(ready)
                for future in ready:
                    said = _last_words(ray, future) or said
            show(len(plan.grid.steps) - len(todo))
            if futures:  # about to end, or without resources until now
                ray.wait(futures, num_returns=len(futures), timeout=GRACE)
    return said


def _last_words(ray: Any, future: Any) -> str:
    """The last message of a worker on Ray; raises EvaluateError if it refused to start, or was lost too often."""
    try:
        code, said = ray.get(future)
    except ray.exceptions.RayError as error:
        raise EvaluateError(f"a worker was lost {STARTS} times ({type(error).__name__}); run it again") from None
    if setting.debug:
        show(said)
    lines = said.splitlines()[-1:]
    words = (
        lines[0].removeprefix("evaluate: ") if lines and (code == REFUSED or lines[0].startswith("evaluate: ")) else ""
    )
    if code == REFUSED:
        raise EvaluateError(words)
    return words


def _on_node(worker: Worker, folder: str) -> tuple[int, str]:
    """Run a worker on a node, on the GPU that Ray lets it see; returns its exit code and the end of its stderr."""
    environment = {**os.environ, **worker.environment}
    done = subprocess.run(worker.command(), cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (*FINISHED, REFUSED):
        raise RuntimeError(how_ended(done.returncode))  # Ray restarts it
    return done.returncode, done.stderr.strip()[-LONGEST:]
