"""Fill a dataset directory: render and write each missing shard.

``open_directory`` writes the plan or continues the existing one; ``generate`` makes the missing shards.  Both may be
killed at any moment and called again, also by several processes at once.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from synthgen.common.errors import SynthgenError
from synthgen.common.progress import progress
from synthgen.dataset.manifest import (
    MANIFEST,
    SUMS,
    Manifest,
    check_folders,
    check_own,
    check_plan,
    finish,
    read_manifest,
)
from synthgen.dataset.plan import Plan, ShardSpan, difference, read_plan
from synthgen.engines.claims import HEARTBEAT, Watch, remove_claims, report_failure
from synthgen.engines.local import local
from synthgen.engines.work import Bugs, Done, Engine, FailedShardsError, Task, Work, here
from synthgen.kinds.base import Renderer
from synthgen.storage import logs
from synthgen.storage.disk import free_space
from synthgen.storage.places import store_of
from synthgen.storage.reading import reading
from synthgen.storage.retries import with_retries
from synthgen.storage.store import CLAIMS, Place

DISK_MARGIN = 1.1  # free space required, relative to the estimate
T = TypeVar("T")
POLL = 0.5  # seconds between looks at shards that another process is writing
UNSEEN = 120.0  # seconds for which a shard reported as finished may be invisible, as caches of network disks cause


def stored_plan(directory: Place) -> Plan | None:
    """The plan in a directory; None if there is none.  Raises SynthgenError if it cannot be read."""
    path = directory / "plan.json"
    with reading(path):
        return read_plan(path) if store_of(path).exists(path) else None


def existing_plan(directory: Place) -> Plan | None:
    """The plan that a directory was made by; None if there is nothing yet.

    Raises SynthgenError if the directory contains something else, its SHA256SUMS says that the plan was edited, or a
    store cannot be reached.
    """
    store = store_of(directory)
    store.check_writable(directory)
    with reading(directory):
        names = with_retries(lambda: store.names_in(directory), brief=True)
    if plan := stored_plan(directory):  # read after the listing: another process may be writing it just now
        if SUMS in names:
            check_plan(directory)
        return plan
    if any(not name.endswith(".tmp") and name not in (CLAIMS, logs.FOLDER) for name in names):  # others are starting
        raise SynthgenError(f"{directory}: not empty and not a dataset (no plan.json); choose another --out")
    return None


def open_directory(directory: Place, plan: Plan, *, workers: int = 1) -> Plan:
    """Write ``plan`` in a directory, or continue the plan that is there, grown to the same number of samples.

    Raises SynthgenError, before anything is written, if the directory was made by another plan or contains shards of
    one, it was planned for more samples, the disk is too small for what is missing (if shards are sent elsewhere: for
    one shard of each of the ``workers``), or the directory cannot be written to.
    """
    store = store_of(directory)
    while True:  # another process may be doing the same
        old = existing_plan(directory)
        grown = plan if old is None else _grown(directory, old, plan)
        if grown is not old:
            check_folders(directory)
        n_missing = grown.n
        if old is not None:
            manifest = read_manifest(directory)
            check_own(manifest)
            n_missing -= manifest.n_samples
        largest = max(min(one.shard_size, one.stop - one.start) for one in grown.segments)
        n_here = min(n_missing, workers * largest) if store.spools else n_missing
        _check_disk(store.disk(directory), grown, n_here)
        if grown is old or replace_plan(directory, old, grown):
            return grown


def _grown(directory: Place, old: Plan, plan: Plan) -> Plan:
    if old.digest != plan.digest:
        raise SynthgenError(
            f"{directory}: made by another plan ({old.digest[:16]} there, {plan.digest[:16]} asked):"
            f" {difference(old, plan)}"
        )
    try:
        return old.grown(plan.n, plan.segments[-1].shard_size)
    except SynthgenError as error:
        raise SynthgenError(f"{directory}: {error}") from None


def replace_plan(directory: Place, old: Plan | None, new: Plan) -> bool:
    """Write a plan in place of ``old`` (None if there is none); False if another process has just written one.

    An object store guarantees this only for the first plan: two processes that grow it at once are not detected.
    """
    store, path, data = store_of(directory), directory / "plan.json", new.to_json().encode()
    if old is None:
        return store.create(path, data)
    before = old.to_json()

    def unchanged() -> bool:
        there = stored_plan(directory)
        return there is not None and there.to_json() == before

    return store.replace(path, data, unchanged=unchanged, first=partial(_unfinish, directory))


def _unfinish(directory: Place) -> None:
    """Remove the files that mark a directory as finished."""
    for path in (directory / MANIFEST, directory / SUMS):
        store = store_of(path)
        with reading(path):
            if with_retries(partial(store.exists, path)):
                store.remove(path)


def _check_disk(directory: Path, plan: Plan, n: int) -> None:
    if not n:
        return
    needed = int(DISK_MARGIN * plan.kind.bytes_per_image(plan) * n)
    free = free_space(directory)
    if free < needed:
        raise SynthgenError(
            f"{directory}: {n} images need about {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB are free;"
            " free some space or ask for fewer"
        )


def generate(
    directory: Place,
    *,
    renderer: Renderer | None = None,
    workers: int | None = None,
    engine: Engine | None = None,
    make: Callable[[str | None], Renderer] | None = None,
    share: tuple[int, int] = (0, 1),
) -> Manifest:
    """Render and write the missing shards of a dataset; returns the manifest of what is then there.

    With a ``renderer`` this process does it.  Without one ``engine`` does, by default ``workers`` processes on this
    machine (one per core), each with a renderer from ``make`` (by default the kind's).  ``share`` (i, k) does only
    every k-th shard, starting at the i-th, and leaves the others to other tasks.  Shards of the share that another
    process is writing are waited for, and taken over if that process dies.

    Raises SynthgenError if a folder to write in is a link, FailedShardsError if shards were given up, once all others
    are finished, and RepeatedBugError at once if the same bug makes shard after shard fail.
    """
    logs.go_beside(directory)
    store = store_of(directory)
    store.clear(directory)
    manifest = read_manifest(directory)
    plan = manifest.plan
    todo = _shared(manifest, share)
    make = make or partial(_made, plan.kind.renderer, plan)
    if todo:
        check_folders(directory)
    if engine is None:
        workers = min(workers or os.cpu_count() or 1, max(len(todo), 1))
        if renderer is None and workers == 1 and todo:
            renderer = make(None)
        engine = here(renderer) if renderer else local([None] * workers)
    work = Work(directory=str(directory.absolute()), plan=plan, make=make)
    watch, failed, wrote, passed = Watch(directory), dict[int, Done](), Counter[int](), _Passed()
    bugs = Bugs(str(directory))
    with progress("generate", plan.n, "images") as show:
        count = _Count(manifest.n_samples, show)
        try:
            while todo:
                tasks, before = _looked(partial(_tasks, todo, watch)), wrote.total()
                for done in engine(work, tasks, count.advance) if tasks else ():
                    wrote[done.span.index] += done.n_samples > 0
                    passed.note(done)
                    if done.failed:
                        failed[done.span.index] = done
                        report_failure(directory, done.span, done.worker, done.failed)
                        bugs.note(done)
                manifest = _looked(partial(read_manifest, directory, manifest.shards))
                work = replace(work, plan=_grown_only(directory, work.plan, manifest.plan))
                count.set(manifest.n_samples)
                failed |= _unseen(manifest, wrote, passed.long())
                todo = [span for span in _shared(manifest, share) if span.index not in failed]
                if todo and wrote.total() == before:
                    time.sleep(POLL if store.locks else HEARTBEAT)
        finally:
            store.clear(directory)  # what processes killed in the meantime left
    if manifest.complete:
        finish(manifest)
        remove_claims(directory)
        logs.forget(directory)
    elif failed:
        raise FailedShardsError(list(failed.values()), str(directory))
    return manifest


def _grown_only(directory: Place, before: Plan, now: Plan) -> Plan:
    """The current plan, which another process may have grown, but not replaced."""
    if now.digest != before.digest:
        raise SynthgenError(f"{directory}: another plan was written while this one was being carried out")
    return now


def _looked(look: Callable[[], T]) -> T:
    """A look at the output, retried if a store fails transiently."""
    return with_retries(look, final=lambda error: False)


class _Passed:
    """Shards that workers skip again and again, as another worker has them or they are finished."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}  # by shard: when it was first skipped
        self._round: dict[int, float] = {}

    def note(self, done: Done) -> None:
        if not done.n_samples and not done.failed:
            self._round[done.span.index] = self._since.get(done.span.index, time.monotonic())

    def long(self) -> set[int]:
        """Those of this round that were skipped in every round for more than UNSEEN seconds; ends the round."""
        self._since, self._round = self._round, {}
        return {index for index, since in self._since.items() if time.monotonic() - since > UNSEEN}


def _unseen(manifest: Manifest, wrote: Counter[int], passed: set[int]) -> dict[int, Done]:
    """Shards that workers have written more than once, or report as finished, but that are not there."""
    why = "written, but not visible from here; all workers must reach the same place"
    unseen = [span for span in manifest.missing if wrote[span.index] > 1 or span.index in passed]
    return {span.index: Done(span=span, n_samples=0, worker="", failed=why) for span in unseen}


def _made(renderer: Callable[..., Renderer], plan: Plan, device: str | None) -> Renderer:
    return renderer(plan, device=device)


def _shared(manifest: Manifest, share: tuple[int, int]) -> list[ShardSpan]:
    """The missing shards that are this process's share."""
    index, n = share
    return [span for span in manifest.missing if span.index % n == index]


def _tasks(todo: Sequence[ShardSpan], watch: Watch) -> list[Task]:
    free, silent = watch.free(todo)
    return [Task(span=span, force=span.index in silent) for span in free]


class _Count:
    """The number of rendered images, for the progress that is shown."""

    def __init__(self, n: int, show: Callable[[int], None]) -> None:
        self._n, self._show = n, show
        show(n)

    def advance(self, n_samples: int) -> None:
        self.set(self._n + n_samples)

    def set(self, n: int) -> None:
        if n != self._n:
            self._n = n
            self._show(n)
