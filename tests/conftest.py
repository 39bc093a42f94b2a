import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from fractaldb.ifs import write_csv
from fractaldb.search import search
from synthgen import cli
from synthgen.errors import SynthgenError

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


@pytest.fixture(scope="session")
def synthgen() -> Command:
    """Run the installed command ``synthgen`` in a process of its own; returns exit code and texts."""

    def run(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("synthgen")), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]

    return run


@pytest.fixture
def synthgen_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The same in this process, which is quicker where a test is not about processes."""

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["synthgen", *map(str, args)])
        code = cli.run(cli.app, "synthgen", (SynthgenError,))
        told = capsys.readouterr()
        return subprocess.CompletedProcess(args, code, told.out, told.err)

    return run


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
