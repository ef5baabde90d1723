"""Triggering, triggering again and cancelling inside a transaction of the user's: what is said over its connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from durably.errors import RunNotFound, ValidationError, WrongStatus
from durably.model import Enqueued, NewRun, StepRecord, StoredRun
from durably.runtime.again import checkpoints_before, no_step
from durably.runtime.bulk import CHUNK
from durably.store import inside
from durably.store.guest import Talk


def store_inside(built: Sequence[NewRun], *, is_many: bool = False) -> Talk[list[Enqueued]]:
    """Store runs. Raises ValidationError, before anything is written, for one that would have to look at others."""
    for index, new in enumerate(built):
        if new.if_pending != "queue":
            field = f"items[{index}].if_pending" if is_many else "if_pending"
            reason = f'"{new.if_pending}" looks at other runs, which a transaction of yours cannot: use "queue" there'
            raise ValidationError(field, reason)
    stored: list[Enqueued] = []
    for start in range(0, len(built), CHUNK):
        stored += yield inside.enqueue(built[start : start + CHUNK])
    return stored


def store_again_inside(
    source_id: str, build: Callable[[StoredRun], NewRun], *, from_step: str | None
) -> Talk[tuple[StoredRun, Enqueued]]:
    """Store the run that `build` makes of another one. Returns the other one, and what became of it."""
    source: StoredRun | None = yield inside.get_run(source_id)
    if source is None:
        raise RunNotFound(source_id)
    new = build(source)
    taken: list[StepRecord] | None = []
    if from_step is not None:
        steps: list[StepRecord] = yield inside.load_steps(source_id)
        taken = checkpoints_before(steps, from_step)
        if taken is None:
            raise no_step((yield inside.get_run(source_id)), source_id, steps, from_step)
    [enqueued] = yield from store_inside([new])
    if taken:
        yield inside.copy_steps(new.id, taken)
        copied: StoredRun | None = yield inside.get_run(new.id)
        enqueued = Enqueued(run=copied or enqueued.run, disposition=enqueued.disposition)
    return source, enqueued


def cancel_inside(run_id: str, *, token: str) -> Talk[StoredRun]:
    """Cancel a run. Returns the changed row. Raises RunNotFound, WrongStatus."""
    changed = yield inside.cancel(run_id, token=token)
    if changed.run is None:
        raise RunNotFound(run_id)
    if not changed.done:
        raise WrongStatus("cancel", run_id, changed.run.status)
    run: StoredRun = changed.run
    return run
