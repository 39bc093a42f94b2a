"""Damages to a finished set of three shards, each with all that ``verify`` says of it."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from files import edit
from PIL import Image

from synthgen.dataset.shard import read_shard

SIZE = 32  # width and height of the images
Members = dict[str, bytes]
TAR, RECORD = "data/fractal-train-000001.tar", "data/fractal-train-000001.json"
TABLE = "metadata/fractal-train-000001.parquet"
SUMS, MANIFEST = "SHA256SUMS", "manifest.json"


def rewrite(dataset: Path, change: Callable[[Members], Members], *, forge: bool = True) -> None:
    """Change samples of shard 1 and forge what is said of it, so that only the plan can tell."""
    path = dataset / TAR
    with tarfile.open(path) as old:
        members = {member.name: old.extractfile(member).read() for member in old}  # type: ignore[union-attr]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as new:
        for name, data in change(members).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))
    if not forge:
        return
    forged = {"n_bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    edit(dataset / RECORD, **forged)
    record = json.loads((dataset / "manifest.json").read_text())
    record["shards"][1] |= forged
    edit(dataset / "manifest.json", shards=record["shards"], n_bytes=sum(s["n_bytes"] for s in record["shards"]))
    sums = (dataset / "SHA256SUMS").read_text().splitlines()
    sums = [f"{forged['sha256']}  {TAR}" if line.endswith(TAR) else line for line in sums]
    (dataset / "SHA256SUMS").write_text("\n".join(sums) + "\n")


def truncate(dataset: Path) -> None:
    os.truncate(dataset / TAR, 4321)


def cut_the_end_marks(dataset: Path) -> None:
    os.truncate(dataset / TAR, (dataset / TAR).stat().st_size - 512)


def flip_a_bit(dataset: Path) -> None:
    data = bytearray((dataset / TAR).read_bytes())
    data[len(data) // 2] ^= 4
    (dataset / TAR).write_bytes(data)


def flip_a_bit_of_padding(dataset: Path) -> None:
    data = bytearray((dataset / TAR).read_bytes())
    data[511] ^= 1  # of the first header, behind all its fields
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + sum(data[156:512]) + 256)
    (dataset / TAR).write_bytes(data)


def delete_the_record(dataset: Path) -> None:
    (dataset / RECORD).unlink()


def delete_the_tar(dataset: Path) -> None:
    (dataset / TAR).unlink()


def delete_the_table(dataset: Path) -> None:
    (dataset / TABLE).unlink()


def delete_a_shard(dataset: Path) -> None:
    for name in (TAR, RECORD, TABLE):
        (dataset / name).unlink()


def break_the_record(dataset: Path) -> None:
    (dataset / RECORD).write_text("{")


def record_of_another_plan(dataset: Path) -> None:
    edit(dataset / RECORD, plan_digest="f" * 64)


def edit_the_records_sum(dataset: Path) -> None:
    edit(dataset / RECORD, sha256="0" * 64)


def swap_two_tars(dataset: Path, *, records: bool = False) -> None:
    for ending in (".tar", ".json") if records else (".tar",):
        one, other = (dataset / f"data/fractal-train-{index:06d}{ending}" for index in (0, 1))
        spare = dataset / "spare"
        one.rename(spare)
        other.rename(one)
        spare.rename(other)


def swap_two_shards(dataset: Path) -> None:
    swap_two_tars(dataset, records=True)


def edit_a_label(dataset: Path) -> None:
    rewrite(dataset, lambda members: members | {"000000072.cls": b"9"})


def edit_a_label_and_its_records(dataset: Path) -> None:
    def change(members: Members) -> Members:
        record = json.loads(members["000000072.json"]) | {"label": 2, "class": "00002"}
        return members | {"000000072.cls": b"2", "000000072.json": json.dumps(record).encode()}

    rewrite(dataset, change)


def swap_two_images(dataset: Path) -> None:
    rewrite(
        dataset,
        lambda m: m | {"000000072.png": m["000000073.png"], "000000073.png": m["000000072.png"]},
    )


def swap_two_samples_of_a_class(dataset: Path) -> None:
    def change(m: Members) -> Members:
        pair = ("000000072", "000000073")
        return m | {f"{a}.{e}": m[f"{b}.{e}"] for a, b in (pair, pair[::-1]) for e in ("png", "cls", "json")}

    rewrite(dataset, change)


def drop_a_sample(dataset: Path) -> None:
    rewrite(dataset, lambda members: {name: data for name, data in members.items() if "139" not in name})


def add_a_sample(dataset: Path) -> None:
    def change(m: Members) -> Members:
        return m | {f"000000140.{e}": m[f"000000139.{e}"] for e in ("png", "cls", "json")}

    rewrite(dataset, change)


def put_an_image(dataset: Path, image: bytes) -> None:
    def change(members: Members) -> Members:
        record = json.loads(members["000000072.json"]) | {"sha256": hashlib.sha256(image).hexdigest()}
        return members | {"000000072.png": image, "000000072.json": json.dumps(record).encode()}

    rewrite(dataset, change)


def break_an_image(dataset: Path) -> None:
    put_an_image(dataset, next(read_shard(dataset / TAR)).image[:60])


def png(width: int, height: int) -> bytes:
    sink = io.BytesIO()
    Image.new("1", (width, height)).save(sink, "PNG")
    return sink.getvalue()


def cut_the_end_of_an_image(dataset: Path) -> None:
    put_an_image(dataset, next(read_shard(dataset / TAR)).image[:-12])


def append_to_an_image(dataset: Path) -> None:
    put_an_image(dataset, next(read_shard(dataset / TAR)).image + b"PK")


def put_a_decompression_bomb(dataset: Path) -> None:
    put_an_image(dataset, png(30_000, 12_000))


def put_an_image_of_another_size(dataset: Path) -> None:
    put_an_image(dataset, png(SIZE, SIZE + 1))


def edit_the_table(dataset: Path) -> None:
    rows = pq.read_table(dataset / TABLE).to_pylist()
    rows[2]["class"] = "00009"
    pq.write_table(pa.Table.from_pylist(rows), dataset / TABLE)


def write_the_table_otherwise(dataset: Path) -> None:
    pq.write_table(pq.read_table(dataset / TABLE), dataset / TABLE, compression="gzip")


def break_the_table(dataset: Path) -> None:
    data = bytearray((dataset / TABLE).read_bytes())
    data[4:200] = bytes(196)
    (dataset / TABLE).write_bytes(data)


def edit_a_line(dataset: Path, name: str) -> None:
    lines = (dataset / "SHA256SUMS").read_text().splitlines(keepends=True)
    lines = [line.replace(line[:8], "01234567") if line.endswith(f"{name}\n") else line for line in lines]
    (dataset / "SHA256SUMS").write_text("".join(lines))


def edit_a_tars_sum(dataset: Path) -> None:
    edit_a_line(dataset, TAR)


def edit_a_tables_sum(dataset: Path) -> None:
    edit_a_line(dataset, TABLE)


def drop_a_line_of_sums(dataset: Path) -> None:
    lines = (dataset / "SHA256SUMS").read_text().splitlines(keepends=True)
    (dataset / "SHA256SUMS").write_text("".join(line for line in lines if TAR not in line))


def add_lines_to_sums(dataset: Path) -> None:
    with (dataset / "SHA256SUMS").open("a") as file:
        file.write(f"{'a' * 64}  ../../etc/passwd\nnonsense\n")


def delete_the_sums(dataset: Path) -> None:
    (dataset / "SHA256SUMS").unlink()


def delete_the_manifest(dataset: Path) -> None:
    (dataset / "manifest.json").unlink()


def edit_the_manifest(dataset: Path) -> None:
    edit(dataset / "manifest.json", class_names=["cat"], n=7)


def break_the_manifest(dataset: Path) -> None:
    (dataset / "manifest.json").write_text("[1, 2")


def edit_the_manifests_sum(dataset: Path) -> None:
    record = json.loads((dataset / "manifest.json").read_text())
    record["shards"][1]["sha256"] = "0" * 64
    edit(dataset / "manifest.json", shards=record["shards"])


DAMAGES: list[tuple[Callable[[Path], None], dict[str, str]]] = [  # what is done -> all that is told of, and how
    (truncate, {TAR: "damaged tar (truncated at byte 4321, within member 0000000"}),
    (cut_the_end_marks, {TAR: "damaged tar (truncated at byte"}),
    (flip_a_bit, {TAR: "has sha256"}),
    (flip_a_bit_of_padding, {TAR: "has sha256"}),
    (delete_the_record, {RECORD: "missing, though other files of its shard are there"}),
    (delete_the_tar, {TAR: "missing, though other files of its shard are there"}),
    (delete_the_table, {TABLE: "missing, though other files of its shard are there"}),
    (delete_a_shard, {TAR: "missing"}),
    (break_the_record, {RECORD: "not JSON"}),
    (record_of_another_plan, {RECORD: "of plan ffffffffffffffff, not of"}),
    (edit_the_records_sum, {RECORD: f"says sha256 0000000000000000 of {TAR}, which has"}),
    (
        swap_two_tars,
        {TAR.replace("1.", "0."): "sample 000000070 has label", TAR: "sample 000000000 has label"},
    ),
    (
        swap_two_shards,
        {
            TAR.replace("1.", "0."): "sample 000000070 has label",
            RECORD.replace("1.", "0."): "it is the record of shard 1, fractal-train-000001.tar",
            TAR: "sample 000000000 has label",
            RECORD: "it is the record of shard 0, fractal-train-000000.tar",
        },
    ),
    (edit_a_label, {TAR: "sample 000000072 has label 9, planned 000000072: 4"}),
    (edit_a_label_and_its_records, {TAR: "the record of 000000072 has label 2, planned 4"}),
    (swap_two_images, {TAR: "image 000000072 differs from its record"}),
    (swap_two_samples_of_a_class, {TAR: "the record of 000000072 has index 73, planned 72"}),
    (drop_a_sample, {TAR: "69 samples, planned 70"}),
    (add_a_sample, {TAR: "more samples than the plan's 70"}),
    (break_an_image, {TAR: "image 000000072 cannot be decoded"}),
    (cut_the_end_of_an_image, {TAR: "image 000000072 is truncated"}),
    (append_to_an_image, {TAR: "image 000000072 has 2 bytes after its end"}),
    (put_a_decompression_bomb, {TAR: "image 000000072 cannot be decoded (Image size (360000000 pixels)"}),
    (put_an_image_of_another_size, {TAR: "image 000000072 has 32 x 33 pixels, planned 32 x 32"}),
    (edit_the_table, {TABLE: "the row of 000000072 differs from its record in the tar: class"}),
    (write_the_table_otherwise, {TABLE: "has sha256"}),
    (break_the_table, {TABLE: "cannot be read"}),
    (edit_a_tars_sum, {SUMS: "says sha256 01234567"}),
    (edit_a_tables_sum, {SUMS: "says sha256 01234567"}),
    (drop_a_line_of_sums, {SUMS: f"has no line for {TAR}"}),
    (add_lines_to_sums, {SUMS: "line 8 names '../../etc/passwd', which is not a file of this dataset"}),
    (delete_the_sums, {SUMS: "missing, though the other files of a finished dataset are there"}),
    (delete_the_manifest, {MANIFEST: "missing, though the other files of a finished dataset are there"}),
    (edit_the_manifest, {MANIFEST: "n: differs from plan and shards"}),
    (break_the_manifest, {MANIFEST: "cannot be read"}),
    (edit_the_manifests_sum, {MANIFEST: f"says sha256 0000000000000000 of {TAR}"}),
]
IDS = [damage.__name__ for damage, _ in DAMAGES]
