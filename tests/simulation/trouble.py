"""Which faults a seed has, how many and when. Each seed has only some kinds of them, so that none hides another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from durably.store.engine import Channel
from durably.store.operation import Statement
from durably.testing import Fate, Loss, World

LEASE = 1.5
POLL = 0.4
MAX_CRASHES = 3
DURATION = 5.0
"""Seconds of virtual time during which things go wrong; afterwards everything works."""

_SPARED = 0.8
"""Of the statements in transactions of clients' own."""
_KINDS = ("work", "plain", "pair", "group", "rest", "child", "flaky", "swallow")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What may happen in the simulation of one seed. Numbers from 0 to 1 are probabilities of one transaction."""

    workers: int
    slots: int
    is_parallel: bool
    latency: float
    lost_before: float
    lost_after: float
    locked: float
    crash_before: float
    crash_after: float
    lost_wakes: float
    skew: float
    crashes: int
    freezes: int
    outages: int
    slow: int
    stops: int
    calls: int
    kinds: tuple[str, ...]
    has_threads: bool
    """Whether there are `def` jobs too."""
    has_visits: bool
    """Whether clients have transactions of their own."""
    has_chores: bool
    """Whether what workers do once a minute is done every second."""
    jumps: int
    """How often the clock of the database is set."""
    retain_runs: float
    retain_events: float
    """Seconds; 0 keeps them."""

    @property
    def is_lossy(self) -> bool:
        """Whether single transactions fail, so that what they do may come later."""
        return self.lost_before + self.lost_after + self.locked > 0


def random_profile(seed: int | str) -> Profile:
    """The profile of a seed."""
    chance = Random(f"profile {seed}")

    def some(value: float, share: float = 0.35) -> float:
        return round(chance.uniform(0.2, 1.0) * value, 4) if chance.random() < share else 0.0

    def times(most: int, share: float = 0.35) -> int:
        return chance.randint(1, most) if chance.random() < share else 0

    extra = [kind for kind in ("block", "poison", "fatal") if chance.random() < 0.3]
    lost_after = some(0.2)
    has_chores = chance.random() < 0.3
    # who repeats a trigger in doubt finds its events, unless they are kept for less than seconds
    retain_events = chance.choice((1.0, 3.0)) if has_chores and not lost_after and chance.random() < 0.5 else 0.0
    return Profile(
        workers=chance.choice((1, 2, 2, 2, 3)),
        slots=chance.choice((1, 2, 4, 8)),
        is_parallel=chance.random() < 0.5,
        latency=chance.choice((0.0, 0.002, 0.02)),
        lost_before=some(0.2),
        lost_after=lost_after,
        locked=some(0.2),
        crash_before=some(0.02),
        crash_after=some(0.03),
        lost_wakes=chance.choice((0.0, 0.3, 1.0)),
        skew=chance.choice((0.0, 40.0, 4000.0)),
        crashes=times(4, 0.5),
        freezes=times(3),
        outages=times(3, 0.5),
        slow=times(2, 0.25),
        stops=times(3, 0.4),
        calls=chance.randint(6, 12),
        kinds=(*chance.sample(_KINDS, 4), *extra),
        has_threads=chance.random() < 0.3,
        has_visits=chance.random() < 0.5,
        has_chores=has_chores,
        jumps=times(3, 0.25),
        retain_runs=chance.choice((0.2, 2.0)) if has_chores and chance.random() < 0.6 else 0.0,
        retain_events=retain_events,
    )


@dataclass(frozen=True)
class Interval:
    """A time during which a process (`*`: every one) could not do what it should."""

    kind: str
    process: str
    begin: float
    end: float


class Trouble:
    """The faults of a seed. `intervals` says what excuses whom, for the checker."""

    def __init__(self, world: World, profile: Profile, seed: int | str) -> None:
        self.world = world
        self.profile = profile
        self.chance = Random(f"trouble {seed}")
        self.is_over = False
        self.intervals: list[Interval] = []
        self.clock: list[tuple[float, float]] = [(0.0, 0.0)]
        """From which moment on the database's clock was how far ahead, in seconds."""
        self.counts: dict[str, int] = {}

    def add(self, kind: str, process: str, seconds: float) -> None:
        """Note that something lasts from now on for so long."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.intervals.append(Interval(kind, process, self.world.now, self.world.now + seconds))
        self.world.note(f"{process:10} {kind} for {seconds:.3f} s")

    def set_clock(self, skew: float) -> None:
        """Note that the database's clock is so far ahead from now on."""
        before = self.clock[-1][1]
        self.clock.append((self.world.now, skew))
        kind = "clock" if skew > before else "clock back"
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.intervals.append(Interval(kind, "*", self.world.now, self.world.now))
        self.world.note(f"{'database':10} {kind}: {skew - before:+.3f} s")

    def transaction(self, process: str, statements: Sequence[Statement], channel: Channel) -> Fate:  # noqa: ARG002  # all are equal here
        """See `Faults`. A transaction of a client's own has many statements, so that few of it may be lost."""
        profile, chance = self.profile, self.chance
        there, back = (chance.random() * profile.latency for _ in range(2))
        if self.is_over:
            return Fate(there / 2, back / 2)
        if (outage := self._now("outage", process)) is not None:
            # every second one is refused at once, the others hang
            wait = there if chance.random() < 0.5 else outage.end - self.world.now
            return self._count(Fate(wait, 0.0, Loss.BEFORE))
        if self._now("slow", process) is not None:
            there, back = chance.uniform(0.05, 0.7), chance.uniform(0.0, 0.3)
        if statements[0].name == "user_statement" and chance.random() < _SPARED:
            return Fate(there, back)
        return self._count(Fate(there, back, self._loss()))

    def wake(self, process: str) -> float | None:  # noqa: ARG002  # all are equal here
        """See `Faults`."""
        if self.chance.random() < self.profile.lost_wakes and not self.is_over:
            return None
        return 0.001 + self.chance.random() * 0.01

    def _loss(self) -> Loss:
        profile, number = self.profile, self.chance.random()
        kinds = (
            (profile.lost_before, Loss.BEFORE),
            (profile.lost_after, Loss.AFTER),
            (profile.locked, Loss.LOCKED),
            (profile.crash_before, Loss.CRASH_BEFORE),
            (profile.crash_after, Loss.CRASH_AFTER),
        )
        for share, loss in kinds:
            if number < share:
                return loss
            number -= share
        return Loss.NONE

    def _count(self, fate: Fate) -> Fate:
        if fate.loss is not Loss.NONE:
            self.counts[fate.loss.value] = self.counts.get(fate.loss.value, 0) + 1
        return fate

    def _now(self, kind: str, process: str) -> Interval | None:
        now = self.world.now
        for one in self.intervals:
            if one.kind == kind and one.process in {"*", process.partition(".")[0]} and one.begin <= now < one.end:
                return one
        return None
