"""An arm of a suite: what the models are pre-trained on, as a suite file says it.

Imports no torch, so that looking at a plan is instant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, with_config

from synthgen import MAX_IMAGES
from synthgen.common.records import STRICT

from ..errors import EvaluateError
from .interventions import mixture

if TYPE_CHECKING:
    pass

NO_LABELS = ("simclr", "image-text")  # objectives that look at no labels
ARCHITECTURE = "{architecture}"  # in the name of a checkpoint
SIZES = (16, 4096)  # pixels of an image; what fractals are drawn at
POINTS = 2**27 - 1  # of an orbit; as fractaldb.render has it, whose import would take as long as all else of a plan
WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5)  # published steps, likewise
MOST_CATEGORIES = 100_000  # twice as many as the largest published set of fractals has
LARGEST_SEED = 2**32 - 1  # that a category search takes
CHECKPOINTS = {  # by the word before the colon, what comes after it; without such a word it is a file
    "torchvision": (".+", "WEIGHTS"),
    "timm": (".+", "NAME.TAG"),
    "open_clip": (".+/.+", "NAME/PRETRAINED"),
}


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSource:
    """Images in class folders; a path or an fsspec URL such as zip://FOLDER::FILE.zip."""

    kind: Literal["folder"]  # of the source
    path: str  # a folder or a URL
    depth: Annotated[int, Field(ge=1, le=32)] = 1  # folders whose names make a class; 2 for iNaturalist 2017 to 2019

    def __str__(self) -> str:
        return f"image folder {self.path}"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSource:
    """A finished synthgen dataset directory, or its URL."""

    kind: Literal["shards"]  # of the source
    path: str  # a folder or a URL

    def __str__(self) -> str:
        return f"synthgen set {self.path}"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class FractalSource:
    """FractalDB drawn on the fly."""

    kind: Literal["fractals"]  # of the source
    categories: int | str = 1000  # how many, or a folder of category CSVs
    n: int | None = None  # images; all that exist by default
    seed: int = 1  # of the category search and the patch masks
    draw: Literal["patch_gray", "patch_color", "point_gray", "point_color"] = "patch_gray"  # type of drawing
    size: int | None = None  # pixels; the suite's image size by default
    points: int = 200_000  # of an orbit
    weights: float = 0.4  # step of the weight table

    def problems(self) -> list[str]:
        """What is out of range, a line each, beginning with the key."""
        n = self.categories if isinstance(self.categories, int) else 1
        checks = (
            (1 <= n <= MOST_CATEGORIES, f"categories: {n}; 1 to {MOST_CATEGORIES}, or a folder"),
            (self.n is None or 1 <= self.n <= MAX_IMAGES, f"n: {self.n}; 1 to {MAX_IMAGES}"),
            (0 <= self.seed <= LARGEST_SEED, f"seed: {self.seed}; 0 to {LARGEST_SEED}"),
            (self.size is None or SIZES[0] <= self.size <= SIZES[1], f"size: {self.size} px; {SIZES[0]} to {SIZES[1]}"),
            (1 <= self.points <= POINTS, f"points: {self.points}; 1 to {POINTS}"),
            (self.weights in WEIGHTS, f"weights: {self.weights}; one of {', '.join(map(str, WEIGHTS))}"),
        )
        return [text for holds, text in checks if not holds]

    def __str__(self) -> str:
        return f"fractals of {self.categories} categories, seed {self.seed}, {self.draw}"


Source = Annotated[FolderSource | ShardSource | FractalSource, Field(discriminator="kind")]


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One source of a mixture."""

    share: float  # of the images
    source: Source  # where they come from


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
    """One condition: what the models are pre-trained on, and how where it is not as the suite says."""

    name: str  # unique in the suite
    factor: str = "source"  # what the arm varies; tests are corrected within a factor
    level: str | None = None  # the arm's name by default
    source: Source | None = None  # without source, mixture and checkpoint: from scratch
    mixture: tuple[Part, ...] = ()  # several sources instead of one
    n: int | None = None  # images, balanced over the classes; all by default
    group: str | None = None  # semantics: animals, objects, artifacts, "LEVEL = LABEL" or "LEVEL != LABEL"
    classes: int | None = None  # of the group; all by default
    diversity: int | None = None  # factor by which classes are fewer, and images per class more
    subclasses: Thinning | None = None  # fewer classes under each label of a level, as many images in all
    granularity: str | int | None = None  # the labels of a level of the taxonomy instead of the classes
    control: Literal["random", "neighbours"] | None = None  # as many labels, the classes spread evenly over them
    taxonomy: str | None = None  # a file; ImageNet-1k's by default
    captions: str | None = None  # image-text: a class list, whose names are the text of an image folder
    pretrain: Mapping[str, Any] = field(default_factory=dict)  # keys of the suite's recipe that differ here
    checkpoint: str | None = None  # weights from outside instead of pre-training; {architecture} is replaced
    architectures: tuple[str, ...] = ()  # the suite's by default

    @property
    def pretrains(self) -> bool:
        """Whether there is anything to pre-train on."""
        return self.source is not None or bool(self.mixture)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources of its images: none, one, or a mixture's."""
        return tuple(part.source for part in self.mixture) if self.source is None else (self.source,)

    def checkpoint_of(self, architecture: str) -> str | None:
        """The outside weights that an architecture starts from."""
        return None if self.checkpoint is None else self.checkpoint.replace(ARCHITECTURE, architecture)

    def problems(self, objective: str = "supervised") -> list[str]:
        """What does not fit together, a line each, beginning with the key; ``objective`` is its pre-training's."""
        choices = [key for key in ("group", "diversity", "subclasses") if getattr(self, key) is not None]
        wants_n = [key for key in ("mixture", "diversity", "subclasses") if getattr(self, key)]
        keys = ("n", *choices, "granularity", "taxonomy", "captions", "pretrain")
        given = [key for key in keys if getattr(self, key) not in (None, {})]
        thin = self.subclasses
        shares = {str(number): part.share for number, part in enumerate(self.mixture)}
        unfounded = "with a checkpoint, which stands instead of pre-training" if self.checkpoint else "without a source"
        checks = (
            (not (self.source and self.mixture), "mixture: and a source; give one of the two"),
            (not (self.checkpoint and self.pretrains), "checkpoint: and a source; give one of the two"),
            (self.pretrains or not given, f"{', '.join(given)}: {unfounded}"),
            (len(choices) < 2, f"{', '.join(choices)}: one of them at a time"),
            (not (self.mixture and choices), f"{', '.join(choices)}: of a mixture; give one source"),
            (not wants_n or self.n is not None, f"{', '.join(wants_n)}: needs n, the number of images in all"),
            (self.classes is None or self.group is not None, "classes: without a group"),
            (self.control is None or self.granularity is not None, "control: without a granularity to stand beside"),
            (not (self.subclasses and self.granularity), "granularity: subclasses have the labels of their level"),
            (self.n is None or 2 <= self.n <= MAX_IMAGES, f"n: {self.n}; at least 2, to {MAX_IMAGES}"),
            (self.classes is None or self.classes >= 2, f"classes: {self.classes}; at least 2"),
            (self.diversity is None or self.diversity >= 1, f"diversity: {self.diversity}; at least 1"),
            (thin is None or thin.factor >= 1, f"subclasses.factor: {thin and thin.factor}; at least 1"),
            (thin is None or thin.least >= 1, f"subclasses.least: {thin and thin.least}; at least 1"),
            (
                len(set(self.architectures)) == len(self.architectures),
                f"architectures: {list(self.architectures)} repeats one",
            ),
        )
        problems = [text for holds, text in checks if not holds]
        for source in self.sources:
            if isinstance(source, FractalSource):
                problems += [f"{'mixture' if self.mixture else 'source'}: {words}" for words in source.problems()]
        try:
            if self.mixture and self.n:
                mixture(shares, self.n)
        except EvaluateError as error:
            problems.append(f"mixture: {error}")
        return [*problems, *_of_objective(self, objective), *_of_checkpoint(self.checkpoint)]

    def describe(self) -> str:
        """The images, and the objective where it is the arm's own, in words."""
        if not self.pretrains:
            return f"weights {self.checkpoint}" if self.checkpoint else "no pre-training"
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
        if "objective" in self.pretrain:
            words += f", {self.pretrain['objective']}"
        return words + (f", captions from {self.captions}" if self.captions else "")


def _of_objective(arm: ArmSpec, objective: str) -> Iterator[str]:
    """What of an arm does not suit the objective of its pre-training."""
    kinds = {source.kind for source in arm.sources}
    if objective in NO_LABELS:
        for key in ("granularity", "control"):
            if getattr(arm, key) is not None:
                yield f"{key}: {objective} looks at no labels"
    if objective == "image-text":
        if "fractals" in kinds:
            yield f"{'mixture' if arm.mixture else 'source'}: fractals have no text"
        if "folder" in kinds and arm.captions is None:
            yield "captions: an image folder has no text of its own; name a class list (id, name)"
        if kinds == {"shards"} and arm.captions is not None:
            yield "captions: of image folders; a synthgen set has its prompts"
    elif arm.captions is not None and arm.pretrains:
        yield f'captions: {objective} reads no text; set pretrain = {{ objective = "image-text" }}'


def _of_checkpoint(checkpoint: str | None) -> Iterator[str]:
    """What is wrong with the name of outside weights."""
    if checkpoint is None:
        return
    kind, _, name = checkpoint.partition(":")
    pattern, form = CHECKPOINTS.get(kind, (".*", ""))
    if not checkpoint or not re.fullmatch(pattern, name):
        yield f"checkpoint: {checkpoint!r} names no weights; write {f'{kind}:{form}' if form else 'a file'}"
    elif "{" in checkpoint.replace(ARCHITECTURE, ""):
        yield f"checkpoint: {checkpoint!r}; {ARCHITECTURE} alone is replaced"
