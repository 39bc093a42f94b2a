"""What the documents of a set say about its diffusion images.

Statements about a model are made only if its name is known; of any other model the documents say that its terms are
not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from markupsafe import Markup

from synthgen.common.markdown import markdown
from synthgen.common.printing import counted
from synthgen.kinds.base import Facts, Licence
from synthgen.kinds.diffusion.content import DiffusionContent
from synthgen.kinds.diffusion.models import is_built_in
from synthgen.kinds.diffusion.pipelines import of_model, tiny
from synthgen.kinds.diffusion.pipelines.base import BIASES, LATENT_DIFFUSION, Pipeline
from synthgen.kinds.licences import apache, unknown

if TYPE_CHECKING:
    from synthgen.dataset.plan import Plan

LIMITS = (
    "A label is the class that the prompt asked for.  Nobody has checked whether the image shows it.",
    "Class names are ambiguous words (a crane is a bird and a machine), and the model takes whichever sense it knows"
    " best.",
    "Two seeds of one prompt can give images that are much alike; near-duplicates are counted, not removed.",
)
PERSONAL = (
    "No personal data was collected.  People in the images were made up by the model; they may resemble real ones,"
    " and models of this kind can repeat images from their training set.",
)
COLUMNS = {
    "class_name": "The class as named in the prompt.",
    "prompt": "The text that the model was given.",
    "template": "Position of the prompt's template in the prompt file.",
    "seed": "Seed of the random numbers that went into the image, in decimal.",
    "fault": "What is wrong with the image; empty if nothing is.",
    "flagged": "Whether the model's safety checker flagged the image.",
}


def facts(plan: Plan) -> Facts:
    """See ``kinds.base.Facts``."""
    content = plan.content
    assert isinstance(content, DiffusionContent)
    known = _pipeline(content)
    return Facts(
        title=(
            f"images of {counted(len(content.classes.ids), 'class', 'classes', form=',')} by"
            f" {content.model.name.rpartition('/')[2]},"
            f" {content.prompts.name}"
        ),
        made_by=f"images of the diffusion model {content.model.name}",
        introduction=markdown(
            "at {size} × {size} pixels, drawn by the diffusion model {model} from text prompts, for pre-training image"
            " models.",
            size=content.sampling.size,
            model=content.model.name,
        ),
        tags=("stable-diffusion", "diffusion"),
        language="en",  # which the models' text encoders read
        source_type="trainedAlgorithmicMedia",
        licence=_licence(content, known),
        command=tuple(_command(content, plan)),
        provenance=tuple(_provenance(plan)),
        rows=tuple(_rows(content)),
        columns=COLUMNS,
        biases=known.biases if known else BIASES,
        limits=LIMITS + (known.limits if known else ()),
        personal=PERSONAL,
        citations=(known.citation if known else LATENT_DIFFUSION,),
    )


def _pipeline(content: DiffusionContent) -> Pipeline | None:
    return tiny.PIPELINE if is_built_in(content.model) else of_model(content.model.name)


def _licence(content: DiffusionContent, known: Pipeline | None) -> Licence:
    name = content.model.name
    if is_built_in(content.model):
        return apache("the program that drew the images and of the model that comes with it")
    if known:
        return known.licences[name]
    return unknown(name, f"https://huggingface.co/{name}" if "/" in name else None)


def _command(content: DiffusionContent, plan: Plan) -> Iterator[tuple[str, ...]]:
    origin, model, sampling = plan.origin, content.model, content.sampling
    yield "synthgen", "sd", "--out", "DIR"
    yield "--prompts", str(origin.get("prompts", f"{content.prompts.name}.txt"))
    yield "--classes", str(origin.get("classes", f"{content.classes.name}.tsv"))
    yield "--model", model.name
    yield "--revision", model.revision
    yield "--seed", str(content.seed)
    yield "--steps", str(sampling.steps)
    yield "--guidance", f"{sampling.guidance:g}"
    yield "--scheduler", sampling.scheduler
    if sampling.negative_prompt:
        yield "--negative-prompt", sampling.negative_prompt
    yield "--size", str(sampling.size)
    yield "--dtype", sampling.dtype
    yield "--format", content.image_format
    yield "--quality", str(content.quality)
    if content.exclude_flagged:
        yield ("--exclude-flagged",)
    if "batch" in origin:
        yield "--batch", str(origin["batch"])


def _provenance(plan: Plan) -> Iterator[Markup]:
    yield markdown(
        "The contents of the prompt file and of the class list are in `plan.json`, and their SHA-256 is below."
    )
    if "batch" not in plan.origin:
        yield markdown("The batch size, on which the last bits depend, is in the images' records.")


def _rows(content: DiffusionContent) -> Iterator[tuple[str, Markup]]:
    model, sampling, prompts = content.model, content.sampling, content.prompts
    variant = f", variant {model.variant}" if model.variant else ""
    yield "model", markdown("{name}{variant}", name=model.name, variant=variant)
    yield "at", markdown("{revision}", revision=model.revision)
    settings = f"{sampling.scheduler}, {sampling.steps} steps, guidance {sampling.guidance:g}, {sampling.dtype}"
    yield "sampling", markdown("{settings}", settings=settings)
    yield "negative prompt", markdown("{prompt}", prompt=sampling.negative_prompt or "none")
    yield (
        "prompts",
        markdown(
            "{name}, version {version}, templates: {n}, such as “{first}”",
            name=prompts.name,
            version=prompts.version,
            n=len(prompts.templates),
            first=prompts.templates[0],
        ),
    )
    yield "their SHA-256", markdown("{sha256}", sha256=prompts.sha256)
    yield (
        "class list",
        markdown(
            "{name}, {n}", name=content.classes.name, n=counted(len(content.classes.ids), "class", "classes", form=",")
        ),
    )
    yield "its SHA-256", markdown("{sha256}", sha256=content.classes.sha256)
    quality = "" if content.image_format == "png" else f", quality {content.quality}"
    yield "files", markdown("{format}{quality}", format=content.image_format, quality=quality)
    yield "seed", markdown("{seed}", seed=content.seed)
