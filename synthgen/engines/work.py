"""What the workers of every engine do: make a renderer once, then render and write one shard after another."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from synthgen.common.errors import SynthgenError
from synthgen.common.logs import Failure, Repeats, failure_of
from synthgen.common.masking import one_line, secrets_in, shown
from synthgen.common.printing import counted
from synthgen.common.processes import worker_name
from synthgen.dataset.plan import Plan, ShardSpan
from synthgen.dataset.shard import Item, write_shard
from synthgen.engines.claims import Progress, claiming
from synthgen.kinds.base import Renderer
from synthgen.storage.logs import keep
from synthgen.storage.places import place
from synthgen.storage.store import Place

ATTEMPTS = 3  # at a shard whose worker dies or fails, before it is given up; one if the failure is a bug


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Everything that a worker needs to know; it can be sent to another process or machine."""

    directory: str  # path or URL
    plan: Plan
    make: Callable[[str | None], Renderer]  # takes a device; None if the renderer chooses one itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A shard to write."""

    span: ShardSpan
    force: bool = False  # whether another worker's claim, which is no longer valid, is taken over


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The result of a task."""

    span: ShardSpan
    n_samples: int  # 0 if another process has the shard
    worker: str
    failed: str = ""  # why it was given up
    bug: str = ""  # if that was because of a bug: its type and location


class Engine(Protocol):
    """Has shards written by its workers."""

    def __call__(self, work: Work, tasks: Sequence[Task], advance: Callable[[int], None]) -> Iterator[Done]:
        """Yield each task's result; ``advance`` takes how many more images are rendered.

        Raises SynthgenError if retrying cannot help: a full disk, a model that cannot be loaded.
        """
        ...


def write_one(
    work: Work, renderer: Renderer, task: Task, advance: Callable[[int], None] = lambda n_samples: None
) -> int:
    """Render and write one shard; returns its number of samples, 0 if another process has it.

    Raises SynthgenError if no shard can be written.
    """
    directory, span = place(work.directory), task.span
    with _reporting_permissions(directory), claiming(directory, span, force=task.force) as progress:
        if progress is None:
            return 0
        items = renderer.render(work.plan.sample(index) for index in range(span.start, span.stop))
        shard = write_shard(
            directory,
            span,
            _counted(items, progress, advance),
            plan_digest=work.plan.digest,
            environment=renderer.environment,
        )
        return shard.n_samples if shard else 0


@contextmanager
def _reporting_permissions(directory: Place) -> Iterator[None]:
    """Report in one line that a place cannot be written to, or no longer, as with keys that expired."""
    try:
        yield
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            why = one_line(error, secrets_in(str(directory)))
            raise SynthgenError(f"{shown(str(directory))}: cannot be written to ({why})") from None
        raise


def _counted(items: Iterator[Item], progress: Progress, advance: Callable[[int], None]) -> Iterator[Item]:
    for item in items:
        yield item
        progress.done += 1
        advance(1)


def here(renderer: Renderer) -> Engine:
    """The engine that does the work in this process."""

    def run(work: Work, tasks: Sequence[Task], advance: Callable[[int], None]) -> Iterator[Done]:
        for task in tasks:
            yield _attempted(work, renderer, task, advance)

    return run


def _attempted(work: Work, renderer: Renderer, task: Task, advance: Callable[[int], None]) -> Done:
    attempt = 1
    while True:
        try:
            n_samples = write_one(work, renderer, task, advance if attempt == 1 else lambda n_samples: None)
        except SynthgenError:
            raise
        except Exception as error:
            failed = failed_at(work, task, failure_of(error), worker=worker_name(), attempt=attempt)
            if failed.bug or attempt == ATTEMPTS:
                return failed
            attempt += 1
        else:
            return Done(span=task.span, n_samples=n_samples, worker=worker_name())


def failed_at(work: Work, task: Task, failure: Failure, *, worker: str, attempt: int) -> Done:
    """The result of a task whose worker failed, if it is not tried again; the traceback is written to a log."""
    stem = task.span.stem
    where = keep(
        place(work.directory), f"{stem}-{attempt}", failure, f"shard {stem}, attempt {attempt}, worker {worker}"
    )
    return Done(span=task.span, n_samples=0, worker=worker, failed=f"{failure.line} ({where})", bug=failure.bug)


class FailedShardsError(SynthgenError):
    """Shards were given up; all others are finished."""

    exit_code = 1

    def __init__(self, failed: Sequence[Done], directory: str) -> None:
        first = "; ".join(f"{done.span.stem}: {done.failed}" for done in failed[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        super().__init__(
            f"{directory}: {counted(len(failed), 'shard')} given up: {first}{more}; the others are finished: run"
            " the same command again to retry them"
        )


class RepeatedBugError(SynthgenError):
    """Shards fail in the same way, and so would the remaining ones."""

    exit_code = 1


class Bugs:
    """Counts the shards that fail because of bugs."""

    def __init__(self, directory: str) -> None:
        self._directory, self._repeats = directory, Repeats()

    def note(self, done: Done) -> None:
        """Raise RepeatedBugError at the third shard that fails in the same way."""
        if self._repeats.too_many(done.bug):
            raise RepeatedBugError(
                f"{self._directory}: stopped, as {done.span.stem} is the third shard that failed in the same way:"
                f" {done.failed}; the finished shards are kept: run the same command again once the bug is fixed"
            )
