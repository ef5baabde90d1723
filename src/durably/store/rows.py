"""Rows to values and values to parameters, alike for both dialects.

SQLite keeps times as integer microseconds and truth as 0 and 1; Postgres has types for them. All else is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeAlias

from durably.model import (
    Event,
    EventType,
    Hold,
    LogLine,
    Progress,
    RunError,
    RunStatus,
    StepRecord,
    StepStatus,
    StoredRun,
)
from durably.rules.event_ids import first_id, last_id

AnyRow: TypeAlias = Mapping[str, Any] | Any  # a driver's row: values are what the columns say

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_stored: Callable[..., StoredRun] = StoredRun
_STATUSES: Mapping[str, RunStatus] = {status.value: status for status in RunStatus}


def micros(value: timedelta) -> int:
    """A duration in microseconds."""
    return value // _MICROSECOND


def micros_of_time(value: datetime) -> int:
    """A time as microseconds since 1970."""
    return (value - EPOCH) // _MICROSECOND


def time(value: int | datetime) -> datetime:
    """A column that is never null as a time."""
    if isinstance(value, int):
        return _time_of_micros(value)
    return value if value.tzinfo is UTC else value.astimezone(UTC)


@lru_cache(maxsize=256)  # rows that were written together share their times
def _time_of_micros(value: int) -> datetime:
    return EPOCH + timedelta(microseconds=value)


def optional_time(value: int | datetime | None) -> datetime | None:
    """A column that may be null as a time."""
    return None if value is None else time(value)


def labels(text: str | None) -> dict[str, str]:
    """A column of labels; null means none."""
    return json.loads(text) if text and text != "{}" else {}


def error(text: str | None) -> RunError | None:
    """A column that holds an error."""
    return None if text is None else RunError(**json.loads(text))


def error_text(value: RunError | None) -> str | None:
    """An error as a column holds it."""
    if value is None:
        return None
    fields = {"type": value.type, "message": value.message, "traceback": value.traceback, "step": value.step}
    return json.dumps({name: field for name, field in fields.items() if field is not None})


def progress(text: str | None) -> Progress | None:
    """A column that holds progress."""
    return None if text is None else Progress(**json.loads(text))


def progress_text(value: Progress | None) -> str | None:
    """Progress as a column and an event's payload hold it: what the job did not give is left out."""
    if value is None:
        return None
    fields = {"current": value.current, "total": value.total, "message": value.message}
    return json.dumps({name: field for name, field in fields.items() if field is not None})


def plain_text(value: str) -> str:
    """Free text as every database stores it: NUL and lone surrogates become escapes."""
    return value.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def run(row: AnyRow) -> StoredRun:
    """A row of `{run_columns}`."""
    hold = row["hold"]
    return StoredRun(
        id=row["id"],
        job=row["job"],
        input_json=row["input"],
        status=_STATUSES[row["status"]],
        hold=None if hold is None else Hold(hold),
        priority=row["priority"],
        idempotency_key=row["idempotency_key"],
        concurrency_key=row["concurrency_key"],
        labels=labels(row["labels"]),
        generation=row["generation"],
        attempt=row["attempt"],
        crashes=row["crashes"],
        output_json=row["output"],
        error=error(row["error"]),
        progress=progress(row["progress"]),
        next_step=row["next_step"],
        completed_steps=row["completed_steps"],
        lease_owner=row["lease_owner"],
        lease_expires_at=optional_time(row["lease_expires_at"]),
        available_at=optional_time(row["available_at"]),
        created_at=time(row["created_at"]),
        started_at=optional_time(row["started_at"]),
        completed_at=optional_time(row["completed_at"]),
    )


def claimed(row: AnyRow, *, owner: str) -> StoredRun:
    """A row of `{claimed_columns}`, taken by places: by names, it takes twice as long."""
    (
        run_id,
        job,
        input_json,
        priority,
        idempotency_key,
        concurrency_key,
        labels_text,
        generation,
        attempt,
        crashes,
        progress_json,
        next_step,
        completed_steps,
        expires_at,
        available_at,
        created_at,
        started_at,
    ) = row.values()
    return _stored(
        run_id,
        job,
        input_json,
        RunStatus.LEASED,
        None,
        priority,
        idempotency_key,
        concurrency_key,
        labels(labels_text),
        generation,
        attempt,
        crashes,
        None,
        None,
        progress(progress_json),
        next_step,
        completed_steps,
        owner,
        time(expires_at),
        optional_time(available_at),
        time(created_at),
        time(started_at),
        None,
    )


def runs(rows: Sequence[AnyRow]) -> list[StoredRun]:
    """Rows of `{run_columns}` in the order in which runs are served."""
    return [run(row) for row in sorted(rows, key=lambda row: (row["rank"], row["id"]))]


def step(row: AnyRow) -> StepRecord:
    """A row of steps."""
    return StepRecord(
        run_id=row["run_id"],
        name=row["name"],
        position=row["position"],
        status=StepStatus(row["status"]),
        output_json=row["output"],
        error=error(row["error"]),
        generation=row["generation"],
        started_at=time(row["started_at"]),
        completed_at=time(row["completed_at"]),
    )


def log_line(row: AnyRow) -> LogLine:
    """A row of logs."""
    return LogLine(
        run_id=row["run_id"],
        seq=row["seq"],
        step=row["step"],
        level=row["level"],
        message=row["message"],
        data_json=row["data"],
        created_at=time(row["created_at"]),
    )


def events(row: AnyRow) -> tuple[Event, ...]:
    """What a row of `{event_columns}` says, in order: one event, or before it the start of its step."""
    event = _event(row)
    return (event,) if row["started_at"] is None else (_start_before(event, row), event)


def _start_before(event: Event, row: AnyRow) -> Event:
    return Event(
        id=first_id(last_id(row["id"])),
        seq=row["seq"] - 1,
        type=EventType.STEP_START,
        run_id=event.run_id,
        job=event.job,
        labels=dict(event.labels),
        step=event.step,
        position=event.position,
        created_at=time(row["started_at"]),
    )


def _event(row: AnyRow) -> Event:
    """The event that a row is about, its payload joined from where it refers to."""
    return Event(
        id=last_id(row["id"]),
        seq=row["seq"],
        type=EventType(row["type"]),
        run_id=row["run_id"],
        job=row["job"],
        labels=labels(row["labels"]),
        step=row["step"],
        position=row["position"],
        payload_json=_payload(row),
        created_at=time(row["created_at"]),
    )


def _payload(row: AnyRow) -> str | None:
    """The stored payload, or an object around the JSON text that the event refers to, which is not parsed."""
    match row["type"]:
        case EventType.RUN_COMPLETE if row["run_output"] is not None:
            return f'{{"output":{row["run_output"]}}}'
        case EventType.STEP_COMPLETE if row["step_started_at"] is not None:
            took = time(row["step_completed_at"]) - time(row["step_started_at"])
            return f'{{"output":{row["step_output"] or "null"},"durationMs":{micros(took) / 1000}}}'
        case EventType.LOG_WRITE if row["log_level"] is not None:
            message = json.dumps(row["log_message"])
            data = f',"data":{row["log_data"]}' if row["log_data"] is not None else ""
            return f'{{"level":"{row["log_level"]}","message":{message}{data}}}'
        case _:
            stored: str | None = row["payload"]
            return stored
