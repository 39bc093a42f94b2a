"""Worker processes: what they do when Ctrl-C is pressed, and when their parent is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def end_with_parent() -> None:
    """End this process with its parent, for a thread: a killed parent must not leave workers behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def interrupts(how: int) -> Iterator[None]:
    """Block or unblock Ctrl-C (signal.SIG_BLOCK, SIG_UNBLOCK) for a while; processes started meanwhile inherit it."""
    before = signal.pthread_sigmask(how, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def unheard() -> Iterator[None]:
    """Hear neither Ctrl-C nor SIGTERM for a while: who asks again gets no quicker end, but a worse one."""
    if threading.current_thread() is not threading.main_thread():  # which alone hears them
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
