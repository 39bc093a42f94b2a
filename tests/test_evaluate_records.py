"""Runs, suites and tables from elsewhere: what is no record is named in one line; nothing is written behind a link."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from comparisons import made
from reports import alone, only_svg

import synthgen_evaluate
from synthgen_evaluate.analysis.published import load_results
from synthgen_evaluate.design.cost import measured
from synthgen_evaluate.design.selection import Selection, read_selection, write_selection
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.images.pixelfile import PixelFile
from synthgen_evaluate.images.pixels import clear, entries
from synthgen_evaluate.reporting.report import write_report
from synthgen_evaluate.reporting.report_tables import to_html
from synthgen_evaluate.reporting.tables import FORMATS, written
from synthgen_evaluate.runs import Run, write_suite_record
from synthgen_evaluate.tasks.simulated.simulate import simulate
from synthgen_evaluate.tasks.spec import TaskSpec, open_task

GOLDEN = Path(__file__).parent / "golden/records"
DONE = "a0a48cc364cee561"
Command = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wilds.*", "ignore::DeprecationWarning:ogb.*")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A copy of finished runs."""
    shutil.copytree(GOLDEN / "runs", tmp_path / "runs")
    return tmp_path / "runs"


STATES = {
    "{}": "status: Field required",
    "[]": "the file: Input should be",
    '{"status": "finished"}': "status: Input should be 'absent', 'running', 'done' or 'failed'",
    '{"status": "failed"}': "error: missing, though the run failed",
    '{"status": "done", "colour": 1}': "colour: unknown key; perhaps a later version wrote it",
    '{"status": "done", "processes": 0}': "processes: Input should be greater than or equal to 1",
    '{"status": "done", "train_images_per_second": NaN}': "NaN is not a number",
    '{"status": "done", "versions": {"torch": 2}}': "versions.torch: Input should be a valid string",
    '{"status": "done", "predictions": {"../x": "' + "0" * 64 + '"}}': "predictions.../x",
    '{"status": "done", "predictions": {"' + "1" * 5000 + '-test.parquet": "0"}}': "predictions.11111",
    '{"status": "done", "predictions": {"0001-test.parquet": "0"}}': "predictions.0001-test.parquet: String should",
    '{"status": "done", "status": "failed"}': "status: duplicate key",
    "[" * 5000: "nested lists and objects",
    '{"status": "failed", "error": "\\ud800"}': "half of a character",
    "": "not JSON",
}


@pytest.mark.parametrize(("text", "told"), STATES.items(), ids=range(len(STATES)))
@pytest.mark.parametrize("command", ["status", "compare"])
def test_a_state_that_is_none_is_named(command: str, text: str, told: str, runs: Path, evaluate_here: Command) -> None:
    (runs / DONE / "state.json").write_text(text)
    options = ["--out", runs / "report", "--resamples", "100"] if command == "compare" else []
    done = evaluate_here(command, runs, *options)
    assert done.returncode == 2
    assert done.stderr.startswith(f"evaluate: {runs / DONE / 'state.json'}: ")
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


SUITES = {
    "members.0.seed: Input should be less than 9223372036854775808": lambda s: s["members"][0].update(seed=10**30),
    "members: Input should be a valid array": lambda s: s.update(members=None),
    "arms.0.colour: unknown key; perhaps a later version wrote it": lambda s: s["arms"][0].update(colour=1),
    "task: Input should be a": lambda s: s.update(task=[]),
    "format: 2; this version reads suite records of format 1": lambda s: s.update(format=2),
    "format: True; this": lambda s: s.update(format=True),
    "name: Field required": lambda s: s.pop("name"),
    "members.0.finetune: String should match": lambda s: s["members"][0].update(finetune="../../elsewhere"),
    "members.1.pretrain: String should match": lambda s: s["members"][1].update(pretrain="/etc"),
    "arms: scratch appears more than once": lambda s: s["arms"].append(s["arms"][0]),
    "members: scratch / timm:test_efficientnet / seed 0 appears more": lambda s: s["members"].append(s["members"][0]),
    "has the unknown arm 'x'": lambda s: s["members"][0].update(arm="x"),
    "task.class_names: Input should be a valid array": lambda s: s["task"].update(class_names="abcd"),
    "task: n_classes is 1000000000, but class_names are 4": lambda s: s["task"].update(n_classes=10**9),
    "task: of 0 classes": lambda s: s["task"].update(class_names=[], n_classes=0),
    "members.0.seed: Input should be a valid integer": lambda s: s["members"][0].update(seed="0"),
}


@pytest.mark.parametrize(("told", "change"), SUITES.items(), ids=range(len(SUITES)))
def test_a_suite_record_that_is_none_is_named(
    told: str, change: Callable[[dict[str, Any]], object], runs: Path, evaluate_here: Command
) -> None:
    path = runs / "suites/golden suite.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    for command in (("status", runs), ("compare", runs, "--out", runs / "report")):
        done = evaluate_here(*command)
        assert done.returncode == 2
        assert done.stderr.startswith(f"evaluate: {path}: ")
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_pipe_among_the_records_is_not_waited_for(runs: Path, evaluate_here: Command) -> None:
    os.mkfifo(runs / "suites/pipe.json")
    done = evaluate_here("status", runs)
    assert done.returncode == 2
    assert "pipe.json: cannot be read (a pipe, not a regular file)" in done.stderr


def test_a_configuration_that_is_none_is_named_where_rates_are_read(runs: Path) -> None:
    path = runs / DONE / "config.json"
    assert measured(runs) is not None
    for change, told in (({"recipe": {"lr": 1}}, "recipe.epochs: Field"), ({"image_size": "32"}, "image_size: Input")):
        path.write_text(json.dumps(json.loads((GOLDEN / "runs" / DONE / "config.json").read_text()) | change))
        with pytest.raises(EvaluateError, match=f"^{re.escape(str(path))}: {told}"):
            measured(runs)


CONFIGS: dict[str, dict[str, Any]] = {
    "init": {"init": "0" * 16},
    "seed": {"seed": 5},
    "epochs": {"recipe": {"epochs": 3, "evaluate_epochs": [1]}},
}
READERS = {
    "status": ["status", "runs"],
    "compare": ["compare", "runs", "--out", "report", "--resamples", "100"],
    "power": ["power", "runs"],
    "run": ["run", "suite.toml", "--out", "runs", "--device", "cpu"],
    "run --dry-run": ["run", "suite.toml", "--out", "runs", "--dry-run"],
}


@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("command", READERS.values(), ids=READERS)
def test_a_configuration_that_was_edited_is_refused_wherever_its_run_is_read(
    command: list[str],
    change: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    evaluate_here: Command,
) -> None:
    shutil.copytree(GOLDEN, tmp_path / "records")
    monkeypatch.chdir(tmp_path / "records")
    path = Path("runs") / DONE / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    done = evaluate_here(*command)
    assert done.returncode == 2
    told = f"evaluate: {path}: its content was edited: digest [0-9a-f]{{16}}, its folder's is {DONE}; restore it"
    assert re.match(told, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_configuration_of_pre_training_that_was_edited_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluate_here: Command
) -> None:
    shutil.copytree(GOLDEN, tmp_path / "records")
    monkeypatch.chdir(tmp_path / "records")
    path = Path("runs/25537c1a50d32251/config.json")
    path.write_text(path.read_text().replace('"epochs": 1', '"epochs": 2'))
    for command in (READERS["status"], READERS["run"]):
        done = evaluate_here(*command)
        assert (done.returncode, f"{path}: its content was edited" in done.stderr) == (2, True)


def test_a_copy_of_a_run_under_another_name_is_none_of_the_suite_s(runs: Path, evaluate_here: Command) -> None:
    shutil.copytree(runs / DONE, runs / f"{DONE} (copy)")
    assert measured(runs) is not None
    assert "3 runs: 3 done" in evaluate_here("status", runs).stdout


@pytest.mark.parametrize(("key", "value"), [("seed", 7), ("architecture", "resnet18")])
def test_a_suite_record_that_contradicts_its_runs_is_refused(
    key: str, value: Any, runs: Path, evaluate_here: Command
) -> None:
    path = runs / "suites/golden suite.json"
    content = json.loads(path.read_text())
    (member,) = (one for one in content["members"] if one["finetune"] == DONE)
    before, member[key] = member[key], value
    path.write_text(json.dumps(content))
    done = evaluate_here("power", runs)
    assert done.returncode == 2
    told = f"evaluate: {runs / DONE / 'config.json'}: {key}: {before!r}, but the suite's record says {value!r}; restore"
    assert done.stderr.startswith(told)


LINES = {
    "not a line": "not JSON",
    "[]": "Input should be",
    '{"epoch": 1}': "loss: Field required",
    '{"epoch": "1", "loss": 1, "train_accuracy": 1, "lr": 1}': "epoch: Input should be a valid integer",
    '{"epoch": 1, "loss": NaN, "train_accuracy": 1, "lr": 1}': "NaN is not a number",
}


@pytest.mark.parametrize(("line", "told"), LINES.items(), ids=range(len(LINES)))
def test_a_log_that_is_none_is_named_with_its_line(line: str, told: str, tmp_path: Path) -> None:
    from synthgen_evaluate.training.journal import log_epoch

    path = tmp_path / "log.jsonl"
    row = {"loss": 1.0, "train_accuracy": 0.5, "lr": 0.1}
    log_epoch(Run(directory=tmp_path), row, 1)
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(EvaluateError, match=rf"log.jsonl: line 2: .*{re.escape(told)}"):
        log_epoch(Run(directory=tmp_path), row, 3)


def test_a_checkpoint_of_another_run_is_told_and_the_run_begins_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from torch import nn

    from synthgen_evaluate.training.journal import Checkpoint

    def new() -> Checkpoint:
        learner = nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(learner.parameters(), lr=0.1, weight_decay=0.1)
        learner(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return Checkpoint(run=Run(directory=tmp_path), epochs=3, learner=learner, optimizer=optimizer, scaler=None)

    new().save(2)
    assert new().load() == 2
    good = torch.load(tmp_path / "checkpoint.pt")
    moment = good["optimizer"]["state"][0]["exp_avg"]
    edits: dict[str, Any] = {
        "epoch beyond the last": {"epoch": 4},
        "epoch 0": {"epoch": 0},
        "epoch as a float": {"epoch": 1.0},
        "another shape": {"learner": good["learner"] | {"weight": torch.zeros(3, 2)}},
        "a parameter less": {"learner": {"weight": good["learner"]["weight"]}},
        "not a number": {"learner": good["learner"] | {"bias": torch.tensor([1.0, float("nan")])}},
        "another type": {"learner": good["learner"] | {"bias": torch.tensor([1, 2])}},
        "another decay": {"optimizer": {**good["optimizer"], "param_groups": [{"weight_decay": 9.0}]}},
        "moments of another shape": {
            "optimizer": {**good["optimizer"], "state": {0: {"exp_avg": moment[:1], "exp_avg_sq": moment}}}
        },
        "no optimizer": {"optimizer": None},
    }
    for name, edit in edits.items():
        torch.save({**good, **edit}, tmp_path / "checkpoint.pt")
        checkpoint = new()
        before = {key: value.clone() for key, value in checkpoint.learner.state_dict().items()}
        assert checkpoint.load() == 0, name
        assert "checkpoint.pt: damaged, or of another run; the run starts over" in capsys.readouterr().out
        assert all(torch.equal(before[key], value) for key, value in checkpoint.learner.state_dict().items())
    for data in (b"", b"PK\x05\x06" + bytes(18), b"not a checkpoint"):
        (tmp_path / "checkpoint.pt").write_bytes(data)
        assert new().load() == 0


def test_nothing_is_trained_or_recorded_behind_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluate_here: Command
) -> None:
    for name in ("runs-half", "suite.toml", "traps", "fractal-finished"):
        source = GOLDEN / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "victim").mkdir()
    for name in (DONE, "suites", "cache"):
        place = tmp_path / "runs-half" / name
        kept = tmp_path / "kept"
        if place.exists():
            place.rename(kept)
            if name != "cache":  # images that are there are read, and nothing needs to be written
                shutil.copytree(kept, tmp_path / "victim", dirs_exist_ok=True)
        place.symlink_to(tmp_path / "victim")
        before = {path: path.read_bytes() for path in (tmp_path / "victim").rglob("*") if path.is_file()}
        done = evaluate_here("run", "suite.toml", "--out", "runs-half", "--device", "cpu")
        assert done.returncode in (1, 2)
        assert f"{name}: a link, and nothing is written through links" in done.stdout + done.stderr
        assert {path: path.read_bytes() for path in (tmp_path / "victim").rglob("*") if path.is_file()} == before
        place.unlink()
        if kept.exists():
            kept.rename(place)


def test_a_name_with_spaces_goes_on_where_its_record_is_and_is_refused_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluate_here: Command
) -> None:
    shutil.copytree(GOLDEN, tmp_path / "records")
    monkeypatch.chdir(tmp_path / "records")
    assert evaluate_here("run", "suite.toml", "--out", "runs", "--dry-run").returncode == 0
    assert evaluate_here("plan", "suite.toml").returncode == 0
    done = evaluate_here("run", "suite.toml", "--out", "elsewhere", "--dry-run")
    assert done.returncode == 2
    told = "suite.toml: name: 'golden suite' becomes a file's name; letters (a to z), digits, _, - and dots inside only"
    assert done.stderr == f"evaluate: {told}\n"
    assert not Path("elsewhere").exists()


def test_a_record_of_a_suite_stays_in_its_folder(runs: Path) -> None:
    from dataclasses import replace

    from synthgen_evaluate.runs import read_suite_records

    (suite,) = read_suite_records(runs)
    with pytest.raises(EvaluateError, match="becomes a file's name"):
        write_suite_record(runs, replace(suite, name="../outside"))
    assert not (runs / "outside.json").exists()


def test_nothing_behind_a_link_is_removed_with_a_cache(tmp_path: Path, evaluate_here: Command) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/mine.pixels").write_bytes(b"mine")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/cache").symlink_to(tmp_path / "victim")
    done = evaluate_here("cache", tmp_path / "runs", "--clear")
    assert done.returncode == 2
    assert "cache: a link, and nothing is written through links" in done.stderr
    assert (tmp_path / "victim/mine.pixels").read_bytes() == b"mine"
    (tmp_path / "link.pixels").symlink_to(tmp_path / "victim/mine.pixels")
    clear(tmp_path)
    assert (tmp_path / "victim/mine.pixels").exists()


HEADERS = {
    b"{}\n": "format: Field required",
    b'{"format": 1, "identity": {}, "n_images": 1000000000000, "size": 32}\n': "not the images that its first line",
    b'{"format": 1, "identity": {}, "n_images": -1, "size": 32}\n': "n_images: Input should be greater",
    b'{"format": 1, "identity": {}, "n_images": 1, "size": 32, "more": 1}\n': "more: unknown key",
    b"\0" * 100: "not JSON",
}


@pytest.mark.parametrize(("line", "told"), HEADERS.items(), ids=range(len(HEADERS)))
def test_a_file_of_pixels_that_is_none_is_named(line: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "0123456789abcdef.pixels").write_bytes(line)
    with pytest.raises(EvaluateError, match=rf"^{re.escape(str(tmp_path))}/0123456789abcdef.pixels: .*{told}"):
        entries(tmp_path)


def test_a_file_of_pixels_that_claims_more_than_it_holds_holds_none(tmp_path: Path) -> None:
    claimed = PixelFile.of(tmp_path, {"kind": "x"}, 10**12, 32)
    claimed.path.write_bytes(claimed.what.encode() + b"\n")
    assert [(one.n_images, one.n_present) for one in entries(tmp_path)] == [(10**12, 0)]


def written_selection(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    chosen = Selection(indices=np.array([0, 2, 3]), labels=np.array([0, 1, 0]), class_names=("a", "b"), rule="all")
    write_selection(path, chosen, {"kind": "folder", "n_images": 4})
    table = pq.read_table(path)
    return table, json.loads(table.schema.metadata[b"synthgen_selection"])


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("index", [0, 2, 4], "index: 4 in row 3; whole numbers from 0 to 3"),
        ("index", [-1, 2, 3], "index: -1 in row 1"),
        ("index", ["0", "2", "3"], "index: string"),
        ("index", [0.0, 2.0, 3.5], "index: double"),
        ("label", [0, 2, 0], "label: 2 in row 2; whole numbers from 0 to 1"),
        ("label", [0, None, 0], "label: int64, 1 empty"),
        ("class", ["a", "a", "a"], "its classes are not those of its labels"),
    ],
)
def test_a_changed_selection_is_refused(column: str, values: list[Any], told: str, tmp_path: Path) -> None:
    path = tmp_path / "selection.parquet"
    table, _ = written_selection(path)
    assert read_selection(path)[0].class_names == ("a", "b")
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, pa.array(values)), path)
    with pytest.raises(EvaluateError, match=f"^{re.escape(str(path))}: .*{told}"):
        read_selection(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "a selection of format 2; this version reads 1"),
        ({"class_names": "ab"}, "header: class_names: Input should be"),
        ({"class_names": ["a", "b", "b"]}, "header: class_names: a name occurs twice"),
        ({"more": 1}, "header: more: unknown key"),
        ({"n_images": 4}, "3 rows, its header says 4"),
        ({"digest": "x"}, "it was changed or damaged"),
    ],
)
def test_a_changed_header_of_a_selection_is_refused(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = tmp_path / "selection.parquet"
    table, header = written_selection(path)
    metadata = {b"synthgen_selection": json.dumps(header | change).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(EvaluateError, match=told):
        read_selection(path)


def test_only_what_reports_are_made_of_gives_way_to_a_report(tmp_path: Path) -> None:
    comparison = alone()
    out = tmp_path / "report"
    with only_svg():
        write_report(comparison, out)
    record = json.loads((out / "comparison.json").read_text())
    for files in (5, [["a"]], None, [*record["files"], "thesis.doc"], [*record["files"], "../../thesis.doc"]):
        (out / "comparison.json").write_text(json.dumps(record | {"files": files}))
        (out / "thesis.doc").write_text("mine")
        with pytest.raises(EvaluateError, match="choose another path"):
            write_report(comparison, out)
        assert (out / "thesis.doc").read_text() == "mine"
        (out / "thesis.doc").unlink()
    (out / "comparison.json").write_text("[" * 100_000)
    with pytest.raises(EvaluateError, match="is not a report"):
        write_report(comparison, out)
    (out / "comparison.json").write_text(json.dumps(record))
    with only_svg():
        write_report(comparison, out)


HOSTILE = "a\x1b[2J\x00\x07b\u202ec\ufffe\n\r\x7f"


def test_names_reach_pages_figures_and_tables_as_characters_that_show(tmp_path: Path) -> None:
    comparison = made({f"{HOSTILE}{name}": (HOSTILE, HOSTILE, skill) for name, skill in (("s", 0.2), ("n", 0.5))})
    out = tmp_path / "report"
    with only_svg():
        write_report(comparison, out, command=f"evaluate {HOSTILE}")
    for path in out.rglob("*"):
        if path.suffix in (".html", ".md", ".csv", ".tex", ".svg", ".json"):
            text = path.read_text()
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u202e\ufffe]", text), path
        if path.suffix == ".svg":
            ElementTree.parse(path)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", to_html(comparison))


@pytest.mark.parametrize("layout", FORMATS)
def test_cells_of_tables_are_characters_that_show(layout: str) -> None:
    text = written([{f"head {HOSTILE}": HOSTILE}], layout)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", text)


def test_every_line_for_people_goes_through_the_one_printer() -> None:
    folder = Path(next(iter(synthgen_evaluate.__path__)))
    calls = [
        f"{path.name}:{node.lineno}"
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "input")
    ]
    assert not calls


def test_names_of_runs_reach_the_terminal_as_characters_that_show(runs: Path, evaluate_here: Command) -> None:
    state = {"status": "failed", "error": "\x1b[2J gone\x7f"}
    (runs / DONE / "state.json").write_text(json.dumps(state))
    assert f"{DONE}: \\x1b[2J gone\\x7f\n" in evaluate_here("status", runs).stdout
    assert json.loads(evaluate_here("status", runs, "--json").stdout)[DONE] == state


PUBLISHED = {
    "id_macro_f1,ood_macro_f1\nnan,1\n": "line 2: id_macro_f1 'nan' is not a number",
    "id_macro_f1,ood_macro_f1\ninf,1\n": "line 2: id_macro_f1 'inf' is not a number",
    "id_macro_f1,ood_macro_f1\n1e400,1\n": "line 2: id_macro_f1 inf; must be a percentage from 0 to 100",
    "id_macro_f1,ood_macro_f1\n3_0,1\n": "line 2: id_macro_f1 '3_0' is not a number",
    "id_macro_f1,ood_macro_f1,seed\n1,1," + "9" * 5000 + "\n": "line 2: seed '9999",
    "id_macro_f1,ood_macro_f1,seed\n1,1,--5\n": "line 2: seed '--5' is not a whole number",
    "id_macro_f1,ood_macro_f1,seed\n1,1,²\n": "line 2: seed '²' is not a whole number",
    "id_macro_f1,ood_macro_f1,model\n1,1,a\0b\n": "line 2: contains a null byte",
    "id_macro_f1,ood_macro_f1,model\n1,1," + "a" * 200_000 + "\n": "not a CSV file in UTF-8 \\(field larger",
    "id_macro_f1,ood_macro_f1,id_macro_f1\n1,1,2\n": "line 1: column 'id_macro_f1' appears twice",
    "id_macro_f1,ood_macro_f1\n1,1,2\n": "line 2: more fields than the 2",
}


@pytest.mark.parametrize(("text", "told"), PUBLISHED.items(), ids=range(len(PUBLISHED)))
def test_published_scores_that_are_none_are_named_with_their_line(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(EvaluateError, match=f"^{re.escape(str(tmp_path))}/r.csv: {told}"):
        load_results(tmp_path / "r.csv")


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("traps")
    simulate(out, n_classes=4, n_locations=6, n_images=100, size=32)
    return out


SIMULATED = {
    "colour: unknown key; perhaps a later version wrote it": {"colour": 1},
    "size: Input should be a valid integer": {"size": "32"},
    "n_images: Input should be a valid integer": {"n_images": None},
}


@pytest.mark.parametrize(("told", "change"), SIMULATED.items(), ids=range(len(SIMULATED)))
def test_a_record_of_a_simulation_that_is_none_is_named(
    told: str, change: dict[str, Any], traps: Path, tmp_path: Path, evaluate_here: Command
) -> None:
    shutil.copytree(traps, tmp_path / "traps")
    path = tmp_path / "traps/simulated.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    for command in (("simulate", "--out", path.parent), ("simulate", "--out", path.parent, "--size", "64")):
        done = evaluate_here(*command)
        assert (done.returncode, done.stderr) == (2, f"evaluate: {path}: {told}\n")
    with pytest.raises(EvaluateError, match=f"^{re.escape(f'{path}: {told}')}"):
        open_task(TaskSpec(path=str(path.parent), kind="simulated"))


METADATA = {
    "labels of fractions": lambda text: re.sub(r",(\d),(\d+.jpg)", r",\1.5,\2", text),
    "labels of words": lambda text: re.sub(r",(\d),(\d+.jpg)", r",deer,\2", text),
    "a negative label": lambda text: re.sub(r",(\d),(00003.jpg)", r",-1,\2", text),
    "a huge label": lambda text: re.sub(r",(\d),(00003.jpg)", r",99999999999999999999,\2", text),
    "zero bytes": lambda text: text.replace("00003.jpg", "0000\0.jpg"),
    "a huge field": lambda text: text.replace("00003.jpg", "0" * 200_000),
    "no label": lambda text: re.sub(r",(\d),(00003.jpg)", r",,\2", text),
    "an empty file": lambda text: "",
}


@pytest.mark.parametrize("change", METADATA.values(), ids=METADATA)
def test_metadata_of_another_kind_are_refused_in_one_line(
    change: Callable[[str], str], traps: Path, tmp_path: Path
) -> None:
    shutil.copytree(traps, tmp_path / "traps")
    path = tmp_path / "traps/iwildcam_v2.0/metadata.csv"
    text = change(path.read_text())
    assert text != path.read_text()
    path.write_text(text)
    with pytest.raises(EvaluateError) as caught:
        open_task(TaskSpec(path=str(tmp_path / "traps")))
    assert str(path.parent) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_category_names_with_numbers_that_are_none_are_named_with_their_row(traps: Path, tmp_path: Path) -> None:
    shutil.copytree(traps, tmp_path / "traps")
    path = tmp_path / "traps/iwildcam_v2.0/categories.csv"
    for y in ("²", "1.5", "-1", "9" * 5000, "x"):
        path.write_text(f"y,name\n0,empty\n{y},deer\n")
        with pytest.raises(EvaluateError, match=r"categories.csv: row 2: y is '.*', not the number of a class"):
            open_task(TaskSpec(path=str(tmp_path / "traps")))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(EvaluateError, match="a pipe, not a regular file"):
        open_task(TaskSpec(path=str(tmp_path / "traps")))


def test_weights_that_claim_more_than_they_hold_or_hold_other_numbers_are_refused(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from synthgen_evaluate.models import build, load_backbone

    path, model = tmp_path / "weights.safetensors", build("resnet18_32px", 4)
    path.write_bytes((10**12).to_bytes(8, "little") + b"{}")
    with pytest.raises(EvaluateError, match=f"^{re.escape(str(path))}: unreadable"):
        load_backbone(model, "resnet18_32px", path)
    save_file({name: value.to(torch.int32) for name, value in model.state_dict().items()}, path)
    with pytest.raises(EvaluateError, match=r"conv1.weight is of torch.int32, not torch.float32"):
        load_backbone(model, "resnet18_32px", path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(EvaluateError, match="a pipe, not a regular file"):
        load_backbone(model, "resnet18_32px", path)


def test_a_pipe_among_images_is_named_and_a_broken_image_too(tmp_path: Path) -> None:
    from synthgen_evaluate.images.decoding import decode_named
    from synthgen_evaluate.images.sources import ImageFolder

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"")
    os.mkfifo(tmp_path / "b/2.png")
    with pytest.raises(EvaluateError, match=r"b/2.png: not a regular file"):
        ImageFolder(str(tmp_path))
    with pytest.raises(EvaluateError, match=r"x.png: broken image \("):
        decode_named("x.png", b"", 32)
