"""What earlier versions wrote is read, resumed, grown, published, trained and compared ever after."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from files import contents

GOLDEN = Path(__file__).parent / "golden/records"
PROMPTS = Path(__file__).parents[1] / "prompts/quickstart.txt"
FRACTAL = ("fractal", "--categories", "categories", "--size", "32", "--points", "2000", "--workers", "1")
DIFFUSION = ("--model", "tiny", "--size", "32", "--shard-size", "2", "--batch", "2", "--device", "cpu")
SETS = ("fractal-finished", "fractal-grown", "published", "diffusion-finished", "diffusion-grown")
Command = Callable[..., Any]


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that may be changed, as the working directory."""
    copy = tmp_path / "records"
    shutil.copytree(GOLDEN, copy)
    monkeypatch.chdir(copy)
    return copy


def ran(told: Any) -> str:
    assert told.returncode == 0, told.stderr
    return str(told.stdout)


def images(folder: Path) -> dict[str, bytes]:
    """A set without what publishing adds to it."""
    added = ("README.md", "croissant.json", "samples.jpg", "quality.json")
    return {name: data for name, data in contents(folder).items() if name not in added}


@pytest.mark.parametrize("name", SETS)
def test_a_finished_set_verifies_and_is_told_as_complete(name: str, records: Path, synthgen_here: Command) -> None:
    before = contents(records / name)
    assert "0 defects" in ran(synthgen_here("verify", name))
    assert json.loads(ran(synthgen_here("status", name, "--json")))["complete"]
    assert contents(records / name) == before


@pytest.mark.parametrize("name", ["fractal-finished", "fractal-half", "fractal-grown"])
def test_a_set_of_fractals_is_taken_up_and_grown(name: str, records: Path, synthgen_here: Command) -> None:
    ran(synthgen_here(*FRACTAL, "--shard-size", "10", "--n", "24", "--out", name))
    if name != "fractal-grown":
        assert images(records / name).keys() == images(GOLDEN / "fractal-finished").keys()
    before = {key: data for key, data in contents(records / name).items() if key.endswith((".tar", ".parquet"))}
    ran(synthgen_here(*FRACTAL, "--shard-size", "5", "--n", "31", "--out", name))
    after = contents(records / name)
    assert {key: after[key] for key in before} == before
    assert "0 defects" in ran(synthgen_here("verify", name))


def test_half_a_set_is_resumed_to_the_bytes_that_the_whole_one_has(records: Path, synthgen_here: Command) -> None:
    ran(synthgen_here(*FRACTAL, "--shard-size", "10", "--n", "24", "--out", "fractal-half"))
    whole, resumed = images(GOLDEN / "fractal-finished"), images(records / "fractal-half")
    record = "data/fractal-train-000001.json"
    if json.loads(whole[record])["environment"] == json.loads(resumed[record])["environment"]:
        assert resumed == whole
    else:  # another compressor may write the same pixels in other bytes
        assert resumed.keys() == whole.keys()


def test_a_damaged_shard_is_repaired(records: Path, synthgen_here: Command) -> None:
    tar = records / "fractal-finished/data/fractal-train-000001.tar"
    before = json.loads(tar.with_suffix(".json").read_text())["environment"]
    tar.unlink()
    told = synthgen_here("verify", "fractal-finished", "--repair")
    if told.returncode == 0:
        assert tar.read_bytes() == (GOLDEN / "fractal-finished/data" / tar.name).read_bytes()
    else:
        assert f"{before['zlib']} then" in told.stderr or "then, " in told.stderr


def test_a_set_of_diffusion_images_is_taken_up(records: Path, synthgen_here: Command) -> None:
    ran(synthgen_here("sd", "--prompts", PROMPTS, *DIFFUSION, "--n", "4", "--out", "diffusion-half"))
    assert "0 defects" in ran(synthgen_here("verify", "diffusion-half"))
    assert contents(records / "diffusion-half").keys() == contents(GOLDEN / "diffusion-finished").keys()


@pytest.mark.parametrize("name", ["fractal-grown", "diffusion-finished"])
def test_a_set_is_published(name: str, records: Path, synthgen_here: Command) -> None:
    ran(synthgen_here("publish", name, "--to", "out"))
    assert "0 defects" in ran(synthgen_here("verify", "out"))


def test_finished_runs_are_not_trained_again_and_unfinished_ones_go_on(records: Path, evaluate_here: Command) -> None:
    before = contents(records / "runs")
    assert "0 runs done, 3 done before, 0 failed" in ran(
        evaluate_here("run", "suite.toml", "--out", "runs", "--device", "cpu")
    )
    after = contents(records / "runs")
    assert {key: after[key] for key in before} == before
    assert "1 run done, 2 done before, 0 failed" in ran(
        evaluate_here("run", "suite.toml", "--out", "runs-half", "--device", "cpu")
    )
    (log,) = (path.read_text() for path in (records / "runs-half").glob("a0a48*/log.jsonl"))
    assert [json.loads(line)["epoch"] for line in log.splitlines()] == [1, 2, 3]


def test_a_new_run_starts_from_stored_weights(records: Path, evaluate_here: Command) -> None:
    suite = (records / "suite.toml").read_text().replace("lr = 0.01", "lr = 0.02")
    (records / "suite.toml").write_text(suite)
    assert "2 runs done, 1 done before, 0 failed" in ran(
        evaluate_here("run", "suite.toml", "--out", "runs", "--device", "cpu")
    )


def test_runs_are_compared_and_told(records: Path, evaluate_here: Command) -> None:
    ran(evaluate_here("compare", "runs", "--out", "report", "--resamples", "100"))
    assert "2 done, 1 running" in ran(evaluate_here("status", "runs-half"))


POWER = ("power", "study", "--difference", "4", "--baseline", "natural")


def test_power_asks_for_independent_runs(records: Path, evaluate_here: Command) -> None:
    told = ran(evaluate_here(*POWER))
    assert told.startswith("independent runs to show 4 points of effective robustness against natural")
    (row,) = (line for line in told.splitlines() if line.startswith("labels-37"))
    assert row.split()[1] == "5"
    assert "more than 1,000  more than 1,000  45.2 (to more than 100)  " in row


def test_power_asks_for_pre_training_runs_where_fine_tunings_share_them(records: Path, evaluate_here: Command) -> None:
    """As where two of three fine-tunings of an architecture start from one pre-training run."""
    path = records / "study/suites/study.json"
    suite = json.loads(path.read_text())
    for member in suite["members"]:
        if member["pretrain"]:
            member["pretrain"] = member["pretrain"].removesuffix("1").ljust(16, "0")
    path.write_text(json.dumps(suite))
    told = ran(evaluate_here(*POWER))
    assert told.startswith("pre-training runs to show 4 points of effective robustness against natural")
    (row,) = (line for line in told.splitlines() if line.startswith("labels-37"))
    assert row.split()[1] == "3"


def test_a_comparison_gives_the_numbers_that_it_gave(records: Path, evaluate_here: Command) -> None:
    """All of format 3, and of format 2, which judged differently, the scores."""
    ran(evaluate_here("compare", "study", "--out", "report", "--resamples", "500"))
    compared = json.loads((records / "report/comparison.json").read_text())
    stored = json.loads((GOLDEN.parent / "comparison.json").read_text())
    del stored["command"]
    assert not list(differences("", stored["comparison"], compared["comparison"]))
    old = json.loads((GOLDEN / "study-comparison.json").read_text())["comparison"]
    scores = {"locations": old["locations"], "baseline": old["baseline"], "n_classes": old["n_classes"]}
    scores["rows"] = [{key: row[key] for key in row if key != "effective_robustness"} for row in old["rows"]]
    kept = ("arm", "planned", "finished", "id_mean", "id_sd", "ood_mean", "ood_sd", "worst_location")
    scores["arms"] = [{key: arm[key] for key in kept} for arm in old["arms"]]
    assert not list(differences("", scores, compared["comparison"]))


def differences(place: str, old: Any, new: Any) -> Any:
    """Where a record lacks what an older one had, or has another value; keys may be added."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            yield from differences(f"{place}.{key}", value, new[key]) if key in new else [f"{place}.{key} is gone"]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(f"{place}[{number}]", one, other)
    elif isinstance(old, float) and isinstance(new, (int, float)):
        if not math.isclose(old, new, rel_tol=1e-9, abs_tol=1e-12):
            yield f"{place}: {old} before, {new} now"
    elif old != new:
        yield f"{place}: {old!r} before, {new!r} now"
