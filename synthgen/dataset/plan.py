"""What a dataset directory is to contain, shard by shard: pure values, and their file ``plan.json``.

A plan has a content, which determines the images and whose hash is the plan's digest, and segments, which say how many
of these images are asked for and how they are divided into shards.  A finished dataset grows by another segment;
existing shards are never divided again.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from pydantic import with_config

from synthgen.common.errors import SynthgenError
from synthgen.common.printing import counted
from synthgen.common.records import STRICT, digest, parsed, plain, validated
from synthgen.kinds.base import KEYS, MAX_IMAGES, Content, Kind, Sample
from synthgen.kinds.known import kinds
from synthgen.storage.inside import RULE, fits, fits_stored
from synthgen.storage.reading import read_file

if TYPE_CHECKING:
    from synthgen.storage.store import Place

FORMAT = 1  # of plan.json and of the completion records
LONGEST = 1 << 28  # most bytes of plan.json; 100,000 fractal categories take 80 MB
MAX_SHARDS = 1_000_000
MAX_BATCH = 100_000  # most images that a plan may say were drawn at once


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Samples start..stop - 1, divided into shards of ``shard_size``."""

    start: int  # first sample
    stop: int  # one past the last sample
    shard_size: int  # images per shard; the last may hold fewer

    @property
    def n_shards(self) -> int:
        """The number of shards of this segment; the last may be smaller."""
        return -(-(self.stop - self.start) // self.shard_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSpan:
    """What shard ``index`` contains: samples start..stop - 1."""

    index: int
    stem: str  # of its file names
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a dataset directory is to contain."""

    name: str  # prefix of the shards' file names
    content: Content
    segments: tuple[Segment, ...]
    origin: dict[str, Any] = field(default_factory=dict)  # where the content came from; not part of the digest
    _ends: tuple[int, ...] = field(init=False, repr=False, compare=False)  # shards up to the end of each segment

    digest: str = field(init=False, repr=False, compare=False)  # of the content; n and shard size are not part of it

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", digest(self.content))
        object.__setattr__(self, "_ends", tuple(accumulate(segment.n_shards for segment in self.segments)))

    @property
    def kind(self) -> Kind:
        """The kind of its images."""
        return kinds()[self.content.kind]

    @property
    def n(self) -> int:
        """The number of images asked for."""
        return self.segments[-1].stop

    @property
    def n_shards(self) -> int:
        """The number of shards that contain them."""
        return self._ends[-1]

    def sample(self, index: int) -> Sample:
        """Image ``index``; it depends on the content and the index alone."""
        return self.content.sample(index)

    def shard(self, index: int) -> ShardSpan:
        """Shard ``index``."""
        if not 0 <= index < self.n_shards:
            raise IndexError(f"shard {index}: the plan has {self.n_shards}")
        place = bisect_right(self._ends, index)
        segment = self.segments[place]
        before = self._ends[place] - segment.n_shards
        return self._span(index, segment.start + (index - before) * segment.shard_size, segment)

    def shards(self) -> list[ShardSpan]:
        """All shards, in order."""
        starts = (
            (start, segment)
            for segment in self.segments
            for start in range(segment.start, segment.stop, segment.shard_size)
        )
        return [self._span(index, start, segment) for index, (start, segment) in enumerate(starts)]

    def _span(self, index: int, start: int, segment: Segment) -> ShardSpan:
        stop = min(start + segment.shard_size, segment.stop)
        return ShardSpan(index=index, stem=f"{self.name}-train-{index:06d}", start=start, stop=stop)

    def grown(self, n: int, shard_size: int) -> Plan:
        """The plan with ``n`` samples, the new ones in shards of their own.

        Raises SynthgenError if that is fewer than planned, as existing images are never dropped, or too many shards.
        """
        if n < self.n:
            raise SynthgenError(
                f"already planned for {counted(self.n, 'image')}; asked for {n}: use another --out for fewer"
            )
        if n == self.n:
            return self
        grown = replace(self, segments=(*self.segments, Segment(start=self.n, stop=n, shard_size=shard_size)))
        _check_shards(
            grown.n_shards,
            f"{counted(self.n_shards, 'shard')}, and {counted(n - self.n, 'more image')} at {shard_size} per shard",
        )
        return grown

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
            "content": plain(self.content),
        }
        return json.dumps(record, indent=1) + "\n"


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class _PlanFile:
    """What a set is to hold, as stored."""

    format: int  # version of the file's format
    kind: str  # of images
    digest: str  # SHA-256 of the content as canonical JSON; it names the images
    n: int  # images
    name: str  # prefix of the shards' file names
    segments: tuple[Segment, ...]  # consecutive from sample 0
    origin: dict[str, Any]  # where the content came from; not part of the digest
    content: dict[str, Any]  # all that the images depend on


def check_request(*, n: int, shard_size: int, n_available: int = MAX_IMAGES, stock: str = KEYS) -> None:
    """Raise SynthgenError if n or shard_size is out of range; ``stock`` says what images there are."""
    if not 1 <= n <= n_available:
        raise SynthgenError(f"n = {n}: {stock}; ask for 1 to {n_available}")
    if shard_size < 1:
        raise SynthgenError(f"shard size {shard_size}: at least 1")
    _check_shards(-(-n // shard_size), f"n = {n} in shards of {shard_size}")


def _check_shards(n_shards: int, what: str) -> None:
    if n_shards > MAX_SHARDS:
        raise SynthgenError(
            f"{what}: {n_shards:,} shards; at most {MAX_SHARDS:,} shards, the limit of six-digit names: ask for a"
            " larger --shard-size or fewer images"
        )


def new_plan(*, name: str, content: Content, n: int, shard_size: int, origin: dict[str, Any]) -> Plan:
    """A plan of one segment.  Raises SynthgenError if n or shard_size is out of range, or the name is invalid."""
    if not fits(name):
        raise SynthgenError(f"name {name!a:.80} cannot be used in file names; use {RULE}")
    check_request(n=n, shard_size=shard_size, n_available=content.n_available, stock=content.stock)
    segments = (Segment(start=0, stop=n, shard_size=shard_size),)
    return Plan(name=name, content=content, segments=segments, origin=origin)


def read_plan(path: Place) -> Plan:
    """Read ``plan.json``; raises SynthgenError naming file and key if it is not a plan."""
    try:
        data = read_file(path, limit=LONGEST)
    except OSError as error:
        raise SynthgenError(f"{path}: {error.strerror or 'cannot be read'}; is this a dataset directory?") from None
    stored, found = _plan_file(parsed(data, path), path)
    content: Content = validated(found, kinds()[stored.kind].content(), path, "content")
    if what := content.problem():
        raise SynthgenError(f"{path}: content.{what}")
    segments = stored.segments
    starts = [0, *(segment.stop for segment in segments)]
    for place, (segment, start) in enumerate(zip(segments, starts, strict=False)):
        if segment.shard_size < 1 or segment.start != start or segment.stop <= start:
            raise SynthgenError(f"{path}: segments: they are not consecutive from 0 (see number {place})")
    if stored.n != starts[-1]:
        raise SynthgenError(f"{path}: n: {counted(stored.n, 'image')}; the segments contain {starts[-1]}")
    if not 1 <= stored.n <= content.n_available:
        raise SynthgenError(f"{path}: n: {counted(stored.n, 'image')}; its content describes {content.n_available}")
    plan = Plan(name=stored.name, content=content, segments=segments, origin=stored.origin)
    if plan.n_shards > MAX_SHARDS:
        raise SynthgenError(
            f"{path}: segments: {plan.n_shards:,} shards; at most {MAX_SHARDS:,} shards, the limit of six-digit names"
        )
    if plan.digest != stored.digest:
        raise SynthgenError(f"{path}: its content was edited: digest {plan.digest[:16]}, recorded {stored.digest[:16]}")
    return plan


def _plan_file(found: Any, path: Place) -> tuple[_PlanFile, dict[str, Any]]:
    """The checked keys of a plan file and, separately, its unchecked content; raises SynthgenError."""
    content: dict[str, Any] = {}
    if isinstance(found, dict) and isinstance(found.get("content"), dict):
        found, content = found | {"content": {}}, found["content"]
    if isinstance(found, dict) and found.get("format", FORMAT) != FORMAT:
        raise SynthgenError(f"{path}: format {str(found['format'])[:40]}; this version reads format {FORMAT}")
    stored = validated(found, _PlanFile, path)
    if stored.kind not in kinds():
        raise SynthgenError(f"{path}: kind: {stored.kind[:40]!r} is not one of {', '.join(kinds())}")
    if not fits_stored(stored.name):
        raise SynthgenError(f"{path}: name: {stored.name[:80]!r} cannot be used in file names within the set")
    batch = stored.origin.get("batch", 1)
    if type(batch) is not int or not 1 <= batch <= MAX_BATCH:
        raise SynthgenError(f"{path}: origin.batch: {str(batch)[:40]!r} is not a number from 1 to {MAX_BATCH}")
    return stored, content


def difference(old: Plan, new: Plan) -> str:
    """The settings in which the contents of two plans differ, in words."""
    if old.content.kind != new.content.kind:
        return f"{old.content.kind} images there, {new.content.kind} images asked"
    return "; ".join(_differences("", plain(old.content), plain(new.content)))


def _differences(prefix: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for key, value in new.items():
        before = old[key]
        if isinstance(value, dict):
            yield from _differences(f"{prefix}{key}.", before, value)
        elif before != value:
            listed = isinstance(value, list)
            what = f"{len(before)} there, {len(value)} asked, or others" if listed else f"{before} there, {value} asked"
            yield f"{prefix}{key}: {what}"
