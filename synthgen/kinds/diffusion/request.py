"""From the options of ``synthgen sd`` to a plan, its description and its run."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING

from synthgen.common.errors import SynthgenError
from synthgen.common.printing import counted, say
from synthgen.dataset.manifest import Manifest, read_manifest
from synthgen.dataset.plan import Plan, read_plan
from synthgen.dataset.shard import table_path
from synthgen.dataset.tables import read_table
from synthgen.engines.generate import generate, open_directory, replace_plan
from synthgen.engines.request import Request
from synthgen.engines.watch import duration
from synthgen.kinds.base import Renderer
from synthgen.kinds.diffusion.content import DTYPES, ClassRecord, DiffusionContent, ModelRecord, PromptRecord, Sampling
from synthgen.kinds.diffusion.models import DEFAULT, Model, find_model, is_built_in
from synthgen.kinds.diffusion.prompts import ClassList, PromptSet, prompt
from synthgen.kinds.diffusion.schedulers import NAMES as SCHEDULERS

if TYPE_CHECKING:
    from synthgen.kinds.diffusion.sampler import Sampler
    from synthgen.storage.store import Place

FORMATS = ("png", "jpg", "webp")
SMALL = 128  # pixels; larger pictures take a CPU minutes
MAX_SEED = 2**63  # what signed 64-bit readers hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of the images; None means an existing set's value, else the model's default or the one noted here."""

    seed: int | None = None  # 0
    steps: int | None = None
    guidance: float | None = None
    scheduler: str | None = None
    negative_prompt: str | None = None  # empty
    size: int | None = None
    dtype: str | None = None
    image_format: str | None = None
    quality: int | None = None  # 95
    exclude_flagged: bool | None = None  # no

    def check(self) -> None:
        """Raise SynthgenError, naming the setting and its range, if one is out of range."""
        for what, value, known in (
            ("scheduler", self.scheduler, SCHEDULERS),
            ("dtype", self.dtype, DTYPES),
            ("format", self.image_format, FORMATS),
        ):
            if value is not None and value not in known:
                raise SynthgenError(f"{what} {value!r} is not one of {', '.join(known)}")
        for what, number, least, most in (
            ("seed", self.seed, 0, MAX_SEED - 1),
            ("steps", self.steps, 1, 1000),
            ("guidance", self.guidance, 0, 100),
            ("size", self.size, 8, 4096),
            ("quality", self.quality, 1, 100),
        ):
            if number is not None and not least <= number <= most:  # also if it is not a number
                raise SynthgenError(f"{what} {number}: {least} to {most}")
        if self.size is not None and self.size % 8:
            raise SynthgenError(f"size {self.size}: must be a multiple of 8 pixels, as latents are eight times smaller")


def settled(settings: Settings, plan: Plan | None) -> Settings:
    """The settings, with missing ones taken from an existing set, if there is one."""
    old = plan.content if plan else None
    if not isinstance(old, DiffusionContent):
        return settings
    there = {
        **{name: getattr(old.sampling, name) for name in (one.name for one in fields(old.sampling))},
        **{name: getattr(old, name) for name in ("seed", "image_format", "quality", "exclude_flagged")},
    }
    given = {one.name: getattr(settings, one.name) for one in fields(settings)}
    return Settings(**{name: there[name] if value is None else value for name, value in given.items()})


def settled_model(name: str | None, revision: str | None, dtype: str | None, plan: Plan | None) -> Model:
    """The model asked for, else that of the existing set, else the default.

    Raises SynthgenError as ``find_model`` does.
    """
    old = plan.content if plan else None
    if name is None and isinstance(old, DiffusionContent):
        known, dtype = old.model, dtype or old.sampling.dtype
        if is_built_in(known) or not known.revision.startswith("sha256:"):
            return find_model(known.name, revision=revision or known.revision, dtype=dtype)
        raise SynthgenError(f"the set was drawn by a model in a folder, {known.name}: give it as --model PATH")
    return find_model(name or DEFAULT, revision=revision, dtype=dtype)


def diffusion_content(prompts: PromptSet, classes: ClassList, model: Model, settings: Settings) -> DiffusionContent:
    """The part of a plan that the images depend on."""
    defaults = model.defaults
    sampling = Sampling(
        scheduler=settings.scheduler or defaults.scheduler,
        steps=settings.steps or defaults.steps,
        guidance=defaults.guidance if settings.guidance is None else settings.guidance,
        negative_prompt=settings.negative_prompt or "",
        size=settings.size or defaults.size,
        dtype=settings.dtype or defaults.dtype,
    )
    return DiffusionContent(
        seed=settings.seed or 0,
        prompts=PromptRecord(
            name=prompts.name, version=prompts.version, sha256=prompts.sha256, templates=prompts.templates
        ),
        classes=ClassRecord(name=classes.name, sha256=classes.sha256, ids=classes.ids, names=classes.names),
        model=ModelRecord(name=model.name, revision=model.revision, variant=model.variant),
        sampling=sampling,
        image_format=settings.image_format or defaults.image_format,
        quality=95 if settings.quality is None else settings.quality,
        exclude_flagged=bool(settings.exclude_flagged),
    )


def load(plan: Plan, model: Model, *, device: str | None, batch: int | None) -> Sampler:
    """Load the model of a plan; warns on stderr of prompts that its text encoder truncates.

    Raises SynthgenError if it cannot be loaded.
    """
    from synthgen.kinds.diffusion.sampler import Sampler

    content = plan.content
    assert isinstance(content, DiffusionContent)
    sampler = Sampler(model.folder, content.model, content.sampling, device=device, batch=batch)
    warn_of_long_prompts(content, sampler)
    return sampler


def plan_renderer(plan: Plan, *, model: str | None = None, device: str | None = None) -> Renderer:
    """A renderer that draws a plan's images as before: with its model, in batches of the same size.

    The model is found by the name and revision in the plan, or at the location ``model``.  Raises
    SynthgenError if it cannot be found or is a different one.
    """
    content = plan.content
    assert isinstance(content, DiffusionContent)
    recorded = content.model
    commit = None if model or recorded.revision.startswith("sha256:") else recorded.revision
    try:
        found = find_model(model or recorded.name, revision=commit, dtype=content.sampling.dtype)
    except SynthgenError as error:
        raise SynthgenError(f"the model that drew these images, {recorded.name}: {error}") from None
    if (found.revision, found.variant) != (recorded.revision, recorded.variant):
        raise SynthgenError(
            f"model {found.name} at {found.revision[:20]}: the plan's is {recorded.name} at {recorded.revision[:20]};"
            " give it as --model"
        )
    return _renderer(content, load(plan, found, device=device, batch=plan.origin.get("batch")))


def _renderer(content: DiffusionContent, sampler: Sampler) -> Renderer:
    from synthgen.kinds.diffusion.render import DiffusionRenderer

    return Renderer(render=DiffusionRenderer(content, sampler).render, environment=sampler.environment)


def warn_of_long_prompts(content: DiffusionContent, sampler: Sampler) -> None:
    """Print one line on stderr if prompts are longer than the text encoder reads."""
    n = len(content.prompts.templates)
    texts = [prompt(template, name) for name in content.classes.names for template in content.prompts.templates]
    limit, long = sampler.too_long(texts)
    if long:
        label, template = divmod(long[0], n)
        say(
            f"synthgen: warning: {len(long)} of {len(texts)} prompts are longer than the {limit} tokens that"
            f" {content.model.name} reads, and will be truncated; the first: template {template}, class"
            f" {content.classes.ids[label]}: {texts[long[0]]!r}",
            file=sys.stderr,
        )


def make(
    out: Place,
    plan: Plan,
    model: Model,
    *,
    device: str | None = None,
    batch: int | None = None,
    request: Request = Request(),
) -> tuple[Manifest, list[str]]:
    """Fill a directory; returns its manifest, and the keys of images that never passed the checks.

    The batch size that was found is stored in the plan's file, so that all workers and resumed runs use the same.
    Raises SynthgenError as open_directory, Sampler and generate do.
    """
    from synthgen.kinds.diffusion.sampler import local_devices

    devices = local_devices(device, request.workers)
    plan = open_directory(out, plan, workers=len(devices))
    manifest = read_manifest(out)
    if not manifest.complete:
        here = request.engine == "local" and len(devices) == 1
        batch = batch or plan.origin.get("batch")
        sampler = load(plan, model, device=devices[0], batch=batch) if here or batch is None else None
        plan = _with_batch(out, plan, batch or (sampler.batch if sampler else None))
        if batch is None and sampler and sampler.batch != plan.origin["batch"]:  # another command chose it first
            sampler = load(plan, model, device=devices[0], batch=plan.origin["batch"])
        assert isinstance(plan.content, DiffusionContent)
        if here and sampler:
            manifest = generate(out, renderer=_renderer(plan.content, sampler), share=request.share)
        else:
            del sampler  # to free its memory for the workers
            per_worker = "CPU" if devices[0] == "cpu" else "GPU"
            n_workers = len(devices) if request.engine == "local" else None
            maker = partial(_of_worker, plan, _place_of(model), n_workers, device)
            engine = request.find(devices, per_worker=per_worker)
            manifest = generate(out, engine=engine, make=maker, share=request.share)
    else:
        manifest = generate(out, make=_nothing_to_draw)
    return manifest, failed(manifest)


def _place_of(model: Model) -> str | None:
    """Where a worker finds a model: None, by the plan's name and revision, unless it is in a local folder."""
    record = ModelRecord(name=model.name, revision=model.revision, variant=model.variant)
    return str(model.folder.absolute()) if model.revision.startswith("sha256:") and not is_built_in(record) else None


def _of_worker(plan: Plan, model: str | None, n_workers: int | None, asked: str | None, device: str | None) -> Renderer:
    """The renderer of one of several workers; ``asked`` is the device of those that are not given one.

    They share the cores, except on Ray (``n_workers`` None), which sets how many threads each may use.
    """
    from synthgen.kinds.diffusion.sampler import share_cores

    if n_workers is not None:
        share_cores(n_workers)
    return plan_renderer(plan, model=model, device=device or asked)


def _with_batch(out: Place, plan: Plan, batch: int | None) -> Plan:
    """The plan with a batch size stored in its file: this one, unless another command has already stored one."""
    while "batch" not in plan.origin:
        stated = replace(plan, origin=plan.origin | {"batch": batch})
        if replace_plan(out, plan, stated):
            return stated
        plan = read_plan(out / "plan.json")
    return plan


def _nothing_to_draw(device: str | None) -> Renderer:
    raise AssertionError("the dataset is complete")


def failed(manifest: Manifest) -> list[str]:
    """Keys of images whose record reports a fault; raises SynthgenError if a table is damaged."""
    keys = []
    for shard in manifest.shards:
        path = table_path(manifest.directory, manifest.plan.shard(shard.index))
        table = read_table(path, ["key", "fault"]).to_pydict()
        keys += [key for key, what in zip(table["key"], table["fault"], strict=True) if what]
    return keys


def describe(plan: Plan, *, rate: float | None) -> list[str]:
    """A plan in words; ``rate`` is images per second, None if it could not be measured."""
    content = plan.content
    assert isinstance(content, DiffusionContent)
    n_classes, n_templates = len(content.classes.ids), len(content.prompts.templates)
    each, per_template = _between(plan.n, n_classes), _between(plan.n // n_classes, n_templates)
    if plan.n % n_classes:
        per_template = _between(plan.n // n_classes, n_templates, extra=1)
    sampling, size = content.sampling, plan.kind.bytes_per_image(plan) * plan.n
    lines = [
        f"{counted(plan.n, 'image')}, {counted(n_classes, 'class', 'classes')} of {content.classes.name} ({each} per"
        f" class), {counted(n_templates, 'template')} of {content.prompts.name} version {content.prompts.version}"
        f" ({per_template} per class and template)",
        f"model {content.model.name} at {content.model.revision}"
        + (f", variant {content.model.variant}" if content.model.variant else ""),
        f"{sampling.scheduler}, {sampling.steps} steps, guidance {sampling.guidance:g}, {sampling.size} px,"
        f" {sampling.dtype}, {content.image_format}"
        + (f", not {sampling.negative_prompt!r}" if sampling.negative_prompt else ""),
        f"{counted(plan.n_shards, 'shard')}, about {size / 1e9:.3g} GB",
        f"about {duration(plan.n / rate)} at {rate:.3g} images/s, measured here"
        if rate
        else "time: not measured, there is no CUDA device here",
        f"plan {plan.digest[:16]}; the first prompts:",
    ]
    return lines + [f"  {content.caption(plan.sample(index))}" for index in range(min(5, plan.n))]


def _between(n: int, parts: int, *, extra: int = 0) -> str:
    """The least and the most that each part gets, in words."""
    least, most = n // parts, -(-(n + extra) // parts)
    return str(least) if least == most else f"{least} to {most}"


def measured_rate(plan: Plan, model: Model, *, device: str | None, batch: int | None) -> float | None:
    """Images per second of a batch, after a warm-up batch; None if a batch would take minutes.

    That is the case on the CPU, for all but small pictures.
    """
    from synthgen.kinds.diffusion.render import DiffusionRenderer
    from synthgen.kinds.diffusion.sampler import find_device

    content = plan.content
    assert isinstance(content, DiffusionContent)
    if find_device(device).type != "cuda" and content.sampling.size > SMALL:
        return None
    sampler = load(plan, model, device=device, batch=batch)
    renderer = DiffusionRenderer(content, sampler)
    n = min(sampler.batch, plan.n)
    for _ in range(2):
        start = time.monotonic()
        list(renderer.render(plan.sample(index) for index in range(n)))
    return n / (time.monotonic() - start)
