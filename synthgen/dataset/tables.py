"""Reading metadata tables that may come from elsewhere: complete, with the required columns and types."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from synthgen.common.errors import SynthgenError
from synthgen.common.masking import one_line
from synthgen.storage.reading import read_file, reading

if TYPE_CHECKING:
    import pyarrow as pa

    from synthgen.storage.store import Place

LIMIT = 1 << 32  # most bytes that a table may say it decompresses to
# Arrow's threads may release Python's bytes only while Python is exiting, which aborts the process (pyarrow 26.0.1).
# So one thread reads what is read from memory, here and elsewhere.
TYPES = {"key": "string", "label": "int64", "template": "int64", "weight": "int64", "fault": "string"}


def read_table(path: Place, columns: list[str] | None = None) -> pa.Table:
    """A shard's metadata table, or some of its columns.

    Raises SynthgenError naming file and column if it is damaged, lacks a column, or has one of TYPES with another type.
    """
    import pyarrow.parquet as pq

    with reading(path):
        data = read_file(path, patient=True)
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            check_size(file.metadata)
            _check_columns({field.name: str(field.type) for field in file.schema_arrow}, columns or ["key", "label"])
            table = file.read(columns=columns, use_threads=False)
        table.validate(full=True)
    except SynthgenError as error:
        raise SynthgenError(f"{path}: {error}") from None
    except Exception as error:  # Arrow's own errors, and others from an odd schema
        raise SynthgenError(f"{path}: damaged table ({one_line(error, ())})") from None
    return table


def read_schema(path: Place) -> pa.Schema:
    """The columns of a shard's metadata table; raises SynthgenError naming the file if it is damaged."""
    import pyarrow.parquet as pq

    with reading(path):
        data = read_file(path, patient=True)
    try:
        return pq.read_schema(io.BytesIO(data))
    except Exception as error:
        raise SynthgenError(f"{path}: damaged table ({one_line(error, ())})") from None


def check_size(metadata: pa.parquet.FileMetaData) -> None:
    """Raise SynthgenError, without naming a file, if a table decompresses to more than LIMIT."""
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    if sum(group.total_byte_size for group in groups) > LIMIT:
        raise SynthgenError(f"says it decompresses to more than {LIMIT} bytes")


def _check_columns(types: Mapping[str, str], needed: list[str]) -> None:
    for name in needed:
        if name not in types:
            raise SynthgenError(f"no column {name!r}")
    for name, kind in TYPES.items():
        if types.get(name, kind) != kind:
            raise SynthgenError(f"column {name} is of the type {types[name]}, not {kind}")
