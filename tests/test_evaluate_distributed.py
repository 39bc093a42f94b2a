"""Several processes, as ``accelerate launch`` starts them, do what one does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState

from synthgen_evaluate.design.suite import read_suite
from synthgen_evaluate.metrics import scores
from synthgen_evaluate.runs import Run, read_suite_records
from synthgen_evaluate.tasks.simulated.simulate import simulate
from synthgen_evaluate.training.execute import run_suite
from synthgen_evaluate.training.plan import open_suite

SUITE = """
name = "small"
baseline = "scratch"
image_size = 32
architectures = ["timm:test_vit"]  # without batch norm and dropout, which see a process's own images
seeds = [0]
[task]
path = "{traps}"
[pretrain]
epochs = 2
batch_size = 16
min_crop = 0.5
[finetune]
epochs = 2
batch_size = 16
evaluate_epochs = [1, 2]
min_crop = 0.7
{more}
[[arms]]
name = "scratch"
[[arms]]
name = "fractals"
n = 45
source = {{ kind = "fractals", categories = 3, points = 1000 }}
[[arms]]
name = "simclr"
n = 48
source = {{ kind = "fractals", categories = 3, points = 1000 }}
pretrain = {{ objective = "simclr", jitter = 0.5, accumulate = 2 }}
"""
# With --cpu, accelerate starts several processes through MPI alone; --multi_gpu is its way through torchrun.
LAUNCH = (
    "-m accelerate.commands.launch --multi_gpu --num_machines 1 --mixed_precision no --dynamo_backend no"
    " --main_process_port 0"
)

pytest.importorskip("timm")


def run_in_two(suite: Path, out: Path) -> subprocess.CompletedProcess[str]:
    launch = [*LAUNCH.split(), "--num_processes", "2"]
    command = [sys.executable, *launch, "-m", "synthgen_evaluate", "run", str(suite), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "--device", "cpu"], env=environment, capture_output=True, text=True, check=True, timeout=200
    )


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("traps")
    simulate(root, n_classes=4, n_locations=6, n_images=121, size=32)
    return root


@pytest.mark.slow
def test_two_processes_train_on_and_predict_the_same_images_with_the_results_of_one(
    traps: Path, tmp_path: Path
) -> None:
    (tmp_path / "suite.toml").write_text(SUITE.format(traps=traps, more=""))
    run_suite(read_suite(tmp_path / "suite.toml"), tmp_path / "one", device="cpu")
    told = run_in_two(tmp_path / "suite.toml", tmp_path / "two")
    assert told.stdout.splitlines() == [f"{tmp_path / 'two'}: 5 runs done, 0 done before, 0 failed"]
    (one,), (two,) = read_suite_records(tmp_path / "one"), read_suite_records(tmp_path / "two")
    assert one == two
    for member in one.members:
        first, second = (
            Run(directory=tmp_path / "one" / member.finetune),
            Run(directory=tmp_path / "two" / member.finetune),
        )
        assert (first.state.processes, second.state.processes) == (1, 2)
        assert first.evaluated() == second.evaluated() != []
        for epoch, split in first.evaluated():
            here, there = first.predictions(epoch, split), second.predictions(epoch, split)
            assert len(set(there.image_id)) == len(there)
            for column in ("image_id", "y_true", "location", "sequence", "y_pred"):
                assert (getattr(here, column) == getattr(there, column)).all()
            assert scores(here.y_true, here.y_pred) == scores(there.y_true, there.y_pred)
    for digest in {member.pretrain for member in one.members} | {member.finetune for member in one.members} - {None}:
        if digest is not None:
            assert losses(tmp_path / "two" / digest) == pytest.approx(losses(tmp_path / "one" / digest), rel=1e-3)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def another_precision() -> Iterator[None]:
    """Accelerate forgets which precision this process has trained in."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_half_precision_trains_and_is_another_run(traps: Path, tmp_path: Path, another_precision: None) -> None:
    text = SUITE.format(traps=traps, more="")
    (tmp_path / "full.toml").write_text(text)
    (tmp_path / "half.toml").write_text(f'precision = "bf16"\n{text}')
    full, half = (read_suite(tmp_path / name) for name in ("full.toml", "half.toml"))
    steps = [{step.config.digest for step in open_suite(suite).grid.steps} for suite in (full, half)]
    assert steps[0].isdisjoint(steps[1])
    assert run_suite(half, tmp_path / "runs", device="cpu", only=["simclr"]).done == 2
    (record,) = read_suite_records(tmp_path / "runs")
    for digest in (record.members[-1].pretrain, record.members[-1].finetune):
        found = Run(directory=tmp_path / "runs" / str(digest))
        assert found.config.precision == "bf16"
        assert np.isfinite(losses(found.directory)).all()
