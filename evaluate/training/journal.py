"""What a run leaves on disk while it trains: checkpoint, log, state; each whole or not there."""

from __future__ import annotations

import io
import json
import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from accelerate import Accelerator
from torch import nn

from synthgen.shard import write_atomically

from ..runs import Run, write_json

PACKAGES = ("torch", "torchvision", "accelerate", "numpy", "pillow")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """Where a run goes on from: parameters, optimizer and, for half precision, the loss scale."""

    run: Run
    learner: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None

    @property
    def path(self) -> Path:
        """Its file."""
        return self.run.directory / "checkpoint.pt"

    def load(self) -> int:
        """Take up the stored state, where there is one; returns how many epochs are done."""
        state = self._read() if self.path.exists() else None
        if state is None:
            return 0
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        return int(state["epoch"])

    def _read(self) -> dict[str, Any] | None:
        """What is stored; None, which is told, where it is damaged: torch takes wrong bytes for parameters."""
        try:
            with ZipFile(self.path) as file:
                if file.testzip() is None:
                    state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
                    return state
        except OSError:
            raise
        except Exception:  # damaged bytes make the readers stumble in many ways
            pass
        print(f"{self.path}: damaged; the run begins anew", flush=True)
        return None

    def save(self, epoch: int) -> None:
        """Store the state after an epoch."""
        state = {"learner": self.learner.state_dict(), "optimizer": self.optimizer.state_dict(), "epoch": epoch}
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        sink = io.BytesIO()
        torch.save(state, sink)
        write_atomically(self.path, sink.getvalue())


def log_epoch(run: Run, row: dict[str, float], epoch: int) -> None:
    """Append an epoch's row to log.jsonl; an epoch done again after a kill replaces what it had written."""
    path = run.directory / "log.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    rows = [old for old in rows if old["epoch"] < epoch] + [{"epoch": epoch, **row}]
    write_atomically(path, "".join(json.dumps(one) + "\n" for one in rows).encode())


def set_state(run: Run, status: str, accelerator: Accelerator, **more: Any) -> None:
    """Write state.json: how far the run is, on what machine, with which versions."""
    device = accelerator.device
    record = {
        "status": status,
        **more,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "processes": accelerator.num_processes,
        "versions": {name: version(name) for name in PACKAGES},
    }
    write_json(run.directory / "state.json", record)
