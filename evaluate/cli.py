"""The command ``evaluate``: it only translates; the modules beside it do the work."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import Exit

from synthgen.cli import AsJson, run
from synthgen.errors import SynthgenError

from .errors import EvaluateError

app = typer.Typer(
    help="Measure what pre-training images are worth: pre-train, fine-tune on camera traps, compare.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

SuiteFile = Annotated[Path, typer.Argument(metavar="SUITE", help="Suite file (TOML).")]
Runs = Annotated[Path, typer.Argument(metavar="RUNS", help="Directory of runs.")]


@app.command(epilog="Example: evaluate simulate --out camera-traps --images 1500 --size 64")
def simulate(
    out: Annotated[Path, typer.Option(help="Directory of the set; an unfinished one is finished.")],
    classes: Annotated[int, typer.Option(help="Classes, 'empty' counted.")] = 12,
    locations: Annotated[int, typer.Option(help="Camera locations.")] = 24,
    images: Annotated[int, typer.Option(help="Images in all five splits.")] = 1500,
    size: Annotated[int, typer.Option(help="Width and height in pixels.")] = 64,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
) -> None:
    """Make a simulated camera-trap set in the iWildCam-WILDS layout."""
    from synthgen.progress import progress

    from .simulate import simulate as make

    with progress("simulate", images, "images") as show:
        make(
            out,
            seed=seed,
            n_classes=classes,
            n_locations=locations,
            n_images=images,
            size=size,
            progress=lambda done, _: show(done),
        )
    print(f"{out}: {images} images of {classes} classes at {locations} camera locations")


@app.command(epilog="Example: evaluate plan evaluate/suites/miniature.toml --count --format markdown")
def plan(
    suite: SuiteFile,
    count: Annotated[
        bool, typer.Option("--count", help="Open the sources: count images and classes, tell rules and digests.")
    ] = False,
    layout: Annotated[str, typer.Option("--format", help="text, csv, markdown or latex.")] = "text",
    as_json: AsJson = False,
) -> None:
    """Show the table of all experiments of a suite."""
    from .arms import choose
    from .suite import read_suite, table
    from .tables import written

    chosen = read_suite(suite)
    picked = {arm.name: choose(arm, chosen.image_size) for arm in chosen.arms if arm.pretrains} if count else None
    rows = table(chosen, picked)
    if as_json:
        print(json.dumps({"suite": chosen.name, "arms": rows}))
        return
    if layout == "text":
        print(
            f"{chosen.name}: {len(rows)} arms x {len(chosen.architectures)} architectures"
            f" ({', '.join(chosen.architectures)}) x {len(chosen.seeds)} seeds = {sum(row['runs'] for row in rows)}"
            f" fine-tuned models at {chosen.image_size} px, on {chosen.task.path}; baseline {chosen.baseline}\n"
            f"pre-training: {chosen.pretrain.describe()}\nfine-tuning: {chosen.finetune.describe()}"
        )
        rows = [{key: value for key, value in row.items() if key not in ("pretrain", "finetune")} for row in rows]
    print(written(rows, layout))


@app.command(epilog="Example: evaluate run evaluate/suites/miniature.toml   (into runs/miniature)", name="run")
def run_command(
    suite: SuiteFile,
    out: Annotated[
        Path | None, typer.Option(help="Directory of runs, runs/NAME by default; finished runs in it are kept.")
    ] = None,
    only: Annotated[str | None, typer.Option(metavar="ARM", help="Run this arm alone.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Run what is not done of a suite; exit code 1 where a run failed."""
    from .suite import read_suite

    chosen = read_suite(suite)
    from .execute import run_suite

    out = out or Path("runs") / chosen.name
    outcome = run_suite(chosen, out, device=device, only=only)
    for line in outcome.failed:
        print(f"failed: {line}")
    print(f"{out}: {outcome.done} runs done, {outcome.kept} done before, {len(outcome.failed)} failed")
    if outcome.failed:
        raise Exit(1)


@app.command(epilog="Example: evaluate status runs/miniature")
def status(runs: Runs, as_json: AsJson = False) -> None:
    """Say which runs of a directory are done, and why others failed."""
    from .runs import Run, read_suite_records

    states = {}
    for suite in read_suite_records(runs):
        for member in suite.members:
            for digest in filter(None, (member.pretrain, member.finetune)):
                states[digest] = Run(directory=runs / digest).state
    if as_json:
        print(json.dumps(states))
        return
    counts = Counter(state["status"] for state in states.values())
    print(f"{runs}: {len(states)} runs: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    for digest, state in states.items():
        if state["status"] == "failed":
            print(f"{digest}: {state['error']}")


@app.command(epilog="Example: evaluate compare runs/miniature --out report")
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Directories of runs.")],
    out: Annotated[Path, typer.Option(help="Directory of the report.")],
    baseline: Annotated[str | None, typer.Option(help="Arm to compare with; the suite's by default.")] = None,
) -> None:
    """Compare the arms of finished runs: a report as HTML, figures and tables."""
    from .compare import compare as judge
    from .load import load_runs
    from .report import write_report

    comparison = judge(load_runs(runs), baseline=baseline)
    page = write_report(comparison, out)
    print(f"report: {page}")
    for sentence in comparison.summary:
        print(sentence)


def main() -> None:
    """Entry point of ``evaluate``."""
    sys.exit(run(app, "evaluate", (EvaluateError, SynthgenError)))
