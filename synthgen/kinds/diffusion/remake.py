"""One diffusion image again, from its record: the json of a sample in a shard."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, with_config

from synthgen.common.errors import SynthgenError
from synthgen.common.records import STRICT, parsed, validated
from synthgen.dataset.plan import MAX_BATCH
from synthgen.dataset.shard import Checksum
from synthgen.kinds.base import IMAGE_FORMATS, MAX_IMAGES, MAX_SIDE
from synthgen.kinds.diffusion.content import DTYPES, ModelRecord, Sampling
from synthgen.kinds.diffusion.models import Model, find_model
from synthgen.kinds.diffusion.render import ATTEMPTS, encoded
from synthgen.kinds.diffusion.schedulers import NAMES as SCHEDULERS
from synthgen.storage.atomic import write_atomically
from synthgen.storage.reading import read_file, reading

LONGEST = 1 << 20  # bytes in a record
RANGES = {
    "index": (0, MAX_IMAGES - 1),
    "label": (0, MAX_IMAGES - 1),
    "template": (0, MAX_IMAGES - 1),
    "attempt": (0, ATTEMPTS - 1),
    "steps": (1, 1000),
    "guidance": (0, 100),
    "size": (1, MAX_SIDE),
    "quality": (1, 100),
    "batch": (1, MAX_BATCH),
}
SEED = re.compile("[0-9]{1,20}")
# Text encoders read 77 tokens, but their tokenizers split all of a text, once per image of a batch, before they cut it.
Text = Annotated[str, Field(max_length=10_000)]


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """The record of a diffusion image; see ``DiffusionRenderer`` and, for key and checksum, ``dataset.shard``."""

    key: Annotated[str, Field(pattern="^[0-9]{9}$")]
    index: int
    label: int
    class_: Annotated[Text, Field(alias="class")]
    class_name: Text
    prompt: Text
    template: int
    prompts: Text
    prompts_version: Text
    prompts_sha256: Checksum
    seed: int | str  # as text in the records in shards
    attempt: int
    model: Text
    revision: Text
    variant: Text
    scheduler: Text
    steps: int
    guidance: float
    negative_prompt: Text
    size: int
    dtype: Text
    format: Text
    quality: int
    scheduler_class: Text
    scheduler_settings: Text
    batch: int
    fault: Text
    flagged: bool
    safety_checker: bool
    sha256: Checksum

    def problem(self) -> str | None:
        """Which value is out of range, beginning with its key; None if all are valid."""
        for key, known in (("scheduler", SCHEDULERS), ("dtype", DTYPES), ("format", IMAGE_FORMATS)):
            if getattr(self, key) not in known:
                return f"{key}: {getattr(self, key)[:40]!r} is not one of {', '.join(known)}"
        for key, (least, most) in RANGES.items():
            if not least <= getattr(self, key) <= most:
                return f"{key}: {str(getattr(self, key))[:40]} is not {least} to {most}"
        is_seed = SEED.fullmatch(str(self.seed)) and int(self.seed) < 2**64
        return None if is_seed else f"seed: {str(self.seed)[:40]!r} is not a 64-bit number"


def remake_file(
    path: Path, out: Path, *, model: str | None = None, revision: str | None = None, device: str | None = None
) -> bool:
    """Redraw the image of a record file into a file; whether it has the SHA-256 that the record states.

    The model is the one that the record names, at its commit, unless ``model`` gives another location.  Raises
    SynthgenError if the file is not the record of a diffusion image, or the model is a different one.
    """
    with reading(path):
        stored = parsed(read_file(path, limit=LONGEST), path)
    record = validated(stored, ImageRecord, path)
    if what := record.problem():
        raise SynthgenError(f"{path}: {what}")
    if model is None and revision is None and not record.revision.startswith("sha256:"):
        revision = record.revision or None
    # the dtype decides between weight files of half and of full precision
    weights = find_model(model or record.model, revision=revision, dtype=record.dtype)
    image = _remade(stored, record, weights, device)
    write_atomically(out, image)
    return hashlib.sha256(image).hexdigest() == record.sha256


def _remade(stored: dict[str, Any], record: ImageRecord, model: Model, device: str | None) -> bytes:
    from synthgen.kinds.diffusion.sampler import Sampler

    if (model.name, model.revision, model.variant or "") != (record.model, record.revision, record.variant):
        raise SynthgenError(
            f"model {model.name} at {model.revision[:20]}: the record's is {record.model} at {record.revision[:20]};"
            " give it as --model"
        )
    sampling = Sampling(
        scheduler=record.scheduler,
        steps=record.steps,
        guidance=record.guidance,
        negative_prompt=record.negative_prompt,
        size=record.size,
        dtype=record.dtype,
    )
    weights = ModelRecord(name=model.name, revision=model.revision, variant=model.variant)
    sampler = Sampler(model.folder, weights, sampling, device=device, batch=record.batch)
    drawn = sampler.finish(sampler.start([record.prompt], [int(record.seed)]))
    return encoded(drawn.images[0], stored)
