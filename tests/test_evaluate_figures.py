from __future__ import annotations

import io
import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from comparisons import FACTORS, all_collapsed, estimated, few_arms, made, many_arms, published, with_effect
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from reports import only_svg

from synthgen_evaluate.analysis.results import Comparison
from synthgen_evaluate.analysis.trends import fit_trend
from synthgen_evaluate.metrics import Scores
from synthgen_evaluate.reporting.figure_effects import PANELS, by_epoch, over_time
from synthgen_evaluate.reporting.figure_scatter import factors
from synthgen_evaluate.reporting.figure_style import (
    COLORS,
    DASHES,
    MARKERS,
    PATHS,
    SAME_PLACE,
    coincident,
    frame,
    in_front,
    line_on_scale,
    look,
    on_scale,
    shown,
    trend_line,
)
from synthgen_evaluate.reporting.figures import draw_figures

SVG = "{http://www.w3.org/2000/svg}"

# How colors look to people without one kind of cone: Machado, Oliveira and Fernandes 2009, "A
# physiologically-based model for simulation of color vision deficiency", severity 1.0; for linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# IEC 61966-2-1: linear sRGB to CIE XYZ under D65.
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
LEAST, CLEAR = 16, 25  # CIE 1976 color differences; about 2.3 is just noticeable side by side


def lab(color: str, vision: str = "normal") -> NDArray[np.float64]:
    """CIE L*a*b* (D65) of "#rrggbb" as somebody sees it, [3]."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = TO_XYZ @ (VISION[vision] @ linear).clip(0, 1) / TO_XYZ.sum(axis=1)
    f = [np.cbrt(t) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29 for t in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_lab_is_that_of_known_colors() -> None:
    assert lab("#ffffff") == pytest.approx([100, 0, 0], abs=0.02)
    assert lab("#ff0000") == pytest.approx([53.24, 80.09, 67.20], abs=0.05)


@pytest.mark.parametrize("vision", VISION)
def test_colors_differ_to_everybody_and_those_that_come_close_have_other_markers_and_dashes(vision: str) -> None:
    for a, b in itertools.combinations(range(len(COLORS)), 2):
        difference = np.linalg.norm(lab(COLORS[a], vision) - lab(COLORS[b], vision))
        assert difference >= LEAST
        assert difference >= CLEAR or (look(a).marker != look(b).marker and look(a).dash != look(b).dash)


def test_many_arms_look_different_and_differ_in_gray_too() -> None:
    assert len({(s.color, s.marker, s.dash) for s in map(look, range(168))}) == 168
    assert len({(s.color, s.marker) for s in map(look, range(56))}) == 56
    assert len({(s.marker, s.dash) for s in map(look, range(24))}) == 24
    assert {*MARKERS} == {*PATHS}
    assert len({*DASHES}) == len(DASHES)


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, bytes]]:
    return draw_figures(made())


@pytest.fixture(autouse=True)
def without_other_formats() -> Iterator[None]:
    """Which are those of ``figures``."""
    with only_svg():
        yield


def axes_of(svg: bytes) -> list[list[list[str]]]:
    """Of every pair of axes: the texts of each of its two axes."""
    groups = [g for g in ET.fromstring(svg).iter(f"{SVG}g") if re.fullmatch(r"axes_\d+", g.get("id", ""))]
    return [
        [
            ["".join(t.itertext()) for t in axis.iter() if t.tag in (f"{SVG}text", f"{SVG}tspan") and t.text]
            for axis in group.iter(f"{SVG}g")
            if axis.get("id", "").startswith("matplotlib.axis")
        ]
        for group in groups
    ]


def test_every_axis_of_every_figure_is_labelled_with_its_unit(figures: dict[str, dict[str, bytes]]) -> None:
    for name, panels in (("scatter", 1), ("factors", 3)):
        pairs = axes_of(figures[name]["svg"])
        assert len(pairs) == panels
        for x, y in pairs:
            assert "ID macro-F1 (%), split id_test, logit scale" in " ".join(x)
            assert "OOD macro-F1 (%), split test, logit scale" in " ".join(y)
            assert sum(text.isdecimal() for text in x) >= 3
            assert sum(text.isdecimal() for text in y) >= 3
    ((x, y),) = axes_of(figures["forest"]["svg"])
    assert x[-1] == "effective robustness minus that of scratch (percentage points)"
    assert y[-1] == "arm, by factor"


def test_the_forest_groups_arms_by_factor(figures: dict[str, dict[str, bytes]]) -> None:
    ((_, names),) = axes_of(figures["forest"]["svg"])
    others = [name for name in FACTORS if name != "scratch"]
    assert names[:-1] == ["source", *others[:3], "quantity", *others[3:5], "granularity", *others[5:]]


def test_figures_come_for_print_and_for_screens(figures: dict[str, dict[str, bytes]]) -> None:
    assert {*figures} == {"scatter", "overview", "epochs", "factors", "forest", "forest-reference"}
    for kinds in figures.values():
        assert {*kinds} == {"svg", "pdf", "png"}
        assert kinds["pdf"].startswith(b"%PDF")
        assert b"/Type3" not in kinds["pdf"]
        assert Image.open(io.BytesIO(kinds["png"])).info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert b"<script" not in kinds["svg"]


def test_what_has_nothing_to_show_is_not_drawn() -> None:
    alone = made({"scratch": ("source", "none", 0.3)}, architectures=["resnet18"], seeds=[0], epochs=[3])
    assert {*draw_figures(alone)} == {"scatter"}
    assert {*draw_figures(published())} == {"scatter"}
    untrended = made({"a": ("f", "1", 0.3), "b": ("f", "2", 0.4)}, architectures=["resnet18"], seeds=[0], epochs=[3])
    assert untrended.arms[0].trend is None
    assert {*draw_figures(untrended)} == {"scatter", "overview", "factors"}


def test_an_arm_without_runs_is_in_no_figure() -> None:
    comparison = made()
    missing = replace(comparison.arms[1], finished=0, trend=None, band=None, id_mean=None, ood_mean=None)
    rows = tuple(row for row in comparison.rows if row.arm != "natural")
    comparison = replace(comparison, arms=(comparison.arms[0], missing, *comparison.arms[2:]), rows=rows, effects=())
    assert [summary.arm.name for summary in factors(comparison)["source"]] == ["fractals", "diffusion"]
    for kinds in draw_figures(comparison).values():
        assert b">natural</text>" not in kinds["svg"]


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", r'$\frac{_"a" & 日本', "x" * 200, "צילום", "a\x07b\u202e"]
)
def test_names_are_shown_as_text_and_cut_where_there_is_no_room(name: str) -> None:
    arms = {"scratch": ("source", "none", 0.3), name: ("source", name, 0.5)}
    for kinds in draw_figures(made(arms, seeds=[0, 1], epochs=[3])).values():
        texts = ["".join(text.itertext()) for text in ET.fromstring(kinds["svg"]).iter(f"{SVG}text")]
        assert any(text in [shown(name, limit) for limit in (18, 24, 30, 44)] for text in texts)
        assert max(map(len, texts)) < 100


def with_scores(pairs: list[tuple[float, float]]) -> Comparison:
    alone = made({"a": ("f", "1", 0.3)}, architectures=["resnet18"], seeds=range(len(pairs)), epochs=[3])
    rows = tuple(
        replace(row, id=Scores(x, x, x), ood=Scores(y, y, y)) for row, (x, y) in zip(alone.rows, pairs, strict=True)
    )
    return replace(alone, rows=rows)


fractions = st.floats(0, 1)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(fractions, fractions), min_size=1, max_size=4), st.sampled_from(["logit", "probit", "linear"])
)
def test_axes_hold_every_point_and_label_where_they_say(pairs, scale) -> None:  # type: ignore[no-untyped-def]
    comparison = with_scores(pairs)
    box = frame(comparison, scale)
    for i, axis in enumerate((box.x, box.y)):
        places = on_scale(comparison, scale, pairs)[:, i]
        assert axis.start < places.min()
        assert places.max() < axis.end
        assert len(axis.ticks) >= 2
        for place, text in axis.ticks:
            assert axis.start <= place <= axis.end
            if 0 < float(text) < 100:
                assert place == pytest.approx(float(on_scale(comparison, scale, float(text) / 100)), abs=1e-9) or (
                    not comparison.epsilon < float(text) / 100 < 1 - comparison.epsilon
                )


@pytest.mark.parametrize("scale", ["logit", "probit", "linear"])
def test_scores_of_zero_and_one_are_drawn_on_any_scale(scale) -> None:  # type: ignore[no-untyped-def]
    comparison = replace(with_scores([(0, 0), (1, 1), (0.5, 0)]), scale=scale)
    ((x, y),) = axes_of(draw_figures(comparison)["scatter"]["svg"])
    assert len(x) >= 4
    assert len(y) >= 4


def test_a_trend_runs_over_its_own_points_only() -> None:
    comparison = made()
    summary = comparison.arms[1]
    ids = [row.id.macro_f1 for row in comparison.rows if row.arm == "natural"]
    line = trend_line(summary, ids)
    assert (line[0, 0], line[-1, 0]) == pytest.approx((min(ids), max(ids)))
    assert summary.trend
    assert line[:, 1] == pytest.approx(summary.trend.predict(line[:, 0]))
    assert trend_line(replace(summary, trend=None), ids).shape == (0, 2)


def test_a_trend_is_straight_on_its_own_scale_beyond_scores_of_zero_too() -> None:
    pairs = [(0.0, 0.0), (0.1, 0.001), (0.3, 0.01), (0.9, 0.5)]
    comparison = with_scores(pairs)
    trend = fit_trend(*zip(*pairs, strict=True), scale="logit", epsilon=comparison.epsilon)
    assert trend
    assert trend.predict(0.0) < comparison.epsilon
    line = line_on_scale("logit", trend_line(replace(comparison.arms[0], trend=trend), [x for x, _ in pairs]))
    assert np.diff(line, n=2, axis=0) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("n", "bands"), [(8, 8), (9, 1)])
def test_bands_of_many_arms_do_not_hide_the_points(n: int, bands: int) -> None:
    arms = {f"arm {k}": ("source", str(k), 0.2 + 0.02 * k) for k in range(n)}
    svg = draw_figures(made(arms))["scatter"]["svg"].decode()
    assert len(re.findall(r'<g id="FillBetweenPolyCollection', svg)) == bands


def texts_of(svg: bytes) -> list[str]:
    return ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{SVG}text")]


def test_the_overview_has_all_arms_from_the_highest_effective_robustness_down() -> None:
    comparison = made(many_arms(12))
    missing = replace(comparison.effects[0], robustness=replace(comparison.effects[0].robustness, value=None))
    svg = draw_figures(replace(comparison, effects=(missing, *comparison.effects[1:])))["overview"]["svg"]
    names = [text for text in texts_of(svg) if text.startswith("images-")]
    values = {e.arm.name: e.robustness.value for e in comparison.effects[1:]}
    assert names == [*sorted(values, key=lambda name: -(values[name] or 0)), missing.arm.name]
    assert [text for text in texts_of(svg) if text in ("ID", "OOD", "ER")] == ["ID", "OOD", "ER"]
    assert "not estimated" in texts_of(svg)


def test_an_interval_far_longer_than_the_others_does_not_squash_them() -> None:
    comparison = made(few_arms())
    values = (estimated(1.0, 50.0, 6), estimated(2.0, 0.5, 6), estimated(0.5, 0.5, 6))
    effects = tuple(with_effect(e, one) for e, one in zip(comparison.effects, values, strict=True))
    _, _, robustness = axes_of(draw_figures(replace(comparison, effects=effects))["overview"]["svg"])
    assert max(abs(float(text.replace("−", "-"))) for text in robustness[0] if text[-1].isdigit()) < 20


def test_time_has_a_panel_for_each_of_the_arms_that_matter_most() -> None:
    assert len(by_epoch(made(few_arms())).axes) == 3
    assert len(by_epoch(made(many_arms(12))).axes) == PANELS
    assert not over_time(made(few_arms(), epochs=[3]))
    assert "epochs" not in draw_figures(all_collapsed())


def test_points_at_one_place_are_found_once() -> None:
    near = SAME_PLACE / 2
    places = np.array([[0.1, 0.1], [0.5, 0.5], [0.1, 0.1 + near], [0.1, 0.1], [0.5 + 4 * near, 0.5]])
    assert coincident(places) == [[0, 2, 3]]
    assert coincident(np.empty((0, 2))) == []


def test_points_at_one_place_are_ringed_with_their_number() -> None:
    comparison = with_scores([(0.2, 0.1), (0.4, 0.3), (0.2, 0.1), (0.2, 0.1)])
    texts = texts_of(draw_figures(comparison)["scatter"]["svg"])
    assert "3" in texts
    assert "points at one place, and how many" in texts
    assert "points at one place, and how many" not in texts_of(draw_figures(made(few_arms()))["scatter"]["svg"])
    assert "72" in texts_of(draw_figures(all_collapsed())["scatter"]["svg"])


def test_the_baseline_lies_on_top() -> None:
    comparison = made(few_arms())
    order = sorted(comparison.rows, key=lambda row: in_front(comparison, row))
    assert [row.arm for row in order[-18:]] == ["scratch"] * 18
    assert [row.final for row in order[-6:]] == [True] * 6
    assert [row.final for row in order[-24:-18]] == [True] * 6


def test_long_names_stay_apart() -> None:
    a, b = (shown(f"{'images of a very long source ' * 3}{k}", 18) for k in (1, 2))
    assert a != b
    assert len(a) == 18
