"""Records that are hashed may gain fields: no digest of before changes, and nothing is stored of what is not used."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any

import pytest
from test_golden_records import GOLDEN

from synthgen.common.records import adapter, added, digest, plain
from synthgen.dataset.plan import read_plan
from synthgen_evaluate.design.suite import Suite, read_suite
from synthgen_evaluate.recipe import Recipe
from synthgen_evaluate.runs import Run, RunConfig
from synthgen_evaluate.tasks.simulated import simulate
from synthgen_evaluate.tasks.spec import TaskSpec


def grown(value: Any, **extra: int) -> Any:
    """A record, and all records in it, of types that have a field more."""
    if is_dataclass(value) and not isinstance(value, type):
        kind = make_dataclass(
            type(value).__name__, [("extra", int, added(0))], bases=(type(value),), frozen=True, kw_only=True
        )
        inner = {one.name: grown(getattr(value, one.name), **extra) for one in fields(value)}
        return kind(**inner, **extra)
    return tuple(grown(one, **extra) for one in value) if isinstance(value, tuple) else value


def stored(name: str) -> Any:
    """A record of the golden data."""
    if name == "run":
        (path,) = GOLDEN.glob("runs/25537*")
        return Run(directory=path).config
    return read_plan(GOLDEN / name / "plan.json").content


@pytest.mark.parametrize("name", ["fractal-finished", "diffusion-finished", "run"])
def test_a_field_more_changes_no_digest_until_it_is_used(name: str) -> None:
    record = stored(name)
    assert digest(grown(record)) == digest(record)
    assert plain(grown(record)) == plain(record)
    assert digest(grown(record, extra=1)) != digest(record)
    assert json.dumps(plain(grown(record, extra=1))).count('"extra": 1') > 1


def test_the_digests_of_before_are_those_of_now() -> None:
    for name in ("fractal-finished", "diffusion-finished"):
        assert json.loads((GOLDEN / name / "plan.json").read_text())["digest"] == digest(stored(name))
    for path in GOLDEN.glob("runs/*/config.json"):
        assert Run(directory=path.parent).config.digest == path.parent.name


def test_every_field_of_today_enters() -> None:
    config = RunConfig(
        kind="pretrain", architecture="a", seed=0, image_size=32, data={"n": 1}, recipe=Recipe(epochs=1, lr=1e-3)
    )
    record = plain(config)
    assert record.keys() == {one.name for one in fields(config)}
    assert record["recipe"].keys() == {one.name for one in fields(config.recipe)}


def test_options_that_are_not_given_are_those_of_the_set_that_is_there(tmp_path: Path, synthgen_here: Any) -> None:
    out, categories = tmp_path / "set", GOLDEN / "categories"
    made = ("--categories", categories, "--size", 40, "--points", 700, "--seed", 3, "--draw", "point_gray")
    for command in ((*made, "--shard-size", 7, "--n", 12), (), ("--n", 20)):
        told = synthgen_here("fractal", *command, "--workers", 1, "--out", out)
        assert told.returncode == 0, told.stderr
    plan = read_plan(out / "plan.json")
    assert plan.n == 20
    assert [one.shard_size for one in plan.segments] == [7, 7]
    assert (plan.content.image.side, plan.origin) == (40, {"folder": "categories"})
    told = synthgen_here("fractal", "--size", 41, "--workers", 1, "--out", out)
    assert told.returncode == 2
    assert told.stderr.endswith("size: 40 there, 41 asked\n")


@pytest.fixture
def other_defaults(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Recipes and suites as a later version may have them, with other defaults."""
    for kind, key, value in (
        (Recipe, "lr", 0.5),
        (Recipe, "batch_size", 32),
        (Recipe, "mixup", 0.3),
        (Recipe, "label_smoothing", 0.2),
        (Suite, "precision", "bf16"),
        (TaskSpec, "kind", "rxrx1"),
        (TaskSpec, "empty", False),
    ):
        (one,) = (one for one in fields(kind) if one.name == key)
        monkeypatch.setattr(one, "default", value)
    adapter.cache_clear()
    yield
    monkeypatch.undo()
    adapter.cache_clear()


def test_a_suite_that_has_runs_is_not_trained_again_under_other_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_defaults: None, evaluate_here: Any
) -> None:
    shutil.copytree(GOLDEN, tmp_path / "records")
    monkeypatch.chdir(tmp_path / "records")
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    told = evaluate_here("run", "suite.toml", "--out", "runs", "--device", "cpu")
    assert "0 runs done, 3 done before, 0 failed" in told.stdout, told.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert read_suite(Path("suite.toml")).pretrain.lr == 0.5  # what a new output would have


def test_a_suite_grows_under_other_defaults_by_those_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_defaults: None, evaluate_here: Any
) -> None:
    shutil.copytree(GOLDEN, tmp_path / "records")
    monkeypatch.chdir(tmp_path / "records")
    text = Path("suite.toml").read_text()
    simclr = '\n[[arms]]\nname = "views"\npretrain = { objective = "simclr" }\nsource = { kind = "shards", path = '
    Path("suite.toml").write_text(text.replace("seeds = [0]", "seeds = [0, 1]") + simclr + '"fractal-finished" }\n')
    before = {path.name for path in Path("runs").iterdir()}
    told = evaluate_here("run", "suite.toml", "--out", "runs", "--device", "cpu", "--dry-run")
    assert "runs: 7 runs to do, 3 done" in told.stdout, told.stderr
    suite = read_suite(Path("suite.toml"), Path("runs"))
    assert (suite.pretrain.lr, suite.pretrain.batch_size, suite.finetune.lr, suite.precision) == (
        1e-3,
        64,
        0.01,
        "float32",
    )
    assert suite.recipe(suite.arms[2]).problems() == []
    assert {path.name for path in Path("runs").iterdir()} == before


def test_a_key_that_is_given_is_taken_whatever_there_is() -> None:
    suite = read_suite(GOLDEN / "suite.toml", GOLDEN / "runs")
    assert suite == read_suite(GOLDEN / "suite.toml")
    assert suite.finetune.lr == 0.01


def test_a_simulated_set_goes_on_under_other_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluate_here: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    made = ("--classes", 3, "--locations", 4, "--images", 40, "--size", 32)
    assert evaluate_here("simulate", "--out", "traps", *made).returncode == 0
    before = {path: path.read_bytes() for path in Path("traps").rglob("*") if path.is_file()}
    monkeypatch.setitem(simulate.DEFAULTS, "seed", 7)
    told = evaluate_here("simulate", "--out", "traps")
    assert told.stdout == "traps: 40 images of 3 classes at 4 camera locations\n", told.stderr
    assert {path: path.read_bytes() for path in Path("traps").rglob("*") if path.is_file()} == before
    told = evaluate_here("simulate", "--out", "traps", "--seed", 8)
    assert (told.returncode, "seed 0 (requested: 8)" in told.stderr) == (2, True)
