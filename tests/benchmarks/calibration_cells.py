"""The simulated studies that ``calibrate.py`` runs, by cell, with their seeds, which were set before a cell was run.

The cells with seeds 32 to 35 were added when the others had been seen, to look into lines that cannot be used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from predicted import Study

from synthgen_evaluate.judgement import DEFAULT, Judgement

TEN = 0.4  # logit: ten points of ID macro-F1
THESE = Judgement(clusters="these")
OTHERS = Judgement(architectures="new")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Studies of one kind, and what is asked of them."""

    name: str
    seed: int  # of its first random number; that of a study adds the study's number
    study: Study
    judgement: Judgement = DEFAULT
    alike: bool = True  # whether nothing differs, so that "higher" and "lower" are false
    covers: bool = True  # whether the interval is about the truth that the simulation knows
    asked: float | None = None  # a pilot: how many runs show a difference of so many points?

    @property
    def blocks(self) -> int:
        """Pairs of runs."""
        return self.study.architectures * self.study.seeds


MAIN = Study()
SHARED = replace(MAIN, shared=3)
EIGHT, SIX = replace(MAIN, architectures=4, seeds=2), replace(MAIN, architectures=2)
ONE = replace(MAIN, architectures=1, seeds=15)
RARE = replace(MAIN, rare=120)
CELLS = (
    Cell(name="15 blocks", seed=1, study=MAIN),
    Cell(name="arm x camera 0.2", seed=2, study=replace(MAIN, arm_camera=0.2)),
    Cell(name="arm x camera 0.4", seed=3, study=replace(MAIN, arm_camera=0.4)),
    Cell(name="+10", seed=4, study=replace(MAIN, gain=TEN)),
    Cell(name="+10, arm x camera 0.2", seed=5, study=replace(MAIN, gain=TEN, arm_camera=0.2)),
    Cell(name="+10, arm x camera 0.4", seed=6, study=replace(MAIN, gain=TEN, arm_camera=0.4)),
    Cell(name="within 0.65", seed=7, study=replace(MAIN, within=0.65)),
    Cell(name="+10, within 0.65", seed=8, study=replace(MAIN, gain=TEN, within=0.65)),
    Cell(name="+10, within 0.75", seed=9, study=replace(MAIN, gain=TEN, within=0.75)),
    Cell(name="+10, within 1.05", seed=10, study=replace(MAIN, gain=TEN, within=1.05)),
    Cell(name="3 fine-tunings share pre-training", seed=11, study=SHARED),
    Cell(name="the same, +10", seed=12, study=replace(SHARED, gain=TEN)),
    Cell(name="the same, arm x camera 0.2", seed=13, study=replace(SHARED, arm_camera=0.2)),
    Cell(name="4 points fade to 0.1", seed=14, study=replace(MAIN, epochs=4, effect=0.1, first=4.0)),
    Cell(name="arm x architecture 0.03, these", seed=15, study=replace(MAIN, arm_architecture=0.03), alike=False),
    Cell(name="arm x architecture 0.06, these", seed=16, study=replace(MAIN, arm_architecture=0.06), alike=False),
    Cell(
        name="arm x architecture 0.03, new",
        seed=17,
        study=replace(MAIN, arm_architecture=0.03),
        judgement=OTHERS,
    ),
    Cell(
        name="arm x architecture 0.06, new",
        seed=18,
        study=replace(MAIN, arm_architecture=0.06),
        judgement=OTHERS,
    ),
    Cell(name="8 blocks", seed=19, study=EIGHT),
    Cell(name="8 blocks, +10", seed=20, study=replace(EIGHT, gain=TEN)),
    Cell(name="8 blocks, arm x camera 0.2", seed=21, study=replace(EIGHT, arm_camera=0.2)),
    Cell(name="6 blocks", seed=22, study=SIX),
    Cell(name="6 blocks, +10", seed=23, study=replace(SIX, gain=TEN)),
    Cell(name="6 blocks, arm x camera 0.2", seed=24, study=replace(SIX, arm_camera=0.2)),
    Cell(name="one epoch", seed=25, study=replace(MAIN, epochs=1)),
    Cell(name="one epoch, +10", seed=26, study=replace(MAIN, epochs=1, gain=TEN)),
    Cell(name="120 rare classes", seed=27, study=RARE),
    Cell(name="120 rare classes, +10", seed=28, study=replace(RARE, gain=TEN)),
    Cell(name="120 rare classes, arm x camera 0.2", seed=29, study=replace(RARE, arm_camera=0.2)),
    Cell(name="these cameras", seed=30, study=MAIN, judgement=THESE),
    Cell(
        name="effect 2, +10, arm x camera 0.2",
        seed=31,
        alike=False,
        study=replace(MAIN, gain=TEN, effect=2.0, arm_camera=0.2),
    ),
    Cell(name="6 blocks, +10, within 0.65", seed=32, study=replace(SIX, gain=TEN, within=0.65)),
    Cell(name="6 blocks, +10, within 1.05", seed=33, study=replace(SIX, gain=TEN, within=1.05)),
    Cell(name="one architecture", seed=34, study=ONE),
    Cell(name="one architecture, +10, within 0.65", seed=35, study=replace(ONE, gain=TEN, within=0.65)),
)

AVERAGED = Judgement(epoch="mean", line="within", clusters="these")  # what the method before was about
POINTS = (1.0, 2.0, 3.0)
POWER = tuple(
    Cell(
        name=f"{effect:g} points, {judgement.clusters} cameras",
        seed=40 + 2 * k + n,
        study=replace(MAIN, epochs=6, effect=effect),
        judgement=judgement,
        alike=False,
        covers=judgement.clusters == "new",
    )
    for k, effect in enumerate(POINTS)
    for n, judgement in enumerate((THESE, DEFAULT))
)
AS_BEFORE = tuple(
    Cell(
        name=f"{effect:g} points, epochs averaged",
        seed=60 + k,
        study=replace(MAIN, epochs=6, effect=effect),
        judgement=AVERAGED,
        alike=not effect,
        covers=False,
    )
    for k, effect in enumerate((0.0, *POINTS))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Pilots of one size, and larger studies of their kind, which say how often such a study finds the effect."""

    name: str
    pilot: Cell
    larger: tuple[Cell, ...]


def _design(
    name: str,
    seed: int,
    study: Study,
    *,
    pilots: int,
    sizes: tuple[int, ...] = (),
    like: Design | None = None,
    effect: float = 2.0,
    asked: float = 1.8,
) -> Design:
    """Pilots with ``pilots`` pre-training runs of each architecture; larger studies of ``sizes``, or another design's.

    A true ``effect`` is measured as ``asked``, on average, on so few images of rare classes.
    """
    whole = replace(study, epochs=1, effect=effect)

    def of(runs: int) -> Study:
        return replace(whole, seeds=runs * study.shared)

    pilot = Cell(name=f"pilot, {name}", seed=seed, study=of(pilots), alike=False, asked=asked)
    larger = tuple(
        Cell(name=f"{runs} runs an architecture, {name}", seed=seed + runs, study=of(runs), alike=False)
        for runs in sizes
    )
    return Design(name=name, pilot=pilot, larger=like.larger if like else larger)


THREE = Study(architectures=3)
OF_THREE = _design("3 blocks", 100, THREE, pilots=1, sizes=(4, 6, 9, 14))
DESIGNS = (
    OF_THREE,
    _design("6 blocks", 200, THREE, pilots=2, like=OF_THREE),
    _design("15 blocks", 300, MAIN, pilots=3, sizes=(3, 4, 6, 9)),
    _design("15 blocks, 5 pre-training runs", 400, SHARED, pilots=1, sizes=(1, 2, 3, 4)),
    _design(
        "15 blocks, arm x camera 0.2",
        500,
        replace(MAIN, arm_camera=0.2),
        pilots=3,
        sizes=(9, 20),
        effect=3.0,
        asked=2.6,
    ),
)
EVERY = tuple(
    dict.fromkeys(
        (*CELLS, *POWER, *AS_BEFORE, *(cell for design in DESIGNS for cell in (design.pilot, *design.larger)))
    )
)
