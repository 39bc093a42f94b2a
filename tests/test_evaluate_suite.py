from pathlib import Path

import pytest

from synthgen_evaluate.arms import FractalSource, choose
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.suite import read_suite, table

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


def test_a_suite_file_becomes_values_and_a_table(tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(GOOD)
    suite = read_suite(tmp_path / "suite.toml")
    assert suite.finetune.evaluate_epochs == (1, 2)
    assert suite.arms[1].source == FractalSource(kind="fractals", categories=4, points=1000)
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


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('name = "one"', 'name = "one"\nspeed = 3', "speed: unknown key"),
        ("epochs = 1", "epochs = 1\nlearning_rate = 1", "pretrain.learning_rate: unknown key"),
        ("points = 1000", "points = 1000, dots = 3", "arms.1.source.fractals.dots: unknown key"),
        ("seeds = [0, 1]", 'seeds = ["a"]', "seeds.0: Input should be a valid integer"),
        ("seeds = [0, 1]", "seeds = [1, 1]", "seeds: [1, 1] is empty or repeats a value"),
        ("mobilenet_v3_small", "resnet19", "unknown 'resnet19'; known are resnet18, resnet50, resnext50_32x4d,"),
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
        ('name = "scratch"\n[[', 'name = "scratch"\nn = 5\n[[', "scratch: n: without a source"),
        ("n = 100", "n = 100\ndiversity = 2\ngroup = 'animals'", "fractals: group, diversity: one of them at a time"),
        ("n = 100", "diversity = 2", "fractals: diversity: needs n"),
        ("n = 100", "classes = 2", "fractals: classes: without a group"),
        ("n = 100", 'control = "random"', "fractals: control: without a granularity"),
        ("n = 100", 'control = "best"', "arms.1.control: Input should be 'random' or 'neighbours'"),
        ("n = 100", "n = 1", "fractals: n: 1; at least 2"),
        ("n = 100", "n = 9\nmixture = [{share = 1.0, source = {kind = 'folder', path = 'x'}}]", "give one of the two"),
        (
            "source = {",
            "mixture = [{share = 0.5, source = {kind = 'folder', path = 'x'}}]\n# {",
            "fractals: mixture: shares: 0.5 is 0.5; they sum to 1",
        ),
        ("image_size = 32", "image_size = 8", "image_size: 8 px"),
        ("[task]", "[task", "not a TOML file"),
        ('path = "traps"', "", "task.path: "),
    ],
)
def test_a_mistake_is_named_with_file_and_key(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in GOOD
    (tmp_path / "suite.toml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(EvaluateError) as caught:
        read_suite(tmp_path / "suite.toml")
    assert str(caught.value).startswith(f"{tmp_path / 'suite.toml'}: ")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_suite_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match="No such file"):
        read_suite(tmp_path / "none.toml")
