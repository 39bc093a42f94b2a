"""Sets whose images cost nothing, and workers that die, fail, dawdle or differ as a test wants it."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from synthgen import cli
from synthgen.common.errors import SynthgenError
from synthgen.dataset.plan import Plan, new_plan
from synthgen.dataset.shard import Item
from synthgen.engines.generate import existing_plan, generate
from synthgen.engines.local import local
from synthgen.kinds.base import Renderer, Sample
from synthgen.kinds.fractaldb.content import CategoryRecord, FractalContent
from synthgen.storage.places import place, store_of

if TYPE_CHECKING:
    from synthgen.storage.store import Place


def plan(n: int = 60, shard_size: int = 10, *, seed: int = 1, categories: int = 5) -> Plan:
    row = (0.5, 0.0, 0.0, 0.5, 0.1, 0.2, 1.0)
    content = FractalContent(
        seed=seed,
        draw="patch_gray",
        size=32,
        n_points=1000,
        weight_step=0.4,
        layout=(25, 10, 4),
        categories=tuple(CategoryRecord(name=f"{index:05d}", rows=(row,)) for index in range(categories)),
    )
    return new_plan(name="pretend", content=content, n=n, shard_size=shard_size, origin={})


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes renderers, also in other processes; what happens to whom is counted in a log."""

    log: str  # a file: a line PROCESS DEVICE INDEX for each image that is begun
    dies: Mapping[int, int] = field(default_factory=dict)  # image -> how often its worker is killed at it
    fails: Mapping[int, int] = field(default_factory=dict)  # the same, of an exception
    stops: int | None = None  # an image that nothing helps against
    broken: str | None = None  # a device on which nothing works
    seconds: float = 0.0  # an image
    deaf: bool = False  # whether no signal is heard until an image is done
    size: int = 200  # bytes of an image
    mark: str = ""  # makes other images

    def __call__(self, device: str | None) -> Renderer:
        return Renderer(render=Pretender(self, device).render, environment={"pretend": "1"})


class Pretender:
    def __init__(self, maker: Maker, device: str | None) -> None:
        self._maker, self._device = maker, device

    def render(self, samples: Iterable[Sample]) -> Iterator[Item]:
        for sample in samples:
            self._begin(sample.index)
            yield item(sample, self._maker)

    def _begin(self, index: int) -> None:
        maker, before = self._maker, [one for _, _, one in read_log(self._maker.log)].count(index)
        with open(maker.log, "a") as log:
            log.write(f"{os.getpid()} {self._device} {index}\n")
        if before < maker.dies.get(index, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if before < maker.fails.get(index, 0) or (maker.broken and self._device == maker.broken):
            raise RuntimeError(f"no image {index}\non {self._device}")
        if index == maker.stops:
            raise SynthgenError("the model is gone; look for it")
        if maker.deaf:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        time.sleep(maker.seconds)


def item(sample: Sample, maker: Maker) -> Item:
    """An image that is none, but always the same."""
    stream = hashlib.shake_128(f"{sample.index}{maker.mark}".encode()).digest(maker.size)
    record = {"key": sample.key, "index": sample.index, "label": sample.label}
    return Item(key=sample.key, label=sample.label, ending="png", image=stream, record=record)


def read_log(log: str | Path) -> list[tuple[int, str, int]]:
    """Process, device and image, in the order in which the images were begun."""
    try:
        lines = Path(log).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(int(pid), device, int(index)) for pid, device, index in map(str.split, lines)]


def lay(directory: Place, asked: Plan) -> None:
    """Lay a plan down as open_directory does, without drawing fractals to see how large they are."""
    if existing_plan(directory) is None:
        store_of(directory).write(directory / "plan.json", asked.to_json().encode())


def run(
    directory: str, maker: Maker, asked: Plan, *, devices: tuple[str | None, ...] = (None, None), **short: float
) -> int:
    """Fill a directory as the command does; returns the exit code.

    Without ``devices`` this process is the worker.  ``short`` sets HEARTBEAT and TIMEOUT.
    """
    from synthgen.engines import claims
    from synthgen.engines import generate as module

    for name, seconds in short.items():
        setattr(claims, name.upper(), seconds)
    module.HEARTBEAT = claims.HEARTBEAT
    app = typer.Typer()

    @app.command()
    def fill() -> None:
        lay(place(directory), asked)
        if devices:
            generate(place(directory), engine=local(devices), make=Patient(maker, short) if short else maker)
        else:
            generate(place(directory), renderer=maker(None))

    sys.argv = ["synthgen"]
    return cli.run(app, "synthgen", (SynthgenError,))


@dataclass(frozen=True)
class Patient:
    """A maker whose workers have other constants, too."""

    maker: Maker
    short: Mapping[str, float]

    def __call__(self, device: str | None) -> Renderer:
        from synthgen.engines import claims

        for name, seconds in self.short.items():
            setattr(claims, name.upper(), seconds)
        return self.maker(device)


def command(directory: object, maker: Maker, asked: Plan, **options: object) -> list[str]:
    """The command line of ``run`` in a process of its own."""
    import base64
    import pickle

    call = base64.b64encode(pickle.dumps((str(directory), maker, asked, options))).decode()
    text = (
        "import base64, pickle, sys; import pretend;"
        f" d, m, p, o = pickle.loads(base64.b64decode('{call}')); sys.exit(pretend.run(d, m, p, **o))"
    )
    return [sys.executable, "-c", text]


def environment() -> dict[str, str]:
    """Of such a process: it finds this module."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
