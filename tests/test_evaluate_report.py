from __future__ import annotations

import csv
import html
import io
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comparisons import FACTORS, all_collapsed, few_arms, made, many_arms, published

from synthgen_evaluate.analysis.results import Comparison
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.metrics import Scores
from synthgen_evaluate.reporting.report import write_report
from synthgen_evaluate.reporting.report_data import scatter_data
from synthgen_evaluate.reporting.report_tables import table_files, tables, to_html

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
KEYS = {"right": "\ue014", "left": "\ue012", "end": "\ue010", "escape": "\ue00c"}  # as WebDriver spells them


def alone() -> Comparison:
    return made({"scratch": ("source", "none", 0.3)}, architectures=["resnet18"], seeds=[0], epochs=[3])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(made(), tmp_path_factory.mktemp("out") / "report", command="evaluate compare runs")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(made(HOSTILE), tmp_path_factory.mktemp("out") / "report", command=SCRIPT)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("out")
    made_of = {"published": published(), "alone": alone()}
    return {name: write_report(comparison, out / name) for name, comparison in made_of.items()}


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """The browser as it comes: light, wide, with scripts."""
    yield browser
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def find(page: Any, selector: str) -> list[Any]:
    elements: list[Any] = page.find_elements("css selector", selector)
    return elements


def visible(page: Any) -> list[str]:
    """The words of the points that are shown."""
    words: list[str] = page.execute_script(
        "return [...document.querySelectorAll('#plot .point')].filter(p => getComputedStyle(p).display !== 'none')"
        ".map(p => p.getAttribute('aria-label'))"
    )
    return words


def tip(page: Any) -> str | None:
    text: str | None = page.execute_script(
        "const tip = document.getElementById('tip'); return tip.hidden ? null : tip.innerText"
    )
    return text


def click(page: Any, selector: str) -> None:
    page.execute_script("document.querySelector(arguments[0]).click()", selector)


def opened(page: Any, report: Path) -> set[str]:
    """Open a page, and return what it asked for; it must print nothing and raise no dialog."""
    from selenium.common.exceptions import NoAlertPresentException

    page.get_log("performance")
    page.get(report.as_uri())
    with pytest.raises(NoAlertPresentException):
        _ = page.switch_to.alert
    assert page.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    urls = {s["request"]["url"] for s in sent if not s["documentURL"].startswith("chrome:")}  # the browser's first tab
    return {url for url in urls if not url.startswith("data:")}


def test_pages_open_without_errors_requests_or_dialogs(
    report: Path, hostile: Path, few: dict[str, Path], page: Any
) -> None:
    for path in (report, hostile, *few.values()):
        assert opened(page, path) == {path.as_uri()}
        assert page.execute_script("return document.scripts.length") == 2
        assert find(page, "#explorer")[0].is_displayed()
        assert not find(page, "#static")[0].is_displayed()


def test_hovering_shows_the_run(report: Path, page: Any) -> None:
    from selenium.webdriver import ActionChains

    page.get(report.as_uri())
    assert tip(page) is None
    for point in (find(page, "#plot .point")[-1], find(page, "#plot .point")[0]):
        ActionChains(page).move_to_element(point).perform()
        shown = tip(page)
        assert shown
        for field in ("Arm", "Architecture", "Seed", "Epoch", "ID macro-F1", "OOD macro-F1", "Effective robustness"):
            assert field in shown
        assert re.search(r"[+−]?\d+\.\d points", shown)
    ActionChains(page).move_to_element(find(page, "h1")[0]).perform()
    assert tip(page) is None


def test_the_keyboard_walks_along_the_points(report: Path, page: Any) -> None:
    page.get(report.as_uri())
    stops = find(page, "#plot [tabindex='0']")
    assert len(stops) == 1  # so that the tab key does not stop at every point
    page.execute_script("arguments[0].focus()", stops[0])
    seen = [tip(page)]
    for key in ("right", "right", "left", "end"):
        page.switch_to.active_element.send_keys(KEYS[key])
        seen.append(tip(page))
    assert None not in seen
    assert seen[0] != seen[1] == seen[3] != seen[2]
    ids = [float(re.search(r"ID macro-F1\s+([\d.]+)%", text or "")[1]) for text in seen]  # type: ignore[index]
    assert ids[0] <= ids[1] <= ids[2] <= ids[4]
    assert ids[4] == max(float(re.search(r"ID macro-F1 ([\d.]+)%", words)[1]) for words in visible(page))  # type: ignore[index]
    page.switch_to.active_element.send_keys(KEYS["escape"])
    assert tip(page) is None


def test_filters_hide_points_and_lines_and_keep_the_baseline(report: Path, page: Any) -> None:
    page.get(report.as_uri())
    everything = visible(page)
    assert len(everything) == len(FACTORS) * 2 * 3 * 3
    click(page, "input[name=factor][value=source]")
    left = visible(page)
    assert not any(words.startswith(("Arm natural,", "Arm fractals,", "Arm diffusion,")) for words in left)
    assert sum(words.startswith("Arm scratch,") for words in left) == 18
    assert f"{len(left)} of {len(everything)} points shown" in page.find_element("id", "count").text
    click(page, "input[name=arm][value='0']")
    assert not any(words.startswith("Arm scratch,") for words in visible(page))
    assert not find(page, "#plot .trend")[0].is_displayed()
    click(page, "input[name=architecture][value=resnet18]")
    assert all("Architecture mobilenet_v3_small" in words for words in visible(page))
    assert len(find(page, "#plot [tabindex='0']")) == 1
    for box in range(1, len(FACTORS)):
        click(page, f"input[name=arm][value='{box}']")
    assert visible(page) == []
    click(page, "#all")
    assert visible(page) == everything


def test_switching_the_scale_moves_points_lines_bands_and_ticks(report: Path, page: Any) -> None:
    page.get(report.as_uri())
    state = """return {
      points: [...document.querySelectorAll('#plot .point')].map(p => p.getAttribute('transform')),
      lines: [...document.querySelectorAll('#plot .trend')].map(p => p.getAttribute('d')),
      bands: [...document.querySelectorAll('#plot .band')].map(p => p.getAttribute('d')),
      ticks: [...document.querySelectorAll('#plot [class^=tick]')].map(t => [t.textContent, t.getAttribute('x')]),
      labels: [...document.querySelectorAll('#plot .axis-label')].map(t => t.textContent)}"""
    seen = {}
    for scale in ("probit", "linear", "logit"):
        click(page, f"input[name=scale][value={scale}]")
        seen[scale] = page.execute_script(state)
        assert seen[scale]["labels"] == [
            f"ID macro-F1 (%), split id_test, {scale} scale",
            f"OOD macro-F1 (%), split test, {scale} scale",
        ]
        assert len(seen[scale]["ticks"]) >= 6
        assert all(line.startswith("M") for line in seen[scale]["lines"] + seen[scale]["bands"])
    for one, other in (("logit", "linear"), ("logit", "probit")):
        for what in ("points", "lines", "bands", "ticks"):
            assert seen[one][what] != seen[other][what]


def test_without_scripts_and_on_paper_the_static_figure_stands_there(report: Path, page: Any) -> None:
    page.get(report.as_uri())
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert find(page, "#static")[0].is_displayed()
    assert not find(page, "#explorer")[0].is_displayed()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    page.get(report.as_uri())
    assert find(page, "#static")[0].is_displayed()
    assert not find(page, "#explorer")[0].is_displayed()


def test_every_axis_in_the_page_is_labelled(report: Path, page: Any) -> None:
    page.get(report.as_uri())
    texts = "return [...document.querySelectorAll(arguments[0])].map(t => t.textContent.trim())"
    assert len(page.execute_script(texts, "#plot .axis-label")) == 2
    for card, panels in (("#static", 1), ("#factors", 3), ("#differences", 1)):
        axes = find(page, f"{card} svg [id*='matplotlib.axis']")
        assert len(axes) == 2 * panels
        for axis in axes:
            labels = page.execute_script("return [...arguments[0].querySelectorAll('text')].pop().textContent", axis)
            assert re.search(r"\(%\)|split|percentage points|by factor", labels)
    ids = page.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrast_is_at_least_four_and_a_half(report: Path, page: Any, scheme: str) -> None:
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    page.get(report.as_uri())
    page.execute_script("document.querySelector('#plot .point').focus()")
    least = page.execute_script(
        """
        const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number);
        const lum = c => rgb(c).slice(0, 3).map(v => v / 255)
          .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
          .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const behind = e => { for (; e; e = e.parentElement) {
          const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] !== 0) return c; } return "rgb(255,255,255)"; };
        return Math.min(...[...document.querySelectorAll("body *:not(script)")]
          .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
          .map(e => { const s = getComputedStyle(e);
            const [a, b] = [lum(e.closest("svg") ? (s.fill === "none" ? "rgb(0,0,0)" : s.fill) : s.color),
                            lum(behind(e))].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05); }));
        """
    )
    assert least >= 4.5


def test_pages_do_not_scroll_sideways_on_a_phone(report: Path, hostile: Path, few: dict[str, Path], page: Any) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    for path in (report, hostile, *few.values()):
        page.get(path.as_uri())
        assert page.execute_script("return document.documentElement.scrollWidth") <= 360
        page.execute_script("document.querySelector('#plot .point:last-child').focus()")
        box = page.execute_script(
            "const b = document.getElementById('tip').getBoundingClientRect(); return [b.left, b.right]"
        )
        assert 0 <= box[0] < box[1] <= 360


def test_headings_are_in_order_and_tables_have_captions_and_scopes(
    report: Path, few: dict[str, Path], page: Any
) -> None:
    for path, n in ((report, 14), (few["published"], 2), (few["alone"], 7)):
        page.get(path.as_uri())
        levels = [int(heading.tag_name[1]) for heading in find(page, "h1, h2, h3, h4")]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
        assert len(find(page, "table")) == len(find(page, "table > caption")) == n
        assert find(page, "th:not([scope])") == []
        assert len(find(page, "[role=region][tabindex='0'] > table")) == n
        links = {link.get_attribute("href").split("#")[1] for link in find(page, "a[href^='#']")}
        assert links <= {element.get_attribute("id") for element in find(page, "section[id], dt[id]")}
        for link in find(page, "figcaption a:not(.term), caption a:not(.term), #runs a:not(.term)"):
            assert (path.parent / link.get_attribute("href").removeprefix(f"{path.parent.as_uri()}/")).is_file()


def test_hostile_names_are_shown_as_text_in_the_page(hostile: Path, page: Any) -> None:
    page.get(hostile.as_uri())
    text = page.execute_script("return document.body.innerText")
    labels = [element.text for element in find(page, "#explorer label bdi")]
    for name, (factor, level, _) in HOSTILE.items():
        assert name in text
        assert level in text
        assert any(label.startswith(name) for label in labels)
        assert any(words.startswith(f"Arm {name},") for words in visible(page))
        assert factor in labels or name == "scratch"
    assert find(page, "b bdi, bdi b, bdi i, bdi script") == []
    point = next(p for p in find(page, "#plot .point") if p.get_attribute("aria-label").startswith("Arm <script>"))
    page.execute_script("arguments[0].focus()", point)
    assert SCRIPT in (tip(page) or "")
    before = len(visible(page))
    page.execute_script("document.querySelectorAll('input[name=factor]')[0].click()")
    assert len(visible(page)) == before - 2 * 18


def test_hostile_names_are_no_formulas_markup_or_commands_in_tables(hostile: Path) -> None:
    folder = hostile.parent / "tables"
    for path in folder.glob("*.csv"):
        for cells in csv.reader(io.StringIO(path.read_text(), newline="")):
            for cell in cells:
                assert cell[:1] not in {*"=+-@\t\r"} or float(cell) is not None
    with (folder / "arms.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    assert [record["arm"].removeprefix("'") for record in records] == list(HOSTILE)
    assert records[6]["arm"] == "'=cmd()|'/C calc'!A0"
    assert [record["level"] for record in records[-2:]] == ["'@x", "-1"]
    for path in folder.glob("*.md"):
        lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
        assert not re.search(r"<[a-z/]", path.read_text())
    for path in folder.glob("*.tex"):
        text = path.read_text()
        assert r"\input" not in text
        assert r"\frac" not in text
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len({len(re.findall(r"(?<!\\)&", line)) for line in rows}) == 1
        for line in rows:
            assert not re.search(r"(?<!\\)[%#_~^]", line.replace("$^2$", ""))
            plain = re.sub(r"\\[{}]", "", line)
            assert plain.count("{") == plain.count("}")
    assert r"\textbackslash{}input\{x\}\$\textbackslash{}frac\{\_" in (folder / "arms.tex").read_text()


def test_a_notebook_shows_the_sentences_and_tables_as_text() -> None:
    comparison = made(HOSTILE)
    shown = to_html(comparison)
    for sentence in comparison.summary:
        assert sentence in html.unescape(shown)
    for name in HOSTILE:
        assert name in html.unescape(shown)
    assert not re.search(r"<(script|b>|/script|i>)", shown.replace("<b>Pre-training", ""))
    assert shown.count("<table>") == shown.count("</table>") == 3
    assert "http" not in shown
    assert to_html(alone()).count("<table>") == 1


def test_data_cannot_end_the_script_that_holds_them(hostile: Path) -> None:
    page = hostile.read_text()
    data = re.search(r'<script type="application/json" id="scatter-data">(.*?)</script>', page, re.DOTALL)
    assert data
    assert "<" not in data[1]
    assert [arm["name"] for arm in json.loads(data[1])["arms"]] == list(HOSTILE)
    assert page.count("</script>") == 2


def test_the_page_says_what_it_must(report: Path) -> None:
    page, comparison = report.read_text(), made()
    told = html.unescape(re.sub(r"<[^>]+>", "", page))
    for sentence in (*comparison.summary, *comparison.notes):
        assert sentence in told
    for term in (
        "ID, id_test",
        "OOD, test",
        "F1, macro-F1",
        "Logit",
        "OLS",
        "ER",
        "WILDS",
        "sd",
        "Files",
        "Jackknife",
        "Interval",
    ):
        assert re.search(rf'<dt id="term-[a-z0-9]+">{term}', page)
    for gone in ("Holm", "TOST", "sign flip", "slopes differ"):
        assert gone not in told
    effect = comparison.effects[0]
    model = "+3.00 points, 95% interval +1.00 to +5.10, p = 0.004"
    for said in (effect.conclusion.in_words(), model, "+5.0 (+3.7 to +6.3)"):
        assert said in told
    assert "10,000 resamples" in told
    assert "margin of ±1 percentage points" in told
    assert "5 → 17 → 85" in told
    assert "evaluate compare runs" in told
    assert not re.search(r"(src|href)=[\"'](https?:)?//", page)


def test_published_scores_leave_out_what_is_not_known(few: dict[str, Path]) -> None:
    page = few["published"].read_text()
    assert "WILDS paper (arXiv 2012.07421v3), Table 4, appendix E.1.2" in page
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    for header in ("Seed", "Epoch", "ID recall (%)", "Pre-training run", "Finished runs", "ER (points)"):
        assert f">{header}</th>" not in page
    assert "Differences from" not in page
    record = json.loads((few["published"].parent / "comparison.json").read_text())
    assert record["comparison"]["rows"][0]["id"]["recall"] is None
    words = scatter_data(published())["points"][0]["words"]
    assert words[2:4] == [None, None]
    assert words[-1].startswith("WILDS paper")


def test_one_run_alone_makes_a_report(few: dict[str, Path]) -> None:
    assert "There is nothing to compare yet" in few["alone"].read_text()
    assert {name for name in files(few["alone"].parent) if name.startswith("figures")} == {
        f"figures/scatter.{kind}" for kind in ("svg", "pdf", "png")
    }


def test_scores_of_zero_and_one_have_a_place_on_every_scale() -> None:
    comparison = made(epochs=[3])
    ends = [replace(comparison.rows[i], id=Scores(i, i, i), ood=Scores(1 - i, 1 - i, 1 - i)) for i in (0, 1)]
    data = scatter_data(replace(comparison, rows=(*ends, *comparison.rows[2:])))
    for point in data["points"]:
        for places in point["at"].values():
            assert all(0 < part < 1 for part in places)
    ticks = [[text for _, text in data["scales"][scale]["x"]["ticks"]] for scale in ("logit", "linear")]
    assert ticks[0] != ticks[1]
    assert "NaN" not in json.dumps(data)
    assert "Infinity" not in json.dumps(data)


def test_a_place_is_the_same_point_on_every_scale() -> None:
    data = scatter_data(made())

    def order(scale: str) -> list[int]:
        return sorted(range(162), key=lambda i: data["points"][i]["at"][scale][0])

    for scale in ("logit", "probit", "linear"):
        near = [
            abs(data["points"][a]["at"][scale][0] - data["points"][b]["at"][scale][0])
            for a, b in zip(order("logit"), order(scale), strict=True)
        ]
        assert max(near) < 2e-4  # rounding may swap neighbours


def test_the_same_comparison_gives_the_same_bytes(report: Path, tmp_path: Path) -> None:
    again = write_report(made(), tmp_path / "again", command="evaluate compare runs")
    first, second = files(report.parent), files(again.parent)
    assert {*first} == {*second} == FILES
    assert [name for name in first if first[name] != second[name]] == []


def test_the_record_and_the_table_of_runs_have_everything(report: Path) -> None:
    record = json.loads((report.parent / "comparison.json").read_text())
    assert {*record["files"]} == FILES
    assert record["comparison"]["effects"][0]["epochs"][2]["robustness"]["value"] == 5.0
    with (report.parent / "tables" / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(FACTORS) * 2 * 3 * 3
    assert sum(row["final"] == "yes" for row in rows) == len(FACTORS) * 2 * 3
    assert float(rows[0]["ood_macro_f1"]) == record["comparison"]["rows"][0]["ood"]["macro_f1"]
    assert float(rows[0]["effective_robustness"]) == record["comparison"]["rows"][0]["effective_robustness"]


def test_every_table_is_the_same_in_every_layout() -> None:
    for table in tables(made()).values():
        kinds = table_files(table)
        assert [name.split(".")[1] for name in kinds] == ["csv", "md", "tex"]
        lines = kinds[f"{table.name}.md"].decode().splitlines()
        assert len(lines) == len(table.cells) + 4
        assert kinds[f"{table.name}.tex"].decode().count(r" \\") == len(table.cells) + 1
        assert len(list(csv.reader(io.StringIO(kinds[f"{table.name}.csv"].decode())))) == len(table.records) + 1


def test_an_earlier_report_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    comparison = alone()
    out = tmp_path / "report"
    out.mkdir()
    write_report(made(epochs=[3], seeds=[0]), out)
    write_report(comparison, out)
    assert "figures/forest.svg" not in files(out)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(EvaluateError, match=r"holds notes.txt, which is not part of the report"):
        write_report(comparison, out)
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("content", [None, "not json", "[1]", '{"kind": "other"}'])
def test_what_is_not_a_report_is_left_alone(tmp_path: Path, content: str | None) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.tex").write_text("x")
    if content is not None:
        (out / "comparison.json").write_text(content)
    with pytest.raises(EvaluateError, match="exists and is not a report"):
        write_report(alone(), out)
    assert (out / "chapter.tex").exists()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of few arms, of many, and of models that learned nothing."""
    out = tmp_path_factory.mktemp("out")
    made_of = {"few": made(few_arms()), "many": made(many_arms(46)), "collapsed": all_collapsed()}
    return {name: write_report(comparison, out / name) for name, comparison in made_of.items()}


def at_width(page: Any, width: int, path: Path) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.get(path.as_uri())


def top_and_bottom(page: Any, selector: str) -> tuple[float, float]:
    box = page.execute_script("return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()", selector)
    return box["top"], box["bottom"]


@pytest.mark.parametrize("name", ["few", "many", "collapsed"])
def test_the_first_screen_answers(pages: dict[str, Path], page: Any, name: str) -> None:
    at_width(page, 1280, pages[name])
    assert page.execute_script("return document.querySelector('h1').innerText") == "miniature"
    assert top_and_bottom(page, "#answer .card")[0] < 300
    assert top_and_bottom(page, "#answer .first")[1] < 600
    assert top_and_bottom(page, "#answer .summary")[1] < 900
    assert "What would settle it:" in find(page, "#answer .summary")[0].text
    rows = [row.text for row in find(page, "#answer .first tbody tr")]
    assert len(rows) <= 7
    assert len(find(page, "#answer .warning")) == (name == "collapsed")
    if name != "collapsed":
        values = [float(re.search(r"([+−]?[\d.]+) \(", row)[1].replace("−", "-")) for row in rows]  # type: ignore[index]
        assert values == sorted(values, reverse=True)
    assert ("and 38 more below" in find(page, "#answer")[0].text) == (name == "many")


def test_the_first_table_fits_a_phone(pages: dict[str, Path], page: Any) -> None:
    for path in pages.values():
        at_width(page, 400, path)
        assert page.execute_script(
            "const box = document.querySelector('#answer .wide'); return box.scrollWidth <= box.clientWidth"
        )
        assert top_and_bottom(page, "#answer .first")[1] < 900


@pytest.mark.parametrize(("width", "most"), [(1280, 6_000), (400, 10_000)])
def test_a_page_of_four_arms_is_short(pages: dict[str, Path], page: Any, width: int, most: int) -> None:
    at_width(page, width, pages["few"])
    assert page.execute_script("return document.documentElement.scrollHeight") < most


def test_what_a_reader_must_know_is_not_folded(report: Path) -> None:
    unfolded = re.sub(r"<details>.*?</details>", "", report.read_text(), flags=re.DOTALL)
    for needed in ("Before you rely on this", "What the tests mean", "Results in full", made().notes[0][-20:]):
        assert needed in unfolded
    for folded in ("Satterthwaite", "Koh et al. 2021", "Digest of this comparison", "Pre-training run</th>"):
        assert folded not in unfolded
        assert folded in report.read_text()


def test_paper_has_what_is_folded_on_the_screen(report: Path, page: Any) -> None:
    heights = "return [...document.querySelectorAll('details > :not(summary)')].map(e => e.offsetHeight)"
    page.get(report.as_uri())
    closed = "return document.querySelectorAll('details:not([open])').length"
    before = page.execute_script(closed)
    assert before >= 7
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert page.execute_script(closed) == 0
    page.execute_script("dispatchEvent(new Event('afterprint'))")
    assert page.execute_script(closed) == before
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    page.get(report.as_uri())
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert min(page.execute_script(heights)) > 0


def test_technical_words_lead_to_the_glossary_where_they_first_occur(report: Path, page: Any) -> None:
    page.get(report.as_uri())
    links = find(page, "a.term")
    ids = [link.get_attribute("href").split("#")[1] for link in links]
    assert len(ids) == len(set(ids))
    assert {"term-id", "term-ood", "term-er", "term-arm", "term-interval", "term-p", "term-epoch"} <= {*ids}
    assert {*ids} <= {entry.get_attribute("id") for entry in find(page, "#glossary dt")}
    for link in links:
        entry = page.execute_script("return document.querySelector(arguments[0].hash)", link)
        word = link.get_attribute("textContent").lower().rstrip("s")
        said = page.execute_script(
            "return arguments[0].textContent + arguments[0].nextElementSibling.textContent", entry
        )
        assert word in said.lower()
    assert not find(page, "#glossary")[0].find_elements("css selector", "a.term")
    click(page, "a.term[href='#term-ood']")
    assert find(page, "#term-ood")[0].is_displayed()


def test_rings_count_the_points_that_are_shown_at_one_place(pages: dict[str, Path], page: Any) -> None:
    at_width(page, 1280, pages["collapsed"])
    rings = "return [...document.querySelectorAll('#plot .rings text')].map(t => t.textContent)"
    assert page.execute_script(rings) == ["72"]
    click(page, "input[name=arm][value='1']")
    assert page.execute_script(rings) == ["54"]
    page.execute_script("document.querySelector('#plot .point:last-child').focus()")
    assert "53 more here" in (tip(page) or "")
    top = find(page, "#plot .point")[-1].get_attribute("aria-label")
    assert top.startswith("Arm scratch,")
    page.get(pages["few"].as_uri())
    assert page.execute_script(rings) == []


def test_unfinished_runs_are_shown(tmp_path: Path) -> None:
    unfinished = ("scratch / resnet18 / seed 1 (0000000000000001): failed", f"{SCRIPT} / seed 0: absent")
    page = write_report(replace(alone(), unfinished=unfinished), tmp_path / "report").read_text()
    assert "2 planned runs not in the results" in page
    assert unfinished[0] in page
    assert html.escape(unfinished[1]) in page
