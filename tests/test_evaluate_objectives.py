import math
import sys
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from synthgen_evaluate.models import HEADS, build
from synthgen_evaluate.recipe import Recipe
from synthgen_evaluate.training.objectives import (
    Batch,
    ImageText,
    Learner,
    SimCLR,
    Supervised,
    TextTower,
    image_text_loss,
    make_learner,
    nt_xent,
)

CONTRASTIVE = ("simclr", "image-text")
OBJECTIVES = ("supervised", *CONTRASTIVE)
COLOURS = torch.tensor([[0.9, 0.2, 0.2], [0.2, 0.9, 0.2], [0.2, 0.2, 0.9], [0.6, 0.6, 0.1]])
NAMES = ("red", "green", "blue", "yellow")

seeds = st.integers(0, 2**32)
temperatures = st.floats(0.05, 2)


class Small(nn.Module):
    """A backbone without batch norm: what an image gives depends on that image alone."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.fc = nn.Linear(32, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).flatten(1))


def small_learner(objective: str, *, temperature: float = 0.1) -> Learner:
    torch.manual_seed(0)
    if objective == "supervised":
        return Supervised(Small(len(NAMES)))
    if objective == "simclr":
        return SimCLR(Small(16), temperature=temperature)
    return ImageText(Small(256), temperature=temperature)


def colours(n: int, *, n_views: int = 1, seed: int = 0) -> Batch:
    """Plain images of four colours; what a view has of its own is mostly how dark it is."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % len(NAMES)

    def view() -> Tensor:
        light = 0.1 + 0.9 * torch.rand(n, 1, generator=generator)
        plain = (light * COLOURS[labels])[:, :, None, None].expand(-1, -1, 12, 12)
        return plain + 0.05 * torch.randn(plain.shape, generator=generator)

    captions = tuple(f"a photo of something {NAMES[label]}" for label in labels)
    return Batch(views=tuple(view() for _ in range(n_views)), labels=labels, captions=captions)


def batch_for(objective: str, n: int, seed: int = 0) -> Batch:
    return colours(n, n_views=2 if objective == "simclr" else 1, seed=seed)


def embeddings(n: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator), torch.randn(n, width, generator=generator)


def similarity(one: Tensor, other: Tensor) -> float:
    return float(one @ other / one.norm() / other.norm())


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@given(n=st.integers(2, 6), width=st.integers(2, 8), seed=seeds, temperature=temperatures)
def test_nt_xent_is_what_a_double_loop_gives(n: int, width: int, seed: int, temperature: float) -> None:
    first, second = embeddings(n, width, seed)
    views = [*first, *second]
    losses, hits = [], 0
    for i, one in enumerate(views):
        scores = {j: similarity(one, other) / temperature for j, other in enumerate(views) if j != i}
        partner = (i + n) % (2 * n)
        losses.append(math.log(sum(math.exp(score) for score in scores.values())) - scores[partner])
        hits += i < n and max(scores, key=scores.__getitem__) == partner
    found = nt_xent(first, second, temperature)
    assert found.loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-4, abs=1e-5)
    assert int(found.hits) == hits


@given(n=st.integers(2, 6), seed=seeds, temperature=temperatures)
def test_nt_xent_is_least_for_identical_views_of_images_spread_out_evenly(
    n: int, seed: int, temperature: float
) -> None:
    corners = torch.eye(n) - 1 / n  # of a simplex, as far apart as n directions can be
    least = nt_xent(corners, corners, temperature)
    others = math.exp(-1 / (n - 1) / temperature)
    expected = math.log(math.exp(1 / temperature) + 2 * (n - 1) * others) - 1 / temperature
    assert least.loss.item() == pytest.approx(expected, abs=1e-5)
    assert int(least.hits) == n
    assert nt_xent(*embeddings(n, n, seed), temperature).loss >= least.loss - 1e-5


@given(keys=st.lists(st.integers(0, 3), min_size=1, max_size=7), width=st.integers(2, 8), seed=seeds)
def test_image_text_loss_is_what_a_double_loop_gives_for_captions_that_repeat(
    keys: list[int], width: int, seed: int
) -> None:
    n, scale = len(keys), 7.0
    images, texts = embeddings(n, width, seed)
    losses, hits = [], 0
    for one_side, other_side in ((images, texts), (texts, images)):
        for i in range(n):
            scores = [scale * similarity(one_side[i], other_side[j]) for j in range(n)]
            log_sum = math.log(sum(map(math.exp, scores)))
            positives = [j for j in range(n) if keys[j] == keys[i]]
            losses.append(sum(log_sum - scores[j] for j in positives) / len(positives))
            hits += one_side is images and scores.index(max(scores)) in positives
    found = image_text_loss(images, texts, torch.tensor(keys), torch.tensor(scale))
    assert found.loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-4, abs=1e-5)
    assert int(found.hits) == hits


def test_an_image_that_finds_its_caption_at_another_image_is_a_hit() -> None:
    images, texts = torch.eye(3), torch.eye(3).roll(1, 0)[[0, 1, 2]]  # image i is nearest to text (i + 1) % 3
    scale = torch.tensor(10.0)
    assert int(image_text_loss(images, texts, torch.tensor([5, 5, 6]), scale).hits) == 1
    assert int(image_text_loss(images, texts, torch.tensor([5, 5, 5]), scale).hits) == 3
    assert int(image_text_loss(images, texts, torch.tensor([5, 6, 7]), scale).hits) == 0


def test_equal_captions_are_positives_of_each_other_and_are_encoded_once() -> None:
    learner = small_learner("image-text")
    assert isinstance(learner, ImageText)
    read = []
    learner.text.model.register_forward_pre_hook(lambda _, __, given: read.append(given["input_ids"]), with_kwargs=True)
    batch = colours(8)
    loss, _ = learner(batch)
    assert [ids.shape[0] for ids in read] == [4]
    texts = learner.text(list(batch.captions))
    keys = batch.labels  # as many as there are colours
    expected = image_text_loss(learner.backbone(batch.views[0]), texts, keys, learner.log_scale.exp())
    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-6)


def test_the_text_tower_reads_captions_to_their_last_byte() -> None:
    tower = TextTower().eval()
    for length in (1, 40, 96):
        one, other = tower(["z" * (length - 1) + "a", "z" * (length - 1) + "b"])  # neither ends in its highest byte
        assert not torch.allclose(one, other, atol=1e-2)
    for texts in (["", "x"], ["ab", "ba"]):
        one, other = tower(texts)
        assert not torch.allclose(one, other, atol=1e-2)


def test_how_far_a_caption_is_padded_does_not_change_its_embedding() -> None:
    tower = TextTower().eval()
    (alone,) = tower(["a red fox"])
    for longer in ("a red fox in the snow", "é" * 48):
        padded, _ = tower(["a red fox", longer])
        torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)


def test_captions_equal_in_their_first_96_bytes_are_equal() -> None:
    learner = small_learner("image-text")
    twice = colours(1).views[0].expand(2, -1, -1, -1)  # the same image, so that both find the same caption

    def hits(*captions: str) -> int:
        return int(learner(Batch(views=(twice,), labels=torch.zeros(2, dtype=torch.int64), captions=captions)).hits)

    same = "é" * 47
    assert hits(same + "xy1", same + "xy2") == hits("", "") == 2
    assert hits("x" + same + "é", "x" + same) == 2  # its last character would end at byte 97
    assert hits(same + "x1", same + "x2") == hits("a", "b") == 1


def test_special_tokens_written_in_a_caption_are_text() -> None:
    tower = TextTower().eval()
    captions = ["a", "a</s>", "a</s>b", "a<pad>", "<extra_id_7>", "<unk>"]
    found = tower(captions)
    assert torch.isfinite(found).all()
    distances = torch.cdist(found, found) + torch.eye(len(captions))
    assert distances.min() > 1e-2


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_reach_every_parameter(objective: str) -> None:
    learner = small_learner(objective)
    learner(batch_for(objective, 8)).loss.backward()
    without = [
        name for name, p in learner.named_parameters() if p.grad is None or not p.grad.any() or p.grad.isnan().any()
    ]
    # a key's bias moves all scores of a softmax alike
    assert [name for name in without if not name.endswith("k_proj.bias")] == []


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_lowers_the_loss_and_its_features_tell_colours_apart_in_any_light(objective: str) -> None:
    learner = small_learner(objective, temperature=0.2)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    before = accuracy_from_one_example_each(learner)
    losses = []
    for step in range(40):
        loss, hits = learner(batch_for(objective, 32, seed=step))
        assert 0 <= hits <= 32
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert accuracy_from_one_example_each(learner) > 0.95 > 0.75 > before


def accuracy_from_one_example_each(learner: Learner) -> float:
    """How often an image's features are most like those of the example of its colour, over 20 sets of examples."""
    assert isinstance(learner.backbone, Small)
    images = colours(200, seed=1000)
    with torch.no_grad():
        features = functional.normalize(learner.backbone.features(images.views[0]).flatten(1))
    examples = features[:80].view(20, len(NAMES), -1)
    nearest = (examples @ features.T).argmax(1)  # [20, 200], a colour
    return float((nearest == images.labels).float().mean())


@given(mix=st.floats(0, 1), seed=seeds)
def test_mixup_is_cross_entropy_with_labels_mixed_like_the_images(mix: float, seed: int) -> None:
    logits, _ = embeddings(5, 4, seed)
    labels = torch.tensor([0, 1, 1, 2, 3])
    learner = Supervised(nn.Identity(), label_smoothing=0.1)
    loss, hits = learner(Batch(views=(logits,), labels=labels, mix=mix))
    one_hot = functional.one_hot(labels, 4).float()
    targets = mix * one_hot + (1 - mix) * one_hot.flip(0)
    expected = functional.cross_entropy(logits, targets, label_smoothing=0.1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert int(hits) == int((logits.argmax(1) == labels).sum())


def test_mixup_of_one_is_no_mixup() -> None:
    learner, batch = small_learner("supervised"), colours(8)
    expected = functional.cross_entropy(learner.backbone(batch.views[0]), batch.labels)
    assert torch.equal(learner(batch).loss, expected)


def test_the_scale_of_image_text_starts_at_the_temperature_and_stays_within_100() -> None:
    learner, batch = small_learner("image-text", temperature=0.05), colours(8)
    assert isinstance(learner, ImageText)
    assert learner.log_scale.exp().item() == pytest.approx(20)
    with torch.no_grad():
        learner.log_scale.fill_(9.0)
    learner(batch).loss.backward()
    assert learner.log_scale.exp().item() == pytest.approx(100)
    assert learner.log_scale.grad is not None
    assert learner.log_scale.grad != 0  # it can come down again


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_under_bf16_autocast_losses_are_float32_and_gradients_finite(objective: str) -> None:
    learner, batch = small_learner(objective), batch_for(objective, 8)
    exact = learner(batch).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = learner(batch)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learner.parameters())


def test_autocast_does_not_touch_the_similarities() -> None:
    first, second = embeddings(6, 8, seed=1)
    keys, scale = torch.tensor([1, 1, 2, 3, 4, 5]), torch.tensor(50.0)
    exact = nt_xent(first, second, 0.05).loss, image_text_loss(first, second, keys, scale).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = nt_xent(first, second, 0.05).loss, image_text_loss(first, second, keys, scale).loss
    assert exact == found


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_same_seed_gives_the_same_gradients(objective: str) -> None:
    recipe = Recipe(epochs=1, objective=objective)  # type: ignore[arg-type]
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        learner = make_learner(recipe, "mobilenet_v3_small", len(NAMES))
        loss, _ = learner(batch_for(objective, 6))
        loss.backward()
        found.append({"loss": loss.detach(), **{name: p.grad for name, p in learner.named_parameters()}})
    assert all(value is not None and torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("architecture", HEADS)
def test_but_for_its_head_a_backbone_has_the_parameters_of_the_plain_model(architecture: str, objective: str) -> None:
    recipe = Recipe(epochs=1, objective=objective)  # type: ignore[arg-type]
    with torch.device("meta"):
        learner, plain = make_learner(recipe, architecture, 5), build(architecture, 5)

    def body(model: nn.Module) -> dict[str, torch.Size]:
        state = model.state_dict()
        return {name: value.shape for name, value in state.items() if not name.startswith(HEADS[architecture])}

    assert body(learner.backbone) == body(plain)
    assert len(body(plain)) < len(learner.backbone.state_dict())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_but_for_its_head_a_backbone_starts_as_the_plain_model_of_the_same_seed(objective: str) -> None:
    torch.manual_seed(4)
    plain = build("mobilenet_v3_small", 5).state_dict()
    torch.manual_seed(4)
    learner = make_learner(Recipe(epochs=1, objective=objective), "mobilenet_v3_small", 5)  # type: ignore[arg-type]
    for name, value in learner.backbone.state_dict().items():
        assert name.startswith(HEADS["mobilenet_v3_small"]) or torch.equal(value, plain[name])


def test_supervised_learning_compiles_whole_and_not_anew_for_every_mix() -> None:
    compiled = []

    def count(graph: torch.fx.GraphModule, _: object) -> object:
        compiled.append(graph)
        return graph.forward

    learner = small_learner("supervised")
    fast = torch.compile(learner, backend=count, fullgraph=True)
    for mix in (1.0, 0.9, 0.3, 0.6, 0.2):
        images = colours(8)
        batch = Batch(views=images.views, labels=images.labels, mix=mix)
        assert torch.equal(fast(batch).loss, learner(batch).loss)
    assert len(compiled) <= 2


def test_two_processes_find_the_loss_and_the_gradients_of_one(tmp_path: Path) -> None:
    other = torch.multiprocessing.spawn(one_of_two, args=(tmp_path,), nprocs=1, join=False)  # rank 0
    try:
        one_of_two(1, tmp_path)
    finally:
        other.join()  # raises what went wrong there
    for objective in CONTRASTIVE:
        learner, whole = small_learner(objective), batch_for(objective, 12)
        loss, hits = learner(whole)
        loss.backward()
        parts = [torch.load(tmp_path / f"{objective}-{rank}.pt", weights_only=True) for rank in range(2)]
        assert (parts[0]["loss"] + parts[1]["loss"]) / 2 == pytest.approx(loss.item(), rel=1e-5)
        assert parts[0]["loss"] != pytest.approx(parts[1]["loss"])
        assert parts[0]["hits"] + parts[1]["hits"] == int(hits)
        for name, parameter in learner.named_parameters():
            for part in parts:
                torch.testing.assert_close(part["gradients"][name], parameter.grad, rtol=1e-3, atol=1e-6, msg=name)


def one_of_two(rank: int, folder: Path) -> None:
    """What each process does, with warnings as errors."""
    warnings.simplefilter("error")
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=100)
    )
    try:
        train_on_half(rank, folder)
    finally:
        distributed.destroy_process_group()


def train_on_half(rank: int, folder: Path) -> None:
    for objective in CONTRASTIVE:
        learner, whole = small_learner(objective), batch_for(objective, 12)  # captions repeat within and across
        if objective == "simclr" and rank == 0:  # a fresh process
            assert "transformers" not in sys.modules
        mine = slice(6 * rank, 6 * rank + 6)
        part = Batch(
            views=tuple(view[mine] for view in whole.views), labels=whole.labels[mine], captions=whole.captions[mine]
        )
        wrapped = DistributedDataParallel(learner)  # kept until the gradients are averaged
        loss, hits = wrapped(part)
        loss.backward()
        gradients = {name: p.grad for name, p in learner.named_parameters()}
        result = {"loss": loss.item(), "hits": int(hits), "gradients": gradients}
        torch.save(result, folder / f"{objective}-{rank}.pt")
