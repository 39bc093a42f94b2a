"""What every kind of images does, from its command to training: one suite that all kinds pass."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from processes import Start, kill_when
from test_golden_records import GOLDEN

ROOT = Path(__file__).parents[1]
TOY = ROOT / "tests/toy_kind.py"
SUITE = """
name = "one"
baseline = "scratch"
image_size = 32
architectures = ["timm:test_efficientnet"]
seeds = [0]
[task]
path = "{traps}"
[pretrain]
epochs = 1
[finetune]
epochs = 1
evaluate_epochs = [1]
[[arms]]
name = "scratch"
[[arms]]
name = "set"
source = {{ kind = "shards", path = "{path}" }}
"""
EVALUATE = "import toy_kind; from synthgen.kinds import known; known.KNOWN.append('toy_kind')\n" + (
    "from synthgen_evaluate.cli import main; main()"
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kind under test."""

    command: tuple[str, ...]  # that makes a set of it, but for --out and --n
    n: int  # images, in more than two shards
    more: int  # a larger number
    foreign: tuple[str, ...]  # what its card must not speak of
    said: tuple[str, ...]  # and what it must


TINY = ("--model", "tiny", "--size", "32", "--batch", "5", "--device", "cpu")
CASES = {
    "fractal": Case(
        command=("fractal", "--categories", str(GOLDEN / "categories"), "--size", "32", "--points", "1000"),
        n=12,
        more=17,
        foreign=("prompt", "diffusion model", "scheduler", "square"),
        said=("iterated function system", "FractalDB", "algorithmicMedia"),
    ),
    "square": Case(
        command=("square",),
        n=12,
        more=17,
        foreign=("fractal", "prompt", "diffusion", "scheduler", "category", "Kataoka"),
        said=("squares of 3 shades", "algorithmicMedia"),
    ),
    "diffusion": Case(
        command=("sd", "--prompts", str(ROOT / "prompts/quickstart.txt"), *TINY),
        n=12,
        more=17,
        foreign=("fractal", "category", "Kataoka", "square"),
        said=("diffusion model tiny", "trainedAlgorithmicMedia", "one image in five"),
    ),
}
PARAMETERS = [pytest.param(name, marks=pytest.mark.slow if name == "diffusion" else ()) for name in CASES]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TOY.parent), "OMP_NUM_THREADS": "1", **more}


def synthgen(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOY), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(**more))


def ran(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module", params=PARAMETERS)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def whole(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished set."""
    out = tmp_path_factory.mktemp("kinds") / "set"
    ran(synthgen(*case.command, "--shard-size", 5, "--workers", 1, "--n", case.n, "--out", out))
    return out


@pytest.fixture(scope="module")
def published(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("published") / "set"
    ran(synthgen("publish", whole, "--to", out))
    return out


def test_a_killed_command_is_taken_up_to_the_same_bytes_and_grows(
    case: Case, whole: Path, tmp_path: Path, launch: Start
) -> None:
    out = tmp_path / "set"
    command = [*case.command, "--shard-size", "5", "--workers", "1", "--out", str(out)]
    process = launch([sys.executable, TOY, *command, "--n", case.n], env=environment())
    kill_when(process, lambda: any(out.glob("data/*.json")))
    ran(synthgen(*command, "--n", case.n))
    names = digests(whole).keys() - {"README.md", "croissant.json", "samples.jpg", "quality.json"}
    assert {name: digest for name, digest in digests(out).items() if name in names} == {
        name: digest for name, digest in digests(whole).items() if name in names
    }
    before = {name: digest for name, digest in digests(out).items() if name.endswith((".tar", ".parquet"))}
    ran(synthgen(*command, "--n", case.more))
    assert before.items() <= digests(out).items()
    assert "0 faults" in ran(synthgen("verify", out))
    assert json.loads(ran(synthgen("status", out, "--json")))["n_done"] == case.more


def test_what_is_damaged_is_found_and_repaired(case: Case, whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "set"))
    before = digests(out)
    (tar, second, *_), (table, *_) = sorted(out.glob("data/*.tar")), sorted(out.glob("metadata/*"))
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    second.unlink()
    table.write_bytes(b"")
    assert synthgen("verify", out).returncode == 1
    ran(synthgen("verify", out, "--repair"))
    assert digests(out) == before


def test_a_preview_shows_its_classes(whole: Path, tmp_path: Path) -> None:
    ran(synthgen("preview", whole, "--out", tmp_path / "look"))
    page = (tmp_path / "look/gallery.html").read_text()
    content = read_manifest_here(whole)
    assert all(name in page for name in content["class_words"])


def read_manifest_here(whole: Path) -> dict[str, Any]:
    """What the set's content says, in a process that knows the kind."""
    code = (
        "import sys, json, toy_kind; from synthgen.kinds import known; known.KNOWN.append('toy_kind')\n"
        "from pathlib import Path; from synthgen.dataset.plan import read_plan\n"
        "content = read_plan(Path(sys.argv[1]) / 'plan.json').content\n"
        "samples = [content.sample(i) for i in range(12)]\n"
        "print(json.dumps({'class_names': content.class_names, 'class_words': content.class_words or"
        " content.class_names, 'labels': [s.label for s in samples], 'captions': [content.caption(s) for s in"
        " samples], 'ending': content.image.ending, 'side': content.image.side}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(whole)], capture_output=True, text=True, env=environment(), check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_card_says_what_is_so_and_nothing_of_other_kinds(case: Case, published: Path) -> None:
    assert "0 faults" in ran(synthgen("verify", published))
    card = (published / "README.md").read_text()
    for words in case.said:
        assert words in card
    for words in case.foreign:
        assert words.lower() not in card.lower(), words
    description = json.loads((published / "croissant.json").read_text())
    assert f"{case.n}" in description["description"]
    for words in case.foreign:
        assert words.lower() not in json.dumps(description).lower(), words


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of webdataset
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_clients_read_it(case: Case, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets, webdataset = pytest.importorskip("datasets"), pytest.importorskip("webdataset")
    from torchvision.datasets import ImageFolder

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    content = read_manifest_here(published)
    side, ending = content["side"], content["ending"]
    loaded = datasets.load_dataset(str(published), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["cls"] for row in loaded] == content["labels"]
    assert all(row[ending].size == (side, side) for row in loaded)
    shards = sorted(map(str, (published / "data").glob("*.tar")))
    rows = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple(ending, "cls", "json"))
    assert [label for _, label, _ in rows] == content["labels"]
    assert {record["class"] for *_, record in rows} == {content["class_names"][label] for label in content["labels"]}
    ran(synthgen("export", published, "--out", tmp_path / "images"))
    folder = ImageFolder(str(tmp_path / "images"))
    names = [content["class_names"][label] for label in content["labels"]]
    assert folder.classes == sorted(set(names))
    assert sorted(folder.classes[label] for label in folder.targets) == sorted(names)


def test_a_suite_trains_on_it(case: Case, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(SUITE.format(traps=GOLDEN / "traps", path=whole))
    command = [sys.executable, "-c", EVALUATE, "run", "suite.toml", "--out", "runs", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert "3 runs done, 0 done before, 0 failed" in ran(done)
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "runs/suites").glob("*.json"))
    (origin,) = record["arms"][1]["origin"]
    assert not [words for words in case.foreign if words in origin]
