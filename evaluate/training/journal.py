"""What a run stores while it trains: checkpoint, log, state; each is written completely or not at all."""

from __future__ import annotations

import io
import json
import os
import platform
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch
from accelerate import Accelerator
from pydantic import with_config
from torch import nn

from synthgen.common.printing import say
from synthgen.common.records import STRICT, record
from synthgen.storage.atomic import write_atomically
from synthgen.storage.reading import open_file, read_file, reading

from ..errors import told_here
from ..runs import Run, write_json

PACKAGES = ("torch", "torchvision", "accelerate", "numpy", "pillow")


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of log.jsonl."""

    epoch: int  # from 1
    loss: float  # mean over the images
    train_accuracy: float  # share of hits
    lr: float  # of the last step


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """Where a run resumes: parameters, optimizer and, for half precision, the loss scale."""

    run: Run
    epochs: int  # of the run
    learner: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None

    @property
    def path(self) -> Path:
        """Its file."""
        return self.run.directory / "checkpoint.pt"

    def load(self) -> int:
        """Restore the stored state, if there is one; returns how many epochs are done."""
        state = self._read() if self.path.exists() else None
        if state is None:
            return 0
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        return int(state["epoch"])

    def _read(self) -> dict[str, Any] | None:
        """The stored state; None, with a message, if it is damaged or of another run.

        Torch accepts wrong bytes as parameters, and stops halfway through those that do not fit.
        """
        with told_here(), reading(self.path), open_file(self.path) as file:
            try:
                size = os.fstat(file.fileno()).st_size
                with ZipFile(file) as parts:
                    entries = parts.infolist()  # torch compresses none: 4 kB that claim to be 4 GB are not read
                    plain = all(one.compress_type == ZIP_STORED and one.file_size <= size for one in entries)
                    whole = plain and parts.testzip() is None
                if whole:
                    file.seek(0)
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # about invalid pickle protocols
                        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
                    if self._fits(state):
                        return state
            except OSError:
                raise
            except Exception:  # damaged bytes make the readers fail in many ways
                pass
        say(f"{self.path}: damaged, or of another run; the run starts over")
        return None

    def _fits(self, state: Mapping[str, Any]) -> bool:
        """Whether a stored state fits this run: its epochs, parameters and optimizer, all numbers finite."""
        own, optimizer = self.learner.state_dict(), self.optimizer.state_dict()
        learner, other = state["learner"], state["optimizer"]
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return (
            type(state["epoch"]) is int
            and 1 <= state["epoch"] <= self.epochs
            and learner.keys() == own.keys()
            and all(_alike(learner[name], value) for name, value in own.items())
            and len(other["param_groups"]) == len(optimizer["param_groups"])
            and all(map(_same_options, other["param_groups"], optimizer["param_groups"]))
            and other["state"].keys() <= set(range(len(parameters)))
            and all(
                _alike(value, parameters[number]) if value.ndim else bool(value.isfinite())
                for number, values in other["state"].items()
                for value in values.values()
                if isinstance(value, torch.Tensor)
            )
            and (self.scaler is None or state["scaler"].keys() == self.scaler.state_dict().keys())
        )

    def save(self, epoch: int) -> None:
        """Store the state after an epoch."""
        state = {"learner": self.learner.state_dict(), "optimizer": self.optimizer.state_dict(), "epoch": epoch}
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        sink = io.BytesIO()
        torch.save(state, sink)
        write_atomically(self.path, sink.getvalue())


def _alike(value: torch.Tensor, own: torch.Tensor) -> bool:
    return value.shape == own.shape and value.dtype == own.dtype and bool(value.isfinite().all())


def _same_options(stored: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether groups of parameters have the same options, if both state them; the learning rate follows the epoch."""
    return all(stored[key] == own[key] for key in stored.keys() & own.keys() - {"lr"})


def log_epoch(run: Run, row: dict[str, float], epoch: int) -> None:
    """Append an epoch's row to log.jsonl; an epoch repeated after a kill replaces its earlier row.

    Raises EvaluateError, naming file and line, if the existing file is not a log.
    """
    path = run.directory / "log.jsonl"
    with told_here(), reading(path):
        lines = read_file(path).splitlines() if path.exists() else []
        rows = [record(line, Row, f"{path}: line {number}") for number, line in enumerate(lines, start=1)]
    kept = [asdict(old) for old in rows if old.epoch < epoch] + [{"epoch": epoch, **row}]
    write_atomically(path, "".join(json.dumps(one) + "\n" for one in kept).encode())


def set_state(run: Run, status: str, accelerator: Accelerator, *, predictions: Mapping[str, str], **more: Any) -> None:
    """Write state.json: the progress of the run, its machine and versions.

    ``predictions`` has the SHA-256 of each stored file of predictions, by its name.
    """
    device = accelerator.device
    state = {
        "status": status,
        **more,
        **({"predictions": dict(predictions)} if predictions else {}),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "processes": accelerator.num_processes,
        "versions": {name: version(name) for name in PACKAGES},
    }
    write_json(run.directory / "state.json", state)
