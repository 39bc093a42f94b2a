"""The commands that make fractal sets: fractal, fractal-search."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synthgen.common.errors import SynthgenError
from synthgen.common.options import Out, local
from synthgen.common.printing import counted, say
from synthgen.engines.options import with_request
from synthgen.engines.request import Request

if TYPE_CHECKING:
    from fractaldb.ifs import Category
    from fractaldb.render import Style
    from synthgen.dataset.plan import Plan

app = typer.Typer()

NUMBER = re.compile("[0-9]{1,9}")  # of categories; other words name a folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of a set; None means the value of the set already at the output, if any, else the default."""

    categories: str | None = None  # a number, or a folder of CSVs
    n: int | None = None
    seed: int | None = None
    draw: str | None = None
    size: int | None = None
    points: int | None = None
    weights: float | None = None
    sampling: str | None = None
    shard_size: int | None = None

    def settled(self, old: Plan | None) -> Asked:
        """Fill in missing options from an existing set, else from the defaults."""
        from synthgen.kinds.fractaldb.content import FractalContent

        before = DEFAULTS
        if old is not None and isinstance(old.content, FractalContent):
            content, found = old.content, str(old.origin.get("categories"))
            before = Asked(
                categories=found if NUMBER.fullmatch(found) else None,
                n=old.n,
                seed=content.seed,
                draw=content.draw,
                size=content.size,
                points=content.n_points,
                weights=content.weight_step,
                sampling=old.origin.get("sampling", "published"),
                shard_size=old.segments[-1].shard_size,
            )
        names = [one.name for one in fields(self)]
        given = {name: getattr(self, name) for name in names}
        return Asked(**{name: getattr(before, name) if value is None else value for name, value in given.items()})


DEFAULTS = Asked(
    categories="1000",
    seed=1,
    draw="patch_gray",
    size=362,
    points=200_000,
    weights=0.4,
    sampling="published",
    shard_size=4000,
)


@app.command(epilog="Example: synthgen fractal --out fractaldb-1k   (the published FractalDB-1k, 1,000,000 images)")
@with_request()
def fractal(
    out: Out = "fractals",
    categories: Annotated[
        str | None,
        typer.Option(
            metavar="N|DIR",
            help="How many categories to search for, or a folder of category CSVs.",
            show_default=DEFAULTS.categories,
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="How many images; by default all that there are.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of the category search and the patch masks; 1 is FractalDB-1k's.",
            show_default=str(DEFAULTS.seed),
        ),
    ] = None,
    draw: Annotated[
        str | None,
        typer.Option(help="patch_gray, patch_color, point_gray or point_color.", show_default=DEFAULTS.draw),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Width and height in pixels.", show_default=str(DEFAULTS.size))
    ] = None,
    points: Annotated[int | None, typer.Option(help="Points per orbit.", show_default=str(DEFAULTS.points))] = None,
    weights: Annotated[
        float | None,
        typer.Option(help="Step of the weight table: 0.1, 0.2, 0.3, 0.4 or 0.5.", show_default=str(DEFAULTS.weights)),
    ] = None,
    sampling: Annotated[
        str | None,
        typer.Option(
            help="published (the search by filling rate) or svd (contracting systems).", show_default=DEFAULTS.sampling
        ),
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option(help="Images per shard.", show_default=str(DEFAULTS.shard_size))
    ] = None,
    request: Request = Request(),
) -> None:
    """Draw a FractalDB set into verified shards.  If the set exists, options that are not given keep its values."""
    from synthgen.dataset.plan import new_plan
    from synthgen.engines.generate import existing_plan, generate, open_directory
    from synthgen.kinds.fractaldb.render import fractal_content
    from synthgen.storage.places import place

    request.check()
    asked = Asked(
        categories=categories,
        n=n,
        seed=seed,
        draw=draw,
        size=size,
        points=points,
        weights=weights,
        sampling=sampling,
        shard_size=shard_size,
    )
    _check(asked.settled(None))  # what can be checked without reading the output, perhaps from a store
    with request.ready():
        where = place(out)
        old = existing_plan(where)
        asked, style = asked.settled(old), _check(asked.settled(old))
        assert asked.seed is not None
        assert asked.shard_size is not None
        chosen, origin = _categories(asked, old)
        content = fractal_content(chosen, seed=asked.seed, style=style)
        plan = new_plan(
            name="fractal",
            content=content,
            n=content.n_available if asked.n is None else asked.n,
            shard_size=asked.shard_size,
            origin=origin,
        )
        cores = request.cores()
        open_directory(where, plan, workers=len(cores))
        manifest = generate(where, engine=request.find(cores), share=request.share)
    say(manifest.made(out, "category", "categories"))


def _check(asked: Asked) -> Style:
    """Check settled options and return their style; raises SynthgenError if one is out of range.

    A category search takes minutes, so whatever it is needed for is checked first.
    """
    from synthgen.dataset.plan import check_request
    from synthgen.kinds.fractaldb.content import fractal_stock
    from synthgen.kinds.fractaldb.render import fractal_style, layout

    assert asked.draw is not None
    assert asked.size is not None
    assert asked.points is not None
    assert asked.weights is not None
    assert asked.shard_size is not None
    style = fractal_style(draw=asked.draw, size=asked.size, points=asked.points, weights=asked.weights)
    n_categories = _number(asked.categories)
    if n_categories:
        each = layout(style)
        check_request(
            n=1 if asked.n is None else asked.n,
            shard_size=asked.shard_size,
            n_available=n_categories * math.prod(each),
            stock=fractal_stock(n_categories, each),
        )
    return style


def _categories(asked: Asked, old: Plan | None) -> tuple[list[Category], dict[str, Any]]:
    """Categories and their origin: taken from the existing plan, found by a search, or read from CSVs."""
    from synthgen.kinds.fractaldb.content import FractalContent
    from synthgen.kinds.fractaldb.render import category_of, find_categories, read_category_folder

    assert asked.seed is not None
    assert asked.sampling is not None
    text, n = asked.categories, _number(asked.categories)
    origin = {"categories": n, "seed": asked.seed, "sampling": asked.sampling}
    same = text is None or (n is not None and old is not None and old.origin == origin)
    if old is not None and isinstance(old.content, FractalContent) and same:
        return [category_of(record) for record in old.content.categories], old.origin
    assert text is not None
    if n is None:
        if asked.sampling != "published":
            raise SynthgenError(
                f"--sampling {asked.sampling}: the categories come from {text}; give a number of categories"
            )
        return read_category_folder(Path(text)), {"folder": Path(text).name}
    return find_categories(n, seed=asked.seed, sampling=asked.sampling), origin


def _number(categories: str | None) -> int | None:
    return int(categories) if categories and NUMBER.fullmatch(categories) else None


@app.command(epilog="Example: synthgen fractal-search --out categories   (the published 1,000, number for number)")
def fractal_search(
    out: Annotated[Path, typer.Option(help="Folder for one CSV per category; must be new or empty.", callback=local)],
    categories: Annotated[int, typer.Option(help="How many categories.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the search; 1 is the published one.")] = 1,
    sampling: Annotated[
        str, typer.Option(help="published (the search by filling rate) or svd (contracting systems).")
    ] = "published",
) -> None:
    """Search for fractal categories and write them as CSV files in the published format."""
    from synthgen.kinds.fractaldb.render import find_categories, write_categories

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SynthgenError(f"{out}: exists and is not an empty folder; choose another --out")
    write_categories(out, find_categories(categories, seed=seed, sampling=sampling))
    say(f"{out}: {counted(categories, 'category', 'categories')} of seed {seed}")
