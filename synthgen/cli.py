"""The command ``synthgen``: it only translates; the modules beside it do the work."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import Exit, TyperException

from synthgen.errors import SynthgenError
from synthgen.models import DEFAULT

if TYPE_CHECKING:
    from fractaldb.ifs import Category
    from synthgen.plan import Plan

app = typer.Typer(
    help="Make synthetic image sets for pre-training: every image reproducible, every killed run resumable.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Out = Annotated[Path, typer.Option(help="Dataset directory, taken up where it stands.")]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Dataset directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of words.")]


@app.command(epilog="Example: synthgen fractal --out fractaldb-1k   (the published FractalDB-1k, 1,000,000 images)")
def fractal(
    out: Out = Path("fractals"),
    categories: Annotated[
        str, typer.Option(metavar="N|DIR", help="How many categories to search, or a folder of category CSVs.")
    ] = "1000",
    n: Annotated[int | None, typer.Option("--n", help="How many images; all there are by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of the category search and the patch masks; 1 is FractalDB-1k's.")] = 1,
    draw: Annotated[str, typer.Option(help="patch_gray, patch_color, point_gray or point_color.")] = "patch_gray",
    size: Annotated[int, typer.Option(help="Width and height in pixels.")] = 362,
    points: Annotated[int, typer.Option(help="Points of an orbit.")] = 200_000,
    weights: Annotated[float, typer.Option(help="Step of the weight table: 0.1, 0.2, 0.3, 0.4 or 0.5.")] = 0.4,
    sampling: Annotated[
        str, typer.Option(help="published (the search by filling rate) or svd (systems that contract).")
    ] = "published",
    shard_size: Annotated[int, typer.Option(help="Images a shard.")] = 4000,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores by default.")] = None,
) -> None:
    """Draw a FractalDB set into verified shards."""
    from synthgen.content import fractal_stock
    from synthgen.fractal import fractal_content, fractal_style, layout
    from synthgen.generate import existing_plan, generate, open_directory
    from synthgen.plan import check_request, new_plan

    style = fractal_style(draw=draw, size=size, points=points, weights=weights)
    if categories.isdecimal() and int(categories) > 0:  # a search takes minutes: find out before it
        n_categories, each = int(categories), layout(style)
        check_request(
            n=1 if n is None else n,
            shard_size=shard_size,
            n_available=n_categories * math.prod(each),
            stock=fractal_stock(n_categories, each),
        )
    chosen, origin = _categories(categories, seed, sampling, existing_plan(out))
    content = fractal_content(chosen, seed=seed, style=style)
    plan = new_plan(
        name="fractal",
        content=content,
        n=content.n_available if n is None else n,
        shard_size=shard_size,
        origin=origin,
    )
    open_directory(out, plan)
    manifest = generate(out, workers=workers)
    print(
        f"{out}: {manifest.n_samples} images of {len(chosen)} categories in {len(manifest.shards)} shards,"
        f" {manifest.n_bytes / 1e6:.1f} MB, plan {plan.digest[:16]}"
    )


def _categories(text: str, seed: int, sampling: str, old: Plan | None) -> tuple[list[Category], dict[str, Any]]:
    """Categories and where they came from: searched, read from CSVs, or taken from the plan that stands."""
    from synthgen.content import FractalContent
    from synthgen.fractal import category_of, find_categories, read_category_folder

    if not text.isdecimal():
        if sampling != "published":
            raise SynthgenError(f"--sampling {sampling}: the categories come from {text}; give a number of categories")
        return read_category_folder(Path(text)), {"folder": Path(text).name}
    origin = {"categories": int(text), "seed": seed, "sampling": sampling}
    if old is not None and old.origin == origin and isinstance(old.content, FractalContent):
        return [category_of(record) for record in old.content.categories], origin
    return find_categories(int(text), seed=seed, sampling=sampling), origin


@app.command(epilog="Example: synthgen fractal-search --out categories   (the published 1,000, number for number)")
def fractal_search(
    out: Annotated[Path, typer.Option(help="Folder for one CSV a category; must be new or empty.")],
    categories: Annotated[int, typer.Option(help="How many categories.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the search; 1 is the published one.")] = 1,
    sampling: Annotated[
        str, typer.Option(help="published (the search by filling rate) or svd (systems that contract).")
    ] = "published",
) -> None:
    """Search fractal categories and write them as the published CSV files."""
    from synthgen.fractal import find_categories, write_categories

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SynthgenError(f"{out}: exists and is not an empty folder; choose another --out")
    write_categories(out, find_categories(categories, seed=seed, sampling=sampling))
    print(f"{out}: {categories} categories of seed {seed}")


@app.command(epilog="Example: synthgen sd --prompts prompts/imagenet80.txt --n 150000")
def sd(
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="Prompt file; see synthgen prompts.")] = None,
    n: Annotated[int | None, typer.Option("--n", help="How many images.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Dataset directory, taken up where it stands; MODEL-PROMPTS by default.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Class list; the prompt file's own by default.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="sd14, sd15, sd21, sdxl, sd-turbo, tiny (built in), a Hub id or a local folder; sd15 by default."
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    seed: Annotated[int, typer.Option(help="Of the images and of their order.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the model's default.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale; up to 1 is none.  The model's default.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="dpm++, ddim, euler, pndm, unipc, or model (its own).  The model's default.")
    ] = None,
    negative_prompt: Annotated[str, typer.Option(help="What not to show.")] = "",
    size: Annotated[int | None, typer.Option(help="Width and height in pixels; the model's default.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16; the model's default.")] = None,
    image_format: Annotated[str | None, typer.Option("--format", help="png, jpg or webp; the model's default.")] = None,
    quality: Annotated[int, typer.Option(help="Of jpg and webp.")] = 95,
    exclude_flagged: Annotated[
        bool, typer.Option("--exclude-flagged", help="Draw again what the model's safety checker flags.")
    ] = False,
    shard_size: Annotated[int, typer.Option(help="Images a shard.")] = 1000,
    batch: Annotated[int | None, typer.Option(min=1, help="Images drawn at once; found automatically.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda, cuda:1 or cpu; CUDA where there is one.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and how long it would take.")
    ] = False,
    from_record: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Draw one image again from its record, into the file --out.")
    ] = None,
) -> None:
    """Draw a Stable Diffusion set from a prompt file into verified shards."""
    from synthgen.models import find_model
    from synthgen.plan import check_request, new_plan
    from synthgen.prompts import class_list_path, read_classes, read_prompts
    from synthgen.sd_render import remake_file
    from synthgen.sd_request import Settings, describe, diffusion_content, make, measured_rate

    if from_record is not None:
        if out is None:
            raise SynthgenError("--out FILE is missing; name the image file to write")
        remake_file(from_record, out, model=model, revision=revision, device=device)
        print(f"{out}: drawn again from {from_record}")
        return
    if prompts is None or n is None:
        raise SynthgenError(f"{'--prompts FILE' if prompts is None else '--n N'} is missing; see synthgen sd --help")
    templates = read_prompts(prompts)
    class_list = read_classes(classes or class_list_path(prompts, templates))
    settings = Settings(
        seed=seed,
        steps=steps,
        guidance=guidance,
        scheduler=scheduler,
        negative_prompt=negative_prompt,
        size=size,
        dtype=dtype,
        image_format=image_format,
        quality=quality,
        exclude_flagged=exclude_flagged,
    )
    settings.check()
    check_request(n=n, shard_size=shard_size)
    weights = find_model(model or DEFAULT, revision=revision, dtype=dtype)
    content = diffusion_content(templates, class_list, weights, settings)
    plan = new_plan(name="sd", content=content, n=n, shard_size=shard_size, origin={})
    if dry_run:
        print(*describe(plan, rate=measured_rate(plan, weights, device=device, batch=batch)), sep="\n")
        return
    out = out or Path(f"{weights.name.rpartition('/')[2]}-{templates.name}")
    manifest, failed = make(out, plan, weights, device=device, batch=batch)
    print(
        f"{out}: {manifest.n_samples} images of {len(class_list.ids)} classes in {len(manifest.shards)} shards,"
        f" {manifest.n_bytes / 1e6:.1f} MB, plan {plan.digest[:16]}"
    )
    if failed:
        print(
            f"synthgen: {len(failed)} images stayed black, constant or not finite, or flagged, and are marked so in"
            f" their records: {', '.join(failed[:10])}",
            file=sys.stderr,
        )
        raise Exit(1)


@app.command(epilog="Example: synthgen status fractaldb-1k --json")
def status(directory: Directory, as_json: AsJson = False) -> None:
    """Say how much of a dataset stands."""
    from synthgen.manifest import read_manifest

    summary = read_manifest(directory).summary()
    if as_json:
        print(json.dumps(summary))
        return
    state = "complete" if summary["complete"] else "unfinished; run the same command again to go on"
    print(
        f"{directory}: {summary['n_done']} of {summary['n']} images of {summary['n_classes']} classes,"
        f" {summary['n_shards_done']} of {summary['n_shards']} shards, {summary['n_bytes'] / 1e6:.1f} MB: {state}"
    )


@app.command(epilog="Example: synthgen verify fractaldb-1k")
def verify(
    directory: Directory,
    quality: Annotated[
        bool, typer.Option("--quality", help="Also count black, constant, flagged and near-duplicate images.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check every shard against its record and every image against the plan; exit code 1 where one fails."""
    from synthgen.manifest import read_manifest
    from synthgen.manifest import verify as check
    from synthgen.progress import progress
    from synthgen.quality import measure

    manifest = read_manifest(directory)
    faults: list[str] = []
    with progress("verify", manifest.plan.n_shards, "shards") as show:
        for index, found in check(directory):
            faults += found
            show(index + 1)
    report: dict[str, Any] = {"directory": str(directory), "faults": faults}
    lines = [*faults, f"{directory}: {manifest.plan.n_shards} shards, {len(faults)} faults"]
    if quality and not faults:  # else the images may not even be read
        with progress("quality", len(manifest.shards), "shards") as show:
            measured = measure(manifest, progress=show)
        report["quality"] = measured.summary()
        lines += measured.lines()
    print(json.dumps(report) if as_json else "\n".join(lines))
    if faults:
        raise Exit(1)


@app.command(epilog="Example: synthgen preview fractaldb-1k   (then open fractaldb-1k-preview/gallery.html)")
def preview(
    directory: Directory,
    out: Annotated[Path | None, typer.Option(help="Folder for the two files; DIR-preview by default.")] = None,
    per_class: Annotated[int, typer.Option(help="Pictures a class, 1 to 100.")] = 10,
) -> None:
    """Make a contact sheet and a gallery page of some pictures of every class."""
    from synthgen.manifest import read_manifest
    from synthgen.preview import write_preview

    folder = out or directory.with_name(f"{directory.resolve().name}-preview")
    for path in write_preview(read_manifest(directory), folder, per_class=per_class):
        print(path)


@app.command(epilog="Example: synthgen export fractaldb-1k --format imagefolder --out images")
def export(
    directory: Directory,
    out: Annotated[Path, typer.Option(help="Where to write; an unfinished export is taken up.")],
    layout: Annotated[str, typer.Option("--format", help="imagefolder: OUT/CLASS/NAME.png.")] = "imagefolder",
) -> None:
    """Write a finished dataset in another layout; for fractals that of the published FractalDB."""
    from synthgen.export import export_imagefolder
    from synthgen.manifest import read_manifest
    from synthgen.progress import progress

    if layout != "imagefolder":
        raise SynthgenError(f"--format {layout}: unknown; there is imagefolder")
    manifest = read_manifest(directory)
    with progress("export", manifest.plan.n, "images") as show:
        export_imagefolder(manifest, out, progress=show)
    print(f"{out}: {manifest.n_samples} images in {len(manifest.plan.content.class_names)} folders")


prompts = typer.Typer(help="Prompt files and class lists.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(prompts, name="prompts")


@prompts.command("check", epilog="Example: synthgen prompts check prompts/imagenet80.txt")
def prompts_check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Prompt files, or class lists (.tsv).")],
    as_json: AsJson = False,
) -> None:
    """Check prompt files and their class lists; exit code 1 where one is wrong."""
    from synthgen.prompt_check import check_command

    raise Exit(check_command(files, as_json=as_json))


def run(application: typer.Typer, name: str, errors: tuple[type[Exception], ...]) -> int:
    """Run a command line; returns its exit code.

    A user's mistake is one line on stderr and exit code 2, an interruption exit code 130.
    """
    call: Callable[..., object] = typer.main.get_command(application)
    try:
        code = call(standalone_mode=False, prog_name=name)
    except TyperException as error:
        message = error.format_message()
        if not message.startswith("Usage:"):  # the help that a bare command shows
            message = f"{name}: {' '.join(message.split())}"
        print(message, file=sys.stderr)
        return 2
    except errors as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"{name}: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:  # typer's answer to Ctrl-C
        print(f"{name}: interrupted; run the same command again to go on", file=sys.stderr)
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of ``synthgen``."""
    sys.exit(run(app, "synthgen", (SynthgenError,)))
