"""Sets that came from elsewhere: nothing in them writes outside, hangs, or reaches the terminal as a command to it."""

import ast
import errno
import io
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import contents, edit
from PIL import Image

import synthgen
from synthgen.common.errors import SynthgenError
from synthgen.common.records import digest
from synthgen.dataset.manifest import read_manifest
from synthgen.dataset.plan import MAX_SHARDS, Plan, Segment, new_plan, read_plan
from synthgen.dataset.shard import read_shard
from synthgen.dataset.tar import END, member
from synthgen.engines import generate as generating
from synthgen.engines.claims import read_claims
from synthgen.engines.generate import generate
from synthgen.engines.work import Done, FailedShardsError
from synthgen.kinds.diffusion import tiny
from synthgen.kinds.fractaldb.content import CategoryRecord, FractalContent
from synthgen.publishing.publish import publish
from synthgen.storage import retries
from synthgen.storage.atomic import claimed, held, open_own, remove_orphans
from synthgen.storage.folder import Folders

GOLDEN = Path(__file__).parent / "golden/records"
PROMPTS = GOLDEN.parents[2] / "prompts/quickstart.txt"
FRACTAL = ("fractal", "--categories", GOLDEN / "categories", "--size", "32", "--points", "2000", "--workers", "1")
MAKE = (*FRACTAL, "--shard-size", "10", "--n", "24", "--out")  # the command that made the golden sets
STEM = "fractal-train-000000"
TAR, RECORD, TABLE = f"data/{STEM}.tar", f"data/{STEM}.json", f"metadata/{STEM}.parquet"
ESCAPE = "\x1b]0;owned\x07\x9b2J\u202eabc"
Command = Callable[..., Any]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "fractal-finished", tmp_path / "set"))


@pytest.fixture
def half(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "fractal-half", tmp_path / "set"))


@pytest.fixture
def soon() -> Iterator[None]:
    """What blocks for ever ends in an error."""

    def over(number: int, frame: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(40)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refused(told: Any, *words: str) -> None:
    """One line, exit code 2."""
    assert told.returncode == 2, told
    assert told.stderr.count("\n") == 1, told.stderr
    assert told.stderr.isascii()
    assert all(word in told.stderr for word in words), told.stderr


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


# Records

DEEP = b'{"a":' * 5000 + b"1" + b"}" * 5000
STRANGE = {b"{}": "format", b"null": "the file", b"[]": "the file", DEEP: "nested lists", b"\xff": "UTF-8", b"": "JSON"}


@pytest.mark.parametrize("data", STRANGE, ids=range(len(STRANGE)))
def test_a_plan_that_is_none_is_refused_in_one_line(data: bytes, half: Path, synthgen_here: Command) -> None:
    (half / "plan.json").write_bytes(data)
    for command in (("status", half), ("verify", half), (*MAKE, half)):
        refused(synthgen_here(*command), "plan.json: ", STRANGE[data])


BROKEN_PLANS: dict[str, Callable[[dict[str, Any]], object]] = {
    "n: ": lambda plan: plan.update(n="24"),
    "colour: unknown key; perhaps a later version": lambda plan: plan.update(colour=1),
    "content.colour: unknown key": lambda plan: plan["content"].update(colour=1),
    "content.size: 1000000000": lambda plan: plan["content"].update(size=10**9),
    "content.layout: ": lambda plan: plan["content"].update(layout=[-1, -1, 1000]),
    "content.categories: there is none": lambda plan: plan["content"].update(categories=[]),
    "content.categories.0.rows: there is none": lambda plan: plan["content"]["categories"][0].update(rows=[]),
    "origin.batch: ": lambda plan: plan["origin"].update(batch=10**12),
    "segments.0.stop: ": lambda plan: plan["segments"][0].update(stop=24.0),
    "format 2; this version reads format 1": lambda plan: plan.update(format=2, kind=None),
    "kind: ": lambda plan: plan.update(kind=ESCAPE),
    "at most 1,000,000 shards": lambda plan: plan.update(
        n=2400, segments=[{"start": 0, "stop": 2400, "shard_size": 1}]
    ),
}


@pytest.mark.parametrize("what", BROKEN_PLANS)
def test_a_value_of_a_plan_that_cannot_be_is_named(
    what: str, half: Path, synthgen_here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "shards" in what:
        monkeypatch.setattr("synthgen.dataset.plan.MAX_SHARDS", 1000)
        what = "at most 1,000 shards"
        change = BROKEN_PLANS["at most 1,000,000 shards"]
    else:
        change = BROKEN_PLANS[what]
    plan = json.loads((half / "plan.json").read_text())
    change(plan)
    (half / "plan.json").write_text(json.dumps(plan))
    refused(synthgen_here("status", half), "plan.json: ", what)


@pytest.mark.parametrize("data", [b"{}", b"null", DEEP, b'{"index": 0, "colour": 1}', b'{"index": NaN}', b"\xff\xfe"])
def test_a_completion_record_that_is_none_is_absent_and_a_fault(
    data: bytes, whole: Path, synthgen_here: Command
) -> None:
    (whole / RECORD).write_bytes(data)
    assert json.loads(synthgen_here("status", whole, "--json").stdout)["n_shards_done"] == 2
    told = synthgen_here("verify", whole)
    assert told.returncode == 1
    assert f"{RECORD}: " in told.stdout
    told = synthgen_here("verify", whole, "--repair")
    assert told.returncode == 0, told
    assert "repaired: shard 0\n" in told.stdout


CLAIM = {"worker": "w-1", "shard": 1, "done": 3, "of": 10, "rate": 1.5, "beat": 2, "failed": ""}


@pytest.mark.parametrize(
    "change",
    [
        {"rate": float("nan")},
        {"rate": -1},
        {"rate": float("inf")},
        {"done": 10**400},
        {"done": "3"},
        {"shard": -1},
        {"shard": 10**9},
        {"shard": 0},  # in the place of another one's
        {"colour": 1},
    ],
)
def test_a_strange_claim_is_left_out(change: dict[str, Any], half: Path, synthgen_here: Command) -> None:
    (half / "claims").mkdir()
    path = half / "claims/fractal-train-000001.json"
    path.write_text(json.dumps(CLAIM))
    assert len(json.loads(synthgen_here("status", half, "--json").stdout)["workers"]) == 1
    path.write_text(json.dumps(CLAIM | change))
    told = synthgen_here("status", half, "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["workers"] == []


@pytest.mark.parametrize("data", [b"{}", b"null", b"[1]", DEEP, b'{"shards": [{}]}', b'{"shards": NaN}'])
def test_a_manifest_that_is_none_is_a_fault_that_is_mended(data: bytes, whole: Path, synthgen_here: Command) -> None:
    before = contents(whole)
    (whole / "manifest.json").write_bytes(data)
    told = synthgen_here("verify", whole)
    assert told.returncode == 1
    assert "manifest.json: cannot be read" in told.stdout
    told = synthgen_here("verify", whole, "--repair")
    assert told.returncode == 0
    assert "repaired: manifest.json\n" in told.stdout
    assert contents(whole) == before


@pytest.mark.parametrize(
    ("cls", "record"),
    [
        (b"1" * 32, b"{}"),
        (b"-1", b"{}"),
        (b"1_0", b"{}"),
        ("١".encode(), b"{}"),
        (b"0", DEEP),
        (b"0", b'{"a": NaN}'),
        (b"0", b'{"a": "\\ud800"}'),
        (b"0", b'{"a": 1, "a": 2}'),
        (b"0", b"[]"),
        (b"0", b'{"a": ' + b"1" * 5000 + b"}"),
    ],
)
def test_a_sample_whose_class_or_record_is_none_is_named(cls: bytes, record: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(member("a.png", b"x") + member("a.cls", cls) + member("a.json", record) + END)
    with pytest.raises(SynthgenError, match=r"x\.tar: sample a: its (cls|json)"):
        list(read_shard(path))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"steps": "5"}, "steps: "),
        ({"steps": 10**9}, "steps: 1000000000 is not 1 to 1000"),
        ({"size": 10**9}, "size: 1000000000 is not"),
        ({"batch": 0}, "batch: 0 is not"),
        ({"seed": "1" * 30}, "seed: "),
        ({"scheduler": ESCAPE}, "scheduler: "),
        ({"guidance": float("nan")}, "NaN"),
        ({"prompt": None}, "prompt: "),
    ],
)
def test_a_record_that_no_image_can_be_made_from_is_refused(
    change: dict[str, Any], key: str, synthgen_here: Command, tmp_path: Path
) -> None:
    shard = sorted((GOLDEN / "diffusion-finished/data").glob("*.tar"))[0]
    record = next(read_shard(shard)).record | change
    (tmp_path / "x.json").write_text(json.dumps(record))
    told = synthgen_here("sd", "--from-record", tmp_path / "x.json", "--out", tmp_path / "x.png")
    refused(told, "x.json: ", key)
    (tmp_path / "x.json").write_text("{}")
    refused(synthgen_here("sd", "--from-record", tmp_path / "x.json", "--out", tmp_path / "x.png"), "x.json: ")


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("model_index.json", DEEP * 100, "nested too deeply"),
        ("model_index.json", b"null", "a JSON NoneType, not an object"),
        ("model_index.json", b'{"_class_name": "\\u001b]0;x"}', "_class_name "),
        ("unet/config.json", b'{"sample_size": 1000000000}', "these give no size in pixels up to 4096"),
        ("vae/config.json", b'{"block_out_channels": [' + b"1," * 10**5 + b"1]}", "these give no size in pixels"),
        ("unet/diffusion_pytorch_model.safetensors", None, "a pipe, not a regular file"),
        ("tokenizer/vocab.json", None, "a pipe, not a regular file"),
    ],
)
def test_a_model_of_strange_files_is_refused_in_one_line(
    name: str, data: bytes | None, what: str, synthgen_here: Command, tmp_path: Path, soon: None
) -> None:
    folder = Path(shutil.copytree(tiny.MODEL, tmp_path / "model"))
    (folder / name).unlink()
    if data is None:
        os.mkfifo(folder / name)
    else:
        (folder / name).write_bytes(data)
    line = ("sd", "--prompts", PROMPTS, "--n", "4", "--model", folder, "--dry-run")
    refused(synthgen_here(*line), str(folder), what)


# Texts


def test_no_escape_sequence_of_a_set_reaches_the_terminal(half: Path, synthgen_here: Command, tmp_path: Path) -> None:
    plan = json.loads((half / "plan.json").read_text())
    (half / "claims").mkdir()
    claim = CLAIM | {"worker": ESCAPE}
    (half / "claims/fractal-train-000001.json").write_text(json.dumps(claim))
    (half / "claims/fractal-train-000002.json").write_text(json.dumps(claim | {"shard": 2, "failed": ESCAPE}))
    (half / f"{ESCAPE}.txt").write_text("")
    (half / os.fsdecode(b"\xff\xfe")).write_text("")
    (half / f"data/{ESCAPE}").write_text("")
    (half / "SHA256SUMS").write_text(f"{ESCAPE}\n{'0' * 64}  {ESCAPE}\n")
    (half / "manifest.json").write_text(json.dumps({ESCAPE: 1, "shards": []}))
    edit(half / "data/fractal-train-000000.json", sha256=ESCAPE, environment={ESCAPE: ESCAPE})
    there = ("--to", tmp_path / f"there{ESCAPE}")
    told = [
        synthgen_here(*line)
        for line in (
            ("status", half),
            ("status", half, "--json"),
            ("verify", half),
            ("verify", half, "--json"),
            ("publish", half, *there, "--allow-incomplete", "--dry-run"),
            ("preview", half, "--out", tmp_path / f"look{ESCAPE}"),
            ("verify", tmp_path / ESCAPE),
            ("prompts", "check", tmp_path / ESCAPE),
            (f"no{ESCAPE}",),
        )
    ]
    for change in ({"kind": ESCAPE}, {"digest": ESCAPE}, {ESCAPE: 1}, {"name": ESCAPE}):
        (half / "plan.json").write_text(json.dumps(plan | change))
        told.append(synthgen_here("status", half))
        refused(told[-1], "plan.json")
    for one in told:
        assert all(character.isprintable() or character == "\n" for character in one.stdout + one.stderr), one


def test_the_documents_of_a_set_hold_no_escape_sequence(half: Path, tmp_path: Path) -> None:
    edit(half / "plan.json", origin={"folder": f"categories{ESCAPE}"})
    (half / "SHA256SUMS").unlink(missing_ok=True)
    (half / f"{ESCAPE}.txt").write_text("")
    publish(half, str(tmp_path / "there"), allow_incomplete=True)
    for name in ("README.md", "croissant.json", "quality.json"):
        text = (tmp_path / "there" / name).read_text()
        assert all(character.isprintable() or character == "\n" for character in text), name
    json.loads((tmp_path / "there/croissant.json").read_text())


def test_one_place_alone_prints() -> None:
    root = Path(synthgen.__file__).parent
    for path in root.rglob("*.py"):
        calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        prints = [call.lineno for call in calls if isinstance(call, ast.Name) and call.id == "print"]
        assert not prints or path == root / "common/printing.py", f"{path}: {prints}: use printing.say"


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


# Previews


def replace_first_image(directory: Path, data: bytes) -> None:
    """In the tar alone, under its name."""
    path = directory / TAR
    items = list(read_shard(path))
    first = items[0]
    parts = [member(f"{first.key}.png", data), member(f"{first.key}.cls", b"%d" % first.label)]
    parts.append(member(f"{first.key}.json", json.dumps(first.record).encode()))
    for item in items[1:]:
        parts.append(member(f"{item.key}.png", item.image))
        parts.append(member(f"{item.key}.cls", b"%d" % item.label))
        parts.append(member(f"{item.key}.json", json.dumps(item.record).encode()))
    path.write_bytes(b"".join(parts) + END)
    edit(directory / RECORD, n_bytes=path.stat().st_size)


def huge_png(side: int) -> bytes:
    """One that claims so many pixels a side."""
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (huge_png(60_000), "cannot be decoded"),
        (huge_png(10_000), "has 10000 x 10000 pixels, planned 32 x 32"),
        (jpeg(), "cannot be decoded (not a PNG)"),
        (b"", "cannot be decoded"),
    ],
    ids=["60000", "10000", "jpeg", "empty"],
)
def test_a_preview_decodes_no_image_that_verify_would_refuse(
    data: bytes, what: str, whole: Path, synthgen_here: Command, tmp_path: Path
) -> None:
    replace_first_image(whole, data)
    told = synthgen_here("verify", whole)
    assert what in told.stdout
    assert "Warning" not in told.stderr
    told = synthgen_here("preview", whole, "--out", tmp_path / "look", "--per-class", "100")
    refused_after_progress = [line for line in told.stderr.splitlines() if line.startswith("synthgen: ")]
    assert told.returncode == 2
    assert len(refused_after_progress) == 1
    assert what in refused_after_progress[0]
    assert "Traceback" not in told.stderr
    assert "Warning" not in told.stderr


COLUMNS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "column weight is of the type string": lambda table: _cast(table, "weight", pa.string()),
    "column label is of the type double": lambda table: _cast(table, "label", pa.float64()),
    "column key is of the type binary": lambda table: _cast(table, "key", pa.binary()),
    "no column 'label'": lambda table: table.drop_columns(["label"]),
}


def _cast(table: pa.Table, name: str, kind: pa.DataType) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, name, table[name].cast(kind))


@pytest.mark.parametrize("what", COLUMNS)
def test_a_table_of_other_columns_is_refused_by_name(
    what: str, whole: Path, synthgen_here: Command, tmp_path: Path
) -> None:
    name = "metadata/fractal-train-000001.parquet"
    pq.write_table(COLUMNS[what](pq.read_table(whole / name)), whole / name)
    edit(whole / "data/fractal-train-000001.json", table_n_bytes=(whole / name).stat().st_size)
    refused(synthgen_here("preview", whole, "--out", tmp_path / "look"), f"{whole / name}: ", what)
    (whole / name).write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    edit(whole / "data/fractal-train-000001.json", table_n_bytes=(whole / name).stat().st_size)
    refused(synthgen_here("preview", whole, "--out", tmp_path / "look"), f"{whole / name}: damaged table")


# Words


def test_repair_names_what_it_mended_and_says_why_it_leaves_the_rest(whole: Path, synthgen_here: Command) -> None:
    assert "repaired: nothing\n" in synthgen_here("verify", whole, "--repair").stdout
    (whole / TAR).unlink()
    (whole / "SHA256SUMS").write_text("nonsense\n")
    (whole / "letter.txt").write_text("dear reader")
    (whole / "data/x.tar.tmp").write_text("")
    told = synthgen_here("verify", whole, "--repair")
    assert told.returncode == 1
    assert "repaired: shard 0, SHA256SUMS\n" in told.stdout
    left = "--repair leaves it: it removes nothing that does not belong to this set: move it elsewhere"
    assert f"letter.txt: not a file of this dataset; {left}" in told.stdout
    assert f"letter.txt: not a file of this dataset; {left}" in told.stderr
    assert "data/x.tar.tmp: unfinished, left by a process that was killed; --repair leaves it: remove it" in told.stdout
    report = json.loads(synthgen_here("verify", whole, "--repair", "--json").stdout)
    assert report["repaired"] == []
    assert report["faults"][0].endswith("not a file of this dataset") or "unfinished" in report["faults"][0]


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (errno.ENOSPC, "what was sent is kept: free some space and run the same command again"),
        (errno.EDQUOT, "what was sent is kept: free some space and run the same command again"),
        (errno.EROFS, "Read-only"),
        (errno.EACCES, "Permission denied"),
        (errno.ENAMETOOLONG, "File name too long"),
    ],
)
def test_what_a_disk_will_say_again_is_not_asked_again(
    code: int, what: str, whole: Path, synthgen_here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(store: Folders, path: Path, source: Path) -> None:
        raise OSError(code, os.strerror(code))

    waits: list[float] = []
    monkeypatch.setattr(Folders, "put", full)
    monkeypatch.setattr(retries.time, "sleep", waits.append)
    told = synthgen_here("publish", whole, "--to", tmp_path / "there")
    assert told.returncode == 2
    assert what in told.stderr
    assert waits == []


def test_a_sum_that_is_none_makes_no_record(whole: Path, synthgen_here: Command) -> None:
    record = whole / "data/fractal-train-000001.json"
    stored = json.loads(record.read_text())
    record.write_text(json.dumps(stored | {"sha256": f"{'0' * 64}  plan.json\n{stored['sha256']}"}))
    (line, *_) = synthgen_here("verify", whole).stdout.splitlines()
    assert "data/fractal-train-000001.json: sha256: String should match pattern" in line
    for key, value in (("n_bytes", -1), ("plan_digest", "x"), ("table_sha256", "../x")):
        record.write_text(json.dumps(stored | {key: value}))
        assert f"000001.json: {key}: " in synthgen_here("verify", whole).stdout


def test_sums_with_other_line_ends_are_told(whole: Path, synthgen_here: Command) -> None:
    sums = whole / "SHA256SUMS"
    sums.write_bytes(sums.read_bytes().replace(b"\n", b"\r\n"))
    told = synthgen_here("verify", whole)
    assert told.returncode == 1
    assert r"SHA256SUMS: line 1 names 'data/fractal-train-000000.tar\r', which is not a file of this" in told.stdout


def test_a_folder_in_the_place_of_a_shard_is_named(whole: Path, synthgen_here: Command) -> None:
    tar = whole / "data/fractal-train-000001.tar"
    tar.unlink()
    (tar / "mine").mkdir(parents=True)
    told = synthgen_here("verify", whole, "--repair")
    assert told.returncode in (1, 2)
    assert (tar / "mine").is_dir()
    told = synthgen_here(*MAKE, whole)
    assert told.returncode == 2
    assert told.stderr.splitlines()[-1].endswith("a folder already has the name of this file; move it away")


@pytest.mark.parametrize("name", ["SHA256SUMS", "plan.json"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_in_the_place_of_one_is_named_at_once(
    name: str, make: Callable[[Path], None], whole: Path, synthgen_here: Command
) -> None:
    (whole / name).unlink()
    make(whole / name)
    start = time.monotonic()
    told = synthgen_here(*MAKE, whole)
    assert time.monotonic() - start < 20  # retries would take 26 s
    assert told.returncode == 2
    assert told.stderr.startswith(f"synthgen: {whole / name}: ")
    assert ", not a regular file" in told.stderr


def test_a_link_to_itself_and_a_pipe_are_no_prompt_file_or_category(tmp_path: Path, synthgen_here: Command) -> None:
    loop, pipe = tmp_path / "loop.tsv", tmp_path / "categories/00000.csv"
    loop.symlink_to(loop)
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    told = synthgen_here("prompts", "check", loop)
    assert (told.returncode, told.stderr.splitlines()[0][:10]) == (2, "synthgen: ")
    told = synthgen_here("fractal", "--categories", pipe.parent, "--n", "1", "--out", tmp_path / "out")
    assert told.returncode == 2
    assert told.stderr == f"synthgen: {pipe}: not a regular file\n"
    pipe.unlink()
    pipe.write_bytes(b"0" * (1 << 20) + b"00")
    told = synthgen_here("fractal", "--categories", pipe.parent, "--n", "1", "--out", tmp_path / "out")
    assert told.stderr == f"synthgen: {pipe}: more than 1048576 bytes; expected one row per map\n"


def test_a_preview_is_named_as_the_set_was(whole: Path, synthgen_here: Command) -> None:
    link = whole.parent / "link"
    link.symlink_to(whole)
    assert synthgen_here("preview", link).returncode == 0
    assert (whole.parent / "link-preview/gallery.html").exists()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "none such"}),
        ("unet/config.json", {"act_fn": False}),
        ("vae/config.json", {"scaling_factor": "x"}),
    ],
)
def test_a_model_whose_configuration_is_wrong_is_named(
    tmp_path: Path, synthgen_here: Command, name: str, change: dict[str, object]
) -> None:
    model = Path(shutil.copytree(tiny.MODEL, tmp_path / "model"))
    config = model / name
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    arguments = ("--model", model, "--n", 1, "--size", 32, "--device", "cpu", "--batch", 1, "--out", tmp_path / "set")
    told = synthgen_here("sd", "--prompts", PROMPTS, *arguments)
    assert told.returncode == 2
    assert f"{model}: " in told.stderr.splitlines()[-1]
