"""What a lease holder writes: steps, logs, progress, events and the end of its run, all behind one fence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

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
    from durably.store.batch import Answer
    from durably.store.database import Database

_RUN = ("id", "generation", "number", "events", "completed", "next_step", "progress")
_STEP = (
    "run_id",
    "name",
    "position",
    "status",
    "output",
    "error",
    "started_at",
    "completed_at",
    "start_place",
    "end_place",
    "generation",
    "number",
)
"""The places are those of its `step:start` and `step:complete`, which its row stands for. Null: no event."""
_LOG = ("run_id", "place", "step", "level", "message", "data", "created_at", "generation", "number")
_EVENT = ("run_id", "place", "type", "step", "position", "payload", "created_at", "generation", "number")
_ENDING = ("id", "status", "output", "error", "keep_steps", "place", "type", "payload", "generation", "number")


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
    return await database.submit(_plural(write), write, timeout=timeout)


def send_write(database: Database, write: RunWrite, answer: Answer) -> Callable[[], None]:
    """Store what a lease holder wrote, however long it takes, and call back. Returns what gives it up."""
    return database.send(_plural(write), write, answer)


def _plural(write: RunWrite) -> Write[RunWrite, Verdict]:
    is_keyed = write.concurrency_key is not None and write.ending is not None and write.ending.status.is_terminal
    return write_keyed if is_keyed else write_fast


@dataclass(slots=True)
class _RunRow:
    """What one run's writes of a batch come to: a row is updated once in a statement."""

    lease: Lease
    number: int = 0
    events: int = 0
    completed: int = 0
    next_step: int | None = None
    progress: Progress | None = None

    def row(self) -> tuple[Scalar, ...]:
        lease, progress = self.lease, rows.progress_text(self.progress)
        return (lease.run_id, lease.generation, self.number, self.events, self.completed, self.next_step, progress)


_Table: TypeAlias = list[tuple[Scalar, ...]]


class _Rows:
    """The rows of a batch of writes, gathered run by run. An event's place counts from the run's last one."""

    def __init__(self) -> None:
        self.runs: dict[str, _RunRow] = {}
        self.steps: _Table = []
        self.logs: _Table = []
        self.events: _Table = []
        self.endings: _Table = []
        self.slots: _Table = []
        """Keyed runs that end: what they occupy becomes free."""
        self.forgotten: _Table = []
        """Runs whose steps are not kept."""

    def add(self, write: RunWrite) -> None:
        lease = write.lease
        run = self.runs.get(lease.run_id)
        if run is None:
            run = self.runs[lease.run_id] = _RunRow(lease)
        run.number = write.number
        if write.progress is not None:
            run.progress = write.progress
        told = self._add_events(run, write)
        for step in write.steps:
            self._add_step(run, step, told.get(step.name, _UNTOLD), write.number)
        if write.ending is not None:
            self._add_ending(run, write.ending, is_keyed=write.concurrency_key is not None)

    def _add_events(self, run: _RunRow, write: RunWrite) -> dict[str, tuple[int | None, int | None]]:
        """Gather the events; returns the places of those that the rows of completed steps stand for."""
        told: dict[str, tuple[int | None, int | None]] = {}
        completed = {step.name for step in write.steps if step.status is StepStatus.COMPLETED}
        started: dict[str, tuple[int, DraftEvent]] = {}
        place = run.events
        for event in write.events:
            place += 1
            name = event.step
            if name is None or name not in completed:
                self._add_event(run, place, event)
            elif event.type is EventType.STEP_START:
                if (earlier := started.get(name)) is not None:  # it failed, and runs again
                    self._add_event(run, *earlier)
                started[name] = place, event
            elif event.type is EventType.STEP_COMPLETE:
                start = started.pop(name, None)
                told[name] = None if start is None else start[0], place
            else:
                self._add_event(run, place, event)
        for place_of_start, event in started.values():
            self._add_event(run, place_of_start, event)
        run.events = place
        return told

    def _add_event(self, run: _RunRow, place: int, event: DraftEvent) -> None:
        lease, log = run.lease, event.log
        tail = (lease.generation, run.number)
        self.events.append(
            (lease.run_id, place, event.type, event.step, event.position, event.payload_json, event.at, *tail)
        )
        if log is not None:
            message = rows.plain_text(log.message)
            self.logs.append((lease.run_id, place, event.step, log.level, message, log.data_json, event.at, *tail))

    def _add_step(self, run: _RunRow, step: StepRecord, told: tuple[int | None, int | None], number: int) -> None:
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
                *told,
                run.lease.generation,
                number,
            )
        )

    def _add_ending(self, run: _RunRow, ending: Ending, *, is_keyed: bool) -> None:
        run.events += 1
        lease = run.lease
        event_type, payload = _ending_event(ending)
        self.endings.append(
            (
                lease.run_id,
                ending.status,
                ending.output_json,
                rows.error_text(ending.error),
                ending.keep_steps,
                run.events,
                event_type,
                payload,
                lease.generation,
                run.number,
            )
        )
        if is_keyed and ending.status.is_terminal:
            self.slots.append((lease.run_id,))
        if not ending.keep_steps:
            self.forgotten.append((lease.run_id,))


_UNTOLD: tuple[int | None, int | None] = (None, None)


def _ending_event(ending: Ending) -> tuple[EventType, str | None]:
    """The type and the payload of an ending's event; its time is the ending's, by the database's clock."""
    match ending.status:
        case RunStatus.COMPLETED:
            return EventType.RUN_COMPLETE, None
        case RunStatus.FAILED:
            return EventType.RUN_FAIL, f'{{"error":{_short_error(ending)}}}'
        case RunStatus.PENDING:
            return EventType.RUN_RELEASE, None
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
    ordered = sorted(gathered.runs.items())
    params: dict[str, Param] = {
        "runs": Batch(_RUN, tuple(run.row() for _, run in ordered)),
        "steps": Batch(_STEP, tuple(gathered.steps)),
        "logs": Batch(_LOG, tuple(gathered.logs)),
        "events": Batch(_EVENT, tuple(gathered.events)),
        "endings": Batch(_ENDING, tuple(gathered.endings)),
        "slots": Batch(("id",), tuple(gathered.slots)),
        "forgotten": Batch(("id",), tuple(gathered.forgotten)),
    }
    keys = {item.concurrency_key for item in items if item.ending and item.ending.status.is_terminal}

    def decode(results: Sequence[Rows]) -> list[Verdict]:
        if not results[0]:
            return [Verdict.STORED] * len(items)
        refused = {row["id"] for row in results[0]}
        return [Verdict.REFUSED if item.lease.run_id in refused else Verdict.STORED for item in items]

    return Operation(
        statements=(Statement("write_runs", params),),
        decode=decode,
        keys=tuple(sorted(key for key in keys if key is not None)),
        wakes=Wake.WORK | Wake.EVENTS if gathered.endings else Wake.EVENTS,
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
