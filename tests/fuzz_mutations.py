"""Mutations, by format: small and large lies about a file that was right.

Every function of ``FORMATS`` takes the bytes of a file and a random generator and gives other bytes; those of
``KINDS`` put something else in the place of a file.  Nothing made here harms software: a hostile value is a long
text, a large number, or a name, and the largest file has some hundred kilobytes.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

ESCAPE = "\x1b[31mfuzz\x1b]0;fuzz\x07"
MARK = "<script>fuzz()</script>"  # must not be told as it is in a page
TEX = r"\input{fuzz}"  # nor in a table for LaTeX
NAMES = (
    "../../victim/important",
    "../victim",
    "/victim/important",  # below the sandbox, see ``_led``
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "a\0b",
    "nul\x00",
    ESCAPE,
    "\u202egpj.exe",
    "a\u2028b",
    "line\nsynthgen: all is well",
    "\x9b31m",
    "x" * 300,
    "y" * 100_000,
    "\U0001f600 e\u0301 \u4e2d",
    "\ufeffbom",
    "-rf",
    "--help",
    "~",
    "$HOME",
    "%s%n",
    "{}",
    "{0.__class__}",
    MARK,
    TEX,
    "=1+1",
    "a\tb",
    "CON",
    " ",
    "null",
    "1e5",
)
NUMBERS = (0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, 2**40, 2**63, 2**64, -(2**63), 10**9, 10**6 + 1, 10**30, 1.5, -0.5)
FLOATS = (0.0, 1e308, -1e308, 5e-324, 1e-9, 0.1)
RAW = (  # of JSON: texts that no value of Python's writes
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-0",
    "01",
    "1" * 5000,
    '"\\ud800"',
    '"\\udfff\\ud800"',
    '"\\u0000"',
    "[" * 200 + "]" * 200,
    "[" * 20_000 + "]" * 20_000,
    '{"a":' * 300 + "1" + "}" * 300,
    "tru",
    "'a'",
    "1.",
    "0x10",
    "// c\n1",
    "",
)


def value(rng: random.Random, old: Any = None) -> Any:
    """Another value, of the same type or not."""
    if isinstance(old, bool) or old is None:
        pool: list[Any] = [True, False, None, 0, 1, "true", [], {}]
    elif isinstance(old, int):
        pool = [*NUMBERS, old + 1, old - 1, -old, str(old), float(old), old + 2**32, old * 1000, [old], None, True]
    elif isinstance(old, float):
        pool = [*NUMBERS, *FLOATS, old * 2, -old, str(old), None]
    elif isinstance(old, str):
        pool = [*NAMES, old + "x", old[:-1], old.upper(), f" {old}", old * 2, f"{old}{ESCAPE}", f"../{old}"]
        pool += [1, None, [old], {old: old}]
    elif isinstance(old, list):
        pool = [[], old * 2, old[::-1], [old], dict(enumerate(map(str, old))), None, 1, "x", old[:1] * 3000]
    else:
        pool = [{}, [old], None, 1, "x", [], {**dict(old), "later": 1}]
    return rng.choice(pool)


# JSON


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, one in inner for place in ((*path, key), *_places(one, (*path, key)))]


def _inside(tree: Any, place: tuple[Any, ...]) -> Any:
    for key in place[:-1]:
        tree = tree[key]
    return tree


def _pick(tree: Any, rng: random.Random) -> tuple[Any, Any]:
    """The container and the key of a value; those near the root come as often as those deep within."""
    places = _places(tree) or [()]
    depth = rng.choice(sorted({len(place) for place in places}))
    place = rng.choice([one for one in places if len(one) == depth])
    return _inside(tree, place), place[-1] if place else None


def change_tree(tree: Any, rng: random.Random) -> None:
    """Change one thing of a tree of lists and dicts."""
    holder, key = _pick(tree, rng)
    how = rng.choice(("delete", "rename", "retype", "retype", "retype", "add", "repeat", "swap"))
    if key is None:
        return
    if how == "delete":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        renamed = rng.choice((f"{key}_later", *NAMES)) if isinstance(key, str) else key
        holder[renamed] = holder.pop(key)
    elif how == "add" and isinstance(holder, dict):
        holder[rng.choice(("later", *NAMES))] = value(rng, rng.choice((1, "x", [], None)))
    elif how == "repeat" and isinstance(holder, list):
        holder[key:key] = [holder[key]] * rng.choice((1, 2, 3000))
    elif how == "swap" and len(holder) > 1:
        other = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        holder[key], holder[other] = holder[other], holder[key]
    else:
        holder[key] = value(rng, holder[key])


def json_tree(data: bytes, rng: random.Random) -> bytes:
    """One value, key or count is another."""
    tree = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2))):
        change_tree(tree, rng)
    return json.dumps(tree, indent=1).encode()


def json_raw(data: bytes, rng: random.Random) -> bytes:
    """One value is a text that strict JSON does not have, or that breaks readers."""
    tree = json.loads(data)
    holder, key = _pick(tree, rng)
    if key is None:
        return rng.choice(RAW).encode()
    holder[key] = "@raw@"
    return json.dumps(tree, indent=1).replace('"@raw@"', rng.choice(RAW), 1).encode()


def json_twice(data: bytes, rng: random.Random) -> bytes:
    """A key is there twice."""
    tree = json.loads(data)
    places = [place for place in _places(tree) if isinstance(place[-1], str)]
    if not places:
        return data + data
    place = rng.choice(places)
    holder, key = _inside(tree, place), place[-1]
    text = json.dumps(key) + ": "
    inner = {**holder, "@twice@": value(rng, holder[key])} if rng.random() < 0.7 else {"@twice@": 1, **holder}
    if len(place) == 1:
        tree = inner
    else:
        _inside(tree, place[:-1])[place[-2]] = inner
    return json.dumps(tree, indent=1).replace('"@twice@": ', text, 1).encode()


def json_root(data: bytes, rng: random.Random) -> bytes:
    """The whole is something else: empty, a list, a number, in another encoding, or has something behind it."""
    tree = json.loads(data)
    others = ("{}", "[]", "null", "1", '""', "[{}]", "{}{}", *RAW[:8])
    pool = [*(one.encode() for one in others), json.dumps([tree]).encode(), data + data, data + b"\0"]
    pool += [
        b"\xef\xbb\xbf" + data,
        data.decode().encode("utf-16"),
        b" " * 100_000 + data,
        data.replace(b"\n", b"\r\n"),
    ]
    return rng.choice(pool)


def json_lines(data: bytes, rng: random.Random) -> bytes:
    """One line of several is another, is there again, or is gone."""
    lines = data.splitlines() or [b"{}"]
    place = rng.randrange(len(lines))
    how = rng.randrange(5)
    if how == 0:
        lines.insert(place, lines[place])
    elif how == 1:
        del lines[place]
    elif how == 2:
        lines[place] = rng.choice(RAW).encode()
    else:
        lines[place] = rng.choice((json_tree, json_raw, json_twice))(lines[place], rng).replace(b"\n", b"")
    return b"".join(line + b"\n" for line in lines)


# Bytes


def flip(data: bytes, rng: random.Random) -> bytes:
    """Some bits are others."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return data[: rng.choice((rng.randrange(len(data) + 1), max(len(data) - 1, 0), 0, 1))]


def splice(data: bytes, rng: random.Random) -> bytes:
    """A piece stands somewhere else, too."""
    start, at = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    return data[:at] + data[start : start + rng.choice((1, 16, 512, 4096))] + data[at:]


def zero(data: bytes, rng: random.Random) -> bytes:
    """A piece is zeros, ones or noise."""
    start, length = rng.randrange(len(data) + 1), rng.choice((1, 4, 64, 1024))
    fill = rng.choice((b"\0", b"\xff", b"\x80", b" "))
    piece = rng.randbytes(length) if rng.random() < 0.3 else fill * length
    return data[:start] + piece + data[start + length :]


def grow(data: bytes, rng: random.Random) -> bytes:
    """There is more behind the end."""
    return data + rng.choice((b"\0", b"\n", b"x" * 1000, data, b"\0" * 10_240, rng.randbytes(100)))


def weave(data: bytes, rng: random.Random) -> bytes:
    """A hostile text stands in the middle."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(NAMES[:-8]).encode(errors="surrogatepass") + data[at:]


BYTES: tuple[Mutation, ...] = (flip, cut, splice, zero, grow, weave)


# Texts


def text_line(data: bytes, rng: random.Random) -> bytes:
    """A line is gone, there again, somewhere else, or has another word in it."""
    lines = data.decode(errors="replace").split("\n")
    place = rng.randrange(len(lines))
    how = rng.randrange(5)
    if how == 0:
        del lines[place]
    elif how == 1:
        lines.insert(place, lines[place])
    elif how == 2:
        lines.insert(rng.randrange(len(lines)), lines.pop(place))
    elif how == 3:
        words = re.split(r"(\W+)", lines[place])
        words[rng.randrange(len(words))] = str(value(rng, rng.choice(("x", 1, 0.5))))
        lines[place] = "".join(words)
    else:
        lines[place] += rng.choice(NAMES)
    return "\n".join(lines).encode(errors="surrogatepass")


def text_whole(data: bytes, rng: random.Random) -> bytes:
    """Another encoding, other ends of lines, a mark at the front, a line without end."""
    text = data.decode(errors="replace")
    pool = [b"\xef\xbb\xbf" + data, text.encode("utf-16"), data.replace(b"\n", b"\r\n"), data.replace(b"\n", b"\r")]
    pool += [b"", b"\n", data + b"x" * 200_000, data.replace(b"\n", b"\n\n"), data + data, b"\xff" + data]
    return rng.choice(pool)


def csv_cell(data: bytes, rng: random.Random) -> bytes:
    """A cell, a column or a row of a table in text is another."""
    text = data.decode()
    mark = "\t" if "\t" in text else ","
    rows = list(csv.reader(io.StringIO(text), delimiter=mark))
    row = rng.choice(rows)
    place = rng.randrange(max(len(row), 1))
    how = rng.randrange(7)
    if how == 0 and row:
        del row[place]
    elif how == 1:
        row.append(str(value(rng, "x")))
    elif how == 2:
        for one in rows:
            del one[place : place + 1]
    elif how == 3:
        rows.append(list(row))
    elif how == 4:
        rows.remove(row)
    elif row:
        old: Any = row[place]
        row[place] = str(value(rng, int(old) if re.fullmatch(r"-?\d{1,9}", old) else 0.5 if "." in old else old))
    sink = io.StringIO()
    csv.writer(sink, delimiter=mark, lineterminator="\n").writerows(rows)
    return sink.getvalue().encode(errors="surrogatepass")


def toml_value(data: bytes, rng: random.Random) -> bytes:
    """A value of a suite is another, of its type or not."""
    lines = data.decode().split("\n")
    places = [k for k, line in enumerate(lines) if "=" in line]
    place = rng.choice(places)
    key, _, old = lines[place].partition("=")
    spots = list(re.finditer(r'"[^"]*"|-?\d+(?:\.\d+)?', old))
    if not spots or rng.random() < 0.3:
        lines[place] = f"{key}= {_toml(value(rng, rng.choice((1, 0.5, 'x', [], {}, True))))}"
        return "\n".join(lines).encode(errors="surrogatepass")
    spot = rng.choice(spots)
    new = _toml(value(rng, json.loads(spot[0])))
    lines[place] = f"{key}={old[: spot.start()]}{new}{old[spot.end() :]}"
    return "\n".join(lines).encode(errors="surrogatepass")


TOML_RAW = ("inf", "-inf", "nan", "1979-05-27", "00:00:00", "0xff", "1_000", "true", "1e400", "[[[[]]]]", "9" * 5000)


def toml_raw(data: bytes, rng: random.Random) -> bytes:
    """A value is one that TOML has and suites do not."""
    lines = data.decode().split("\n")
    place = rng.choice([k for k, line in enumerate(lines) if "=" in line])
    lines[place] = f"{lines[place].partition('=')[0]}= {rng.choice((*TOML_RAW, '[' * 3000 + ']' * 3000))}"
    return "\n".join(lines).encode()


KEYS = (
    "n = {}", "control = {}", "group = {}", "classes = {}", "diversity = {}", "taxonomy = {}", "captions = {}",
    "checkpoint = {}", "architectures = [{}]", "granularity = {}", "seeds = [{}]", "image_size = {}", "precision = {}",
    "reference = {}", "later = {}", "mixture = [{{ share = {}, source = {{ kind = \"shards\", path = \"set\" }} }}]",
    "subclasses = {{ level = {}, factor = 2 }}", "pretrain = {{ lr = {} }}", "pretrain = {{ objective = {} }}",
    "cost = {{ device = \"x\", images_per_second = {{ a = {} }} }}", "epochs = {}", "batch_size = {}", "lr = {}",
    "min_crop = {}", "mixup = {}", "accumulate = {}", "evaluate_epochs = [{}]", "warmup_epochs = {}", "kind = {}",
)  # fmt: skip


def toml_key(data: bytes, rng: random.Random) -> bytes:
    """One more key, of those that suites have, with a value of any kind."""
    lines = data.decode().split("\n")
    made = rng.choice(KEYS).format(_toml(value(rng, rng.choice((1, 0.5, "x", [1], True)))))
    lines.insert(rng.randrange(len(lines)), made)
    return "\n".join(lines).encode(errors="surrogatepass")


def toml_many(data: bytes, rng: random.Random) -> bytes:
    """Very many seeds, or arms."""
    text = data.decode()
    if rng.random() < 0.5:
        seeds = f"seeds = [{', '.join(map(str, range(rng.choice((200, 20_000)))))}]"
        return re.sub(r"seeds = .*", seeds, text).encode()
    return (text + "".join(f'\n[[arms]]\nname = "arm {k}"\n' for k in range(rng.choice((50, 2000))))).encode()


def _toml(one: Any) -> str:
    if isinstance(one, dict):
        return "{ " + ", ".join(f"{json.dumps(str(key))} = {_toml(inner)}" for key, inner in one.items()) + " }"
    if isinstance(one, list):
        return "[" + ", ".join(map(_toml, one)) + "]"
    return '""' if one is None else json.dumps(one).replace("\\u001b", "\\u001B")


# tar


def members(data: bytes) -> list[tuple[bytearray, bytes]]:
    """Headers and contents of the members of a tar."""
    found, at = [], 0
    while at + 512 <= len(data) and data[at : at + 512].strip(b"\0"):
        header = bytearray(data[at : at + 512])
        size = int(header[124:135], 8)
        found.append((header, data[at + 512 : at + 512 + size]))
        at += 512 + -(-size // 512) * 512
    return found


def tar_of(found: list[tuple[bytearray, bytes]]) -> bytes:
    blocks = [bytes(header) + body + b"\0" * (-len(body) % 512) for header, body in found]
    return b"".join(blocks) + b"\0" * 1024


def sealed_header(header: bytearray) -> bytearray:
    """A header with the checksum that it should have."""
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return header


def tar_header(data: bytes, rng: random.Random) -> bytes:
    """A member's name, size, type, link or prefix is another; its checksum is right."""
    found = members(data)
    header, body = rng.choice(found)
    how = rng.randrange(6)
    if how == 0:
        header[:100] = rng.choice(NAMES).encode(errors="replace")[:99].ljust(100, b"\0")
    elif how == 1:
        sizes = (0, 1, len(body) + 1, len(body) + 512, 8**11 - 1, 10**9)
        header[124:136] = f"{rng.choice(sizes):011o}\0".encode()
        if rng.random() < 0.3:
            header[124:136] = rng.choice((b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-0000000001\0", b"            "))
    elif how == 2:
        header[156:157] = rng.choice((b"1", b"2", b"3", b"5", b"6", b"L", b"x", b"g", b"S", b"\0", b"7", b"\xff"))
        header[157:257] = rng.choice(NAMES).encode(errors="replace")[:99].ljust(100, b"\0")
    elif how == 3:
        header[345:500] = rng.choice(NAMES).encode(errors="replace")[:154].ljust(155, b"\0")
    elif how == 4:
        header[257:265] = rng.choice((b"ustar  \0", b"\0" * 8, b"USTAR\x0000"))
    else:
        header[rng.randrange(512)] ^= 1 << rng.randrange(8)
    if rng.random() < 0.9:
        sealed_header(header)
    return tar_of(found)


def tar_members(data: bytes, rng: random.Random) -> bytes:
    """A member is gone, there again, elsewhere, or one more is there: a link, a device, a long name."""
    found = members(data)
    place = rng.randrange(len(found))
    how = rng.randrange(5)
    if how == 0:
        del found[place]
    elif how == 1:
        found.insert(place, found[place])
    elif how == 2:
        found.insert(rng.randrange(len(found)), found.pop(place))
    elif how == 3:
        del found[rng.randrange(len(found)) :]
    else:
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))) as file:
            one = tarfile.TarInfo(rng.choice(NAMES).replace("\0", "0") or "x")
            one.type = rng.choice(
                (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
            )
            one.linkname = "../../victim/important"
            file.addfile(one)
        return sink.getvalue().rstrip(b"\0").ljust(512, b"\0") + data
    return tar_of(found)


def tar_body(data: bytes, rng: random.Random) -> bytes:
    """What a member holds is another: its label, its record, its picture."""
    found = members(data)
    place = rng.randrange(len(found))
    header, body = found[place]
    name = bytes(header[:100]).rstrip(b"\0")
    if name.endswith(b".json"):
        new = rng.choice((json_tree, json_tree, json_raw, json_twice, json_root))(body, rng)
    elif name.endswith(b".cls"):
        new = rng.choice((b"-1", b"999", b"1e3", b"", b"1" * 5000, b" 1", b"\xd9\xa1", b"0x1", b"1_0", b"2"))
    else:
        new = image(body, rng)
    header[124:136] = f"{len(new):011o}\0".encode()
    found[place] = (sealed_header(header), new)
    return tar_of(found)


def tar_picture(data: bytes, rng: random.Random) -> bytes:
    """A picture is another."""
    found = members(data)
    places = [k for k, (header, _) in enumerate(found) if bytes(header[:100]).rstrip(b"\0").endswith((b"png", b"jpg"))]
    place = rng.choice(places)
    header, body = found[place]
    new = image(body, rng)
    header[124:136] = f"{len(new):011o}\0".encode()
    found[place] = (sealed_header(header), new)
    return tar_of(found)


# Pictures


def image(data: bytes, rng: random.Random) -> bytes:
    """A PNG or JPEG that claims other sizes, other chunks, or is another format."""
    if rng.random() < 0.2:
        return _other_picture(rng)
    return _png(data, rng) if data[:4] == b"\x89PNG" else _jpeg(data, rng)


COLOURS = ((16, 2), (8, 3), (1, 0), (8, 6), (3, 7))  # depth and type of a PNG


def _png(data: bytes, rng: random.Random) -> bytes:
    head, at, chunks = data[:8], 8, []
    while at + 12 <= len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + length]])
        at += 12 + length
    how = rng.randrange(6)
    if how == 0:
        size = rng.choice(((60_000, 60_000), (1, 1), (0, 0), (2**31 - 1, 1), (5000, 5000), (33, 32)))
        chunks[0][1] = struct.pack(">II", *size) + chunks[0][1][8:]
    elif how == 1:
        chunks[0][1] = chunks[0][1][:8] + bytes((*rng.choice(COLOURS), 0, 0, 0))
    elif how == 2:
        text = rng.choice((b"Comment\0" + ESCAPE.encode(), b"x\0\0" + zlib.compress(b"a" * 1_000_000)))
        chunks.insert(1, [rng.choice((b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"acTL")), text])
    elif how == 3:
        del chunks[rng.randrange(len(chunks))]
    elif how == 4:
        chunks[-2][1] = zlib.compress(b"\0" * rng.choice((10, 5_000_000)))
    else:
        one = rng.choice(chunks)
        one[1] = flip(one[1], rng)
    return head + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _jpeg(data: bytes, rng: random.Random) -> bytes:
    start = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    if start < 0 or rng.random() < 0.4:
        return rng.choice(BYTES)(data, rng)
    size = struct.pack(">HH", *rng.choice(((65_535, 65_535), (0, 0), (1, 1), (33, 32))))
    return data[: start + 5] + size + data[start + 9 :]


def _other_picture(rng: random.Random) -> bytes:
    from PIL import Image

    sink = io.BytesIO()
    mode = rng.choice(("RGB", "L", "P", "RGBA", "1", "LA"))
    picture = Image.new(mode, rng.choice(((32, 32), (1, 1), (32, 33), (3000, 1))))
    layout = rng.choice(("PNG", "GIF", "TIFF", "WEBP", "BMP", "JPEG", "PPM", "ICO"))
    fitting = picture.convert("RGB") if layout in ("JPEG", "PPM", "BMP", "WEBP") else picture
    fitting.save(sink, layout)
    return sink.getvalue()


# Parquet


def parquet_table(data: bytes, rng: random.Random) -> bytes:
    """A column, a row, a type, a null or a value of a table is another."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(data), use_threads=False)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    types = {name: table.schema.field(name).type for name in columns}
    name = rng.choice(list(columns))
    _change_column(columns, types, name, rng)
    order = list(columns)
    if rng.random() < 0.1:
        rng.shuffle(order)
    arrays = [_array(columns[one], types.get(one)) for one in order]
    length = min(map(len, arrays), default=0)
    made = pa.table([one[:length] for one in arrays], names=[one.encode(errors="replace").decode() for one in order])
    header = dict(table.schema.metadata or {})
    if header and rng.random() < 0.3:
        key = rng.choice(list(header))
        header[key] = rng.choice((json_tree, json_raw, json_root, json_twice))(header[key], rng)
    sink = pa.BufferOutputStream()
    pq.write_table(
        made.replace_schema_metadata(header),
        sink,
        compression=rng.choice(("zstd", "snappy", "none", "gzip", "brotli")),
        row_group_size=rng.choice((1, 7, 1 << 20)),
        use_dictionary=rng.random() < 0.5,
    )
    return bytes(sink.getvalue())


def _change_column(columns: dict[str, list[Any]], types: dict[str, Any], name: str, rng: random.Random) -> None:
    import pyarrow as pa

    values = columns[name]
    at = rng.randrange(len(values)) if values else 0
    how = rng.randrange(10)
    if how == 0:
        del columns[name]
        columns.setdefault("x", [1] * len(values))
    elif how == 1:
        columns[rng.choice(("later", *NAMES))] = list(values)
    elif how == 2:
        other = [pa.float64(), pa.string(), pa.int8(), pa.uint64(), pa.bool_(), pa.large_string(), pa.list_(pa.int64())]
        types[name] = rng.choice([*other, pa.decimal128(20, 2), pa.timestamp("s"), pa.null(), pa.int64(), pa.binary()])
    elif how == 3 and values:
        for place in rng.sample(range(len(values)), rng.choice((1, len(values)))):
            values[place] = None
    elif how == 4:
        for column in columns.values():
            column += column[at : at + 1]
    elif how == 5:
        for column in columns.values():
            del column[at : at + 1]
    elif how == 6:
        for column in columns.values():
            column.clear()
    elif values and isinstance(values[at], (int, float)) and not isinstance(values[at], bool):
        new = rng.choice((values[at] + 1, values[at] - 1, values[at] + 2**32, 2**40, -5, 10**7, values[at] + 0.5, "1"))
        for place in [at] if rng.random() < 0.6 else range(len(values)):
            values[place] = new
        types[name] = pa.float64() if isinstance(new, float) else pa.string() if new == "1" else pa.int64()
    elif values:
        values[at] = value(rng, values[at])


def _array(values: list[Any], kind: Any) -> Any:
    """As the type that is asked for, or any that takes the values."""
    import pyarrow as pa

    for one in (kind, None, pa.string()):
        try:
            return pa.array(values if one != pa.string() else [str(v)[:2000] for v in values], one)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue
    return pa.nulls(len(values))


def parquet_footer(data: bytes, rng: random.Random) -> bytes:
    """The length of the footer, or a byte of it, is another."""
    if rng.random() < 0.4:
        length = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, len(data)))
        return data[:-8] + struct.pack("<I", length) + data[-4:]
    start = len(data) - 8 - struct.unpack("<I", data[-8:-4])[0]
    return data[:start] + flip(data[start:-8], rng) + data[-8:]


# Weights


def safetensors_header(data: bytes, rng: random.Random) -> bytes:
    """Names, types, shapes and places of tensors are others, or the length of the header."""
    length = struct.unpack("<Q", data[:8])[0]
    if rng.random() < 0.2:
        return struct.pack("<Q", rng.choice((0, 1, 2**63, 2**64 - 1, len(data), length + 1))) + data[8:]
    header = data[8 : 8 + length]
    new = rng.choice((json_tree, json_tree, json_raw, json_twice, json_root))(header, rng)
    return struct.pack("<Q", len(new)) + new + data[8 + length :]


def safetensors_values(data: bytes, rng: random.Random) -> bytes:
    """Some weights are not finite, or others."""
    start = 8 + struct.unpack("<Q", data[:8])[0]
    at = rng.randrange(start, len(data) - 4) & ~3
    number = rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", b"\0\0\0\0"))
    return data[:at] + number + data[at + 4 :]


def zip_entries(data: bytes, rng: random.Random) -> bytes:
    """An entry of a checkpoint is another, is named otherwise, is gone, or is a pickle that asks for a function."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    name = rng.choice(list(entries))
    how = rng.randrange(5)
    if how == 0:
        del entries[name]
    elif how == 1:
        entries[rng.choice(NAMES[:5]).lstrip("/") or "x"] = entries.pop(name)
    elif how == 2:
        entries[next(iter(entries)).partition("/")[0] + "/data.pkl"] = rng.choice(PICKLES)
    elif how == 3:
        pickle = next(one for one in entries if one.endswith("data.pkl"))
        entries[pickle] = rng.choice(BYTES)(entries[pickle], rng)
    else:
        entries[name] = rng.choice(BYTES)(entries[name], rng)
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as file:
        for one, body in entries.items():
            file.writestr(one, body)
    return sink.getvalue()


PICKLES = (
    b"cos\nmkdir\n(Vfuzzed\ntR.",  # makes a folder, were it not refused
    b"\x80\x02}q\x00.",
    b"\x80\x02]q\x00.",
    b"\x80\x02K\x01.",
    b"\x80\x02}q\x00X\x07\x00\x00\x00learnerq\x01}q\x02s.",
    b".",
    b"",
)


def pixel_header(data: bytes, rng: random.Random) -> bytes:
    """The first line of a file of decoded images is another."""
    head, _, rest = data.partition(b"\n")
    new = rng.choice((json_tree, json_tree, json_raw, json_twice, json_root))(head, rng).replace(b"\n", b"")
    return new + b"\n" + rest[: max(len(rest) - len(new) + len(head), 0)]


# What stands in a file's place


def _gone(path: Path) -> Path:
    path.unlink()
    return path


def missing(path: Path, sandbox: Path) -> None:
    """Nothing is there."""
    _gone(path)


def empty(path: Path, sandbox: Path) -> None:
    """A file of no bytes."""
    path.write_bytes(b"")


def folder(path: Path, sandbox: Path) -> None:
    """A folder."""
    _gone(path).mkdir()


def full_folder(path: Path, sandbox: Path) -> None:
    """A folder with a file in it."""
    _gone(path).mkdir()
    (path / "x").write_bytes(b"x")


def pipe(path: Path, sandbox: Path) -> None:
    """A pipe that nobody writes to."""
    os.mkfifo(_gone(path))


def dangling(path: Path, sandbox: Path) -> None:
    """A link to nothing."""
    _gone(path).symlink_to("nowhere")


def loop(path: Path, sandbox: Path) -> None:
    """A link to itself."""
    _gone(path).symlink_to(path.name)


def link_to_victim(path: Path, sandbox: Path) -> None:
    """A link to a file that is somebody else's."""
    _gone(path).symlink_to(sandbox / "victim/important")


def link_to_same(path: Path, sandbox: Path) -> None:
    """A link to the very content, elsewhere."""
    kept = sandbox / "victim/kept"
    shutil.copyfile(path, kept)
    _gone(path).symlink_to(kept)


def device(path: Path, sandbox: Path) -> None:
    """A link to a device that never ends."""
    _gone(path).symlink_to("/dev/zero")


def linked_folder(path: Path, sandbox: Path) -> None:
    """The folder of the file is a link to a folder elsewhere that holds the same.

    Not that which commands are asked to write to by name: through a link there, they do.
    """
    if sandbox / "inside" in (path.parent, path.parent.parent):
        link_to_same(path, sandbox)
        return
    kept = sandbox / "victim/folder"
    shutil.copytree(path.parent, kept)
    shutil.rmtree(path.parent)
    path.parent.symlink_to(kept)


KINDS: tuple[Callable[[Path, Path], None], ...] = (
    missing, empty, folder, full_folder, pipe, dangling, loop, link_to_victim, link_to_same, device, linked_folder,
)  # fmt: skip

FORMATS: Mapping[str, tuple[Mutation, ...]] = {
    "json": (json_tree, json_tree, json_tree, json_raw, json_twice, json_root),
    "jsonl": (json_lines,),
    "text": (text_line, text_line, text_whole),
    "csv": (csv_cell, csv_cell, csv_cell, text_whole),
    "toml": (toml_value, toml_value, toml_raw, toml_key, toml_key, toml_many, text_line, text_whole),
    "tar": (tar_header, tar_members, tar_body, tar_body),
    "picture": (tar_picture,),
    "image": (image,),
    "pixels": (pixel_header,),
    "parquet": (parquet_table, parquet_table, parquet_table, parquet_footer),
    "safetensors": (safetensors_header, safetensors_header, safetensors_values),
    "zip": (zip_entries,),
    "bytes": BYTES,
}


def mutate(path: Path, layout: str, sandbox: Path, rng: random.Random) -> str:
    """Change a file in one or two ways; returns the names of these."""
    if layout == "name":
        path.rename(path.with_name(rng.choice(FILE_NAMES).format(path.stem)))
        return "renamed"
    if rng.random() < 0.12:
        kind = rng.choice(KINDS)
        kind(path, sandbox)
        return kind.__name__
    chain = [rng.choice(FORMATS[layout])] if rng.random() < 0.8 else []
    chain += [rng.choice(BYTES)] if not chain or rng.random() < 0.1 else []
    told = []
    for how in chain:
        data = path.read_bytes()
        try:
            path.write_bytes(_led(how(data, rng), sandbox))
            told.append(how.__name__)
        except MISSED:  # the file has nothing of what was to be changed
            path.write_bytes(flip(data, rng))
            told.append("flip")
    return " + ".join(told)


MISSED = (ValueError, KeyError, IndexError, TypeError, StopIteration, struct.error, csv.Error, OSError)
FILE_NAMES = (
    "abc-test.parquet", "{}.tmp.parquet", "-1-test.parquet", "9999999999999999999999-test.parquet", "0001-.parquet",
    "0001-\x1b[31m.parquet", ".parquet", "1-test.parquet", "0001-test-id.parquet", "{}", "\u0661-test.parquet",
    "0001 -test.parquet", "1e3-test.parquet", "{}.parquet.parquet", "0_1-test.parquet",
)  # fmt: skip


def _led(data: bytes, sandbox: Path) -> bytes:
    """Absolute names lead to the victim of the sandbox, in texts alone: other formats have lengths before them."""
    if b"\0" in data or b'"/victim' not in data:
        return data
    return data.replace(b'"/victim', f'"{sandbox}/victim'.encode())
