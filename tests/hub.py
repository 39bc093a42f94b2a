"""A server on loopback that speaks as much of the Hugging Face Hub's HTTP as publishing and reading a dataset take.

Its repositories are commits of files, as git's are; large files go through the LFS batch protocol, in
one piece or in parts.  It counts what is uploaded, looks at each commit as a reader would, and can
stall, fail, and answer with the caller's own secrets.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_TokenOfTheTests0123456789abcdefgh"
LARGE = (".tar", ".parquet", ".jpg")  # endings that a dataset repository keeps as LFS files
PAGE = 5  # entries of a listing
PART = 60_000  # bytes: larger files are sent in parts of this size


@dataclass(frozen=True, slots=True)
class Blob:
    data: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git(self) -> str:
        data = self.data
        if self.large:
            text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(data)}\n"
            data = text.encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Commit:
    oid: str
    parent: Commit | None
    message: str
    files: dict[str, Blob]


@dataclass(slots=True)
class Repo:
    private: bool
    branches: dict[str, Commit]
    tags: dict[str, Commit] = field(default_factory=dict)

    def commit(self, revision: str) -> Commit | None:
        found = self.branches.get(revision) or self.tags.get(revision)
        heads = [found] if found else [*self.branches.values(), *self.tags.values()]
        return found or next((c for head in heads for c in history(head) if c.oid == revision), None)


def history(commit: Commit | None) -> Iterator[Commit]:
    while commit is not None:
        yield commit
        commit = commit.parent


@dataclass(slots=True)
class Hub:
    """The server's state, for tests to read and set."""

    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # large files by sha256, committed or not
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    uploads: Counter[str] = field(default_factory=Counter)  # whole large files received, by sha256
    small: Counter[str] = field(default_factory=Counter)  # small files received in commits, by path and content
    requests: list[str] = field(default_factory=list)  # method and path
    seen: list[str] = field(default_factory=list)  # what a reader found wrong after a commit
    role: str = "write"
    echo: bool = False  # answer errors with the caller's own header
    fail: dict[str, list[int]] = field(default_factory=dict)  # pattern of "METHOD path" -> statuses of the next answers
    stall_on: set[str] = field(default_factory=set)  # uploads, by sha256, that are never answered
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def head(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """The files that a reader sees."""
        commit = self.repos[repo].commit(revision)
        assert commit is not None
        return {path: blob.data for path, blob in commit.files.items()}

    def add(self, repo: str, *, private: bool = True) -> Repo:
        files = {".gitattributes": Blob(b"*.tar filter=lfs\n", False)}
        made = Repo(private=private, branches={"main": Commit(digest_of(repo), None, "initial commit", files)})
        return self.repos.setdefault(repo, made)


def digest_of(*words: object) -> str:
    return hashlib.sha1(repr(words).encode()).hexdigest()


def broken_promises(files: dict[str, bytes]) -> list[str]:
    """Where a reader who trusts ``manifest.json`` would be let down."""
    if "manifest.json" not in files:
        return []
    wrong = []
    manifest = json.loads(files["manifest.json"])
    if json.loads(files["plan.json"])["n"] != manifest["n"]:
        wrong.append("plan.json tells of another number of images")
    for shard in manifest["shards"]:
        stem = shard["filename"].removesuffix(".tar")
        if hashlib.sha256(files.get(f"data/{stem}.tar", b"")).hexdigest() != shard["sha256"]:
            wrong.append(f"data/{stem}.tar: missing or other")
        if json.loads(files.get(f"data/{stem}.json", b"null")) != shard:
            wrong.append(f"data/{stem}.json: missing or other")
    for line in files.get("SHA256SUMS", b"?  SHA256SUMS").decode().splitlines():
        digest, _, name = line.partition("  ")
        if hashlib.sha256(files.get(name, b"")).hexdigest() != digest:
            wrong.append(f"{name}: not as SHA256SUMS tells")
    return wrong


class RefusalError(Exception):
    def __init__(self, status: int, code: str = "") -> None:
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def do_DELETE(self) -> None:
        self.answer()

    def answer(self) -> None:
        url = urlsplit(self.path)
        told = f"{self.command} {url.path}"
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        with self.hub.lock:
            self.hub.requests.append(told)
        try:
            if url.path.startswith("/lfs/"):  # signed addresses, without token
                self.store(url.path)
                return
            body = self.body()
            for pattern, statuses in self.hub.fail.items():
                if statuses and re.search(pattern, told):
                    raise RefusalError(statuses.pop(0))
            for pattern, method in ROUTES:
                match = re.fullmatch(pattern, told)
                if match:
                    self.authorise(match.groupdict().get("repo"))
                    with self.hub.lock:
                        method(self, body, **{key: unquote(value) for key, value in match.groupdict().items()})
                    return
            raise RefusalError(404, "EntryNotFound")
        except RefusalError as refusal:
            echoed = self.headers.get("Authorization", "none") if self.hub.echo else "refused"
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": f"with {echoed}"}
            self.reply({"error": f"you came with {echoed}"}, refusal.status, headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def authorise(self, repo: str | None) -> None:
        given = self.headers.get("Authorization")
        readable = self.command in ("GET", "HEAD") and repo in self.hub.repos and not self.hub.repos[repo].private
        if given != f"Bearer {TOKEN}" and not (readable and given is None):
            raise RefusalError(401)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def repo(self, name: str) -> Repo:
        if name not in self.hub.repos:
            raise RefusalError(404, "RepoNotFound")
        return self.hub.repos[name]

    def at(self, repo: str, revision: str) -> Commit:
        commit = self.repo(repo).commit(revision)
        if commit is None:
            raise RefusalError(404, "RevisionNotFound")
        return commit

    def whoami(self, body: bytes) -> None:
        token = {"displayName": "tests", "role": self.hub.role}
        self.reply({"type": "user", "name": "ann", "auth": {"type": "access_token", "accessToken": token}})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        exists = name in self.hub.repos
        self.hub.add(name, private=asked.get("visibility") == "private")
        self.reply({"url": f"{self.hub.endpoint}/datasets/{name}", "id": "1"}, 409 if exists else 200)

    def settings(self, body: bytes, repo: str) -> None:
        self.repo(repo).private = json.loads(body)["visibility"] == "private"
        self.reply({})

    def info(self, body: bytes, repo: str, revision: str = "main") -> None:
        commit = self.at(repo, revision)
        files = [{"rfilename": path} for path in sorted(commit.files)]
        record = {"_id": "1", "id": repo, "author": "ann", "sha": commit.oid, "private": self.repo(repo).private}
        self.reply(
            {**record, "siblings": files, "tags": [], "downloads": 0, "likes": 0, "disabled": False, "gated": False}
        )

    def refs(self, body: bytes, repo: str) -> None:
        found = self.repo(repo)
        kinds = (("branches", "heads", found.branches), ("tags", "tags", found.tags))
        told = {
            kind: [{"name": n, "ref": f"refs/{short}/{n}", "targetCommit": c.oid} for n, c in refs.items()]
            for kind, short, refs in kinds
        }
        self.reply({**told, "converts": []})

    def commits(self, body: bytes, repo: str, revision: str) -> None:
        told = [
            {"id": c.oid, "title": c.message, "message": "", "authors": [], "date": "2026-01-01T00:00:00.000Z"}
            for c in history(self.at(repo, revision))
        ]
        self.reply(told)

    def tree(self, body: bytes, repo: str, revision: str, path: str = "") -> None:
        files = self.at(repo, revision).files
        prefix = f"{path}/" if path else ""
        entries = self.entries(files, prefix, recursive=self.query.get("recursive", "").lower() == "true")
        if prefix and not entries:
            raise RefusalError(404, "EntryNotFound")
        start = int(self.query.get("cursor", 0))
        more = {}
        if start + PAGE < len(entries):
            asked = "&".join(f"{key}={value}" for key, value in {**self.query, "cursor": start + PAGE}.items())
            more = {"Link": f'<{self.hub.endpoint}{urlsplit(self.path).path}?{asked}>; rel="next"'}
        self.reply(entries[start : start + PAGE], headers=more)

    def entries(self, files: dict[str, Blob], prefix: str, *, recursive: bool) -> list[dict[str, Any]]:
        inside = {path: blob for path, blob in sorted(files.items()) if path.startswith(prefix)}
        folders = {
            prefix + "/".join(rest[: i + 1])
            for rest in (path.removeprefix(prefix).split("/")[:-1] for path in inside)
            for i in range(len(rest) if recursive else min(len(rest), 1))
        }
        told = [{"type": "directory", "oid": digest_of(name), "size": 0, "path": name} for name in sorted(folders)]
        return told + [
            entry_of(path, blob) for path, blob in inside.items() if recursive or "/" not in path.removeprefix(prefix)
        ]

    def paths(self, body: bytes, repo: str, revision: str) -> None:
        asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
        files = self.at(repo, revision).files
        told = []
        for path in [asked] if isinstance(asked, str) else asked:
            if path in files:
                told.append(entry_of(path, files[path]))
            elif any(name.startswith(f"{path}/") for name in files):
                told.append({"type": "directory", "oid": digest_of(path), "size": 0, "path": path})
        self.reply(told)

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        files = self.at(repo, revision).files
        told = []
        for asked in json.loads(body)["files"]:
            blob = files.get(asked["path"])
            oid = (blob.sha256 if blob.large else blob.git) if blob else None
            mode = "lfs" if asked["path"].endswith(LARGE) else "regular"
            told.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.reply({"files": told})

    def batch(self, body: bytes, repo: str) -> None:
        self.repo(repo)
        told = []
        for asked in json.loads(body)["objects"]:
            oid, size = asked["oid"], asked["size"]
            answer = {"oid": oid, "size": size}
            if oid not in self.hub.stored:
                answer["actions"] = {"upload": self.ways(oid, size)}
            told.append(answer)
        self.reply({"transfer": "basic", "objects": told})

    def ways(self, oid: str, size: int) -> dict[str, Any]:
        if size <= PART:
            return {"href": f"{self.hub.endpoint}/lfs/{oid}"}
        n = -(-size // PART)
        parts = {f"{i + 1:05d}": f"{self.hub.endpoint}/lfs/{oid}/{i}" for i in range(n)}
        return {"href": f"{self.hub.endpoint}/lfs/{oid}/complete/{n}", "header": {"chunk_size": str(PART), **parts}}

    def store(self, path: str) -> None:
        _, _, oid, *rest = path.split("/")
        if self.command == "PUT" and oid in self.hub.stall_on:
            self.rfile.read(100)
            self.hub.stalled.set()
            self.hub.released.wait(60)
            self.close_connection = True
            return
        body = self.body()
        with self.hub.lock:
            if rest[:1] == ["complete"]:
                body = b"".join(self.hub.parts.pop((oid, i)) for i in range(int(rest[1])))
            elif rest:
                self.hub.parts[oid, int(rest[0])] = body
                self.reply({}, headers={"ETag": f'"{rest[0]}"'})
                return
            if hashlib.sha256(body).hexdigest() != oid:
                self.reply({"error": "not what was announced"}, 422)
                return
            self.hub.uploads[oid] += 1
            self.hub.stored[oid] = body
        self.reply({})

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        found = self.repo(repo)
        if revision not in found.branches:
            raise RefusalError(404, "RevisionNotFound")
        parent = found.branches[revision]
        files, message = dict(parent.files), ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "header":
                    message = value["summary"]
                case "file":
                    files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
                    self.hub.small[f"{value['path']} {files[value['path']].git}"] += 1
                case "lfsFile":
                    files[value["path"]] = Blob(self.hub.stored[value["oid"]], True)
                case "deletedFile":
                    if files.pop(value["path"], None) is None:
                        raise RefusalError(404, "EntryNotFound")
        made = Commit(digest_of(parent.oid, body), parent, message, files)
        found.branches[revision] = made
        self.hub.seen += broken_promises({path: blob.data for path, blob in files.items()})
        self.reply({"success": True, "commitOid": made.oid, "commitUrl": f"{self.hub.endpoint}/c/{made.oid}"})

    def branch(self, body: bytes, repo: str, name: str) -> None:
        found = self.repo(repo)
        if name in found.branches:
            raise RefusalError(409)
        found.branches[name] = self.at(repo, json.loads(body or b"{}").get("startingPoint", "main"))
        self.reply({})

    def tag(self, body: bytes, repo: str, revision: str) -> None:
        name = json.loads(body)["tag"]
        if name in self.repo(repo).tags:
            raise RefusalError(409)
        self.repo(repo).tags[name] = self.at(repo, revision)
        self.reply({})

    def untag(self, body: bytes, repo: str, name: str) -> None:
        if self.repo(repo).tags.pop(name, None) is None:
            raise RefusalError(404)
        self.reply({})

    def yaml(self, body: bytes) -> None:
        self.reply({"errors": [], "warnings": []})

    def resolve(self, body: bytes, repo: str, revision: str, path: str) -> None:
        commit = self.at(repo, revision)
        if path not in commit.files:
            raise RefusalError(404, "EntryNotFound")
        blob = commit.files[path]
        etag = f'"{blob.sha256 if blob.large else blob.git}"'
        headers = {"ETag": etag, "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self.reply(blob.data, headers=headers)
            return
        start, stop = int(asked[1]), min(int(asked[2] or len(blob.data)) + 1, len(blob.data))
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(blob.data)}"
        self.reply(blob.data[start:stop], 206, headers)


def entry_of(path: str, blob: Blob) -> dict[str, Any]:
    entry = {"type": "file", "oid": blob.git, "size": len(blob.data), "path": path}
    if blob.large:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 134}
    return entry


DATASET = "/api/datasets/(?P<repo>[^/]+/[^/]+)"
ROUTES: list[tuple[str, Callable[..., None]]] = [
    ("GET /api/whoami-v2", Handler.whoami),
    ("POST /api/repos/create", Handler.create),
    ("POST /api/validate-yaml", Handler.yaml),
    (f"PUT {DATASET}/settings", Handler.settings),
    (f"GET {DATASET}", Handler.info),
    (f"GET {DATASET}/revision/(?P<revision>[^/]+)", Handler.info),
    (f"GET {DATASET}/refs", Handler.refs),
    (f"GET {DATASET}/commits/(?P<revision>[^/]+)", Handler.commits),
    (f"GET {DATASET}/tree/(?P<revision>[^/]+)", Handler.tree),
    (f"GET {DATASET}/tree/(?P<revision>[^/]+)/(?P<path>.+)", Handler.tree),
    (f"POST {DATASET}/paths-info/(?P<revision>[^/]+)", Handler.paths),
    (f"POST {DATASET}/preupload/(?P<revision>[^/]+)", Handler.preupload),
    (f"POST {DATASET}/commit/(?P<revision>[^/]+)", Handler.commit),
    (f"POST {DATASET}/branch/(?P<name>[^/]+)", Handler.branch),
    (f"POST {DATASET}/tag/(?P<revision>[^/]+)", Handler.tag),
    (f"DELETE {DATASET}/tag/(?P<name>[^/]+)", Handler.untag),
    (r"POST /datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.batch),
    ("(GET|HEAD) /datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
]


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub on a free port of loopback."""
    state = Hub()
    handler = type("HandlerOfOne", (Handler,), {"hub": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
