import os
import random
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import faults
import faults_process
import pytest
from conftest import Command as Run
from faults_case import run_case
from faults_damage import random_bytes_changed
from faults_kinds import Injury, Kind, Stage
from faults_page import page
from faults_process import Command, End, told
from faults_scenes import FolderScene, device, differences, digests, read_folder, tally


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> faults.World:
    return faults.World(tmp_path_factory.mktemp("world"), None, ("folder",))


@pytest.mark.slow
def test_after_some_faults_everything_is_as_without_and_a_stopped_campaign_goes_on(
    world: faults.World, tmp_path: Path
) -> None:
    rows = faults.campaign(world, "sets", 4, 1, tmp_path / "results")
    assert [line for row in rows for line in row["wrong"]] == []
    assert sum(fault["hit"] for row in rows for fault in row["faults"]) >= 4
    assert faults.campaign(world, "sets", 4, 1, tmp_path / "results") == faults.read_results(tmp_path / "results")
    assert sorted(map(str, rows)) == sorted(map(str, faults.read_results(tmp_path / "results")))
    assert not [path for path in world.folder.iterdir() if path.name.startswith("case-")]
    assert "None." in page(rows, {}, seed=1).rpartition("## Deviations")[2]


def test_damage_that_nobody_mends_is_noticed_and_told(world: faults.World) -> None:
    def unseen(stage: Stage) -> Injury:
        injury, run = Injury(hit=True, what="at 25 of 25"), stage.start(1)
        stage.judged(injury, run, {0})
        assert isinstance(stage.scene, FolderScene)
        path = stage.scene.out / "data/fractal-train-000003.tar"
        data = bytearray(path.read_bytes())
        data[data.index(b"IDAT") + 20] ^= 1
        path.write_bytes(data)
        return injury

    kind = Kind(name="unseen damage", inject=unseen, where=("folder",))
    with world.subject("folder", "damage", on_device=False) as subject:
        row = run_case(subject, [kind], random.Random(0))
    assert (row["lost"], row["duplicate"], row["corrupt"]) == (0, 0, 1)
    wrong = "\n".join(row["wrong"])
    for line in (
        "data/fractal-train-000003.tar: other content",
        "1 samples corrupt",
        "verify: exit code 1: data/fractal-train-000003.tar: image 000000120 differs from its record",
    ):
        assert line in wrong
    report = page([{"campaign": "sets", "case": 7, "scene": "set in a folder", **row}], {}, seed=1)
    assert "case 7: 1 samples corrupt" in report
    assert "| 0 of 1 |" in report


def test_lost_duplicate_and_corrupt_samples_are_counted() -> None:
    wanted = {"0": ["a"], "1": ["b"], "2": ["c"], "3": ["d"]}
    assert tally(wanted, wanted).total() == 0
    found = {"1": ["b", "b"], "2": ["x"], "3": ["d"], "4": ["e"]}
    assert tally(found, wanted) == {"lost": 1, "duplicate": 2, "corrupt": 1}


def test_of_records_all_counts_but_the_versions() -> None:
    def record(sha256: str, numpy: str) -> dict[str, bytes]:
        return {"data/x.json": b'{"sha256": "%s", "environment": {"numpy": "%s"}}' % (sha256.encode(), numpy.encode())}

    wanted = digests(record("aa", "1"))
    assert differences(digests(record("aa", "2")), wanted) == []
    assert differences(digests(record("ab", "1")), wanted) == ["data/x.json: other content"]
    assert differences(digests({"data/x.json": b"half"}), wanted) == ["data/x.json: other content"]
    assert differences({"data/x.tar.tmp": ""}, wanted) == ["data/x.json: missing", "data/x.tar.tmp: not due"]


@pytest.mark.parametrize(
    ("code", "lines", "left", "what"),
    [
        (0, (), 0, []),
        (2, ("synthgen: no room",), 0, []),
        (2, (), 0, ["0 lines"]),
        (0, ("synthgen: something",), 0, ["1 lines"]),
        (2, ("synthgen: one", "synthgen: two"), 0, ["2 lines"]),
        (2, ("numpy: no room",), 0, ["1 lines"]),
        (-signal.SIGKILL, (), 0, []),
        (-signal.SIGABRT, ("terminate called",), 0, ["exit code -6", "1 lines"]),
        (None, (), 0, ["exit code None"]),
        (1, ("Traceback (most recent call last):", "KeyError: 1"), 0, ["exit code 1", "traceback", "2 lines"]),
        (0, (), 1, ["1 processes left"]),
    ],
)
def test_an_end_that_is_not_as_it_should_be_is_told(
    code: int | None, lines: tuple[str, ...], left: int, what: list[str]
) -> None:
    found = End(code=code, lines=lines, left=left).wrong({0, 2, -signal.SIGKILL}, "synthgen")
    assert len(found) == len(what)
    assert all(line.startswith(start) for line, start in zip(found, what, strict=True))


def test_progress_is_no_line_and_anything_else_is() -> None:
    text = (
        "generate: 40 of 1000 images, 3 s left\n1/3 fine-tune scratch, resnet18, seed 0: 2 of 2 epochs\nsynthgen: no\n"
    )
    assert list(told(text)) == ["synthgen: no"]


def test_a_process_that_stays_behind_is_counted_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults_process, "AFTER", 0.2)
    end = Command(["sh", "-c", "sleep 100 & exit 3"], {}, tmp_path / "err").end()
    assert (end.code, end.left) == (3, 1)
    assert Command(["sh", "-c", "sleep 0.1 & exit 0"], {}, tmp_path / "err").end().left in (0, 1)


def test_a_device_is_full_or_read_only_for_a_while(tmp_path: Path) -> None:
    try:
        with device(tmp_path / "small", "1m") as small:
            small.fill(0)
            with pytest.raises(OSError, match="No space left"):
                (small.place / "x").write_bytes(bytes(10_000))
            small.empty()
            (small.place / "x").write_bytes(bytes(10_000))
            with (small.place / "open").open("wb") as file:
                small.lock()
                file.write(b"still")  # an open file goes on, as with a device that is mounted anew
                with pytest.raises(OSError, match="Read-only"):
                    (small.place / "y").write_bytes(b"")
            assert len(read_folder(small.place)) == 2
            small.unlock()
            (small.place / "y").write_bytes(b"")
    except subprocess.CalledProcessError:
        pytest.skip("mounting needs root")
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, synthgen: Run, categories: Path) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("finished") / "set"
    wanted = ["--n", "120", "--size", "40", "--points", "1000", "--shard-size", "40", "--workers", "1"]
    command = ["fractal", "--categories", str(categories), *wanted, "--out", str(out)]
    assert synthgen(*command).returncode == 0
    return out, command


def test_the_sum_of_a_table_that_is_damaged_later_stays_as_it_was(
    finished: tuple[Path, list[str]], synthgen: Run
) -> None:
    out, command = finished
    before, rng = read_folder(out), random.Random(0)
    table = out / "metadata/fractal-train-000001.parquet"
    table.write_bytes(random_bytes_changed(before["metadata/fractal-train-000001.parquet"], rng))
    (out / "data/fractal-train-000002.json").unlink()  # so that the command has something to do
    assert synthgen(*command).returncode == 0
    assert (out / "SHA256SUMS").read_bytes() == before["SHA256SUMS"]
    look = synthgen("verify", out)
    assert look.returncode == 1
    assert "metadata/fractal-train-000001.parquet: " in look.stdout
    assert synthgen("verify", "--repair", out).returncode == 0
    assert read_folder(out) == before


@pytest.mark.parametrize("how", ["whole", "bit flipped", "truncated", "empty"])
def test_a_damaged_checkpoint_is_told_and_left(tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    import torch

    from synthgen_evaluate.runs import Run as TrainingRun
    from synthgen_evaluate.training.journal import Checkpoint

    learner = torch.nn.Linear(100, 100)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    checkpoint = Checkpoint(
        run=TrainingRun(directory=tmp_path), epochs=5, learner=learner, optimizer=optimizer, scaler=None
    )
    checkpoint.save(3)
    data = checkpoint.path.read_bytes()
    weights = data.index(learner.weight.detach().numpy().tobytes()[:64])
    flipped = data[:weights] + bytes([data[weights] ^ 1]) + data[weights + 1 :]
    checkpoint.path.write_bytes({"whole": data, "bit flipped": flipped, "truncated": data[:5000], "empty": b""}[how])
    assert checkpoint.load() == (3 if how == "whole" else 0)
    said = "" if how == "whole" else f"{checkpoint.path}: damaged, or of another run; the run starts over\n"
    assert capsys.readouterr().out == said


def test_a_suite_whose_workers_break_down_does_not_end_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from synthgen.engines.request import Request
    from synthgen_evaluate.errors import EvaluateError
    from synthgen_evaluate.runs import State
    from synthgen_evaluate.training import fleet

    step = SimpleNamespace(title="a run", run=lambda out: SimpleNamespace(state=State(status="running")))
    plan = SimpleNamespace(todo=lambda out: [step], grid=SimpleNamespace(steps=[step]))
    monkeypatch.setattr(fleet, "open_suite", lambda suite, only: plan)
    broken = fleet.Worker(arguments=(), environment={})
    monkeypatch.setattr(fleet.Worker, "command", lambda worker: ["sh", "-c", "exit 1"])
    monkeypatch.setattr(fleet, "_workers", lambda *args: [broken])
    with pytest.raises(EvaluateError, match="1 run is not done"):
        fleet.run_fleet(Path(os.devnull), None, tmp_path, Request(workers=1), device="cpu")  # type: ignore[arg-type]
