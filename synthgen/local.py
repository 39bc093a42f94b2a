"""The local engine: worker processes on this machine, one a core or one a GPU, started anew where one dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from synthgen.errors import SynthgenError
from synthgen.processes import end_with_parent, interrupts
from synthgen.work import ATTEMPTS, Done, Engine, Task, Work, told, write_one

TELL_EVERY = 0.2  # seconds between a worker's messages on how far it is
GRACE = 5.0  # seconds that workers get to clean up when the run is stopped


@dataclass(slots=True, kw_only=True)
class _Slot:
    """A worker's place: its device, and the process that is there now."""

    device: str | None
    process: SpawnProcess | None = None
    pipe: Connection | None = None
    task: Task | None = None


def local(devices: Sequence[str | None]) -> Engine:
    """An engine of one worker a device; None stands for a core."""

    def run(work: Work, tasks: Sequence[Task], advance: Callable[[int], None]) -> Iterator[Done]:
        slots = [_Slot(device=device) for device in devices[: len(tasks)]]
        queue, failures = deque(tasks), Counter[int]()
        try:
            while queue or any(slot.task for slot in slots):
                for slot in slots:
                    if slot.task is None and queue:
                        _give(slot, work, queue.popleft())
                for slot, message in _messages(slots):
                    done = _hear(slot, message, queue, failures, advance)
                    if done is not None:
                        yield done
        finally:
            _stop(slots)

    return run


def _give(slot: _Slot, work: Work, task: Task) -> None:
    if slot.process is None:
        context = multiprocessing.get_context("spawn")
        slot.pipe, theirs = context.Pipe()
        slot.process = context.Process(target=_work, args=(theirs, work, slot.device), daemon=True)
        with interrupts(signal.SIG_BLOCK):  # until the worker knows what to do
            slot.process.start()
        theirs.close()
    assert slot.pipe is not None
    slot.task = task
    with suppress(BrokenPipeError):  # it has just died, which the next look at it tells
        slot.pipe.send(task)


def _messages(slots: Sequence[_Slot]) -> Iterator[tuple[_Slot, Any]]:
    """What busy workers say; None where one died."""
    pipes = {slot.pipe: slot for slot in slots if slot.pipe is not None and slot.task is not None}
    for pipe in wait(list(pipes)):
        assert isinstance(pipe, Connection)
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            message = None
        yield pipes[pipe], message


def _hear(
    slot: _Slot, message: Any, queue: deque[Task], failures: Counter[int], advance: Callable[[int], None]
) -> Done | None:
    """Take a worker's message in; the end of its task where it is one."""
    assert slot.task is not None
    assert slot.process is not None
    task, worker = slot.task, str(slot.process.pid)
    if isinstance(message, int):
        advance(message)
        return None
    slot.task = None
    if isinstance(message, Done):
        return message
    if isinstance(message, SynthgenError):
        raise message
    if message is None:
        slot.process.join()
        message = f"its worker was killed ({_how(slot.process.exitcode)})"
        slot.process = slot.pipe = None
    failures[task.span.index] += 1
    if failures[task.span.index] < ATTEMPTS:
        queue.append(task)
        return None
    return Done(span=task.span, n_samples=0, worker=worker, failed=message)


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, perhaps for want of memory" if name == "SIGKILL" else name


def _stop(slots: Sequence[_Slot]) -> None:
    """End the workers: idle ones at once, busy ones after they have removed what is unfinished."""
    processes = [slot.process for slot in slots if slot.process is not None]
    for slot in slots:
        if slot.process is not None and slot.task is not None:
            slot.process.terminate()
        elif slot.pipe is not None:
            with suppress(BrokenPipeError):
                slot.pipe.send(None)
    end = time.monotonic() + GRACE
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _work(pipe: Connection, work: Work, device: str | None) -> None:
    """A worker process: takes tasks until it is told None."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=end_with_parent, daemon=True).start()
    renderer = None
    with suppress(EOFError, BrokenPipeError):  # the parent is gone
        while (task := pipe.recv()) is not None:
            try:
                renderer = renderer or work.make(device)
                teller = _Teller(pipe)
                n_samples = write_one(work, renderer, task, teller)
                teller.send()
                pipe.send(Done(span=task.span, n_samples=n_samples, worker=str(os.getpid())))
            except SynthgenError as error:
                pipe.send(SynthgenError(str(error)))
            except Exception as error:
                pipe.send(told(error))


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)  # through the blocks that remove what is unfinished


class _Teller:
    """Tells the parent of rendered images, not too often."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._n, self._last = pipe, 0, time.monotonic()

    def __call__(self, n_samples: int) -> None:
        self._n += n_samples
        if time.monotonic() - self._last >= TELL_EVERY:
            self.send()

    def send(self) -> None:
        """Tell now."""
        self._pipe.send(self._n)
        self._n, self._last = 0, time.monotonic()
