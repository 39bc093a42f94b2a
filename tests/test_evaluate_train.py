import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.images.pixels import Stored
from synthgen_evaluate.predictions import Predictions
from synthgen_evaluate.recipe import Recipe
from synthgen_evaluate.runs import Run, RunConfig
from synthgen_evaluate.training.execute import make_accelerator
from synthgen_evaluate.training.train import DivergedError, EvaluationSet, LabelledImages, learning_rate, shares, train


def config(**recipe: object) -> RunConfig:
    settings = {"epochs": 3, "batch_size": 16, "evaluate_epochs": (1, 3), "min_crop": 0.5, **recipe}
    return RunConfig(
        kind="finetune",
        architecture="mobilenet_v3_small",
        seed=5,
        image_size=32,
        data={"digest": "colours"},
        recipe=Recipe(**settings),  # type: ignore[arg-type]
    )


def colours(n: int, seed: int = 0) -> LabelledImages:
    """Two classes that one pixel tells apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    pixels = rng.integers(0, 60, (n, 32, 32, 3), dtype=np.uint8)
    pixels[labels == 1, :, :, 0] += 150
    captions = tuple(f"a {('dark', 'red')[label]} picture" for label in labels.tolist())
    return LabelledImages(
        pixels=Stored(images=pixels, chosen=np.arange(n)), labels=labels, n_classes=2, captions=captions
    )


def held_out(images: LabelledImages) -> dict[str, EvaluationSet]:
    n = len(images.labels)
    ids = np.array([f"image{k}" for k in range(n)], dtype=object)
    truth = Predictions(
        image_id=ids, y_true=images.labels, y_pred=images.labels, location=np.arange(n) % 3, sequence=np.arange(n) % 7
    )
    return {"test": EvaluationSet(pixels=images.pixels, truth=truth)}


def do(run: Run, wanted: RunConfig, *, images: LabelledImages | None = None, stop_after: int | None = None) -> None:
    def progress(done: int) -> None:
        if done == stop_after:
            raise KeyboardInterrupt

    evaluation = held_out(colours(40, seed=1)) if wanted.recipe.evaluate_epochs else {}
    accelerator = make_accelerator("cpu", "float32")
    train(run, wanted, images or colours(64), evaluation, init=None, accelerator=accelerator, progress=progress)


def files(run: Run) -> dict[str, bytes]:
    return {
        str(path.relative_to(run.directory)): path.read_bytes()
        for path in sorted(run.directory.rglob("*"))
        if path.is_file() and path.name != "state.json"
    }


def test_a_model_learns_and_its_predictions_are_stored(tmp_path: Path) -> None:
    run = Run(directory=tmp_path)
    do(run, config(epochs=12, batch_size=8, evaluate_epochs=(12,)))
    assert run.done
    assert run.evaluated() == [(12, "test")]
    found = run.predictions(12, "test")
    assert found.image_id.tolist() == [f"image{k}" for k in range(40)]
    assert (found.y_pred == found.y_true).mean() > 0.9
    assert found.location.tolist() == [k % 3 for k in range(40)]
    assert found.sequence.tolist() == [k % 7 for k in range(40)]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_run_stopped_after_any_epoch_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, stopped = Run(directory=tmp_path / "whole"), Run(directory=tmp_path / "stopped")
    do(whole, config())
    for epochs in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            do(stopped, config(), stop_after=epochs)
        assert not stopped.done
    do(stopped, config())
    assert files(stopped) == files(whole)


OBJECTIVES = {
    "simclr": {"objective": "simclr", "jitter": 0.5, "gray": 0.2, "blur": 0.5},
    "image-text": {"objective": "image-text"},
    "parts of a batch": {"accumulate": 3},
    "mixup": {"mixup": 0.2, "label_smoothing": 0.1},
    "sgd": {"optimizer": "sgd", "lr": 0.01, "schedule": "step", "step_epochs": 2},
}


@pytest.mark.parametrize("settings", OBJECTIVES.values(), ids=OBJECTIVES)
def test_every_way_of_training_learns_and_goes_on_where_it_was(settings: dict[str, object], tmp_path: Path) -> None:
    whole, stopped = Run(directory=tmp_path / "whole"), Run(directory=tmp_path / "stopped")
    wanted = config(epochs=4, evaluate_epochs=(), **settings)
    do(whole, wanted)
    with pytest.raises(KeyboardInterrupt):
        do(stopped, wanted, stop_after=2)
    do(stopped, wanted)
    assert files(stopped) == files(whole)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert (whole.state.train_images_per_second or 0) > 0


@given(st.integers(6, 500), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_processes_share_a_batch_with_every_image_once(n: int, processes: int, parts: int, equal: bool) -> None:
    found = shares(n, processes, parts, equal=equal)
    assert [len(own) for own in found] == [parts] * processes
    taken = sorted(index for own in found for part in own for index in range(n)[part])
    assert len(set(taken)) == len(taken)
    sizes = {part.stop - part.start for own in found for part in own}
    if equal:
        assert len(sizes) == 1
        assert n - len(taken) < processes * parts
    else:
        assert taken == list(range(n))
        assert max(sizes) - min(sizes) <= 1


def test_batches_too_small_to_share_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match="batches of 18 from 64 images leave 1 to each of 1 processes x 9 parts"):
        do(Run(directory=tmp_path), config(batch_size=18, accumulate=9))


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    one, other = Run(directory=tmp_path / "1"), Run(directory=tmp_path / "2")
    wanted = config(epochs=1, evaluate_epochs=(1,))
    do(one, wanted)
    do(other, RunConfig(**{**{name: getattr(wanted, name) for name in RunConfig.__slots__}, "seed": 6}))
    first, second = (load_file(run.weights)["features.0.0.weight"] for run in (one, other))
    assert not torch.equal(first, second)


def test_a_loss_that_is_no_number_ends_the_run_with_its_step(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"loss is (nan|inf) at epoch \d, step \d of 4"):
        do(Run(directory=tmp_path), config(lr=1e18, optimizer="sgd"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_trains_and_predicts(tmp_path: Path) -> None:
    run = Run(directory=tmp_path)
    wanted = config(epochs=12, batch_size=8, evaluate_epochs=(12,))
    accelerator = make_accelerator("cuda", "float32")
    sets = colours(64), held_out(colours(40, seed=1))
    train(run, wanted, *sets, init=None, accelerator=accelerator, progress=lambda done: None)
    found = run.predictions(12, "test")
    assert (found.y_pred == found.y_true).mean() > 0.9


@given(st.integers(1, 50), st.floats(0, 1), st.floats(0, 0.99))
def test_the_learning_rate_rises_to_its_peak_and_never_leaves_zero_to_peak(epochs: int, warm: float, at: float) -> None:
    recipe = Recipe(epochs=epochs, lr=0.1, warmup_epochs=warm * epochs)
    rate = learning_rate(recipe, at * epochs)
    assert 0 <= rate <= 0.1 + 1e-12
    assert learning_rate(Recipe(epochs=epochs, lr=0.1, schedule="constant"), at * epochs) == 0.1


def test_the_step_schedule_falls_to_a_tenth_after_every_so_many_epochs() -> None:
    recipe = Recipe(epochs=90, lr=0.1, schedule="step", step_epochs=30, warmup_epochs=5)
    rates = [learning_rate(recipe, at) for at in (2.5, 5, 29.9, 30, 59.9, 60, 89.9)]
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_the_cosine_ends_at_zero_and_halves_in_the_middle() -> None:
    recipe = Recipe(epochs=10, lr=0.2)
    assert learning_rate(recipe, 0) == 0.2
    assert learning_rate(recipe, 5) == pytest.approx(0.1)
    assert learning_rate(recipe, 10) == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_short_training_on_cifar10_learns_what_the_network_is_known_to_learn(shared: Path, tmp_path: Path) -> None:
    script = Path(__file__).parent / "benchmarks" / "cifar10.py"
    short = ("--images", "10000", "--epochs", "4", "--precision", "bf16", "--target", "0.45")
    files = ("--cifar10", str(shared / "data" / "cifar10.zip"), "--work", str(tmp_path))
    command = [sys.executable, str(script), *files, *short]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
