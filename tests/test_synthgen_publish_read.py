import hashlib
import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from files import contents
from hub import TOKEN, Hub, serving
from PIL import Image
from publishable import SIZE, N, diffusion_set, fractal_set, in_bucket, wanted

from synthgen.dataset.manifest import read_manifest
from synthgen.dataset.plan import read_plan
from synthgen.dataset.shard import read_shard
from synthgen.publishing.export import export
from synthgen.publishing.names import class_folders

Told = list[tuple[str, int, str]]  # key, label, sha256 of the RGB pixels

pytestmark = [  # of third parties
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning:webdataset"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def fractals(tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command, categories: Path) -> Path:
    return fractal_set(tmp_path_factory.mktemp("publish") / "fractals", synthgen_here, categories)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command) -> Path:
    return diffusion_set(tmp_path_factory.mktemp("publish") / "diffusion", synthgen_here)


@pytest.fixture(params=["fractals", pytest.param("diffusion", marks=pytest.mark.slow)])
def dataset(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


READ = """
import hashlib, json, sys
import datasets, numpy as np
for path, arguments, ways in json.loads(sys.argv[1]):
    for streaming in ways:
        loaded = datasets.load_dataset(path, split="train", streaming=streaming, **arguments)
        rows = []
        for row in loaded:
            (image,) = [row[name] for name in ("png", "jpg", "webp") if name in row]
            pixels = hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()
            rows.append((row["__key__"], row["cls"], pixels))
        names = getattr((loaded.features or {}).get("cls"), "names", None)
        print(json.dumps([names, rows]))
"""


def by_datasets(cache: Path, hub: Hub, *calls: tuple[str, dict[str, Any], list[bool]]) -> list[tuple[Any, Told]]:
    """Class names and rows that load_dataset gives, by path, arguments and whether it is to stream."""
    environment = {"HF_HOME": str(cache), "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(calls)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [(names, [(key, label, digest) for key, label, digest in rows]) for names, rows in found]


def pixels(image: Image.Image) -> str:
    return hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()


def by_webdataset(urls: list[str]) -> Told:
    webdataset = pytest.importorskip("webdataset")
    samples = webdataset.WebDataset(urls, shardshuffle=False).decode("pil")
    endings = ("png", "jpg", "webp")
    return [(s["__key__"], s["cls"], pixels(next(s[e] for e in endings if e in s))) for s in samples]


def by_croissant(path: Path, cache: Path) -> Told:
    croissant = pytest.importorskip("mlcroissant")
    from mlcroissant._src.operation_graph.operations import extract

    extract.EXTRACT_PATH = extract.EXTRACT_PATH.__class__(cache)  # it takes tars of one relative name for the same
    rows = croissant.Dataset(str(path)).records("images")
    return [(row["images/key"].decode(), row["images/label"], pixels(row["images/image"])) for row in rows]


def by_harness(path: str) -> tuple[tuple[str, ...], list[int], list[str]]:
    from synthgen_evaluate.design.sources import ShardSource
    from synthgen_evaluate.images.sources import open_source

    source = open_source(ShardSource(kind="shards", path=path), SIZE)
    images = source.decode(np.arange(source.n_images), SIZE)
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    return source.class_names, source.labels.tolist(), digests


def by_torchvision(folder: Path, class_names: tuple[str, ...]) -> Counter[tuple[int, str]]:
    torchvision = pytest.importorskip("torchvision")
    loaded = torchvision.datasets.ImageFolder(str(folder))
    labels = {row.folder: row.label for row in class_folders(class_names)}
    return Counter((labels[loaded.classes[target]], pixels(image)) for image, target in loaded)


def test_a_set_published_to_a_folder_to_s3_and_to_the_hub_is_read_alike_by_every_client(
    dataset: Path, tmp_path: Path, s3: str, s3_server: str, synthgen: Command, synthgen_here: Command
) -> None:
    import s3fs

    folder, url, plan = tmp_path / "there", f"{s3}/sets/one", read_plan(dataset / "plan.json")
    items = [item for path in sorted((dataset / "data").glob("*.tar")) for item in read_shard(path)]
    images = [pixels(Image.open(io.BytesIO(item.image))) for item in items]
    samples = [plan.sample(i) for i in range(N)]
    expected = [(sample.key, sample.label, image) for sample, image in zip(samples, images, strict=True)]
    classes = list(plan.content.class_names)

    for target in (folder, url):
        done = synthgen_here("publish", dataset, "--to", target)
        assert done.returncode == 0, done.stderr
        assert f"{target}: {len(wanted(dataset))} files sent" in done.stdout
    assert contents(folder) == in_bucket(url) == wanted(dataset)
    with serving() as hub:
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        done = synthgen(
            "publish", dataset, "--to", "hf://datasets/ann/set", "--public", env={**os.environ, **environment}
        )
        assert done.returncode == 0, done.stderr
        there = hub.head("ann/set")
        assert there.pop(".gitattributes")
        assert there == wanted(dataset)  # with the repository's name in its card

        stems = [plan.shard(j).stem for j in range(plan.n_shards)]
        s3fs.S3FileSystem().chmod(url, acl="public-read", recursive=True)  # else only with keys
        by_http = [f"{s3_server}/{url.removeprefix('s3://')}/data/{stem}.tar" for stem in stems]
        read = by_datasets(
            tmp_path / "cache",
            hub,
            (str(folder), {}, [True, False]),
            ("ann/set", {}, [True, False]),
            ("webdataset", {"data_files": f"{url}/data/*.tar"}, [False]),  # datasets 5.2 cannot stream tars of s3://
            ("webdataset", {"data_files": by_http}, [True]),
        )
        assert [rows for _, rows in read] == [expected] * 6
        assert [names for names, _ in read[:4]] == [classes] * 4
        on_hub = [f"{hub.endpoint}/datasets/ann/set/resolve/main/data/{stem}.tar" for stem in stems]
        assert by_webdataset(on_hub) == expected
    assert by_webdataset(by_http) == expected
    assert by_webdataset([str(folder / "data" / f"{stem}.tar") for stem in stems]) == expected
    assert sorted(by_croissant(folder / "croissant.json", tmp_path / "extracted")) == expected  # files in any order
    labels = [label for _, label, _ in expected]
    assert by_harness(str(folder)) == by_harness(url) == (tuple(classes), labels, images)
    export(read_manifest(folder), tmp_path / "images", layout="imagefolder", shard_bytes=10**9, progress=lambda n: None)
    assert by_torchvision(tmp_path / "images", tuple(classes)) == Counter(row[1:] for row in expected)
