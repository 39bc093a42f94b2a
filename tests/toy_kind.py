"""A kind of images for tests, as a stranger might add one: plain squares, whose class is their shade."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from PIL import Image
from pydantic import with_config

from synthgen.common.markdown import markdown
from synthgen.common.options import Out
from synthgen.common.records import STRICT
from synthgen.common.seeds import derive_seed
from synthgen.dataset.plan import Plan, new_plan
from synthgen.dataset.shard import Item
from synthgen.engines.options import with_request
from synthgen.engines.request import Request
from synthgen.kinds.base import Facts, ImageFormat, Kind, Renderer, Sample
from synthgen.kinds.licences import apache


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class SquareContent:
    """All that a square depends on."""

    kind: ClassVar[str] = "square"

    seed: int
    shades: tuple[str, ...]
    size: int

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.shades

    @property
    def class_words(self) -> None:
        return None

    @property
    def n_available(self) -> int:
        return 1000 * len(self.shades)

    @property
    def stock(self) -> str:
        return f"{len(self.shades)} shades have 1000 squares each"

    @property
    def image(self) -> ImageFormat:
        return ImageFormat(ending="png", side=self.size)

    def problem(self) -> str | None:
        return None if self.shades and 1 <= self.size <= 4096 else "size: 1 to 4096, and some shades"

    def sample(self, index: int) -> Sample:
        variant, label = divmod(index, len(self.shades))
        return Sample(index=index, key=f"{index:09d}", label=label, variant=variant)

    def caption(self, sample: Sample) -> str:
        return f"a {self.shades[sample.label]} square"

    def record(self, sample: Sample, stored: dict[str, Any]) -> dict[str, Any]:
        return {"noise": derive_seed(self.seed, sample.index) % 16}

    def file_stem(self, sample: Sample, folder: str) -> str:
        return f"{folder}-{sample.variant:04d}"

    def describe(self) -> str:
        return f"squares of {len(self.shades)} shades, seed {self.seed}"


def render(content: SquareContent, samples: Iterable[Sample]) -> Iterator[Item]:
    """Draw squares; a fault may be planted by the environment."""
    for sample in samples:
        if sample.index in map(int, os.environ.get("TOY_FAULT", "").split()):
            raise KeyError(f"oops {os.environ.get('TOY_SECRET', '')}")
        noise = content.record(sample, {})["noise"]
        level = (sample.label * 255 // len(content.shades)) + noise
        image = Image.new("RGB", (content.size, content.size), (level, level, 255 - level))
        image.putpixel((sample.variant % content.size, sample.variant // content.size % content.size), (255, 0, 0))
        file = io.BytesIO()
        image.save(file, "png")
        record = {"index": sample.index, "label": sample.label, "class": content.shades[sample.label], "noise": noise}
        yield Item(key=sample.key, label=sample.label, ending="png", image=file.getvalue(), record=record)


def renderer(plan: Plan, *, model: str | None = None, device: str | None = None) -> Renderer:
    """See Kind."""
    assert isinstance(plan.content, SquareContent)
    return Renderer(render=partial(render, plan.content), environment={"pillow": "any"})


def facts(plan: Plan) -> Facts:
    """See Kind."""
    content = plan.content
    assert isinstance(content, SquareContent)
    return Facts(
        title=f"squares of {len(content.shades)} shades",
        made_by="plain squares",
        introduction=markdown("at {size} × {size} pixels, each of one shade.", size=content.size),
        tags=("squares",),
        language="en",
        source_type="algorithmicMedia",
        licence=apache("the program that drew the images"),
        command=(("synthgen", "square", "--out", "DIR"), ("--size", str(content.size))),
        provenance=(),
        rows=(("shades", markdown("{shades}", shades=", ".join(content.shades))),),
        columns={"noise": "What was added to the shade."},
        biases=("There is nothing but shades.",),
        limits=("Squares are not natural images.",),
        personal=("The images contain no personal data.",),
        citations=(),
    )


app = typer.Typer()


@app.command(epilog="Example: synthgen square --out squares")
@with_request()
def square(
    out: Out = "squares",
    n: Annotated[int, typer.Option("--n", help="How many images.")] = 12,
    size: Annotated[int, typer.Option(help="Width and height in pixels.")] = 16,
    shard_size: Annotated[int, typer.Option(help="Images per shard.")] = 5,
    request: Request = Request(),
) -> None:
    """Draw squares."""
    from synthgen.engines.generate import generate, open_directory
    from synthgen.storage.places import place

    content = SquareContent(seed=1, shades=("dark", "middle", "light"), size=size)
    where = place(out)
    open_directory(where, new_plan(name="square", content=content, n=n, shard_size=shard_size, origin={}))
    print(generate(where, engine=request.find(request.cores()), share=request.share).made(out, "shade", "shades"))


KIND = Kind(
    name="square",
    content=lambda: SquareContent,
    renderer=renderer,
    facts=facts,
    bytes_per_image=lambda plan: 1000.0,
    commands=lambda: app,
)


def main() -> None:
    """The command ``synthgen`` with this kind, too."""
    from synthgen.kinds import known

    known.KNOWN.append(__name__ if __name__ != "__main__" else Path(__file__).stem)
    from synthgen import cli

    cli.main()


if __name__ == "__main__":
    import toy_kind  # under its own name, by which workers find it

    toy_kind.main()
