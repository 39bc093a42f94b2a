"""The mutation campaign: every file that the product reads is changed, and the commands that read it are run.

    python tests/fuzz.py [--n 10000] [--seed 0] [--out docs/faults.md] [--results build/fuzz.jsonl]
    python tests/fuzz.py --case 123 [--keep FOLDER]

Each case copies a scene into a sandbox, changes one file, and runs one or two of the commands that read it: in a fork
of a process that has imported all that is needed, and one case in twenty as a user would.  What may not come of it
says ``fuzz_judge``.  Results are appended to a file of JSON lines, and a campaign that is stopped goes on from there.
Exit code 1 where anything was forbidden.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fuzz_judge import Case, judged, kept_of
from fuzz_mutations import mutate
from fuzz_page import distinct, section, with_section
from fuzz_run import Ended, Limits, Sandbox, imported, in_fork, in_shell, product
from fuzz_subjects import ROOT, SUBJECTS, Command, Subject, library, make_scene, seal

SHELL_EVERY = 20  # cases of which one is run as a user would


@dataclass(slots=True, kw_only=True)
class World:
    """Scenes and what commands answer in them, each made when first asked for."""

    folder: Path
    limits: Limits = field(default_factory=Limits)
    references: dict[tuple[str, str], Ended] = field(default_factory=dict)

    def base(self, scene: str) -> Path:
        """The inside of a scene that nothing was changed in."""
        inside = self.folder / "bases" / scene / "inside"
        if not inside.exists():
            sandbox = Sandbox(folder=inside.parent)
            for name in ("home", "tmp"):
                (sandbox.folder / name).mkdir(parents=True)
            make_scene(scene, inside, lambda _, args: _needed(self.run(Command(args=tuple(args)), sandbox)))
        return inside

    def run(self, command: Command, sandbox: Sandbox) -> Ended:
        """A command, in a fork."""
        args = command.args
        function: Callable[[], int] = (lambda: library(args[1:])) if args[0] == "python" else product(args)
        return in_fork(function, args, sandbox, self.limits)

    def reference(self, scene: str, command: Command) -> Ended:
        """How a command ends where nothing was changed."""
        key = scene, command.words
        if key not in self.references:
            with TemporaryDirectory(dir=self.folder) as folder:
                sandbox = Sandbox.made(Path(folder) / "reference", self.base(scene))
                ended = self.run(command, sandbox)
                self.references[key] = replace(ended, kept=kept_of(command, sandbox.inside))
        return self.references[key]


def _needed(ended: Ended) -> Ended:
    if ended.code != 0:
        raise RuntimeError(f"{' '.join(ended.args)}: {ended.code}, {ended.err[-2000:]}")
    return ended


def subject_of(seed: int, number: int) -> Subject:
    """What is changed in a case."""
    return random.Random(f"{seed} {number}").choices(SUBJECTS, [one.often for one in SUBJECTS])[0]


def run_case(world: World, seed: int, number: int, *, keep: Path | None = None) -> dict[str, Any]:
    """One case: its row of the results."""
    subject, rng = subject_of(seed, number), random.Random(f"{seed} {number} change")
    shell = is_shell(number)
    base = world.base(subject.scene)
    folder = keep or world.folder / f"case-{number}"
    sandbox = Sandbox.made(folder, base)
    try:
        path = rng.choice(sorted(one for pattern in subject.files for one in sandbox.inside.glob(pattern)))
        told = mutate(path, subject.layout, folder, rng)
        sealed = rng.random() < subject.sealed and path.is_file() and not path.is_symlink()
        sealed = sealed and seal(sandbox.inside / "set", samples=subject.layout == "picture")
        file = str(path.relative_to(sandbox.inside))
        case = Case(subject=subject, sealed=sealed, base=base, inside=sandbox.inside, file=file)
        chosen = _chosen(subject, rng, shell=shell)
        ends, wrong = _run_all(world, sandbox, case, chosen, shell=shell)
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    row = {"seed": seed, "case": number, "subject": subject.name, "scene": subject.scene, "file": file}
    return row | {"change": told, "sealed": sealed, "shell": shell, "ends": ends, "wrong": wrong}


def _chosen(subject: Subject, rng: random.Random, *, shell: bool) -> list[Command]:
    """One or two of a subject's commands, in their order."""
    may = [one for one in subject.commands if not (shell and one.args[0] == "python")] or list(subject.commands)
    chosen = rng.choices(may, [one.often for one in may], k=1 if shell else 2)
    return sorted(set(chosen), key=subject.commands.index)


def _run_all(
    world: World, sandbox: Sandbox, case: Case, commands: Sequence[Command], *, shell: bool
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    ends, wrong = [], []
    before = sandbox.listing()
    for command in commands:
        by_shell = shell and command.args[0] != "python"
        ended = in_shell(command.args, sandbox, world.limits) if by_shell else world.run(command, sandbox)
        after = sandbox.listing()
        found = judged(command, ended, before, after, case, partial(world.reference, case.subject.scene, command))
        outcome = "forbidden" if found else {0: "right", 1: "faults told", 2: "refused"}[ended.code or 0]
        seconds, memory = round(ended.seconds, 3), ended.memory // 1_000_000
        ends.append({"command": command.words, "outcome": outcome, "seconds": seconds, "megabytes": memory})
        wrong += [{"command": command.words, "name": one.name, "told": one.told} for one in found]
        before = after
    return ends, wrong


def is_shell(number: int) -> bool:
    """Whether a case is run as a user would."""
    return number % SHELL_EVERY == SHELL_EVERY // 2


def campaign(
    folder: Path, numbers: Iterable[int], seed: int, results: Path, tell: Callable[[str], object] = print
) -> list[dict[str, Any]]:
    """Run cases in this process, but for those that ``results`` holds already; returns the rows of all."""
    world, wanted = World(folder=folder), set(numbers)
    rows = [row for row in read_results(results) if row["seed"] == seed and row["case"] in wanted]
    for number in sorted(wanted - {row["case"] for row in rows}):
        row = run_case(world, seed, number)
        rows.append(row)
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for one in row["wrong"]:
            tell(f"{number}: {row['subject']}, {row['change']}: {one['command']}: {one['name']}: {one['told'][-160:]}")
        if len(rows) % 500 == 0:
            tell(f"{len(rows)} of {len(wanted)}")
    return rows


def read_results(path: Path) -> list[dict[str, Any]]:
    """The rows of a campaign so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def lanes(numbers: Sequence[int], seed: int, results: Path) -> None:
    """Run cases in two processes, of which the one that needs no torch forks much faster.

    Raises RuntimeError where one of them ends early.
    """
    children = []
    for heavy in (False, True):
        mine = [number for number in numbers if subject_of(seed, number).heavy == heavy]
        if not mine:
            continue
        child = os.fork()
        if child == 0:
            code = 1
            try:
                imported(heavy=heavy)
                gc.collect()
                gc.freeze()
                with TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
                    campaign(Path(folder), mine, seed, results, lambda line: print(line, flush=True))
                code = 0
            except KeyboardInterrupt:
                pass
            finally:
                sys.stdout.flush()
                os._exit(code)
        children.append(child)
    ends = [os.waitpid(child, 0)[1] for child in children]
    if any(ends):
        raise RuntimeError("a process of the campaign ended early; the same command goes on from there")


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000, help="how many files are changed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/faults.md", help="the page whose section is written")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "build/fuzz.jsonl", help="JSON lines, taken up where they stand"
    )
    parser.add_argument("--case", type=int, help="run this case alone, and tell of it")
    parser.add_argument("--keep", type=Path, help="with --case: a new folder that stays, with the sandbox in it")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if asked.case is not None:
        imported(heavy=subject_of(asked.seed, asked.case).heavy)
        with TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
            row = run_case(World(folder=Path(folder)), asked.seed, asked.case, keep=asked.keep)
        print(json.dumps(row, indent=1))
        return 1 if row["wrong"] else 0
    results: Path = asked.results
    results.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    lanes(range(asked.n), asked.seed, results)
    rows = [row for row in read_results(results) if row["seed"] == asked.seed and row["case"] < asked.n]
    asked.out.write_text(with_section(asked.out.read_text(), section(rows, n=asked.n, seed=asked.seed)))
    wrong = distinct(rows)
    for name, cases in wrong.items():
        print(f"{name} ({len(cases)} times, as in case {cases[0]['case']})")
    print(f"{asked.out}: {len(rows)} cases, {len(wrong)} faults, {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from there")
