"""Rows of the model, what holds of them at all times, and how a transaction is run."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypeVar

from durably.model import (
    EventType,
    Hold,
    Labels,
    Lease,
    LogLine,
    Progress,
    RunError,
    RunStatus,
    RunWrite,
    StepRecord,
    StoredRun,
)

T = TypeVar("T")

Transaction: TypeAlias = Generator[Iterable[str], None, T]
NO_KEYS: tuple[str, ...] = ()
LIVING = (RunStatus.PENDING, RunStatus.LEASED)


@dataclass(slots=True, kw_only=True)
class Row:
    """A run: what `StoredRun` shows, and what it does not."""

    id: str
    job: str
    input_json: str
    priority: int
    idempotency_key: str | None
    concurrency_key: str | None
    labels: Labels
    available_at: datetime | None
    created_at: datetime
    hold: Hold | None
    rank: int
    digest: str | None
    status: RunStatus = RunStatus.PENDING
    generation: int = 0
    attempt: int = 0
    crashes: int = 0
    output_json: str | None = None
    error: RunError | None = None
    progress: Progress | None = None
    next_step: int = 0
    completed_steps: int = 0
    lease_owner: str | None = None
    lease_expires_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    slot: bool = False
    writes: int = 0
    seq: int = 0
    token: str | None = None
    request: str | None = None
    replaced_by: str | None = None
    steps: dict[str, StepRecord] = field(default_factory=dict[str, StepRecord])
    logs: list[LogLine] = field(default_factory=list[LogLine])

    @property
    def stored(self) -> StoredRun:
        return StoredRun(**{one.name: getattr(self, one.name) for one in fields(StoredRun)})

    @property
    def is_claimable(self) -> bool:
        return self.status is RunStatus.PENDING and self.hold is None

    def copy(self) -> Row:
        return replace(self, steps=dict(self.steps), logs=list(self.logs))

    def holds(self, lease: Lease) -> bool:
        return self.status is RunStatus.LEASED and self.generation == lease.generation

    def has_expired(self, now: datetime) -> bool:
        return self.status is RunStatus.LEASED and self.lease_expires_at is not None and self.lease_expires_at <= now


@dataclass(slots=True)
class Key:
    limit: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An event, its payload as far as it is its own."""

    run_id: str
    seq: int
    type: EventType
    job: str
    labels: Labels
    step: str | None
    position: int | None
    payload: Any
    created_at: datetime


class Tables:
    def __init__(self, now: datetime) -> None:
        self.now = now
        self.runs: dict[str, Row] = {}
        self.keys: dict[str, Key] = {}
        self.events: list[tuple[int, Told]] = []
        """With their ids, which the store gives."""
        self.fresh: list[Told] = []
        """Those of the last transaction."""

    def apply(self, *transactions: Transaction[Any]) -> list[Any]:
        """Run operations in one transaction."""
        self.fresh = []
        locked = {key for one in transactions for key in next(one)}
        for key in locked:
            self.keys.setdefault(key, Key())
        for one in transactions:
            next(one)
        self._admit(locked)
        return [_result(one) for one in transactions]

    # --- what holds at all times ------------------------------------------------------------------------

    def active(self, key: str) -> int:
        return sum(run.slot for run in self.runs.values() if run.concurrency_key == key)

    def waiting(self, key: str) -> list[Row]:
        return served(run for run in self.runs.values() if run.concurrency_key == key and run.hold is Hold.KEY)

    def payload(self, told: Told) -> Any:
        """What a reader gets: some events only refer to what is stored elsewhere."""
        run = self.runs.get(told.run_id)
        if run is not None:
            match told.type:
                case EventType.RUN_COMPLETE if run.output_json is not None:
                    return {"output": json.loads(run.output_json)}
                case EventType.STEP_COMPLETE if told.step in run.steps:
                    step = run.steps[told.step]
                    took = (step.completed_at - step.started_at) / timedelta(milliseconds=1)
                    return {"output": json.loads(step.output_json or "null"), "durationMs": took}
                case EventType.LOG_WRITE:
                    line = next(line for line in run.logs if line.seq == told.seq)
                    data = {} if line.data_json is None else {"data": json.loads(line.data_json)}
                    return {"level": line.level, "message": line.message, **data}
                case _:
                    pass
        return told.payload

    def _tell(self, run: Row, kind: EventType, payload: Any = None, **others: Any) -> None:
        run.seq += 1
        rest: dict[str, Any] = {"step": None, "position": None, "created_at": self.now} | others
        told = Told(run_id=run.id, seq=run.seq, type=kind, job=run.job, labels=run.labels, payload=payload, **rest)
        self.fresh.append(told)

    def _admit(self, keys: Iterable[str]) -> None:
        for key in keys:
            for run in self.waiting(key)[: max(self.keys[key].limit - self.active(key), 0)]:
                run.hold, run.slot = None, True


def served(runs: Iterable[Row]) -> list[Row]:
    """In the order in which runs are served."""
    return sorted(runs, key=lambda run: (run.rank, run.id))


def ends(item: RunWrite) -> bool:
    return item.ending is not None and item.ending.status.is_terminal


def with_fields(step: StepRecord, **changes: Any) -> StepRecord:
    known: Mapping[str, Any] = {one.name: getattr(step, one.name) for one in fields(StepRecord)}
    return StepRecord(**{**known, **changes})


def _result(transaction: Transaction[T]) -> T:
    try:
        next(transaction)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a transaction yields twice")
