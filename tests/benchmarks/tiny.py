"""The built-in model's images, judged: does a network see in them what was asked for, and learn from them?

Three steps, each ``python tests/benchmarks/tiny.py STEP --work FOLDER`` with what it reads:

- ``real --cifar10 ZIP``: train a ResNet-18 on CIFAR-10's training images.  It is the judge, and must
  be right about at least 85% of the 10,000 test images.
- ``recognised --images DIR``: how many images of a dataset directory the judge takes for the class
  that they were asked for, in all, by class and by look.  Target 60%.
- ``useful --cifar10 ZIP --images DIR``: the same network trained from scratch on DIR's first 20,000
  images alone; its accuracy on the real test images.  Target 45%.

Results are printed and appended to ``FOLDER/results.json``, a JSON object a line.  A killed training
goes on after its last whole epoch.  Beside other work set OMP_NUM_THREADS=1: a backward pass in two
threads on two cores that were busy took 10 to 30 times as long as in one.

One training step of 128 images takes 0.35 s on one core of a Xeon with AMX, 370 images a second
(torch 2.15, bfloat16): 23 minutes for 10 epochs of 50,000, 18 for 20 epochs of 20,000.
Results, of one run each, stand in docs/tiny.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shlex
import sys
import time
from itertools import chain, islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import ResNet, resnet18

from synthgen.common.errors import SynthgenError
from synthgen.common.progress import progress
from synthgen.dataset.manifest import read_manifest
from synthgen.dataset.shard import data_path, read_shard
from synthgen.kinds.diffusion.tiny.captions import LOOKS, look
from synthgen.kinds.diffusion.tiny.train import read_cifar10

SEED = 0
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TARGETS = {"real": 0.85, "recognised": 0.60, "useful": 0.45}  # shares
N_USEFUL = 20_000  # images to learn from
EPOCHS = {"real": 10, "useful": 20}
BATCH = 128
PEAK_RATE, WARM = 0.1, 0.25  # learning rate at its highest, and the share of steps up to there
EDGE = 4  # pixels of black around a picture that is cropped at random
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training images


class PatchConv2d(nn.Conv2d):
    """The same convolution as one matrix product over patches.

    Where pictures have come down to 4 x 4 pixels and less, it takes a tenth to a half of oneDNN's time,
    which goes into moving the weights between layouts: a training step takes half as long with it.
    """

    def forward(self, input: Tensor) -> Tensor:
        assert not isinstance(self.padding, str)
        (size, _), (step, _), (edge, _) = self.kernel_size, self.stride, self.padding
        rows = functional.pad(input.permute(0, 2, 3, 1), (0, 0, edge, edge, edge, edge))
        reach = rows.shape[1] - size + 1
        shifts = [rows[:, i : i + reach : step, j : j + reach : step] for i in range(size) for j in range(size)]
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return functional.linear(torch.cat(shifts, 3), weight).permute(0, 3, 1, 2)


def build() -> ResNet:
    """torchvision's ResNet-18 with a stem for small images: 3 x 3, stride 2, no pooling."""
    torch.manual_seed(SEED)
    network = resnet18(num_classes=len(CLASSES))
    network.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    network.maxpool = nn.Identity()
    for module in [*network.layer3.modules(), *network.layer4.modules()]:
        if isinstance(module, nn.Conv2d):
            module.__class__ = PatchConv2d
    return network.to(memory_format=torch.channels_last)


def normalised(pixels: Tensor) -> Tensor:
    """Float [n, 3, 32, 32] for the network, of bytes [n, 32, 32, 3]."""
    return ((pixels / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


def augmented(framed: Tensor, generator: torch.Generator) -> Tensor:
    """A random crop of each framed picture, uint8 [n, 3, 40, 40], every other one mirrored on average."""
    n, side = len(framed), framed.shape[-1] - 2 * EDGE
    corners = torch.randint(2 * EDGE + 1, (2, n, 1), generator=generator)
    mirrored = torch.randint(2, (n, 1), generator=generator).bool()
    along = torch.arange(side)
    rows, columns = corners[0] + along, corners[1] + torch.where(mirrored, along.flip(0), along)
    return normalised(framed[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]])


def fit(images: Tensor, labels: Tensor, epochs: int, *, file: Path, identity: dict[str, Any]) -> tuple[ResNet, float]:
    """Train from scratch on uint8 [n, 3, 32, 32]; returns the network and the seconds it took.

    ``file`` holds the last whole epoch.  Raises SystemExit where it is of a training with another identity.
    """
    network, done, seconds = build(), 0, 0.0
    optimizer = torch.optim.SGD(
        network.parameters(), lr=PEAK_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )
    identity = {**identity, "n": len(images), "epochs": epochs}
    if file.exists():
        stored = torch.load(file, weights_only=True)
        if stored["identity"] != identity:
            raise SystemExit(f"{file}: is of {stored['identity']}, not of {identity}; remove it or name another --work")
        network.load_state_dict(stored["network"])
        optimizer.load_state_dict(stored["optimizer"])
        done, seconds = stored["done"], stored["seconds"]

    framed, steps = functional.pad(images, (EDGE,) * 4), len(images) // BATCH
    while done < epochs:
        start, total = time.monotonic(), 0.0
        generator = torch.Generator().manual_seed(SEED * 1_000_003 + done)  # an epoch's draws depend on its number
        order = torch.randperm(len(images), generator=generator)
        with progress(f"epoch {done + 1} of {epochs}", steps, "steps") as show:
            for step in range(steps):
                phase = (done + (step + 1) / steps) / epochs
                for group in optimizer.param_groups:  # one cycle (Smith & Topin 2017), of two straight lines
                    group["lr"] = PEAK_RATE * min(phase / WARM, (1 - phase) / (1 - WARM))
                chosen = order[step * BATCH : (step + 1) * BATCH]
                with torch.autocast("cpu", torch.bfloat16):
                    scores = network(augmented(framed[chosen], generator))
                loss = functional.cross_entropy(scores.float(), labels[chosen], label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
                show(step + 1)
        took = time.monotonic() - start
        done, seconds = done + 1, seconds + took
        print(f"epoch {done}: loss {total / steps:.4f}, {steps * BATCH / took:.0f} images/s", flush=True)
        stored = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "identity": identity}
        torch.save({**stored, "done": done, "seconds": seconds}, file.with_suffix(".tmp"))
        os.replace(file.with_suffix(".tmp"), file)
    return network, seconds


@torch.no_grad()
def classify(network: ResNet, images: Tensor) -> Tensor:
    """The class of each picture, int64 [n], by the mean score of it and its mirror image."""
    network.eval()
    classes = []
    for pixels in images.permute(0, 2, 3, 1).split(500):
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(normalised(pixels)).float() + network(normalised(pixels.flip(2))).float()
        classes.append(scores.argmax(1))
    return torch.cat(classes)


def read_real(path: Path, split: str, limit: int | None) -> tuple[Tensor, Tensor]:
    """CIFAR-10's images uint8 [n, 3, 32, 32] and labels; of a limit, as many evenly spread (they stand by class)."""
    images, labels, classes = read_cifar10(path, split)
    if tuple(classes) != CLASSES:
        raise SystemExit(f"{path}: classes {classes}; CIFAR-10's are {list(CLASSES)}")
    chosen = torch.linspace(0, len(images) - 1, min(limit or len(images), len(images))).long()
    return images[chosen], labels[chosen]


def read_made(directory: Path, limit: int | None) -> tuple[Tensor, Tensor, list[str], dict[str, Any]]:
    """The first images of a dataset directory, their labels, looks ("" for plain), and what they are."""
    manifest = read_manifest(directory)
    names = manifest.plan.content.class_names
    if names != CLASSES:
        raise SystemExit(f"{directory}: classes {list(names)}; labels must be those of CIFAR-10, {list(CLASSES)}")
    pictures: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
    labels: list[int] = []
    looks: list[str] = []
    paths = [data_path(directory, manifest.plan.shard(shard.index)) for shard in manifest.shards]
    for item in islice(chain.from_iterable(map(read_shard, paths)), limit):
        with Image.open(io.BytesIO(item.image)) as image:
            if image.size != (32, 32):
                raise SystemExit(f"{directory}: image {item.key} is {image.width} x {image.height}, not 32 x 32")
            pictures.append(np.asarray(image.convert("RGB")))
        labels.append(item.label)
        looks.append(look(item.record["prompt"]))
    if not labels:
        raise SystemExit(f"{directory}: no image stands; generate them first")
    identity = {"images": str(directory), "plan": manifest.plan.digest[:16]}
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), torch.tensor(labels), looks, identity


def shares(found_classes: Tensor, labels: Tensor, groups: dict[str, Tensor] | None = None) -> dict[str, Any]:
    """Print and return the share found right: of all, of each class and of each group, a mask.

    Printed are per cent with the half width of the 95% interval (normal approximation).
    """
    hits, found = found_classes == labels, {}
    by_class = {name: labels == label for label, name in enumerate(CLASSES)}
    for name, mask in {"all": torch.ones_like(hits), **by_class, **(groups or {})}.items():
        if n := int(mask.sum()):
            found[name] = hits[mask].float().mean().item()
            margin = 1.96 * (found[name] * (1 - found[name]) / n) ** 0.5
            print(f"{name:16} {100 * found[name]:5.1f}% ± {100 * margin:.1f} of {n}", flush=True)
    return {"n": len(hits), "shares": {name: round(value, 4) for name, value in found.items()}}


def real(asked: argparse.Namespace) -> dict[str, Any]:
    """Train the judge and save it."""
    images, labels = read_real(asked.cifar10, "train", asked.limit)
    network, seconds = fit(images, labels, asked.epochs, file=asked.work / "real.pt", identity={"step": "real"})
    images, labels = read_real(asked.cifar10, "test", asked.limit)
    found = {**shares(classify(network, images), labels), "train_s": round(seconds)}
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(weights, asked.work / "judge.safetensors")
    (asked.work / "judge.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def recognised(asked: argparse.Namespace) -> dict[str, Any]:
    """What the judge sees in made images."""
    if not (asked.work / "judge.json").exists():
        raise SystemExit(f"{asked.work}: no judge.json; run the step `real` first")
    judge = json.loads((asked.work / "judge.json").read_text())["shares"]["all"]
    if judge < TARGETS["real"]:
        raise SystemExit(f"the judge is right about {judge:.1%} of real images; it needs {TARGETS['real']:.0%}")
    network = build()
    network.load_state_dict(load_file(asked.work / "judge.safetensors"))
    images, labels, looks, identity = read_made(asked.images, asked.limit)
    members = {"plain": [""], "any look": [*LOOKS], **{name: [name] for name in LOOKS}}
    by_look = {group: torch.tensor([name in names for name in looks]) for group, names in members.items()}
    return {**shares(classify(network, images), labels, by_look), "judge": judge, **identity}


def useful(asked: argparse.Namespace) -> dict[str, Any]:
    """What a network learns from made images alone."""
    images, labels, _, identity = read_made(asked.images, asked.limit or N_USEFUL)
    network, seconds = fit(images, labels, asked.epochs, file=asked.work / "useful.pt", identity=identity)
    told = {"n_made": len(images), "train_s": round(seconds), **identity}
    print(f"learned from {len(images)} images of {asked.images}")
    images, labels = read_real(asked.cifar10, "test", asked.limit)
    return {**shares(classify(network, images), labels), **told}


def main() -> None:
    """Run one step and append its result."""
    steps = {"real": real, "recognised": recognised, "useful": useful}
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("step", choices=steps)
    options.add_argument("--cifar10", type=Path, help="zip of an image folder; for real and useful")
    options.add_argument("--images", type=Path, help="dataset directory; for recognised and useful")
    options.add_argument("--work", type=Path, required=True, help="folder for the judge, checkpoints and results.json")
    options.add_argument("--epochs", type=int, help=f"default {EPOCHS}")
    options.add_argument("--limit", type=int, help="images to read of each set: a quick look")
    asked = options.parse_args()
    for name, other in (("cifar10", "recognised"), ("images", "real")):
        if asked.step != other and getattr(asked, name) is None:
            options.error(f"{asked.step} needs --{name}")
    asked.epochs = asked.epochs or EPOCHS.get(asked.step)
    asked.work.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        found = steps[asked.step](asked)
    except SynthgenError as error:
        raise SystemExit(str(error)) from None
    result = {
        "step": asked.step,
        **found,
        "target": TARGETS[asked.step],
        "epochs": asked.epochs,
        "seed": SEED,
        "seconds": round(time.monotonic() - start),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "command": shlex.join(["python", *sys.argv]),
    }
    reached = "reached" if result["shares"]["all"] >= result["target"] else "missed"
    print(f"{asked.step}: {result['shares']['all']:.1%}; the target of {result['target']:.0%} is {reached}")
    with (asked.work / "results.json").open("a") as file:
        file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
