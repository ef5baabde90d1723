"""What is done to one run from outside: cancel, resume, delete. Each raises RunNotFound and WrongStatus."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from durably.environment import Environment
from durably.errors import RunNotFound, ValidationError, WrongStatus
from durably.model import Change, Changed, RunStatus, StoredRun
from durably.store import actions
from durably.store import runs as store_runs
from durably.store.database import Database
from durably.store.due import admit_due
from durably.store.operation import Write

PURGE_BATCH = 500
MAX_PAUSE_SECONDS = 0.5


async def change_run(
    database: Database, environment: Environment, write: Write[Change, Changed], run_id: str
) -> StoredRun:
    """Cancel, resume or delete a run. Returns the changed row, or the row that was deleted."""
    run = await database.read(store_runs.get_run(run_id))
    if run is None:
        raise RunNotFound(run_id)
    change = Change(run_id=run_id, concurrency_key=run.concurrency_key, token=environment.new_id())
    changed = await database.submit(write, change)
    if write is actions.delete and run.concurrency_key is not None and _is_cancelled(changed):
        # cancelled in a transaction of a user's, it still has its slot, which nobody could give back after a deletion
        await database.run(admit_due([run.concurrency_key]))
        changed = await database.submit(write, change)
    if changed.done:
        return changed.run or run
    if changed.run is None:
        raise RunNotFound(run_id)
    raise WrongStatus(write.name, run_id, changed.run.status)


def _is_cancelled(changed: Changed) -> bool:
    return not changed.done and changed.run is not None and changed.run.status is RunStatus.CANCELLED


async def purge(
    database: Database,
    environment: Environment,
    *,
    older_than: timedelta,
    statuses: tuple[RunStatus, ...],
    limit: int | None = None,
) -> int:
    """Delete the runs that ended in one of these statuses longer ago than that. Returns how many went.

    At most `limit`; None means all. Between two batches others get their turn: purging takes half of the time at most.
    """
    total = 0
    for status in check_ended(statuses):
        deleted = size = PURGE_BATCH
        while deleted >= size and (limit is None or total < limit):
            size = PURGE_BATCH if limit is None else min(PURGE_BATCH, limit - total)
            began = environment.monotonic()
            operation = actions.purge_runs(older_than=older_than, status=status, limit=size)
            deleted = await database.run(operation)
            total += deleted
            if deleted >= size:
                await asyncio.sleep(min(environment.monotonic() - began, MAX_PAUSE_SECONDS))
    return total


def check_ended(statuses: tuple[RunStatus, ...]) -> tuple[RunStatus, ...]:
    """Return the statuses. Raises ValidationError when runs in one of them are not over."""
    for status in statuses:
        if not status.is_terminal:
            raise ValidationError("statuses", f"runs that are {status} are not over: cancel them first")
    return statuses
