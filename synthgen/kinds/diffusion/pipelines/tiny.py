"""The built-in model, trained on CIFAR-10; see ``kinds.diffusion.tiny``."""

from __future__ import annotations

from synthgen.kinds.diffusion.pipelines.base import LATENT_DIFFUSION, PARTS, Defaults, Pipeline, Preset

NAME = "tiny"
PIPELINE = Pipeline(
    diffusers="StableDiffusionPipeline",
    parts=PARTS,
    presets={
        NAME: Preset(
            hub=None,
            defaults=Defaults(steps=10, guidance=3.0, size=32, dtype="float32", scheduler="dpm++", image_format="png"),
        )
    },
    citation=LATENT_DIFFUSION,
    limits=("The model is small: about one image in five does not show the class that was asked for.",),
    biases=(
        "The model was trained on CIFAR-10 alone and repeats the selection and the mistakes of its 50,000 labelled"
        " photos.",
    ),
)
