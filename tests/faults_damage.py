"""Damage to what stands: found by ``synthgen verify``, mended by ``--repair`` or by the command itself."""

from __future__ import annotations

import signal

from faults_kinds import Injury, Stage
from faults_scenes import FolderScene, StoreScene, TrainingScene, differences, digests, random_bytes_changed
from faults_store import BUCKET

HOW = ("bit flipped", "truncated", "deleted")


def corrupt_bytes(stage: Stage) -> Injury:
    """Damage some files of the committed shards of a set, finished or not, and have them found and mended."""
    scene, injury = stage.scene, Injury()
    assert isinstance(scene, FolderScene | StoreScene)
    run = stage.start()
    moment = stage.moment(run, late=True)
    run.signal(signal.SIGKILL, all_=True)
    stage.judged(injury, run, {0, -signal.SIGKILL})
    files = scene.read()
    finished = "manifest.json" in files
    stems = sorted(name[5:-5] for name in files if name.startswith("data/") and name.endswith(".json"))
    if not stems:
        return injury
    told = []
    for stem in stage.rng.sample(stems, min(len(stems), stage.rng.randint(1, 3))):
        name = stage.rng.choice((f"data/{stem}.tar",) * 3 + (f"data/{stem}.json", f"metadata/{stem}.parquet"))
        # Before manifest.json tells of it, a bit that holds no value of a record has no witness.
        how = stage.rng.choice(HOW if finished or not name.endswith(".json") else HOW[1:])
        _damage(stage, name, files[name], how)
        injury.damaged.add(name)
        told.append(f"{name} {how}")
    injury.hit, injury.what = True, f"{moment or 'finished'}: {', '.join(told)}"
    if stage.rng.random() < 0.5:
        stage.judged(injury, stage.start(), {0})
    _find_and_mend(stage, injury)
    return injury


def _damage(stage: Stage, name: str, data: bytes, how: str) -> None:
    changed: bytes | None = None
    if how == "bit flipped":
        changed = random_bytes_changed(data, stage.rng)
    elif how == "truncated":
        changed = data[: stage.rng.randrange(len(data))]
    scene = stage.scene
    if isinstance(scene, StoreScene):
        scene.write(name, changed)
    elif changed is None:
        (scene.out / name).unlink()  # type: ignore[attr-defined]
    else:
        (scene.out / name).write_bytes(changed)  # type: ignore[attr-defined]


def _find_and_mend(stage: Stage, injury: Injury) -> None:
    """Have ``verify`` find what differs from an undisturbed set, all of it, and mend it."""
    scene = stage.scene
    files = digests(scene.read())
    differing = {line.partition(":")[0] for line in differences(files, stage.wanted)}
    url = f"s3://{BUCKET}/{scene.prefix}" if isinstance(scene, StoreScene) else str(scene.out)  # type: ignore[attr-defined]
    program = scene.command(1)[0]
    if "plan.json" not in files:
        return
    look = stage.call(program, "verify", url)
    end = look.end()
    said = look.log.with_suffix(".out").read_text()
    missed = [name for name in injury.damaged & differing if name not in said]
    if missed or (end.code != (1 if differing else 0)) or end.lines:
        injury.wrong.append(f"verify: exit code {end.code}, not told of: {missed}; {' | '.join(end.lines)[:200]}")
    if isinstance(scene, StoreScene):  # there it is said to be removed, and made again
        for name in differing & injury.damaged:
            scene.write(name, None)
            scene.write(name.replace("metadata/", "data/").rpartition(".")[0] + ".json", None)
        return
    mend = stage.call(program, "verify", "--repair", url)
    end = mend.end()
    if end.code or any("Traceback" in line for line in end.lines):
        injury.wrong.append(f"verify --repair: exit code {end.code}: {' | '.join(end.lines)[-300:]}")


def damaged_run(stage: Stage) -> Injury:
    """Kill the training of a suite, and leave damaged and half-written files behind."""
    scene, injury, rng = stage.scene, Injury(), stage.rng
    assert isinstance(scene, TrainingScene)
    run = stage.start(1)
    moment = stage.moment(run, late=True)
    run.signal(signal.SIGKILL, all_=True)
    stage.judged(injury, run, {0, -signal.SIGKILL})
    told = []
    for path in scene.out.glob("*/checkpoint.pt"):
        data = path.read_bytes()
        how = rng.choice(("bit flipped", "truncated", "empty"))
        cut = b"" if how == "empty" else data[: rng.randrange(len(data))]
        path.write_bytes(random_bytes_changed(data, rng) if how == "bit flipped" else cut)
        told.append(f"checkpoint {how}")
    for path in sorted(scene.out.glob("cache/*.pixels")):
        if rng.random() < 0.3:
            path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
            told.append("decoded images truncated")
    for folder in sorted(scene.out.glob("*/lock")):
        for name in ("weights.safetensors", "state.json", "log.jsonl", "config.json"):
            if not (folder.parent / name).exists() and rng.random() < 0.5:
                (folder.parent / f"{name}.tmp").write_bytes(b"half")
                told.append(f"{name} half-written")
    injury.hit, injury.what = bool(told), f"{moment}: {', '.join(told)}"
    return injury
