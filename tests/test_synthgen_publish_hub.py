import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from hub import TOKEN, Hub, broken_promises, history, serving
from processes import installed

from synthgen.common.errors import SynthgenError
from synthgen.dataset.manifest import DOCUMENTS
from synthgen.dataset.plan import read_plan
from synthgen.storage import hub_outlet
from synthgen.storage.hub_outlet import explained
from synthgen.storage.outlet import File, Work

REPO, TARGET = "ann/fractals", "hf://datasets/ann/fractals"
SETTINGS = ("--size", 32, "--points", 1000, "--workers", 1, "--shard-size", 15)
N = 40
Publish = Callable[..., "subprocess.CompletedProcess[str]"]


def fractal_set(out: Path, synthgen_here: Command, categories: Path, n: int = N, *more: object) -> Path:
    done = synthgen_here("fractal", "--out", out, "--categories", categories, "--n", n, *SETTINGS, *more)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command, categories: Path) -> Path:
    return fractal_set(tmp_path_factory.mktemp("hub") / "set", synthgen_here, categories)


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "set"))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        yield server


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """Of a client of the server, whose token is where hf auth login puts it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/token").write_text(TOKEN)
    own = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    return {**{name: value for name, value in os.environ.items() if name != "HF_TOKEN"}, **own}


@pytest.fixture
def publish(
    hub: Hub,
    dataset: Path,
    tmp_path: Path,
    environment: dict[str, str],
    synthgen_here: Command,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Publish:
    """Publish the set from this process; the token must be in nothing that it says, logs or writes."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)  # read from the environment at import
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "home/token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)

    def run(*arguments: object, target: str = TARGET, directory: Path = dataset) -> Any:
        done = synthgen_here("publish", directory, "--to", target, *arguments)
        silent(done.stdout + done.stderr + caplog.text, tmp_path)
        return done

    return run


def silent(said: str, folder: Path) -> None:
    """The token is in nothing that was said or written."""
    assert TOKEN not in said
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / "home/token"]
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


def command(directory: Path, target: str, *arguments: object) -> list[str]:
    return [installed("synthgen"), "publish", str(directory), "--to", target, *arguments]  # type: ignore[list-item]


def wanted(directory: Path) -> dict[str, bytes]:
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def there(hub: Hub, revision: str = "main") -> dict[str, bytes]:
    files = hub.head(REPO, revision)
    return {name: data for name, data in files.items() if name != ".gitattributes"}


def refused(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 2
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("verify: ", "preview: ", "publish: "))]
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("synthgen: ")


def test_a_published_set_is_private_tagged_by_its_plan_and_not_sent_again(
    hub: Hub, dataset: Path, publish: Publish
) -> None:
    listed = publish("--dry-run")
    assert listed.returncode == 0, listed.stderr
    assert hub.repos == {}
    done = publish()
    assert done.returncode == 0, done.stderr
    repo, tag = hub.repos[REPO], f"plan-{read_plan(dataset / 'plan.json').digest[:16]}-{N}"
    assert repo.private
    assert there(hub) == wanted(dataset)
    assert there(hub).keys() >= {*DOCUMENTS, "plan.json", "SHA256SUMS", "manifest.json"}
    assert list(repo.tags) == [tag]
    assert repo.tags[tag] is repo.branches["main"]
    assert f"tag {tag}" in done.stdout
    assert f'load it: datasets.load_dataset("{REPO}", revision="{tag}")' in done.stdout
    assert set(hub.uploads.values()) == {1}

    before = repo.branches["main"]
    again = publish()
    assert f"{TARGET}: 0 files sent (0.0 MB), {len(wanted(dataset))} were there already, tag {tag}" in again.stdout
    assert repo.branches["main"] is before
    states = [line.split()[0] for line in publish("--dry-run").stdout.splitlines() if line.startswith(" ")]
    assert states == ["same"] * len(wanted(dataset))


def test_an_upload_killed_three_times_ends_complete_and_sends_nothing_whole_again(
    hub: Hub, dataset: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    tars = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(dataset.glob("data/*.tar"))]
    assert len(tars) == 3
    for n_before in (3, 2, 0):  # tars that are not to get through; at last the card's picture is not
        picture = [] if n_before else [hashlib.sha256((dataset / "samples.jpg").read_bytes()).hexdigest()]
        hub.stall_on = {*tars[:n_before], *picture}
        hub.stalled.clear()
        process = subprocess.Popen(command(dataset, TARGET), env=environment, stdout=-1, stderr=-1)
        assert hub.stalled.wait(60)
        process.kill()
        output = b"".join(process.communicate())
        assert process.returncode == -signal.SIGKILL
        assert TOKEN.encode() not in output
        assert "manifest.json" not in there(hub)
    assert hub.uploads  # some were whole
    hub.stall_on = set()
    done = subprocess.run(command(dataset, TARGET), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    silent(done.stdout + done.stderr, tmp_path)
    assert there(hub) == wanted(dataset)
    assert set(hub.uploads.values()) == set(hub.small.values()) == {1}
    assert hub.uploads.keys() == hub.stored.keys()
    assert hub.seen == []


def test_no_commit_shows_a_manifest_whose_files_are_missing_or_old_while_a_set_grows_or_is_mended(
    hub: Hub, dataset: Path, publish: Publish, synthgen_here: Command, categories: Path
) -> None:
    assert publish().returncode == 0
    first = dict(hub.uploads)
    fractal_set(dataset, synthgen_here, categories, N + 10)
    assert publish().returncode == 0
    assert there(hub) == wanted(dataset)
    digest = read_plan(dataset / "plan.json").digest[:16]
    assert list(hub.repos[REPO].tags) == [f"plan-{digest}-{N}", f"plan-{digest}-{N + 10}"]
    assert first.items() <= hub.uploads.items()
    assert set(hub.uploads.values()) == {1}

    head = hub.repos[REPO].branches["main"]
    name = "data/fractal-train-000001.tar"
    damaged = type(head.files[name])(b"damaged", True)
    hub.repos[REPO].branches["main"] = type(head)("0" * 40, head, "damage", {**head.files, name: damaged})
    assert publish().returncode == 0
    assert there(hub) == wanted(dataset)
    assert hub.seen == []
    commits = list(history(hub.repos[REPO].branches["main"]))[:2]
    assert ["manifest.json" in commit.files for commit in commits] == [True, False]  # it was away meanwhile


def test_a_tag_moves_along_with_the_same_files_and_stays_with_others(hub: Hub, dataset: Path, publish: Publish) -> None:
    assert publish().returncode == 0
    repo = hub.repos[REPO]
    (tag,) = repo.tags
    head = repo.branches["main"]
    files = {name: blob for name, blob in head.files.items() if name != "README.md"}
    repo.branches["main"] = type(head)("1" * 40, head, "no card", files)
    assert publish().returncode == 0
    assert repo.tags == {tag: repo.branches["main"]}
    kept = repo.tags[tag] = type(head)("2" * 40, None, "others", {"SHA256SUMS": head.files["plan.json"]})
    assert f"tag {tag}-2" in publish().stdout
    assert repo.tags == {tag: kept, f"{tag}-2": repo.branches["main"]}


def test_a_branch_starts_without_the_files_of_another(
    hub: Hub, dataset: Path, tmp_path: Path, publish: Publish, synthgen_here: Command, categories: Path
) -> None:
    assert publish().returncode == 0
    before = there(hub)
    other = fractal_set(tmp_path / "other", synthgen_here, categories, 20, "--draw", "patch_color")
    line = refused(publish(directory=other))
    assert "holds a set of another plan" in line
    assert publish(directory=other, target=f"{TARGET}@in%2Fcolour").returncode == 0
    assert there(hub, "in/colour") == wanted(other)
    assert there(hub) == before


def test_a_repository_with_a_card_is_taken_and_one_with_other_files_is_not(
    hub: Hub, dataset: Path, publish: Publish
) -> None:
    repo = hub.add(REPO)
    head = repo.branches["main"]
    blob = head.files[".gitattributes"]
    repo.branches["main"] = type(head)("3" * 40, head, "by hand", {**head.files, "README.md": blob, "x/y.bin": blob})
    assert "holds x/y.bin and is not a dataset; choose an empty place" in refused(publish())
    assert hub.uploads == {}
    repo.branches["main"] = type(head)("4" * 40, head, "by hand", {**head.files, "README.md": blob})
    assert publish().returncode == 0


def test_a_public_repository_is_used_only_where_that_is_said_and_a_private_one_opens_at_the_end(
    hub: Hub, dataset: Path, publish: Publish
) -> None:
    hub.add(REPO, private=False)
    assert "the repository is public; add --public to publish there" in refused(publish())
    assert hub.uploads == {}
    hub.repos[REPO].private = True
    assert publish("--public").returncode == 0
    assert not hub.repos[REPO].private
    assert hub.requests[-1] == f"PUT /api/datasets/{REPO}/settings"
    assert publish("--public", target="hf://datasets/ann/new").returncode == 0
    assert not hub.repos["ann/new"].private


@pytest.mark.parametrize(
    ("pattern", "statuses", "answer"),
    [
        ("whoami", [401], "the Hub responded 401 Unauthorized: the token is not valid; see hf auth login"),
        ("whoami", [599], "the Hub responded 599 unknown"),
        ("repos/create", [403], "the Hub responded 403 Forbidden: the token may not write there"),
        ("preupload", [403], "the Hub responded 403 Forbidden: the token may not write there"),
        ("objects/batch", [413], "the Hub responded 413 "),
        ("commit/main", [400], "the Hub responded 400 Bad Request"),
        ("POST .*/tag/", [403], "the Hub responded 403 Forbidden"),
    ],
)
def test_a_refusal_of_the_hub_is_told_by_its_status_and_never_by_its_text(
    hub: Hub, dataset: Path, publish: Publish, pattern: str, statuses: list[int], answer: str
) -> None:
    hub.echo, hub.fail = True, {pattern: statuses}
    line = refused(publish())
    assert line.startswith(f"{TARGET}: {answer}")
    assert "Bearer" not in line
    assert "\n" not in line


def test_a_token_that_only_reads_is_refused_before_the_set_is_verified(
    hub: Hub, dataset: Path, publish: Publish
) -> None:
    hub.role = "read"
    done = publish()
    assert refused(done) == f"{TARGET}: the token can only read; create one that can write"
    assert "verify" not in done.stderr
    assert publish("--dry-run").returncode == 0


def test_passing_faults_of_the_hub_are_waited_out(hub: Hub, dataset: Path, publish: Publish) -> None:
    hub.echo, hub.fail = True, {"commit/main": [503], "objects/batch": [500]}
    done = publish()
    assert done.returncode == 0, done.stderr
    assert there(hub) == wanted(dataset)
    assert set(hub.uploads.values()) == {1}


def test_an_unfinished_set_is_committed_without_manifest_and_tag(hub: Hub, dataset: Path, publish: Publish) -> None:
    (dataset / "data/fractal-train-000002.tar").unlink()
    assert "unfinished, 30 of 40 images in 2 of 3 shards" in refused(publish())
    assert hub.repos == {}
    done = publish("--allow-incomplete")
    assert done.returncode == 0, done.stderr
    assert hub.repos[REPO].tags == {}
    files = there(hub)
    assert not {"manifest.json", "SHA256SUMS"} & files.keys()
    assert sum(name.endswith(".tar") for name in files) == 2
    assert b"unfinished: 30 of 40 images" in files["README.md"]
    assert f'load it: datasets.load_dataset("{REPO}")' in done.stdout


def test_commits_hold_whole_shards_and_no_more_than_the_hub_likes() -> None:
    def files(size: int, *names: str) -> tuple[File, ...]:
        return tuple(File(name=name, source=Path(), size=size, sha256="") for name in names)

    shards = tuple(files(10**9, f"{i}.parquet", f"{i}.tar", f"{i}.json") for i in range(70))
    claim, closing = files(1, "plan.json"), files(1, "SHA256SUMS", "manifest.json")
    work = Work(withdraw=(), claim=claim, shards=shards, withdraw_late=(), closing=closing)
    commits = hub_outlet._commits(work)
    assert [file for commit in commits for file in commit] == list(work.files)
    assert commits[-1] == list(closing)
    assert max(map(len, commits)) <= 99
    assert max(sum(file.size for file in commit) for commit in commits) <= 4 * 10**9
    small = tuple(files(1, f"{i}.parquet", f"{i}.tar", f"{i}.json") for i in range(70))
    commits = hub_outlet._commits(Work(withdraw=(), claim=(), shards=small, withdraw_late=(), closing=()))
    assert [len(commit) for commit in commits] == [99, 99, 12, 0]
    large = (files(10**10, "a.tar", "a.json"),)
    assert len(hub_outlet._commits(Work(withdraw=(), claim=(), shards=large, withdraw_late=(), closing=()))) == 2


def test_an_error_without_status_is_told_in_one_line_without_the_token() -> None:
    cause = OSError(f"cannot reach the host\nwith Bearer {TOKEN}")
    error = RuntimeError("Error while uploading")
    error.__cause__ = cause
    assert explained(error, TOKEN) == "cannot reach the host with Bearer *** (OSError)"


def test_the_reader_of_these_tests_sees_when_a_manifest_lies(dataset: Path, publish: Publish) -> None:
    assert publish().returncode == 0
    files = wanted(dataset)
    assert broken_promises(files) == []
    for name in files.keys() - {*DOCUMENTS, "plan.json", "manifest.json"}:
        assert broken_promises({other: data for other, data in files.items() if other != name}), name
        assert broken_promises({**files, name: b"null"}), name


def test_an_error_of_ours_passes_as_it_is() -> None:
    with (
        pytest.raises(SynthgenError, match=r"^ours$"),
        hub_outlet.Hub(repo="a/b", branch="main", public=False, token="t")._api(),
    ):
        raise SynthgenError("ours")
