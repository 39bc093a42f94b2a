"""The commands that make runs: simulate, plan, run, pretrain, finetune, cache, status."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer.exceptions import Exit

from synthgen.common.options import AsJson, local
from synthgen.common.printing import say
from synthgen.engines import Request, with_request

from .errors import EvaluateError
from .tasks.known import kinds

if TYPE_CHECKING:
    from .runs import State

app = typer.Typer()

SuiteFile = Annotated[Path, typer.Argument(metavar="SUITE", help="Suite file (TOML).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Architecture = Annotated[str, typer.Option(help="Torchvision's name, timm:NAME or open_clip:NAME.")]
ImageSize = Annotated[int, typer.Option(min=16, max=4096, help="Width and height in pixels.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed.")]
Precision = Annotated[Literal["float32", "bf16", "fp16"], typer.Option(help="Precision of the arithmetic.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; may be repeated.")
]
Runs = Annotated[Path, typer.Argument(metavar="RUNS", help="Directory of runs.")]


def known_task(name: str) -> str:
    """Check the name of a task."""
    if name not in kinds():
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(kinds())}")
    return name


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
            f"{chosen.name}: {len(rows)} arms x {len(chosen.architectures)} architectures"
            f" ({', '.join(chosen.architectures)}) x {len(chosen.seeds)} seeds: {sum(row['runs'] for row in rows)}"
            f" fine-tuned models at {chosen.image_size} px in {chosen.precision}, on {chosen.task.path};"
            f" baseline {chosen.baseline}"
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
        say(f"{out}: {len(todo)} runs to do, {len(plan.steps(request.share)) - len(todo)} done")
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
    say(f"{out}: {outcome.done} runs done, {outcome.kept} done before, {len(outcome.failed)} failed{left}")
    if outcome.failed:
        raise Exit(1)


@app.command(epilog="Example: evaluate pretrain data/imagenet/train --architecture resnet50 --out weights.safetensors")
def pretrain(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Image folder, synthgen dataset, or fractals[:CATEGORIES].")
    ],
    out: Annotated[
        Path, typer.Option(help="File of weights to write (.safetensors); the run is stored beside it.", callback=local)
    ],
    architecture: Architecture = "resnet18",
    n: Annotated[int | None, typer.Option(help="Images, balanced over the classes; all by default.")] = None,
    image_size: ImageSize = 64,
    seed: Seed = 0,
    captions: Annotated[
        Path | None, typer.Option(help="Class list whose names are the captions of an image folder, for image-text.")
    ] = None,
    settings: Set = None,
    precision: Precision = "float32",
    device: Device = "auto",
) -> None:
    """Pre-train one model, without a suite."""
    from .design.arms import ArmSpec, FromSource
    from .design.select import Everything, Quantity
    from .training.byhand import PRETRAIN, Settings, recipe_of, source_of
    from .training.byhand import pretrain as make

    recipe = recipe_of(PRETRAIN, settings or ())
    weights = FromSource(
        source=source_of(source),
        select=Everything() if n is None else Quantity(n=n),
        captions=str(captions) if captions else None,
    )
    arm = ArmSpec(name="by hand", weights=weights)
    for words in arm.problems(recipe.objective):
        raise EvaluateError(words)
    chosen = Settings(
        architecture=architecture, image_size=image_size, seed=seed, recipe=recipe, precision=precision, device=device
    )
    say(f"{out}: weights of the run {make(arm, chosen, out)}")


@app.command(epilog="Example: evaluate finetune data/iwildcam --checkpoint weights.safetensors --out runs/by-hand")
def finetune(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Folder that holds a local copy of the task's images.")],
    out: Annotated[Path, typer.Option(help="Directory of runs.", callback=local)],
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="File, torchvision:WEIGHTS, timm:NAME or open_clip:NAME/PRETRAINED; from scratch by default."
        ),
    ] = None,
    kind: Annotated[str, typer.Option(help=f"Kind of task: {', '.join(kinds())}.", callback=known_task)] = "iwildcam",
    empty: Annotated[bool, typer.Option("--empty/--no-empty", help="Keep the images of the class 'empty'.")] = True,
    architecture: Architecture = "resnet18",
    image_size: ImageSize = 64,
    seed: Seed = 0,
    settings: Set = None,
    precision: Precision = "float32",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Fine-tune one model, without a suite, and report its scores on each split."""
    from .reporting.tables import written
    from .tasks.spec import TaskSpec
    from .training.byhand import FINETUNE, Settings, recipe_of
    from .training.byhand import finetune as tune

    chosen = Settings(
        architecture=architecture,
        image_size=image_size,
        seed=seed,
        recipe=recipe_of(FINETUNE, settings or ()),
        precision=precision,
        device=device,
    )
    found = tune(TaskSpec(path=task, kind=kind, empty=empty), checkpoint, chosen, out)
    rows = [{"epoch": epoch, "split": split, **asdict(score)} for epoch, split, score in found]
    if as_json:
        say(json.dumps(rows))
        return
    shown = [{key: f"{value:.1%}" if isinstance(value, float) else value for key, value in row.items()} for row in rows]
    say(*written(shown, "text").split("\n"))


@app.command(epilog="Example: evaluate cache runs/miniature --clear")
def cache(
    runs: Runs,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the decoded images.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the decoded images that a directory of runs keeps, or remove them."""
    from .images.pixels import clear as remove
    from .images.pixels import entries

    folder = runs / "cache"
    if not runs.is_dir():
        raise EvaluateError(f"{runs}: no such directory of runs")
    if clear:
        say(f"{folder}: {remove(folder) / 1e9:.3g} GB removed")
        return
    found = [asdict(entry) | {"path": str(entry.path)} for entry in entries(folder)]
    if as_json:
        say(json.dumps(found))
        return
    for entry in found:
        say(
            f"{entry['n_bytes'] / 1e9:.3g} GB: {entry['n_present']} of {entry['n_images']} images at"
            f" {entry['size']} px: {entry['what']}"
        )
    say(f"{folder}: {sum(entry['n_bytes'] for entry in found) / 1e9:.3g} GB")


@app.command(epilog="Example: evaluate status runs/miniature")
def status(runs: Runs, as_json: AsJson = False) -> None:
    """Report which runs of a directory are done, and why others failed."""
    from .runs import Run, read_suite_records

    states = {}
    for suite in read_suite_records(runs):
        for member in suite.members:
            for digest in filter(None, (member.pretrain, member.finetune)):
                states[digest] = Run(directory=runs / digest).state
    if as_json:
        say(json.dumps({digest: _told(state) for digest, state in states.items()}))
        return
    counts = Counter(state.status for state in states.values())
    say(f"{runs}: {len(states)} runs: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    for digest, state in states.items():
        if state.status == "failed":
            say(f"{digest}: {state.error}")


def _told(state: State) -> dict[str, object]:
    """A run's state as recorded."""
    return {key: value for key, value in sorted(asdict(state).items()) if value not in (None, {})}
