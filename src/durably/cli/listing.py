"""`durably runs`: runs as a table, as lines, as JSON, or live."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from durably import Durably, Run, RunStatus
from durably.cli.opening import AsJson, Labels, Url, read_labels, with_durably
from durably.cli.showing import clock, console, is_terminal, print_json, print_line, print_rows, run_json, styled, took
from durably.cli.showing import table as make_table
from durably.cli.wording import shortened

COLUMNS = ("run", "job", "status", "progress", "created", "took", "what")
MIN_INTERVAL, MAX_INTERVAL = 0.05, 86_400.0

Look: TypeAlias = Callable[[], Awaitable[list[Run[object]]]]


def runs(  # each filter is an option
    job: Annotated[list[str] | None, typer.Option("--job", "-j", help="Only this job. Repeat for several.")] = None,
    status: Annotated[list[RunStatus] | None, typer.Option("--status", "-s", help="Only runs in this status.")] = None,
    label: Labels = None,
    key: Annotated[str | None, typer.Option(help="Only runs with this concurrency key.")] = None,
    before: Annotated[str | None, typer.Option(metavar="RUN", help="The page before this run.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many.")] = 20,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show them live until Ctrl-C.")] = False,  # noqa: FBT002  # an option
    interval: Annotated[
        float, typer.Option(min=MIN_INTERVAL, max=MAX_INTERVAL, help="Seconds between two looks.")
    ] = 1.0,
    url: Url = None,
    json: AsJson = False,  # noqa: FBT002  # an option
) -> None:
    """List runs, newest first. In a pipe: one line a run, cells between tabs, times in UTC."""

    async def work(durably: Durably) -> None:
        labels, statuses = read_labels(label), list(status) if status else None

        async def look() -> list[Run[object]]:
            return await durably.get_runs(
                job or None, status=statuses, labels=labels, concurrency_key=key, before=before, limit=limit
            )

        if not watch:
            _show(await look(), json=json)
        elif is_terminal() and not json:
            await _live(look, interval)
        else:
            await _lines(look, interval, json=json)

    with_durably(url, work, is_endless=watch)


def _show(found: Sequence[Run[Any]], *, json: bool) -> None:
    if json:
        for run in found:
            print_json(run_json(run))
    else:
        print_rows(COLUMNS, [row(run) for run in found], nothing="no runs")


async def _live(look: Look, interval: float) -> None:
    out = console()
    with Live(picture(await look(), out.width), console=out, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            await asyncio.sleep(interval)
            live.update(picture(await look(), out.width), refresh=True)


async def _lines(look: Look, interval: float, *, json: bool) -> None:
    """Print each run once, and again whenever it has changed."""
    seen: dict[str, Run[object]] = {}
    while True:
        found = await look()
        changed = [run for run in reversed(found) if seen.get(run.id) != run]
        for run in changed:
            if json:
                print_json(run_json(run))
            else:
                print_line(row(run))
        seen = {run.id: run for run in found}
        await asyncio.sleep(interval)


def picture(found: Sequence[Run[Any]], width: int) -> RenderableType:
    """What `--watch` shows in a terminal of this width."""
    active = sum(not run.is_terminal for run in found)
    head = Text(f"{len(found)} runs, {active} active · {datetime.now(UTC).astimezone():%H:%M:%S} · Ctrl-C ends", "dim")  # noqa: TID251  # what people read
    return Group(make_table(COLUMNS, [row(run) for run in found], width=width), head)


def row(run: Run[Any]) -> tuple[object, ...]:
    """One run in one line."""
    end = run.completed_at or (datetime.now(UTC) if run.status is RunStatus.LEASED else None)  # noqa: TID251  # what people read
    return (
        run.id,
        run.job,
        styled(run.status) if is_terminal() else run.status,
        progress_text(run),
        clock(run.created_at),
        took(run.started_at, end),
        _what(run),
    )


def progress_text(run: Run[Any]) -> str:
    """How far it is: `3/10`, `3`, else its finished steps."""
    progress = run.progress
    if progress is None:
        return f"{run.completed_steps} steps" if run.completed_steps else ""
    return f"{progress.current:g}" if progress.total is None else f"{progress.current:g}/{progress.total:g}"


def _what(run: Run[Any]) -> str:
    """Why it stands as it does."""
    if run.error is not None:
        return shortened(f"{run.error.type}: {run.error.message}", 60)
    if run.hold == "key":
        return f"waits for key {run.concurrency_key}"
    if run.hold == "time":
        return f"waits until {clock(run.available_at)}"
    message = None if run.progress is None else run.progress.message
    return "" if message is None or run.is_terminal else shortened(message, 60)
