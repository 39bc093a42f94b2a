"""Names that become files, and where within a folder or a store something may be written.

A set that came from elsewhere may hold links and names that lead out of it.  What is read may lie behind a link
(a Hub cache is all links), as only regular files are opened.  What is written never does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from synthgen.common.errors import SynthgenError

if TYPE_CHECKING:
    from upath import UPath

    P = TypeVar("P", bound=Path | UPath)
else:
    P = TypeVar("P")

NEW = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")  # names that are given today
STORED = re.compile(r"\w[\w .-]*")  # and those that were taken before: spaces, other scripts
RULE = "letters (a to z), digits, _, - and dots within"
LONGEST = 200  # characters; file systems take names of 255 bytes


def fits(name: str) -> bool:
    """Whether a new name may become that of a file."""
    return len(name) <= LONGEST and NEW.fullmatch(name) is not None


def fits_stored(name: str) -> bool:
    """Whether the name of a record may become that of a file: it leaves no folder."""
    return len(name) <= LONGEST and STORED.fullmatch(name) is not None


def target(directory: P, name: str) -> P:
    """Where a file ``name``, such as "data/x.tar", of a set is written.

    Raises SynthgenError where the name leaves the directory or a folder on its way is a link.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise SynthgenError(f"{directory}: {name[:200]!a} is no name of a file within it; nothing is written there")
    place = directory
    for part in parts[:-1]:
        place = cast(P, place / part)
        check_folder(place)
    return cast(P, place / parts[-1])


def check_folder(folder: Path | UPath) -> None:
    """Raise SynthgenError where a folder to write in is a link."""
    if isinstance(folder, Path) and folder.is_symlink():
        raise SynthgenError(
            f"{folder}: a link, through which nothing is written; put a folder in its place, or mount the other disk"
        )
