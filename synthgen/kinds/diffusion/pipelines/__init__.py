"""The families of diffusion models that synthgen draws with: one file each, and a line in KNOWN."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from synthgen.kinds.diffusion.pipelines.base import Pipeline, Preset

KNOWN = (
    "sd1",
    "sd2",
    "sdxl",
    "turbo",
    "tiny",
)


@cache
def pipelines() -> tuple[Pipeline, ...]:
    """All families, in the order of KNOWN."""
    return tuple(import_module(f"{__name__}.{name}").PIPELINE for name in KNOWN)


@cache
def presets() -> dict[str, Preset]:
    """The models that have a short name."""
    return {name: preset for pipeline in pipelines() for name, preset in pipeline.presets.items()}


def classes() -> list[str]:
    """The pipeline classes of diffusers that are supported."""
    return list(dict.fromkeys(one.diffusers for one in pipelines()))


def of_class(diffusers: str) -> Pipeline | None:
    """The family whose defaults an unknown model of a pipeline class takes."""
    return next((one for one in pipelines() if one.diffusers == diffusers and one.general), None)


def of_model(hub: str) -> Pipeline | None:
    """The family of a model on the Hub."""
    return next((one for one in pipelines() if hub in one.licences), None)
