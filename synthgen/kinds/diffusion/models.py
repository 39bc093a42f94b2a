"""Resolves the name of a model to its files, which are checked, and to the defaults of its family.

A model is a folder in diffusers' layout, on this machine or on the Hugging Face Hub.  Defects are found here,
before torch is imported.  Only weights in safetensors are read, since reading a pickle runs code.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from os.path import realpath
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from synthgen.common.errors import SynthgenError
from synthgen.common.records import whole_number
from synthgen.kinds.base import MAX_SIDE
from synthgen.kinds.diffusion.content import ModelRecord
from synthgen.kinds.diffusion.pipelines import classes, of_class, presets, tiny
from synthgen.kinds.diffusion.pipelines.base import Defaults
from synthgen.storage.reading import open_file, read_file

DEFAULT = "sd15"
BUILT_IN = Path(__file__).parent / "tiny/model"
INDEX = "model_index.json"
FIRST = (INDEX, "unet/config.json", "vae/config.json")  # what determines pipeline and size
TOKENIZER = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
CONFIG = {"scheduler": "scheduler_config.json", "feature_extractor": "preprocessor_config.json"}  # else config.json
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}  # else model
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
HUB_TIMEOUT = 10  # seconds
LONGEST = 1 << 28  # bytes in a JSON file of a model
BLOCKS = 12  # in an autoencoder, at most: each but the last halves the picture
INSTEAD = "give a model's folder with --model PATH, or use the built-in model with --model tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model whose files are on this machine and passed the checks."""

    name: str  # Hub id, "tiny", or a folder's name
    revision: str  # commit on the Hub, or "sha256:..." over the files that are loaded
    variant: str | None  # in the names of its weight files: "fp16", or none
    folder: Path
    defaults: Defaults


def find_model(text: str, *, revision: str | None = None, dtype: str | None = None, download: bool = True) -> Model:
    """The model that ``text`` names: a preset, a folder, or a Hub id, which is downloaded if necessary.

    ``revision`` is a branch, tag or commit on the Hub, or what a folder's files hash to.  ``dtype`` is what the
    weights will be loaded as, if it is not the family's default: of weights in two precisions, the matching ones
    are used.  Raises SynthgenError, with a message of one line, for whatever is wrong.
    """
    try:
        return _find(text, revision, dtype, download)
    except OSError as error:
        raise SynthgenError(f"{error.filename}: {error.strerror}; {INSTEAD}") from None


def is_built_in(model: ModelRecord) -> bool:
    """Whether it is the model that comes with synthgen; a folder may have the same name."""
    return model.name == tiny.NAME and model.revision == _built_in()


@lru_cache(maxsize=1)
def _built_in() -> str:
    return find_model(tiny.NAME).revision


def _find(text: str, revision: str | None, dtype: str | None, download: bool) -> Model:
    if text in presets() and presets()[text].hub is None:
        return _in_folder(BUILT_IN, text, revision, presets()[text].defaults, dtype)
    path = Path(text).expanduser()
    if text and text not in presets() and (path.exists() or text.startswith(("/", ".", "~")) or text.count("/") > 1):
        return _in_folder(path, Path(realpath(path)).name, revision, None, dtype)
    repo = presets()[text].hub if text in presets() else text
    if not repo or not re.fullmatch(r"(?!.*(--|\.\.|\.git$))\b[\w.-]+\b/\b[\w.-]{1,96}\b", repo):  # the Hub's rule
        raise SynthgenError(
            f"{text!r}: neither a preset ({', '.join(presets())}) nor a folder nor a Hub id like owner/name"
        )
    defaults = next((preset.defaults for preset in presets().values() if preset.hub == repo), None)
    return _on_hub(repo, revision, defaults, dtype, download)


# Where a model is


def _in_folder(folder: Path, name: str, revision: str | None, defaults: Defaults | None, dtype: str | None) -> Model:
    if folder.is_file():
        raise SynthgenError(f"{folder}: a file, not a folder; {_convert(folder.name)}")
    files, variant, defaults = _choose(folder, _names(folder), defaults, dtype, str(folder))
    _check(folder, files)
    own = _digest(folder, files)
    if revision not in (None, own):
        raise SynthgenError(f"{folder}: revision {own}, not {revision}; give the folder as it was, or no revision")
    return Model(name=name, revision=own, variant=variant, folder=folder, defaults=defaults)


def _on_hub(repo: str, revision: str | None, defaults: Defaults | None, dtype: str | None, download: bool) -> Model:
    from huggingface_hub import try_to_load_from_cache

    folder, failure = None, "" if download else f"not complete on this machine, and not to be downloaded; {INSTEAD}"
    if download:
        try:
            folder = _download(repo, revision, defaults, dtype)
        except SynthgenError:
            raise
        except Exception as error:  # of whichever HTTP library huggingface_hub uses
            failure = _why(error, revision)
    if folder is None:  # an earlier download serves as well, even of a model no longer on the Hub
        index = try_to_load_from_cache(repo, INDEX, revision=revision)
        if not isinstance(index, str):
            raise SynthgenError(f"{repo}: {failure}")
        folder = Path(index).parent
    try:
        files, variant, defaults = _choose(folder, _names(folder), defaults, dtype, repo)
        _check(folder, files)
    except SynthgenError as error:
        raise SynthgenError(f"{repo}: {failure}" if failure else str(error)) from None
    return Model(name=repo, revision=folder.name, variant=variant, folder=folder, defaults=defaults)


def _download(repo: str, revision: str | None, defaults: Defaults | None, dtype: str | None) -> Path:
    """Download those files of a model that will be loaded and are missing; first the few that determine which."""
    from huggingface_hub import HfApi, snapshot_download

    # The commit is requested separately: without a network, downloads are retried for half a minute.
    info = HfApi().model_info(repo, revision=revision, timeout=HUB_TIMEOUT)
    names = {file.rfilename for file in info.siblings or ()}
    _need_index(names, repo)
    folder = Path(snapshot_download(repo, revision=info.sha, allow_patterns=list(FIRST)))
    files, _, _ = _choose(folder, names, defaults, dtype, repo)
    # By the revision's own name, so that the cache knows it if the Hub cannot be reached.
    return Path(snapshot_download(repo, revision=revision, allow_patterns=files))


def _why(error: Exception, revision: str | None) -> str:
    """Why the Hub cannot be used, and what to do; nothing from the request, which may contain a token."""
    from huggingface_hub import constants, errors

    login, host = "log in with 'hf auth login'", urlsplit(constants.ENDPOINT).hostname
    match error:
        case errors.GatedRepoError():
            return f"gated; accept its terms on its page on the Hub, and {login}"
        case errors.RepositoryNotFoundError():
            return f"no such model on the Hub, or a private one; check the name, or {login}"
        case errors.RevisionNotFoundError():
            return f"no revision {revision!r} on the Hub; give a branch, a tag or a commit"
        case errors.HfHubHTTPError():
            status = error.response.status_code
            todo = login if status == 401 else "try again later"
            return f"{host} answers with status {status}; {todo}, or {INSTEAD}"
        case OSError(errno=int()):
            return f"{error.strerror} ({error.filename}); resolve that and run again"
    offline = isinstance(error, errors.OfflineModeIsEnabled)
    reason = "HF_HUB_OFFLINE is set" if offline else type(error).__name__
    return f"not complete on this machine, and {host} cannot be reached ({reason}); {INSTEAD}"


# A model's files


def _names(folder: Path) -> set[str]:
    """The files at the top of a model and one level below, as paths from its folder."""
    top = {path.name: path for path in folder.iterdir()}
    parts = [path for path in top.values() if path.is_dir()] if INDEX in top else []
    inside = {f"{part.name}/{path.name}" for part in parts for path in part.iterdir() if path.exists()}
    return inside | top.keys()


def _choose(
    folder: Path, names: set[str], defaults: Defaults | None, dtype: str | None, where: str
) -> tuple[list[str], str | None, Defaults]:
    """Which of a model's files ``names`` to load, the variant of their weights, and the model's defaults.

    Reads only FIRST, which must be in ``folder``.
    """
    _need_index(names, where)
    general, parts = _pipeline(folder / INDEX)
    files = [INDEX, *(file for part in parts for file in _configs(names, part, where))]
    defaults = defaults or _sized(folder, general)
    heavy = [part for part in parts if part not in CONFIG and not part.startswith("tokenizer")]
    for variant in ("fp16", None) if (dtype or defaults.dtype) == "float16" else (None, "fp16"):
        # Like diffusers: a part without this variant is loaded without any.
        weights = [_weights(names, part, variant) or _weights(names, part, None) for part in heavy]
        if all(weights):
            files += [file for some in weights for file in some]
            return files, variant if any(f".{variant}" in file for file in files) else None, defaults
    lacking = next(part for part, some in zip(heavy, weights, strict=True) if not some)
    raise SynthgenError(f"{where}: {_lack(names, lacking)}")


def _need_index(names: set[str], where: str) -> None:
    if INDEX not in names:
        weights = [name for name in sorted(names) if "/" not in name and name.endswith((".safetensors", *PICKLES))]
        todo = _convert(weights[0]) if weights else INSTEAD
        raise SynthgenError(f"{where}: {f'no {INDEX}' if names else 'an empty folder'}, so not a model; {todo}")


def _convert(name: str) -> str:
    why = " (a pickle, and reading one runs code)" if name.endswith(PICKLES) else ""
    return f"convert {name}{why} to a folder of safetensors with diffusers' save_pretrained"


def _pipeline(path: Path) -> tuple[Defaults, list[str]]:
    """Defaults and parts of the pipeline in a model_index.json; refuses unknown pipelines and external code."""
    index = _read_json(path)
    name = index.get("_class_name")
    known = of_class(name) if isinstance(name, str) else None
    if known is None or known.general is None:
        drawn = " and ".join(classes())
        raise SynthgenError(f"{path}: _class_name {name!r:.80}: synthgen draws with {drawn}; {INSTEAD}")
    parts = {key: value for key, value in index.items() if key[0:1] != "_" and isinstance(value, list) and any(value)}
    for part, value in parts.items():
        # diffusers keeps its safety checker in a package of its own.
        libraries = ("diffusers", "transformers", "stable_diffusion" if part == "safety_checker" else "")
        if value[0] not in libraries:
            outside = "code from outside diffusers and transformers"
            raise SynthgenError(f"{path}: {part[:80]} {value!r:.80}: {outside}; {INSTEAD}")
    for part in known.parts:
        if part not in parts:
            raise SynthgenError(f"{path}: {part} {index.get(part)!r:.80}: a {name} needs one; give a complete model")
    return known.general, sorted(parts)


def _configs(names: set[str], part: str, where: str) -> list[str]:
    """The files that configure a part."""
    if part.startswith("tokenizer"):
        found = [f"{part}/{name}" for name in (*TOKENIZER, "added_tokens.json") if f"{part}/{name}" in names]
        needed = found if f"{part}/tokenizer.json" in found else [f"{part}/vocab.json", f"{part}/merges.txt"]
    else:
        found = needed = [f"{part}/{CONFIG.get(part, 'config.json')}"]
    for name in needed:
        if name not in names:
            raise SynthgenError(f"{where}: no {name}; give a complete model, in diffusers' layout")
    return found


def _weights(names: set[str], part: str, variant: str | None) -> list[str]:
    """The weight files of a part: one, or an index and several; none if they are incomplete."""
    stem, tag = f"{part}/{WEIGHTS.get(part, 'model')}", f".{variant}" if variant else ""
    index, single = f"{stem}.safetensors.index{tag}.json", f"{stem}{tag}.safetensors"
    if index not in names:
        return [single] if single in names else []
    number = r"-\d+-of-(\d+)"  # diffusers before 0.31 wrote it before the variant
    pattern = re.compile(rf"{re.escape(stem)}({re.escape(tag)}{number}|{number}{re.escape(tag)})\.safetensors")
    shards = {name: match for name in sorted(names) if (match := pattern.fullmatch(name))}
    whole = all(int(match[2] or match[3]) == len(shards) for match in shards.values())
    return [index, *shards] if shards and whole else []


def _lack(names: set[str], part: str) -> str:
    """Why there are no weights of a part."""
    files = [name for name in sorted(names) if name.startswith(f"{part}/")]
    missing = f"no complete {part}/{WEIGHTS.get(part, 'model')}.safetensors"
    if pieces := [name for name in files if name.endswith(".safetensors")]:
        return f"{missing}, but {', '.join(pieces)}; fetch the model again"
    pickle = next((name for name in files if name.endswith(PICKLES)), None)
    return f"{missing}; {_convert(pickle) if pickle else 'give a complete model'}"


def _sized(folder: Path, defaults: Defaults) -> Defaults:
    """A family's defaults for a model of another size."""
    latents = _read_json(folder / "unet/config.json").get("sample_size")
    blocks = _read_json(folder / "vae/config.json").get("block_out_channels")
    size = 0
    if type(latents) is int and isinstance(blocks, list) and 0 < len(blocks) <= BLOCKS:
        size = latents * 2 ** (len(blocks) - 1)
    if not 1 <= size <= MAX_SIDE:
        latents, blocks = repr(latents)[:40], repr(blocks)[:80]
        seen = f"sample_size {latents} in unet/config.json, block_out_channels {blocks} in vae/config.json"
        raise SynthgenError(f"{folder}: {seen}: these give no size in pixels up to {MAX_SIDE}; correct them")
    defaults = replace(defaults, size=size)
    return replace(defaults, dtype="float32", image_format="png") if defaults.size <= 64 else defaults


def _read_json(path: Path) -> dict[str, Any]:
    """A file of a model; not read as records are, since schedulers' files contain -Infinity."""
    try:
        value = json.loads(read_file(path, limit=LONGEST), parse_int=whole_number)
    except RecursionError:
        raise SynthgenError(f"{path}: nested too deeply for the file of a model; fetch it again") from None
    except ValueError as error:
        raise SynthgenError(f"{path}: not JSON ({error}); fetch it again") from None
    if not isinstance(value, dict):
        raise SynthgenError(f"{path}: a JSON {type(value).__name__}, not an object; fetch it again")
    return value


def _check(folder: Path, files: list[str]) -> None:
    """Raise SynthgenError if a file is damaged, truncated or only a pointer to the file it names."""
    from safetensors import SafetensorError, safe_open

    for path in (folder / name for name in files):
        if path.suffix == ".json":
            _read_json(path)
        elif path.suffix == ".safetensors":
            try:
                with open_file(path), safe_open(path, framework="numpy"):  # a pipe would block the second
                    pass
            except SafetensorError as error:
                hint = "fetch it again (where Git made the folder: git lfs pull)"
                raise SynthgenError(f"{path}: not complete safetensors ({error}); {hint}") from None


def _digest(folder: Path, files: list[str]) -> str:
    """A hash of the files' names and contents, whatever their order and machine."""
    digest = hashlib.sha256()
    for name in sorted(files):
        with open_file(folder / name) as file:
            digest.update(f"{name}\0{hashlib.file_digest(cast('Any', file), 'sha256').hexdigest()}\n".encode())
    return f"sha256:{digest.hexdigest()}"
