"""Tables of how well lines fit, of variance components, and of the numbers of clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..analysis.contrasts import WHOSE
from ..analysis.formatting import estimate, p_value, percent, plain
from ..analysis.results import ClusterSizes, Comparison, Component, LineFit
from .table_model import Table, capital, interval, table_of


def fit_table(comparison: Comparison) -> Table:
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

    metric, known = comparison.words.metric, [fit for fit in comparison.fit if fit.bend.value is not None]
    caption = (
        f"Is a line of OOD over ID {metric} straight? How far OOD {metric} in the middle of the ID scores lies above a"
        f" straight line between their ends. The comparison is on the {comparison.scale} scale."
    )
    return table_of("fit", caption, columns, map(row, known))


def components_table(comparison: Comparison) -> Table:
    """The variance of OOD scores by its sources."""
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
        f"Variance of OOD {comparison.words.metric} by its source, beyond the mean of each arm at each epoch, by"
        " Henderson's method 3. Estimates below 0 are shown as 0. What the arms of a block have in common cancels in"
        " their difference."
    )
    return table_of("components", caption, columns, map(row, comparison.components.parts))


def sizes_table(comparison: Comparison) -> Table:
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
    return table_of("sizes", caption, columns, map(row, comparison.clusters))
