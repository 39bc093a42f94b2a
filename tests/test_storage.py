"""What every kind of place does alike.  A store that is added is added to KINDS."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_store
from conftest import Command
from fsspec.implementations.memory import MemoryFileSystem
from pretend import lay, plan

from synthgen.common.errors import SynthgenError
from synthgen.dataset.manifest import read_manifest
from synthgen.dataset.shard import data_path, record_path, table_path, write_shard
from synthgen.dataset.verify import check
from synthgen.engines.generate import generate, open_directory, replace_plan, stored_plan
from synthgen.engines.watch import Observer
from synthgen.storage import places
from synthgen.storage.places import place, store_of
from synthgen.storage.reading import opened, read_file
from synthgen.storage.store import Place

KINDS = ("folder", "memory", "s3", "shelf")
PLAN = plan(30)  # 3 shards of 10 fractals


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A place of each kind, where nothing is yet."""
    monkeypatch.setattr(places, "STORES", [toy_store.SHELVES, *places.STORES])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "s3":
        pytest.importorskip("s3fs")
        yield f"{request.getfixturevalue('s3')}/set"
        return
    yield {
        "folder": f"{tmp_path}/set",
        "memory": "memory://alike/set",
        "shelf": "shelf://alike/set",
    }[request.param]
    toy_store.FILES.clear()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def root(url: str) -> Place:
    return place(url)


def contents(root: Place) -> dict[str, bytes]:
    names = store_of(root).listing(root)
    return {name: read_file(root / name) for name in names if not name.endswith("/")}


def filled(root: Any, n: int = 30) -> dict[str, bytes]:
    open_directory(root, plan(n))
    generate(root, workers=1)
    return contents(root)


def test_what_is_written_is_read_sized_listed_and_removed(root: Place, tmp_path: Path) -> None:
    store = store_of(root)
    files = {"plan.json": b"{}", "data/x.tar": b"tar", "data/y.json": b"1", "metadata/x.parquet": b""}
    for name, data in {**files, "other/deep.txt": b"?"}.items():
        store.write(store.target(root, name), data)
        store.write(store.target(root, name), data)
    assert store.listing(root) == {**{name: len(data) for name, data in files.items()}, "other/": 0}
    assert sorted(store.names_in(root / "data")) == ["x.tar", "y.json"]
    assert store.names_in(root / "nowhere") == []
    assert {name: read_file(root / name) for name in files} == files
    with opened(root / "data/x.tar") as file:
        assert file.read(2) == b"ta"
    store.fetch(root / "data/x.tar", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"tar"
    assert (store.size(root / "data/x.tar"), store.size(root / "data/z.tar")) == (3, None)
    assert store.exists(root / "plan.json")
    for _ in range(2):
        store.remove(root / "plan.json")
    assert not store.exists(root / "plan.json")
    with pytest.raises(FileNotFoundError):
        read_file(root / "plan.json")
    with pytest.raises(SynthgenError, match=r"plan\.json: cannot be read"), opened(root / "plan.json"):
        pass


@pytest.mark.parametrize("name", ["../x", "/x", "data/../../x", "a//b", "", "a\\b", "."])
def test_no_name_leaves_a_set(root: Place, name: str) -> None:
    with pytest.raises(SynthgenError, match="is not the name of a file within it"):
        store_of(root).target(root, name)


def test_a_file_is_created_once_and_replaced_only_as_it_was(root: Place) -> None:
    store, path = store_of(root), root / "plan.json"
    assert store.create(path, b"first")
    assert store.create(path, b"first")  # an answer that was lost
    assert not store.create(path, b"second")
    assert not store.replace(path, b"second", unchanged=lambda: read_file(path) == b"other", first=pytest.fail)
    done: list[bytes] = []
    unchanged, first = lambda: read_file(path) == b"first", lambda: done.append(read_file(path))
    assert store.replace(path, b"second", unchanged=unchanged, first=first)
    assert (done, read_file(path)) == ([b"first"], b"second")
    for data in (b"second", b"third"):
        store.update(path, data)
    assert read_file(path) == b"third"


def test_a_claim_is_one_worker_s_until_it_is_dropped_lost_or_taken_over(root: Place) -> None:
    store, path = store_of(root), root / "claims/x.json"
    store.write(root / "plan.json", b"{}")
    mine = store.claim(path, b"mine", force=False, timeout=60.0)
    assert mine is not None
    mine.renew(b"still mine")
    assert read_file(path) == b"still mine"
    assert (store.claim(path, b"another", force=False, timeout=60.0) is not None) == store.locks
    taken = store.claim(path, b"taken over", force=True, timeout=0.0)
    assert taken is not None
    time.sleep(0.01)
    assert taken.lost != store.locks
    assert read_file(path) == b"taken over"
    mine.drop()
    assert not store.exists(path)


def test_nothing_of_a_shard_is_seen_before_it_is_committed_and_then_all(root: Place) -> None:
    store, span = store_of(root), PLAN.shard(0)
    paths = tar, table, record = [one(root, span) for one in (data_path, table_path, record_path)]
    with store.draft(tar, table, record, lambda: False) as draft:
        assert draft is not None
        draft.file.write(b"half of it")
        assert [store.exists(path) for path in paths] == [False] * 3
    assert [store.exists(path) for path in paths] == [False] * 3
    with store.draft(tar, table, record, lambda: False) as draft:
        assert draft is not None
        draft.file.write(b"a tar")
        assert store.is_locked(tar) == store.locks
        assert draft.commit(b"a table", b"a record")
    assert [read_file(path) for path in paths] == [b"a tar", b"a table", b"a record"]
    with store.draft(tar, table, record, lambda: True) as draft:
        assert draft is None
    store.clear(root)
    assert len(contents(root)) == 3


def test_a_set_is_made_taken_up_grown_and_verified_with_the_bytes_of_a_folder(
    root: Place, url: str, tmp_path: Path, synthgen_here: Command
) -> None:
    lay(root, PLAN)
    renderer = PLAN.kind.renderer(PLAN)
    span = PLAN.shard(1)
    items = renderer.render(PLAN.sample(index) for index in range(span.start, span.stop))
    assert write_shard(root, span, items, plan_digest=PLAN.digest, environment=renderer.environment)
    assert [shard.index for shard in read_manifest(root).shards] == [1]
    assert filled(root) == filled(tmp_path / "local")
    store = store_of(root)
    store.remove(table_path(root, span))
    store.write(data_path(root, PLAN.shard(2)), b"cut")
    assert {fault.name for fault in check(root)} >= {f"metadata/{span.stem}.parquet", f"data/{PLAN.shard(2).stem}.tar"}
    assert filled(root, 50) == filled(tmp_path / "local", 50)
    assert check(root) == []
    assert Observer(root).look()["complete"]
    done = synthgen_here("verify", url)
    assert (done.returncode, done.stdout) == (0, f"{url}: 5 shards, 0 defects\n")


def test_two_plans_at_once_leave_one(root: Place) -> None:
    ready, taken = threading.Barrier(2), list[bool]()

    def offer(seed: int) -> None:
        ready.wait()
        taken.append(replace_plan(root, None, plan(30, seed=seed)))

    threads = [threading.Thread(target=offer, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    there = stored_plan(root)
    assert there is not None
    assert taken.count(True) == 1


def test_a_set_is_published_there_and_read_exported_and_trained_on_from_there(
    url: str, tmp_path: Path, synthgen_here: Command
) -> None:
    from synthgen_evaluate.images.shard_source import Shards

    filled(tmp_path / "local")
    for _ in range(2):  # the second finds everything there
        done = synthgen_here("publish", tmp_path / "local", "--to", url)
        assert done.returncode == 0, done.stderr
    assert f"{url}: 0 files sent" in done.stdout
    assert contents(place(url)) == contents(tmp_path / "local")
    there, here = Shards(url), Shards(str(tmp_path / "local"))
    assert there.identity == here.identity
    for one, other in zip(there.decode(np.arange(30), 32), here.decode(np.arange(30), 32), strict=True):
        assert (one == other).all()
    assert synthgen_here("export", url, "--out", tmp_path / "out", "--format", "webdataset").returncode == 0
    assert len(list((tmp_path / "out/data").iterdir())) == 1
