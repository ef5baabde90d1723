"""What is done in a transaction of the user's, as operations. Their statements are those of `sql/*/inside.sql`.

Each statement gives one JSON text, so that it does not matter how the user's connection decodes rows. No key's row is
touched: the user may keep the transaction open, and whole lanes of workers would wait behind it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from durably.model import Changed, Disposition, Enqueued, NewRun, StepRecord, StoredRun
from durably.store import rows
from durably.store.migrate import Applied
from durably.store.operation import Operation, Param, Rows, Statement, Wake
from durably.store.runs import PRIORITY_US


@dataclass(frozen=True, slots=True)
class Here:
    """What is behind a connection."""

    has_tables: bool
    file: str | None
    """On SQLite the main file."""
    place: str | None
    """On PostgreSQL which tables these are, as long as the server is not started anew."""


@dataclass(frozen=True, slots=True)
class Schema:
    """What our tables say of themselves."""

    applied: Applied
    born: int | None
    """When they were made, in microseconds since 1970. It tells one database from another, also after a restore."""


def look() -> Operation[Here]:
    """Whether our tables are there. Safe where they are not."""

    def decode(results: Sequence[Rows]) -> Here:
        row: rows.AnyRow = results[0][0]
        return Here(has_tables=bool(row["is_here"]), file=row.get("file"), place=row.get("place"))

    return Operation(statements=(Statement("inside_look", {}),), decode=decode, readonly=True)


def version() -> Operation[Schema]:
    """Which migrations were applied, and when it began."""

    def decode(results: Sequence[Rows]) -> Schema:
        row: rows.AnyRow = results[0][0]
        return Schema(Applied(row["version"], row["serves"]), row["born"])

    return Operation(statements=(Statement("inside_version", {}),), decode=decode, readonly=True)


def enqueue(items: Sequence[NewRun]) -> Operation[list[Enqueued]]:
    """Store new runs, all of them `if_pending="queue"`. Keyed ones wait until a worker has put them in line."""
    text = json.dumps([_row(place, item) for place, item in enumerate(items)])
    insert: dict[str, Param] = {"items": text, "priority_us": PRIORITY_US, "note": _note(Wake.WORK | Wake.EVENTS)}
    return Operation(
        statements=(Statement("inside_insert", insert), Statement("inside_enqueued", {"items": text})),
        decode=lambda results: [_became(row) for row in results[1]],
    )


def copy_steps(run_id: str, steps: Sequence[StepRecord]) -> Operation[None]:
    """Give a new run these checkpoints of another one, which may be gone by now."""
    taken = [
        (
            step.name,
            step.position,
            step.output_json,
            rows.micros_of_time(step.started_at),
            rows.micros_of_time(step.completed_at),
        )
        for step in steps
    ]
    params: dict[str, Param] = {"run_id": run_id, "steps": json.dumps(taken)}
    return Operation(statements=(Statement("inside_copy", params),), decode=lambda _: None)


def load_steps(run_id: str) -> Operation[list[StepRecord]]:
    """The finished steps of a run, in the order in which they started."""
    return Operation(
        statements=(Statement("inside_steps", {"run_id": run_id}),),
        decode=lambda results: [rows.step(row) for row in results[0]],
        readonly=True,
    )


def get_run(run_id: str) -> Operation[StoredRun | None]:
    """The run as the transaction sees it, or None."""
    return Operation(
        statements=(Statement("inside_run", {"run_id": run_id}),),
        decode=lambda results: rows.run(results[0][0]) if results[0] else None,
        readonly=True,
    )


def cancel(run_id: str, *, token: str) -> Operation[Changed]:
    """Cancel a run that is not over. The slot that it has is given back by a worker, after the commit."""
    params: dict[str, Param] = {
        "run_id": run_id,
        "token": token,
        "note": _note(Wake.WORK | Wake.EVENTS | Wake.CANCEL),
    }

    def decode(results: Sequence[Rows]) -> Changed:
        if not results[1]:
            return Changed(done=False, run=None)
        row: rows.AnyRow = results[1][0]
        return Changed(done=bool(row["done"]), run=rows.run(row["run"]))

    return Operation(
        statements=(Statement("inside_cancel", params), Statement("inside_changed", params)), decode=decode
    )


def _note(wake: Wake) -> str:
    """What the wakers of PostgreSQL hear at the commit: one note, however often it is sent."""
    return f"transaction {wake.value}"


def _row(place: int, item: NewRun) -> tuple[str | int | None, ...]:
    """SQLite takes the start time as microseconds, PostgreSQL as text."""
    run_at: datetime | None = item.run_at
    return (
        place,
        item.id,
        item.job,
        item.input_json,
        item.input_digest,
        item.idempotency_key,
        item.concurrency_key,
        item.if_pending,
        json.dumps(dict(item.labels), sort_keys=True),
        item.priority,
        None if item.delay is None else rows.micros(item.delay),
        None if run_at is None else rows.micros_of_time(run_at),
        None if run_at is None else run_at.isoformat(),
    )


def _became(row: rows.AnyRow) -> Enqueued:
    became = row["became"]
    return Enqueued(run=rows.run(row["run"]), disposition=None if became == "conflict" else Disposition(became))
