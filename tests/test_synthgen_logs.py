"""What a worker that fails leaves behind: a log with the traceback and without secrets, named in one line."""

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from files import contents, objects
from pretend import Maker, environment, item, lay, plan, read_log

from synthgen import cli
from synthgen.common.errors import SynthgenError
from synthgen.common.logs import LONGEST, SAME, failure_of, is_bug
from synthgen.common.masking import masked
from synthgen.dataset.manifest import read_manifest
from synthgen.dataset.shard import Item, Shard
from synthgen.dataset.verify import check
from synthgen.engines import work
from synthgen.engines.generate import generate
from synthgen.engines.work import ATTEMPTS, RepeatedBugError
from synthgen.kinds.base import Renderer, Sample
from synthgen.storage.logs import MOST, forget, keep
from synthgen.storage.places import place

TOY = Path(__file__).parent / "toy_kind.py"
TOKEN = "hf_PlantedPlantedPlantedPlantedPlanted"
PLAN = plan()  # 6 shards of 10 images
SQUARES = ("square", "--n", 30, "--shard-size", 5, "--workers", 2)  # 6 shards


def toy(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """The command ``synthgen`` with the toy kind, in a process of its own."""
    command = [sys.executable, str(TOY), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**environment(), **more})


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines on stderr but for progress."""
    return [line for line in done.stderr.splitlines() if not line.startswith(("generate: ", "search: "))]


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_bug_stops_at_the_third_shard_and_its_traceback_is_in_a_log_without_the_token(
    tmp_path: Path, workers: int
) -> None:
    out = tmp_path / "set"
    faults = " ".join(map(str, range(6, 30)))  # but for the first shard
    done = toy(*SQUARES[:-1], workers, "--out", out, TOY_FAULT=faults, TOY_SECRET=TOKEN)
    assert done.returncode == 1
    (line,) = said(done)
    assert line.startswith(f"synthgen: {out}: stopped, as square-train-")
    assert " is the third shard that failed in the same way: KeyError: 'oops ***' (traceback in " in line
    assert line.endswith("; the finished shards are kept: run the same command again once the bug is fixed")
    found = sorted((out / "logs").iterdir())
    assert len(found) == SAME  # each shard was tried once
    assert (
        len({re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-(square-train-\d{6})-1\.log", path.name)[1] for path in found}) == SAME
    )
    log = Path(re.search(r"traceback in (.*?)\)", line)[1])
    assert log in found
    text = log.read_text()
    assert "Traceback (most recent call last):" in text
    assert 'toy_kind.py", line ' in text
    assert text.endswith("KeyError: 'oops ***'\n")
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, shard square-train-\d{6}, attempt 1, worker ", text)
    left = contents(out)
    assert not any(TOKEN.encode() in data for data in left.values())
    assert TOKEN not in done.stdout + done.stderr
    stands = {path.name for path in out.glob("data/*.json")}
    assert stands == {"square-train-000000.json"} or (workers == 2 and not stands)  # whose worker came up later
    status = toy("status", out)
    assert f"{log})" in status.stdout
    assert toy(*SQUARES, "--out", out).returncode == 0  # once the bug is mended
    assert not (out / "logs").exists()
    assert "0 defects" in toy("verify", out).stdout


@pytest.mark.parametrize("crash", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_debug_shows_the_traceback_without_the_token(tmp_path: Path, crash: bool) -> None:
    out = tmp_path / "set"
    program = (
        "import sys, toy_kind; from synthgen.engines import generate as module\n"
        f"if {crash}:\n"
        f"    def listed(*args): raise AssertionError('impossible {TOKEN}')\n"
        "    module._tasks = listed\n"
        "toy_kind.main()"
    )
    arguments = ["square", "--n", "5", "--out", str(out), "--workers", "2"]
    tried = [
        subprocess.run(
            [sys.executable, "-c", program, *arguments, *more],
            capture_output=True,
            text=True,
            env=environment() | {"TOY_FAULT": "3", "TOY_SECRET": TOKEN},
        )
        for more in ([], ["--debug"])
    ]
    shown = "AssertionError: impossible ***" if crash else "KeyError: 'oops ***'"
    for done, debug in zip(tried, (False, True), strict=True):
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) == debug
        assert (shown in done.stderr.splitlines()) == debug
        assert TOKEN not in done.stderr
        assert shown in said(done)[-1]
        assert f"traceback in {out}/logs/" in said(done)[-1]
    assert len(list((out / "logs").iterdir())) == 2


def test_a_users_mistake_is_one_line_and_with_debug_has_its_traceback(
    tmp_path: Path, synthgen_here: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    plain = synthgen_here("status", tmp_path / "none")
    assert len(plain.stderr.splitlines()) == 1
    for arguments in (("status", tmp_path / "none", "--debug"), ("--debug", "status", tmp_path / "none")):
        debugged = synthgen_here(*arguments)
        assert debugged.returncode == plain.returncode == 2
        assert debugged.stderr.endswith(plain.stderr)
        assert "Traceback" in debugged.stderr
        assert "FileNotFoundError" in debugged.stderr  # the cause that the line leaves out


def test_a_bug_of_a_command_without_output_shows_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import typer

    app = typer.Typer()

    @app.command()
    def work() -> None:
        raise KeyError(TOKEN)

    monkeypatch.setattr(sys, "argv", ["work"])
    assert cli.run(app, "work", (SynthgenError,)) == 1
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert told.endswith("work: KeyError: '***'\n")


def test_what_may_pass_is_tried_again_and_a_bug_is_not(tmp_path: Path) -> None:
    log, out = str(tmp_path / "log"), tmp_path / "set"
    lay(out, PLAN)
    generate(out, make=Maker(log=log, fails={33: ATTEMPTS - 1}), workers=2)
    assert [index for _, _, index in read_log(log)].count(33) == ATTEMPTS
    assert not (out / "logs").exists()


def test_only_failures_that_are_alike_are_counted_together(tmp_path: Path) -> None:
    def render(samples: Iterable[Sample]) -> Iterator[Item]:
        for sample in samples:
            if sample.index < 20:
                raise KeyError(sample.index)
            if sample.index < 50:
                raise TypeError(sample.index)
            yield item(sample, Maker(log=""))

    lay(tmp_path / "set", PLAN)
    with pytest.raises(
        RepeatedBugError, match=r"000004 is the third shard .* same way: TypeError"
    ):  # two of one kind, then three
        generate(tmp_path / "set", renderer=Renderer(render=render, environment={}))


def test_errors_of_disk_memory_device_network_and_stores_are_no_bugs() -> None:
    bugs = [KeyError(1), TypeError(), AssertionError(), ZeroDivisionError(), IndexError(), AttributeError()]
    assert all(is_bug(raised(error)) for error in bugs)
    passing = [OSError(5, "I/O"), ConnectionResetError(), TimeoutError(), MemoryError(), RuntimeError("CUDA error")]
    assert not any(is_bug(raised(error)) for error in passing)
    assert not any(is_bug(raised(KeyError("of an answer"), error)) for error in passing[:4])
    assert not is_bug(SynthgenError("x"))


def test_what_a_stores_client_trips_over_is_no_bug() -> None:
    scope: dict[str, Any] = {"__name__": "s3fs.core", "json": json}
    exec("def answer(): raise KeyError('ETag')\ndef body(): json.loads('<html>')", scope)
    for call in (scope["answer"], scope["body"]):
        with pytest.raises((KeyError, ValueError)) as caught:
            call()
        assert not is_bug(caught.value)
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("<html>")
    assert is_bug(caught.value)


def test_a_failure_reaches_other_processes_and_is_bounded_and_has_hidden_causes() -> None:
    try:
        try:
            raise OSError("the cause")
        except OSError:
            raise SynthgenError("x" * 10 * LONGEST + "\x1b[2J" + TOKEN) from None
    except SynthgenError as error:
        failure = pickle.loads(pickle.dumps(failure_of(error)))
    assert "the cause" in failure.traceback
    assert len(failure.traceback) < 1.1 * LONGEST
    assert "\x1b" not in failure.traceback
    assert TOKEN not in failure.traceback
    assert len(failure.line) < 400


SECRETS = {
    "https://ann:{}@example.com/x": "https://***@example.com/x",
    "s3://key:{}/x@bucket": "s3://***@bucket",
    "https://b.s3.amazonaws.com/k?X-Amz-Signature={}&X-Amz-Expires=60 (403)": "https://b.s3.amazonaws.com/k?*** (403)",
    "GET /b/k?X-Amz-Credential={}&n=1": "GET /b/k?X-Amz-Credential=***&n=1",
    "Authorization: Bearer {}": "Authorization: *** ***",
    "{{'Authorization': 'token {}'}}": "{'Authorization': ***}",
    "password={} user=ann": "password=*** user=ann",
    "password: {}": "password: ***",
    "aws_secret_access_key = '{}'": "aws_secret_access_key = ***",
    "AccountKey={};x": "AccountKey=***;x",
}


@pytest.mark.parametrize(("text", "shown"), SECRETS.items())
def test_what_looks_like_a_secret_is_masked(text: str, shown: str) -> None:
    assert masked(text.format("Zm9vYmFyYmF6")) == shown


@pytest.mark.parametrize(
    "text",
    [
        "hf://datasets/ann/set@branch",
        "https://example.com/a@b",
        "signature = inspect.signature(function)",
        "tokens = tokenizer(prompt)",
        "KeyError: 'seed'",
        '  File "/x/y.py", line 3, in f',
        "it is a shf_thing",
    ],
)
def test_what_is_none_is_left(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("MY_PASSWORD", True),
        ("HF_TOKEN_PATH", False),
        ("TOKENIZERS_PARALLELISM", False),
        ("HOME_OF_MINE", False),
    ],
)
def test_secrets_of_the_environment_are_masked(monkeypatch: pytest.MonkeyPatch, name: str, secret: bool) -> None:
    monkeypatch.setenv(name, "unlikely-value")
    assert masked("it said unlikely-value") == f"it said {'***' if secret else 'unlikely-value'}"


def test_logs_are_bounded_in_number_and_leave_other_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = failure_of(raised(KeyError("oops")))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/notes.txt").write_text("mine")
    for number in range(MOST + 5):
        keep(tmp_path, f"shard-{number:03d}", failure, "test")
    names = sorted(path.name for path in (tmp_path / "logs").iterdir() if path.suffix == ".log")
    assert len(names) == MOST
    assert names[-1].endswith(f"shard-{MOST + 4:03d}.log")
    forget(tmp_path, "shard-104")
    assert len(list((tmp_path / "logs").glob("*.log"))) == MOST - 1
    forget(tmp_path)
    assert contents(tmp_path) == {"logs/notes.txt": b"mine"}


def test_where_no_log_can_be_written_the_line_says_so(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "set").mkdir()
    (tmp_path / "set/logs").symlink_to(tmp_path / "elsewhere")
    words = keep(tmp_path / "set", "x", failure_of(raised(KeyError("oops"))), "test")
    assert words.startswith("no log could be written: ")
    assert contents(tmp_path / "elsewhere") == {}
    (tmp_path / "set/logs").unlink()
    code = (
        "import errno, os\nfrom pathlib import Path\nfrom synthgen.common.logs import failure_of\n"
        "from synthgen.storage import logs\n"
        "def full(descriptor): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "os.fsync = full\n"
        f"print(logs.keep(Path({str(tmp_path / 'set')!r}), 'x', failure_of(KeyError('oops')), 'test'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("no log could be written: no space left on the device at ")
    assert contents(tmp_path / "set") == {}  # whole or not at all


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished set that has logs."""
    out = tmp_path / "set"
    assert toy(*SQUARES, "--out", out).returncode == 0
    keep(out, "square-train-000001-1", failure_of(raised(KeyError("oops"))), "test")
    return out


def test_logs_are_no_part_of_a_set(finished: Path, tmp_path: Path) -> None:
    assert "0 defects" in toy("verify", finished).stdout
    assert json.loads(toy("status", finished, "--json").stdout)["complete"]
    dry = toy("publish", finished, "--to", tmp_path / "there", "--dry-run").stdout
    assert "plan.json" in dry
    assert "logs/" not in dry
    assert toy("publish", finished, "--to", tmp_path / "there").returncode == 0
    assert "0 defects" in toy("verify", tmp_path / "there").stdout
    assert not (tmp_path / "there/logs").exists()
    assert "logs/" not in (tmp_path / "there/croissant.json").read_text() + (finished / "manifest.json").read_text()
    assert toy("export", finished, "--out", tmp_path / "images").returncode == 0
    assert not list((tmp_path / "images").glob("*log*"))
    assert toy("preview", finished).returncode == 0
    assert (finished / "logs").exists()
    assert toy("square", "--n", 40, "--shard-size", 5, "--out", finished).returncode == 0  # it grows
    assert "0 defects" in toy("verify", finished).stdout


def test_a_folder_with_logs_alone_is_an_empty_place(tmp_path: Path) -> None:
    keep(tmp_path / "set", "synthgen-1", failure_of(raised(KeyError("oops"))), "test")
    assert toy(*SQUARES, "--out", tmp_path / "set").returncode == 0
    assert not (tmp_path / "set/logs").exists()


def broken(samples: Iterable[Sample]) -> Iterator[Item]:
    """Render with a bug at the images of three shards."""
    for sample in samples:
        if sample.index in (13, 23, 43):
            raise KeyError(f"oops {TOKEN}")
        yield item(sample, Maker(log=""))


def test_in_a_store_the_logs_are_in_the_store(s3: str) -> None:
    pytest.importorskip("s3fs")
    where = place(f"{s3}/set")
    lay(where, PLAN)
    with pytest.raises(
        RepeatedBugError, match=rf"KeyError: 'oops \*\*\*' \(traceback in {s3}/set/logs/.*-000004-1.log"
    ):
        generate(where, renderer=Renderer(render=broken, environment={}))
    found = objects(f"{s3}/set")
    logs = {name: data for name, data in found.items() if name.startswith("logs/")}
    assert len(logs) == SAME
    assert all(b"Traceback" in data for data in logs.values())
    assert not any(TOKEN.encode() in data for data in found.values())
    assert [shard.index for shard in read_manifest(where).shards] == [0, 3]
    assert not any(fault.name.startswith("logs") for fault in check(where))
    generate(where, renderer=Maker(log=os.devnull)(None))
    assert read_manifest(where).complete
    assert not any(name.startswith("logs/") for name in objects(f"{s3}/set"))


def test_an_error_of_a_store_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = work.write_shard, [ConnectionResetError("gone"), KeyError("ETag")]
    scope: dict[str, Any] = {"__name__": "s3fs.core"}
    exec("def answer(error): raise error", scope)

    def flaky(*args: Any, **options: Any) -> Shard | None:
        if args[1].index == 3 and failures:
            scope["answer"](failures.pop())
        return real(*args, **options)

    monkeypatch.setattr(work, "write_shard", flaky)
    lay(tmp_path / "set", PLAN)
    assert generate(tmp_path / "set", renderer=Maker(log=os.devnull)(None)).complete
    assert not failures


@pytest.mark.slow
def test_on_ray_too_a_bug_stops_at_the_third_shard_and_has_its_log(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "set"
    options = ("--engine", "ray", "--resources", "CPU=1", "--workers", 2, "--out", out, "--debug")
    done = toy(*SQUARES[:-2], *options, TOY_FAULT=" ".join(map(str, range(30))), TOY_SECRET=TOKEN)
    assert done.returncode == 1
    assert said(done)[-1].startswith(f"synthgen: {out}: stopped, as square-")
    log = Path(re.search(r"traceback in (.*?)\)", said(done)[-1])[1])
    assert len(list((out / "logs").iterdir())) == SAME
    assert log.read_text().endswith("KeyError: 'oops ***'\n")
    assert "KeyError: 'oops ***'" in said(done)
    assert TOKEN not in done.stdout + done.stderr
    assert not any(TOKEN.encode() in data for data in contents(out).values())
    assert toy(*SQUARES, "--out", out).returncode == 0
