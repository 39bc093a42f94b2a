"""The architectures, their heads, and how a pre-trained backbone is loaded.  Imports torch when it builds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import EvaluateError

if TYPE_CHECKING:
    from torch import nn

HEADS = {  # architecture (torchvision's name): the prefix of its last layer's parameters
    "resnet18": "fc.",
    "resnet50": "fc.",
    "mobilenet_v3_small": "classifier.3.",
    "mobilenet_v3_large": "classifier.3.",
}


def build(architecture: str, n_classes: int) -> nn.Module:
    """An untrained torchvision model with ``n_classes`` outputs.

    MobileNet-V3's batch norms use momentum 0.1 instead of torchvision's 0.01, as the other
    architectures do: with 0.01 the running statistics need over 200 steps to reach their values,
    and short runs would be judged by their initialisation.
    """
    import torchvision
    from torch import nn

    if architecture not in HEADS:
        raise EvaluateError(f"unknown architecture {architecture!r}; known are {', '.join(HEADS)}")
    options = {}
    if architecture.startswith("mobilenet"):
        options["norm_layer"] = partial(nn.BatchNorm2d, eps=0.001, momentum=0.1)
    model: nn.Module = torchvision.models.get_model(architecture, weights=None, num_classes=n_classes, **options)
    return model


def n_parameters(architecture: str) -> int:
    """How many parameters an architecture has, with a head of 1,000 classes."""
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(architecture, 1000).parameters())


def load_backbone(model: nn.Module, architecture: str, path: Path) -> None:
    """Load all weights but the head's from a run of the same architecture.

    Raises EvaluateError where the file is of another architecture.
    """
    from safetensors.torch import load_file

    head = HEADS[architecture]
    weights = {name: value for name, value in load_file(path).items() if not name.startswith(head)}
    expected = {name: value for name, value in model.state_dict().items() if not name.startswith(head)}
    if {name: value.shape for name, value in weights.items()} != {n: v.shape for n, v in expected.items()}:
        raise EvaluateError(f"{path}: weights of another architecture than {architecture}")
    model.load_state_dict(weights, strict=False)
