import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from test_evaluate_interventions import Labelled, label_sets

from synthgen_evaluate.design.interventions import Selection, everything, quantity
from synthgen_evaluate.design.selection import KEY, read_selection, write_selection
from synthgen_evaluate.errors import EvaluateError

SOURCE = {"kind": "folder", "n_images": 60, "digest": "0123456789abcdef"}


def chosen() -> Selection:
    return quantity(np.arange(60) % 3, ("fox", "hare", "Ⱥ owl\t1"), 20, seed=0)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_selection(tmp_path / "new" / "a.parquet", chosen(), SOURCE)
    return tmp_path / "new" / "a.parquet"


@settings(max_examples=20)
@given(label_sets())
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, labelled: Labelled) -> None:
    path = tmp_path_factory.mktemp("selection") / "a.parquet"
    selection = everything(*labelled)
    whole = {**SOURCE, "n_images": len(selection.indices)}
    write_selection(path, selection, whole)
    again, source = read_selection(path)
    assert source == whole
    assert again.indices.tolist() == selection.indices.tolist()
    assert again.labels.tolist() == selection.labels.tolist()
    assert (again.class_names, again.rule, again.digest) == (selection.class_names, selection.rule, selection.digest)
    assert again.indices.dtype == again.labels.dtype == np.int64


def test_the_file_is_a_plain_table_whose_metadata_say_what_it_is(written: Path) -> None:
    table = pq.read_table(written)
    assert table.column_names == ["index", "label", "class"]
    assert table["class"].to_pylist()[:2] == [chosen().class_names[label] for label in chosen().labels[:2]]
    header = json.loads(table.schema.metadata[KEY])
    assert header == {
        "format": 1,
        "rule": "20 images balanced over 3 classes, seed 0",
        "n_images": 20,
        "class_names": ["fox", "hare", "Ⱥ owl\t1"],
        "source": SOURCE,
        "digest": chosen().digest,
    }
    assert [path.name for path in written.parent.iterdir()] == ["a.parquet"]


def test_the_same_selection_is_the_same_bytes(written: Path, tmp_path: Path) -> None:
    write_selection(tmp_path / "b.parquet", chosen(), dict(reversed(SOURCE.items())))
    assert (tmp_path / "b.parquet").read_bytes() == written.read_bytes()


def with_header(table: pa.Table, **changes: Any) -> pa.Table:
    return table.replace_schema_metadata({KEY: json.dumps(json.loads(table.schema.metadata[KEY]) | changes)})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.slice(1), "its 19 rows have the digest "),
        (lambda t: t.set_column(0, "index", pa.array(range(20))), "its 20 rows have the digest "),
        (lambda t: with_header(t, digest="0" * 16), "its header says 0000000000000000; it was changed or damaged"),
        (lambda t: with_header(t, class_names=["a", "b", "c"]), "its classes are not those of its labels"),
        (lambda t: t.set_column(2, "class", pa.array(["fox"] * 20)), "its classes are not those of its labels"),
        (lambda t: with_header(t, class_names=["a"]), "label: 2 in row 3; whole numbers from 0 to 0"),
        (lambda t: with_header(t, format=2), "a selection of format 2; this version reads 1"),
        (lambda t: t.drop_columns(["label"]), "not a written selection, or damaged (KeyError"),
        (lambda t: t.replace_schema_metadata(None), "not a written selection, or damaged (KeyError"),
        (lambda t: t.replace_schema_metadata({"pandas": "{}"}), "not a written selection, or damaged (KeyError"),
        (lambda t: t.replace_schema_metadata({KEY: "[]"}), "header: the file: Input should be an object"),
    ],
)
def test_a_changed_file_is_refused(written: Path, change: Callable[[pa.Table], pa.Table], problem: str) -> None:
    pq.write_table(change(pq.read_table(written)), written)
    with pytest.raises(EvaluateError) as caught:
        read_selection(written)
    assert str(caught.value).startswith(f"{written}: ")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_or_other_file_is_refused(written: Path) -> None:
    data = written.read_bytes()
    middle = len(data) // 2
    for broken in (b"", b"index\tlabel\n", data[:-9], data[:40] + bytes(40) + data[80:], data[:middle]):
        written.write_bytes(broken)
        with pytest.raises(EvaluateError, match=r"a\.parquet: not a written selection, or damaged \(") as caught:
            read_selection(written)
        assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match=r"none\.parquet: cannot be read \(No such file or directory\)"):
        read_selection(tmp_path / "none.parquet")
