"""An arm of a suite: what the models are pre-trained on, as a suite file says it, and the images that this chooses.

Imports no torch, so that looking at a plan is instant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, with_config

from synthgen.content import STRICT

from .errors import EvaluateError
from .interventions import diversity, everything, mixture, quantity, semantics, subclasses
from .labelling import granularity, neighbour_control, random_control
from .selection import Selection
from .taxonomy import Taxonomy, imagenet1k, read_taxonomy

if TYPE_CHECKING:
    from .sources import ImageSource

SEED = 0  # of every choice: an arm's images are the same for every run


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSource:
    """Images in class folders; a path or an fsspec URL such as zip://FOLDER::FILE.zip."""

    kind: Literal["folder"]
    path: str

    def __str__(self) -> str:
        return f"image folder {self.path}"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSource:
    """A finished synthgen dataset directory."""

    kind: Literal["shards"]
    path: str

    def __str__(self) -> str:
        return f"synthgen set {self.path}"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class FractalSource:
    """FractalDB drawn on the fly."""

    kind: Literal["fractals"]
    categories: int | str = 1000  # how many, or a folder of category CSVs
    n: int | None = None  # images; all there are by default
    seed: int = 1
    draw: str = "patch_gray"
    size: int | None = None  # pixels; the suite's image size by default
    points: int = 200_000
    weights: float = 0.4

    def __str__(self) -> str:
        return f"fractals of {self.categories} categories, seed {self.seed}, {self.draw}"


Source = Annotated[FolderSource | ShardSource | FractalSource, Field(discriminator="kind")]


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One source of a mixture."""

    share: float  # of the images
    source: Source


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Thinning:
    """Fewer subclasses under each superclass, as many images in all."""

    level: str | int  # of the taxonomy: the superclasses, which become the labels
    factor: int  # how many times fewer
    least: int = 1  # superclasses with fewer subclasses are left out


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSpec:
    """One condition: what the models are pre-trained on."""

    name: str
    factor: str = "source"
    level: str | None = None  # the arm's name by default
    source: Source | None = None  # without source and mixture: from scratch
    mixture: tuple[Part, ...] = ()  # several sources instead of one
    n: int | None = None  # images, balanced over the classes; all by default
    group: str | None = None  # semantics: animals, objects, artifacts, "LEVEL = LABEL" or "LEVEL != LABEL"
    classes: int | None = None  # of the group; all by default
    diversity: int | None = None  # so many times fewer classes, each with so many times the images
    subclasses: Thinning | None = None
    granularity: str | int | None = None  # the labels of a level of the taxonomy instead of the classes
    control: Literal["random", "neighbours"] | None = None  # as many labels, the classes spread evenly over them
    taxonomy: str | None = None  # a file; ImageNet-1k's by default

    @property
    def pretrains(self) -> bool:
        """Whether there is anything to pre-train on."""
        return self.source is not None or bool(self.mixture)

    def problems(self) -> list[str]:
        """What does not fit together, a line each, beginning with the key."""
        choices = [key for key in ("group", "diversity", "subclasses") if getattr(self, key) is not None]
        wants_n = [key for key in ("mixture", "diversity", "subclasses") if getattr(self, key)]
        given = [key for key in ("n", *choices, "granularity") if getattr(self, key) is not None]
        shares = {str(number): part.share for number, part in enumerate(self.mixture)}
        checks = (
            (not (self.source and self.mixture), "mixture: and a source; give one of the two"),
            (self.pretrains or not given, f"{', '.join(given)}: without a source"),
            (len(choices) < 2, f"{', '.join(choices)}: one of them at a time"),
            (not (self.mixture and choices), f"{', '.join(choices)}: of a mixture; give one source"),
            (not wants_n or self.n is not None, f"{', '.join(wants_n)}: needs n, the number of images in all"),
            (self.classes is None or self.group is not None, "classes: without a group"),
            (self.control is None or self.granularity is not None, "control: without a granularity to stand beside"),
            (not (self.subclasses and self.granularity), "granularity: subclasses have the labels of their level"),
            (self.n is None or self.n >= 2, f"n: {self.n}; at least 2"),
        )
        problems = [text for holds, text in checks if not holds]
        try:
            if self.mixture and self.n:
                mixture(shares, self.n)
        except EvaluateError as error:
            problems.append(f"mixture: {error}")
        return problems

    def describe(self) -> str:
        """The images in words."""
        if not self.pretrains:
            return "no pre-training"
        words = (
            str(self.source) if self.source else " + ".join(f"{part.share:g} {part.source}" for part in self.mixture)
        )
        words += f", {'all' if self.n is None else self.n} images"
        if self.group:
            words += f", {self.group}" + (f", {self.classes} classes" if self.classes else "")
        if self.diversity:
            words += f", {self.diversity} times fewer classes"
        if self.subclasses:
            words += f", {self.subclasses.factor} times fewer subclasses of level {self.subclasses.level}"
        if self.granularity is not None:
            words += f", labels of level {self.granularity}"
            words += f", {self.control} control" if self.control else ""
        return words


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
    from .sources import Joined, open_source

    specs = [part.source for part in arm.mixture] if arm.source is None else [arm.source]
    sources = [open_source(spec, image_size) for spec in specs]
    source = sources[0] if len(sources) == 1 else Joined(sources)
    return Chosen(source=source, selection=select(arm, sources))


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
