"""A Ray cluster: whether one answers, what it has, and being connected to it."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from synthgen.common.errors import SynthgenError
from synthgen.common.logs import describe

CONNECT = 5.0  # seconds that an address gets to answer
ELASTIC = ("CPU", "GPU", "memory")  # what nodes that a cluster does not have yet may bring

# HTTP/2's opening words, which a gRPC server such as Ray's answers with a frame of type 4 (RFC 9113, 3.4).
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A Ray cluster, and what an actor takes of it."""

    address: str | None  # HOST:PORT or auto; None starts Ray on this machine, unless RAY_ADDRESS says otherwise
    resources: dict[str, float]  # by name, such as CPU or GPU
    workers: int | None  # most actors at once; None for as many as there is room for

    @property
    def remote_options(self) -> dict[str, Any]:
        """Options of ``ray.remote`` for a task or an actor that takes so much of each resource."""
        others = dict(self.resources)
        cpus, gpus, memory = (others.pop(name, 0) for name in ELASTIC)
        return {"num_cpus": cpus, "num_gpus": gpus, "memory": memory or None, "resources": others}

    def room(self, there: dict[str, float]) -> int:
        """For how many workers there is room where ``there`` are so many of each resource."""
        return min(int(there.get(name, 0) / amount) for name, amount in self.resources.items())

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """The module ``ray``, connected to the cluster, and disconnected at the end.

        Raises SynthgenError where Ray is not installed, does not answer, or has not what a worker takes.
        """
        ray = require_ray()
        ours = not ray.is_initialized()
        address = self.address or os.environ.get("RAY_ADDRESS")
        if ours:
            _connect(ray, address)
        try:
            _check_resources(ray, self.resources, elastic=bool(address))
            yield ray
        finally:
            if ours:
                ray.shutdown()


def require_ray() -> Any:
    """The module ``ray``; raises SynthgenError where it is not installed."""
    try:
        import ray
    except ImportError:
        raise SynthgenError("--engine ray: Ray is not installed; pip install 'synthgen[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    options: dict[str, Any] = {"address": address}
    if address is None:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray leaves one in the home directory
        options = {"address": "local", "include_dashboard": False}
    else:
        probe(address)
    ours = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    except SystemExit:  # Ray's own answer to SIGTERM
        raise KeyboardInterrupt from None
    except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError, OSError, AssertionError) as error:
        what = f"--address {address}" if address else "--engine ray"
        raise SynthgenError(f"{what}: no Ray answers ({_reason(error)})") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)
    ray._private.worker._worker_logs_enabled = False  # of lost nodes, page by page, on stdout


def probe(address: str) -> None:
    """Raise SynthgenError where no Ray answers, for which ray.init would take minutes and many lines."""
    if address == "auto":  # which Ray itself is quick to look for
        return
    host, _, port = address.rpartition(":")
    if "://" in address:
        raise SynthgenError(
            f"--address {address}: HOST:PORT or auto, on a node of the cluster; from elsewhere use `ray job submit`"
        )
    if not host or not port.isdecimal():
        raise SynthgenError(f"--address {address}: HOST:PORT, such as 10.0.0.1:6379, or auto")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":  # it speaks another language
                return
            connection.sendall(HELLO)
            answer = connection.recv(4)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise SynthgenError(f"--address {address}: no Ray answers ({why}); start it with `ray start --head`") from None
    if answer[3:] != b"\4":
        raise SynthgenError(f"--address {address}: what answers is not Ray; give the port of `ray start --head`")


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if "AuthenticationError" in f"{type(cause).__name__} {cause}":
            return "it asks for a token: export RAY_AUTH_MODE=token, with the cluster's in RAY_AUTH_TOKEN or ~/.ray"
        cause = cause.__cause__
    return describe(error)


def _check_resources(ray: Any, wanted: dict[str, float], *, elastic: bool) -> None:
    """Raise SynthgenError for what no node has; with ``elastic`` nodes may come that have CPUs, GPUs and memory."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    short = [
        f"{name} {amount:g}"
        for name, amount in wanted.items()
        if not (elastic and name in ELASTIC) and all(node.get(name, 0) < amount for node in nodes)
    ]
    if short:
        raise SynthgenError(f"--resources: no node of the cluster has {' and '.join(short)}")
