"""What is said of sets that came from elsewhere: no command to the terminal, and what is wrong by its name."""

import ast
import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from files import edit
from strangers import CLAIM, ESCAPE, MAKE, PROMPTS, TAR, Command, refused

import synthgen
from synthgen.kinds.diffusion import tiny
from synthgen.publishing.publish import publish
from synthgen.storage import retries
from synthgen.storage.folder import Folders

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
