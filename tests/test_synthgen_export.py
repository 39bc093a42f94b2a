import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from PIL import Image
from torchvision.datasets import ImageFolder

from synthgen.errors import SynthgenError
from synthgen.export import export_imagefolder
from synthgen.manifest import read_manifest
from synthgen.shard import data_path, read_shard

OPTIONS = "fractal --categories 3 --n 3000 --size 32 --points 500 --shard-size 1000 --out"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, synthgen: Command) -> Path:
    root = tmp_path_factory.mktemp("export") / "set"
    assert synthgen(*OPTIONS.split(), root).returncode == 0
    return root


def silent(done: int) -> None:
    pass


def test_an_export_has_the_published_layout_and_the_pixels_of_the_shards(dataset: Path, tmp_path: Path) -> None:
    manifest = read_manifest(dataset)
    export_imagefolder(manifest, tmp_path / "out", progress=silent)
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {
        f"{category:05d}/{category:05d}_{weight:02d}_count_{patch}_flip{flip}.png"
        for category in range(3)
        for weight in range(25)
        for patch in range(10)
        for flip in range(4)
    }
    for shard in manifest.shards[:1]:
        for item in read_shard(data_path(dataset, manifest.plan.shard(shard.index))):
            path = tmp_path / "out" / str(item.record["class"]) / f"{item.record['name']}.png"
            with Image.open(path) as exported, Image.open(io.BytesIO(item.image)) as stored:
                assert (np.asarray(exported.convert("RGB")) == np.asarray(stored.convert("RGB"))).all()


def test_torchvision_reads_an_export(dataset: Path, tmp_path: Path) -> None:
    export_imagefolder(read_manifest(dataset), tmp_path / "out", progress=silent)
    images = ImageFolder(str(tmp_path / "out"))
    assert len(images) == 3000
    assert images.classes == ["00000", "00001", "00002"]
    assert images[2999][0].mode == "RGB"


def test_a_stopped_export_goes_on_and_keeps_what_stands(dataset: Path, tmp_path: Path) -> None:
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_imagefolder(read_manifest(dataset), tmp_path / "out", progress=stop)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    assert len(before) == 1000
    export_imagefolder(read_manifest(dataset), tmp_path / "out", progress=silent)
    assert len(list((tmp_path / "out").rglob("*.png"))) == 3000
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_unfinished_set_is_not_exported(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "set")
    (tmp_path / "set" / "data" / "fractal-train-000002.json").unlink()
    with pytest.raises(SynthgenError, match="2000 of 3000 images stand"):
        export_imagefolder(read_manifest(tmp_path / "set"), tmp_path / "out", progress=silent)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../00000", "a/b", "..", "a\\b"])
def test_a_class_name_that_leaves_its_folder_is_refused(tmp_path: Path, synthgen: Command, name: str) -> None:
    from dataclasses import replace

    assert synthgen(*OPTIONS.replace("3000", "40").split(), tmp_path / "set").returncode == 0
    manifest = read_manifest(tmp_path / "set")
    content = manifest.plan.content
    renamed = replace(content, categories=(replace(content.categories[0], name=name), *content.categories[1:]))
    manifest = replace(manifest, plan=replace(manifest.plan, content=renamed))
    with pytest.raises(SynthgenError, match="cannot be the name of a file"):
        export_imagefolder(manifest, tmp_path / "out", progress=silent)
    assert not list((tmp_path / "out").rglob("*.png"))
