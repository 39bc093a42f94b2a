"""The protocol of a kind of images, which is all that shards, checks, previews, exports and documents know of it.

A kind is a folder of this package whose ``__init__`` defines ``KIND``; ``known`` lists them.  Nothing outside asks
which kind a set is of: whatever differs is answered by the content, or by the facts for the documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from markupsafe import Markup

if TYPE_CHECKING:
    import typer

    from synthgen.dataset.plan import Plan
    from synthgen.dataset.shard import Item

MAX_IMAGES = 10**9
MAX_SIDE = 4096  # pixels
IMAGE_FORMATS = ("png", "jpg", "webp")
KEYS = "keys have nine digits"  # why there are no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image of a plan."""

    index: int
    key: str  # the name of its files in the shard; no dots
    label: int  # position of its class in the content's class names
    variant: int  # within its class, such as the fractal's instance or the prompt's template


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFormat:
    """The format of a set's image files."""

    ending: str  # png, jpg or webp
    side: int  # width and height in pixels


class Content(Protocol):
    """All that the images of a set depend on: a frozen dataclass that pydantic validates, stored in ``plan.json``.

    Its SHA-256 is the plan's digest, so fields added later follow the rule of ``common.records.added``.  Image i
    depends on it and on i alone.
    """

    kind: ClassVar[str]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names, by label; unique."""
        ...

    @property
    def class_words(self) -> tuple[str, ...] | None:
        """The classes' names in captions, by label; None if they have no other names."""
        ...

    @property
    def n_available(self) -> int:
        """How many images there are, at most MAX_IMAGES."""
        ...

    @property
    def stock(self) -> str:
        """The same in words, such as "20 categories have 20,000 images (25 x 10 x 4 each)"."""
        ...

    @property
    def image(self) -> ImageFormat:
        """The format of every image file."""
        ...

    def problem(self) -> str | None:
        """Which value of a stored content is out of range, beginning with its key; None if all are valid."""
        ...

    def sample(self, index: int) -> Sample:
        """Image ``index``, from 0."""
        ...

    def caption(self, sample: Sample) -> str | None:
        """The text that an image was drawn from; None if there is none."""
        ...

    def record(self, sample: Sample, stored: dict[str, Any]) -> dict[str, Any]:
        """What the plan determines of an image's record beyond key, index, label and class.

        ``stored`` is the stored record, which has what only drawing determines, such as the number of the attempt.
        """
        ...

    def file_stem(self, sample: Sample, folder: str) -> str | None:
        """The name of an image's file in an exported folder, if a published layout has one."""
        ...

    def describe(self) -> str:
        """What made the images, with versions, in one line."""
        ...


def origin_of(content: Content) -> str:
    """What makes a content's images, in words: prompts, model and versions, and the plan's digest."""
    from synthgen.common.records import digest  # loads pydantic, for which `synthgen --help` has no time

    return f"{content.describe()}, plan {digest(content)[:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Renderer:
    """What turns samples into image files."""

    render: Callable[[Iterable[Sample]], Iterator[Item]]  # in the order given
    environment: dict[str, str]  # the versions and settings on which the bytes may depend


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """The terms under which images may be used."""

    identifier: str  # on the Hub
    name: str
    link: str | None
    terms: tuple[Markup, ...]  # paragraphs of Markdown for the card
    warning: Markup | None = None  # for the top of the card


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the documents of a set say about its images; Markup is Markdown whose values are already escaped."""

    title: str  # without the number of images, such as "FractalDB fractals of 20 categories"
    made_by: str  # what drew the images, in words
    introduction: Markup  # after "20 images of 10 classes "
    tags: tuple[str, ...]  # on the Hub
    language: str | None  # of captions
    source_type: str  # of IPTC's digital source types: algorithmicMedia or trainedAlgorithmicMedia
    licence: Licence
    command: tuple[tuple[str, ...], ...]  # the command that makes it, without directory and counts, by option
    provenance: tuple[Markup, ...]  # paragraphs after the command
    rows: tuple[tuple[str, Markup], ...]  # of the table of settings
    columns: dict[str, str]  # the meaning of columns of the metadata table
    biases: tuple[str, ...]
    limits: tuple[str, ...]
    personal: tuple[str, ...]  # on personal data in the images
    citations: tuple[str, ...]  # BibTeX, of the images' origins


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of images."""

    name: str  # in ``plan.json``
    content: Callable[[], type[Any]]  # gives the class of its Content; a function, as pydantic is slow to import
    renderer: Callable[..., Renderer]  # of (plan, *, model, device): draws as the plan's images were drawn
    facts: Callable[[Plan], Facts]
    bytes_per_image: Callable[[Plan], float]  # in a shard, approximately
    commands: Callable[[], typer.Typer]  # that make sets of this kind
    options: frozenset[str] = frozenset()  # of ``model`` and ``device``, those that its renderer takes
    variant: str = "key"  # column of the metadata table that distinguishes images of a class
    variant_words: str = "Image"
