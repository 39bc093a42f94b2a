"""A Ray cluster: whether one responds, what resources it has, and connections to it."""

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

CONNECT = 5.0  # seconds that an address has to respond
ELASTIC = ("CPU", "GPU", "memory")  # what nodes that join the cluster later may have

# HTTP/2's connection preface, to which a gRPC server such as Ray's responds with a frame of type 4 (RFC 9113, 3.4).
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A Ray cluster, and the resources that an actor takes."""

    address: str | None  # HOST:PORT or auto; None starts Ray on this machine, unless RAY_ADDRESS says otherwise
    resources: dict[str, float]  # by name, such as CPU or GPU
    workers: int | None  # most actors at once; None for as many as fit

    @property
    def remote_options(self) -> dict[str, Any]:
        """Options of ``ray.remote`` for a task or an actor that takes these resources."""
        others = dict(self.resources)
        cpus, gpus, memory = (others.pop(name, 0) for name in ELASTIC)
        return {"num_cpus": cpus, "num_gpus": gpus, "memory": memory or None, "resources": others}

    def room(self, there: dict[str, float]) -> int:
        """How many workers fit in the available resources ``there``, by name."""
        return min(int(there.get(name, 0) / amount) for name, amount in self.resources.items())

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """The module ``ray``, connected to the cluster, and disconnected at the end.

        Raises SynthgenError if Ray is not installed, does not respond, or lacks the resources of a worker.
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
    """The module ``ray``; raises SynthgenError if it is not installed."""
    try:
        import ray
    except ImportError:
        raise SynthgenError("--engine ray: Ray is not installed; pip install 'synthgen[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray would send usage statistics
    options: dict[str, Any] = {"address": address}
    if address is None:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # or Ray leaves one in the home directory
        options = {"address": "local", "include_dashboard": False}
    else:
        probe(address)
    ours = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    except SystemExit:  # Ray's own response to SIGTERM
        raise KeyboardInterrupt from None
    except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError, OSError, AssertionError) as error:
        what = f"--address {address}" if address else "--engine ray"
        raise SynthgenError(f"{what}: Ray does not respond ({_reason(error)})") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)
    ray._private.worker._worker_logs_enabled = False  # or it prints pages about lost nodes on stdout


def probe(address: str) -> None:
    """Raise SynthgenError if Ray does not respond, which takes ray.init minutes and many lines to report."""
    if address == "auto":  # which Ray itself looks for quickly
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
            if os.environ.get("RAY_USE_TLS", "0") != "0":  # this probe does not speak TLS
                return
            connection.sendall(HELLO)
            answer = connection.recv(4)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise SynthgenError(
            f"--address {address}: Ray does not respond ({why}); start it with `ray start --head`"
        ) from None
    if answer[3:] != b"\4":
        raise SynthgenError(f"--address {address}: what responds is not Ray; give the port of `ray start --head`")


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if "AuthenticationError" in f"{type(cause).__name__} {cause}":
            return "it asks for a token: export RAY_AUTH_MODE=token, with the cluster's in RAY_AUTH_TOKEN or ~/.ray"
        cause = cause.__cause__
    return describe(error)


def _check_resources(ray: Any, wanted: dict[str, float], *, elastic: bool) -> None:
    """Raise SynthgenError for what no node has; with ``elastic``, nodes with CPUs, GPUs and memory may still join."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    short = [
        f"{name} {amount:g}"
        for name, amount in wanted.items()
        if not (elastic and name in ELASTIC) and all(node.get(name, 0) < amount for node in nodes)
    ]
    if short:
        raise SynthgenError(f"--resources: no node of the cluster has {' and '.join(short)}")
