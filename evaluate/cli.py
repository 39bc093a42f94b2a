"""The command ``evaluate``: it only translates; the modules beside it do the work."""

from __future__ import annotations

import os
import sys

import typer

from synthgen.common.commands import run
from synthgen.common.errors import SynthgenError
from synthgen.common.processes import end_silently

from . import cli_analysis, cli_byhand, cli_kept, cli_runs
from .errors import EvaluateError

app = typer.Typer(
    help="Measure what pre-training images are worth: pre-train, fine-tune on a task with a shift, compare.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
for commands in (cli_runs, cli_byhand, cli_kept, cli_analysis):
    app.add_typer(commands.app)


def main() -> None:
    """Run the command line of this process and end."""
    if os.environ.get("RANK", "0") != "0":  # one of several processes that `accelerate launch` started
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    code = run(app, "evaluate", (EvaluateError, SynthgenError))
    end_silently()
    sys.exit(code)
