"""`durably events`: what happened, and what happens."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

import typer
from rich.text import Text

from durably import Durably, Event, ValidationError
from durably.cli.opening import AsJson, Labels, Url, read_labels, with_durably
from durably.cli.showing import clock, console, event_json, is_terminal, print_json, print_line
from durably.cli.wording import plain, shortened

MAX_PAYLOAD = 100
_STYLES = {"fail": "red", "complete": "green", "cancel": "magenta", "leased": "cyan", "trigger": "yellow"}


def events(  # each filter is an option
    run: Annotated[str | None, typer.Option("--run", "-r", metavar="RUN", help="Only those of this run.")] = None,
    job: Annotated[list[str] | None, typer.Option("--job", "-j", help="Only those of this job's runs.")] = None,
    label: Labels = None,
    after: Annotated[
        int | None, typer.Option(min=0, help="Those after this cursor; with --run after this number.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, max=1000, help="How many, without --follow.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C, or the end of the run.")] = False,  # noqa: FBT002  # an option
    url: Url = None,
    json: AsJson = False,  # noqa: FBT002  # an option
) -> None:
    """Print events: the last ones, those after a cursor, or all from now on (`--follow`), from every process."""

    def tell(event: Event) -> None:
        if json:
            print_json(event_json(event))
        elif is_terminal():
            console().print(line(event), soft_wrap=True)
        else:
            print_line(cells(event))

    async def work(durably: Durably) -> None:
        labels = read_labels(label)
        if run is not None and (job or labels):
            raise ValidationError("--run", "cannot be used together with --job or --label")
        if not follow:
            found = await durably.get_events(run=run, job=job or None, labels=labels, after=after, limit=max(limit, 1))
            for event in found if limit else ():
                tell(event)
            return
        stream = durably.events(run=run, job=job or None, labels=labels, after=after)
        async with aclosing(stream):
            async for event in stream:
                tell(event)

    with_durably(url, work, is_endless=follow)


def cells(event: Event) -> tuple[object, ...]:
    """An event as cells: cursor (or number), time, type, job, run, step, payload."""
    number = event.seq if event.cursor is None else event.cursor
    payload = event.payload_json or ""
    return (number, clock(event.created_at), event.type, event.job, event.run_id, event.step, payload)


def line(event: Event) -> Text:
    """An event for a terminal."""
    number, at, kind, job, run, step, payload = (plain(cell) for cell in cells(event))
    style = _STYLES.get(kind.partition(":")[2], "")
    return Text.assemble(
        (f"{at} ", "dim"),
        (f"{kind:14} ", style),
        f"{job} ",
        (f"{run} ", "dim"),
        (f"{step} " if step else "", "bold"),
        (f"{shortened(payload, MAX_PAYLOAD)} ({number})", "dim"),
    )
