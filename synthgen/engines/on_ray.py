"""The Ray engine: one task per shard, on actors that hold the renderer, wherever the cluster has room.

Nodes may join and leave: the shard of a lost actor is given to another, and new actors are requested as the cluster's
resources allow.  The output must be a place that every node can reach: a mounted folder or a URL.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from synthgen.common.errors import SynthgenError
from synthgen.common.logs import Failure, describe, failure_of
from synthgen.common.printing import say
from synthgen.common.processes import worker_name
from synthgen.engines.claims import drop_claims
from synthgen.engines.cluster import Cluster
from synthgen.engines.work import ATTEMPTS, Done, Engine, Task, Work, failed_at, write_one
from synthgen.kinds.base import Renderer
from synthgen.storage.logs import keep
from synthgen.storage.places import place

LOOK_EVERY = 1.0  # seconds between looks for more room in the cluster
PATIENCE = 20.0  # seconds without any worker after which we report what we are waiting for
LOSSES = 10  # workers lost at a shard before it is given up: the shard may be the cause, or nodes that were taken away
STARTS = 5  # workers in a row that failed to start, after which none is expected to


def on_ray(cluster: Cluster, device: str | None) -> Engine:
    """An engine of actors on a Ray cluster; ``device`` is what each of them uses, None for the cores.

    Raises SynthgenError as ``Cluster.connected`` does.
    """

    def run(work: Work, tasks: Sequence[Task], advance: Callable[[int], None]) -> Iterator[Done]:
        with cluster.connected() as ray:
            crew = _Crew(ray, cluster, work, device, len(tasks))
            try:
                yield from crew.do(tasks, advance)
            finally:
                crew.end()

    return run


class _Writer:
    """An actor that holds the renderer and writes shards."""

    def __init__(self, work: Work, device: str | None) -> None:
        self._work, self._device = work, device
        self._renderer: Renderer | None = None

    def prepare(self) -> str | SynthgenError | Failure:
        """Make the renderer; returns the worker's name."""
        try:
            self._renderer = self._work.make(self._device)
        except SynthgenError as error:
            return SynthgenError(str(error))
        except Exception as error:
            return failure_of(error)
        return worker_name()

    def write(self, task: Task) -> Done | SynthgenError | Failure:
        """Write a shard."""
        assert self._renderer is not None
        try:
            n_samples = write_one(self._work, self._renderer, task)
            return Done(span=task.span, n_samples=n_samples, worker=worker_name())
        except SynthgenError as error:
            return SynthgenError(str(error))
        except Exception as error:
            return failure_of(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """An actor that is up."""

    actor: Any
    name: str  # as its claims have it


class _Crew:
    """The actors of a run and what each is doing."""

    def __init__(self, ray: Any, cluster: Cluster, work: Work, device: str | None, n_tasks: int) -> None:
        self._ray, self._work, self._device = ray, work, device
        self._cluster = cluster
        self._most = min(n_tasks, cluster.workers or n_tasks)
        self._actor = ray.remote(**cluster.remote_options, max_restarts=0)(_Writer)
        self._shared = ray.put(work)
        self._coming: dict[Any, Any] = {}  # future of the worker's name -> actor
        self._idle: list[_Member] = []
        self._busy: dict[Any, tuple[_Member, Task]] = {}  # future of the result -> the actor and its task
        self._failed_starts = 0  # since the last successful start
        self._failures, self._losses = Counter[int](), Counter[int]()  # by shard

    def do(self, tasks: Sequence[Task], advance: Callable[[int], None]) -> Iterator[Done]:
        """Have all tasks done."""
        queue = deque(tasks)
        looked, alone = float("-inf"), time.monotonic()
        while queue or self._busy:
            now = time.monotonic()
            if now - looked >= LOOK_EVERY:
                self._grow(len(queue))
                looked = now
            while queue and self._idle:
                member, task = self._idle.pop(), queue.popleft()
                self._busy[member.actor.write.remote(task)] = (member, task)
            if self._busy:
                alone = now
            elif now - alone > PATIENCE:
                self._say_waiting()
                alone = float("inf")
            ready, _ = self._ray.wait([*self._coming, *self._busy], timeout=LOOK_EVERY)
            for future in ready:
                if future in self._coming:
                    self._welcome(future)
                elif (done := self._receive(future, queue)) is not None:
                    advance(done.n_samples)
                    yield done

    def _grow(self, wanted: int) -> None:
        """Request as many actors as there is room for, and at least one, for the next node."""
        room = self._cluster.room(self._ray.available_resources())
        most = min(wanted - len(self._idle), self._most - len(self._idle) - len(self._busy))
        ask = min(max(room, 1), most) - len(self._coming)
        for _ in range(ask):
            try:
                actor = self._actor.remote(self._shared, self._device)
            except ValueError as error:  # such as for one and a half GPUs
                raise SynthgenError(f"--resources: {''.join(map(str, error.args))}") from None
            self._coming[actor.prepare.remote()] = actor

    def _say_waiting(self) -> None:
        what = ", ".join(f"{name} {amount:g}" for name, amount in self._cluster.resources.items())
        say(f"synthgen: the cluster has no room yet for a worker ({what}); waiting for it", file=sys.stderr)

    def _welcome(self, future: Any) -> None:
        """Add an actor that has started.  Raises SynthgenError if none is expected to start."""
        actor, why = self._coming.pop(future), ""
        try:
            answer = self._ray.get(future)
        except self._ray.exceptions.RayError as error:
            why = _cause(error)
        else:
            if isinstance(answer, Failure):
                name = f"start-{self._failed_starts + 1}"
                where = keep(place(self._work.directory), name, answer, "start of a worker of Ray")
                why = f"{answer.line} ({where})"
        if why:
            self._failed_starts += 1
            if self._failed_starts == STARTS:
                raise SynthgenError(f"--engine ray: {STARTS} workers in a row did not start: {why}")
            return
        if isinstance(answer, SynthgenError):
            raise answer
        self._failed_starts = 0
        self._idle.append(_Member(actor=actor, name=answer))

    def _receive(self, future: Any, queue: deque[Task]) -> Done | None:
        """The result of a task; None if it is tried again."""
        member, task = self._busy.pop(future)
        shard = task.span.index
        answer: Done | SynthgenError | Failure
        try:
            answer = self._ray.get(future)
            self._idle.append(member)
        except self._ray.exceptions.RayError as error:  # the actor or its node is lost
            self._ray.kill(member.actor)  # it may only be unreachable
            self._losses[shard] += 1
            task = replace(task, force=True)  # its claim is no longer valid
            why = f"{self._losses[shard]} workers were lost on it ({_cause(error)})"
            done = Done(span=task.span, n_samples=0, worker=member.name, failed=why)
        else:
            if isinstance(answer, SynthgenError):
                raise answer
            if not isinstance(answer, Failure):
                return answer
            self._failures[shard] += 1
            done = failed_at(self._work, task, answer, worker=member.name, attempt=self._failures[shard])
        if done.bug or self._failures[shard] == ATTEMPTS or self._losses[shard] == LOSSES:
            return done
        queue.append(task)
        return None

    def end(self) -> None:
        """Release all actors, and remove the claims of those that were working."""
        names = {member.name for member, _ in self._busy.values()}
        members = [*self._idle, *(member for member, _ in self._busy.values())]
        for actor in [*self._coming.values(), *(member.actor for member in members)]:
            with suppress(Exception):
                self._ray.kill(actor)
        with suppress(SynthgenError):  # the store is unreachable; its claims time out
            drop_claims(place(self._work.directory), names)


def _cause(error: Any) -> str:
    """Why a task or an actor ended, in one line without Ray's own traceback."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return describe(cause)
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("class_name:", "actor_id:", "pid:", "namespace:"))]
    return f"{type(error).__name__}: {' '.join(said)}"[:200]
