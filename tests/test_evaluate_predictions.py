"""Predictions that were changed are refused, in one line that names the file, or scored as what they are."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from synthgen.common.records import plain
from synthgen_evaluate.analysis.load import load_runs
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.metrics import scores
from synthgen_evaluate.predictions import Predictions
from synthgen_evaluate.recipe import Recipe
from synthgen_evaluate.runs import (
    Arm,
    Member,
    Run,
    RunConfig,
    SuiteRecord,
    write_json,
    write_suite_record,
)

N_CLASSES, N = 5, 40
CONFIG = RunConfig(
    kind="finetune",
    architecture="resnet18",
    seed=0,
    image_size=32,
    data={},
    recipe=Recipe(epochs=1, evaluate_epochs=(1,)),
)
GOLDEN = Path(__file__).parent / "golden/records"
SCRATCH = "a385274ebabca512"  # golden run without pre-training
Command = Callable[..., Any]


def made(path: Path, *, sums: bool = False, task: dict[str, Any] | None = None) -> Run:
    """One finished run with predictions after its one epoch."""
    run, rng = Run(directory=path / CONFIG.digest), np.random.default_rng(0)
    known: dict[str, Any] = {}
    for split in ("id_test", "test"):
        labels = rng.integers(0, N_CLASSES, N)
        known |= run.write_predictions(
            1,
            split,
            Predictions(
                image_id=np.array([f"{split}-{number}" for number in range(N)], object),
                y_true=labels,
                y_pred=np.where(rng.random(N) < 0.7, labels, rng.integers(0, N_CLASSES, N)),
                location=np.arange(N) % 4,
                sequence=np.arange(N) // 3,
            ),
        )
    write_json(run.directory / "config.json", plain(CONFIG))
    write_json(run.directory / "state.json", {"status": "done", **({"predictions": known} if sums else {})})
    suite = SuiteRecord(
        name="one",
        baseline="scratch",
        task={"name": "traps", "class_names": [f"class {k}" for k in range(N_CLASSES)]} if task is None else task,
        arms=(Arm(name="scratch", factor="source", level="none", description="nothing"),),
        members=(Member(arm="scratch", architecture="resnet18", seed=0, pretrain=None, finetune=CONFIG.digest),),
    )
    write_suite_record(path, suite)
    return run


def column(name: str, change: Callable[[pa.ChunkedArray], Any]) -> Callable[[pa.Table], pa.Table]:
    """An edit of one column."""

    def edit(table: pa.Table) -> pa.Table:
        return table.set_column(table.schema.get_field_index(name), name, change(table[name]))

    return edit


def first(value: Any, kind: pa.DataType | None = None, row: int = 2) -> Callable[[pa.ChunkedArray], pa.Array]:
    """Another value in one row."""

    def change(values: pa.ChunkedArray) -> pa.Array:
        return pa.array([*values.to_pylist()[:row], value, *values.to_pylist()[row + 1 :]], kind or values.type)

    return change


LABEL = "not a whole number from 0 to 4; so"
LONG = pa.int64()
EDITS: dict[str, tuple[Callable[[pa.Table], pa.Table], str | None]] = {
    "beyond 32 bits": (column("y_pred", lambda c: pc.add(c.cast(LONG), 2**40)), f"row 1: y_pred is .*, {LABEL} 40 of"),
    "one beyond 32 bits": (column("y_pred", first(2**40, LONG)), f"row 3: y_pred is 1099511627776, {LABEL} 1 of 40"),
    "halves": (column("y_pred", lambda c: pc.add(c.cast(pa.float64()), 0.5)), "row 1: y_pred is .*5 \\(double\\), not"),
    "whole floats": (column("y_pred", lambda c: c.cast(pa.float32())), "y_pred is .* \\(float\\), not a whole number"),
    "texts": (column("y_pred", lambda c: c.cast(pa.string())), "y_pred is . \\(string\\), not a whole number"),
    "not a number": (column("y_pred", first(float("nan"), pa.float64(), 0)), "row 1: y_pred is nan \\(double\\), not"),
    "negative": (column("y_pred", first(-5)), f"row 3: y_pred is -5, {LABEL} 1 of 40 rows"),
    "ten million": (column("y_pred", first(10**7)), f"row 3: y_pred is 10000000, {LABEL}"),
    "one class too many": (column("y_pred", first(N_CLASSES)), f"row 3: y_pred is 5, {LABEL}"),
    "no label": (column("y_pred", first(None)), f"row 3: y_pred is None, {LABEL} 1 of 40 rows"),
    "truths": (column("y_pred", lambda c: pc.equal(c, 1)), "y_pred is (true|false|True|False) \\(bool\\), not"),
    "decimals": (column("y_pred", lambda c: c.cast(pa.decimal128(12))), "\\(decimal128\\(12, 0\\)\\), not a whole"),
    "lists": (column("y_pred", lambda c: pa.array([[one] for one in c.to_pylist()])), "\\(list<"),
    "nothing": (column("y_pred", lambda c: pa.nulls(N)), "\\(null\\), not a whole number"),
    "truth beyond the classes": (column("y_true", first(99)), f"row 3: y_true is 99, {LABEL}"),
    "truth is text": (column("y_true", lambda c: c.cast(pa.string())), "y_true is . \\(string\\)"),
    "place is a fraction": (column("location", lambda c: c.cast(pa.float64())), "location is 0.0 \\(double\\), not"),
    "place beyond 64 bits": (column("location", first(2**64 - 1, pa.uint64())), "not a whole number of 64 bits; so 1"),
    "burst is missing": (column("sequence", first(None)), "row 3: sequence is None"),
    "ids are numbers": (column("image_id", lambda c: pa.array(range(N))), "row 1: image_id is 0, not a text"),
    "an id is missing": (column("image_id", first(None)), "row 3: image_id is None \\(string\\), not a text"),
    "an id is there twice": (
        column("image_id", first("test-0")),
        "1 images appear more than once, the first in row",
    ),
    "ids are bytes": (column("image_id", lambda c: c.cast(pa.binary())), "image_id is .* \\(binary\\), not a text"),
    "a column is missing": (lambda t: t.drop_columns(["sequence"]), "columns image_id, y_true, y_pred, location; pred"),
    "a column more": (lambda t: t.append_column("p", pa.array(range(N))), "columns .*sequence, p; predictions have"),
    "a column twice": (
        lambda t: t.append_column("y_pred", t["y_pred"]),
        "columns .*sequence, y_pred; predictions have",
    ),
    "no row": (lambda t: t.slice(0, 0), "0 rows; predictions are of 1 to"),
    "8 bits": (column("y_pred", lambda c: c.cast(pa.uint8())), None),
    "64 bits": (column("y_true", lambda c: c.cast(LONG)), None),
    "long texts": (column("image_id", lambda c: c.cast(pa.large_string())), None),
    "another order": (lambda t: t.take(list(range(N))[::-1]), None),
    "columns in another order": (lambda t: t.select(t.column_names[::-1]), None),
}


@pytest.mark.parametrize(("edit", "told"), EDITS.values(), ids=EDITS)
def test_edited_predictions_are_refused_or_right(
    edit: Callable[[pa.Table], pa.Table], told: str | None, tmp_path: Path, evaluate_here: Command
) -> None:
    run = made(tmp_path / "runs")
    (before,) = load_runs([tmp_path / "runs"])
    path = run.predictions_path(1, "test")
    pq.write_table(edit(pq.read_table(path)), path)
    done = evaluate_here("compare", tmp_path / "runs", "--out", tmp_path / "report", "--resamples", "100")
    if told is None:
        assert done.returncode == 0, done.stderr
        assert load_runs([tmp_path / "runs"])[0].epochs[0].ood == before.epochs[0].ood
        found = run.predictions(1, "test", N_CLASSES)
        assert scores(found.y_true, found.y_pred) == before.epochs[0].ood
        return
    assert done.returncode == 2
    assert re.fullmatch(f"evaluate: {re.escape(str(path))}: .*{told}.*\n", done.stderr), done.stderr
    with pytest.raises(EvaluateError, match=told):
        run.predictions(1, "test", N_CLASSES)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "cannot be read as predictions"),
        (b"PAR1 not really", "cannot be read as predictions"),
        (None, "cannot be read as predictions"),  # cut short
    ],
)
def test_what_is_no_table_is_named(data: bytes | None, told: str, tmp_path: Path) -> None:
    path = made(tmp_path).predictions_path(1, "test")
    path.write_bytes(path.read_bytes()[:-100] if data is None else data)
    with pytest.raises(EvaluateError, match=f"^{re.escape(str(path))}: {told}"):
        load_runs([tmp_path])


def test_a_label_that_became_another_valid_one_is_found_by_its_sum(tmp_path: Path, evaluate_here: Command) -> None:
    run = made(tmp_path / "runs", sums=True)
    compare = ("compare", tmp_path / "runs", "--out", tmp_path / "report", "--resamples", "100")
    assert evaluate_here(*compare).returncode == 0
    assert json.loads((tmp_path / "report/comparison.json").read_text())["unverified"] == ""
    path = run.predictions_path(1, "test")
    table = pq.read_table(path)
    one = table["y_pred"][0].as_py()
    pq.write_table(column("y_pred", first((one + 1) % N_CLASSES, row=0))(table), path)
    done = evaluate_here(*compare)
    assert done.returncode == 2
    assert done.stderr.startswith(f"evaluate: {path}: not the file whose SHA-256 the run recorded: it was changed")
    assert f"remove {run.directory} and run its suite again" in done.stderr
    with pytest.raises(EvaluateError, match="it was changed or damaged"):
        run.predictions(1, "test")
    path.unlink()
    assert f"{path}: missing, though the run is finished" in evaluate_here(*compare).stderr


def test_runs_of_before_sums_were_recorded_are_said_to_be_unverified(tmp_path: Path, evaluate_here: Command) -> None:
    made(tmp_path / "runs")
    assert (
        evaluate_here("compare", tmp_path / "runs", "--out", tmp_path / "report", "--resamples", "100").returncode == 0
    )
    told = "1 of 1 finished run is unverified: its configuration or the SHA-256 of some predictions is not recorded"
    assert json.loads((tmp_path / "report/comparison.json").read_text())["unverified"].startswith(told)
    assert f"<li>{told}" in (tmp_path / "report/index.html").read_text()


def test_sums_of_some_files_refuse_nothing_but_leave_the_run_unverified(tmp_path: Path, evaluate_here: Command) -> None:
    run = made(tmp_path, sums=True)
    assert evaluate_here("power", tmp_path).stderr == ""
    state = json.loads((run.directory / "state.json").read_text())
    del state["predictions"]["0001-test.parquet"]
    write_json(run.directory / "state.json", state)
    assert [one.verified for one in load_runs([tmp_path])] == [False]
    for options in ([], ["--json"]):
        assert evaluate_here("power", tmp_path, *options).stderr.startswith("1 of 1 finished run is unverified: its")


MISSING = {
    "a split after the last epoch": ("0003-test.parquet", "0003-test.parquet"),
    "the last epoch": ("0003-*.parquet", "0003-id_test.parquet"),
    "a split after all epochs": ("*-id_test.parquet", "0001-id_test.parquet"),
    "a split that nothing reads": ("0001-id_val.parquet", "0001-id_val.parquet"),
}


@pytest.mark.parametrize(("removed", "told"), MISSING.values(), ids=MISSING)
@pytest.mark.parametrize("command", ["compare", "power"])
def test_a_finished_run_without_planned_predictions_is_refused(
    command: str, removed: str, told: str, tmp_path: Path, evaluate_here: Command
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(GOLDEN / "runs", runs)
    options = ["--out", tmp_path / "report", "--resamples", "100"] if command == "compare" else []
    assert evaluate_here(command, runs, *options).returncode == 0
    for path in (runs / SCRATCH / "predictions").glob(removed):
        path.unlink()
    done = evaluate_here(command, runs, *options)
    assert done.returncode == 2
    assert done.stderr == (
        f"evaluate: {runs / SCRATCH / 'predictions' / told}: missing, though the run is finished; restore it, or remove"
        f" {runs / SCRATCH} and run its suite again\n"
    )


def test_a_run_that_is_not_finished_may_lack_predictions(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "runs-half", tmp_path / "runs")
    for path in (tmp_path / "runs").glob("a0a48*/predictions/0001-test.parquet"):
        path.unlink()
    assert [one.status for one in load_runs([tmp_path / "runs"])] == ["done", "running"]


def test_predictions_of_an_epoch_that_was_not_planned_are_refused(tmp_path: Path) -> None:
    run = made(tmp_path)
    for split in ("id_test", "test"):
        shutil.copyfile(run.predictions_path(1, split), run.predictions_path(2, split))
    with pytest.raises(EvaluateError, match=r"0002-id_test.parquet: of an epoch that the run did not evaluate; remove"):
        load_runs([tmp_path])


def test_a_run_without_configuration_is_unverified_and_refused_if_it_was_trained(tmp_path: Path) -> None:
    run = made(tmp_path, sums=True)
    assert [one.verified for one in load_runs([tmp_path])] == [True]
    path = run.directory / "config.json"
    path.unlink()
    assert [one.verified for one in load_runs([tmp_path])] == [False]
    state = run.directory / "state.json"
    write_json(state, json.loads(state.read_text()) | {"epochs_done": 1})
    with pytest.raises(EvaluateError, match=f"^{re.escape(str(path))}: cannot be read \\(No such file"):
        load_runs([tmp_path])


def test_sums_are_kept_where_they_are_known_and_taken_of_the_file_where_not(tmp_path: Path) -> None:
    run = made(tmp_path)
    data = run.predictions_path(1, "test").read_bytes()
    found = run.sums([1, 2], ["test", "id_test"], {"0001-id_test.parquet": "0" * 64})
    assert found == {"0001-id_test.parquet": "0" * 64, "0001-test.parquet": hashlib.sha256(data).hexdigest()}


def test_files_beside_the_predictions_are_passed_over_unless_they_may_be_mistaken_for_them(tmp_path: Path) -> None:
    run = made(tmp_path)
    folder = run.directory / "predictions"
    before = load_runs([tmp_path])[0].epochs[0].ood
    for name in ("abc-test.parquet", "0001-test (copy).parquet", "0001-test.parquet.bak", "²-test.parquet", "x.txt"):
        (folder / name).write_bytes(b"nothing of ours")
    assert run.evaluated() == [(1, "id_test"), (1, "test")]
    assert load_runs([tmp_path])[0].epochs[0].ood == before
    for name in ("1-test.parquet", "00001-test.parquet", "0001-Test.parquet", "٠٠٠١-test.parquet"):
        (folder / name).write_bytes(b"")
        with pytest.raises(EvaluateError, match=f"{name}: may be mistaken for 0001-test.parquet; rename it, or remove"):
            load_runs([tmp_path])
        (folder / name).unlink()


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_pipe_or_a_folder_in_their_place_is_named_and_not_waited_for(kind: str, tmp_path: Path) -> None:
    path = made(tmp_path).predictions_path(1, "test")
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(EvaluateError, match=rf"0001-test.parquet: cannot be read \(a {kind}, not a regular file\)"):
        load_runs([tmp_path])


def test_a_table_that_claims_more_rows_than_any_split_has_is_not_read(tmp_path: Path) -> None:
    path = made(tmp_path).predictions_path(1, "test")
    n = 20_000_000
    table = pa.table(
        {name: pa.nulls(n, pa.int32()) for name in ("image_id", "y_true", "y_pred", "location", "sequence")}
    )
    pq.write_table(table, path)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(EvaluateError, match="20000000 rows; predictions are of 1 to 10000000 images"):
        load_runs([tmp_path])


def test_without_classes_in_the_record_labels_are_whole_numbers_of_at_least_0(tmp_path: Path) -> None:
    run = made(tmp_path, task={"name": "traps"})
    path = run.predictions_path(1, "test")
    table = pq.read_table(path)
    pq.write_table(column("y_pred", first(N_CLASSES))(table), path)
    assert load_runs([tmp_path])[0].epochs
    pq.write_table(column("y_pred", first(-1))(table), path)
    with pytest.raises(EvaluateError, match="row 3: y_pred is -1, not a whole number from 0 to 2147483647"):
        load_runs([tmp_path])


def test_a_run_that_was_begun_without_sums_is_finished_with_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluate_here: Command
) -> None:
    shutil.copytree(GOLDEN, tmp_path / "records")
    monkeypatch.chdir(tmp_path / "records")
    assert evaluate_here("run", "suite.toml", "--out", "runs-half", "--device", "cpu").returncode == 0
    (finished,) = Path("runs-half").glob("a0a48*")
    files = {path.name: path.read_bytes() for path in (finished / "predictions").iterdir()}
    assert {name[:4] for name in files} == {"0001", "0003"}
    assert Run(directory=finished).state.predictions == {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items()
    }
    found = {one.member.finetune: one.verified for one in load_runs(["runs-half"])}
    assert found == {finished.name: True, SCRATCH: False}
