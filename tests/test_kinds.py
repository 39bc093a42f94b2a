"""What every kind of images does, from its command to training: one suite that all kinds pass."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pretend
import pytest
import toy_kind
from conftest import Command
from processes import Start, kill_when
from test_golden_records import GOLDEN

from synthgen import cli
from synthgen.dataset.plan import read_plan
from synthgen.kinds import known

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


@pytest.fixture(scope="module", autouse=True)
def toy() -> Iterator[None]:
    """The toy kind, which this process knows too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "KNOWN", [*known.KNOWN, "toy_kind"])
        patch.setattr(cli.app, "registered_groups", list(cli.app.registered_groups))
        known.kinds.cache_clear()
        cli.app.add_typer(toy_kind.KIND.commands())
        yield
    known.kinds.cache_clear()


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
def whole(case: Case, tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command) -> Path:
    """A finished set."""
    out = tmp_path_factory.mktemp("kinds") / "set"
    ran(synthgen_here(*case.command, "--shard-size", 5, "--workers", 1, "--n", case.n, "--out", out))
    return out


@pytest.fixture(scope="module")
def published(whole: Path, tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command) -> Path:
    out = tmp_path_factory.mktemp("published") / "set"
    ran(synthgen_here("publish", whole, "--to", out))
    return out


def test_a_killed_command_is_taken_up_to_the_same_bytes_and_grows(
    case: Case, whole: Path, tmp_path: Path, launch: Start, synthgen_here: Command
) -> None:
    out = tmp_path / "set"
    command = [*case.command, "--shard-size", "5", "--workers", "1", "--out", str(out)]
    process = launch([sys.executable, TOY, *command, "--n", case.n], env=pretend.environment())
    kill_when(process, lambda: any(out.glob("data/*.json")))
    ran(synthgen_here(*command, "--n", case.n))
    names = digests(whole).keys() - {"README.md", "croissant.json", "samples.jpg", "quality.json"}
    assert {name: digest for name, digest in digests(out).items() if name in names} == {
        name: digest for name, digest in digests(whole).items() if name in names
    }
    before = {name: digest for name, digest in digests(out).items() if name.endswith((".tar", ".parquet"))}
    ran(synthgen_here(*command, "--n", case.more))
    assert before.items() <= digests(out).items()
    assert "0 defects" in ran(synthgen_here("verify", out))
    assert json.loads(ran(synthgen_here("status", out, "--json")))["n_done"] == case.more


def test_what_is_damaged_is_found_and_repaired(case: Case, whole: Path, tmp_path: Path, synthgen_here: Command) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "set"))
    before = digests(out)
    (tar, second, *_), (table, *_) = sorted(out.glob("data/*.tar")), sorted(out.glob("metadata/*"))
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    second.unlink()
    table.write_bytes(b"")
    assert synthgen_here("verify", out).returncode == 1
    ran(synthgen_here("verify", out, "--repair"))
    assert digests(out) == before


def test_a_preview_shows_its_classes(whole: Path, tmp_path: Path, synthgen_here: Command) -> None:
    ran(synthgen_here("preview", whole, "--out", tmp_path / "look"))
    page = (tmp_path / "look/gallery.html").read_text()
    content = read_plan(whole / "plan.json").content
    assert all(name in page for name in content.class_words or content.class_names)


def test_the_card_says_what_is_so_and_nothing_of_other_kinds(
    case: Case, published: Path, synthgen_here: Command
) -> None:
    assert "0 defects" in ran(synthgen_here("verify", published))
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
def test_clients_read_it(
    case: Case, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synthgen_here: Command
) -> None:
    datasets, webdataset = pytest.importorskip("datasets"), pytest.importorskip("webdataset")
    from torchvision.datasets import ImageFolder

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    content = read_plan(published / "plan.json").content
    side, ending = content.image.side, content.image.ending
    labels = [content.sample(index).label for index in range(case.n)]
    loaded = datasets.load_dataset(str(published), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["cls"] for row in loaded] == labels
    assert all(row[ending].size == (side, side) for row in loaded)
    shards = sorted(map(str, (published / "data").glob("*.tar")))
    rows = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple(ending, "cls", "json"))
    assert [label for _, label, _ in rows] == labels
    assert {record["class"] for *_, record in rows} == {content.class_names[label] for label in labels}
    ran(synthgen_here("export", published, "--out", tmp_path / "images"))
    folder = ImageFolder(str(tmp_path / "images"))
    names = [content.class_names[label] for label in labels]
    assert folder.classes == sorted(set(names))
    assert sorted(folder.classes[label] for label in folder.targets) == sorted(names)


def test_a_suite_trains_on_it(case: Case, whole: Path, tmp_path: Path, evaluate_here: Command) -> None:
    (tmp_path / "suite.toml").write_text(SUITE.format(traps=GOLDEN / "traps", path=whole))
    done = evaluate_here("run", tmp_path / "suite.toml", "--out", tmp_path / "runs", "--device", "cpu")
    assert "3 runs done, 0 done before, 0 failed" in ran(done)
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "runs/suites").glob("*.json"))
    (origin,) = record["arms"][1]["origin"]
    assert not [words for words in case.foreign if words in origin]
