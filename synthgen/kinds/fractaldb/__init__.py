"""FractalDB fractals: categories of iterated function systems, drawn as published."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from synthgen.kinds.base import Kind, Renderer

if TYPE_CHECKING:
    import typer

    from synthgen.dataset.plan import Plan
    from synthgen.kinds.base import Facts
    from synthgen.kinds.fractaldb.content import FractalContent


def _content() -> type[FractalContent]:
    from synthgen.kinds.fractaldb.content import FractalContent

    return FractalContent


def _renderer(plan: Plan, *, model: str | None = None, device: str | None = None) -> Renderer:
    from synthgen.kinds.fractaldb.render import fractal_renderer

    return fractal_renderer(cast("FractalContent", plan.content))


def _facts(plan: Plan) -> Facts:
    from synthgen.kinds.fractaldb.facts import facts

    return facts(plan)


def _bytes_per_image(plan: Plan) -> float:
    from synthgen.kinds.fractaldb.render import bytes_per_image

    return bytes_per_image(cast("FractalContent", plan.content), plan.n)


def _commands() -> typer.Typer:
    from synthgen.kinds.fractaldb.command import app

    return app


KIND = Kind(
    name="fractal",
    content=_content,
    renderer=_renderer,
    facts=_facts,
    bytes_per_image=_bytes_per_image,
    commands=_commands,
    variant="weight",
    variant_words="Weight row",
)
