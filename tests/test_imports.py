"""Who may import whom, what the project's files may not name, and what a built wheel installs."""

import ast
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"fractaldb", "synthgen", "synthgen_evaluate", "evaluate"}
LEARNING = {"torch", "torchvision", "diffusers", "transformers", "accelerate"}


def imports(path: Path, *, at_import: bool = False) -> set[str]:
    """Top-level names of the absolute imports of a file; with ``at_import`` those that its import runs."""
    return {name.partition(".")[0] for name in _imports(ast.parse(path.read_text()), at_import)}


def _imports(node: ast.AST, at_import: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.level == 0:
            yield child.module or ""
        elif at_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from _imports(ast.Module(child.orelse, []), at_import)
        else:
            yield from _imports(child, at_import)


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


def who(package: str, names: set[str], *, at_import: bool = False) -> set[str]:
    """The files of a package that import one of ``names``."""
    return {str(path.relative_to(ROOT)) for path in files(package) if imports(path, at_import=at_import) & names}


def test_the_reader_of_imports_sees_them_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "from __future__ import annotations\nimport a.b, c as d\nfrom e.f import g\nfrom . import h\n"
        "if TYPE_CHECKING:\n    import i\nelse:\n    import j\n"
        "try:\n    import k\nexcept ImportError:\n    pass\n"
        "class L:\n    import m\ndef f():\n    from n.o import p\n"
    )
    now = {"__future__", "a", "c", "e", "j", "k", "m"}
    assert imports(path, at_import=True) == now
    assert imports(path) == now | {"n"}


def test_fractaldb_imports_nothing_of_ours_and_no_torch_when_imported() -> None:
    assert who("fractaldb", OURS - {"fractaldb"}) == set()
    assert who("fractaldb", LEARNING, at_import=True) == set()


def test_in_synthgen_one_file_imports_fractaldb_and_one_imports_torch_besides_the_training() -> None:
    assert who("synthgen", {"fractaldb"}) == {"synthgen/kinds/fractaldb/render.py"}
    tiny = "synthgen/kinds/diffusion/tiny"
    training = {str(path.relative_to(ROOT)) for path in files(tiny)} - {f"{tiny}/__init__.py"}
    assert who("synthgen", LEARNING) - training == {"synthgen/kinds/diffusion/sampler.py"}
    assert who(tiny, LEARNING) == training


def test_synthgen_never_imports_the_harness() -> None:
    assert who("synthgen", {"evaluate", "synthgen_evaluate"}) == set()


def test_the_harness_imports_itself_by_relative_imports_alone() -> None:
    assert who("evaluate", {"evaluate", "synthgen_evaluate"}) == set()


def test_no_plain_import_of_a_package_of_ours_loads_torch() -> None:
    ours = (
        "fractaldb.render, fractaldb.search, synthgen.dataset.generate, synthgen.kinds.diffusion.request,"
        " synthgen.kinds.diffusion.render, synthgen.kinds.diffusion.tiny"
    )
    code = f"import sys, {ours}, synthgen_evaluate; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert LEARNING.isdisjoint(loaded)
    assert "evaluate" not in loaded  # that name is Hugging Face's


def tracked() -> list[Path]:
    """Files of the project under version control, or that would be."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_the_host_of_a_package_registry() -> None:
    domain = "".join(("pypi", ".", "org"))
    hosts = [domain, domain.replace("pypi", "pythonhosted"), "download." + "pytorch.org", "conda." + "anaconda.org"]
    naming = [str(path.relative_to(ROOT)) for path in tracked() for host in hosts if host.encode() in path.read_bytes()]
    assert naming == []
    assert not [path for path in tracked() if path.name in ("uv.lock", "poetry.lock", "Pipfile.lock")]


@pytest.mark.slow
def test_a_wheel_installs_our_three_packages_with_their_data_and_no_evaluate(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    pytest.importorskip("build")
    source = tmp_path / "source"
    for path in tracked():  # a copy, for building leaves folders behind
        (source / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, source / path.relative_to(ROOT))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        commands = archive.read(entry_points).decode()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"fractaldb", "synthgen", "synthgen_evaluate"}
    assert "synthgen = synthgen.cli:main" in commands
    assert "evaluate = synthgen_evaluate.cli:main" in commands
    for folder, package in (("fractaldb", "fractaldb"), ("synthgen", "synthgen"), ("evaluate", "synthgen_evaluate")):
        tiny = ("**/tiny/model/*.json", "**/tiny/model/*/*")
        endings = ("**/*.py", "suites/*.toml", "**/*.j2", "**/*.js", "taxonomies/*.tsv", *tiny)
        wanted = {path for ending in endings for path in (ROOT / folder).glob(ending)}
        wanted -= {ROOT / "evaluate/taxonomies/from_wordnet.py"}  # which made what is installed
        missing = {f"{package}/{path.relative_to(ROOT / folder)}" for path in wanted} - set(names)
        assert missing == set()
    assert {
        "synthgen_evaluate/reporting/report.html.j2",
        "synthgen/publishing/card.md.j2",
        "synthgen_evaluate/suites/miniature.toml",
    } <= set(names)
