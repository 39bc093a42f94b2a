"""FractalDB fractals: categories of iterated function systems, drawn as published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synthgen.kinds.base import Kind, Renderer
from synthgen.kinds.fractaldb.content import FractalContent

if TYPE_CHECKING:
    import typer

    from synthgen.dataset.plan import Plan
    from synthgen.kinds.base import Facts


def _renderer(plan: Plan, *, model: str | None = None, device: str | None = None) -> Renderer:
    from synthgen.kinds.fractaldb.render import fractal_renderer

    assert isinstance(plan.content, FractalContent)
    return fractal_renderer(plan.content)


def _facts(plan: Plan) -> Facts:
    from synthgen.kinds.fractaldb.facts import facts

    return facts(plan)


def _bytes_per_image(plan: Plan) -> float:
    from synthgen.kinds.fractaldb.render import bytes_per_image

    assert isinstance(plan.content, FractalContent)
    return bytes_per_image(plan.content, plan.n)


def _commands() -> typer.Typer:
    from synthgen.kinds.fractaldb.command import app

    return app


KIND = Kind(
    content=FractalContent,
    renderer=_renderer,
    facts=_facts,
    bytes_per_image=_bytes_per_image,
    commands=_commands,
    variant="weight",
    variant_words="Weight row",
)
