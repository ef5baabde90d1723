"""The store as it should be, in memory: rows are objects, a transaction is a function.

An operation is a generator with the parts of a transaction: it yields the concurrency keys that it locks, then, when
its changes are made, nothing; after that the free slots are handed out, and it reads. `Model.apply` runs one, or
several in one transaction. It is written for reading, not for speed, and knows nothing of SQL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from durably.model import (
    Change,
    Changed,
    Disposition,
    Due,
    Enqueued,
    EventType,
    Hold,
    LogLine,
    NewRun,
    Outlook,
    RunFilter,
    RunStatus,
    StepRecord,
    StoredRun,
)
from durably.rules.event_ids import row_of
from durably.store.rows import EPOCH, micros_of_time
from durably.store.runs import PRIORITY_US
from tests.models.leases import Leases
from tests.models.tables import LIVING, NO_KEYS, Row, Transaction, served, with_fields


class Model(Leases):
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
