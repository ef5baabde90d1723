"""Reading what happened: a run's events, the feed over all runs, logs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any

from durably.model import Event, FeedPage, LogLine
from durably.rules.event_ids import last_id, last_whole_row, row_of
from durably.store import rows
from durably.store.operation import Batch, Operation, Param, Rows, Statement


def run_events(run_id: str, *, after_seq: int = 0, limit: int = 1000) -> Operation[list[Event]]:
    """Events of a run with a higher `seq`, in order. They stay readable after the run was deleted."""
    params: dict[str, Param] = {"run_id": run_id, "after_seq": after_seq, "limit": limit}

    def decode(results: Sequence[Rows]) -> list[Event]:
        told = (event for row in results[0] for event in rows.events(row))
        return list(islice((event for event in told if (event.seq or 0) > after_seq), limit))

    return Operation(statements=(Statement("run_events", params),), decode=decode, readonly=True)


def load_logs(run_id: str, *, after_seq: int = 0, limit: int = 1000) -> Operation[list[LogLine]]:
    """Lines of a run's log with a higher `seq`, in order."""
    params: dict[str, Param] = {"run_id": run_id, "after_seq": after_seq, "limit": limit}
    return Operation(
        statements=(Statement("load_logs", params),),
        decode=lambda results: [rows.log_line(row) for row in results[0]],
        readonly=True,
    )


def last_event_id() -> Operation[int]:
    """The newest event's id, 0 when there is none."""

    def decode(results: Sequence[Rows]) -> int:
        row: Any = results[0][0]
        return last_id(int(row["id"]))

    return Operation(statements=(Statement("last_event_id", {}),), decode=decode, readonly=True)


def feed(*, after: int, gaps: Iterable[int], limit: int = 1000) -> Operation[FeedPage]:
    """Events with a higher id, and those of `gaps` that have appeared, in id order.

    `limit` counts rows: a page holds up to twice as many events, and never ends between two of one row.
    On Postgres ids are handed out before the commit, so a missing id may still appear. `xmin` is read before the
    events: a gap whose `barrier` it has passed, and that the page does not fill, stays empty for ever.
    """
    wanted = frozenset(gaps)
    missing = sorted({row_of(gap) for gap in wanted})

    def decode(results: Sequence[Rows]) -> FeedPage:
        horizon: Any = results[0][0]
        told = (event for row in results[1] for event in rows.events(row))
        return FeedPage(
            events=tuple(event for event in told if (event.id or 0) > after or event.id in wanted),
            xmin=int(horizon["xmin"]),
            is_full=len(results[1]) >= limit,
        )

    params: dict[str, Param] = {
        "after": last_whole_row(after),
        "gaps": Batch(("id",), tuple((row,) for row in missing)),
        "limit": limit,
    }
    return Operation(
        statements=(Statement("feed_horizon", {}), Statement("feed", params)), decode=decode, readonly=True
    )


def barrier() -> Operation[int]:
    """A transaction number above all that have written so far; to be asked after a page showed a gap.

    The snapshot's own xmax will not do: it is one above the latest that *ended*, and one that is still running may
    have a higher number.
    """

    def decode(results: Sequence[Rows]) -> int:
        row: Any = results[0][0]
        return int(row["barrier"])

    return Operation(statements=(Statement("feed_barrier", {}),), decode=decode)


def purge_events(*, older_than: timedelta, limit: int) -> Operation[int]:
    """Delete up to `limit` of the oldest rows if they are older than this. Returns how many rows went."""
    params: dict[str, Param] = {"older_than_us": rows.micros(older_than), "limit": limit}
    return Operation(statements=(Statement("purge_events", params),), decode=lambda results: len(results[0]))
