"""The harness's own training against outside knowledge: ResNet-18 for 32-px images on CIFAR-10.

``python tests/benchmarks/cifar10.py --cifar10 ZIP --work FOLDER [--epochs 12] [--precision bf16]`` trains
the architecture ``resnet18_32px`` on the 50,000 training images with the recipe below, by the loop, data path
and augmentation that every run goes through, and predicts the 10,000 test images.  It is known that this
network gets over 90% there in some ten epochs.  Killed, it goes on after its last whole epoch.

Fails where the accuracy is below ``--target``.  ``--images`` takes some of the training images, balanced.
Results stand in docs/harness.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch

from synthgen.common.progress import progress
from synthgen_evaluate.design.interventions import quantity
from synthgen_evaluate.images.pixels import PixelCache
from synthgen_evaluate.images.sources import ImageFolder
from synthgen_evaluate.metrics import scores
from synthgen_evaluate.predictions import Predictions
from synthgen_evaluate.recipe import Recipe
from synthgen_evaluate.runs import Run, RunConfig
from synthgen_evaluate.training.execute import make_accelerator
from synthgen_evaluate.training.train import EvaluationSet, LabelledImages, train

TARGET = 0.90  # accuracy on the test images


def recipe(epochs: int) -> Recipe:
    """What is trained, and judged after its last epoch."""
    return Recipe(
        epochs=epochs,
        evaluate_epochs=(epochs,),
        batch_size=128,
        optimizer="sgd",
        lr=0.1,
        weight_decay=5e-4,
        warmup_epochs=2.0,
        min_crop=0.6,
    )


def main() -> None:
    """Train, or go on training, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--target", type=float, default=TARGET)
    arguments = parser.parse_args()
    accelerator = make_accelerator("auto", arguments.precision)
    cache = PixelCache(arguments.work / "cache", limit=None)
    sources = {name: ImageFolder(f"zip://cifar10/{name}::{arguments.cifar10}") for name in ("train", "test")}
    taken = {
        "train": quantity(sources["train"].labels, sources["train"].class_names, arguments.images, seed=0).indices,
        "test": np.arange(len(sources["test"].labels)),
    }
    pixels = {}
    for name, source in sources.items():
        with progress(f"decode {name}", len(taken[name]), "images") as show:
            pixels[name] = cache.open(source, taken[name], 32, progress=show)
    test = sources["test"].labels
    truth = Predictions(
        image_id=np.array([str(k) for k in range(len(test))], object),
        y_true=test,
        y_pred=test,
        location=np.arange(len(test)),
        sequence=np.full(len(test), -1),
    )
    config = RunConfig(
        kind="finetune",
        architecture="resnet18_32px",
        seed=0,
        image_size=32,
        data={**sources["train"].identity, "taken": arguments.images},
        recipe=recipe(arguments.epochs),
        precision=arguments.precision,
    )
    run = Run(directory=arguments.work / config.digest)
    run.directory.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with progress("train", arguments.epochs, "epochs") as show:
        train(
            run,
            config,
            LabelledImages(pixels=pixels["train"], labels=sources["train"].labels[taken["train"]], n_classes=10),
            {"test": EvaluationSet(pixels=pixels["test"], truth=truth)},
            init=None,
            accelerator=accelerator,
            progress=show,
        )
    found = run.predictions(arguments.epochs, "test")
    accuracy = scores(found.y_true, found.y_pred).accuracy
    result = {
        "accuracy": accuracy,
        "images": arguments.images,
        "epochs": arguments.epochs,
        "precision": arguments.precision,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "images_per_second": run.state.train_images_per_second,
        "machine": f"{run.state.device}, {run.state.cores} cores",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    print(json.dumps(result))
    if accuracy < arguments.target:
        sys.exit(f"accuracy {accuracy:.1%}, below {arguments.target:.0%}")


if __name__ == "__main__":
    main()
