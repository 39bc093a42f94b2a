"""Which images of one source an arm takes: the variants of ``Select`` are what a suite file may ask for.

A new intervention is a function in ``interventions`` and a variant here, with its line in ``Select``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, get_args

from pydantic import with_config

from synthgen import MAX_IMAGES
from synthgen.common.records import STRICT

from .interventions import diversity, everything, quantity, semantics, subclasses
from .labelling import ClassLabels, Labels
from .selection import SEED, Labelled, Selection
from .taxonomy import Taxonomy
from .variants import Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Relabelled(Variant):
    """A choice of images that may be given other labels."""

    INNER: ClassVar = {"labels": get_args(Labels)}

    labels: Labels = field(default_factory=ClassLabels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything(Relabelled):
    """All images."""

    n: ClassVar[None] = None
    words: ClassVar[str] = ""

    def problems(self) -> Iterator[str]:
        """What is out of range, one line each, beginning with the key."""
        yield from ()

    def of(self, source: Labelled, taxonomy: Callable[[], Taxonomy]) -> Selection:
        """See ``everything``."""
        return everything(source.labels, source.class_names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity(Relabelled):
    """A given number of images, balanced over the classes."""

    TAG = "n"
    words: ClassVar[str] = ""

    n: int  # images, balanced over the classes; all by default

    def problems(self) -> Iterator[str]:
        """What is out of range, one line each, beginning with the key."""
        yield from n_problems(self.n)

    def of(self, source: Labelled, taxonomy: Callable[[], Taxonomy]) -> Selection:
        """See ``quantity``."""
        return quantity(source.labels, source.class_names, self.n, seed=SEED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group(Relabelled):
    """The images of a group of classes."""

    TAG = "group"

    group: str  # animals, objects, artifacts, "LEVEL = LABEL" or "LEVEL != LABEL"
    classes: int | None = None  # classes of the group; all by default
    n: int | None = None  # images; all by default

    def problems(self) -> Iterator[str]:
        """What is out of range, one line each, beginning with the key."""
        yield from n_problems(self.n)
        if self.classes is not None and self.classes < 2:
            yield f"classes: {self.classes}; at least 2"

    @property
    def words(self) -> str:
        """For the description of an arm."""
        return f", {self.group}" + (f", {self.classes} classes" if self.classes else "")

    def of(self, source: Labelled, taxonomy: Callable[[], Taxonomy]) -> Selection:
        """See ``semantics``."""
        return semantics(
            source.labels, source.class_names, taxonomy(), self.group, n_classes=self.classes, n=self.n, seed=SEED
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity(Relabelled):
    """A given factor fewer classes, each with as many times more images."""

    TAG = "diversity"

    diversity: int  # factor by which the classes are fewer, and the images per class more
    n: int  # images, balanced over the classes

    def problems(self) -> Iterator[str]:
        """What is out of range, one line each, beginning with the key."""
        yield from n_problems(self.n)
        if self.diversity < 1:
            yield f"diversity: {self.diversity}; at least 1"

    @property
    def words(self) -> str:
        """For the description of an arm."""
        return f", {self.diversity} times fewer classes"

    def of(self, source: Labelled, taxonomy: Callable[[], Taxonomy]) -> Selection:
        """See ``diversity``."""
        return diversity(source.labels, source.class_names, n=self.n, factor=self.diversity, seed=SEED)


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Thinning:
    """How subclasses are thinned."""

    level: str | int  # level of the taxonomy whose labels are the superclasses and become the labels
    factor: int  # how many times fewer subclasses
    least: int = 1  # superclasses with fewer subclasses are left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Subclasses(Variant):
    """Fewer subclasses under each superclass, as many images in all; the labels are the superclasses."""

    TAG = "subclasses"
    labels: ClassVar[Labels] = ClassLabels()

    subclasses: Thinning  # fewer classes under each label of a level, as many images in all
    n: int  # images, balanced over the labels

    def problems(self) -> Iterator[str]:
        """What is out of range, one line each, beginning with the key."""
        yield from n_problems(self.n)
        for key in ("factor", "least"):
            if getattr(self.subclasses, key) < 1:
                yield f"subclasses.{key}: {getattr(self.subclasses, key)}; at least 1"

    @property
    def words(self) -> str:
        """For the description of an arm."""
        return f", {self.subclasses.factor} times fewer subclasses of level {self.subclasses.level}"

    def of(self, source: Labelled, taxonomy: Callable[[], Taxonomy]) -> Selection:
        """See ``subclasses``."""
        thin, level = self.subclasses, str(self.subclasses.level)
        return subclasses(
            source.labels,
            source.class_names,
            taxonomy(),
            level,
            n=self.n,
            factor=thin.factor,
            least=thin.least,
            seed=SEED,
        )


Select = Everything | Quantity | Group | Diversity | Subclasses


def n_problems(n: int | None) -> Iterator[str]:
    """What is wrong with a number of images, if it is given."""
    if n is not None and not 2 <= n <= MAX_IMAGES:
        yield f"n: {n}; at least 2, to {MAX_IMAGES}"
