"""Train the built-in model on CIFAR-10.

``python -m synthgen.kinds.diffusion.tiny.train --cifar10 cifar10.zip --out DIR``

A latent diffusion model after Rombach et al. 2022, small enough to ship and to train on a CPU: an
autoencoder from 32 x 32 pixels to 8 x 8 x 8 latents, a CLIP-shaped text encoder over a small
vocabulary, and a U-Net that predicts v (Salimans & Ho 2022) on a cosine schedule.  Text encoder and
U-Net are trained together.  Stages are checkpointed in ``--work`` and resumed from there.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import platform
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

from synthgen.common.printing import say
from synthgen.common.progress import progress
from synthgen.kinds.diffusion.prompts import prompt, read_classes, read_prompts
from synthgen.kinds.diffusion.tiny.captions import LOOKS, batch_captions, dress, look
from synthgen.kinds.diffusion.tiny.networks import (
    LATENT,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    build_vae,
)

SEED = 0
CHECKPOINT_EVERY = 250  # steps
NO_CAPTION = 0.1  # share of samples trained without a caption
# Weight of the KL term beside mean squared error: 0.3 of the evidence bound's for Gaussian pixels of variance 0.004.
KL_WEIGHT = 0.3 * 2 * 0.004


def read_cifar10(path: Path, split: str) -> tuple[Tensor, Tensor, list[str]]:
    """Images uint8 [n, 3, 32, 32], labels int64 [n] and class names of a zip of ``<any>/SPLIT/CLASS/*.jpg``."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if f"/{split}/" in name and name.endswith(".jpg"))
        folders = [name.split("/")[-2] for name in names]
        classes = sorted(set(folders))
        images = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names])
    labels = torch.tensor([classes.index(folder) for folder in folders])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels, classes


class Stage:
    """Parameters under training, with their optimizer, moving average and checkpoint."""

    def __init__(self, name: str, modules: list[nn.Module], *, work: Path, steps: int, rate: float) -> None:
        self.file = work / f"{name}.pt"
        self.name, self.steps, self.rate = name, steps, rate
        self.parameters = [parameter for module in modules for parameter in module.parameters()]
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.done, self.seconds = 0, 0.0
        if self.file.exists():
            state = torch.load(self.file, weights_only=True)
            for parameter, value in zip(self.parameters, state["parameters"], strict=True):
                parameter.data.copy_(value)
            self.average = state["average"]
            self.optimizer.load_state_dict(state["optimizer"])
            self.done, self.seconds = state["done"], state["seconds"]

    def train(self, loss_of: Callable[[torch.Generator], Tensor]) -> None:
        """Run to the last step; each step's draws depend on its number alone."""
        losses: list[float] = []
        with progress(self.name, self.steps, "steps") as show:
            while self.done < self.steps:
                start = time.monotonic()
                generator = torch.Generator().manual_seed(SEED * 1_000_003 + self.done)
                warm, phase = min(1.0, (self.done + 1) / 200), self.done / self.steps
                for group in self.optimizer.param_groups:
                    group["lr"] = self.rate * warm * 0.5 * (1 + math.cos(math.pi * phase))
                loss = loss_of(generator)
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.parameters, 1.0)
                self.optimizer.step()
                decay = min(0.999, (1 + self.done) / (10 + self.done))
                torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
                losses.append(loss.item())
                self.done += 1
                self.seconds += time.monotonic() - start
                if self.done % CHECKPOINT_EVERY == 0 or self.done == self.steps:
                    say(f"{self.name} step {self.done}: loss {np.mean(losses[-CHECKPOINT_EVERY:]):.5f}")
                    self._save()
                show(self.done)

    def _save(self) -> None:
        part = self.file.with_suffix(".tmp")
        state = {
            "parameters": [parameter.data for parameter in self.parameters],
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "done": self.done,
            "seconds": self.seconds,
        }
        torch.save(state, part)
        os.replace(part, self.file)

    def use_average(self) -> None:
        """Put the moving average in place of the trained parameters."""
        for parameter, value in zip(self.parameters, self.average, strict=True):
            parameter.data.copy_(value)


def unit(images: Tensor) -> Tensor:
    """Bytes to float in [-1, 1]."""
    return images.float() / 127.5 - 1


def train_vae(vae: AutoencoderKL, images: Tensor, *, work: Path, steps: int, batch: int, device: str) -> float:
    """Train the autoencoder; returns the seconds it took."""
    stage = Stage("autoencoder", [vae], work=work, steps=steps, rate=2e-3)
    looks = ["", *LOOKS]

    def loss_of(generator: torch.Generator) -> Tensor:
        pictures = unit(images[torch.randint(len(images), (batch,), generator=generator)])
        pictures[::2] = pictures[::2].flip(3)
        name = looks[int(torch.randint(len(looks), (), generator=generator))]
        pictures = torch.cat([pictures[: batch // 4 * 3], dress(pictures[batch // 4 * 3 :], name)]).to(device)
        with torch.autocast(device, torch.bfloat16):
            posterior = vae.encode(pictures).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            decoded = vae.decode((posterior.mean + posterior.std * noise).float()).sample.float()
        error = (decoded - pictures).square().mean()
        divergence: Tensor = posterior.kl().float().mean() / pictures[0].numel()  # nats per pixel value
        loss: Tensor = error + KL_WEIGHT * divergence
        return loss

    stage.train(loss_of)
    stage.use_average()
    return stage.seconds


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor, *, device: str) -> Tensor:
    """Latent means, float [n, 8, 8, 8]."""
    with torch.autocast(device, torch.bfloat16):
        return torch.cat([vae.encode(part.to(device)).latent_dist.mean.float().cpu() for part in images.split(256)])


def latent_table(
    vae: AutoencoderKL, images: Tensor, labels: Tensor, *, device: str
) -> dict[str, tuple[Tensor, Tensor]]:
    """By look: latents float16 [n, 8, 8, 8] and labels int64 [n].

    The plain look has all pictures and their mirror images, each other look a third of the pictures.
    """
    table = {}
    for number, name in enumerate(["", *LOOKS]):
        rows = torch.arange(len(images)) if not name else torch.arange(number % 3, len(images), 3)
        pictures = images[rows] if name else torch.cat([images, images.flip(3)])
        parts = [encode(vae, dress(unit(part), name), device=device) for part in pictures.split(4096)]
        table[name] = torch.cat(parts).half(), labels[rows] if name else labels.repeat(2)
    return table


def train_diffusion(
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    captions: Tensor,
    table: dict[str, tuple[Tensor, Tensor]],
    looks: list[str],
    *,
    scale: float,
    work: Path,
    steps: int,
    batch: int,
    device: str,
) -> float:
    """Train U-Net and text encoder together; returns the seconds it took.

    ``captions`` are token ids [n_classes * n_templates + 1, CONTEXT], the last row empty; ``looks``
    are those of the templates.
    """
    stage = Stage("diffusion", [unet, text], work=work, steps=steps, rate=1e-3)
    schedule = build_scheduler()
    names = list(table)
    look_of = torch.tensor([names.index(name) for name in looks])

    def loss_of(generator: torch.Generator) -> Tensor:
        templates = torch.randint(len(looks), (batch,), generator=generator)
        wanted = look_of[templates]
        latents, labels = torch.empty(batch, *LATENT), torch.empty(batch, dtype=torch.int64)
        for number in wanted.unique().tolist():
            stock, theirs = table[names[number]]
            places = (wanted == number).nonzero()[:, 0]
            picks = torch.randint(len(stock), (len(places),), generator=generator)
            latents[places], labels[places] = stock[picks].float(), theirs[picks]
        dropped = torch.rand(batch, generator=generator) < NO_CAPTION
        distinct, place = batch_captions(labels, templates, len(looks), dropped, len(captions) - 1)
        latents = (latents * scale).to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        # evenly spread over the batch: less variance than independent draws
        times = ((torch.arange(batch) + torch.rand(batch, generator=generator)) * 1000 / batch).long().to(device)
        noisy = schedule.add_noise(latents, noise, times)
        with torch.autocast(device, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            # the memory-saving attention is three times slower than plain products on so few tokens
            states = text(captions[distinct].to(device))[0][place.to(device)]
            predicted = unet(noisy, times, states, return_dict=False)[0]
        loss: Tensor = (predicted.float() - schedule.get_velocity(latents, noise, times)).square().mean()
        return loss

    stage.train(loss_of)
    stage.use_average()
    return stage.seconds


def main(arguments: list[str] | None = None) -> None:
    """Train the stages that are not finished, and write the pipeline."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cifar10", type=Path, required=True, help="zip of an image folder")
    options.add_argument("--out", type=Path, required=True, help="where the model goes")
    options.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    options.add_argument("--prompts", type=Path, default=Path("prompts/imagenet80.txt"))
    options.add_argument("--classes", type=Path, default=Path("prompts/classes/cifar10.tsv"))
    options.add_argument("--vae-steps", type=int, default=3000)
    options.add_argument("--steps", type=int, default=5000)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = options.parse_args(arguments)
    asked.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)

    images, labels, classes = read_cifar10(asked.cifar10, "train")
    templates, class_list = read_prompts(asked.prompts).templates, read_classes(asked.classes)
    if list(class_list.ids) != classes:
        raise SystemExit(f"{asked.cifar10}: classes {classes}; {asked.classes} has {list(class_list.ids)}")
    texts = [prompt(template, name) for name in class_list.names for template in templates]
    tokenizer = build_tokenizer(asked.work / "tokenizer", texts)
    vae, unet, text = build_vae(), build_unet(), build_text_encoder(tokenizer)
    for module in (vae, unet, text):
        module.to(asked.device)

    seconds = {
        "autoencoder": train_vae(vae, images, work=asked.work, steps=asked.vae_steps, batch=64, device=asked.device)
    }
    vae.eval()
    if not (asked.work / "latents.pt").exists():
        torch.save(latent_table(vae, images, labels, device=asked.device), asked.work / "latents.pt")
    table = torch.load(asked.work / "latents.pt", weights_only=True)
    scale = 1 / table[""][0].float().std().item()
    captions = tokenizer([*texts, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
    seconds["diffusion"] = train_diffusion(
        unet,
        text,
        captions,
        table,
        [look(template) for template in templates],
        scale=scale,
        work=asked.work,
        steps=asked.steps,
        batch=asked.batch,
        device=asked.device,
    )
    vae.register_to_config(scaling_factor=round(scale, 6))
    save(asked.out, vae, unet, text, tokenizer, seconds, vars(asked))


def save(
    out: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    seconds: dict[str, float],
    asked: dict[str, Any],
) -> None:
    """Write the pipeline in half precision, and how it was trained."""
    # lambda_min_clipped: what DPM-Solver needs on a cosine schedule, by diffusers' documentation
    solver = DPMSolverMultistepScheduler.from_config(build_scheduler().config, lambda_min_clipped=-5.1, steps_offset=1)
    StableDiffusionPipeline(
        vae=vae.half().eval(),
        text_encoder=text.half().eval(),
        tokenizer=tokenizer,
        unet=unet.half().eval(),
        scheduler=solver,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(out, safe_serialization=True)
    for name in ("vocab.json", "merges.txt"):  # what transformers before 5 reads
        shutil.copy(asked["work"] / "tokenizer" / name, out / "tokenizer")
    record = {
        "data": asked["cifar10"].name,
        "steps": {"autoencoder": asked["vae_steps"], "diffusion": asked["steps"]},
        "seconds": {name: round(value) for name, value in seconds.items()},
        "device": asked["device"],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    say(f"{out}: {size / 2**20:.1f} MiB; {record}")


if __name__ == "__main__":
    main()
