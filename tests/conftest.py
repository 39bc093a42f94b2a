import io
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import shapes  # noqa: F401  # before all whose arrays it checks
import typer
from hypothesis import settings
from processes import Start, installed, starting
from strangers import GOLDEN

from fractaldb.ifs import write_csv
from fractaldb.search import search
from synthgen import cli
from synthgen.common.errors import SynthgenError

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
)

settings.register_profile("here", deadline=None)  # machines are busy at times
settings.load_profile("here")

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the project."""
    folder = Path(__file__).parents[1].parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"{folder}/data is not here")
    return folder


@pytest.fixture(params=["simulated", "crops", "frames"])
def traps(request: pytest.FixtureRequest) -> Path:
    """Camera traps in WILDS's layout: a simulated set of the tree, and two real ones where ``shared`` is here."""
    if request.param == "simulated":
        return Path(__file__).parent / "golden" / "records" / "traps"
    real: Path = request.getfixturevalue("shared")
    return real / "data" / "missouri" / str(request.param)


@pytest.fixture(scope="session")
def synthgen() -> Command:
    """Run the installed command ``synthgen`` in a process of its own; returns exit code and texts."""

    def run(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [installed("synthgen"), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]

    return run


@pytest.fixture
def launch() -> Iterator[Start]:
    """Starts processes, and kills what is left of them at the test's end."""
    with starting() as start:
        yield start


@pytest.fixture(scope="session")
def synthgen_here() -> Command:
    """The same in this process, which saves the seconds of starting one where a test is not about processes."""
    return lambda *args: _ran_here(cli.app, "synthgen", (SynthgenError,), args)


@pytest.fixture(scope="session")
def evaluate_here() -> Command:
    """The command ``evaluate`` in this process."""
    from synthgen_evaluate.cli import app
    from synthgen_evaluate.errors import EvaluateError

    return lambda *args: _ran_here(app, "evaluate", (EvaluateError, SynthgenError), args)


def _ran_here(
    app: typer.Typer, name: str, errors: tuple[type[Exception], ...], args: tuple[object, ...]
) -> subprocess.CompletedProcess[str]:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [name, *map(str, args)])
        code = cli.run(app, name, errors)
    told = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    return subprocess.CompletedProcess([*map(str, args)], code, *told)


@pytest.fixture(scope="session")
def categories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five category CSVs: the first of the published set."""
    folder = tmp_path_factory.mktemp("categories")
    for category in search(5, seed=1):
        write_csv(folder / f"{category.name}.csv", category.ifs)
    return folder


@pytest.fixture(scope="module")  # modules change its window
def browser() -> Iterator[Any]:
    """Headless Chromium, which logs what a page prints and asks for."""
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip(f"needs {CHROMIUM} and {DRIVER}")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        yield driver
        driver.quit()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on loopback."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket; clients, also those of other processes, find server and keys in the environment."""
    s3fs = pytest.importorskip("s3fs")
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret-of-s3",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A copy of the finished golden set."""
    return Path(shutil.copytree(GOLDEN / "fractal-finished", tmp_path / "set"))


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A copy of the half-finished golden set."""
    return Path(shutil.copytree(GOLDEN / "fractal-half", tmp_path / "set"))


@pytest.fixture
def soon() -> Iterator[None]:
    """What blocks for ever ends in an error."""

    def over(number: int, frame: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(40)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
