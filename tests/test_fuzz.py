"""The campaign of changed files: a short one, and that it notices whatever it forbids."""

import json
import os
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fuzz
import fuzz_archives
import fuzz_bytes
import fuzz_mutations
import fuzz_values
import pytest
from fuzz_judge import Case, Wrong, judged, strict
from fuzz_page import distinct, section, with_own, with_section
from fuzz_run import Ended, Limits, Sandbox, in_fork
from fuzz_subjects import AGAIN, EXPORT, JUDGE, STATUS, SUBJECTS, VERIFY, Command, Subject, seal

SHORT = Limits(seconds=2.0, memory=200_000_000)
ROOT = Path(__file__).parents[1]


def subject(name: str, scene: str = "") -> Subject:
    return next(one for one in SUBJECTS if one.name == name and scene in one.scene)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> fuzz.World:
    return fuzz.World(folder=tmp_path_factory.mktemp("fuzz"))


@pytest.fixture
def sandbox(world: fuzz.World, tmp_path: Path) -> Sandbox:
    return Sandbox.made(tmp_path / "sandbox", world.base("finished"))


def case_of(world: fuzz.World, sandbox: Sandbox, name: str, file: str, *, sealed: bool = False) -> Case:
    one = subject(name)
    return Case(subject=one, sealed=sealed, base=world.base(one.scene), inside=sandbox.inside, file=file)


def kinds(world: fuzz.World, sandbox: Sandbox, command: Command, function: Callable[[], int]) -> list[str]:
    """What is forbidden of a function in a command's place."""
    before = sandbox.listing()
    ended = in_fork(function, command.args, sandbox, SHORT)
    case = case_of(world, sandbox, "plan", "set/plan.json")
    return [one.kind for one in judged(command, ended, before, sandbox.listing(), case, lambda: ended)]


def said(text: str, code: int = 0) -> Callable[[], int]:
    def say() -> int:
        os.write(2 if code else 1, text.encode())
        return code

    return say


def wrote(place: str, text: str = "x") -> Callable[[], int]:
    def write() -> int:
        path = Path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return 0

    return write


def raised() -> int:
    raise ValueError("planted")


def slept() -> int:
    time.sleep(60)
    return 0


def ended_by_a_signal() -> int:
    os.kill(os.getpid(), 9)
    return 0


def took_memory() -> int:
    taken = b"x" * 400_000_000
    time.sleep(1)
    return len(taken) * 0


def warned() -> int:
    warnings.warn("planted", RuntimeWarning, stacklevel=1)
    return 0


PLANTED = {
    "a traceback": (STATUS, raised, "traceback"),
    "a hang": (STATUS, slept, "time"),
    "much memory": (STATUS, took_memory, "memory"),
    "an end by a signal": (STATUS, ended_by_a_signal, "signal"),
    "another exit code": (STATUS, said("synthgen: no\n", 3), "code"),
    "faults where none were asked for": (STATUS, said("synthgen: no\n", 1), "code"),
    "two lines of error": (STATUS, said("synthgen: no\nsynthgen: no\n", 2), "lines"),
    "no line of error": (STATUS, said("", 2), "lines"),
    "a line that is not the program's": (STATUS, said("no\n", 2), "lines"),
    "a warning": (STATUS, warned, "warning"),
    "a colour": (STATUS, said("\x1b[31m"), "escape"),
    "a line that overwrites": (STATUS, said("all is well\r"), "escape"),
    "text turned around": (STATUS, said("\u202e"), "escape"),
    "a colour in an error": (VERIFY, said("synthgen: \x9b31m\n", 2), "escape"),
    "half a character": (STATUS, lambda: os.write(1, b"\xff") * 0, "escape"),
    "a file beside": (STATUS, wrote("set/new.txt"), "outside"),
    "a file of somebody else": (AGAIN, wrote("../victim/important"), "outside"),
    "a new file of somebody else": (AGAIN, wrote("../victim/new/x"), "outside"),
    "a colour in a table": (EXPORT, wrote("out/table.md", "\x1b[31m"), "escape"),
    "a colour in a name": (EXPORT, wrote("out/\x1b[31m.png"), "escape"),
    "code in a page": (EXPORT, wrote("out/page.html", fuzz_values.MARK), "code in text"),
    "code in Markdown": (EXPORT, wrote("out/README.md", fuzz_values.MARK), "code in text"),
    "a formula": (EXPORT, wrote("out/table.csv", 'name,n\n"=1+1",2\n'), "code in text"),
    "code in a table": (EXPORT, wrote("out/table.tex", fuzz_values.TEX), "code in text"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_whatever_is_forbidden_is_noticed(what: str, world: fuzz.World, sandbox: Sandbox) -> None:
    command, function, kind = PLANTED[what]
    assert kind in kinds(world, sandbox, command, function)


def test_a_write_far_away_is_noticed(world: fuzz.World, sandbox: Sandbox, tmp_path: Path) -> None:
    assert kinds(world, sandbox, STATUS, wrote(str(tmp_path / "far"))) == ["outside"]


@pytest.mark.parametrize(
    ("command", "function"),
    [
        (STATUS, said("set: 24 of 24 images, a name with \u00a0 and \u00e9\n")),
        (STATUS, said("verify: 1 of 3 shards, 2 s left\nsynthgen: set/plan.json: no\n", 2)),
        (AGAIN, wrote("set/README.md", "fine\n")),
        (EXPORT, wrote("out/page.html", "&lt;script&gt;")),
        (EXPORT, wrote("out/table.csv", "name,n\n'=1+1,2\n")),
    ],
)
def test_what_is_right_is_not_forbidden(
    command: Command, function: Callable[[], int], world: fuzz.World, sandbox: Sandbox
) -> None:
    assert kinds(world, sandbox, command, function) == []


def told(args: tuple[str, ...], out: str = "") -> Ended:
    return Ended(args=args, code=0, out=out, err="", seconds=0.0, memory=0)


def answers(command: Command, case: Case, sandbox: Sandbox, out: str = "", old: str = "") -> list[Wrong]:
    listing = sandbox.listing()
    return judged(command, told(command.args, out), listing, listing, case, lambda: told(command.args, old))


@pytest.mark.parametrize("name", ["set/plan.json", "set/manifest.json", "set/data/fractal-train-000001.json"])
def test_a_changed_record_that_verify_finds_right_is_another_answer(
    name: str, world: fuzz.World, sandbox: Sandbox
) -> None:
    case = case_of(world, sandbox, "plan", name)
    assert answers(VERIFY, case, sandbox) == []
    path = sandbox.inside / name
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record))  # other bytes, the same values
    assert answers(VERIFY, case, sandbox) == []
    path.write_text(json.dumps(record | {"n": 25, "n_samples": 9}))
    (wrong,) = answers(VERIFY, case, sandbox)
    assert wrong.kind == "answer"


def test_changed_images_that_are_found_right_are_another_answer(world: fuzz.World, sandbox: Sandbox) -> None:
    case = case_of(world, sandbox, "tar", "set/data/fractal-train-000001.tar")
    path = sandbox.inside / case.file
    path.write_bytes(fuzz_bytes.flip(path.read_bytes(), random.Random(0)))
    assert [one.kind for one in answers(VERIFY, case, sandbox)] == ["answer"]


def test_a_picture_of_another_size_is_another_answer_though_all_sums_are_right(
    world: fuzz.World, sandbox: Sandbox
) -> None:
    path = sandbox.inside / "set/data/fractal-train-000001.tar"
    found = fuzz_archives.members(path.read_bytes())
    header, body = found[0]
    found[0] = (header, body[:16] + b"\0\0\0\x01" + body[20:])
    path.write_bytes(fuzz_archives.tar_of(found))
    assert seal(sandbox.inside / "set", samples=True)
    case = case_of(world, sandbox, "image in a tar", "set/data/fractal-train-000001.tar", sealed=True)
    assert [one.kind for one in answers(VERIFY, case, sandbox)] == ["answer"]


def test_sums_are_set_right_so_that_verify_reads_what_is_behind_them(
    sandbox: Sandbox, synthgen_here: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    table = sandbox.inside / "set/metadata/fractal-train-000001.parquet"
    table.write_bytes(table.read_bytes() + b"x")
    folder = sandbox.inside / "set"
    assert synthgen_here("verify", folder).returncode == 1
    assert seal(folder, samples=False)
    assert "sha256" not in synthgen_here("verify", folder).stdout


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, False),
        ({"y_pred": lambda v: v + 2**40}, True),
        ({"y_pred": lambda v: v + 0.5}, True),
        ({"y_pred": str}, True),
        ({"y_pred": lambda v: -5}, True),
        ({"y_pred": lambda v: None}, True),
        ({"image_id": lambda v: "the same"}, True),
        ({"y_pred": lambda v: 0}, False),
    ],
)
def test_predictions_that_are_no_labels_are_another_answer(
    change: dict[str, Callable[[object], object]], wrong: bool, world: fuzz.World, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sandbox = Sandbox.made(tmp_path / "sandbox", world.base("study"))
    case = case_of(world, sandbox, "predictions", "runs/0000000000000000/predictions/0004-test.parquet")
    path = sandbox.inside / case.file
    columns = pq.read_table(path).to_pydict()
    for name, function in change.items():
        columns[name] = [function(one) for one in columns[name]]
    pq.write_table(pa.table(columns), path)
    assert bool(answers(JUDGE, case, sandbox, "{}", "{}")) == wrong
    if not change:
        assert answers(JUDGE, case, sandbox, '{"rows": [1]}', '{"rows": [2]}')


@pytest.mark.parametrize(
    "text", ['{"a": NaN}', '{"a": 1, "a": 1}', '"\\ud800"', "[" * 2000 + "]" * 2000, "{} x", "\xff", ""]
)
def test_json_that_is_not_strict_is_known(text: str) -> None:
    assert strict(b'{"a": [1, "\\u00e9"]}')
    assert not strict(text.encode("latin-1"))


def changed_by_all(layout: str, data: bytes) -> int:
    found = {bytes(how(data, random.Random(k))) for how in fuzz_mutations.FORMATS[layout] for k in range(12)}
    return len(found - {data})


def test_every_format_has_mutations_which_a_seed_repeats(world: fuzz.World) -> None:
    for one in SUBJECTS:
        if one.layout == "name" or one.heavy:
            continue
        path = next(iter(world.base(one.scene).glob(one.files[0])))
        data = path.read_bytes()
        assert changed_by_all(one.layout, data) > 8, one.name
        how = fuzz_mutations.FORMATS[one.layout][0]
        assert how(data, random.Random(5)) == how(data, random.Random(5))


@pytest.mark.parametrize("n_cases", [25, pytest.param(150, marks=pytest.mark.slow)])
def test_a_short_campaign_finds_nothing_and_goes_on_where_it_stopped(tmp_path: Path, n_cases: int) -> None:
    results = tmp_path / "results.jsonl"
    cheap = [k for k in range(1000) if fuzz.subject_of(3, k).often >= 0.5 and (k == 10 or not fuzz.is_shell(k))]
    for n in (5, n_cases):
        fuzz.lanes(cheap[:n], 3, results)
        rows = fuzz.read_results(results)
        assert sorted(row["case"] for row in rows) == cheap[:n]
    assert [(row["case"], row["subject"], row["change"], row["wrong"]) for row in rows if row["wrong"]] == []


def test_the_command_runs_a_case_and_writes_its_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Faults\n")
    script, results = str(ROOT / "tests/fuzz.py"), str(tmp_path / "results")
    command = [sys.executable, script, "--results", results, "--out", str(page), "--n", "0"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.startswith(f"{page}: 0 cases")
    assert page.read_text().startswith("# Faults\n")
    assert "Forbidden outcomes: none." in page.read_text()


def test_a_page_keeps_what_the_other_campaign_and_people_wrote() -> None:
    page = with_section("# Faults\n", "one\n") + "By hand.\n"
    page = with_own(with_section(page, "two\n"), "# Faults again\n")
    assert [word in page for word in ("# Faults again", "one", "two", "By hand.")] == [True, False, True, True]


def test_forbidden_outcomes_are_told_by_cause() -> None:
    end = {"command": "synthgen status set", "outcome": "forbidden", "seconds": 0.1, "megabytes": 1}
    wrong = [{"command": end["command"], "name": "traceback: ValueError in x.py: f", "told": ""}]
    row = {"seed": 0, "case": 1, "subject": "plan", "shell": False, "ends": [end], "wrong": wrong}
    rows = [row, row | {"case": 2}, row | {"case": 3, "wrong": [], "ends": [end | {"outcome": "refused"}]}]
    assert [len(cases) for cases in distinct(rows).values()] == [2]
    text = section(rows, n=3, seed=0)
    assert "| plan | 3 | 0 | 1 | 0 | 2 |" in text
    assert "- traceback: ValueError in x.py: f (2 times)" in text


@pytest.mark.slow
def test_every_command_of_the_campaign_may_end_as_it_does_where_nothing_is_changed(world: fuzz.World) -> None:
    for one in SUBJECTS:
        for command in one.commands:
            if not one.heavy and command.often >= 0.5:
                assert world.reference(one.scene, command).code in command.codes, command.words
    assert world.reference("finished", replace(VERIFY, often=1)).code == 0
