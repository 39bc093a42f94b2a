"""Arguments and options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import BadParameter

from synthgen.common.logs import setting


def local(path: Path | None) -> Path | None:
    """Callback of an option that takes a local path: refuses a URL, which pathlib would accept as a path."""
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path)):  # pathlib has merged the two slashes
        raise BadParameter(f"{str(path).replace(':/', '://', 1)}: must be a local path, not a URL")
    return path


Out = Annotated[
    str, typer.Option(metavar="DIR|URL", help="Dataset directory, local or at a URL; an existing one is continued.")
]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Dataset directory.", callback=local)]
Anywhere = Annotated[str, typer.Argument(metavar="DIR|URL", help="Dataset directory, local or at a URL.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")]


def command_of(application: typer.Typer) -> Any:
    """The command of an application, with ``--debug`` added to every command."""
    command = typer.main.get_command(application)
    _add_debug(command, _debug_option())
    return command


def _set_debug(debug: bool) -> None:
    setting.debug = setting.debug or debug


Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show the traceback of an error on stderr.", callback=_set_debug, expose_value=False),
]


def _nothing(debug: Debug = False) -> None:
    """A command with the option, from which it is taken for all others."""


def _debug_option() -> Any:
    application = typer.Typer(add_completion=False)
    application.command()(_nothing)
    return typer.main.get_command(application).params[0]


def _add_debug(command: Any, option: Any) -> None:
    command.params.append(option)
    for inner in getattr(command, "commands", {}).values():
        _add_debug(inner, option)
