"""The Ray engine: one task a shard, on actors that hold the renderer, wherever the cluster has room.

Nodes may come and go: an actor that is lost gives its shard back, and new actors are asked for as the
cluster's resources allow.  The output must be a place that every node reaches: a mounted folder or a URL.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from synthgen.errors import SynthgenError
from synthgen.work import ATTEMPTS, Done, Engine, Task, Work, told, write_one

LOOK_EVERY = 1.0  # seconds between looks for more room in the cluster
CONNECT = 10  # seconds that an address gets to answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A Ray cluster, and what an actor takes of it."""

    address: str | None  # such as ray://HOST:10001, HOST:6379 or auto; None starts Ray on this machine
    resources: dict[str, float]  # by name, such as CPU or GPU
    workers: int | None  # most actors at once; None for as many as there is room for


def on_ray(cluster: Cluster, device: str | None) -> Engine:
    """An engine of actors on a Ray cluster; ``device`` is what each finds itself on, None for the cores.

    Raises SynthgenError where Ray is not installed or does not answer.
    """

    def run(work: Work, tasks: Sequence[Task], advance: Callable[[int], None]) -> Iterator[Done]:
        with connected(cluster) as ray:
            yield from _Crew(ray, cluster, work, device, len(tasks)).do(tasks, advance)

    return run


def require_ray() -> None:
    """Raise SynthgenError where Ray is not installed."""
    if find_spec("ray") is None:
        raise SynthgenError("--engine ray: Ray is not installed; pip install 'synthgen[ray]'")


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """The module ``ray``, connected to the cluster, and disconnected at the end."""
    require_ray()
    import ray

    ours = not ray.is_initialized()
    if ours:
        _connect(ray, cluster.address)
    try:
        short = [
            f"{name} {amount:g}"
            for name, amount in cluster.resources.items()
            if name not in ("CPU", "GPU") and ray.cluster_resources().get(name, 0) < amount
        ]
        if short:
            raise SynthgenError(f"--resources: the cluster has no {', '.join(short)}")
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    options = {"include_dashboard": False} if address is None else {"address": address}
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError, TimeoutError) as error:
        what = f"--address {address}" if address else "--engine ray"
        raise SynthgenError(f"{what}: no Ray answers ({told(error)[:120]}); start it with `ray start`") from None


class _Writer:
    """An actor: holds the renderer and writes shards."""

    def __init__(self, work: Work, device: str | None) -> None:
        self._work, self._device, self._renderer = work, device, None

    def write(self, task: Task) -> Done | SynthgenError | str:
        try:
            self._renderer = self._renderer or self._work.make(self._device)  # type: ignore[assignment]
            assert self._renderer is not None
            n_samples = write_one(self._work, self._renderer, task)
            return Done(span=task.span, n_samples=n_samples, worker=f"{os.uname().nodename}-{os.getpid()}")
        except SynthgenError as error:
            return SynthgenError(str(error))
        except Exception as error:
            return told(error)


class _Crew:
    """The actors of a run and what each is at."""

    def __init__(self, ray: Any, cluster: Cluster, work: Work, device: str | None, n_tasks: int) -> None:
        self._ray, self._cluster, self._device = ray, cluster, device
        self._most = min(n_tasks, cluster.workers or n_tasks)
        resources = dict(cluster.resources)
        self._actor = ray.remote(_Writer).options(
            num_cpus=resources.pop("CPU", 0), num_gpus=resources.pop("GPU", 0), resources=resources, max_restarts=0
        )
        self._work = ray.put(work)
        self._busy: dict[Any, tuple[Any, Task]] = {}  # future -> actor, task
        self._idle: list[Any] = []

    def do(self, tasks: Sequence[Task], advance: Callable[[int], None]) -> Iterator[Done]:
        """Have all tasks done."""
        queue, failures = deque(tasks), Counter[int]()
        last = -LOOK_EVERY
        while queue or self._busy:
            if time.monotonic() - last >= LOOK_EVERY:
                self._grow(len(queue))
                last = time.monotonic()
            while queue and self._idle:
                task, actor = queue.popleft(), self._idle.pop()
                self._busy[actor.write.remote(task)] = (actor, task)
            if not self._busy:
                time.sleep(LOOK_EVERY)  # for nodes to come
                continue
            ready, _ = self._ray.wait(list(self._busy), timeout=LOOK_EVERY)
            for future in ready:
                done = self._hear(future, queue, failures)
                if done is not None:
                    advance(done.n_samples)
                    yield done

    def _grow(self, wanted: int) -> None:
        """Ask for actors where the cluster has room for them."""
        free = self._ray.available_resources()
        room = min((int(free.get(name, 0) / amount) for name, amount in self._cluster.resources.items() if amount))
        have = len(self._busy) + len(self._idle)
        for _ in range(min(room, wanted - len(self._idle), self._most - have)):
            self._idle.append(self._actor.remote(self._work, self._device))

    def _hear(self, future: Any, queue: deque[Task], failures: Counter[int]) -> Done | None:
        actor, task = self._busy.pop(future)
        try:
            answer = self._ray.get(future)
            self._idle.append(actor)
        except self._ray.exceptions.RayError as error:  # the actor or its node is lost
            answer = f"its worker was lost ({type(error).__name__})"
        if isinstance(answer, Done):
            return answer
        if isinstance(answer, SynthgenError):
            raise answer
        failures[task.span.index] += 1
        if failures[task.span.index] < ATTEMPTS:
            queue.append(task)
            return None
        return Done(span=task.span, n_samples=0, worker="ray", failed=answer)
