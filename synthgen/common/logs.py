"""What is kept of an error: a line for the screen and the whole traceback for a log, both without secrets."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from synthgen.common.masking import masked, one_line
from synthgen.common.printing import printable, say

LONGEST = 1 << 16  # characters of a traceback that are kept, half of them from its end
SAME = 3  # shards or runs that fail in the same way, after which a command stops
# What Python raises for mistakes of a program.  RuntimeError is not among them: torch raises it for its devices.
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
PASSING = (OSError, MemoryError)  # also as the cause of another error
# Clients of stores, which raise some of BUGS for answers that they did not expect.
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

    debug: bool = False  # whether tracebacks are shown on stderr, too
    keep: Callable[[str, Failure, str], str] | None = None  # writes a log of a name beside what is being written


setting = Setting()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as it may be kept, shown and sent to another process."""

    line: str  # its type and message, in one line
    traceback: str  # whole, of printable characters
    bug: str  # type and raising place of a bug; empty where another attempt may help


def failure_of(error: BaseException) -> Failure:
    """What is kept of an error."""
    bug = f"{type(error).__qualname__} {_place(error)}" if is_bug(error) else ""
    return Failure(line=told(error), traceback=traceback_of(error), bug=bug)


def told(error: BaseException) -> str:
    """An error that is nobody's mistake, in one line without secrets."""
    return f"{type(error).__name__}: {one_line(error)}"


def is_bug(error: BaseException) -> bool:
    """Whether an error would come again: not from disk, memory, device or network, nor from a store's client."""
    passing = any(isinstance(one, PASSING) for one in _chain(error))
    return isinstance(error, BUGS) and not passing and _raiser(error) not in CLIENTS


def traceback_of(error: BaseException) -> str:
    """The traceback with all causes, those that ``from None`` hides too, in at most about LONGEST characters."""
    told = traceback.TracebackException.from_exception(error)
    link: traceback.TracebackException | None = told
    while link is not None:
        link.__suppress_context__ = False
        link = link.__cause__ or link.__context__
    text = masked("".join(told.format()))
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}\n...\n{text[-LONGEST // 2 :]}"
    return "\n".join(map(printable, text.splitlines()))


def show(traceback: str) -> None:
    """Print a traceback on stderr."""
    say(*traceback.splitlines(), file=sys.stderr)


class Repeats:
    """Counts bugs by their type and place."""

    def __init__(self) -> None:
        self._times = Counter[str]()

    def too_many(self, bug: str) -> bool:
        """Whether this is the failure of a shard or run at which a command stops: the SAME-th that is alike."""
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


def _place(error: BaseException) -> str:
    """File and line that raised an error."""
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    return f"{frames[0].filename}:{frames[0].lineno}" if frames else ""


def _raiser(error: BaseException) -> str:
    """The package whose code raised an error, itself or through Python's own library."""
    packages = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    others = [name for name in (str(one).partition(".")[0] for one in packages) if name not in sys.stdlib_module_names]
    return others[-1] if others else ""
