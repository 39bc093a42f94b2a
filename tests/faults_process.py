"""A command under test: a process group of its own, signalled at some moment, and how it ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 150.0  # seconds that a command may take; the claims of a dead worker of a store count for 30
AFTER = 10.0  # seconds that workers may outlive their driver
LOOK = 0.002  # seconds between looks for a moment
UNBEGUN = "(Python's own traceback, as it was still starting)"
# What is told on the way, of which there may be many lines.
PROGRESS = re.compile(r"^(\d+/\d+ )?[a-z -]+[^:]*: \d+ of \d+ (images|shards|epochs)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a command ended."""

    code: int | None  # negative: by that signal; None: it hung, and was killed
    lines: tuple[str, ...]  # of stderr, without those of progress
    left: int  # processes of its group that stayed behind, and were killed

    @property
    def unbegun(self) -> bool:
        """Whether it was interrupted while Python was starting, which then has its own words for that."""
        text = "\n".join(self.lines)
        return "KeyboardInterrupt" in text and "Traceback" in text and "sys.exit(run(" not in text

    def wrong(self, codes: set[int], name: str, *, most: int = 1) -> list[str]:
        """What is not as it should be: an exit code, a traceback, more lines than ``most`` or none, a process left."""
        found = []
        if self.code not in codes:
            found.append(f"exit code {self.code}, not one of {sorted(codes)}: {' | '.join(self.lines)[-300:]}")
        if any("Traceback" in line for line in self.lines):
            found.append(f"traceback: {self.lines[-1][:200]}")
        due = range(0, 1) if self.code == 0 else range(1, most + 1) if self.code and self.code > 0 else range(most + 1)
        if len(self.lines) not in due or not all(line.startswith(f"{name}: ") for line in self.lines):
            found.append(f"{len(self.lines)} lines on stderr: {' | '.join(self.lines)[-300:]}")
        if self.left:
            found.append(f"{self.left} processes left")
        return found


class Command:
    """A command that runs."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as told, log.with_suffix(".out").open("wb") as said:
            self.process = subprocess.Popen(
                arguments,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=told,
                start_new_session=True,
            )
        self.started = time.monotonic()

    @property
    def runs(self) -> bool:
        """Whether the driver has not ended."""
        return self.process.poll() is None

    def workers(self) -> list[int]:
        """The processes that do its work, now."""
        return [pid for pid, parent in _members(self.process.pid) if parent == self.process.pid and _is_worker(pid)]

    def signal(self, number: int, *, all_: bool) -> None:
        """Signal the driver, or the whole group."""
        if self.runs:
            (os.killpg if all_ else os.kill)(self.process.pid, number)

    def end(self) -> End:
        """Wait for the end, and for that of its workers."""
        code: int | None
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            code = None
        until = time.monotonic() + (AFTER if code is not None else 0)
        while (left := len(list(_members(self.process.pid)))) and time.monotonic() < until:
            time.sleep(0.01)
        if left:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return End(code=code, lines=tuple(told(self.log.read_text(errors="replace"))), left=left)


def told(text: str) -> Iterator[str]:
    """The lines of a stderr, without those of progress."""
    return (line for line in text.splitlines() if line.strip() and not PROGRESS.match(line))


def _members(group: int) -> Iterator[tuple[int, int]]:
    """Living processes of a group, each with its parent."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                state, parent, its_group = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(its_group) == group and state not in "ZX":
                yield int(entry.name), int(parent)


def _is_worker(pid: int) -> bool:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"spawn_main" in line or b"synthgen_evaluate" in line
