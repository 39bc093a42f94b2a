import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from synthgen.common.commands import run as run_app
from synthgen_evaluate.cli import app
from synthgen_evaluate.design.sources import FolderSource, FractalSource, ShardSource
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.tasks.simulated.simulate import simulate
from synthgen_evaluate.training.byhand import FINETUNE, PRETRAIN, recipe_of, source_of

W = ("--out", "w.safetensors")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wilds.*", "ignore::DeprecationWarning:ogb.*")


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("traps")
    simulate(root, n_classes=4, n_locations=6, n_images=120, size=32)
    return root


def evaluate(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    return run_app(app, "evaluate", (EvaluateError,))


def test_weights_pretrained_by_hand_are_fine_tuned_by_hand(
    traps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "out" / "net.safetensors"
    common = ("--architecture", "mobilenet_v3_small", "--image-size", 32, "--device", "cpu", "--set", "epochs=1")
    ask = ("pretrain", "fractals:3", "--n", 60, *common, "--set", "objective=simclr", "--out", weights)
    assert evaluate(monkeypatch, *ask) == 0
    (run,) = weights.parent.glob("*/state.json")
    assert capsys.readouterr().out == f"{weights}: weights of the run {run.parent}\n"
    before = run.stat().st_mtime_ns
    assert evaluate(monkeypatch, *ask) == 0  # done: nothing to do
    assert run.stat().st_mtime_ns == before
    capsys.readouterr()
    assert evaluate(monkeypatch, "finetune", traps, "--checkpoint", weights, *common, "--out", tmp_path / "fine") == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["1", name] for name in ("id_test", "id_val", "test", "val")]
    assert evaluate(monkeypatch, "finetune", traps, *common, "--out", tmp_path / "fine", "--json") == 0
    assert {row["split"] for row in json.loads(capsys.readouterr().out)} == {"id_test", "id_val", "test", "val"}
    assert evaluate(monkeypatch, "status", tmp_path / "fine") == 0
    assert "2 runs: 2 done" in capsys.readouterr().out
    runs = [json.loads(path.read_text()) for path in (tmp_path / "fine").glob("*/config.json")]
    assert sorted(run["init"] is None for run in runs) == [False, True]
    kept = load_file(weights)["features.1.block.0.0.weight"]
    for run_dir in (tmp_path / "fine").glob("*/config.json"):
        started = json.loads(run_dir.read_text())["init"]
        tuned = load_file(run_dir.parent / "weights.safetensors")["features.1.block.0.0.weight"]
        assert (torch.nn.functional.cosine_similarity(tuned.flatten(), kept.flatten(), 0) > 0.9) == (
            started is not None
        )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("pretrain", "fractals:3", "--out", "weights.pt"), "--out weights.pt: a file of weights, ending in .saf"),
        (("pretrain", "nowhere", "--out", "w.safetensors"), "nowhere: 0 class folders with images"),
        (
            ("pretrain", "fractals:3", "--out", "w.safetensors", "--set", "objective=image-text"),
            "fractals have no text",
        ),
        (
            ("pretrain", "fractals:3", "--out", "w.safetensors", "--architecture", "vgg"),
            "--architecture: unknown 'vgg'",
        ),
        (("finetune", "nowhere", "--out", "runs"), "nowhere/iwildcam_v2.0: missing"),
        (("finetune", "nowhere", "--out", "runs", "--set", "epochs=0"), "--set epochs: 0; 1 to 100000"),
        (("finetune", "nowhere", "--out", "runs", "--set", "epochs=" + "9" * 5000), "--set epochs: Input should be a"),
        (("pretrain", "fractals:" + "9" * 5000, "--out", "w.safetensors"), "fractals:9999"),
        (("pretrain", "fractals:²", "--out", "w.safetensors"), "fractals:²: "),
        (
            ("finetune", "nowhere", "--out", "runs", "--set", "objective=simclr"),
            "finetune.objective: simclr; fine-tuning is supervised",
        ),
        (
            ("pretrain", "fractals:3", "--out", "w.safetensors", "--architecture", "timm:nix"),
            "timm:nix: ",
        ),
        (("finetune", "nowhere", "--out", "s3://bucket/runs"), "s3://bucket/runs: must be a local path, not a URL"),
        (("simulate", "--out", "s3://bucket/set"), "Invalid value for '--out': s3://bucket/set: must be a local path"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate(monkeypatch, *arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("evaluate: ")]
    assert told in line
    assert not list(tmp_path.iterdir())


def test_a_source_is_told_by_what_stands_there(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "plan.json").touch()
    assert source_of("fractals") == FractalSource(kind="fractals")
    assert source_of("fractals:20") == FractalSource(kind="fractals", categories=20)
    assert source_of(str(tmp_path / "set")) == ShardSource(kind="shards", path=str(tmp_path / "set"))
    assert source_of("zip://train::a.zip") == FolderSource(kind="folder", path="zip://train::a.zip")


def test_settings_are_read_as_a_suite_file_has_them() -> None:
    recipe = recipe_of(PRETRAIN, ["lr=0.1", "flip=false", "optimizer=sgd", "evaluate_epochs=[1, 2]"])
    assert (recipe.lr, recipe.flip, recipe.optimizer, recipe.evaluate_epochs) == (0.1, False, "sgd", (1, 2))
    assert recipe_of(PRETRAIN, ["objective=simclr"]).label_smoothing == 0
    for setting, told in (
        ("lr", "--set lr: write KEY=VALUE; the keys are epochs"),
        ("rate=1", "--set rate=1: write KEY=VALUE"),
        ("lr=fast", "--set lr: "),
        ("min_crop=2", "--set min_crop: 2"),
        ("optimizer=rms", "--set optimizer: "),
    ):
        with pytest.raises(EvaluateError, match=told):
            recipe_of(FINETUNE, [setting])
