"""What the documents of every set say, whatever its kind: the commands that make it, its uses, citations."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from synthgen.common.printing import printable
from synthgen.dataset.plan import Plan
from synthgen.kinds.base import Facts

WIDTH = 84  # characters per line of a command

PAPER = """@inproceedings{ramanujan2023connection,
  title = {On the Connection between Pre-training Data Diversity and Fine-tuning Robustness},
  author = {Ramanujan, Vivek and Nguyen, Thao and Oh, Sewoong and Schmidt, Ludwig and Farhadi, Ali},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023},
  note = {arXiv:2307.12532}
}"""
SYNTHGEN = """@software{synthgen,
  title = {synthgen: synthetic image sets for pre-training},
  note = {Images and documents made with it}
}"""

USES = (
    "Pre-training image classifiers, and experiments on what such pre-training is worth.",
    "Not for judging a model: a score on synthetic images says nothing about natural ones.",
)


def title(facts: Facts, n: int) -> str:
    """The name of a set of ``n`` images, in words."""
    return f"{n:,} {facts.title}"


def citations(facts: Facts) -> tuple[str, ...]:
    """BibTeX entries: of the paper, of the images' origins, and of the program."""
    return PAPER, *facts.citations, SYNTHGEN


def commands(plan: Plan, facts: Facts) -> list[str]:
    """The commands that make the set: one, and one for each time that it grew.  DIR stands for the directory."""
    return [
        _wrapped([*facts.command, ("--shard-size", str(segment.shard_size)), ("--n", str(segment.stop))])
        for segment in plan.segments
    ]


def _wrapped(arguments: Sequence[tuple[str, ...]]) -> str:
    lines = [shlex.join(arguments[0])]
    for pair in (printable(shlex.join(words)) for words in arguments[1:]):
        if len(lines[-1]) + 1 + len(pair) > WIDTH:
            lines.append(f"    {pair}")
        else:
            lines[-1] += f" {pair}"
    return " \\\n".join(lines)
