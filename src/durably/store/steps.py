"""What a lease holder writes: steps, logs, progress, events and the end of its run, all behind one fence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from durably.model import (
    DraftEvent,
    Ending,
    EventType,
    Lease,
    Progress,
    RunStatus,
    RunWrite,
    StepRecord,
    StepStatus,
    Verdict,
)
from durably.store import rows
from durably.store.operation import Batch, Lane, Operation, Param, Rows, Scalar, Statement, Wake, Write

if TYPE_CHECKING:
    from durably.store.database import Database

_RUN = (
    "id",
    "generation",
    "number",
    "events",
    "completed",
    "next_step",
    "progress",
    "status",
    "output",
    "error",
    "keep_steps",
)
_STEP = (
    "run_id",
    "name",
    "position",
    "status",
    "output",
    "error",
    "started_at",
    "completed_at",
    "generation",
    "number",
)
_LOG = ("run_id", "place", "step", "level", "message", "data", "created_at", "generation", "number")
_EVENT = ("ord", "run_id", "place", "type", "step", "position", "payload", "created_at", "generation", "number")


def load_steps(run_id: str) -> Operation[list[StepRecord]]:
    """The finished steps of a run, in the order in which they started."""
    return Operation(
        statements=(Statement("load_steps", {"run_id": run_id}),),
        decode=lambda results: [rows.step(row) for row in results[0]],
        readonly=True,
    )


async def store_write(
    database: Database, write: RunWrite, *, timeout: float | None = None
) -> Verdict:  # the batch of many callers has no one scope to cancel
    """Store what a lease holder wrote; it is committed on return. Safe to repeat with the same number.

    Raises DatabaseUnavailable after `timeout` seconds; None waits as long as it takes.
    """
    ends_keyed = write.ending is not None and write.ending.status.is_terminal and write.concurrency_key is not None
    return await database.submit(write_keyed if ends_keyed else write_fast, write, timeout=timeout)


@dataclass(slots=True)
class _RunRows:
    """What one run's writes of a batch come to: a row is updated once in a statement."""

    lease: Lease
    number: int
    events: int = 0
    completed: int = 0
    next_step: int | None = None
    progress: Progress | None = None
    ending: Ending | None = None

    def row(self) -> tuple[Scalar, ...]:
        end = self.ending
        return (
            self.lease.run_id,
            self.lease.generation,
            self.number,
            self.events,
            self.completed,
            self.next_step,
            rows.progress_text(self.progress),
            end.status if end else None,
            end.output_json if end else None,
            rows.error_text(end.error) if end else None,
            end.keep_steps if end else True,
        )


@dataclass(slots=True)
class _Rows:
    """The rows of a batch of writes, gathered run by run."""

    runs: dict[str, _RunRows] = field(default_factory=dict[str, _RunRows])
    steps: list[tuple[Scalar, ...]] = field(default_factory=list[tuple[Scalar, ...]])
    logs: list[tuple[Scalar, ...]] = field(default_factory=list[tuple[Scalar, ...]])
    events: list[tuple[Scalar, ...]] = field(default_factory=list[tuple[Scalar, ...]])

    def add(self, write: RunWrite) -> None:
        run = self.runs.setdefault(write.lease.run_id, _RunRows(write.lease, write.number))
        run.number = write.number
        run.progress = write.progress or run.progress
        run.ending = write.ending
        for step in write.steps:
            self._add_step(run, step, write)
        for event in write.events:
            self._add_event(run, event, write)
        if write.ending is not None:
            self._add_event(run, _ending_event(write.ending), write)

    def _add_step(self, run: _RunRows, step: StepRecord, write: RunWrite) -> None:
        if step.status is StepStatus.COMPLETED:
            run.completed += 1
            run.next_step = max(run.next_step or 0, step.position + 1)
        self.steps.append(
            (
                step.run_id,
                rows.plain_text(step.name),
                step.position,
                step.status,
                step.output_json,
                rows.error_text(step.error),
                step.started_at,
                step.completed_at,
                write.lease.generation,
                write.number,
            )
        )

    def _add_event(self, run: _RunRows, event: DraftEvent | _EndingEvent, write: RunWrite) -> None:
        run.events += 1
        run_id, tail = write.lease.run_id, (write.lease.generation, write.number)
        at = event.at if isinstance(event, DraftEvent) else None
        step = event.step if isinstance(event, DraftEvent) else None
        position = event.position if isinstance(event, DraftEvent) else None
        self.events.append(
            (len(self.events), run_id, run.events, event.type, step, position, event.payload_json, at, *tail)
        )
        if isinstance(event, DraftEvent) and event.log is not None:
            message = rows.plain_text(event.log.message)
            self.logs.append((run_id, run.events, step, event.log.level, message, event.log.data_json, event.at, *tail))


@dataclass(frozen=True, slots=True)
class _EndingEvent:
    """The event of an ending; its time is the ending's, by the database's clock."""

    type: EventType
    payload_json: str | None = None


def _ending_event(ending: Ending) -> _EndingEvent:
    match ending.status:
        case RunStatus.COMPLETED:
            return _EndingEvent(EventType.RUN_COMPLETE)
        case RunStatus.FAILED:
            return _EndingEvent(EventType.RUN_FAIL, f'{{"error":{_short_error(ending)}}}')
        case RunStatus.PENDING:
            return _EndingEvent(EventType.RUN_RELEASE)
        case RunStatus.CANCELLED | RunStatus.LEASED:
            message = f"an execution cannot end as {ending.status}"
            raise ValueError(message)


def _short_error(ending: Ending) -> str:
    """The error without its traceback, which stays on the run."""
    error = ending.error
    return (rows.error_text(replace(error, traceback=None)) if error else None) or "null"


def _write_runs(items: Sequence[RunWrite]) -> Operation[list[Verdict]]:
    gathered = _Rows()
    for item in items:
        gathered.add(item)
    ordered = sorted(gathered.runs.values(), key=lambda run: run.lease.run_id)
    ended = [run for run in ordered if run.ending is not None]
    params: dict[str, Param] = {
        "runs": Batch(_RUN, tuple(run.row() for run in ordered)),
        "steps": Batch(_STEP, tuple(gathered.steps)),
        "logs": Batch(_LOG, tuple(gathered.logs)),
        "events": Batch(_EVENT, tuple(gathered.events)),
        "endings": Batch(("id",), tuple((run.lease.run_id,) for run in ended)),
        "forgotten": Batch(
            ("id",), tuple((run.lease.run_id,) for run in ended if run.ending and not run.ending.keep_steps)
        ),
    }
    keys = {item.concurrency_key for item in items if item.ending and item.ending.status.is_terminal}

    def decode(results: Sequence[Rows]) -> list[Verdict]:
        stored: dict[Any, Any] = {row["id"]: row["stored"] for row in results[0]}
        return [Verdict.STORED if stored[item.lease.run_id] else Verdict.REFUSED for item in items]

    return Operation(
        statements=(Statement("write_runs", params),),
        decode=decode,
        keys=tuple(sorted(key for key in keys if key is not None)),
        wakes=Wake.WORK | Wake.EVENTS if ended else Wake.EVENTS,
    )


def _take(items: Sequence[RunWrite]) -> int:
    """A run's writes of one batch are of one lease, and nothing follows its end."""
    seen: dict[str, RunWrite] = {}
    for place, item in enumerate(items):
        before = seen.get(item.lease.run_id)
        if before is not None and (before.lease != item.lease or before.ending is not None):
            return place
        seen[item.lease.run_id] = item
    return len(items)


def _run_id(item: RunWrite) -> str:
    return item.lease.run_id


write_fast: Write[RunWrite, Verdict] = Write("write", Lane.FAST, _write_runs, _take, _run_id)
write_keyed: Write[RunWrite, Verdict] = Write("write", Lane.KEYED, _write_runs, _take, _run_id)


def cancel_step(lease: Lease, event: DraftEvent) -> Operation[None]:
    """Append the `step:cancel` of the step that a cancel interrupted. Does nothing for another generation."""
    params: dict[str, Param] = {
        "run_id": lease.run_id,
        "generation": lease.generation,
        "step": event.step,
        "position": event.position,
        "at": event.at,
    }
    return Operation(statements=(Statement("cancel_step", params),), decode=lambda _: None, wakes=Wake.EVENTS)
