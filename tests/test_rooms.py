"""Who may import whom, by the table in docs/architecture.md, and that nothing asks which kind of images a set has."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import synthgen
from synthgen.kinds.known import kinds

ROOT = Path(__file__).parents[1]
PACKAGES = {"fractaldb": "fractaldb", "synthgen": "synthgen", "evaluate": "synthgen_evaluate"}  # by their folders
ROW = re.compile(r"^\| `([\w.]+)` \|(.*)\|$", re.MULTILINE)
ROOMS = {
    room: set(re.findall(r"`([\w.]+)`", others))
    for room, others in ROW.findall((ROOT / "docs/architecture.md").read_text())
    if room.partition(".")[0] in PACKAGES.values()
}
PUBLIC = {"synthgen", "synthgen.engines"}  # whose own names others may import


def name_of(path: Path) -> str:
    """The name under which a file of ours is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACKAGES[parts[0]], *parts[1:]]).removesuffix(".__init__")


MODULES = {name_of(path): path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")}


def imported(text: str, module: str, *, is_package: bool = False) -> set[str]:
    """All that a module imports, wherever in it, but for its types alone: full names, of what is in a module too."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    return set(_imported(ast.parse(text), package))


def _imported(node: ast.AST, package: list[str]) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = package[: len(package) + 1 - child.level] if child.level else []
            stem = ".".join([*base, *filter(None, [child.module])])
            yield from (f"{stem}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from _imported(ast.Module(child.orelse, []), package)
        else:
            yield from _imported(child, package)


@cache
def edges(module: str) -> frozenset[str]:
    """The modules of ours that a module imports."""
    path = MODULES[module]
    names = imported(path.read_text(), module, is_package=path.name == "__init__.py")
    return frozenset({name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES.keys())


def room_of(module: str) -> str | None:
    """The longest room that a module's name begins with; None at the top of a package."""
    fitting = [room for room in ROOMS if f"{module}.".startswith(f"{room}.")]
    return max(fitting, key=len, default=None)


def test_the_reader_sees_imports_wherever_they_are_but_not_those_for_types() -> None:
    text = (
        "import a.b\nfrom c import d, e\nfrom . import f\nfrom ..g import h\ndef i():\n    from .j import k\n"
        "if TYPE_CHECKING:\n    from l import m\nelse:\n    import n\n"
    )
    found = {"a.b", "c.d", "c.e", "x.y.f", "x.g.h", "x.y.j.k", "n"}
    assert imported(text, "x.y.z") == found
    assert imported("from . import f", "x.y", is_package=True) == {"x.y.f"}


def test_the_table_names_rooms_that_exist_and_every_folder_is_in_one() -> None:
    assert {name for names in ROOMS.values() for name in names} <= MODULES.keys()
    assert ROOMS.keys() <= MODULES.keys()
    outside = {module for module in MODULES if room_of(module) is None}
    assert {module for module in outside if module.count(".") > 1} == {"synthgen_evaluate.taxonomies.from_wordnet"}


@pytest.mark.parametrize("module", sorted(module for module in MODULES if room_of(module)))
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    room = room_of(module)
    assert room
    for other in edges(module):
        theirs = other if other in PUBLIC else room_of(other)
        assert theirs == room or theirs in ROOMS[room] or room_of(other) == room, f"{module} imports {other}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {module: set(edges(module)) - {module} for module in MODULES}
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert left == {}


def test_the_harness_takes_few_names_of_synthgen_and_nothing_that_lies_within() -> None:
    names = {
        name
        for module, path in MODULES.items()
        if module.startswith("synthgen_evaluate")
        for name in imported(path.read_text(), module, is_package=path.name == "__init__.py")
        if name.startswith("synthgen.") and not name.startswith(("synthgen.common.", "synthgen.storage."))
    }
    of_engines = {name for name in names if name.startswith("synthgen.engines.")}
    assert of_engines == {"synthgen.engines.Request", "synthgen.engines.with_request"}
    public = {name.removeprefix("synthgen.") for name in names - of_engines}
    assert public == set(synthgen._PUBLIC)
    assert len(public) <= 6


def questions(tree: ast.AST, names: set[str]) -> Iterator[str]:
    """Where code asks which kind of images something is: by a class or a package of a kind, or by a kind's name."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                asks = name in {f"{kind}Content" for kind in ("Fractal", "Diffusion")}
            case ast.ImportFrom(module=str(module)):
                asks = module.startswith(("synthgen.kinds.fractaldb", "synthgen.kinds.diffusion"))
            case ast.Compare(left=left, comparators=others):
                values = [one.value for one in ast.walk(ast.Tuple([left, *others])) if isinstance(one, ast.Constant)]
                asks = not names.isdisjoint(value for value in values if isinstance(value, str))
            case ast.MatchValue(value=ast.Constant(value=str(value))):
                asks = value in names
            case _:
                asks = False
        if asks:
            yield ast.unparse(node)


def test_questions_for_the_kind_are_seen_in_every_form() -> None:
    for text in (
        "isinstance(x, FractalContent)",
        "content.DiffusionContent",
        "from synthgen.kinds.diffusion.content import Sampling",
        "plan.content.kind == 'fractal'",
        "x.kind in ('fractal', 'toy')",
        "match x.kind:\n    case 'fractal':\n        pass",
    ):
        assert list(questions(ast.parse(text), {"fractal"})), text
    assert list(questions(ast.parse("kind = plan.content.kind; kind == other"), {"fractal"})) == []


def test_outside_the_kinds_nothing_asks_which_kind_it_is() -> None:
    names = set(kinds())
    asking = {
        f"{path.relative_to(ROOT)}: {question}"
        for module, path in MODULES.items()
        if module.startswith("synthgen.") and not module.startswith("synthgen.kinds.")
        for question in questions(ast.parse(path.read_text()), names)
    }
    assert asking == set()
