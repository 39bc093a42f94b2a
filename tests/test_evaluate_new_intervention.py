"""The recipe for a new intervention: a function, and a variant in ``Select``; nothing else knows which there are."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FUNCTION = '''

def alternate(labels: NDArray[np.int64], class_names: tuple[str, ...], step: int) -> Selection:
    """Every ``step``-th image."""
    indices = np.arange(0, len(labels), step)
    return Selection(indices=indices, labels=labels[indices], class_names=class_names, rule=f"every {step}th image")
'''
VARIANT = '''
@dataclass(frozen=True, slots=True, kw_only=True)
class Alternate(Relabelled):
    """Every so many images."""

    TAG = "step"
    n: ClassVar[None] = None

    step: int

    def problems(self) -> Iterator[str]:
        """What is out of range, one line each, beginning with the key."""
        if self.step < 1:
            yield f"step: {self.step}; at least 1"

    @property
    def words(self) -> str:
        """For the description of an arm."""
        return f", each {self.step}th"

    def of(self, source: Labelled, taxonomy: Callable[[], Taxonomy]) -> Selection:
        """See ``alternate``."""
        return alternate(source.labels, source.class_names, self.step)


Select = Alternate | Everything'''
SUITE = """
name = "one"
baseline = "scratch"
image_size = 32
architectures = ["mobilenet_v3_small"]
seeds = [0]
[task]
path = "traps"
[pretrain]
epochs = 1
[finetune]
epochs = 2
evaluate_epochs = [1]
[[arms]]
name = "scratch"
[[arms]]
name = "fewer"
step = 250
source = { kind = "fractals", categories = 2, points = 500 }
"""
USE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from evaluate.design.choice import choose
from evaluate.design.experiments import table
from evaluate.design.suite import read_suite
from evaluate.errors import EvaluateError
path = Path(sys.argv[2])
suite = read_suite(path)
fewer = suite.arms[1]
print(len(choose(fewer, 32).selection.indices), table(suite)[1]["source"])
for key in ("n = 5", "granularity = 5", "step = 0"):
    path.write_text(path.read_text().replace("step = 250", "step = 250\\n" + key if key[0] != "s" else key))
    try:
        print(read_suite(path).arms[1].weights.select)
    except EvaluateError as error:
        print(str(error).removeprefix(f"{path}: "))
    path.write_text(path.read_text().replace("\\n" + key, ""))
"""


def test_a_choice_of_images_is_added_in_two_files(tmp_path: Path) -> None:
    copy = tmp_path / "code" / "evaluate"
    shutil.copytree(ROOT / "evaluate", copy, ignore=shutil.ignore_patterns("__pycache__"))
    functions, variants = copy / "design/interventions.py", copy / "design/select.py"
    functions.write_text(functions.read_text() + FUNCTION)
    text = variants.read_text().replace("import diversity,", "import alternate, diversity,")
    variants.write_text(text.replace("\nSelect = Everything", VARIANT))
    suite = tmp_path / "suite.toml"
    suite.write_text(SUITE)
    done = subprocess.run(
        [sys.executable, "-c", USE, str(copy.parent), str(suite)], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        "8 fractals of 2 categories, seed 1, patch_gray, all images, each 250th",
        "arms: fewer: step, n: only one of them at a time",
        "Alternate(labels=LevelLabels(granularity=5), step=250)",
        "arms: fewer: step: 0; at least 1",
    ], done.stderr
