"""A command in a sandbox: its exit code, what it said, how long and how large it was, and what it wrote where.

A sandbox is a folder of four: ``inside``, the working directory; ``victim``, somebody else's files; ``home`` and
``tmp``.  A command runs in a fork of this process, which has imported all that it needs, or as a user would run it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TextIO

LOOK = 0.05  # seconds between two looks at the memory
OLD = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)  # that Python does not show
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
Listing = dict[str, tuple[str, int, str]]  # path -> kind, bytes, digest or target of a link


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a command may take."""

    seconds: float = 20.0
    memory: int = 1_500_000_000  # bytes above those of the process that it is forked from


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended."""

    args: tuple[str, ...]
    code: int | None  # None: it was stopped, or ended by a signal
    out: str
    err: str
    seconds: float
    memory: int  # bytes at most, above those at its start
    stopped: str = ""  # "time" or "memory": the limit that it went over
    strayed: tuple[str, ...] = ()  # places outside of the sandbox that it meant to write at
    kept: str = ""  # of a reference: what judgements need of its files


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """The folder of a case."""

    folder: Path
    inside: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inside", self.folder / "inside")

    @staticmethod
    def made(folder: Path, base: Path) -> Sandbox:
        """A new one, with a copy of ``base`` as its inside."""
        sandbox = Sandbox(folder=folder)
        shutil.copytree(base, sandbox.inside)
        for name in ("victim", "home", "tmp"):
            (folder / name).mkdir()
        (folder / "victim/important").write_bytes(b"kept for ever\n")
        for ending in ("-train-000000.tar", "-train-000000.json", ".json"):
            (folder / f"victim/important{ending}").write_bytes(b"kept for ever, too\n")
        return sandbox

    def environment(self) -> dict[str, str]:
        """Where a command looks for its home, caches and settings."""
        home = str(self.folder / "home")
        return {
            "HOME": home,
            "XDG_CACHE_HOME": f"{home}/.cache",
            "XDG_CONFIG_HOME": f"{home}/.config",
            "TMPDIR": str(self.folder / "tmp"),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200",
        }

    def listing(self) -> Listing:
        """All that is there, without home and tmp."""
        return {path: one for name in ("inside", "victim") for path, one in _listed(self.folder, name)}


def _listed(root: Path, name: str) -> Iterator[tuple[str, tuple[str, int, str]]]:
    with os.scandir(root / name) as entries:
        for entry in entries:
            path = f"{name}/{entry.name}"
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield path, ("folder", 0, "")
                yield from _listed(root, path)
            elif stat.S_ISLNK(mode):
                yield path, ("link", 0, os.readlink(entry.path))
            elif stat.S_ISREG(mode):
                data = Path(entry.path).read_bytes()
                yield path, ("file", len(data), hashlib.blake2b(data, digest_size=16).hexdigest())
            else:
                yield path, ("other", 0, "")


# In a fork of this process


def in_fork(function: Callable[[], int], args: tuple[str, ...], sandbox: Sandbox, limits: Limits) -> Ended:
    """What ``function``, which returns an exit code, does in a fork of this process, in the sandbox."""
    logs = sandbox.folder / "logs"
    logs.mkdir(exist_ok=True)
    began, (own, whole) = time.monotonic(), _memory(os.getpid())
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_child(function, args, sandbox, logs)
    stopped, status, seen, most = _watched(child, began + limits.seconds, own + limits.memory)
    with suppress(ProcessLookupError):  # what it has started, and left
        os.killpg(child, signal.SIGKILL)
    strayed = logs / "strayed"
    return Ended(
        args=args,
        code=os.WEXITSTATUS(status) if os.WIFEXITED(status) and not stopped else None,
        out=(logs / "out").read_bytes().decode(errors="surrogateescape"),
        err=(logs / "err").read_bytes().decode(errors="surrogateescape"),
        seconds=time.monotonic() - began,
        memory=max(seen - own, most - whole, 0),
        stopped=stopped,
        strayed=tuple(json.loads(strayed.read_bytes())) if strayed.exists() else (),
    )


def _watched(child: int, deadline: float, most: int) -> tuple[str, int, int, int]:
    """Wait for a process; returns the limit that it went over, its status, and its bytes at most.

    These are twice: without files that it has mapped, as they were seen, and with these, as the system tells.
    """
    watched, stopped, seen = os.pidfd_open(child), "", 0
    try:
        while not select.select([watched], [], [], LOOK)[0]:
            seen = max(seen, _memory(child)[0])
            stopped = "memory" if seen > most else "time" if time.monotonic() > deadline else ""
            if stopped:
                os.killpg(child, signal.SIGKILL)
                break
    finally:
        os.close(watched)
    _, status, usage = os.wait4(child, 0)
    return stopped, status, seen, usage.ru_maxrss * 1024


def _memory(process: int) -> tuple[int, int]:
    """Bytes of a process that are in memory, without and with those of files."""
    with suppress(OSError):
        whole, files = map(int, Path(f"/proc/{process}/statm").read_text().split()[1:3])
        return (whole - files) * resource.getpagesize(), whole * resource.getpagesize()
    return 0, 0


def _be_child(function: Callable[[], int], args: tuple[str, ...], sandbox: Sandbox, logs: Path) -> None:
    """Be the command; never returns."""
    code, strayed = 70, dict[str, None]()
    try:
        os.setsid()
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.environ.update(sandbox.environment())
        tempfile.tempdir = None
        os.chdir(sandbox.inside)
        sys.argv = list(args)
        _warn_as_python_does()
        sys.addaudithook(lambda event, told: _heard(event, told, str(sandbox.folder), strayed))
        code = function()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        with suppress(BaseException):
            (logs / "strayed").write_text(json.dumps(list(strayed)))
        os._exit(code)


def _warn_as_python_does() -> None:
    warnings.resetwarnings()
    for kind in OLD:
        warnings.simplefilter("ignore", kind)
    warnings.showwarning = _show


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


def _heard(event: str, told: tuple[Any, ...], sandbox: str, strayed: dict[str, None]) -> None:
    """Note where a command means to write, if that is not in its sandbox."""
    if event == "open":
        path, _, flags = told
        places = [path] if isinstance(path, str) and isinstance(flags, int) and flags & WRITING else []
    elif event in CHANGES:
        places = [one for one in told[:2] if isinstance(one, str)]
        places = places[1:] if event in ("os.link", "os.symlink") else places
    else:
        return
    for place in places:
        whole = os.path.join(os.path.realpath(os.path.dirname(place) or "."), os.path.basename(place))
        if not whole.startswith((f"{sandbox}/", "/dev/", "/proc/")) and "__pycache__" not in whole:
            strayed[f"{event} {whole}"] = None


# As a user would


def in_shell(args: tuple[str, ...], sandbox: Sandbox, limits: Limits) -> Ended:
    """The installed command in a process of its own."""
    program = Path(sys.executable).with_name(args[0])
    began = time.monotonic()
    out, err = (sandbox.folder / "tmp" / name for name in ("out", "err"))
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [str(program), *args[1:]],
            cwd=sandbox.inside,
            env={**os.environ, **sandbox.environment()},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    stopped, status, _, most = _watched(process.pid, began + 3 * limits.seconds, limits.memory + 1_000_000_000)
    process.returncode = status
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return Ended(
        args=args,
        code=os.WEXITSTATUS(status) if os.WIFEXITED(status) and not stopped else None,
        out=out.read_bytes().decode(errors="surrogateescape"),
        err=err.read_bytes().decode(errors="surrogateescape"),
        seconds=time.monotonic() - began,
        memory=most,
        stopped=stopped,
    )


# The commands of the product


def product(args: tuple[str, ...]) -> Callable[[], int]:
    """One of the two programs, as a function to call in a fork."""

    def run() -> int:
        import typer

        from synthgen import cli
        from synthgen.common import commands
        from synthgen.common.errors import SynthgenError
        from synthgen_evaluate.errors import EvaluateError

        _start_by_forking()
        parser = _parser(args[0])
        commands.command_of = lambda application: parser
        errors = (SynthgenError,) if args[0] == "synthgen" else (EvaluateError, SynthgenError)
        return cli.run(typer.Typer(), args[0], errors)

    return run


@cache
def _parser(program: str) -> Any:
    """The parser of a program, which takes longer to make than most commands run."""
    from synthgen import cli
    from synthgen.common.options import command_of
    from synthgen_evaluate import cli as evaluating

    return command_of(cli.app if program == "synthgen" else evaluating.app)


def _start_by_forking() -> None:
    """Workers are forked from here, too, which takes milliseconds where a new interpreter takes seconds."""
    import multiprocessing

    fork = multiprocessing.get_context("fork")
    for module in ("synthgen.engines.local", "synthgen.dataset.verify"):
        if module in sys.modules:
            told = type(multiprocessing)("multiprocessing")
            told.__dict__.update(multiprocessing.__dict__)
            told.get_context = lambda method=None: fork  # type: ignore[attr-defined]
            sys.modules[module].multiprocessing = told  # type: ignore[attr-defined]


def imported(*, heavy: bool) -> None:
    """Import what commands import, so that forks need not; with ``heavy`` what needs torch, too."""
    for name in (*LIGHT, *(HEAVY if heavy else ())):
        importlib.import_module(name)
    from fractaldb.instances import instance
    from fractaldb.render import Style, picture
    from fractaldb.search import search
    from synthgen.dataset.manifest import read_manifest

    (one,) = search(1, seed=1)
    picture(one, instance(one.name, 0), Style(size=16, n_points=100), seed=1)  # which loads what is compiled
    read_manifest(Path(__file__).parent / "golden/records/fractal-finished")  # which makes what checks records
    for program in ("synthgen", "evaluate"):
        _parser(program)


LIGHT = (
    "numpy",
    "numba",
    "pyarrow.parquet",
    "PIL.Image",
    "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
    "jinja2",
    "fsspec",
    "upath",
    "synthgen.cli",
    "synthgen.engines.watch",
    "synthgen.dataset.verify",
    "synthgen.dataset.repair",
    "synthgen.dataset.preview",
    "synthgen.engines.generate",
    "synthgen.kinds.fractaldb.render",
    "synthgen.engines.local",
    "synthgen.dataset.quality",
    "synthgen.publishing.export",
    "synthgen.publishing.export_parquet",
    "synthgen.publishing.publish",
    "synthgen.publishing.card",
    "synthgen.kinds.diffusion.remake",
    "synthgen.kinds.diffusion.request",
    "synthgen.kinds.diffusion.prompt_check",
    "fractaldb.render",
    "synthgen_evaluate.cli",
    "pandas",
    "pyarrow.compute",
    "huggingface_hub.repocard",
    "huggingface_hub.hf_api",
)
HEAVY = (
    "scipy.stats",
    "statsmodels.formula.api",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
    "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_agg",
    "torch",
    "torchvision",
    "timm",
    "accelerate",
    "safetensors.torch",
    "wilds",
    "synthgen_evaluate.analysis.compare",
    "synthgen_evaluate.reporting.report",
    "synthgen_evaluate.training.execute",
    "synthgen_evaluate.training.byhand",
    "synthgen_evaluate.design.suite",
    "synthgen_evaluate.design.cost",
    "synthgen_evaluate.analysis.published",
    "synthgen_evaluate.tasks.simulated.simulate",
    "synthgen.kinds.diffusion.sampler",
    "synthgen_evaluate.design.experiments",
    "synthgen_evaluate.design.selection",
    "synthgen_evaluate.design.choice",
)


def changed(before: Listing, after: Listing) -> list[str]:
    """Paths that came, went or are others."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
