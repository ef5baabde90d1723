"""The store as it should be, in memory: rows are objects, a transaction is a function.

An operation is a generator with the parts of a transaction: it yields the concurrency keys that it locks, then, when
its changes are made, nothing; after that the free slots are handed out, and it reads. `Model.apply` runs one, or
several in one transaction. It is written for reading, not for speed, and knows nothing of SQL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypeVar

from durably.model import (
    Change,
    Changed,
    Disposition,
    Due,
    Enqueued,
    EventType,
    Hold,
    Labels,
    Lease,
    LeaseState,
    LogLine,
    NewRun,
    Outlook,
    Progress,
    RunError,
    RunFilter,
    RunStatus,
    RunWrite,
    StepRecord,
    StepStatus,
    StoredRun,
    Verdict,
)
from durably.rules.event_ids import row_of
from durably.store.rows import EPOCH, micros_of_time
from durably.store.runs import PRIORITY_US

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


class Model:
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

    # --- enqueue ----------------------------------------------------------------------------------------

    def enqueue(self, items: Sequence[NewRun]) -> Transaction[list[Enqueued]]:
        yield sorted({item.concurrency_key for item in items if item.concurrency_key})
        self._enqueue(items)
        early = [self._became(item) for item in items]
        yield NO_KEYS
        if all(item.is_plain for item in items):
            return early  # they are not read back: what else the transaction does to them is not told
        return [self._later(item, one) for item, one in zip(items, early, strict=True)]

    def retrigger(self, new: NewRun, steps: Sequence[StepRecord]) -> Transaction[Enqueued]:
        yield [new.concurrency_key] if new.concurrency_key else NO_KEYS
        self._enqueue([new])
        run = self.runs.get(new.id)
        if run is not None and run.generation == 0:
            self._copy(run, steps)
        early = self._became(new)
        yield NO_KEYS
        return self._later(new, early)

    def _enqueue(self, items: Sequence[NewRun]) -> None:
        for item in items:
            target = self._unstarted(item)
            if item.if_pending in {"skip", "replace"} and target is not None and self._is_new(item):
                self._merge(item, target)
        for item in items:
            waits = item.if_pending != "queue" and self._unstarted(item) is not None
            if not waits and self._is_new(item):
                self._insert(item)

    def _unstarted(self, item: NewRun) -> Row | None:
        """The newest run of the item's job and key that never started."""
        return next(
            (
                run
                for run in reversed(served(self.runs.values()))
                if item.concurrency_key is not None
                and (run.job, run.concurrency_key) == (item.job, item.concurrency_key)
                and (run.status, run.generation) == (RunStatus.PENDING, 0)
            ),
            None,
        )

    def _twin(self, item: NewRun) -> Row | None:
        """The run that has the item's idempotency key."""
        if item.idempotency_key is None:
            return None
        pair = (item.job, item.idempotency_key)
        return next((run for run in self.runs.values() if (run.job, run.idempotency_key) == pair), None)

    def _swapped(self, item: NewRun) -> Row | None:
        return next((run for run in self.runs.values() if run.replaced_by == item.id), None)

    def _is_new(self, item: NewRun) -> bool:
        return not self._was(item.id) and self._twin(item) is None and self._swapped(item) is None

    def _was(self, id: str) -> bool:
        """Whether there is such a run, or was one of which events are left."""
        return id in self.runs or any(told.run_id == id for _, told in self.events)

    def _merge(self, item: NewRun, run: Row) -> None:
        if item.if_pending == "replace":
            run.input_json, run.replaced_by = item.input_json, item.id
            self._tell(run, EventType.RUN_REPLACE)
        else:
            payload = {"skippedInput": json.loads(item.input_json), "skippedLabels": dict(item.labels)}
            self._tell(run, EventType.RUN_COALESCED, payload)

    def _insert(self, item: NewRun, hold: Hold = Hold.KEY) -> None:
        start = item.run_at if item.delay is None else self.now + item.delay
        is_later = start is not None and start > self.now
        run = self.runs[item.id] = Row(
            id=item.id,
            job=item.job,
            input_json=item.input_json,
            priority=item.priority,
            idempotency_key=item.idempotency_key,
            concurrency_key=item.concurrency_key,
            labels=item.labels,
            available_at=start,
            created_at=self.now,
            hold=Hold.TIME if is_later else hold if item.concurrency_key else None,
            rank=micros_of_time(max(start or EPOCH, self.now)) - item.priority * PRIORITY_US,
            digest=item.input_digest,
        )
        self._tell(run, EventType.RUN_TRIGGER)

    def _became(self, item: NewRun) -> Enqueued:
        own, twin, swapped = self.runs.get(item.id), self._twin(item), self._swapped(item)
        if own is not None:
            return Enqueued(run=own.stored, disposition=Disposition.CREATED)
        if twin is not None:
            is_same = twin.digest == item.input_digest
            return Enqueued(run=twin.stored, disposition=Disposition.IDEMPOTENT if is_same else None)
        if swapped is not None:
            return Enqueued(run=swapped.stored, disposition=Disposition.REPLACED)
        waiting = self._unstarted(item) if item.if_pending != "queue" else None
        if waiting is None:
            return self._gone(item)
        return Enqueued(run=waiting.stored, disposition=Disposition.COALESCED if item.if_pending == "skip" else None)

    def _gone(self, item: NewRun) -> Enqueued:
        """A run that was stored and deleted is told as it was asked for."""
        aside = Model(self.now)
        aside._insert(item)
        return Enqueued(run=aside.runs[item.id].stored, disposition=Disposition.CREATED)

    def _later(self, item: NewRun, early: Enqueued) -> Enqueued:
        """What became of an item, and its run as the transaction leaves it, if it is still found by that item.

        One that it was merged into is not, when the same transaction has started, cancelled or deleted it.
        """
        waiting = self._unstarted(item) if item.if_pending != "queue" else None
        found = self.runs.get(item.id) or self._twin(item) or self._swapped(item) or waiting
        is_same = found is not None and found.id == early.run.id
        return Enqueued(run=found.stored, disposition=early.disposition) if found and is_same else early

    def _copy(self, run: Row, steps: Sequence[StepRecord]) -> None:
        for step in steps:
            if step.name not in run.steps:
                run.steps[step.name] = with_fields(step, run_id=run.id, generation=0, error=None)
                run.completed_steps = len(run.steps)
                run.next_step = max(run.next_step, step.position + 1)

    # --- leases -----------------------------------------------------------------------------------------

    def claim(
        self, jobs: Sequence[str], *, limit: int, owner: str, token: str, lease: timedelta, floor: int
    ) -> Transaction[list[StoredRun]]:
        yield NO_KEYS
        found = [run for run in self.runs.values() if run.job in jobs and run.is_claimable and run.rank >= floor]
        claimed = [self._lease(run, owner, token, lease) for run in served(found)[:limit]]
        yield NO_KEYS
        return claimed

    def claim_expired(
        self,
        jobs: Sequence[str],
        *,
        limit: int,
        owner: str,
        token: str,
        lease: timedelta,
        max_crashes: int,
        held: Sequence[str],
    ) -> Transaction[list[StoredRun]]:
        yield NO_KEYS
        found = [run for run in self._expired(jobs) if run.crashes + 1 < max_crashes and run.id not in held]
        for run in (chosen := served(found)[:limit]):
            run.crashes += 1
        claimed = [self._lease(run, owner, token, lease) for run in chosen]
        yield NO_KEYS
        return claimed

    def _expired(self, jobs: Sequence[str]) -> list[Row]:
        return [run for run in self.runs.values() if run.job in jobs and run.has_expired(self.now)]

    def _lease(self, run: Row, owner: str, token: str, lease: timedelta) -> StoredRun:
        run.status, run.token, run.lease_owner = RunStatus.LEASED, token, owner
        run.generation, run.attempt, run.writes = run.generation + 1, run.attempt + 1, 0
        run.lease_expires_at, run.started_at = self.now + lease, run.started_at or self.now
        payload = {"owner": owner, "generation": run.generation, "attempt": run.attempt}
        self._tell(run, EventType.RUN_LEASED, payload | {"leaseMs": lease // timedelta(milliseconds=1)})
        return run.stored

    def claimed(self, jobs: Sequence[str], *, token: str) -> Transaction[list[StoredRun]]:
        yield NO_KEYS
        yield NO_KEYS
        found = [run for run in self.runs.values() if run.job in jobs and run.token == token]
        return [run.stored for run in served(found) if run.status is RunStatus.LEASED]

    def crashed(self, jobs: Sequence[str], *, max_crashes: int, limit: int) -> Transaction[list[StoredRun]]:
        yield NO_KEYS
        yield NO_KEYS
        found = [run for run in self._expired(jobs) if run.crashes + 1 >= max_crashes]
        return [run.stored for run in served(found)[:limit]]

    def fail_crashed(self, runs: Sequence[StoredRun], *, max_crashes: int) -> Transaction[list[StoredRun]]:
        yield {run.concurrency_key for run in runs if run.concurrency_key is not None}
        message = f"the lease ran out {max_crashes} times without a new checkpoint: the run keeps killing its process"
        failed: list[Row] = []
        for seen in runs:
            run = self.runs.get(seen.id)
            if run is not None and run.generation == seen.generation and run.has_expired(self.now):
                run.crashes, run.error = run.crashes + 1, RunError(type="WorkerCrashed", message=message)
                self._end(run, RunStatus.FAILED)
                self._tell(run, EventType.RUN_FAIL, {"error": {"type": "WorkerCrashed", "message": message}})
                failed.append(run)
        yield NO_KEYS
        return [run.stored for run in served(failed)]

    def renew(self, leases: Sequence[Lease], *, lease: timedelta) -> Transaction[list[LeaseState]]:
        yield NO_KEYS
        for one in leases:
            run = self.runs.get(one.run_id)
            if run is not None and run.holds(one):
                run.lease_expires_at = self.now + lease
        yield NO_KEYS
        return [self._state(one, LeaseState.RENEWED) for one in leases]

    def lapsed(self, leases: Sequence[Lease]) -> Transaction[dict[Lease, LeaseState]]:
        yield NO_KEYS
        yield NO_KEYS
        return {one: self._state(one, LeaseState.BUSY) for one in leases if not self._is_in_force(one)}

    def _is_in_force(self, lease: Lease) -> bool:
        run = self.runs.get(lease.run_id)
        return run is not None and run.holds(lease) and not run.has_expired(self.now)

    def _state(self, lease: Lease, if_held: LeaseState) -> LeaseState:
        run = self.runs.get(lease.run_id)
        if run is None or run.generation != lease.generation:
            return LeaseState.LOST
        states = {RunStatus.LEASED: if_held, RunStatus.CANCELLED: LeaseState.CANCELLED}
        return states.get(run.status, LeaseState.LOST)

    def _end(self, run: Row, status: RunStatus) -> None:
        """The run leaves its lease; a terminal one leaves its slot too."""
        run.status, run.lease_owner, run.lease_expires_at = status, None, None
        if status.is_terminal:
            run.hold, run.slot, run.completed_at = None, False, self.now

    # --- what a lease holder writes ---------------------------------------------------------------------

    def write(self, items: Sequence[RunWrite]) -> Transaction[list[Verdict]]:
        yield {item.concurrency_key for item in items if item.concurrency_key and ends(item)}
        last = {item.lease.run_id: item for item in items}
        accepted = {id for id, item in last.items() if self._accepts(item)}
        for item in items:
            if item.lease.run_id in accepted:
                self._write(self.runs[item.lease.run_id], item)
        verdicts = [self._verdict(last[item.lease.run_id]) for item in items]
        yield NO_KEYS
        return verdicts

    def _accepts(self, item: RunWrite) -> bool:
        run = self.runs.get(item.lease.run_id)
        return run is not None and run.holds(item.lease) and run.writes < item.number

    def _verdict(self, item: RunWrite) -> Verdict:
        """A number that is stored is stored, whatever became of the run since."""
        run = self.runs.get(item.lease.run_id)
        is_there = run is not None and run.generation == item.lease.generation and run.writes >= item.number
        return Verdict.STORED if is_there else Verdict.REFUSED

    def _write(self, run: Row, item: RunWrite) -> None:
        run.writes, run.progress = item.number, item.progress or run.progress
        for event in item.events:
            payload = None if event.payload_json is None else json.loads(event.payload_json)
            self._tell(run, event.type, payload, step=event.step, position=event.position, created_at=event.at)
            if (log := event.log) is not None:
                rest: dict[str, Any] = {"level": log.level, "message": log.message, "data_json": log.data_json}
                run.logs.append(LogLine(run_id=run.id, seq=run.seq, step=event.step, created_at=event.at, **rest))
        for step in item.steps:
            self._store_step(run, step)
        if item.ending is not None:
            self._store_ending(run, item)

    def _store_step(self, run: Row, step: StepRecord) -> None:
        before = run.steps.get(step.name)
        if before is None or before.status is not StepStatus.COMPLETED:
            run.steps[step.name] = step
        if step.status is StepStatus.COMPLETED:
            run.completed_steps, run.crashes = run.completed_steps + 1, 0
            run.next_step = step.position + 1

    def _store_ending(self, run: Row, item: RunWrite) -> None:
        ending = item.ending
        assert ending is not None
        self._end(run, ending.status)
        run.output_json, run.error = ending.output_json, ending.error
        if not ending.keep_steps:
            run.steps.clear()
        if ending.status is RunStatus.COMPLETED:
            self._tell(run, EventType.RUN_COMPLETE)
        elif ending.error is not None:
            shown = {"type": ending.error.type, "message": ending.error.message, "step": ending.error.step}
            self._tell(run, EventType.RUN_FAIL, {"error": shown})
        else:
            run.attempt -= 1
            self._tell(run, EventType.RUN_RELEASE)

    def cancel_step(self, lease: Lease, *, step: str, position: int, at: datetime) -> Transaction[None]:
        yield NO_KEYS
        run = self.runs.get(lease.run_id)
        if run is not None and (run.generation, run.status) == (lease.generation, RunStatus.CANCELLED):
            same = (run.id, EventType.STEP_CANCEL, step, at)
            known = [(told.run_id, told.type, told.step, told.created_at) for _, told in self.events]
            if same not in known:
                self._tell(run, EventType.STEP_CANCEL, step=step, position=position, created_at=at)
        yield NO_KEYS

    # --- what users do ----------------------------------------------------------------------------------

    def cancel(self, items: Sequence[Change]) -> Transaction[list[Changed]]:
        yield {item.concurrency_key for item in items if item.concurrency_key is not None}
        for item, run in self._allowed(items, LIVING):
            self._end(run, RunStatus.CANCELLED)
            self._tell(run, EventType.RUN_CANCEL)
            run.request = item.token
        yield NO_KEYS
        return [self._changed(item) for item in items]

    def resume(self, items: Sequence[Change]) -> Transaction[list[Changed]]:
        yield {item.concurrency_key for item in items if item.concurrency_key is not None}
        for item, run in self._allowed(items, (RunStatus.FAILED,)):
            run.status, run.hold = RunStatus.PENDING, Hold.KEY if run.concurrency_key else None
            run.crashes, run.error, run.completed_at, run.request = 0, None, None, item.token
            self._tell(run, EventType.RUN_RESUME)
        yield NO_KEYS
        return [self._changed(item) for item in items]

    def delete(self, items: Sequence[Change]) -> Transaction[list[Changed]]:
        yield NO_KEYS
        gone: dict[str, StoredRun] = {}
        before = {(told.run_id, json.dumps(told.payload)) for _, told in self.events}
        for item, run in self._allowed(items, tuple(status for status in RunStatus if status.is_terminal)):
            if not run.slot:
                gone[run.id] = run.stored
                self._delete(run, {"request": item.token})
        yield NO_KEYS
        return [
            Changed(done=True, run=gone[item.run_id])
            if item.run_id in gone
            else Changed(
                done=(item.run_id, json.dumps({"request": item.token})) in before,
                run=self.runs[item.run_id].stored if item.run_id in self.runs else None,
            )
            for item in items
        ]

    def _allowed(self, items: Sequence[Change], statuses: Sequence[RunStatus]) -> list[tuple[Change, Row]]:
        found = [(item, self.runs.get(item.run_id)) for item in items]
        return [(item, run) for item, run in found if run is not None and run.status in statuses]

    def _changed(self, item: Change) -> Changed:
        run = self.runs.get(item.run_id)
        return Changed(done=run is not None and run.request == item.token, run=None if run is None else run.stored)

    def _delete(self, run: Row, payload: Any = None) -> None:
        self._tell(run, EventType.RUN_DELETE, payload)
        del self.runs[run.id]

    def purge_runs(self, *, older_than: timedelta, status: RunStatus, limit: int) -> Transaction[int]:
        yield NO_KEYS
        ended = [run for run in self.runs.values() if run.status is status and not run.slot]
        ages = sorted((run.completed_at, run.id) for run in ended if run.completed_at is not None)
        old = [id for at, id in ages if at < self.now - older_than][:limit]
        for id in old:
            self._delete(self.runs[id])
        yield NO_KEYS
        return len(old)

    def purge_events(self, *, older_than: timedelta, limit: int) -> Transaction[int]:
        yield NO_KEYS
        newest = {row_of(id): told.created_at for id, told in self.events}
        """Of each row the time of its last event."""
        old = {row for row in sorted(newest)[:limit] if newest[row] < self.now - older_than}
        self.events = [(id, told) for id, told in self.events if row_of(id) not in old]
        yield NO_KEYS
        return len(old)

    # --- keys and start times ---------------------------------------------------------------------------

    def set_limit(self, key: str, limit: int) -> Transaction[None]:
        yield [key]
        self.keys[key].limit = limit
        yield NO_KEYS

    def audit_keys(self, keys: Sequence[str], *, adrift: Sequence[str]) -> Transaction[list[str]]:
        yield keys
        yield NO_KEYS
        return sorted(adrift)

    def purge_keys(self, limit: int) -> Transaction[int]:
        yield NO_KEYS
        yield NO_KEYS
        idle = [name for name, key in sorted(self.keys.items()) if key.limit == 1 and not self.active(name)]
        unused = [name for name in idle if not self.waiting(name)][:limit]
        for name in unused:
            del self.keys[name]
        return len(unused)

    def release_due(self, limit: int) -> Transaction[Due]:
        yield NO_KEYS
        due = sorted(self._due(), key=lambda run: (run.available_at or EPOCH, run.id))
        released = [run for run in due if run.concurrency_key is None][:limit]
        for run in released:
            run.hold = None
        keyed = [run.concurrency_key for run in due if run.concurrency_key is not None][:limit]
        left = [
            sorted(run.concurrency_key or "" for run in found)[:limit] for found in (self._unlined(), self._unfreed())
        ]
        yield NO_KEYS
        return Due(released=len(released), keys=tuple(sorted({*keyed, *left[0], *left[1]})))

    def admit_due(self, keys: Sequence[str]) -> Transaction[None]:
        yield keys
        for run in (*self._due(), *self._unlined()):
            if run.concurrency_key in keys:
                run.hold = Hold.KEY
        for run in self._unfreed():
            run.slot = run.slot and run.concurrency_key not in keys
        yield NO_KEYS

    def look(self, jobs: Sequence[str], *, max_crashes: int) -> Transaction[Outlook]:
        yield NO_KEYS
        yield NO_KEYS
        crashes = [run.crashes + 1 for run in self._expired(jobs)]
        starts = [run.available_at for run in self.runs.values() if run.hold is Hold.TIME and run.available_at]
        return Outlook(
            claimable=any(run.is_claimable for run in self.runs.values() if run.job in jobs),
            expired=any(count < max_crashes for count in crashes),
            crashed=any(count >= max_crashes for count in crashes),
            due=any(start <= self.now for start in starts) or bool(self._unlined() or self._unfreed()),
            next_due=min((start - self.now for start in starts if start > self.now), default=None),
        )

    def _due(self) -> list[Row]:
        waiting = [run for run in self.runs.values() if run.hold is Hold.TIME]
        return [run for run in waiting if run.available_at is not None and run.available_at <= self.now]

    def _unlined(self) -> list[Row]:
        """What users' transactions have triggered, and nobody has put in line yet."""
        return [run for run in self.runs.values() if run.hold is Hold.ADMIT]

    def _unfreed(self) -> list[Row]:
        """What users' transactions have cancelled in a slot that nobody has given back yet."""
        return [run for run in self.runs.values() if run.slot and run.status is RunStatus.CANCELLED]

    # --- in a transaction of a user's -------------------------------------------------------------------

    def inside(self, parts: Sequence[Callable[[], Any]], *, is_committed: bool) -> list[Any]:
        """The answers; what was written stays only if the user commits. No key is locked, no slot is handed out."""
        self.fresh = []
        before = {id: run.copy() for id, run in self.runs.items()}
        answers = [part() for part in parts]
        if not is_committed:
            self.fresh, self.runs = [], before
        return answers

    def enqueue_inside(self, items: Sequence[NewRun]) -> list[Enqueued]:
        for item in items:
            if self._is_new(item):
                self._insert(item, Hold.ADMIT)
        return [self._became(item) for item in items]

    def copy_inside(self, run_id: str, steps: Sequence[StepRecord]) -> None:
        self._copy(self.runs[run_id], steps)

    def cancel_inside(self, run_id: str, *, token: str) -> Changed:
        run = self.runs.get(run_id)
        if run is not None and run.status in LIVING:
            has_slot = run.slot
            self._end(run, RunStatus.CANCELLED)
            self._tell(run, EventType.RUN_CANCEL)
            run.slot, run.request = has_slot, token
        return Changed(done=run is not None and run.request == token, run=None if run is None else run.stored)

    # --- reading ----------------------------------------------------------------------------------------

    def list_runs(self, which: RunFilter) -> list[StoredRun]:
        return [run.stored for run in self.newest(which)[: which.limit]]

    def newest(self, which: RunFilter) -> list[Row]:
        """All that meet the filter, newest first."""

        def fits(run: Row) -> bool:
            return (
                (not which.jobs or run.job in which.jobs)
                and (not which.statuses or run.status in which.statuses)
                and which.labels.items() <= run.labels.items()
                and which.concurrency_key in {None, run.concurrency_key}
                and (which.before is None or run.id < which.before)
            )

        return sorted((run for run in self.runs.values() if fits(run)), key=lambda run: run.id, reverse=True)

    def load_steps(self, run_id: str) -> list[StepRecord]:
        run = self.runs.get(run_id)
        return [] if run is None else sorted(run.steps.values(), key=lambda step: (step.position, step.name))

    def load_logs(self, run_id: str, *, after_seq: int, limit: int) -> list[LogLine]:
        run = self.runs.get(run_id)
        return [] if run is None else [line for line in run.logs if line.seq > after_seq][:limit]


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
