"""How things look: tables and colours in a terminal, tab-separated lines in a pipe, JSON where it is asked for."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from durably import Event, LogLine, Run, RunError, StepRecord
from durably.cli.wording import plain

STATUS_STYLES = {
    "pending": "yellow",
    "leased": "cyan",
    "completed": "green",
    "failed": "red",
    "cancelled": "magenta",
    "ok": "green",
    "warning": "yellow",
    "problem": "red",
}


def console() -> Console:
    """Standard output, as wide as the terminal."""
    return Console(highlight=False, soft_wrap=False)


def errors() -> Console:
    """Standard error: progress and questions. Nothing is written to it in a pipe."""
    return Console(stderr=True, highlight=False)


def is_terminal() -> bool:
    """Whether somebody looks at standard output."""
    return sys.stdout.isatty()


def styled(status: str) -> Text:
    """A status in its colour."""
    return Text(status, style=STATUS_STYLES.get(status, ""))


FLEXIBLE = {"job", "what", "error", "worker", "step"}
"""Columns that may be shortened. The others are shown whole, or not at all."""
EXPENDABLE = ("took", "created", "progress", "generation", "what", "error", "worker", "job", "status")
"""Columns that a narrow terminal does without, the first one first. The first column of a table always stays."""
MIN_FLEXIBLE = 8
GAP = 3


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, width: int) -> Table:
    """A table for a terminal of this width."""
    cells = [[cell if isinstance(cell, Text) else Text(plain(cell)) for cell in row] for row in rows]
    needed = {name: max([len(name), *(row[place].cell_len for row in cells)]) for place, name in enumerate(columns)}
    widths = fitted(needed, width=width)
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name, space in widths.items():
        made.add_column(name, no_wrap=True, overflow="ellipsis", width=space)
    for row in cells:
        made.add_row(*(cell for name, cell in zip(columns, row, strict=True) if name in widths))
    return made


def fitted(needed: Mapping[str, int], *, width: int) -> dict[str, int]:
    """Which columns are shown, and how wide: what is left over goes to the flexible ones, the narrow ones first."""
    least = {name: min(space, MIN_FLEXIBLE) if name in FLEXIBLE else space for name, space in needed.items()}
    for name in EXPENDABLE:
        if _taken(least) > width and name != next(iter(least)):
            least.pop(name, None)
    left = width - _taken(least)
    flexible = sorted((name for name in least if name in FLEXIBLE), key=lambda name: needed[name])
    for place, name in enumerate(flexible):
        more = min(needed[name] - least[name], max(left, 0) // (len(flexible) - place))
        least[name] += more
        left -= more
    return least


def _taken(widths: Mapping[str, int]) -> int:
    """How wide a table of such columns is."""
    return sum(widths.values()) + GAP * (len(widths) - 1)


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[object]], *, nothing: str) -> None:
    """Print a table in a terminal, where nothing is worth a word; in a pipe only lines of cells between tabs."""
    if not is_terminal():
        for row in rows:
            print_line(row)
    elif rows:
        out = console()
        out.print(table(columns, rows, width=out.width))
    else:
        console().print(nothing, style="dim")


def print_line(row: Sequence[object]) -> None:
    """Print one line of cells between tabs."""
    print("\t".join(plain(cell).replace("\t", " ").replace("\n", " ") for cell in row), flush=True)


def print_json(value: object) -> None:
    """Print one line of JSON; where the encoding of the output lacks letters, they are escaped as JSON does it."""
    is_unicode = codecs.lookup(sys.stdout.encoding or "ascii").name.startswith("utf")
    print(json.dumps(value, ensure_ascii=not is_unicode, default=str), flush=True)


# --- values as JSON -------------------------------------------------------------------------------------


def run_json(run: Run[Any]) -> dict[str, object]:
    """A run."""
    lease = None
    if run.lease_owner is not None:
        lease = {"owner": run.lease_owner, "generation": run.generation, "expires_at": time_json(run.lease_expires_at)}
    progress = run.progress
    return {
        "id": run.id,
        "job": run.job,
        "status": run.status,
        "hold": run.hold,
        "input": loaded(run.input_json),
        "output": loaded(run.output_json),
        "error": error_json(run.error),
        "progress": progress and {"current": progress.current, "total": progress.total, "message": progress.message},
        "labels": dict(run.labels),
        "priority": run.priority,
        "idempotency_key": run.idempotency_key,
        "concurrency_key": run.concurrency_key,
        "attempt": run.attempt,
        "crashes": run.crashes,
        "completed_steps": run.completed_steps,
        "lease": lease,
        "available_at": time_json(run.available_at),
        "created_at": time_json(run.created_at),
        "started_at": time_json(run.started_at),
        "completed_at": time_json(run.completed_at),
    }


def step_json(step: StepRecord) -> dict[str, object]:
    """A step."""
    return {
        "name": step.name,
        "position": step.position,
        "status": step.status,
        "output": loaded(step.output_json),
        "error": error_json(step.error),
        "started_at": time_json(step.started_at),
        "completed_at": time_json(step.completed_at),
    }


def log_json(line: LogLine) -> dict[str, object]:
    """A line of a log."""
    return {
        "seq": line.seq,
        "at": time_json(line.created_at),
        "level": line.level,
        "step": line.step,
        "message": line.message,
        "data": loaded(line.data_json),
    }


def event_json(event: Event) -> dict[str, object]:
    """An event; `cursor` is what `--after` takes, but of one run it is `seq`."""
    return {
        "cursor": event.cursor,
        "seq": event.seq,
        "at": time_json(event.created_at),
        "type": event.type,
        "run": event.run_id,
        "job": event.job,
        "step": event.step,
        "labels": dict(event.labels),
        "payload": loaded(event.payload_json),
    }


def error_json(error: RunError | None) -> dict[str, object] | None:
    """An error."""
    if error is None:
        return None
    return {"type": error.type, "message": error.message, "step": error.step, "traceback": error.traceback}


def loaded(text: str | None) -> object:
    """A stored value."""
    value: object = None if text is None else json.loads(text)
    return value


def time_json(time: datetime | None) -> str | None:
    """A time in UTC, as ISO 8601."""
    return None if time is None else time.astimezone(UTC).isoformat()


# --- values for people ----------------------------------------------------------------------------------


def clock(time: datetime | None) -> str:
    """A time: in the terminal's zone, or in UTC in a pipe."""
    if time is None:
        return ""
    if is_terminal():
        with suppress(OverflowError):  # in the terminal's zone it may be beyond the year 9999, or before the year 1
            return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"
    return time.astimezone(UTC).isoformat()


def took(start: datetime | None, end: datetime | None) -> str:
    """How long something took: 250 ms, 3.2 s, 2:05, 1:02:03."""
    if start is None or end is None:
        return ""
    seconds = max((end - start) / timedelta(seconds=1), 0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:  # noqa: PLR2004  # a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
