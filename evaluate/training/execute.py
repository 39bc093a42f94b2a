"""Run a suite: open and decode everything first, then train the runs that are not done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list

from synthgen.common.logs import Repeats, failure_of, is_bug
from synthgen.common.processes import worker_name
from synthgen.storage.disk import free_space
from synthgen.storage.logs import forget, go_beside, keep

from ..design.selection import write_selection
from ..design.suite import Suite
from ..errors import EvaluateError, FailedRunError
from ..images.pixels import PixelCache
from ..models import n_parameters
from ..runs import Run, write_suite_record
from . import checkpoints
from .grid import Step, suite_record
from .inputs import Images, pretraining_images, shown, split_images, task_images
from .journal import set_state
from .locking import is_free, locked
from .plan import Plan, open_suite
from .train import train

TIMEOUT = timedelta(days=30)  # of a process that waits for another, which decodes, or holds a run, for all


class BusyError(Exception):
    """Another process is working on a run; there may be others to do meanwhile."""


class OutOfTimeError(Exception):
    """The given hours are over; the current run will resume from its last epoch another time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of running a suite."""

    done: int  # runs finished now
    kept: int  # runs that were finished before
    failed: tuple[str, ...]  # one line per run
    left: int = 0  # runs for which there was no time


def make_accelerator(device: str, precision: str) -> Accelerator:
    """The device, and the processes beside this one if ``accelerate launch`` started several."""
    if device != "auto":
        try:
            wanted = torch.device(device)
        except RuntimeError:
            raise EvaluateError(f"--device {device}: not a device; auto, cpu, cuda or cuda:N") from None
        if wanted.type == "cuda":
            if not torch.cuda.is_available() or (wanted.index or 0) >= torch.cuda.device_count():
                raise EvaluateError(
                    f"--device {device}: {torch.cuda.device_count()} CUDA devices here; use --device cpu"
                )
            torch.cuda.set_device(wanted)
    try:
        return Accelerator(
            cpu=device == "cpu",
            mixed_precision="no" if precision == "float32" else precision,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
        )
    except ValueError as error:  # accelerate keeps one state per process
        raise EvaluateError(f"precision = {precision}: {error}") from None


def run_suite(
    suite: Suite,
    out: Path,
    *,
    device: str = "auto",
    only: Collection[str] = (),
    max_hours: float | None = None,
    cache_bytes: int | None = None,
    share: tuple[int, int] = (0, 1),
) -> Outcome:
    """Do the remaining runs of a suite or of a share of it (see Plan.steps), all arms at one seed first.

    Sources and task are opened and decoded before the first training, so that a broken image or a
    missing folder is reported at once.  A failed run does not stop the others, and a run on which another process
    works is left until the others are done: several processes may share a suite.  After ``max_hours`` the current
    run stops at its next checkpoint.  Decoded images are cached in ``out``/cache, up to ``cache_bytes``;
    what does not fit is decoded on demand.  Raises FailedRunError at the third run that fails in the same way.
    """
    go_beside(out)
    until = None if max_hours is None else time.monotonic() + 3600 * max_hours
    accelerator = make_accelerator(device, suite.precision)
    plan = open_suite(suite, only)
    todo = plan.todo(out, share)
    for step in todo:
        if step.checkpoint is not None:
            checkpoints.check(step.checkpoint, step.config.architecture, suite.image_size)
    cache = PixelCache(out / "cache", limit=cache_bytes)
    _check_disk(out, plan, todo, cache)
    images = _decode(plan, todo, cache, accelerator)
    if accelerator.is_main_process:
        write_suite_record(out, suite_record(suite, plan.task, plan.grid, plan.chosen))
    failed: list[str] = []
    repeats = Repeats()
    done = tried = 0
    queue = deque((step, f"{number}/{len(todo)} {step.title}", False) for number, step in enumerate(todo, start=1))
    with _deterministic(accelerator.device):
        while queue:
            step, title, wait = queue.popleft()
            try:
                done += run_step(step, title, images[_key(step)], out, accelerator, until=until, wait=wait)
            except BusyError:
                queue.append((step, title, True))
                continue
            except EvaluateError as error:
                failed.append(f"{step.title}: {error}")
                if isinstance(error, FailedRunError) and repeats.too_many(error.bug):
                    raise FailedRunError(
                        f"{out}: stopped at the third run that failed in the same way ({failed[-1]}); the finished"
                        " runs are kept: run the same command again once the bug is fixed"
                    ) from error
            except OutOfTimeError:
                break
            tried += 1
    kept = len(plan.steps(share)) - len(todo) + tried - done - len(failed)
    return Outcome(done=done, kept=kept, failed=tuple(failed), left=len(todo) - tried)


def run_step(
    step: Step,
    title: str,
    images: Images,
    out: Path,
    accelerator: Accelerator,
    *,
    until: float | None = None,
    wait: bool = True,
) -> bool:
    """Train one run; False if another process has finished it meanwhile.

    Raises BusyError if another process is working on it, or on the run that it starts from, unless it is to
    ``wait``, OutOfTimeError at the first checkpoint after ``until``, a time of the monotonic clock, and
    FailedRunError if a bug ends it, whose traceback is then in a log.
    """
    go_beside(out)
    run, main = step.run(out), accelerator.is_main_process
    with ExitStack() as stack:
        free = not main or (is_free(step, out, wait) and stack.enter_context(locked(run, title, wait)))
        if not _agreed(free, accelerator):
            raise BusyError
        show = stack.enter_context(shown(title, step.config.recipe.epochs, "epochs", accelerator))
        if _agreed(run.done, accelerator):
            return False

        def after(epochs: int) -> None:
            show(epochs)
            late = until is not None and time.monotonic() > until and epochs < step.config.recipe.epochs
            if _agreed(late, accelerator):
                raise OutOfTimeError

        try:
            if main and images.chosen is not None and not run.selection.exists():
                write_selection(run.selection, images.chosen.selection, images.chosen.source.identity)
            init = _initial_weights(step, out)
            train(run, step.config, images.train, images.evaluation, init=init, accelerator=accelerator, progress=after)
        except torch.OutOfMemoryError:
            error = EvaluateError("out of device memory; lower batch_size, or raise accumulate")
            _fail(run, error, accelerator)
            raise error from None
        except EvaluateError as error:
            _fail(run, error, accelerator)
            raise
        except Exception as error:
            if not is_bug(error) or accelerator.num_processes > 1:  # the other processes wait for this one
                raise
            failed = _failed(run, title, out, error)
            _fail(run, failed, accelerator)
            raise failed from error
        finally:
            accelerator.free_memory()
        if main:
            forget(out, run.directory.name)
    return True


def _failed(run: Run, title: str, out: Path, error: Exception) -> FailedRunError:
    """A bug in a run, in one line that names its log."""
    failure, name = failure_of(error), run.directory.name
    where = keep(out, name, failure, f"run {name} ({title}), worker {worker_name()}")
    return FailedRunError(f"{failure.line} ({where})", bug=failure.bug)


def _fail(run: Run, error: EvaluateError, accelerator: Accelerator) -> None:
    """Mark a run as failed, with the reason; a later start retries it from its last checkpoint."""
    if accelerator.is_main_process:
        set_state(run, "failed", accelerator, predictions=run.state.predictions or {}, error=str(error))


def _initial_weights(step: Step, out: Path) -> Path | Mapping[str, torch.Tensor] | None:
    if step.checkpoint is not None:
        return checkpoints.fetch(step.checkpoint, step.config.architecture)
    if step.config.init is None:
        return None
    before = Run(directory=out / step.config.init)
    if not before.done:
        raise EvaluateError(f"its pre-training run {step.config.init} is not done")
    return before.weights


def _agreed(value: bool, accelerator: Accelerator) -> bool:
    """The first process's value, in all of them."""
    if accelerator.num_processes == 1:
        return value
    values = [value]
    broadcast_object_list(values)
    return values[0]


def _key(step: Step) -> str:
    """Which images a run sees: an arm's, or the task's (empty)."""
    return step.arm.name if step.config.kind == "pretrain" else ""


def _decode(plan: Plan, todo: Sequence[Step], cache: PixelCache, accelerator: Accelerator) -> dict[str, Images]:
    """The images of all remaining runs, by ``_key``."""
    images = {}
    for step in todo:
        key = _key(step)
        if key not in images and key:
            captions = plan.captions.get(key, ())
            images[key] = pretraining_images(key, plan.chosen[key], captions, plan.suite.image_size, cache, accelerator)
        elif key not in images:
            images[key] = task_images(plan.task, plan.suite.image_size, cache, accelerator)
    return images


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """The same results for the same runs on a CPU; CUDA kernels are left free to be fast."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(device.type == "cpu")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _check_disk(out: Path, plan: Plan, todo: Sequence[Step], cache: PixelCache) -> None:
    """Raise EvaluateError if the decoded images and weights of the remaining runs would not fit."""
    keys, size = {_key(step) for step in todo}, plan.suite.image_size
    wanted = [(plan.chosen[arm].source, plan.chosen[arm].selection.indices) for arm in keys - {""}]
    pixels = cache.missing_bytes(wanted + (list(split_images(plan.task).values()) if "" in keys else []), size)
    n_bytes = {name: 4 * n_parameters(name, size) for name in {step.config.architecture for step in todo}}
    weights = sum(n_bytes[step.config.architecture] for step in todo)
    checkpoint = 6 * max(n_bytes.values(), default=0)  # weights and two moments, while the old one still exists
    needed = pixels + weights + checkpoint
    free = free_space(out)
    if free < needed:
        raise EvaluateError(
            f"{out}: the remaining runs need about {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB are free;"
            " free some space, use another --out or a smaller --cache-gb"
        )
