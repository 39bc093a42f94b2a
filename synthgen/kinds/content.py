"""What a dataset's images depend on, and what image i is: pure values.

The SHA-256 of a content is the digest of its plan.  There are two kinds, fractals and diffusion
images; each says which class and which variant of it stands at an index, and how many there are.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import ClassVar

from pydantic import ConfigDict, with_config

from synthgen.common.seeds import derive_seed
from synthgen.kinds.diffusion.prompts import prompt

MAX_IMAGES = 10**9  # keys have nine digits
MAX_SIDE = 4096  # pixels
IMAGE_FORMATS = ("png", "jpg", "webp")
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image of a plan."""

    index: int
    key: str  # the name of its files in the shard; no dots
    label: int  # position of its class in the content's class names
    variant: int  # within its class: the fractal instance in the published enumeration, or the prompt template


def _digest(content: object) -> str:
    """SHA-256 of a content as canonical JSON."""
    text = json.dumps(asdict(content), sort_keys=True, separators=(",", ":"))  # type: ignore[call-overload]
    return hashlib.sha256(text.encode()).hexdigest()


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryRecord:
    """One fractal category as stored: rows of a,b,c,d,e,f,p."""

    name: str
    rows: tuple[tuple[float, float, float, float, float, float, float], ...]


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class FractalContent:
    """All that a fractal image depends on."""

    kind: ClassVar[str] = "fractal"

    seed: int  # of the patch masks and of the order of categories
    draw: str  # patch_gray, patch_color, point_gray or point_color
    size: int  # pixels
    n_points: int  # of an orbit
    weight_step: float
    layout: tuple[int, int, int]  # weight rows, patch draws, flips: the instances of a category
    categories: tuple[CategoryRecord, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The categories' names, by label."""
        return tuple(category.name for category in self.categories)

    @property
    def digest(self) -> str:
        """SHA-256 of the content as canonical JSON."""
        return _digest(self)

    @property
    def n_available(self) -> int:
        """How many images exist: categories x weight rows x patch draws x flips."""
        return len(self.categories) * math.prod(self.layout)

    @property
    def stock(self) -> str:
        """The same in words."""
        return fractal_stock(len(self.categories), self.layout)

    def problem(self) -> str | None:
        """Which value of a stored content is out of range, beginning with its key; None where all are right."""
        if not 1 <= self.size <= MAX_SIDE:
            return f"size: {self.size} is not 1 to {MAX_SIDE}"
        if self.n_points < 1:
            return f"n_points: {self.n_points} is not 1 or more"
        if min(self.layout) < 1:
            return f"layout: {list(self.layout)} are not all 1 or more"
        if not self.categories:
            return "categories: there is none"
        empty = next((place for place, category in enumerate(self.categories) if not category.rows), None)
        return None if empty is None else f"categories.{empty}.rows: there is none"

    def sample(self, index: int) -> Sample:
        """Image ``index``: weight row by weight row, through the categories in an order permuted by row.

        The pictures of one category and weight row share an orbit and stand together, so any
        number of images is balanced over the categories to within one such group (40 in patch mode).
        """
        _, patches, flips = self.layout
        group = patches * flips
        weight, rest = divmod(index, len(self.categories) * group)
        slot, within = divmod(rest, group)
        label = _order(len(self.categories), self.seed, "order", weight)[slot]
        return Sample(index=index, key=f"{index:09d}", label=label, variant=weight * group + within)


def fractal_stock(n_categories: int, layout: tuple[int, int, int]) -> str:
    """What images there are of so many categories, in words."""
    each = " x ".join(map(str, layout))
    return f"{n_categories} categories have {n_categories * math.prod(layout)} images ({each} each)"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """The prompt file."""

    name: str
    version: str
    sha256: str
    templates: tuple[str, ...]


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRecord:
    """The class list."""

    name: str
    sha256: str
    ids: tuple[str, ...]  # unique
    names: tuple[str, ...]  # as they stand in prompts


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """The model's weights."""

    name: str  # Hub id, "tiny", or a folder's name
    revision: str  # commit on the Hub, or "sha256:..." of the files
    variant: str | None  # of the weight files, such as "fp16"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How images are drawn from a diffusion model."""

    scheduler: str
    steps: int
    guidance: float  # scale of classifier-free guidance; up to 1 means none
    negative_prompt: str
    size: int  # pixels, width and height
    dtype: str  # float32, float16 or bfloat16


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionContent:
    """All that a diffusion image depends on, but for the machine."""

    kind: ClassVar[str] = "diffusion"

    seed: int
    prompts: PromptRecord
    classes: ClassRecord
    model: ModelRecord
    sampling: Sampling
    image_format: str  # png, jpg or webp
    quality: int  # of jpg and webp
    exclude_flagged: bool  # whether images that the safety checker flags are made again

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' ids, by label."""
        return self.classes.ids

    @property
    def digest(self) -> str:
        """SHA-256 of the content as canonical JSON."""
        return _digest(self)

    @property
    def n_available(self) -> int:
        """As many as a nine-digit key can tell apart."""
        return MAX_IMAGES

    @property
    def stock(self) -> str:
        """The same in words."""
        return "keys have nine digits"

    def problem(self) -> str | None:
        """Which value of a stored content is out of range, beginning with its key; None where all are right."""
        if not self.prompts.templates:
            return "prompts.templates: there is none"
        if not self.classes.ids or len(self.classes.ids) != len(self.classes.names):
            return f"classes: {len(self.classes.ids)} ids and {len(self.classes.names)} names"
        if not 1 <= self.sampling.size <= MAX_SIDE:
            return f"sampling.size: {self.sampling.size} is not 1 to {MAX_SIDE}"
        if self.sampling.steps < 1:
            return f"sampling.steps: {self.sampling.steps} is not 1 or more"
        if self.image_format not in IMAGE_FORMATS:
            return f"image_format: {self.image_format[:40]!r} is not one of {', '.join(IMAGE_FORMATS)}"
        return None if 1 <= self.quality <= 100 else f"quality: {self.quality} is not 1 to 100"

    def sample(self, index: int) -> Sample:
        """Image ``index``: its class and template.

        Blocks of as many consecutive samples as there are classes hold every class once, in an
        order permuted by block.  The k-th sample of a class is in block k; a class walks through the
        templates in an order permuted by class, and permuted anew on each walk.  So any number of
        images is balanced over the classes to one image, and within a class over the templates.
        """
        n_classes, n_templates = len(self.classes.ids), len(self.prompts.templates)
        block, slot = divmod(index, n_classes)
        walk, step = divmod(block, n_templates)
        label = _order(n_classes, self.seed, "classes", block)[slot]
        template = _walk(n_templates, self.seed, label, walk)[step]
        return Sample(index=index, key=f"{index:09d}", label=label, variant=template)

    def prompt(self, sample: Sample) -> str:
        """The text of a sample."""
        return prompt(self.prompts.templates[sample.variant], self.classes.names[sample.label])

    def image_seed(self, index: int, attempt: int = 0) -> int:
        """The seed of image ``index``: uint64.  Further attempts, where one came out black, have seeds of their own."""
        return derive_seed(self.seed, index, attempt) if attempt else derive_seed(self.seed, index)


Content = FractalContent | DiffusionContent


@lru_cache(maxsize=64)  # neighbours share a block
def _order(n: int, *key: int | str) -> tuple[int, ...]:
    return tuple(sorted(range(n), key=lambda item: derive_seed(*key, item)))


@lru_cache(maxsize=1 << 15)  # one a class is in use at a time: ImageNet-21k with 80 templates takes 25 MB
def _walk(n: int, seed: int, label: int, walk: int) -> tuple[int, ...]:
    return tuple(sorted(range(n), key=lambda item: derive_seed(seed, "templates", label, walk, item)))
