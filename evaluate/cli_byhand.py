"""The commands that train one model without a suite: pretrain, finetune."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from synthgen.common.options import AsJson, local
from synthgen.common.printing import say

from .cli_runs import Device
from .errors import EvaluateError
from .tasks.known import kinds

app = typer.Typer()

Architecture = Annotated[str, typer.Option(help="Torchvision's name, timm:NAME or open_clip:NAME.")]
ImageSize = Annotated[int, typer.Option(min=16, max=4096, help="Width and height in pixels.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed.")]
Precision = Annotated[Literal["float32", "bf16", "fp16"], typer.Option(help="Precision of the arithmetic.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; may be repeated.")
]


def known_task(name: str) -> str:
    """Check the name of a task."""
    if name not in kinds():
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(kinds())}")
    return name


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
