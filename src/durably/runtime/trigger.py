"""What every trigger has in common: its options and its conflicts; and how a job triggers runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypedDict

from durably.codec import canonical_digest
from durably.environment import Environment
from durably.errors import IdempotencyConflict, PendingRunExists
from durably.jobs import Registry, Target, TriggerOptions, build_run
from durably.model import Disposition, Enqueued, EventType, IfPending, Labels, NewRun, StoredRun
from durably.runtime.reporting import Reporter
from durably.store.database import Database
from durably.store.runs import enqueue


class TriggerKeywords(TypedDict, total=False):
    """What a trigger may say beside job and input. None, or nothing, means the default of the job."""

    idempotency_key: str | None
    concurrency_key: str | None
    if_pending: IfPending | None
    labels: Labels | None
    priority: int | None
    delay: timedelta | None
    run_at: datetime | None


def options_of(given: TriggerKeywords) -> TriggerOptions:
    """Return what the caller of a trigger gave by name. Raises TypeError for a name that no option has."""
    if unknown := sorted(set(given) - set(TriggerKeywords.__annotations__)):
        known = ", ".join(TriggerKeywords.__annotations__)
        raise TypeError(f"a trigger has no option {unknown[0]!r}; its options are {known}")
    return TriggerOptions(**given)


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

    def __init__(
        self,
        database: Database,
        registry: Registry,
        *,
        environment: Environment,
        reporter: Reporter,
        max_value_bytes: int,
    ) -> None:
        self._database = database
        self._registry = registry
        self._environment = environment
        self._reporter = reporter
        self._max_bytes = max_value_bytes

    async def trigger(
        self, parent: StoredRun, step: str, target: Target[Any, Any] | str, input: object, options: TriggerOptions
    ) -> str:
        """Store the run that `step` of `parent` triggers, or find it. Returns its id.

        A run without an idempotency key gets one made of its parent and the step, which is what finds it again.
        """
        known = self._registry.get(target) if isinstance(target, str) else None
        new = build_run(
            known or target, input, id=self._environment.new_id(), options=options, max_bytes=self._max_bytes
        )
        key = f"{parent.id}:{step}"
        if new.idempotency_key is None:
            new = replace(new, idempotency_key=key, input_digest=canonical_digest(new.input_json))
        enqueued = await self._database.submit(enqueue, new, timeout=None)
        if enqueued.run.idempotency_key != key:  # with our own key even another input is the same trigger
            check_conflict(new, enqueued)
        if enqueued.disposition is Disposition.CREATED:
            self._reporter.run(EventType.RUN_TRIGGER, enqueued.run)
        return enqueued.run.id
