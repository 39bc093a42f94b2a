"""One case: faults one after the other, the same command again, and a look at what then stands."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults_kinds import Injury, Kind, Stage
from faults_scenes import Device, FolderScene, Scene, StoreScene, count_samples, differences, digests, tally
from faults_store import BUCKET

SHOWN = 5  # files that differ
AGAIN = 3  # times that the command is run again at most; the first ought to do


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a case happens to, and what should come of it."""

    scene: Scene
    logs: Path
    device: Device | None
    wanted: dict[str, str]  # digests of an undisturbed output
    samples: dict[str, list[str]]  # its images
    startup: float  # seconds


def run_case(subject: Subject, kinds: Sequence[Kind], rng: random.Random) -> dict[str, Any]:
    """Let the faults happen; returns what was seen, "wrong" being what should not have been."""
    started, scene = time.monotonic(), subject.scene
    stage = Stage(
        scene=scene,
        rng=rng,
        logs=subject.logs,
        startup=subject.startup,
        device=subject.device,
        wanted=subject.wanted,
    )
    faults, wrong = [], list[str]()
    for kind in kinds:
        before = standing(scene, stage.wanted)
        injury = kind.inject(stage)
        after = standing(scene, stage.wanted)
        missing = before.keys() - after.keys()
        if missing and not injury.damaged:
            injury.wrong.append(f"what stood does not any more: {sorted(missing)[:3]}")
        redone = sum(before[name] != after[name] for name in before.keys() & after.keys())
        wrong += [f"{kind.name}: {line}" for line in injury.wrong]
        faults.append(_row(kind, injury, scene) | {"redone": redone})
    stood = standing(scene, stage.wanted)
    codes = _again(stage, wrong)
    after = standing(scene, stage.wanted)
    faults[-1]["redone"] += sum(stood[name] != after.get(name) for name in stood)
    files = scene.read()
    others = differences(digests(files), subject.wanted)
    wrong += others[:SHOWN] + ([f"and {len(others) - SHOWN} files more"] if len(others) > SHOWN else [])
    counts = tally(count_samples(files), subject.samples)
    wrong += [f"{count} samples {what}" for what, count in counts.items() if count]
    wrong += _leftovers(scene) + _verified(stage)
    return {
        "faults": faults,
        "again": codes,
        **{what: counts[what] for what in ("lost", "duplicate", "corrupt")},
        "wrong": wrong,
        "seconds": round(time.monotonic() - started, 1),
    }


def standing(scene: Scene, wanted: dict[str, str]) -> dict[str, object]:
    """The tars that stand committed and as they should, each with what changes if it is written again."""
    if isinstance(scene, FolderScene):
        tars = [path.with_suffix(".tar") for path in scene.out.glob("data/*.json")]
        files = {f"data/{path.name}": path for path in tars if path.exists()}
        whole = {
            name
            for name, sum_ in digests({n: p.read_bytes() for n, p in files.items()}).items()
            if sum_ == wanted[name]
        }
        return {name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in files.items() if name in whole}
    if isinstance(scene, StoreScene):
        names = scene.names()
        return {name: scene.version(name) for name in names if name[:-4] + ".json" in names and name.endswith(".tar")}
    paths = scene.out.glob("*/weights.safetensors")  # type: ignore[attr-defined]
    done = [path for path in paths if '"done"' in _text(path.with_name("state.json"))]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in done}


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _row(kind: Kind, injury: Injury, scene: Scene) -> dict[str, Any]:
    said = Counter(plain(line, scene) for end in injury.ends for line in end.lines)
    return {
        "kind": kind.name,
        "hit": injury.hit,
        "what": injury.what,
        "codes": [end.code for end in injury.ends],
        "said": dict(said),
    }


def plain(line: str, scene: Scene) -> str:
    """A line without what differs from run to run: paths and numbers."""
    line = line.replace(f"s3://{BUCKET}/", "s3://").replace(str(getattr(scene, "out", "")) or "\0", "OUT")
    return re.sub(r"\b[0-9a-f]{12,}\b|(?<![A-Za-z\d])\d+", "N", line)[:300]


def _again(stage: Stage, wrong: list[str]) -> list[int | None]:
    """Run the same command until it ends well; returns its exit codes."""
    codes = list[int | None]()
    while len(codes) < AGAIN and (not codes or codes[-1] != 0):
        end = stage.start().end()
        codes.append(end.code)
        wrong += [f"run again: {line}" for line in end.wrong({0}, stage.scene.program, most=stage.lines)]
    return codes


def _leftovers(scene: Scene) -> list[str]:
    out = getattr(scene, "out", None)
    return [f"{path} is left" for path in out.rglob("*.tmp")] if out else []


def _verified(stage: Stage) -> list[str]:
    """What ``synthgen verify`` says of a set that ought to be whole."""
    scene = stage.scene
    if not isinstance(scene, FolderScene | StoreScene):
        return []
    where = f"s3://{BUCKET}/{scene.prefix}" if isinstance(scene, StoreScene) else str(scene.out)
    run = stage.call(scene.command(1)[0], "verify", where)
    end = run.end()
    said = run.log.with_suffix(".out").read_text()
    return [] if end.code == 0 and "0 defects" in said else [f"verify: exit code {end.code}: {said[:300]} {end.lines}"]
