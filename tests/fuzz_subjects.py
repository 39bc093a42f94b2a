"""What is mutated: every kind of file that the product reads, where it lies, and the commands that read it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/golden/records"
TRAINED = "25537c1a50d32251"  # of the golden runs: the pre-training
HALF = "a0a48cc364cee561"  # of those, the one that is under way
ARMS = ("scratch", "natural")  # of the golden study, which has five
SYNTHGEN, EVALUATE = "synthgen", "evaluate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command, as it is typed within the sandbox."""

    args: tuple[str, ...]
    writes: tuple[str, ...] = ()  # folders or files, within the sandbox's inside, that it may change
    codes: tuple[int, ...] = (0, 2)  # exit codes that it may have
    often: float = 1.0  # how often it is chosen, beside others

    @property
    def words(self) -> str:
        """The command, as tables name it."""
        return " ".join(self.args)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A kind of file, and who reads it."""

    name: str
    scene: str
    files: tuple[str, ...]  # patterns within the scene
    layout: str  # of the file: a key of fuzz_mutations.FORMATS
    commands: tuple[Command, ...]
    often: float = 1.0
    sealed: float = 0.0  # how often the sums that tell of the file are set right after it was changed
    heavy: bool = False  # whether torch is needed


def synthgen(text: str, **more: Any) -> Command:
    """A command of synthgen."""
    return Command(args=(SYNTHGEN, *text.split()), **more)


def evaluate(text: str, **more: Any) -> Command:
    """A command of evaluate."""
    return Command(args=(EVALUATE, *text.split()), **more)


FRACTAL = "fractal --categories categories --size 32 --points 2000 --workers 1"
DRAW = synthgen(
    "sd --model tiny --size 32 --batch 2 --device cpu --workers 1 --prompts prompts/quickstart.txt --n 2 --out out",
    writes=("out",),
    codes=(0, 1, 2),
)
TRY = synthgen("sd --prompts prompts/quickstart.txt --model ./model --n 1 --size 32 --device cpu --batch 1 --dry-run")
STATUS, STATUS_JSON = synthgen("status set"), synthgen("status set --json")
VERIFY = synthgen("verify set", codes=(0, 1, 2), often=4)
VERIFY_JSON = synthgen("verify set --json --quality", codes=(0, 1, 2))
PREVIEW = synthgen("preview set --out set-preview", writes=("set-preview",), often=1.5)
EXPORT = synthgen("export set --out out", writes=("out",), often=1.5)
EXPORT_PARQUET = synthgen("export set --out out --format parquet", writes=("out",))
EXPORT_TAR = synthgen("export set --out out --format webdataset --shard-bytes 20KB", writes=("out",), often=0.5)
PUBLISH = synthgen("publish set --to out", writes=("set", "out"), often=0.35)
PART = synthgen("publish set --to out --allow-incomplete", writes=("set", "out"), often=0.25)
DRY = synthgen("publish set --to out --dry-run", writes=("set",), often=0.5)
REPAIR = synthgen("verify set --repair", codes=(0, 1, 2), writes=("set",))
AGAIN = synthgen(f"{FRACTAL} --shard-size 10 --n 24 --out set", writes=("set",), codes=(0, 1, 2))
MORE = synthgen(f"{FRACTAL} --shard-size 5 --n 31 --out set", writes=("set",), codes=(0, 1, 2), often=0.4)
OF_SETS = (STATUS, STATUS_JSON, VERIFY, VERIFY_JSON, PREVIEW, EXPORT, EXPORT_PARQUET, EXPORT_TAR, DRY, PUBLISH, PART)
OF_FRACTALS = (*OF_SETS, AGAIN, REPAIR, MORE)
OF_DIFFUSION = (*OF_SETS, REPAIR)

PLAN = (
    evaluate("plan suite.toml", often=2),
    evaluate("plan suite.toml --json"),
    evaluate("plan suite.toml --format markdown", often=0.5),
    evaluate("plan suite.toml --format csv", often=0.5),
    evaluate("plan suite.toml --format latex", often=0.5),
)
COUNT = evaluate("plan suite.toml --count")
LIST = evaluate("run suite.toml --out runs --dry-run")
RATES = evaluate("plan suite.toml --rates runs")
TELL, TELL_JSON = evaluate("status runs"), evaluate("status runs --json", often=0.5)
JUDGE = Command(args=("python", "compare", "runs"), often=3)  # as in a notebook; what a report is made of
POWER = evaluate("power runs --json", often=0.3)
REPORT = evaluate("compare runs --out report --resamples 100", writes=("report",), often=0.05)
OF_RUNS = (TELL, TELL_JSON, JUDGE, POWER, REPORT)
TRAIN = evaluate("run suite.toml --out runs --device cpu", writes=("runs",), codes=(0, 1, 2))
SIMULATE = evaluate("simulate --classes 4 --locations 6 --images 100 --size 32 --out traps", writes=("traps",))
TUNE = "finetune traps --architecture timm:test_efficientnet --image-size 32 --set epochs=1 --device cpu --out byhand"

SUBJECTS: tuple[Subject, ...] = (
    Subject(name="plan", scene="finished", files=("set/plan.json",), layout="json", commands=OF_FRACTALS, sealed=0.5),
    Subject(name="plan", scene="half", files=("set/plan.json",), layout="json", commands=OF_FRACTALS, often=1.5),
    Subject(name="plan", scene="bare", files=("set/plan.json",), layout="json", commands=OF_FRACTALS, sealed=0.7),
    Subject(name="plan", scene="grown", files=("set/plan.json",), layout="json", commands=OF_SETS, sealed=0.5),
    Subject(
        name="plan", scene="diffusion", files=("set/plan.json",), layout="json", commands=OF_DIFFUSION, sealed=0.5,
        heavy=True, often=0.7,
    ),
    Subject(
        name="completion record", scene="finished", files=("set/data/*.json",), layout="json", commands=OF_FRACTALS,
        often=1.5,
    ),
    Subject(name="completion record", scene="half", files=("set/data/*.json",), layout="json", commands=OF_FRACTALS),
    Subject(
        name="claim", scene="half", files=("set/claims/*.json",), layout="json", often=1.5,
        commands=(STATUS, STATUS_JSON, VERIFY, PART, AGAIN, REPAIR),
    ),
    Subject(name="manifest.json", scene="finished", files=("set/manifest.json",), layout="json", commands=OF_FRACTALS),
    Subject(name="manifest.json", scene="diffusion", files=("set/manifest.json",), layout="json", commands=OF_SETS),
    Subject(name="SHA256SUMS", scene="finished", files=("set/SHA256SUMS",), layout="text", commands=OF_FRACTALS),
    Subject(
        name="tar", scene="finished", files=("set/data/*.tar",), layout="tar", commands=OF_FRACTALS, sealed=0.6,
        often=2,
    ),
    Subject(name="tar", scene="diffusion", files=("set/data/*.tar",), layout="tar", commands=OF_SETS, sealed=0.6),
    Subject(
        name="image in a tar", scene="finished", files=("set/data/*.tar",), layout="picture", commands=OF_SETS,
        sealed=0.8, often=2,
    ),
    Subject(
        name="metadata table", scene="finished", files=("set/metadata/*.parquet",), layout="parquet",
        commands=OF_FRACTALS, sealed=0.5, often=1.5,
    ),
    Subject(
        name="metadata table", scene="diffusion", files=("set/metadata/*.parquet",), layout="parquet",
        commands=OF_SETS, sealed=0.5,
    ),
    Subject(
        name="documents of a set", scene="published", files=("set/README.md", "set/*.json", "set/samples.jpg"),
        layout="bytes", commands=(VERIFY, STATUS, DRY, PUBLISH), often=0.5,
    ),
    Subject(
        name="published set", scene="sent", files=("out/plan.json", "out/manifest.json", "out/data/*.json"),
        layout="json", commands=(PUBLISH, DRY), often=0.7,
    ),
    Subject(
        name="export record", scene="exported", files=("out/.synthgen-export.json", "parts/.synthgen-export.json"),
        layout="json", often=0.7,
        commands=(EXPORT, synthgen("export set --out parts --format parquet", writes=("parts",))),
    ),
    Subject(
        name="table of an export", scene="exported", files=("parts/data/*.parquet",), layout="parquet", often=0.5,
        commands=(synthgen("export set --out parts --format parquet", writes=("parts",)),),
    ),
    Subject(
        name="category CSV", scene="categories", files=("categories/*.csv",), layout="csv",
        commands=(synthgen(f"{FRACTAL} --n 3 --out out", writes=("out",)),),
    ),
    Subject(
        name="prompt file", scene="prompts", files=("prompts/quickstart.txt",), layout="text",
        commands=(synthgen("prompts check prompts/quickstart.txt", codes=(0, 1, 2)),
                  synthgen("prompts check prompts/quickstart.txt --json", codes=(0, 1, 2))),
    ),
    Subject(
        name="class list", scene="prompts", files=("prompts/classes/cifar10.tsv",), layout="csv",
        commands=(synthgen("prompts check prompts/quickstart.txt prompts/classes/cifar10.tsv", codes=(0, 1, 2)),
                  synthgen("prompts check prompts/classes/cifar10.tsv --json", codes=(0, 1, 2))),
    ),
    Subject(
        name="prompt versions", scene="prompts", files=("prompts/VERSIONS",), layout="text", often=0.5,
        commands=(synthgen("prompts check prompts/quickstart.txt", codes=(0, 1, 2)),),
    ),
    Subject(
        name="prompt file", scene="prompts", files=("prompts/quickstart.txt",), layout="text", heavy=True, often=0.1,
        commands=(DRAW,),
    ),
    Subject(
        name="class list", scene="prompts", files=("prompts/classes/cifar10.tsv",), layout="csv", heavy=True, often=0.1,
        commands=(DRAW,),
    ),
    Subject(
        name="record of a sample", scene="sample", files=("sample.json",), layout="json", heavy=True, often=0.4,
        commands=(
            synthgen(
                "sd --from-record sample.json --out again.png --device cpu", writes=("again.png",), codes=(0, 1, 2)
            ),
        ),
    ),
    Subject(
        name="model folder", scene="model", files=("model/*.json", "model/*/*.json"), layout="json", heavy=True,
        often=0.2,
        commands=(TRY,),
    ),
    Subject(
        name="suite", scene="suite", files=("suite.toml",), layout="toml", commands=(*PLAN, COUNT, LIST), often=3,
        heavy=True,
    ),
    Subject(
        name="taxonomy", scene="suite", files=("taxonomy.tsv",), layout="csv", commands=(COUNT, LIST, PLAN[0]),
        heavy=True, often=0.7,
    ),
    Subject(
        name="task's metadata.csv", scene="suite", files=("traps/iwildcam_v2.0/metadata.csv",), layout="csv",
        commands=(COUNT, LIST), heavy=True, often=0.7,
    ),
    Subject(
        name="task's categories.csv", scene="suite",
        files=("traps/iwildcam_v2.0/categories.csv", "traps/iwildcam_v2.0/RELEASE_v2.0.txt"), layout="csv",
        commands=(COUNT, LIST), heavy=True, often=0.5,
    ),
    Subject(
        name="image of a task", scene="suite", files=("traps/iwildcam_v2.0/train/*.jpg",), layout="image", heavy=True,
        commands=(evaluate(TUNE, writes=("byhand",)),), often=0.1,
    ),
    Subject(
        name="record of a simulation", scene="suite", files=("traps/simulated.json",), layout="json", often=0.5,
        heavy=True, commands=(SIMULATE,),
    ),
    Subject(
        name="run's config.json", scene="resume", files=("runs/*/config.json",), layout="json", heavy=True, often=0.7,
        commands=(TELL, RATES, LIST),
    ),
    Subject(
        name="run's state.json", scene="study", files=("runs/*/state.json",), layout="json", heavy=True,
        commands=OF_RUNS,
    ),
    Subject(
        name="run's state.json", scene="resume", files=("runs/*/state.json",), layout="json", heavy=True, often=0.5,
        commands=(TELL, TELL_JSON, RATES, LIST),
    ),
    Subject(
        name="predictions", scene="study", files=("runs/*/predictions/*.parquet",), layout="parquet", heavy=True,
        commands=OF_RUNS, often=3,
    ),
    Subject(
        name="predictions", scene="summed", files=("runs/*/predictions/*.parquet",), layout="parquet", heavy=True,
        commands=OF_RUNS, often=1.5,
    ),
    Subject(
        name="predictions' names", scene="study", files=("runs/*/predictions/*.parquet",), layout="name", heavy=True,
        commands=OF_RUNS, often=0.4,
    ),
    Subject(
        name="suite record", scene="study", files=("runs/suites/*.json",), layout="json", heavy=True, often=2,
        commands=OF_RUNS,
    ),
    Subject(
        name="log.jsonl", scene="resume", files=("runs/*/log.jsonl",), layout="jsonl", heavy=True, often=0.2,
        commands=(TRAIN,),
    ),
    Subject(
        name="checkpoint.pt", scene="resume", files=(f"runs/{HALF}/checkpoint.pt",), layout="zip", heavy=True,
        commands=(TRAIN,), often=0.3,
    ),
    Subject(
        name="weights", scene="suite", files=("weights.safetensors",), layout="safetensors", heavy=True, often=0.4,
        commands=(evaluate(f"{TUNE} --checkpoint weights.safetensors", writes=("byhand",)),),
    ),
    Subject(
        name="checkpoint from outside", scene="suite", files=("outside.pt",), layout="zip", heavy=True, often=0.4,
        commands=(evaluate(f"{TUNE} --checkpoint outside.pt", writes=("byhand",)),),
    ),
    Subject(
        name="selection.parquet", scene="study", files=("selection.parquet",), layout="parquet", heavy=True, often=0.7,
        commands=(Command(args=("python", "selection", "selection.parquet")),),
    ),
    Subject(
        name="published scores", scene="scores", files=("scores.csv",), layout="csv", heavy=True, often=0.7,
        commands=(
            Command(args=("python", "scores", "scores.csv"), often=6),
            evaluate("compare --results scores.csv --out report --resamples 100", writes=("report",), often=0.2),
        ),
    ),
    Subject(
        name="comparison.json", scene="report", files=("report/comparison.json",), layout="json", heavy=True,
        commands=(REPORT,), often=0.15,
    ),
    Subject(
        name="cached pixels", scene="cached", files=("runs/cache/*.pixels",), layout="pixels", heavy=True, often=0.7,
        commands=(evaluate("cache runs"), evaluate("cache runs --json"),
                  evaluate("cache runs --clear", writes=("runs/cache",), often=0.3)),
    ),
)  # fmt: skip


# Scenes, each made once and copied for a case


def make_scene(name: str, folder: Path, call: Callable[[Path, Sequence[str]], object]) -> None:
    """Make a scene in a new folder; ``call`` runs a command of the product within it."""
    folder.mkdir(parents=True)
    _SCENES[name](folder, call)


def _set(name: str) -> Callable[[Path, Any], None]:
    def make(folder: Path, call: Any) -> None:
        shutil.copytree(GOLDEN / name, folder / "set")
        shutil.copytree(GOLDEN / "categories", folder / "categories")

    return make


def _half(folder: Path, call: Any) -> None:
    """Half a set, two of whose shards are claimed by workers that are gone."""
    _set("fractal-half")(folder, call)
    (folder / "set/claims").mkdir()
    claim = {"worker": "node7-4242", "shard": 1, "done": 3, "of": 10, "rate": 12.5, "beat": 4, "failed": ""}
    failed = {**claim, "shard": 2, "of": 4, "failed": "OSError: no space left on device"}
    for one in (claim, failed):
        (folder / f"set/claims/fractal-train-{one['shard']:06d}.json").write_text(json.dumps(one))


def _bare(folder: Path, call: Any) -> None:
    """A plan alone."""
    _set("fractal-half")(folder, call)
    for name in ("data", "metadata"):
        shutil.rmtree(folder / "set" / name)


def _sent(folder: Path, call: Any) -> None:
    _set("published")(folder, call)
    shutil.copytree(folder / "set", folder / "out")


def _exported(folder: Path, call: Any) -> None:
    _set("fractal-finished")(folder, call)
    call(folder, EXPORT.args)
    call(folder, (SYNTHGEN, *["export", "set", "--out", "parts", "--format", "parquet"]))


def _categories(folder: Path, call: Any) -> None:
    shutil.copytree(GOLDEN / "categories", folder / "categories")


def _prompts(folder: Path, call: Any) -> None:
    (folder / "prompts/classes").mkdir(parents=True)
    for name in ("quickstart.txt", "VERSIONS", "classes/cifar10.tsv"):
        shutil.copyfile(ROOT / "prompts" / name, folder / "prompts" / name)


def _sample(folder: Path, call: Any) -> None:
    import tarfile

    with tarfile.open(GOLDEN / "diffusion-finished/data/sd-train-000000.tar") as file:
        member = next(one for one in file.getmembers() if one.name.endswith(".json"))
        (folder / "sample.json").write_bytes(file.extractfile(member).read())  # type: ignore[union-attr]


def _model(folder: Path, call: Any) -> None:
    _prompts(folder, call)
    shutil.copytree(ROOT / "synthgen/kinds/diffusion/tiny/model", folder / "model")


SUITE = """
name = "fuzz"
baseline = "scratch"
reference = "fractals"
image_size = 32
architectures = ["timm:test_efficientnet"]
seeds = [0, 1]
precision = "float32"
[task]
path = "traps"
kind = "iwildcam"
empty = true
[pretrain]
epochs = 1
min_crop = 0.5
lr = 0.001
batch_size = 64
[finetune]
epochs = 3
optimizer = "sgd"
lr = 0.01
evaluate_epochs = [1, 3]
[[arms]]
name = "scratch"
[[arms]]
name = "fractals"
factor = "quantity"
level = "24"
source = { kind = "shards", path = "set" }
[[arms]]
name = "coarse"
granularity = "kind"
taxonomy = "taxonomy.tsv"
source = { kind = "fractals", categories = "categories", points = 1000 }
[[arms]]
name = "drawn"
n = 12
source = { kind = "fractals", categories = "categories", points = 1000 }
"""
TAXONOMY = "id\tkind\tfine\n00000\tleft\tone\n00001\tright\ttwo\n00002\tright\tthree\n"


def _suite(folder: Path, call: Any) -> None:
    _set("fractal-finished")(folder, call)
    shutil.copytree(GOLDEN / "traps", folder / "traps")
    (folder / "suite.toml").write_text(SUITE)
    (folder / "taxonomy.tsv").write_text(TAXONOMY)
    weights = folder / "weights.safetensors"
    shutil.copyfile(GOLDEN / "runs" / TRAINED / "weights.safetensors", weights)
    import torch
    from safetensors.torch import load_file

    sink = io.BytesIO()
    torch.save(load_file(weights), sink)
    (folder / "outside.pt").write_bytes(sink.getvalue())


def _study(folder: Path, call: Any) -> None:
    """The golden study, of two arms."""
    golden = GOLDEN / "study"
    record = json.loads((golden / "suites/study.json").read_text())
    record["arms"] = [arm for arm in record["arms"] if arm["name"] in ARMS]
    record["members"] = [member for member in record["members"] if member["arm"] in ARMS]
    (folder / "runs/suites").mkdir(parents=True)
    (folder / "runs/suites/study.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    for member in record["members"]:
        shutil.copytree(golden / member["finetune"], folder / "runs" / member["finetune"])
    shutil.copyfile(GOLDEN / "runs" / TRAINED / "selection.parquet", folder / "selection.parquet")


def _summed(folder: Path, call: Any) -> None:
    """The study as this version would have written it: with sums of its predictions."""
    _study(folder, call)
    for path in (folder / "runs").glob("*/state.json"):
        files = sorted((path.parent / "predictions").glob("*.parquet"))
        sums = {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in files}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"predictions": sums}, indent=1))


def _resume(folder: Path, call: Any) -> None:
    """The golden suite, one of whose runs is under way."""
    shutil.copytree(GOLDEN / "runs-half", folder / "runs")
    shutil.copytree(GOLDEN / "traps", folder / "traps")
    shutil.copytree(GOLDEN / "fractal-finished", folder / "fractal-finished")
    shutil.copyfile(GOLDEN / "suite.toml", folder / "suite.toml")


def _cached(folder: Path, call: Any) -> None:
    from synthgen_evaluate.images.pixelfile import PixelFile

    identity = {"kind": "shards", "digest": "3f15421f66888c95", "n_images": 24, "n_classes": 3}
    (folder / "runs").mkdir()
    with PixelFile.of(folder / "runs/cache", identity, 24, 32).claimed():
        pass


def _scores(folder: Path, call: Any) -> None:
    rows = ["model,architecture,pretraining,seed,split,id_macro_f1,ood_macro_f1,source"]
    for arm in range(3):
        for seed in range(4):
            score = 40 + 5 * arm + 2 * seed
            rows.append(f"m{arm}{seed},resnet50,arm {arm},{seed},test,{score}.5,{0.6 * score:.1f},made up")
    (folder / "scores.csv").write_text("\n".join(rows) + "\n")


def _report(folder: Path, call: Any) -> None:
    _study(folder, call)
    call(folder, REPORT.args)


_SCENES: Mapping[str, Callable[[Path, Any], None]] = {
    "finished": _set("fractal-finished"),
    "half": _half,
    "bare": _bare,
    "grown": _set("fractal-grown"),
    "diffusion": _set("diffusion-finished"),
    "published": _set("published"),
    "sent": _sent,
    "exported": _exported,
    "categories": _categories,
    "prompts": _prompts,
    "sample": _sample,
    "model": _model,
    "suite": _suite,
    "study": _study,
    "summed": _summed,
    "resume": _resume,
    "cached": _cached,
    "scores": _scores,
    "report": _report,
}


# Commands that are functions of the library


def library(args: Sequence[str]) -> int:
    """What notebooks do: compare runs or scores, read a selection; prints it as JSON, returns an exit code."""
    from dataclasses import asdict

    from synthgen.common.errors import SynthgenError
    from synthgen.common.printing import say
    from synthgen_evaluate import compare, load_results, load_runs
    from synthgen_evaluate.design.selection import read_selection
    from synthgen_evaluate.errors import EvaluateError

    what, path = args
    try:
        if what == "selection":
            selection, _ = read_selection(Path(path))
            told: Any = {"labels": selection.labels.tolist(), "classes": selection.class_names}
        else:
            told = asdict(compare(load_results(Path(path)) if what == "scores" else load_runs([path]), resamples=100))
        print(json.dumps(told, default=str))
        return 0
    except (EvaluateError, SynthgenError) as error:
        import sys

        say(f"python: {error}", file=sys.stderr)
        return 2


# Sums that tell of a file


def seal(folder: Path, *, samples: bool) -> bool:
    """Make the sums of a set right after one of its files was changed; with ``samples`` those of its images too.

    So what is read goes on to what is behind the sums.  Returns whether it was possible.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        plan = json.loads((folder / "plan.json").read_bytes())
        text = json.dumps(plan["content"], sort_keys=True, separators=(",", ":"))
        plan["digest"] = hashlib.sha256(text.encode()).hexdigest()
        (folder / "plan.json").write_text(json.dumps(plan, indent=1) + "\n")
        records = []
        for path in sorted((folder / "data").glob("*.json")):
            table, tar = folder / "metadata" / f"{path.stem}.parquet", path.with_suffix(".tar")
            if samples:
                _seal_samples(tar, table)
            record = json.loads(path.read_bytes())
            record |= {
                "plan_digest": plan["digest"],
                **_sums(tar),
                **{f"table_{k}": v for k, v in _sums(table).items()},
            }
            path.write_text(json.dumps(record, indent=1) + "\n")
            records.append(record)
        _seal_papers(folder, plan, records)
        return True
    return False


def _sums(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"n_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _seal_papers(folder: Path, plan: Mapping[str, Any], records: list[dict[str, Any]]) -> None:
    manifest, sums = folder / "manifest.json", folder / "SHA256SUMS"
    if manifest.exists():
        told = json.loads(manifest.read_bytes()) | {"plan": plan["digest"], "n": plan["n"], "shards": records}
        told["n_bytes"] = sum(record["n_bytes"] for record in records)
        manifest.write_text(json.dumps(told, indent=1) + "\n")
    if sums.exists():
        names = [line.partition("  ")[2] for line in sums.read_text().splitlines()]
        sums.write_text("".join(f"{_sums(folder / name)['sha256']}  {name}\n" for name in names))


def _seal_samples(tar: Path, table: Path) -> None:
    """Set the sum of every image in its record and in the table right."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from fuzz_archives import members, sealed_header, tar_of

    found, sums, image = members(tar.read_bytes()), {}, b""
    for place, (header, body) in enumerate(found):
        key, _, ending = bytes(header[:100]).rstrip(b"\0").decode().partition(".")
        if ending in ("png", "jpg", "webp"):
            image = body
        elif ending == "json":
            row = json.loads(body)
            row["sha256"] = sums[key] = hashlib.sha256(image).hexdigest()
            new = json.dumps(row).encode()
            header[124:136] = f"{len(new):011o}\0".encode()
            found[place] = (sealed_header(header), new)
    tar.write_bytes(tar_of(found))
    rows = pq.read_table(pa.BufferReader(table.read_bytes()), use_threads=False).to_pydict()
    rows["sha256"] = [sums[key] for key in rows["key"]]
    sink = pa.BufferOutputStream()
    columns = {name: pa.array(values, pa.string()) if name == "seed" else values for name, values in rows.items()}
    pq.write_table(pa.table(columns), sink, compression="zstd")
    table.write_bytes(bytes(sink.getvalue()))
