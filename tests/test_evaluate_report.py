from __future__ import annotations

import csv
import html
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from comparisons import FACTORS, made, one_block, published
from reports import FILES, HOSTILE, SCRIPT, alone, files, only_svg

from synthgen_evaluate.analysis.results import Comparison
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.judgement import Judgement
from synthgen_evaluate.metrics import Scores
from synthgen_evaluate.reporting.report import write_report
from synthgen_evaluate.reporting.report_data import scatter_data
from synthgen_evaluate.reporting.report_tables import table_files, tables, to_html


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
    assert "margin of ±1 point," in told
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


def test_what_a_reader_must_know_is_not_folded(report: Path) -> None:
    unfolded = re.sub(r"<details>.*?</details>", "", report.read_text(), flags=re.DOTALL)
    for needed in ("Before you rely on this", "What the tests mean", "Results in full", made().notes[0][-20:]):
        assert needed in unfolded
    for folded in ("Satterthwaite", "Koh et al. 2021", "Digest of this comparison", "Pre-training run</th>"):
        assert folded not in unfolded
        assert folded in report.read_text()


def test_unfinished_runs_are_shown(tmp_path: Path) -> None:
    unfinished = ("scratch / resnet18 / seed 1 (0000000000000001): failed", f"{SCRIPT} / seed 0: absent")
    page = write_report(replace(alone(), unfinished=unfinished), tmp_path / "report").read_text()
    assert "2 planned runs not in the results" in page
    assert unfinished[0] in page
    assert html.escape(unfinished[1]) in page


def prose(comparison: Comparison, out: Path) -> str:
    with only_svg():
        page = re.sub(r"(?s)<(svg|style|script)\b.*?</\1>", "", write_report(comparison, out).read_text())
    return html.unescape(re.sub("<[^>]+>", "", page))


def test_captions_follow_what_is_compared_and_when_the_margin_was_chosen(tmp_path: Path) -> None:
    usual = prose(made(), tmp_path / "usual")
    assert "large and filled are last epochs" in usual
    assert "one point per model at the last epoch, regardless of the filters" in usual
    assert "(a margin of ±1 point, declared in advance)" in usual
    best = replace(made(), judgement=Judgement(epoch="best"), chosen_after=("margin 1.0",))
    other = prose(best, tmp_path / "best")
    assert "large and filled are best epochs" in other
    assert "last epoch" not in other
    assert "(a margin of ±1 point, chosen after the runs)" in other


def test_no_epoch_is_named_for_published_scores(tmp_path: Path) -> None:
    text = prose(published(), tmp_path / "out")
    assert "the last epoch" not in text
    assert "every evaluated epoch" not in text


def test_captions_of_differences_without_intervals_speak_of_none() -> None:
    short = tables(one_block())["effects"].caption
    assert not re.search("Intervals|adjusted p|last column", short)
    whole = tables(made())["effects"].caption
    assert all(part in whole for part in ("Intervals are 95%", "adjusted p agrees", "The last column"))


def test_an_ordered_factor_has_its_estimate_in_the_table() -> None:
    found = tables(made())["ordered"]
    titles = [column.title for column in found.columns]
    rise = titles.index("Rise of ER from a level to the next, points (95% interval)")
    assert found.cells[0][rise] == "+0.7"
    assert found.records[0]["rise_points"] == 0.7
