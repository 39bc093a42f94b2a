"""Records that are hashed may gain fields: no digest of before changes, and nothing is stored of what is not used."""

import json
from dataclasses import fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any

import pytest
from test_golden_records import GOLDEN

from synthgen.common.records import added, digest, plain
from synthgen.dataset.plan import read_plan
from synthgen_evaluate.recipe import Recipe
from synthgen_evaluate.runs import Run, RunConfig


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
