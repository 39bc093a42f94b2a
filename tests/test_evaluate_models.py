import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.models import (
    COUNTER,
    HEADS,
    SMALLEST,
    _interpolated,
    build,
    fitting,
    head_prefixes,
    load_backbone,
    n_parameters,
    problem,
    replace_head,
)

OTHERS = ("timm:resnet10t", "timm:deit_tiny_distilled_patch16_224", "open_clip:MobileCLIP-S1")
SLOW = pytest.param("open_clip:MobileCLIP-S1", marks=pytest.mark.slow)


def need(architecture: str) -> None:
    package, _, name = architecture.partition(":")
    if name:
        pytest.importorskip(package)


@pytest.mark.parametrize("architecture", [*HEADS, *OTHERS[:-1], "open_clip:ViT-S-32-alt", SLOW])
def test_a_backbone_moves_to_another_head_whole(architecture: str, tmp_path: Path) -> None:
    need(architecture)
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
    assert build(architecture, 3, size).eval()(torch.zeros(1, 3, size, size)).shape == (1, 3)


def test_unknown_architectures_and_images_too_small_are_told() -> None:
    assert "known are resnet18" in str(problem("resnet999", 64))
    assert problem("alexnet", 48) == "alexnet needs images of 63 px; image_size is 48"
    assert "name is missing" in str(problem("timm:", 64))
    assert "name is missing" in str(problem("open_clip:", 64))
    with pytest.raises(EvaluateError, match="unknown architecture 'resnet999'"):
        build("resnet999", 2)


@pytest.mark.parametrize(
    ("architecture", "told"),
    [
        ("timm:nothing", r"timm:nothing: timm .* makes no such model"),
        ("timm:resnet81", r"timm:resnet81: .* makes no such model; did you mean resnet18 or"),
        ("timm:resnet18.nowhere", r"makes no such model .*nowhere"),
        ("timm:hf_hub:someone/something", "makes no such model"),
        ("open_clip:RN51", r"open_clip:RN51: open_clip .* makes no such model; did you mean RN50 or"),
        ("open_clip:hf-hub:someone/something", "makes no such model"),
    ],
)
def test_a_name_that_its_package_does_not_know_is_refused_without_asking_the_network(
    architecture: str, told: str
) -> None:
    need(architecture)
    with pytest.raises(EvaluateError, match=told):
        build(architecture, 2, 64)


def test_weights_of_another_architecture_are_refused_with_the_first_difference(tmp_path: Path) -> None:
    save_file(build("mobilenet_v3_small", 2).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(EvaluateError) as caught:
        load_backbone(build("resnet18", 2), "resnet18", tmp_path / "w.safetensors")
    why = "weights of another architecture than resnet18 (first difference: it has no conv1.weight)"
    assert str(caught.value) == f"{tmp_path / 'w.safetensors'}: {why}"
    with pytest.raises(EvaluateError, match=r"conv1.weight is \[64, 3, 7, 7\], not \[64, 3, 3, 3\]"):
        load_backbone(build("resnet18_32px", 2), "resnet18_32px", build("resnet18", 2).state_dict())
    with pytest.raises(EvaluateError, match=r"it has a extra"):
        load_backbone(build("resnet18", 2), "resnet18", {**build("resnet18", 2).state_dict(), "extra": torch.zeros(1)})


def test_a_damaged_file_of_a_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"")
    with pytest.raises(EvaluateError, match=r"w.safetensors: unreadable .*; run its pre-training again"):
        load_backbone(build("resnet18", 2), "resnet18", tmp_path / "w.safetensors")


def test_weights_older_than_the_counters_of_batch_norms_are_taken() -> None:
    old = {name: value for name, value in build("resnet18", 9).state_dict().items() if not name.endswith(COUNTER)}
    model = build("resnet18", 2)
    load_backbone(model, "resnet18", old)
    assert torch.equal(model.state_dict()["layer4.1.conv2.weight"], old["layer4.1.conv2.weight"])


def test_parameters_are_torchvisions() -> None:
    assert n_parameters("resnet18") == 11_689_512  # torchvision's model table
    assert n_parameters("mobilenet_v3_small") == 2_542_856


def test_resnet18_for_small_images_keeps_their_pixels_until_its_second_stage() -> None:
    model, shapes = build("resnet18_32px", 10), []
    model.get_submodule("layer1").register_forward_hook(lambda _module, _inputs, output: shapes.append(output.shape))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert shapes == [(2, 64, 32, 32)]
    assert n_parameters("resnet18_32px") == n_parameters("resnet18") - 64 * 3 * (7 * 7 - 3 * 3)
    first = model.get_parameter("conv1.weight")
    assert first.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)  # He initialisation by fan-out


@pytest.mark.parametrize(
    "architecture",
    [
        "timm:resnet10t",
        pytest.param("timm:deit_tiny_patch16_224", marks=pytest.mark.slow),
        pytest.param("timm:swin_tiny_patch4_window7_224", marks=pytest.mark.slow),
        "open_clip:RN50",
        "open_clip:ViT-S-32-alt",
        pytest.param("open_clip:MobileCLIP-S1", marks=pytest.mark.slow),
    ],
)
def test_models_of_other_packages_are_built_for_the_images_and_learn_from_them(architecture: str) -> None:
    need(architecture)
    model = build(architecture, 5, 64)
    outputs = model(torch.rand(3, 3, 64, 64))
    assert outputs.shape == (3, 5)
    outputs.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert n_parameters(architecture, 64) <= n_parameters(architecture)


@pytest.mark.parametrize(
    ("architecture", "size", "told"),
    [
        ("timm:nest_base", 95, r"cannot take images of 95 px \(.*\); its own size is 224 px"),
        ("timm:inception_v4", 64, r"cannot take images of 64 px \(.*\); its own size is 299 px"),
        ("timm:mobilenetv5_300m_enc", 64, "not classes; choose another architecture"),
        ("open_clip:RN50", 95, r"cannot take images of 95 px \(.*\); its own size is 224 px"),
        ("open_clip:ViT-B-32", 31, r"cannot take images of 31 px \(.*\); its own size is 224 px"),
    ],
)
def test_images_that_a_model_cannot_take_are_refused_when_it_is_built(architecture: str, size: int, told: str) -> None:
    need(architecture)
    for make in (lambda: build(architecture, 5, size), lambda: n_parameters(architecture, size)):
        with pytest.raises(EvaluateError, match=told) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_a_model_starts_from_the_same_weights_whether_or_not_its_size_is_given() -> None:
    pytest.importorskip("timm")
    torch.manual_seed(3)
    plain = build("timm:resnet10t", 4).state_dict()
    torch.manual_seed(3)
    sized = build("timm:resnet10t", 4, 64).state_dict()
    assert all(torch.equal(value, sized[name]) for name, value in plain.items())


def test_packages_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(EvaluateError, match="timm is not installed; uv pip install timm"):
        build("timm:resnet18", 2)
    with pytest.raises(EvaluateError, match="open_clip is not installed; uv pip install open_clip_torch"):
        build("open_clip:RN50", 2)


@pytest.mark.parametrize("architecture", ["densenet121", "alexnet", *OTHERS])
def test_a_replaced_head_has_the_name_of_the_old_one_and_does_not_move(architecture: str) -> None:
    need(architecture)
    model = build(architecture, 7)
    replace_head(model, architecture, lambda width: nn.Sequential(nn.Linear(width, 9), nn.ReLU(), nn.Linear(9, 4)))
    heads = [model.get_submodule(prefix[:-1]) for prefix in head_prefixes(model, architecture)]
    assert len(heads) == (2 if "distilled" in architecture else 1)
    assert {head[2].out_features for head in heads} == {4}  # type: ignore[operator,index,union-attr]
    fit = fitting(build(architecture, 3), architecture, model.state_dict(), "run")
    assert not any(name.startswith(head_prefixes(model, architecture)) for name in fit)


def test_a_last_layer_that_is_not_linear_is_not_replaced() -> None:
    model = build("resnet18", 2)
    replace_head(model, "resnet18", lambda _width: nn.Identity())
    with pytest.raises(EvaluateError, match="its last layer fc is Identity, not Linear"):
        replace_head(model, "resnet18", lambda width: nn.Linear(width, 2))


@given(extra=st.integers(0, 2), side=st.integers(1, 9), other=st.integers(1, 9), leading=st.booleans())
def test_positional_embeddings_keep_their_tokens_and_a_flat_grid(
    extra: int, side: int, other: int, leading: bool
) -> None:
    flat = torch.randn(6)
    old = torch.randn(extra + side * side, 6)
    old[extra:] = flat
    new = torch.zeros(extra + other * other, 6)
    if leading:
        old, new = old[None], new[None]
    found = _interpolated(old, new)
    assert found.shape == new.shape
    assert torch.equal(found[..., :extra, :], old[..., :extra, :])
    assert torch.allclose(found[..., extra:, :], flat.expand_as(found[..., extra:, :]), atol=1e-5)


def test_positional_embeddings_are_interpolated_as_timm_and_open_clip_do() -> None:
    layers = pytest.importorskip("timm.layers")
    resize = pytest.importorskip("open_clip.model").resize_pos_embed
    old = torch.randn(1, 2 + 14 * 14, 24)
    expected = layers.resample_abs_pos_embed(old, [4, 4], num_prefix_tokens=2)
    assert torch.allclose(_interpolated(old, torch.zeros(1, 2 + 4 * 4, 24)), expected, atol=1e-6)
    tower = build("open_clip:ViT-S-32-alt", 2, 96)
    new = tower.get_parameter("visual.positional_embedding")
    states = {"visual.positional_embedding": torch.randn(1 + 7 * 7, new.shape[1])}
    ours = _interpolated(states["visual.positional_embedding"], new)
    resize(states, tower)
    assert torch.allclose(ours, states["visual.positional_embedding"], atol=1e-6)


def test_weights_of_a_vision_transformer_move_to_images_of_another_size() -> None:
    pytest.importorskip("timm")
    architecture = "timm:deit_tiny_distilled_patch16_224"
    small = build(architecture, 3, 64)
    load_backbone(small, architecture, build(architecture, 7).state_dict())
    assert small(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_telling_a_problem_imports_no_torch() -> None:
    code = (
        "import sys; from synthgen_evaluate.models import problem; problem('open_clip:RN50', 64); problem('x', 1);"
        " assert not {'torch', 'timm', 'open_clip'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
