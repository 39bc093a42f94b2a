"""What is kept of an error: a line for the screen and the full traceback for a log, both without secrets."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from synthgen.common.masking import masked, one_line
from synthgen.common.printing import printable, say

LONGEST = 1 << 16  # characters of a traceback that are kept, half of them from its end
SAME = 3  # shards or runs that fail in the same way before a command stops
# What Python raises for mistakes in a program.  RuntimeError is not among them: torch raises it for its devices.
BUGS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
TRANSIENT = (OSError, MemoryError)  # also as the cause of another error
# Clients of stores, which raise some of BUGS for responses that they did not expect.
CLIENTS = {
    *(
        "adlfs",
        "aiobotocore",
        "aiohttp",
        "azure",
        "boto3",
        "botocore",
        "fsspec",
        "gcsfs",
        "google",
        "httpcore",
        "httpx",
    ),
    *("huggingface_hub", "requests", "s3fs", "upath", "urllib3"),
}


@dataclass(slots=True)
class Setting:
    """What a command does with its errors; the command line sets it."""

    debug: bool = False  # whether tracebacks are also shown on stderr
    keep: Callable[[str, Failure, str], str] | None = None  # writes a log, of a given name, beside the output


setting = Setting()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as it may be kept, shown and sent to another process."""

    line: str  # its type and message, in one line
    traceback: str  # in full, of printable characters
    bug: str  # type and location of a bug; empty if another attempt may help


def failure_of(error: BaseException) -> Failure:
    """What is kept of an error."""
    bug = f"{type(error).__qualname__} {_location(error)}" if is_bug(error) else ""
    return Failure(line=describe(error), traceback=traceback_of(error), bug=bug)


def describe(error: BaseException) -> str:
    """An unexpected error, in one line without secrets."""
    return f"{type(error).__name__}: {one_line(error)}"


def is_bug(error: BaseException) -> bool:
    """Whether an error would recur: not one of disk, memory, device or network, nor one of a store's client."""
    transient = any(isinstance(one, TRANSIENT) for one in _chain(error))
    return isinstance(error, BUGS) and not transient and _raiser(error) not in CLIENTS


def traceback_of(error: BaseException) -> str:
    """The traceback with all causes, including those that ``from None`` hides, in at most about LONGEST characters."""
    whole = traceback.TracebackException.from_exception(error)
    link: traceback.TracebackException | None = whole
    while link is not None:
        link.__suppress_context__ = False
        link = link.__cause__ or link.__context__
    text = masked("".join(whole.format()))
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}\n...\n{text[-LONGEST // 2 :]}"
    return "\n".join(map(printable, text.splitlines()))


def show(traceback: str) -> None:
    """Print a traceback on stderr."""
    say(*traceback.splitlines(), file=sys.stderr)


class Repeats:
    """Counts bugs by type and location."""

    def __init__(self) -> None:
        self._times = Counter[str]()

    def too_many(self, bug: str) -> bool:
        """Count the failure of a shard or run; whether it is the SAME-th of its kind, at which a command stops."""
        self._times[bug] += 1
        return bug != "" and self._times[bug] >= SAME


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, its cause, the cause of that, and so on."""
    link: BaseException | None = error
    seen = set[int]()
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        link = link.__cause__ or link.__context__


def _location(error: BaseException) -> str:
    """The file and line that raised an error."""
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    return f"{frames[0].filename}:{frames[0].lineno}" if frames else ""


def _raiser(error: BaseException) -> str:
    """The package whose code raised an error, directly or through the standard library."""
    packages = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    others = [name for name in (str(one).partition(".")[0] for one in packages) if name not in sys.stdlib_module_names]
    return others[-1] if others else ""
