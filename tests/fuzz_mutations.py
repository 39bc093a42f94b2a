"""Mutations, by format: small and large lies about a file that was right.

Every function in ``FORMATS`` takes the bytes of a file and a random generator and gives other bytes; those of
``KINDS`` put something else in the place of a file.  Nothing made here harms software: a hostile value is a long
text, a large number, or a name, and the largest file has some hundred kilobytes.
"""

from __future__ import annotations

import csv
import random
import struct
from collections.abc import Mapping
from pathlib import Path

from fuzz_archives import (
    image,
    parquet_footer,
    parquet_table,
    pixel_header,
    safetensors_header,
    safetensors_values,
    tar_body,
    tar_header,
    tar_members,
    tar_picture,
    zip_entries,
)
from fuzz_bytes import BYTES, flip
from fuzz_places import KINDS
from fuzz_texts import (
    csv_cell,
    json_lines,
    json_raw,
    json_root,
    json_tree,
    json_twice,
    text_line,
    text_whole,
    toml_key,
    toml_many,
    toml_raw,
    toml_value,
)
from fuzz_values import Mutation

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
