"""The fault campaign: random faults at random moments, after which everything must be as if nothing had happened.

    python tests/faults.py [--generation 200] [--training 30] [--seed 0] [--out docs/faults.md]

Each case starts the installed command, hits it with one to three faults, runs it again until it ends
well, has ``synthgen verify`` look, and holds every file against those of an undisturbed run.  Results are
appended to a file of JSON lines, and a campaign that is stopped goes on from there.  Exit code 1 where
anything deviates.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from faults_case import Subject, run_case
from faults_kinds import FAKETIME, Kind, kinds
from faults_page import page
from faults_scenes import FolderScene, Make, Scene, StoreScene, TrainingScene, count_samples, device, digests, lasting
from faults_store import Trouble, server
from flaky import before
from fuzz_page import with_own

ROOT = Path(__file__).parents[1]
LANES = {"sets": 5, "training": 3}  # cases at a time; those of a store often only wait for 30 seconds
SCENES = ("folder",) * 10 + ("store",) * 8 + ("tiny",)  # of sets, as often as they come
SIZES = {"folder": "24m", "training": "160m"}  # of devices that become full
FRACTALS = ("--n", "1000", "--size", "40", "--points", "30000", "--shard-size", "40")
TINY = ("--model", "tiny", "--n", "48", "--size", "32", "--shard-size", "4", "--batch", "4", "--device", "cpu")
SUITE = """
name = "faults"
baseline = "scratch"
image_size = 32
architectures = ["mobilenet_v3_small"]
seeds = [0]
[task]
path = "{folder}/traps"
[pretrain]
epochs = 2
[finetune]
epochs = 2
evaluate_epochs = [1, 2]
min_crop = 0.7
[[arms]]
name = "scratch"
[[arms]]
name = "fractals"
n = 60
source = {{ kind = "shards", path = "{folder}/fractals" }}
"""
# Once threads share an addition, its rounding depends on how many they are.
STEADY = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What an undisturbed run made."""

    wanted: dict[str, str]
    samples: dict[str, list[str]]
    startup: float  # seconds until its first part
    total: int


class World:
    """The things that faults happen to, in a folder of their own; each is made when first asked for."""

    def __init__(self, folder: Path, address: str | None, scenes: tuple[str, ...] = SCENES) -> None:
        self.folder, self.address = folder, address
        self.scenes = tuple(one for one in scenes if address or one != "store")
        self._references: dict[str, Reference] = {}
        self._lock = threading.Lock()

    def kinds(self, where: str) -> list[tuple[Kind, str]]:
        """Which faults there are for sets or training, each with why it cannot be had here, if so."""
        wheres = set(self.scenes) if where == "sets" else {where}
        return [(kind, self._lacks(kind)) for kind in kinds() if wheres & set(kind.where)]

    def _lacks(self, kind: Kind) -> str:
        if kind.needs == "faketime" and not FAKETIME.exists():
            return f"needs {FAKETIME}"
        if kind.needs == "device":
            try:
                with device(self.folder / "try"):
                    return ""
            except (OSError, subprocess.CalledProcessError):
                return "needs the right to mount"
        return ""

    @contextmanager
    def subject(self, where: str, number: str, *, on_device: bool) -> Iterator[Subject]:
        """A scene that nothing has been made in yet."""
        with ExitStack() as stack:
            folder = self.folder / f"case-{number}"
            folder.mkdir()
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            small = stack.enter_context(device(folder / "small", SIZES[where])) if on_device else None
            out = (small.place if small else folder) / "set"
            reference = self.reference(where)
            scene: Scene
            if where == "store":
                assert self.address is not None
                trouble = Trouble()
                front = stack.enter_context(before(self.address, trouble.decide))
                scene = StoreScene(
                    make=self.make(where), prefix=number, server=self.address, proxy=front, trouble=trouble
                )
            else:
                scene = self.scene(where, out, reference.total)
            scene.environment.update(STEADY)
            logs = folder / "logs"
            logs.mkdir()
            yield Subject(
                scene=scene,
                logs=logs,
                device=small,
                wanted=reference.wanted,
                samples=reference.samples,
                startup=reference.startup,
            )

    def scene(self, where: str, out: Path, total: int) -> Scene:
        """A set in a folder, or a suite."""
        if where == "training":
            helped = subprocess.run([self.program("evaluate"), "run", "--help"], capture_output=True, text=True)
            return TrainingScene(
                suite=self.folder / "suite.toml", out=out, total=total, fleet="--workers" in helped.stdout
            )
        return FolderScene(make=self.make(where), out=out)

    def make(self, where: str) -> Make:
        """What is made there."""
        if where == "tiny":
            return Make(arguments=("sd", "--prompts", str(ROOT / "prompts/quickstart.txt"), *TINY), n_shards=12)
        return Make(arguments=("fractal", "--categories", str(self.folder / "categories"), *FRACTALS), n_shards=25)

    @staticmethod
    def program(name: str) -> str:
        """An installed command."""
        return str(Path(sys.executable).with_name(name))

    def reference(self, where: str) -> Reference:
        """An undisturbed run, made once."""
        where = "folder" if where == "store" else where
        with self._lock:
            if where not in self._references:
                self._references[where] = self._undisturbed(where)
            return self._references[where]

    def _undisturbed(self, where: str) -> Reference:
        if not (self.folder / "categories").exists():
            self._call("synthgen", "fractal-search", "--categories", "5", "--out", self.folder / "categories")
        if where == "training":
            size = ("--classes", 4, "--locations", 6, "--images", 120, "--size", 32)
            self._call("evaluate", "simulate", *size, "--out", self.folder / "traps")
            self._call("synthgen", *self.make("folder").arguments, "--out", self.folder / "fractals")
            (self.folder / "suite.toml").write_text(SUITE.format(folder=self.folder))
        scene = self.scene(where, self.folder / f"undisturbed-{where}", 0)
        started, startup = time.monotonic(), 0.0
        process = subprocess.Popen(
            scene.command(1), env={**os.environ, **STEADY}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None:
            if not startup and scene.parts():
                startup = time.monotonic() - started
            time.sleep(0.01)
        if process.returncode:
            raise RuntimeError(f"the undisturbed run of {where} ended with {process.returncode}")
        files = scene.read()
        total = len(lasting(scene.out)) if isinstance(scene, TrainingScene) else scene.total
        return Reference(wanted=digests(files), samples=count_samples(files), startup=startup, total=total)

    def _call(self, program: str, *arguments: object) -> None:
        command = [self.program(program), *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **STEADY})


def plan_case(
    kinds_here: list[Kind], where: str, seed: int, number: int, every: tuple[str, ...] = SCENES
) -> tuple[list[Kind], str]:
    """The faults of a case and the scene: every kind comes once a round, and further ones by chance."""
    round_, place = divmod(number, len(kinds_here))
    deck = random.Random(f"{seed} {where} round {round_}").sample(kinds_here, len(kinds_here))
    rng = random.Random(f"{seed} {where} {number}")
    first = deck[place]
    scenes = [one for one in every if one in first.where]
    scene = "training" if where == "training" else rng.choice(scenes)
    others = [kind for kind in kinds_here if scene in kind.where]
    more = rng.choice((0, 0, 0, 1, 1, 2)) if where == "sets" else rng.choice((0, 0, 0, 1))
    return [first, *rng.choices(others, k=more)], scene


def campaign(
    world: World, where: str, faults: int, seed: int, results: Path, tell: Any = print
) -> list[dict[str, Any]]:
    """Run cases until so many faults have hit; those that ``results`` holds already count."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; commands would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    usable = [kind for kind, lack in world.kinds(where) if not lack]
    done = [one for one in read_results(results) if (one["campaign"], one["seed"]) == (where, seed)]
    numbers, lock = iter(range(sys.maxsize)), threading.Lock()
    old = {one["case"] for one in done}
    begun: dict[int, int] = {}  # cases at work -> their faults
    stop = threading.Event()

    def hits() -> int:
        return sum(fault["hit"] for one in done for fault in one["faults"])

    def following() -> tuple[int, list[Kind], str] | None:
        """The next case, once it is clear that one is needed."""
        while True:
            with lock:
                if hits() >= faults or stop.is_set():
                    return None
                if hits() + sum(begun.values()) < faults:
                    number = next(one for one in numbers if one not in old)
                    chosen, scene = plan_case(usable, where, seed, number, world.scenes)
                    begun[number] = len(chosen)
                    return number, chosen, scene
            time.sleep(0.5)

    def lane() -> None:
        try:
            while case := following():
                one_case(*case)
        finally:  # if this one broke down, the others are to stop, too
            stop.set()

    def one_case(number: int, chosen: list[Kind], scene: str) -> None:
        on_device = any(kind.needs == "device" for kind in chosen)
        with world.subject(scene, f"{where}-{number}", on_device=on_device) as subject:
            found = run_case(subject, chosen, random.Random(f"{seed} {where} {number} moments"))
        row = {"campaign": where, "seed": seed, "case": number, "scene": subject.scene.name, **found}
        with lock:
            done.append(row)
            begun.pop(number)
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            tell(f"{where} {number}: {', '.join(kind.name for kind in chosen)}: {hits()} of {faults} faults")
            for line in row["wrong"]:
                tell(f"  DEVIATION: {line}")

    with ThreadPoolExecutor(LANES[where]) as pool:
        try:
            for future in [pool.submit(lane) for _ in range(LANES[where])]:
                future.result()
        finally:  # where it is interrupted, the cases at work come to their end, and leave nothing behind
            stop.set()
    return done


def read_results(path: Path) -> list[dict[str, Any]]:
    """The rows of a campaign so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def world(folder: Path | None = None) -> Iterator[World]:
    """A world in a scratch folder, with an S3 server where moto is installed."""
    with ExitStack() as stack:
        scratch = folder or Path(stack.enter_context(TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True)))
        try:
            address = stack.enter_context(server(scratch / "server.log"))
        except (OSError, ImportError):
            address = None
        yield World(scratch, address)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generation", type=int, default=200, help="faults on the making of sets")
    parser.add_argument("--training", type=int, default=30, help="faults on evaluate run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/faults.md", help="the page to write")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "build/faults.jsonl", help="JSON lines, taken up where they stand"
    )
    asked = parser.parse_args()
    results: Path = asked.results
    results.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print_now = lambda line: print(line, flush=True)  # noqa: E731
    with world() as here:
        if not here.address:
            print("no faults of a store: moto is not installed")
        lacks = {kind.name: lack for where in ("sets", "training") for kind, lack in here.kinds(where) if lack}
        rows = campaign(here, "sets", asked.generation, asked.seed, results, print_now)
        rows += campaign(here, "training", asked.training, asked.seed, results, print_now)
    old = asked.out.read_text() if asked.out.exists() else ""
    asked.out.write_text(with_own(old, page(rows, lacks, seed=asked.seed)))
    wrong = [line for row in rows for line in row["wrong"]]
    print(f"{asked.out}: {len(rows)} cases, {len(wrong)} deviations")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from there")
