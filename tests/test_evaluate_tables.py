import csv
import io

import pytest

from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.reporting.tables import written

ROWS = [{"arm": "a_1 & 50%", "images": 1500, "baseline": True}, {"arm": 'b|"c", d', "images": 0, "baseline": False}]


def test_csv_reads_back_cell_by_cell() -> None:
    read = list(csv.DictReader(io.StringIO(written(ROWS, "csv"))))
    assert read == [
        {"arm": "a_1 & 50%", "images": "1500", "baseline": "yes"},
        {"arm": 'b|"c", d', "images": "0", "baseline": "no"},
    ]


def test_text_stands_in_columns() -> None:
    assert written(ROWS, "text").splitlines() == [
        "arm        images  baseline",
        "a_1 & 50%  1500    yes",
        'b|"c", d   0       no',
    ]


def test_marks_with_a_meaning_are_escaped() -> None:
    assert written(ROWS, "markdown").splitlines()[3] == r'| b\|"c", d | 0 | no |'
    assert r"a\_1 \& 50\% & 1500 & yes \\" in written(ROWS, "latex").splitlines()


def test_an_unknown_layout_is_refused_with_those_there_are() -> None:
    with pytest.raises(EvaluateError, match="--format html: one of text, csv, markdown, latex"):
        written(ROWS, "html")
