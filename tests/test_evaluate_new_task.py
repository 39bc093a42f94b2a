"""The recipes for a new task: a row for a set of WILDS, and one module with a line in the list for any other."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import made
from PIL import Image
from toy_task import write_quilts

from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.reporting.report_tables import tables
from synthgen_evaluate.tasks import known, wilds
from synthgen_evaluate.tasks.base import Words
from synthgen_evaluate.tasks.spec import TaskSpec, open_task
from synthgen_evaluate.tasks.wilds import sets

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wilds.*", "ignore::DeprecationWarning:ogb.*")
SUITE = """
name = "quilting"
baseline = "scratch"
image_size = 32
architectures = ["timm:test_efficientnet"]
seeds = [0]
[task]
path = "{quilts}"
kind = "quilts"
[pretrain]
epochs = 1
[finetune]
epochs = 2
evaluate_epochs = [1, 2]
[[arms]]
name = "scratch"
[[arms]]
name = "fractals"
n = 12
source = {{ kind = "fractals", categories = 2, points = 500 }}
"""
ROW = sets.WildsSet(
    words=Words(
        metric="macro-F1",
        cluster="habitat",
        clusters="habitats",
        id="from the usual habitat",
        ood="from either habitat",
    ),
    version="1.0",
    metadata="metadata.csv",
    columns={"img_filename": sets.NAME, **dict.fromkeys(("y", "split", "place"), sets.WHOLE)},
    images="birds",
    splits={"train": "train", "id_test": "val", "test": "test"},
    files=lambda dataset: [name.removeprefix("birds/") for name in dataset._input_array],
    cluster=lambda dataset: dataset.metadata_array[:, 0].numpy(),
    class_names=lambda dataset: ["landbird", "waterbird"],
    rules="y, split and place must be whole numbers",
    origin="nowhere",
)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    known.kinds.cache_clear()
    yield
    known.kinds.cache_clear()


def test_a_set_of_wilds_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sets.SETS, "waterbirds", ROW)
    monkeypatch.setattr(wilds, "TASKS", wilds.tasks())
    folder = tmp_path / "waterbirds_v1.0"
    (folder / "birds").mkdir(parents=True)
    (folder / "RELEASE_v1.0.txt").touch()
    rows = [(f"birds/{k}.png", k % 2, k % 3, k // 3 % 2) for k in range(12)]
    lines = [",".join(map(str, row)) for row in rows]
    (folder / "metadata.csv").write_text("\n".join(["img_filename,y,split,place", *lines]))
    for name, *_ in rows:
        Image.new("RGB", (32, 32)).save(folder / name)
    task = open_task(TaskSpec(path=str(tmp_path), kind="waterbirds"))
    assert task.identity["kind"] == "waterbirds"
    for number, name in enumerate(("train", "id_test", "test")):
        mine = [row for row in rows if row[2] == number]
        assert task.splits[name].cluster.tolist() == [place for *_, place in mine]
        assert task.splits[name].y.tolist() == [y for _, y, _, _ in mine]
    (image,) = task.splits["test"].decode(np.array([0]), 16)
    assert image.shape == (16, 16, 3)
    assert known.words_of(task.identity).cluster == "habitat"


def test_another_task_is_one_module_and_a_line_and_is_trained_on_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluate_here: Callable[..., Any]
) -> None:
    monkeypatch.setattr(known, "KNOWN", [*known.KNOWN, "toy_task"])
    write_quilts(tmp_path / "quilts")
    (tmp_path / "suite.toml").write_text(SUITE.format(quilts=tmp_path / "quilts"))
    monkeypatch.chdir(tmp_path)
    told = evaluate_here("plan", "suite.toml", "--count")
    assert told.returncode == 0, told.stderr
    told = evaluate_here("run", "suite.toml", "--out", "runs", "--device", "cpu")
    assert told.returncode == 0, told.stderr
    assert "3 runs done" in told.stdout
    told = evaluate_here("compare", "runs", "--out", "report", "--resamples", "200")
    assert told.returncode == 0, told.stderr
    page = (tmp_path / "report/index.html").read_text()
    texts = [page, told.stdout, *(path.read_text() for path in (tmp_path / "report/tables").glob("*.md"))]
    assert not [found for text in texts for found in re.findall(r".*\b(?:camera|location)s?\b.*", _words(text))]
    assert "from quilts that were not in the training images" in page
    assert "Worst quilt" in page


def _words(page: str) -> str:
    """What a reader sees of a page, and not its style, its script and the names of files."""
    return re.sub(r"<(style|script|svg)\b.*?</\1>|<span class=.unseen.*?</span>|<[^>]*>", " ", page, flags=re.DOTALL)


def test_a_task_that_is_not_known_is_refused_with_those_that_are(evaluate_here: Callable[..., Any]) -> None:
    told = evaluate_here("finetune", "x", "--kind", "quilts", "--out", "y")
    assert told.returncode == 2
    assert "'quilts' is not one of iwildcam, fmow, camelyon17, rxrx1" in told.stderr


def test_a_task_whose_metric_cannot_be_compared_by_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(ROW, words=replace(ROW.words, metric="accuracy"))
    monkeypatch.setitem(sets.SETS, "waterbirds", row)
    monkeypatch.setattr(wilds, "TASKS", wilds.tasks())
    with pytest.raises(EvaluateError, match="task waterbirds: metric 'accuracy'; arms can be compared by macro-F1"):
        known.kinds()


def test_tables_take_the_name_of_the_metric_from_the_task() -> None:
    comparison = made()
    renamed = replace(comparison, words=replace(comparison.words, metric="macro-F2"))
    for one, other in zip(tables(comparison).values(), tables(renamed).values(), strict=True):
        found = [[table.caption, *(column.title for column in table.columns)] for table in (one, other)]
        assert [text.replace("acro-F1", "acro-F2") for text in found[0]] == found[1]
