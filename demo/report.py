"""The steps and the events of the run, as tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from demo.proof import Moment, step_of
from demo.screen import Screen, excerpt
from demo.tables import Execution
from durably import Event, EventType, StepRecord

STEP_COLUMNS = ("step", "starts", "commits", "generation", "ms", "")
EVENT_COLUMNS = ("seq", "seconds", "event", "step", "what")
WHAT_LENGTH = 40


def show_steps(screen: Screen, steps: Sequence[StepRecord], executions: Sequence[Execution], moment: Moment) -> None:
    """Show what durably stored of each step, beside what the table `executions` says of it."""
    starts = Counter(step_of(execution.batch) for execution in executions)
    commits = Counter(step_of(execution.batch) for execution in executions if execution.committed)
    interrupted = {step_of(batch) for batch in moment.interrupted}

    def row(step: StepRecord) -> tuple[str, ...]:
        took = (step.completed_at - step.started_at).total_seconds() * 1000
        numbers = (str(count[step.name]) if step.name in starts else "" for count in (starts, commits))
        note = "killed here" if step.name in interrupted else ""
        return (step.name, *numbers, str(step.generation), f"{took:.0f}", note)

    places = excerpt(len(steps), [place for place, step in enumerate(steps) if step.name in interrupted])
    screen.table(
        f"{len(steps)} steps (starts and commits: the user's table `executions`)",
        STEP_COLUMNS,
        [None if place is None else row(steps[place]) for place in places],
    )


def show_events(screen: Screen, events: Sequence[Event]) -> None:
    """Show the events of the run."""
    began = next((event.created_at for event in events if event.created_at is not None), None)

    def row(event: Event) -> tuple[str, ...]:
        seconds = "" if event.created_at is None or began is None else (event.created_at - began).total_seconds()
        return (str(event.seq), f"{seconds:.2f}" if seconds != "" else "", event.type, event.step or "", _what(event))

    leased = [place for place, event in enumerate(events) if event.type is EventType.RUN_LEASED]
    places = excerpt(len(events), leased)
    screen.table(
        f"{len(events)} events",
        EVENT_COLUMNS,
        [None if place is None else row(events[place]) for place in places],
    )


def _what(event: Event) -> str:
    if event.payload_json is None:
        return ""
    payload: dict[str, object] = json.loads(event.payload_json)
    if event.type is EventType.RUN_PROGRESS:
        return f"{payload['current']} of {payload['total']} rows"
    if event.type is EventType.RUN_LEASED:
        return f"attempt {payload['attempt']}, generation {payload['generation']}"
    if event.type is EventType.RUN_COMPLETE:
        return f"output {json.dumps(payload['output'])}"[:WHAT_LENGTH]
    if event.type is EventType.STEP_COMPLETE:
        return f"{payload['durationMs']:.0f} ms"
    return json.dumps(payload)[:WHAT_LENGTH]
