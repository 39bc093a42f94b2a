"""Parquet files with the images inside, as the library datasets reads them: its Image and ClassLabel features."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthgen.common.errors import SynthgenError
from synthgen.dataset.manifest import Manifest
from synthgen.dataset.shard import Item
from synthgen.dataset.tables import read_schema
from synthgen.kinds.base import Sample

if TYPE_CHECKING:
    import pyarrow as pa

    from synthgen.storage.store import Place

# A row group is what a reader holds at once; the Hub's viewer needs small ones.
GROUP_BYTES = 32 << 20
GROUP_ROWS = 10_000
# The Arrow types that records use, with the names that datasets gives them; see datasets.features.Value.
DTYPES = {"int64": "int64", "string": "string", "double": "float64", "bool": "bool"}


def layout_of(manifest: Manifest, path: Place) -> pa.Schema:
    """The columns: image, label, key, and those of the metadata tables, whose types the first, ``path``, gives.

    Raises SynthgenError if it cannot be read or has a column of another type, or two classes share a name.
    """
    import pyarrow as pa

    table = read_schema(path)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = {"image": image, "label": pa.int64(), "key": pa.string()}
    for field in table:
        dtype = pa.string() if pa.types.is_null(field.type) else field.type  # seeds, if nothing is random
        if str(dtype) not in DTYPES:
            raise SynthgenError(f"{path}: column {field.name} has the type {dtype}; one of {', '.join(DTYPES)} is read")
        fields.setdefault(field.name, dtype)
    features: dict[str, Any] = {
        name: {"dtype": DTYPES[str(dtype)], "_type": "Value"} for name, dtype in fields.items() if name != "image"
    }
    names = list(manifest.plan.content.class_names)
    if len(set(names)) < len(names):
        raise SynthgenError(f"{manifest.directory}: two classes share a name, which datasets cannot read from Parquet")
    features["label"] = {"names": names, "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}} | features
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def write_parquet(path: Path, columns: pa.Schema, samples: Iterable[tuple[Sample, Item]], *, table: Place) -> None:
    """Write samples as one Parquet file.

    Raises SynthgenError, naming the table that gave the columns, if a record has others.
    """
    import pyarrow.parquet as pq

    plain = [name for name in columns.names if name not in ("image", "key", "sha256")]
    with pq.ParquetWriter(
        path,
        columns,
        compression=dict.fromkeys((*plain, "key", "sha256"), "zstd"),  # images are already compressed
        use_dictionary=plain,
        write_statistics=[*plain, "key"],
        write_page_index=True,
    ) as writer:
        rows: list[dict[str, Any]] = []
        n_bytes = 0
        for _, item in samples:
            rows.append(_row(item, columns, table))
            n_bytes += len(item.image)
            if n_bytes >= GROUP_BYTES or len(rows) == GROUP_ROWS:
                writer.write_table(_group(rows, columns, table))
                rows, n_bytes = [], 0
        if rows:
            writer.write_table(_group(rows, columns, table))


def _row(item: Item, columns: pa.Schema, table: Place) -> dict[str, Any]:
    image = {"bytes": item.image, "path": f"{item.key}.{item.ending}"}
    row = item.record | {"image": image, "label": item.label, "key": item.key}
    odd = row.keys() ^ set(columns.names)
    if odd:
        keys = ", ".join(sorted(odd))
        raise SynthgenError(
            f"{table}: its columns are not those of the record of {item.key} ({keys}); see synthgen verify"
        )
    return row


def _group(rows: list[dict[str, Any]], columns: pa.Schema, table: Place) -> pa.Table:
    import pyarrow as pa

    try:
        return pa.Table.from_pylist(rows, schema=columns)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        keys = f"{rows[0]['key']} to {rows[-1]['key']}"
        raise SynthgenError(
            f"{table}: its columns have other types than the records of {keys} ({' '.join(str(error).split())}); see"
            " synthgen verify"
        ) from None
