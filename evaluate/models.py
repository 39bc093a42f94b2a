"""The architectures, their heads, and how a pre-trained backbone is loaded.  Imports torch when it builds.

The paper's five families come from torchvision; ``timm:NAME`` is any model of the timm package, where it is
installed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import EvaluateError

if TYPE_CHECKING:
    from torch import nn

HEADS = {  # architecture (torchvision's name): the prefix of its last layer's parameters
    "resnet18": "fc.",
    "resnet50": "fc.",
    "resnext50_32x4d": "fc.",
    "densenet121": "classifier.",
    "alexnet": "classifier.6.",
    "mobilenet_v3_small": "classifier.3.",
    "mobilenet_v3_large": "classifier.3.",
}
SMALLEST = {"alexnet": 63, "densenet121": 29}  # pixels; below, the last pooling has nothing left to pool
TIMM = "timm:"


def problem(architecture: str, image_size: int) -> str | None:
    """Why an architecture cannot be trained on images of a size; None where it can.  Imports no torch."""
    if architecture.startswith(TIMM):
        return None if len(architecture) > len(TIMM) else f"{architecture!r}: a model's name is missing"
    if architecture not in HEADS:
        return f"unknown {architecture!r}; known are {', '.join(HEADS)}, and {TIMM}NAME"
    least = SMALLEST.get(architecture, 1)
    return None if image_size >= least else f"{architecture} needs images of {least} px; image_size is {image_size}"


def build(architecture: str, n_classes: int) -> nn.Module:
    """An untrained model with ``n_classes`` outputs.

    MobileNet-V3's batch norms use momentum 0.1 instead of torchvision's 0.01, as the other
    architectures do: with 0.01 the running statistics need over 200 steps to reach their values,
    and short runs would be judged by their initialisation.  Raises EvaluateError where there is no
    such architecture.
    """
    if architecture.startswith(TIMM):
        return _build_timm(architecture.removeprefix(TIMM), n_classes)
    import torchvision
    from torch import nn

    if architecture not in HEADS:
        raise EvaluateError(f"unknown architecture {architecture!r}; known are {', '.join(HEADS)}, and {TIMM}NAME")
    options = {}
    if architecture.startswith("mobilenet"):
        options["norm_layer"] = partial(nn.BatchNorm2d, eps=0.001, momentum=0.1)
    model: nn.Module = torchvision.models.get_model(architecture, weights=None, num_classes=n_classes, **options)
    return model


def _build_timm(name: str, n_classes: int) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise EvaluateError(f"{TIMM}{name}: the package timm is not installed; uv pip install timm") from None
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=n_classes)
    except (RuntimeError, ValueError) as error:
        raise EvaluateError(f"{TIMM}{name}: timm {timm.__version__} makes no such model ({error})") from None
    return model


def head_prefixes(model: nn.Module, architecture: str) -> tuple[str, ...]:
    """The prefixes of the parameters of a model's last layer, which depends on the classes."""
    if not architecture.startswith(TIMM):
        return (HEADS[architecture],)
    record: Any = model.pretrained_cfg  # timm's own; several layers for distilled models
    names = record["classifier"]
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


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

    head = head_prefixes(model, architecture)
    weights = {name: value for name, value in load_file(path).items() if not name.startswith(head)}
    expected = {name: value for name, value in model.state_dict().items() if not name.startswith(head)}
    if {name: value.shape for name, value in weights.items()} != {n: v.shape for n, v in expected.items()}:
        raise EvaluateError(f"{path}: weights of another architecture than {architecture}")
    model.load_state_dict(weights, strict=False)
