"""External weights from which fine-tuning starts: of torchvision, timm, open_clip, or in a file.

A checkpoint is named ``torchvision:WEIGHTS`` (IMAGENET1K_V1, DEFAULT), ``timm:NAME.TAG``,
``open_clip:NAME/PRETRAINED`` or by a file's path.  Files already on this machine are used unchanged;
only missing ones are downloaded.  Imports torch when it reads.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import EvaluateError
from ..models import OPEN_CLIP, build, fitting, like

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT = 5.0  # seconds that a host may take to answer
WRAPPERS = ("state_dict", "model")  # keys under which training programs keep a model's weights
PREFIXES = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")  # on the Hub, by preference
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")  # as torchvision.models.densenet has it


def check(checkpoint: str, architecture: str, image_size: int) -> None:
    """Raise EvaluateError if a checkpoint cannot be obtained, or is of another architecture."""
    import torch

    weights = fetch(checkpoint, architecture)
    with torch.device("meta"):
        model = build(architecture, 2, image_size)
    fitting(model, architecture, weights, checkpoint)


def fetch(checkpoint: str, architecture: str) -> dict[str, Tensor]:
    """A checkpoint's weights by name, on the CPU, with whatever head it has.

    Only tensors are read from a file: code in it is not run.  Raises EvaluateError if there
    is no such checkpoint, it can neither be found on this machine nor downloaded, or is damaged.
    """
    kind, name = _parts(checkpoint)
    if kind == "torchvision":
        weights = _read(_from_url(_torchvision(checkpoint, name, architecture).url, checkpoint))
    elif kind == "timm":
        weights = _fetch_timm(checkpoint, name)
    elif kind == "open_clip":
        record = _open_clip(checkpoint, name, architecture)
        weights = _read(_file_of(checkpoint, record["hf_hub"], record["url"], OPEN_CLIP_FILES))
    else:
        weights = _read(_file(checkpoint))
    if architecture.startswith(OPEN_CLIP):  # its files hold the text tower too
        weights = {key: value for key, value in weights.items() if key.startswith(("visual.", "head."))} or weights
    if architecture == "densenet121":  # torchvision's file is older than its names
        weights = {DENSENET.sub(r"\1\2", key): value for key, value in weights.items()}
    return weights


def identity(checkpoint: str, architecture: str) -> str:
    """A name for a checkpoint's content: its version, or the first 64 bits of a file's SHA-256.

    Imports torch, through the checkpoint's package, only if a name leaves the version open.
    """
    kind, name = _parts(checkpoint)
    if kind == "torchvision" and name == "DEFAULT":
        return f"torchvision:{_torchvision(checkpoint, name, architecture).name}"
    if kind == "timm" and "." not in name:
        record = _timm(checkpoint, name)
        return f"timm:{record.architecture}.{record.tag}" if record.tag else checkpoint
    if kind == "file":
        path = _file(checkpoint)
        status = path.stat()
        return f"file:{_digest(path, status.st_size, status.st_mtime_ns)}"
    return checkpoint


def _parts(checkpoint: str) -> tuple[str, str]:
    kind, _, name = checkpoint.partition(":")
    return (kind, name) if kind in ("torchvision", "timm", "open_clip") and name else ("file", checkpoint)


@lru_cache
def _digest(path: Path, n_bytes: int, changed: int) -> str:
    """A file's digest, cached for its size and time of change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _file(checkpoint: str) -> Path:
    path = Path(checkpoint)
    if path.is_dir():
        raise EvaluateError(f"{checkpoint}: a folder; name the file of weights in it")
    if not path.is_file():
        ways = "torchvision:WEIGHTS, timm:NAME.TAG, open_clip:NAME/PRETRAINED or a file"
        raise EvaluateError(f"{checkpoint}: no such file; a checkpoint is {ways}")
    if not os.access(path, os.R_OK):
        raise EvaluateError(f"{checkpoint}: not readable; change its permissions")
    return path


def _torchvision(checkpoint: str, name: str, architecture: str) -> Any:
    from torchvision.models import get_model_weights

    try:
        known = get_model_weights(architecture).__members__
    except ValueError:
        others = "give one of timm or open_clip, or a file"
        raise EvaluateError(f"{checkpoint}: torchvision has no weights of {architecture}; {others}") from None
    if name not in known:
        raise EvaluateError(f"{checkpoint}: no such weights of {architecture}; there are {', '.join(known)}")
    return known[name]


def _timm(checkpoint: str, name: str) -> Any:
    """timm's record of a model's weights."""
    try:
        import timm
    except ImportError:
        raise EvaluateError(f"{checkpoint}: the package timm is not installed; uv pip install timm") from None
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        raise EvaluateError(f"{checkpoint}: timm has no model {model}{like(model, timm.list_models())}")
    known = [one for one in timm.list_pretrained(f"{model}*") if one.partition(".")[0] == model]
    if not known or (tag and name not in known):
        raise EvaluateError(
            f"{checkpoint}: timm has no such weights of {model}; there are {', '.join(known) or 'none'}"
        )
    return timm.models.get_pretrained_cfg(name)


def _fetch_timm(checkpoint: str, name: str) -> dict[str, Tensor]:
    """Loaded by timm itself, which renames weights that are older than its models."""
    record = _timm(checkpoint, name)
    import timm

    path = (
        _from_hub(record.hf_hub_id, TIMM_FILES, checkpoint) if record.hf_hub_id else _from_url(record.url, checkpoint)
    )
    given = {"state_dict": _read(path), "custom_load": False}
    try:
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=given)
    except (KeyError, RuntimeError) as error:
        why = str(error).partition("\n")[0]
        raise EvaluateError(f"{checkpoint}: {path} is not what timm {timm.__version__} expects ({why})") from None
    weights: dict[str, Tensor] = model.state_dict()
    return weights


def _open_clip(checkpoint: str, name: str, architecture: str) -> dict[str, Any]:
    """open_clip's record of a model's weights."""
    if not architecture.startswith(OPEN_CLIP):
        raise EvaluateError(f"{checkpoint}: {architecture} cannot take it; its architecture is {OPEN_CLIP}NAME")
    try:
        import open_clip
    except ImportError:
        raise EvaluateError(f"{checkpoint}: open_clip is not installed; uv pip install open_clip_torch") from None
    model, _, tag = name.partition("/")
    if model not in open_clip.list_models():
        raise EvaluateError(f"{checkpoint}: open_clip has no model {model}{like(model, open_clip.list_models())}")
    known = open_clip.list_pretrained_tags_by_model(model)
    if tag not in known:
        tags = ", ".join(known) or "none"
        raise EvaluateError(f"{checkpoint}: open_clip has no such weights of {model}; there are {tags}")
    record: dict[str, Any] = open_clip.get_pretrained_cfg(model, tag)
    tower = architecture.removeprefix(OPEN_CLIP)
    if tower in open_clip.list_models():
        _check_activation(checkpoint, bool(record.get("quick_gelu")), tower, open_clip.get_model_config(tower))
    return record


def _check_activation(checkpoint: str, quick: bool, tower: str, config: dict[str, Any]) -> None:
    """Names and shapes do not distinguish QuickGELU from GELU, but weights for one are of little use with the other."""
    transformer = isinstance(config["vision_cfg"].get("layers"), int)  # other towers have neither
    if transformer and quick != bool(config.get("quick_gelu")):
        plain = tower.removesuffix("-quickgelu")
        difference = f"trained {'with' if quick else 'without'} QuickGELU, unlike {OPEN_CLIP}{tower}"
        right = f"{plain}-quickgelu" if quick else plain
        raise EvaluateError(f"{checkpoint}: {difference}; the architecture is {OPEN_CLIP}{right}")


def _file_of(checkpoint: str, hub: str | None, url: str | None, names: tuple[str, ...]) -> Path:
    return _from_hub(hub, names, checkpoint) if hub else _from_url(url or "", checkpoint)


def _from_url(url: str, checkpoint: str) -> Path:
    """The file of a URL in torch.hub's cache, downloaded if it is missing."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    if path.is_file():
        return path
    hashed = re.search(r"-([0-9a-f]{8,})\.", path.name)  # torchvision's names end in the file's own hash
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _with_timeout():
            download = torch.hub.download_url_to_file
            download(url, str(path), hash_prefix=hashed and hashed.group(1), progress=sys.stderr.isatty())
    except (OSError, HTTPException, RuntimeError) as error:
        reason = f"cannot be downloaded from {urlsplit(url).hostname} ({str(error) or type(error).__name__})"
        raise EvaluateError(f"{checkpoint}: not on this machine, and {reason}; put {url} at {path}") from None
    return path


@contextmanager
def _with_timeout() -> Iterator[None]:
    """torch.hub waits forever if packets are lost."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _from_hub(place: str, names: tuple[str, ...], checkpoint: str) -> Path:
    """The first of some files of a model in the Hub's cache, downloaded if all are missing.

    ``place`` is ORG/MODEL, or ORG/MODEL/FILE.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache

    org, model, *file = place.strip("/").split("/")
    repo, names = f"{org}/{model}", ("/".join(file),) if file else names
    for name in names:
        cached = try_to_load_from_cache(repo, name)
        if isinstance(cached, str):
            return Path(cached)
    try:
        # Requested separately: without a network, downloads are retried for half a minute.
        there = {one.rfilename for one in HfApi().model_info(repo, timeout=TIMEOUT).siblings or ()}
        return Path(hf_hub_download(repo, next(name for name in names if name in there)))
    except StopIteration:
        raise EvaluateError(f"{checkpoint}: {repo} on the Hub has no {' or '.join(names)}; give a file") from None
    except Exception as error:  # of whichever HTTP library huggingface_hub uses; its text may hold a token
        host = urlsplit(constants.ENDPOINT).hostname
        reason = f"not on this machine, and cannot be downloaded from {host} ({type(error).__name__})"
        way = f"run 'hf download {repo} {names[0]}' where there is a network, and give the file, or copy it into"
        raise EvaluateError(f"{checkpoint}: {reason}; {way} {constants.HF_HUB_CACHE}") from None


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by the names that a model has for them."""
    import torch

    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _unpickle(path)
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    entries = loaded if isinstance(loaded, Mapping) else {}
    weights = {str(name): value for name, value in entries.items() if isinstance(value, torch.Tensor)}
    if not weights:
        held = ", ".join(map(str, [*entries][:5])) or type(loaded).__name__
        raise EvaluateError(f"{path}: no weights in it but {held}; save a model's state_dict()")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise EvaluateError(f"{path}: damaged, or not a safetensors file ({error}); download it again") from None


def _unpickle(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on old pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere
        wanted = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, UnpicklingError) else None
        if wanted:
            reason = f"holds Python objects ({wanted.group(1)}), which could run any code when read"
            way = "if you trust it, load it with weights_only=False and save only its state_dict"
        elif "TorchScript" in str(error):
            reason, way = "is a TorchScript program", "if you trust it, save torch.jit.load(it).state_dict()"
        else:
            reason, way = f"damaged, or not a file of weights ({type(error).__name__})", "download it again"
        raise EvaluateError(f"{path}: {reason}; {way}") from None
