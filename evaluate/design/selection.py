"""Selections: which images of a source are trained on, with which labels; one publishable file each.

The file is Parquet: one row per image (``index`` in the source, ``label``, ``class``), which any data frame
library and the Hugging Face Hub's viewer read as it is, and, in the schema's metadata, the rule, the
class names, the source and the digest.  So the rows cannot be separated from their meaning, as a table and
a header file can, and a million images take a few megabytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import with_config

from synthgen.common.records import STRICT, record, validated
from synthgen.storage.atomic import write_atomically
from synthgen.storage.reading import read_file, reading

from ..errors import EvaluateError, told_here

FORMAT = 1  # of the file
SEED = 0  # of the choices of arms, so that their images are the same for every run
KEY = b"synthgen_selection"  # of the header in the schema's metadata


class Labelled(Protocol):
    """What a choice is made from."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image, [n]."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, by label."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selection:
    """The images an intervention chose and the labels they are trained with."""

    indices: NDArray[np.int64]  # [n], positions in the source
    labels: NDArray[np.int64]  # [n], positions in class_names
    class_names: tuple[str, ...]
    rule: str  # how the choice was made, in words and numbers

    @property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 over indices and labels."""
        data = self.indices.astype("<i8").tobytes() + self.labels.astype("<i8").tobytes()
        return hashlib.sha256(data).hexdigest()[:16]


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The description of the rows in the schema's metadata."""

    format: int
    rule: str
    n_images: int  # rows
    class_names: tuple[str, ...]
    source: Mapping[str, Any]  # how the source describes itself
    digest: str  # of the selection


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

    Raises EvaluateError if the file is not a selection, or its rows are not those it was written with. Of a class
    without rows, nothing but the header knows the name.
    """
    with told_here(), reading(path):
        data = read_file(path)
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            table = file.read(use_threads=False)
        content = (table.schema.metadata or {})[KEY]
        indices, labels, named = (table[name] for name in ("index", "label", "class"))
        named = named.cast(pa.string())
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise EvaluateError(f"{path}: not a written selection, or damaged ({error!r:.80})") from None
    where = f"{path}: header"
    with told_here():
        header = record(content, dict[str, Any], where)
        if header.get("format") != FORMAT:
            raise EvaluateError(
                f"{path}: a selection of format {str(header.get('format'))[:40]}; this version reads {FORMAT}"
            )
        told = validated(header, Header, where)
    if len({*told.class_names}) < len(told.class_names):
        raise EvaluateError(f"{where}: class_names: a name occurs twice; it was changed or damaged")
    n_source = told.source.get("n_images")
    selection = Selection(
        indices=_numbers(indices, f"{path}: index", n_source if isinstance(n_source, int) else 2**63),
        labels=_numbers(labels, f"{path}: label", len(told.class_names)),
        class_names=told.class_names,
        rule=told.rule,
    )
    digest, source = told.digest, dict(told.source)
    if selection.digest != digest:
        raise EvaluateError(
            f"{path}: its {len(table)} rows have the digest {selection.digest}, its header says {digest};"
            " it was changed or damaged"
        )
    if not pa.chunked_array([pa.array(selection.class_names).take(pa.array(selection.labels))]).equals(named):
        raise EvaluateError(f"{path}: its classes are not those of its labels in its header; it was changed")
    if told.n_images != len(table):
        raise EvaluateError(f"{path}: {len(table)} rows, its header says {told.n_images}; it was changed or damaged")
    return selection, source


def _numbers(column: pa.ChunkedArray, where: str, end: int) -> NDArray[np.int64]:
    """A column of whole numbers from 0 to below ``end``; raises EvaluateError, with the first row that is wrong."""
    if not pa.types.is_integer(column.type) or column.null_count:
        raise EvaluateError(f"{where}: {column.type}, {column.null_count} empty; whole numbers are expected")
    values = column.to_numpy()
    wrong = np.flatnonzero((values < 0) | (values >= end))
    if len(wrong):
        raise EvaluateError(f"{where}: {values[wrong[0]]} in row {wrong[0] + 1}; whole numbers from 0 to {end - 1}")
    return np.asarray(values, np.int64)
