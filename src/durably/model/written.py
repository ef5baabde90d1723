"""What is written and claimed: leases, the writes of their holders, requests and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from durably.model.lean import lean
from durably.model.seen import (
    Disposition,
    Event,
    EventType,
    LogLevel,
    Progress,
    RunError,
    RunStatus,
    StepRecord,
    StoredRun,
)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write for a run. Every write by its holder carries it; a newer generation voids it."""

    run_id: str
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """What a log line says, before the store gives it a place."""

    level: LogLevel
    message: str
    data_json: str | None = None


@lean
class DraftEvent:
    """An event of a leased run that is not stored yet. A `log:write` carries its line in `log`."""

    type: EventType
    at: datetime
    step: str | None = None
    position: int | None = None
    payload_json: str | None = None
    log: LogEntry | None = None


@lean
class Ending:
    """How an execution ends: a terminal status, or `pending` when the run is handed back."""

    status: RunStatus
    output_json: str | None = None
    error: RunError | None = None
    keep_steps: bool = True


@lean
class RunWrite:
    """Everything one write of a lease holder changes, at once: steps, logs, progress, events, and the end.

    `number` counts up from 1 within one lease, so that a write in doubt can be repeated: a number is used for one
    content only. Gaps are harmless.
    """

    lease: Lease
    number: int
    concurrency_key: str | None = None
    """The run's key: its row is locked when the write ends the run."""
    steps: tuple[StepRecord, ...] = ()
    events: tuple[DraftEvent, ...] = ()
    progress: Progress | None = None
    ending: Ending | None = None


class Verdict(StrEnum):
    """What became of a lease holder's write."""

    STORED = "stored"
    """It is committed; a repeated write that was already there counts as stored."""
    REFUSED = "refused"
    """The lease is not valid any more: nothing was written."""


class LeaseState(StrEnum):
    """What a renewal, or a look, learned about one lease."""

    RENEWED = "renewed"
    BUSY = "busy"
    """It was not renewed, for somebody has the row locked; or, in a look, it ran out and nobody took it. Renew soon."""
    CANCELLED = "cancelled"
    LOST = "lost"
    """Another generation, another status, or no row."""


@lean
class Enqueued:
    """What a trigger did, and the run it concerns. A `conflict` names the run that stood in the way."""

    run: StoredRun
    disposition: Disposition | None
    """None on a conflict: the idempotency key has another input, or `if_pending="reject"` met a waiting run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A request to cancel, resume or delete one run. `token` identifies the request, so that it can be repeated."""

    run_id: str
    concurrency_key: str | None
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What became of a `Change`. Not `done`: `run` is the row that forbids it, or None when there is no such run."""

    done: bool
    run: StoredRun | None
    """After a cancel or a resume the changed row; after a delete the row that was there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What there is to do for a worker, as one look found it."""

    claimable: bool
    expired: bool
    """The lease of a run ran out, and another worker may continue it."""
    crashed: bool
    """The lease of a run ran out too often."""
    due: bool
    """The start time of a run has come."""
    next_due: timedelta | None
    """How long until that of the next one comes; None when none waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What became of runs whose start time has come."""

    released: int
    """Runs that became claimable."""
    keys: tuple[str, ...]
    """Concurrency keys with due runs that still have to be admitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedPage:
    """Events in id order, and how far the transactions that could still fill gaps have ended (0 on SQLite)."""

    events: tuple[Event, ...]
    xmin: int
    """Every transaction before this one had ended when the events were read."""
    is_full: bool = False
    """Whether there may be more behind it."""
