"""The commands that analyse finished runs: compare, power."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synthgen.common.options import AsJson, local
from synthgen.common.printing import say

from .errors import EvaluateError

if TYPE_CHECKING:
    from .analysis.load import LoadedRun

app = typer.Typer()
MOST_RESAMPLES = 100_000  # 95% limits of normal values then vary by 0.4% of their distance; more takes gigabytes


def points(value: float) -> float:
    """Check a difference of macro-F1 in percentage points."""
    if not 0 < value <= 100:  # nan, too
        raise typer.BadParameter(f"{value:g} points: must be above 0 and at most 100")
    return value


Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Random seed.")]
RunsOrNone = Annotated[list[Path] | None, typer.Argument(metavar="RUNS...", help="Directories of runs.")]
Results = Annotated[
    Path | None,
    typer.Option(
        help="CSV of published scores: id_macro_f1 and ood_macro_f1 in percent, pretraining, architecture, ..."
    ),
]
Baseline = Annotated[str | None, typer.Option(help="Arm to compare with; the suite's baseline by default.")]


@app.command(epilog="Example: evaluate compare runs/miniature --out report")
def compare(
    out: Annotated[Path, typer.Option(help="Directory of the report.", callback=local)],
    runs: RunsOrNone = None,
    results: Results = None,
    baseline: Baseline = None,
    reference: Annotated[
        str | None, typer.Option(help="Second arm to compare with, such as natural images; the suite's by default.")
    ] = None,
    scale: Annotated[Literal["logit", "probit", "linear"], typer.Option(help="Scale of the trends.")] = "logit",
    margin: Annotated[
        float, typer.Option(help="Points of effective robustness that count as no difference.", callback=points)
    ] = 1.0,
    resamples: Annotated[int, typer.Option(min=100, max=MOST_RESAMPLES, help="Bootstrap resamples.")] = 10_000,
    seed: Seed = 0,
) -> None:
    """Compare the arms of finished runs in a report of HTML, figures and tables."""
    from .analysis.compare import compare as analyse
    from .reporting.report import write_report

    comparison = analyse(
        _loaded(runs, results),
        baseline=baseline,
        reference=reference,
        scale=scale,
        margin=margin,
        resamples=resamples,
        seed=seed,
    )
    page = write_report(comparison, out)
    say(f"report: {page}", *comparison.summary)


@app.command(epilog="Example: evaluate power runs/miniature --difference 2")
def power(
    runs: RunsOrNone = None,
    difference: Annotated[
        float,
        typer.Option(help="Points of effective robustness that the runs should be able to show.", callback=points),
    ] = 1.0,
    baseline: Baseline = None,
    as_json: AsJson = False,
) -> None:
    """Report how many runs an arm needs to show a difference, from the variation of the finished ones."""
    from .analysis.compare import compare as analyse
    from .reporting.tables import written

    if not runs:
        raise EvaluateError("name directories of runs")
    comparison = analyse(_loaded(runs, None), baseline=baseline, margin=difference, resamples=100)
    rows = [
        {
            "arm": effect.arm.name,
            "blocks": effect.n,
            "power": f"{effect.margin.power:.0%}" if effect.margin else "",
            "needed for 80%": effect.margin.needed if effect.margin and effect.margin.needed is not None else "",
        }
        for effect in comparison.effects
    ]
    if as_json:
        say(json.dumps(rows))
    elif rows:
        say(
            f"blocks (architecture x seed) to show {difference:g} points of effective robustness against"
            f" {comparison.baseline}, at Holm's first step within the factor"
        )
        say(*written(rows, "text").split("\n"))
    else:
        say(*comparison.summary)


def _loaded(runs: list[Path] | None, results: Path | None) -> list[LoadedRun]:
    from .analysis.load import load_runs
    from .analysis.published import load_results

    if bool(runs) == (results is not None):
        raise EvaluateError("name directories of runs, or a file of published scores with --results")
    return load_results(results) if results is not None else load_runs(runs or [])
