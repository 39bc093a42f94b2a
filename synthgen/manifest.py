"""What stands in a dataset directory: which shards are done, missing or damaged."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from synthgen.errors import SynthgenError
from synthgen.plan import Plan, ShardSpan, read_plan
from synthgen.shard import (
    Shard,
    committed,
    data_path,
    read_record,
    read_shard,
    record_path,
    table_path,
    write_atomically,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A dataset directory, as its completion records tell it."""

    directory: Path
    plan: Plan
    shards: tuple[Shard, ...]  # committed, by index
    missing: tuple[ShardSpan, ...]  # planned, without a valid record

    @property
    def n_samples(self) -> int:
        """Images that stand."""
        return sum(shard.n_samples for shard in self.shards)

    @property
    def n_bytes(self) -> int:
        """Size of the committed tars."""
        return sum(shard.n_bytes for shard in self.shards)

    @property
    def complete(self) -> bool:
        """Whether every planned shard is committed."""
        return not self.missing

    def summary(self) -> dict[str, Any]:
        """For ``synthgen status --json``."""
        return {
            "directory": str(self.directory),
            "plan": self.plan.digest,
            "n": self.plan.n,
            "n_done": self.n_samples,
            "n_shards": self.plan.n_shards,
            "n_shards_done": len(self.shards),
            "n_bytes": self.n_bytes,
            "n_classes": len(self.plan.content.class_names),
            "complete": self.complete,
        }


def read_manifest(directory: Path) -> Manifest:
    """Read the plan and the completion records of a dataset directory.

    A record counts where it is of this plan and shard and the tar beside it has its size.  Raises
    SynthgenError where there is no readable plan.
    """
    plan = read_plan(directory / "plan.json")
    digest = plan.digest
    shards, missing = [], []
    for index in range(plan.n_shards):
        span = plan.shard(index)
        shard = committed(directory, span, digest)
        if shard is None:
            missing.append(span)
        else:
            shards.append(shard)
    return Manifest(directory=directory, plan=plan, shards=tuple(shards), missing=tuple(missing))


def finish(manifest: Manifest) -> None:
    """Write ``manifest.json`` and ``SHA256SUMS`` of a complete directory, manifest last."""
    directory = manifest.directory
    sums = [(shard.sha256, f"data/{shard.filename}") for shard in manifest.shards]
    tables = [table_path(directory, manifest.plan.shard(shard.index)) for shard in manifest.shards]
    sums += [(_sha256(path), f"metadata/{path.name}") for path in tables]
    sums.append((_sha256(directory / "plan.json"), "plan.json"))
    write_atomically(directory / "SHA256SUMS", "".join(f"{digest}  {name}\n" for digest, name in sums).encode())
    record = {
        "format": 1,
        **{
            key: value
            for key, value in manifest.summary().items()
            if key not in ("directory", "n_done", "n_shards_done")
        },
        "class_names": manifest.plan.content.class_names,
        "shards": [asdict(shard) for shard in manifest.shards],
    }
    write_atomically(directory / "manifest.json", (json.dumps(record, indent=1) + "\n").encode())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(directory: Path) -> Iterator[tuple[int, list[str]]]:
    """Check a directory; yields, shard by shard in order, its index and what is wrong with it.

    Each shard's tar is hashed and held against its record, every image is decoded, and every
    label and record is held against the plan.  A shard without a record is reported as missing.
    """
    plan = read_plan(directory / "plan.json")
    with ThreadPoolExecutor() as pool:
        digest = plan.digest
        spans = [plan.shard(index) for index in range(plan.n_shards)]
        found = pool.map(lambda span: shard_faults(directory, plan, span, digest), spans)
        for span, faults in zip(spans, found, strict=True):
            yield span.index, faults


def shard_faults(directory: Path, plan: Plan, span: ShardSpan, digest: str) -> list[str]:
    """What is wrong with one shard, a line each; empty where it is whole.  ``digest`` is the plan's."""
    path = data_path(directory, span)
    try:
        shard = read_record(record_path(directory, span))
    except FileNotFoundError:
        return [f"{path.name}: missing" if not path.exists() else f"{path.name}: no completion record"]
    except SynthgenError as error:
        return [str(error)]
    if not path.exists():
        return [f"{path.name}: missing, though recorded as complete"]
    faults = []
    if (shard.index, shard.filename) != (span.index, path.name):
        faults.append(f"{path.name}: its completion record is that of {shard.filename}, shard {shard.index}")
    if shard.plan_digest != digest:
        faults.append(f"{path.name}: made by plan {shard.plan_digest[:16]}, not by {digest[:16]}")
    if path.stat().st_size != shard.n_bytes:
        faults.append(f"{path.name}: {path.stat().st_size} bytes, recorded {shard.n_bytes}")
    if _sha256(path) != shard.sha256:
        faults.append(f"{path.name}: sha256 differs from its record")
    if not table_path(directory, span).exists():
        faults.append(f"{table_path(directory, span).name}: missing")
    return faults or list(_content_faults(path, plan, span))


def _content_faults(path: Path, plan: Plan, span: ShardSpan) -> Iterator[str]:
    from PIL import Image

    index = span.start
    try:
        for item in read_shard(path):
            if index == span.stop:
                yield f"{path.name}: more samples than the plan's {span.stop - span.start}"
                return
            expected = plan.sample(index)
            if (item.key, item.label) != (expected.key, expected.label):
                yield f"{path.name}: sample {item.key} has label {item.label}, planned {expected.key}: {expected.label}"
            told = (item.record.get("index"), item.record.get("label"))
            if told != (expected.index, expected.label):
                yield f"{path.name}: the record of {item.key} tells of image {told[0]}, label {told[1]}"
            if hashlib.sha256(item.image).hexdigest() != item.record.get("sha256"):
                yield f"{path.name}: image {item.key} differs from its record"
            try:
                with Image.open(io.BytesIO(item.image)) as image:
                    image.load()
            except (OSError, SyntaxError) as error:
                yield f"{path.name}: image {item.key} cannot be decoded ({error})"
            index += 1
    except SynthgenError as error:
        yield str(error)
        return
    if index < span.stop:
        yield f"{path.name}: {index - span.start} samples, planned {span.stop - span.start}"
