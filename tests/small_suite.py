"""A suite of five runs that takes seconds, and what it finds."""

from pathlib import Path

import numpy as np
from PIL import Image

from synthgen_evaluate.tasks.simulated.simulate import simulate

SUITE = """
name = "small"
baseline = "scratch"
image_size = 32
architectures = ["mobilenet_v3_small"]
seeds = [0]
[task]
path = "{traps}"
[pretrain]
epochs = 1
[finetune]
epochs = 2
evaluate_epochs = [1, 2]
min_crop = 0.7
[[arms]]
name = "scratch"
[[arms]]
name = "natural"
source = {{ kind = "folder", path = "{images}" }}
[[arms]]
name = "fractals"
n = 60
source = {{ kind = "fractals", categories = 3, points = 1000 }}
"""


def make_world(root: Path) -> Path:
    """A camera-trap set, an image folder and a suite file that uses both."""
    simulate(root / "traps", n_classes=4, n_locations=6, n_images=120, size=32)
    rng = np.random.default_rng(0)
    for label in range(2):
        (root / "images" / f"class{label}").mkdir(parents=True)
        for k in range(40):
            pixels = rng.integers(100 * label, 100 * label + 100, (40, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / f"class{label}" / f"{k}.png")
    (root / "suite.toml").write_text(SUITE.format(traps=root / "traps", images=root / "images"))
    return root


def results(runs: Path) -> dict[str, bytes]:
    """Everything that was found, by run and file."""
    kinds = ("predictions/*.parquet", "log.jsonl", "weights.safetensors")
    return {str(p.relative_to(runs)): p.read_bytes() for kind in kinds for p in sorted(runs.glob(f"*/{kind}"))}
