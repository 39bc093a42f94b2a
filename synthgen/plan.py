"""What image i is, what shard j holds: pure values, and their file ``plan.json``.

A plan has a content, on which the images depend and whose hash is the plan's digest, and
segments, which say how many of these images are asked for and how they are cut into shards.  A
finished dataset grows by another segment; what stands is never cut anew.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from synthgen.errors import SynthgenError
from synthgen.seeds import derive_seed

FORMAT = 1  # of plan.json and of the completion records
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image of a plan."""

    index: int
    key: str  # the name of its files in the shard; no dots
    label: int  # position of its class in the plan's class names
    instance: int  # number within its class: for fractals, in the published enumeration


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
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def n_available(self) -> int:
        """How many images exist: categories x weight rows x patch draws x flips."""
        weights, patches, flips = self.layout
        return len(self.categories) * weights * patches * flips

    def sample(self, index: int) -> Sample:
        """Image ``index``: weight row by weight row, through the categories in an order permuted by row.

        The pictures of one category and weight row share an orbit and stand together, so any
        number of images is balanced over the categories to within one such group (40 in patch mode).
        """
        _, patches, flips = self.layout
        group = patches * flips
        weight, rest = divmod(index, len(self.categories) * group)
        slot, within = divmod(rest, group)
        label = _permutation(self.seed, weight, len(self.categories))[slot]
        return Sample(index=index, key=f"{index:09d}", label=label, instance=weight * group + within)


@lru_cache(maxsize=64)
def _permutation(seed: int, block: int, n: int) -> list[int]:
    return sorted(range(n), key=lambda item: derive_seed(seed, "order", block, item))


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Samples start..stop - 1, cut into shards of ``shard_size``."""

    start: int
    stop: int
    shard_size: int

    @property
    def n_shards(self) -> int:
        """Shards of this segment; the last may be smaller."""
        return -(-(self.stop - self.start) // self.shard_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSpan:
    """What shard ``index`` holds: samples start..stop - 1."""

    index: int
    stem: str  # of its file names
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a dataset directory is to hold."""

    name: str  # prefix of the shards' file names
    content: FractalContent
    segments: tuple[Segment, ...]
    origin: dict[str, Any] = field(default_factory=dict)  # where the content came from; not part of the digest

    @property
    def digest(self) -> str:
        """The content's digest; n and shard size are not in it."""
        return self.content.digest

    @property
    def n(self) -> int:
        """How many images are asked for."""
        return self.segments[-1].stop

    @property
    def n_shards(self) -> int:
        """How many shards hold them."""
        return sum(segment.n_shards for segment in self.segments)

    def sample(self, index: int) -> Sample:
        """Image ``index``; it depends on the content and the index alone."""
        return self.content.sample(index)

    def shard(self, index: int) -> ShardSpan:
        """Shard ``index``."""
        before = 0
        for segment in self.segments:
            if index < before + segment.n_shards:
                start = segment.start + (index - before) * segment.shard_size
                stop = min(start + segment.shard_size, segment.stop)
                return ShardSpan(index=index, stem=f"{self.name}-train-{index:06d}", start=start, stop=stop)
            before += segment.n_shards
        raise IndexError(f"shard {index}: the plan has {before}")

    def grown(self, n: int, shard_size: int) -> Plan:
        """The plan with ``n`` samples, the new ones in shards of their own.

        Raises SynthgenError where that is fewer than planned: nothing that stands is dropped.
        """
        if n < self.n:
            raise SynthgenError(f"already planned for {self.n} images; asked for {n}: use another --out for fewer")
        if n == self.n:
            return self
        return replace(self, segments=(*self.segments, Segment(start=self.n, stop=n, shard_size=shard_size)))

    def to_json(self) -> str:
        """The text of ``plan.json``."""
        record = {
            "format": FORMAT,
            "kind": "fractal",
            "digest": self.digest,
            "n": self.n,
            "name": self.name,
            "segments": [asdict(segment) for segment in self.segments],
            "origin": self.origin,
            "content": asdict(self.content),
        }
        return json.dumps(record, indent=1) + "\n"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class _PlanFile:
    format: int
    kind: str
    digest: str
    n: int
    name: str
    segments: tuple[Segment, ...]
    origin: dict[str, Any]
    content: FractalContent


def check_request(*, n: int, shard_size: int, n_categories: int, layout: tuple[int, int, int]) -> None:
    """Raises SynthgenError where n or shard_size is out of range."""
    available = n_categories * math.prod(layout)
    if not 1 <= n <= available:
        raise SynthgenError(
            f"n = {n}: {n_categories} categories have {available} images"
            f" ({' x '.join(map(str, layout))} each); ask for 1 to {available}"
        )
    if shard_size < 1:
        raise SynthgenError(f"shard size {shard_size}: at least 1")


def new_plan(*, name: str, content: FractalContent, n: int, shard_size: int, origin: dict[str, Any]) -> Plan:
    """A plan of one segment.  Raises SynthgenError where n or shard_size is out of range."""
    check_request(n=n, shard_size=shard_size, n_categories=len(content.categories), layout=content.layout)
    segments = (Segment(start=0, stop=n, shard_size=shard_size),)
    return Plan(name=name, content=content, segments=segments, origin=origin)


def read_plan(path: Path) -> Plan:
    """Read ``plan.json``; raises SynthgenError naming file and key where it is not one."""
    try:
        stored = TypeAdapter(_PlanFile).validate_json(path.read_bytes())
    except OSError as error:
        raise SynthgenError(f"{path}: {error.strerror}; is this a dataset directory?") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise SynthgenError(f"{path}: {key}: {first['msg']}") from None
    if stored.format != FORMAT:
        raise SynthgenError(f"{path}: format {stored.format}; this version reads format {FORMAT}")
    stops = [0, *(segment.stop for segment in stored.segments)]
    if any(
        segment.shard_size < 1 or segment.start != before or segment.stop <= before
        for segment, before in zip(stored.segments, stops, strict=False)
    ):
        raise SynthgenError(f"{path}: segments: they do not follow each other from 0")
    if stored.n != stops[-1] or not 1 <= stored.n <= stored.content.n_available:
        raise SynthgenError(
            f"{path}: n: {stored.n}; the segments hold {stops[-1]}, of {stored.content.n_available} images"
        )
    plan = Plan(name=stored.name, content=stored.content, segments=stored.segments, origin=stored.origin)
    if plan.digest != stored.digest:
        raise SynthgenError(f"{path}: its content was edited: digest {plan.digest[:16]}, recorded {stored.digest[:16]}")
    return plan


def difference(old: Plan, new: Plan) -> str:
    """In words, the first settings in which two plans' contents differ."""
    words = []
    for key, value in asdict(new.content).items():
        before = getattr(old.content, key)
        if key == "categories":
            if new.content.categories != old.content.categories:
                words.append(f"categories: {len(before)} there, {len(value)} asked, or other parameters")
        elif before != value:
            words.append(f"{key}: {before} there, {value} asked")
    return "; ".join(words)
