"""The commands that show what a directory of runs keeps: cache, status."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synthgen.common.options import AsJson
from synthgen.common.printing import counted, say

from .errors import EvaluateError

if TYPE_CHECKING:
    from .runs import State

app = typer.Typer()

Runs = Annotated[Path, typer.Argument(metavar="RUNS", help="Directory of runs.")]


@app.command(epilog="Example: evaluate cache runs/miniature --clear")
def cache(
    runs: Runs,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the decoded images.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the decoded images that a directory of runs keeps, or remove them."""
    from .images.pixels import clear as remove
    from .images.pixels import entries

    folder = runs / "cache"
    if not runs.is_dir():
        raise EvaluateError(f"{runs}: no such directory of runs")
    if clear:
        say(f"{folder}: {remove(folder) / 1e9:.3g} GB removed")
        return
    found = [asdict(entry) | {"path": str(entry.path)} for entry in entries(folder)]
    if as_json:
        say(json.dumps(found))
        return
    for entry in found:
        say(
            f"{entry['n_bytes'] / 1e9:.3g} GB: {entry['n_present']} of {entry['n_images']} images at"
            f" {entry['size']} px: {entry['what']}"
        )
    say(f"{folder}: {sum(entry['n_bytes'] for entry in found) / 1e9:.3g} GB")


@app.command(epilog="Example: evaluate status runs/miniature")
def status(runs: Runs, as_json: AsJson = False) -> None:
    """Report which runs of a directory are done, and why others failed."""
    from .runs import Run, read_suite_records

    states = {}
    for suite in read_suite_records(runs):
        for member in suite.members:
            for digest in filter(None, (member.pretrain, member.finetune)):
                run = Run(directory=runs / digest)
                run.find_config()
                states[digest] = run.state
    if as_json:
        say(json.dumps({digest: _told(state) for digest, state in states.items()}))
        return
    counts = Counter(state.status for state in states.values())
    say(
        f"{runs}: {counted(len(states), 'run')}: "
        + ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    )
    for digest, state in states.items():
        if state.status == "failed":
            say(f"{digest}: {state.error}")


def _told(state: State) -> dict[str, object]:
    """A run's state as recorded."""
    return {key: value for key, value in sorted(asdict(state).items()) if value not in (None, {})}
