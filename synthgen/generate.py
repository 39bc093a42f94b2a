"""Fill a dataset directory: for each missing shard, render and write.

``open_directory`` lays the plan down or takes up the one that stands; ``generate`` does what is
missing.  Both may be killed at any moment and called again, by several processes at once.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from synthgen.content import DiffusionContent, FractalContent, Sample
from synthgen.errors import SynthgenError
from synthgen.manifest import Manifest, finish, read_manifest
from synthgen.plan import Plan, ShardSpan, difference, read_plan
from synthgen.progress import progress
from synthgen.shard import Item, remove_orphans, write_atomically, write_shard

DISK_MARGIN = 1.1  # free space wanted over the estimate
PROBES = 8  # samples, spread over the plan, whose size gives the estimate
BYTES_PER_PIXEL = {"png": 1.8, "jpg": 0.5, "webp": 0.3}  # of photographs at quality 95, with a margin
POLL = 0.5  # seconds between looks at shards that another process is writing


@dataclass(frozen=True, slots=True, kw_only=True)
class Renderer:
    """What turns samples into image files."""

    render: Callable[[Iterable[Sample]], Iterator[Item]]  # in the order given
    environment: dict[str, str]  # the versions and settings on which the bytes may depend


def fractal_renderer(content: FractalContent) -> Renderer:
    """Draws on this process's core."""
    from synthgen.fractal import render

    environment = {
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "numba": version("numba"),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "machine": platform.machine(),
    }
    return Renderer(render=partial(render, content), environment=environment)


def existing_plan(directory: Path) -> Plan | None:
    """The plan that a directory was made by; None where there is nothing yet.

    Raises SynthgenError where the directory holds something else.
    """
    if directory.exists() and not directory.is_dir():
        raise SynthgenError(f"{directory}: not a directory")
    entries = list(directory.iterdir()) if directory.is_dir() else []
    if (directory / "plan.json").exists():  # asked after the listing: another process may just be laying it down
        return read_plan(directory / "plan.json")
    if any(path.suffix != ".tmp" for path in entries):
        raise SynthgenError(f"{directory}: not empty and not a dataset (no plan.json); choose another --out")
    return None


def open_directory(directory: Path, plan: Plan) -> Plan:
    """Lay ``plan`` down in a directory, or take up the one that stands there, grown to as many samples.

    Raises SynthgenError, before anything is written, where another plan made the directory, it
    was planned for more samples, or the disk is too small for what is missing.
    """
    old = existing_plan(directory)
    if old is not None:
        if old.digest != plan.digest:
            raise SynthgenError(
                f"{directory}: made by another plan ({old.digest[:16]} there, {plan.digest[:16]} asked):"
                f" {difference(old, plan)}"
            )
        try:
            plan = old.grown(plan.n, plan.segments[-1].shard_size)
        except SynthgenError as error:
            raise SynthgenError(f"{directory}: {error}") from None
    _check_disk(directory, plan, n_done=read_manifest(directory).n_samples if old else 0)
    if old is None or plan is not old:
        for name in ("manifest.json", "SHA256SUMS"):  # they tell of a finished directory
            (directory / name).unlink(missing_ok=True)
        write_atomically(directory / "plan.json", plan.to_json().encode())
    return plan


def _check_disk(directory: Path, plan: Plan, *, n_done: int) -> None:
    if n_done == plan.n:
        return
    needed = int(DISK_MARGIN * bytes_per_image(plan) * (plan.n - n_done))
    free = free_space(directory)
    if free < needed:
        raise SynthgenError(
            f"{directory}: {plan.n - n_done} images need about {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB are free;"
            " free some space or ask for fewer"
        )


def bytes_per_image(plan: Plan) -> float:
    """What an image takes in a shard, about: measured for fractals, from experience for diffusion images."""
    content = plan.content
    if isinstance(content, DiffusionContent):
        return 6 * 1024 + BYTES_PER_PIXEL[content.image_format] * content.sampling.size**2
    probes = [plan.sample(k * plan.n // PROBES) for k in range(PROBES)]
    return 3 * 1024 + sum(len(item.image) for item in fractal_renderer(content).render(probes)) / PROBES


def free_space(directory: Path) -> int:
    """Bytes free on the disk where a directory stands or would stand."""
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def generate(directory: Path, *, renderer: Renderer | None = None, workers: int | None = None) -> Manifest:
    """Render and write the missing shards of a directory; returns the complete manifest.

    With a ``renderer`` this process does it.  Without one, which is for fractals, ``workers``
    processes (all cores by default) write shards side by side.  Shards that another process is
    writing are waited for, and taken over where it dies.
    """
    _remove_orphans(directory)
    manifest = read_manifest(directory)
    workers = min(workers or os.cpu_count() or 1, max(len(manifest.missing), 1))
    with progress("generate", manifest.plan.n, "images") as show:
        done = manifest.n_samples
        show(done)

        def advance(n_samples: int) -> None:
            nonlocal done
            done += n_samples
            show(done)

        with _writers(directory, manifest.plan, renderer, workers, advance) as write:
            while manifest.missing:
                wrote = sum(write(manifest.missing))
                manifest = read_manifest(directory)
                done = manifest.n_samples
                if manifest.missing and not wrote:
                    time.sleep(POLL)
        show(done)
    _remove_orphans(directory)  # of processes killed in the meantime
    finish(manifest)
    return manifest


def _remove_orphans(directory: Path) -> None:
    for folder in (directory, directory / "data", directory / "metadata"):
        remove_orphans(folder)


class _Write:
    """Writes spans, here or in a pool; yields the number of samples of each finished shard.

    ``advance`` takes how many more samples are rendered.
    """

    def __init__(
        self,
        directory: Path,
        plan: Plan,
        renderer: Renderer | None,
        pool: ProcessPoolExecutor | None,
        advance: Callable[[int], None],
    ) -> None:
        self._directory, self._plan, self._renderer, self._pool = directory, plan, renderer, pool
        self._advance = advance

    def __call__(self, spans: tuple[ShardSpan, ...]) -> Iterator[int]:
        if self._pool is None:
            for span in spans:
                yield write_one(self._directory, self._plan, span, self._renderer, self._advance)
            return
        with _interrupts(signal.SIG_BLOCK):  # workers, which start here, inherit it
            futures = [self._pool.submit(_write_in_worker, span) for span in spans]
        for future in as_completed(futures):
            self._advance(future.result())
            yield future.result()


@contextmanager
def _writers(
    directory: Path, plan: Plan, renderer: Renderer | None, workers: int, advance: Callable[[int], None]
) -> Iterator[_Write]:
    if renderer is not None or workers == 1:
        yield _Write(directory, plan, renderer, None, advance)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(directory, plan))
    try:
        yield _Write(directory, plan, None, pool, advance)
    except BrokenProcessPool:
        raise SynthgenError(
            "a worker process was killed, perhaps for want of memory; run the same command again, with fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def write_one(
    directory: Path,
    plan: Plan,
    span: ShardSpan,
    renderer: Renderer | None = None,
    advance: Callable[[int], None] = lambda n_samples: None,
) -> int:
    """Render and write one shard; returns its number of samples, 0 where another process has it."""
    if renderer is None:
        assert isinstance(plan.content, FractalContent)
        renderer = fractal_renderer(plan.content)
    items = renderer.render(plan.sample(index) for index in range(span.start, span.stop))
    shard = write_shard(
        directory, span, _shown(items, advance), plan_digest=plan.digest, environment=renderer.environment
    )
    return shard.n_samples if shard else 0


def _shown(items: Iterator[Item], advance: Callable[[int], None]) -> Iterator[Item]:
    for item in items:
        yield item
        advance(1)


_worker: tuple[Path, Plan] | None = None  # of a worker process, set once when it starts


def _start_worker(directory: Path, plan: Plan) -> None:
    global _worker
    _worker = (directory, plan)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent must not leave workers behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _write_in_worker(span: ShardSpan) -> int:
    """Write a shard; Ctrl-C, which reaches every process of a terminal, ends the worker here and nowhere else."""
    assert _worker is not None
    try:
        with _interrupts(signal.SIG_UNBLOCK):
            return write_one(*_worker, span)
    except KeyboardInterrupt:
        os._exit(130)  # its unfinished files are gone by now


@contextmanager
def _interrupts(how: int) -> Iterator[None]:
    before = signal.pthread_sigmask(how, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
