"""How far a dataset is: in words, once or as it goes on, from any machine that sees the output."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from synthgen.claims import SILENT, Claim, read_claims
from synthgen.manifest import Manifest, read_manifest
from synthgen.shard import Shard

if TYPE_CHECKING:
    from synthgen.places import Place

EVERY = 2.0  # seconds between looks


class Eye:
    """Looks at a dataset again and again: what changed since the last time, and how fast it goes."""

    def __init__(self, directory: Place) -> None:
        self._directory = directory
        self._seen: dict[str, tuple[Claim, float]] = {}  # stem -> claim, when it was first seen so
        self._known: tuple[Shard, ...] = ()
        self._start: tuple[float, int] | None = None  # time and images of the first look

    def look(self) -> dict[str, Any]:
        """The summary of the manifest with ``workers``, ``failed``, ``rate`` (images a second) and ``left`` (seconds).

        A worker whose claim did not change for SILENT seconds while we looked is told as silent.  The rate
        is what was seen to grow between two looks, or at the first what the workers tell.
        """
        manifest, claims = read_manifest(self._directory, self._known), read_claims(self._directory)
        self._known, now = manifest.shards, time.monotonic()
        self._seen = {
            stem: self._seen[stem] if stem in self._seen and self._seen[stem][0] == claim else (claim, now)
            for stem, claim in claims.items()
        }
        workers = [
            {key: value for key, value in asdict(claim).items() if key not in ("failed", "beat")}
            | {"shard": stem, "silent": now - since > SILENT}
            for stem, (claim, since) in sorted(self._seen.items())
            if not claim.failed
        ]
        failed = {stem: claim.failed for stem, claim in sorted(claims.items()) if claim.failed}
        rate = self._rate(manifest, workers, now)
        under_way = sum(worker["done"] for worker in workers)
        rest = manifest.plan.n - manifest.n_samples - under_way
        left = None if manifest.complete or not rate else round(max(rest, 0) / rate)
        return {**manifest.summary(), "rate": rate, "left": left, "workers": workers, "failed": failed}

    def _rate(self, manifest: Manifest, workers: list[dict[str, Any]], now: float) -> float:
        n = manifest.n_samples
        if self._start is None:
            self._start = now, n
        since, before = self._start
        if n > before and now - since >= EVERY:
            return round((n - before) / (now - since), 2)
        return round(float(sum(worker["rate"] for worker in workers if not worker["silent"])), 2)


def follow(directory: Place) -> Iterator[dict[str, Any]]:
    """Looks, until the dataset is complete."""
    eye = Eye(directory)
    while True:
        state = eye.look()
        yield state
        if state["complete"]:
            return
        time.sleep(EVERY)


def events(before: dict[str, Any] | None, state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What happened between two looks: progress, workers that came, went or fell silent, failures, the end."""
    old = before or {"n_done": -1, "workers": [], "failed": {}, "complete": False}
    if state["n_done"] != old["n_done"]:
        keys = ("n", "n_done", "n_shards", "n_shards_done", "n_bytes", "rate", "left")
        yield {"event": "progress", **{key: state[key] for key in keys}}
    then, now = ({one["worker"]: one for one in look["workers"]} for look in (old, state))
    for name in now.keys() - then.keys():
        yield {"event": "worker", **now[name]}
    for name in then.keys() - now.keys():
        yield {"event": "worker gone", "worker": name}
    for name in now.keys() & then.keys():
        if now[name] != then[name]:
            yield {"event": "worker silent" if now[name]["silent"] else "worker", **now[name]}
    for stem, why in state["failed"].items():
        if stem not in old["failed"]:
            yield {"event": "failed", "shard": stem, "why": why}
    if state["complete"] and not old["complete"]:
        yield {"event": "complete", "plan": state["plan"], "n": state["n"]}


def words(directory: str, state: dict[str, Any]) -> list[str]:
    """The state, a line each: the whole, workers, failed shards."""
    how = "complete" if state["complete"] else "unfinished; run the same command again to go on"
    if state["workers"] and not state["complete"]:
        how = f"{state['rate']:g} images/s"
        how += "" if state["left"] is None else f", about {duration(state['left'])} left"
    lines = [
        f"{directory}: {state['n_done']} of {state['n']} images of {state['n_classes']} classes,"
        f" {state['n_shards_done']} of {state['n_shards']} shards, {state['n_bytes'] / 1e6:.1f} MB: {how}"
    ]
    for worker in state["workers"]:
        silent = ", silent" if worker["silent"] else ""
        lines.append(
            f"  {worker['worker']}: {worker['shard']}, {worker['done']} of {worker['of']} images,"
            f" {worker['rate']:g} images/s{silent}"
        )
    return lines + [f"  failed: {stem}: {why}" for stem, why in state["failed"].items()]


def duration(seconds: float) -> str:
    """A time span in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def tell(directory: Place, name: str, *, as_json: bool) -> None:
    """Print how far a dataset is until it is complete: events as lines of JSON, or a text that is kept up to date."""
    if as_json or not sys.stdout.isatty():
        before = None
        for state in follow(directory):
            for event in events(before, state):
                print(json.dumps(event) if as_json else words(name, state)[0], flush=True)
            before = state
        return
    from rich.live import Live
    from rich.text import Text

    with Live() as live:
        for state in follow(directory):
            live.update(Text("\n".join(words(name, state))))
