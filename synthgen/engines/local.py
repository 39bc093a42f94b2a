"""The local engine: worker processes on this machine, one a core or one a GPU, started anew where one dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from synthgen.common.errors import SynthgenError
from synthgen.common.logs import Failure, failure_of
from synthgen.common.processes import end_with_parent, how_ended, interrupts, keep_interruptions, unheard, worker_name
from synthgen.engines.work import ATTEMPTS, Done, Engine, Task, Work, failed_at, write_one

TELL_EVERY = 0.2  # seconds between a worker's messages on how far it is
GRACE = 5.0  # seconds that workers get to clean up when the run is stopped


@dataclass(slots=True, kw_only=True)
class _Slot:
    """A worker's place: its device, and the process that is there now."""

    device: str | None
    process: SpawnProcess | None = None
    pipe: Connection | None = None
    task: Task | None = None
    in_a_row: int = 0  # failures without a success between them

    def clear(self) -> None:
        """Let go of a process that has ended."""
        assert self.process is not None
        assert self.pipe is not None
        self.process.join()
        self.process.close()
        self.pipe.close()
        self.process = self.pipe = None


@dataclass(slots=True, kw_only=True)
class _Course:
    """How far the tasks are."""

    queue: deque[Task]
    advance: Callable[[int], None]
    failures: Counter[int] = field(default_factory=Counter)  # by shard
    shown: Counter[int] = field(default_factory=Counter)  # images told to ``advance``, by shard

    def show(self, shard: int, n: int) -> None:
        """Tell that ``n`` images of a shard are rendered; not again those of a worker that died."""
        more = n - self.shown[shard]
        if more > 0:
            self.shown[shard] = n
            self.advance(more)


def local(devices: Sequence[str | None]) -> Engine:
    """An engine of one worker a device; None stands for a core."""

    def run(work: Work, tasks: Sequence[Task], advance: Callable[[int], None]) -> Iterator[Done]:
        slots = [_Slot(device=device) for device in devices[: len(tasks)]]
        course = _Course(queue=deque(tasks), advance=advance)
        try:
            while course.queue or any(slot.task for slot in slots):
                for slot in _able(slots):
                    if slot.task is None and course.queue:
                        _give(slot, work, course.queue.popleft())
                for slot, message in _messages(slots):
                    done = _hear(slot, message, work, course)
                    if done is not None:
                        yield done
        except KeyboardInterrupt:
            with unheard():
                _stop(slots)
            raise
        finally:
            _stop(slots)

    return run


def _able(slots: Sequence[_Slot]) -> Sequence[_Slot]:
    """Those that may get a task: not one that fails at all, as on a broken device, while others do not."""
    return [slot for slot in slots if slot.in_a_row < ATTEMPTS] or slots


def _give(slot: _Slot, work: Work, task: Task) -> None:
    if slot.process is None:
        context = multiprocessing.get_context("spawn")
        with interrupts(signal.SIG_BLOCK):  # until the worker knows what to do, and we of it
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, work, slot.device), daemon=True)
            process.start()
            slot.process, slot.pipe = process, ours
        theirs.close()
    assert slot.pipe is not None
    slot.task = task
    with suppress(ConnectionError):  # it has just died, which the next look at it tells
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


def _hear(slot: _Slot, message: Any, work: Work, course: _Course) -> Done | None:
    """Take a worker's message in; the end of its task where it is one."""
    assert slot.task is not None
    assert slot.process is not None
    task, name = slot.task, worker_name(slot.process.pid)
    if isinstance(message, int):
        course.show(task.span.index, message)
        return None
    slot.task = None
    if isinstance(message, Done):
        slot.in_a_row = 0
        return message
    if isinstance(message, SynthgenError):
        raise message
    slot.in_a_row += 1
    course.failures[task.span.index] += 1
    attempt = course.failures[task.span.index]
    if isinstance(message, Failure):
        done = failed_at(work, task, message, worker=name, attempt=attempt)
    else:
        slot.process.join()
        why = f"its worker was killed ({how_ended(slot.process.exitcode)})"
        slot.clear()
        task = replace(task, force=True)  # the claim of the dead is ours
        done = Done(span=task.span, n_samples=0, worker=name, failed=why)
    if done.bug or attempt == ATTEMPTS:
        return done
    course.queue.append(task)
    return None


def _stop(slots: Sequence[_Slot]) -> None:
    """End the workers: idle ones at once, busy ones after they have removed what is unfinished."""
    living = [slot for slot in slots if slot.process is not None]
    for slot in living:
        assert slot.process is not None
        assert slot.pipe is not None
        if slot.task is not None:
            slot.process.terminate()
        else:
            with suppress(ConnectionError):
                slot.pipe.send(None)
    end = time.monotonic() + GRACE
    for slot in living:
        assert slot.process is not None
        slot.process.join(max(0.0, end - time.monotonic()))
        if slot.process.is_alive():
            slot.process.kill()
        slot.clear()


def _work(pipe: Connection, work: Work, device: str | None) -> None:
    """A worker process: takes tasks until it is told None."""
    code = 0
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        keep_interruptions(lambda: os._exit(128 + signal.SIGTERM))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
        threading.Thread(target=end_with_parent, daemon=True).start()
        _take_tasks(pipe, work, device)
    except SystemExit as end:
        code = int(end.code or 0)
    sys.stderr.flush()
    os._exit(code)  # else threads of libraries may abort at Python's own end


def _take_tasks(pipe: Connection, work: Work, device: str | None) -> None:
    renderer = None
    with suppress(EOFError, ConnectionError):  # the parent is gone
        while (task := pipe.recv()) is not None:
            try:
                renderer = renderer or work.make(device)
                teller = _Teller(pipe)
                n_samples = write_one(work, renderer, task, teller)
                teller.send()
                pipe.send(Done(span=task.span, n_samples=n_samples, worker=worker_name()))
            except SynthgenError as error:
                pipe.send(SynthgenError(str(error)))
            except Exception as error:
                pipe.send(failure_of(error))


def _end(number: int, frame: object) -> None:
    for other in (signal.SIGTERM, signal.SIGINT):  # the parent's comes after the terminal's
        signal.signal(other, _once)
    raise SystemExit(128 + number)  # through the blocks that remove what is unfinished


def _once(number: int, frame: object) -> None:
    """Do nothing; to ignore a signal that has come already is an error that Python tells of."""


class _Teller:
    """Tells the parent how many images of a shard are rendered, not too often."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._n, self._last = pipe, 0, time.monotonic()

    def __call__(self, n_samples: int) -> None:
        self._n += n_samples
        if time.monotonic() - self._last >= TELL_EVERY:
            self.send()

    def send(self) -> None:
        """Tell now."""
        self._pipe.send(self._n)
        self._last = time.monotonic()
