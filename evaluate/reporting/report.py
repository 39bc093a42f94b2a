"""Comparison -> a directory with a web page, figures and tables.

``index.html`` is self-contained; the same comparison gives the same bytes with the same
versions of the libraries, on the same kind of machine.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from synthgen.common.errors import SynthgenError
from synthgen.common.printing import counted, printable
from synthgen.storage.reading import read_record

from ..analysis.results import Comparison
from ..errors import EvaluateError
from .answer import answer
from .effect_tables import with_intervals
from .figure_style import looks, marked_epoch
from .figures import draw_figures
from .glossary import linked
from .report_data import scatter_data
from .report_tables import table_files, tables
from .score_tables import is_published, when
from .stored import FORMAT, stored

KIND = "synthgen comparison"
OWN = re.compile(r"index\.html|comparison\.json|figures/[\w-]+\.(svg|pdf|png)|tables/[\w-]+\.(csv|md|tex)")
LIBRARIES = ("synthgen", "numpy", "scipy", "statsmodels", "matplotlib")


def write_report(comparison: Comparison, out: Path, *, command: str | None = None) -> Path:
    """Write the report to the directory ``out``, whole or not at all, and return the path of its page.

    ``command`` is shown as the command that made the report, by default the command line of this
    process. An earlier report at ``out`` is replaced. Raises EvaluateError if ``out`` is anything
    else, or holds files that are not part of a report.
    """
    out = Path(os.path.realpath(out))
    _check_replaceable(out)
    content = stored(comparison)
    unverified = content.pop("unverified")  # the digest is of the numbers, which this says nothing about
    del content["words"]  # nor do these say anything about them
    record = {
        "comparison": content,  # the content of the report, as below
        "unverified": unverified,  # a sentence if predictions have no checksums that would reveal an edit
        **_provenance(command),
        "digest": hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16],  # digest of the comparison
    }
    figures = draw_figures(comparison)
    files = {f"figures/{name}.{kind}": data for name, kinds in figures.items() for kind, data in kinds.items()}
    for table in tables(comparison).values():
        files |= {f"tables/{name}": data for name, data in table_files(table).items()}
    files["index.html"] = _page(comparison, {name: kinds["svg"].decode() for name, kinds in figures.items()}, record)
    record = {
        "kind": KIND,  # the kind of file
        "format": FORMAT,  # version of the file's format
        "files": [*files, "comparison.json"],  # names of all files of the report
        **record,
    }
    files["comparison.json"] = (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()
    try:
        _write_directory(out, files)
    except OSError as error:
        raise EvaluateError(f"{out}: the report cannot be written ({error.strerror or error})") from None
    return out / "index.html"


def _provenance(command: str | None) -> dict[str, Any]:
    """The software, machine and command that made the report."""
    versions = {"Python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if command is None else command,  # command line
        "versions": versions,  # versions of Python and libraries
        "machine": f"{platform.system()} {platform.machine()}",  # machine that made it
    }


def _page(comparison: Comparison, figures: Mapping[str, str], record: Mapping[str, Any]) -> bytes:
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = resources.files(__package__).joinpath("report.js").read_text(encoding="utf-8")
    page = environment.get_template("report.html.j2").render(
        c=comparison,
        answer=answer(comparison),
        figures={name: Markup(_inline(name, svg)) for name, svg in figures.items()},  # matplotlib escaped the names
        tables=tables(comparison),
        looks=looks(comparison),
        data=scatter_data(comparison),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        factors=list(dict.fromkeys(s.arm.factor for s in comparison.arms if s.arm.name != comparison.baseline)),
        architectures=list(dict.fromkeys(row.architecture for row in comparison.rows)),
        published=all(map(is_published, comparison.rows)),
        when=when(comparison),
        marked=marked_epoch(comparison),
        several_epochs=any(not row.final for row in comparison.rows),
        intervals=with_intervals(comparison.effects),
        margin=counted(comparison.margin, "point", form="g"),
        declared=_declared(comparison),
        **record,
    )
    return linked(page).encode()


def _declared(comparison: Comparison) -> str:
    """When the margin was chosen."""
    if any(what.startswith("margin ") for what in comparison.chosen_after):
        return "chosen after the runs"
    return "the default" if all(map(is_published, comparison.rows)) else "declared in advance"


def _shown(value: object) -> object:
    """A value as the page shows it: names may hold characters that HTML and XML do not allow."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _inline(name: str, svg: str) -> str:
    """An SVG file as part of a page that holds others: with its own ids and without a style for the whole page."""
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return re.sub(r"<[^<>]+>", lambda tag: re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", tag[0]), svg)


def _check_replaceable(out: Path) -> None:
    """Raise EvaluateError unless ``out`` is absent, empty or an earlier report."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    record: dict[str, Any] = {}
    with contextlib.suppress(OSError, SynthgenError):
        record = read_record(out / "comparison.json", dict[str, Any])
    files = record.get("files", [])
    if record.get("kind") != KIND or not isinstance(files, list):
        raise EvaluateError(f"{out}: exists and is not a report; choose another path")
    own = {name for name in files if isinstance(name, str) and OWN.fullmatch(name)}
    foreign = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_symlink() or not path.is_dir()} - own
    if foreign:
        raise EvaluateError(
            f"{out}: holds {sorted(foreign)[0]}, which is not part of the report; move it or choose another path"
        )


def _write_directory(out: Path, files: dict[str, bytes]) -> None:
    """Write all files beside ``out``, then move the whole directory into its place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        (work / "new").mkdir()
        for name, data in files.items():
            path = work / "new" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        if out.exists():
            out.rename(work / "old")
        try:
            os.rename(work / "new", out)
        except OSError:
            if (work / "old").exists():
                (work / "old").rename(out)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
