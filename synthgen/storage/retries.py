"""Retries with backoff, for transient failures of stores and network disks."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from synthgen.common.errors import SynthgenError

BACKOFF = (1, 5, 20)  # seconds before each retry; by then the clients have retried for some seconds themselves
BRIEF_BACKOFF = (0.5, 2)  # the same when somebody is waiting for the result
# Errors of a disk that a retry cannot help: full, over quota, read-only, no permission, an impossible name, a folder or
# a pipe where a file is read.
FINAL = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EFBIG,
    errno.EINVAL,
)
T = TypeVar("T")


def with_retries(
    action: Callable[[], T], *, brief: bool = False, final: Callable[[Exception], bool] | None = None
) -> T:
    """The result of ``action``, retried after each wait of BACKOFF (with ``brief``, BRIEF_BACKOFF) while it fails.

    A failure that is ``final`` (by default ``refused``) is raised at once, as is the last one.
    """
    for wait in BRIEF_BACKOFF if brief else BACKOFF:
        try:
            return action()
        except Exception as error:
            if (final or refused)(error):
                raise
            time.sleep(wait)
    return action()


def refused(error: Exception) -> bool:
    """Whether a retry cannot help."""
    final = SynthgenError | FileNotFoundError | FileExistsError | PermissionError | NotImplementedError | ValueError
    return isinstance(error, final) or (isinstance(error, OSError) and error.errno in FINAL)
