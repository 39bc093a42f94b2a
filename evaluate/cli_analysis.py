"""The commands that analyse finished runs: compare, power."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synthgen.common.options import AsJson, local
from synthgen.common.printing import counted, say

from .errors import EvaluateError

if TYPE_CHECKING:
    from .analysis.load import LoadedRun
    from .analysis.power import Needs
    from .analysis.results import Comparison

app = typer.Typer()
MOST_RESAMPLES = 100_000  # 95% limits of normal values then vary by 0.4% of their distance; more takes gigabytes
LARGEST = 100  # percentage points that an effect can have


def points(value: float | None) -> float | None:
    """Check a difference of macro-F1 in percentage points."""
    if value is not None and not 0 < value <= 100:  # nan, too
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
Unit = Annotated[
    Literal["percent", "fraction"] | None, typer.Option(help="Unit of the scores in --results, if it is not clear.")
]
Baseline = Annotated[str | None, typer.Option(help="Arm to compare with; the suite's baseline by default.")]


@app.command(epilog="Example: evaluate compare runs/miniature --out report")
def compare(
    out: Annotated[Path, typer.Option(help="Directory of the report.", callback=local)],
    runs: RunsOrNone = None,
    results: Results = None,
    unit: Unit = None,
    baseline: Baseline = None,
    reference: Annotated[
        str | None, typer.Option(help="Second arm to compare with, such as natural images; the suite's by default.")
    ] = None,
    scale: Annotated[
        Literal["logit", "probit", "linear"] | None,
        typer.Option(help="Scale on which trends are straight lines; the suite's by default."),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Points of effective robustness that count as no difference; the suite's by default.", callback=points
        ),
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, max=MOST_RESAMPLES, help="Bootstrap resamples.")] = 10_000,
    seed: Seed = 0,
) -> None:
    """Compare the arms of finished runs in a report of HTML, figures and tables."""
    from .analysis.compare import compare as analyse
    from .reporting.report import write_report

    comparison = analyse(
        _loaded(runs, results, unit),
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
    results: Results = None,
    difference: Annotated[
        float,
        typer.Option(help="Points of effective robustness that the runs should be able to show.", callback=points),
    ] = 1.0,
    baseline: Baseline = None,
    unit: Unit = None,
    run_sd: Annotated[
        float | None,
        typer.Option(
            help="Without a pilot: sd of paired differences between independent runs, points above 0.", callback=points
        ),
    ] = None,
    cluster_error: Annotated[
        float, typer.Option(min=0, max=100, help="Without a pilot: standard error that clusters leave, points.")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Report how many independent runs an arm needs to show a difference, from finished runs or stated variances."""
    from .analysis.power import Needs, needs, stated_needs
    from .analysis.significance import sidak_level
    from .reporting.tables import written

    if run_sd is not None:
        if runs or results:
            raise EvaluateError("--run-sd: is for a study without a pilot; leave the runs away")
        found = {"stated": stated_needs(difference, run_sd, cluster_error)}
        tests, against, unit_name = 1, "the baseline", "independent runs"
        unknown = "" if cluster_error else ", if other test images add no error"
    else:
        from .analysis.compare import compare as analyse

        comparison = analyse(_loaded(runs, results, unit), baseline=baseline, margin=difference, resamples=100)
        if comparison.unverified:
            say(comparison.unverified, file=sys.stderr)
        unknown = "" if comparison.clusters else ", on these test images: what others add is unknown"
        tests, against = max(1, sum(effect.primary for effect in comparison.effects)), comparison.baseline
        level = sidak_level(tests, comparison.judgement.level)
        unit_name, seeds = _units(comparison)
        found = {
            effect.arm.name: Needs(units=effect.units, unknown=effect.conclusion.reason or effect.robustness.note)
            if effect.robustness.parts is None
            else needs(difference, effect.robustness.parts, effect.units, level=level, seeds=seeds)
            for effect in comparison.effects
        }
    if as_json:
        say(json.dumps([{"arm": name, **asdict(one)} for name, one in found.items()]))
        return
    if run_sd is None and not comparison.effects:
        say(*comparison.summary)
        return

    known = {name: one for name, one in found.items() if not one.unknown}
    if known:
        say(
            f"{unit_name} to show {counted(difference, 'point', form='g')} of effective robustness against {against} in"
            f" 80% of studies{f', corrected for {tests} primary comparisons' if tests > 1 else ''}{unknown};"
            " effects are in points"
            f"{'; the upper end of the range is enough after four in five pilots' if run_sd is None else ''}"
        )
        rows = [_stated_row(one) if run_sd is not None else _row(name, one, unit_name) for name, one in known.items()]
        say(*written(rows, "text").split("\n"))
    for name, one in found.items():
        if one.unknown:
            say(f"{name}: how many {unit_name} are needed is unknown: {one.unknown}")


def _row(name: str, found: Needs, unit_name: str) -> dict[str, str]:
    """What a pilot says of an arm, for a table."""
    return {
        "arm": name,
        unit_name: str(found.units),
        "smallest effect shown": _effect(found.smallest),
        "needed": _number(found.needed),
        "range": " to ".join(dict.fromkeys((_number(found.low), _number(found.high)))),
        "effect shown by any number": f"{_effect(found.floor)} (to {_effect(found.floor_high)})",
        "what helps most": found.helps,
    }


def _stated_row(found: Needs) -> dict[str, str]:
    """What stated variances say, for a table."""
    return {"needed": _number(found.needed), "effect shown by any number": _effect(found.floor)}


def _number(n: int | None) -> str:
    from .analysis.power import MOST_UNITS

    return f"more than {MOST_UNITS:,}" if n is None else str(n)


def _effect(size: float | None) -> str:
    return "" if size is None else f"{size:.1f}" if size <= LARGEST else f"more than {LARGEST}"


def _units(comparison: Comparison) -> tuple[str, tuple[str, str]]:
    """What independent runs are called, what more of them are, and what more runs of each are."""
    if any(effect.unit == "architecture" for effect in comparison.effects):
        return "architectures", ("architectures", "seeds")
    if any(effect.units < effect.n for effect in comparison.effects):
        return "pre-training runs", ("pre-training seeds", "fine-tuning seeds")
    return "independent runs", ("seeds", "fine-tuning seeds")


def _loaded(runs: list[Path] | None, results: Path | None, unit: str | None) -> list[LoadedRun]:
    from .analysis.load import load_runs
    from .analysis.published import load_results

    if bool(runs) == (results is not None):
        raise EvaluateError("name directories of runs, or a file of published scores with --results")
    return load_results(results, unit=unit) if results is not None else load_runs(runs or [])
