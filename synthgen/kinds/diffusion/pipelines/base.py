"""How a family of diffusion models is declared: presets, parts, licence, citation, limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from synthgen.kinds.base import Licence

BIASES = (
    "The images repeat what the model learned from captioned pictures of the web (LAION, mostly English and Western):"
    " its stereotypes of people, places and things, and its preference for centred, well-lit subjects.",
    "The prompts add their own: templates written for ImageNet speak of photos, sketches and toys, not of how often"
    " these occur.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """How a family of models is sampled by default."""

    steps: int
    guidance: float  # scale of classifier-free guidance; 0 for none
    size: int  # pixels, width and height
    dtype: str  # float16, bfloat16 or float32
    scheduler: str  # a name of schedulers.SCHEDULERS, or model: the one in the model's files
    image_format: str  # png, jpg or webp


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A model that has a short name."""

    hub: str | None  # its Hub id; None if built in
    defaults: Defaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A family of models that synthgen draws with."""

    diffusers: str  # class of diffusers, in a model's model_index.json
    parts: tuple[str, ...]  # that every model needs
    presets: Mapping[str, Preset]  # by short name
    general: Defaults | None = None  # for an unknown model of that class; one family per class has them
    licences: Mapping[str, Licence] = field(default_factory=dict)  # by Hub id, as the models' own pages state them
    citation: str  # BibTeX
    limits: tuple[str, ...] = ()  # beyond those of all diffusion models
    biases: tuple[str, ...] = BIASES


PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
LATENT_DIFFUSION = """@inproceedings{rombach2022high,
  title = {High-Resolution Image Synthesis with Latent Diffusion Models},
  author = {Rombach, Robin and Blattmann, Andreas and Lorenz, Dominik and Esser, Patrick and Ommer, Bj{\\"o}rn},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022}
}"""
# Steps: DPM-Solver++ needs 20 to 25 (its documentation in diffusers); guidance: the pipelines' own defaults.
STABLE_DIFFUSION = Defaults(steps=25, guidance=7.5, size=512, dtype="float16", scheduler="dpm++", image_format="jpg")
