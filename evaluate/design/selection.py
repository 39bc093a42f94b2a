"""Selections: which images of a source are trained on, with which labels; one publishable file each.

The file is Parquet: a row an image (``index`` in the source, ``label``, ``class``), which any data frame
library and the Hugging Face Hub's viewer read as it is, and, in the schema's metadata, the rule, the
class names, the source and the digest.  So the rows and what they mean cannot be parted as a table and
a header file can, and a million images take a few megabytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from synthgen.shard import write_atomically

from ..errors import EvaluateError

FORMAT = 1  # of the file
KEY = b"synthgen_selection"  # of the header in the schema's metadata


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selection:
    """The images an intervention chose and the labels they are trained with."""

    indices: NDArray[np.int64]  # [n], positions in the source
    labels: NDArray[np.int64]  # [n], positions in class_names
    class_names: tuple[str, ...]
    rule: str  # in words and numbers, how the choice was made

    @property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 over indices and labels."""
        data = self.indices.astype("<i8").tobytes() + self.labels.astype("<i8").tobytes()
        return hashlib.sha256(data).hexdigest()[:16]


def write_selection(path: Path, selection: Selection, source: Mapping[str, Any]) -> None:
    """Write a selection and the identity of its source, whole or not at all."""
    names = pa.DictionaryArray.from_arrays(pa.array(selection.labels, pa.int32()), pa.array(selection.class_names))
    header = {
        "format": FORMAT,
        "rule": selection.rule,
        "n_images": len(selection.indices),
        "class_names": selection.class_names,
        "source": source,
        "digest": selection.digest,
    }
    columns = {"index": pa.array(selection.indices), "label": pa.array(selection.labels), "class": names}
    table = pa.table(columns).replace_schema_metadata({KEY: json.dumps(header, sort_keys=True).encode()})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(path, sink.getvalue())


def read_selection(path: Path) -> tuple[Selection, dict[str, Any]]:
    """A written selection and the identity of its source.

    Raises EvaluateError where the file is none, or where its rows are not those it was written with.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EvaluateError(f"{path}: {error.strerror}; name a written selection") from None
    try:
        table = pq.read_table(pa.BufferReader(data))
        header = json.loads(table.schema.metadata[KEY])
        if header["format"] != FORMAT:
            raise EvaluateError(f"{path}: a selection of format {header['format']}; this version reads {FORMAT}")
        selection = Selection(
            indices=table["index"].to_numpy().astype(np.int64),
            labels=table["label"].to_numpy().astype(np.int64),
            class_names=tuple(header["class_names"]),
            rule=header["rule"],
        )
        named = pa.array(selection.class_names).take(table["label"]).equals(table["class"].cast(pa.string()))
        digest, source = header["digest"], header["source"]
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise EvaluateError(f"{path}: not a written selection, or damaged ({error!r:.80})") from None
    if selection.digest != digest:
        raise EvaluateError(
            f"{path}: its {len(table)} rows have the digest {selection.digest}, its header says {digest};"
            " it was changed or damaged"
        )
    if not named:
        raise EvaluateError(f"{path}: its classes are not those of its labels in its header; it was changed")
    return selection, source
