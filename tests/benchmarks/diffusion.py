"""Diffusion images: written shards a second, beside diffusers' plain loop at the same batch, in the same run.

Run as ``python tests/benchmarks/diffusion.py [--n N] [--runs R]``.  On a CUDA device it takes a pipeline of
Stable Diffusion 1.5's shapes with random weights, 512 px, 25 steps, with guidance, half precision, and also
tells the share of the card's matrix-multiply rate and the time in which the device waits.  On the CPU it
takes the built-in model.  Medians of several runs, in brackets the least and the greatest.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))  # helpers of the tests

import diffusers
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from torch.utils.flop_counter import FlopCounterMode

from synthgen.dataset.plan import Plan, new_plan
from synthgen.engines.generate import generate, open_directory
from synthgen.kinds.base import Renderer
from synthgen.kinds.diffusion.content import DiffusionContent
from synthgen.kinds.diffusion.models import find_model
from synthgen.kinds.diffusion.prompts import read_classes, read_prompts
from synthgen.kinds.diffusion.render import DiffusionRenderer
from synthgen.kinds.diffusion.request import Settings, diffusion_content
from synthgen.kinds.diffusion.sampler import Sampler

ROOT = Path(__file__).parents[2]


def a_plan(model: str, n: int, cuda: bool) -> tuple[Plan, DiffusionContent, Path]:
    """Plan and model folder; as many steps as the model's default."""
    found = find_model(model)
    prompts, classes = read_prompts(ROOT / "prompts/imagenet80.txt"), read_classes(ROOT / "prompts/classes/cifar10.tsv")
    content = diffusion_content(
        prompts, classes, found, Settings(dtype="float16" if cuda else None, image_format="jpg")
    )
    return new_plan(name="sd", content=content, n=n, shard_size=n, origin={}), content, found.folder


def ours(plan: Plan, content: DiffusionContent, sampler: Sampler, folder: Path) -> float:
    """Seconds to fill a directory."""
    shutil.rmtree(folder, ignore_errors=True)
    open_directory(folder, plan)
    renderer = Renderer(render=DiffusionRenderer(content, sampler).render, environment=sampler.environment)
    start = time.perf_counter()
    generate(folder, renderer=renderer)
    return time.perf_counter() - start


def plain(plan: Plan, content: DiffusionContent, pipe: StableDiffusionPipeline, batch: int, folder: Path) -> float:
    """Seconds for the same images by the loop of diffusers' documentation."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    samples = [plan.sample(index) for index in range(plan.n)]
    start = time.perf_counter()
    for first in range(0, plan.n, batch):
        group = samples[first : first + batch]
        generators = [torch.Generator(pipe.device).manual_seed(sample.index) for sample in group]
        images = pipe(
            [content.caption(sample) for sample in group],
            generator=generators,
            num_inference_steps=content.sampling.steps,
            guidance_scale=content.sampling.guidance,
            height=content.sampling.size,
            width=content.sampling.size,
        ).images
        for sample, image in zip(group, images, strict=True):
            image.save(folder / f"{sample.key}.jpg", quality=content.quality)
    return time.perf_counter() - start


def spread(values: list[float]) -> str:
    """Median [least, greatest]."""
    return f"{statistics.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"


def of_the_card(content: DiffusionContent, sampler: Sampler, rate: float) -> None:
    """Share of the matrix-multiply rate, and of the time in which the device waits, at ``rate`` images a second."""
    size, n = 8192, 20
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.float16) for _ in range(2))
    for _ in range(3):
        left @ right
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(n):
        left @ right
    torch.cuda.synchronize()
    peak = n * 2 * size**3 / (time.perf_counter() - start)
    prompts, seeds = ["a photo"] * sampler.batch, list(range(sampler.batch))
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(3):
        sampler.start(prompts, seeds)
    torch.cuda.synchronize()
    alone = 3 * sampler.batch / (time.perf_counter() - start)
    fresh = Sampler(find_model(str(FOLDER)).folder, content.model, content.sampling, device="cpu", batch=1)
    fresh.pipe.to("meta")
    latents, states = torch.empty(2, 4, 64, 64, device="meta"), torch.empty(2, 77, 768, device="meta")
    with FlopCounterMode(display=False) as unet:
        fresh.pipe.unet(latents.half(), torch.ones(2, device="meta"), states.half())
    with FlopCounterMode(display=False) as decoder:
        fresh.pipe.vae.decode(latents[:1].half())
    work = content.sampling.steps * unet.get_total_flops() + decoder.get_total_flops()
    print(
        f"matrix multiply {peak / 1e12:.0f} TFLOP/s; an image takes {work / 1e12:.1f} TFLOP,"
        f" which makes {rate * work / peak:.0%} of it"
    )
    print(f"the device alone draws {alone:.3g} images/s: it waits {max(0.0, 1 - rate / alone):.1%} of the time")


FOLDER = Path(tempfile.gettempdir()) / "synthgen-benchmark-sd15"


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--n", type=int, help="images a run; by default 512 on a CUDA device, 200 on the CPU")
    options.add_argument("--runs", type=int, default=3)
    asked = options.parse_args()
    cuda = torch.cuda.is_available()
    if cuda and not FOLDER.exists():
        from sd15 import write_random_sd15

        write_random_sd15(FOLDER, dtype=torch.float16)
    plan, content, folder = a_plan(str(FOLDER) if cuda else "tiny", asked.n or (512 if cuda else 200), cuda)
    sampler = Sampler(folder, content.model, content.sampling, device=None, batch=None)
    pipe = StableDiffusionPipeline.from_pretrained(folder).to(sampler.device, getattr(torch, content.sampling.dtype))
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    where = torch.cuda.get_device_name() if cuda else f"{platform.processor() or platform.machine()}, CPU"
    print(f"{where}, {torch.get_num_threads()} threads; torch {torch.__version__}, diffusers {diffusers.__version__}")
    sampling = content.sampling
    print(
        f"{plan.n} images a run, {asked.runs} runs after one that warms up; {sampling.size} px, {sampling.steps} steps,"
        f" guidance {sampling.guidance:g}, {sampling.dtype}, batch {sampler.batch}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        places = Path(temporary) / "ours", Path(temporary) / "plain"
        pairs = [
            (ours(plan, content, sampler, places[0]), plain(plan, content, pipe, sampler.batch, places[1]))
            for _ in range(asked.runs + 1)
        ][1:]
    rates = [plan.n / seconds for seconds, _ in pairs]
    print(f"synthgen, written shards: {spread(rates)} images/s")
    print(f"diffusers' plain loop:    {spread([plan.n / seconds for _, seconds in pairs])} images/s")
    print(f"ratio                     {spread([slow / fast for fast, slow in pairs])}")
    if cuda:
        of_the_card(content, sampler, statistics.median(rates))


if __name__ == "__main__":
    main()
