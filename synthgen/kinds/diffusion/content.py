"""What a diffusion image depends on, and which class and prompt image i has: pure values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import with_config

from synthgen.common.records import STRICT
from synthgen.common.seeds import derive_seed
from synthgen.kinds.base import IMAGE_FORMATS, KEYS, MAX_IMAGES, MAX_SIDE, ImageFormat, Sample
from synthgen.kinds.diffusion.prompts import prompt
from synthgen.kinds.order import permuted, walk

DTYPES = ("float32", "float16", "bfloat16")  # of the arithmetic


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """The prompt file."""

    name: str  # from its header
    version: str  # from its header
    sha256: str  # of the file's bytes
    templates: tuple[str, ...]  # each with one {}


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRecord:
    """The class list."""

    name: str  # of the file, without extension
    sha256: str  # of the file's bytes
    ids: tuple[str, ...]  # unique
    names: tuple[str, ...]  # as used in prompts


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

    scheduler: str  # name
    steps: int  # of the scheduler
    guidance: float  # scale of classifier-free guidance; up to 1 means none
    negative_prompt: str  # empty for none
    size: int  # pixels, width and height
    dtype: str  # float32, float16 or bfloat16


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionContent:
    """All that a diffusion image depends on, except the machine; see ``kinds.base.Content``."""

    kind: ClassVar[str] = "diffusion"

    seed: int  # from which the images' seeds follow
    prompts: PromptRecord  # the prompt file
    classes: ClassRecord  # the class list
    model: ModelRecord  # the weights
    sampling: Sampling  # how images are drawn
    image_format: str  # png, jpg or webp
    quality: int  # of jpg and webp
    exclude_flagged: bool  # whether images that the safety checker flags are redrawn

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' ids, by label."""
        return self.classes.ids

    @property
    def class_words(self) -> tuple[str, ...]:
        """The classes' names, by label."""
        return self.classes.names

    @property
    def n_available(self) -> int:
        """As many as a nine-digit key can distinguish."""
        return MAX_IMAGES

    @property
    def stock(self) -> str:
        """The same in words."""
        return KEYS

    @property
    def image(self) -> ImageFormat:
        """See Content."""
        return ImageFormat(ending=self.image_format, side=self.sampling.size)

    def problem(self) -> str | None:
        """Which value of a stored content is out of range, beginning with its key; None if all are valid."""
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
        templates in an order permuted by class, and permuted again on each walk.  So any number of
        images is balanced to within one image over the classes, and within a class over the templates.
        """
        n_classes, n_templates = len(self.classes.ids), len(self.prompts.templates)
        block, slot = divmod(index, n_classes)
        round_, step = divmod(block, n_templates)
        label = permuted(n_classes, self.seed, "classes", block)[slot]
        template = walk(n_templates, self.seed, "templates", label, round_)[step]
        return Sample(index=index, key=f"{index:09d}", label=label, variant=template)

    def caption(self, sample: Sample) -> str:
        """The prompt of a sample."""
        return prompt(self.prompts.templates[sample.variant], self.classes.names[sample.label])

    def image_seed(self, index: int, attempt: int = 0) -> int:
        """The seed of image ``index``, uint64.  Further attempts, such as after a black image, have their own seeds."""
        return derive_seed(self.seed, index, attempt) if attempt else derive_seed(self.seed, index)

    def record(self, sample: Sample, stored: dict[str, Any]) -> dict[str, Any]:
        """See Content; the seed is that of the attempt that the stored record states."""
        attempt = stored.get("attempt")
        return {
            "class_name": self.classes.names[sample.label],
            "prompt": self.caption(sample),
            "template": sample.variant,
            "prompts": self.prompts.name,
            "prompts_version": self.prompts.version,
            "prompts_sha256": self.prompts.sha256,
            "seed": str(self.image_seed(sample.index, attempt if isinstance(attempt, int) and attempt >= 0 else 0)),
            **self.settings(),
        }

    def settings(self) -> dict[str, Any]:
        """What the records of all images have in common."""
        return {
            "model": self.model.name,  # the Hub id, "tiny", or a folder's name
            "revision": self.model.revision,  # commit on the Hub, or "sha256:..." of the files
            "variant": self.model.variant or "",  # of the weight files, such as "fp16"
            "scheduler": self.sampling.scheduler,  # name
            "steps": self.sampling.steps,  # of the scheduler
            "guidance": self.sampling.guidance,  # scale of classifier-free guidance
            "negative_prompt": self.sampling.negative_prompt,  # empty for none
            "size": self.sampling.size,  # width and height in pixels
            "dtype": self.sampling.dtype,  # of the arithmetic
            "format": self.image_format,  # of the image file
            "quality": self.quality,  # of jpg and webp
        }

    def file_stem(self, sample: Sample, folder: str) -> None:
        """None: there is no published layout."""
        return None

    def describe(self) -> str:
        """See Content."""
        return (
            f"diffusion images of {self.model.name} at {self.model.revision[:19]}, prompts {self.prompts.name} version"
            f" {self.prompts.version} ({self.prompts.sha256[:16]}), classes {self.classes.name}"
        )
