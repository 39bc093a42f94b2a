"""The images that an arm chooses: sources opened, images selected and relabelled, captions read.

Imports no torch, so that looking at a plan is instant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthgen import read_classes
from synthgen.common.errors import SynthgenError

from ..errors import EvaluateError
from .arms import ArmSpec
from .interventions import diversity, everything, mixture, quantity, semantics, subclasses
from .labelling import granularity, neighbour_control, random_control
from .selection import Selection
from .taxonomy import Taxonomy, imagenet1k, read_taxonomy

if TYPE_CHECKING:
    from ..images.sources import ImageSource

SEED = 0  # of every choice: an arm's images are the same for every run


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """The images that an arm pre-trains on, not decoded yet."""

    source: ImageSource
    selection: Selection

    @property
    def identity(self) -> dict[str, Any]:
        """What a run's configuration says of its images."""
        return {
            "source": self.source.identity,
            "selection": self.selection.digest,
            "rule": self.selection.rule,
            "n_images": len(self.selection.indices),
            "n_classes": len(self.selection.class_names),
        }


def choose(arm: ArmSpec, image_size: int) -> Chosen:
    """Open an arm's sources and choose its images; raises EvaluateError where one cannot be read or lacks images."""
    from ..images.sources import Joined, open_source

    sources = [open_source(spec, image_size) for spec in arm.sources]
    source = sources[0] if len(sources) == 1 else Joined(sources)
    return Chosen(source=source, selection=select(arm, sources))


def captions_of(arm: ArmSpec, chosen: Chosen) -> tuple[str, ...]:
    """The text of each image that an arm has chosen, in that order; see ``ImageSource.captions``.

    Raises EvaluateError where a source has no text, or the arm's class list lacks a class.
    """
    try:
        classes = read_classes(Path(arm.captions)) if arm.captions is not None else None
        names = dict(zip(classes.ids, classes.names, strict=True)) if classes else None
        return tuple(chosen.source.captions(chosen.selection.indices, names))
    except (EvaluateError, SynthgenError) as error:
        raise EvaluateError(f"arm {arm.name}: captions: {error}") from None


def select(arm: ArmSpec, sources: Sequence[ImageSource]) -> Selection:
    """The images and labels of an arm, of the joined sources (see sources.Joined) where there are several.

    Raises EvaluateError, naming the arm, where there are too few images or the taxonomy lacks classes.
    """
    try:
        return _relabel(arm, _mix(arm, sources) if arm.mixture else _select(arm, sources[0]))
    except EvaluateError as error:
        raise EvaluateError(f"arm {arm.name}: {error}") from None


def _taxonomy(arm: ArmSpec) -> Taxonomy:
    return imagenet1k() if arm.taxonomy is None else read_taxonomy(Path(arm.taxonomy))


def _select(arm: ArmSpec, source: ImageSource) -> Selection:
    labels, names = source.labels, source.class_names
    if arm.group is not None:
        return semantics(labels, names, _taxonomy(arm), arm.group, n_classes=arm.classes, n=arm.n, seed=SEED)
    if arm.n is None:
        return everything(labels, names)
    if arm.diversity is not None:
        return diversity(labels, names, n=arm.n, factor=arm.diversity, seed=SEED)
    if arm.subclasses is not None:
        thin = arm.subclasses
        level = str(thin.level)
        return subclasses(
            labels, names, _taxonomy(arm), level, n=arm.n, factor=thin.factor, least=thin.least, seed=SEED
        )
    return quantity(labels, names, arm.n, seed=SEED)


def _mix(arm: ArmSpec, sources: Sequence[ImageSource]) -> Selection:
    """Each source's share, balanced over its classes; classes of one name are one class."""
    assert arm.n is not None
    counts = mixture({str(number): part.share for number, part in enumerate(arm.mixture)}, arm.n)
    names = tuple(dict.fromkeys(name for source in sources for name in source.class_names))
    indices, labels, rules, offset = [], [], [], 0
    for count, source in zip(counts.values(), sources, strict=True):
        part = quantity(source.labels, source.class_names, count, seed=SEED)
        own = np.array([names.index(name) for name in part.class_names])
        indices.append(part.indices + offset)
        labels.append(own[part.labels])
        rules.append(part.rule)
        offset += len(source.labels)
    return Selection(
        indices=np.concatenate(indices), labels=np.concatenate(labels), class_names=names, rule=" + ".join(rules)
    )


def _relabel(arm: ArmSpec, selection: Selection) -> Selection:
    if arm.granularity is None:
        return selection
    taxonomy = _taxonomy(arm)
    coarse = granularity(selection, taxonomy, str(arm.granularity))
    if arm.control == "random":
        return random_control(selection, len(coarse.class_names), seed=SEED)
    if arm.control == "neighbours":
        return neighbour_control(selection, len(coarse.class_names), taxonomy)
    return coarse
