"""docs/cluster.md, what README has of it, and the examples: what is shown is taken, and works as far as it can here."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from synthgen.cli import app as synthgen_app
from synthgen.dataset.manifest import read_manifest
from synthgen_evaluate.cli import app as evaluate_app

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs/examples"
PAGE = (ROOT / "docs/cluster.md").read_text()
README = (ROOT / "README.md").read_text()
LINES = [
    line
    for page in (PAGE, README)
    for block in re.findall(r"^```\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if page is PAGE or line.startswith(("accelerate ", "python docs/", "sky "))
]
COMMANDS = {name: typer.main.get_command(app) for name, app in (("synthgen", synthgen_app), ("evaluate", evaluate_app))}
SMALL = "--categories 2 --n 160 --size 40 --points 1000 --shard-size 20 --workers 1"


def command(line: str) -> list[str]:
    """The words of synthgen's or evaluate's own command in a line; none where it has none."""
    line = line.replace("-m synthgen_evaluate", "evaluate")
    found = re.search(r"\b(synthgen|evaluate) (fractal|sd|status|run) .*", line)
    return shlex.split(found[0]) if found else []


@pytest.mark.parametrize("line", [line for line in LINES if command(line)])
def test_every_command_shown_is_one_that_the_program_takes(line: str) -> None:
    program, name, *arguments = command(line)
    leaf: Any = COMMANDS[program]
    leaf.commands[name].make_context(name, arguments)  # raises where an option or argument does not exist


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("accelerate ")])
def test_every_launch_is_one_that_accelerate_takes(line: str) -> None:
    from accelerate.commands.launch import launch_command_parser

    asked = launch_command_parser().parse_args(shlex.split(line)[2:])
    assert (asked.multi_gpu, asked.module, asked.training_script) == (True, True, "synthgen_evaluate")
    assert asked.num_machines in (None, 1) or asked.main_process_ip


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"\]\((?!http)([^)]+)\)", PAGE)) | {
        word.removeprefix("docs/") for line in LINES for word in line.split() if word.startswith("docs/")
    }
    assert {Path(name).name for name in named} == {path.name for path in EXAMPLES.iterdir()}
    for name in named:
        assert (ROOT / "docs" / name).exists(), name


def shell(script: str, share: str, variables: dict[str, str], out: Path) -> None:
    """Run a scheduler's script in a shell, with a small set in place of its own."""
    drawn = re.sub(r"synthgen (sd|fractal) .*?(?=--task-index)", f"synthgen fractal {SMALL} --out {out} ", script)
    assert drawn.count(SMALL) == 1
    drawn = drawn.replace("--num-tasks 16", f"--num-tasks {share}")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-euc", drawn],
        env={**os.environ, **variables, "PATH": path},
        check=True,
        capture_output=True,
        timeout=60,
    )


def slurm_script() -> str:
    return (EXAMPLES / "slurm.sh").read_text().replace("\\\n", "")


def kubernetes_script() -> str:
    job = yaml.safe_load((EXAMPLES / "kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"], job["spec"]["completionMode"]) == ("batch/v1", "Job", "Indexed")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["sh", "-c"]
    (script,) = container["args"]
    assert f"--num-tasks {job['spec']['completions']}" in script
    return str(script)


@pytest.mark.parametrize(
    ("script", "variable"),
    [
        pytest.param(slurm_script, "SLURM_ARRAY_TASK_ID", id="slurm"),
        pytest.param(kubernetes_script, "JOB_COMPLETION_INDEX", id="kubernetes", marks=pytest.mark.slow),
    ],
)
def test_the_tasks_of_an_array_do_a_set_between_them(tmp_path: Path, script: Any, variable: str) -> None:
    missing = []
    for index in range(3):
        shell(script(), "3", {variable: str(index)}, tmp_path / "set")
        missing.append([span.index for span in read_manifest(tmp_path / "set").missing])
    assert missing == [[1, 2, 4, 5, 7], [2, 5], []]
    assert (tmp_path / "set/manifest.json").exists()


def test_the_commands_of_the_examples_are_ones_that_the_program_takes() -> None:
    sky = yaml.safe_load((EXAMPLES / "skypilot.yaml").read_text())
    assert set(sky) == {"name", "num_nodes", "workdir", "resources", "envs", "setup", "run"}
    for script in (slurm_script(), kubernetes_script(), sky["run"]):
        test_every_command_shown_is_one_that_the_program_takes(re.sub(r'"\$\w+"', "1", script.split("exec ")[-1]))


@pytest.mark.slow
def test_the_submitit_example_draws_a_set(tmp_path: Path) -> None:
    program = [sys.executable, str(EXAMPLES / "submitit_fractals.py"), "set", "--cluster", "local", *shlex.split(SMALL)]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "set: 16 jobs done\n"
    assert read_manifest(tmp_path / "set").complete
