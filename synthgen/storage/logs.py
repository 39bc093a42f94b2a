"""The folder ``logs/`` beside the files of a set or of runs, but not part of them: tracebacks of failures."""

from __future__ import annotations

import platform
import re
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version

from synthgen.common.logs import Failure, setting, show
from synthgen.common.masking import one_line, shown
from synthgen.storage.places import store_of
from synthgen.storage.store import Place

FOLDER = "logs"
MOST = 100  # newest logs that are kept
NAME = re.compile(r"[0-9]{8}T[0-9]{6}(?:\.[0-9]{6})?Z-[\w.-]+\.log")  # the time first, to sort by


def go_beside(directory: Place) -> None:
    """From now on, log bugs of this process beside the set or the runs that it writes here."""
    setting.keep = partial(keep, directory)


def keep(directory: Place, name: str, failure: Failure, about: str) -> str:
    """Write a log, completely or not at all, and show the traceback if ``--debug`` was given.

    The file is ``logs/TIME-NAME.log``, with ``about`` in its first line.  Returns words that say where it is, or why
    there is none: failing to write a log never causes another failure.
    """
    if setting.debug:
        show(failure.traceback)
    now = datetime.now(UTC)
    path = directory / FOLDER / f"{now:%Y%m%dT%H%M%S.%fZ}-{name}.log"  # two may fail within a second
    versions = f"synthgen {version('synthgen')}, Python {platform.python_version()}"
    head = f"{now:%Y-%m-%d %H:%M:%S UTC}, {about}, {versions}"
    try:
        _write(path, f"{head}\n{failure.traceback}\n".encode())
        for old in sorted(_logs(directory), key=lambda old: old.name)[:-MOST]:
            store_of(old).remove(old)
    except Exception as error:  # each store's client has its own errors
        return f"no log could be written: {one_line(error)}"
    return f"traceback in {shown(str(path))}"


def forget(directory: Place, name: str = "") -> None:
    """Remove the logs of what has succeeded since: all of them, or those of all attempts at ``name``."""
    store, folder = store_of(directory), directory / FOLDER
    with suppress(Exception):
        store.check_folder(folder)
        for path in _logs(directory):
            if name in path.name:
                store.remove(path)
        if not store.names_in(folder):  # a log that is being written is a file, too
            store.remove_folder(folder)


def _write(path: Place, data: bytes) -> None:
    store = store_of(path)
    store.check_folder(path.parent)
    store.write(path, data)


def _logs(directory: Place) -> list[Place]:
    folder = directory / FOLDER
    return [folder / name for name in store_of(directory).names_in(folder) if NAME.fullmatch(name)]
