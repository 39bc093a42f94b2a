import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from fractaldb import render
from fractaldb.ifs import FractalError, weight_table
from synthgen_evaluate.design import sources
from synthgen_evaluate.design.arms import FromMixture, Weights
from synthgen_evaluate.design.choice import choose, select
from synthgen_evaluate.design.cost import stated, total
from synthgen_evaluate.design.experiments import by_arm, recipe_lines, table
from synthgen_evaluate.design.labelling import ControlLabels, Labels
from synthgen_evaluate.design.select import Everything, Select
from synthgen_evaluate.design.sources import FolderSource, FractalSource, ShardSource
from synthgen_evaluate.design.suite import Suite, read_suite
from synthgen_evaluate.design.taxonomy import imagenet1k
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.reporting.tables import FORMATS, written

Command = Callable[..., Any]
SUITES = Path(__file__).parents[1] / "evaluate" / "suites"
GOOD = """
name = "one"
baseline = "scratch"
image_size = 32
architectures = ["mobilenet_v3_small"]
seeds = [0, 1]
[task]
path = "traps"
[pretrain]
epochs = 1
[finetune]
epochs = 2
evaluate_epochs = [1, 2]
[[arms]]
name = "scratch"
[[arms]]
name = "fractals"
level = "FractalDB"
n = 100
source = { kind = "fractals", categories = 4, points = 1000 }
"""
COST = """
[cost]
device = "A100"
source = "me"
images_per_second = { mobilenet_v3_small = 10 }
"""


def test_a_suite_file_becomes_values_and_a_table(tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(GOOD)
    suite = read_suite(tmp_path / "suite.toml")
    assert suite.finetune.evaluate_epochs == (1, 2)
    assert suite.arms[1].pretraining
    assert suite.arms[1].pretraining.sources == (FractalSource(kind="fractals", categories=4, points=1000),)
    scratch, fractals = table(suite)
    assert (scratch["source"], scratch["pretrain"], scratch["baseline"]) == ("no pre-training", "", True)
    assert (fractals["level"], fractals["runs"]) == ("FractalDB", 2)
    assert fractals["pretrain"].startswith("1 epochs, batch 64, adamw 0.001")
    chosen = {"fractals": choose(suite.arms[1], suite.image_size)}
    counted = table(suite, chosen)[1]
    assert (counted["images"], counted["classes"]) == (100, 4)
    assert counted["rule"] == "100 images balanced over 4 classes, seed 0"
    assert counted["selection"] == chosen["fractals"].selection.digest


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_suites_of_the_project_are_valid(path: Path) -> None:
    assert read_suite(path).name == path.stem


SILLY = [
    ("lr = 0.01", "lr = inf", "finetune.lr: inf; above 0, to 1000"),
    ("lr = 0.01", "lr = nan", "finetune.lr: nan; above 0, to 1000"),
    ("lr = 0.01", "lr = 1e9", "finetune.lr: 1000000000.0; above 0, to 1000"),
    ("lr = 0.01", "lr = true", "finetune.lr: Input should be a valid number"),
    ("lr = 0.01", 'lr = "0.01"', "finetune.lr: Input should be a valid number"),
    ("lr = 0.01", "weight_decay = nan", "finetune.weight_decay: nan; at least 0, to 1000"),
    ("lr = 0.01", "weight_decay = -inf", "finetune.weight_decay: -inf; at least 0, to 1000"),
    ("lr = 0.01", "warmup_epochs = nan", "finetune.warmup_epochs: nan; 0 to 2"),
    ("lr = 0.01", "temperature = inf", "finetune.temperature: inf; above 0, to 1000"),
    ("lr = 0.01", "mixup = nan", "finetune.mixup: nan; at least 0, to 1000"),
    ("lr = 0.01", "label_smoothing = nan", "finetune.label_smoothing: nan; 0 to below 1"),
    ("lr = 0.01", "min_crop = nan", "finetune.min_crop: nan; above 0, to 1"),
    ("lr = 0.01", "jitter = nan", "finetune.jitter: nan, outside 0 to 1"),
    ("lr = 0.01", "blur = 2", "finetune.blur: 2.0, outside 0 to 1"),
    ("lr = 0.01", "batch_size = 1000000000000", "finetune.batch_size: 1000000000000; at least 3, to 1000000"),
    ("lr = 0.01", "batch_size = true", "finetune.batch_size: Input should be a valid integer"),
    ("lr = 0.01", "step_epochs = 1000000000", "finetune.step_epochs: 1000000000; at least 1, to 100000"),
    ("epochs = 2", "epochs = 1000000000", "finetune.epochs: 1000000000; 1 to 100000"),
    ("epochs = 2", 'epochs = "2"', "finetune.epochs: Input should be a valid integer"),
    ('name = "one"', 'name = "one"\njudgement = { margin = 0 }', "judgement.margin: Input should be greater than 0"),
    (
        'name = "one"',
        'name = "one"\njudgement = { line = "x" }',
        "judgement.line: Input should be 'between' or 'within'",
    ),
    (
        'name = "one"',
        'name = "one"\njudgement = { primary = ["x"] }',
        "judgement.primary: 'x' is not an arm other than",
    ),
    ("epochs = 2", "epochs = 2.0", "finetune.epochs: Input should be a valid integer"),
    ("[1, 2]", "[1, 1, 2]", "finetune.evaluate_epochs: [1, 1, 2] repeats one"),
    ("[0, 1]", "[-1]", "seeds: [-1]; each 0 to 4294967295"),
    ("[0, 1]", "[0, 4294967296]", "seeds: [4294967296]; each 0 to 4294967295"),
    ("[0, 1]", f"{list(range(1_001))}", "seeds: 1001 of them; at most 1000"),
    ("[0, 1]", "[true]", "seeds.0: Input should be a valid integer"),
    ("[0, 1]", "[36893488147419103232]", "seeds.0: an integer of more than 64 bits"),
    ("[0, 1]", "[" + "9" * 5000 + "]", "suite.toml: line 6: an integer of more than 64 bits"),
    ("image_size = 32", "image_size = 1000000000", "image_size: 1000000000 px; 16 to 4096"),
    ('name = "one"', 'name = "../one"', "name: '../one' becomes a file's name; letters"),
    ('name = "one"', 'name = "a\\u0000b"', "name: 'a\\x00b' contains a null byte"),
    ('name = "one"', "name = 2026-01-01", "name: 2026-01-01 is a date or a time"),
    ("n = 100", 'n = "12"', "arms.1.n: Input should be a valid integer"),
    ("n = 100", "n = 2000000000", "fractals: n: 2000000000; at least 2, to 1000000000"),
    ("n = 100", "n = 100\ndiversity = 0", "fractals: diversity: 0; at least 1"),
    ("n = 100", "n = 100\nsubclasses = { level = 5, factor = -1 }", "fractals: subclasses.factor: -1; at least 1"),
    ("n = 100", "n = 100\nsubclasses = { level = 5, factor = 2, least = 0 }", "subclasses.least: 0; at least 1"),
    ("n = 100", "n = 100\npretrain = { lr = nan }", "fractals: pretrain.lr: nan; above 0, to 1000"),
    ("n = 100", "n = 100\npretrain = { epochs = 1.5 }", "fractals: pretrain.epochs: Input should be a valid integer"),
    ("categories = 4", "categories = 0", "fractals: source: categories: 0; 1 to 100000"),
    ("categories = 4", "categories = -4", "fractals: source: categories: -4; 1 to 100000"),
    ("categories = 4", "categories = 4.0", "categories.int: Input should be a valid integer"),
    ("points = 1000", "points = 0", "fractals: source: points: 0; 1 to 134217727"),
    ("points = 1000", "size = 100000", "fractals: source: size: 100000 px; 16 to 4096"),
    ("points = 1000", "weights = nan", "fractals: source: weights: nan; one of 0.1, 0.2"),
    ("points = 1000", "weights = 0.25", "fractals: source: weights: 0.25; one of 0.1, 0.2"),
    ("points = 1000", 'draw = "lines"', "draw: Input should be 'patch_gray', 'patch_color'"),
    ("points = 1000", "seed = -1", "fractals: source: seed: -1; 0 to 4294967295"),
    ("points = 1000", "n = 0", "fractals: source: n: 0; 1 to 1000000000"),
    (
        'source = { kind = "fractals", categories = 4, points = 1000 }',
        'source = { kind = "folder", path = "x", depth = 1000000000 }',
        "depth: Input should be less than or equal to 32",
    ),
    (
        'source = { kind = "fractals", categories = 4, points = 1000 }',
        'mixture = [{ share = nan, source = { kind = "folder", path = "x" } }]',
        "fractals: mixture: shares: 0 = nan; must be above 0 and at most 1",
    ),
    ("[task]", COST.replace("= 10", "= nan") + "[task]", "images_per_second.mobilenet_v3_small: nan; above 0"),
    ("[task]", COST.replace("= 10", "= inf") + "[task]", "images_per_second.mobilenet_v3_small: inf; above 0"),
    ("[task]", COST + "finetune_images = 9000000000000\n[task]", "cost.finetune_images: 9000000000000; at least 1, to"),
    ('path = "traps"', "path = []", "task.path: Input should be a valid string"),
    ("[task]\npath", "task = []\n[other]\npath", "other: unknown key"),
    ("[task]", "x = " + "[" * 5000 + "]" * 5000 + "\n[task]", "not a TOML file"),
]


@pytest.mark.parametrize(("old", "new", "told"), SILLY, ids=range(len(SILLY)))
def test_a_silly_value_is_refused_with_its_key_and_the_bound(tmp_path: Path, old: str, new: str, told: str) -> None:
    path = tmp_path / "suite.toml"
    text = GOOD.replace("epochs = 2\n", "epochs = 2\nlr = 0.01\n")
    path.write_text(text.replace(old, new, 1))
    assert path.read_text() != text
    with pytest.raises(EvaluateError) as caught:
        read_suite(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_byte_order_mark_other_line_ends_and_whole_numbers_for_fractions_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(GOOD.replace("epochs = 1\n", "epochs = 1\nlr = 1\n"))
    plain = read_suite(path)
    assert plain.pretrain.lr == 1.0
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_suite(path) == plain
    path.write_bytes(GOOD.encode("utf-16"))
    with pytest.raises(EvaluateError, match="not a TOML file"):
        read_suite(path)


def test_bounds_of_fractals_are_those_of_the_package_that_draws_them() -> None:
    assert sources.POINTS == render.MAX_POINTS
    assert get_args(get_type_hints(FractalSource)["draw"]) == render.DRAW_TYPES
    for step in sources.WEIGHTS:
        weight_table(step)
    render.Style(size=sources.SIZES[0], n_points=sources.POINTS)
    with pytest.raises(FractalError):
        render.Style(size=sources.SIZES[1] + 1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("compare", "runs", "--out", "x", "--margin", "nan"),
            "'--margin': nan points: must be above 0 and at most 100",
        ),
        (
            ("compare", "runs", "--out", "x", "--resamples", "1000000000000"),
            "'--resamples': Input should be less than or equal to 100000",
        ),
        (("power", "runs", "--difference", "nan"), "'--difference': nan points: must be above 0 and at most 100"),
        (("power", "runs", "--difference", "0"), "'--difference': 0 points: must be above 0 and at most 100"),
        (("power", "runs", "--difference", "-1"), "'--difference': -1 points: must be above 0 and at most 100"),
        (("run", "suite.toml", "--max-hours", "nan"), "'--max-hours': Input should be greater than or equal to 0"),
        (("run", "suite.toml", "--cache-gb", "nan"), "'--cache-gb': Input should be greater than or equal to 0"),
        (("simulate", "--out", "x", "--images", "1000000000000"), "n_images 1000000000000 is out of bounds"),
        (("simulate", "--out", "x", "--size", "1000000"), "size 1000000 is out of bounds: from 32 to 1024"),
        (("pretrain", "fractals:0", "--out", "x.safetensors"), "source: categories: 0; 1 to 100000"),
        (
            ("pretrain", "fractals", "--out", "x.safetensors", "--image-size", "5000"),
            "'--image-size': Input should be less than or equal to 4096",
        ),
        (
            ("pretrain", "fractals", "--out", "x.safetensors", "--seed", "-1"),
            "'--seed': Input should be greater than or equal to 0",
        ),
        (("finetune", "x", "--out", "y", "--set", "lr=nan"), "--set lr: nan; above 0, to 1000"),
        (("finetune", "x", "--out", "y", "--set", "lr=2026-01-01"), "--set lr: Input should be a valid number"),
    ],
)
def test_a_silly_option_is_refused_before_any_work(
    arguments: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluate_here: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    done = evaluate_here(*arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('name = "one"', 'name = "one"\nspeed = 3', "speed: unknown key"),
        ("epochs = 1", "epochs = 1\nlearning_rate = 1", "pretrain.learning_rate: unknown key"),
        ("points = 1000", "points = 1000, dots = 3", "arms.1.source.fractals.dots: unknown key"),
        ("seeds = [0, 1]", 'seeds = ["a"]', "seeds.0: Input should be a valid integer"),
        ("seeds = [0, 1]", "seeds = [1, 1]", "seeds: [1, 1] is empty or repeats a value"),
        ("mobilenet_v3_small", "resnet19", "architectures: unknown 'resnet19'; known are resnet18,"),
        ('baseline = "scratch"', 'baseline = "none"', "no arm is named 'none'; there are scratch, fractals"),
        ('name = "fractals"', 'name = "scratch"', "2 arms are named 'scratch'"),
        ("[1, 2]", "[3]", "finetune.evaluate_epochs: [3] outside 1 to 2"),
        ("[1, 2]", "[]", "finetune.evaluate_epochs: empty"),
        ("epochs = 2", "epochs = 2\nlr = 0.0", "finetune.lr: 0.0; above 0"),
        (
            "epochs = 2",
            'epochs = 2\noptimizer = "lion"',
            "finetune.optimizer: Input should be 'sgd', 'adam'",
        ),
        ('kind = "fractals"', 'kind = "paintings"', "arms.1.source: Input tag 'paintings'"),
        ('name = "scratch"\n[[', 'name = "scratch"\nn = 5\n[[', "scratch: n: only with source or mixture"),
        (
            "n = 100",
            "n = 100\ndiversity = 2\ngroup = 'animals'",
            "fractals: group, diversity: only one of them at a time",
        ),
        ("n = 100", "diversity = 2", "fractals: diversity: needs n"),
        ("n = 100", "classes = 2", "fractals: classes: only with group"),
        ("n = 100", 'control = "random"', "fractals: control: needs granularity"),
        ("n = 100", 'control = "best"', "arms.1.control: Input should be 'random' or 'neighbours'"),
        ("n = 100", "n = 1", "fractals: n: 1; at least 2"),
        (
            "n = 100",
            "n = 9\nmixture = [{share = 1.0, source = {kind = 'folder', path = 'x'}}]",
            "fractals: source, mixture: only one of them at a time",
        ),
        (
            "source = {",
            "mixture = [{share = 0.5, source = {kind = 'folder', path = 'x'}}]\n# {",
            "fractals: mixture: shares: 0.5 is 0.5; they must sum to 1",
        ),
        ("image_size = 32", "image_size = 8", "image_size: 8 px"),
        ("image_size = 32", 'image_size = 32\nprecision = "int8"', "precision: Input should be 'float32', 'bf16'"),
        ("[1, 2]", '[]\nobjective = "simclr"', "finetune.objective: simclr; fine-tuning is supervised"),
        ("n = 100", "n = 100\npretrain = { speed = 1 }", "arms: fractals: pretrain.speed: unknown key"),
        ("n = 100", 'n = 100\npretrain = { lr = "fast" }', "arms: fractals: pretrain.lr: Input should be a valid num"),
        ("n = 100", "n = 100\npretrain = { lr = 0.0 }", "arms: fractals: pretrain.lr: 0.0; above 0"),
        ("n = 100", 'n = 100\npretrain = { objective = "guess" }', "arms: fractals: pretrain.objective: Input should"),
        (
            "n = 100",
            'n = 100\npretrain = { objective = "simclr", mixup = 0.2 }',
            "arms: fractals: pretrain.mixup: of supervised training; the objective is simclr",
        ),
        ("n = 100", 'n = 100\npretrain = { objective = "image-text" }', "fractals: source: fractals have no text"),
        (
            "n = 100",
            'n = 100\ngranularity = 5\npretrain = { objective = "simclr" }',
            "fractals: granularity: simclr uses no labels",
        ),
        ("epochs = 1", 'epochs = 1\nobjective = "image-text"', "fractals: source: fractals have no text"),
        ("n = 100", 'n = 100\narchitectures = ["alexnet"]', "fractals: architectures: alexnet needs images of 63 px"),
        ("n = 100", 'n = 100\narchitectures = ["resnet19"]', "fractals: architectures: unknown 'resnet19'"),
        (
            "n = 100",
            'n = 100\narchitectures = ["resnet18"]',
            "baseline: scratch has no architecture in common with another arm",
        ),
        ("n = 100", 'checkpoint = "w.safetensors"', "fractals: checkpoint, source: only one of them at a time"),
        (
            'name = "scratch"\n',
            'name = "scratch"\ncheckpoint = "timm:a.b"\narchitectures = ["resnet18", "mobilenet_v3_small"]\n',
            "scratch: checkpoint: timm:a.b for 2 architectures; name only its own",
        ),
        ("[task]", "[pretrain_for.resnet18]\nlr = 0.1\n[task]", "pretrain_for.resnet18: no arm has this architecture"),
        ("[task]", "[pretrain_for.mobilenet_v3_small]\nlr = 0\n[task]", "pretrain_for.mobilenet_v3_small.lr: 0.0; abo"),
        ("[task]", "[pretrain_for.mobilenet_v3_small]\nspeed = 0\n[task]", "mobilenet_v3_small.speed: unknown key"),
        (
            "[task]",
            '[pretrain_for.mobilenet_v3_small]\nobjective = "simclr"\n[task]',
            "pretrain_for.mobilenet_v3_small.objective: is the same for all architectures of an arm",
        ),
        ("[task]", "[cost]\ndevice = 'A'\nsource = 'me'\n[task]", "cost.images_per_second: "),
        ("[task]", COST + "pretrain_images = { none = 3 }\n[task]", "cost.pretrain_images.none: no such arm"),
        ("[task]", COST + "finetune_images = 0\n[task]", "cost.finetune_images: 0; at least 1"),
        ("[task]", COST.replace("= 10", "= 0") + "[task]", "cost.images_per_second.mobilenet_v3_small: 0; above 0"),
        (
            "[task]",
            COST.replace("mobilenet_v3_small", "resnet18") + "[task]",
            "cost.images_per_second.resnet18: no arm",
        ),
        ("[task]", "[task", "not a TOML file"),
        ('name = "one"', 'name = "two/one"', "name: 'two/one' becomes a file's name"),
        ('name = "one"', 'name = "../one"', "name: '../one'"),
        ('name = "one"', 'name = ""', "name: ''"),
        ('path = "traps"', "", "task.path: "),
    ],
)
def test_a_mistake_is_named_with_file_and_key(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in GOOD
    with pytest.raises(EvaluateError) as caught:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert str(caught.value).startswith(f"{tmp_path / 'suite.toml'}: ")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_suite_and_a_file_that_is_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match="No such file"):
        read_suite(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(GOOD.replace("one", "\xe9t\xe9").encode("latin-1"))
    with pytest.raises(EvaluateError, match=r"latin\.toml: not a TOML file"):
        read_suite(tmp_path / "latin.toml")


def read(tmp_path: Path, text: str) -> Suite:
    (tmp_path / "suite.toml").write_text(text)
    return read_suite(tmp_path / "suite.toml")


def test_an_arm_changes_the_recipe_key_by_key(tmp_path: Path) -> None:
    text = GOOD.replace("epochs = 1\n", "epochs = 1\nlabel_smoothing = 0.1\nlr = 0.5\n", 1)
    suite = read(tmp_path, text.replace("n = 100", 'n = 100\npretrain = { objective = "simclr", epochs = 7 }'))
    assert suite.recipe(suite.arms[0]) == suite.pretrain
    own = suite.recipe(suite.arms[1])
    assert own == replace(suite.pretrain, objective="simclr", epochs=7, label_smoothing=0.0)
    assert own.lr == 0.5


def test_an_architecture_changes_the_recipe_and_an_arm_has_the_last_word(tmp_path: Path) -> None:
    text = GOOD.replace("[task]", "[pretrain_for.mobilenet_v3_small]\nlr = 0.25\nepochs = 3\n[task]")
    suite = read(tmp_path, text.replace("n = 100", "n = 100\npretrain = { epochs = 7 }"))
    fractals = suite.arms[1]
    assert suite.recipe(fractals).lr == 1e-3
    assert suite.recipe(fractals, "mobilenet_v3_small") == replace(suite.pretrain, lr=0.25, epochs=7)
    assert suite.recipe(fractals, "resnet18") == suite.recipe(fractals)
    assert recipe_lines(suite)[1] == "pre-training of mobilenet_v3_small: epochs 3, lr 0.25"


def test_what_an_arm_and_an_architecture_change_must_fit_together(tmp_path: Path) -> None:
    text = GOOD.replace("[task]", "[pretrain_for.mobilenet_v3_small]\naccumulate = 4\n[task]")
    with pytest.raises(EvaluateError, match=r"fractals: pretrain.accumulate: 4 parts of a batch of 6; at least 3 im"):
        read(tmp_path, text.replace("n = 100", "n = 100\npretrain = { batch_size = 6 }"))


def test_a_recipe_is_told_whole_or_by_what_differs(tmp_path: Path) -> None:
    text = GOOD.replace("[task]", "[pretrain_for.mobilenet_v3_small]\nlr = 0.25\n[task]")
    suite = read(tmp_path, text.replace("n = 100", "n = 100\npretrain = { epochs = 7, flip = false }"))
    whole, short = (table(suite, compact=compact)[1] for compact in (False, True))
    assert (
        whole["pretrain"] == "7 epochs, batch 64, adamw 0.001, weight decay 0.05, cosine; mobilenet_v3_small: lr 0.25"
    )
    assert whole["finetune"].startswith("2 epochs")
    assert short["pretrain"] == "epochs 7, flip False"
    assert "finetune" not in short


def test_columns_without_a_cell_are_left_out(tmp_path: Path) -> None:
    plain = read(tmp_path, GOOD)
    assert list(table(plain, compact=True)[0]) == ["arm", "factor", "level", "source", "runs", "baseline"]
    text = GOOD.replace("n = 100", 'n = 100\narchitectures = ["mobilenet_v3_small", "resnet18"]')
    own = read(tmp_path, text.replace("[task]", COST + "finetune_images = 90\nevaluated_images = 6\n[task]"))
    scratch, fractals = table(own)
    assert (scratch["architectures"], fractals["architectures"]) == ("", "mobilenet_v3_small, resnet18")
    assert (scratch["runs"], fractals["runs"]) == (2, 4)
    assert (scratch["GPU-hours"], fractals["GPU-hours"]) == (0.0102, "")  # two of 90 x 2 + 6 x 2 / 3 at 10 a second


def test_an_arm_may_have_architectures_that_the_baseline_has_not(tmp_path: Path) -> None:
    outside = '[[arms]]\nname = "vit"\ncheckpoint = "timm:vit_tiny.x"\narchitectures = ["timm:vit_tiny"]\n'
    suite = read(tmp_path, GOOD + outside)
    assert [suite.architectures_of(arm) for arm in suite.arms] == [
        ("mobilenet_v3_small",),
        ("mobilenet_v3_small",),
        ("timm:vit_tiny",),
    ]
    assert table(suite)[2]["pretrain"] == ""
    assert table(suite)[2]["source"] == "weights timm:vit_tiny.x"


def test_reading_and_planning_the_paper_takes_under_a_second_and_no_torch() -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from synthgen_evaluate.design.experiments import table\n"
        "from synthgen_evaluate.design.suite import read_suite\n"
        f"table(read_suite(Path({str(SUITES / 'paper.toml')!r})))\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
    started = time.perf_counter()
    table(read_suite(SUITES / "paper.toml"))
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("layout", FORMATS)
def test_the_table_of_the_paper_can_be_written_in_every_layout(layout: str) -> None:
    suite = read_suite(SUITES / "paper.toml")
    text = written(table(suite, compact=layout == "text"), layout)
    assert all(arm.name in text for arm in suite.arms)


def test_the_paper_costs_what_its_runs_cost() -> None:
    suite = read_suite(SUITES / "paper.toml")
    assert suite.cost
    cost = total(by_arm(suite, stated(suite.cost, 224)).values())
    assert not cost.missing
    models = sum(row["runs"] for row in table(suite)) - 3 * 15  # three arms are imagenet-150k again
    assert cost.runs == models + (48 - 1 - 3 - 3) * 15  # scratch, outside weights and those three do not pre-train
    rows = {row["arm"]: row["GPU-hours"] for row in table(suite)}
    assert rows["quantity-150k"] == rows["labels-1000"] == rows["diversity-1"] == 0
    # 3 seeds; 150,000 x 90 to pre-train, 129,809 x 12 + 73,220 x 4 / 3 to fine-tune
    images = 3 * (150_000 * 90 + 129_809 * 12 + 73_220 * 4 / 3)
    rates = (2470, 2030, 1853, 14146, 5541)
    assert rows["imagenet-150k"] == pytest.approx(sum(images / rate for rate in rates) / 3600, rel=5e-3)
    # SimCLR: 200 epochs of two views
    images = 3 * (150_000 * 200 * 2 + 129_809 * 12 + 73_220 * 4 / 3)
    assert rows["simclr-sd"] == pytest.approx(sum(images / rate for rate in rates) / 3600, rel=5e-3)


class Images:
    """A source of so many images of each class."""

    identity: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, names: tuple[str, ...], each: int) -> None:
        self.class_names = names
        self.labels = np.repeat(np.arange(len(names)), each)


def test_imagenet_has_the_images_that_the_paper_asks_for() -> None:
    imagenet = Images(tuple(sorted(imagenet1k().labels)), 732)  # the smallest class has as many
    species = Images(tuple(f"{number:05d}" for number in range(10_000)), 152)
    suite = read_suite(SUITES / "paper.toml")
    found = {}
    for arm in suite.arms:
        if not arm.pretraining or not arm.pretraining.n:
            continue
        paths = [getattr(source, "path", "") for source in arm.pretraining.sources]
        if paths in (["data/imagenet/train"], ["data/inaturalist2021/train"]):
            found[arm.name] = select(arm, [imagenet if "imagenet" in paths[0] else species])
            assert len(found[arm.name].indices) == arm.pretraining.n
    assert len(found) == 34
    classes = {name: len(selection.class_names) for name, selection in found.items()}
    assert [classes[f"labels-{level}"] for level in (5, 17, 37, 85, 232, 1000)] == [5, 17, 37, 85, 232, 1000]
    assert classes["animals"] == classes["objects"] == 398
    assert [classes[f"diversity-{factor}"] for factor in (1, 2, 3, 4)] == [1000, 500, 333, 250]
    assert [classes[f"subclasses-{factor}"] for factor in (1, 2, 4)] == [19, 19, 19]
    assert classes["inaturalist-150k"] == 1000


@pytest.mark.parametrize("name", ["paper", "miniature"])
def test_every_kind_of_intervention_is_an_arm(name: str) -> None:
    arms = read_suite(SUITES / f"{name}.toml").arms
    pretrained = [arm.pretraining for arm in arms if arm.pretraining]
    chosen = {type(getattr(one, "select", one)) for one in pretrained}
    assert chosen | {Everything} == {*get_args(Select), FromMixture}
    assert {type(one.labels) for one in pretrained} == set(get_args(Labels))
    assert {type(arm.weights) for arm in arms} == set(get_args(Weights))
    controls = {one.labels.control for one in pretrained if isinstance(one.labels, ControlLabels)}
    assert controls == {"random", "neighbours"}
    assert any(one.captions for one in pretrained)
    assert {source.kind for one in pretrained for source in one.sources} == {"folder", "shards", "fractals"}
    assert {one.pretrain.get("objective") for one in pretrained} == {None, "simclr", "image-text"}


def test_the_secrets_of_a_url_are_not_in_the_words_of_its_source() -> None:
    for kind in (FolderSource, ShardSource):
        words = str(kind(kind=KINDS[kind], path="https://me:hunter2@example.org/set?token=abc"))  # type: ignore[arg-type]
        assert "hunter2" not in words
        assert "abc" not in words


KINDS = {FolderSource: "folder", ShardSource: "shards"}
