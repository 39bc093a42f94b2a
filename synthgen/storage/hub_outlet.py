"""Sending a dataset to the Hugging Face Hub; huggingface_hub does the transfer.

Files that the repository has already, by its own hashes, are not sent again, nor are large files that a killed run
uploaded without committing them.  Shards go in commits of bounded size, and checksums, documents and manifest in the
last one, so that a reader may see any of the commits.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from synthgen.common.errors import SynthgenError
from synthgen.common.masking import one_line
from synthgen.storage.outlet import File, Standing, Work
from synthgen.storage.regular import read_regular
from synthgen.storage.retries import with_retries

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi, RepoFile
    from huggingface_hub.hf_api import DatasetInfo

TARGET = re.compile(r"hf://datasets/([^/@]+/[^/@]+?)(?:@([^@]+))?/?")
COMMIT_FILES, COMMIT_BYTES = 99, 4 * 10**9  # most per commit (a shard is not split); the Hub advises 50 to 100 files
SLICE_FILES, SLICE_BYTES = 24, 10**9  # most sent at once: the steps in which progress is shown
ADVICE = {
    401: "the token is not valid; see hf auth login",
    403: "the token may not write there; create one with write permission at huggingface.co/settings/tokens",
    413: "the Hub refuses a file this large; make the set with a smaller --shard-size",
    429: "too many requests; run the same command again later to go on",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """A branch of a dataset repository."""

    repo: str  # USER/NAME
    branch: str
    public: bool
    token: str = field(repr=False)

    @property
    def shown(self) -> str:
        """The branch in words."""
        return f"hf://datasets/{self.repo}" + ("" if self.branch == "main" else f"@{self.branch}")

    def check(self, *, write: bool) -> None:
        """Raise SynthgenError if the place cannot be reached or, with ``write``, cannot be written to."""
        with self._api() as api:
            me = api.whoami()
            role = me.get("auth", {}).get("accessToken", {}).get("role")
            if write and role == "read":
                raise SynthgenError(f"{self.shown}: the token can only read; create one that can write")
            info = self._info(api)
        if info is not None and not info.private and not self.public:
            raise SynthgenError(f"{self.shown}: the repository is public; add --public to publish there")

    def _info(self, api: HfApi) -> DatasetInfo | None:
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            return api.dataset_info(self.repo)
        except RepositoryNotFoundError as error:
            if error.response.status_code == HTTPStatus.NOT_FOUND:
                return None
            raise

    def standing(self) -> dict[str, Standing]:
        """The files that are there already, by name."""
        from huggingface_hub import RepoFile

        with self._api() as api:
            if self._info(api) is None:
                return {}
            entries = list(
                api.list_repo_tree(self.repo, recursive=True, revision=self._start(api), repo_type="dataset")
            )
        return {entry.path: _standing(entry) for entry in entries if isinstance(entry, RepoFile)}

    def _start(self, api: HfApi) -> str:
        """The branch or, if it does not exist, the commit to start it from: the first one, which contains no data."""
        refs = api.list_repo_refs(self.repo, repo_type="dataset")
        if self.branch in {branch.name for branch in refs.branches}:
            return self.branch
        return api.list_repo_commits(self.repo, repo_type="dataset")[-1].commit_id

    def read(self, name: str) -> bytes:
        """The content of a small file that is there."""
        with self._api() as api, tempfile.TemporaryDirectory() as folder:
            path = api.hf_hub_download(
                self.repo, name, repo_type="dataset", revision=self._start(api), local_dir=folder
            )
            return Path(path).read_bytes()

    def same(self, files: Sequence[File], standing: Mapping[str, Standing]) -> set[str]:
        """Names of those of ``files`` that are there already with the same content."""
        return {file.name for file in files if file.name in standing and _is(file, standing[file.name])}

    def send(self, work: Work, sent: Callable[[File], object]) -> None:
        """Send the files of ``work``; ``sent`` is called with each file."""
        with self._api() as api:
            api.create_repo(self.repo, repo_type="dataset", private=not self.public, exist_ok=True)
            if self.branch != "main":
                start = self._start(api)
                if start != self.branch:
                    api.create_branch(self.repo, repo_type="dataset", branch=self.branch, revision=start, exist_ok=True)
            commits = _commits(work)
            for files in commits[:-1]:
                self._commit(api, files, work.withdraw if files is commits[0] else (), "Add shards", sent)
            closing = {file.name for file in commits[-1]}
            removed = tuple(name for name in work.withdraw_late if name not in closing)
            self._commit(api, commits[-1], removed, "Add documents and manifest", sent)

    def _commit(
        self, api: HfApi, files: Sequence[File], removed: Sequence[str], message: str, sent: Callable[[File], object]
    ) -> None:
        from huggingface_hub import CommitOperationDelete

        if not files and not removed:
            return

        def attempt() -> None:
            additions = []
            for part in _slices(files, SLICE_FILES, SLICE_BYTES):
                operations = [_addition(file) for file in part]
                api.preupload_lfs_files(
                    self.repo, operations, repo_type="dataset", revision=self.branch, free_memory=False
                )
                additions += operations
                for file in part:
                    sent(file)
            there = self.standing() if removed else {}  # the previous attempt may have succeeded
            deletions = [CommitOperationDelete(name) for name in removed if name in there]
            if additions or deletions:
                api.create_commit(
                    self.repo,
                    [*deletions, *additions],
                    commit_message=message,
                    repo_type="dataset",
                    revision=self.branch,
                )

        with_retries(attempt, final=_refused)

    def finish(self, name: str, sums: File | None) -> str | None:
        """Tag a finished set, whose checksums are given, and make it public if that was asked; returns the tag.

        An existing tag on the same files is moved; one on other files is kept, and the new one gets a number.
        """
        with self._api() as api:
            tag = self._tag(api, name, sums) if sums is not None else None
            info = self._info(api)
            if self.public and info is not None and info.private:
                api.update_repo_settings(self.repo, repo_type="dataset", private=False)
        return tag

    def load(self, tag: str | None) -> str:
        """Code that reads the set with the datasets library."""
        revision = tag or (self.branch if self.branch != "main" else None)
        return f'datasets.load_dataset("{self.repo}"' + (f', revision="{revision}")' if revision else ")")

    def _tag(self, api: HfApi, name: str, sums: File) -> str:
        head = api.dataset_info(self.repo, revision=self.branch).sha
        refs = api.list_repo_refs(self.repo, repo_type="dataset")
        tags = {tag.name: tag.target_commit for tag in refs.tags}
        names = (f"{name}-{number}" if number > 1 else name for number in count(1))
        tag = next(tag for tag in names if tag not in tags or self._holds(api, tag, sums))
        if tags.get(tag) != head:
            if tag in tags:
                api.delete_tag(self.repo, repo_type="dataset", tag=tag)
            api.create_tag(self.repo, repo_type="dataset", tag=tag, revision=head)
        return tag

    def _holds(self, api: HfApi, tag: str, sums: File) -> bool:
        from huggingface_hub import RepoFile

        found = api.get_paths_info(self.repo, sums.name, revision=tag, repo_type="dataset")
        return any(_is(sums, _standing(entry)) for entry in found if isinstance(entry, RepoFile))

    @contextmanager
    def _api(self) -> Iterator[HfApi]:
        """The client; whatever fails is reported in one line, and the client itself prints nothing."""
        from huggingface_hub import HfApi
        from huggingface_hub.utils import logging
        from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

        level, bars = logging.get_verbosity(), not are_progress_bars_disabled()
        logging.set_verbosity_error()  # it logs URLs, which may be signed, and responses
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            disable_progress_bars()
            try:
                yield HfApi(token=self.token, library_name="synthgen")
            except SynthgenError:
                raise
            except Exception as error:
                raise SynthgenError(f"{self.shown}: {explained(error, self.token)}") from None
            finally:
                logging.set_verbosity(level)
                if bars:
                    enable_progress_bars()


def hub(target: str, *, public: bool) -> Hub:
    """The branch that ``hf://datasets/USER/NAME[@BRANCH]`` names, with the user's token from its usual places.

    Raises SynthgenError if the target has another form or there is no token.
    """
    from huggingface_hub import get_token

    match = TARGET.fullmatch(target)
    if match is None:
        raise SynthgenError(f"{target}: not a dataset on the Hub; write hf://datasets/USER/NAME or .../NAME@BRANCH")
    token = get_token()
    if token is None:
        raise SynthgenError(f"{target}: no Hugging Face Hub token found; run hf auth login or set HF_TOKEN")
    return Hub(repo=match[1], branch=unquote(match[2] or "main"), public=public, token=token)


def explained(error: BaseException, token: str) -> str:
    """What went wrong, in one line; of the Hub's response only the status, as its text is not to be trusted."""
    status = _status(error)
    if status is None:
        while error.__cause__ is not None:
            error = error.__cause__
        return f"{one_line(error, [token])} ({type(error).__name__})"
    phrase = HTTPStatus(status).phrase if status in {known.value for known in HTTPStatus} else "unknown"
    return f"the Hub responded {status} {phrase}" + (f": {ADVICE[status]}" if status in ADVICE else "")


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None


def _refused(error: Exception) -> bool:
    """Whether a retry cannot help."""
    status = _status(error)
    if status is None:
        return isinstance(error, SynthgenError | ValueError | FileNotFoundError)
    return status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in (408, 429)


def _standing(entry: RepoFile) -> Standing:
    return Standing(size=entry.size, sha256=entry.lfs.sha256 if entry.lfs else None, git=entry.blob_id)


def _is(file: File, standing: Standing) -> bool:
    if standing.size != file.size:
        return False
    if standing.sha256 is not None:
        return standing.sha256 == file.sha256
    from huggingface_hub.utils.sha import git_hash

    return git_hash(read_regular(file.source)) == standing.git


def _addition(file: File) -> CommitOperationAdd:
    from huggingface_hub import CommitOperationAdd

    addition = CommitOperationAdd(file.name, file.source)
    addition.upload_info.sha256 = bytes.fromhex(file.sha256)  # or it would be hashed again
    return addition


def _commits(work: Work) -> list[list[File]]:
    """The files of each commit: every shard in one commit, the closing files last."""
    commits: list[list[File]] = [list(work.claim)]
    for shard in work.shards:
        if commits[-1] and not _fits([*commits[-1], *shard], COMMIT_FILES, COMMIT_BYTES):
            commits.append([])
        commits[-1] += shard
    return [*filter(None, commits), list(work.closing)]


def _slices(files: Sequence[File], most: int, most_bytes: int) -> Iterator[list[File]]:
    part: list[File] = []
    for file in files:
        if part and not _fits([*part, file], most, most_bytes):
            yield part
            part = []
        part.append(file)
    if part:
        yield part


def _fits(files: Sequence[File], most: int, most_bytes: int) -> bool:
    return len(files) <= most and sum(file.size for file in files) <= most_bytes
