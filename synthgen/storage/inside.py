"""Names that become files, and where within a folder or a store something may be written.

A set that came from elsewhere may hold links and names that lead out of it.  What is read may lie behind a link
(a Hub cache is all links), as only regular files are opened.  What is written never does.
"""

from __future__ import annotations

import re
from os.path import realpath
from pathlib import Path

from synthgen.common.errors import SynthgenError

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


def check_name(directory: object, name: str) -> list[str]:
    """The parts of the name of a file, such as "data/x.tar"; raises SynthgenError where it leaves ``directory``."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise SynthgenError(f"{directory}: {name[:200]!a} is no name of a file within it; nothing is written there")
    return parts


def target(directory: Path, name: str) -> Path:
    """Where a file ``name``, such as "data/x.tar", of a set in a folder is written.

    Raises SynthgenError where the name leaves the directory or a folder on its way is a link.
    """
    parts = check_name(directory, name)
    for end in range(1, len(parts)):
        check_folder(directory.joinpath(*parts[:end]))
    return directory.joinpath(*parts)


def check_folder(folder: Path) -> None:
    """Raise SynthgenError where a folder to write in is a link."""
    if folder.is_symlink():
        raise SynthgenError(
            f"{folder}: a link, through which nothing is written; put a folder in its place, or mount the other disk"
        )


def check_outside(directory: Path, out: Path) -> None:
    """Raise SynthgenError where a path to write at lies in the dataset that is read."""
    if Path(realpath(out)).is_relative_to(realpath(directory)):
        raise SynthgenError(f"{out}: lies in the dataset {directory} itself; name another place")
