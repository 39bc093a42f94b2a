"""Worker processes: what they do when Ctrl-C is pressed, and when their parent is killed."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def end_with_parent() -> None:
    """End this process with its parent, for a thread: a killed parent must not leave workers behind."""
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def keep_interruptions(again: Callable[[], object]) -> None:
    """Call ``again`` where an interruption came inside a callback from C code, such as a compiler's, and was lost.

    Python drops all exceptions there; ``again`` must see to it that another comes when the callback is over.
    """
    before = sys.unraisablehook

    def hook(lost: Any) -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt | SystemExit):
            again()
        else:
            before(lost)

    sys.unraisablehook = hook


def interrupt_soon() -> None:
    """Have this process hear Ctrl-C in a moment."""
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()


def how_ended(code: int | None) -> str:
    """The exit code of a process in words: the signal that killed it, where one did."""
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, perhaps for want of memory" if name == "SIGKILL" else name


@contextmanager
def interrupts(how: int) -> Iterator[None]:
    """Block or unblock Ctrl-C and SIGTERM (signal.SIG_BLOCK, SIG_UNBLOCK); processes started meanwhile inherit it."""
    before = signal.pthread_sigmask(how, {signal.SIGINT, signal.SIGTERM})
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


def worker_name(process: int | None = None) -> str:
    """Host and process (this one), such as ``node7-4242``."""
    return f"{socket.gethostname()}-{process or os.getpid()}"
