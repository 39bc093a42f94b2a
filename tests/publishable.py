"""What the tests of publishing share: a small set, what of it is published, and what a bucket has of it."""

from pathlib import Path

from conftest import Command
from files import contents

from synthgen.dataset.manifest import DOCUMENTS

N, SIZE = 40, 32
SMALL = ("--size", SIZE, "--points", 1000, "--workers", 1)


def fractal_set(out: Path, synthgen_here: Command, categories: Path, n: int = N) -> Path:
    done = synthgen_here("fractal", "--out", out, "--categories", categories, "--n", n, "--shard-size", 15, *SMALL)
    assert done.returncode == 0, done.stderr
    return out


def diffusion_set(out: Path, synthgen_here: Command) -> Path:
    prompts = Path(__file__).parents[1] / "prompts/quickstart.txt"
    command = ("sd", "--prompts", prompts, "--model", "tiny", "--steps", 1, "--batch", 20, "--size", SIZE)
    done = synthgen_here(*command, "--n", N, "--shard-size", 20, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def wanted(directory: Path) -> dict[str, bytes]:
    """What is to stand where a set was published."""
    top = {*DOCUMENTS, "plan.json", "SHA256SUMS", "manifest.json"}
    own = {name: data for name, data in contents(directory).items() if "/" in name or name in top}
    assert top <= own.keys()
    return own


def in_bucket(url: str) -> dict[str, bytes]:
    """What stands in a bucket of moto's, which runs in this process."""
    from moto.s3.models import s3_backends

    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    keys = s3_backends["123456789012"]["aws"].buckets[bucket].keys
    return {name.removeprefix(f"{prefix}/"): key.value for name, key in list(keys.items()) if name.startswith(prefix)}
