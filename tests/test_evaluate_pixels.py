import errno
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.images import pixelfile
from synthgen_evaluate.images.pixels import (
    Assembled,
    Composite,
    Identified,
    PixelCache,
    Pixels,
    Source,
    Stored,
    Streamed,
    clear,
    entries,
)
from synthgen_evaluate.images.sources import ImageFolder, Joined

SIZE = 37  # 4,107 bytes an image: not a multiple of a block
IMAGE_BYTES = 3 * SIZE**2


def picture(index: int, size: int = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(index).integers(1, 256, (size, size, 3), np.uint8)


class Numbered:
    """A source of random pictures that counts what it decodes; some of them may be broken."""

    def __init__(self, n: int, name: str = "numbered", broken: tuple[int, ...] = (), wait: float = 0) -> None:
        self.origin: tuple[str, ...] = (name,)
        self.n_images, self.broken, self.wait = n, broken, wait
        self.identity: dict[str, Any] = {"kind": name, "n_images": n}
        self.class_names: tuple[str, ...] = ("a", "b")
        self.labels = np.arange(n) % 2
        self.decoded: list[int] = []

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        for index in indices.tolist():
            if index in self.broken:
                raise EvaluateError(f"image {index}: broken")
            time.sleep(self.wait)
            self.decoded.append(index)
            yield picture(index, size)

    def captions(self, indices: NDArray[np.int64], names: Mapping[str, str] | None) -> list[str]:
        raise NotImplementedError


def ask(cache: PixelCache, source: Any, indices: Any, told: list[int] | None = None) -> Pixels:
    heard = list[int]() if told is None else told
    return cache.open(source, np.asarray(indices, np.int64), SIZE, progress=heard.append)


def check(pixels: Pixels, indices: Any) -> None:
    assert len(pixels) == len(indices)
    assert pixels.size == SIZE
    found = pixels.take(np.arange(len(indices)))
    assert found.dtype == np.uint8
    assert found.shape == (len(indices), SIZE, SIZE, 3)
    for index, image in zip(indices, found, strict=True):
        assert (image == picture(index)).all()


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def test_images_are_the_same_from_the_cache_and_streamed_bit_for_bit(tmp_path: Path) -> None:
    for number in range(40):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number, 20 + 7 * number)).save(path)
    source = ImageFolder(str(tmp_path / "images"))
    chosen = np.random.default_rng(0).permutation(40)[:30]
    kept = ask(PixelCache(tmp_path / "cache"), source, chosen)
    streamed = ask(PixelCache(tmp_path / "none", limit=0), source, chosen)
    assert isinstance(kept, Stored)
    assert not kept.decodes
    assert isinstance(streamed, Streamed)
    assert streamed.decodes
    assert list((tmp_path / "none").iterdir()) == []
    plain = np.stack(list(source.decode(chosen, SIZE)))
    for places in (np.arange(30), np.array([7]), np.array([29, 0, 7, 7]), np.array([], np.int64)):
        assert (kept.take(places) == plain[places]).all()
        assert (streamed.take(places) == plain[places]).all()


@given(st.lists(st.lists(st.integers(0, 59), max_size=70), min_size=1, max_size=4))
def test_any_selections_give_their_images_and_decode_each_image_once(
    tmp_path_factory: pytest.TempPathFactory, selections: list[list[int]]
) -> None:
    folder, source = tmp_path_factory.mktemp("cache"), Numbered(60)
    cache = PixelCache(folder)
    opened = [ask(cache if number % 2 else PixelCache(folder), source, own) for number, own in enumerate(selections)]
    for pixels, own in zip(opened, selections, strict=True):
        check(pixels, own)
    assert sorted(source.decoded) == sorted(set().union(*selections))


def test_images_at_another_size_or_of_another_identity_are_apart(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path)
    check(ask(cache, Numbered(9), range(9)), range(9))
    other = Numbered(9, "other")
    check(ask(cache, other, range(9)), range(9))
    assert len(other.decoded) == 9
    small = cache.open(other, np.arange(9), 8, progress=print)
    assert small.take(np.array([3])).shape == (1, 8, 8, 3)
    assert len(other.decoded) == 18
    assert len(entries(tmp_path)) == 3


def test_a_split_of_a_task_takes_its_identity_from_the_task(tmp_path: Path) -> None:
    splits = [
        Identified(decoder=Numbered(5), identity={"kind": "task", "split": split}, n_images=5)
        for split in ("val", "test")
    ]
    for split in splits:
        check(ask(PixelCache(tmp_path), split, range(5)), range(5))
    assert sorted(entry.what for entry in entries(tmp_path)) == ["kind task, split test", "kind task, split val"]


def test_progress_counts_the_images_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixelfile, "CHUNK", 10)
    source, cache = Numbered(100), PixelCache(tmp_path)
    told: list[int] = []
    ask(cache, source, range(40), told)
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, 40)
    told.clear()
    ask(cache, source, [*range(20, 100), 20], told)
    assert told == sorted(told)
    assert (told[0], told[-1]) == (21, 81)
    told.clear()
    ask(cache, Joined([source, Numbered(50, "more")]), [*range(100), 120, 101], told)
    assert told == sorted(told)
    assert (told[0], told[-1]) == (100, 102)


def test_a_failed_decoding_is_told_and_leaves_the_images_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixelfile, "CHUNK", 10)
    cache = PixelCache(tmp_path)
    with pytest.raises(EvaluateError, match=r"^image 35: broken$"):
        ask(cache, Numbered(100, broken=(35, 90)), range(100))
    whole = Numbered(100)
    check(ask(cache, whole, range(100)), range(100))
    assert set(whole.decoded) <= set(range(35, 100))


SLOW = """
import sys, numpy as np
sys.path.insert(0, {tests!r})
from synthgen_evaluate.images import pixelfile
pixelfile.CHUNK, pixelfile.COMMIT_EVERY = 5, 0.02
from test_evaluate_pixels import Numbered, PixelCache, SIZE
from pathlib import Path
source = Numbered(300, wait={wait})
print("go", flush=True)
pixels = PixelCache(Path({folder!r})).open(source, np.arange({start}, {stop}), SIZE, progress=lambda done: None)
print(len(source.decoded), hash(pixels.take(np.arange(len(pixels))).tobytes()) if {stop} == 300 else 0, flush=True)
"""


def begin(folder: Path, start: int = 0, stop: int = 300, wait: float = 0.002) -> subprocess.Popen[str]:
    """Fill a cache slowly in a process of its own; returns when it has begun."""
    script = SLOW.format(tests=str(Path(__file__).parent), folder=str(folder), start=start, stop=stop, wait=wait)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    return process


def test_killed_at_any_moment_a_cache_stays_valid_and_is_filled_up(tmp_path: Path) -> None:
    moments = random.Random(1)
    for number in range(3):
        process = begin(tmp_path, wait=0.005)
        time.sleep(moments.uniform(0, 0.15))
        while number == 2 and not any(entry.n_present for entry in entries(tmp_path)):
            time.sleep(0.001)
        process.kill()
        assert process.communicate()[0] == ""  # it was at it
    source = Numbered(300)
    check(ask(PixelCache(tmp_path), source, range(300)), range(300))
    assert 0 < len(source.decoded) < 300


def test_a_file_killed_before_it_was_laid_out_is_begun_anew(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path)
    ask(cache, Numbered(20), range(20))
    (path,) = tmp_path.iterdir()
    for length in (0, 30):
        content = path.read_bytes()[:length]
        path.unlink()
        path.write_bytes(content)
        source = Numbered(20)
        check(ask(cache, source, range(20)), range(20))
        assert len(source.decoded) == 20


def test_two_processes_decode_every_image_once(tmp_path: Path) -> None:
    processes = [begin(tmp_path, 0, 200), begin(tmp_path, 100, 300), begin(tmp_path, 0, 300)]
    counts = [int(process.communicate()[0].split()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(counts) == 300
    source = Numbered(300)
    check(ask(PixelCache(tmp_path), source, range(300)), range(300))
    assert source.decoded == []


def test_a_damaged_file_is_noticed_and_begun_anew_while_others_read_the_old_one(tmp_path: Path) -> None:
    old = ask(PixelCache(tmp_path), Numbered(20), range(20))
    (path,) = tmp_path.iterdir()
    with path.open("ab") as file:
        file.write(b"more")
    source = Numbered(20)
    new = ask(PixelCache(tmp_path), source, range(20))
    assert len(source.decoded) == 20
    for pixels in (old, new):
        check(pixels, range(20))
    os.truncate(path, path.stat().st_size // 2)
    check(ask(PixelCache(tmp_path), source, range(20)), range(20))
    assert len(source.decoded) == 40


def test_a_full_disk_is_told_in_one_line_and_what_was_decoded_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixelfile, "CHUNK", 10)
    room, write, lock = [20 * IMAGE_BYTES], os.pwrite, threading.Lock()

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        with lock:
            if len(data) == IMAGE_BYTES and room[0] == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken = min(len(data), room[0]) if len(data) == IMAGE_BYTES else len(data)
            room[0] -= taken if len(data) == IMAGE_BYTES else 0
            return write(descriptor, data[:taken], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    cache = PixelCache(tmp_path)
    with pytest.raises(EvaluateError, match=r"\.pixels: no space left for decoded images; .* run again$") as told:
        ask(cache, Numbered(100), range(100))
    assert "\n" not in str(told.value)
    monkeypatch.undo()
    source = Numbered(100)
    check(ask(cache, source, range(100)), range(100))
    assert len(source.decoded) == 80


def test_a_disk_that_is_full_from_the_start_and_a_folder_that_is_none_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(EvaluateError, match=r"decoded images cannot be kept there .*Not a directory"):
        ask(PixelCache(tmp_path / "file" / "cache"), Numbered(3), range(3))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(EvaluateError, match="no space left"):
        ask(PixelCache(tmp_path / "cache"), Numbered(3), range(3))


def test_the_least_recently_used_images_make_room(tmp_path: Path) -> None:
    one, two, three = (Numbered(40, name) for name in ("one", "two", "three"))
    for number, source in enumerate((one, two)):
        ask(PixelCache(tmp_path), source, range(40))
        (path,) = (entry.path for entry in entries(tmp_path) if source.identity["kind"] in entry.what)
        os.utime(path, (number, number))
    ask(PixelCache(tmp_path), one, range(3))  # used again
    limit = on_disk(tmp_path) + 8192
    pixels = ask(PixelCache(tmp_path, limit), three, range(40))
    check(pixels, range(40))
    assert not pixels.decodes
    assert [entry.what.split(",")[0] for entry in entries(tmp_path)] == ["kind three", "kind one"]
    assert on_disk(tmp_path) <= limit


def test_images_in_use_stay_and_others_are_then_streamed(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path, limit=50 * pixelfile.BLOCK)
    first = ask(cache, Numbered(40, "one"), range(40))
    second = ask(cache, Numbered(40, "two"), range(40))
    assert (first.decodes, second.decodes) == (False, True)
    for pixels in (first, second):
        check(pixels, range(40))
    assert len(entries(tmp_path)) == 1


def test_what_is_larger_than_the_limit_is_streamed_and_removes_nothing(tmp_path: Path) -> None:
    ask(PixelCache(tmp_path), Numbered(10, "one"), range(10))
    limit = on_disk(tmp_path)
    pixels = ask(PixelCache(tmp_path, limit), Numbered(40, "two"), range(40))
    assert pixels.decodes
    check(pixels, range(40))
    assert [entry.n_present for entry in entries(tmp_path)] == [10]


def test_images_of_the_same_source_that_are_not_in_use_make_room_too(tmp_path: Path) -> None:
    ask(PixelCache(tmp_path), Numbered(100), range(60))
    limit = on_disk(tmp_path) + 8192
    source = Numbered(100)
    pixels = ask(PixelCache(tmp_path, limit), source, range(50, 100))
    assert not pixels.decodes
    check(pixels, range(50, 100))
    assert sorted(source.decoded) == list(range(50, 100))
    assert on_disk(tmp_path) <= limit


@given(st.integers(-3, 40), st.integers(0, 60), st.booleans())
def test_a_limit_holds_wherever_it_lies(
    tmp_path_factory: pytest.TempPathFactory, blocks: int, start: int, other: bool
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    ask(PixelCache(folder), Numbered(100), range(start, start + 30))
    if other:
        ask(PixelCache(folder), Numbered(10, "other"), range(10))
    limit = 31 * IMAGE_BYTES + blocks * pixelfile.BLOCK
    cache = PixelCache(folder, limit)
    for indices in (range(40, 70), range(60, 80)):
        before, source = on_disk(folder), Numbered(100)
        pixels = ask(cache, source, indices)
        assert pixels.decodes or not source.decoded or on_disk(folder) <= limit
        assert on_disk(folder) <= max(limit, before)
        check(pixels, indices)
    assert not ask(PixelCache(folder, limit + 40 * pixelfile.BLOCK), Numbered(100), range(0, 30)).decodes


@given(st.lists(st.integers(0, 99), min_size=1, max_size=60), st.lists(st.integers(0, 99), min_size=1, max_size=60))
def test_missing_bytes_is_what_the_folder_then_grows_by(
    tmp_path_factory: pytest.TempPathFactory, first: list[int], second: list[int]
) -> None:
    folder, source = tmp_path_factory.mktemp("cache"), Numbered(100)
    cache = PixelCache(folder)
    asked: list[tuple[Source | Composite, NDArray[np.int64]]] = [
        (source, np.array(first)),
        (Joined([Numbered(3, "other"), source]), np.array(second) + 3),
    ]
    told = cache.missing_bytes(asked, SIZE)
    ask(cache, *asked[0])
    ask(cache, *asked[1])
    head = 2 * pixelfile.BLOCK
    assert abs(on_disk(folder) - told) <= head
    assert cache.missing_bytes(asked, SIZE) == 0
    assert PixelCache(folder, limit=on_disk(folder)).missing_bytes([(source, np.arange(100))], SIZE) == 0


def test_joined_sources_keep_their_images_as_the_sources_do(tmp_path: Path) -> None:
    one, two = Numbered(30, "one"), Numbered(30, "two")
    cache = PixelCache(tmp_path)
    ask(cache, one, range(0, 30, 2))
    chosen = np.random.default_rng(0).permutation(60)[:45]
    pixels = ask(cache, Joined([one, two]), chosen)
    assert isinstance(pixels, Assembled)
    assert not pixels.decodes
    check(pixels, chosen % 30)
    assert (pixels.take(np.array([44, 3])) == np.stack([picture(chosen[44] % 30), picture(chosen[3] % 30)])).all()
    assert len(one.decoded) == len(set(one.decoded))
    before = len(two.decoded)
    check(ask(cache, two, chosen[chosen >= 30] - 30), chosen[chosen >= 30] - 30)
    assert len(two.decoded) == before
    assert len(entries(tmp_path)) == 2
    half = ask(PixelCache(tmp_path / "none", limit=0), Joined([one, two]), chosen)
    assert half.decodes
    check(half, chosen % 30)


def test_entries_say_what_a_cache_holds_and_clear_empties_it_under_its_readers(tmp_path: Path) -> None:
    assert entries(tmp_path / "missing") == []
    source = Numbered(50)
    pixels = ask(PixelCache(tmp_path), source, range(20))
    (entry,) = entries(tmp_path)
    assert entry.what == "kind numbered, n_images 50"
    assert (entry.size, entry.n_images, entry.n_present) == (SIZE, 50, 20)
    assert 20 * IMAGE_BYTES <= entry.n_bytes <= 20 * IMAGE_BYTES + 3 * pixelfile.BLOCK
    assert abs(entry.last_used - time.time()) < 60
    with entry.path.open("rb") as file:
        assert json.loads(file.readline())["identity"] == source.identity
    assert clear(tmp_path) == entry.n_bytes
    assert list(tmp_path.iterdir()) == []
    check(pixels, range(20))
    assert clear(tmp_path / "missing") == 0


def test_a_cache_that_may_only_be_read_serves_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(PixelCache(tmp_path), Numbered(10), range(10))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    (path,) = tmp_path.iterdir()
    path.chmod(0o444)
    check(ask(PixelCache(tmp_path), Numbered(10), range(10)), range(10))


def test_the_cache_needs_no_torch() -> None:
    script = "import sys, synthgen_evaluate.images.pixels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
