"""The benchmark's plain-Python renderer draws the published pictures, so it is the published algorithm."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
from benchmarks import published
from PIL import Image

from fractaldb.ifs import read_csv, weight_table
from fractaldb.render import orbit_draws

GOLDEN = Path(__file__).parent / "golden/fractaldb"
SMALL = 20_000  # points


def test_plain_python_draws_the_golden_pictures() -> None:
    golden = [
        entry for entry in json.loads((GOLDEN / "pictures" / "index.json").read_text()) if entry["n_points"] <= SMALL
    ]
    assert {entry["draw"] for entry in golden} == {"patch_gray", "patch_color", "point_color"}
    for entry in golden:
        ifs = read_csv(GOLDEN / "categories" / f"{entry['category']}.csv").weighted(
            weight_table()[entry["weight_index"]]
        )
        points = published.orbit(ifs.maps.tolist(), ifs.probs.tolist(), orbit_draws(entry["n_points"]).tolist())
        image = published.draw(points, entry["draw"], entry["size"], random.Random(0))
        expected = np.asarray(Image.open(GOLDEN / "pictures" / entry["file"]).convert("RGB"))
        assert (np.asarray(published.flips(image)[entry["flip"]]) == expected).all(), entry["file"]
