"""The model's leases, and what their holders write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from durably.model import (
    EventType,
    Lease,
    LeaseState,
    LogLine,
    RunError,
    RunStatus,
    RunWrite,
    StepRecord,
    StepStatus,
    StoredRun,
    Verdict,
)
from tests.models.tables import NO_KEYS, Row, Tables, Transaction, ends, served


class Leases(Tables):
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
