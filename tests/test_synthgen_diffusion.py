"""Rendering and its quality gate, with samplers that fail on purpose, and with real networks."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Command
from numpy.typing import NDArray
from PIL import Image
from sd15 import write_random_sd15

from synthgen.kinds.diffusion.content import DiffusionContent, ModelRecord
from synthgen.kinds.diffusion.models import find_model
from synthgen.kinds.diffusion.prompts import read_classes, read_prompts
from synthgen.kinds.diffusion.render import ATTEMPTS, DiffusionRenderer
from synthgen.kinds.diffusion.request import Settings, diffusion_content

ROOT = Path(__file__).parents[1]


def content(**settings: Any) -> DiffusionContent:
    prompts, classes = read_prompts(ROOT / "prompts/quickstart.txt"), read_classes(ROOT / "prompts/classes/cifar10.tsv")
    return diffusion_content(prompts, classes, find_model("tiny"), Settings(**settings))


@dataclass
class Fake:
    """A sampler whose images are noise of their seed, but for what ``spoil`` does to them."""

    batch: int
    spoil: Callable[[int, NDArray[np.uint8]], str] = lambda seed, image: ""
    scheduler: tuple[str, dict[str, Any]] = ("S", {"a": 1})
    checker: object = None
    shapes: list[int] = field(default_factory=list)

    def start(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[int]:
        assert len(prompts) == len(seeds) <= self.batch
        self.shapes.append(len(seeds))
        return list(seeds)

    def finish(self, seeds: list[int]) -> SimpleNamespace:
        images = np.stack([np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8) for seed in seeds])
        told = [self.spoil(seed, image) for seed, image in zip(seeds, images, strict=True)]
        return SimpleNamespace(
            images=images,
            finite=np.array([what != "non-finite" for what in told]),
            flagged=np.array([what == "flagged" for what in told]),
        )


def spoiler(seeds: set[int], how: str) -> Callable[[int, NDArray[np.uint8]], str]:
    def spoil(seed: int, image: NDArray[np.uint8]) -> str:
        if seed not in seeds:
            return ""
        if how in ("black", "constant"):
            image[:] = 0 if how == "black" else 90
        return how

    return spoil


@pytest.mark.parametrize("how", ["black", "constant", "non-finite"])
def test_a_spoilt_image_is_drawn_again_with_a_seed_of_its_own(how: str) -> None:
    one = content()
    bad = {one.image_seed(3), one.image_seed(8), one.image_seed(8, 1)}
    samples = [one.sample(index) for index in range(13)]
    spoilt = list(DiffusionRenderer(one, Fake(5, spoiler(bad, how))).render(samples))  # type: ignore[arg-type]
    sound = list(DiffusionRenderer(one, Fake(5)).render(samples))  # type: ignore[arg-type]
    assert [item.key for item in spoilt] == [sample.key for sample in samples]
    assert {item.record["index"]: item.record["attempt"] for item in spoilt if item.record["attempt"]} == {3: 1, 8: 2}
    assert spoilt[8].record["seed"] == one.image_seed(8, 2)
    for item, before in zip(spoilt, sound, strict=True):
        assert item.record["fault"] == ""
        assert (item.image == before.image) is (item.record["index"] not in (3, 8))


def test_an_image_that_never_passes_is_kept_and_marked_after_five_attempts() -> None:
    one = content()
    bad = {one.image_seed(2, attempt) for attempt in range(ATTEMPTS)}
    fake = Fake(4, spoiler(bad, "black"))
    items = list(DiffusionRenderer(one, fake).render(one.sample(index) for index in range(4)))  # type: ignore[arg-type]
    assert [item.record["fault"] for item in items] == ["", "", "black", ""]
    assert items[2].record["attempt"] == ATTEMPTS - 1
    assert fake.shapes == [4, 1, 1, 1, 1]


@pytest.mark.parametrize("exclude", [False, True])
def test_what_the_safety_checker_flags_is_kept_with_the_flag_or_drawn_again(exclude: bool) -> None:
    one = content(exclude_flagged=exclude)
    fake = Fake(4, spoiler({one.image_seed(1)}, "flagged"), checker=object())
    items = list(DiffusionRenderer(one, fake).render(one.sample(index) for index in range(4)))  # type: ignore[arg-type]
    assert [item.record["flagged"] for item in items] == [False, not exclude, False, False]
    assert [item.record["attempt"] for item in items] == [0, int(exclude), 0, 0]
    assert all(item.record["safety_checker"] for item in items)


@pytest.fixture(scope="module")
def sampler() -> Any:
    from synthgen.kinds.diffusion.sampler import Sampler

    one, model = content(steps=3), find_model("tiny")
    return Sampler(model.folder, one.model, one.sampling, device="cpu", batch=6)


def test_an_image_does_not_depend_on_its_place_or_on_what_shares_its_batch(sampler: Any) -> None:
    prompts, seeds = [f"a photo of a {name}." for name in ("cat", "dog", "ship")], [5, 2**64 - 1, 7]
    together = sampler.finish(sampler.start(prompts, seeds)).images
    turned = sampler.finish(sampler.start(prompts[::-1], seeds[::-1])).images
    assert (together == turned[::-1]).all()
    for place in range(3):
        assert (
            sampler.finish(sampler.start(prompts[place : place + 1], seeds[place : place + 1])).images[0]
            == together[place]
        ).all()


def test_an_image_is_that_of_diffusers_own_pipeline(sampler: Any) -> None:
    """Same prompt, same noise, same settings, through the plain call."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(find_model("tiny").folder).to(torch.float32)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(11))
    plain = pipe(
        "a photo of a frog.",
        latents=noise,
        num_inference_steps=3,
        guidance_scale=3.0,
        height=32,
        width=32,
        output_type="np",
    ).images[0]
    ours = sampler.finish(sampler.start(["a photo of a frog."], [11])).images[0]
    assert np.abs(ours.astype(np.float64) - plain * 255).max() <= 1.01


def test_each_prompt_is_encoded_once(sampler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = sampler.pipe.encode_prompt

    def encode(prompts: list[str], **rest: Any) -> Any:
        seen.extend(dict.fromkeys(prompts))
        return real(prompts, **rest) if len(prompts) == sampler.batch else pytest.fail("another shape")

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return encode if name == "encode_prompt" else getattr(pipe, name)

        def __call__(self, **rest: Any) -> Any:
            return pipe(**rest)

    pipe = sampler.pipe
    monkeypatch.setattr(sampler, "pipe", Counting())
    for seed in range(3):
        sampler.start(["once", "twice", "once"], [seed, seed, seed])
    assert sorted(seen) == ["once", "twice"]


def test_numbers_that_are_not_finite_are_told_and_do_not_warn(sampler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    real = sampler._draw

    def draw(prompts: list[str], seeds: list[int]) -> Any:
        images = real(prompts, seeds).clone()
        images[1, 0, 3, 3] = torch.nan
        return images

    monkeypatch.setattr(sampler, "_draw", draw)
    drawn = sampler.finish(sampler.start(["a", "b", "c"], [1, 2, 3]))
    assert drawn.finite.tolist() == [True, False, True]


def random_pipeline(folder: Path, *, with_checker: bool) -> None:
    """A small pipeline of Stable Diffusion's shape with random weights, as diffusers writes it."""
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    torch.manual_seed(0)
    pipe = StableDiffusionPipeline.from_pretrained(find_model("tiny").folder)
    parts = pipe.components
    if with_checker:
        small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        vision = small | {"image_size": 32, "patch_size": 16}
        checker = StableDiffusionSafetyChecker(CLIPConfig(text_config=small, vision_config=vision, projection_dim=16))
        checker.special_care_embeds_weights.fill_(-9)  # nothing is like this
        checker.concept_embeds_weights.fill_(-9)
        checker.concept_embeds.normal_()
        size = {"height": 32, "width": 32}
        parts |= {
            "safety_checker": checker,
            "feature_extractor": CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size),
        }
    StableDiffusionPipeline(**parts, requires_safety_checker=with_checker).save_pretrained(folder)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_safety_checkers_verdict_is_a_flag_and_the_picture_stays(tmp_path: Path) -> None:
    from synthgen.kinds.diffusion.sampler import Sampler

    random_pipeline(tmp_path, with_checker=True)
    one, model = content(steps=1), find_model(str(tmp_path))
    record = ModelRecord(name=model.name, revision=model.revision, variant=model.variant)
    checked = Sampler(tmp_path, record, one.sampling, device="cpu", batch=2)
    assert checked.checker is not None
    drawn = checked.finish(checked.start(["a photo of a cat."] * 2, [1, 2]))
    assert drawn.flagged.all()  # every similarity is above -9
    assert drawn.images.std() > 1
    item = next(DiffusionRenderer(replace(one, model=record), checked).render([one.sample(0)]))
    assert (item.record["flagged"], item.record["safety_checker"], item.record["fault"]) == (True, True, "")


@pytest.mark.parametrize(
    ("rates", "best"),
    [([10, 20, 39, 60, 61], 8), ([10, 20, 30, None], 4), ([10] + [100 * 2**k for k in range(9)], 256), ([10, 10], 1)],
)
def test_the_batch_size_is_the_last_one_that_draws_faster_and_fits(
    sampler: Any, monkeypatch: pytest.MonkeyPatch, rates: list[float | None], best: int
) -> None:
    import torch

    told = iter(rates)

    def measure() -> float:
        rate = next(told)
        if rate is None:
            raise torch.cuda.OutOfMemoryError("full")
        return rate

    monkeypatch.setattr(sampler, "device", torch.device("cuda"))
    monkeypatch.setattr(sampler, "_measure", measure)
    monkeypatch.setattr(sampler, "batch", sampler.batch)
    assert sampler._find_batch() == best


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_compiled_networks_draw_nearly_the_same_images_and_keep_what_was_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from synthgen.kinds.diffusion.sampler import Sampler

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    one, model = content(steps=2), find_model("tiny")
    prompts, seeds = ["a photo of a cat.", "a photo of a truck."], [1, 2]
    plain, compiled = (Sampler(model.folder, one.model, one.sampling, device="cpu", batch=2) for _ in range(2))
    compiled._prepare_cuda()
    compiled._compile()
    assert compiled.environment["compiled"] == "true"
    ours, theirs = (one.finish(one.start(prompts, seeds)).images.astype(int) for one in (compiled, plain))
    assert np.abs(ours - theirs).max() <= 2
    assert any((tmp_path / "synthgen/inductor").rglob("*.so"))


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="no CUDA device")
def test_on_a_cuda_device_the_noise_is_the_same_and_the_images_nearly_so(sampler: Any) -> None:
    import torch

    from synthgen.kinds.diffusion.sampler import Sampler

    one, model = content(steps=3), find_model("tiny")
    cuda = Sampler(model.folder, one.model, one.sampling, device="cuda", batch=None)
    assert torch.equal(cuda.latents(9)[0], sampler.latents(9)[0])
    prompts, seeds = ["a photo of a cat."] * 3, [1, 2, 3]
    ours, theirs = (one.finish(one.start(prompts, seeds)).images.astype(int) for one in (cuda, sampler))
    assert np.abs(ours - theirs).mean() < 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_full_size_stable_diffusion_1_5_goes_through_the_same_path(tmp_path: Path, synthgen_here: Command) -> None:
    write_random_sd15(tmp_path / "sd15")
    done = synthgen_here(
        "sd",
        "--prompts",
        ROOT / "prompts/imagenet80.txt",
        "--model",
        tmp_path / "sd15",
        "--n",
        2,
        "--steps",
        2,
        "--dtype",
        "float32",
        "--out",
        tmp_path / "set",
    )
    assert done.returncode == 0, done.stderr
    assert synthgen_here("verify", tmp_path / "set", "--quality").returncode == 0
    with tarfile.open(tmp_path / "set/data/sd-train-000000.tar") as tar:
        names = tar.getnames()
        pictures = [Image.open(io.BytesIO(tar.extractfile(name).read())) for name in names if name.endswith(".jpg")]  # type: ignore[union-attr]
        records = [json.loads(tar.extractfile(name).read()) for name in names if name.endswith(".json")]  # type: ignore[union-attr]
    assert [picture.size for picture in pictures] == [(512, 512)] * 2
    assert [record["steps"] for record in records] == [2, 2]
    assert len({record["class"] for record in records}) == 2
