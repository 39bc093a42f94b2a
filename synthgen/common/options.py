"""Arguments and options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import BadParameter

from synthgen.common.logs import setting


def local(path: Path | None) -> Path | None:
    """The callback of an option that takes a path of this machine: a URL, which makes a path too, is refused."""
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path)):  # pathlib has made one slash of two
        raise BadParameter(f"{str(path).replace(':/', '://', 1)}: a path of this machine, not a URL")
    return path


Out = Annotated[
    str, typer.Option(metavar="DIR|URL", help="Dataset directory, here or at a URL; taken up where it stands.")
]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Dataset directory.", callback=local)]
Anywhere = Annotated[str, typer.Argument(metavar="DIR|URL", help="Dataset directory, or its URL.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of words.")]


def command_of(application: typer.Typer) -> Any:
    """The command of an application, whose every command has ``--debug``."""
    command = typer.main.get_command(application)
    _add_debug(command, _debug_option())
    return command


def _heard(debug: bool) -> None:
    setting.debug = setting.debug or debug


Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show the traceback of an error on stderr.", callback=_heard, expose_value=False),
]


def _nothing(debug: Debug = False) -> None:
    """A command that has the option, from which others get it."""


def _debug_option() -> Any:
    application = typer.Typer(add_completion=False)
    application.command()(_nothing)
    return typer.main.get_command(application).params[0]


def _add_debug(command: Any, option: Any) -> None:
    command.params.append(option)
    for inner in getattr(command, "commands", {}).values():
        _add_debug(inner, option)
