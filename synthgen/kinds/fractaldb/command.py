"""The commands that make fractal sets: fractal, fractal-search."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synthgen.common.errors import SynthgenError
from synthgen.common.options import Out, local
from synthgen.common.printing import say
from synthgen.engines.options import with_request
from synthgen.engines.request import Request

if TYPE_CHECKING:
    from fractaldb.ifs import Category
    from synthgen.dataset.plan import Plan

app = typer.Typer()


@app.command(epilog="Example: synthgen fractal --out fractaldb-1k   (the published FractalDB-1k, 1,000,000 images)")
@with_request()
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
    request: Request = Request(),
) -> None:
    """Draw a FractalDB set into verified shards."""
    from synthgen.dataset.generate import existing_plan, generate, open_directory
    from synthgen.dataset.plan import check_request, new_plan
    from synthgen.kinds.fractaldb.content import fractal_stock
    from synthgen.kinds.fractaldb.render import fractal_content, fractal_style, layout
    from synthgen.storage.places import place

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
    say(manifest.made(out, "categories"))


def _categories(text: str, seed: int, sampling: str, old: Plan | None) -> tuple[list[Category], dict[str, Any]]:
    """Categories and where they came from: searched, read from CSVs, or taken from the plan that stands."""
    from synthgen.kinds.fractaldb.content import FractalContent
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
