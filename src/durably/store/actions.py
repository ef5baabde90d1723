"""What a user does to a run from outside: cancel, resume, delete, purge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from durably.model import Change, Changed, RunStatus, StoredRun
from durably.store import rows
from durably.store.operation import Batch, Lane, Operation, Param, Rows, Statement, Wake, Write


def _params(items: Sequence[Change]) -> dict[str, Param]:
    return {"items": Batch(("id", "token"), tuple((item.run_id, item.token) for item in items))}


def _keys(items: Sequence[Change]) -> tuple[str, ...]:
    return tuple(sorted({item.concurrency_key for item in items if item.concurrency_key is not None}))


def _take(items: Sequence[Change]) -> int:
    """A run is changed once in a statement."""
    seen: set[str] = set()
    for place, item in enumerate(items):
        if item.run_id in seen:
            return place
        seen.add(item.run_id)
    return len(items)


def _change(statement: str, wakes: Wake) -> Callable[[Sequence[Change]], Operation[list[Changed]]]:
    def build(items: Sequence[Change]) -> Operation[list[Changed]]:
        params = _params(items)

        def decode(results: Sequence[Rows]) -> list[Changed]:
            changed = {run.id: run for run in rows.runs(results[0])}
            found: dict[Any, Any] = {row["item"]: row for row in results[-1]}
            return [_changed(changed.get(item.run_id), found.get(item.run_id)) for item in items]

        return Operation(
            statements=(Statement(statement, params),),
            decode=decode,
            keys=_keys(items),
            runs=tuple(sorted(item.run_id for item in items)),
            reads=(Statement("read_changed", params),),
            wakes=wakes | Wake.EVENTS,
        )

    return build


def _changed(changed: StoredRun | None, row: rows.AnyRow | None) -> Changed:
    """`row` is read last: it tells of a request that was stored before, but may show what another one did since."""
    if row is None:
        return Changed(done=changed is not None, run=changed)
    return Changed(done=changed is not None or bool(row["done"]), run=rows.run(row))


def _delete(items: Sequence[Change]) -> Operation[list[Changed]]:
    params = _params(items)

    def decode(results: Sequence[Rows]) -> list[Changed]:
        went, standing, earlier = results
        gone = {run.id: run for run in rows.runs(went)}
        before: set[Any] = {row["item"] for row in earlier}
        left: dict[Any, Any] = {row["item"]: row for row in standing}
        return [
            Changed(done=item.run_id in gone or item.run_id in before, run=gone[item.run_id])
            if item.run_id in gone
            else Changed(done=item.run_id in before, run=rows.run(left[item.run_id]) if item.run_id in left else None)
            for item in items
        ]

    return Operation(
        statements=(Statement("delete_runs", params),),
        decode=decode,
        runs=tuple(sorted(item.run_id for item in items)),
        reads=(Statement("read_changed", params), Statement("read_deleted", params)),
        wakes=Wake.EVENTS,
    )


cancel: Write[Change, Changed] = Write("cancel", Lane.KEYED, _change("cancel_runs", Wake.WORK | Wake.CANCEL), _take)
resume: Write[Change, Changed] = Write("resume", Lane.KEYED, _change("resume_runs", Wake.WORK), _take)
delete: Write[Change, Changed] = Write("delete", Lane.KEYED, _delete, _take)


def purge_runs(*, older_than: timedelta, status: RunStatus, limit: int) -> Operation[int]:
    """How many runs went: up to `limit` of those that ended in this terminal status more than `older_than` ago."""
    params: dict[str, Param] = {"older_than_us": rows.micros(older_than), "status": status, "limit": limit}
    return Operation(
        statements=(Statement("purge_runs", params),),
        decode=lambda results: len(results[0]),
        wakes=Wake.EVENTS,
    )
