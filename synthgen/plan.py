"""What a dataset directory is to hold, shard by shard: pure values, and their file ``plan.json``.

A plan has a content, on which the images depend and whose hash is the plan's digest, and
segments, which say how many of these images are asked for and how they are cut into shards.  A
finished dataset grows by another segment; what stands is never cut anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError, with_config

from synthgen.content import MAX_IMAGES, STRICT, Content, DiffusionContent, FractalContent, Sample
from synthgen.errors import SynthgenError

if TYPE_CHECKING:
    from synthgen.files.places import Place

FORMAT = 1  # of plan.json and of the completion records


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
    content: Content
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
            "kind": self.content.kind,
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
    content: dict[str, Any]


CONTENTS: dict[str, type[FractalContent] | type[DiffusionContent]] = {
    content.kind: content for content in (FractalContent, DiffusionContent)
}


def check_request(
    *, n: int, shard_size: int, n_available: int = MAX_IMAGES, stock: str = "keys have nine digits"
) -> None:
    """Raises SynthgenError where n or shard_size is out of range; ``stock`` says what images there are."""
    if not 1 <= n <= n_available:
        raise SynthgenError(f"n = {n}: {stock}; ask for 1 to {n_available}")
    if shard_size < 1:
        raise SynthgenError(f"shard size {shard_size}: at least 1")


def new_plan(*, name: str, content: Content, n: int, shard_size: int, origin: dict[str, Any]) -> Plan:
    """A plan of one segment.  Raises SynthgenError where n or shard_size is out of range."""
    check_request(n=n, shard_size=shard_size, n_available=content.n_available, stock=content.stock)
    segments = (Segment(start=0, stop=n, shard_size=shard_size),)
    return Plan(name=name, content=content, segments=segments, origin=origin)


def read_plan(path: Place) -> Plan:
    """Read ``plan.json``; raises SynthgenError naming file and key where it is not one."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SynthgenError(f"{path}: {error.strerror or 'cannot be read'}; is this a dataset directory?") from None
    try:
        stored = TypeAdapter(_PlanFile).validate_json(data)
    except ValidationError as error:
        raise SynthgenError(f"{path}: {_told(error, 'the file')}") from None
    if stored.format != FORMAT:
        raise SynthgenError(f"{path}: format {stored.format}; this version reads format {FORMAT}")
    if stored.kind not in CONTENTS:
        raise SynthgenError(f"{path}: kind: {stored.kind!r} is not one of {', '.join(CONTENTS)}")
    try:
        content: Content = TypeAdapter(CONTENTS[stored.kind]).validate_python(stored.content)
    except ValidationError as error:
        raise SynthgenError(f"{path}: content.{_told(error, '')}") from None
    stops = [0, *(segment.stop for segment in stored.segments)]
    if any(
        segment.shard_size < 1 or segment.start != before or segment.stop <= before
        for segment, before in zip(stored.segments, stops, strict=False)
    ):
        raise SynthgenError(f"{path}: segments: they do not follow each other from 0")
    if stored.n != stops[-1] or not 1 <= stored.n <= content.n_available:
        raise SynthgenError(f"{path}: n: {stored.n}; the segments hold {stops[-1]}, of {content.n_available} images")
    plan = Plan(name=stored.name, content=content, segments=stored.segments, origin=stored.origin)
    if plan.digest != stored.digest:
        raise SynthgenError(f"{path}: its content was edited: digest {plan.digest[:16]}, recorded {stored.digest[:16]}")
    return plan


def _told(error: ValidationError, whole: str) -> str:
    """The first finding, with its key."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg']}"


def difference(old: Plan, new: Plan) -> str:
    """In words, the settings in which two plans' contents differ."""
    if old.content.kind != new.content.kind:
        return f"{old.content.kind} images there, {new.content.kind} images asked"
    return "; ".join(_differences("", asdict(old.content), asdict(new.content)))


def _differences(prefix: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for key, value in new.items():
        before = old[key]
        if isinstance(value, dict):
            yield from _differences(f"{prefix}{key}.", before, value)
        elif before != value:
            told = isinstance(value, tuple)
            what = f"{len(before)} there, {len(value)} asked, or others" if told else f"{before} there, {value} asked"
            yield f"{prefix}{key}: {what}"
