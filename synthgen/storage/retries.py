"""Trying again what a store or a network disk refuses for a moment."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from synthgen.common.errors import SynthgenError

WAITS = (1, 5, 20)  # seconds before trying again; the clients have tried for some seconds by then
BRIEF = (0.5, 2)  # the same where somebody waits for the answer
# What a disk says that it will say again: full, over quota, read-only, no permission, a name that it cannot take.
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
)
T = TypeVar("T")


def patiently(action: Callable[[], T], *, brief: bool = False, final: Callable[[Exception], bool] | None = None) -> T:
    """Do it, again after each of WAITS (BRIEF with ``brief``) where it fails, unless the failure is ``final``."""
    for wait in BRIEF if brief else WAITS:
        try:
            return action()
        except Exception as error:
            if (final or refused)(error):
                raise
            time.sleep(wait)
    return action()


def refused(error: Exception) -> bool:
    """Whether trying again would change nothing."""
    final = SynthgenError | FileNotFoundError | FileExistsError | PermissionError | NotImplementedError | ValueError
    return isinstance(error, final) or (isinstance(error, OSError) and error.errno in FINAL)
