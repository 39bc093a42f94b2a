import hashlib
import io
import json
import logging
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from PIL import Image

from synthgen.dataset.manifest import Manifest, read_manifest
from synthgen.dataset.plan import Segment
from synthgen.dataset.shard import read_shard
from synthgen.kinds.diffusion.content import DiffusionContent
from synthgen.publishing import statements
from synthgen.publishing.croissant import croissant

mlcroissant = pytest.importorskip("mlcroissant")

N = 45
PROMPTS = Path(__file__).parents[1] / "prompts/quickstart.txt"

pytestmark = [  # of third parties
    pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning"),  # rdflib's own parser
    pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning"),  # mlcroissant, pandas 3
    pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter:DeprecationWarning"),  # mlcroissant
    pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedReader:ResourceWarning"),  # mlcroissant
]


@pytest.fixture(scope="module", params=["patch_gray", "webp"])
def manifest(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command, categories: Path
) -> Manifest:
    out = tmp_path_factory.mktemp("croissant") / "set"
    if request.param == "patch_gray":
        command: tuple[object, ...] = ("fractal", "--categories", categories, "--size", 40, "--points", 1500)
        command += ("--workers", 1)
    else:
        command = ("sd", "--prompts", PROMPTS, "--model", "tiny", "--steps", 1, "--batch", 20)
        command += ("--format", request.param)
    done = synthgen_here(*command, "--n", N, "--shard-size", 20, "--out", out)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(out)
    (out / "croissant.json").write_bytes(croissant(manifest))
    return manifest


@pytest.fixture
def directory(manifest: Manifest) -> Path:
    assert isinstance(manifest.directory, Path)
    return manifest.directory


@pytest.fixture
def record(directory: Path) -> Any:
    return json.loads((directory / "croissant.json").read_bytes())


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mlcroissant keeps what it unpacks under the relative name that it has in every set."""
    from mlcroissant._src.operation_graph.operations import extract

    monkeypatch.setattr(extract, "EXTRACT_PATH", type(extract.EXTRACT_PATH)(tmp_path))


def rgb(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGB"))


def test_records_read_with_images_labels_and_names(manifest: Manifest) -> None:
    dataset = mlcroissant.Dataset(str(manifest.directory / "croissant.json"))
    found = {record["images/key"].decode(): record for record in dataset.records("images")}
    items = [item for shard in manifest.shards for item in read_shard(manifest.directory / "data" / shard.filename)]
    assert sorted(found) == [item.key for item in items]
    for item in items:
        record = found[item.key]
        assert record["images/label"] == item.label
        assert record["images/class"].decode() == manifest.plan.content.class_names[item.label]
        assert hashlib.sha256(item.image).hexdigest() == record["images/sha256"].decode()
        with Image.open(io.BytesIO(item.image)) as image:
            assert np.array_equal(rgb(record["images/image"]), rgb(image))
        told = {name: record[f"images/{name}"] for name in item.record}
        assert {name: value.decode() if isinstance(value, bytes) else value for name, value in told.items()} == (
            item.record
        )


def test_the_classes_are_an_enumeration(manifest: Manifest) -> None:
    dataset = mlcroissant.Dataset(str(manifest.directory / "croissant.json"))
    rows = list(dataset.records("classes"))
    assert [row["classes/label"] for row in rows] == list(range(len(rows)))
    assert tuple(row["classes/name"] for row in rows) == manifest.plan.content.class_names


def test_the_validator_finds_no_error_and_no_warning(manifest: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    path = manifest.directory / "croissant.json"
    with caplog.at_level(logging.WARNING):
        dataset = mlcroissant.Dataset(str(path))
    assert not caplog.records
    issues = dataset.metadata.ctx.issues
    assert (issues.errors, issues.warnings) == (set(), set())
    assert dataset.metadata.ctx.is_v1_1()
    if manifest.plan.content.kind == "fractal":  # the command, once
        command = Path(sys.executable).with_name("mlcroissant"), "validate", "--jsonld", path
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Done." in done.stderr
        assert "WARNING" not in done.stderr


def test_every_file_is_named_with_its_size_and_sum(directory: Path, record: Any) -> None:
    objects = [one for one in record["distribution"] if one["@type"] == "cr:FileObject"]
    files = [
        path.relative_to(directory) for pattern in ("data/*.tar", "metadata/*") for path in directory.glob(pattern)
    ]
    assert {one["contentUrl"] for one in objects} == set(map(str, files))
    for one in objects:
        data = (directory / one["contentUrl"]).read_bytes()
        assert one["contentSize"] == f"{len(data)} B"
        assert one["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_changed_file_is_not_read(directory: Path, record: Any, tmp_path: Path) -> None:
    record["distribution"][0]["sha256"] = "0" * 64
    folder = tmp_path / "changed"
    folder.mkdir()
    for name in ("data", "metadata"):
        (folder / name).symlink_to(directory / name)
    (folder / "croissant.json").write_text(json.dumps(record))
    with pytest.raises(mlcroissant.GenerationError):
        next(iter(mlcroissant.Dataset(str(folder / "croissant.json")).records("images")))


def test_it_says_that_the_images_are_synthetic_and_how_they_were_made(manifest: Manifest, record: Any) -> None:
    kind = "Algorithmic" if manifest.plan.content.kind == "fractal" else "TrainedAlgorithmic"
    assert record["digitalSourceType"] == f"https://schema.org/{kind}MediaDigitalSource"
    assert record["rai:hasSyntheticData"] is True
    assert record["conformsTo"] == ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
    assert record["prov:wasGeneratedBy"]["prov:label"] == "\n".join(
        statements.commands(manifest.plan, manifest.plan.kind.facts(manifest.plan))
    )
    for name in (
        "dataCollection",
        "dataBiases",
        "dataLimitations",
        "dataUseCases",
        "personalSensitiveInformation",
        "dataAnnotationProtocol",
    ):
        assert record[f"rai:{name}"], name
    for name in ("name", "description", "license", "url", "creator", "datePublished", "version", "citeAs"):
        assert record[name], name


def test_the_date_is_that_of_the_last_shard(manifest: Manifest, directory: Path, record: Any) -> None:
    today = datetime.now(UTC)
    assert record["datePublished"] in {f"{today:%Y-%m-%d}", f"{today - timedelta(hours=1):%Y-%m-%d}"}
    assert croissant(manifest) == (directory / "croissant.json").read_bytes()


def test_a_grown_set_has_another_minor_version(manifest: Manifest, record: Any) -> None:
    digest = manifest.plan.digest[:16]
    assert record["version"] == f"1.0.0+{digest}"
    grown = replace(manifest.plan, segments=(*manifest.plan.segments, Segment(start=N, stop=90, shard_size=9)))
    assert json.loads(croissant(replace(manifest, plan=grown)))["version"] == f"1.1.0+{digest}"


@pytest.mark.parametrize("manifest", ["webp"], indirect=True)
def test_hostile_names_stand_as_they_are(manifest: Manifest, tmp_path: Path) -> None:
    content = manifest.plan.content
    assert isinstance(content, DiffusionContent)
    names = ("<script>", 'a"b\\', "line\nbreak", "@id", "\U0001f41f", "http://x.org/", "{}", "", " ", "\x00")
    classes = replace(content.classes, ids=names, names=names)
    hostile = replace(manifest, plan=replace(manifest.plan, content=replace(content, classes=classes)))
    path = tmp_path / "croissant.json"
    path.write_bytes(croissant(hostile, warnings=["<b>damaged</b>"]))
    rows = mlcroissant.Dataset(str(path)).records("classes")
    assert tuple(row["classes/name"] for row in rows) == names
    assert json.loads(path.read_bytes())["description"].startswith("<b>damaged</b> ")


def test_on_the_hub_it_names_owner_and_page(manifest: Manifest) -> None:
    record = json.loads(croissant(manifest, repo="user/my-set"))
    assert record["name"] == "my-set"
    assert record["url"] == "https://huggingface.co/datasets/user/my-set"
    assert record["creator"]["name"] == "user"
    assert all("://" not in one.get("contentUrl", "") for one in record["distribution"])  # one file for every place
