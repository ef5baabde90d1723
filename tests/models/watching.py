"""What watchers and caretakers are told of a model: counts, places in lists, limits, who works."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from durably.model import EventType, ExpiredLeases, KeyLimit, RunFilter, RunStatus, WaitingJob
from durably.rules.event_ids import row_of
from durably.store.overview import Counts, Leaseholder, StoredSnapshot
from tests.models.model import Model
from tests.models.tables import Row, Told, served

RECENT = 500
"""Rows of events among which workers are looked for."""


def snapshot(model: Model, run_id: str) -> StoredSnapshot | None:
    run = model.runs.get(run_id)
    return None if run is None else StoredSnapshot(run=run.stored, seq=run.seq)


def skip_runs(model: Model, which: RunFilter, *, offset: int) -> str | None:
    newest = model.newest(which)
    return newest[offset - 1].id if offset <= len(newest) else None


def count_runs(model: Model, which: RunFilter, *, within: timedelta) -> Counts:
    found = model.newest(which)
    pending = [run for run in found if run.status is RunStatus.PENDING]
    ends = [run.status for run in found if run.completed_at is not None and run.completed_at > model.now - within]
    return Counts(
        by_job={job: Counter(run.status for run in found if run.job == job) for job in sorted(jobs_of(found))},
        oldest_pending=pending[-1].stored if pending else None,
        ended=dict(Counter(ends)),
    )


def holders(model: Model) -> set[Leaseholder]:
    leased = [run for run in model.runs.values() if run.status is RunStatus.LEASED]
    found: set[Leaseholder] = set()
    for owner in {run.lease_owner for run in leased}:
        ends = [run.lease_expires_at for run in leased if run.lease_owner == owner and run.lease_expires_at is not None]
        found.add(Leaseholder(owner=str(owner), runs=len(ends), expires_at=max(ends)))
    return found


def recent_owners(model: Model) -> dict[str, datetime]:
    rows = sorted({row_of(id) for id, _ in model.events})[-RECENT:]
    lately = [told for id, told in model.events if told.type is EventType.RUN_LEASED and row_of(id) in rows]
    return {told.payload["owner"]: told.created_at for told in lately}


def count_purgeable(model: Model, *, older_than: timedelta, statuses: Sequence[RunStatus]) -> int:
    ends = [run.completed_at for run in model.runs.values() if run.status in statuses]
    return sum(end is not None and end < model.now - older_than for end in ends)


def recent_events(model: Model, *, before: int, limit: int) -> list[tuple[int, Told]]:
    return [(id, told) for id, told in reversed(model.events) if id < before][:limit]


def list_limits(model: Model, *, after: str, limit: int) -> list[KeyLimit]:
    page = [(name, key) for name, key in sorted(model.keys.items()) if name > after][:limit]
    return [
        KeyLimit(key=name, limit=key.limit, active=model.active(name), waiting=len(model.waiting(name)))
        for name, key in page
    ]


def read_waiting(model: Model) -> list[WaitingJob]:
    waiting = served(run for run in model.runs.values() if run.is_claimable)
    leased = [run for run in model.runs.values() if run.status is RunStatus.LEASED]
    busy = jobs_of(run for run in leased if not run.has_expired(model.now))
    found: list[WaitingJob] = []
    for job in sorted(jobs_of(waiting)):
        own = [run for run in waiting if run.job == job]
        since = max(own[0].available_at or own[0].created_at, own[0].created_at)
        found.append(WaitingJob(job=job, runs=len(own), since=since, is_served=job in busy))
    return found


def read_expired(model: Model) -> list[ExpiredLeases]:
    found: list[ExpiredLeases] = []
    expired = [run for run in model.runs.values() if run.has_expired(model.now)]
    for job in sorted(jobs_of(expired)):
        ends = [run.lease_expires_at for run in expired if run.job == job and run.lease_expires_at is not None]
        found.append(ExpiredLeases(job=job, runs=len(ends), since=min(ends)))
    return found


def jobs_of(runs: Iterable[Row]) -> set[str]:
    return {run.job for run in runs}
