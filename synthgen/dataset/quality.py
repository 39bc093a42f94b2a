"""Are the images worth keeping?  Black, constant and non-finite ones; near-duplicates; statistics.

``fault`` is the gate that a rendered image must pass.  ``measure`` decodes every image of a dataset directory once and
keeps about 600 bytes of each, in the end twice: 1.3 GB for a million images.

Two images of a class are near-duplicates if they pass two tests.

1. Their perceptual hashes differ in at most 10 of 64 bits.  The hash (pHash: Zauner,
   "Implementation and benchmarking of perceptual image hash functions", 2010; computed as in the
   imagehash library, except for the filter that shrinks the image) says which of the 8 x 8 lowest
   frequencies of the 32 x 32 cosine transform are above their median.
2. Their gray 64 x 64 thumbnails correlate at 0.975 or more.  A hash says little about a few dots on
   black, or if only the texture differs: it takes the ten patch draws of one FractalDB orbit for
   one picture.  Instead of the thumbnails, which are large, 256 random projections of each are kept
   (Johnson and Lindenstrauss, 1984; with signs: Achlioptas, "Database-friendly random projections",
   2003), which estimate 1 - correlation with a standard error of 12%.

Measured: of 125 million pairs within CIFAR-10's training classes 41 are reported, each of them, on inspection, the same
photo twice; of 1.4 million in Tiny-ImageNet none; of 2.0 million in FractalDB at 362 pixels 3, all of them patch draws
of one orbit, never flips.  Copies saved as JPEG of quality 90 or made 10% brighter are missed in 0 of 10,000, 3 of
8,000 and 1 of 1,600 cases; copies made 25% brighter, which clips, in 3%.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synthgen.common.errors import SynthgenError
from synthgen.common.masking import one_line
from synthgen.common.printing import counted
from synthgen.dataset.manifest import Manifest
from synthgen.dataset.shard import Item, data_path, read_shard

if TYPE_CHECKING:
    from synthgen.storage.store import Place

BLACK = 8  # gray levels of 255: no pixel is brighter; in sRGB a quarter of a percent of white's light
FLAT_STD = 1.0  # gray levels: every channel's standard deviation is below it, as is rounding, JPEG and decoder noise
FLAT_RANGE = 16  # gray levels between a channel's extremes; normal noise of FLAT_STD spans 11 in a million pixels

THUMB = 64  # pixels: side of the thumbnails that are compared
N_PROJECTIONS = 256  # kept per thumbnail; squared small angles have a standard error of sqrt(4 / 256)
NEAR_BITS = 10  # of 64: see above
NEAR_CORRELATION = 0.975  # see above
KINDS = ("black", "constant", "recorded faulty", "recorded flagged")  # of faults; the first two are found in the pixels
N_BINS = 16  # of the histogram of brightness
BATCH = 256  # images whose thumbnails, and rows of a class whose distances, are computed at once
LISTED = 1000  # copies and pairs that are listed; all are counted
SHOWN = 10  # keys, pairs and classes that are printed

LOOK = np.dtype(  # what is kept of each image
    [
        ("label", np.int32),
        ("faults", np.bool_, len(KINDS)),
        ("remade", np.bool_),
        ("brightness", np.float32),  # mean of gray, levels of 255
        ("contrast", np.float32),  # standard deviation of gray
        ("sha256", "S32"),  # of the pixels: files of one image may name different seeds
        ("hash", np.uint64),
        ("print", np.float16, N_PROJECTIONS),  # unit length, or zeros if the thumbnail is constant
    ]
)
Looks = NDArray[np.void]  # of dtype LOOK


def fault(image: NDArray[np.uint8] | NDArray[np.floating[Any]]) -> str | None:
    """What makes an image worthless: "non-finite", "black" or "constant"; None for a picture.

    ``image`` is [height, width, 3], uint8 or float in [0, 1], judged as the uint8 image it would
    become.  Black squares are what a safety checker returns and what NaN becomes in uint8.  A night picture with one
    spot of light is not worthless, nor is white on white with a shadow of more than FLAT_RANGE.
    """
    if np.issubdtype(image.dtype, np.floating):
        if not np.isfinite(image).all():
            return "non-finite"
        image = np.rint(image.astype(np.float32) * 255)
    if image.max() <= BLACK:
        return "black"
    if all(np.ptp(channel) <= FLAT_RANGE and channel.std() < FLAT_STD for channel in np.moveaxis(image, -1, 0)):
        return "constant"
    return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quality:
    """What the pixels of a dataset show.  Arrays [n_classes] are indexed by label; gray levels are of 255."""

    class_names: tuple[str, ...]
    n_images: NDArray[np.int64]  # [n_classes]
    n_faulty: NDArray[np.int64]  # [n_classes] images with a fault of any kind
    n_near: NDArray[np.int64]  # [n_classes] pairs of near-duplicates
    brightness: NDArray[np.float64]  # [n_classes] mean gray of an image, averaged; NaN without images
    contrast: NDArray[np.float64]  # [n_classes] standard deviation of an image's gray, averaged
    histogram: NDArray[np.int64]  # [N_BINS] images by brightness, bins of 256 / N_BINS levels
    faults: dict[str, list[str]]  # kind, of KINDS -> keys in order
    n_remade: int  # images that needed another attempt
    n_copies: int  # images that are, pixel for pixel, an earlier image of any class
    copies: list[tuple[str, str]]  # the first LISTED: earlier key, key
    n_near_images: int  # images in at least one pair of near-duplicates; copies and worthless images aside
    near: list[tuple[str, str, int]]  # the first LISTED, closest first: key, key, differing bits of their hashes

    def summary(self) -> dict[str, Any]:
        """For ``synthgen verify --quality --json``."""
        return {
            "n_images": int(self.n_images.sum()),
            "faults": self.faults,
            "n_remade": self.n_remade,
            "n_copies": self.n_copies,
            "copies": [list(pair) for pair in self.copies],
            "n_near_pairs": int(self.n_near.sum()),
            "n_near_images": self.n_near_images,
            "near_pairs": [list(pair) for pair in self.near],
            "brightness_histogram": self.histogram.tolist(),
            "classes": [
                {
                    "class": name,
                    "n": int(self.n_images[i]),
                    "n_faulty": int(self.n_faulty[i]),
                    "n_near_pairs": int(self.n_near[i]),
                    "brightness": round(float(self.brightness[i]), 3) if self.n_images[i] else None,
                    "contrast": round(float(self.contrast[i]), 3) if self.n_images[i] else None,
                }
                for i, name in enumerate(self.class_names)
            ],
        }

    def lines(self) -> list[str]:
        """The same in words."""
        n_classes = counted(len(self.class_names), "class", "classes")
        lines = [f"{counted(self.n_images.sum(), 'image')} of {n_classes}, {self.n_remade} regenerated"]
        lines += [f"{kind}: {len(keys)}{_first(keys)}" for kind, keys in self.faults.items()]
        lines.append(f"copies: {self.n_copies}{_first([f'{key} of {earlier}' for earlier, key in self.copies])}")
        lines.append(
            f"near-duplicates: {counted(self.n_near.sum(), 'pair')}, of {counted(self.n_near_images, 'image')}"
        )
        lines += [f"  {a} and {b}: {bits} of 64 bits differ" for a, b, bits in self.near[:SHOWN]]
        if self.n_faulty.any():
            lines.append(f"most faults: {self._ranked(self.n_faulty, -self.n_faulty, self.n_faulty > 0)}")
        if self.n_images.any():
            lines.append(f"lowest contrast: {self._ranked(self.contrast.round(1), self.contrast, self.n_images > 0)}")
        lines.append("brightness (mean gray level), images:")
        for low, n in zip(range(0, 256, 256 // N_BINS), self.histogram, strict=True):
            bar = "#" * round(40 * n / max(self.histogram.max(), 1))
            lines.append(f"  {low:3d}-{low + 256 // N_BINS - 1:3d} {bar:40s} {n}")
        return lines

    def _ranked(self, values: NDArray[Any], by: NDArray[Any], among: NDArray[np.bool_]) -> str:
        labels = [label for label in np.argsort(by, kind="stable") if among[label]]
        return ", ".join(f"{self.class_names[label]} ({values[label]})" for label in labels[:SHOWN])


def _first(words: list[str]) -> str:
    more = ", ..." if len(words) > SHOWN else ""
    return f" ({', '.join(words[:SHOWN])}{more})" if words else ""


def measure(manifest: Manifest, progress: Callable[[int], object] = lambda done: None) -> Quality:
    """Look at every image of the committed shards.  ``progress`` is called with the number of shards done.

    Raises SynthgenError naming the file if a shard is damaged: verify the dataset first.
    """
    names = manifest.plan.content.class_names
    paths = [data_path(manifest.directory, manifest.plan.shard(shard.index)) for shard in manifest.shards]
    keys: list[str] = []
    parts = [np.zeros(0, LOOK)]
    with ThreadPoolExecutor() as pool:
        for done, (found, looks) in enumerate(pool.map(partial(_shard_looks, n_classes=len(names)), paths), 1):
            keys += found
            parts.append(looks)
            progress(done)
    return quality_of(names, keys, np.concatenate(parts))


def _shard_looks(path: Place, n_classes: int) -> tuple[list[str], Looks]:
    items = read_shard(path)
    keys: list[str] = []
    parts = [np.zeros(0, LOOK)]
    while batch := list(islice(items, BATCH)):
        keys += [item.key for item in batch]
        parts.append(look(path, batch))
        if not 0 <= parts[-1]["label"].min() <= parts[-1]["label"].max() < n_classes:
            raise SynthgenError(f"{path}: a label is not one of the {n_classes} classes")
    return keys, np.concatenate(parts)


def look(path: Place, items: list[Item]) -> Looks:
    """What is kept of images; raises SynthgenError naming file and image if one cannot be decoded."""
    from PIL import Image

    looks = np.zeros(len(items), LOOK)
    thumbs = np.empty((len(items), THUMB, THUMB), np.float32)
    shades = np.empty((len(items), 256))  # pixels of each gray level
    for i, item in enumerate(items):
        try:
            with Image.open(io.BytesIO(item.image), formats=("png", "jpeg", "webp")) as file:
                image = file.convert("RGB")
        except Exception as error:  # decoders fail on damaged bytes in many ways
            raise SynthgenError(f"{path}: image {item.key} cannot be decoded ({one_line(error, ())})") from None
        seen = fault(np.asarray(image))
        gray = image.convert("L")
        thumbs[i] = np.asarray(gray.resize((THUMB, THUMB), Image.Resampling.BOX))
        shades[i] = gray.histogram()
        # Absent, None, "", False and 0 all mean: none.
        marks = (item.record.get(name) for name in ("fault", "flagged", "attempt"))
        recorded, flagged, looks["remade"][i] = map(bool, marks)
        looks["faults"][i] = (seen == "black", seen == "constant", recorded, flagged)
        looks["label"][i] = item.label
        looks["sha256"][i] = hashlib.sha256(image.tobytes()).digest()
    shades /= shades.sum(axis=1, keepdims=True)
    looks["brightness"] = mean = shades @ np.arange(256)
    looks["contrast"] = np.sqrt((shades * (np.arange(256) - mean[:, None]) ** 2).sum(axis=1))
    looks["hash"] = perceptual_hash(thumbs)
    looks["print"] = fingerprint(thumbs)
    return looks


def perceptual_hash(thumbs: NDArray[np.float32]) -> NDArray[np.uint64]:
    """pHash of gray thumbnails [n, 64, 64] (see the top of this file): uint64 [n]."""
    small = thumbs.reshape(-1, 32, THUMB // 32, 32, THUMB // 32).mean(axis=(2, 4), dtype=np.float64)
    cosines = np.cos(np.pi / 64 * np.arange(8)[:, None] * (2 * np.arange(32) + 1))  # [frequency, pixel]
    low = (cosines @ small @ cosines.T).reshape(-1, 64)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def fingerprint(thumbs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit vectors [n, N_PROJECTIONS] whose dot products approximate the correlations of thumbnails [n, 64, 64].

    A constant thumbnail gives zeros: it is like no other.
    """
    flat = thumbs.reshape(len(thumbs), -1)
    projected = (flat - flat.mean(axis=1, keepdims=True)) @ _signs()
    length = np.linalg.norm(projected, axis=1, keepdims=True)
    unit: NDArray[np.float32] = projected / np.where(length > 0, length, 1)
    return unit


@lru_cache(maxsize=1)
def _signs() -> NDArray[np.float32]:
    drawn = np.random.default_rng(0).integers(0, 2, (THUMB * THUMB, N_PROJECTIONS))
    return (2 * drawn - 1).astype(np.float32)


def near_pairs(hashes: NDArray[np.uint64], prints: NDArray[np.float32]) -> Iterator[NDArray[np.int64]]:
    """Near-duplicates among the n images of a class, by their hashes [n] and fingerprints [n, N_PROJECTIONS].

    Yields rows (a, b, differing bits), a < b, in blocks: memory grows with n, not with its square.
    """
    for start in range(0, len(hashes), BATCH):
        stop = start + BATCH
        bits = np.bitwise_count(hashes[start:stop, None] ^ hashes[None, start:])
        near = np.triu((bits <= NEAR_BITS) & (prints[start:stop] @ prints[start:].T >= NEAR_CORRELATION), k=1)
        a, b = np.nonzero(near)
        yield np.column_stack([a + start, b + start, bits[a, b]])


def quality_of(names: tuple[str, ...], keys: list[str], looks: Looks) -> Quality:
    """The quality of a dataset from the looks at its images, which have these keys."""
    labels, n_classes = looks["label"], len(names)
    n_images = np.bincount(labels, minlength=n_classes)
    brightness, contrast = (
        np.where(n_images > 0, np.bincount(labels, looks[name], n_classes) / np.maximum(n_images, 1), np.nan)
        for name in ("brightness", "contrast")
    )
    sound = np.flatnonzero(~looks["faults"][:, :2].any(axis=1))  # otherwise all black squares would be duplicates
    _, first, group = np.unique(looks["sha256"][sound], return_index=True, return_inverse=True)
    earlier = sound[first[group]]
    copies = np.flatnonzero(earlier != sound)
    n_near, n_near_images, near = _near(keys, looks, sound[earlier == sound], n_classes)
    return Quality(
        class_names=names,
        n_images=n_images,
        n_faulty=np.bincount(labels[looks["faults"].any(axis=1)], minlength=n_classes),
        n_near=n_near,
        brightness=brightness,
        contrast=contrast,
        histogram=np.bincount((looks["brightness"] * N_BINS // 256).astype(np.intp), minlength=N_BINS),
        faults={kind: [keys[i] for i in np.flatnonzero(looks["faults"][:, k])] for k, kind in enumerate(KINDS)},
        n_remade=int(looks["remade"].sum()),
        n_copies=len(copies),
        copies=[(keys[earlier[i]], keys[sound[i]]) for i in copies[:LISTED]],
        n_near_images=n_near_images,
        near=near,
    )


def _near(
    keys: list[str], looks: Looks, among: NDArray[np.intp], n_classes: int
) -> tuple[NDArray[np.int64], int, list[tuple[str, str, int]]]:
    """Of the images ``among``: pairs per class, images in pairs, and the first pairs."""
    counts = np.zeros(n_classes, np.int64)
    involved = np.zeros(len(looks), np.bool_)
    listed: list[tuple[str, str, int]] = []
    by_class = among[np.argsort(looks["label"][among], kind="stable")]
    bounds = np.searchsorted(looks["label"][by_class], np.arange(1, n_classes))
    for label, members in enumerate(np.split(by_class, bounds)):
        for found in near_pairs(looks["hash"][members], looks["print"][members].astype(np.float32)):
            counts[label] += len(found)
            involved[members[found[:, :2]]] = True
            room = LISTED - len(listed)
            listed += [(keys[members[a]], keys[members[b]], int(bits)) for a, b, bits in found[:room]]
    return counts, int(involved.sum()), sorted(listed, key=lambda pair: pair[2])
