"""`durably show`: everything about one run."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.text import Text

from durably import Durably, Event, EventType, LogLine, Run, RunNotFound, StepRecord
from durably.cli.opening import AsJson, Url, with_durably
from durably.cli.showing import (
    clock,
    console,
    is_terminal,
    log_json,
    print_json,
    print_line,
    run_json,
    step_json,
    styled,
    table,
    time_json,
    took,
)
from durably.cli.wording import plain, shortened

BAR = 40
"""The width of the timeline."""
PAGE = 1000
MAX_VALUE = 2000
"""Characters of an input or output that are shown; `--json` has all of it."""
_ENDS = {EventType.RUN_RELEASE, EventType.RUN_COMPLETE, EventType.RUN_FAIL, EventType.RUN_CANCEL}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSpan:
    """A lease of the run, as its events tell of it."""

    generation: int
    owner: str
    since: datetime | None
    until: datetime | None
    """None while it is in force."""
    end: str
    """What ended it: `completed`, `released`, `expired`, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A run and all that is stored of it."""

    run: Run[object]
    steps: list[StepRecord]
    logs: list[LogLine]
    leases: list[LeaseSpan]


def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The id of a run.")],
    url: Url = None,
    json: AsJson = False,  # noqa: FBT002  # an option
) -> None:
    """Show one run: its steps as a timeline, its leases, its log, and its error with the traceback."""

    async def work(durably: Durably) -> None:
        story = await read_story(durably, run)
        if json:
            print_json(story_json(story))
        elif is_terminal():
            _draw(story)
        else:
            _write(story)

    with_durably(url, work)


async def read_story(durably: Durably, run_id: str) -> Story:
    """Everything about a run. Raises RunNotFound."""
    run = await durably.get_run(run_id)
    if run is None:
        raise RunNotFound(run_id)
    logs: list[LogLine] = []
    while page := await durably.get_logs(run, after=logs[-1].seq if logs else 0, limit=PAGE):
        logs += page
        if len(page) < PAGE:
            break
    events: list[Event] = []
    while found := await durably.get_events(run=run, after=(events[-1].seq or 0) if events else 0, limit=PAGE):
        events += found
        if len(found) < PAGE:
            break
    return Story(run=run, steps=await durably.get_steps(run), logs=logs, leases=leases_of(events))


def leases_of(events: Iterable[Event]) -> list[LeaseSpan]:
    """The leases that these events tell of, in order."""
    spans: list[LeaseSpan] = []

    def end(at: datetime | None, how: str) -> None:
        if spans and spans[-1].until is None:
            last = spans[-1]
            spans[-1] = LeaseSpan(generation=last.generation, owner=last.owner, since=last.since, until=at, end=how)

    for event in events:
        if event.type is EventType.RUN_LEASED:
            end(event.created_at, "expired")
            payload: dict[str, Any] = jsonlib.loads(event.payload_json or "{}")
            span = LeaseSpan(
                generation=payload.get("generation", 0),
                owner=payload.get("owner", ""),
                since=event.created_at,
                until=None,
                end="in force",
            )
            spans.append(span)
        elif event.type in _ENDS:
            end(event.created_at, event.type.value.partition(":")[2])
    return spans


def story_json(story: Story) -> dict[str, object]:
    """The run with all that is stored of it."""
    leases = [
        {
            "generation": lease.generation,
            "owner": lease.owner,
            "since": time_json(lease.since),
            "until": time_json(lease.until),
            "end": lease.end,
        }
        for lease in story.leases
    ]
    return run_json(story.run) | {
        "steps": [step_json(step) for step in story.steps],
        "leases": leases,
        "logs": [log_json(line) for line in story.logs],
    }


# --- as text --------------------------------------------------------------------------------------------


def facts(run: Run[object]) -> list[tuple[str, object]]:
    """The head of the page: names and values of what is set."""
    ended = run.completed_at or (datetime.now(UTC) if run.started_at else None)  # noqa: TID251  # what people read
    lease = run.lease_owner and f"{run.lease_owner}, generation {run.generation}, until {clock(run.lease_expires_at)}"
    found: list[tuple[str, object]] = [
        ("run", run.id),
        ("job", run.job),
        ("status", run.status if run.hold is None else f"{run.status}, waits for its {run.hold}"),
        ("created", clock(run.created_at)),
        ("starts", clock(run.available_at)),
        ("started", clock(run.started_at)),
        ("ended", clock(run.completed_at)),
        ("took", took(run.started_at, ended)),
        ("attempt", run.attempt or ""),
        ("crashes", run.crashes or ""),
        ("lease", lease),
        ("progress", _progress(run)),
        ("labels", ", ".join(f"{name}={value}" for name, value in sorted(run.labels.items()))),
        ("priority", run.priority or ""),
        ("idempotency key", run.idempotency_key),
        ("concurrency key", run.concurrency_key),
        ("input", _cut(run.input_json)),
        ("output", _cut(run.output_json)),
    ]
    return [(name, value) for name, value in found if value not in {None, ""}]


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}… ({len(text):,} characters)"


def _progress(run: Run[object]) -> str:
    progress = run.progress
    if progress is None:
        return ""
    share = f" of {progress.total:g} ({progress.current / progress.total:.0%})" if progress.total else ""
    return f"{progress.current:g}{share}{f': {progress.message}' if progress.message else ''}"


def bar(step: StepRecord, start: datetime, end: datetime) -> str:
    """Where in the run's time a step lies: `   ━━━      `."""
    whole = max((end - start) / timedelta(seconds=1), 1e-9)
    first = int((step.started_at - start) / timedelta(seconds=1) / whole * BAR)
    last = int((step.completed_at - start) / timedelta(seconds=1) / whole * BAR)
    first = min(max(first, 0), BAR - 1)
    last = min(max(last, first), BAR - 1)
    return " " * first + "━" * (last - first + 1) + " " * (BAR - 1 - last)


def step_rows(steps: Sequence[StepRecord]) -> list[tuple[object, ...]]:
    """The timeline."""
    if not steps:
        return []
    start, end = min(step.started_at for step in steps), max(step.completed_at for step in steps)
    return [
        (
            step.name,
            styled(step.status) if is_terminal() else step.status,
            f"+{took(start, step.started_at)}",
            took(step.started_at, step.completed_at),
            Text(bar(step, start, end), style="red" if step.error else "green") if is_terminal() else "",
            "" if step.error is None else shortened(f"{step.error.type}: {step.error.message}", 60),
        )
        for step in steps
    ]


def lease_rows(leases: Sequence[LeaseSpan]) -> list[tuple[object, ...]]:
    """The leases."""
    return [
        (lease.generation, lease.owner, clock(lease.since), took(lease.since, lease.until), lease.end)
        for lease in leases
    ]


def log_rows(logs: Sequence[LogLine]) -> list[tuple[object, ...]]:
    """The log."""
    return [
        (
            clock(line.created_at),
            line.level,
            line.step or "",
            f"{line.message}{f' {line.data_json}' if line.data_json else ''}",
        )
        for line in logs
    ]


def _draw(story: Story) -> None:
    out = console()
    for name, value in facts(story.run):
        text = styled(str(value)) if name == "status" else Text(plain(value))
        out.print(Text.assemble((f"{name:16}", "dim"), text), soft_wrap=True)
    parts = (
        ("steps", ("step", "status", "start", "took", "", "error"), step_rows(story.steps)),
        ("leases", ("generation", "worker", "since", "took", "end"), lease_rows(story.leases)),
    )
    for title, columns, rows in parts:
        if rows:
            out.print(Text(f"\n{title}", style="bold"))
            out.print(table(columns, rows, width=out.width))
    if story.logs:
        out.print(Text("\nlog", style="bold"))
        for at, level, step, message in log_rows(story.logs):
            style = {"error": "red", "warning": "yellow", "debug": "dim"}.get(str(level), "")
            line = Text.assemble((f"{at} {level:7} {plain(step):20} ", "dim"), (plain(message), style))
            out.print(line, soft_wrap=True)
    if story.run.error is not None:
        error = story.run.error
        where = f" in step {error.step}" if error.step else ""
        out.print(Text(f"\nerror{where}", style="bold"))
        out.print(Text(plain(error.traceback or f"{error.type}: {error.message}"), style="red"), soft_wrap=True)


def _write(story: Story) -> None:
    """For a pipe: each line begins with what it is about."""
    for name, value in facts(story.run):
        print_line((name, value))
    for kind, rows in (
        ("step", step_rows(story.steps)),
        ("lease", lease_rows(story.leases)),
        ("log", log_rows(story.logs)),
    ):
        for row in rows:
            print_line((kind, *row))
    if story.run.error is not None:
        for line in (story.run.error.traceback or f"{story.run.error.type}: {story.run.error.message}").splitlines():
            print_line(("error", line))
