"""A synthgen dataset as an image source; if it is at a URL, its shards are downloaded when first needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from synthgen import open_set
from synthgen.common.errors import SynthgenError

from ..errors import EvaluateError
from .decoding import decode_named


class Shards:
    """A finished synthgen dataset directory, or its URL."""

    def __init__(self, path: str) -> None:
        try:
            self._set = open_set(path)
        except SynthgenError as error:
            raise EvaluateError(str(error)) from None
        self._path, self.n_images = path, self._set.n_images
        self.class_names = self._set.class_names
        self.labels = np.array([self._set.label(index) for index in range(self.n_images)], np.int64)
        self.identity = {
            "kind": "shards",
            "n_images": self.n_images,
            "n_classes": len(self.class_names),
            "digest": self._set.digest[:16],
        }
        self.origin: tuple[str, ...] = (self._set.origin,)

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """See ImageSource; raises EvaluateError naming a damaged image or shard, or one that cannot be downloaded."""
        for index in indices.tolist():
            try:
                file = self._set.image(index)
            except SynthgenError as error:
                raise EvaluateError(str(error)) from None
            yield decode_named(file.name, file.data, size)

    def captions(self, indices: NDArray[np.int64], names: Mapping[str, str] | None) -> list[str]:
        """See ImageSource; the prompt that each image was drawn from, regardless of ``names``."""
        texts = [self._set.caption(index) for index in indices.tolist()]
        if None in texts:
            raise EvaluateError(f"{self._path}: its images have no text")
        return [text for text in texts if text is not None]
