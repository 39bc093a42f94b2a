"""A simulated set, opened: read as WILDS's iWildCam is, and known by how it was drawn."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

from ...errors import EvaluateError
from ...runs import stored
from ..base import Task
from ..wilds.reading import open_set
from ..wilds.sets import SETS
from .simulate import RECORD, Simulated


def open_simulated(name: str, path: Path) -> Task:
    """Open the simulated set in a folder; raises EvaluateError if it is none, or incomplete."""
    record = path / RECORD
    if not record.exists():
        raise EvaluateError(f"{record}: missing; `evaluate simulate --out {path}` makes a simulated set")
    drawn = asdict(stored(record, Simulated))
    task = open_set("iwildcam", SETS["iwildcam"], path)
    made = json.dumps(drawn, sort_keys=True) + task.identity["digest"]
    digest = hashlib.sha256(made.encode()).hexdigest()[:16]  # the metadata alone do not know the images' size
    return replace(task, identity={**task.identity, "kind": name, "digest": digest})
