import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from contrast import least_contrast
from PIL import Image

from synthgen.common.errors import SynthgenError
from synthgen.common.printing import printable
from synthgen.dataset import preview
from synthgen.dataset.manifest import read_manifest
from synthgen.dataset.preview import GAP, MARGIN, write_preview
from synthgen.dataset.shard import Item, data_path, read_shard, record_path, table_path, write_shard
from synthgen.kinds.diffusion.content import ClassRecord, DiffusionContent, ModelRecord, PromptRecord, Sampling

# A shard is a weight row of five categories, four flips each; there are 12 of the 25 rows.
OPTIONS = ("--n", 240, "--shard-size", 20, "--draw", "point_gray", "--size", 32, "--points", 500, "--workers", 1)
PITCH = 96 + GAP  # of the contact sheet: 32 pixels enlarged three times, and what is between
HOSTILE = "</script><script>alert(1)</script><!-- {{ 7 * 7 }} \u2028 \"'& <img src=x onerror=alert(2)> 日本"


@pytest.fixture(scope="module")
def fractals(tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command, categories: Path) -> Path:
    out = tmp_path_factory.mktemp("preview") / "set"
    done = synthgen_here("fractal", "--out", out, "--categories", categories, *OPTIONS)
    assert done.returncode == 0, done.stderr
    return out


def prompted(item: Item, image: bytes | None = None) -> Item:
    """A sample with the record that a diffusion image has, hostile in every text."""
    template = item.record["weight"]
    record: dict[str, Any] = {
        "index": item.record["index"],
        "label": item.label,
        "class_name": "owl" if item.label == 1 else f"{HOSTILE} {item.label}",
        "template": template,
        "prompt": f"a photo {template} of {HOSTILE}",
        "seed": 2**64 - 1 - item.record["index"],
        "fault": "black <b>" if item.label == 0 else None,
        "flagged": True if item.label == 2 else None,
        "scores": [0.5, 1.0],
        "bits": 2**60 + 1,
    }
    return replace(item, record=record, image=item.image if image is None else image)


def rewrite(source: Path, out: Path, n_shards: int, image: bytes | None = None) -> Path:
    """An unfinished set of the pictures of another, as if a diffusion model had drawn them."""
    out.mkdir()
    plan = read_manifest(source).plan
    names = plan.content.class_names
    content = DiffusionContent(
        seed=1,
        prompts=PromptRecord(name="p", version="1", sha256="0" * 64, templates=("a photo of {}",)),
        classes=ClassRecord(name="c", sha256="0" * 64, ids=names, names=names),
        model=ModelRecord(name="m", revision="0", variant=None),
        sampling=Sampling(
            scheduler="ddim", steps=1, guidance=1.0, negative_prompt="", size=plan.content.image.side, dtype="float32"
        ),
        image_format="png",
        quality=95,
        exclude_flagged=False,
    )
    plan = replace(plan, content=content)
    (out / "plan.json").write_text(plan.to_json())
    for index in range(n_shards):
        span = plan.shard(index)
        items = [prompted(item, image) for item in read_shard(data_path(source, span))]
        write_shard(out, span, items, plan_digest=plan.digest, environment={})
    return out


@pytest.fixture(scope="module")
def prompts(fractals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rewrite(fractals, tmp_path_factory.mktemp("preview") / "prompts", 3)


@pytest.fixture(scope="module")
def gallery(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_preview(read_manifest(prompts), tmp_path_factory.mktemp("preview"), per_class=4)[1]


def data(gallery: Path) -> list[dict[str, Any]]:
    """What the page knows of its pictures, in its order."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', gallery.read_text(), re.DOTALL)
    assert found
    pictures: list[dict[str, Any]] = json.loads(found[1])
    return pictures


def records(gallery: Path) -> list[dict[str, str]]:
    return [dict(picture["record"]) for picture in data(gallery)]


def sources(gallery: Path) -> list[tuple[str, bytes]]:
    found = re.findall(r'<img src="data:([a-z/]+);base64,([^"]*)"', gallery.read_text())
    return [(mime, base64.b64decode(text)) for mime, text in found]


def stored(dataset: Path) -> dict[str, Item]:
    manifest = read_manifest(dataset)
    spans = [manifest.plan.shard(shard.index) for shard in manifest.shards]
    return {item.key: item for span in spans for item in read_shard(data_path(dataset, span))}


def pixels(image: bytes) -> Any:
    with Image.open(io.BytesIO(image)) as opened:
        return np.asarray(opened.convert("RGB"))


def test_the_sheet_has_a_row_a_class_of_the_stored_pixels_enlarged(fractals: Path, tmp_path: Path) -> None:
    sheet, gallery = write_preview(read_manifest(fractals), tmp_path / "a" / "b")
    items, shown = stored(fractals), records(gallery)
    assert [int(record["label"]) for record in shown] == [label for label in range(5) for _ in range(10)]
    canvas = pixels(sheet.read_bytes())
    left = canvas.shape[1] - MARGIN + GAP - 10 * PITCH
    top = canvas.shape[0] - MARGIN + GAP - 5 * PITCH
    for place, record in enumerate(shown):
        y, x = top + place // 10 * PITCH, left + place % 10 * PITCH
        small = pixels(items[record["key"]].image)
        assert (canvas[y : y + 96, x : x + 96] == small.repeat(3, axis=0).repeat(3, axis=1)).all()
    for row in range(5):
        assert (canvas[top + row * PITCH : top + row * PITCH + 96, MARGIN : left - GAP] < 128).any()  # the name


def test_a_class_is_shown_in_different_weights_and_flips(fractals: Path, tmp_path: Path) -> None:
    shown = records(write_preview(read_manifest(fractals), tmp_path)[1])
    for label in range(5):
        of_class = [record for record in shown if record["label"] == str(label)]
        assert len({record["weight"] for record in of_class}) == 10
        assert len({record["flip"] for record in of_class}) > 1


def test_the_page_has_every_record_as_it_stands_in_the_shard(prompts: Path, gallery: Path) -> None:
    items = stored(prompts)
    shown = data(gallery)
    assert len(shown) == 20
    for picture in shown:
        record = dict(picture["record"])
        item = items[record["key"]]
        expected = {
            key: "none" if value is None else printable(value) if isinstance(value, str) else json.dumps(value)
            for key, value in item.record.items()
        }
        assert expected.items() <= record.items()
        assert set(record) - set(expected) == {"shard", "file"}
        assert record["shard"] == f"fractal-train-{int(record['index']) // 20:06d}.tar"
        assert record["file"] == f"{item.key}.png, 32 × 32 pixels, {len(item.image)} bytes"
    assert [image for _, image in sources(gallery)] == [items[record["key"]].image for record in records(gallery)]


def test_of_many_classes_some_are_shown_evenly_spread(fractals: Path, tmp_path: Path) -> None:
    _, gallery = write_preview(read_manifest(fractals), tmp_path, per_class=1, max_classes=2)
    assert [record["label"] for record in records(gallery)] == ["0", "2"]
    assert "5, 2 of them on this page" in gallery.read_text()


def test_classes_without_images_give_their_place_to_others(
    tmp_path: Path, synthgen_here: Command, categories: Path
) -> None:
    options = ["--n", 8, *OPTIONS[2:]]
    assert synthgen_here("fractal", "--out", tmp_path / "set", "--categories", categories, *options).returncode == 0
    present = {item.label for item in stored(tmp_path / "set").values()}
    _, gallery = write_preview(read_manifest(tmp_path / "set"), tmp_path / "out", max_classes=2)
    assert {int(record["label"]) for record in records(gallery)} == present
    assert len(records(gallery)) == 8
    assert "5, 2 with images" in gallery.read_text()


def test_only_tables_and_shards_that_are_needed_are_opened(
    fractals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: dict[str, list[str]] = {"image_members": [], "_candidates": []}

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(preview, name)

        def call(path: Path, *rest: Any) -> Any:
            opened[name].append(path.name)
            return original(path, *rest)

        return call

    for name in opened:
        monkeypatch.setattr(preview, name, counted(name))
    _, gallery = write_preview(read_manifest(fractals), tmp_path, per_class=2)
    assert opened["image_members"] == sorted({record["shard"] for record in records(gallery)})
    assert len(opened["image_members"]) == 2
    assert [int(name.removeprefix("fractal-train-")[:6]) for name in opened["_candidates"]] == [0, 8, 4, 2, 10, 6, 1, 9]


def test_large_pictures_are_reduced_and_the_page_keeps_its_size(
    fractals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (180, 300, 3), np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    dataset = read_manifest(rewrite(fractals, tmp_path / "set", 1, buffer.getvalue()))
    monkeypatch.setattr(preview, "image_defect", lambda *image: None)  # it is not of the planned size

    sheet, gallery = write_preview(dataset, tmp_path / "out", per_class=4)
    with Image.open(sheet) as image:
        right = image.width - MARGIN
        assert image.height == pytest.approx(5 * (77 + GAP) + 2 * MARGIN, abs=40)  # 300 x 180 becomes 128 x 77
        assert image.crop((right - 128, image.height - MARGIN - 77, right, image.height - MARGIN)).getextrema() != (
            ((255, 255),) * 3
        )
    assert {image for _, image in sources(gallery)} == {buffer.getvalue()}  # there is room for them as they are

    monkeypatch.setattr(preview, "PAGE_BYTES", 250_000)
    _, gallery = write_preview(dataset, tmp_path / "out", per_class=4)
    assert {mime for mime, _ in sources(gallery)} == {"image/jpeg"}
    assert {max(pixels(image).shape) for _, image in sources(gallery)} == {128}
    assert sum(len(image) for _, image in sources(gallery)) * 4 / 3 < 250_000
    assert records(gallery)[0]["file"].endswith("bytes; shown here as JPEG of 128 × 77 pixels")


def test_the_same_dataset_gives_the_same_bytes(fractals: Path, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_preview(read_manifest(fractals), tmp_path / "a")]
    paths = write_preview(read_manifest(Path(shutil.copytree(fractals, tmp_path / "copy"))), tmp_path / "b")
    assert [path.read_bytes() for path in paths] == first
    write_preview(read_manifest(fractals), tmp_path / "b")  # over the one before
    assert [path.read_bytes() for path in paths] == first
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["contact-sheet.png", "gallery.html"]


def test_an_unfinished_set_is_shown_as_far_as_it_stands(prompts: Path, gallery: Path) -> None:
    page = gallery.read_text()
    assert "240 planned, 60 there (unfinished)" in page
    assert "<h1>fractal</h1>" in page
    assert read_manifest(prompts).plan.digest in page
    assert "A sample of 20 pictures of 5 classes" in page


def test_a_set_without_a_shard_is_refused(fractals: Path, tmp_path: Path) -> None:
    shutil.copytree(fractals, tmp_path / "set")
    for shard in read_manifest(fractals).shards:
        record_path(tmp_path / "set", read_manifest(fractals).plan.shard(shard.index)).unlink()
    with pytest.raises(SynthgenError, match="set: no shard is finished yet; run the command that makes it"):
        write_preview(read_manifest(tmp_path / "set"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_out_and_a_wrong_number_are_refused(fractals: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SynthgenError, match="out: not a directory"):
        write_preview(read_manifest(fractals), tmp_path / "out")
    for wrong in (0, 101):
        with pytest.raises(SynthgenError, match=f"{wrong} images per class: 1 to 100"):
            write_preview(read_manifest(fractals), tmp_path / "other", per_class=wrong)
    assert (tmp_path / "out").read_text() == "mine"
    assert not (tmp_path / "other").exists()


def test_the_folder_is_beside_the_set_by_default_and_never_within(
    fractals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synthgen_here: Command
) -> None:
    copy = tmp_path / "set"
    shutil.copytree(fractals, copy)
    before = sorted(copy.rglob("*"))
    for where, directory in ((copy, "."), (copy / "data", ".."), (tmp_path, "set")):
        monkeypatch.chdir(where)
        assert synthgen_here("preview", directory).returncode == 0
        assert {path.name for path in (tmp_path / "set-preview").iterdir()} == {"contact-sheet.png", "gallery.html"}
        shutil.rmtree(tmp_path / "set-preview")
    for out in (copy, copy / "data/looks"):
        done = synthgen_here("preview", copy, "--out", out)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"synthgen: {out}: is inside the dataset {copy} itself; choose another place\n"
    assert sorted(copy.rglob("*")) == before


@pytest.mark.parametrize("damage", ["table", "image", "tar"])
def test_a_damaged_shard_is_named(prompts: Path, tmp_path: Path, damage: str) -> None:
    dataset = Path(shutil.copytree(prompts, tmp_path / "set"))
    span = read_manifest(dataset).plan.shard(1)
    path = table_path(dataset, span) if damage == "table" else data_path(dataset, span)
    content = bytearray(path.read_bytes())
    for start in [0] if damage == "tar" else range(512 if damage == "image" else 0, len(content), 512):
        if damage != "image" or content[start : start + 4] == b"\x89PNG":
            content[start : start + 64] = b"x" * len(content[start : start + 64])
    path.write_bytes(content)
    with pytest.raises(
        SynthgenError, match=rf"{path.name}: .*(damaged|image 0+25 differs from its record; see synthgen verify)"
    ):
        write_preview(read_manifest(dataset), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_page_opens_without_errors_and_requests_and_hostile_text_is_text(gallery: Path, browser: Any) -> None:
    from selenium.common.exceptions import NoAlertPresentException

    browser.get_log("performance")
    browser.get(gallery.as_uri())
    with pytest.raises(NoAlertPresentException):
        _ = browser.switch_to.alert
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    urls = {s["request"]["url"] for s in sent if not s["documentURL"].startswith("chrome:")}  # the browser's first tab
    assert {url for url in urls if not url.startswith("data:")} == {gallery.as_uri()}
    assert browser.execute_script("return [document.scripts.length, document.images.length]") == [2, 21]
    assert browser.execute_script("return document.documentElement.lang && document.title")
    alts = browser.execute_script("return [...document.querySelectorAll('.tile img')].map(image => image.alt)")
    assert alts == [record["prompt"] for record in records(gallery)]
    assert all(printable(HOSTILE) in alt for alt in alts)
    badges = browser.execute_script("return [...document.querySelectorAll('.tile .badge')].map(b => b.textContent)")
    assert badges == ["fault: black <b>"] * 4 + ["flagged"] * 4


def table(browser: Any) -> dict[str, str]:
    rows = browser.execute_script(
        "return [...document.querySelectorAll('dialog[open] tr')].map(row => [...row.cells].map(c => c.textContent))"
    )
    return dict(rows)


def test_a_click_or_enter_shows_the_record_and_arrows_go_on(gallery: Path, browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(gallery.as_uri())
    tiles = browser.find_elements("css selector", ".tile")
    expected = records(gallery)
    tiles[5].click()
    assert table(browser) == expected[5]
    assert browser.execute_script("return big.src === document.images[5].src && big.alt && big.width") == 384
    keys = browser.switch_to.active_element
    keys.send_keys(Keys.ARROW_RIGHT)
    keys.send_keys(Keys.ARROW_RIGHT)
    assert table(browser) == expected[7]
    keys.send_keys(Keys.ARROW_LEFT)
    keys.send_keys(Keys.ESCAPE)
    assert table(browser) == {}
    # a browser tells that a dialog was closed a moment after it closed it
    WebDriverWait(browser, 10).until(lambda browser: browser.switch_to.active_element == tiles[6])
    tiles[6].send_keys(Keys.TAB)
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert table(browser) == expected[7]
    browser.find_element("id", "close").click()
    tiles[0].click()
    browser.switch_to.active_element.send_keys(Keys.ARROW_LEFT)  # there is none before the first
    assert table(browser) == expected[0]
    assert browser.get_log("browser") == []


def headings(browser: Any) -> list[str]:
    script = "return [...main.querySelectorAll('section:not([hidden]) h2')].map(h => h.textContent.trim())"
    found: list[str] = browser.execute_script(script)
    return found


def test_the_switch_groups_by_template_and_the_filter_sifts_by_class(gallery: Path, browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(gallery.as_uri())
    assert len(headings(browser)) == 5
    browser.find_element("css selector", "input[value=class]").send_keys(Keys.ARROW_RIGHT)
    assert [heading.split(" as in ")[0] for heading in headings(browser)] == ["Template 0", "Template 1", "Template 2"]
    browser.find_element("id", "filter").send_keys("OWL")
    visible = "return [...document.querySelectorAll('.tile')].filter(t => t.offsetParent).map(t => t.innerText)"
    assert browser.execute_script(visible) == ["owl"] * 4
    assert browser.find_element("id", "count").text == "4 of 20 pictures"
    browser.find_element("css selector", "input[value=class]").click()
    assert headings(browser) == ["owl 00001"]
    browser.execute_script("return [...document.querySelectorAll('.tile')].find(t => t.offsetParent)").click()
    assert browser.find_element("id", "place").text == "1 of 4"
    assert table(browser)["class_name"] == "owl"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrast_is_at_least_four_and_a_half(gallery: Path, browser: Any, scheme: str) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.get(gallery.as_uri())
    browser.find_element("css selector", ".tile").click()
    least = least_contrast(browser)
    assert least >= 4.5


def test_the_page_does_not_scroll_sideways_on_a_phone(gallery: Path, browser: Any) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(gallery.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    browser.find_element("css selector", ".tile").click()
    assert browser.execute_script("return dialog.scrollWidth - dialog.clientWidth") <= 0
