"""Runs: storing new ones and looking at them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from durably.model import Disposition, Enqueued, Hold, NewRun, RunFilter, RunStatus, StoredRun
from durably.store import rows
from durably.store.operation import Batch, Lane, Operation, Param, Rows, Statement, Wake, Write

PRIORITY_US = 60_000_000
"""How much earlier one unit of priority lets a run start: it overtakes what was triggered up to a minute before."""

_ITEM = (
    "ord",
    "id",
    "job",
    "input",
    "input_digest",
    "idempotency_key",
    "concurrency_key",
    "if_pending",
    "labels",
    "priority",
    "delay_us",
    "run_at",
)


def _enqueue(items: Sequence[NewRun], *, is_read_back: bool = False) -> Operation[list[Enqueued]]:
    """Store new runs. Safe to repeat: a run with the same id is there already.

    What an item was merged into is also read at once: the rest of the transaction may cancel that run, and then the
    last look does not find it any more, or another one.
    """
    params: dict[str, Param] = {"items": Batch(_ITEM, tuple(map(_row, range(len(items)), items)))}
    params["priority_us"] = PRIORITY_US
    merges = any(item.if_pending != "queue" for item in items)
    statements = [Statement("insert_runs", params)]
    if merges:
        statements = [Statement("pin_unstarted", params), Statement("merge_runs", params), *statements]
    is_read = is_read_back or not all(item.is_plain for item in items)
    reads = (Statement("read_enqueued", params),) if is_read else ()
    last = len(statements) - 1
    if merges:
        statements += reads

    def decode(results: Sequence[Rows]) -> list[Enqueued]:
        if reads and not merges:
            return [_became(row) for row in results[-1]]
        if reads:
            late = {row["ord"]: row for row in results[-1]}
            early = {row["ord"]: row for row in results[last + 1]}
            return [_became(_later(row, late.get(place))) for place, row in early.items()]
        inserted: dict[object, rows.AnyRow] = {row["id"]: row for row in results[last]}
        return [_created(item, inserted.get(item.id)) for item in items]

    return Operation(
        statements=tuple(statements),
        decode=decode,
        keys=tuple(sorted({item.concurrency_key for item in items if item.concurrency_key is not None})),
        reads=reads,
        wakes=Wake.WORK | Wake.EVENTS,
    )


def _row(place: int, item: NewRun) -> tuple[str | int | datetime | None, ...]:
    delay = None if item.delay is None else rows.micros(item.delay)
    labels = json.dumps(dict(item.labels), sort_keys=True) if item.labels else "{}"
    return (
        place,
        item.id,
        item.job,
        item.input_json,
        item.input_digest,
        item.idempotency_key,
        item.concurrency_key,
        item.if_pending,
        labels,
        item.priority,
        delay,
        item.run_at,
    )


def _later(early: rows.AnyRow, late: rows.AnyRow | None) -> rows.AnyRow:
    """The row as it was read last, if that is still the run that it was."""
    return late if late is not None and late["id"] == early["id"] else early


def _became(row: rows.AnyRow) -> Enqueued:
    became = row["became"]
    return Enqueued(run=rows.run(row), disposition=None if became == "conflict" else Disposition(became))


def _created(item: NewRun, row: rows.AnyRow | None) -> Enqueued:
    """A run without keys cannot have become anything else, so it need not be read back."""
    created = row or {"hold": None, "available_at": item.run_at, "created_at": _time_of_id(item.id)}
    run = StoredRun(
        id=item.id,
        job=item.job,
        input_json=item.input_json,
        status=RunStatus.PENDING,
        hold=None if created["hold"] is None else Hold(created["hold"]),
        priority=item.priority,
        idempotency_key=None,
        concurrency_key=None,
        labels=item.labels,
        generation=0,
        attempt=0,
        crashes=0,
        output_json=None,
        error=None,
        progress=None,
        next_step=0,
        completed_steps=0,
        lease_owner=None,
        lease_expires_at=None,
        available_at=rows.optional_time(created["available_at"]),
        created_at=rows.time(created["created_at"]),
        started_at=None,
        completed_at=None,
    )
    return Enqueued(run=run, disposition=Disposition.CREATED)


def _time_of_id(run_id: str) -> int:
    """When a UUIDv7 was made, in microseconds since 1970: stands in where a write in doubt had been stored already."""
    return int(run_id.replace("-", "")[:12], 16) * 1000


def _take(items: Sequence[NewRun]) -> int:
    """At most one item other than "queue" for a (job, key) in a statement, and then no other item of that pair."""
    merging: dict[tuple[str, str], bool] = {}
    for place, item in enumerate(items):
        if item.concurrency_key is not None:
            pair, merges = (item.job, item.concurrency_key), item.if_pending != "queue"
            if merging.get(pair, False) or (merges and pair in merging):
                return place
            merging[pair] = merges
    return len(items)


enqueue: Write[NewRun, Enqueued] = Write("enqueue", Lane.KEYED, _enqueue, _take)


def retrigger(new: NewRun, *, source_id: str, from_step: str) -> Operation[Enqueued]:
    """Store a new run with the checkpoints of `source_id` that come before the step `from_step`. Safe to repeat."""
    stored = _enqueue([new], is_read_back=True)
    copy = Statement("copy_steps", {"run_id": new.id, "source_id": source_id, "from_step": from_step})
    return Operation(
        statements=(*stored.statements, copy),
        decode=lambda results: stored.decode(
            [*results[: len(stored.statements)], *results[len(stored.statements) + 1 :]]
        )[0],
        keys=stored.keys,
        runs=(new.id,),
        reads=stored.reads,
        wakes=stored.wakes,
    )


def get_run(run_id: str) -> Operation[StoredRun | None]:
    """The run, or None when there is no such run."""
    return Operation(
        statements=(Statement("get_run", {"run_id": run_id}),),
        decode=lambda results: rows.run(results[0][0]) if results[0] else None,
        readonly=True,
    )


def list_runs(which: RunFilter) -> Operation[list[StoredRun]]:
    """A page of runs, newest first."""
    params: dict[str, Param] = {
        "jobs": tuple(dict.fromkeys(which.jobs)) or None,
        "statuses": tuple(dict.fromkeys(which.statuses)) or None,
        "labels": json.dumps(dict(which.labels)) if which.labels else None,
        "concurrency_key": which.concurrency_key,
        "before": which.before,
        "limit": which.limit,
    }
    return Operation(
        statements=(Statement(_listing(which), params),),
        decode=lambda results: [rows.run(row) for row in results[0]],
        readonly=True,
    )


def _listing(which: RunFilter) -> str:
    """The statement whose index narrows most."""
    if which.jobs:
        return "list_runs_by_job"
    if which.statuses:
        return "list_runs_by_status"
    return "list_runs_by_label" if which.labels else "list_runs"
