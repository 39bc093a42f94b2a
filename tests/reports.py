"""What the tests of reports share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from comparisons import made

from synthgen_evaluate.analysis.results import Comparison
from synthgen_evaluate.reporting import figures

SCRIPT = "<script>alert(1)</script>"


HOSTILE = {
    "scratch": ("source", "none", 0.2),
    SCRIPT: ("</script><b>", "=cmd()", 0.3),
    "\"quotes\" 'and' </script>": ("</script><b>", "|", 0.35),
    "x" * 150: ("quantity", r"\input{x}", 0.4),
    "צילומים": ("quantity", "*b*", 0.45),
    "日本の写真": ("quantity", "<i>", 0.5),
    "=cmd()|'/C calc'!A0": ("granularity", "@x", 0.55),
    r"\input{x}$\frac{_": ("granularity", "-1", 0.6),
}


FILES = {
    "comparison.json",
    "index.html",
    *(
        f"figures/{name}.{kind}"
        for name in ("scatter", "overview", "epochs", "factors", "forest", "forest-reference")
        for kind in ("svg", "pdf", "png")
    ),
    *(
        f"tables/{name}.{kind}"
        for name in [
            "arms",
            "effects",
            "epochs",
            "checks",
            "effects-reference",
            "checks-reference",
            "ordered",
            "fit",
            "components",
            "sizes",
            "worst",
            "locations",
            "runs",
        ]
        for kind in ("csv", "md", "tex")
    ),
}


@contextmanager
def only_svg() -> Iterator[None]:
    """Figures without the other formats, which take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "NO_DATE", {"svg": figures.NO_DATE["svg"]})
        yield


def alone() -> Comparison:
    return made({"scratch": ("source", "none", 0.3)}, architectures=["resnet18"], seeds=[0], epochs=[3])


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}
