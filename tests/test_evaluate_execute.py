import json
import re
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from processes import Start, installed, kill_when
from safetensors.torch import save_file
from small_suite import SUITE, make_world, results

from synthgen.common.commands import run as run_app
from synthgen_evaluate.cli import app
from synthgen_evaluate.design.suite import read_suite
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.metrics import scores
from synthgen_evaluate.models import build
from synthgen_evaluate.runs import Run, RunConfig, State, read_suite_records
from synthgen_evaluate.tasks.wilds.reading import import_wilds
from synthgen_evaluate.training import execute
from synthgen_evaluate.training.execute import run_suite

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wilds.*", "ignore::DeprecationWarning:ogb.*")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def finished(world: Path) -> Path:
    outcome = run_suite(read_suite(world / "suite.toml"), world / "runs", device="cpu")
    assert (outcome.done, outcome.kept, outcome.failed) == (5, 0, ())
    return world / "runs"


@pytest.mark.slow
def test_the_same_suite_twice_gives_identical_results(world: Path, finished: Path, tmp_path: Path) -> None:
    run_suite(read_suite(world / "suite.toml"), tmp_path, device="cpu")
    assert results(tmp_path) == results(finished)
    assert len(results(finished)) == 3 * 2 * 4 + 5 + 5  # arms x epochs x splits, logs, weights


def test_a_finished_suite_is_not_repeated(world: Path, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.name == "state.json"}
    outcome = run_suite(read_suite(world / "suite.toml"), finished, device="cpu")
    assert (outcome.done, outcome.kept, outcome.failed) == (0, 5, ())
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.fixture
def start(launch: Start) -> Start:
    """Start the command."""
    return lambda suite, out: launch([installed("evaluate"), "run", suite, "--out", out, "--device", "cpu"])


def reached(out: Path, moment: str) -> bool:
    """Whether a run directory holds a file of that name, or that many finished runs."""
    if moment.isdigit():
        states = [json.loads(path.read_text()) for path in out.glob("*/state.json")]
        return sum(state["status"] == "done" for state in states) >= int(moment)
    return any(out.glob(moment))


@pytest.mark.parametrize(
    "moments",
    [
        ("*/checkpoint.pt",),
        pytest.param(("cache/*.pixels", "*/config.json", "*/checkpoint.pt", "2", "4"), marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_moment_ends_with_the_same_results_and_repeats_no_finished_run(
    world: Path, finished: Path, tmp_path: Path, start: Start, moments: tuple[str, ...]
) -> None:
    out = tmp_path / "runs"
    for moment in moments:
        done = {p: p.stat().st_mtime_ns for p in out.glob("*/weights.safetensors")}
        process = start(world / "suite.toml", out)
        kill_when(process, partial(reached, out, moment))
        assert {p: p.stat().st_mtime_ns for p in done} == done
    assert run_suite(read_suite(world / "suite.toml"), out, device="cpu").failed == ()
    assert results(out) == results(finished)
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_two_processes_share_a_suite_and_do_each_run_once(
    world: Path, finished: Path, tmp_path: Path, start: Start
) -> None:
    both = [start(world / "suite.toml", tmp_path) for _ in range(2)]
    told = [process.communicate(timeout=120)[0].splitlines()[-1] for process in both]
    counts = [re.search(r"(\d+) runs? done, (\d+) done before, 0 failed$", line) for line in told]
    assert sum(int(count[1]) for count in counts if count) == 5
    assert [int(count[1]) + int(count[2]) for count in counts if count] == [5, 5]
    assert results(tmp_path) == results(finished)


def test_only_one_arm_runs_but_the_suite_knows_all(world: Path, tmp_path: Path) -> None:
    outcome = run_suite(read_suite(world / "suite.toml"), tmp_path, device="cpu", only=["scratch"])
    assert outcome.done == 1
    (record,) = read_suite_records(tmp_path)
    assert [member.arm for member in record.members] == ["scratch", "natural", "fractals"]
    with pytest.raises(EvaluateError, match="no such arm; there are scratch, natural, fractals"):
        run_suite(read_suite(world / "suite.toml"), tmp_path, device="cpu", only=["none"])


def test_time_that_is_over_stops_a_run_at_its_checkpoint_and_the_rest_follows_another_time(
    world: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = read_suite(world / "suite.toml")
    outcome = run_suite(suite, tmp_path, device="cpu", max_hours=0)
    assert (outcome.done, outcome.left, outcome.failed) == (0, 5, ())
    ticks = iter([0.0, *[1.0] * 5, *[1e9] * 99])  # over in the midst of a run
    with monkeypatch.context() as patch:
        patch.setattr("synthgen_evaluate.training.execute.time", SimpleNamespace(monotonic=lambda: next(ticks)))
        outcome = run_suite(suite, tmp_path, device="cpu", max_hours=1)
    assert 0 < outcome.left < 5
    assert outcome.done + outcome.left == 5
    (stopped,) = [path for path in tmp_path.glob("*/state.json") if json.loads(path.read_text())["status"] == "running"]
    assert (stopped.parent / "checkpoint.pt").exists() or not (stopped.parent / "log.jsonl").exists()
    outcome = run_suite(suite, tmp_path, device="cpu")
    assert outcome.left == 0
    assert results(tmp_path) == results(finished)


def test_images_that_do_not_fit_in_the_cache_are_streamed_with_the_same_results(
    world: Path, finished: Path, tmp_path: Path
) -> None:
    outcome = run_suite(read_suite(world / "suite.toml"), tmp_path, device="cpu", cache_bytes=0, only=["natural"])
    assert (outcome.done, outcome.failed) == (2, ())
    assert not list((tmp_path / "cache").glob("*.pixels"))
    assert results(tmp_path).items() < results(finished).items()


def test_a_dry_run_lists_what_there_is_to_do_and_does_nothing(
    world: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = str(world / "suite.toml")
    ask = ("run", suite, "--out", str(tmp_path / "runs"), "--dry-run", "--only", "natural", "--only", "scratch")
    assert evaluate(monkeypatch, *ask) == 0
    assert capsys.readouterr().out.splitlines() == [
        "fine-tune scratch, mobilenet_v3_small, seed 0",
        "pre-train natural, mobilenet_v3_small, seed 0",
        "fine-tune natural, mobilenet_v3_small, seed 0",
        f"{tmp_path / 'runs'}: 3 runs to do, 0 done",
    ]
    assert not (tmp_path / "runs").exists()
    assert evaluate(monkeypatch, "run", suite, "--out", str(finished), "--dry-run") == 0
    assert "0 runs to do, 5 done" in capsys.readouterr().out


def test_arms_that_train_alike_share_a_run_and_arms_of_one_source_its_decoded_images(
    world: Path, tmp_path: Path
) -> None:
    text = (world / "suite.toml").read_text()
    source = f'source = {{ kind = "folder", path = "{world / "images"}" }}'
    for name, more in (("again", ""), ("longer", "n = 20\npretrain = { epochs = 2 }\n")):
        text += f'[[arms]]\nname = "{name}"\n{more}{source}\n'
    (tmp_path / "suite.toml").write_text(text)
    only = ("natural", "again", "longer")
    outcome = run_suite(read_suite(tmp_path / "suite.toml"), tmp_path / "runs", device="cpu", only=only)
    assert outcome.done == 2 * 2  # natural and longer
    (record,) = read_suite_records(tmp_path / "runs")
    runs = {member.arm: member.pretrain for member in record.members}
    assert runs["again"] == runs["natural"] != runs["longer"]
    assert len(list((tmp_path / "runs" / "cache").glob("*.pixels"))) == 1 + 5  # source and splits


def test_outside_weights_are_fine_tuned_and_wrong_ones_refused_before_any_run(world: Path, tmp_path: Path) -> None:
    base = (world / "suite.toml").read_text().split('[[arms]]\nname = "natural"')[0]
    outside = f'[[arms]]\nname = "outside"\ncheckpoint = "{tmp_path}/{{architecture}}.safetensors"\n'
    (tmp_path / "suite.toml").write_text(base + outside)
    for architecture in ("resnet18", "mobilenet_v3_small"):
        save_file(build(architecture, 7).state_dict(), tmp_path / "mobilenet_v3_small.safetensors")
        if architecture == "resnet18":
            with pytest.raises(EvaluateError, match="weights of another architecture than mobilenet_v3_small"):
                run_suite(read_suite(tmp_path / "suite.toml"), tmp_path / "runs", device="cpu")
            assert not list((tmp_path / "runs").glob("*/state.json"))
    outcome = run_suite(read_suite(tmp_path / "suite.toml"), tmp_path / "runs", device="cpu")
    assert (outcome.done, outcome.failed) == (2, ())
    (record,) = read_suite_records(tmp_path / "runs")
    configs = [Run(directory=tmp_path / "runs" / member.finetune).config for member in record.members]
    assert configs[0].init is None
    assert (configs[1].init or "").startswith("file:")


def test_a_failed_run_is_told_and_the_others_go_on(world: Path, tmp_path: Path) -> None:
    suite = read_suite(world / "suite.toml")
    diverging = replace(suite.pretrain, lr=1e18, optimizer="sgd", batch_size=8)  # a rate that no file may ask for
    outcome = run_suite(replace(suite, pretrain=diverging), tmp_path / "runs", device="cpu")
    assert outcome.done == 1  # from scratch
    first, second, *_ = outcome.failed
    assert first.startswith("pre-train natural, mobilenet_v3_small, seed 0: loss is ")
    assert "its pre-training run" in second
    states = [json.loads(path.read_text())["status"] for path in (tmp_path / "runs").glob("*/state.json")]
    assert sorted(states) == ["done", "failed", "failed", "failed", "failed"]


def planted(monkeypatch: pytest.MonkeyPatch, kind: str, error: type[Exception] = KeyError) -> None:
    """Have all runs of a kind end in a bug."""

    def train(run: Run, config: RunConfig, *args: Any, **options: Any) -> None:
        if config.kind in kind:
            raise error("oops hf_PlantedPlantedPlantedPlanted")
        real(run, config, *args, **options)

    real = execute.train
    monkeypatch.setattr(execute, "train", train)


def test_a_bug_in_a_run_leaves_a_log_and_the_others_go_on(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, only = read_suite(world / "suite.toml"), ("scratch", "natural")
    with monkeypatch.context() as patch:
        planted(patch, "pretrain")
        outcome = run_suite(suite, tmp_path / "runs", device="cpu", only=only)
    assert outcome.done == 1
    first, *_ = outcome.failed
    found = re.fullmatch(r"pre-train natural, .*: KeyError: 'oops \*\*\*' \(traceback in (.*)\)", first)
    assert found is not None
    log = Path(found[1])
    assert log.parent == tmp_path / "runs/logs"
    assert "Traceback" in log.read_text()
    assert "Planted" not in log.read_text().replace("planted(", "")
    states = read_suite_states(tmp_path / "runs")
    assert sorted(state.status for state in states) == ["done", "failed", "failed"]
    assert any(str(log) in (state.error or "") for state in states)
    assert run_suite(suite, tmp_path / "runs", device="cpu", only=only).done == 2  # once the bug is fixed
    assert not (tmp_path / "runs/logs").exists()


def read_suite_states(runs: Path) -> list[State]:
    return [Run(directory=path.parent).state for path in sorted(runs.glob("*/state.json"))]


def test_the_third_run_that_fails_in_the_same_way_stops_the_command_in_one_line(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(monkeypatch, "pretrain finetune")
    suite = world / "suite.toml"
    for arms, debug in ((("scratch", "natural"), False), (("scratch", "natural", "fractals"), True)):
        words = [word for arm in arms for word in ("--only", arm)] + ["--debug"] * debug
        out = tmp_path / str(debug)
        monkeypatch.setattr(sys, "argv", ["evaluate", "run", str(suite), "--out", str(out), "--device", "cpu", *words])
        assert run_app(app, "evaluate", (EvaluateError,)) == 1
        said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("search: ", "decode "))]
        assert not any("Planted" in line for line in said)
        assert ("Traceback (most recent call last):" in said) == debug
    assert said[-1].startswith(f"evaluate: {out}: stopped at the third run that failed in the same way (")
    assert len(list((out / "logs").iterdir())) == 3


def test_a_failing_device_ends_the_command_with_one_line_that_names_its_log(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(monkeypatch, "finetune", RuntimeError)
    out = tmp_path / "runs"
    arguments = ["run", str(world / "suite.toml"), "--out", str(out), "--device", "cpu", "--only", "scratch"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    assert run_app(app, "evaluate", (EvaluateError,)) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    (log,) = (out / "logs").iterdir()
    assert line == f"evaluate: RuntimeError: oops *** (traceback in {log})"
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize("traps", ["simulated", "crops"], indirect=True)
def test_macro_f1_on_camera_traps_is_what_wilds_says(traps: Path, tmp_path: Path) -> None:
    text = SUITE.format(traps=traps, images="unused").split('[[arms]]\nname = "natural"')[0]
    (tmp_path / "suite.toml").write_text(text)
    run_suite(read_suite(tmp_path / "suite.toml"), tmp_path / "runs", device="cpu")
    import torch

    dataset = import_wilds().get_dataset("iwildcam", root_dir=str(traps), download=False)
    (record,) = read_suite_records(tmp_path / "runs")
    run = Run(directory=tmp_path / "runs" / record.members[0].finetune)
    assert run.evaluated() == [(e, s) for e in (1, 2) for s in ("id_test", "id_val", "test", "val")]
    for epoch, split in run.evaluated():
        stored = run.predictions(epoch, split)
        where = np.flatnonzero(dataset.split_array == dataset.split_dict[split])
        assert (dataset.y_array.numpy()[where] == stored.y_true).all()
        theirs, _ = dataset.eval(torch.from_numpy(stored.y_pred), dataset.y_array[where], dataset.metadata_array[where])
        ours = scores(stored.y_true, stored.y_pred)
        assert ours.macro_f1 == pytest.approx(theirs["F1-macro_all"], abs=1e-6)
        assert ours.recall == pytest.approx(theirs["recall-macro_all"], abs=1e-6)
        assert ours.accuracy == pytest.approx(theirs["acc_avg"], abs=1e-6)


def evaluate(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    return run_app(app, "evaluate", (EvaluateError,))


def one_class(root: Path) -> str:
    shutil.rmtree(root / "images" / "class1")
    return "1 class folders with images"


def broken_image(root: Path) -> str:
    (root / "images" / "class1" / "7.png").write_bytes(b"no image")
    return "class1/7.png: broken image"


def broken_trap(root: Path) -> str:
    path = root / "traps" / "iwildcam_v2.0" / "train" / "00005.jpg"
    path.write_bytes(path.read_bytes()[:100])
    return "00005.jpg: broken image"


def no_traps(root: Path) -> str:
    shutil.rmtree(root / "traps" / "iwildcam_v2.0" / "train")
    return "train: missing; expected"


def unknown_key(root: Path) -> str:
    path = root / "suite.toml"
    path.write_text("colour = 3\n" + path.read_text())
    return "colour: unknown key"


def unknown_architecture(root: Path) -> str:
    path = root / "suite.toml"
    path.write_text(path.read_text().replace("mobilenet_v3_small", "vgg"))
    return "unknown 'vgg'; known are resnet18"


def too_many(root: Path) -> str:
    path = root / "suite.toml"
    path.write_text(path.read_text().replace("n = 60", "n = 60000"))
    return "arm fractals: n = 60000 images of 3 classes: ask for 3 to 3000"


@pytest.mark.parametrize(
    "spoil", [one_class, broken_image, broken_trap, no_traps, unknown_key, unknown_architecture, too_many]
)
def test_bad_input_is_one_line_and_exit_code_2_before_any_run(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: object,
) -> None:
    shutil.copytree(world, tmp_path / "world", ignore=shutil.ignore_patterns("runs"))
    text = (world / "suite.toml").read_text().replace(str(world), str(tmp_path / "world"))
    (tmp_path / "world" / "suite.toml").write_text(text)
    said = spoil(tmp_path / "world")  # type: ignore[operator]
    code = evaluate(monkeypatch, "run", str(tmp_path / "world" / "suite.toml"), "--out", str(tmp_path / "runs"))
    assert code == 2
    last = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in last if line.startswith("evaluate: ")]
    assert len(errors) == 1
    assert errors[0] == last[-1]
    assert said in errors[0]
    assert not list((tmp_path / "runs").glob("*/state.json"))
    assert not list((tmp_path / "runs").rglob("*.tmp"))


def test_a_full_disk_is_told_before_work(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    assert evaluate(monkeypatch, "run", str(world / "suite.toml"), "--out", str(tmp_path / "runs")) == 2
    assert "0.001 GB are free" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_status_counts_and_compare_reports(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(monkeypatch, "status", str(finished)) == 0
    assert "5 runs: 5 done" in capsys.readouterr().out
    assert evaluate(monkeypatch, "compare", str(finished), "--out", str(tmp_path / "report")) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"report: {tmp_path / 'report' / 'index.html'}"
    assert printed[1].startswith("3 of 3 planned fine-tuning runs are finished")
    assert printed[2].startswith("Models collapsed, so that nothing can be said (scratch as the baseline): natural")
    assert (tmp_path / "report" / "index.html").exists()
    assert evaluate(monkeypatch, "power", str(finished), "--difference", "2", "--json") == 0
    assert [row["arm"] for row in json.loads(capsys.readouterr().out)] == ["natural", "fractals"]
    assert evaluate(monkeypatch, "compare", "--out", str(tmp_path / "report")) == 2
    assert "name directories of runs, or a file of published scores" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["abacus", "cuda:99x"])
def test_an_unknown_device_is_refused(world: Path, tmp_path: Path, device: str) -> None:
    with pytest.raises(EvaluateError, match=device):
        run_suite(read_suite(world / "suite.toml"), tmp_path, device=device)
