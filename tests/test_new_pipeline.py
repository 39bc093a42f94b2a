"""The recipe "Adding a family of diffusion models" of docs/architecture.md, followed word for word."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from conftest import Command

from synthgen.kinds.diffusion import pipelines
from synthgen.kinds.diffusion.tiny import MODEL

# The file: perturbed-attention guidance (Ahn et al. 2024), a class of diffusers that no family here has.
FILE = """
from dataclasses import replace

from synthgen.kinds.diffusion.pipelines.base import PARTS, STABLE_DIFFUSION, Pipeline, Preset
from synthgen.kinds.licences import openrail

HUB = "someone/guided"
DEFAULTS = replace(STABLE_DIFFUSION, steps=3, size=32, dtype="float32", image_format="png")
PIPELINE = Pipeline(
    diffusers="StableDiffusionPAGPipeline",
    parts=PARTS,
    general=DEFAULTS,
    presets={"guided": Preset(hub=HUB, defaults=DEFAULTS)},
    licences={HUB: openrail(identifier="creativeml-openrail-m", name="RAIL", link="https://example.org/licence")},
    citation="@article{ahn2024self, title = {Self-Rectifying Diffusion Sampling}}",
    limits=("Guided images repeat their layout.",),
)
"""


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file, and its line in the list."""
    name = f"{pipelines.__name__}.guided"
    module = ModuleType(name)
    exec(FILE, module.__dict__)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(pipelines, "KNOWN", (*pipelines.KNOWN, "guided"))
    pipelines.pipelines.cache_clear()
    pipelines.presets.cache_clear()
    yield
    pipelines.pipelines.cache_clear()
    pipelines.presets.cache_clear()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of the class: the built-in one's parts."""
    folder = tmp_path / "guided"
    shutil.copytree(MODEL, folder)
    added = {"_class_name": "StableDiffusionPAGPipeline", "pag_applied_layers": "down"}  # its middle has no attention
    index = json.loads((folder / "model_index.json").read_text()) | added
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_without_the_file_and_the_line_the_class_is_refused(model: Path, synthgen_here: Command) -> None:
    done = synthgen_here("sd", "--prompts", "prompts/quickstart.txt", "--model", model, "--n", 2, "--dry-run")
    assert done.returncode == 2
    assert "StableDiffusionPAGPipeline" in done.stderr


@pytest.mark.usefixtures("added")
def test_a_family_is_one_file_and_one_line(model: Path, synthgen_here: Command, tmp_path: Path) -> None:
    assert pipelines.presets()["guided"].hub == "someone/guided"
    out = tmp_path / "set"
    made = synthgen_here("sd", "--prompts", "prompts/quickstart.txt", "--model", model, "--n", 2, "--out", out)
    assert made.returncode == 0, made.stderr
    plan = json.loads((out / "plan.json").read_text())
    assert plan["content"]["sampling"]["steps"] == 3
    assert synthgen_here("verify", out).returncode == 0
    published = synthgen_here("publish", out, "--to", tmp_path / "published")
    assert published.returncode == 0, published.stderr
    card = (tmp_path / "published" / "README.md").read_text()
    assert "StableDiffusionPAGPipeline" in card or "guided" in card
