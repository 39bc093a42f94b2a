"""The folder ``logs/`` beside the files of a set or of runs, not a part of these: tracebacks of what failed."""

from __future__ import annotations

import platform
import re
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from synthgen.common.logs import Failure, setting, show
from synthgen.common.masking import one_line, shown
from synthgen.storage.atomic import remove_orphans, write_atomically
from synthgen.storage.inside import check_folder

if TYPE_CHECKING:
    from synthgen.storage.places import Place

FOLDER = "logs"
MOST = 100  # logs that are kept, the newest
NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[\w.-]+\.log")  # the time first, by which they are in order


def keep(directory: Place, name: str, failure: Failure, about: str) -> str:
    """Write a log, whole or not at all, and show the traceback where that was asked for.

    The file is ``logs/TIME-NAME.log``, with ``about`` in its first line.  Returns words that say where it is, or why
    there is none: a log that cannot be written is worth no other failure.
    """
    if setting.debug:
        show(failure.traceback)
    now = time.gmtime()
    path = directory / FOLDER / f"{time.strftime('%Y%m%dT%H%M%SZ', now)}-{name}.log"
    versions = f"synthgen {version('synthgen')}, Python {platform.python_version()}"
    head = f"{time.strftime('%Y-%m-%d %H:%M:%S UTC', now)}, {about}, {versions}"
    try:
        _write(path, f"{head}\n{failure.traceback}\n".encode())
        for old in sorted(_logs(directory), key=lambda old: old.name)[:-MOST]:
            _remove(old)
    except Exception as error:  # each store's client has errors of its own
        return f"no log could be written: {one_line(error)}"
    return f"traceback in {shown(str(path))}"


def forget(directory: Place, name: str = "") -> None:
    """Remove the logs of what has succeeded since: all, or those of one ``name``, also where it has an attempt."""
    with suppress(Exception):
        check_folder(directory / FOLDER)
        for path in _logs(directory):
            if name in path.name:
                _remove(path)
        folder = directory / FOLDER
        if isinstance(folder, Path):
            remove_orphans(folder)
            folder.rmdir()  # if it is empty


def _write(path: Place, data: bytes) -> None:
    check_folder(path.parent)
    if isinstance(path, Path):
        write_atomically(path, data)
    else:
        path.fs.pipe_file(path.path, data)


def _logs(directory: Place) -> list[Place]:
    folder = directory / FOLDER
    if not isinstance(folder, Path):
        folder.fs.invalidate_cache()
    try:
        return [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove(path: Place) -> None:
    path.unlink() if isinstance(path, Path) else path.fs.rm_file(path.path)
