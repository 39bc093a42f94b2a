"""Mutations of tars, images, tables and weights."""

from __future__ import annotations

import io
import random
import struct
import tarfile
import zipfile
import zlib
from typing import Any

from fuzz_bytes import BYTES, flip
from fuzz_texts import (
    json_raw,
    json_root,
    json_tree,
    json_twice,
)
from fuzz_values import ESCAPE, NAMES, value


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
