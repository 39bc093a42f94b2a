"""Who may import whom, what the project's files may not name, and what a built wheel installs."""

import ast
import re
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


PLACES = {"Path", "PurePath", "PosixPath", "UPath"}
KINDS_OF_PLACES = {f"synthgen.storage.{name}" for name in ("folder", "object_store", "hub", "hub_outlet")} | {"upath"}
TEXTS = {"synthgen/engines/cluster.py", "synthgen/common/masking.py"}  # an address of Ray; how a text is printed


def asks_what_kind_of_place(tree: ast.AST) -> Iterator[str]:
    """Where code asks whether a place is a folder or a URL, by its type, its text or the store that it is of."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name("isinstance" | "issubclass"), args=[_, types]):
                asks = any(part.rpartition(".")[2] in PLACES for part in re.findall(r"[\w.]+", ast.unparse(types)))
            case ast.MatchClass(cls=kind):
                asks = ast.unparse(kind).rpartition(".")[2] in PLACES
            case ast.Compare():
                asks = "'://'" in ast.unparse(node)
            case ast.Import(names=names):
                asks = any(alias.name.partition(".")[0] == "upath" for alias in names)
            case ast.ImportFrom(module=module, names=names):
                named = {f"{module}.{alias.name}" for alias in names} | {module}
                asks = not named.isdisjoint(KINDS_OF_PLACES)
            case _:
                asks = False
        if asks:
            yield ast.unparse(node)


def test_the_reader_of_questions_sees_them_in_every_form() -> None:
    lines = (
        "isinstance(x, Path)",
        "isinstance(x, str | pathlib.Path)",
        "isinstance(x, (str, UPath))",
        "'://' in str(x)",
        "from synthgen.storage.folder import FOLDERS",
        "from synthgen.storage import hub",
        "from upath import UPath",
        "import upath",
    )
    assert [len(list(asks_what_kind_of_place(ast.parse(line)))) for line in lines] == [1] * len(lines)
    assert list(asks_what_kind_of_place(ast.parse("isinstance(x, str); y = Path(x)"))) == []


def test_outside_storage_nothing_asks_whether_a_place_is_a_folder_or_a_url() -> None:
    asking = {
        f"{path.relative_to(ROOT)}: {question}"
        for path in (*files("synthgen"), *files("evaluate"))
        if not path.is_relative_to(ROOT / "synthgen/storage")
        for question in asks_what_kind_of_place(ast.parse(path.read_text()))
    }
    assert {line for line in asking if line.partition(":")[0] not in TEXTS} == set()


def test_storage_imports_nothing_of_ours_but_what_is_common() -> None:
    for path in files("synthgen/storage"):
        ours = {name for name in _imports(ast.parse(path.read_text()), False) if name.partition(".")[0] in OURS}
        assert {name for name in ours if not name.startswith(("synthgen.storage", "synthgen.common"))} == set(), path


def test_synthgen_never_imports_the_harness() -> None:
    assert who("synthgen", {"evaluate", "synthgen_evaluate"}) == set()


def test_the_harness_imports_itself_by_relative_imports_alone() -> None:
    assert who("evaluate", {"evaluate", "synthgen_evaluate"}) == set()


def test_no_plain_import_of_a_package_of_ours_loads_torch() -> None:
    ours = (
        "fractaldb.render, fractaldb.search, synthgen.engines.generate, synthgen.kinds.diffusion.request,"
        " synthgen.kinds.diffusion.render, synthgen.kinds.diffusion.tiny"
    )
    code = f"import sys, {ours}, synthgen_evaluate; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert LEARNING.isdisjoint(loaded)
    assert "evaluate" not in loaded  # that name is Hugging Face's


def test_help_loads_no_records_and_status_no_client_of_the_web() -> None:
    help_loads = loaded_by("import synthgen.cli")
    assert {"pydantic", "numpy", "pyarrow"}.isdisjoint(help_loads)
    assert {"http.client", "ssl", "fsspec", "huggingface_hub"}.isdisjoint(loaded_by("import synthgen.engines.watch"))


def loaded_by(code: str) -> set[str]:
    """The modules that are loaded after some code ran in a process of its own."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def tracked() -> list[Path]:
    """Files of the project under version control, or that would be."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize(
    "code",
    [
        "from synthgen.engines import with_request",
        "from synthgen.engines import Request",
        "import synthgen_evaluate.cli",
    ],
)
def test_what_is_loaded_when_asked_for_loads_first_in_a_process(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


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
    assert "synthgen = synthgen.__main__:main" in commands
    assert "evaluate = synthgen_evaluate.__main__:main" in commands
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
