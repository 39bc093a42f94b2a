"""Write a finished dataset in other layouts: an image folder, Parquet files, or tars of another size.

Every export streams: it holds a few images in memory, checks each against its record and the plan on
the way, and writes each file completely or not at all.  The contents of all files are determined before
the first is written, so that a killed export can be resumed, and the same set gives the same files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from synthgen.common.errors import SynthgenError
from synthgen.common.printing import counted
from synthgen.dataset.image_file import image_defect, quiet_decoders
from synthgen.dataset.manifest import Manifest
from synthgen.dataset.plan import Plan
from synthgen.dataset.shard import Item, data_path, read_shard, table_path
from synthgen.dataset.tar import END, member
from synthgen.kinds.base import Sample
from synthgen.publishing.export_record import FORMAT, Part, opened_export, reporting_full_disk
from synthgen.publishing.names import CLASSES, class_folders, class_table
from synthgen.storage.atomic import claimed, move_into_place, open_own, write_if_new
from synthgen.storage.inside import check_folder, target

if TYPE_CHECKING:
    from synthgen.storage.store import Place

LAYOUTS = ("imagefolder", "parquet", "webdataset")
INDEX = "index.json"  # of an export in larger files: the classes, and what each file holds
SHOW_EVERY = 64  # images
MEND = "see synthgen verify, and --repair"

Checked = Iterator[tuple[Sample, Item]]


def export(
    manifest: Manifest, out: Path, *, layout: str, shard_bytes: int, progress: Callable[[int], object]
) -> tuple[Part, ...]:
    """Write a dataset's images to ``out`` in a layout; returns the files, none for an image folder.

    ``shard_bytes`` is the approximate size of a file, in Parquet and WebDataset; ``progress`` is called with
    how many images are done.  Raises SynthgenError if the set is unfinished or damaged, if ``out`` holds
    anything but an unfinished export of the same set, and if the disk is too small.
    """
    check_request(layout, shard_bytes)
    if not manifest.complete:
        raise SynthgenError(
            f"{manifest.directory}: {manifest.n_samples} of {manifest.plan.n} images exist; finish the set first"
        )
    parts = () if layout == "imagefolder" else cut(manifest, layout, shard_bytes)
    with reporting_full_disk(out), quiet_decoders(), opened_export(manifest, out, layout, shard_bytes, parts):
        if layout == "imagefolder":
            _write_folders(manifest, out, progress)
        else:
            _write_parts(manifest, out, layout, parts, progress)
    return parts


def check_request(layout: str, shard_bytes: int) -> None:
    """Raise SynthgenError if there is no such layout or the size is out of range."""
    if layout not in LAYOUTS:
        raise SynthgenError(f"--format {layout}: unknown; there are {', '.join(LAYOUTS)}")
    if shard_bytes < 1:
        raise SynthgenError(f"--shard-bytes {shard_bytes}: at least 1")


def bytes_of(text: str) -> int:
    """A size such as 1GB, 500MB or 2GiB in bytes; raises SynthgenError if it is not one."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise SynthgenError(f"--shard-bytes {text}: not a size; write 500MB, 1GB or 2GiB") from None


def cut(manifest: Manifest, layout: str, shard_bytes: int) -> tuple[Part, ...]:
    """The files of an export of about ``shard_bytes`` each, by the sizes in the completion records.

    Small shards are combined, and a larger one is cut into equal numbers of images.
    """
    spans: list[tuple[int, int]] = []
    filled = 0  # bytes in the last of them, if more may be added
    for shard in manifest.shards:
        span = manifest.plan.shard(shard.index)
        n = max(1, min(math.ceil(shard.n_bytes / shard_bytes), shard.n_samples))
        if spans and n == 1 and 0 < filled <= shard_bytes - shard.n_bytes:
            spans[-1] = (spans[-1][0], span.stop)
            filled += shard.n_bytes
        else:
            edges = [span.start + k * shard.n_samples // n for k in range(n + 1)]
            spans += pairwise(edges)
            filled = shard.n_bytes if n == 1 else 0
    ending = "parquet" if layout == "parquet" else "tar"
    names = (f"data/train-{k:05d}-of-{len(spans):05d}.{ending}" for k in range(len(spans)))
    return tuple(Part(name=name, start=start, stop=stop) for name, (start, stop) in zip(names, spans, strict=True))


def checked(
    manifest: Manifest, spans: Sequence[tuple[int, int]], progress: Callable[[int], object] = lambda done: None
) -> Checked:
    """The samples of consecutive spans; only the shards that hold them are read.

    Raises SynthgenError, naming shard and key, if an image, its label or its place is not as recorded and planned.
    """
    done = manifest.plan.n - sum(stop - start for start, stop in spans)
    for shard in manifest.shards:
        place = manifest.plan.shard(shard.index)
        wanted = [range(max(start, place.start), min(stop, place.stop)) for start, stop in spans]
        wanted = [one for one in wanted if one]
        if not wanted:
            continue
        path = data_path(manifest.directory, place)
        items, last = read_shard(path), wanted[-1].stop
        for index in range(place.start, last):
            item = next(items, None)
            if item is None:
                raise SynthgenError(
                    f"{path}: {counted(index - place.start, 'sample')}, planned {shard.n_samples}; {MEND}"
                )
            if any(index in one for one in wanted):
                yield _check(path, manifest.plan, manifest.plan.sample(index), item), item
                done += 1
                if done % SHOW_EVERY == 0:
                    progress(done)
        if last == place.stop and next(items, None) is not None:
            raise SynthgenError(f"{path}: more samples than the planned {shard.n_samples}; {MEND}")
    progress(done)


def _check(path: Place, plan: Plan, sample: Sample, item: Item) -> Sample:
    if (item.key, item.label) != (sample.key, sample.label):
        raise SynthgenError(
            f"{path}: sample {item.key} has label {item.label}, planned {sample.key}: {sample.label}; {MEND}"
        )
    if hashlib.sha256(item.image).hexdigest() != item.record.get("sha256"):
        raise SynthgenError(f"{path}: image {item.key} differs from its record; {MEND}")
    if what := image_defect(item.ending, item.image, plan.content.image, decode=False):
        raise SynthgenError(f"{path}: image {item.key} {what}; {MEND}")
    return sample


def _write_folders(manifest: Manifest, out: Path, progress: Callable[[int], object]) -> None:
    """``OUT/<class>/<name>.<ending>`` for every image; for fractals this is FractalDB's published layout.

    An image that is already there, unchanged, is kept.  A class without images gets no folder, since
    torchvision would refuse it.
    """
    content = manifest.plan.content
    classes = class_folders(content.class_names)
    write_if_new(out / CLASSES, class_table(classes))
    folders = [one.folder for one in classes]
    made: set[str] = set()
    for sample, item in checked(manifest, [(0, manifest.plan.n)], progress):
        folder = folders[sample.label]
        if folder not in made:
            check_folder(out / folder)
            (out / folder).mkdir(exist_ok=True)
            made.add(folder)
        _write_image(f"{out}/{folder}", f"{content.file_stem(sample, folder) or sample.key}.{item.ending}", item.image)


def _write_image(folder: str, name: str, image: bytes) -> None:
    path = f"{folder}/{name}"  # strings: making a pathlib.Path takes as long as writing a file
    try:
        with open(path, "rb", opener=_unblocked) as file:
            if file.read() == image:
                return
    except FileNotFoundError:
        pass
    part = f"{folder}/.{name}.tmp"
    with open_own(part, "wb") as file:
        file.write(image)
    os.replace(part, path)


def _unblocked(path: str, flags: int) -> int:
    """Open without blocking: a pipe then reads as empty."""
    return os.open(path, flags | os.O_NONBLOCK)


def _write_parts(
    manifest: Manifest, out: Path, layout: str, parts: tuple[Part, ...], progress: Callable[[int], object]
) -> None:
    from synthgen.publishing.export_parquet import layout_of, write_parquet

    missing = [part for part in parts if not (out / part.name).exists()]
    samples = checked(manifest, [(part.start, part.stop) for part in missing], progress)
    first = table_path(manifest.directory, manifest.plan.shard(0))
    columns = layout_of(manifest, first) if layout == "parquet" and missing else None
    for part in missing:
        own = islice(samples, part.stop - part.start)
        path = target(out, part.name)
        with claimed(path) as file:
            assert file is not None  # no other process writes this export
            if columns is None:
                file.writelines(_members(own))
            else:
                write_parquet(Path(file.name), columns, own, table=first)
            move_into_place(file, path)
    next(samples, None)  # so that it checks the end of the last shard
    sizes = [{**asdict(part), "n_bytes": (out / part.name).stat().st_size} for part in parts]
    index = {"format": FORMAT, "class_names": manifest.plan.content.class_names, "files": sizes}
    write_if_new(out / INDEX, (json.dumps(index, indent=1) + "\n").encode())


def _members(samples: Checked) -> Iterator[bytes]:
    """The bytes of a tar: each sample as in its shard."""
    for _, item in samples:
        yield member(f"{item.key}.{item.ending}", item.image)
        yield member(f"{item.key}.cls", str(item.label).encode())
        yield member(f"{item.key}.json", json.dumps(item.record).encode())
    yield END
