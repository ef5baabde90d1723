"""What every trigger has in common: its options, its conflicts, and the id of a run that a job triggers."""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, TypedDict
from uuid import UUID

from durably.errors import IdempotencyConflict, PendingRunExists
from durably.jobs import Registry, Target, TriggerOptions, build_run
from durably.model import Disposition, Enqueued, EventType, IfPending, Labels, NewRun, StoredRun
from durably.runtime.reporting import Reporter
from durably.store.database import Database
from durably.store.runs import enqueue

_RANDOM = (1 << 62) - 1


class TriggerKeywords(TypedDict, total=False):
    """What a trigger may say beside job and input. None, or nothing, means the default of the job."""

    idempotency_key: str | None
    concurrency_key: str | None
    if_pending: IfPending | None
    labels: Labels | None
    priority: int | None
    delay: timedelta | None
    run_at: datetime | None


def check_conflict(new: NewRun, enqueued: Enqueued, *, index: int | None = None) -> None:
    """Raise IdempotencyConflict or PendingRunExists if another run stood in the way of `new`."""
    if enqueued.disposition is not None:
        return
    run, key = enqueued.run, new.idempotency_key
    if key is not None and run.job == new.job and run.idempotency_key == key:
        raise IdempotencyConflict(new.job, key, run.id, index=index)
    raise PendingRunExists(new.job, new.concurrency_key or "", run.id, index=index)


class Children:
    """Triggers runs for jobs, so that each is triggered once however often the step that does it is executed."""

    def __init__(self, database: Database, registry: Registry, reporter: Reporter, *, max_value_bytes: int) -> None:
        self._database = database
        self._registry = registry
        self._reporter = reporter
        self._max_bytes = max_value_bytes

    async def trigger(
        self, parent: StoredRun, step: str, target: Target[Any, Any] | str, input: object, options: TriggerOptions
    ) -> str:
        """Store the run that `step` of `parent` triggers, or find it. Returns its id."""
        known = self._registry.get(target) if isinstance(target, str) else None
        new = build_run(
            known or target, input, id=child_id(parent.id, step), options=options, max_bytes=self._max_bytes
        )
        enqueued = await self._database.submit(enqueue, new, timeout=None)
        check_conflict(new, enqueued)
        if enqueued.disposition is Disposition.CREATED:
            self._reporter.run(EventType.RUN_TRIGGER, enqueued.run)
        return enqueued.run.id


def child_id(run_id: str, step: str) -> str:
    """The id of the run that `step` of `run_id` triggers, the same in every execution: it is triggered once.

    A UUIDv7 with the time of its parent's id, the rest a digest.
    """
    stamp = UUID(run_id).int >> 80
    digest = int.from_bytes(sha256(f"{run_id}\0{step}".encode()).digest()[:10], "big")
    return str(UUID(int=stamp << 80 | 7 << 76 | (digest >> 62 & 0xFFF) << 64 | 2 << 62 | digest & _RANDOM))
