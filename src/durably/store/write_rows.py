"""The rows that writes of lease holders come to, gathered run by run for the statement that stores them.

A dialect asks for the batches that its SQL names. Nearly all runs store a new step, or complete: each in one row. Where
all of them do, Postgres takes these rows (`plain`), else the tables that say everything. SQLite takes such runs first,
by what they do (`checkpoints`, `completions`); the rest is `other_...`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

from durably.model import Ending, EventType, Lease, Progress, RunStatus, RunWrite, StepRecord, StepStatus
from durably.store import rows
from durably.store.operation import Batch, Scalar

_COLUMNS = {
    "runs": ("id", "generation", "number", "events", "completed", "next_step", "progress"),
    "steps": (
        "run_id",
        "name",
        "position",
        "status",
        "output",
        "error",
        "started_at",
        "completed_at",
        "events",
        "place",
        "generation",
        "number",
    ),
    "logs": ("run_id", "place", "step", "level", "message", "data", "created_at", "generation", "number"),
    "events": ("run_id", "place", "type", "step", "position", "payload", "created_at", "generation", "number"),
    "endings": ("id", "status", "output", "error", "place", "type", "payload", "generation", "number"),
    "slots": ("id", "generation", "number"),
    "forgotten": ("id", "generation", "number"),
}
"""A step's row stands for so many `events`: 2 its start and its end, 1 its end, 0 none. `place` is that of its end."""
_CHECKPOINT = ("id", "generation", "number", "events", "name", "position", "output", "started_at", "completed_at")
"""`events` is 1 for a step whose start was stored before, else 2."""
_COMPLETION = ("id", "generation", "number", "output")
_PLAIN = _CHECKPOINT
"""A completion has no name, position and times."""
_PLAIN_NAMES = ("plain", "lone", "many")
"""All of them; if there is only one; if there are more."""
_OTHER = "other_"

_Row: TypeAlias = tuple[Scalar, ...]
_Table: TypeAlias = list[_Row]


class WriteRows(Mapping[str, Batch]):
    """The parameters of `write_runs`. A batch is made when it is asked for."""

    def __init__(self, writes: Sequence[RunWrite], *, is_wary: bool = False) -> None:
        """`is_wary`: any step may have a row already."""
        self._is_wary = is_wary
        by_run: dict[str, list[RunWrite]] = {}
        for write in writes:
            by_run.setdefault(write.lease.run_id, []).append(write)
        self._runs = [by_run[run_id] for run_id in sorted(by_run)]

    def __getitem__(self, name: str) -> Batch:
        if name == "checkpoints":
            return Batch(_CHECKPOINT, tuple(self._sorted.checkpoints))
        if name == "completions":
            return Batch(_COMPLETION, tuple(self._sorted.completions))
        if name in _PLAIN_NAMES:
            is_meant = name == "plain" or (name == "lone") == (len(self._plain) == 1)
            return Batch(_PLAIN, self._plain if is_meant else ())
        table = name.removeprefix(_OTHER)
        tables = self._all if table == name else self._others
        return Batch(_COLUMNS[table], tuple(tables.rows[table]))

    def __iter__(self) -> Iterator[str]:
        yield from (*_PLAIN_NAMES, "checkpoints", "completions", *_COLUMNS, *(_OTHER + name for name in _COLUMNS))

    def __len__(self) -> int:
        return len(tuple(iter(self)))

    @cached_property
    def _all(self) -> _Tables:
        return _tables(() if self._plain else self._runs)

    @cached_property
    def _plain(self) -> tuple[_Row, ...]:
        """A row for each run; none when there is one that does anything else."""
        found = self._sorted
        if found.others:
            return ()
        ends = (
            (run_id, generation, number, 1, None, None, output, None, None)
            for run_id, generation, number, output in found.completions
        )
        return (*found.checkpoints, *ends)

    @cached_property
    def _others(self) -> _Tables:
        return _tables(self._sorted.others)

    @cached_property
    def _sorted(self) -> _Sorted:
        found = _Sorted()
        for writes in self._runs:
            write = writes[0]
            if self._is_wary or len(writes) > 1 or write.progress is not None:
                found.others.append(writes)
            elif write.steps and write.ending is None and not write.steps[0].replaces and _is_checkpoint(write):
                found.checkpoints.append(_checkpoint(write))
            elif _is_completion(write):
                lease, output = write.lease, write.ending.output_json if write.ending else None
                found.completions.append((lease.run_id, lease.generation, write.number, output))
            else:
                found.others.append(writes)
        return found


@dataclass(slots=True)
class _Sorted:
    """Runs by what they write."""

    checkpoints: _Table = field(default_factory=_Table)
    completions: _Table = field(default_factory=_Table)
    others: list[list[RunWrite]] = field(default_factory=list[list[RunWrite]])


def _is_checkpoint(write: RunWrite) -> bool:
    """Whether its events are those of one completed step, so that the step's row says them; or whether it has none."""
    events = write.events
    if len(events) == 0:
        return not write.steps
    if len(write.steps) != 1 or write.steps[0].status is not StepStatus.COMPLETED or len(events) > 2:  # noqa: PLR2004 - its start and its end
        return False
    last = events[-1]
    if last.type is not EventType.STEP_COMPLETE or last.step != write.steps[0].name:
        return False
    return len(events) == 1 or (events[0].type is EventType.STEP_START and events[0].step == last.step)


def _checkpoint(write: RunWrite) -> _Row:
    lease, step = write.lease, write.steps[0]
    return (
        lease.run_id,
        lease.generation,
        write.number,
        len(write.events),
        step.name,
        step.position,
        step.output_json,
        step.started_at,
        step.completed_at,
    )


def _is_completion(write: RunWrite) -> bool:
    """Whether it does nothing but complete a run that has no key."""
    ending = write.ending
    return (
        ending is not None
        and ending.status is RunStatus.COMPLETED
        and ending.keep_steps
        and write.concurrency_key is None
        and not write.events
        and not write.steps
    )


# --- any writes -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Run:
    """What one run's writes of a batch come to: a row is updated once in a statement."""

    lease: Lease
    number: int = 0
    events: int = 0
    completed: int = 0
    next_step: int | None = None
    progress: Progress | None = None

    def row(self) -> _Row:
        lease, progress = self.lease, rows.progress_text(self.progress)
        return (lease.run_id, lease.generation, self.number, self.events, self.completed, self.next_step, progress)


class _Tables:
    """Rows by batch. An event's place counts from the run's last one.

    A completed step's row stands for its `step:start` and `step:complete` too, but only where the run has no other
    events in the batch: rows of steps are stored first, and a run's events in the order of their places.
    """

    def __init__(self) -> None:
        self.rows: dict[str, _Table] = {name: [] for name in _COLUMNS}

    def add(self, writes: Sequence[RunWrite]) -> None:
        """Add what was written for one run, in order."""
        run = _Run(writes[0].lease)
        is_told_by_steps = all(map(_is_checkpoint, writes))
        for write in writes:
            run.number = write.number
            if write.progress is not None:
                run.progress = write.progress
            if not is_told_by_steps:
                self._add_events(run, write)
                for step in write.steps:
                    self._add_step(run, step, events=0)
            elif write.steps:
                run.events += len(write.events)
                self._add_step(run, write.steps[0], events=len(write.events))
            if write.ending is not None:
                self._add_ending(run, write.ending, is_keyed=write.concurrency_key is not None)
        self.rows["runs"].append(run.row())

    def _add_events(self, run: _Run, write: RunWrite) -> None:
        run_id, tail = run.lease.run_id, (run.lease.generation, write.number)
        for event in write.events:
            run.events += 1
            place, at, log = run.events, event.at, event.log
            what = (event.type.value, event.step, event.position, event.payload_json)
            self.rows["events"].append((run_id, place, *what, at, *tail))
            if log is not None:
                line = (event.step, log.level, rows.plain_text(log.message), log.data_json)
                self.rows["logs"].append((run_id, place, *line, at, *tail))

    def _add_step(self, run: _Run, step: StepRecord, *, events: int) -> None:
        if step.status is StepStatus.COMPLETED:
            run.completed += 1
            run.next_step = max(run.next_step or 0, step.position + 1)
        self.rows["steps"].append(
            (
                step.run_id,
                step.name,
                step.position,
                step.status.value,
                step.output_json,
                rows.error_text(step.error),
                step.started_at,
                step.completed_at,
                events,
                run.events if events else None,
                run.lease.generation,
                run.number,
            )
        )

    def _add_ending(self, run: _Run, ending: Ending, *, is_keyed: bool) -> None:
        run.events += 1
        fence = (run.lease.generation, run.number)
        event_type, payload = _ending_event(ending)
        what = (ending.status.value, ending.output_json, rows.error_text(ending.error))
        self.rows["endings"].append((run.lease.run_id, *what, run.events, event_type.value, payload, *fence))
        if is_keyed and ending.status.is_terminal:
            self.rows["slots"].append((run.lease.run_id, *fence))  # what the run occupies becomes free
        if not ending.keep_steps:
            self.rows["forgotten"].append((run.lease.run_id, *fence))


def _tables(runs: Sequence[Sequence[RunWrite]]) -> _Tables:
    tables = _Tables()
    for writes in runs:
        tables.add(writes)
    return tables


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
