"""Tables of how well lines fit, of variance components, and of the numbers of clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..analysis.contrasts import WHOSE
from ..analysis.formatting import estimate, p_value, percent, plain
from ..analysis.results import ClusterSizes, Comparison, Component, LineFit
from .table import Table, capital, filled, interval


def line_fits(comparison: Comparison) -> Table:
    """Whether lines are straight: a row for each line and scale."""
    columns = (
        ("Line", "name"),
        ("Scale", "text"),
        ("OOD in the middle, points above a straight line (95% interval)", "number"),
        ("p", "number"),
    )

    def row(fit: LineFit) -> tuple[None, Sequence[str], Mapping[str, Any]]:
        record = {"line": fit.line, "scale": fit.scale, **interval("bend_points", fit.bend), "p": fit.bend.p}
        return None, (WHOSE[fit.line], fit.scale, estimate(fit.bend), p_value(fit.bend.p)), record

    known = [fit for fit in comparison.fit if fit.bend.value is not None]
    caption = (
        "Is a line of OOD over ID macro-F1 straight? How far OOD macro-F1 in the middle of the ID scores lies above a"
        f" straight line between their ends. The comparison is on the {comparison.scale} scale."
    )
    return filled("fit", caption, columns, map(row, known))


def components(comparison: Comparison) -> Table:
    """The variance of OOD macro-F1 by its sources."""
    columns = (
        ("Source", "name"),
        ("Share (%)", "number"),
        ("sd (points)", "number"),
        ("Variance (points²)", "number"),
        ("Differences between arms", "text"),
    )

    def row(part: Component) -> tuple[None, Sequence[str], Mapping[str, Any]]:
        differences = "free of it" if part.shared else "contain it"
        numbers = percent(part.share, 0), plain(part.variance**0.5, 2), plain(part.variance, 2)
        record = {"source": part.name, "variance": part.variance, "share": part.share, "differences": differences}
        return None, (part.name, *numbers, differences), record

    caption = (
        "Variance of OOD macro-F1 by its source, beyond the mean of each arm at each epoch, by Henderson's method 3."
        " Estimates below 0 are shown as 0. What the arms of a block have in common cancels in their difference."
    )
    return filled("components", caption, columns, map(row, comparison.components.parts))


def cluster_sizes(comparison: Comparison) -> Table:
    """The clusters of either split's test images, and how many equal ones they are worth."""
    words = comparison.words
    columns = (
        ("Test images", "name"),
        ("Images", "number"),
        (capital(words.clusters), "number"),
        ("Effective number", "number"),
        (f"Largest {words.cluster} (% of images)", "number"),
    )

    def row(sizes: ClusterSizes) -> tuple[None, Sequence[str], Mapping[str, Any]]:
        numbers = f"{sizes.images:,}", f"{sizes.clusters:,}", plain(sizes.effective), percent(sizes.largest)
        return None, (sizes.split.upper(), *numbers), asdict(sizes)

    caption = (
        f"{capital(words.clusters)} of the test images: the effective number is that of equally large ones that would"
        " tell as much, (sum n)² / sum n² for n images each."
    )
    return filled("sizes", caption, columns, map(row, comparison.clusters))
