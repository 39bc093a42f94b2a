from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from synthgen_evaluate.data import augment, cached_pixels, to_batch
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.models import HEADS, SMALLEST, build, head_prefixes, load_backbone, n_parameters, problem
from synthgen_evaluate.recipe import Recipe
from synthgen_evaluate.runs import Predictions, Run, RunConfig
from synthgen_evaluate.train import DivergedError, EvaluationSet, LabelledImages, learning_rate, train

CPU = torch.device("cpu")


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
    return LabelledImages(pixels=pixels, labels=labels, n_classes=2)


def held_out(images: LabelledImages) -> dict[str, EvaluationSet]:
    n = len(images.labels)
    ids = np.array([f"image{k}" for k in range(n)], dtype=object)
    truth = Predictions(image_id=ids, y_true=images.labels, y_pred=images.labels, location=np.arange(n) % 3)
    return {"test": EvaluationSet(pixels=images.pixels, truth=truth)}


def do(run: Run, wanted: RunConfig, *, images: LabelledImages | None = None, stop_after: int | None = None) -> None:
    def progress(done: int) -> None:
        if done == stop_after:
            raise KeyboardInterrupt

    evaluation = held_out(colours(40, seed=1))
    train(run, wanted, images or colours(64), evaluation, init=None, device=CPU, progress=progress)


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
    device = torch.device("cuda")
    train(run, wanted, colours(64), held_out(colours(40, seed=1)), init=None, device=device, progress=lambda done: None)
    found = run.predictions(12, "test")
    assert (found.y_pred == found.y_true).mean() > 0.9


@given(st.integers(1, 50), st.floats(0, 1), st.floats(0, 0.99))
def test_the_learning_rate_rises_to_its_peak_and_never_leaves_zero_to_peak(epochs: int, warm: float, at: float) -> None:
    recipe = Recipe(epochs=epochs, lr=0.1, warmup_epochs=warm * epochs)
    rate = learning_rate(recipe, at * epochs)
    assert 0 <= rate <= 0.1 + 1e-12
    assert learning_rate(Recipe(epochs=epochs, lr=0.1, schedule="constant"), at * epochs) == 0.1


def test_the_cosine_ends_at_zero_and_halves_in_the_middle() -> None:
    recipe = Recipe(epochs=10, lr=0.2)
    assert learning_rate(recipe, 0) == 0.2
    assert learning_rate(recipe, 5) == pytest.approx(0.1)
    assert learning_rate(recipe, 10) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("architecture", [*HEADS, "timm:resnet10t", "timm:deit_tiny_distilled_patch16_224"])
def test_a_backbone_moves_to_another_head_whole(architecture: str, tmp_path: Path) -> None:
    if architecture.startswith("timm:"):
        pytest.importorskip("timm")
    before, after = build(architecture, 7), build(architecture, 3)
    save_file(before.state_dict(), tmp_path / "weights.safetensors")
    own_head = {n: v.clone() for n, v in after.state_dict().items() if n.startswith(head_prefixes(after, architecture))}
    assert {len(value) for value in own_head.values()} == {3}
    load_backbone(after, architecture, tmp_path / "weights.safetensors")
    for name, value in after.state_dict().items():
        expected = own_head[name] if name in own_head else before.state_dict()[name]
        assert torch.equal(value, expected), name


@pytest.mark.parametrize("architecture", HEADS)
def test_every_family_takes_the_smallest_images_it_is_said_to_take(architecture: str) -> None:
    size = max(SMALLEST.get(architecture, 1), 16)
    assert problem(architecture, size) is None
    assert build(architecture, 3).eval()(torch.zeros(1, 3, size, size)).shape == (1, 3)


def test_unknown_architectures_and_images_too_small_are_told() -> None:
    assert "known are resnet18" in str(problem("resnet999", 64))
    assert problem("alexnet", 48) == "alexnet needs images of 63 px; image_size is 48"
    assert "name is missing" in str(problem("timm:", 64))
    with pytest.raises(EvaluateError, match="unknown architecture 'resnet999'"):
        build("resnet999", 2)


def test_a_timm_name_that_timm_does_not_know_is_refused() -> None:
    pytest.importorskip("timm")
    with pytest.raises(EvaluateError, match=r"timm:nothing: timm .* makes no such model"):
        build("timm:nothing", 2)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_file(build("mobilenet_v3_small", 2).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(EvaluateError, match="another architecture than resnet18"):
        load_backbone(build("resnet18", 2), "resnet18", tmp_path / "w.safetensors")


def test_parameters_are_torchvisions() -> None:
    assert n_parameters("resnet18") == 11_689_512  # torchvision's model table
    assert n_parameters("mobilenet_v3_small") == 2_542_856


@given(st.floats(0.1, 1), st.integers(0, 1000))
def test_augmentation_keeps_a_flat_image_flat_and_follows_its_generator(min_crop: float, seed: int) -> None:
    recipe = Recipe(epochs=1, min_crop=min_crop)
    flat = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8).contiguous()
    once = augment(flat, recipe, torch.Generator().manual_seed(seed))
    assert torch.allclose(once, flat, atol=1e-5)
    noise = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    a, b = (augment(noise, recipe, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(a, b)
    assert a.min() >= 0
    assert a.max() <= 1  # nothing from outside the image


def test_a_batch_is_normalised_as_imagenet_models_expect() -> None:
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    pixels[0, 0, 0] = 255
    batch = to_batch(pixels, CPU)
    assert batch.shape == (1, 3, 2, 2)
    assert batch[0, :, 1, 1].tolist() == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    assert batch[0, :, 0, 0].tolist() == pytest.approx([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225])


def test_images_are_decoded_once_and_a_failed_decoding_leaves_nothing(tmp_path: Path) -> None:
    calls = []

    class Counting:
        def decode(self, indices: np.ndarray, size: int):  # type: ignore[no-untyped-def]
            calls.append(len(indices))
            for index in indices.tolist():
                if index == 99:
                    raise EvaluateError("image 99: broken")
                yield np.full((size, size, 3), index, np.uint8)

    def ask(indices: list[int]) -> np.ndarray:
        key = {"indices": indices}
        chosen = np.array(indices)
        return cached_pixels(Counting(), chosen, 4, cache=tmp_path, key=key, progress=lambda done: None)

    assert ask([3, 1])[:, 0, 0, 0].tolist() == [3, 1]
    assert ask([3, 1]).shape == (2, 4, 4, 3)
    assert calls == [2]
    with pytest.raises(EvaluateError, match="image 99"):
        ask([5, 99])
    assert len(list(tmp_path.iterdir())) == 1
