"""One pass over a shard: its files are checked against the plan and each other, and every byte is read once."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Event
from typing import IO, TYPE_CHECKING, Any

from synthgen.common.errors import SynthgenError
from synthgen.common.printing import counted, printable
from synthgen.dataset.image_file import image_defect
from synthgen.dataset.plan import Plan, ShardSpan
from synthgen.dataset.shard import Item, Shard, data_name, mismatch, read_items, read_record, record_name, table_name
from synthgen.dataset.tables import check_size
from synthgen.dataset.tar import CHUNK
from synthgen.kinds.base import Sample
from synthgen.storage.reading import open_file, read_file, reading

if TYPE_CHECKING:
    from synthgen.dataset.quality import Looks
    from synthgen.storage.store import Place

LISTED = 5  # defects listed per tar; the rest are counted
BATCH = 256  # rows of a table, or images, at once
GONE = "missing, though other files of its shard are there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """Something wrong with a dataset directory."""

    name: str  # of the file within the directory, such as "data/x.tar"
    what: str
    shard: int | None = None  # index of the shard that the file belongs to

    def __str__(self) -> str:
        return printable(f"{self.name}: {self.what}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to check shards against."""

    directory: Place
    plan: Plan
    digest: str  # of the plan; slow to compute
    quality: bool  # whether to collect what quality.py summarises from each image


@dataclass(slots=True, kw_only=True)
class Scanned:
    """The result of scanning a shard."""

    defects: list[Defect] = field(default_factory=list)
    record: Shard | None = None  # if there is a valid one for this shard
    row: str | None = None  # how the table differs from the records in the tar
    sums: dict[str, str] = field(default_factory=dict)  # of tar and table, if they can be read: name -> SHA-256
    keys: list[str] = field(default_factory=list)  # of the images examined for quality
    looks: list[Looks] = field(default_factory=list)  # of the same images


def scan(job: Job, span: ShardSpan, sizes: dict[str, int], stop: Event | None = None) -> Scanned:
    """Check a shard; ``sizes`` has its existing files, name -> bytes.

    Setting ``stop`` ends the scan with KeyboardInterrupt.
    """
    found = Scanned()
    if not sizes:
        found.defects.append(Defect(name=data_name(span), what="missing", shard=span.index))
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
            what = str(error).removeprefix(f"{job.directory / name}: ")
            found.defects.append(Defect(name=name, what=what, shard=span.index))
    if data_name(span) in sizes:
        _scan_tar(job, span, found, rows, stop)
    return found


def _record(job: Job, span: ShardSpan) -> Shard:
    record = read_record(job.directory / record_name(span))
    if what := mismatch(record, span, job.digest):
        raise SynthgenError(what)
    return record


def _scan_tar(
    job: Job, span: ShardSpan, found: Scanned, rows: Iterator[dict[str, Any]] | None, stop: Event | None
) -> None:
    name, path = data_name(span), job.directory / data_name(span)
    wrong: list[str] = []
    batch: list[Item] = []
    try:
        with reading(path), open_file(path) as raw:
            hashed = _Hashed(raw, stop)
            file = io.BufferedReader(hashed, CHUNK)
            try:
                for item, sample in _planned(read_items(file), job.plan, span):
                    wrong += _item_defects(item, sample, job.plan)
                    if rows is not None and found.row is None:
                        found.row = _row_defect(item, rows)
                    if job.quality and not wrong:
                        batch.append(item)
                        if len(batch) == BATCH or sample.index == span.stop - 1:
                            _look(path, batch, found)
                            batch = []
            except SynthgenError as error:
                wrong.append(str(error))
            while file.read(CHUNK):  # the checksum covers what follows the damage, too
                pass
        found.sums[name] = hashed.digest.hexdigest()
    except SynthgenError as error:
        wrong.append(str(error).removeprefix(f"{path}: "))
    if len(wrong) > LISTED:
        wrong = [*wrong[:LISTED], f"and {counted(len(wrong) - LISTED, 'more defect')}"]
    found.defects += [Defect(name=name, what=what, shard=span.index) for what in wrong]


class _Hashed(io.RawIOBase):
    """A file that is hashed as it is read; setting the event ends reading with KeyboardInterrupt."""

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
    """Each sample with the planned one; raises SynthgenError if there are more or fewer than planned."""
    index = span.start
    for item in items:
        if index == span.stop:
            raise SynthgenError(f"more samples than the plan's {span.stop - span.start}")
        yield item, plan.sample(index)
        index += 1
    if index < span.stop:
        raise SynthgenError(f"{counted(index - span.start, 'sample')}, planned {span.stop - span.start}")


def _item_defects(item: Item, sample: Sample, plan: Plan) -> Iterator[str]:
    if (item.key, item.label) != (sample.key, sample.label):
        yield f"sample {item.key} has label {item.label}, planned {sample.key}: {sample.label}"
    for field_name, planned in _planned_record(plan, sample, item.record).items():
        stored = item.record.get(field_name)
        if stored != planned:
            yield f"the record of {item.key} has {field_name} {stored!r:.50}, planned {planned!r:.50}"
    if hashlib.sha256(item.image).hexdigest() != item.record.get("sha256"):
        yield f"image {item.key} differs from its record"
    if what := image_defect(item.ending, item.image, plan.content.image):
        yield f"image {item.key} {what}"


def _planned_record(plan: Plan, sample: Sample, record: dict[str, Any]) -> dict[str, Any]:
    """What the plan says about a sample's record."""
    content = plan.content
    planned = {
        "key": sample.key,
        "index": sample.index,
        "label": sample.label,
        "class": content.class_names[sample.label],
    }
    return planned | content.record(sample, record)


def _rows(data: bytes, n: int) -> Iterator[dict[str, Any]]:
    """The rows of a metadata table, which must have ``n``; raises SynthgenError if it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if file.metadata.num_rows != n:
            raise SynthgenError(f"{counted(file.metadata.num_rows, 'row')}, planned {n}")
        check_size(file.metadata)
        return (row for batch in file.iter_batches(BATCH, use_threads=False) for row in batch.to_pylist())
    except SynthgenError:
        raise
    except Exception as error:  # also for damaged footers
        raise SynthgenError(_unreadable(error)) from None


def _unreadable(error: Exception) -> str:
    return f"cannot be read ({' '.join(str(error).split())[:100]})"


def _row_defect(item: Item, rows: Iterator[dict[str, Any]]) -> str | None:
    """How the next row differs from a sample's record; None if it does not."""
    try:
        row = next(rows, {})
    except Exception as error:  # for damaged pages
        return _unreadable(error)
    names = [name for name in {**item.record, **row} if item.record.get(name) != row.get(name)]
    if names or row.keys() != item.record.keys():
        return f"the row of {item.key} differs from its record in the tar: {', '.join(names)[:100] or 'columns'}"
    return None


def _look(path: Place, batch: list[Item], found: Scanned) -> None:
    from synthgen.dataset.quality import look

    found.keys += [item.key for item in batch]
    found.looks.append(look(path, batch))
