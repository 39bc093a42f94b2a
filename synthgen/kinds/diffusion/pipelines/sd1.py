"""Stable Diffusion 1."""

from __future__ import annotations

from synthgen.kinds.diffusion.pipelines.base import LATENT_DIFFUSION, PARTS, STABLE_DIFFUSION, Pipeline, Preset
from synthgen.kinds.licences import openrail

RAIL = openrail(
    identifier="creativeml-openrail-m",
    name="CreativeML Open RAIL-M",
    link="https://huggingface.co/spaces/CompVis/stable-diffusion-license",
)
PIPELINE = Pipeline(
    diffusers="StableDiffusionPipeline",
    parts=PARTS,
    general=STABLE_DIFFUSION,
    presets={
        "sd14": Preset(hub="CompVis/stable-diffusion-v1-4", defaults=STABLE_DIFFUSION),
        "sd15": Preset(hub="stable-diffusion-v1-5/stable-diffusion-v1-5", defaults=STABLE_DIFFUSION),
    },
    licences={
        **{f"CompVis/stable-diffusion-v1-{minor}": RAIL for minor in (1, 2, 3, 4)},
        "runwayml/stable-diffusion-v1-5": RAIL,
        "stable-diffusion-v1-5/stable-diffusion-v1-5": RAIL,
    },
    citation=LATENT_DIFFUSION,
)
