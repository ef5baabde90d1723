"""All that is known of one scenario when it is over: values for the checker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from chaos.audit import Change
from chaos.witness import Deed


@dataclass(slots=True)
class Fault:
    """What was done to the system, from when to when (seconds since 1970)."""

    what: str
    at: float
    over: float
    pid: int | None = None
    """The worker that it was done to; None: to all."""
    is_measured: bool = True
    """Whether somebody was there to go on."""
    recovery: float | None = None
    """Seconds until whoever lived worked again; of a killed worker, until somebody else had all its runs."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A run as its row says at the end."""

    id: str
    job: str
    status: str
    generation: int
    steps: int


@dataclass(slots=True)
class Record:
    """What happened."""

    changes: Sequence[Change] = ()
    deeds: Sequence[Deed] = ()
    runs: dict[str, Ended] = field(default_factory=dict[str, Ended])
    events: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    """Of each run how many events of each type are stored."""
    stored_events: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """Run and number of each stored event, in the order of their ids."""
    heard: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """The same of each event that a subscriber was given, across all faults."""
    acknowledged: dict[str, str] = field(default_factory=dict[str, str])
    """Idempotency key to run, of each trigger that returned."""
    keys: dict[str, str | None] = field(default_factory=dict[str, str | None])
    """Of each run whose trigger returned the concurrency key that was asked for."""
    resumed: set[str] = field(default_factory=set[str])
    """Runs that somebody has asked to resume, and `to_cancel` to cancel, whatever came of it."""
    to_cancel: set[str] = field(default_factory=set[str])
    cancelled: dict[str, float] = field(default_factory=dict[str, float])
    """When the cancel of a run returned."""
    faults: list[Fault] = field(default_factory=list[Fault])
    limits: dict[str, int] = field(default_factory=dict[str, int])
    """Of concurrency keys whose limit is not 1."""
    lease: float = 3.0
    slack: float = 2.0
    """Seconds beyond a lease within which all must go on."""
    may_lose_leases: bool = False
    """Whether a lease may run out without a fault: on a machine that has no time for its keeper."""
    troubles: list[str] = field(default_factory=list[str])
    """What the scenario itself, or a query, found wrong."""

    def recoveries(self) -> list[float]:
        """How long each fault was felt, in seconds."""
        return [fault.recovery for fault in self.faults if fault.recovery is not None]


def generations_of(deeds: Sequence[Deed]) -> dict[tuple[str, int], set[int]]:
    """The processes that executed each generation of a run: one, if all is well."""
    found: dict[tuple[str, int], set[int]] = {}
    for deed in deeds:
        found.setdefault((deed.run, deed.generation), set()).add(deed.pid)
    return found


def gaps(numbers: Sequence[int]) -> bool:
    """Whether these are not 1, 2, 3, ..."""
    return bool(numbers) and (numbers[0] != 1 or any(after != before + 1 for before, after in pairwise(numbers)))
