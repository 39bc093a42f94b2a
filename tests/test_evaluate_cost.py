import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgen_evaluate.design.choice import Chosen, choose
from synthgen_evaluate.design.cost import (
    Estimate,
    Rates,
    TaskSize,
    estimate,
    measured,
    significant,
    size_of,
    stated,
    total,
    training_hours,
)
from synthgen_evaluate.design.experiments import by_arm
from synthgen_evaluate.design.selection import Selection
from synthgen_evaluate.design.suite import Suite, read_suite
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.recipe import Recipe
from synthgen_evaluate.runs import RunConfig
from synthgen_evaluate.tasks.base import Split, Task
from synthgen_evaluate.training.grid import make_grid

HOUR = 3600  # a rate of one image a second makes an hour of so many images
SUITE = """
name = "one"
baseline = "scratch"
image_size = 64
architectures = ["resnet18", "mobilenet_v3_small"]
seeds = [0, 1, 2]
[task]
path = "traps"
[pretrain]
epochs = 5
[finetune]
epochs = 2
evaluate_epochs = [1, 2]
[cost]
device = "NVIDIA X"
source = "a guess"
images_per_second = { resnet18 = 10, mobilenet_v3_small = 20 }
finetune_images = 3600
evaluated_images = 1800
[[arms]]
name = "scratch"
[[arms]]
name = "natural"
n = 7200
source = { kind = "folder", path = "x" }
"""
SCRATCH = 3 * (2 * 3600 + 2 * 1800 / 3) * (1 / 10 + 1 / 20) / HOUR  # three seeds of each architecture
NATURAL = SCRATCH + 3 * 5 * 7200 * (1 / 10 + 1 / 20) / HOUR


def suite_of(tmp_path: Path, text: str) -> Suite:
    (tmp_path / "suite.toml").write_text(text)
    return read_suite(tmp_path / "suite.toml")


def costs(tmp_path: Path, more: str = "", **options: Any) -> dict[str, Estimate]:
    suite = suite_of(tmp_path, SUITE + more)
    assert suite.cost
    return by_arm(suite, stated(suite.cost, suite.image_size), **options)


def test_a_run_costs_its_images_over_the_rate() -> None:
    recipe = Recipe(epochs=10, evaluate_epochs=(5, 10))
    assert training_hours(recipe, HOUR, 10) == pytest.approx(1.0)
    assert training_hours(recipe, HOUR, 10, evaluated=3 * HOUR) == pytest.approx(1.0 + 0.2)  # a third, twice
    assert training_hours(Recipe(epochs=10, objective="simclr"), HOUR, 10) == pytest.approx(2.0)  # two views
    assert training_hours(Recipe(epochs=10, objective="image-text"), HOUR, 10) == pytest.approx(1.0)


def test_an_arm_costs_its_runs_of_all_architectures_and_seeds(tmp_path: Path) -> None:
    found = costs(tmp_path)
    assert {name: one.runs for name, one in found.items()} == {"scratch": 6, "natural": 12}
    assert found["scratch"].hours == pytest.approx(SCRATCH)
    assert found["natural"].hours == pytest.approx(NATURAL)


def test_runs_that_arms_share_are_counted_once(tmp_path: Path) -> None:
    again = """
[[arms]]
name = "again"
factor = "quantity"
level = "7200"
n = 7200
source = { kind = "folder", path = "x" }
pretrain = { epochs = 5 }
[[arms]]
name = "wider"
n = 7200
source = { kind = "folder", path = "x" }
architectures = ["resnet18", "resnet50"]
[[arms]]
name = "longer"
n = 7200
source = { kind = "folder", path = "x" }
pretrain = { epochs = 10 }
[[arms]]
name = "fewer labels"
n = 7200
granularity = 5
source = { kind = "folder", path = "x" }
[[arms]]
name = "nothing"
"""
    found = costs(tmp_path, again)
    assert {name: one.runs for name, one in found.items()} == {
        "scratch": 6,
        "natural": 12,
        "again": 0,
        "wider": 6,  # of resnet50
        "longer": 12,
        "fewer labels": 12,
        "nothing": 0,
    }
    assert found["fewer labels"] == found["natural"]
    assert found["longer"].hours - SCRATCH == pytest.approx(2 * (NATURAL - SCRATCH))


def test_arms_of_other_outside_weights_share_no_runs(tmp_path: Path) -> None:
    outside = "".join(f'[[arms]]\nname = "{name}"\ncheckpoint = "torchvision:{name}"\n' for name in ("V1", "V2"))
    found = costs(tmp_path, outside)
    assert found["V1"] == found["V2"] == found["scratch"]


def test_what_is_not_known_is_left_out_and_told(tmp_path: Path) -> None:
    unknown = """
[[arms]]
name = "all"
source = { kind = "folder", path = "x" }
[[arms]]
name = "vit"
checkpoint = "timm:vit.x"
architectures = ["timm:vit"]
"""
    found = costs(tmp_path, unknown)
    assert found["all"].missing == {"the number of images of arm all is not known": 6}
    assert found["vit"].missing == {"no rate of timm:vit at 64 px": 3}
    whole = total(found.values())
    assert whole.hours == pytest.approx(2 * SCRATCH + NATURAL)  # the fine-tuning of "all" is known
    rates = Rates(device="NVIDIA X", source="a guess", images_per_second={})
    assert whole.describe(rates) == (
        "33 runs: at least 7.65 hours on one NVIDIA X (a guess);"
        " 6 runs left out: the number of images of arm all is not known; 3 runs left out: no rate of timm:vit at 64 px"
    )
    assert total([found["scratch"]]).describe(rates) == "6 runs: about 1.05 hours on one NVIDIA X (a guess)"


def test_counted_images_and_the_opened_task_come_before_what_is_stated(tmp_path: Path) -> None:
    selection = Selection(
        indices=np.arange(3600), labels=np.arange(3600) % 2, class_names=("a", "b"), rule="counted by hand"
    )
    chosen = {"natural": Chosen(source=None, selection=selection)}  # type: ignore[arg-type]
    counted = costs(tmp_path, chosen=chosen)
    assert counted["natural"].hours - SCRATCH == pytest.approx((NATURAL - SCRATCH) / 2)
    opened = costs(tmp_path, size=TaskSize(train=7200, evaluated=3600))
    assert opened["scratch"].hours == pytest.approx(2 * SCRATCH)


def test_the_images_of_an_arm_without_n_may_be_stated(tmp_path: Path) -> None:
    text = SUITE.replace("n = 7200\n", "").replace(
        "finetune_images", "pretrain_images = { natural = 7200 }\nfinetune_images"
    )
    suite = suite_of(tmp_path, text)
    assert suite.cost
    assert by_arm(suite, stated(suite.cost, 64))["natural"].hours == pytest.approx(NATURAL)
    assert by_arm(suite, stated(suite.cost, 32))["natural"].missing == {
        "no rate of resnet18 at 64 px": 6,
        "no rate of mobilenet_v3_small at 64 px": 6,
    }


def config(kind: str, objective: str = "supervised", *, seed: int = 0, architecture: str = "resnet18") -> RunConfig:
    evaluate = (1,) if kind == "finetune" else ()
    return RunConfig(
        kind=kind,
        architecture=architecture,
        seed=seed,
        image_size=64,
        data={"n_images": 3600, "digest": "x"},
        recipe=Recipe(epochs=2, objective=objective, evaluate_epochs=evaluate),  # type: ignore[arg-type]
    )


def test_the_runs_to_do_cost_what_their_configurations_say() -> None:
    rates = Rates(device="X", source="me", images_per_second={("resnet18", 64): 1.0})
    size = TaskSize(train=7200, evaluated=1800)
    runs = [
        config("pretrain"),
        config("pretrain", "simclr"),
        config("finetune"),
        config("finetune", architecture="vgg"),
    ]
    found = [estimate([run], rates, size) for run in runs]
    assert [one.hours for one in found] == pytest.approx([2, 4, 4 + 1 / 6, 0])
    assert total(found) == estimate(runs, rates, size)
    assert estimate(runs, rates, size).missing == {"no rate of vgg at 64 px": 1}
    assert estimate([], rates, size) == Estimate(hours=0, runs=0, missing={})


def test_a_plan_costs_what_the_runs_of_its_grid_cost(tmp_path: Path) -> None:
    source = 'n = 40\nsource = { kind = "fractals", categories = 4, points = 500 }\n'
    arms = "".join(f'[[arms]]\nname = "{name}"\n{source}' for name in ("one", "same", "other"))
    text = SUITE[: SUITE.index('[[arms]]\nname = "natural"')] + arms + 'pretrain = { objective = "simclr" }\n'
    suite = suite_of(tmp_path, text + "[pretrain_for.resnet18]\nepochs = 9\n")
    assert suite.cost
    chosen = {arm.name: choose(arm, suite.image_size) for arm in suite.arms if arm.pretraining}
    task = Task(class_names=("a",), splits={}, identity={"n_images": 1})
    steps = make_grid(suite, task, chosen, {}, {arm.name for arm in suite.arms}).steps
    rates, size = stated(suite.cost, suite.image_size), TaskSize(train=3600, evaluated=1800)
    planned = total(by_arm(suite, rates).values())
    assert planned.runs == len(steps) == 30
    assert planned.hours == pytest.approx(estimate([step.config for step in steps], rates, size).hours)


def test_the_size_of_a_task_is_that_of_its_splits() -> None:
    def split(n: int) -> Split:
        zero = np.zeros(n, np.int64)
        names = np.array(["x"] * n, dtype=object)
        return Split(files=names, image_id=names, y=zero, cluster=zero, sequence=zero)

    splits = {"train": split(5), "val": split(2), "test": split(3)}
    task = Task(class_names=("a",), splits=splits, identity={})
    assert size_of(task) == TaskSize(train=5, evaluated=5)


def finished(
    runs: Path, name: str, rate: float | None, *, status: str = "done", processes: int = 1, **keys: Any
) -> None:
    directory = runs / name
    directory.mkdir(parents=True)
    recipe = {"objective": keys.pop("objective", "supervised"), "epochs": 1}
    whole = {"kind": "pretrain", "seed": 0, "data": {}}
    record = {"architecture": "resnet18", "image_size": 64, "recipe": recipe, **whole, **keys}
    (directory / "config.json").write_text(json.dumps(record))
    state = {"status": status, "device": "NVIDIA Y", "processes": processes}
    state |= {"error": "the loss is not finite"} if status == "failed" else {}
    state |= {} if rate is None else {"train_images_per_second": rate}
    (directory / "state.json").write_text(json.dumps(state))


def test_rates_are_medians_of_the_finished_runs(tmp_path: Path) -> None:
    finished(tmp_path, "a", 100.0)
    finished(tmp_path, "b", 120.0)
    finished(tmp_path, "c", 500.0)
    finished(tmp_path, "d", 60.0, objective="simclr", architecture="resnet50")  # of images; their views are twice
    finished(tmp_path, "e", 400.0, processes=4, image_size=32)  # of four devices
    finished(tmp_path, "f", 1.0, status="failed")
    finished(tmp_path, "g", None)
    (tmp_path / "suites").mkdir()
    rates = measured(tmp_path)
    assert rates == Rates(
        device="NVIDIA Y",
        source=f"medians of 5 finished runs in {tmp_path}",
        images_per_second={("resnet18", 64): 120.0, ("resnet50", 64): 120.0, ("resnet18", 32): 100.0},
    )


def test_a_directory_without_finished_runs_tells_no_rates(tmp_path: Path) -> None:
    assert measured(tmp_path / "none") is None
    finished(tmp_path, "a", 1.0, status="running")
    assert measured(tmp_path) is None


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "state.json").write_text("{")
    with pytest.raises(EvaluateError, match=r"a/state.json: not JSON"):
        measured(tmp_path)


def test_a_measured_run_is_estimated_at_the_time_it_took(tmp_path: Path) -> None:
    run = config("pretrain", "simclr")
    finished(tmp_path, "a", 3600 * 2 / 1800, objective="simclr")  # two epochs of 3,600 images in half an hour
    rates = measured(tmp_path)
    assert rates
    assert estimate([run], rates, TaskSize(train=None, evaluated=None)).hours == pytest.approx(0.5)


@given(st.floats(1e-3, 1e7))
def test_hours_keep_three_digits(hours: float) -> None:
    assert significant(hours) == pytest.approx(hours, rel=0.005)
    assert len(f"{significant(hours):e}".partition("e")[0].replace(".", "").rstrip("0")) <= 3
