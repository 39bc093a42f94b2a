"""An S3 server on loopback, and what goes wrong with requests to it."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flaky

KEYS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-store",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
BUCKET = "faults"
BUSY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'


@contextmanager
def server(log: Path) -> Iterator[str]:
    """Start an S3 server with a bucket; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with log.open("wb") as told:
        program = str(Path(sys.executable).with_name("moto_server"))
        process = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stdout=told, stderr=told)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"no S3 server: {log.read_text()[-300:]}") from None
                time.sleep(0.1)
        client(f"http://127.0.0.1:{port}").create_bucket(Bucket=BUCKET)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def client(address: str) -> Any:
    """A client of its own, which goes past the proxy."""
    import boto3

    return boto3.session.Session().client(
        "s3",
        endpoint_url=address,
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name=KEYS["AWS_DEFAULT_REGION"],
    )


HOW = {
    "503 and 500": ("busy", "broken"),
    "cut connections": ("unheard", "unsaid", "cut"),
    "slow": ("slow",),
    "all of these": flaky.FAULTS,
}


@dataclass(slots=True, kw_only=True)
class Trouble:
    """What goes wrong with which share of the requests; changed while the proxy runs."""

    how: str = ""  # one of HOW; nothing goes wrong where it is empty
    share: float = 0.0
    n: int = 0  # requests that met with it
    written: set[str] = field(default_factory=set)  # records that were sent
    rng: random.Random = field(default_factory=random.Random)

    def decide(self, method: str, path: str) -> str | None:
        """What is to go wrong with a request."""
        folder, _, name = path.partition("?")[0].rpartition("/")
        if not self.how or self.rng.random() >= self.share:
            if method == "PUT" and folder.endswith("/data") and name.endswith(".json"):
                self.written.add(f"data/{name}")
            return None
        self.n += 1
        return self.rng.choice(HOW[self.how])
