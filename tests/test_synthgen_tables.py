"""Tables that are read from memory: by one thread, as Arrow's threads may outlive the memory of a process that ends."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READS = {"read", "read_row_group", "read_row_groups", "read_table", "iter_batches", "to_batches", "to_table"}
MODULES = sorted(path for name in ("fractaldb", "synthgen", "evaluate") for path in (ROOT / name).rglob("*.py"))


def threaded_reads(code: str) -> list[str]:
    """Calls that read a table of pyarrow's without use_threads=False, of code that imports pyarrow.parquet."""
    tree = ast.parse(code)
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    if not {"pyarrow.parquet", "pyarrow.dataset"} & set(names):
        return []
    functions: list[ast.AST] = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)] or [tree]
    return [found for function in functions for found in _threaded_reads_of(function)]


def _threaded_reads_of(function: ast.AST) -> list[str]:
    opened = {name for node in ast.walk(function) for name in _files_of(node)}
    return [
        ast.unparse(node)
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in READS
        and ast.unparse(node.func.value) in opened | {"pq", "pyarrow.parquet"}
        and not any(word.arg == "use_threads" and ast.unparse(word.value) == "False" for word in node.keywords)
    ]


def _files_of(node: ast.AST) -> list[str]:
    """The names that a statement gives to opened Parquet files."""
    if isinstance(node, ast.With):
        pairs = [(item.context_expr, item.optional_vars) for item in node.items]
    elif isinstance(node, ast.Assign):
        pairs = [(node.value, node.targets[0])]
    else:
        return []
    return [ast.unparse(name) for value, name in pairs if name and "ParquetFile(" in ast.unparse(value)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_table_is_read_by_one_thread(path: Path) -> None:
    assert threaded_reads(path.read_text()) == []


def test_a_threaded_read_is_noticed() -> None:
    head = "import pyarrow.parquet as pq\n"
    with_file = "with pq.ParquetFile(source) as file:\n    table = file.read({})\n"
    assert threaded_reads(head + with_file.format("columns=columns")) == ["file.read(columns=columns)"]
    assert threaded_reads(head + with_file.format("use_threads=True")) == ["file.read(use_threads=True)"]
    assert threaded_reads(head + with_file.format("use_threads=False")) == []
    assert threaded_reads(head + "file = pq.ParquetFile(source)\nrows = file.iter_batches(9)") == [
        "file.iter_batches(9)"
    ]
    assert threaded_reads(head + "pq.read_table(source)") == ["pq.read_table(source)"]


def test_the_readers_of_tables_are_seen() -> None:
    readers = [path for path in MODULES if "ParquetFile(" in path.read_text()]
    assert {path.parent.name for path in readers} >= {"dataset", "design", "evaluate"}
