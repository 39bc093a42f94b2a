"""Write a finished dataset in other layouts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from synthgen.errors import SynthgenError
from synthgen.manifest import Manifest
from synthgen.shard import Item, data_path, read_shard


def export_imagefolder(manifest: Manifest, out: Path, *, progress: Callable[[int], None]) -> None:
    """Write ``OUT/<class>/<name>.<ending>`` for every image; for fractals this is FractalDB's published layout.

    A killed export goes on where it was: an image that stands with its size is kept.  Raises
    SynthgenError where the dataset is unfinished or a name in it would leave its folder.
    """
    if not manifest.complete:
        raise SynthgenError(
            f"{manifest.directory}: {manifest.n_samples} of {manifest.plan.n} images stand; finish it first"
        )
    if out.exists() and not out.is_dir():
        raise SynthgenError(f"{out}: not a directory")
    for name in manifest.plan.content.class_names:
        (out / _safe(name, manifest.directory)).mkdir(parents=True, exist_ok=True)
    done = 0
    for shard in manifest.shards:
        for item in read_shard(data_path(manifest.directory, manifest.plan.shard(shard.index))):
            _write(out / manifest.plan.content.class_names[item.label], item, manifest.directory)
            done += 1
        progress(done)


def _write(folder: Path, item: Item, directory: Path) -> None:
    path = folder / f"{_safe(str(item.record.get('name', item.key)), directory)}.{item.ending}"
    if path.exists() and path.stat().st_size == len(item.image):
        return
    part = path.with_name(f".{path.name}.tmp")
    part.write_bytes(item.image)
    os.replace(part, path)


def _safe(name: str, directory: Path) -> str:
    """A name from a dataset as the name of one file; raises SynthgenError where it is more than that."""
    if name in ("", ".", "..") or PurePosixPath(name).name != name or "\\" in name or "\0" in name:
        raise SynthgenError(f"{directory}: {name!r} cannot be the name of a file")
    return name
