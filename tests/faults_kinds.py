"""The faults: each starts the command, waits for a moment, does its harm, and hears how the command ended."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from faults_process import LOOK, UNBEGUN, Command, End
from faults_scenes import Device, Scene, StoreScene
from faults_store import HOW

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
STOPPED = {130, -signal.SIGTERM, -signal.SIGINT, -signal.SIGKILL}  # the first two before and after it can tell
SETS, ALL = ("folder", "tiny", "store"), ("folder", "tiny", "store", "training")


@dataclass(slots=True, kw_only=True)
class Injury:
    """What was done and what came of it."""

    hit: bool = False  # whether the command was at work when it happened
    what: str = ""
    ends: list[End] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)  # files that were corrupted


@dataclass(slots=True, kw_only=True)
class Stage:
    """Where a fault happens."""

    scene: Scene
    rng: random.Random
    logs: Path
    startup: float  # seconds until an undisturbed command has a first part
    device: Device | None = None  # where the output lies on one of its own
    wanted: dict[str, str] = field(default_factory=dict)  # digests of an undisturbed output
    n: int = 0

    def start(self, workers: int | None = None, **environment: str) -> Command:
        """Start the command."""
        some = workers or self.rng.choice((1, 2) if self.scene.program == "synthgen" else (1, 1, 2))
        return self.call(*self.scene.command(some), **environment)

    def call(self, *arguments: str, **environment: str) -> Command:
        """Start any command."""
        self.n += 1
        return Command(arguments, {**self.scene.environment, **environment}, self.logs / f"{self.n}.err")

    def judged(self, injury: Injury, run: Command, codes: set[int], *, early: bool = False) -> End:
        """The end of a command, which is looked over; ``early``: Ctrl-C may have come before it began."""
        end = run.end()
        if early and end.unbegun:
            end, codes = replace(end, lines=(f"{self.scene.program}: {UNBEGUN}",)), {*codes, 1}
        injury.ends.append(end)
        injury.wrong += end.wrong(codes, self.scene.program, most=self.lines)
        return end

    @property
    def lines(self) -> int:
        """The most lines that are due: the workers of a suite are commands and speak for themselves."""
        return 1 if self.scene.program == "synthgen" else 3

    def moment(self, run: Command, *, late: bool = False) -> str:
        """Wait for a moment, in words; empty where the command ended before: any time of its life, or not the start."""
        begun, total = self.scene.parts(), self.scene.total
        draw = self.rng.random()
        if draw < 0.25 and not late:
            seconds = self.rng.uniform(0, self.startup)
            self._until(run, lambda: time.monotonic() - run.started >= seconds)
            return f"{seconds:.2f} s after the start" if run.runs else ""
        k = min(total, begun + 1 + int(self.rng.random() * (total - begun))) if draw < 0.85 else total
        pause = self.rng.uniform(0, 0.06)
        self._until(run, lambda: self.scene.parts() >= k)
        time.sleep(pause)
        return f"at {k} of {total}" if run.runs else ""

    def _until(self, run: Command, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 90
        while run.runs and not condition() and time.monotonic() < until:
            time.sleep(LOOK)


def worker_killed(stage: Stage) -> Injury:
    """kill -9 of a worker, once or twice."""
    injury, run = Injury(), stage.start(2)
    for _ in range(stage.rng.choice((1, 1, 2))):
        moment = stage.moment(run, late=True)
        if moment and (workers := run.workers()):
            with suppress(ProcessLookupError):
                os.kill(stage.rng.choice(workers), signal.SIGKILL)
                injury.hit, injury.what = True, moment
    stage.judged(injury, run, {0})
    return injury


def driver_killed(stage: Stage) -> Injury:
    """kill -9 of the driver alone."""
    return _signalled(stage, signal.SIGKILL, all_=False, codes={-signal.SIGKILL})


def all_killed(stage: Stage) -> Injury:
    """kill -9 of the driver and all workers."""
    return _signalled(stage, signal.SIGKILL, all_=True, codes={-signal.SIGKILL})


def interrupted(stage: Stage) -> Injury:
    """Ctrl-C, which a terminal sends to all processes."""
    return _signalled(stage, signal.SIGINT, all_=True, codes=STOPPED - {-signal.SIGKILL})


def preempted(stage: Stage) -> Injury:
    """SIGTERM to the driver or to all, and SIGKILL to all after a grace period."""
    return _signalled(stage, signal.SIGTERM, all_=stage.rng.random() < 0.5, codes=STOPPED, grace=(0.1, 4.0))


def _signalled(
    stage: Stage, number: int, *, all_: bool, codes: set[int], grace: tuple[float, float] | None = None
) -> Injury:
    injury, run = Injury(), stage.start()
    injury.what = stage.moment(run)
    injury.hit = run.runs
    run.signal(number, all_=all_)
    if grace:
        with suppress(Exception):
            run.process.wait(stage.rng.uniform(*grace))
        run.signal(signal.SIGKILL, all_=True)
    stage.judged(injury, run, codes if injury.hit else {0, *codes}, early=number == signal.SIGINT)
    return injury


def slow_workers(stage: Stage) -> Injury:
    """SIGSTOP of workers, or of the driver, and SIGCONT after a while."""
    injury, run = Injury(), stage.start(2)
    injury.what = stage.moment(run, late=True)
    pids = run.workers() or [run.process.pid]
    chosen = stage.rng.sample([*pids, run.process.pid], stage.rng.randint(1, len(pids)))
    injury.hit = run.runs
    if run.runs:
        for number, pause in ((signal.SIGSTOP, stage.rng.uniform(0.3, 3)), (signal.SIGCONT, 0)):
            for pid in chosen:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(pause)
    stage.judged(injury, run, {0})
    return injury


def two_drivers(stage: Stage) -> Injury:
    """Two drivers at once, of which one may be killed."""
    injury, one = Injury(), stage.start()
    time.sleep(stage.rng.uniform(0, stage.startup))
    two = stage.start()
    victim, other = stage.rng.sample((one, two), 2)
    injury.what = stage.moment(victim)
    killed = stage.rng.random() < 0.7
    injury.hit = one.runs and two.runs
    if killed:
        victim.signal(signal.SIGKILL, all_=True)
        injury.what += ", one killed"
    stage.judged(injury, victim, {0, -signal.SIGKILL} if killed else {0})
    stage.judged(injury, other, {0})
    return injury


def disk_full(stage: Stage) -> Injury:
    """The disk becomes full."""
    assert stage.device is not None
    spare = stage.rng.choice((0, stage.rng.randrange(200_000)))
    return _while(stage, lambda device: device.fill(spare), Device.empty)


def read_only(stage: Stage) -> Injury:
    """The output becomes read-only."""
    return _while(stage, Device.lock, Device.unlock)


def _while(stage: Stage, begin: Callable[[Device], None], end: Callable[[Device], None]) -> Injury:
    """Something that makes the command fail until it is over, and perhaps once more meanwhile."""
    assert stage.device is not None
    injury, run = Injury(), stage.start()
    injury.what = stage.moment(run)
    begin(stage.device)
    injury.hit = run.runs
    try:
        stage.judged(injury, run, {0, 1, 2})
        if stage.rng.random() < 0.3:
            stage.judged(injury, stage.start(), {0, 1, 2})
    finally:
        end(stage.device)
    return injury


def store_fails(stage: Stage) -> Injury:
    """The store answers 503, cuts connections, is slow, or all of these, for a while."""
    assert isinstance(stage.scene, StoreScene)
    injury, trouble, rng = Injury(), stage.scene.trouble, stage.rng
    trouble.share, trouble.n = rng.choice((0.05, 0.05, 0.3, 1.0)), 0
    how = rng.choice(list(HOW))
    whole = trouble.share < 1 and rng.random() < 0.5  # the command's life
    if whole:
        trouble.how = how
    run = stage.start()
    if not whole:
        injury.what = stage.moment(run)
        trouble.how = how
        with suppress(Exception):
            run.process.wait(rng.uniform(0.5, 5))
        trouble.how = ""
    stage.judged(injury, run, {0, 1, 2})
    trouble.how, injury.hit = "", trouble.n > 0
    injury.what = f"{how}, {trouble.share:.0%} of requests, {injury.what or 'all the time'}: {trouble.n} requests"
    return injury


def clock_jumps(stage: Stage) -> Injury:
    """The clock of the day jumps by hours, several times."""
    injury, file = Injury(), stage.logs / "clock"
    file.write_text("+0\n")
    settings = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1"}
    # Beside a true monotonic clock libfaketime fails time.sleep with EINVAL, as no kernel does; a fleet sleeps.
    workers = 1 if stage.scene.program == "evaluate" else None
    run = stage.start(workers, **settings, FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1")
    for _ in range(stage.rng.randint(1, 4)):
        if moment := stage.moment(run):
            part = file.with_suffix(".new")
            part.write_text(f"{stage.rng.uniform(-72, 72) * 3600:+.0f}\n")
            part.replace(file)
            injury.hit, injury.what = True, moment
    stage.judged(injury, run, {0})
    return injury


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A fault, and where it can happen."""

    name: str
    inject: Callable[[Stage], Injury]
    where: tuple[str, ...]
    needs: str = ""  # "device" or "faketime"


def kinds() -> Iterator[Kind]:
    """All of them."""
    from faults_damage import corrupt_bytes, damaged_run

    yield Kind(name="a worker killed (SIGKILL)", inject=worker_killed, where=ALL)
    yield Kind(name="the driver killed (SIGKILL)", inject=driver_killed, where=ALL)
    yield Kind(name="driver and workers killed (SIGKILL)", inject=all_killed, where=ALL)
    yield Kind(name="pre-emption: SIGTERM, SIGKILL after 0.1 to 4 s", inject=preempted, where=ALL)
    yield Kind(name="Ctrl-C", inject=interrupted, where=ALL)
    yield Kind(name="disk full, then room again", inject=disk_full, where=("folder", "training"), needs="device")
    yield Kind(name="output read-only, then writable", inject=read_only, where=("folder", "training"), needs="device")
    yield Kind(name="store: 503, cut connections, slow", inject=store_fails, where=("store",))
    yield Kind(name="workers or driver stopped for 0.3 to 3 s", inject=slow_workers, where=ALL)
    yield Kind(name="clock jumps by hours", inject=clock_jumps, where=ALL, needs="faketime")
    yield Kind(name="two drivers on one output, one killed or none", inject=two_drivers, where=ALL)
    yield Kind(name="committed files damaged or deleted", inject=corrupt_bytes, where=SETS)
    yield Kind(name="checkpoint, cache damaged; half-written files", inject=damaged_run, where=("training",))
