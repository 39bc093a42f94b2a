"""SD-Turbo, distilled from Stable Diffusion 2.1."""

from __future__ import annotations

from dataclasses import replace

from synthgen.kinds.diffusion.pipelines.base import PARTS, STABLE_DIFFUSION, Pipeline, Preset
from synthgen.kinds.licences import limited

HUB = "stabilityai/sd-turbo"
PIPELINE = Pipeline(
    diffusers="StableDiffusionPipeline",
    parts=PARTS,
    presets={
        # Its model card: distilled to one step, without guidance; its own scheduler begins at the last time step.
        "sd-turbo": Preset(hub=HUB, defaults=replace(STABLE_DIFFUSION, steps=1, guidance=0.0, scheduler="model"))
    },
    licences={
        HUB: limited(
            name="stability-ai-community",
            link="https://huggingface.co/stabilityai/sd-turbo/blob/main/LICENSE.md",
        )
    },
    citation="""@article{sauer2023adversarial,
  title = {Adversarial Diffusion Distillation},
  author = {Sauer, Axel and Lorenz, Dominik and Blattmann, Andreas and Rombach, Robin},
  journal = {arXiv:2311.17042},
  year = {2023}
}""",
)
