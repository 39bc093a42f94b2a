import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Command
from processes import installed

from fractaldb.render import orbit_draws
from fractaldb.sampling import sample_svd
from synthgen import cli

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "evaluate/suites/miniature.toml"
SMALL = ("--n", 50, "--size", 32, "--points", 1000, "--shard-size", 30, "--workers", 1)

PROBE = """
import sys
from importlib.metadata import entry_points
name, *arguments = sys.argv[1:]
sys.argv = [name, *arguments]
(entry,) = entry_points(group="console_scripts", name=name)
try:
    entry.load()()
except SystemExit as error:
    code = error.code
heavy = {"torch", "torchvision", "diffusers", "transformers", "wilds", "matplotlib"} & set(sys.modules)
print(code or 0, *sorted(heavy), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command, categories: Path) -> Path:
    out = tmp_path_factory.mktemp("cli") / "set"
    done = synthgen_here("fractal", "--out", out, "--categories", categories, *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: 50 images of 5 categories in 2 shards")
    return out


def quick(dataset: Path) -> list[tuple[object, ...]]:
    return [
        ("synthgen", "--help"),
        ("synthgen", "fractal", "--help"),
        ("synthgen", "status", dataset),
        ("evaluate", "--help"),
        ("evaluate", "plan", SUITE),
        ("evaluate", "compare", "--help"),
    ]


def test_help_status_and_plan_load_no_torch(dataset: Path) -> None:
    for command in quick(dataset):
        probed = subprocess.run(
            [sys.executable, "-c", PROBE, *map(str, command)], capture_output=True, text=True, cwd=ROOT, timeout=60
        )
        assert probed.stderr.splitlines()[-1] == "0", f"{command}: {probed.stderr}"


def quickest(command: list[str], limit: float) -> float:
    """The best of some times, for the machine may be busy; compiled modules are kept, as they are by default."""
    best, cached = 99.0, {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=cached)
        best = min(best, time.perf_counter() - start)
        if best < limit:
            break
    return best


def test_help_and_plan_answer_within_half_a_second(dataset: Path) -> None:
    """Or, on a slow machine, in three times what the libraries take to be imported."""
    needed = quickest([sys.executable, "-c", "import numpy, pyarrow.parquet, pydantic, typer"], 0.0)
    limit = max(0.5, 3 * needed)
    for name, *arguments in quick(dataset):
        command = [str(Path(sys.executable).with_name(str(name))), *map(str, arguments)]
        best = quickest(command, limit)
        assert best < limit, f"{command}: {best:.2f} s"


def commands(program: str) -> list[str]:
    from typer.main import get_group

    from synthgen_evaluate.cli import app as evaluate_app

    return sorted(set(get_group(cli.app if program == "synthgen" else evaluate_app).commands) - {"prompts"})


@pytest.mark.parametrize("program", ["synthgen", "evaluate"])
def test_every_command_shows_an_example_of_itself_in_its_help(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from synthgen_evaluate.cli import app as evaluate_app

    names = commands(program)
    assert len(names) >= 4
    for name in names:
        monkeypatch.setattr(sys, "argv", [program, name, "--help"])
        assert cli.run(cli.app if program == "synthgen" else evaluate_app, program, ()) == 0
        assert f"Example: {program} {name} " in " ".join(capsys.readouterr().out.split())


def refused(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line with which a command refused to work."""
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("synthgen: ")
    return line.removeprefix("synthgen: ")


def snapshot(directory: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in directory.rglob("*")}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--n", 0), "n = 0: 5 categories have 5000 images (25 x 10 x 4 each); ask for 1 to 5000"),
        (("--n", -3), "n = -3: 5 categories have 5000 images"),
        (("--n", 5001), "n = 5001: 5 categories have 5000 images"),
        (("--n", 501, "--draw", "point_gray"), "n = 501: 5 categories have 500 images (25 x 1 x 4 each)"),
        (("--size", 12), "size 12 px leaves nothing inside the padding of 6 px per side; at least 13"),
        (("--size", 5000), "size 5000 px is above the largest supported, 4096"),
        (("--draw", "dots"), "draw type 'dots' is not one of patch_gray, patch_color, point_gray, point_color"),
        (("--points", 0), "0 points: "),
        (("--weights", 0.25), "weight step 0.25 is not one of the published 0.1, 0.2, 0.3, 0.4, 0.5"),
        (("--shard-size", 0), "shard size 0: at least 1"),
        (("--workers", 0), "Invalid value for '--workers': "),
        (("--workers", -1), "Invalid value for '--workers': "),
        (("--n", "many"), "Invalid value for '--n': "),
        (("--colour", "red"), "No such option: --colour"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_setting_out_of_range_is_refused_in_one_line_before_any_work(
    tmp_path: Path, synthgen_here: Command, categories: Path, arguments: tuple[object, ...], told: str
) -> None:
    line = refused(synthgen_here("fractal", "--out", tmp_path / "set", "--categories", categories, *arguments))
    assert line.startswith(told)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--categories", 1000, "--n", -1), "n = -1: 1000 categories have 1000000 images"),
        (("--categories", 1000, "--n", 1_000_001), "n = 1000001: 1000 categories have 1000000 images"),
        (("--categories", 1000, "--shard-size", -1), "shard size -1: at least 1"),
        (("--categories", 0), "categories = 0: at least 1"),
        (("--categories", 3, "--seed", -1), "seed -1: a category search takes 0 to 4294967295"),
        (("--categories", 3, "--seed", 2**32), "seed 4294967296: a category search takes 0 to 4294967295"),
        (("--categories", "-3"), "-3: no such folder of category CSVs"),
        (("--categories", "²"), "²: no such folder of category CSVs"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_bad_input_is_found_before_a_search(
    tmp_path: Path, synthgen_here: Command, arguments: tuple[object, ...], told: str
) -> None:
    start = time.monotonic()
    done = synthgen_here("fractal", "--out", tmp_path / "set", *arguments)
    assert refused(done).startswith(told)
    assert "search: " not in done.stderr
    assert time.monotonic() - start < 10  # a search of 1,000 takes minutes
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1,2,3\n", "bad.csv, row 1: 3 columns, expected 7 (a,b,c,d,e,f,p)"),
        ("0,0,0,0,0,x,1\n", "bad.csv, row 1: 'x' is not a number"),
        ("0.5,0,0,0.5,0,0,0.5\n", "bad.csv: probabilities sum to 0.5, not to 1"),
        ("", "bad.csv: no rows"),
        ("1e200,-1e200,1e200,1e200,1,1,1\n", "category bad, weight row 0: the system diverges"),
        ("800,-800,800,800,1,1,1\n", "category bad, weight row 4: the system diverges"),
        ("0,0,0,0,0,0,1\n", "category bad, weight row 0: all 500 points share one coordinate"),
        (None, "contains no .csv file"),
    ],
)
def test_a_bad_folder_of_categories_is_refused_by_file_and_row(
    tmp_path: Path, synthgen_here: Command, text: str | None, told: str
) -> None:
    folder = tmp_path / "csv"
    folder.mkdir()
    if text is not None:
        (folder / "bad.csv").write_text(text)
    line = refused(
        synthgen_here("fractal", "--out", tmp_path / "set", "--categories", folder, "--points", 500, "--size", 32)
    )
    assert told in line
    assert not (tmp_path / "set").exists()


def test_a_set_of_one_image_is_spoken_of_in_the_singular(
    tmp_path: Path, synthgen_here: Command, categories: Path
) -> None:
    one, out = tmp_path / "csv", tmp_path / "set"
    one.mkdir()
    shutil.copy(sorted(categories.glob("*.csv"))[0], one)
    made = synthgen_here("fractal", "--out", out, "--categories", one, *SMALL[2:], "--n", 1)
    exported = synthgen_here("export", out, "--out", tmp_path / "parquet", "--format", "parquet")
    assert made.stdout.startswith(f"{out}: 1 image of 1 category in 1 shard, ")
    assert synthgen_here("status", out).stdout.startswith(f"{out}: 1 of 1 image of 1 class, 1 of 1 shard, ")
    assert exported.stdout == f"{tmp_path / 'parquet'}: 1 image of 1 class in 1 file\n"
    assert synthgen_here("publish", out, "--to", tmp_path / "sent").returncode == 0
    card = (tmp_path / "sent/README.md").read_text()
    assert "\n1 image of 1 class for pre-training" in card
    assert "\n1 image in 1 shard, " in card
    assert "\n1 class of 1 image.\n" in card


def test_a_system_whose_first_points_only_share_a_coordinate_is_drawn(tmp_path: Path, synthgen_here: Command) -> None:
    folder = tmp_path / "csv"
    folder.mkdir()
    assert orbit_draws(102).max() < 0.999 < orbit_draws(9000).max()  # so the second map, off the origin, comes late
    (folder / "rare.csv").write_text("0.5,0,0,0.5,0,0,0.999\n0.5,0,0,0.5,1,1,0.001\n")
    done = synthgen_here(
        "fractal", "--out", tmp_path / "set", "--categories", folder, *SMALL[2:], "--n", 8, "--points", 9000
    )
    assert done.returncode == 0, done.stderr


def test_a_directory_of_something_else_is_refused(tmp_path: Path, synthgen_here: Command, categories: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    before = snapshot(tmp_path)
    line = refused(synthgen_here("fractal", "--out", tmp_path, "--categories", categories, *SMALL))
    assert line == f"{tmp_path}: not empty and not a dataset (no plan.json); choose another --out"
    assert snapshot(tmp_path) == before
    line = refused(synthgen_here("fractal", "--out", tmp_path / "thesis.tex", "--categories", categories, *SMALL))
    assert line == f"{tmp_path}/thesis.tex: not a directory"
    line = refused(synthgen_here("fractal", "--out", tmp_path / "thesis.tex/set", "--categories", categories, *SMALL))
    assert line.startswith(f"{tmp_path}/thesis.tex")
    line = refused(synthgen_here("fractal-search", "--out", tmp_path, "--categories", 1))
    assert line == f"{tmp_path}: exists and is not an empty folder; choose another --out"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("--seed", 2), "seed: 1 there, 2 asked"),
        (("--size", 33), "size: 32 there, 33 asked"),
        (("--points", 1001), "n_points: 1000 there, 1001 asked"),
        (("--weights", 0.3), "weight_step: 0.4 there, 0.3 asked"),
        (("--draw", "patch_color"), "draw: patch_gray there, patch_color asked"),
        (("--n", 49), "already planned for 50 images; asked for 49"),
    ],
)
def test_another_plan_is_refused_with_what_differs_and_nothing_changes(
    dataset: Path, synthgen_here: Command, categories: Path, change: tuple[object, ...], told: str
) -> None:
    before = snapshot(dataset)
    plan = json.loads((dataset / "plan.json").read_text())["digest"][:16]
    line = refused(synthgen_here("fractal", "--out", dataset, "--categories", categories, *SMALL, *change))
    assert told in line
    if change[0] != "--n":
        assert f"made by another plan ({plan} there, " in line
    assert snapshot(dataset) == before


def test_a_disk_too_small_for_the_plan_is_refused(
    tmp_path: Path, categories: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    arguments = ["fractal", "--out", tmp_path / "set", "--categories", categories, *SMALL]
    monkeypatch.setattr(sys, "argv", ["synthgen", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith(f"synthgen: {tmp_path}/set: 50 images need about 0.000")
    assert line.endswith("1e-06 GB are free; free some space or ask for fewer")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("command", ["status", "verify"])
def test_a_directory_without_a_plan_is_told_apart_from_an_empty_dataset(
    tmp_path: Path, synthgen_here: Command, command: str
) -> None:
    line = refused(synthgen_here(command, tmp_path))
    assert line == f"{tmp_path}/plan.json: No such file or directory; is this a dataset directory?"


def test_a_bare_command_shows_its_help_and_an_unknown_one_is_named(synthgen_here: Command) -> None:
    bare = synthgen_here()
    assert bare.returncode == 2
    assert bare.stderr.startswith("Usage: synthgen")
    assert refused(synthgen_here("draw")).startswith("No such command 'draw'")
    assert refused(synthgen_here("fractal-search")) == "Missing option '--out'."


def test_categories_are_searched_written_and_read_back_to_the_same_plan(tmp_path: Path, synthgen_here: Command) -> None:
    found = synthgen_here("fractal-search", "--out", tmp_path / "csv", "--categories", 2)
    assert (found.returncode, found.stdout) == (0, f"{tmp_path}/csv: 2 categories of seed 1\n")
    asked = {"searched": 2, "read": tmp_path / "csv"}
    for name, source in asked.items():
        done = synthgen_here("fractal", "--out", tmp_path / name, "--categories", source, *SMALL)
        assert done.returncode == 0, done.stderr
    plans = [json.loads((tmp_path / name / "plan.json").read_text()) for name in asked]
    assert plans[0]["digest"] == plans[1]["digest"]
    assert plans[0]["origin"]["seed"] == 1
    assert plans[1]["origin"] == {"folder": "csv"}
    again = synthgen_here("fractal", "--out", tmp_path / "searched", "--categories", 2, *SMALL)
    assert again.returncode == 0
    assert "search: " not in again.stderr  # they stand in the plan


def test_without_n_all_images_there_are_get_planned(tmp_path: Path, synthgen_here: Command, categories: Path) -> None:
    style = ("--draw", "point_gray", "--size", 20, "--points", 100, "--workers", 1)
    done = synthgen_here("fractal", "--out", tmp_path / "set", "--categories", categories, *style)
    assert done.returncode == 0, done.stderr
    assert json.loads(synthgen_here("status", tmp_path / "set", "--json").stdout)["n_done"] == 500


def test_the_table_of_a_suite_is_given_as_json_too() -> None:
    command = [installed("evaluate"), "plan", str(SUITE), "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    arms = [arm["arm"] for arm in json.loads(answer.stdout)["arms"]]
    assert arms[:4] == ["scratch", "natural", "fractals", "diffusion"]


def test_contracting_systems_are_sampled_on_request(tmp_path: Path, synthgen_here: Command) -> None:
    done = synthgen_here("fractal", "--out", tmp_path / "set", "--categories", 3, "--sampling", "svd", *SMALL)
    assert done.returncode == 0, done.stderr
    plan = json.loads((tmp_path / "set" / "plan.json").read_text())
    assert plan["origin"] == {"categories": 3, "seed": 1, "sampling": "svd"}
    assert [category["rows"] for category in plan["content"]["categories"]] == [
        [[*row, p] for row, p in zip(category.ifs.maps.tolist(), category.ifs.probs.tolist(), strict=True)]
        for category in sample_svd(3, seed=1)
    ]
    same = synthgen_here("fractal", "--out", tmp_path / "set", *SMALL)  # what is not given is the set's own
    assert same.returncode == 0, same.stderr
    published = ("--categories", 3, "--sampling", "published")
    other = synthgen_here("fractal", "--out", tmp_path / "set", *published, *SMALL)
    assert other.returncode == 2
    assert "made by another plan" in other.stderr


def test_an_unknown_sampling_is_refused_in_one_line(tmp_path: Path, synthgen_here: Command, categories: Path) -> None:
    unknown = synthgen_here("fractal-search", "--out", tmp_path / "csv", "--sampling", "dice")
    assert (unknown.returncode, unknown.stderr) == (2, "synthgen: sampling 'dice' is not one of published, svd\n")
    both = synthgen_here("fractal", "--out", tmp_path / "set", "--categories", categories, "--sampling", "svd")
    assert both.returncode == 2
    assert "give a number of categories" in both.stderr
    assert not (tmp_path / "csv").exists()
    assert not (tmp_path / "set").exists()


def test_a_full_disk_is_one_line_that_says_what_to_do() -> None:
    program = (
        "import typer; from synthgen import cli\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def work() -> None: open('/dev/full', 'wb', buffering=0).write(b'x')\n"
        "raise SystemExit(cli.run(app, 'work', ()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    said = "work: No space left on device; what is finished is kept: free some space and run again\n"
    assert (done.returncode, done.stderr) == (2, said)
