"""The package's one error class."""

from collections.abc import Iterator
from contextlib import contextmanager

from synthgen.common.errors import SynthgenError


class EvaluateError(Exception):
    """A user's mistake or a missing input, reported in one line; commands end with exit code 2."""


class FailedRunError(EvaluateError):
    """A bug in a run, or runs that fail in the same way; commands end with exit code 1."""

    exit_code = 1

    def __init__(self, words: str, *, bug: str = "") -> None:
        super().__init__(words)
        self.bug = bug  # type and place; see synthgen.common.logs


@contextmanager
def told_here() -> Iterator[None]:
    """Raise an error of ``synthgen`` about a file as this package's error, in the same words."""
    try:
        yield
    except SynthgenError as error:
        raise EvaluateError(str(error)) from None
