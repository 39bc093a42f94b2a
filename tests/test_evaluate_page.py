from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comparisons import FACTORS, all_collapsed, few_arms, made, many_arms, published
from contrast import least_contrast
from reports import HOSTILE, SCRIPT, alone, only_svg

from synthgen_evaluate.reporting.report import write_report

KEYS = {"right": "\ue014", "left": "\ue012", "end": "\ue010", "escape": "\ue00c"}  # as WebDriver spells them


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(made(), tmp_path_factory.mktemp("out") / "report", command="evaluate compare runs")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with only_svg():
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
    least = least_contrast(page)
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


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of few arms, of many, and of models that learned nothing."""
    out = tmp_path_factory.mktemp("out")
    made_of = {"few": made(few_arms()), "many": made(many_arms(46)), "collapsed": all_collapsed()}
    with only_svg():
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
