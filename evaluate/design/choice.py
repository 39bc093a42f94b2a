"""The images that an arm chooses: sources opened, images selected and relabelled, captions read.

Imports no torch, so that showing a plan is instant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthgen import read_classes
from synthgen.common.errors import SynthgenError

from ..errors import EvaluateError
from .arms import ArmSpec
from .selection import Labelled, Selection

if TYPE_CHECKING:
    from ..images.sources import ImageSource


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """The images that an arm pre-trains on, not decoded yet."""

    source: ImageSource
    selection: Selection

    @property
    def identity(self) -> dict[str, Any]:
        """The description of its images in a run's configuration."""
        return {
            "source": self.source.identity,
            "selection": self.selection.digest,
            "rule": self.selection.rule,
            "n_images": len(self.selection.indices),
            "n_classes": len(self.selection.class_names),
        }


def choose(arm: ArmSpec, image_size: int) -> Chosen:
    """Open an arm's sources and choose its images; raises EvaluateError if one cannot be read or lacks images."""
    from ..images.sources import Joined, open_source

    assert arm.pretraining is not None
    sources = [open_source(spec, image_size) for spec in arm.pretraining.sources]
    source = sources[0] if len(sources) == 1 else Joined(sources)
    return Chosen(source=source, selection=select(arm, sources))


def captions_of(arm: ArmSpec, chosen: Chosen) -> tuple[str, ...]:
    """The text of each image that an arm has chosen, in that order; see ``ImageSource.captions``.

    Raises EvaluateError if a source has no text, or the arm's class list lacks a class.
    """
    assert arm.pretraining is not None
    path = arm.pretraining.captions
    try:
        classes = read_classes(Path(path)) if path is not None else None
        names = dict(zip(classes.ids, classes.names, strict=True)) if classes else None
        return tuple(chosen.source.captions(chosen.selection.indices, names))
    except (EvaluateError, SynthgenError) as error:
        raise EvaluateError(f"arm {arm.name}: captions: {error}") from None


def select(arm: ArmSpec, sources: Sequence[Labelled]) -> Selection:
    """The images and labels of an arm, of the joined sources (see sources.Joined) if there are several.

    Raises EvaluateError, naming the arm, if there are too few images or the taxonomy lacks classes.
    """
    assert arm.pretraining is not None
    try:
        return arm.pretraining.selection(sources)
    except EvaluateError as error:
        raise EvaluateError(f"arm {arm.name}: {error}") from None
