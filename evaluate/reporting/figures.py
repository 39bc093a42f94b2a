"""Comparison -> figures for print: every figure as SVG, PDF and PNG (300 dpi)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ..analysis.results import Comparison
from .figure_effects import by_epoch, forest, over_time, overview
from .figure_scatter import by_factor, factors, scatter

STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that figures are the same everywhere
    "font.size": 8,
    "text.parse_math": False,  # a dollar sign in a name stays a dollar sign
    "svg.fonttype": "none",  # labels stay text
    "svg.hashsalt": "synthgen",
    "pdf.fonttype": 42,  # TrueType; publishers refuse Type 3 fonts
}
NO_DATE: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None},
    "png": {"Software": None},
}


def draw_figures(comparison: Comparison) -> dict[str, dict[str, bytes]]:
    """All figures that the comparison has data for, each as ``svg``, ``pdf`` and ``png``.

    ``scatter`` always exists; ``overview`` needs an effect, ``epochs`` one on effective robustness at several epochs,
    ``factors`` an arm besides the baseline, ``forest`` an effect on effective robustness, and ``forest-reference`` one
    against the reference.
    """
    drawings: dict[str, Callable[[Comparison], Figure]] = {"scatter": scatter}
    if any(effect.ood.value is not None for effect in comparison.effects):
        drawings["overview"] = overview
    if over_time(comparison):
        drawings["epochs"] = by_epoch
    if factors(comparison):
        drawings["factors"] = by_factor
    if any(effect.robustness.value is not None for effect in comparison.effects):
        drawings["forest"] = forest
    reference = comparison.reference
    if reference and any(effect.robustness.value is not None for effect in reference.effects):
        drawings["forest-reference"] = lambda c: forest(replace(c, baseline=reference.arm, effects=reference.effects))
    with _style():
        return {name: _saved(draw(comparison)) for name, draw in drawings.items()}


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # arms may have names in any script
        yield


def _saved(figure: Figure) -> dict[str, bytes]:
    engine = figure.get_layout_engine()
    assert engine is not None
    for _ in range(3):  # with a fixed aspect a layout settles only when it is repeated
        engine.execute(figure)
    figure.set_layout_engine("none")  # so that all formats have the same layout
    drawings = {}
    for kind, no_date in NO_DATE.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=300, metadata=no_date)
        drawings[kind] = buffer.getvalue()
    return drawings
