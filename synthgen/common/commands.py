"""Running a command line: whatever ends it early becomes one line and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable

import typer
from typer.exceptions import TyperException

from synthgen.common.logs import failure_of, setting, show, traceback_of
from synthgen.common.options import command_of
from synthgen.common.printing import say
from synthgen.common.processes import interrupt_soon, keep_interruptions


def run(application: typer.Typer, name: str, errors: tuple[type[Exception], ...]) -> int:
    """Run a command line and return its exit code.

    Whatever ends a command early is reported in one line on stderr.  The codes are:

    0  everything that was asked for was done
    1  something is wrong: shards or runs failed, images stayed faulty, a check found defects, or there is a bug
    2  the request cannot be carried out, or the disk or a store refused; the line says what to do
    130  interrupted by Ctrl-C or SIGTERM; the same command continues from there

    The line of a bug names its log; if there is no output to log beside, the traceback is shown on stderr instead.
    """
    setting.debug, setting.keep = False, None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # pre-emption ends it as Ctrl-C does
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGINT, signal.default_int_handler)
    keep_interruptions(interrupt_soon)
    try:
        call: Callable[..., object] = command_of(application)
        code = call(standalone_mode=False, prog_name=name)
    except TyperException as error:
        message = error.format_message()
        if not message.startswith("Usage:"):  # the help that a bare command shows
            message = f"{name}: {' '.join(message.split())}"
        say(*message.splitlines(), file=sys.stderr)
        return 2
    except errors as error:
        _debug(error)
        say(f"{name}: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except OSError as error:
        _debug(error)
        where = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what_to_do = "; what is finished is kept: free some space and run again" if full else ""
        say(f"{name}: {where}{error.strerror or error}{what_to_do}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        say(f"{name}: {_crashed(name, error)}", file=sys.stderr)
        return 1
    if code == 130:  # typer's answer to Ctrl-C
        for number in (signal.SIGINT, signal.SIGTERM):  # pressing it again gives the same end, not a traceback
            signal.signal(number, signal.SIG_IGN)
        say(f"{name}: interrupted; run the same command again to go on", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _debug(error: BaseException) -> None:
    if setting.debug:
        show(traceback_of(error))


def _crashed(name: str, error: Exception) -> str:
    """A bug of this process, in one line; its traceback goes to the logs of the output, or to stderr."""
    failure = failure_of(error)
    if setting.keep is None:
        show(failure.traceback)
        return failure.line
    where = setting.keep(f"{name}-{os.getpid()}", failure, f"command {name}, process {os.getpid()}")
    return f"{failure.line} ({where})"
