"""Processes that tests start, wait for and kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Popen = subprocess.Popen[str]
Start = Callable[..., Popen]


def installed(name: str) -> str:
    """The path of an installed command."""
    return str(Path(sys.executable).with_name(name))


def wait(condition: Callable[[], T | Literal[False]], seconds: float = 240.0) -> T:
    """What the condition returns as soon as that is true; fails after so long."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)
    return found


@contextmanager
def starting() -> Iterator[Start]:
    """Starts processes, each in a group of its own and heard through pipes; whatever is left of them is killed."""
    started: list[Popen] = []

    def start(arguments: Sequence[object], **options: Any) -> Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = list(map(str, arguments))
        process: Popen = subprocess.Popen(command, text=True, start_new_session=True, **pipes | options)
        started.append(process)
        return process

    yield start
    for process in started:
        for pid in members(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=20)


def kill_when(process: Popen, condition: Callable[[], object]) -> None:
    """Kill a process with its group as soon as the condition is true, where it has not ended before."""
    wait(lambda: process.poll() is not None or condition())
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)


@dataclass(frozen=True)
class Entry:
    """A row of the table of processes."""

    pid: int
    state: str
    parent: int
    group: int


def entries() -> Iterator[Entry]:
    """All processes of this machine."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            yield Entry(int(folder.name), state, int(parent), int(group))


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    return [entry.pid for entry in entries() if entry.group == group and entry.state not in "ZX"]


def children(parent: int) -> list[int]:
    """The processes that one has started, dead ones that it has not waited for too."""
    return [entry.pid for entry in entries() if entry.parent == parent]


def parent(pid: int) -> int:
    """Who started a process, or has taken it over; 0 where it is gone."""
    return next((entry.parent for entry in entries() if entry.pid == pid), 0)


def command_line(pid: int) -> list[str]:
    """The words that a process was started with; none where it is gone."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().decode().split("\0")
    except OSError:
        return []


def zombies() -> list[int]:
    """The children of this process that have ended and were not waited for."""
    return [entry.pid for entry in entries() if entry.parent == os.getpid() and entry.state == "Z"]
