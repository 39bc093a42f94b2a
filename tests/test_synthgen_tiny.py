"""The training of the built-in model, on a handful of pictures."""

import io
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from synthgen.kinds.diffusion.prompts import read_classes, read_prompts
from synthgen.kinds.diffusion.tiny import MODEL
from synthgen.kinds.diffusion.tiny import train as training
from synthgen.kinds.diffusion.tiny.captions import LOOKS, batch_captions, dress, look

ROOT = Path(__file__).parents[1]


def test_templates_that_say_how_a_picture_looks_are_known_by_it() -> None:
    looks = Counter(look(template) for template in read_prompts(ROOT / "prompts/imagenet80.txt").templates)
    assert looks == {"": 64, **dict.fromkeys(LOOKS, 2)}


@pytest.mark.parametrize("name", ["", *LOOKS])
def test_a_look_keeps_shape_and_range_and_does_what_it_says(name: str) -> None:
    pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    dressed = dress(pictures, name)
    assert dressed.shape == pictures.shape
    assert dressed.abs().max() <= 1 + 1e-5
    assert torch.equal(dressed, pictures) is (name == "")
    if name == "bright":
        assert (dressed >= pictures - 1e-6).all()
    if name == "dark":
        assert (dressed <= pictures + 1e-6).all()
    if name == "black and white":
        assert torch.equal(dressed[:, 0], dressed[:, 2])
    if name == "pixelated":
        assert torch.equal(dressed[..., ::2, ::2], dressed[..., 1::2, 1::2])


def test_a_batch_encodes_each_caption_once_and_finds_it_again() -> None:
    labels, templates = torch.tensor([0, 1, 1, 0]), torch.tensor([2, 0, 0, 1])
    dropped = torch.tensor([False, False, False, True])
    rows, place = batch_captions(labels, templates, 3, dropped, empty=6)
    assert rows[place].tolist() == [2, 3, 3, 6]
    assert len(rows) == 3


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cifar10") / "cifar10.zip"
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for name in read_classes(ROOT / "prompts/classes/cifar10.tsv").ids:
            for number in range(4):
                sink = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(sink, "JPEG")
                archive.writestr(f"cifar10/train/{name}/{number}.jpg", sink.getvalue())
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_training_stopped_at_any_step_gives_the_same_model(
    tmp_path: Path, cifar10: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 1)

    def run(name: str) -> None:
        steps = ["--vae-steps", "3", "--steps", "3", "--batch", "8", "--device", "cpu"]
        training.main(
            ["--cifar10", str(cifar10), "--out", str(tmp_path / name), "--work", str(tmp_path / f"{name}-work"), *steps]
        )

    run("whole")
    real = training.Stage._save

    def stop_after(self: training.Stage) -> None:
        real(self)
        if (self.name, self.done) in (("autoencoder", 2), ("diffusion", 1)) and self.name not in stopped:
            stopped.add(self.name)
            raise KeyboardInterrupt

    stopped: set[str] = set()
    monkeypatch.setattr(training.Stage, "_save", stop_after)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run("stopped")
    run("stopped")
    for path in (tmp_path / "whole").rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "stopped" / path.relative_to(tmp_path / "whole")).read_bytes(), path
    size = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    assert size < 12 * 2**20


def test_the_shipped_model_has_the_shapes_that_its_code_makes_and_at_most_12_mib() -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from synthgen.kinds.diffusion.tiny.networks import build_unet, build_vae

    for part, network in (("unet", build_unet()), ("vae", build_vae())):
        shipped = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part].from_pretrained(MODEL / part)
        assert {n: p.shape for n, p in shipped.named_parameters()} == {
            n: p.shape for n, p in network.named_parameters()
        }
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= 12 * 2**20


def test_the_tokenizer_is_the_same_every_time_and_reads_every_word_of_the_templates_as_one(tmp_path: Path) -> None:
    from synthgen.kinds.diffusion.tiny.networks import build_tokenizer

    templates = read_prompts(ROOT / "prompts/imagenet80.txt").templates
    texts = [template.replace("{}", name) for template in templates for name in ("cat", "automobile")]
    one, other = build_tokenizer(tmp_path / "1", texts), build_tokenizer(tmp_path / "2", reversed(texts))
    assert one.get_vocab() == other.get_vocab()
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert one.tokenize("a black and white photo of an automobile.")[-2:] == ["automobile</w>", ".</w>"]
    assert len(one.tokenize("a black and white photo of an automobile.")) == 9
    other_words = "Übergroß 漢字 x"
    assert "".join(one.decode(one(other_words).input_ids, skip_special_tokens=True).split()) == "übergroß漢字x"
