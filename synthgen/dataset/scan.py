"""One look at a shard: its files against the plan and each other, every byte read once."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import IO, TYPE_CHECKING, Any

from synthgen.common.errors import SynthgenError
from synthgen.common.printing import printable
from synthgen.dataset.plan import Plan, ShardSpan
from synthgen.dataset.shard import Item, Shard, data_name, read_items, read_record, record_name, strange, table_name
from synthgen.dataset.tables import check_size
from synthgen.dataset.tar import CHUNK
from synthgen.kinds.base import Sample
from synthgen.storage.reading import open_file, read_file, reading

if TYPE_CHECKING:
    from synthgen.dataset.quality import Looks
    from synthgen.storage.store import Place

TOLD = 5  # of the faults of one tar; more are counted
BATCH = 256  # rows of a table, or images, at once
DECODERS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}  # Pillow's names
GONE = "missing, though other files of its shard stand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something wrong with a dataset directory."""

    name: str  # of the file within the directory, such as "data/x.tar"
    what: str
    shard: int | None = None  # whose file it is

    def __str__(self) -> str:
        return printable(f"{self.name}: {self.what}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What shards are looked at for."""

    directory: Place
    plan: Plan
    digest: str  # the plan's, which takes a while to work out
    quality: bool  # whether to take of each image what quality.py sums up


@dataclass(slots=True, kw_only=True)
class Scanned:
    """What a look at a shard found."""

    faults: list[Fault] = field(default_factory=list)
    record: Shard | None = None  # where there is one of this shard
    row: str | None = None  # in what the table differs from the records in the tar
    sums: dict[str, str] = field(default_factory=dict)  # of tar and table, where they can be read: name -> SHA-256
    keys: list[str] = field(default_factory=list)  # of the images looked at for quality
    looks: list[Looks] = field(default_factory=list)  # of the same images


def scan(job: Job, span: ShardSpan, sizes: dict[str, int], stop: Event | None = None) -> Scanned:
    """Look at a shard, of whose files ``sizes`` has those that stand; ``stop`` ends it with a SynthgenError."""
    found = Scanned()
    if not sizes:
        found.faults.append(Fault(name=data_name(span), what="missing", shard=span.index))
        return found
    rows: Iterator[dict[str, Any]] | None = None
    for name in (data_name(span), record_name(span), table_name(span)):
        try:
            if name not in sizes:
                raise SynthgenError(GONE)
            with reading(job.directory / name):
                if name == record_name(span):
                    found.record = _record(job, span)
                elif name == table_name(span):
                    data = read_file(job.directory / name)
                    found.sums[name] = hashlib.sha256(data).hexdigest()
                    rows = _rows(data, span.stop - span.start)
        except SynthgenError as error:
            told = str(error).removeprefix(f"{job.directory / name}: ")
            found.faults.append(Fault(name=name, what=told, shard=span.index))
    if data_name(span) in sizes:
        _scan_tar(job, span, found, rows, stop)
    return found


def _record(job: Job, span: ShardSpan) -> Shard:
    record = read_record(job.directory / record_name(span))
    if what := strange(record, span, job.digest):
        raise SynthgenError(what)
    return record


def _scan_tar(
    job: Job, span: ShardSpan, found: Scanned, rows: Iterator[dict[str, Any]] | None, stop: Event | None
) -> None:
    name, path = data_name(span), job.directory / data_name(span)
    told: list[str] = []
    batch: list[Item] = []
    try:
        with reading(path), open_file(path) as raw:
            hashed = _Hashed(raw, stop)
            file = io.BufferedReader(hashed, CHUNK)
            try:
                for item, sample in _planned(read_items(file), job.plan, span):
                    told += _item_faults(item, sample, job.plan)
                    if rows is not None and found.row is None:
                        found.row = _row_fault(item, rows)
                    if job.quality and not told:
                        batch.append(item)
                        if len(batch) == BATCH or sample.index == span.stop - 1:
                            _look(path, batch, found)
                            batch = []
            except SynthgenError as error:
                told.append(str(error))
            while file.read(CHUNK):  # what stands after a damage counts for the sum
                pass
        found.sums[name] = hashed.digest.hexdigest()
    except SynthgenError as error:
        told.append(str(error).removeprefix(f"{path}: "))
    if len(told) > TOLD:
        told = [*told[:TOLD], f"and {len(told) - TOLD} faults more"]
    found.faults += [Fault(name=name, what=what, shard=span.index) for what in told]


class _Hashed(io.RawIOBase):
    """A file that is hashed as it is read; an event ends the reading."""

    def __init__(self, file: IO[bytes], stop: Event | None) -> None:
        self._file, self._stop = file, stop
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._stop is not None and self._stop.is_set():
            raise KeyboardInterrupt
        data = self._file.read(len(buffer))
        self.digest.update(data)
        buffer[: len(data)] = data
        return len(data)


def _planned(items: Iterator[Item], plan: Plan, span: ShardSpan) -> Iterator[tuple[Item, Sample]]:
    """Each sample with what is planned in its place; raises SynthgenError where there are more or fewer."""
    index = span.start
    for item in items:
        if index == span.stop:
            raise SynthgenError(f"more samples than the plan's {span.stop - span.start}")
        yield item, plan.sample(index)
        index += 1
    if index < span.stop:
        raise SynthgenError(f"{index - span.start} samples, planned {span.stop - span.start}")


def _item_faults(item: Item, sample: Sample, plan: Plan) -> Iterator[str]:
    if (item.key, item.label) != (sample.key, sample.label):
        yield f"sample {item.key} has label {item.label}, planned {sample.key}: {sample.label}"
    for field_name, planned in _planned_record(plan, sample, item.record).items():
        told = item.record.get(field_name)
        if told != planned:
            yield f"the record of {item.key} has {field_name} {told!r:.50}, planned {planned!r:.50}"
    if hashlib.sha256(item.image).hexdigest() != item.record.get("sha256"):
        yield f"image {item.key} differs from its record"
    if what := image_fault(item.ending, item.image, plan):
        yield f"image {item.key} {what}"


def _planned_record(plan: Plan, sample: Sample, record: dict[str, Any]) -> dict[str, Any]:
    """What the plan says of the record of a sample."""
    content = plan.content
    planned = {
        "key": sample.key,
        "index": sample.index,
        "label": sample.label,
        "class": content.class_names[sample.label],
    }
    return planned | content.record(sample, record)


def image_fault(ending: str, data: bytes, plan: Plan) -> str | None:
    """Why an image file is not one of the plan's kind; its size is known before anything is unpacked."""
    from PIL import Image, UnidentifiedImageError

    planned = plan.content.image
    if ending != planned.ending:
        return f"is a {ending}, planned {planned.ending}"
    try:
        with Image.open(io.BytesIO(data), formats=[DECODERS[ending]]) as image:
            if image.size != (planned.side, planned.side):
                return f"has {image.width} x {image.height} pixels, planned {planned.side} x {planned.side}"
            image.load()
    except UnidentifiedImageError:  # whose text tells of an address in memory
        return f"cannot be decoded (no {DECODERS[ending]})"
    except Exception as error:  # decoders know many ways to stumble over damaged bytes
        return f"cannot be decoded ({' '.join(str(error).split())[:100] or type(error).__name__})"
    return None


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Decoders warn of nothing on stderr: what they warn of follows as a fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _rows(data: bytes, n: int) -> Iterator[dict[str, Any]]:
    """The rows of a metadata table, which is to have ``n``; raises SynthgenError where it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if file.metadata.num_rows != n:
            raise SynthgenError(f"{file.metadata.num_rows} rows, planned {n}")
        check_size(file.metadata)
        return (row for batch in file.iter_batches(BATCH, use_threads=False) for row in batch.to_pylist())
    except SynthgenError:
        raise
    except Exception as error:  # of damaged footers, too
        raise SynthgenError(_unreadable(error)) from None


def _unreadable(error: Exception) -> str:
    return f"cannot be read ({' '.join(str(error).split())[:100]})"


def _row_fault(item: Item, rows: Iterator[dict[str, Any]]) -> str | None:
    """In what the next row differs from a sample's record."""
    try:
        row = next(rows, {})
    except Exception as error:  # of damaged pages
        return _unreadable(error)
    names = [name for name in {**item.record, **row} if item.record.get(name) != row.get(name)]
    if names or row.keys() != item.record.keys():
        return f"the row of {item.key} differs from its record in the tar: {', '.join(names)[:100] or 'columns'}"
    return None


def _look(path: Place, batch: list[Item], found: Scanned) -> None:
    from synthgen.dataset.quality import look

    found.keys += [item.key for item in batch]
    found.looks.append(look(path, batch))
