"""Progress of long work: a bar on a terminal, elsewhere a plain line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from synthgen.common.printing import say

LINE_EVERY = 5.0  # seconds between plain lines


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes how many units are done and shows progress and time left on stderr."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
    else:
        start = last = time.monotonic()
        first: int | None = None

        def show(done: int) -> None:
            nonlocal last, first
            now = time.monotonic()
            if first is None:
                first = done
            if now - last < LINE_EVERY and done < total:
                return
            last = now
            rate = (done - first) / (now - start) if now > start else 0.0
            known = done - first >= max(2, total / 100)  # the first of a batch says nothing yet about the rate
            left = f", {(total - done) / rate:.0f} s left" if known and rate > 0 and done < total else ""
            say(f"{what}: {done} of {total} {unit}{left}", file=sys.stderr)

        yield show
