import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from files import contents
from hub import broken_promises
from hypothesis import given
from hypothesis import strategies as st
from publishable import SMALL, N, diffusion_set, fractal_set, wanted

from synthgen.common.errors import SynthgenError
from synthgen.common.masking import secrets_in, shown, without
from synthgen.dataset.manifest import DOCUMENTS
from synthgen.publishing.publish import publish
from synthgen.publishing.upload import arrange
from synthgen.storage.folder import Folders
from synthgen.storage.outlet import File, Standing

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


@pytest.fixture
def copied(fractals: Path, tmp_path: Path) -> Path:
    """A set of one's own, as it was before anything was published."""
    return Path(shutil.copytree(fractals, tmp_path / "set", ignore=shutil.ignore_patterns(*DOCUMENTS)))


# A folder

KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from synthgen.publishing.publish import publish
copy, left = shutil.copyfileobj, int(sys.argv[3])
def half(source, target, *rest):
    global left
    left -= 1
    if left == 0:
        target.write(source.read(50))
        target.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    copy(source, target, *rest)
shutil.copyfileobj = half
publish(Path(sys.argv[1]), sys.argv[2])
"""


def test_a_copy_killed_at_several_files_ends_complete_and_copies_nothing_whole_again(
    fractals: Path, tmp_path: Path
) -> None:
    out = tmp_path / "there"
    seen: dict[Path, tuple[int, int]] = {}
    for at in (3, 4, 5, 20):  # of the files that are still to go; the last is never reached
        done = subprocess.run([sys.executable, "-c", KILLED, fractals, out, str(at)], capture_output=True, text=True)
        assert done.returncode == (0 if at == 20 else -signal.SIGKILL), done.stderr
        states = {path: path.stat() for path in out.rglob("*") if path.is_file() and path.suffix != ".tmp"}
        found = {path: (state.st_ino, state.st_mtime_ns) for path, state in states.items()}
        assert found.items() >= seen.items()
        assert len(found) > len(seen)
        assert (out / "manifest.json").exists() == (at == 20)
        seen = found
    assert contents(out) == wanted(fractals)


def test_nobody_sees_a_manifest_whose_files_are_missing_or_old_while_a_set_grows(
    copied: Path, tmp_path: Path, synthgen_here: Command, categories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, states, broken = tmp_path / "there", [], []
    publish(copied, str(out))
    fractal_set(copied, synthgen_here, categories, n=N + 10)

    def looked(action: Any) -> Any:
        def act(*arguments: Any, **options: Any) -> None:
            action(*arguments, **options)
            there = {name: data for name, data in contents(out).items() if not name.endswith(".tmp")}
            states.append("manifest.json" in there)
            broken.extend(broken_promises(there))

        return act

    monkeypatch.setattr(Folders, "put", looked(Folders.put))
    monkeypatch.setattr(Path, "unlink", looked(Path.unlink))
    found = publish(copied, str(out))
    assert broken == []
    assert (states[0], states[-1], False in states) == (True, True, True)  # it goes away before files are replaced
    assert found.n_sent <= 3 + len(("plan.json", "SHA256SUMS", "manifest.json")) + len(DOCUMENTS)
    assert contents(out) == wanted(copied)


names_of_shards = st.lists(st.sampled_from("abcdef"), unique=True, max_size=4)


@given(old=names_of_shards, extra=names_of_shards, remade=st.sets(st.sampled_from("abcdef")), data=st.data())
def test_in_whatever_state_a_place_is_no_step_leaves_a_manifest_that_lies(
    old: list[str], extra: list[str], remade: set[str], data: st.DataObject
) -> None:
    """Files are modelled by their content's version; a place holds an old set, whole or in part, or nothing."""

    def files(shards: list[str], version: str) -> dict[str, str]:
        made = {
            f"{folder}/{shard}.{ending}": version if shard in remade else "same"
            for shard in shards
            for folder, ending in (("metadata", "parquet"), ("data", "tar"), ("data", "json"))
        }
        whole = " ".join(f"{name}={made[name]}" for name in sorted(made))
        return {
            "plan.json": f"{len(shards)}",
            **made,
            "SHA256SUMS": whole,
            "README.md": version,
            "manifest.json": whole,
        }

    new = [*old, *(shard for shard in extra if shard not in old)]
    before, after = files(old, "old"), files(new, "new")
    there = dict(before)
    if data.draw(st.booleans(), label="unfinished"):
        for name in ("manifest.json", "SHA256SUMS", *data.draw(st.sets(st.sampled_from(sorted(before))), label="gone")):
            there.pop(name, None)

    def honest() -> bool:
        promised = there.get("manifest.json")
        return promised is None or any(
            promised == made["manifest.json"]
            and all(there.get(name) == made[name] for name in made if name != "README.md")
            for made in (before, after)
        )

    assert honest()
    sent = [File(name=name, source=Path(), size=1, sha256=version) for name, version in after.items()]
    standing = {name: Standing(size=1) for name in there}
    work = arrange(sent, standing, {name for name in there if there[name] == after.get(name)}, ("README.md",))
    shards = data.draw(st.permutations(work.shards), label="order")  # they are sent side by side
    steps: list[tuple[str, str | None]] = [(name, None) for name in work.withdraw]
    steps += [(file.name, file.sha256) for group in (work.claim, *shards) for file in group]
    steps += [(name, None) for name in work.withdraw_late]
    steps += [(file.name, file.sha256) for file in work.closing]
    for name, version in steps:
        assert there.get(name) != version, f"{name}: sent again"
        if version is None:
            del there[name]
        else:
            there[name] = version
        assert honest(), name
    assert there == after


def test_a_damaged_file_at_the_target_is_sent_again_and_nothing_else(fractals: Path, tmp_path: Path) -> None:
    out = tmp_path / "there"
    publish(fractals, str(out))
    tar, record = out / "data/fractal-train-000001.tar", out / "data/fractal-train-000002.json"
    tar.write_bytes(tar.read_bytes()[:-512])
    record.unlink()
    again = publish(fractals, str(out))
    assert again.n_sent == 2 + 2  # sums and manifest went away meanwhile
    assert contents(out) == wanted(fractals)
    assert publish(fractals, str(out)).n_sent == 0


# Refusals


def refused(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 2
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("verify: ")]
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("synthgen: ")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("{set}", " itself; choose another place"),
        ("{set}/sub", "is inside the dataset "),
        ("{set}/../set", "is inside the dataset "),
        ("file://{set}/sub", "is inside the dataset "),
        ("{set}/..", "holds file and is not a dataset; choose an empty place"),
        ("{set}/../file", "not a folder"),
        ("{set}/../file/sub", "file: not a folder"),
        ("https://example.org/set", "http(s) cannot be written to"),
        ("s3://no-such-bucket-here/x", "no-such-bucket-here does not exist, or is not visible with these keys"),
        ("s3://AKIA:abc/d+e@bucket/x", "s3://***@bucket/x: keys must not be in the URL; set them in the environment"),
        ("nothing://x?token=abcdef", "nothing://x?***: cannot be reached"),
        ("hf://ann/set", "not a dataset on the Hub; write hf://datasets/USER/NAME"),
        ("hf://datasets/set", "not a dataset on the Hub"),
        ("hf://datasets/ann/set/sub", "not a dataset on the Hub"),
        ("hf://datasets/ann/set", "no Hugging Face Hub token found; run hf auth login or set HF_TOKEN"),
    ],
)
def test_a_target_that_cannot_be_is_refused_before_the_set_is_verified(
    copied: Path,
    s3: str,
    tmp_path: Path,
    synthgen_here: Command,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    told: str,
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("synthgen.publishing.publish.inspect", None)
    (tmp_path / "file").touch()
    before = contents(copied)
    line = refused(synthgen_here("publish", copied, "--to", target.format(set=copied)))
    assert told in line
    assert "abc" not in line
    assert contents(copied) == before


def test_a_place_that_holds_another_set_or_more_of_this_one_is_refused(
    fractals: Path, diffusion: Path, copied: Path, tmp_path: Path, synthgen_here: Command, categories: Path
) -> None:
    out = tmp_path / "there"
    publish(fractals, str(out))
    before = contents(out)
    with pytest.raises(SynthgenError, match=r"holds a set of another plan \(\w{16} there, \w{16} here\)"):
        publish(diffusion, str(out))
    other = tmp_path / "otherwise cut"
    done = synthgen_here("fractal", "--out", other, "--categories", categories, "--n", N, "--shard-size", 30, *SMALL)
    assert done.returncode == 0
    with pytest.raises(SynthgenError, match=r"holds data/fractal-train-000002.json, which this set does not have"):
        publish(other, str(out))
    (out / "plan.json").write_bytes((out / "plan.json").read_bytes().replace(b'"n": 40', b'"n": 41', 1))
    with pytest.raises(SynthgenError, match="holds the same set with 41 images, more than the 40 here"):
        publish(fractals, str(out))
    (out / "plan.json").write_bytes(b"[]")
    with pytest.raises(SynthgenError, match=r"its plan\.json is not a dataset's"):
        publish(fractals, str(out))
    (out / "plan.json").write_bytes(before["plan.json"])
    assert contents(out) == before


def test_a_bucket_that_cannot_be_written_to_is_refused_before_the_set_is_verified(
    fractals: Path, tmp_path: Path, synthgen_here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def forbidden(*arguments: object, **options: object) -> None:
        raise PermissionError("Forbidden for secret=abcdef")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", forbidden)
    monkeypatch.setattr("synthgen.publishing.publish.inspect", None)
    assert refused(synthgen_here("publish", fractals, "--to", "memory://bucket/x?k=abcdef")).endswith("secret=***")


# Unfinished and damaged sets


def test_an_unfinished_set_is_refused_and_published_only_where_that_is_asked_and_says_so(
    copied: Path, tmp_path: Path, synthgen_here: Command
) -> None:
    out = tmp_path / "there"
    for name in ("data/fractal-train-000001.json", "manifest.json", "SHA256SUMS"):
        (copied / name).unlink()
    line = refused(synthgen_here("publish", copied, "--to", out))
    assert f"{copied}: unfinished, 25 of 40 images in 2 of 3 shards; finish it" in line
    assert not out.exists()
    done = synthgen_here("publish", copied, "--to", out, "--allow-incomplete")
    assert done.returncode == 0, done.stderr
    assert "unfinished, as its card says: " in done.stdout
    there = contents(out)
    assert not {"manifest.json", "SHA256SUMS"} & there.keys()
    assert {name for name in there if name.endswith(".tar")} == {f"data/fractal-train-00000{j}.tar" for j in (0, 2)}
    assert b"unfinished: 25 of 40 images" in there["README.md"]


def test_a_damaged_set_is_refused_by_its_first_defects_and_published_without_the_damaged_shard(
    copied: Path, tmp_path: Path, synthgen_here: Command
) -> None:
    out, tar = tmp_path / "there", copied / "data/fractal-train-000001.tar"
    damaged = bytearray(tar.read_bytes())
    damaged[5000] ^= 1
    tar.write_bytes(damaged)
    line = refused(synthgen_here("publish", copied, "--to", out))
    assert "1 defect (data/fractal-train-000001.tar: " in line
    assert "repair shards with synthgen verify --repair and remove what does not belong there, or" in line
    assert not out.exists()
    assert synthgen_here("publish", copied, "--to", out, "--allow-incomplete").returncode == 0
    there = contents(out)
    assert not {"manifest.json", "SHA256SUMS", "data/fractal-train-000001.tar"} & there.keys()
    assert b"data/fractal-train-000001.tar" in there["README.md"]


def test_publishing_the_whole_of_a_set_finishes_what_was_published_of_it(
    fractals: Path, copied: Path, tmp_path: Path
) -> None:
    out = tmp_path / "there"
    (copied / "data/fractal-train-000001.json").unlink()
    first = publish(copied, str(out), allow_incomplete=True)
    assert first.faults
    done = publish(fractals, str(out))
    assert done.faults == ()
    assert {"manifest.json", "SHA256SUMS"} <= contents(out).keys()
    assert contents(out) == wanted(fractals)
    with pytest.raises(SynthgenError, match=r"holds data/fractal-train-000001\.json, which this set does not have"):
        publish(copied, str(out), allow_incomplete=True)  # it would take a shard away


# What is printed


def test_a_dry_run_lists_every_file_and_touches_nothing(copied: Path, tmp_path: Path, synthgen_here: Command) -> None:
    out = tmp_path / "there"
    before = contents(copied)
    done = synthgen_here("publish", copied, "--to", out, "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    listed = {line[2]: (line[0], int(line[1])) for line in lines if len(line) == 3 and line[1].isdecimal()}
    own = {name: data for name, data in before.items() if name not in DOCUMENTS}
    assert listed == {name: ("new", len(data)) for name, data in own.items()}
    assert contents(copied) == before
    assert not out.exists()

    publish(copied, str(out))
    (out / "data/fractal-train-000000.json").write_bytes(b"{}")
    (out / "README.md").unlink()
    states = {(path, path.stat().st_mtime_ns) for path in out.rglob("*")}
    done = synthgen_here("publish", copied, "--to", out, "--dry-run")
    told = {line.split()[2]: line.split()[0] for line in done.stdout.splitlines() if line[:1] == " "}
    assert {name for name, state in told.items() if state == "new"} == {"README.md"}
    assert {name for name, state in told.items() if state == "different"} == {"data/fractal-train-000000.json"}
    assert told.keys() == wanted(copied).keys()
    assert states == {(path, path.stat().st_mtime_ns) for path in out.rglob("*")}


words = st.text(st.characters(codec="ascii", min_codepoint=33, exclude_characters="@/?&=+#%"), min_size=4, max_size=12)


@given(user=words, password=words, value=words)
def test_no_key_of_a_url_is_shown(user: str, password: str, value: str) -> None:
    url = f"ftp://{user}:{password}/x@host/folder?token={value}"
    if not any(word in "ftp://***@host/folder?***" for word in (user, password, value)):
        assert not any(word in shown(url) for word in (user, password, value))
        told = without(f"cannot log in as {user}:{password}/x with {value}", secrets_in(url))
        assert not any(word in told.split(" ", 4)[4] for word in (user, f"{password}/x"))
    assert shown("s3://bucket/a@b") == "s3://bucket/a@b"
    assert shown("hf://datasets/ann/set@branch") == "hf://datasets/ann/set@branch"
