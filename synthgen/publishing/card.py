"""The documents of a published dataset: card, Croissant description, sample images and quality counts.

The card has the Hub's form: YAML by huggingface_hub's own classes, from which ``datasets`` takes the class
names, then Markdown from a template.  Whatever comes from a plan is escaped: a class name appears as
its text, whatever it contains.  The same directory gives the same bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from synthgen.common.errors import SynthgenError
from synthgen.common.markdown import escaped, fenced
from synthgen.common.printing import counted, printable_json
from synthgen.dataset.manifest import DOCUMENTS, Manifest
from synthgen.dataset.plan import Plan
from synthgen.dataset.quality import Quality
from synthgen.kinds.base import Facts
from synthgen.publishing import statements
from synthgen.publishing.croissant import columns, croissant

SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")  # the Hub's
DTYPES = {"double": "float64"}  # Arrow's names of types for which datasets has other names
LISTED = 20  # classes in the card's table, and defects at its top
SAMPLED, EACH = 12, 6  # classes in samples.jpg, images of each


def documents(
    manifest: Manifest, quality: Quality, *, defects: Sequence[str] = (), repo: str | None = None
) -> dict[str, bytes]:
    """The content of DOCUMENTS, by name.

    The manifest's shards are those that are published, ``quality`` is measure(manifest); ``defects`` are what
    verifying the directory found, one line each; ``repo`` is the dataset's USER/NAME on the Hub.  The card
    and the Croissant description begin with what is missing or defective.  Raises SynthgenError if no
    shard is finished, one is damaged, or ``repo`` cannot be a name on the Hub.
    """
    if not manifest.shards:
        raise SynthgenError(f"{manifest.directory}: no shard is finished yet, so there is nothing to publish")
    if repo is not None:
        _check_repo(repo)
    warnings = _warnings(manifest, defects)
    content = (
        card(manifest, quality, warnings=warnings, repo=repo).encode(),
        croissant(manifest, warnings=warnings, repo=repo),
        samples(manifest),
        _quality_json(manifest, quality),
    )
    return dict(zip(DOCUMENTS, content, strict=True))


def _check_repo(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, though not listed

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise SynthgenError(f"{repo!r} cannot be a dataset's name on the Hub; give USER/NAME") from None
    if repo.count("/") != 1:
        raise SynthgenError(f"{repo!r} cannot be a dataset's name on the Hub; give USER/NAME")


def _warnings(manifest: Manifest, defects: Sequence[str]) -> list[str]:
    warnings = []
    if not manifest.complete:
        warnings.append(
            f"This set is unfinished: {manifest.n_samples:,} of {manifest.plan.n:,} images,"
            f" {len(manifest.shards):,} of {counted(manifest.plan.n_shards, 'shard', form=',')}."
        )
    if defects:
        listed = [*defects[:LISTED], *([f"and {len(defects) - LISTED:,} more"] if len(defects) > LISTED else [])]
        n_defects = counted(len(defects), "defect", form=",")
        warnings.append(f"Verifying this set found {n_defects}: {'; '.join(listed)}.")
    return warnings


# YAML


def card(manifest: Manifest, quality: Quality, *, warnings: Sequence[str] = (), repo: str | None = None) -> str:
    """The text of ``README.md``; ``warnings`` come first in it."""
    from huggingface_hub import DatasetCard, DatasetCardData

    facts = manifest.plan.kind.facts(manifest.plan)
    data = DatasetCardData(**_metadata(manifest, facts))
    values = _values(manifest, quality, facts)
    body = _environment().get_template("card.md.j2").render(**values, warnings=warnings, repo=repo)
    return str(DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def _metadata(manifest: Manifest, facts: Facts) -> dict[str, Any]:
    """The card's YAML, by the Hub's keys."""
    licence = facts.licence
    terms = {"license": licence.identifier}
    if licence.identifier == "other":
        terms["license_name"] = licence.name
        if licence.link:
            terms["license_link"] = licence.link
    size = next((i for i, n in enumerate((1e3, 1e4, 1e5, 1e6, 1e7, 1e8)) if manifest.n_samples < n), 6)
    record: dict[str, Any] = {
        **terms,
        "pretty_name": statements.title(facts, manifest.n_samples),
        "tags": ["synthetic", *facts.tags, "webdataset", "arxiv:2307.12532"],
        "task_categories": ["image-classification"],
        "size_categories": [SIZES[size]],
        "annotations_creators": ["machine-generated"],
        "source_datasets": ["original"],
        "dataset_info": {
            "features": _features(manifest),
            "splits": [{"name": "train", "num_bytes": manifest.n_bytes, "num_examples": manifest.n_samples}],
            "download_size": manifest.n_bytes,
            "dataset_size": manifest.n_bytes,
        },
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.tar"}]}],
    }
    if facts.language:
        record |= {"language": [facts.language], "language_creators": ["machine-generated"]}
    return record


def _features(manifest: Manifest) -> list[dict[str, Any]]:
    """The members of a sample in the YAML of datasets.  The json holds a row of the metadata table."""
    names = {str(label): name for label, name in enumerate(manifest.plan.content.class_names)}
    row = [{"name": field.name, "dtype": DTYPES.get(str(field.type), str(field.type))} for field in columns(manifest)]
    return [
        {"name": manifest.plan.content.image.ending, "dtype": "image"},
        {"name": "cls", "dtype": {"class_label": {"names": names}}},
        {"name": "json", "struct": row},
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
    ]


# Markdown


def _environment() -> Environment:
    """Escapes every value that it puts into the text, except Markup, which the filters below return."""
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        finalize=lambda value: value if isinstance(value, Markup) else escaped(str(value)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"fenced": fenced, "python": lambda value: Markup(json.dumps(value)), "markup": Markup}
    return environment


def _values(manifest: Manifest, quality: Quality, facts: Facts) -> dict[str, Any]:
    """The values that the template uses."""
    plan = manifest.plan
    n_images = [int(n) for n in quality.n_images]
    return {
        "plan": plan,
        "manifest": manifest,
        "facts": facts,
        "title": statements.title(facts, manifest.n_samples),
        "commands": statements.commands(plan, facts),
        "uses": statements.USES,
        "citations": statements.citations(facts),
        "ending": plan.content.image.ending,
        "worded": plan.content.class_words is not None,
        "environment": _versions(manifest),
        "synthgen": version("synthgen"),
        "counts": _counts(quality),
        "classes": _classes(plan, n_images),
        "n_images": counted(manifest.n_samples, "image", form=","),
        "n_shards": counted(len(manifest.shards), "shard", form=","),
        "n_classes": len(plan.content.class_names),
        "n_classes_words": counted(len(plan.content.class_names), "class", "classes", form=","),
        "least": min(n_images),
        "middle": f"{median(n_images):,.0f}",
        "most": max(n_images),
        "most_words": counted(max(n_images), "image", form=","),
    }


def _versions(manifest: Manifest) -> list[tuple[str, str]]:
    """What the bytes may depend on, by the completion records; several values if shards differ."""
    found: dict[str, set[str]] = {}
    for shard in manifest.shards:
        for name, value in shard.environment.items():
            found.setdefault(name, set()).add(value)
    return [(name, ", ".join(sorted(values))) for name, values in found.items()]


def _counts(quality: Quality) -> list[tuple[str, int]]:
    return [
        *((kind, len(keys)) for kind, keys in quality.faults.items()),
        ("redrawn until they passed", quality.n_remade),
        ("pixel for pixel a copy of an earlier image", quality.n_copies),
        ("in a pair of near-duplicates", quality.n_near_images),
    ]


def _classes(plan: Plan, n_images: list[int]) -> list[dict[str, Any]]:
    """Label, name, words and number of images of the first classes, and a bar of proportional length."""
    words, most = plan.content.class_words or plan.content.class_names, max(n_images)
    return [
        {"label": label, "name": name, "words": words[label], "n": n, "bar": "█" * round(20 * n / most)}
        for label, (name, n) in enumerate(zip(plan.content.class_names, n_images, strict=True))
    ][:LISTED]


# Images and numbers


def samples(manifest: Manifest) -> bytes:
    """A JPEG of a few images of some classes."""
    from PIL import Image

    from synthgen.dataset.preview import write_preview

    file = io.BytesIO()
    with TemporaryDirectory() as folder:
        sheet, _ = write_preview(manifest, Path(folder), per_class=EACH, max_classes=SAMPLED)
        with Image.open(sheet) as image:
            image.save(file, "JPEG", quality=88, subsampling="4:4:4")
    return file.getvalue()


def _quality_json(manifest: Manifest, quality: Quality) -> bytes:
    record = {"format": 1, "plan": manifest.plan.digest, **quality.summary()}
    return (printable_json(record) + "\n").encode()
