"""Renders diffusion samples: draws batches, checks every image, writes files with their records."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synthgen.dataset.encode import Origin, encode_image
from synthgen.dataset.quality import fault
from synthgen.dataset.shard import Item
from synthgen.kinds.base import Sample
from synthgen.kinds.diffusion.content import DiffusionContent

if TYPE_CHECKING:
    from synthgen.kinds.diffusion.sampler import Pending, Sampler

ATTEMPTS = 5  # at an image that comes out black, constant, not finite, or flagged if that is excluded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Shot:
    """One attempt at an image."""

    sample: Sample
    prompt: str
    attempt: int
    seed: int


class DiffusionRenderer:
    """Renders samples through a sampler, batch by batch.

    While the device draws a batch, the one before it is checked and encoded in threads.
    """

    def __init__(self, content: DiffusionContent, sampler: Sampler) -> None:
        self.content, self.sampler = content, sampler
        self._scheduler, settings = sampler.scheduler
        self._settings = ", ".join(f"{key}={value}" for key, value in settings.items())
        self._threads = ThreadPoolExecutor(os.cpu_count())

    def render(self, samples: Iterable[Sample]) -> Iterator[Item]:
        """Image files and records, in order."""
        before: tuple[list[_Shot], Pending] | None = None
        for group in _batched(samples, self.sampler.batch):
            shots = [self._shot(sample, 0) for sample in group]
            pending = self._start(shots)
            if before is not None:
                yield from self._finish(*before)
            before = shots, pending
        if before is not None:
            yield from self._finish(*before)

    def _shot(self, sample: Sample, attempt: int) -> _Shot:
        content = self.content
        seed = content.image_seed(sample.index, attempt)
        return _Shot(sample=sample, prompt=content.caption(sample), attempt=attempt, seed=seed)

    def _start(self, shots: Sequence[_Shot]) -> Pending:
        return self.sampler.start([shot.prompt for shot in shots], [shot.seed for shot in shots])

    def _finish(self, shots: list[_Shot], pending: Pending) -> Iterator[Item]:
        """The items of a batch; images that fail the checks are redrawn, up to ATTEMPTS in all."""
        images, faults, flags = self._look(pending)
        while bad := [
            place
            for place, shot in enumerate(shots)
            if (faults[place] or (flags[place] and self.content.exclude_flagged)) and shot.attempt + 1 < ATTEMPTS
        ]:
            again = [self._shot(shots[place].sample, shots[place].attempt + 1) for place in bad]
            found = self._look(self._start(again))
            for place, shot, image, what, flagged in zip(bad, again, *found, strict=True):
                shots[place], images[place], faults[place], flags[place] = shot, image, what, flagged
        yield from self._threads.map(self._item, shots, images, faults, flags)

    def _look(self, pending: Pending) -> tuple[list[NDArray[np.uint8]], list[str], list[bool]]:
        """Images, what is wrong with each ("" if nothing is), and the safety checker's verdicts."""
        drawn = self.sampler.finish(pending)
        faults = [
            "non-finite" if not finite else fault(image) or ""
            for image, finite in zip(drawn.images, drawn.finite, strict=True)
        ]
        return list(drawn.images), faults, drawn.flagged.tolist()

    def _item(self, shot: _Shot, image: NDArray[np.uint8], what: str, flagged: bool) -> Item:
        content, sample = self.content, shot.sample
        record = {
            "index": sample.index,  # of the image in the plan
            "label": sample.label,
            "class": content.classes.ids[sample.label],
            "class_name": content.classes.names[sample.label],
            "prompt": shot.prompt,
            "template": sample.variant,
            "prompts": content.prompts.name,  # of the prompt file
            "prompts_version": content.prompts.version,  # of the prompt file
            "prompts_sha256": content.prompts.sha256,  # of the prompt file
            "seed": shot.seed,
            "attempt": shot.attempt,  # 0, or how many times the image was redrawn
            **content.settings(),
            "scheduler_class": self._scheduler,  # in diffusers
            "scheduler_settings": self._settings,  # that the images depend on
            "batch": self.sampler.batch,  # images drawn at once
            "fault": what,
            "flagged": flagged,
            "safety_checker": self.sampler.checker is not None,  # whether the model has one
        }
        data = encoded(image, record)
        return Item(key=sample.key, label=sample.label, ending=content.image_format, image=data, record=record)


def encoded(image: NDArray[np.uint8], record: dict[str, Any]) -> bytes:
    """The image file: pixels uint8 [height, width, 3], and their origin."""
    origin = Origin(
        prompt=record["prompt"],
        seed=str(record["seed"]),
        model=record["model"],
        revision=record["revision"],
        index=record["index"],
    )
    return encode_image(image, image_format=record["format"], quality=record["quality"], origin=origin)


def _batched(samples: Iterable[Sample], size: int) -> Iterator[tuple[Sample, ...]]:
    rest = iter(samples)
    while group := tuple(islice(rest, size)):
        yield group
