"""The commands that make datasets: fractal, fractal-search, sd, prompts check."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import BadParameter
from typer.exceptions import Exit

from synthgen.common.errors import SynthgenError
from synthgen.common.printing import say
from synthgen.kinds.diffusion.models import DEFAULT

if TYPE_CHECKING:
    from fractaldb.ifs import Category
    from synthgen.dataset.manifest import Manifest
    from synthgen.dataset.plan import Plan

app = typer.Typer()


def local(path: Path | None) -> Path | None:
    """The callback of an option that takes a path of this machine: a URL, which makes a path too, is refused."""
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path)):  # pathlib has made one slash of two
        raise BadParameter(f"{str(path).replace(':/', '://', 1)}: a path of this machine, not a URL")
    return path


Out = Annotated[
    str, typer.Option(metavar="DIR|URL", help="Dataset directory, here or at a URL; taken up where it stands.")
]
EngineName = Annotated[
    str, typer.Option("--engine", help="local (processes of this machine) or ray (tasks on a Ray cluster).")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Most workers at once; one a core or GPU of the machine or cluster.")
]
Address = Annotated[
    str | None, typer.Option(help="With --engine ray: of the cluster, or auto; without, Ray starts here.")
]
Resources = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=AMOUNT", help="With --engine ray: what a worker takes, such as GPU=1; may be repeated."),
]
TaskIndex = Annotated[int | None, typer.Option(help="Do this share alone, from 0: of array jobs; with --num-tasks.")]
NumTasks = Annotated[int | None, typer.Option(help="Into how many shares the work is divided.")]


@app.command(epilog="Example: synthgen fractal --out fractaldb-1k   (the published FractalDB-1k, 1,000,000 images)")
def fractal(
    out: Out = "fractals",
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
    engine: EngineName = "local",
    workers: Workers = None,
    address: Address = None,
    resources: Resources = None,
    task_index: TaskIndex = None,
    num_tasks: NumTasks = None,
) -> None:
    """Draw a FractalDB set into verified shards."""
    from synthgen.dataset.generate import existing_plan, generate, open_directory
    from synthgen.dataset.plan import check_request, new_plan
    from synthgen.engines.request import Request
    from synthgen.kinds.content import fractal_stock
    from synthgen.kinds.fractaldb.render import fractal_content, fractal_style, layout
    from synthgen.storage.places import place

    request = Request(
        engine=engine,
        workers=workers,
        address=address,
        resources=tuple(resources or ()),
        task_index=task_index,
        num_tasks=num_tasks,
    )
    request.check()
    style = fractal_style(draw=draw, size=size, points=points, weights=weights)
    if categories.isdecimal() and int(categories) > 0:  # a search takes minutes: find out before it
        n_categories, each = int(categories), layout(style)
        check_request(
            n=1 if n is None else n,
            shard_size=shard_size,
            n_available=n_categories * math.prod(each),
            stock=fractal_stock(n_categories, each),
        )
    with request.ready():
        where = place(out)
        chosen, origin = _categories(categories, seed, sampling, existing_plan(where))
        content = fractal_content(chosen, seed=seed, style=style)
        plan = new_plan(
            name="fractal",
            content=content,
            n=content.n_available if n is None else n,
            shard_size=shard_size,
            origin=origin,
        )
        cores = request.cores()
        open_directory(where, plan, workers=len(cores))
        manifest = generate(where, engine=request.find(cores), share=request.share)
    say(
        f"{out}: {manifest.n_samples} images of {len(chosen)} categories in {len(manifest.shards)} shards,"
        f" {manifest.n_bytes / 1e6:.1f} MB, plan {plan.digest[:16]}{_rest(manifest)}"
    )


def _rest(manifest: Manifest) -> str:
    left = manifest.plan.n - manifest.n_samples
    return "" if manifest.complete else f"; {left} images are left to other tasks"


def _categories(text: str, seed: int, sampling: str, old: Plan | None) -> tuple[list[Category], dict[str, Any]]:
    """Categories and where they came from: searched, read from CSVs, or taken from the plan that stands."""
    from synthgen.kinds.content import FractalContent
    from synthgen.kinds.fractaldb.render import category_of, find_categories, read_category_folder

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
    out: Annotated[Path, typer.Option(help="Folder for one CSV a category; must be new or empty.", callback=local)],
    categories: Annotated[int, typer.Option(help="How many categories.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the search; 1 is the published one.")] = 1,
    sampling: Annotated[
        str, typer.Option(help="published (the search by filling rate) or svd (systems that contract).")
    ] = "published",
) -> None:
    """Search fractal categories and write them as the published CSV files."""
    from synthgen.kinds.fractaldb.render import find_categories, write_categories

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SynthgenError(f"{out}: exists and is not an empty folder; choose another --out")
    write_categories(out, find_categories(categories, seed=seed, sampling=sampling))
    say(f"{out}: {categories} categories of seed {seed}")


@app.command(epilog="Example: synthgen sd --prompts prompts/imagenet80.txt --n 150000")
def sd(
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="Prompt file; see synthgen prompts.")] = None,
    n: Annotated[int | None, typer.Option("--n", help="How many images.")] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR|URL", help="Dataset directory, taken up where it stands; MODEL-PROMPTS by default."),
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
    device: Annotated[
        str | None, typer.Option(help="cuda, cuda:1 or cpu; by default all CUDA devices, or the CPU.")
    ] = None,
    engine: EngineName = "local",
    workers: Workers = None,
    address: Address = None,
    resources: Resources = None,
    task_index: TaskIndex = None,
    num_tasks: NumTasks = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and how long it would take.")
    ] = False,
    from_record: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Draw one image again from its record, into the file --out.")
    ] = None,
) -> None:
    """Draw a Stable Diffusion set from a prompt file into verified shards."""
    from synthgen.dataset.plan import check_request, new_plan
    from synthgen.engines.request import Request
    from synthgen.kinds.diffusion.models import find_model
    from synthgen.kinds.diffusion.prompts import class_list_path, read_classes, read_prompts
    from synthgen.kinds.diffusion.render import remake_file
    from synthgen.kinds.diffusion.request import Settings, describe, diffusion_content, make, measured_rate
    from synthgen.storage.places import place

    if from_record is not None:
        if out is None:
            raise SynthgenError("--out FILE is missing; name the image file to write")
        file = Path(out)
        local(file)
        if file.is_dir():
            raise SynthgenError(f"{out}: a folder; name the image file to write")
        remake_file(from_record, file, model=model, revision=revision, device=device)
        say(f"{out}: drawn again from {from_record}")
        return
    if prompts is None or n is None:
        raise SynthgenError(f"{'--prompts FILE' if prompts is None else '--n N'} is missing; see synthgen sd --help")
    templates = read_prompts(prompts)
    class_file = classes or class_list_path(prompts, templates)
    class_list = read_classes(class_file)
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
    request = Request(
        engine=engine,
        workers=workers,
        address=address,
        resources=tuple(resources or ()),
        task_index=task_index,
        num_tasks=num_tasks,
    )
    request.check()
    check_request(n=n, shard_size=shard_size)
    weights = find_model(model or DEFAULT, revision=revision, dtype=dtype)
    content = diffusion_content(templates, class_list, weights, settings)
    origin = {"prompts": prompts.name, "classes": class_file.name}  # without folders, which are nobody's business
    plan = new_plan(name="sd", content=content, n=n, shard_size=shard_size, origin=origin)
    if dry_run:
        say(*describe(plan, rate=measured_rate(plan, weights, device=device, batch=batch)))
        return
    out = out or f"{weights.name.rpartition('/')[2]}-{templates.name}"
    with request.ready():
        manifest, failed = make(place(out), plan, weights, device=device, batch=batch, request=request)
    say(
        f"{out}: {manifest.n_samples} images of {len(class_list.ids)} classes in {len(manifest.shards)} shards,"
        f" {manifest.n_bytes / 1e6:.1f} MB, plan {plan.digest[:16]}{_rest(manifest)}"
    )
    if failed:
        say(
            f"synthgen: {len(failed)} images stayed black, constant or not finite, or flagged, and are marked so in"
            f" their records: {', '.join(failed[:10])}",
            file=sys.stderr,
        )
        raise Exit(1)


prompts = typer.Typer(help="Prompt files and class lists.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(prompts, name="prompts")


@prompts.command("check", epilog="Example: synthgen prompts check prompts/imagenet80.txt")
def prompts_check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Prompt files, or class lists (.tsv).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of words.")] = False,
) -> None:
    """Check prompt files and their class lists; exit code 1 where one is wrong."""
    from synthgen.kinds.diffusion.prompt_check import check_command

    raise Exit(check_command(files, as_json=as_json))
