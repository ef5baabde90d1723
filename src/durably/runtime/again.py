"""A new run made of one that has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from durably.codec import from_json
from durably.errors import DurablyError, RunNotFound, UsageError, ValidationError, WrongStatus
from durably.jobs import Target, TriggerOptions, build_run
from durably.model import Enqueued, NewRun, StepRecord, StepStatus, StoredRun
from durably.store import runs as store_runs
from durably.store import steps as store_steps
from durably.store.database import Database


def build_again(target: Target[Any, Any] | str, old: StoredRun, *, id: str, max_bytes: int) -> NewRun:
    """Return a new run with the input, labels, concurrency key and priority of an ended one.

    Raises WrongStatus when it has not ended, ValidationError when its input does not fit the job's type any more.
    """
    if not old.status.is_terminal:
        raise WrongStatus("retrigger", old.id, old.status)
    options = TriggerOptions(concurrency_key=old.concurrency_key, labels=old.labels, priority=old.priority)
    try:
        value = from_json(old.input_json)
        return build_run(target, value, id=id, max_bytes=max_bytes, options=options, use_defaults=False)
    except UsageError as error:
        field = error.field if isinstance(error, ValidationError) else "input"
        raise ValidationError(field, f"cannot retrigger run {old.id}: {error}") from error


def checkpoints_before(steps: Sequence[StepRecord], from_step: str) -> list[StepRecord] | None:
    """What a new run takes over of these steps when it begins at one of them; None when that is none of them."""
    first = next((step.position for step in steps if step.name == from_step), None)
    if first is None:
        return None
    return [step for step in steps if step.status is StepStatus.COMPLETED and step.position < first]


def no_step(source: StoredRun | None, source_id: str, steps: Sequence[StepRecord], from_step: str) -> DurablyError:
    """Why there is nothing to begin at: `source`, as it is now, has no step of this name, or has been deleted."""
    if source is None:
        return RunNotFound(source_id)
    known = ", ".join(step.name for step in steps) or "none"
    return ValidationError("from_step", f"run {source_id} has no step {from_step!r} (its steps: {known})")


async def store_again(database: Database, new: NewRun, *, source_id: str, from_step: str | None) -> Enqueued:
    """Store the run made of `source_id`, with the checkpoints before `from_step` if that is given.

    They are stored as they were read: whoever deletes the old run meanwhile takes nothing from the new one. Raises
    RunNotFound when it was deleted before they were read, ValidationError when it has no such step.
    """
    if from_step is None:
        return await database.submit(store_runs.enqueue, new)
    steps = await database.read(store_steps.load_steps(source_id))
    taken = checkpoints_before(steps, from_step)
    if taken is None:
        raise no_step(await database.read(store_runs.get_run(source_id)), source_id, steps, from_step)
    return await database.run(store_runs.retrigger(new, taken))
