"""The lock on a run: one process trains it, others wait or do something else meanwhile."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synthgen.common.printing import say
from synthgen.storage.inside import check_folder

from ..errors import told_here
from ..images.pixelfile import busy
from ..runs import Run
from .grid import Step

LOCK = "lock"  # file in a run's directory


def is_free(step: Step, out: Path, wait: bool) -> bool:
    """Whether no other process is working on the pre-training that a run starts from."""
    if wait or step.config.init is None or step.checkpoint is not None:
        return True
    before = Run(directory=out / step.config.init)
    return before.done or not busy(before.directory / LOCK)


@contextmanager
def locked(run: Run, title: str, wait: bool) -> Iterator[bool]:
    """Hold a run's lock; yields False if another process holds it and it is not to ``wait``."""
    with told_here():
        check_folder(run.directory)
    run.directory.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(run.directory / LOCK, flags, 0o666), "rb") as file:
        held = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = wait
            if wait:
                say(f"{title}: another process is working on it; waiting")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield held
