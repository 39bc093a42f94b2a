"""One shard: a WebDataset tar, its metadata table and its completion record, which is written last.

A shard is committed or absent: its record is written after its other files, which are complete by then.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import IO, Annotated, Any, TypeVar

from pydantic import Field, with_config

from synthgen.common import records
from synthgen.common.errors import SynthgenError
from synthgen.common.printing import counted
from synthgen.common.records import STRICT
from synthgen.dataset.plan import ShardSpan
from synthgen.dataset.tar import END, IMAGES, member, read_samples
from synthgen.storage import reading
from synthgen.storage.places import store_of
from synthgen.storage.reading import opened
from synthgen.storage.store import Draft, Place

P = TypeVar("P", bound=Place)

LONGEST = 1 << 20  # most bytes of a completion record
LABEL = re.compile(rb"[0-9]{1,9}")  # of a sample, in its cls
Count = Annotated[int, Field(ge=0)]
Checksum = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # SHA-256; it is written into SHA256SUMS


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A completion record: the shard's tar and its metadata table are complete, with these contents."""

    index: Count  # of the shard
    filename: str  # of the tar
    n_samples: Count  # images
    n_bytes: Count  # of the tar
    sha256: Checksum  # of the tar
    table_n_bytes: Count  # of the metadata table
    table_sha256: Checksum  # of the metadata table
    plan_digest: Checksum  # of the plan that it belongs to
    environment: dict[str, str]  # library versions that the bytes may depend on


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A sample as stored in a shard: its image file and its record."""

    key: str
    label: int
    ending: str  # of the image: "png", "jpg" or "webp"
    image: bytes
    record: dict[str, Any]


def data_name(span: ShardSpan) -> str:
    """The name of a shard's tar within its directory."""
    return f"data/{span.stem}.tar"


def record_name(span: ShardSpan) -> str:
    """The name of a shard's completion record within its directory."""
    return f"data/{span.stem}.json"


def table_name(span: ShardSpan) -> str:
    """The name of a shard's metadata table within its directory."""
    return f"metadata/{span.stem}.parquet"


def data_path(directory: P, span: ShardSpan) -> P:
    """The path of a shard's tar."""
    return directory / data_name(span)


def record_path(directory: P, span: ShardSpan) -> P:
    """The path of a shard's completion record."""
    return directory / record_name(span)


def table_path(directory: P, span: ShardSpan) -> P:
    """The path of a shard's metadata table."""
    return directory / table_name(span)


def read_record(path: Place) -> Shard:
    """Read a completion record; raises OSError, or SynthgenError naming file and key if it is not one."""
    return reading.read_record(path, Shard, limit=LONGEST)


def record_text(shard: Shard) -> bytes:
    """The content of a completion record's file."""
    return (json.dumps(asdict(shard), indent=1) + "\n").encode()


def mismatch(shard: Shard, span: ShardSpan, plan_digest: str) -> str | None:
    """How a record differs from what a plan's shard must have; None if it does not."""
    name = data_name(span).partition("/")[2]
    if (shard.index, shard.filename) != (span.index, name):
        return f"it is the record of shard {shard.index}, {shard.filename}"
    if shard.plan_digest != plan_digest:
        return f"of plan {shard.plan_digest[:16]}, not of {plan_digest[:16]}"
    if shard.n_samples != span.stop - span.start:
        return f"records {counted(shard.n_samples, 'image')}; planned {span.stop - span.start}"
    return None


def committed(directory: Place, span: ShardSpan, plan_digest: str) -> Shard | None:
    """The record of a committed shard, which belongs to this plan and has a tar and a table of its sizes beside it."""
    store = store_of(directory)
    try:
        shard = read_record(record_path(directory, span))
    except (FileNotFoundError, SynthgenError):
        return None
    sizes = store.size(data_path(directory, span)), store.size(table_path(directory, span))
    whole = not mismatch(shard, span, plan_digest) and sizes == (shard.n_bytes, shard.table_n_bytes)
    return shard if whole else None


def write_shard(
    directory: P,
    span: ShardSpan,
    items: Iterable[Item],
    *,
    plan_digest: str,
    environment: dict[str, str],
) -> Shard | None:
    """Write one shard; None if another process is writing it or has just finished it.

    Raises SynthgenError if a disk is full, or a folder of the set is a link; nothing half-written is left behind.
    """
    with drafted(directory, span, lambda: committed(directory, span, plan_digest) is not None) as draft:
        if draft is None:
            return None
        shard, rows = write_tar(draft.file, span, items, plan_digest, environment)
        return shard if draft.commit(rows, record_text(shard)) else None


def drafted(directory: P, span: ShardSpan, stands: Callable[[], bool]) -> AbstractContextManager[Draft | None]:
    """A draft of a shard's files, which nothing else writes; see ``Store.draft``.

    Raises SynthgenError if a folder of the set is a link.
    """
    store = store_of(directory)
    tar, table, record = (store.target(directory, name(span)) for name in (data_name, table_name, record_name))
    return store.draft(tar, table, record, stands)


def write_tar(
    file: IO[bytes], span: ShardSpan, items: Iterable[Item], plan_digest: str, environment: dict[str, str]
) -> tuple[Shard, bytes]:
    """Write a tar to an open file; returns its record and its metadata table, which belongs beside it."""
    digest = hashlib.sha256()
    rows = []
    for item in items:
        row = {"key": item.key, **item.record, "sha256": hashlib.sha256(item.image).hexdigest()}
        if row.get("seed") is not None:  # as text: datasets, for one, cannot represent unsigned 64-bit numbers
            row["seed"] = str(row["seed"])
        rows.append(row)
        members = ((item.ending, item.image), ("cls", str(item.label).encode()), ("json", json.dumps(row).encode()))
        block = b"".join(member(f"{item.key}.{ending}", data) for ending, data in members)
        digest.update(block)
        file.write(block)
    digest.update(END)
    file.write(END)
    if len(rows) != span.stop - span.start:
        raise AssertionError(f"{span.stem}: rendered {len(rows)} samples of {span.stop - span.start}")
    table = table_bytes(rows)
    shard = Shard(
        index=span.index,
        filename=f"{span.stem}.tar",
        n_samples=len(rows),
        n_bytes=file.tell(),
        sha256=digest.hexdigest(),
        table_n_bytes=len(table),
        table_sha256=hashlib.sha256(table).hexdigest(),
        plan_digest=plan_digest,
        environment=environment,
    )
    return shard, table


def table_bytes(rows: Sequence[dict[str, Any]]) -> bytes:
    """The metadata table of records, one per row: a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [row[name] for row in rows] for name in rows[0]}
    if "seed" in columns:  # all None if nothing is drawn at random
        columns["seed"] = pa.array(columns["seed"], pa.string())
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue()


def read_items(file: IO[bytes]) -> Iterator[Item]:
    """The samples of an open shard in order; raises SynthgenError, which does not name the file."""
    for sample in read_samples(file):
        ending = next(ending for ending in sample if ending in IMAGES)
        image, label = sample[ending], sample["cls"].data
        if LABEL.fullmatch(label) is None:
            raise SynthgenError(f"sample {image.key}: its cls is {label[:20]!r}, not a label")
        record = records.parsed(sample["json"].data, f"sample {image.key}: its json")
        if not isinstance(record, dict):
            raise SynthgenError(f"sample {image.key}: its json is not a record")
        yield Item(key=image.key, ending=ending, image=image.data, label=int(label), record=record)


def read_shard(path: Place) -> Iterator[Item]:
    """The samples of a shard in order, from an untrusted tar.

    Raises SynthgenError naming the file, and the member, if it is damaged or contains anything else.
    """
    with opened(path) as file:
        yield from read_items(file)


def image_members(path: Place) -> list[tuple[str, int, int]]:
    """Name, offset and size in bytes of each image of a shard, to read them in any order.

    Raises SynthgenError as read_shard does.
    """
    with opened(path) as file:
        return [
            (f"{image.key}.{ending}", image.start, image.size)
            for sample in read_samples(file, skip=True)
            for ending, image in sample.items()
            if ending in IMAGES
        ]
