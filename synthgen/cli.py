"""The command ``synthgen``: it only translates options; other modules do the work."""

from __future__ import annotations

import sys

import typer

from synthgen import cli_sets
from synthgen.common.commands import run
from synthgen.common.errors import SynthgenError
from synthgen.common.processes import end_silently
from synthgen.kinds.known import kinds

app = typer.Typer(
    help="Make synthetic image sets for pre-training: every image reproducible, every killed run resumable.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
for kind in kinds().values():
    app.add_typer(kind.commands())
app.add_typer(cli_sets.app)


def main() -> None:
    """Run the command line of this process and end."""
    code = run(app, "synthgen", (SynthgenError,))
    end_silently()
    sys.exit(code)
