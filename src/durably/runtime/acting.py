"""What is done to one run from outside: cancel, resume, delete. Each raises RunNotFound and WrongStatus."""

from __future__ import annotations

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


async def change_run(
    database: Database, environment: Environment, write: Write[Change, Changed], run_id: str
) -> StoredRun:
    """Cancel, resume or delete a run. Returns the changed row, or the row that was deleted."""
    run = await database.read(store_runs.get_run(run_id))
    if run is None:
        raise RunNotFound(run_id)
    if write is actions.delete and run.status is RunStatus.CANCELLED and run.concurrency_key is not None:
        # cancelled in a transaction of a user's, it may still have its slot, which nobody could give back then
        await database.run(admit_due([run.concurrency_key]))
    change = Change(run_id=run_id, concurrency_key=run.concurrency_key, token=environment.new_id())
    changed = await database.submit(write, change)
    if changed.done:
        return changed.run or run
    if changed.run is None:
        raise RunNotFound(run_id)
    raise WrongStatus(write.name, run_id, changed.run.status)


async def purge(database: Database, *, older_than: timedelta, statuses: tuple[RunStatus, ...]) -> int:
    """Delete the runs that ended in one of these statuses longer ago than that. Returns how many went."""
    for status in statuses:
        if not status.is_terminal:
            raise ValidationError("statuses", f"runs that are {status} are not over: cancel them first")
    total = 0
    for status in statuses:
        deleted = PURGE_BATCH
        while deleted >= PURGE_BATCH:
            operation = actions.purge_runs(older_than=older_than, status=status, limit=PURGE_BATCH)
            deleted = await database.run(operation)
            total += deleted
    return total
