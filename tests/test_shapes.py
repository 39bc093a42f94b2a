"""What the annotations of arrays say is checked in every test (``shapes.py``), and costs users nothing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from simulated_studies import simulate_study

from fractaldb.ifs import IFS
from fractaldb.render import Style, drawing
from synthgen_evaluate.analysis.bootstrap import Draws
from synthgen_evaluate.analysis.estimators import Line, robustness_difference
from synthgen_evaluate.analysis.pairing import complete_blocks

BLOCKS = complete_blocks(simulate_study(np.random.default_rng(0)), ("arm 0", "arm 1"))  # 15 blocks
LINE = Line(epsilon=0.001)


def test_a_call_with_arrays_of_the_stated_shapes_passes() -> None:
    assert robustness_difference(BLOCKS, np.ones((3, 15)), line=LINE).shape == (3,)


@pytest.mark.parametrize("weights", [np.ones(15), np.ones((3, 15), np.float32), np.ones((15, 3))[:, :, None]])
def test_weights_of_other_axes_or_another_type_are_refused(weights: np.ndarray) -> None:
    with pytest.raises(TypeCheckError, match="'weights'"):
        robustness_difference(BLOCKS, weights, line=LINE)


def test_arrays_that_disagree_about_an_axis_are_refused() -> None:
    with pytest.raises(TypeCheckError, match="n_blocks=15"):
        replace(BLOCKS, id_f1=BLOCKS.id_f1[:-1])
    with pytest.raises(TypeCheckError, match="n_resamples=10"):
        Draws(
            **{
                name: np.ones((n, 4), np.int32)
                for name, n in [("blocks", 10), ("id_clusters", 10), ("ood_clusters", 9)]
            }
        )
    with pytest.raises(TypeCheckError, match="n_maps=3"):
        IFS(maps=np.zeros((3, 6)), probs=np.ones(2))
    with pytest.raises(TypeCheckError, match="'masks'"):
        drawing(np.zeros(9, np.int32), np.ones(8, np.uint16), Style(size=32))


def test_the_product_itself_checks_none_and_imports_no_checker() -> None:
    code = (
        "import sys, fractaldb, synthgen_evaluate.analysis.compare; print({'jaxtyping', 'beartype'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
