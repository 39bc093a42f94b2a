"""The commands for existing datasets: status, verify, preview, export, publish."""

from __future__ import annotations

import json
import sys
from functools import partial
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import Exit

from synthgen.common.errors import SynthgenError
from synthgen.common.options import Anywhere, AsJson, Directory, local
from synthgen.common.printing import counted, say

if TYPE_CHECKING:
    from synthgen.dataset.scan import Defect

app = typer.Typer()


@app.command(epilog="Example: synthgen status fractaldb-1k --watch")
def status(
    directory: Anywhere,
    watch: Annotated[bool, typer.Option("--watch", help="Keep watching until the dataset is complete.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; with --watch, one line per event.")
    ] = False,
) -> None:
    """Show how much of a dataset is done, which workers are on it, how fast, and what failed."""
    from synthgen.engines.watch import Observer, show, words
    from synthgen.storage.places import place

    where = place(directory)
    if watch:
        show(where, directory, as_json=as_json)
        return
    state = Observer(where).look()
    say(*([json.dumps(state)] if as_json else words(directory, state)))


@app.command(
    epilog="Example: synthgen verify fractaldb-1k   (or a published set: synthgen verify hf://datasets/USER/NAME)"
)
def verify(
    directory: Anywhere,
    mend: Annotated[
        bool, typer.Option("--repair", help="Regenerate damaged and missing shards, byte for byte, and nothing else.")
    ] = False,
    quality: Annotated[
        bool, typer.Option("--quality", help="Also count black, constant, flagged and near-duplicate images.")
    ] = False,
    as_json: AsJson = False,
    model: Annotated[
        str | None, typer.Option(help="With --repair: where the plan's model is now, if it has moved.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="With --repair: cuda, cuda:1 or cpu.")] = None,
) -> None:
    """Check every file of a dataset, and every image against the plan; exit code 1 if anything is wrong."""
    from synthgen.common.progress import progress
    from synthgen.dataset.manifest import read_manifest
    from synthgen.dataset.verify import inspect
    from synthgen.storage.places import place, store_of

    where = place(directory)
    here = store_of(where).local(where)
    if mend and here is None:
        raise SynthgenError(f"{directory}: --repair works on a local directory; repair that and publish it again")
    if not mend and (model or device):
        raise SynthgenError(f"--{'model' if model else 'device'} is for --repair")
    n_shards = read_manifest(where).plan.n_shards
    with progress("verify", n_shards, "shards") as show:
        defects, measured = inspect(where, quality=quality, progress=show)
    mended, before = list[int](), defects
    if mend and defects and here is not None:
        say(*map(_with_advice, before), file=sys.stderr)  # repairing may remove them
        mended = _repair(here, before, model, device)
        with progress("verify", n_shards, "shards") as show:
            defects, measured = inspect(where, quality=quality, progress=show)
    report: dict[str, Any] = {"directory": directory, "faults": [str(defect) for defect in defects]}
    lines = [*report["faults"], f"{directory}: {counted(n_shards, 'shard')}, {counted(len(defects), 'defect')}"]
    if mend:
        report["repaired"] = mended
        lines = [*map(_with_advice, defects), lines[-1], f"repaired: {_repaired(mended, before, defects)}"]
    if measured is not None:
        report["quality"] = measured.summary()
        lines += measured.lines()
    say(*([json.dumps(report)] if as_json else lines))
    if defects:
        raise Exit(1)


def _with_advice(defect: Defect) -> str:
    """A defect and, if ``--repair`` leaves it, why and what to do."""
    from synthgen.dataset.repair import why_left

    why = why_left(defect)
    return f"{defect}; --repair leaves it: {why}" if why else str(defect)


def _repaired(mended: list[int], before: list[Defect], after: list[Defect]) -> str:
    """What was repaired, in words: shards, and files that belong to none."""
    from synthgen.dataset.repair import why_left

    left = {defect.name for defect in after}
    files = {defect.name: None for defect in before if defect.shard is None and not why_left(defect)}
    words = [f"shard {index}" for index in mended] + [name for name in files if name not in left]
    return ", ".join(words) or "nothing"


def _repair(directory: Path, defects: list[Defect], model: str | None, device: str | None) -> list[int]:
    from synthgen.common.progress import progress
    from synthgen.dataset.plan import read_plan
    from synthgen.dataset.repair import repair

    plan = read_plan(directory / "plan.json")
    given = {name: value for name, value in (("model", model), ("device", device)) if value}
    for name in given.keys() - plan.kind.options:
        raise SynthgenError(f"--{name}: {directory} holds {plan.kind.facts(plan).made_by}, which need no such option")
    damaged = {defect.shard for defect in defects if defect.shard is not None}
    with progress("repair", len(damaged), "shards") as show:
        renderer = partial(plan.kind.renderer, plan, **given)
        return repair(directory, defects, renderer=renderer, progress=show)


@app.command(epilog="Example: synthgen preview fractaldb-1k   (then open fractaldb-1k-preview/gallery.html)")
def preview(
    directory: Directory,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the two files; by default DIR-preview.", callback=local)
    ] = None,
    per_class: Annotated[int, typer.Option(help="Images per class, 1 to 100.")] = 10,
) -> None:
    """Make a contact sheet and a gallery page with some images of every class."""
    from synthgen.dataset.manifest import read_manifest
    from synthgen.dataset.preview import write_preview
    from synthgen.storage.inside import check_outside

    beside = directory if directory.name not in ("", "..") else Path(realpath(directory))
    folder = out or beside.with_name(f"{beside.name}-preview")
    check_outside(directory, folder)
    for path in write_preview(read_manifest(directory), folder, per_class=per_class):
        say(path)


@app.command(epilog="Example: synthgen export fractaldb-1k --format parquet --out fractaldb-parquet")
def export(
    directory: Anywhere,
    out: Annotated[Path, typer.Option(help="Where to write; an unfinished export is continued.", callback=local)],
    layout: Annotated[
        str, typer.Option("--format", help="imagefolder (OUT/CLASS/NAME.png), parquet or webdataset.")
    ] = "imagefolder",
    shard_bytes: Annotated[
        str, typer.Option(metavar="SIZE", help="Approximate size of a Parquet or tar file, such as 500MB.")
    ] = "1GB",
) -> None:
    """Write a finished dataset in another layout; for fractals, imagefolder matches the published FractalDB."""
    from synthgen.common.progress import progress
    from synthgen.dataset.manifest import read_manifest
    from synthgen.publishing.export import bytes_of, check_request
    from synthgen.publishing.export import export as write
    from synthgen.storage.places import place

    size = bytes_of(shard_bytes)
    check_request(layout, size)
    manifest = read_manifest(place(directory))
    with progress("export", manifest.plan.n, "images") as show:
        parts = write(manifest, out, layout=layout, shard_bytes=size, progress=show)
    where = counted(len(parts), "file") if parts else "class folders"
    n_classes = counted(len(manifest.plan.content.class_names), "class", "classes")
    say(f"{out}: {counted(manifest.n_samples, 'image')} of {n_classes} in {where}")


@app.command(epilog="Example: synthgen publish fractaldb-1k --to hf://datasets/USER/NAME --dry-run")
def publish(
    directory: Directory,
    to: Annotated[
        str,
        typer.Option(
            metavar="TARGET",
            help="hf://datasets/USER/NAME[@BRANCH], s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, another URL, or a folder.",
        ),
    ],
    public: Annotated[bool, typer.Option("--public", help="On the Hub: visible to all; private by default.")] = False,
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Publish only the intact shards of an unfinished or damaged set.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be sent where; send nothing.")] = False,
) -> None:
    """Verify a finished dataset, write its card, and send it to the Hugging Face Hub, an object store or a folder."""
    from synthgen.publishing.publish import plan_upload, step_lines
    from synthgen.publishing.publish import publish as send

    if dry_run:
        say(*step_lines(plan_upload(directory, to, public=public, allow_incomplete=allow_incomplete), to))
        return
    say(*send(directory, to, public=public, allow_incomplete=allow_incomplete).lines())
