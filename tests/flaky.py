"""An HTTP proxy on loopback that fails as a store may: with 503 or 500, a cut connection, a slow answer."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>{}</Message></Error>'
ANSWERS = {
    "busy": (503, ERROR.format("SlowDown", "Please reduce your request rate.")),
    "broken": (500, ERROR.format("InternalError", "We encountered an internal error.")),
    "denied": (403, ERROR.format("AccessDenied", "Access Denied")),
    "expired": (400, ERROR.format("ExpiredToken", "The provided token has expired.")),
}
# unheard: the request is not wholly read; unsaid: it is done, and there is no answer; cut: half of one
FAULTS = ("busy", "broken", "unheard", "unsaid", "cut", "slow")
SLOW = 0.5  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asked."""

    method: str
    path: str  # with the query
    when: float  # time.monotonic()
    fault: str | None


class Proxy:
    """Stands before a server and decides about each request what happens to it."""

    def __init__(self, server: str, decide: Callable[[str, str], str | None]) -> None:
        self._server, self._decide, self._lock = urlsplit(server), decide, threading.Lock()
        self.requests: list[Request] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def faults(self) -> Counter[str]:
        return Counter(request.fault for request in list(self.requests) if request.fault)

    def puts(self, ending: str) -> Counter[str]:
        """How often each file with an ending was sent."""
        return Counter(
            request.path.rpartition("/")[2].partition("?")[0]
            for request in list(self.requests)
            if request.method == "PUT" and request.path.partition("?")[0].endswith(ending)
        )

    def fault(self, method: str, path: str) -> str | None:
        with self._lock:
            found = self._decide(method, path)
            self.requests.append(Request(method=method, path=path, when=time.monotonic(), fault=found))
            return found

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection(self._server.hostname or "", self._server.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name.lower() not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            try:
                super().handle()
            except (ConnectionError, TimeoutError):  # a client that was killed
                self.close_connection = True

        def do_GET(self) -> None:
            fault, length = proxy.fault(self.command, self.path), int(self.headers.get("Content-Length", 0))
            if fault == "unheard":
                self.rfile.read(length // 2)
                self._hang_up()
                return
            body = self.rfile.read(length)
            if len(body) < length:
                self.close_connection = True
            elif fault in ANSWERS:
                self._answer(ANSWERS[fault][0], {"Content-Type": "application/xml"}, ANSWERS[fault][1].encode())
            else:
                if fault == "slow":
                    time.sleep(SLOW)
                response, data = proxy.forward(self.command, self.path, dict(self.headers.items()), body)
                if fault == "unsaid":
                    self._hang_up()
                else:
                    self._answer(response.status, dict(response.getheaders()), data, cut=fault == "cut")

        do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815

        def _answer(self, status: int, headers: dict[str, str], data: bytes, *, cut: bool = False) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", len(data)) if self.command == "HEAD" else len(data)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self.wfile.flush()
                self._hang_up()

        def _hang_up(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def before(server: str, decide: Callable[[str, str], str | None] = lambda method, path: None) -> Iterator[Proxy]:
    """A proxy before a server; ``decide`` takes method and path and names what goes wrong, None for nothing."""
    proxy = Proxy(server, decide)
    try:
        yield proxy
    finally:
        proxy.stop()


def now_and_then(share: float, seed: int, faults: tuple[str, ...] = FAULTS) -> Callable[[str, str], str | None]:
    """Faults at random, of this share of the requests."""
    rng = random.Random(seed)
    return lambda method, path: rng.choice(faults) if rng.random() < share else None
