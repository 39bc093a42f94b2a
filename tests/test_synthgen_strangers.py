"""Sets that came from elsewhere: nothing in them writes outside, hangs, or reaches the terminal as a command to it."""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from files import contents, edit
from strangers import FRACTAL, MAKE, RECORD, STEM, TABLE, TAR, Command, refused

from synthgen.common.errors import SynthgenError
from synthgen.common.records import digest
from synthgen.dataset.manifest import read_manifest
from synthgen.dataset.plan import MAX_SHARDS, Plan, Segment, new_plan, read_plan
from synthgen.engines import generate as generating
from synthgen.engines.claims import read_claims
from synthgen.engines.generate import generate
from synthgen.engines.work import Done, FailedShardsError
from synthgen.kinds.fractaldb.content import CategoryRecord, FractalContent
from synthgen.storage.atomic import claimed, held, open_own, remove_orphans

# Names and links

NAMES = ("../../victim/important", "/tmp/x", "a/b", "..", ".hidden", "a\\b", "a\nb", "", "x" * 300)


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_whose_name_is_a_path_is_refused_and_writes_nothing(
    name: str, half: Path, synthgen_here: Command, tmp_path: Path, soon: None
) -> None:
    victim = tmp_path / "victim/important-train-000000.tar"
    victim.parent.mkdir()
    victim.write_bytes(b"precious")
    edit(half / "plan.json", name=name)
    before = contents(tmp_path)
    for command in (
        ("status", half),
        ("verify", half, "--repair"),
        (*MAKE, half),
        ("publish", half, "--to", tmp_path / "there", "--allow-incomplete"),
        ("preview", half),
    ):
        refused(synthgen_here(*command), "plan.json: name: ")
    assert contents(tmp_path) == before


def replan(folder: Path, **content: Any) -> None:
    """Edit a set's content, with a digest that fits: the plan is a sound one, of other images."""
    plan = json.loads((folder / "plan.json").read_text())
    plan["content"] |= content
    plan["digest"] = digest(plan["content"])
    (folder / "plan.json").write_text(json.dumps(plan, indent=1) + "\n")


@pytest.mark.parametrize("sums", [True, False], ids=["finished", "without checksums"])
@pytest.mark.parametrize("command", [("--n", "24"), ("--n", "48"), ()])
def test_shards_of_another_plan_are_never_overwritten(
    sums: bool, command: tuple[str, ...], whole: Path, synthgen_here: Command
) -> None:
    if not sums:
        for name in ("SHA256SUMS", "manifest.json"):
            (whole / name).unlink()
    replan(whole, seed=7)
    before = contents(whole)
    refused(synthgen_here("fractal", *command, "--out", whole), "restore")
    assert contents(whole) == before
    assert synthgen_here("verify", whole, "--repair").returncode in (1, 2)
    assert {name: before[name] for name in before if name.endswith(".tar")} == {
        name: data for name, data in contents(whole).items() if name.endswith(".tar")
    }


def test_a_finished_set_whose_plan_was_edited_is_not_called_finished_again(whole: Path, synthgen_here: Command) -> None:
    edit(whole / "plan.json", origin={"folder": "../elsewhere"})
    before = contents(whole)
    for n in ("24", "48"):
        refused(synthgen_here("fractal", "--n", n, "--out", whole), "plan.json has sha256", "SHA256SUMS says")
    assert contents(whole) == before


def test_names_that_were_taken_before_are_read_but_not_given_anew(half: Path) -> None:
    plan = read_plan(half / "plan.json")
    for name in ("my set", "größe", "集合 1"):
        edit(half / "plan.json", name=name)
        assert read_plan(half / "plan.json").name == name
        with pytest.raises(SynthgenError, match="cannot be used in file names"):
            new_plan(name=name, content=plan.content, n=10, shard_size=5, origin={})


@pytest.mark.parametrize("folder", ["data", "metadata", "claims"])
@pytest.mark.parametrize("command", ["make", "grow", "repair"])
def test_nothing_is_written_through_a_folder_that_is_a_link(
    folder: str, command: str, half: Path, synthgen_here: Command, tmp_path: Path
) -> None:
    if command == "repair" and folder == "claims":
        return  # repairing claims nothing
    elsewhere = tmp_path / "elsewhere"
    if (half / folder).is_dir():
        shutil.move(half / folder, elsewhere)
    else:
        elsewhere.mkdir()
    for name in ("x.tar.tmp", f"{STEM}.json", ".x.json.1.tmp"):
        if not (elsewhere / name).exists():
            (elsewhere / name).write_bytes(b"{}")
    (half / folder).symlink_to(elsewhere)
    before = contents(elsewhere), contents(half)
    line = {
        "make": (*MAKE, half),
        "grow": (*FRACTAL, "--shard-size", "10", "--n", "40", "--out", half),
        "repair": ("verify", half, "--repair"),
    }[command]
    told = synthgen_here(*line)
    assert told.returncode == 2
    assert f"{half / folder}: a link, and nothing is written through links" in told.stderr
    assert (contents(elsewhere), contents(half)) == before


def test_what_is_finished_is_left_as_it_is_behind_links(whole: Path, synthgen_here: Command, tmp_path: Path) -> None:
    elsewhere = tmp_path / "claims-of-others"
    elsewhere.mkdir()
    (elsewhere / f"{STEM}.json").write_text("{}")
    (elsewhere / "orphan.tmp").write_text("{}")
    (whole / "claims").symlink_to(elsewhere)
    before = contents(tmp_path)
    assert synthgen_here(*MAKE, whole).returncode == 0
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_was_put_in_the_place_of_an_unfinished_file_is_neither_followed_nor_waited_for(
    kind: str, half: Path, synthgen_here: Command, tmp_path: Path, soon: None
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    part = half / "data/fractal-train-000001.tar.tmp"
    {"link": lambda: part.symlink_to(victim), "pipe": lambda: os.mkfifo(part), "folder": part.mkdir}[kind]()
    assert not held(part.with_suffix(""))
    remove_orphans(half / "data")  # leaves it
    with pytest.raises(SynthgenError, match="remove it"), claimed(part.with_suffix("")):
        pass
    with pytest.raises(SynthgenError, match="remove it"):
        open_own(part, "wb")
    told = synthgen_here(*MAKE, half)
    assert told.returncode == 2
    assert f"{part}: a link, a pipe or a folder" in told.stderr
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("layout", ["another disk", "a cache of the Hub"])
def test_reading_goes_through_links(layout: str, whole: Path, synthgen_here: Command, tmp_path: Path) -> None:
    if layout == "another disk":
        shutil.move(whole / "data", tmp_path / "disk")
        (whole / "data").symlink_to(tmp_path / "disk")
    else:
        blobs = tmp_path / "blobs"
        blobs.mkdir()
        for number, path in enumerate(sorted(path for path in whole.rglob("*") if path.is_file())):
            shutil.move(path, blobs / str(number))
            path.symlink_to(os.path.relpath(blobs / str(number), path.parent))
    images = {name: data for name, data in contents(tmp_path).items() if "set" not in name}
    assert synthgen_here("verify", whole).returncode == 0
    assert json.loads(synthgen_here("status", whole, "--json").stdout)["complete"]
    assert synthgen_here("export", whole, "--out", tmp_path / "images").returncode == 0
    assert synthgen_here("publish", whole, "--to", tmp_path / "there").returncode == 0
    assert synthgen_here("verify", tmp_path / "there").returncode == 0
    assert images.items() <= contents(tmp_path).items()


@pytest.mark.parametrize("layout", ["imagefolder", "parquet", "webdataset"])
def test_an_export_writes_through_no_link(layout: str, whole: Path, synthgen_here: Command, tmp_path: Path) -> None:
    line = ("export", whole, "--format", layout, "--out", tmp_path / "out")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert synthgen_here(*line).returncode == 0
    folder = next(path for path in (tmp_path / "out").iterdir() if path.is_dir())
    shutil.rmtree(folder)
    folder.symlink_to(elsewhere)
    refused(synthgen_here(*line), f"{folder}: a link")
    assert not any(elsewhere.iterdir())


def test_publishing_writes_through_no_link(whole: Path, synthgen_here: Command, tmp_path: Path) -> None:
    there, elsewhere = tmp_path / "there", tmp_path / "elsewhere"
    there.mkdir()
    elsewhere.mkdir()
    (there / "metadata").symlink_to(elsewhere)
    refused(synthgen_here("publish", whole, "--to", there), f"{there / 'metadata'}: a link")
    assert not any(elsewhere.iterdir())


def test_a_shard_that_stands_and_is_never_seen_is_given_up(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generating, "UNSEEN", 0.2)
    monkeypatch.setattr(generating, "POLL", 0.05)

    def engine(work: Any, tasks: Any, advance: Any) -> Iterator[Done]:
        for task in tasks:
            yield Done(span=task.span, n_samples=0, worker="w")

    with pytest.raises(FailedShardsError, match="not visible from here"):
        generate(half, engine=engine)


# What would block, and what would take for ever


def pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize("put", [pipe, a_socket])
@pytest.mark.parametrize(
    "name", [TAR, RECORD, TABLE, "SHA256SUMS", "manifest.json", "README.md", f"{TAR}.tmp", f"claims/{STEM}.json"]
)
def test_a_pipe_or_socket_in_the_place_of_a_file_blocks_nothing(
    name: str, put: Callable[[Path], None], whole: Path, synthgen_here: Command, tmp_path: Path, soon: None
) -> None:
    path = whole / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    put(path)
    state = json.loads(synthgen_here("status", whole, "--json").stdout)
    assert state["n_shards_done"] == (2 if name in (TAR, RECORD, TABLE) else 3)
    told = synthgen_here("verify", whole)
    assert told.returncode == (0 if name.startswith("claims/") else 1), told
    assert name.startswith("claims/") or f"{name}: " in told.stdout
    assert synthgen_here("publish", whole, "--to", tmp_path / "there").returncode in (0, 2)
    told = synthgen_here("verify", whole, "--repair")
    left = name in ("README.md", f"{TAR}.tmp")
    assert told.returncode == left, told
    assert left == ("--repair leaves it: " in told.stdout)
    if name.startswith("claims/"):
        assert read_claims(whole) == {}


def test_a_plan_that_is_a_pipe_is_refused(whole: Path, synthgen_here: Command, soon: None) -> None:
    (whole / "plan.json").unlink()
    os.mkfifo(whole / "plan.json")
    for command in (("status", whole), ("verify", whole), (*MAKE, whole)):
        refused(synthgen_here(*command), "plan.json: a pipe, not a regular file")


def test_as_many_shards_as_six_digits_name(half: Path, synthgen_here: Command) -> None:
    refused(
        synthgen_here("fractal", "--n", "1000001", "--shard-size", "1", "--categories", "2000", "--out", half / "x"),
        "1,000,001 shards; at most 1,000,000 shards, the limit of six-digit names: ask for a larger --shard-size",
    )
    plan = read_plan(half / "plan.json")
    whole = Plan(name="x", content=plan.content, segments=(Segment(start=0, stop=MAX_SHARDS, shard_size=1),))
    with pytest.raises(SynthgenError, match="at most 1,000,000 shards"):
        whole.grown(MAX_SHARDS + 1, 1)


SLOWEST = pytest.param(10**6, 1, 1, marks=pytest.mark.slow)


@pytest.mark.parametrize(("n", "size", "n_segments"), [(10**9, 10**6, 1), (100_000, 1, 100_000), SLOWEST])
def test_a_large_plan_is_answered_in_seconds(
    n: int, size: int, n_segments: int, tmp_path: Path, synthgen_here: Command
) -> None:
    rows = ((0.5, 0.0, 0.0, 0.5, 0.1, 0.2, 1.0),)
    content = FractalContent(
        seed=1,
        draw="patch_gray",
        size=32,
        n_points=100,
        weight_step=0.4,
        layout=(10**6, 250, 4),
        categories=(CategoryRecord(name="00000", rows=rows),),
    )
    each = n // n_segments
    edges = range(0, n + 1, each)
    segments = tuple(Segment(start=start, stop=start + each, shard_size=size) for start in edges[:-1])
    plan = Plan(name="f", content=content, segments=segments)
    for folder in ("data", "metadata"):
        (tmp_path / folder).mkdir()
    (tmp_path / "plan.json").write_text(plan.to_json())
    start = time.process_time()  # the machine may be busy
    assert not read_manifest(tmp_path).shards
    assert plan.shard(plan.n_shards - 1) == plan.shards()[-1]
    if plan.n_shards < MAX_SHARDS:
        assert plan.grown(n + 1, size).n == n + 1
        assert synthgen_here("verify", tmp_path).returncode == 1
    assert time.process_time() - start < 20
