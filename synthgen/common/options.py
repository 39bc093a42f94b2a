"""Arguments and options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from typer import BadParameter


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
