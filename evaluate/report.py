"""Comparison -> a directory with a web page, figures and tables.

``index.html`` needs nothing but itself; the same comparison gives the same bytes with the same
versions of the libraries.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from .comparison import Comparison, Row
from .errors import EvaluateError
from .load import ID_SPLIT, OOD_SPLIT
from .stats import points
from .trends import to_scale

FORMAT = 1  # of comparison.json
KIND = "synthgen comparison"
LIBRARIES = ("synthgen", "numpy", "scipy", "matplotlib")

# Okabe and Ito 2008, "Color Universal Design"; without yellow, which is too light for lines on white.
COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES = ("-", (0, (5, 1.5)), (0, (4, 1, 1, 1)), (0, (1, 1)), (0, (7, 1.5, 1, 1.5, 1, 1.5)), (0, (9, 2)))
STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that figures are the same everywhere
    "font.size": 8,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.fonttype": "none",  # labels stay text
    "svg.hashsalt": "synthgen",
    "pdf.fonttype": 42,  # TrueType; publishers refuse Type 3 fonts
}
NO_DATE: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None},
    "png": {"Software": None},
}


def write_report(comparison: Comparison, out: Path, *, command: str | None = None) -> Path:
    """Write the report to the directory ``out``, whole or not at all, and return the path of its page.

    ``command`` is shown as what made the report; by default the command line of this process. An
    earlier report at ``out`` is replaced. Raises EvaluateError where ``out`` is anything else, or
    holds files that are not the report's.
    """
    out = Path(out).resolve()
    _check_replaceable(out)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if command is None else command
    provenance = {"command": command, "versions": {name: metadata.version(name) for name in LIBRARIES}}
    figures = draw_scatter(comparison)
    files = {f"figures/scatter.{kind}": data for kind, data in figures.items()}
    files["tables/runs.csv"] = _runs_csv(comparison.rows).encode()
    files["index.html"] = _page(comparison, figures["svg"].decode(), provenance).encode()
    record = {"kind": KIND, "format": FORMAT, "files": [*files, "comparison.json"], **provenance}
    record["comparison"] = asdict(comparison)
    files["comparison.json"] = (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()
    try:
        _write_directory(out, files)
    except OSError as error:
        raise EvaluateError(f"{out}: the report cannot be written ({error.strerror or error})") from None
    return out / "index.html"


def draw_scatter(comparison: Comparison) -> dict[str, bytes]:
    """OOD over ID macro-F1 of all evaluated epochs, as the bytes of ``svg``, ``pdf`` and ``png`` (300 dpi)."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # arms may have names in any script
        figure = Figure(figsize=(5.5, 5.9), layout="constrained")  # inches; the text width of a NeurIPS page
        axes = figure.add_subplot()
        drawn = [summary.arm.name for summary in comparison.arms if summary.finished]
        places = _on_scale(comparison, [(row.id.macro_f1, row.ood.macro_f1) for row in comparison.rows])  # [n, 2]
        _set_limits(axes, places, comparison)
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        unseen = "" if max(left, bottom) < min(right, top) else " (outside)"
        handles = [Line2D([], [], color="0.45", linewidth=0.8, label=f"y = x: OOD as good as ID{unseen}")]
        axes.axline((places.mean(), places.mean()), slope=1, color="0.45", linewidth=0.8, zorder=1)
        for position, summary in enumerate(comparison.arms):
            if summary.arm.name in drawn:
                handles.append(_draw_arm(axes, comparison, position))
        handles.append(_mark("o", "0.35", 6.5, filled=True, label="last epoch of a run"))
        handles.append(_mark("o", "0.35", 4, filled=False, label="earlier epoch"))
        figure.legend(
            handles=handles,
            loc="outside lower left",
            ncols=2 if max(map(len, drawn)) <= 30 else 1,
            handlelength=4,  # long enough to tell the dashes
            frameon=False,
        )
        drawings = {}
        for kind, no_date in NO_DATE.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=300, metadata=no_date)
            drawings[kind] = buffer.getvalue()
    return drawings


def _draw_arm(axes: Axes, comparison: Comparison, position: int) -> Line2D:
    """Points and trend of one arm; returns its entry in the legend."""
    summary = comparison.arms[position]
    color, marker = COLORS[position % len(COLORS)], MARKERS[position % len(MARKERS)]
    dashes = DASHES[position % len(DASHES)]
    rows = [row for row in comparison.rows if row.arm == summary.arm.name]
    for row in rows:
        ((x, y),) = _on_scale(comparison, [(row.id.macro_f1, row.ood.macro_f1)])
        dot = _mark(marker, color, 6.5 if row.final else 4, filled=row.final)
        dot.set_data([x], [y])
        dot.set_zorder(4 if row.final else 3)
        axes.add_line(dot)
    if summary.trend:
        spans = [(rows, 1.3)]
        if summary.arm.name == comparison.baseline:  # effective robustness extrapolates it to all arms
            spans.append((list(comparison.rows), 0.6))
        for covered, width in spans:
            ids = [row.id.macro_f1 for row in covered]
            ends = to_scale([min(ids), max(ids)], comparison.scale, comparison.epsilon)
            line = summary.trend.intercept + summary.trend.slope * ends
            axes.plot(ends, line, color=color, linestyle=dashes, linewidth=width, scalex=False, scaley=False)
    entry = _mark(marker, color, 6.5, filled=True, label=_shown(summary.arm.name, comparison.baseline))
    entry.set(linestyle=dashes if summary.trend else "none", linewidth=1.2)
    return entry


def _mark(marker: str, color: str, size: float, *, filled: bool, label: str = "") -> Line2D:
    return Line2D(
        [],
        [],
        marker=marker,
        markersize=size,
        color=color,
        markerfacecolor=color if filled else "white",
        markeredgecolor="white" if filled else color,
        markeredgewidth=0.6 if filled else 0.8,
        linestyle="none",
        label=label,
    )


def _shown(name: str, baseline: str) -> str:
    """An arm's name as the legend has room for it."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    text = text if len(text) <= 44 else text[:43] + "…"
    return f"{text} (baseline)" if name == baseline else text


def _on_scale(comparison: Comparison, f1: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    return to_scale(f1, comparison.scale, comparison.epsilon)


def _set_limits(axes: Axes, places: NDArray[np.float64], comparison: Comparison) -> None:
    """Both axes alike, so that y = x is the diagonal, unless the points would become a speck in a corner."""
    low, high = places.min(axis=0), places.max(axis=0)  # [2]: ID, OOD
    shared = np.array([low.min(), high.max()])
    least = 0.03 if comparison.scale == "linear" else 0.3  # so that one point does not fill the figure
    gap = shared[1] - shared[0]
    together = gap < 5 * least or max(high - low) >= 0.3 * gap
    for axis, split, i in ((axes.xaxis, ID_SPLIT, 0), (axes.yaxis, OOD_SPLIT, 1)):
        start, end = shared if together else (low[i], high[i])
        margin = max(0.07 * (end - start), (least - (end - start)) / 2, 0.1 * least)
        start, end = start - margin, end + margin
        ticks = _ticks(start, end, comparison)
        axis.set_ticks(to_scale(ticks / 100, comparison.scale, 1e-9), [f"{tick:g}" for tick in ticks])
        (axes.set_xlim if i == 0 else axes.set_ylim)(start, end)
        axis.set_label_text(f"{('ID', 'OOD')[i]} macro-F1 (%), split {split}, {comparison.scale} scale")
    axes.set_aspect("equal" if together else "auto")
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _ticks(start: float, end: float, comparison: Comparison) -> NDArray[np.float64]:
    """Percentages to label between two ends on the scale: the roundest that keep a distance."""
    rounds = [np.array([50, 10, 90, 20, 80, 30, 70, 40, 60, 5, 95, 1, 99, 2, 98, 0.1, 99.9, 0.01, 99.99, 0.5, 99.5])]
    rounds += [np.arange(1, round(100 / step)) * step for step in (5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)]
    best: list[float] = []
    for candidates in rounds:
        chosen: list[float] = []
        for tick in candidates.round(2):
            place = float(to_scale(tick / 100, comparison.scale, 1e-9))
            others = to_scale(np.array(chosen) / 100, comparison.scale, 1e-9)
            if start <= place <= end and (np.abs(others - place) >= (end - start) / 9).all():
                chosen.append(float(tick))
        best = max(best, chosen, key=len)
        if len(best) >= 4:
            break
    return np.array(sorted(best))


def _runs_csv(rows: Sequence[Row]) -> str:
    """One line a run and epoch; scores are fractions, effective robustness is in percentage points."""
    text = io.StringIO()
    records = []
    for row in rows:
        record = asdict(row)
        for split in ("id", "ood"):
            record.update({f"{split}_{name}": value for name, value in record.pop(split).items()})
        records.append(record)
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _page(comparison: Comparison, svg: str, provenance: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, points=points, number=_number)
    inline = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    arms = [summary.arm.name for summary in comparison.arms]
    swatches = {name: (COLORS[i % len(COLORS)]) for i, name in enumerate(arms)}
    return environment.get_template("report.html.j2").render(
        c=comparison,
        final=[row for row in comparison.rows if row.final],
        figure=Markup(inline),  # drawn above; matplotlib has escaped the names in it
        swatches=swatches,
        **provenance,
    )


def _percent(fraction: float | None, digits: int = 1) -> str:
    return "–" if fraction is None else f"{100 * fraction:.{digits}f}"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}g}".replace("-", "−")


def _check_replaceable(out: Path) -> None:
    """Only an earlier report, or an empty directory, may give way to a report."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    record = {}
    with contextlib.suppress(OSError, ValueError):
        record = json.loads((out / "comparison.json").read_bytes())
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise EvaluateError(f"{out}: exists and is not a report; choose another place")
    foreign = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()} - set(
        record.get("files", [])
    )
    if foreign:
        raise EvaluateError(
            f"{out}: holds {sorted(foreign)[0]}, which is not the report's; move it or choose another place"
        )


def _write_directory(out: Path, files: dict[str, bytes]) -> None:
    """Write all files beside ``out``, then put the whole directory in its place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        (work / "new").mkdir()
        for name, data in files.items():
            path = work / "new" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        if out.exists():
            out.rename(work / "old")
        try:
            os.rename(work / "new", out)
        except OSError:
            if (work / "old").exists():
                (work / "old").rename(out)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
