"""The progress of a dataset in words, once or continuously, from any machine that can reach the output."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from synthgen.common.printing import counted, printable, say
from synthgen.dataset.manifest import read_manifest
from synthgen.dataset.plan import Plan
from synthgen.dataset.shard import Shard
from synthgen.engines.claims import TIMEOUT, Claim, Unchanged, read_claims
from synthgen.storage.places import store_of
from synthgen.storage.retries import with_retries
from synthgen.storage.store import Place

EVERY = 2.0  # seconds between looks
WINDOW = 300.0  # seconds over which the rate is measured


class Observer:
    """Looks at a dataset repeatedly: what changed since the last look, and how fast it grows."""

    def __init__(self, directory: Place) -> None:
        self._directory = directory
        self._unchanged = Unchanged()
        self._known: tuple[Shard, ...] = ()
        self._past: deque[tuple[float, int]] = deque()  # time and images of the looks in WINDOW

    def look(self) -> dict[str, Any]:
        """The summary of the manifest with ``workers``, ``failed``, ``rate`` (images/s) and ``left`` (seconds).

        A worker is silent if its claim did not change for TIMEOUT seconds while we watched or, in a folder, if it does
        not hold the lock on its shard.  The rate is the growth seen in the last WINDOW seconds or, at the first look,
        what the workers report.
        """
        claims = read_claims(self._directory)
        held = {stem: self._held(stem) for stem, claim in claims.items() if not claim.failed}
        manifest = read_manifest(self._directory, self._known)
        claims = {stem: claim for stem, claim in claims.items() if _fits(claim, stem, manifest.plan)}
        self._known, still = manifest.shards, self._unchanged.look(claims)
        there = {shard.filename.removesuffix(".tar") for shard in manifest.shards}
        workers = [
            {key: value for key, value in asdict(claims[stem]).items() if key not in ("failed", "beat")}
            | {"shard": stem, "silent": still[stem] > TIMEOUT or not holds}
            for stem, holds in sorted(held.items())
            if stem in claims and stem not in there
        ]
        failed = {stem: claim.failed for stem, claim in sorted(claims.items()) if claim.failed and stem not in there}
        living = [worker for worker in workers if not worker["silent"]]
        under_way = sum(worker["done"] for worker in living)
        rate = self._rate(manifest.n_samples + under_way, living)
        rest = manifest.plan.n - manifest.n_samples - under_way
        left = None if manifest.complete or not rate else round(max(rest, 0) / rate)
        return {**manifest.summary(), "rate": rate, "left": left, "workers": workers, "failed": failed}

    def _held(self, stem: str) -> bool:
        """Whether a worker may be writing a shard: with locks, a worker holds the tar or has just finished it."""
        store, tar = store_of(self._directory), self._directory / "data" / f"{stem}.tar"
        if not store.locks:
            return True
        try:
            return store.is_locked(tar) or store.exists(tar)
        except OSError:  # a disk without locks
            return True

    def _rate(self, n: int, living: list[dict[str, Any]]) -> float:
        now = time.monotonic()
        self._past.append((now, n))
        while self._past[0][0] < now - WINDOW:
            self._past.popleft()
        since, before = self._past[0]
        if n > before and now - since >= EVERY:
            return round((n - before) / (now - since), 2)
        return round(float(sum(worker["rate"] for worker in living)), 2)


def _fits(claim: Claim, stem: str, plan: Plan) -> bool:
    """Whether a claim is for a shard of the plan, under the right name."""
    return claim.shard < plan.n_shards and plan.shard(claim.shard).stem == stem


def follow(directory: Place) -> Iterator[dict[str, Any]]:
    """Repeated looks until the dataset is complete; after the first, a store may fail for a while."""
    observer = Observer(directory)
    state = observer.look()
    yield state
    while not state["complete"]:
        time.sleep(EVERY)
        state = with_retries(observer.look, final=lambda error: False)
        yield state


def events(before: dict[str, Any] | None, state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What happened between two looks: progress; workers that appeared, left or fell silent; failures; completion."""
    old = before or {"n_done": -1, "workers": [], "failed": {}, "complete": False}
    if state["n_done"] != old["n_done"]:
        keys = ("n", "n_done", "n_shards", "n_shards_done", "n_bytes", "rate", "left")
        yield {"event": "progress", **{key: state[key] for key in keys}}
    then, now = ({one["worker"]: one for one in look["workers"]} for look in (old, state))
    for name, worker in now.items():
        if worker != then.get(name):
            yield {"event": "worker silent" if worker["silent"] else "worker", **worker}
    for name in then:
        if name not in now:
            yield {"event": "worker gone", "worker": name}
    for stem, why in state["failed"].items():
        if stem not in old["failed"]:
            yield {"event": "failed", "shard": stem, "why": why}
    if state["complete"] and not old["complete"]:
        yield {"event": "complete", "plan": state["plan"], "n": state["n"]}


def words(directory: str, state: dict[str, Any]) -> list[str]:
    """The state in lines: the total, then one line per worker and per failed shard."""
    how = "complete" if state["complete"] else "unfinished; run the same command again to go on"
    if not state["complete"] and not all(worker["silent"] for worker in state["workers"]):
        how = f"{state['rate']:g} images/s" if state["rate"] else "under way"
        how += "" if state["left"] is None else f", about {duration(state['left'])} left"
    lines = [
        f"{directory}: {state['n_done']} of {counted(state['n'], 'image')} of"
        f" {counted(state['n_classes'], 'class', 'classes')},"
        f" {state['n_shards_done']} of {counted(state['n_shards'], 'shard')}, {state['n_bytes'] / 1e6:.1f} MB: {how}"
    ]
    for worker in state["workers"]:
        rate = f", {worker['rate']:g} images/s" if worker["rate"] else ""
        silent = ", silent" if worker["silent"] else ""
        lines.append(
            f"  {worker['worker']}: {worker['shard']}, {worker['done']} of {counted(worker['of'], 'image')}"
            f"{rate}{silent}"
        )
    return lines + [f"  failed: {stem}: {why}" for stem, why in state["failed"].items()]


def duration(seconds: float) -> str:
    """A time span in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def show(directory: Place, name: str, *, as_json: bool) -> None:
    """Print the progress of a dataset until it is complete: events as lines of JSON, or text that is updated."""
    if as_json or not sys.stdout.isatty():
        before = None
        for state in follow(directory):
            lines = [json.dumps(event) for event in events(before, state)]
            for line in lines if as_json else words(name, state)[:1] if lines else ():
                say(line)
            before = state
        return
    from rich.live import Live
    from rich.text import Text

    with Live() as live:
        for state in follow(directory):
            live.update(Text("\n".join(map(printable, words(name, state)))))
