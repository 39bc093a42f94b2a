"""A suite file: task, architectures, seeds, recipes and arms, checked before anything runs.

Imports no torch, so that showing a plan is instant.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import PlainValidator, with_config

from synthgen.common.records import STRICT, validated
from synthgen.storage.inside import RULE, fits, fits_stored
from synthgen.storage.reading import read_file, reading

from ..errors import EvaluateError, told_here
from ..judgement import DEFAULT, Judgement
from ..models import problem
from ..recipe import Recipe
from ..tasks.spec import TaskSpec
from .arms import ARCHITECTURE, ArmSpec, read_arms
from .cost import Cost
from .settled import settled
from .sources import LARGEST_SEED, SIZES

LIMIT = 1 << 24  # bytes of a suite file
MOST_SEEDS = 1_000  # runs of each arm and architecture; a power analysis considers no more blocks either


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A suite file.  Paths are relative to the working directory."""

    name: str  # name of the suite and its record: letters, digits, _, - and inner dots
    baseline: str  # name of the arm that the others are compared with
    task: TaskSpec  # what models are fine-tuned on
    image_size: int  # width and height in pixels, of pre-training and fine-tuning
    architectures: tuple[str, ...]  # names of networks
    seeds: tuple[int, ...]  # one run per arm, architecture and seed
    pretrain: Recipe  # how models are pre-trained
    finetune: Recipe  # how they are fine-tuned
    arms: Annotated[tuple[ArmSpec, ...], PlainValidator(read_arms)]  # the conditions, as [[arms]]
    precision: Literal["float32", "bf16", "fp16"] = "float32"  # precision of the arithmetic in all runs
    pretrain_for: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # keys that differ, by architecture
    cost: Cost | None = None  # training rates, from which a plan's hours are computed
    reference: str | None = None  # second arm to compare with, such as natural images
    judgement: Judgement = DEFAULT  # what is compared, and whom a sentence about it speaks for

    def architectures_of(self, arm: ArmSpec) -> tuple[str, ...]:
        """The architectures that an arm trains: its own, or the suite's."""
        return arm.architectures or self.architectures

    def recipe(self, arm: ArmSpec, architecture: str | None = None) -> Recipe:
        """The pre-training recipe of an arm, and that of one architecture if its recipe differs.

        The suite's, changed by ``pretrain_for`` for the architecture and then by the arm.
        The objective is the same for all architectures.  Raises EvaluateError, beginning with the key.
        """
        own = arm.pretraining.pretrain if arm.pretraining else {}
        return self.pretrain.changed({**self.pretrain_for.get(architecture or "", {}), **own})


def read_suite(path: Path, runs: Path | None = None) -> Suite:
    """Read and check a suite file; raises EvaluateError naming file and key.

    Where the directory ``runs`` already has the suite, keys that the file does not give are taken from it.
    A name with spaces or in another script, which older versions allowed, is then accepted if its record exists.
    """
    with told_here(), reading(path):
        data = read_file(path, limit=LIMIT)
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")  # may have a byte order mark
        content = tomllib.loads(text)
        _check_values(content, "")
        given = json.dumps(content).encode()
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise EvaluateError(f"{path}: not a TOML file ({error})") from None
    except ValueError:  # Python reads no number with thousands of digits
        line = text[: next(re.finditer("[0-9_]{4300,}", text)).start()].count("\n") + 1
        raise EvaluateError(f"{path}: line {line}: an integer of more than 64 bits") from None
    except EvaluateError as error:
        raise EvaluateError(f"{path}: {error}") from None
    suite = _checked(given, path)
    if runs is None:
        return suite
    if not fits(suite.name) and not (runs / "suites" / f"{suite.name}.json").exists():
        raise EvaluateError(f"{path}: name: {suite.name!r} becomes a file's name; {RULE} only")
    return _checked(json.dumps(settled(content, runs)).encode(), f"{path}, with what is in {runs}")


def _checked(data: bytes, where: object) -> Suite:
    with told_here():
        suite = validated(data, Suite, where)
    for words in problems_of(suite):
        raise EvaluateError(f"{where}: {words}")
    return suite


def _check_values(value: object, key: str) -> None:
    """Raise EvaluateError for what no key accepts: dates, integers beyond 64 bits, text with null bytes."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_values(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_values(inner, f"{key}.{number}")
    elif isinstance(value, str):
        if "\0" in value:
            raise EvaluateError(f"{key}: {value[:40]!r} contains a null byte")
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise EvaluateError(f"{key}: an integer of more than 64 bits")
    elif not isinstance(value, float):
        raise EvaluateError(f"{key}: {value} is a date or a time, which no key accepts")


def problems_of(suite: Suite) -> list[str]:
    """What prevents a suite from running, each beginning with the key."""
    problems = [f"architectures: {words}" for words in _unfit(suite.architectures, suite.image_size)]
    if not (fits(suite.name) or fits_stored(suite.name)):
        problems.append(f"name: {suite.name[:80]!r} becomes a file's name; {RULE} only")
    for name in suite.judgement.primary:
        if name == suite.baseline or name not in {arm.name for arm in suite.arms}:
            problems.append(f"judgement.primary: {name!r} is not an arm other than the baseline")
    for key in ("architectures", "seeds"):
        values: tuple[Any, ...] = getattr(suite, key)
        if not values or len(set(values)) < len(values):
            problems.append(f"{key}: {_listed(values)} is empty or repeats a value")
    wrong = [seed for seed in suite.seeds if not 0 <= seed <= LARGEST_SEED]
    if wrong:
        problems.append(f"seeds: {_listed(wrong)}; each 0 to {LARGEST_SEED}")
    if len(suite.seeds) > MOST_SEEDS:
        problems.append(f"seeds: {len(suite.seeds)} of them; at most {MOST_SEEDS}")
    if not SIZES[0] <= suite.image_size <= SIZES[1]:
        problems.append(f"image_size: {suite.image_size} px; {SIZES[0]} to {SIZES[1]}")
    if suite.finetune.objective != "supervised":
        problems.append(f"finetune.objective: {suite.finetune.objective}; fine-tuning is supervised")
    for key, recipe in (("pretrain", suite.pretrain), ("finetune", suite.finetune)):
        problems += [f"{key}.{words}" for words in recipe.problems()]
    if not suite.finetune.evaluate_epochs:
        problems.append("finetune.evaluate_epochs: empty; name the epochs whose predictions are stored")
    problems += [f"pretrain_for.{words}" for words in _problems_by_architecture(suite)]
    names = Counter(arm.name for arm in suite.arms)
    problems += [f"arms: {count} arms are named {name!r}" for name, count in names.items() if count > 1]
    problems += [f"arms: {arm.name}: {words}" for arm in suite.arms for words in _arm_problems(suite, arm)]
    if suite.baseline not in names:
        problems.append(f"baseline: no arm is named {suite.baseline!r}; there are {', '.join(names)}")
    elif not _pairs(suite):
        problems.append(f"baseline: {suite.baseline} has no architecture in common with another arm")
    if suite.reference is not None and (suite.reference not in names or suite.reference == suite.baseline):
        problems.append(
            f"reference: {suite.reference!r} is not an arm other than the baseline; there are {', '.join(names)}"
        )
    return problems + [f"cost.{words}" for words in (_cost_problems(suite, suite.cost) if suite.cost else ())]


def _listed(values: Sequence[object]) -> str:
    """A list of values for a message, cut short if there are many."""
    return str([*values[:5], "..."] if len(values) > 5 else list(values))


def _unfit(architectures: tuple[str, ...], image_size: int) -> list[str]:
    return [words for name in architectures if (words := problem(name, image_size))]


def _pairs(suite: Suite) -> bool:
    """Whether the baseline has runs to pair with, if there is anything to compare."""
    trained = {arm.name: set(suite.architectures_of(arm)) for arm in suite.arms}
    others = [names for arm, names in trained.items() if arm != suite.baseline]
    return not others or any(names & trained[suite.baseline] for names in others)


def _arm_problems(suite: Suite, arm: ArmSpec) -> list[str]:
    architectures = suite.architectures_of(arm)
    problems = [f"architectures: {words}" for words in _unfit(arm.architectures, suite.image_size)]
    one_file = arm.checkpoint is not None and not arm.checkpoint.startswith("torchvision:")
    if one_file and ARCHITECTURE not in str(arm.checkpoint) and len(architectures) > 1:
        problems.append(f"checkpoint: {arm.checkpoint} for {len(architectures)} architectures; name only its own")
    if arm.pretraining is None:
        return problems + arm.problems()
    try:
        recipes = [
            suite.recipe(arm),
            *(suite.recipe(arm, name) for name in architectures if name in suite.pretrain_for),
        ]
    except EvaluateError as error:
        return [*problems, f"pretrain.{error}"]
    changed = recipes if arm.pretraining.pretrain else []
    wrong = dict.fromkeys(words for recipe in changed for words in recipe.problems())
    return problems + arm.problems(recipes[0].objective) + [f"pretrain.{words}" for words in wrong]


def _problems_by_architecture(suite: Suite) -> Iterator[str]:
    known = {name for arm in suite.arms for name in suite.architectures_of(arm)}
    for name, changes in suite.pretrain_for.items():
        if name not in known:
            yield f"{name}: no arm has this architecture; there are {', '.join(sorted(known))}"
        if "objective" in changes:
            yield f"{name}.objective: is the same for all architectures of an arm"
        try:
            yield from (f"{name}.{words}" for words in suite.pretrain.changed(changes).problems())
        except EvaluateError as error:
            yield f"{name}.{error}"


def _cost_problems(suite: Suite, cost: Cost) -> list[str]:
    trained = {name for arm in suite.arms for name in suite.architectures_of(arm)}
    unknown = [f"images_per_second.{name}: no arm has it" for name in cost.images_per_second if name not in trained]
    arms = {arm.name for arm in suite.arms}
    unknown += [f"pretrain_images.{name}: no such arm" for name in cost.pretrain_images if name not in arms]
    return unknown + cost.problems()
