import math
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage, stats
from torch.nn import functional

from synthgen_evaluate.images.pixels import Identified, PixelCache, Pixels, Stored
from synthgen_evaluate.recipe import Recipe
from synthgen_evaluate.training import augment
from synthgen_evaluate.training.augment import MEAN, STD, Resident, apply, batches, draw, resident, to_batch

CPU = torch.device("cpu")
SIMCLR = Recipe(epochs=1, min_crop=0.2, jitter=0.5, gray=0.2, blur=0.5)
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, size: int = 24, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), np.uint8)


def values(batch: torch.Tensor) -> torch.Tensor:
    """Back to 0..1."""
    return batch * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)


def plain(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """0..1, float32 [n, 3, height, width]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255


def test_a_batch_is_normalised_as_imagenet_models_expect() -> None:
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    pixels[0, 0, 0] = 255
    for batch in (to_batch(pixels, CPU), apply(pixels, draw(1, Recipe(epochs=1, flip=False), seeded()), CPU)):
        assert batch.shape == (1, 3, 2, 2)
        assert batch.is_contiguous(memory_format=torch.channels_last)
        assert batch[0, :, 1, 1].tolist() == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
        assert batch[0, :, 0, 0].tolist() == pytest.approx([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225])


@given(st.integers(1, 9), st.integers(2, 70), st.floats(0.05, 1), st.booleans(), st.integers(0, 2**31))
def test_the_compiled_crops_are_those_of_torch(n: int, size: int, min_crop: float, flip: bool, seed: int) -> None:
    pixels = torch.from_numpy(images(n, size, seed))
    draws = draw(n, Recipe(epochs=1, min_crop=min_crop, flip=flip), seeded(seed))
    compiled, torchs = (crop(pixels, draws, *augment._normal(CPU)) for crop in (augment._crop_compiled, augment._crop))
    for batch in (compiled, torchs):
        assert batch.dtype == torch.float32
        assert batch.is_contiguous(memory_format=torch.channels_last)
    assert (compiled - torchs).abs().max() < 1e-3


def test_a_crop_holds_the_pixels_of_its_box() -> None:
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    pixels[:, :4, 4:] = 200  # the upper right quarter
    boxes = torch.tensor([[0.5, 0, 0.5, 0.5], [0, 0, 1, 0.5]])
    draws = augment.Draws(n=2, boxes=boxes, mirror=torch.tensor([False, True]))
    quarter, half = values(apply(pixels, draws, CPU)) * 255
    assert torch.allclose(quarter[:, :7, 1:], torch.tensor(200.0), atol=1e-3)
    assert torch.allclose(half[:, :6, :4], torch.tensor(200.0), atol=1e-3)  # mirrored to the left
    assert torch.allclose(half[:, :6, 4:], torch.tensor(0.0), atol=1e-3)


def test_mirror_images_of_whole_images_are_exact() -> None:
    pixels = images(40)
    draws = draw(40, Recipe(epochs=1), seeded())
    assert draws.boxes is draws.color is draws.sigma is None
    assert draws.mirror is not None
    assert 0 < int(draws.mirror.sum()) < 40
    batch = apply(pixels, draws, CPU)
    for one, mirrored, original in zip(batch, draws.mirror, to_batch(pixels, CPU), strict=True):
        assert torch.allclose(one, original.flip(2) if mirrored else original, atol=1e-6)


def test_areas_are_uniform_aspects_log_uniform_and_boxes_inside_the_image() -> None:
    boxes = draw(20_000, Recipe(epochs=1, min_crop=0.35), seeded(3)).boxes
    assert boxes is not None
    left, top, width, height = boxes.double().numpy().T
    assert boxes.min() >= 0
    assert max((left + width).max(), (top + height).max()) <= 1 + 1e-6
    inside = width * height < 0.75  # larger ones may be cut at the image's sides
    assert stats.kstest(width[inside] * height[inside], "uniform", (0.35, 0.4)).pvalue > 0.01
    aspect = np.log(width[inside] / height[inside]) / math.log(4 / 3)
    assert stats.kstest(aspect, "uniform", (-1, 2)).pvalue > 0.01
    assert stats.binomtest(int(inside.sum()), 20_000, 0.4 / 0.65).pvalue > 0.01
    free = width < 0.99
    assert stats.kstest(left[free] / (1 - width[free]), "uniform").pvalue > 0.01
    free = height < 0.99
    assert stats.kstest(top[free] / (1 - height[free]), "uniform").pvalue > 0.01


@given(st.integers(2, 12), st.data())
def test_a_part_of_the_draws_does_what_the_whole_does(n: int, data: st.DataObject) -> None:
    start, stop = sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))
    pixels = images(n, 16)
    for recipe, close in ((Recipe(epochs=1, min_crop=0.2), 0.0), (SIMCLR, 1e-5)):  # sums differ in their last bits
        draws = draw(n, recipe, seeded(n))
        whole, part = apply(pixels, draws, CPU)[start:stop], draws[start:stop]
        assert len(part) == stop - start
        assert (apply(pixels[start:stop], part, CPU) - whole).abs().max() <= close


@given(st.floats(0.1, 1), st.integers(0, 1000))
def test_flat_images_stay_flat(min_crop: float, seed: int) -> None:
    pixels = np.full((6, 12, 12, 3), 0, np.uint8)
    pixels[:] = images(6, 1, seed)
    batch = apply(pixels, draw(6, Recipe(epochs=1, min_crop=min_crop, blur=0.5), seeded(seed)), CPU)
    assert torch.allclose(batch, to_batch(pixels, CPU), atol=1e-5)
    colored = apply(pixels, draw(6, SIMCLR, seeded(seed)), CPU)
    assert torch.allclose(colored, colored[:, :, :1, :1].expand_as(colored), atol=1e-5)


def test_what_is_not_asked_for_is_not_drawn_and_changes_nothing() -> None:
    generator, pixels = seeded(), images(5)
    before = generator.get_state()
    draws = draw(5, Recipe(epochs=1, flip=False), generator)
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(apply(pixels, draws, CPU), to_batch(pixels, CPU))
    some = draw(5, Recipe(epochs=1, min_crop=0.5), seeded())
    assert some.color is None
    assert some.sigma is None


@given(st.integers(0, 1000), st.integers(2, 40))
def test_the_same_generator_gives_the_same_images_and_values_stay_in_range(seed: int, size: int) -> None:
    pixels = images(6, size)
    one, other = (apply(pixels, draw(6, SIMCLR, seeded(seed)), CPU) for _ in range(2))
    assert torch.equal(one, other)
    assert values(one).min() >= -1e-5
    assert values(one).max() <= 1 + 1e-5


def test_the_number_of_threads_changes_no_bit() -> None:
    pixels, draws, before = images(13, 40), draw(13, SIMCLR, seeded()), torch.get_num_threads()
    crops = draw(13, Recipe(epochs=1, min_crop=0.3), seeded())
    try:
        results = []
        for n_threads in (1, 2, 3, 16):
            torch.set_num_threads(n_threads)
            results.append((apply(pixels, draws, CPU), apply(pixels, crops, CPU)))
    finally:
        torch.set_num_threads(before)
    for one, other in results[1:]:
        assert torch.equal(one, results[0][0])
        assert torch.equal(other, results[0][1])


def test_a_batch_that_is_held_is_never_written_over() -> None:
    recipe = Recipe(epochs=1, min_crop=0.3)
    held = []
    for seed in range(12):
        pixels = images(4 + seed % 3, 20, seed)
        batch = apply(pixels, draw(len(pixels), recipe, seeded(seed)), CPU)
        held.append((seed, pixels, batch[1:3]))  # a part of it holds the whole
        if seed % 4 == 3:
            held.pop(0)
    for seed, pixels, part in held:
        assert torch.equal(part, apply(pixels, draw(len(pixels), recipe, seeded(seed)), CPU)[1:3])


def reference_color(image: NDArray[np.float64], steps: dict[str, float], gray: bool) -> NDArray[np.float64]:
    """One image [height, width, 3] in 0..1, step by step."""
    luma = np.array([0.299, 0.587, 0.114])
    image = image * steps["brightness"]
    image = (image - (image @ luma).mean()) * steps["contrast"] + (image @ luma).mean()
    image = (image - (image @ luma)[..., None]) * steps["saturation"] + (image @ luma)[..., None]
    to_yiq = np.array([luma, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    y, i, q = np.moveaxis(image @ to_yiq.T, -1, 0)
    chroma = (i + 1j * q) * np.exp(2j * np.pi * steps["hue"])
    image = np.stack([y, chroma.real, chroma.imag], -1) @ np.linalg.inv(to_yiq).T
    if gray:
        image = np.repeat((image @ luma)[..., None], 3, -1)
    return np.clip(image, 0, 1)


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_colours_are_those_of_the_steps_one_after_the_other(seed: int, changed: bool, gray: bool) -> None:
    rng = np.random.default_rng(seed)
    steps = dict(zip(("brightness", "contrast", "saturation"), rng.uniform(0.2, 1.8, 3).tolist(), strict=True))
    steps["hue"] = rng.uniform(-0.2, 0.2)
    told = iter([0.0 if changed else 0.9, *steps.values(), 0.0 if gray else 0.9])
    color = augment._colors(1, 1.0, 0.5, lambda n, low, high: torch.full((n,), next(told)))
    if not changed:
        steps = {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0}
    pixels = images(1, 9, seed)
    found = values(apply(pixels, augment.Draws(n=1, color=color), CPU))[0].permute(1, 2, 0)
    assert np.abs(found.numpy() - reference_color(pixels[0] / 255, steps, gray)).max() < 1e-5


def test_jitter_reaches_its_share_of_the_images_and_its_strength() -> None:
    color = draw(20_000, Recipe(epochs=1, jitter=0.5), seeded()).color
    assert color is not None
    same = torch.isclose(color, torch.eye(3, 4), atol=1e-5).all(2).all(1)
    assert stats.binomtest(int((~same).sum()), 20_000, 0.8).pvalue > 0.01
    white = color[~same].sum(2)[:, 0]  # what white becomes: the brightness, as contrast, saturation and hue leave it
    assert stats.kstest(white.numpy(), "uniform", (0.6, 0.8)).pvalue > 0.01
    assert torch.allclose(color.sum(2), color.sum(2)[:, :1].expand(-1, 3), atol=1e-5)


def test_gray_images_have_equal_channels_and_their_share() -> None:
    pixels = images(64)
    gray = values(apply(pixels, draw(64, Recipe(epochs=1, gray=1.0), seeded()), CPU))
    assert (gray.amax(1) - gray.amin(1)).max() < 1e-5
    flat = plain(pixels)[:, 0] * 0.299 + plain(pixels)[:, 1] * 0.587 + plain(pixels)[:, 2] * 0.114
    assert torch.allclose(gray.mean((1, 2, 3)), flat.mean((1, 2)), atol=1e-5)
    color = draw(5000, Recipe(epochs=1, gray=0.3), seeded()).color
    assert color is not None
    n_gray = int((color[:, 0] == color[:, 1]).all(1).sum())
    assert stats.binomtest(n_gray, 5000, 0.3).pvalue > 0.01


def test_blur_is_gaussian_and_grows_with_the_image() -> None:
    sigma = draw(20_000, Recipe(epochs=1, blur=0.4), seeded()).sigma
    assert sigma is not None
    assert stats.binomtest(int((sigma > 0).sum()), 20_000, 0.4).pvalue > 0.01
    assert stats.kstest(sigma[sigma > 0].numpy() * 224, "uniform", (0.1, 1.9)).pvalue > 0.01
    for size in (64, 224):
        pixels = images(3, size)
        draws = augment.Draws(n=3, sigma=torch.tensor([2.0, 0.0, 0.3]) / 224)
        found = values(apply(pixels, draws, CPU))
        inner = slice(size // 8, -size // 8)
        for one, width, original in zip(found, (2.0, 0.0, 0.3), plain(pixels), strict=True):
            expected = ndimage.gaussian_filter(original.numpy(), [0, *[width * size / 224] * 2], truncate=8)
            assert np.abs(one.numpy() - expected)[:, inner, inner].max() < 1e-4


class Slow:
    """Images that are decoded when asked for, and counted."""

    size, decodes = 6, True

    def __init__(self, n: int, broken: int | None = None) -> None:
        self.n, self.broken, self.taken = n, broken, 0
        self.threads: set[str] = set()

    def __len__(self) -> int:
        return self.n

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.threads.add(threading.current_thread().name)
        if self.broken in indices:
            raise ValueError(f"image {self.broken}")
        self.taken += 1
        return images(self.n, self.size)[indices]


def stored(n: int) -> Pixels:
    return Stored(images=images(n, 6), chosen=np.arange(n))


ORDERS = [np.array(order) for order in ([3, 1], [0], [9, 8, 7], [5, 5], [2], [4], [6])]


@pytest.mark.parametrize(
    "pixels",
    [stored(10), Slow(10), Resident(images=torch.from_numpy(images(10, 6)))],
    ids=["stored", "streamed", "resident"],
)
def test_batches_come_in_the_order_asked_for(pixels: Pixels) -> None:
    found = list(batches(pixels, iter(ORDERS), CPU))
    assert len(found) == len(ORDERS)
    for batch, order in zip(found, ORDERS, strict=True):
        assert batch.dtype == torch.uint8
        assert (batch.numpy() == images(10, 6)[order]).all()
    assert (pixels.take(np.array([2, 7])) == images(10, 6)[[2, 7]]).all()
    assert (len(pixels), pixels.size) == (10, 6)


def test_streamed_images_are_prepared_a_little_ahead_and_stored_ones_are_not() -> None:
    asked: list[int] = []

    def orders() -> Iterator[NDArray[np.int64]]:
        for number in range(20):
            asked.append(number)
            yield np.array([number % 10])

    slow = Slow(10)
    one_by_one = batches(slow, orders(), CPU)
    next(one_by_one)
    assert asked == [0, 1, 2]
    for _ in range(100):
        if slow.taken == 3:
            break
        time.sleep(0.01)
    assert slow.taken == 3
    assert threading.current_thread().name not in slow.threads
    asked.clear()
    before = threading.active_count()
    next(batches(stored(10), orders(), CPU))
    assert asked == [0]
    assert threading.active_count() <= before


def test_leaving_batches_early_ends_their_thread_and_errors_of_the_thread_are_raised() -> None:
    before = threading.active_count()
    for images_ in batches(Slow(10), ORDERS, CPU):
        assert len(images_) == 2
        break
    one_by_one = batches(Slow(10), ORDERS, CPU)
    next(one_by_one)
    assert threading.active_count() == before + 1
    assert isinstance(one_by_one, Generator)
    one_by_one.close()
    assert threading.active_count() == before
    one_by_one = batches(Slow(10, broken=5), ORDERS, CPU)
    assert [len(next(one_by_one)) for _ in range(3)] == [2, 1, 3]
    with pytest.raises(ValueError, match="image 5"):
        next(one_by_one)
    assert threading.active_count() == before


def test_the_whole_path_from_cache_to_batch(tmp_path: Path) -> None:
    class Decoder:
        def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
            yield from images(30, size)[indices]

    source = Identified(decoder=Decoder(), identity={"kind": "test"}, n_images=30)
    chosen = np.arange(29, 9, -1)
    recipe = Recipe(epochs=1, min_crop=0.4)
    for limit in (None, 0):
        pixels = PixelCache(tmp_path, limit).open(source, chosen, 16, progress=lambda done: None)
        generator, orders = seeded(4), np.array_split(np.arange(20), 3)
        found = torch.cat([apply(b, draw(len(b), recipe, generator), CPU) for b in batches(pixels, orders, CPU)])
        generator = seeded(4)
        expected = [apply(images(30, 16)[chosen[o]], draw(len(o), recipe, generator), CPU) for o in orders]
        assert torch.equal(found, torch.cat(expected))


def test_images_on_the_cpu_stay_where_they_are() -> None:
    pixels = stored(10)
    assert resident(pixels, CPU) is pixels


@cuda
@given(st.integers(0, 1000), st.integers(2, 60))
def test_a_cuda_device_gives_the_same_images(seed: int, size: int) -> None:
    device = torch.device("cuda")
    pixels, draws = images(7, size, seed), draw(7, SIMCLR, seeded(seed))
    assert (apply(pixels, draws, device).cpu() - apply(pixels, draws, CPU)).abs().max() < 1e-2  # TF32 may be on
    crops = draw(7, Recipe(epochs=1, min_crop=0.3), seeded(seed))
    assert (apply(pixels, crops, device).cpu() - apply(pixels, crops, CPU)).abs().max() < 1e-3


@cuda
def test_batches_on_a_cuda_device_are_resident_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    placed = resident(stored(10), device)
    assert isinstance(placed, Resident)
    monkeypatch.setattr(augment, "IN_MEMORY", 0.0)
    assert not isinstance(resident(stored(10), device), Resident)
    for pixels in (placed, stored(10), Slow(10)):
        for batch, order in zip(batches(pixels, ORDERS, device), ORDERS, strict=True):
            assert batch.device.type == "cuda"
            assert (batch.cpu().numpy() == images(10, 6)[order]).all()


def test_a_crop_that_enlarges_is_torchs_own_bilinear_resize() -> None:
    pixels = images(1, 20)
    draws = augment.Draws(n=1, boxes=torch.tensor([[0.25, 0.25, 0.5, 0.5]]))
    found = apply(pixels, draws, CPU)
    whole = functional.interpolate(to_batch(pixels, CPU), scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(found, whole[:, :, 10:30, 10:30], atol=1e-5)
