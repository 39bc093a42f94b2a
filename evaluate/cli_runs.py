"""The commands of suites and their tasks: simulate, plan, run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import Exit

from synthgen.common.options import AsJson, local
from synthgen.common.printing import counted, say
from synthgen.engines import Request, with_request

from .errors import EvaluateError

app = typer.Typer()

SuiteFile = Annotated[Path, typer.Argument(metavar="SUITE", help="Suite file (TOML).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


@app.command(epilog="Example: evaluate simulate --out camera-traps --images 1500 --size 64")
def simulate(
    out: Annotated[Path, typer.Option(help="Directory of the set; an unfinished set is completed.", callback=local)],
    classes: Annotated[int | None, typer.Option(help="Classes, including 'empty'.", show_default="12")] = None,
    locations: Annotated[int | None, typer.Option(help="Camera locations.", show_default="24")] = None,
    images: Annotated[int | None, typer.Option(help="Images in all five splits.", show_default="1500")] = None,
    size: Annotated[int | None, typer.Option(help="Width and height in pixels.", show_default="64")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.", show_default="0")] = None,
) -> None:
    """Make a simulated camera-trap set in the iWildCam-WILDS layout.

    For an existing set, options that are not given keep their values.
    """
    from synthgen.common.progress import progress

    from .tasks.simulated.simulate import settled
    from .tasks.simulated.simulate import simulate as make

    asked = {"n_classes": classes, "n_locations": locations, "n_images": images, "size": size, "seed": seed}
    chosen = settled(out, asked)
    with progress("simulate", chosen["n_images"], "images") as show:
        make(out, **chosen, progress=lambda done, _: show(done))
    say(
        f"{out}: {chosen['n_images']} images of {chosen['n_classes']} classes"
        f" at {chosen['n_locations']} camera locations"
    )


@app.command(epilog="Example: evaluate plan evaluate/suites/miniature.toml --count --format markdown")
def plan(
    suite: SuiteFile,
    count: Annotated[
        bool, typer.Option("--count", help="Open the sources: count images and classes, report rules and digests.")
    ] = False,
    layout: Annotated[str, typer.Option("--format", help="text, csv, markdown or latex.")] = "text",
    rates: Annotated[
        Path | None, typer.Option(metavar="RUNS", help="Use the rates of these finished runs, not the stated ones.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the table of all experiments of a suite."""
    from .design.choice import choose
    from .design.cost import measured, size_of, stated, stated_size, total
    from .design.experiments import by_arm, recipe_lines, table
    from .design.suite import read_suite
    from .reporting.tables import written

    chosen = read_suite(suite)
    picked, size = None, stated_size(chosen.cost)
    if count:
        from .tasks.spec import open_task

        picked = {arm.name: choose(arm, chosen.image_size) for arm in chosen.arms if arm.pretraining}
        size = size_of(open_task(chosen.task))
    known = stated(chosen.cost, chosen.image_size) if chosen.cost else None
    if rates is not None:
        known = measured(rates)
        if known is None:
            raise EvaluateError(f"--rates {rates}: none of its finished runs recorded its rate")
    rows = table(chosen, picked, rates=known, size=size, compact=layout == "text" and not as_json)
    if as_json:
        say(json.dumps({"suite": chosen.name, "arms": rows}))
        return
    if layout == "text":
        say(
            f"{chosen.name}: {counted(len(rows), 'arm')} x {counted(len(chosen.architectures), 'architecture')}"
            f" ({', '.join(chosen.architectures)}) x {counted(len(chosen.seeds), 'seed')}:"
            f" {counted(sum(row['runs'] for row in rows), 'fine-tuned model')} at {chosen.image_size} px in"
            f" {chosen.precision}, on {chosen.task.path}; baseline {chosen.baseline}"
        )
        say(*recipe_lines(chosen))
    say(*written(rows, layout).split("\n"))
    if layout == "text" and known:
        say(total(by_arm(chosen, known, chosen=picked, size=size).values()).describe(known))


@app.command(epilog="Example: evaluate run evaluate/suites/miniature.toml   (into runs/miniature)", name="run")
@with_request(
    workers=Annotated[
        int | None, typer.Option(min=1, help="Share the suite among this many workers, each on a GPU or on some cores.")
    ]
)
def run_command(
    suite: SuiteFile,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of runs, runs/NAME by default; finished runs in it are kept.", callback=local),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="ARM", help="Run only this arm; may be repeated.")] = None,
    max_hours: Annotated[
        float | None,
        typer.Option(min=0, help="Stop after this many hours; the same command resumes later."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs to do, in order, without running any.")
    ] = False,
    cache_gb: Annotated[
        float | None,
        typer.Option(min=0, help="Maximum GB of decoded images to keep; what does not fit is streamed."),
    ] = None,
    device: Device = "auto",
    request: Request = Request(),
) -> None:
    """Run the unfinished runs of a suite; exit code 1 if a run failed.

    For a suite that already has runs, keys that the file does not give keep their values.
    """
    from .design.suite import read_suite

    request.check()
    chosen = read_suite(suite)
    out = out or Path("runs") / chosen.name
    chosen = read_suite(suite, out)
    from .design.cost import estimate, measured, size_of, stated
    from .training.execute import run_suite
    from .training.plan import open_suite

    if dry_run:
        plan = open_suite(chosen, only or ())
        todo = plan.todo(out, request.share)
        for step in todo:
            say(step.title)
        say(f"{out}: {counted(len(todo), 'run')} to do, {len(plan.steps(request.share)) - len(todo)} done")
        rates = measured(out) or (stated(chosen.cost, chosen.image_size) if chosen.cost else None)
        if rates:
            say(estimate([step.config for step in todo], rates, size_of(plan.task)).describe(rates))
        return
    if request.engine == "ray" or request.workers is not None:
        from .training.fleet import run_fleet

        if request.task_index is not None:
            raise EvaluateError("--task-index is for the tasks of an array job; leave --workers and --engine ray away")
        given = {"--max-hours": max_hours, "--cache-gb": cache_gb}
        options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
        with request.ready():
            outcome = run_fleet(suite, chosen, out, request, device=device, only=only or (), options=options)
    else:
        limit = None if cache_gb in (None, math.inf) else int(cache_gb * 1e9)
        outcome = run_suite(
            chosen,
            out,
            device=device,
            only=only or (),
            max_hours=max_hours,
            cache_bytes=limit,
            share=request.share,
        )
    for line in outcome.failed:
        say(f"failed: {line}")
    left = f", {outcome.left} left" if outcome.left else ""
    say(f"{out}: {counted(outcome.done, 'run')} done, {outcome.kept} done before, {len(outcome.failed)} failed{left}")
    if outcome.failed:
        raise Exit(1)
