"""Tables of predictions: what was predicted for every image of one split, at one epoch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .errors import EvaluateError

COLUMNS = ("image_id", "y_true", "y_pred", "location", "sequence")  # of stored predictions
MOST_IMAGES = 10**7  # of a split; a file of a few kilobytes can claim to hold 10^12 rows
LARGEST = {"y_true": 2**31 - 1, "y_pred": 2**31 - 1, "location": 2**63 - 1, "sequence": 2**63 - 1}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """A model's predictions for every image of one split, at one epoch."""

    image_id: NDArray[np.object_]  # str [n]
    y_true: NDArray[np.int64]  # [n], class
    y_pred: NDArray[np.int64]  # [n], predicted class
    location: NDArray[np.int64]  # [n], cluster of dependent images, such as a camera location; the name of the column
    sequence: NDArray[np.int64]  # [n], images of a cluster that were taken together; -1 if the set has no sequences

    def __len__(self) -> int:
        return len(self.y_true)


def read_table(data: bytes) -> pa.Table:
    """A table with the columns of predictions; raises EvaluateError that does not name the file."""
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        names, n = file.schema_arrow.names, file.metadata.num_rows
        if sorted(names) != sorted(COLUMNS):
            raise EvaluateError(f"columns {', '.join(names)[:200]}; predictions have {', '.join(COLUMNS)}")
        if not 1 <= n <= MOST_IMAGES:
            raise EvaluateError(f"{n} rows; predictions are of 1 to {MOST_IMAGES} images")
        return file.read(use_threads=False)  # see synthgen/dataset/tables.py


def check_columns(table: pa.Table, n_classes: int | None) -> None:
    """Raise EvaluateError, with the first row that is wrong, if a column holds an invalid value."""
    if not (pa.types.is_string(table["image_id"].type) or pa.types.is_large_string(table["image_id"].type)):
        raise _wrong(table, "image_id", np.arange(len(table)), "a text")
    _check_nulls(table, "image_id", "a text")
    for name in COLUMNS[1:]:
        low, high = (0 if name in ("y_true", "y_pred") else -(2**63)), LARGEST[name]
        if name in ("y_true", "y_pred") and n_classes is not None:
            high = min(n_classes - 1, high)
        rule = f"a whole number from {low} to {high}" if low == 0 else "a whole number of 64 bits"
        if not pa.types.is_integer(table[name].type):
            raise _wrong(table, name, np.arange(len(table)), rule)
        _check_nulls(table, name, rule)
        values = table[name].to_numpy()
        if values.min() < low or values.max() > high:
            raise _wrong(table, name, np.flatnonzero((values < low) | (values > high)), rule)


def _check_nulls(table: pa.Table, name: str, rule: str) -> None:
    if table[name].null_count:
        raise _wrong(table, name, np.flatnonzero(table[name].is_null().to_numpy()), rule)


def _wrong(table: pa.Table, name: str, rows: NDArray[np.intp], rule: str) -> EvaluateError:
    first = int(rows[0])
    value = str(table[name][first])[:40]
    kind = "" if pa.types.is_integer(table[name].type) else f" ({table[name].type})"[:60]
    return EvaluateError(
        f"row {first + 1}: {name} is {value}{kind}, not {rule}; so {len(rows)} of {len(table)} rows are wrong"
    )


def image_ids(table: pa.Table, path: Path) -> NDArray[np.object_]:
    """The ids of a table of predictions; raises EvaluateError, naming the file, if one appears twice."""
    ids = np.asarray(table["image_id"].to_pylist(), dtype=object)
    repeated = len(ids) - len(set(ids))
    if repeated:
        first = {one: row for row, one in reversed(list(enumerate(ids)))}
        row = next(row for row, one in enumerate(ids) if first[one] < row)
        raise EvaluateError(
            f"{path}: {repeated} images appear more than once, the first in row {row + 1}; every image must appear once"
        )
    return ids
