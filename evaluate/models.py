"""The architectures, their heads, and how a pre-trained backbone is loaded.  Imports torch only to build.

The paper's five families come from torchvision, and so does a ResNet-18 for small images; ``timm:NAME`` is any
model of the timm package and ``open_clip:NAME`` the image tower of any of open_clip, if they are installed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthgen.storage.reading import open_file

from .errors import EvaluateError

if TYPE_CHECKING:
    from torch import Tensor, nn

HEADS = {  # architecture (torchvision's name, except for the second): the prefix of its last layer's parameters
    "resnet18": "fc.",
    "resnet18_32px": "fc.",
    "resnet50": "fc.",
    "resnext50_32x4d": "fc.",
    "densenet121": "classifier.",
    "alexnet": "classifier.6.",
    "mobilenet_v3_small": "classifier.3.",
    "mobilenet_v3_large": "classifier.3.",
}
SMALLEST = {"alexnet": 63, "densenet121": 29}  # pixels; with fewer, nothing is left for the last pooling
TIMM = "timm:"
OPEN_CLIP = "open_clip:"
KNOWN = f"known are {', '.join(HEADS)}, {TIMM}NAME and {OPEN_CLIP}NAME"
COUNTER = "num_batches_tracked"  # of batch norms: absent from files of before 2018, and unused with a fixed momentum
POSITIONS = ("pos_embed", "positional_embedding")  # last parts of the names of embeddings of a grid of patches


def problem(architecture: str, image_size: int) -> str | None:
    """Why an architecture cannot be trained on images of a size; None if it can.  Imports no torch.

    Only timm and open_clip know what is wrong with a name or a size of theirs: ``build`` reports it.
    """
    if architecture.startswith((TIMM, OPEN_CLIP)):
        return f"{architecture!r}: the model's name is missing" if architecture in (TIMM, OPEN_CLIP) else None
    if architecture not in HEADS:
        return f"unknown {architecture!r}; {KNOWN}"
    least = SMALLEST.get(architecture, 1)
    return None if image_size >= least else f"{architecture} needs images of {least} px; image_size is {image_size}"


def build(architecture: str, n_classes: int, image_size: int | None = None) -> nn.Module:
    """An untrained model with ``n_classes`` outputs, for images [n, 3, image_size, image_size].

    Models of timm and open_clip that have a fixed size are built for ``image_size``; None is their own size.
    MobileNet-V3's batch norms use momentum 0.1 instead of torchvision's 0.01, as the other
    architectures do: with 0.01 the running statistics need over 200 steps to reach their values,
    and short runs would be judged by their initialisation.  Raises EvaluateError if the
    architecture does not exist or cannot take images of that size.
    """
    if architecture.startswith((TIMM, OPEN_CLIP)):
        make = _build_timm if architecture.startswith(TIMM) else _build_open_clip
        if image_size is not None:
            _try(partial(make, architecture, n_classes, image_size), architecture, n_classes, image_size)
        return make(architecture, n_classes, image_size)
    if architecture not in HEADS:
        raise EvaluateError(f"unknown architecture {architecture!r}; {KNOWN}")
    if architecture == "resnet18_32px":
        return _resnet18_32px(n_classes)
    import torchvision
    from torch import nn

    options = {}
    if architecture.startswith("mobilenet"):
        options["norm_layer"] = partial(nn.BatchNorm2d, eps=0.001, momentum=0.1)
    model: nn.Module = torchvision.models.get_model(architecture, weights=None, num_classes=n_classes, **options)
    return model


def _resnet18_32px(n_classes: int) -> nn.Module:
    """ResNet-18 with the stem for CIFAR-10 of He et al. 2016 (section 4.2): a 3 x 3 convolution and no pooling."""
    import torchvision
    from torch import nn

    model: nn.Module = torchvision.models.resnet18(weights=None, num_classes=n_classes)
    first = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own convolutions
    model.set_submodule("conv1", first)
    model.set_submodule("maxpool", nn.Identity())
    return model


def _build_timm(architecture: str, n_classes: int, image_size: int | None) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise EvaluateError(f"{architecture}: the package timm is not installed; uv pip install timm") from None
    name = architecture.removeprefix(TIMM)
    if not timm.is_model(name.partition(".")[0]):
        near = like(name, timm.list_models())
        raise EvaluateError(f"{architecture}: timm {timm.__version__} makes no such model{near}")
    make = partial(timm.create_model, name, pretrained=False, num_classes=n_classes)
    try:
        model: nn.Module = make(img_size=image_size)  # timm ignores what is None
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        model = make()  # takes images of any size
    except RuntimeError as error:
        why = str(error).partition("\n")[0]
        raise EvaluateError(f"{architecture}: timm {timm.__version__} makes no such model ({why})") from None
    return model


def _build_open_clip(architecture: str, n_classes: int, image_size: int | None) -> nn.Module:
    """The image tower, as ``visual`` (its name in open_clip's own files), and a linear ``head`` on its embedding."""
    try:
        import open_clip
    except ImportError:
        raise EvaluateError(f"{architecture}: open_clip is not installed; uv pip install open_clip_torch") from None
    from torch import nn

    name = architecture.removeprefix(OPEN_CLIP)
    if name not in open_clip.list_models():  # other names are addresses on the Hub
        near = like(name, open_clip.list_models())
        raise EvaluateError(f"{architecture}: open_clip {open_clip.__version__} makes no such model{near}")
    config = open_clip.get_model_config(name)
    vision = {**config["vision_cfg"], "output_tokens": False, "timm_model_pretrained": False}
    if image_size is not None:
        vision["image_size"] = image_size
    # open_clip does not build an image tower alone; this text tower is as small as possible, and is dropped
    text = {"context_length": 1, "vocab_size": 2, "width": 1, "heads": 1, "layers": 1}
    tower = open_clip.CLIP(config["embed_dim"], vision, text, quick_gelu=config.get("quick_gelu", False)).visual
    if image_size is not None and hasattr(tower, "set_input_size"):  # a tower that comes from timm
        tower.set_input_size(image_size)
    return nn.Sequential(OrderedDict(visual=tower, head=nn.Linear(config["embed_dim"], n_classes)))


def like(name: str, known: list[str]) -> str:
    """A suggestion for a wrong name, to end a message with; empty if no name is close."""
    near = get_close_matches(name, known)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _try(make: Callable[[], nn.Module], architecture: str, n_classes: int, image_size: int) -> None:
    """Raise EvaluateError if a model of another package fails on images of a size.

    On the meta device, where nothing is computed: it takes a fraction of a second.
    """
    import torch

    try:
        with torch.device("meta"), torch.no_grad():
            shape = tuple(make().eval()(torch.zeros(2, 3, image_size, image_size)).shape)
    except EvaluateError:
        raise
    except Exception as error:  # anything that a model's own code raises
        if isinstance(error, NotImplementedError) or "meta" in str(error):
            return  # it reads values, which a meta tensor does not have
        why = str(error).partition("\n")[0] or type(error).__name__
        own = f"; its own size is {_own_size(architecture)} px"
        raise EvaluateError(f"{architecture} cannot take images of {image_size} px ({why}){own}") from None
    if shape != (2, n_classes):
        raise EvaluateError(
            f"{architecture}: gives {list(shape[1:])} per image, not classes; choose another architecture"
        )


def _own_size(architecture: str) -> int:
    if architecture.startswith(TIMM):
        from timm.models import get_pretrained_cfg

        record: Any = get_pretrained_cfg(architecture.removeprefix(TIMM))
        return int(record.input_size[-1])
    import open_clip

    size = open_clip.get_model_config(architecture.removeprefix(OPEN_CLIP))["vision_cfg"].get("image_size", 224)
    return int(size if isinstance(size, int) else size[0])


def head_prefixes(model: nn.Module, architecture: str) -> tuple[str, ...]:
    """The prefixes of the parameters of a model's last layer, which depends on the classes."""
    if architecture.startswith(OPEN_CLIP):
        return ("head.",)
    if not architecture.startswith(TIMM):
        return (HEADS[architecture],)
    record: Any = model.pretrained_cfg  # timm's own; several layers for distilled models
    names = record.get("classifier")
    if not names:
        raise EvaluateError(f"{architecture}: timm names no last layer of it; choose another architecture")
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def replace_head(model: nn.Module, architecture: str, make: Callable[[int], nn.Module]) -> None:
    """Replace each last layer of ``model`` by ``make(in_features)``, under the same name.

    Distilled models of timm have several.  Raises EvaluateError if a last layer is not an ``nn.Linear``.
    """
    from torch import nn

    for prefix in head_prefixes(model, architecture):
        name = prefix.removesuffix(".")
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            kind = type(layer).__name__
            raise EvaluateError(
                f"{architecture}: its last layer {name} is {kind}, not Linear; choose another architecture"
            )
        model.set_submodule(name, make(layer.in_features))


def n_parameters(architecture: str, image_size: int | None = None) -> int:
    """How many parameters an architecture has, with a head of 1,000 classes; raises what ``build`` does."""
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(architecture, 1000, image_size).parameters())


def load_backbone(model: nn.Module, architecture: str, weights: Path | Mapping[str, Tensor]) -> None:
    """Load all weights but the head's, from a run's file or a state dict; see ``fitting``."""
    if not isinstance(weights, Mapping):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            open_file(weights).close()  # safetensors would wait for a pipe
            fit = fitting(model, architecture, load_file(weights), str(weights))
        except (OSError, SafetensorError) as error:
            raise EvaluateError(f"{weights}: unreadable ({error}); run its pre-training again") from None
    else:
        fit = fitting(model, architecture, weights, "the checkpoint")
    model.load_state_dict(fit, strict=False)


def fitting(model: nn.Module, architecture: str, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The part of ``weights`` that belongs in ``model``: all but the head.

    Positional embeddings of another image size are interpolated.  Raises EvaluateError, naming
    ``source``, if the weights have other names or shapes.
    """
    head = head_prefixes(model, architecture)
    expected = {name: value for name, value in model.state_dict().items() if not name.startswith(head)}
    found = {name: value for name, value in weights.items() if not name.startswith(head)}
    for name in found.keys() & expected.keys():
        if name.endswith(POSITIONS):
            found[name] = _interpolated(found[name], expected[name])
    difference = _difference(found, expected)
    if difference:
        message = f"{source}: weights of another architecture than {architecture}"
        raise EvaluateError(f"{message} (first difference: {difference})")
    return found


def _difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    for name, value in expected.items():
        if name not in found and not name.endswith(COUNTER):
            return f"it has no {name}"
        if name in found and found[name].shape != value.shape:
            return f"{name} is {list(found[name].shape)}, not {list(value.shape)}"
        if name in found and found[name].is_floating_point() != value.is_floating_point():
            return f"{name} is of {found[name].dtype}, not {value.dtype}"
    unknown = [name for name in found if name not in expected and not name.endswith(COUNTER)]
    return f"it has a {unknown[0]}" if unknown else None


def _interpolated(old: Tensor, new: Tensor) -> Tensor:
    """``old`` at the size of ``new``, both [..., extra tokens + side x side, width].

    Bicubic and antialiased, as timm and open_clip do when they load (Dosovitskiy et al. 2021, section
    3.2).  Returns ``old`` if the two are not such grids.
    """
    from torch import cat
    from torch.nn import functional

    if old.shape == new.shape or old.ndim not in (2, 3) or old.shape[-1] != new.shape[-1]:
        return old
    length, wanted = old.shape[-2], new.shape[-2]
    # no token, one for the class, or also one for distillation: squares are never 1 or 2 apart, so only one fits
    extra = next((n for n in range(3) if length > n and isqrt(length - n) ** 2 == length - n), None)
    if extra is None or wanted <= extra or isqrt(wanted - extra) ** 2 != wanted - extra:
        return old
    side, other = isqrt(length - extra), isqrt(wanted - extra)
    grid = old[..., extra:, :].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(other, other), mode="bicubic", antialias=True, align_corners=False)
    tokens = grid.permute(0, 2, 3, 1).reshape(*old.shape[:-2], other * other, -1).to(old.dtype)
    return cat([old[..., :extra, :], tokens], dim=-2)
