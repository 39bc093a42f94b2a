"""Worker processes: what they do on Ctrl-C, and when their parent is killed."""

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
    """End this process when its parent ends; run in a thread, so that a killed parent leaves no workers behind."""
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def end_silently() -> None:
    """Let Ctrl-C and SIGTERM end this process at once and without a word, unless they are ignored, as under nohup.

    For the time before a command begins and after its end: Python would show a traceback, or drop the interruption
    where it falls into the machinery of imports.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def keep_interruptions(again: Callable[[], object]) -> None:
    """Call ``again`` when an interruption is lost because it came inside a callback from C code, such as a compiler's.

    Python drops all exceptions there; ``again`` must cause another interruption once the callback is over.
    """
    before = sys.unraisablehook

    def hook(lost: Any) -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt | SystemExit):
            again()
        else:
            before(lost)

    sys.unraisablehook = hook


def interrupt_soon() -> None:
    """Send Ctrl-C to this process in a moment."""
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()


def how_ended(code: int | None) -> str:
    """The exit code of a process in words: the signal that killed it, if one did."""
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, perhaps for lack of memory" if name == "SIGKILL" else name


@contextmanager
def interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block is over; a process started in it blocks them until it unblocks them.

    Blocking them here is not enough: if another thread receives a signal, Python still handles it in the main thread.
    """
    numbers, received = {signal.SIGINT, signal.SIGTERM}, list[int]()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    main = threading.current_thread() is threading.main_thread()  # only its handlers can be changed, and run
    before = {number: signal.signal(number, lambda n, _: received.append(n)) for number in numbers if main}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if received:
            signal.raise_signal(received[0])


@contextmanager
def unheard() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM for a while: a second one would end the run less cleanly, not sooner."""
    if threading.current_thread() is not threading.main_thread():  # the only one that receives them
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def worker_name(process: int | None = None) -> str:
    """Host and process (by default this one), such as ``node7-4242``."""
    return f"{socket.gethostname()}-{process or os.getpid()}"
