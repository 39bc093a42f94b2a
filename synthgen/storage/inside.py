"""Names that become files, and where in a folder or a store files may be written.

A set that came from elsewhere may contain links and names that lead out of it.  Reading may follow links (a Hub cache
consists of links), as only regular files are opened.  Writing never does.
"""

from __future__ import annotations

import re
from os.path import realpath
from pathlib import Path

from synthgen.common.errors import SynthgenError

NEW = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")  # new names
STORED = re.compile(r"\w[\w .-]*")  # existing names: also spaces and other scripts
RULE = "letters (a to z), digits, _, - and dots inside"
LONGEST = 200  # characters; file systems allow names of 255 bytes


def fits(name: str) -> bool:
    """Whether a new name may become a file name."""
    return len(name) <= LONGEST and NEW.fullmatch(name) is not None


def fits_stored(name: str) -> bool:
    """Whether a name from a record may become a file name: it cannot leave a folder."""
    return len(name) <= LONGEST and STORED.fullmatch(name) is not None


def check_name(directory: object, name: str) -> list[str]:
    """The parts of a file name such as "data/x.tar"; raises SynthgenError if it leaves ``directory``."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise SynthgenError(f"{directory}: {name[:200]!a} is not the name of a file within it; nothing was written")
    return parts


def target(directory: Path, name: str) -> Path:
    """Where the file ``name``, such as "data/x.tar", of a set in a folder is written.

    Raises SynthgenError if the name leaves the directory or a folder on the way is a link.
    """
    parts = check_name(directory, name)
    for end in range(1, len(parts)):
        check_folder(directory.joinpath(*parts[:end]))
    return directory.joinpath(*parts)


def check_folder(folder: Path) -> None:
    """Raise SynthgenError if a folder to write in is a link."""
    if folder.is_symlink():
        raise SynthgenError(
            f"{folder}: a link, and nothing is written through links; replace it with a folder, or mount the disk there"
        )


def check_outside(directory: Path, out: Path) -> None:
    """Raise SynthgenError if a path to write to is inside the dataset that is read."""
    if Path(realpath(out)).is_relative_to(realpath(directory)):
        raise SynthgenError(f"{out}: is inside the dataset {directory} itself; choose another place")
