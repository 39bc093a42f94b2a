"""From ``--engine`` and its options to an engine and a share of the shards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from synthgen.common.errors import SynthgenError

if TYPE_CHECKING:
    from synthgen.engines.cluster import Cluster
    from synthgen.engines.work import Engine

ENGINES = ("local", "ray")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked of the engine."""

    engine: str = "local"
    workers: int | None = None  # most at once
    address: str | None = None  # of a Ray cluster
    resources: tuple[str, ...] = ()  # taken by a Ray actor, each NAME=AMOUNT
    task_index: int | None = None
    num_tasks: int | None = None

    def check(self) -> None:
        """Check the options, and that a cluster responds at the address.

        Raises SynthgenError if they are out of range or conflict, or Ray is not installed or does not respond.
        """
        if self.engine not in ENGINES:
            raise SynthgenError(f"--engine {self.engine}: one of {', '.join(ENGINES)}")
        self.share  # noqa: B018 - raises
        for text in self.resources:
            _amount(text)
        if self.engine == "ray":
            from synthgen.engines.cluster import probe, require_ray

            require_ray()
            if self.address:
                probe(self.address)
        for option, value in (("--address", self.address), ("--resources", self.resources)):
            if value and self.engine != "ray":
                raise SynthgenError(f"{option}: only with --engine ray")

    @contextmanager
    def ready(self) -> Iterator[None]:
        """While the block runs, what was asked is possible, and Ray, if asked for, is connected.

        Raises SynthgenError as ``check`` does, and if Ray does not respond or none of its nodes has the resources.
        """
        self.check()
        if self.engine == "local":
            yield
            return
        with self.cluster(None).connected():
            yield

    @property
    def share(self) -> tuple[int, int]:
        """This process's share of the work, as (index, number of shares): (0, 1) is everything."""
        index, n = self.task_index, self.num_tasks
        if index is None and n is None:
            return 0, 1
        if index is None or n is None:
            missing = "--task-index" if index is None else "--num-tasks"
            raise SynthgenError(f"{missing} is missing: --task-index and --num-tasks go together")
        if n < 1:
            raise SynthgenError(f"--num-tasks {n}: at least 1")
        if not 0 <= index < n:
            raise SynthgenError(f"--task-index {index}: 0 to {n - 1}, as --num-tasks is {n}")
        return index, n

    def cores(self) -> list[str | None]:
        """The local workers that use one core each."""
        return [None] * (self.workers or os.cpu_count() or 1)

    def find(self, devices: Sequence[str | None], *, per_worker: str = "CPU") -> Engine:
        """The engine: one local worker per device, or Ray actors that take one ``per_worker`` each."""
        if self.engine == "local":
            from synthgen.engines.local import local

            return local(devices)
        from synthgen.engines.on_ray import on_ray

        return on_ray(self.cluster(per_worker), None)

    def cluster(self, per_worker: str | None) -> Cluster:
        """The Ray cluster, and what a worker takes: what was asked, otherwise one ``per_worker``, if given."""
        from synthgen.engines.cluster import Cluster

        amounts = dict(map(_amount, self.resources)) or ({per_worker: 1.0} if per_worker else {})
        return Cluster(address=self.address, resources=amounts, workers=self.workers)


def _amount(text: str) -> tuple[str, float]:
    name, equals, amount = text.partition("=")
    try:
        number = float(amount)
    except ValueError:
        number = 0.0
    if not (name and equals and 0 < number < float("inf")):
        raise SynthgenError(f"--resources {text}: NAME=AMOUNT, such as GPU=1 or CPU=4")
    return name, number
