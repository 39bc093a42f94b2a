"""Sources at URLs: a dataset whose shards are fetched into the cache, and image folders."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from conftest import Command

from synthgen.dataset import opened
from synthgen.dataset.manifest import read_manifest
from synthgen.publishing.export import export
from synthgen.storage.object_store import OBJECTS
from synthgen_evaluate.design.sources import FolderSource, ShardSource
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.images.shard_source import Shards
from synthgen_evaluate.images.sources import ImageFolder, open_source

N, SIZE = 200, 32
EVERYTHING = np.arange(N)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command, categories: Path) -> Path:
    out = tmp_path_factory.mktemp("remote") / "set"
    settings = ("--n", N, "--size", SIZE, "--points", 800, "--shard-size", 50, "--workers", 1)
    done = synthgen_here("fractal", "--out", out, "--categories", categories, *settings)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "synthgen"


@pytest.fixture
def memory(dataset: Path, tmp_path: Path) -> Iterator[str]:
    """The set in fsspec's memory."""
    yield copied(dataset, f"memory://{tmp_path.name}/set")
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def copied(dataset: Path, url: str) -> str:
    there = OBJECTS.place(url)
    there.fs.put(f"{dataset}/", there.path, recursive=True)
    return url


def stored(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


class Gets:
    """What is fetched from a file system, in order; ``between`` runs when a file is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        self.names: list[str] = []
        self.between = lambda target: None
        kind = type(fsspec.url_to_fs(url)[0])
        get = kind.get_file

        def counted(store: Any, origin: str, target: str, *args: Any, **options: Any) -> object:
            self.names.append(origin.rpartition("/")[2])
            found = get(store, origin, target, *args, **options)
            self.between(target)
            return found

        monkeypatch.setattr(kind, "get_file", counted)


def the_same(remote: Shards, local: Shards) -> None:
    assert remote.identity == local.identity
    assert remote.class_names == local.class_names
    assert (remote.labels == local.labels).all()
    for one, other in zip(remote.decode(EVERYTHING, SIZE), local.decode(EVERYTHING, SIZE), strict=True):
        assert (one == other).all()


def test_a_set_on_s3_is_the_set_on_the_disk(dataset: Path, s3: str, cache: Path) -> None:
    url = copied(dataset, f"{s3}/sets/fractals")
    remote = open_source(ShardSource(kind="shards", path=url), SIZE)
    assert isinstance(remote, Shards)
    assert not cache.exists()  # nothing is fetched before an image is wanted
    the_same(remote, Shards(str(dataset)))
    shards = sorted(path.read_bytes() for path in dataset.glob("data/*.tar"))
    assert sorted(path.read_bytes() for path in stored(cache)) == shards
    assert open_source(ShardSource(kind="shards", path=url), SIZE) is remote
    with pytest.raises(EvaluateError, match=f"^{url}: its images have no text$"):
        remote.captions(EVERYTHING, None)


def test_a_shard_is_fetched_when_first_needed_and_once(
    dataset: Path, memory: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gets = Gets(monkeypatch, memory)
    source = Shards(memory)
    list(source.decode(np.array([60, 61]), SIZE))
    assert gets.names == ["fractal-train-000001.tar"]
    with ThreadPoolExecutor(8) as pool:
        orders = [np.random.default_rng(seed).permutation(N) for seed in range(16)]
        found = list(pool.map(lambda order: np.stack(list(source.decode(order, SIZE))), orders))
    for order, images in zip(orders, found, strict=True):
        assert (images == np.stack(list(Shards(str(dataset)).decode(order, SIZE)))).all()
    assert sorted(gets.names) == [f"fractal-train-{k:06d}.tar" for k in range(4)]
    the_same(Shards(memory), Shards(str(dataset)))  # another run reads the cache
    assert len(gets.names) == 4
    store = fsspec.filesystem("memory")
    for path in store.glob(f"{memory.removeprefix('memory://')}/data/*.tar"):
        store.pipe_file(path, bytes(store.size(path)))  # whoever asks for it again will see
    the_same(Shards(memory), Shards(str(dataset)))


def test_sets_of_one_plan_whose_shards_differ_have_copies_of_their_own(
    dataset: Path, memory: str, tmp_path: Path, cache: Path
) -> None:
    list(Shards(memory).decode(EVERYTHING, SIZE))
    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    tar = other / "data" / "fractal-train-000000.tar"
    tar.write_bytes(tar.read_bytes() + bytes(512))
    amend(tar, n_bytes=tar.stat().st_size, sha256=sha256(tar))
    list(Shards(copied(other, f"{memory}-other")).decode(EVERYTHING, SIZE))
    assert len(stored(cache)) == 5


def sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def amend(tar: Path, **fields: object) -> None:
    record = json.loads(tar.with_suffix(".json").read_text())
    tar.with_suffix(".json").write_text(json.dumps(record | fields))


def test_a_damaged_shard_at_a_url_is_named_and_not_kept(memory: str, cache: Path) -> None:
    store = fsspec.filesystem("memory")
    path = f"{memory.removeprefix('memory:/')}/data/fractal-train-000001.tar"
    data = bytearray(store.cat_file(path))
    data[5000] ^= 1
    store.pipe_file(path, bytes(data))
    source = Shards(memory)
    for _ in range(2):
        with pytest.raises(EvaluateError, match=r"fractal-train-000001\.tar: \d+ bytes with another SHA-256") as told:
            list(source.decode(EVERYTHING, SIZE))
        assert "\n" not in str(told.value)
    assert [found.name.partition("-")[0] for found in stored(cache)] == ["000000"]
    data[5000] ^= 1
    store.pipe_file(path, bytes(data))
    assert len(list(source.decode(EVERYTHING, SIZE))) == N


def test_a_shard_that_vanished_is_named(memory: str) -> None:
    source = Shards(memory)
    fsspec.filesystem("memory").rm_file(f"{memory.removeprefix('memory:/')}/data/fractal-train-000002.tar")
    with pytest.raises(EvaluateError, match=r"^memory://.*fractal-train-000002\.tar: cannot be read"):
        list(source.decode(EVERYTHING, SIZE))


def test_a_record_cannot_choose_where_its_copy_lies(dataset: Path, tmp_path: Path, cache: Path) -> None:
    shutil.copytree(dataset, tmp_path / "set")
    amend(tmp_path / "set" / "data" / "fractal-train-000000.tar", sha256="../../outside")
    url = copied(tmp_path / "set", f"memory://{tmp_path.name}-hostile")
    with pytest.raises(EvaluateError, match="150 of 200 images are there"):
        Shards(url)
    assert not cache.exists()


def test_an_unfinished_set_at_a_url_is_refused(memory: str) -> None:
    fsspec.filesystem("memory").rm_file(f"{memory.removeprefix('memory:/')}/data/fractal-train-000002.json")
    with pytest.raises(EvaluateError, match=f"^{memory}: 150 of 200 images are there"):
        Shards(memory)


FETCH = """
import os, signal, sys
import numpy as np
from synthgen_evaluate.images.shard_source import Shards
import s3fs

def cut(store, origin, target, **options):
    with open(target, "wb") as file:
        file.write(store.cat_file(origin)[:5000])
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "killed":
    s3fs.S3FileSystem.get_file = cut
print(len(list(Shards(sys.argv[1]).decode(np.arange(200), 32))))
"""


def test_a_killed_download_leaves_nothing_that_counts(dataset: Path, s3: str, cache: Path) -> None:
    url = copied(dataset, f"{s3}/set")
    killed = subprocess.run([sys.executable, "-c", FETCH, url, "killed"], capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.suffix for path in stored(cache)] == [".tmp"]
    source = Shards(url)
    assert stored(cache) == []
    the_same(source, Shards(str(dataset)))


def test_an_interrupted_download_leaves_nothing(memory: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(target: str) -> None:
        assert Path(target).stat().st_size
        raise KeyboardInterrupt

    Gets(monkeypatch, memory).between = interrupt
    with pytest.raises(KeyboardInterrupt):
        list(Shards(memory).decode(EVERYTHING, SIZE))
    assert stored(cache) == []


def test_of_two_that_want_a_shard_one_fetches_it(memory: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gets, holding, go_on = Gets(monkeypatch, memory), threading.Event(), threading.Event()

    def wait(target: str) -> None:
        holding.set()
        assert go_on.wait(30)

    gets.between = wait
    first, second = Shards(memory), Shards(memory)  # with locks of their own, as two processes have
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(lambda: len(list(first.decode(np.arange(50), SIZE))))
        assert holding.wait(30)
        other = pool.submit(lambda: len(list(second.decode(np.arange(50), SIZE))))
        time.sleep(3 * opened.POLL)
        assert not other.done()
        go_on.set()
        assert (one.result(30), other.result(30)) == (50, 50)
    assert gets.names == ["fractal-train-000000.tar"]
    assert len(stored(cache)) == 1


def test_a_full_disk_is_told_in_one_line(memory: str, cache: Path) -> None:
    cache.mkdir(parents=True)
    size = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(cache)]
    if os.geteuid() != 0 or subprocess.run(size, capture_output=True).returncode:
        pytest.skip("mounting a small device needs root")
    try:
        with pytest.raises(EvaluateError, match=r"^no space left on the device at .*XDG_CACHE_HOME") as told:
            list(Shards(memory).decode(EVERYTHING, SIZE))
        assert "\n" not in str(told.value)
        assert stored(cache) == []
    finally:
        subprocess.run(["umount", str(cache)], check=True)


def test_a_cache_that_cannot_be_written_is_told_in_one_line(memory: str, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file")
    with pytest.raises(EvaluateError, match=r"cannot be written .* set XDG_CACHE_HOME$"):
        list(Shards(memory).decode(EVERYTHING, SIZE))


def test_the_cache_is_in_the_home_folder_where_nothing_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "relative"):  # which the XDG specification tells to pass over
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert opened.cache_folder() == Path.home() / ".cache" / "synthgen"


@pytest.mark.parametrize("kind", ["shards", "folder"])
def test_what_cannot_be_reached_is_told_in_one_line_without_keys(
    kind: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    def opened(url: str) -> str:
        s3fs.S3FileSystem.clear_instance_cache()
        spec = ShardSource(kind="shards", path=url) if kind == "shards" else FolderSource(kind="folder", path=url)
        with pytest.raises(EvaluateError) as told:
            open_source(spec, SIZE)
        text = str(told.value)
        assert "\n" not in text
        assert "secret-of-s3" not in text
        assert url in text
        return text

    opened(f"{s3}/nothing-there")
    opened("s3://no-such-bucket-here/set")
    opened("nowhere://bucket/set")
    if kind == "shards":  # once is enough: s3fs tries again for some seconds, botocore in each of these for many
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens
        opened(f"{s3}/set")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    assert "pip install 'synthgen[s3]'" in opened("s3://bucket/set")


def test_an_exported_image_folder_on_s3_has_the_names_and_labels_of_the_set(
    dataset: Path, s3: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(read_manifest(dataset), out, layout="imagefolder", shard_bytes=1, progress=lambda done: None)
    local, remote = ImageFolder(str(out)), ImageFolder(copied(out, f"{s3}/images"))
    assert remote.class_names == local.class_names == Shards(str(dataset)).class_names
    assert remote.identity == local.identity
    for one, other in zip(remote.decode(EVERYTHING, SIZE), local.decode(EVERYTHING, SIZE), strict=True):
        assert (one == other).all()


def test_a_table_that_does_not_fit_its_folders_is_refused(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(read_manifest(dataset), out, layout="imagefolder", shard_bytes=1, progress=lambda done: None)
    (out / "00000").rename(out / "renamed")
    with pytest.raises(EvaluateError, match=r"folder renamed is not in its classes\.json"):
        ImageFolder(str(out))
    before = (out / "classes.json").read_text()
    (out / "classes.json").write_text("{}")
    with pytest.raises(EvaluateError, match=r"classes\.json: "):
        ImageFolder(str(out))
    (out / "classes.json").unlink()
    assert "renamed" in ImageFolder(str(out)).class_names
    (out / "renamed").rename(out / "00000")
    plain = ImageFolder(str(out)).identity
    (out / "classes.json").write_text(before)
    assert ImageFolder(str(out)).identity != plain  # its labels may differ from those of the folders' order
