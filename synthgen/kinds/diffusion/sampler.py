"""Draws batches of images from a diffusion model.

This is the only module of this package that imports torch, except for the training of the built-in model.
Every call of a network sees the same shapes: a batch is padded, never cut short.  So one compiled graph
serves a whole run, and an image depends on its batch only through the batch's size (in exact arithmetic
not even on that).
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from synthgen.common.errors import SynthgenError
from synthgen.kinds.diffusion.content import ModelRecord, Sampling
from synthgen.kinds.diffusion.schedulers import SCHEDULERS

REPORTED = (
    "algorithm_type",
    "solver_order",
    "prediction_type",
    "beta_schedule",
    "timestep_spacing",
    "use_karras_sigmas",
)
CPU_BATCH = 50  # of small images; one at a time if latents are larger than 32 x 32
CACHE_BYTES = 512 * 2**20  # of prompt embeddings
GAIN = 1.03  # a larger batch must draw so many times more images per second
MAX_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawn:
    """A batch of images."""

    images: NDArray[np.uint8]  # [n, size, size, 3]
    finite: NDArray[np.bool_]  # [n]: whether every value was
    flagged: NDArray[np.bool_]  # [n]: by the safety checker, if the model has one


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pending:
    """A batch that the device may still be working on."""

    n: int
    images: Tensor  # uint8 [batch, size, size, 3], on the host
    finite: Tensor  # bool [batch], on the host
    ready: torch.cuda.Event | None


class Sampler:
    """A loaded model, its scheduler and the batch size.

    Raises SynthgenError if the files cannot be loaded, or the device does not exist or is too small.
    """

    def __init__(
        self, folder: Path, model: ModelRecord, sampling: Sampling, *, device: str | None, batch: int | None
    ) -> None:
        self.sampling = sampling
        self.device = find_device(device)
        self.pipe = _load(folder, model, sampling)
        self.checker, self.pipe.safety_checker = getattr(self.pipe, "safety_checker", None), None
        self.pipe.to(self.device)
        self._embeddings: OrderedDict[str, tuple[Tensor, ...]] = OrderedDict()
        self.compiled = False
        self._folder, self._proven = folder, False  # whether it has drawn anything
        if self.device.type == "cuda":
            self._prepare_cuda()
        self.batch = batch or self._find_batch()
        if self.device.type == "cuda":
            self._compile()

    def _prepare_cuda(self) -> None:
        for network in (self.pipe.unet, self.pipe.vae):
            network.to(memory_format=torch.channels_last)
        self.pipe.fuse_qkv_projections()

    def _compile(self) -> None:
        """Compile U-Net and decoder; the result is cached for later runs."""
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "synthgen" / "inductor"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
        torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs uncompiled
        self.pipe.unet = torch.compile(self.pipe.unet, fullgraph=False, dynamic=False)
        self.pipe.vae.decode = torch.compile(self.pipe.vae.decode, fullgraph=False, dynamic=False)
        self.compiled = True

    def _find_batch(self) -> int:
        """The batch size that draws the most images per second, found by doubling; on the CPU a fixed one."""
        if self.device.type != "cuda":
            return CPU_BATCH if self._latent_shape()[-1] <= 32 else 1
        best, rate = 0, 0.0
        self.batch = 1
        while self.batch <= MAX_BATCH:
            try:
                found = self._measure()
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                break
            if found < GAIN * rate:
                break
            best, rate = self.batch, found
            self.batch *= 2
        if not best:
            raise SynthgenError(
                f"{torch.cuda.get_device_name()}: not enough memory for one image; try a smaller --size"
            )
        return best

    def _measure(self) -> float:
        """Images per second for two steps and decoding at this batch size."""
        rates = []
        for _ in range(2):  # the first warms up
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            self._draw(["a photo"] * self.batch, list(range(self.batch)), steps=2)
            end.record()
            end.synchronize()
            rates.append(1000 * self.batch / float(begin.elapsed_time(end)))
        return rates[-1]

    @property
    def environment(self) -> dict[str, str]:
        """The versions and settings on which an image's bits may depend."""
        cuda = self.device.type == "cuda"
        return {
            "synthgen": version("synthgen"),
            "torch": torch.__version__,
            "diffusers": version("diffusers"),
            "transformers": version("transformers"),
            "pillow": version("pillow"),
            "device": torch.cuda.get_device_name(self.device) if cuda else f"cpu, {torch.get_num_threads()} threads",
            "batch": str(self.batch),
            "compiled": str(self.compiled).lower(),
        }

    @property
    def scheduler(self) -> tuple[str, dict[str, Any]]:
        """The scheduler's class, and the settings that shape its trajectory."""
        config = self.pipe.scheduler.config
        return type(self.pipe.scheduler).__name__, {key: config[key] for key in REPORTED if key in config}

    def too_long(self, prompts: Sequence[str]) -> tuple[int, list[int]]:
        """How many tokens the text encoder reads, and which prompts have more."""
        limit = self.pipe.tokenizer.model_max_length
        tokens = self.pipe.tokenizer(list(prompts), truncation=False, verbose=False).input_ids
        return limit, [number for number, ids in enumerate(tokens) if len(ids) > limit]

    def latents(self, seed: int) -> tuple[Tensor, torch.Generator]:
        """The noise from which an image starts, float32 [channels, height, width], and its generator.

        Drawn on the CPU, so that it is the same on every device.
        """
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self._latent_shape(), generator=generator), generator

    def _latent_shape(self) -> tuple[int, int, int]:
        side = self.sampling.size // self.pipe.vae_scale_factor
        return self.pipe.unet.config.in_channels, side, side

    def start(self, prompts: Sequence[str], seeds: Sequence[int]) -> Pending:
        """Start drawing at most a batch of images; the device works while the caller does other things.

        ``seeds`` are uint64.  Raises SynthgenError if the device runs out of memory.
        """
        n = len(prompts)
        assert 0 < n <= self.batch
        fill = self.batch - n
        try:
            images = self._draw([*prompts, *[prompts[0]] * fill], [*seeds, *[seeds[0]] * fill])
        except torch.cuda.OutOfMemoryError:
            raise SynthgenError(
                f"{self.device}: out of memory at batch size {self.batch}; give a smaller --batch"
            ) from None
        except Exception as error:
            if self._proven:
                raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise SynthgenError(
                f"{self._folder}: fails at its first images ({reason}); check its configuration"
            ) from error
        self._proven = True
        finite = images.isfinite().flatten(1).all(1)
        pixels = (images.float() * 255).round_().nan_to_num_(0, 0, 0).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        if self.device.type != "cuda":
            return Pending(n=n, images=pixels, finite=finite, ready=None)
        held = [torch.empty(part.shape, dtype=part.dtype, pin_memory=True) for part in (pixels, finite)]
        for host, part in zip(held, (pixels, finite), strict=True):
            host.copy_(part, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return Pending(n=n, images=held[0], finite=held[1], ready=ready)

    def finish(self, pending: Pending) -> Drawn:
        """Wait for a batch, and ask the safety checker."""
        if pending.ready is not None:
            pending.ready.synchronize()
        images = pending.images[: pending.n].numpy()
        return Drawn(images=images, finite=pending.finite[: pending.n].numpy(), flagged=self._flagged(images))

    @torch.inference_mode()
    def _flagged(self, images: NDArray[np.uint8]) -> NDArray[np.bool_]:
        if self.checker is None:
            return np.zeros(len(images), np.bool_)
        from PIL import Image

        pictures = [Image.fromarray(image) for image in images]
        pixels = self.pipe.feature_extractor(pictures, return_tensors="pt").pixel_values
        self.checker.to(self.device)
        # it blacks out the images it is given, so it gets copies
        _, flags = self.checker(
            images=images.astype(np.float32) / 255, clip_input=pixels.to(self.device, self.checker.dtype)
        )
        return np.array(flags, np.bool_)

    @torch.inference_mode()
    def _draw(self, prompts: list[str], seeds: list[int], *, steps: int | None = None) -> Tensor:
        """Images float [batch, 3, size, size] in [0, 1], on the device."""
        noise, generators = zip(*map(self.latents, seeds), strict=True)
        guided = self.sampling.guidance > 1
        inputs = self._embed(prompts)
        if guided:
            for key, value in self._embed([self.sampling.negative_prompt] * len(prompts)).items():
                inputs[f"negative_{key}"] = value
        images: Tensor = self.pipe(
            **inputs,
            height=self.sampling.size,
            width=self.sampling.size,
            num_inference_steps=steps or self.sampling.steps,
            guidance_scale=self.sampling.guidance if guided else 0.0,
            latents=torch.stack(noise).to(self.device, self.pipe.unet.dtype),
            generator=list(generators),
            output_type="pt",
        ).images
        return images

    def _embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """The text encoder's states of a batch of prompts, each encoded once."""
        missing = [text for text in dict.fromkeys(prompts) if text not in self._embeddings]
        for start in range(0, len(missing), self.batch):
            chunk = missing[start : start + self.batch]
            filled = [*chunk, *[chunk[0]] * (self.batch - len(chunk))]
            encoded = self.pipe.encode_prompt(
                filled, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            states = [part for part in encoded if part is not None]  # and the pooled ones, for SDXL
            for row, text in enumerate(chunk):
                self._embeddings[text] = tuple(part[row].clone() for part in states)
        columns = zip(*(self._embeddings[text] for text in prompts), strict=True)
        names = ("prompt_embeds", "pooled_prompt_embeds")
        found = {name: torch.stack(rows) for name, rows in zip(names, columns, strict=False)}
        for text in dict.fromkeys(prompts):
            self._embeddings.move_to_end(text)
        each = sum(part.nbytes for part in self._embeddings[prompts[0]])
        while len(self._embeddings) * each > CACHE_BYTES and len(self._embeddings) > self.batch:
            self._embeddings.popitem(last=False)
        return found


def find_device(name: str | None) -> torch.device:
    """The device of a name; by default the first CUDA device, if any.  Raises SynthgenError if it does not exist."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        device = torch.device(name or ("cuda" if count else "cpu"))
    except RuntimeError:
        raise SynthgenError(f"device {name!r}: give cuda, cuda:N or cpu") from None
    if device.type not in ("cuda", "cpu") or (device.type == "cuda" and (device.index or 0) >= count):
        raise SynthgenError(f"device {name}: not available; there are {count} CUDA devices and the CPU")
    return device


def local_devices(name: str | None, workers: int | None) -> Sequence[str | None]:
    """Where local workers draw: on the device of a name, else one on each CUDA device, else on the CPU.

    On a CPU, ``workers`` of them, by default one, share its cores.  Raises SynthgenError if a device does not exist.
    """
    device = find_device(name)
    if device.type == "cpu":
        return ["cpu"] * (workers or 1)
    if name is not None:
        return [name]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())][:workers]


def share_cores(n: int) -> None:
    """Leave the other cores to n - 1 other processes like this one."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // n))


def _try(scheduler: Any, steps: int) -> None:
    """Take a step on zeros: some settings that a scheduler accepts make it fail only when it is used."""
    scheduler.set_timesteps(steps)
    nothing = torch.zeros(1, 1, 1, 1)
    scheduler.step(nothing, scheduler.timesteps[0], scheduler.scale_model_input(nothing, scheduler.timesteps[0]))


def _load(folder: Path, model: ModelRecord, sampling: Sampling) -> Any:
    """The pipeline, from safetensors and without remote code."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    tqdm.set_lock(threading.RLock())  # the default is a semaphore, of which Python complains if a worker is killed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # by diffusers, for its own callers
            pipe = DiffusionPipeline.from_pretrained(
                folder,
                torch_dtype=getattr(torch, sampling.dtype),
                variant=model.variant,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
            if sampling.scheduler != "model":
                name, settings = SCHEDULERS[sampling.scheduler]
                pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **settings)
            _try(pipe.scheduler, sampling.steps)
    except Exception as error:  # diffusers and transformers fail in many ways over unexpected configurations
        raise SynthgenError(f"{folder}: cannot be loaded ({' '.join(str(error).split())[:300]})") from None
    pipe.set_progress_bar_config(disable=True)
    if sampling.size % 8:  # as diffusers' pipelines ask
        raise SynthgenError(f"size {sampling.size}: must be a multiple of 8 pixels")
    return pipe
