"""An arm of a suite: what the models are pre-trained on.

In a suite file an arm is one table of flat keys.  In memory it has a variant of each of three unions, each of which
can only hold keys that go together: ``weights`` (none, external, or pre-trained on a source or a
mixture), and in those that are pre-trained ``select`` (which images) and ``labels``.  ``variants`` says how the
keys become variants.  Imports no torch, so that showing a plan is instant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_args

from pydantic import ValidationError, with_config
from pydantic_core import PydanticCustomError

from synthgen.common.records import STRICT

from ..errors import EvaluateError
from .interventions import mix, mixture
from .labelling import ClassLabels, Labels
from .select import Everything, Select, n_problems
from .selection import SEED, Labelled, Selection
from .sources import FractalSource, Source
from .taxonomy import Taxonomy, imagenet1k, read_taxonomy
from .variants import Variant, below, keys_of, read

NO_LABELS = ("simclr", "image-text")  # objectives that use no labels
ARCHITECTURE = "{architecture}"  # in the name of a checkpoint
CHECKPOINTS = {  # what comes after the colon, by the word before it; without such a word it is a file
    "torchvision": (".+", "WEIGHTS"),
    "timm": (".+", "NAME.TAG"),
    "open_clip": (".+/.+", "NAME/PRETRAINED"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch(Variant):
    """No pre-training."""

    def problems(self, objective: str) -> Iterator[str]:
        """None."""
        yield from ()

    def describe(self) -> str:
        """In words."""
        return "no pre-training"


@dataclass(frozen=True, slots=True, kw_only=True)
class External(Variant):
    """External weights instead of pre-training."""

    TAG = "checkpoint"

    checkpoint: str  # name of the weights; {architecture} is replaced

    def problems(self, objective: str) -> Iterator[str]:
        """What is wrong with the name, beginning with the key."""
        kind, _, name = self.checkpoint.partition(":")
        pattern, form = CHECKPOINTS.get(kind, (".*", ""))
        if not self.checkpoint or not re.fullmatch(pattern, name):
            yield f"checkpoint: {self.checkpoint!r} names no weights; write {f'{kind}:{form}' if form else 'a file'}"
        elif "{" in self.checkpoint.replace(ARCHITECTURE, ""):
            yield f"checkpoint: {self.checkpoint!r}; only {ARCHITECTURE} is replaced"

    def describe(self) -> str:
        """In words."""
        return f"weights {self.checkpoint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained(Variant):
    """What pre-training on one source and on a mixture have in common."""

    taxonomy: str | None = None  # a file; ImageNet-1k's by default
    captions: str | None = None  # image-text: a class list, whose names are the text of an image folder
    pretrain: Mapping[str, Any] = field(default_factory=dict)  # keys of the suite's recipe that differ here

    def open_taxonomy(self) -> Taxonomy:
        """The taxonomy of labels and groups."""
        return imagenet1k() if self.taxonomy is None else read_taxonomy(Path(self.taxonomy))

    def own_words(self) -> str:
        """The objective, if the arm has its own, and the captions."""
        words = f", {self.pretrain['objective']}" if "objective" in self.pretrain else ""
        return words + (f", captions from {self.captions}" if self.captions else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class FromSource(Pretrained):
    """Pre-trained on images of one source."""

    TAG = "source"
    INNER: ClassVar = {"select": get_args(Select)}

    source: Source  # its images
    select: Select = field(default_factory=Everything)

    @property
    def sources(self) -> tuple[Source, ...]:
        """Its one source."""
        return (self.source,)

    @property
    def n(self) -> int | None:
        """The number of images, if it is given."""
        return self.select.n

    @property
    def labels(self) -> Labels:
        """The labels of the selected images."""
        return self.select.labels

    def problems(self, objective: str) -> Iterator[str]:
        """What does not fit together, one line each, beginning with the key."""
        yield from self.select.problems()
        yield from _of_sources(self, objective)

    def describe(self) -> str:
        """In words."""
        n = "all" if self.n is None else self.n
        return f"{self.source}, {n} images{self.select.words}{self.labels.words}{self.own_words()}"

    def selection(self, sources: Sequence[Labelled]) -> Selection:
        """The images of the opened source and their labels."""
        return self.labels.of(self.select.of(sources[0], self.open_taxonomy), self.open_taxonomy)


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One source of a mixture."""

    share: float  # share of the images
    source: Source  # where they come from


@dataclass(frozen=True, slots=True, kw_only=True)
class FromMixture(Pretrained):
    """Pre-trained on several sources, each with its share of ``n`` images."""

    TAG = "mixture"
    INNER: ClassVar = {"labels": get_args(Labels)}

    mixture: tuple[Part, ...]  # several sources instead of one
    n: int  # images in all
    labels: Labels = field(default_factory=ClassLabels)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources of its parts."""
        return tuple(part.source for part in self.mixture)

    def counts(self) -> tuple[int, ...]:
        """Images of each part; raises EvaluateError if the shares do not make up a whole."""
        return tuple(mixture({str(number): part.share for number, part in enumerate(self.mixture)}, self.n).values())

    def problems(self, objective: str) -> Iterator[str]:
        """What does not fit together, one line each, beginning with the key."""
        yield from n_problems(self.n)
        try:
            self.counts()
        except EvaluateError as error:
            yield f"mixture: {error}"
        yield from _of_sources(self, objective)

    def describe(self) -> str:
        """In words."""
        parts = " + ".join(f"{part.share:g} {part.source}" for part in self.mixture)
        return f"{parts}, {self.n} images{self.labels.words}{self.own_words()}"

    def selection(self, sources: Sequence[Labelled]) -> Selection:
        """The images of the joined sources and their labels (see images.sources.Joined)."""
        return self.labels.of(mix(sources, self.counts(), seed=SEED), self.open_taxonomy)


Weights = Scratch | External | FromSource | FromMixture


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSpec(Variant):
    """One condition: what the models are pre-trained on, and how this differs from the suite."""

    INNER: ClassVar = {"weights": get_args(Weights)}

    name: str  # unique in the suite
    factor: str = "source"  # what the arm varies; tests are corrected within a factor
    level: str | None = None  # value of the factor; the arm's name by default
    weights: Weights = field(default_factory=Scratch)
    architectures: tuple[str, ...] = ()  # architectures to train; the suite's by default

    @property
    def pretraining(self) -> FromSource | FromMixture | None:
        """What it is pre-trained on, if anything."""
        return self.weights if isinstance(self.weights, FromSource | FromMixture) else None

    @property
    def checkpoint(self) -> str | None:
        """External weights, as the suite file names them."""
        return self.weights.checkpoint if isinstance(self.weights, External) else None

    def checkpoint_of(self, architecture: str) -> str | None:
        """The external weights that an architecture starts from."""
        return None if self.checkpoint is None else self.checkpoint.replace(ARCHITECTURE, architecture)

    def problems(self, objective: str = "supervised") -> list[str]:
        """What does not fit together, one line each, beginning with the key; ``objective`` is that of pre-training."""
        problems = list(self.weights.problems(objective))
        if len(set(self.architectures)) < len(self.architectures):
            problems.append(f"architectures: {list(self.architectures)} repeats one")
        return problems


def read_arms(tables: object) -> tuple[ArmSpec, ...]:
    """The arms of a suite file, from its tables; raises the errors of pydantic's validators."""
    if not isinstance(tables, list):
        raise PydanticCustomError("list_type", "Input should be a valid array")
    return tuple(_read_arm(number, table) for number, table in enumerate(tables))


def _read_arm(number: int, table: object) -> ArmSpec:
    if not isinstance(table, dict):
        raise PydanticCustomError("dict_type", "{number}: Input should be a table", {"number": number})
    try:
        return read(ArmSpec, table)
    except ValidationError as error:
        raise below(error, number) from None
    except EvaluateError as error:
        name = table.get("name", number)
        raise PydanticCustomError("arm", "{told}", {"told": f"{name}: {error}"}) from None


def _of_sources(arm: FromSource | FromMixture, objective: str) -> Iterator[str]:
    """What is out of range in an arm's sources, and what does not suit the objective."""
    kinds = {source.kind for source in arm.sources}
    for source in arm.sources:
        if isinstance(source, FractalSource):
            yield from (f"{arm.TAG}: {words}" for words in source.problems())
    if objective in NO_LABELS:
        yield from (f"{key}: {objective} uses no labels" for key in keys_of(type(arm.labels)))
    if objective == "image-text":
        if "fractals" in kinds:
            yield f"{arm.TAG}: fractals have no text"
        if "folder" in kinds and arm.captions is None:
            yield "captions: an image folder has no text of its own; name a class list (id, name)"
        if kinds == {"shards"} and arm.captions is not None:
            yield "captions: only for image folders; a synthgen set has its prompts"
    elif arm.captions is not None:
        yield f'captions: {objective} uses no text; set pretrain = {{ objective = "image-text" }}'
