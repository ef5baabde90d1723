"""What watchers ask: a run at one moment, places in the list of runs, counts, and who works."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from durably.model import RunFilter, RunStatus, StoredRun
from durably.store import rows
from durably.store.migrate import migrations
from durably.store.operation import Operation, Rows, Statement
from durably.store.runs import filter_params, in_list, in_parts


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSnapshot:
    """A run's row, and the number of its last event at that moment."""

    run: StoredRun
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Numbers of runs, and the oldest pending one."""

    by_job: dict[str, dict[RunStatus, int]]
    oldest_pending: StoredRun | None
    ended: dict[RunStatus, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaseholder:
    """Who holds leases: how many, and when the last of them ends."""

    owner: str
    runs: int
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """The schema's version, who holds leases, and who leased runs lately."""

    schema_version: int
    holders: tuple[Leaseholder, ...]
    recent: dict[str, datetime]


def snapshot(run_id: str) -> Operation[StoredSnapshot | None]:
    """The run with the number of its last event, or None when there is no such run."""

    def decode(results: Sequence[Rows]) -> StoredSnapshot | None:
        found: Any = results[0][0] if results[0] else None
        return None if found is None else StoredSnapshot(run=rows.run(found), seq=found["seq"])

    return Operation(statements=(Statement("run_snapshot", {"run_id": run_id}),), decode=decode, readonly=True)


def run_by_key(job: str, key: str) -> Operation[StoredRun | None]:
    """The run of a job with an idempotency key, or None when there is none."""

    def decode(results: Sequence[Rows]) -> StoredRun | None:
        return rows.run(results[0][0]) if results[0] else None

    return Operation(statements=(Statement("run_by_key", {"job": job, "key": key}),), decode=decode, readonly=True)


def skip_runs(which: RunFilter, *, offset: int) -> Operation[str | None]:
    """The id of the last of the first `offset` runs that meet the filter, newest first; None if there are fewer."""

    def decode(results: Sequence[Rows]) -> str | None:
        found: Any = results[0][0] if results[0] else None
        return None if found is None else found["id"]

    return Operation(statements=(in_list("skip_runs", which, limit=offset),), decode=decode, readonly=True)


def count_runs(which: RunFilter, *, within: timedelta) -> Operation[Counts]:
    """Counts of the runs that meet the filter; `ended` counts those that ended `within` this time."""
    params = filter_params(which)
    is_about_pending = not which.statuses or RunStatus.PENDING in which.statuses
    pending = (RunStatus.PENDING,) if is_about_pending else ()

    def decode(results: Sequence[Rows]) -> Counts:
        counted, oldest, ended = results
        by_job: dict[str, dict[RunStatus, int]] = {}
        every: Sequence[Any] = counted
        for row in [row for row in every if row["runs"]]:
            by_job.setdefault(row["job"], {})[RunStatus(row["status"])] = row["runs"]
        ends: Sequence[Any] = ended
        return Counts(
            by_job=dict(sorted(by_job.items())),
            oldest_pending=rows.run(oldest[0]) if oldest else None,
            ended={RunStatus(row["status"]): row["runs"] for row in ends},
        )

    return Operation(
        statements=(
            Statement("count_runs", in_parts(params)),
            Statement("oldest_pending", params | {"statuses": pending}),
            Statement("count_ended", params | {"within_us": rows.micros(within)}),
        ),
        decode=decode,
        readonly=True,
    )


def activity() -> Operation[Activity]:
    """What the database says of its schema and of workers."""

    def decode(results: Sequence[Rows]) -> Activity:
        version, owners, leases = results
        first: Any = version[0]
        holders: Sequence[Any] = owners
        recent: dict[str, datetime] = {}
        newest_first: Sequence[Any] = leases
        for row in newest_first:
            at = rows.time(row["created_at"])
            owner = json.loads(row["payload"])["owner"]
            recent[owner] = max(at, recent.get(owner, at))
        return Activity(
            schema_version=first["version"],
            holders=tuple(
                Leaseholder(owner=row["owner"], runs=row["runs"], expires_at=rows.time(row["expires_at"]))
                for row in holders
            ),
            recent=recent,
        )

    return Operation(
        statements=(Statement("schema_version", {}), Statement("lease_owners", {}), Statement("recent_leases", {})),
        decode=decode,
        readonly=True,
    )


def code_version(dialect: str) -> int:
    """The newest migration that this code knows."""
    return migrations(dialect, "")[-1].version
