from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from test_evaluate_compare import compared, fake_runs, set_status

from synthgen_evaluate.compare import compare
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.load import load_runs
from synthgen_evaluate.report import draw_scatter, write_report

HOSTILE = "<script>alert(1)</script>"
FILES = [
    "comparison.json",
    "figures/scatter.pdf",
    "figures/scatter.png",
    "figures/scatter.svg",
    "index.html",
    "tables/runs.csv",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    return fake_runs(path, {"scratch": 0.3, HOSTILE: 0.5, r'$\frac{_"a" & 日本': 0.6})


@pytest.fixture(scope="module")
def report(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(compared(runs), tmp_path_factory.mktemp("out") / "report", command="evaluate compare runs")


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_the_page_opens_without_errors_requests_or_scripts(report: Path, browser) -> None:  # type: ignore[no-untyped-def]
    from selenium.common.exceptions import NoAlertPresentException

    browser.get_log("performance")
    browser.get(report.as_uri())
    with pytest.raises(NoAlertPresentException):
        _ = browser.switch_to.alert
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    urls = {s["request"]["url"] for s in sent if not s["documentURL"].startswith("chrome:")}  # the browser's first tab
    assert {url for url in urls if not url.startswith("data:")} == {report.as_uri()}
    assert browser.execute_script("return document.scripts.length") == 0
    text = browser.execute_script("return document.body.innerText")
    assert HOSTILE in text
    svg = browser.execute_script("return [...document.querySelectorAll('svg text')].map(t => t.textContent.trim())")
    assert "ID macro-F1 (%), split id_test, logit scale" in svg
    assert "OOD macro-F1 (%), split test, logit scale" in svg
    assert HOSTILE in svg
    assert "scratch (baseline)" in svg


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrast_is_at_least_four_and_a_half(report: Path, browser, scheme: str) -> None:  # type: ignore[no-untyped-def]
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.get(report.as_uri())
    least = browser.execute_script(
        """
        const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number);
        const lum = c => rgb(c).slice(0, 3).map(v => v / 255)
          .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
          .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const behind = e => { for (; e; e = e.parentElement) {
          const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] !== 0) return c; } return "rgb(255,255,255)"; };
        return Math.min(...[...document.querySelectorAll("body *")]
          .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
          .map(e => { const s = getComputedStyle(e);
            const [a, b] = [lum(e.closest("svg") ? (s.fill === "none" ? "rgb(0,0,0)" : s.fill) : s.color),
                            lum(behind(e))].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05); }));
        """
    )
    assert least >= 4.5


def test_the_page_does_not_scroll_sideways_on_a_phone(report: Path, browser) -> None:  # type: ignore[no-untyped-def]
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(report.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360


def test_the_page_says_what_it_must(report: Path) -> None:
    page = report.read_text()
    for sentence in compared_summary(report):
        assert sentence.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;") in page
    assert page.count("<table") == page.count("<caption") == 3
    assert not re.findall(r"<th(?![^>]*scope=)[ >]", page)
    for term in ("ID, id_test", "OOD, test", "F1, macro-F1", "Logit", "OLS", "ER", "WILDS", "sd", "Files"):
        assert f"<dt>{term}" in page
    assert "cannot tell: 4 paired runs cannot reach p &lt; 0.025" in page
    assert "evaluate compare runs" in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=[\"'](https?:)?//", page)


def compared_summary(report: Path) -> list[str]:
    summary: list[str] = json.loads((report.parent / "comparison.json").read_text())["comparison"]["summary"]
    assert len(summary) == 3
    return summary


def test_the_same_comparison_gives_the_same_bytes(runs: Path, report: Path, tmp_path: Path) -> None:
    again = write_report(compared(runs), tmp_path / "again", command="evaluate compare runs")
    first, second = files(report.parent), files(again.parent)
    assert list(first) == list(second) == FILES
    assert [name for name in first if first[name] != second[name]] == []


def test_the_table_has_every_run_and_epoch(report: Path) -> None:
    with (report.parent / "tables" / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 4 * 3
    assert sum(row["final"] == "True" for row in rows) == 12
    record = json.loads((report.parent / "comparison.json").read_text())["comparison"]
    assert float(rows[0]["ood_macro_f1"]) == record["rows"][0]["ood"]["macro_f1"]


def test_an_earlier_report_is_replaced_and_nothing_else_is(runs: Path, tmp_path: Path) -> None:
    comparison = compared(runs)
    out = tmp_path / "report"
    out.mkdir()
    write_report(comparison, out)
    write_report(comparison, out)
    assert list(files(out)) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(EvaluateError, match=r"holds notes.txt, which is not the report's"):
        write_report(comparison, out)
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("content", [None, "not json", "[1]", '{"kind": "other"}'])
def test_what_is_not_a_report_is_left_alone(runs: Path, tmp_path: Path, content: str | None) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.tex").write_text("x")
    if content is not None:
        (out / "comparison.json").write_text(content)
    with pytest.raises(EvaluateError, match="exists and is not a report"):
        write_report(compared(runs), out)
    assert (out / "chapter.tex").exists()


def test_one_run_alone_makes_a_report(tmp_path: Path) -> None:
    fake_runs(tmp_path / "runs", {"scratch": 0.3}, architectures=("resnet18",), seeds=(0,), epochs=(3,))
    page = write_report(compared(tmp_path / "runs"), tmp_path / "report").read_text()
    assert "There is nothing to compare yet" in page


def test_unfinished_runs_and_an_unfinished_baseline_are_shown(tmp_path: Path) -> None:
    fake_runs(tmp_path / "runs", {"scratch": 0.3, "fractals": 0.5}, architectures=("resnet18",))
    for seed in (0, 1):
        set_status(tmp_path / "runs", f"00000000{seed:08x}", "failed")
    page = write_report(compared(tmp_path / "runs"), tmp_path / "report").read_text()
    assert "2 planned runs not in the numbers" in page
    assert "scratch / resnet18 / seed 1 (0000000000000001): failed" in page


@pytest.mark.parametrize("scale", ["logit", "probit", "linear"])
@pytest.mark.parametrize("skills", [{"a": 0.0, "b": 1.0}, {"a": 0.97}, {"a": 0.04, "_b": 0.06}])
def test_the_scatter_labels_its_axes_at_any_level(tmp_path: Path, skills: dict[str, float], scale: str) -> None:
    fake_runs(tmp_path, skills, architectures=("resnet18",))
    svg = draw_scatter(compare(load_runs([tmp_path]), scale=scale))["svg"].decode()  # type: ignore[arg-type]
    labels = re.findall(r"<text[^>]*>([\d.]+)</text>", svg)
    assert len(labels) >= 6
    assert f"{scale} scale" in svg
    assert all(f">{name}" in svg for name in skills)
