"""Runs, steps, logs and events as JSON text, in the words of the wire. Stored JSON is passed on, not parsed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from durably import Event, EventType, LogLine, Run, Snapshot, StepRecord

_LEVELS = {"debug": "info", "info": "info", "warning": "warn", "error": "error"}


def text(value: object) -> str:
    """Compact JSON text of a plain value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def compose(members: dict[str, str]) -> str:
    """Return the object whose members are JSON texts already."""
    return "{" + ",".join(f'"{name}":{member}' for name, member in members.items()) + "}"


def time_text(at: datetime | None) -> str:
    """Return a time in UTC with three fraction digits, as JSON."""
    if at is None:
        return "null"
    return f'"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")}Z"'


def run_json(run: Run[Any]) -> str:
    """Return a client run."""
    progress = run.progress
    members = {
        "id": text(run.id),
        "jobName": text(run.job),
        "input": _line(run.input_json),
        "status": text(run.status),
        "currentStepIndex": text(run.next_step),
        "completedStepCount": text(run.completed_steps),
        "progress": "null" if progress is None else _progress(progress.current, progress.total, progress.message),
        "output": "null" if run.output_json is None else _line(run.output_json),
        "error": "null" if run.error is None else text(run.error.message),
        "labels": text(dict(run.labels)),
        "startedAt": time_text(run.started_at),
        "completedAt": time_text(run.completed_at),
        "createdAt": time_text(run.created_at),
        "isTerminal": text(run.is_terminal),
        "isActive": text(not run.is_terminal),
        "attempt": text(run.attempt),
        "priority": text(run.priority),
        "availableAt": time_text(run.available_at),
        "waitingFor": text(run.hold),
    }
    return compose(members)


def step_json(step: StepRecord) -> str:
    """Return a finished step."""
    members = {
        "id": text(f"{step.run_id}:{step.name}"),
        "runId": text(step.run_id),
        "name": text(step.name),
        "index": text(step.position),
        "status": text(step.status),
        "output": "null" if step.output_json is None else _line(step.output_json),
        "error": "null" if step.error is None else text(step.error.message),
        "startedAt": time_text(step.started_at),
        "completedAt": time_text(step.completed_at),
    }
    return compose(members)


def log_json(line: LogLine) -> str:
    """Return a line of a run's log. `seq` is where the next page begins."""
    members = {
        "seq": text(line.seq),
        "runId": text(line.run_id),
        "stepName": text(line.step),
        "level": text(_LEVELS[line.level]),
        "message": text(line.message),
        "data": "null" if line.data_json is None else _line(line.data_json),
        "createdAt": time_text(line.created_at),
    }
    return compose(members)


def full_event(event: Event, *, input_json: str, leased_at: datetime | None) -> str:
    """Return an event of the stream of one run. `leased_at` is when the run that it completes was leased."""
    members = _common(event)
    members["timestamp"] = time_text(event.created_at)
    members["sequence"] = text(event.seq)
    match event.type:
        case EventType.RUN_LEASED:
            members |= _leased(event, input_json)
        case EventType.STEP_COMPLETE:
            output, duration = _output_and_duration(event)
            members |= _step(event) | {"output": output, "duration": duration}
        case EventType.RUN_COMPLETE:
            members |= {"output": _output(event), "duration": _since(event, leased_at)}
        case EventType.RUN_FAIL:
            error = _error(event)
            members |= {"error": text(error.get("message")), "failedStepName": text(error.get("step") or "unknown")}
        case _:
            members |= _details(event)
    return compose(members)


def thin_event(event: Event) -> str:
    """Return an event of the stream of many runs."""
    return compose(_common(event) | _details(event))


def snapshot_events(snapshot: Snapshot[Any], now: datetime) -> list[tuple[EventType, str]]:
    """Return what stands for the past of a run whose stream begins now: its state, as events."""
    run = snapshot.run
    kind, further = _state(snapshot)
    if kind is None:
        return []
    common = {"runId": text(run.id), "jobName": text(run.job), "labels": text(dict(run.labels))}
    common |= {"timestamp": time_text(now), "sequence": "0"}
    events = [(kind, compose({"type": text(kind)} | common | further))]
    if kind is EventType.RUN_LEASED and run.progress is not None:
        progress = _progress(run.progress.current, run.progress.total, run.progress.message)
        events.append(
            (EventType.RUN_PROGRESS, compose({"type": text(EventType.RUN_PROGRESS)} | common | {"progress": progress}))
        )
    return events


def _state(snapshot: Snapshot[Any]) -> tuple[EventType | None, dict[str, str]]:
    run = snapshot.run
    match run.status:
        case "pending":
            return None, {}
        case "leased":
            further = {"input": _line(run.input_json), "leaseOwner": text(snapshot.lease_owner)}
            return EventType.RUN_LEASED, further | {"leaseExpiresAt": time_text(snapshot.lease_expires_at)}
        case "completed":
            return EventType.RUN_COMPLETE, {"output": _line(run.output_json or "null"), "duration": "0"}
        case "failed":
            message = "Unknown error" if run.error is None else run.error.message
            return EventType.RUN_FAIL, {"error": text(message), "failedStepName": '""'}
        case _:
            return EventType.RUN_CANCEL, {}


def _common(event: Event) -> dict[str, str]:
    return {
        "type": text(event.type),
        "runId": text(event.run_id),
        "jobName": text(event.job),
        "labels": text(dict(event.labels)),
    }


def _details(event: Event) -> dict[str, str]:
    """What both streams say alike."""
    match event.type:
        case EventType.RUN_PROGRESS:
            return {"progress": _line(event.payload_json or "null")}
        case EventType.RUN_COALESCED:
            skipped, _, labels = _inner(event).rpartition(',"skippedLabels":')
            return {"skippedInput": skipped.removeprefix('"skippedInput":') or "null", "skippedLabels": labels or "{}"}
        case EventType.STEP_START | EventType.STEP_COMPLETE | EventType.STEP_CANCEL:
            return _step(event)
        case EventType.STEP_FAIL:
            return _step(event) | {"error": text(_error(event).get("message"))}
        case EventType.LOG_WRITE:
            return _log(event)
        case _:
            return {}


def _step(event: Event) -> dict[str, str]:
    return {"stepName": text(event.step), "stepIndex": text(event.position)}


def _log(event: Event) -> dict[str, str]:
    head, has_data, data = _inner(event).partition(',"data":')  # a message has its quotes escaped
    line = json.loads("{" + head + "}")
    level = _LEVELS.get(line.get("level"), "info")
    members = {"stepName": text(event.step), "level": text(level), "message": text(line.get("message", ""))}
    return members | ({"data": data} if has_data else {})


def _leased(event: Event, input_json: str) -> dict[str, str]:
    """The lease as the event tells it: renewals may have prolonged it since."""
    told = _parsed(event)
    at = event.created_at
    ends = None if at is None else datetime.fromtimestamp(at.timestamp() + float(told.get("leaseMs", 0)) / 1000, UTC)
    return {"input": _line(input_json), "leaseOwner": text(told.get("owner")), "leaseExpiresAt": time_text(ends)}


def _output_and_duration(event: Event) -> tuple[str, str]:
    """The stored output as it is; the duration stands behind it."""
    output, found, duration = (event.payload_json or "").rpartition(',"durationMs":')
    if not found or not output.startswith('{"output":'):
        return "null", "0"
    return _line(output.removeprefix('{"output":')), duration.removesuffix("}")


def _output(event: Event) -> str:
    """The stored output as it is; null if it is not there any more, for its run was deleted."""
    payload = event.payload_json or ""
    return _line(payload[len('{"output":') : -1]) if payload.startswith('{"output":') else "null"


def _since(event: Event, leased_at: datetime | None) -> str:
    if leased_at is None or event.created_at is None:
        return "0"
    return text(max(0, round((event.created_at - leased_at).total_seconds() * 1000)))


def _error(event: Event) -> dict[str, Any]:
    found: dict[str, Any] | None = _parsed(event).get("error")
    return found or {}


def _inner(event: Event) -> str:
    """The members of the payload, as text."""
    return _line(event.payload_json or "{}").removeprefix("{").removesuffix("}")


def _parsed(event: Event) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(event.payload_json or "{}")
    return found


def _progress(current: float, total: float | None, message: str | None) -> str:
    fields = {"current": current, "total": total, "message": message}
    return text({name: value for name, value in fields.items() if value is not None})


def _line(stored: str) -> str:
    """Stored JSON on one line: outside of strings a line break is mere space, and within it is always escaped."""
    return stored.replace("\r", " ").replace("\n", " ") if "\n" in stored or "\r" in stored else stored
