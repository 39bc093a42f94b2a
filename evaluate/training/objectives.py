"""Training objectives: what a model learns from a batch.

A learner holds the model whose weights are kept (``backbone``) and whatever else its objective trains, and
turns a batch into a loss.  Losses are computed in float32, also under autocast.  Under several processes the
contrastive objectives compare with the images of all; the mean of the processes' losses, and of their
gradients, is that of one process with all images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from ..models import build, replace_head
from ..recipe import Recipe

SIMCLR_WIDTH = 128  # of the projection (Chen et al. 2020, section 2.3)
TEXT_WIDTH = 256  # of the text tower and of the space that it shares with the images
TEXT_LAYERS, TEXT_HEADS = 2, 4
CAPTION_BYTES = 96  # of UTF-8; the rest of a caption is not read
MAX_SCALE = 100.0  # of image-text similarities (Radford et al. 2021, section 2.5)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """A process's images of one step, on the training device."""

    views: tuple[Tensor, ...]  # float [n, 3, height, width] each; two for simclr, else one
    labels: Tensor  # int64 [n]
    captions: tuple[str, ...] = ()  # n for image-text
    mix: float = 1.0  # share of the image itself under mixup; the rest is of the batch in reverse order


class Outcome(NamedTuple):
    """What a learner made of a batch."""

    loss: Tensor  # float32 scalar, mean over the batch
    hits: Tensor  # int64 scalar, 0 to n: images classified correctly, or whose most similar candidate is a positive


class Supervised(nn.Module):
    """Cross entropy of class labels."""

    def __init__(self, backbone: nn.Module, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch) -> Outcome:
        """The loss under label smoothing and mixup (Zhang et al. 2018); hits count the images' own labels."""
        logits = self.backbone(batch.views[0]).float()
        own = functional.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        other = functional.cross_entropy(logits, batch.labels.flip(0), label_smoothing=self.label_smoothing)
        return Outcome(batch.mix * own + (1 - batch.mix) * other, (logits.argmax(1) == batch.labels).sum())


class SimCLR(nn.Module):
    """Two views of an image should be more similar than views of two images (Chen et al. 2020)."""

    def __init__(self, backbone: nn.Module, *, temperature: float) -> None:
        super().__init__()
        self.backbone = backbone  # ends in the projection head
        self.temperature = temperature

    def forward(self, batch: Batch) -> Outcome:
        """The loss of the batch's two views, which pass the backbone together and share its batch statistics."""
        one, other = batch.views
        first, second = self.backbone(torch.cat([one, other])).chunk(2)
        return nt_xent(first, second, self.temperature)


class ImageText(nn.Module):
    """An image and its caption should be more similar than it and another caption (CLIP, Radford et al. 2021)."""

    def __init__(self, backbone: nn.Module, *, temperature: float) -> None:
        super().__init__()
        self.backbone = backbone  # ends in the projection to TEXT_WIDTH
        self.text = TextTower()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self, batch: Batch) -> Outcome:
        """The loss of the batch's images and captions, which may repeat."""
        with torch.no_grad():  # the parameter itself, as CLIP does: a clamped value would have no gradient to return by
            self.log_scale.clamp_(max=math.log(MAX_SCALE))
        images = self.backbone(batch.views[0])
        captions = [_shorten(caption) for caption in batch.captions]
        keys = torch.tensor([_key(caption) for caption in captions]).to(images.device)
        return image_text_loss(images, self.text(captions), keys, self.log_scale.exp())


Learner = Supervised | SimCLR | ImageText


def make_learner(recipe: Recipe, architecture: str, n_classes: int, image_size: int | None = None) -> Learner:
    """An untrained learner of the recipe's objective, initialised from torch's global generator.

    Except for the head, the backbone is that of ``models.build``, including its initial values.
    Raises EvaluateError if there is no such architecture, or a contrastive objective cannot replace its head.
    """
    backbone = build(architecture, n_classes, image_size)
    if recipe.objective == "supervised":
        return Supervised(backbone, label_smoothing=recipe.label_smoothing)
    if recipe.objective == "simclr":
        replace_head(backbone, architecture, _simclr_head)
        return SimCLR(backbone, temperature=recipe.temperature)
    replace_head(backbone, architecture, _image_text_head)
    return ImageText(backbone, temperature=recipe.temperature)


def _simclr_head(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, SIMCLR_WIDTH))


def _image_text_head(width: int) -> nn.Module:
    return nn.Linear(width, TEXT_WIDTH, bias=False)


class TextTower(nn.Module):
    """CLIP's text transformer, small and untrained, over the bytes of captions."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import ByT5Tokenizer, CLIPTextConfig, CLIPTextModelWithProjection

        self.tokenizer = ByT5Tokenizer()  # bytes are tokens: it needs no vocabulary file
        config = CLIPTextConfig(
            vocab_size=256 + self.tokenizer.offset,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=TEXT_HEADS,
            max_position_embeddings=CAPTION_BYTES + 1,  # and the end token
            pad_token_id=self.tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=self.tokenizer.eos_token_id,  # where the model takes the embedding
        )
        self.model = CLIPTextModelWithProjection(config)

    def forward(self, captions: list[str]) -> Tensor:
        """Embeddings of captions of at most CAPTION_BYTES, [n, TEXT_WIDTH]; equal ones are encoded once."""
        rows = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
        # "</s>" and the like, written in a caption, are text
        tokens = self.tokenizer(list(rows), padding=True, split_special_tokens=True, return_tensors="pt")
        device = self.model.device
        embeddings: Tensor = self.model(
            input_ids=tokens.input_ids.to(device), attention_mask=tokens.attention_mask.to(device)
        ).text_embeds
        return embeddings[torch.tensor([rows[caption] for caption in captions]).to(device)]


def _shorten(caption: str) -> str:
    """A caption's first CAPTION_BYTES of UTF-8, without a character cut in two."""
    return caption.encode()[:CAPTION_BYTES].decode(errors="ignore")


def _key(caption: str) -> int:
    """A signed 64-bit number, the same in all processes for equal captions; others share it with probability 2^-64."""
    return int.from_bytes(blake2b(caption.encode(), digest_size=8).digest(), "little", signed=True)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Outcome:
    """The normalised temperature-scaled cross entropy of two views, each [n, width] (Chen et al. 2020, equation 1).

    The candidates for a view are all other views of all processes.  Hits are over the first views.
    """
    n = len(first)
    with torch.autocast(first.device.type, enabled=False):
        own = functional.normalize(torch.cat([first, second]).float())
        logits = own @ _gather(own).T / temperature
        start = 2 * n * _rank()
        logits[:, start : start + 2 * n].fill_diagonal_(-math.inf)  # a view is not a candidate for itself
        other_view = start + torch.arange(2 * n, device=own.device).roll(n)
        loss = functional.cross_entropy(logits, other_view)
    return Outcome(loss, (logits[:n].argmax(1) == other_view[:n]).sum())


def image_text_loss(images: Tensor, texts: Tensor, keys: Tensor, scale: Tensor) -> Outcome:
    """The symmetric cross entropy of images and texts, each [n, width]; ``keys``, int64 [n], identify texts.

    All images and texts of a key are positives of each other, with equal shares of the target (UniCL, Yang et
    al. 2022); the two directions are averaged, as in CLIP.  The candidates are those of all processes.  Hits
    are over the images.
    """
    with torch.autocast(images.device.type, enabled=False):
        own = torch.stack([functional.normalize(images.float()), functional.normalize(texts.float())])
        all_images, all_texts = _gather(own.transpose(0, 1)).unbind(1)
        positive = keys[:, None] == _gather(keys)
        targets = positive / positive.sum(1, keepdim=True)
        by_image = scale * own[0] @ all_texts.T
        by_text = scale * own[1] @ all_images.T
        loss = (functional.cross_entropy(by_image, targets) + functional.cross_entropy(by_text, targets)) / 2
    return Outcome(loss, positive.gather(1, by_image.argmax(1, keepdim=True)).sum())


def _gather(own: Tensor) -> Tensor:
    """The rows of all processes, in their order; each must have as many.  Gradients return to the rows' processes."""
    gathered: Tensor = own if _n_processes() == 1 else _Gather.apply(own)
    return gathered


class _Gather(torch.autograd.Function):
    """An all-gather that sums the gradients of all processes.

    torch's own with gradients (torch.distributed.nn.functional, _functional_collectives) are deprecated or private.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(_n_processes())]
        distributed.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total.chunk(_n_processes())[_rank()]


def _n_processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _rank() -> int:
    """This process's number among them, from 0."""
    return distributed.get_rank() if _n_processes() > 1 else 0
