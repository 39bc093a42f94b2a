"""The local engine: worker processes on this machine, one per core or GPU, replaced if they die."""

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
from synthgen.common.processes import (
    end_with_parent,
    how_ended,
    interrupts_later,
    keep_interruptions,
    unheard,
    worker_name,
)
from synthgen.engines.work import ATTEMPTS, Done, Engine, Task, Work, failed_at, write_one

REPORT_EVERY = 0.2  # seconds between a worker's progress messages
GRACE = 5.0  # seconds that workers have to clean up when the run is stopped


@dataclass(slots=True, kw_only=True)
class _Slot:
    """The place of one worker: its device, and the process that currently fills it."""

    device: str | None
    process: SpawnProcess | None = None
    pipe: Connection | None = None
    task: Task | None = None
    in_a_row: int = 0  # failures without a success between them

    def clear(self) -> None:
        """Release a process that has ended."""
        assert self.process is not None
        assert self.pipe is not None
        self.process.join()
        self.process.close()
        self.pipe.close()
        self.process = self.pipe = None


@dataclass(slots=True, kw_only=True)
class _Course:
    """The progress of the tasks."""

    queue: deque[Task]
    advance: Callable[[int], None]
    failures: Counter[int] = field(default_factory=Counter)  # by shard
    shown: Counter[int] = field(default_factory=Counter)  # images reported to ``advance``, by shard

    def show(self, shard: int, n: int) -> None:
        """Report that ``n`` images of a shard are rendered, without counting those of a worker that died twice."""
        more = n - self.shown[shard]
        if more > 0:
            self.shown[shard] = n
            self.advance(more)


def local(devices: Sequence[str | None]) -> Engine:
    """An engine with one worker per device; None means a core."""

    def run(work: Work, tasks: Sequence[Task], advance: Callable[[int], None]) -> Iterator[Done]:
        slots = [_Slot(device=device) for device in devices[: len(tasks)]]
        course = _Course(queue=deque(tasks), advance=advance)
        try:
            while course.queue or any(slot.task for slot in slots):
                for slot in _able(slots):
                    if slot.task is None and course.queue:
                        _give(slot, work, course.queue.popleft())
                for slot, message in _messages(slots):
                    done = _receive(slot, message, work, course)
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
    """Those that may get a task: not one that keeps failing, as on a broken device, while others do not."""
    return [slot for slot in slots if slot.in_a_row < ATTEMPTS] or slots


def _give(slot: _Slot, work: Work, task: Task) -> None:
    if slot.process is None:
        context = multiprocessing.get_context("spawn")
        with interrupts_later():  # until the worker is ready, and known to us
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, work, slot.device), daemon=True)
            process.start()
            slot.process, slot.pipe = process, ours
        theirs.close()
    assert slot.pipe is not None
    slot.task = task
    with suppress(ConnectionError):  # it has just died, as the next message will show
        slot.pipe.send(task)


def _messages(slots: Sequence[_Slot]) -> Iterator[tuple[_Slot, Any]]:
    """The messages of busy workers; None if one died."""
    pipes = {slot.pipe: slot for slot in slots if slot.pipe is not None and slot.task is not None}
    for pipe in wait(list(pipes)):
        assert isinstance(pipe, Connection)
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            message = None
        yield pipes[pipe], message


def _receive(slot: _Slot, message: Any, work: Work, course: _Course) -> Done | None:
    """Handle a worker's message; the result of its task if that has ended, else None."""
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
        task = replace(task, force=True)  # the dead worker's claim is ours
        done = Done(span=task.span, n_samples=0, worker=name, failed=why)
    if done.bug or attempt == ATTEMPTS:
        return done
    course.queue.append(task)
    return None


def _stop(slots: Sequence[_Slot]) -> None:
    """End the workers: idle ones at once, busy ones after they have removed their unfinished files."""
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
    """A worker process: does tasks until it receives None."""
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
    os._exit(code)  # or threads of libraries may abort when Python exits


def _take_tasks(pipe: Connection, work: Work, device: str | None) -> None:
    renderer = None
    with suppress(EOFError, ConnectionError):  # the parent is gone
        while (task := pipe.recv()) is not None:
            try:
                renderer = renderer or work.make(device)
                reporter = _Reporter(pipe)
                n_samples = write_one(work, renderer, task, reporter)
                reporter.send()
                pipe.send(Done(span=task.span, n_samples=n_samples, worker=worker_name()))
            except SynthgenError as error:
                pipe.send(SynthgenError(str(error)))
            except Exception as error:
                pipe.send(failure_of(error))


def _end(number: int, frame: object) -> None:
    for other in (signal.SIGTERM, signal.SIGINT):  # the parent's comes after the terminal's
        signal.signal(other, _once)
    raise SystemExit(128 + number)  # through the blocks that remove unfinished files


def _once(number: int, frame: object) -> None:
    """Do nothing; Python reports an error if a signal that has already arrived is set to be ignored."""


class _Reporter:
    """Reports to the parent how many images of a shard are rendered, not too often."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._n, self._last = pipe, 0, time.monotonic()

    def __call__(self, n_samples: int) -> None:
        self._n += n_samples
        if time.monotonic() - self._last >= REPORT_EVERY:
            self.send()

    def send(self) -> None:
        """Report now."""
        self._pipe.send(self._n)
        self._last = time.monotonic()
