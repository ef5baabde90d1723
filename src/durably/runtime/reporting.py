"""Events of this process that the store does not know of, or that are told after it has stored them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta

from durably.codec import to_json
from durably.environment import Environment
from durably.model import DraftEvent, Ending, Event, EventType, RunStatus, StoredRun
from durably.rules.outcome import MAX_MESSAGE_BYTES, printable
from durably.runtime.listeners import Listeners
from durably.runtime.recorder import Entry

_logger = logging.getLogger("durably.worker")

_ENDS = {
    RunStatus.COMPLETED: EventType.RUN_COMPLETE,
    RunStatus.FAILED: EventType.RUN_FAIL,
    RunStatus.PENDING: EventType.RUN_RELEASE,
}


class Reporter:
    """Tells the listeners of this process what its worker does, and what goes wrong in it."""

    def __init__(self, listeners: Listeners, environment: Environment) -> None:
        self._listeners = listeners
        self._environment = environment

    def error(self, context: str, error: Exception, *, run: StoredRun | None = None) -> None:
        """Emit `worker:error` and log it. `context` says what was being done: `claim`, `renew`, `purge`, ..."""
        message = printable(str(error), max_bytes=MAX_MESSAGE_BYTES)
        details = {"error": {"type": type(error).__name__, "message": message}, "context": context}
        _logger.error("%s failed: %s: %s", context, type(error).__name__, message, exc_info=_unless_expected(error))
        self._listeners.emit(
            Event(
                type=EventType.WORKER_ERROR,
                run_id="" if run is None else run.id,
                job="" if run is None else run.job,
                labels={} if run is None else run.labels,
                payload_json=to_json(details),
                created_at=self._environment.now(),
            )
        )

    def leased(self, run: StoredRun, lease: timedelta) -> None:
        """Emit `run:leased`."""
        if not self._listeners.wants(EventType.RUN_LEASED):
            return
        details = {
            "owner": run.lease_owner,
            "generation": run.generation,
            "attempt": run.attempt,
            "leaseMs": round(lease.total_seconds() * 1000),
        }
        self.run(EventType.RUN_LEASED, run, to_json(details))

    def stored(self, run: StoredRun, entries: Sequence[Entry]) -> None:
        """Emit the events of entries that are stored now."""
        if not self._listeners:
            return
        for entry in entries:
            event = entry.event
            if self._listeners.wants(event.type):
                self._listeners.emit(
                    Event(
                        type=event.type,
                        run_id=run.id,
                        job=run.job,
                        labels=run.labels,
                        step=event.step,
                        position=event.position,
                        payload_json=_payload(entry),
                        created_at=event.at,
                    )
                )

    def step_cancelled(self, run: StoredRun, event: DraftEvent) -> None:
        """Emit `step:cancel`."""
        self.stored(run, [Entry(event)])

    def ended(self, run: StoredRun, ending: Ending) -> None:
        """Emit `run:complete`, `run:fail` or `run:release`, and wake who waits for the run here."""
        self._listeners.signal(run.id)
        if not self._listeners.wants(_ENDS[ending.status]):
            return
        payload: str | None = None
        if ending.output_json is not None:
            payload = f'{{"output":{ending.output_json}}}'
        elif ending.error is not None:
            error = {"type": ending.error.type, "message": ending.error.message, "step": ending.error.step}
            payload = to_json({"error": error})
        self.run(_ENDS[ending.status], run, payload)

    def run(self, type: EventType, run: StoredRun, payload_json: str | None = None) -> None:  # noqa: A002 - the word of the events
        """Emit an event about a run as a whole."""
        self._listeners.emit(
            Event(
                type=type,
                run_id=run.id,
                job=run.job,
                labels=run.labels,
                payload_json=payload_json,
                created_at=self._environment.now(),
            )
        )


def _payload(entry: Entry) -> str | None:
    """What the store joins when it reads the event has to be put in here."""
    event, step = entry.event, entry.step
    if event.type is EventType.STEP_COMPLETE and step is not None:
        duration = (step.completed_at - step.started_at) / timedelta(milliseconds=1)
        return f'{{"output":{step.output_json},"durationMs":{round(duration)}}}'
    if event.log is not None:
        data = "" if event.log.data_json is None else f',"data":{event.log.data_json}'
        return f'{{"level":"{event.log.level}","message":{to_json(event.log.message)}{data}}}'
    return event.payload_json


def _unless_expected(error: Exception) -> Exception | None:
    """A traceback says something about a fault of ours; a database that is away needs none."""
    return None if getattr(error, "retryable", False) else error
