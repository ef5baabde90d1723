"""What looks after a database: facts for a diagnosis, limits of keys, the end of the feed, SQLite's log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import TypeVar

from durably.model import (
    AppliedMigration,
    Event,
    ExpiredLeases,
    IndexSize,
    KeyLimit,
    RunStatus,
    ServerState,
    TableSize,
    WaitingJob,
)
from durably.rules.event_ids import last_whole_row
from durably.store import rows
from durably.store.operation import Operation, Param, Rows, Statement
from durably.store.rows import AnyRow

T = TypeVar("T")


def _several(name: str, params: dict[str, Param], decode: Callable[[AnyRow], T]) -> Operation[list[T]]:
    return Operation(
        statements=(Statement(name, params),),
        decode=lambda results: [decode(row) for row in results[0]],
        readonly=True,
    )


def _one(name: str, params: dict[str, Param], decode: Callable[[AnyRow], T]) -> Operation[T]:
    return Operation(statements=(Statement(name, params),), decode=lambda results: decode(results[0][0]), readonly=True)


def count_purgeable(*, older_than: timedelta, statuses: Sequence[RunStatus]) -> Operation[int]:
    """How many runs ended in one of these statuses more than `older_than` ago."""
    params: dict[str, Param] = {"older_than_us": rows.micros(older_than), "statuses": tuple(dict.fromkeys(statuses))}
    return _one("count_purgeable", params, lambda row: int(row["runs"]))


def recent_events(*, before: int, limit: int) -> Operation[list[Event]]:
    """The newest events with a lower id than `before`, newest first."""
    # one row more: of the row of `before` maybe nothing is meant
    params: dict[str, Param] = {"last": last_whole_row(before), "limit": limit + 1}

    def decode(results: Sequence[Rows]) -> list[Event]:
        told = (event for row in results[0] for event in reversed(rows.events(row)))
        return list(islice((event for event in told if (event.id or 0) < before), limit))

    return Operation(statements=(Statement("recent_events", params),), decode=decode, readonly=True)


def list_limits(*, after: str, limit: int) -> Operation[list[KeyLimit]]:
    """A page of the concurrency keys behind `after`, in order."""

    def decode(row: AnyRow) -> KeyLimit:
        return KeyLimit(key=row["key"], limit=row["limit"], active=row["active"], waiting=row["waiting"])

    return _several("list_limits", {"after": after, "limit": limit}, decode)


def shrink_wal() -> Operation[bool]:
    """Empty SQLite's write-ahead log, unless somebody uses it right now. Returns whether it is empty."""
    return _one("shrink_wal", {}, lambda row: not row["busy"])


def read_clock() -> Operation[datetime]:
    """The database's clock."""
    return _one("read_clock", {}, lambda row: rows.time(row["now"]))


def read_schema() -> Operation[list[AppliedMigration]]:
    """The migrations that were applied, in order."""

    def decode(row: AnyRow) -> AppliedMigration:
        at = rows.time(row["applied_at"])
        return AppliedMigration(version=row["version"], name=row["name"], serves=row["serves"], applied_at=at)

    return _several("read_schema", {}, decode)


def read_waiting() -> Operation[list[WaitingJob]]:
    """The jobs that have claimable runs."""

    def decode(row: AnyRow) -> WaitingJob:
        since = rows.time(row["since"])
        return WaitingJob(job=row["job"], runs=row["runs"], since=since, is_served=bool(row["is_served"]))

    return _several("read_waiting", {}, decode)


def read_expired() -> Operation[list[ExpiredLeases]]:
    """The jobs that have runs whose lease ran out."""

    def decode(row: AnyRow) -> ExpiredLeases:
        return ExpiredLeases(job=row["job"], runs=row["runs"], since=rows.time(row["since"]))

    return _several("read_expired", {}, decode)


def read_tables() -> Operation[list[TableSize]]:
    """How large our tables are, and how much of them is dead."""

    def decode(row: AnyRow) -> TableSize:
        return TableSize(
            name=row["name"],
            entries=row["entries"],
            dead=row["dead"],
            bytes=row["bytes"],
            is_vacuumed=bool(row["is_vacuumed"]),
            vacuumed_at=rows.optional_time(row["vacuumed_at"]),
        )

    return _several("read_tables", {}, decode)


def read_indexes() -> Operation[list[IndexSize]]:
    """How large the indexes of our tables are, and how large they should be."""

    def decode(row: AnyRow) -> IndexSize:
        return IndexSize(name=row["name"], bytes=row["bytes"], expected=row["expected"])

    return _several("read_indexes", {}, decode)


def read_server() -> Operation[ServerState]:
    """What the server says of vacuuming, old transactions, and the log that it keeps."""

    def decode(row: AnyRow) -> ServerState:
        oldest = row["oldest_s"]
        return ServerState(
            is_vacuuming=bool(row["is_vacuuming"]),
            oldest_transaction=None if oldest is None else timedelta(seconds=oldest),
            slot_bytes=row["slot_bytes"],
        )

    return _one("read_server", {}, decode)
