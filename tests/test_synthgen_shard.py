import errno
import fcntl
import hashlib
import io
import json
import os
import tarfile
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from files import contents
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from synthgen.common.errors import SynthgenError
from synthgen.dataset import shard as module
from synthgen.dataset.plan import ShardSpan
from synthgen.dataset.shard import (
    Item,
    committed,
    data_path,
    image_members,
    read_record,
    read_shard,
    record_path,
    table_path,
    write_shard,
)
from synthgen.dataset.tar import member
from synthgen.kinds.fractaldb.render import encode_png
from synthgen.storage.atomic import claimed, held, remove_orphans, write_atomically
from synthgen.storage.object_store import OBJECTS
from synthgen.storage.places import place

SPAN = ShardSpan(index=2, stem="set-train-000002", start=10, stop=15)
GRAY = np.array([[0, 0, 0], [127, 127, 127]], np.uint8)
PLAN = "a" * 64


def items() -> list[Item]:
    made = []
    for i in range(SPAN.start, SPAN.stop):
        picture = (np.arange(20 * 20).reshape(20, 20) % i == 0).astype(np.uint8)
        record = {"index": i, "label": i % 3, "class": f"c{i % 3}", "seed": 2**64 - i}
        made.append(Item(key=f"{i:09d}", label=i % 3, ending="png", image=encode_png(picture, GRAY), record=record))
    return made


def write(directory: Path) -> module.Shard | None:
    return write_shard(directory, SPAN, items(), plan_digest=PLAN, environment={"numpy": "1"})


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(contents(tmp_path / "a")) == [
        "data/set-train-000002.json",
        "data/set-train-000002.tar",
        "metadata/set-train-000002.parquet",
    ]


def test_the_bytes_of_a_shard_have_not_changed(tmp_path: Path) -> None:
    plain = [replace(item, image=b"\x89PNG" + item.key.encode()) for item in items()]  # independent of zlib
    shard = write_shard(tmp_path, SPAN, plain, plan_digest=PLAN, environment={})
    assert shard is not None
    assert shard.sha256 == "506fbc323b0893eb3606de6a47c6b80539c6586e46e9cce323e17bd55707fffc"


def test_a_shard_is_a_plain_tar_without_times_or_owners(tmp_path: Path) -> None:
    write(tmp_path)
    with tarfile.open(data_path(tmp_path, SPAN)) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == [
        f"{item.key}.{ending}" for item in items() for ending in ("png", "cls", "json")
    ]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert all(member.name.count(".") == 1 for member in members)


def test_a_shard_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path)
    read = list(read_shard(data_path(tmp_path, SPAN)))
    assert [(item.key, item.label, item.ending, item.image) for item in read] == [
        (item.key, item.label, item.ending, item.image) for item in items()
    ]
    for item, written in zip(read, items(), strict=True):
        assert item.record == {
            "key": written.key,
            **written.record,
            "seed": str(written.record["seed"]),
            "sha256": hashlib.sha256(written.image).hexdigest(),
        }


def test_images_can_be_read_at_their_offsets(tmp_path: Path) -> None:
    write(tmp_path)
    data = data_path(tmp_path, SPAN).read_bytes()
    found = image_members(data_path(tmp_path, SPAN))
    assert [name for name, _, _ in found] == [f"{item.key}.png" for item in items()]
    assert [data[at : at + size] for _, at, size in found] == [item.image for item in items()]


def test_the_record_tells_count_size_sum_plan_and_versions(tmp_path: Path) -> None:
    shard = write(tmp_path)
    data, table = data_path(tmp_path, SPAN).read_bytes(), table_path(tmp_path, SPAN).read_bytes()
    assert shard == read_record(record_path(tmp_path, SPAN))
    assert shard is not None
    assert asdict(shard) == {
        "index": 2,
        "filename": "set-train-000002.tar",
        "n_samples": 5,
        "n_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "table_n_bytes": len(table),
        "table_sha256": hashlib.sha256(table).hexdigest(),
        "plan_digest": PLAN,
        "environment": {"numpy": "1"},
    }


def test_a_committed_shard_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path)
    before = {path: path.stat() for path in tmp_path.rglob("*.*")}
    assert write(tmp_path) is None
    assert {path: path.stat() for path in tmp_path.rglob("*.*")} == before


class Killed(BaseException):
    """Stands for the death of the process, as far as one process can show it."""


STEPS = ("fsync", "replace")  # the calls of os between which a writer may die


@pytest.mark.parametrize("step", range(1, 11))
def test_a_writer_that_dies_at_any_step_leaves_a_shard_committed_or_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    write(tmp_path / "undisturbed")
    calls = 0

    def dying(name: str) -> Any:
        real = getattr(os, name)

        def call(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                raise Killed
            return real(*args)

        return call

    with monkeypatch.context() as patched:
        for name in STEPS:
            patched.setattr(os, name, dying(name))
        try:
            write(tmp_path / "set")
        except Killed:
            died = True
        else:
            died = False
    assert died == (step <= 9), "fsync, replace and fsync of the folder, for tar, table and record"
    left = contents(tmp_path / "set")
    assert not [name for name in left if name.endswith(".tmp")]
    recorded = "data/set-train-000002.json" in left
    assert recorded == (step >= 9)  # the record is renamed into place by the eighth call
    if recorded:
        assert left == contents(tmp_path / "undisturbed")
    assert (committed(tmp_path / "set", SPAN, PLAN) is not None) == recorded
    write(tmp_path / "set")
    assert contents(tmp_path / "set") == contents(tmp_path / "undisturbed")


def test_a_full_device_gives_one_line_and_leaves_no_part_and_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(SynthgenError, match=r"no space left on the device at .*; the finished shards are kept"):
            write(tmp_path)
    assert contents(tmp_path) == {}
    assert write(tmp_path) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"plan_digest": "b" * 64},
        {"index": 1},
        {"filename": "set-train-000001.tar"},
        {"n_samples": 4},
        {"n_bytes": 1},
        {"sha256": None},
        {"colour": "red"},
    ],
)
def test_a_record_that_is_not_of_this_shard_does_not_count_and_the_shard_is_written_again(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    write(tmp_path)
    before = contents(tmp_path)
    path = record_path(tmp_path, SPAN)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert committed(tmp_path, SPAN, PLAN) is None
    assert write(tmp_path) is not None
    assert contents(tmp_path) == before


@pytest.mark.parametrize("lost", [data_path, table_path, record_path])
def test_a_shard_that_lost_a_file_is_written_again(tmp_path: Path, lost: Any) -> None:
    write(tmp_path)
    before = contents(tmp_path)
    lost(tmp_path, SPAN).unlink()
    assert committed(tmp_path, SPAN, PLAN) is None
    assert write(tmp_path) is not None
    assert contents(tmp_path) == before


def test_a_record_of_other_files_goes_before_the_tar_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    record = record_path(tmp_path, SPAN)
    record.write_text(record.read_text().replace(PLAN, "0" * len(PLAN)))
    real = os.replace

    def watching(part: str, path: Path) -> None:
        assert not record.exists()
        real(part, path)

    monkeypatch.setattr(os, "replace", watching)
    assert write(tmp_path) is not None
    assert committed(tmp_path, SPAN, PLAN) is not None


def test_a_shard_that_another_process_is_writing_is_left_to_it(tmp_path: Path) -> None:
    with claimed(data_path(tmp_path, SPAN)) as file:
        assert file is not None
        assert write(tmp_path) is None
        remove_orphans(tmp_path / "data")  # it is none: its owner lives
        assert os.path.exists(file.name)
    assert write(tmp_path) is not None


def test_orphans_of_dead_writers_go(tmp_path: Path) -> None:
    orphan, owned = tmp_path / "a.tar.tmp", tmp_path / "b.tar.tmp"
    for path in (orphan, owned, tmp_path / "c.tar"):
        path.write_bytes(b"half")
    with owned.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_orphans(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar.tmp", "c.tar"]
    remove_orphans(tmp_path / "nowhere")


def test_locks_are_asked_for_as_nfs_gives_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock

    def as_on_nfs(file: IO[bytes], kind: int) -> None:
        """Locks of byte ranges: an exclusive one needs a file open for writing, a shared one for reading."""
        mode = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
        if mode == (os.O_RDONLY if kind & fcntl.LOCK_EX else os.O_WRONLY):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(file, kind)

    monkeypatch.setattr(fcntl, "flock", as_on_nfs)
    (tmp_path / "a.tar.tmp").write_bytes(b"half")
    assert not held(tmp_path / "a.tar")
    with claimed(tmp_path / "b.tar") as file:
        assert file is not None
        assert held(tmp_path / "b.tar")
        remove_orphans(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["b.tar.tmp"]
    assert not held(tmp_path / "b.tar")


def test_a_claim_on_an_orphan_starts_from_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.tmp").write_bytes(b"half of something longer")
    write_atomically(tmp_path / "x", b"whole")
    assert contents(tmp_path) == {"x": b"whole"}


def test_a_file_whose_writing_fails_keeps_its_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "x", b"old")

    def failing(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(Killed):
        write_atomically(tmp_path / "x", b"new")
    assert contents(tmp_path) == {"x": b"old"}


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"1.png": b"", "1.json": b"{}"}, r"sample 1 has members \['json', 'png'\]; expected an image, cls and json"),
        ({"1.cls": b"0", "1.json": b"{}"}, r"sample 1 has members \['cls', 'json'\]"),
        ({"1.png": b"", "1.jpg": b"", "1.cls": b"0", "1.json": b"{}"}, r"sample 1 has members"),
        ({"1.png": b"", "1.cls": b"cat", "1.json": b"{}"}, r"sample 1: .*cat"),
        ({"1.png": b"", "1.cls": b"0", "1.json": b"{"}, r"sample 1: "),
        ({"1.png": b"", "1.cls": b"0", "1.json": b"[]"}, r"sample 1: its json is not a record"),
    ],
)
def test_a_broken_sample_is_named(tmp_path: Path, members: dict[str, bytes], complaint: str) -> None:
    path = tar_of(tmp_path / "x.tar", members)
    with pytest.raises(SynthgenError, match=complaint) as error:
        list(read_shard(path))
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("kept", [1, 700, 5000])
def test_a_truncated_tar_is_named(tmp_path: Path, kept: int) -> None:
    write(tmp_path)
    path = data_path(tmp_path, SPAN)
    os.truncate(path, kept)
    with pytest.raises(SynthgenError, match="damaged tar"):
        list(read_shard(path))


@pytest.mark.parametrize("size", [1, 7, 8, 13, 32, 63])
def test_a_gray_png_has_one_bit_a_pixel_and_decodes_to_its_two_colours(size: int) -> None:
    picture = np.random.RandomState(size).randint(0, 2, (size, size + 3)).astype(np.uint8)
    data = encode_png(picture, GRAY)
    assert data[24] == 1  # bit depth of the header
    assert data[25] == 3  # palette
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), GRAY[picture])
    for flipped in (picture[::-1], picture[:, ::-1], picture[::-1, ::-1]):  # views, as the renderer gives them
        assert encode_png(flipped, GRAY) == encode_png(flipped.copy(), GRAY)


def test_a_colour_png_decodes_to_its_palette() -> None:
    colors = np.random.RandomState(0).randint(0, 256, (129, 3)).astype(np.uint8)
    picture = np.random.RandomState(1).randint(0, 129, (21, 30)).astype(np.uint8)
    with Image.open(io.BytesIO(encode_png(picture, colors))) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), colors[picture])


# Tars that nobody need trust


def sample_members(key: str = "1") -> dict[str, bytes]:
    return {f"{key}.png": b"image", f"{key}.cls": b"0", f"{key}.json": b"{}"}


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd.png",
        "../1.png",
        "..png",
        "a/1.png",
        "a\\1.png",
        "C:1.png",
        ".png",
        "1",
        "1.",
        "1\n.png",
        "é.png",
        "-rf *.png",
        f"{'folder' * 20}/1.png",
    ],
)
def test_a_member_whose_name_is_no_key_and_ending_is_refused(tmp_path: Path, name: str) -> None:
    path = tar_of(tmp_path / "x.tar", sample_members("0") | {name: b"image"})
    for read in (lambda: list(read_shard(path)), lambda: image_members(path)):
        with pytest.raises(SynthgenError, match=rf"^{path}: member '"):
            read()


KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.XHDTYPE: "of a kind that shards do not contain",
    tarfile.XGLTYPE: "of a kind that shards do not contain",
    tarfile.GNUTYPE_LONGNAME: "of a kind that shards do not contain",
    tarfile.CONTTYPE: "of a kind that shards do not contain",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    path = tar_of(tmp_path / "x.tar", sample_members())
    data = bytearray(path.read_bytes())
    data[156:157] = kind
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + sum(data[156:512]) + 8 * 32)
    path.write_bytes(data)
    for read in (lambda: list(read_shard(path)), lambda: image_members(path)):
        with pytest.raises(SynthgenError, match=rf"^{path}: member '1.png' is not a plain file but {KINDS[kind]}"):
            read()


@pytest.mark.parametrize("headers", [{"size": "99999999999"}, {"path": "../x"}, {"GNU.sparse.size": "9" * 12}])
def test_pax_headers_cannot_change_a_name_or_a_size(tmp_path: Path, headers: dict[str, str]) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("1.png")
        info.size, info.pax_headers = 5, headers
        tar.addfile(info, io.BytesIO(b"image"))
    with pytest.raises(SynthgenError, match="not a plain file"):
        list(read_shard(tmp_path / "x.tar"))


@pytest.mark.parametrize("ending", ["png", "cls", "json"])
@pytest.mark.parametrize("size", [2**28 + 1, 2**33 - 1, 2**40])
def test_a_huge_size_is_refused_before_any_memory_is_taken(tmp_path: Path, ending: str, size: int) -> None:
    info = tarfile.TarInfo(f"1.{ending}")
    info.size = size
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(SynthgenError, match=rf"member '1.{ending}' says it has .* bytes; at most"):
        list(read_shard(path))


def test_a_size_that_may_be_is_believed_only_as_far_as_the_file_goes(tmp_path: Path) -> None:
    info = tarfile.TarInfo("1.png")
    info.size = 2**28
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(3 << 20))
    tracemalloc.start()
    with pytest.raises(SynthgenError, match=r"damaged tar \(truncated at byte 3146240, within member 1.png\)"):
        list(read_shard(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 << 20


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ("1.png 1.cls 2.png 1.json", "sample 1 has members"),
        ("1.png 1.cls 1.json 2.png 2.cls 2.json 1.png", "the members of sample 1 are not next to each other"),
        ("1.png 1.png 1.cls 1.json", "member 1.png: duplicate member"),
        ("1.png 1.cls 1.json 1.txt", "sample 1 has a member '1.txt'"),
        ("1.png 1.cls 1.json 1.tar.png", "sample 1 has a member '1.tar.png'"),
    ],
)
def test_samples_that_are_not_three_members_in_a_row_are_refused(tmp_path: Path, names: str, complaint: str) -> None:
    path = tmp_path / "x.tar"
    contents = {"cls": b"0", "json": b"{}"}
    path.write_bytes(b"".join(member(name, contents.get(name[2:], b"")) for name in names.split()) + bytes(1024))
    for read in (lambda: list(read_shard(path)), lambda: image_members(path)):
        with pytest.raises(SynthgenError, match=complaint):
            read()


def test_a_tar_cut_anywhere_is_told_of(tmp_path: Path) -> None:
    write(tmp_path)
    path = data_path(tmp_path, SPAN)
    data = path.read_bytes()
    for kept in {*range(0, len(data), 97), *range(len(data) - 1100, len(data)), *range(0, len(data), 512)}:
        path.write_bytes(data[:kept])
        for read in (lambda: list(read_shard(path)), lambda: image_members(path)):
            with pytest.raises(SynthgenError, match=rf"damaged tar \(truncated at byte {kept}, "):
                read()


def test_tars_padded_as_tape_records_are_whole_and_what_follows_the_end_is_told_of(tmp_path: Path) -> None:
    write(tmp_path)
    path = data_path(tmp_path, SPAN)
    data = path.read_bytes()
    path.write_bytes(data + bytes(10240))
    assert len(list(read_shard(path))) == len(image_members(path)) == 5
    path.write_bytes(data + data)
    with pytest.raises(SynthgenError, match="there is something after its end"):
        list(read_shard(path))


RECORDS = (b'{"a": 1}', b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff", b"", b"null")


@settings(max_examples=400)
@given(
    edits=st.lists(st.tuples(st.integers(0, 8191), st.binary(min_size=1, max_size=20)), max_size=6),
    kept=st.integers(0, 8192),
    record=st.sampled_from(RECORDS),
    mend=st.booleans(),
)
def test_of_a_mutated_tar_come_samples_or_one_error_and_no_more_memory_than_it_has(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]], kept: int, record: bytes, mend: bool
) -> None:
    whole = b"".join(member(f"{i}.{e}", d) for i in (1, 2) for e, d in (("png", b"x"), ("cls", b"3"), ("json", record)))
    data = bytearray(whole + bytes(1024))
    for at, new in edits:
        data[at : at + len(new)] = new
    if mend:  # so that the checksums do not tell
        for at in range(0, len(data) - 511, 512):
            if data[at + 257 : at + 262] == b"ustar":
                data[at + 148 : at + 156] = b" " * 8
                data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    path = tmp_path_factory.getbasetemp() / "mutated.tar"
    path.write_bytes(data[:kept] if kept < 8192 else data)
    readers: tuple[Callable[[Path], Iterable[Item | tuple[str, int, int]]], ...] = (read_shard, image_members)
    for read in readers:
        found, told = list[Item | tuple[str, int, int]](), ""
        try:
            found = list(read(path))
        except SynthgenError as error:
            told = str(error)
        assert told.startswith(f"{path}: ") if told else len(found) <= 2
        assert "\n" not in told
        assert sum(len(item.image) if isinstance(item, Item) else item[2] for item in found) <= len(data)


def test_a_shard_reads_at_a_url_as_it_does_here(tmp_path: Path, s3: str) -> None:
    write(tmp_path)
    path = data_path(tmp_path, SPAN)
    there = OBJECTS.place(f"{s3}/set/{path.name}")
    there.write_bytes(path.read_bytes())
    assert list(read_shard(there)) == list(read_shard(path))
    assert image_members(there) == image_members(path)
    there.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(SynthgenError, match=rf"^{there}: damaged tar"):
        list(read_shard(there))
    with pytest.raises(SynthgenError, match=r"nowhere\.tar: cannot be read \(") as error:
        list(read_shard(place(f"{s3}/nowhere.tar")))
    assert "secret" not in str(error.value)


def test_a_missing_shard_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SynthgenError, match=r"x.tar: cannot be read \(No such file or directory\)"):
        list(read_shard(tmp_path / "x.tar"))
