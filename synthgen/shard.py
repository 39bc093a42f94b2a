"""One shard: a WebDataset tar, its metadata table and its completion record, written last.

A shard is committed or absent.  The tar is written beside its place, flushed to disk and
renamed; the record comes after it.  Whoever writes a shard holds a lock on the unfinished file,
so several processes can work on one directory, and a killed one leaves only an unlocked orphan.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError, with_config

from synthgen.content import STRICT
from synthgen.errors import SynthgenError
from synthgen.plan import ShardSpan

IMAGE_ENDINGS = (".png", ".jpg", ".webp")


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A completion record: the shard's tar stands whole, with these contents."""

    index: int
    filename: str
    n_samples: int
    n_bytes: int
    sha256: str
    plan_digest: str
    environment: dict[str, str]  # library versions that the bytes may depend on


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A sample as it stands in a shard: its image file and its record."""

    key: str
    label: int
    ending: str  # of the image: "png", "jpg" or "webp"
    image: bytes
    record: dict[str, Any]


def data_path(directory: Path, span: ShardSpan) -> Path:
    """Where a shard's tar stands."""
    return directory / "data" / f"{span.stem}.tar"


def record_path(directory: Path, span: ShardSpan) -> Path:
    """Where a shard's completion record stands."""
    return directory / "data" / f"{span.stem}.json"


def table_path(directory: Path, span: ShardSpan) -> Path:
    """Where a shard's metadata table stands."""
    return directory / "metadata" / f"{span.stem}.parquet"


def read_record(path: Path) -> Shard:
    """Read a completion record; raises SynthgenError naming file and key where it is not one."""
    try:
        return TypeAdapter(Shard).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise SynthgenError(f"{path}: {key}: {first['msg']}") from None


def committed(directory: Path, span: ShardSpan, plan_digest: str) -> Shard | None:
    """The record of a shard that stands: of this plan and place, its table and a tar of its size beside it."""
    try:
        shard = read_record(record_path(directory, span))
        size = data_path(directory, span).stat().st_size
    except (FileNotFoundError, SynthgenError):
        return None
    whole = (
        shard.plan_digest == plan_digest
        and (shard.index, shard.filename) == (span.index, data_path(directory, span).name)
        and shard.n_samples == span.stop - span.start
        and shard.n_bytes == size
        and table_path(directory, span).exists()
    )
    return shard if whole else None


@contextmanager
def claimed(path: Path) -> Iterator[IO[bytes] | None]:
    """Hold the unfinished file of ``path`` for writing; None where another process holds it.

    On leaving, what was not renamed into place is removed.
    """
    part = path.with_name(path.name + ".tmp")
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab+") as file:
        if not _lock(part, file):
            yield None
            return
        file.truncate(0)
        try:
            yield file
        finally:
            if _is(part, file):
                part.unlink()


def remove_orphans(directory: Path) -> None:
    """Remove the unfinished files that killed processes left in a folder."""
    for part in directory.glob("*.tmp"):
        with suppress(FileNotFoundError), part.open("rb") as file:
            if _lock(part, file):
                part.unlink()


def _lock(path: Path, file: IO[bytes]) -> bool:
    """Whether we now hold the lock of a file that still has its name (its last owner may have finished)."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return _is(path, file)


def _is(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def write_shard(
    directory: Path,
    span: ShardSpan,
    items: Iterable[Item],
    *,
    plan_digest: str,
    environment: dict[str, str],
) -> Shard | None:
    """Write one shard; None where another process is at it or has just finished it.

    Raises SynthgenError where the device is full; nothing half-written is left.
    """
    path = data_path(directory, span)
    try:
        with claimed(path) as file:
            if file is None or committed(directory, span, plan_digest):
                return None
            record_path(directory, span).unlink(missing_ok=True)  # of a tar that is damaged or gone
            rows, digest = _write_tar(file, items)
            if len(rows) != span.stop - span.start:
                raise AssertionError(f"{path}: rendered {len(rows)} samples of {span.stop - span.start}")
            shard = Shard(
                index=span.index,
                filename=path.name,
                n_samples=len(rows),
                n_bytes=file.tell(),
                sha256=digest,
                plan_digest=plan_digest,
                environment=environment,
            )
            file.flush()
            os.fsync(file.fileno())
            write_atomically(table_path(directory, span), _table(rows))
            os.replace(file.name, path)
            _sync_directory(path.parent)
            write_atomically(record_path(directory, span), (json.dumps(asdict(shard), indent=1) + "\n").encode())
            return shard
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SynthgenError(
                f"no space left on the device at {path}; the finished shards stand: free some space and run again"
            ) from None
        raise


def _write_tar(file: IO[bytes], items: Iterable[Item]) -> tuple[list[dict[str, Any]], str]:
    digest = hashlib.sha256()
    rows = []
    for item in items:
        row = {"key": item.key, **item.record, "sha256": hashlib.sha256(item.image).hexdigest()}
        if row.get("seed") is not None:  # as text: datasets, for one, cannot hold numbers of 64 bits
            row["seed"] = str(row["seed"])
        rows.append(row)
        members = ((item.ending, item.image), ("cls", str(item.label).encode()), ("json", json.dumps(row).encode()))
        block = b"".join(_member(f"{item.key}.{ending}", data) for ending, data in members)
        digest.update(block)
        file.write(block)
    end = bytes(2 * tarfile.BLOCKSIZE)
    digest.update(end)
    file.write(end)
    return rows, digest.hexdigest()


def _blank_header() -> bytes:
    info = tarfile.TarInfo("")
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


BLANK = _blank_header()  # of an empty member without a name: fixed times and owners
BLANK_SUM = sum(BLANK[:148]) + sum(b" " * 8) + sum(BLANK[156:]) - sum(BLANK[124:136])


def _member(name: str, data: bytes) -> bytes:
    """A tar member (ustar; a name of at most 100 bytes) of which only name, size and content vary.

    Fills tarfile's own header in, which is three times as fast as making each anew.
    """
    stem = name.encode()
    assert len(stem) <= 100
    size = b"%011o\0" % len(data)
    checksum = b"%06o\0 " % (BLANK_SUM + sum(stem) + sum(size))
    header = stem.ljust(100, b"\0") + BLANK[100:124] + size + BLANK[136:148] + checksum + BLANK[156:]
    return header + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _table(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [row[name] for row in rows] for name in rows[0]}
    if "seed" in columns:  # None throughout, where nothing is drawn at random
        columns["seed"] = pa.array(columns["seed"], pa.string())
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; of several writers, the last one's content stands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with claimed(path) as file:
            if file is None:
                time.sleep(0.01)
                continue
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
            _sync_directory(path.parent)
            return


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_shard(path: Path) -> Iterator[Item]:
    """The samples of a shard in order; raises SynthgenError naming the file where it is damaged."""
    try:
        with tarfile.open(path, "r:") as tar:
            parts: dict[str, bytes] = {}
            key = ""
            for member in tar:
                file = tar.extractfile(member)
                if file is None:
                    raise SynthgenError(f"{path}: member {member.name!r} is not a plain file")
                stem, _, ending = member.name.partition(".")
                if parts and stem != key:
                    yield _item(path, key, parts)
                    parts = {}
                key = stem
                parts[ending] = file.read()
            if parts:
                yield _item(path, key, parts)
    except tarfile.TarError as error:
        raise SynthgenError(f"{path}: damaged tar ({error})") from None


def image_members(path: Path) -> list[tuple[str, int, int]]:
    """Name, offset and size in bytes of each image of a shard, for reading them in any order."""
    try:
        with tarfile.open(path, "r:") as tar:
            return [
                (member.name, member.offset_data, member.size)
                for member in tar
                if member.isfile() and member.name.endswith(IMAGE_ENDINGS)
            ]
    except (OSError, tarfile.TarError) as error:
        raise SynthgenError(f"{path}: damaged tar ({error})") from None


def _item(path: Path, key: str, parts: dict[str, bytes]) -> Item:
    images = [ending for ending in parts if f".{ending}" in IMAGE_ENDINGS]
    if len(images) != 1 or "cls" not in parts or "json" not in parts:
        raise SynthgenError(f"{path}: sample {key} has members {sorted(parts)}; expected an image, cls and json")
    try:
        label, record = int(parts["cls"]), json.loads(parts["json"])
    except ValueError as error:
        raise SynthgenError(f"{path}: sample {key}: {error}") from None
    if not isinstance(record, dict):
        raise SynthgenError(f"{path}: sample {key}: its json is no record")
    return Item(key=key, ending=images[0], image=parts[images[0]], label=label, record=record)
