"""Images of diffusion models, from prompt files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synthgen.kinds.base import Kind, Renderer

if TYPE_CHECKING:
    import typer

    from synthgen.dataset.plan import Plan
    from synthgen.kinds.base import Facts
    from synthgen.kinds.diffusion.content import DiffusionContent

BYTES_PER_PIXEL = {"png": 1.8, "jpg": 0.5, "webp": 0.3}  # of photographs at quality 95, with a margin
BYTES_OF_RECORD = 6 * 1024


def _content() -> type[DiffusionContent]:
    from synthgen.kinds.diffusion.content import DiffusionContent

    return DiffusionContent


def _renderer(plan: Plan, *, model: str | None = None, device: str | None = None) -> Renderer:
    from synthgen.kinds.diffusion.request import plan_renderer

    return plan_renderer(plan, model=model, device=device)


def _facts(plan: Plan) -> Facts:
    from synthgen.kinds.diffusion.facts import facts

    return facts(plan)


def _bytes_per_image(plan: Plan) -> float:
    image = plan.content.image
    return BYTES_OF_RECORD + BYTES_PER_PIXEL[image.ending] * image.side**2


def _commands() -> typer.Typer:
    from synthgen.kinds.diffusion.command import app

    return app


KIND = Kind(
    name="diffusion",
    content=_content,
    renderer=_renderer,
    facts=_facts,
    bytes_per_image=_bytes_per_image,
    commands=_commands,
    options=frozenset({"model", "device"}),
    variant="template",
    variant_words="Template",
)
