"""The looks that templates describe: a dark photo is dark, a pixelated one pixelated.

CIFAR-10 has labels but no captions.  Each training picture gets the caption of a random template,
and if the template says how the picture looks, the picture is changed to look so.  About the other
templates (a sculpture, a tattoo) CIFAR-10 has no information: they give plain pictures.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad


def _resized(images: Tensor, size: int, mode: str) -> Tensor:
    smooth = {"align_corners": False, "antialias": True} if mode == "bilinear" else {}
    return interpolate(images, (size, size), mode=mode, **smooth)


def _gray(images: Tensor) -> Tensor:
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R BT.601 luma
    return (images * weights).sum(1, keepdim=True).expand_as(images)


def _close(images: Tensor) -> Tensor:
    edge = images.shape[-1] // 8
    return _resized(images[..., edge:-edge, edge:-edge], images.shape[-1], "bilinear")


# Words in a template -> what they do to pictures, float [n, 3, size, size] in [-1, 1].
LOOKS: dict[str, Callable[[Tensor], Tensor]] = {
    "black and white": _gray,
    "bright": lambda images: images * 0.7 + 0.3,
    "dark": lambda images: images * 0.6 - 0.4,
    "blurry": lambda images: avg_pool2d(pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1),
    "low resolution": lambda images: _resized(_resized(images, images.shape[-1] // 2, "bilinear"), 32, "bilinear"),
    "pixelated": lambda images: _resized(_resized(images, images.shape[-1] // 2, "bilinear"), 32, "nearest"),
    "close-up": _close,
    "cropped": _close,
}


def look(template: str) -> str:
    """The look that a template asks for, a key of LOOKS; "" for a plain picture."""
    return next((name for name in LOOKS if name in template), "")


def dress(images: Tensor, name: str) -> Tensor:
    """Pictures in a look; float [n, 3, 32, 32] in [-1, 1], as given."""
    return images if not name else LOOKS[name](images)


def batch_captions(
    labels: Tensor, templates: Tensor, n_templates: int, dropped: Tensor, empty: int
) -> tuple[Tensor, Tensor]:
    """The distinct captions of a batch, as rows of the caption table, and each sample's place among them.

    The table has the caption of every class and template, and row ``empty`` for none, which
    teaches the model to do without (for classifier-free guidance).
    """
    rows = torch.where(dropped, torch.full_like(labels, empty), labels * n_templates + templates)
    distinct, place = torch.unique(rows, return_inverse=True)
    return distinct, place
