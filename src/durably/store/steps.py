"""What a lease holder writes: steps, logs, progress, events and the end of its run, all behind one fence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from durably.model import DraftEvent, Lease, RunWrite, StepRecord, Verdict
from durably.store import rows
from durably.store.operation import Lane, Operation, Param, Rows, Statement, Wake, Write
from durably.store.write_rows import WriteRows

if TYPE_CHECKING:
    from durably.store.batch import Answer
    from durably.store.database import Database


def load_steps(run_id: str) -> Operation[list[StepRecord]]:
    """The finished steps of a run, in the order in which they started."""
    return Operation(
        statements=(Statement("load_steps", {"run_id": run_id}),),
        decode=lambda results: [rows.step(row) for row in results[0]],
        readonly=True,
    )


async def store_write(
    database: Database, write: RunWrite, *, timeout: float | None = None
) -> Verdict:  # the batch of many callers has no one scope to cancel
    """Store what a lease holder wrote; it is committed on return. Safe to repeat with the same number.

    Raises DatabaseUnavailable after `timeout` seconds; None waits as long as it takes.
    """
    return await database.submit(_plural(write), write, timeout=timeout)


def send_write(database: Database, write: RunWrite, answer: Answer) -> Callable[[], None]:
    """Store what a lease holder wrote, however long it takes, and call back. Returns what gives it up."""
    return database.send(_plural(write), write, answer)


def _plural(write: RunWrite) -> Write[RunWrite, Verdict]:
    is_keyed = write.concurrency_key is not None and write.ending is not None and write.ending.status.is_terminal
    return write_keyed if is_keyed else write_fast


def _write_runs(items: Sequence[RunWrite], *, is_wary: bool = False) -> Operation[list[Verdict]]:
    """Store writes of lease holders.

    A step that runs through has no row yet, unless it failed before, which its holder knows: where that is not so, the
    database refuses the row, and what may be there is replaced.
    """
    keys = {item.concurrency_key for item in items if item.ending and item.ending.status.is_terminal}

    def decode(results: Sequence[Rows]) -> list[Verdict]:
        if not results[0]:
            return [Verdict.STORED] * len(items)
        refused = {row["id"] for row in results[0]}
        return [Verdict.REFUSED if item.lease.run_id in refused else Verdict.STORED for item in items]

    return Operation(
        statements=(Statement("write_runs", WriteRows(items, is_wary=is_wary)),),
        decode=decode,
        keys=tuple(sorted(key for key in keys if key is not None)),
        wakes=Wake.WORK | Wake.EVENTS if any(item.ending for item in items) else Wake.EVENTS,
        otherwise=None if is_wary else partial(_write_runs, items, is_wary=True),
    )


def _take(items: Sequence[RunWrite]) -> int:
    """A run's writes of one batch are of one lease, and nothing follows its end."""
    seen: dict[str, RunWrite] = {}
    for place, item in enumerate(items):
        before = seen.get(item.lease.run_id)
        if before is not None and (before.lease != item.lease or before.ending is not None):
            return place
        seen[item.lease.run_id] = item
    return len(items)


def _run_id(item: RunWrite) -> str:
    return item.lease.run_id


write_fast: Write[RunWrite, Verdict] = Write("write", Lane.FAST, _write_runs, _take, _run_id)
write_keyed: Write[RunWrite, Verdict] = Write("write", Lane.KEYED, _write_runs, _take, _run_id)


def cancel_step(lease: Lease, event: DraftEvent) -> Operation[None]:
    """Append the `step:cancel` of the step that a cancel interrupted. Does nothing for another generation."""
    params: dict[str, Param] = {
        "run_id": lease.run_id,
        "generation": lease.generation,
        "step": event.step,
        "position": event.position,
        "at": event.at,
    }
    return Operation(statements=(Statement("cancel_step", params),), decode=lambda _: None, wakes=Wake.EVENTS)
