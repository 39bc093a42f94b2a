"""A dataset's description in Croissant 1.1 with the Responsible-AI vocabulary: JSON-LD, by mlcroissant's classes.

See https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html and croissant-rai-spec.html beside it.
That the images are synthetic is stated by schema.org's digitalSourceType, in IPTC's terms, and by
rai:hasSyntheticData, which conferences ask for.  Paths are relative, so that one file serves every
place where a set is published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from synthgen.common.errors import SynthgenError
from synthgen.common.printing import printable_json
from synthgen.dataset.manifest import Manifest
from synthgen.dataset.shard import record_path, table_path
from synthgen.dataset.tables import read_schema
from synthgen.kinds.base import Facts
from synthgen.publishing import statements
from synthgen.storage.places import store_of
from synthgen.storage.reading import read_file, reading

if TYPE_CHECKING:
    import mlcroissant as mlc
    import pyarrow as pa

VERSIONS = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
SOURCE = "https://schema.org/{}DigitalSource"  # of https://schema.org/IPTCDigitalSourceEnumeration
MIME = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
PARQUET = "application/x-parquet"  # the name that mlcroissant knows it by
SCHEMA, CROISSANT = "https://schema.org/", "http://mlcommons.org/croissant/"  # sc and cr, in mlcroissant's context
TYPES = {"string": "Text", "int64": "Integer", "double": "Float", "bool": "Boolean"}  # of columns, in schema.org
DESCRIPTIONS = {
    "key": "Name of the image's files in the shard.",
    "label": "Position of the class in the record set 'classes'.",
    "class": "The class's name, as in the record set 'classes'.",
    "sha256": "The image file's SHA-256.",
}


def croissant(manifest: Manifest, *, warnings: Sequence[str] = (), repo: str | None = None) -> bytes:
    """The text of ``croissant.json``; ``warnings`` come first in its description.

    Raises SynthgenError if mlcroissant is missing or a metadata table cannot be read.
    """
    try:
        import mlcroissant as mlc
    except ImportError:
        raise SynthgenError("croissant.json needs mlcroissant: pip install mlcroissant") from None

    plan, facts = manifest.plan, manifest.plan.kind.facts(manifest.plan)
    words = statements.title(facts, manifest.n_samples)
    context = {**mlc.Rdf().context, "containedIn": "cr:containedIn", "prov": "http://www.w3.org/ns/prov#"}
    context["data"] = {"@id": "cr:data", "@type": "@json"}
    ctx = mlc.Context(conforms_to=VERSIONS[0], rdf=mlc.Rdf(context=context))
    terms = facts.licence
    description = f"{words}, made with synthgen; plan {plan.digest}."
    maker = mlc.Organization(ctx=ctx, name="synthgen")
    if repo is not None:
        owner = repo.partition("/")[0]
        maker = mlc.Organization(ctx=ctx, name=owner, url=f"https://huggingface.co/{owner}")
    metadata = mlc.Metadata(
        ctx=ctx,
        name=repo.rpartition("/")[2] if repo else f"{plan.name}-{plan.digest[:16]}",
        description=" ".join([*warnings, description]),
        conforms_to=VERSIONS,
        version=f"1.{len(plan.segments) - 1}.0+{plan.digest[:16]}",  # a set that grew keeps what it had
        license=[terms.link or f"{terms.name}: the terms of the model that drew the images"],
        url=f"https://huggingface.co/datasets/{repo}" if repo else "README.md",
        creators=[maker],
        date_published=completed(manifest),
        cite_as="\n\n".join(statements.citations(facts)),
        keywords=["synthetic", "image classification", "pre-training", facts.made_by],
        distribution=[*_files(mlc, ctx, manifest), *_file_sets(mlc, ctx, manifest)],
        record_sets=[_images(mlc, ctx, manifest, facts), _classes(mlc, ctx, manifest)],
        data_collection=f"Nothing was collected: every image was drawn by synthgen, as {facts.made_by}, from its"
        f" plan; plan.json and the documents state the settings, and each record how to regenerate its image.",
        data_collection_type=["Others: synthetic generation"],
        data_annotation_protocol=["A label is the class that the image was drawn for; there were no annotators."],
        machine_annotation_tools=["synthgen"],
        annotations_per_item="0 human labels",
        data_biases=list(facts.biases),
        data_limitations=list(facts.limits),
        data_use_cases=list(statements.USES),
        personal_sensitive_information=list(facts.personal),
        data_release_maintenance_plan="A grown set keeps its images and raises the minor version; other images have"
        " another plan digest.",
    )
    record = metadata.to_json()
    record["digitalSourceType"] = SOURCE.format(facts.source_type[:1].upper() + facts.source_type[1:])
    record["rai:hasSyntheticData"] = True
    commands = "\n".join(statements.commands(plan, facts))
    record["prov:wasGeneratedBy"] = {"@type": "prov:Activity", "prov:label": commands}
    return (printable_json(record) + "\n").encode()


def completed(manifest: Manifest) -> datetime:
    """The day, in UTC, on which the last shard was finished.

    Taken from the files' times: it is the same whenever the documents are written, and no other day is recorded.
    """
    here = store_of(manifest.directory).local(manifest.directory)
    assert here is not None  # documents are written of a folder
    records = [record_path(here, manifest.plan.shard(shard.index)) for shard in manifest.shards]
    newest = max(path.stat().st_mtime for path in records)
    return datetime.fromtimestamp(newest, UTC).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)


def _files(mlc: Any, ctx: mlc.Context, manifest: Manifest) -> Iterator[mlc.FileObject]:
    """Every tar and every table."""
    for shard in manifest.shards:
        yield _file(mlc, ctx, f"data/{shard.filename}", "application/x-tar", shard.n_bytes, shard.sha256)
    for shard in manifest.shards:
        path = table_path(manifest.directory, manifest.plan.shard(shard.index))
        with reading(path):
            data = read_file(path)
        yield _file(mlc, ctx, f"metadata/{path.name}", PARQUET, len(data), hashlib.sha256(data).hexdigest())


def _file(mlc: Any, ctx: mlc.Context, name: str, kind: str, n_bytes: int, sha256: str) -> mlc.FileObject:
    return mlc.FileObject(
        ctx=ctx,
        id=name,
        name=name.rpartition("/")[2],
        content_url=name,
        content_size=f"{n_bytes} B",
        encoding_formats=[kind],
        sha256=sha256,
    )


def _file_sets(mlc: Any, ctx: mlc.Context, manifest: Manifest) -> Iterator[mlc.FileSet]:
    ending = manifest.plan.content.image.ending
    yield mlc.FileSet(
        ctx=ctx,
        id="image-files",
        name="image-files",
        description="The images, inside the shards.",
        contained_in=[f"data/{shard.filename}" for shard in manifest.shards],
        encoding_formats=[MIME[ending]],
        includes=[f"*.{ending}"],
    )
    yield mlc.FileSet(
        ctx=ctx,
        id="tables",
        name="tables",
        description="The records of all images, one table per shard.",
        encoding_formats=[PARQUET],
        includes=["metadata/*.parquet"],
    )


def _images(mlc: Any, ctx: mlc.Context, manifest: Manifest, facts: Facts) -> mlc.RecordSet:
    """One record per image: the image from its shard, joined by its key with the rest from the tables."""

    def source(file_set: str, regex: str | None = None, **what: str) -> mlc.Source:
        transforms = [mlc.Transform(ctx=ctx, regex=regex)] if regex else []
        return mlc.Source(ctx=ctx, file_set=file_set, extract=mlc.Extract(ctx=ctx, **what), transforms=transforms)

    def field(name: str, kind: str, **rest: Any) -> mlc.Field:
        description = {**DESCRIPTIONS, **facts.columns}.get(name)
        types = [SCHEMA + kind] + ([f"{CROISSANT}Label"] if name == "label" else [])
        return mlc.Field(ctx=ctx, id=f"images/{name}", name=name, description=description, data_types=types, **rest)

    # mlcroissant transforms a joined column twice, so the pattern takes a key as well as a file's name.
    key = source("image-files", file_property="filename", regex="^([^.]+)")
    fields = [
        field("key", "Text", source=key, references=source("tables", column="key")),
        field("image", "ImageObject", source=source("image-files", file_property="content")),
    ]
    fields += [
        field(column.name, TYPES.get(str(column.type), "Text"), source=source("tables", column=column.name))
        for column in columns(manifest)
        if column.name != "key"
    ]
    return mlc.RecordSet(
        ctx=ctx,
        id="images",
        name="images",
        description="All images, with their labels and how each was made.",
        key=["images/key"],
        fields=fields,
    )


def columns(manifest: Manifest) -> pa.Schema:
    """The columns of the metadata tables, which are also the keys of the images' records.

    Raises SynthgenError if the first table is damaged.
    """
    return read_schema(table_path(manifest.directory, manifest.plan.shard(manifest.shards[0].index)))


def _classes(mlc: Any, ctx: mlc.Context, manifest: Manifest) -> mlc.RecordSet:
    plan = manifest.plan
    names = plan.content.class_words
    words = {} if names is None else {"words": names}
    values: dict[str, Sequence[object]] = {
        "label": range(len(plan.content.class_names)),
        "name": plan.content.class_names,
        **words,
    }
    kinds = {"label": "Integer", "name": "Text", "words": "Text"}
    fields = [mlc.Field(ctx=ctx, id=f"classes/{name}", name=name, data_types=[SCHEMA + kinds[name]]) for name in values]
    rows = zip(*values.values(), strict=True)
    return mlc.RecordSet(
        ctx=ctx,
        id="classes",
        name="classes",
        description="The classes by label" + ("; words are their names in captions." if words else "."),
        data_types=[SCHEMA + "Enumeration"],
        key=["classes/label"],
        fields=fields,
        data=[{f"classes/{name}": value for name, value in zip(values, row, strict=True)} for row in rows],
    )
