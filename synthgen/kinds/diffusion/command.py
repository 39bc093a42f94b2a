"""The commands that make sets of diffusion images, and check their prompts: sd, prompts check."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import Exit

from synthgen.common.errors import SynthgenError
from synthgen.common.options import local
from synthgen.common.printing import counted, say
from synthgen.engines.options import with_request
from synthgen.engines.request import Request

app = typer.Typer()

SHARD_SIZE = 1000


@app.command(epilog="Example: synthgen sd --prompts prompts/imagenet80.txt --n 150000")
@with_request()
def sd(
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="Prompt file; see synthgen prompts.")] = None,
    n: Annotated[int | None, typer.Option("--n", help="How many images.")] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR|URL", help="Dataset directory, continued if it exists; MODEL-PROMPTS by default."),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Class list; by default that of the prompt file.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="sd14, sd15, sd21, sdxl, sd-turbo, tiny (built in), a Hub id or a local folder; sd15 by default."
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the images and of their order.", show_default="0")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; by default the model's.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale; up to 1 turns guidance off.  By default the model's.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="dpm++, ddim, euler, pndm, unipc, or model (its own).  By default the model's choice."),
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What the images should not show.")] = None,
    size: Annotated[int | None, typer.Option(help="Width and height in pixels; by default the model's.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16; by default the model's.")] = None,
    image_format: Annotated[
        str | None, typer.Option("--format", help="png, jpg or webp; by default the model's.")
    ] = None,
    quality: Annotated[int | None, typer.Option(help="Quality of jpg and webp.", show_default="95")] = None,
    exclude_flagged: Annotated[
        bool | None, typer.Option("--exclude-flagged", help="Redraw images that the model's safety checker flags.")
    ] = None,
    shard_size: Annotated[int | None, typer.Option(help="Images per shard.", show_default=str(SHARD_SIZE))] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images drawn at once; found automatically.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cuda, cuda:1 or cpu; by default all CUDA devices, or the CPU.")
    ] = None,
    request: Request = Request(),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Describe what would be done, and how long it would take.")
    ] = False,
    from_record: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Redraw one image from its record, into the file --out.")
    ] = None,
) -> None:
    """Draw a Stable Diffusion set from a prompt file into verified shards.

    If the set exists, options that are not given keep its values.
    """
    from synthgen.dataset.plan import check_request, new_plan
    from synthgen.engines.generate import stored_plan
    from synthgen.kinds.diffusion.prompts import class_list_path, read_classes, read_prompts
    from synthgen.kinds.diffusion.remake import remake_file
    from synthgen.kinds.diffusion.request import (
        Settings,
        describe,
        diffusion_content,
        make,
        measured_rate,
        settled,
        settled_model,
    )
    from synthgen.storage.places import place

    if from_record is not None:
        if out is None:
            raise SynthgenError("--out FILE is missing; name the image file to write")
        file = Path(out)
        local(file)
        if file.is_dir():
            raise SynthgenError(f"{out}: a folder; name the image file to write")
        if not remake_file(from_record, file, model=model, revision=revision, device=device):
            say(
                f"synthgen: {out}: redrawn, but not with the sha256 in {from_record}: the device or the versions differ"
                " from those that drew the image, or the record was edited",
                file=sys.stderr,
            )
            raise Exit(1)
        say(f"{out}: redrawn from {from_record}")
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
    request.check()
    check_request(n=n, shard_size=SHARD_SIZE if shard_size is None else shard_size)
    old = stored_plan(place(out)) if out else None
    weights = settled_model(model, revision, dtype, old)
    out = out or f"{weights.name.rpartition('/')[2]}-{templates.name}"
    old = old or stored_plan(place(out))
    content = diffusion_content(templates, class_list, weights, settled(settings, old))
    shard_size = shard_size or (old.segments[-1].shard_size if old else SHARD_SIZE)
    origin = {"prompts": prompts.name, "classes": class_file.name}  # without folders, which are private
    plan = new_plan(name="sd", content=content, n=n, shard_size=shard_size, origin=origin)
    if dry_run:
        say(*describe(plan, rate=measured_rate(plan, weights, device=device, batch=batch)))
        return
    with request.ready():
        manifest, failed = make(place(out), plan, weights, device=device, batch=batch, request=request)
    say(manifest.made(out, "class", "classes"))
    if failed:
        say(
            f"synthgen: {counted(len(failed), 'image')} still black, constant, not finite or flagged after all"
            f" attempts, as their records say: {', '.join(failed[:10])}",
            file=sys.stderr,
        )
        raise Exit(1)


prompts = typer.Typer(help="Prompt files and class lists.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(prompts, name="prompts")


@prompts.command("check", epilog="Example: synthgen prompts check prompts/imagenet80.txt")
def prompts_check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Prompt files, or class lists (.tsv).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Check prompt files and their class lists; exit code 1 if one is wrong."""
    from synthgen.kinds.diffusion.prompt_check import check_command

    raise Exit(check_command(files, as_json=as_json))
