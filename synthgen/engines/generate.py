"""Fill a dataset directory: for each missing shard, render and write.

``open_directory`` lays the plan down or takes up the one that stands; ``generate`` does what is
missing.  Both may be killed at any moment and called again, by several processes at once.
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
from synthgen.dataset.manifest import Manifest, check_folders, finish, read_manifest
from synthgen.dataset.plan import Plan, ShardSpan, difference, read_plan
from synthgen.engines.claims import BEAT, Watch, remove_claims, tell_failed
from synthgen.engines.local import local
from synthgen.engines.work import Bugs, Done, Engine, FailedShardsError, Task, Work, here
from synthgen.kinds.base import Renderer
from synthgen.storage import logs
from synthgen.storage.disk import free_space
from synthgen.storage.places import store_of
from synthgen.storage.reading import reading
from synthgen.storage.retries import with_retries
from synthgen.storage.store import CLAIMS, Place

DISK_MARGIN = 1.1  # free space wanted over the estimate
T = TypeVar("T")
POLL = 0.5  # seconds between looks at shards that another process is writing
UNSEEN = 120.0  # seconds for which a shard may be said to stand and not be seen, as the caches of a network disk allow


def standing_plan(directory: Place) -> Plan | None:
    """The plan in a directory, where there is one.  Raises SynthgenError where it cannot be read."""
    path = directory / "plan.json"
    with reading(path):
        return read_plan(path) if store_of(path).exists(path) else None


def existing_plan(directory: Place) -> Plan | None:
    """The plan that a directory was made by; None where there is nothing yet.

    Raises SynthgenError where the directory holds something else, or a store cannot be reached.
    """
    store = store_of(directory)
    store.check_writable(directory)
    with reading(directory):
        names = with_retries(lambda: store.names_in(directory), brief=True)
    if plan := standing_plan(directory):  # asked after the listing: another process may just be laying it down
        return plan
    if any(not name.endswith(".tmp") and name not in (CLAIMS, logs.FOLDER) for name in names):  # others are starting
        raise SynthgenError(f"{directory}: not empty and not a dataset (no plan.json); choose another --out")
    return None


def open_directory(directory: Place, plan: Plan, *, workers: int = 1) -> Plan:
    """Lay ``plan`` down in a directory, or take up the one that stands there, grown to as many samples.

    Raises SynthgenError, before anything is written, where another plan made the directory, it was
    planned for more samples, the disk is too small for what is missing (where it is sent elsewhere: for a
    shard of each of the ``workers``), or the directory cannot be written to.
    """
    store = store_of(directory)
    while True:  # another process may be at the same
        old = existing_plan(directory)
        grown = plan if old is None else _grown(directory, old, plan)
        if grown is not old:
            check_folders(directory)
        n_missing = grown.n - (read_manifest(directory).n_samples if old else 0)
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
    """Write a plan in the place of ``old`` (None: of none); False where another process has just written one.

    Of a store that is certain only of the first plan: two that grow it at once are not told apart.
    """
    store, path, data = store_of(directory), directory / "plan.json", new.to_json().encode()
    if old is None:
        return store.create(path, data)
    before = old.to_json()

    def unchanged() -> bool:
        there = standing_plan(directory)
        return there is not None and there.to_json() == before

    return store.replace(path, data, unchanged=unchanged, first=partial(_unfinish, directory))


def _unfinish(directory: Place) -> None:
    """Remove what tells of a finished directory."""
    for path in (directory / "manifest.json", directory / "SHA256SUMS"):
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
    """Render and write the missing shards of a dataset; returns the manifest of what then stands.

    With a ``renderer`` this process does it.  Without one ``engine`` does, by default ``workers``
    processes of this machine (all cores), each with a renderer from ``make`` (by default the kind's).
    ``share`` (i, k) does every k-th shard alone, from the i-th, and leaves the others to others; else
    shards that another process is writing are waited for, and taken over where it dies.  Raises
    SynthgenError where a folder to write in is a link, FailedShardsError where shards were given up, once all
    others stand, and RepeatedBugError at once where a bug costs shard after shard.
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
                        tell_failed(directory, done.span, done.worker, done.failed)
                        bugs.note(done)
                manifest = _looked(partial(read_manifest, directory, manifest.shards))
                work = replace(work, plan=_grown_only(directory, work.plan, manifest.plan))
                count.set(manifest.n_samples)
                failed |= _unseen(manifest, wrote, passed.long())
                todo = [span for span in _shared(manifest, share) if span.index not in failed]
                if todo and wrote.total() == before:
                    time.sleep(POLL if store.locks else BEAT)
        finally:
            store.clear(directory)  # of processes killed in the meantime
    if manifest.complete:
        finish(manifest)
        remove_claims(directory)
        logs.forget(directory)
    elif failed:
        raise FailedShardsError(list(failed.values()), str(directory))
    return manifest


def _grown_only(directory: Place, before: Plan, now: Plan) -> Plan:
    """The plan that stands now, which another process may have grown, but not exchanged."""
    if now.digest != before.digest:
        raise SynthgenError(f"{directory}: another plan was laid down while this one was at work")
    return now


def _looked(look: Callable[[], T]) -> T:
    """A look at the output, which a store that fails for a moment does not end."""
    return with_retries(look, final=lambda error: False)


class _Passed:
    """Shards that workers leave again and again, as another has them or they stand."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}  # by shard: when the first of these times was
        self._round: dict[int, float] = {}

    def note(self, done: Done) -> None:
        if not done.n_samples and not done.failed:
            self._round[done.span.index] = self._since.get(done.span.index, time.monotonic())

    def long(self) -> set[int]:
        """Those of this round that have been left in every round for more than UNSEEN seconds; ends the round."""
        self._since, self._round = self._round, {}
        return {index for index, since in self._since.items() if time.monotonic() - since > UNSEEN}


def _unseen(manifest: Manifest, wrote: Counter[int], passed: set[int]) -> dict[int, Done]:
    """Shards that workers have written more than once, or say stand, and that are not there."""
    why = "written, but not to be seen from here; all workers must reach the same place"
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
    """Rendered images, for the progress that is shown."""

    def __init__(self, n: int, show: Callable[[int], None]) -> None:
        self._n, self._show = n, show
        show(n)

    def advance(self, n_samples: int) -> None:
        self.set(self._n + n_samples)

    def set(self, n: int) -> None:
        if n != self._n:
            self._n = n
            self._show(n)
