"""Published scores from a CSV file, as runs without predictions: enough for a trend."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from synthgen.storage.reading import read_file, reading

from ..errors import EvaluateError, told_here
from ..metrics import Scores
from ..runs import Arm, Member, SuiteRecord
from .load import OOD_SPLIT, EvaluatedEpoch, LoadedRun

NEEDED = ("id_macro_f1", "ood_macro_f1")
COLUMNS = {  # that are read; others are ignored
    "id_macro_f1": "in-distribution macro-F1 in percent, 0 to 100; or as fractions, with `--unit fraction`",
    "ood_macro_f1": "out-of-distribution macro-F1, likewise",
    "pretraining": "the arm; `published` by default",
    "architecture": "rows of two arms with one architecture and seed are paired; `unknown` by default",
    "seed": "an integer; by default each row has its own, so that nothing is paired by chance",
    "split": "the OOD split; rows of splits other than `test` are left out",
    "model": "shown in the report",
    "source": "where the scores were published; shown in the report",
}
NAN = float("nan")
FARTHEST = 10.0  # times that ID and OOD macro-F1 of one model differ by, if one is at most 1 percent
NUMBER = re.compile(r"\s*[+-]?([0-9]{1,9}\.?[0-9]{0,40}|\.[0-9]{1,40})(e[+-]?[0-9]{1,3})?\s*", re.IGNORECASE)
SEED = re.compile(r"-?[0-9]{1,18}")
LIMIT = 1 << 26  # bytes of a file


def load_results(path: Path, *, unit: str | None = None) -> list[LoadedRun]:
    """The rows of a file of published scores as runs; raises EvaluateError naming file and line if one is wrong.

    ``unit`` is "percent" or "fraction"; by default scores are in percent, and those that look like fractions are
    refused.
    """
    rows = [(line, row) for line, row in _rows(path) if (row.get("split") or OOD_SPLIT) == OOD_SPLIT]
    if not rows:
        raise EvaluateError(f"{path}: has no row of the split {OOD_SPLIT}")
    names = list(dict.fromkeys(row.get("pretraining") or "published" for _, row in rows))
    arms = {
        name: Arm(name=name, factor="published", level=name, description=f"published scores, {path.name}")
        for name in names
    }
    members = [_member(f"{path}: line {line}", number, row) for number, (line, row) in enumerate(rows)]
    keys = [(member.arm, member.architecture, member.seed) for member in members]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise EvaluateError(f"{path}: {keys.count(twice)} rows of arm, architecture and seed {twice}; number the seeds")
    scored = _scored(path, rows, unit)
    suite = SuiteRecord(
        name=path.name,
        baseline=names[0],
        task={"name": "published scores"},
        arms=tuple(arms.values()),
        members=tuple(members),
    )
    return [
        LoadedRun(
            suite=suite,
            arm=arms[member.arm],
            member=member,
            status="done",
            epochs=(epoch,),
        )
        for member, epoch in zip(members, scored, strict=True)
    ]


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of a file, each with its number, as dictionaries by the column names of the first line."""
    with told_here(), reading(path):
        data = read_file(path, limit=LIMIT)
    try:
        text = data.decode("utf-8-sig")
        if "\0" in text:
            raise EvaluateError(f"{path}: line {text[: text.index(chr(0))].count(chr(10)) + 1}: contains a null byte")
        reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", strict=True)
        names = [_column(name) for name in reader.fieldnames or ()]
        reader.fieldnames = names
        lacking = [name for name in NEEDED if name not in names]
        if lacking:
            raise EvaluateError(f"{path}: no column {', '.join(lacking)}; the first line names the columns")
        for name in names:
            if names.count(name) > 1:
                raise EvaluateError(f"{path}: line 1: column {name[:40]!r} appears twice")
        rows = [
            (reader.line_num, {key: value.strip() if key in COLUMNS and value else value for key, value in row.items()})
            for row in reader
        ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise EvaluateError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    for line, row in rows:
        if "" in row and "" not in names:
            raise EvaluateError(f"{path}: line {line}: more fields than the {len(names)} columns of the first line")
    return rows


def _column(name: str) -> str:
    """A column's name as ``COLUMNS`` has it, whatever its case and the spaces around it."""
    plain = name.strip().lower()
    return plain if plain in COLUMNS else name


def _member(where: str, number: int, row: dict[str, str]) -> Member:
    """A row's place in the suite; without a seed each row has its own, so that nothing is paired by chance."""
    seed = row.get("seed") or ""
    if seed and not SEED.fullmatch(seed):
        raise EvaluateError(f"{where}: seed {seed[:40]!r} is not a whole number of up to 18 digits")
    words = [row.get(key) or "" for key in ("model", "source")]
    return Member(
        arm=row.get("pretraining") or "published",
        architecture=row.get("architecture") or "unknown",
        seed=int(seed) if seed else number,
        pretrain=None,
        finetune=", ".join(filter(None, words)) or f"row {number + 1}",
    )


def _scored(path: Path, rows: Sequence[tuple[int, dict[str, str]]], unit: str | None) -> list[EvaluatedEpoch]:
    """The scores of the rows; raises EvaluateError for a value out of range, or if the unit is not clear."""
    values = [(line, [_number(f"{path}: line {line}", key, row[key]) for key in NEEDED]) for line, row in rows]
    most = 1 if unit == "fraction" else 100
    for line, pair in values:
        for key, value in zip(NEEDED, pair, strict=True):
            if not 0 <= value <= most:
                raise EvaluateError(
                    f"{path}: line {line}: {key} {value:g}; must be a {unit or 'percentage'} from 0 to {most}"
                )
    if unit == "percent" and all(max(pair) <= 1 for _, pair in values) and any(max(pair) > 0 for _, pair in values):
        raise EvaluateError(f"{path}: no score is above 1%: they look like fractions; read them with --unit fraction")
    if unit is None:
        _check_unit(path, values)
    return [
        EvaluatedEpoch(
            epoch=0,
            id=Scores(accuracy=NAN, recall=NAN, macro_f1=of_id / most),
            ood=Scores(accuracy=NAN, recall=NAN, macro_f1=of_ood / most),
            id_predicted=None,
            ood_predicted=None,
        )
        for _, (of_id, of_ood) in values
    ]


def _check_unit(path: Path, values: Sequence[tuple[int, Sequence[float]]]) -> None:
    """Raise EvaluateError naming a line if scores may be fractions, or some fractions and some percentages.

    A row may be if both its scores are at most 1, or if one is and the other ``FARTHEST`` times as large: percentages
    as low as 0.9 stand beside 3, and hardly beside 30.
    """
    small = [line for line, pair in values if max(pair) <= 1 and max(pair) > 0]
    mixed = [line for line, pair in values if 0 < min(pair) <= 1 < max(pair) and max(pair) >= FARTHEST * min(pair)]
    if small or mixed:
        all_of_them = not mixed and len(small) == sum(max(pair) > 0 for _, pair in values)
        how = "scores look like fractions" if all_of_them else "scores look like a fraction among percentages"
        raise EvaluateError(
            f"{path}: line {min(small + mixed)}: {how}; say which they are with --unit fraction or --unit percent"
        )


def _number(where: str, key: str, text: str | None) -> float:
    if not NUMBER.fullmatch(text or ""):
        raise EvaluateError(f"{where}: {key} {(text or '')[:40]!r} is not a number")
    return float(text or "")
