"""Records, samples and images that came from elsewhere are read strictly, and refused in one line."""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import contents, edit
from PIL import Image
from strangers import CLAIM, ESCAPE, GOLDEN, MAKE, PROMPTS, RECORD, TABLE, TAR, Command, refused

from synthgen.common.errors import SynthgenError
from synthgen.common.records import validated
from synthgen.dataset.shard import read_shard
from synthgen.dataset.tar import END, member
from synthgen.kinds.diffusion import tiny
from synthgen.kinds.diffusion.remake import ImageRecord

# Records

DEEP = b'{"a":' * 5000 + b"1" + b"}" * 5000
STRANGE = {b"{}": "format", b"null": "the file", b"[]": "the file", DEEP: "nested lists", b"\xff": "UTF-8", b"": "JSON"}


@pytest.mark.parametrize("data", STRANGE, ids=range(len(STRANGE)))
def test_a_plan_that_is_none_is_refused_in_one_line(data: bytes, half: Path, synthgen_here: Command) -> None:
    (half / "plan.json").write_bytes(data)
    for command in (("status", half), ("verify", half), (*MAKE, half)):
        refused(synthgen_here(*command), "plan.json: ", STRANGE[data])


BROKEN_PLANS: dict[str, Callable[[dict[str, Any]], object]] = {
    "n: ": lambda plan: plan.update(n="24"),
    "colour: unknown key; perhaps a later version": lambda plan: plan.update(colour=1),
    "content.colour: unknown key": lambda plan: plan["content"].update(colour=1),
    "content.size: 1000000000": lambda plan: plan["content"].update(size=10**9),
    "content.layout: ": lambda plan: plan["content"].update(layout=[-1, -1, 1000]),
    "content.categories: there is none": lambda plan: plan["content"].update(categories=[]),
    "content.categories.0.rows: there is none": lambda plan: plan["content"]["categories"][0].update(rows=[]),
    "origin.batch: ": lambda plan: plan["origin"].update(batch=10**12),
    "segments.0.stop: ": lambda plan: plan["segments"][0].update(stop=24.0),
    "format 2; this version reads format 1": lambda plan: plan.update(format=2, kind=None),
    "kind: ": lambda plan: plan.update(kind=ESCAPE),
    "at most 1,000,000 shards": lambda plan: plan.update(
        n=2400, segments=[{"start": 0, "stop": 2400, "shard_size": 1}]
    ),
}


@pytest.mark.parametrize("what", BROKEN_PLANS)
def test_a_value_of_a_plan_that_cannot_be_is_named(
    what: str, half: Path, synthgen_here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "shards" in what:
        monkeypatch.setattr("synthgen.dataset.plan.MAX_SHARDS", 1000)
        what = "at most 1,000 shards"
        change = BROKEN_PLANS["at most 1,000,000 shards"]
    else:
        change = BROKEN_PLANS[what]
    plan = json.loads((half / "plan.json").read_text())
    change(plan)
    (half / "plan.json").write_text(json.dumps(plan))
    refused(synthgen_here("status", half), "plan.json: ", what)


@pytest.mark.parametrize("categories", ["1" * 5000, 10**299, "/", -1, [1], None])
def test_a_set_whose_plan_says_nothing_sensible_of_its_categories_keeps_them(
    categories: object, half: Path, synthgen_here: Command
) -> None:
    plan = json.loads((half / "plan.json").read_text())
    (half / "plan.json").write_text(json.dumps(plan | {"origin": {"categories": categories}}))
    told = synthgen_here("fractal", "--out", half, "--workers", "1")
    assert told.returncode == 0, told
    assert "24 images" in told.stdout
    refused(synthgen_here("fractal", "--out", half, "--categories", "1" * 5000), "1111")


@pytest.mark.parametrize("data", [b"{}", b"null", DEEP, b'{"index": 0, "colour": 1}', b'{"index": NaN}', b"\xff\xfe"])
def test_a_completion_record_that_is_none_is_absent_and_a_fault(
    data: bytes, whole: Path, synthgen_here: Command
) -> None:
    (whole / RECORD).write_bytes(data)
    assert json.loads(synthgen_here("status", whole, "--json").stdout)["n_shards_done"] == 2
    told = synthgen_here("verify", whole)
    assert told.returncode == 1
    assert f"{RECORD}: " in told.stdout
    told = synthgen_here("verify", whole, "--repair")
    assert told.returncode == 0, told
    assert "repaired: shard 0\n" in told.stdout


@pytest.mark.parametrize(
    "change",
    [
        {"rate": float("nan")},
        {"rate": -1},
        {"rate": float("inf")},
        {"done": 10**400},
        {"done": "3"},
        {"shard": -1},
        {"shard": 10**9},
        {"shard": 0},  # in the place of another one's
        {"colour": 1},
    ],
)
def test_a_strange_claim_is_left_out(change: dict[str, Any], half: Path, synthgen_here: Command) -> None:
    (half / "claims").mkdir()
    path = half / "claims/fractal-train-000001.json"
    path.write_text(json.dumps(CLAIM))
    assert len(json.loads(synthgen_here("status", half, "--json").stdout)["workers"]) == 1
    path.write_text(json.dumps(CLAIM | change))
    told = synthgen_here("status", half, "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["workers"] == []


@pytest.mark.parametrize("data", [b"{}", b"null", b"[1]", DEEP, b'{"shards": [{}]}', b'{"shards": NaN}'])
def test_a_manifest_that_is_none_is_a_fault_that_is_mended(data: bytes, whole: Path, synthgen_here: Command) -> None:
    before = contents(whole)
    (whole / "manifest.json").write_bytes(data)
    told = synthgen_here("verify", whole)
    assert told.returncode == 1
    assert "manifest.json: cannot be read" in told.stdout
    told = synthgen_here("verify", whole, "--repair")
    assert told.returncode == 0
    assert "repaired: manifest.json\n" in told.stdout
    assert contents(whole) == before


@pytest.mark.parametrize(
    ("cls", "record"),
    [
        (b"1" * 32, b"{}"),
        (b"-1", b"{}"),
        (b"1_0", b"{}"),
        ("١".encode(), b"{}"),
        (b"0", DEEP),
        (b"0", b'{"a": NaN}'),
        (b"0", b'{"a": "\\ud800"}'),
        (b"0", b'{"a": 1, "a": 2}'),
        (b"0", b"[]"),
        (b"0", b'{"a": ' + b"1" * 5000 + b"}"),
    ],
)
def test_a_sample_whose_class_or_record_is_none_is_named(cls: bytes, record: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(member("a.png", b"x") + member("a.cls", cls) + member("a.json", record) + END)
    with pytest.raises(SynthgenError, match=r"x\.tar: sample a: its (cls|json)"):
        list(read_shard(path))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"steps": "5"}, "steps: "),
        ({"steps": 10**9}, "steps: 1000000000 is not 1 to 1000"),
        ({"size": 10**9}, "size: 1000000000 is not"),
        ({"batch": 0}, "batch: 0 is not"),
        ({"seed": "1" * 30}, "seed: "),
        ({"seed": "1" * 5000}, "seed: "),
        ({"seed": "18446744073709551616"}, "seed: '18446744073709551616' is not a 64-bit number"),
        ({"seed": -1}, "seed: "),
        ({"attempt": 10**9}, "attempt: 1000000000 is not 0 to 4"),
        ({"attempt": True}, "attempt: "),
        ({"template": -1}, "template: -1 is not 0 to"),
        ({"label": 10**299}, "label: 1000"),
        ({"label": 10**4000}, "a number of "),
        ({"key": "../../x"}, "key: "),
        ({"sha256": "../../x"}, "sha256: "),
        ({"prompts_sha256": 1}, "prompts_sha256: "),
        ({"negative_prompt": "a" * 10**6}, "negative_prompt: "),
        ({"class": "a" * 10**6}, "class: "),
        ({"colour": 1}, "colour: unknown key"),
        ({"class_": "cat"}, "class_: unknown key"),
        ({"scheduler": ESCAPE}, "scheduler: "),
        ({"guidance": float("nan")}, "NaN"),
        ({"prompt": None}, "prompt: "),
    ],
)
def test_a_record_that_no_image_can_be_made_from_is_refused(
    change: dict[str, Any], key: str, synthgen_here: Command, tmp_path: Path
) -> None:
    shard = sorted((GOLDEN / "diffusion-finished/data").glob("*.tar"))[0]
    record = next(read_shard(shard)).record | change
    (tmp_path / "x.json").write_text(json.dumps(record))
    told = synthgen_here("sd", "--from-record", tmp_path / "x.json", "--out", tmp_path / "x.png")
    refused(told, "x.json: ", key)
    (tmp_path / "x.json").write_text("{}")
    refused(synthgen_here("sd", "--from-record", tmp_path / "x.json", "--out", tmp_path / "x.png"), "x.json: ")


def test_records_of_older_sets_are_records_still() -> None:
    tars = sorted(GOLDEN.glob("diffusion-*/data/*.tar"))
    records = [item.record for tar in tars for item in read_shard(tar)]
    assert records
    assert not any(validated(record, ImageRecord, "x.json").problem() for record in records)


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("model_index.json", DEEP * 100, "nested too deeply"),
        ("model_index.json", b"null", "a JSON NoneType, not an object"),
        ("model_index.json", b"1" * 5000, "a number of "),
        ("model_index.json", b'{"_class_name": "\\u001b]0;x"}', "_class_name "),
        ("unet/config.json", b'{"sample_size": 1000000000}', "these give no size in pixels up to 4096"),
        ("vae/config.json", b'{"block_out_channels": [' + b"1," * 10**5 + b"1]}", "these give no size in pixels"),
        ("unet/diffusion_pytorch_model.safetensors", None, "a pipe, not a regular file"),
        ("tokenizer/vocab.json", None, "a pipe, not a regular file"),
    ],
)
def test_a_model_of_strange_files_is_refused_in_one_line(
    name: str, data: bytes | None, what: str, synthgen_here: Command, tmp_path: Path, soon: None
) -> None:
    folder = Path(shutil.copytree(tiny.MODEL, tmp_path / "model"))
    (folder / name).unlink()
    if data is None:
        os.mkfifo(folder / name)
    else:
        (folder / name).write_bytes(data)
    line = ("sd", "--prompts", PROMPTS, "--n", "4", "--model", folder, "--dry-run")
    refused(synthgen_here(*line), str(folder), what)


# Previews


def replace_first_image(directory: Path, data: bytes) -> None:
    """Under its name, with the sums of the image in its record and in the table."""
    path = directory / TAR
    items = list(read_shard(path))
    first = items[0]
    first.record["sha256"] = hashlib.sha256(data).hexdigest()
    rows = [item.record for item in items]
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(directory / TABLE)), directory / TABLE)
    parts = [member(f"{first.key}.png", data), member(f"{first.key}.cls", b"%d" % first.label)]
    parts.append(member(f"{first.key}.json", json.dumps(first.record).encode()))
    for item in items[1:]:
        parts.append(member(f"{item.key}.png", item.image))
        parts.append(member(f"{item.key}.cls", b"%d" % item.label))
        parts.append(member(f"{item.key}.json", json.dumps(item.record).encode()))
    path.write_bytes(b"".join(parts) + END)
    edit(directory / RECORD, n_bytes=path.stat().st_size, table_n_bytes=(directory / TABLE).stat().st_size)


def huge_png(side: int) -> bytes:
    """One that claims so many pixels a side."""
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (huge_png(60_000), "cannot be decoded"),
        (huge_png(10_000), "has 10000 x 10000 pixels, planned 32 x 32"),
        (picture("JPEG"), "cannot be decoded (not a PNG)"),
        (picture("GIF"), "cannot be decoded (not a PNG)"),
        (b"", "cannot be decoded"),
        (picture("PNG") + b"PK", "has 2 bytes after its end"),
    ],
    ids=["60000", "10000", "jpeg", "gif", "empty", "longer"],
)
def test_no_image_that_verify_would_refuse_is_previewed_or_exported(
    data: bytes, what: str, whole: Path, synthgen_here: Command, tmp_path: Path
) -> None:
    replace_first_image(whole, data)
    told = synthgen_here("verify", whole)
    assert what in told.stdout
    assert "Warning" not in told.stderr
    layouts = ["imagefolder", "parquet", "webdataset"]
    exports = [("export", whole, "--out", tmp_path / layout, "--format", layout) for layout in layouts]
    for command in [("preview", whole, "--out", tmp_path / "look", "--per-class", "100"), *exports]:
        told = synthgen_here(*command)
        refused_after_progress = [line for line in told.stderr.splitlines() if line.startswith("synthgen: ")]
        assert told.returncode == 2
        assert len(refused_after_progress) == 1
        assert f"{TAR}: image 000000000 {what}" in refused_after_progress[0]
        assert "Traceback" not in told.stderr
        assert "Warning" not in told.stderr
    assert not (tmp_path / "look").exists()
    assert not [path for path in tmp_path.rglob("*.png") if not path.is_relative_to(whole)]
    assert not [*tmp_path.rglob("train-*"), *tmp_path.rglob("*.tmp")]


def test_a_preview_shows_no_image_that_differs_from_its_record(
    whole: Path, synthgen_here: Command, tmp_path: Path
) -> None:
    items = list(read_shard(whole / TAR))
    swapped = [items[1].image, items[0].image, *(item.image for item in items[2:])]
    parts = [
        member(f"{item.key}.png", image)
        + member(f"{item.key}.cls", b"%d" % item.label)
        + member(f"{item.key}.json", json.dumps(item.record).encode())
        for item, image in zip(items, swapped, strict=True)
    ]
    (whole / TAR).write_bytes(b"".join(parts) + END)
    edit(whole / RECORD, sha256=hashlib.sha256((whole / TAR).read_bytes()).hexdigest())
    told = synthgen_here("preview", whole, "--out", tmp_path / "look", "--per-class", "100")
    assert told.returncode == 2
    assert re.search(f"{TAR}: image 00000000[01] differs from its record; see synthgen verify", told.stderr)
    assert not (tmp_path / "look").exists()


COLUMNS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "column weight is of the type string": lambda table: _cast(table, "weight", pa.string()),
    "column label is of the type double": lambda table: _cast(table, "label", pa.float64()),
    "column key is of the type binary": lambda table: _cast(table, "key", pa.binary()),
    "no column 'label'": lambda table: table.drop_columns(["label"]),
}


def _cast(table: pa.Table, name: str, kind: pa.DataType) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, name, table[name].cast(kind))


@pytest.mark.parametrize("what", COLUMNS)
def test_a_table_of_other_columns_is_refused_by_name(
    what: str, whole: Path, synthgen_here: Command, tmp_path: Path
) -> None:
    name = "metadata/fractal-train-000001.parquet"
    pq.write_table(COLUMNS[what](pq.read_table(whole / name)), whole / name)
    edit(whole / "data/fractal-train-000001.json", table_n_bytes=(whole / name).stat().st_size)
    refused(synthgen_here("preview", whole, "--out", tmp_path / "look"), f"{whole / name}: ", what)
    (whole / name).write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    edit(whole / "data/fractal-train-000001.json", table_n_bytes=(whole / name).stat().st_size)
    refused(synthgen_here("preview", whole, "--out", tmp_path / "look"), f"{whole / name}: damaged table")
