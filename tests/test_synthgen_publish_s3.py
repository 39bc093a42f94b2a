import http.client
import os
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import Command
from hub import broken_promises
from processes import installed
from publishable import N, fractal_set, in_bucket, wanted

from synthgen.dataset.manifest import DOCUMENTS
from synthgen.publishing.publish import publish
from synthgen.storage import object_store

pytestmark = [  # of third parties
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning:webdataset"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def fractals(tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command, categories: Path) -> Path:
    return fractal_set(tmp_path_factory.mktemp("publish") / "fractals", synthgen_here, categories)


@pytest.fixture
def copied(fractals: Path, tmp_path: Path) -> Path:
    """A set of one's own, as it was before anything was published."""
    return Path(shutil.copytree(fractals, tmp_path / "set", ignore=shutil.ignore_patterns(*DOCUMENTS)))


@dataclass(slots=True)
class Watched:
    """What a proxy before an S3 server sees."""

    url: str = ""
    puts: Counter[str] = field(default_factory=Counter)  # whole files that the server took
    broken: list[str] = field(default_factory=list)  # promises to readers, after each change
    fail: list[int] = field(default_factory=list)  # statuses of the next answers to PUT
    stall_at: int = 0  # the PUT, counted from 1, that is never passed on
    n: int = 0
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def watching(server: str, set_url: str) -> Iterator[Watched]:
    watched = Watched()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            key = urlsplit(self.path).path
            counted = self.command == "PUT" and object_store.PUBLISHED_PROBE not in key
            with watched.lock:
                watched.n += counted
                stalls = counted and watched.n == watched.stall_at
                if not stalls:
                    self.pass_on(key, body, counted)
            if stalls:
                watched.stalled.set()
                watched.released.wait(60)
                self.close_connection = True

        def pass_on(self, key: str, body: bytes, counted: bool) -> None:
            if counted and watched.fail:
                self.answer(watched.fail.pop(), b"")
                return
            link = http.client.HTTPConnection(urlsplit(server).netloc)
            link.request(self.command, self.path, body, dict(self.headers))
            answer = link.getresponse()
            data = answer.read()
            link.close()
            if self.command in ("PUT", "DELETE", "POST"):
                watched.puts.update([key] * counted)
                watched.broken += broken_promises(in_bucket(set_url))
            self.answer(answer.status, data, dict(answer.getheaders()))

        def answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = (headers or {}).get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    proxy.daemon_threads = True
    watched.url = f"http://127.0.0.1:{proxy.server_address[1]}"
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    yield watched
    watched.released.set()
    proxy.shutdown()
    proxy.server_close()
    thread.join()


def command(*arguments: object) -> list[str]:
    return [installed("synthgen"), *map(str, arguments)]


@pytest.mark.slow
def test_an_upload_to_s3_killed_twice_ends_complete_and_nobody_saw_half_a_set(
    fractals: Path, s3: str, s3_server: str
) -> None:
    url = f"{s3}/sets/one"
    with watching(s3_server, url) as watched:
        environment = {**os.environ, "AWS_ENDPOINT_URL": watched.url}
        for at in (4, 5):  # of the files that are still to go
            watched.stall_at = watched.n + at
            watched.stalled.clear()
            process = subprocess.Popen(command("publish", fractals, "--to", url), env=environment, stderr=-1)
            assert watched.stalled.wait(60)
            assert len(in_bucket(url)) >= at - 1
            process.kill()
            process.communicate()
            assert process.returncode == -signal.SIGKILL
            assert "manifest.json" not in in_bucket(url)
        watched.stall_at = 0
        done = subprocess.run(command("publish", fractals, "--to", url), env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert in_bucket(url) == wanted(fractals)
        assert watched.broken == []
        assert set(watched.puts.values()) == {1}
        assert len(watched.puts) == len(wanted(fractals))


def test_a_set_grows_in_a_bucket_through_passing_faults_of_the_server(
    copied: Path, s3: str, s3_server: str, synthgen_here: Command, categories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    url = f"{s3}/sets/one"
    with watching(s3_server, url) as watched:
        monkeypatch.setenv("AWS_ENDPOINT_URL", watched.url)
        s3fs.S3FileSystem.clear_instance_cache()
        publish(copied, url)
        before = Counter(watched.puts)
        fractal_set(copied, synthgen_here, categories, n=N + 10)
        watched.fail = [503, 500]
        publish(copied, url)
        sent = {Path(name).name for name in watched.puts - before}
        assert sent >= {"fractal-train-000003.tar", "plan.json", "SHA256SUMS", "manifest.json", "README.md"}
        assert not any("00000" in name and "000003" not in name for name in sent)
        assert in_bucket(url) == wanted(copied)
        assert watched.broken == []
    s3fs.S3FileSystem.clear_instance_cache()
