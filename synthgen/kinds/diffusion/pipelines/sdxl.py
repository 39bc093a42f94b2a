"""Stable Diffusion XL."""

from __future__ import annotations

from dataclasses import replace

from synthgen.kinds.diffusion.pipelines.base import PARTS, STABLE_DIFFUSION, Pipeline, Preset
from synthgen.kinds.licences import openrail

HUB = "stabilityai/stable-diffusion-xl-base-1.0"
# XL's autoencoder overflows in float16.  Its config says so (force_upcast) and diffusers' pipeline then decodes
# in float32; the rest is closer to float32 in float16 than in bfloat16, which has three bits less.
DEFAULTS = replace(STABLE_DIFFUSION, guidance=5.0, size=1024)
PIPELINE = Pipeline(
    diffusers="StableDiffusionXLPipeline",
    parts=(*PARTS, "text_encoder_2", "tokenizer_2"),
    general=DEFAULTS,
    presets={"sdxl": Preset(hub=HUB, defaults=DEFAULTS)},
    licences={
        HUB: openrail(
            identifier="openrail++",
            name="CreativeML Open RAIL++-M",
            link="https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
        )
    },
    citation="""@article{podell2023sdxl,
  title = {{SDXL}: Improving Latent Diffusion Models for High-Resolution Image Synthesis},
  author = {Podell, Dustin and English, Zion and Lacey, Kyle and Blattmann, Andreas and Dockhorn, Tim and
    M{\\"u}ller, Jonas and Penna, Joe and Rombach, Robin},
  journal = {arXiv:2307.01952},
  year = {2023}
}""",
)
