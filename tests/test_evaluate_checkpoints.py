import io
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import Tensor, nn

from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.models import COUNTER, build, load_backbone
from synthgen_evaluate.training import checkpoints
from synthgen_evaluate.training.checkpoints import check, fetch, identity

TINY = {"conv.weight": torch.arange(12.0).reshape(3, 4), "fc.bias": torch.ones(2)}


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of torch.hub and the Hub, and no network."""

    def nowhere(*_args: object, **_options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    return tmp_path


def put_on_hub(caches: Path, repo: str, name: str, weights: dict[str, Tensor]) -> None:
    """As huggingface_hub leaves a downloaded file."""
    folder = caches / "hub" / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    path = folder / "snapshots" / ("0" * 40) / name
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in weights.items()}, path)
    else:
        torch.save(weights, path)


def put_at_torch(caches: Path, name: str, weights: dict[str, Tensor]) -> None:
    """As torch.hub leaves a downloaded file."""
    (caches / "torch/hub/checkpoints").mkdir(parents=True)
    torch.save(weights, caches / "torch/hub/checkpoints" / name)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(EvaluateError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", None])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_torch_gives_its_weights_however_they_are_wrapped(
    wrapper: str | None, prefix: str, zipped: bool, tmp_path: Path
) -> None:
    named = {prefix + name: value for name, value in TINY.items()}
    held = {wrapper: named, "epoch": 3, "optimizer": {"lr": 0.1}} if wrapper else named
    torch.save(held, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert same(fetch(str(tmp_path / "w.pth"), "resnet18"), TINY)


def test_a_safetensors_file_gives_its_weights(tmp_path: Path) -> None:
    save_file(TINY, tmp_path / "w.safetensors")
    assert same(fetch(str(tmp_path / "w.safetensors"), "resnet18"), TINY)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_not_run(zipped: bool, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"state_dict": TINY, "args": Trap()}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    told = refused(lambda: fetch(str(tmp_path / "w.pt"), "resnet18"))
    assert "holds Python objects (" in told
    assert "save only its state_dict" in told
    (tmp_path / "plain.bin").write_bytes(pickle.dumps({"w": Trap()}))
    assert "not a file of weights" in refused(lambda: fetch(str(tmp_path / "plain.bin"), "resnet18"))
    assert not (tmp_path / "sprung").exists()


def test_a_whole_model_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    assert "torch.nn.modules.linear.Linear" in refused(lambda: fetch(str(tmp_path / "w.pt"), "resnet18"))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_torchscript_program_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "w.pt")  # type: ignore[no-untyped-call]
    assert "save torch.jit.load(it).state_dict()" in refused(lambda: fetch(str(tmp_path / "w.pt"), "resnet18"))


@pytest.mark.parametrize("held", [[torch.zeros(2)], {"epoch": 3}, torch.zeros(2), {"a": {"b": torch.zeros(2)}}, None])
def test_a_file_without_weights_is_refused(held: object, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "w.pt")
    assert "w.pt: no weights in it but" in refused(lambda: fetch(str(tmp_path / "w.pt"), "resnet18"))


def in_torchs_format(zipped: bool) -> bytes:
    sink = io.BytesIO()
    torch.save(TINY, sink, _use_new_zipfile_serialization=zipped)
    return sink.getvalue()


WHOLE = {".safetensors": save(TINY), ".pt": in_torchs_format(True), ".pth": in_torchs_format(False)}


@given(data=st.data(), suffix=st.sampled_from(sorted(WHOLE)))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_at_any_byte_is_refused_in_one_line(data: st.DataObject, suffix: str, tmp_path: Path) -> None:
    path = (tmp_path / "w").with_suffix(suffix)
    path.write_bytes(WHOLE[suffix][: data.draw(st.integers(0, len(WHOLE[suffix]) - 1))])
    assert str(path) in refused(lambda: check(str(path), "resnet18_32px", 32))


@given(content=st.binary(max_size=200), suffix=st.sampled_from(sorted(WHOLE)))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_bytes_are_refused_in_one_line(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = (tmp_path / "w").with_suffix(suffix)
    path.write_bytes(content)
    assert str(path) in refused(lambda: fetch(str(path), "resnet18_32px"))


def test_no_file_and_a_folder_are_told(tmp_path: Path) -> None:
    for work in (fetch, identity):
        assert "a folder; name the file" in refused(partial(work, str(tmp_path), "resnet18"))
        told = refused(partial(work, "hub:someone/something", "resnet18"))
        assert told.startswith(
            "hub:someone/something: no such file; a checkpoint is torchvision:WEIGHTS, timm:NAME.TAG"
        )


def test_a_files_identity_is_its_content_and_not_its_name(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file(TINY, tmp_path / name)
    first = identity(str(tmp_path / "a.safetensors"), "resnet18")
    assert first == identity(str(tmp_path / "b.safetensors"), "resnet50")
    assert len(first) == len("file:") + 16
    save_file({"other": torch.zeros(3)}, tmp_path / "a.safetensors")
    assert identity(str(tmp_path / "a.safetensors"), "resnet18") != first


def test_names_with_a_version_are_their_own_identity_and_others_get_one() -> None:
    pytest.importorskip("timm")
    for name in ("torchvision:IMAGENET1K_V1", "timm:resnet18.a2_in1k", "open_clip:RN50/openai"):
        assert identity(name, "resnet50") == name
    assert identity("torchvision:DEFAULT", "resnet50") == "torchvision:IMAGENET1K_V2"
    assert identity("torchvision:DEFAULT", "resnet18") == "torchvision:IMAGENET1K_V1"
    assert identity("timm:resnet18", "resnet18") == "timm:resnet18.a1_in1k"


def test_an_identity_of_a_named_version_imports_no_torch() -> None:
    code = (
        "import sys; from synthgen_evaluate.training.checkpoints import identity;"
        " [identity(name, 'resnet18') for name in ('torchvision:IMAGENET1K_V1', 'timm:a.b', 'open_clip:a/b')];"
        " assert not {'torch', 'timm', 'open_clip', 'huggingface_hub'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_weights_of_torchvision_are_taken_from_torchs_cache(caches: Path) -> None:
    weights = torchvision.models.resnet18(num_classes=1000).state_dict()
    put_at_torch(caches, "resnet18-f37072fd.pth", weights)
    for name in ("torchvision:IMAGENET1K_V1", "torchvision:DEFAULT"):
        check(name, "resnet18", 64)
        assert same(fetch(name, "resnet18"), weights)
    assert "another architecture than resnet50" in refused(
        lambda: check(str(caches / "torch/hub/checkpoints/resnet18-f37072fd.pth"), "resnet50", 64)
    )


def test_densenets_file_with_its_old_names_gives_the_same_outputs(caches: Path) -> None:
    model = torchvision.models.densenet121(num_classes=2).eval()
    old = {}
    for name, value in model.state_dict().items():
        if "denselayer" in name:  # as in 2017: norm.1.weight
            name = name.replace("norm1", "norm.1").replace("norm2", "norm.2")
            name = name.replace("conv1", "conv.1").replace("conv2", "conv.2")
        if not name.endswith(COUNTER):
            old[name] = value
    put_at_torch(caches, "densenet121-a639ec97.pth", old)
    check("torchvision:IMAGENET1K_V1", "densenet121", 64)
    loaded = build("densenet121", 2).eval()
    load_backbone(loaded, "densenet121", fetch("torchvision:IMAGENET1K_V1", "densenet121"))
    loaded.get_submodule("classifier").load_state_dict(model.classifier.state_dict())
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_resnet_of_timm_starts_torchvisions(name: str, caches: Path) -> None:
    timm = pytest.importorskip("timm")
    weights = timm.create_model("resnet18").state_dict()
    put_on_hub(caches, "timm/resnet18.a1_in1k", name, weights)
    for architecture in ("resnet18", "timm:resnet18"):
        check("timm:resnet18.a1_in1k", architecture, 64)
        assert same(fetch("timm:resnet18.a1_in1k", architecture), weights)
    assert "another architecture than resnet18_32px (first difference: conv1.weight" in refused(
        lambda: check("timm:resnet18.a1_in1k", "resnet18_32px", 32)
    )


def test_a_vision_transformer_of_timm_moves_to_small_images_as_in_timm(caches: Path) -> None:
    timm = pytest.importorskip("timm")
    name, architecture = "deit_tiny_patch16_224.fb_in1k", "timm:deit_tiny_patch16_224"
    weights = timm.create_model(name).state_dict()
    put_on_hub(caches, f"timm/{name}", "model.safetensors", weights)
    check(f"timm:{name}", architecture, 64)
    model = build(architecture, 5, 64)
    load_backbone(model, architecture, fetch(f"timm:{name}", architecture))
    own = timm.create_model(name, pretrained=True, img_size=64, pretrained_cfg_overlay={"state_dict": weights})
    for key, value in own.state_dict().items():
        if not key.startswith("head."):
            assert torch.allclose(model.state_dict()[key], value, atol=1e-6), key


def test_a_file_of_timm_that_timm_does_not_expect_is_told(caches: Path) -> None:
    pytest.importorskip("timm")
    put_on_hub(caches, "timm/resnet18.a1_in1k", "model.safetensors", TINY)
    told = refused(lambda: fetch("timm:resnet18.a1_in1k", "resnet18"))
    assert told.startswith("timm:resnet18.a1_in1k: ")
    assert "is not what timm" in told


def test_the_image_tower_of_an_open_clip_file_is_taken_and_its_text_left(caches: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    config = open_clip.get_model_config("RN50")
    small = {"context_length": 4, "vocab_size": 9, "width": 8, "heads": 1, "layers": 1}
    original = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], small).eval()
    put_on_hub(caches, "timm/resnet50_clip.openai", "open_clip_model.safetensors", original.state_dict())
    weights = fetch("open_clip:RN50/openai", "open_clip:RN50")
    assert all(name.startswith("visual.") for name in weights)
    model = build("open_clip:RN50", 5).eval()
    load_backbone(model, "open_clip:RN50", weights)
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(model.get_submodule("visual")(images), original.visual(images))
    check("open_clip:RN50/openai", "open_clip:RN50", 64)  # its attention pooling has positions of 7 x 7
    assert "another architecture than open_clip:RN101" in refused(
        lambda: check("open_clip:RN50/openai", "open_clip:RN101", 64)
    )


def test_weights_for_another_activation_are_refused_though_their_shapes_fit(caches: Path) -> None:
    pytest.importorskip("open_clip")
    told = refused(lambda: fetch("open_clip:ViT-B-32/openai", "open_clip:ViT-B-32"))
    assert "trained with QuickGELU, unlike open_clip:ViT-B-32; the architecture is open_clip:ViT-B-32-quick" in told
    told = refused(lambda: fetch("open_clip:ViT-B-32/laion2b_s34b_b79k", "open_clip:ViT-B-32-quickgelu"))
    assert "trained without QuickGELU" in told
    for architecture in ("open_clip:ViT-B-32-quickgelu", "open_clip:nothing"):
        assert "cannot be downloaded from" in refused(partial(fetch, "open_clip:ViT-B-32/openai", architecture))


@pytest.mark.parametrize(
    ("checkpoint", "architecture", "told"),
    [
        ("torchvision:IMAGENET1K_V9", "resnet50", "there are IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
        ("torchvision:DEFAULT", "timm:resnet18", "torchvision has no weights of timm:resnet18"),
        ("torchvision:DEFAULT", "resnet18_32px", "torchvision has no weights of resnet18_32px"),
        ("timm:resnet81.a1_in1k", "resnet18", "timm has no model resnet81; did you mean resnet18 or"),
        ("timm:resnet18.a9_in1k", "resnet18", "there are resnet18.a1_in1k, resnet18.a2_in1k,"),
        ("open_clip:RN51/openai", "open_clip:RN50", "open_clip has no model RN51; did you mean RN50 or"),
        ("open_clip:RN50/closed", "open_clip:RN50", "there are openai, yfcc15m, cc12m"),
        ("open_clip:RN50", "open_clip:RN50", "there are openai, yfcc15m, cc12m"),
        ("open_clip:RN50/openai", "resnet50", "resnet50 cannot take it; its architecture is open_clip:NAME"),
    ],
)
def test_unknown_weights_are_refused_with_what_there_is(
    checkpoint: str, architecture: str, told: str, caches: Path
) -> None:
    if not checkpoint.startswith("torchvision"):
        pytest.importorskip(checkpoint.partition(":")[0])
    assert told in refused(lambda: fetch(checkpoint, architecture))


@pytest.mark.parametrize(
    ("checkpoint", "architecture", "host", "place"),
    [
        ("torchvision:DEFAULT", "resnet18", "download.", "torch/hub/checkpoints/resnet18-f37072fd.pth"),
        (
            "timm:resnet18.a1_in1k",
            "resnet18",
            "huggingface.co",
            "'hf download timm/resnet18.a1_in1k model.",
        ),
        ("timm:gcvit_tiny.in1k", "timm:gcvit_tiny", "github.com", "torch/hub/checkpoints/gcvit_tiny_224_nvidia-"),
        ("open_clip:RN50/openai", "open_clip:RN50", "huggingface.co", "'hf download timm/resnet50_clip.openai"),
    ],
)
def test_without_a_network_a_checkpoint_is_told_at_once_with_where_to_put_it(
    checkpoint: str, architecture: str, host: str, place: str, caches: Path
) -> None:
    if not checkpoint.startswith("torchvision"):
        pytest.importorskip(checkpoint.partition(":")[0])
    refused(lambda: fetch(checkpoint, architecture))  # the import of its package is not what is timed
    started = time.monotonic()
    told = refused(lambda: check(checkpoint, architecture, 64))
    assert time.monotonic() - started < 2
    assert told.startswith(f"{checkpoint}: not on this machine, and cannot be downloaded from {host}")
    assert place in told


def test_a_host_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(checkpoints, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/w.pth"
        assert "timed out" in refused(lambda: checkpoints._from_url(url, "torchvision:DEFAULT"))
    assert socket.getdefaulttimeout() is None
    assert [*tmp_path.rglob("*.pth*")] == []


def test_packages_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert "uv pip install timm" in refused(lambda: fetch("timm:resnet18.a1_in1k", "resnet18"))
    assert "uv pip install open_clip_torch" in refused(lambda: fetch("open_clip:RN50/openai", "open_clip:RN50"))
