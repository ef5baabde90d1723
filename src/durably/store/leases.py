"""Leases: claiming runs, renewing, and what becomes of those that ran out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from durably.model import Lease, LeaseState, RunError, RunStatus, StoredRun
from durably.store import rows
from durably.store.operation import Batch, Operation, Param, Rows, Statement, Wake

LOWEST_RANK = -(2**62)


def claim(
    jobs: Sequence[str], *, limit: int, owner: str, token: str, lease: timedelta, floor: int = LOWEST_RANK
) -> Operation[list[StoredRun]]:
    """Lease up to `limit` claimable runs of these jobs, in the order in which they are served.

    `token` must be fresh: after a commit in doubt, `claimed` with it tells what was got. `floor` leaves out what
    ranks before it.
    """
    params = _claim(jobs, limit=limit, owner=owner, token=token, lease=lease) | {"floor": floor}
    return Operation(
        statements=(Statement("claim", params),),
        decode=lambda results: [rows.claimed(row, owner=owner) for row in results[0]],
        wakes=Wake.EVENTS,
        is_repeatable=False,
    )


def claim_expired(
    jobs: Sequence[str],
    *,
    limit: int,
    owner: str,
    token: str,
    lease: timedelta,
    max_crashes: int,
    held: Sequence[str] = (),
) -> Operation[list[StoredRun]]:
    """Lease up to `limit` runs of these jobs whose lease ran out, but fewer than `max_crashes` times.

    `held` are the ids of runs that the caller executes: a lease of its own is only late, and to be renewed.
    """
    params = _claim(jobs, limit=limit, owner=owner, token=token, lease=lease)
    params |= {"max_crashes": max_crashes, "held": tuple(held)}
    return Operation(
        statements=(Statement("claim_expired", params),),
        decode=lambda results: rows.runs(results[0]),
        wakes=Wake.EVENTS,
        is_repeatable=False,
    )


def _claim(jobs: Sequence[str], *, limit: int, owner: str, token: str, lease: timedelta) -> dict[str, Param]:
    return {
        "jobs": tuple(dict.fromkeys(jobs)),
        "limit": limit,
        "owner": owner,
        "token": token,
        "lease_us": rows.micros(lease),
    }


def claimed(jobs: Sequence[str], *, token: str) -> Operation[list[StoredRun]]:
    """What a claim with this token got, read back after its commit was in doubt."""
    return Operation(
        statements=(Statement("claimed", {"jobs": tuple(jobs), "token": token}),),
        decode=lambda results: rows.runs(results[0]),
    )


def crashed(jobs: Sequence[str], *, max_crashes: int, limit: int) -> Operation[list[StoredRun]]:
    """Runs of these jobs whose lease ran out for the `max_crashes`th time without a new checkpoint."""
    params: dict[str, Param] = {"jobs": tuple(jobs), "max_crashes": max_crashes, "limit": limit}
    return Operation(
        statements=(Statement("crashed", params),),
        decode=lambda results: rows.runs(results[0]),
        readonly=True,
    )


def fail_crashed(runs: Sequence[StoredRun], *, max_crashes: int) -> Operation[list[StoredRun]]:
    """Fail these runs, unless somebody moved them on. Returns those that it failed."""
    message = f"the lease ran out {max_crashes} times without a new checkpoint: the run keeps killing its process"
    error = rows.error_text(RunError(type="WorkerCrashed", message=message))
    params: dict[str, Param] = {
        "items": _items([Lease(run.id, run.generation) for run in runs]),
        "error": error,
        "payload": f'{{"error":{error}}}',
    }
    return Operation(
        statements=(Statement("fail_crashed", params),),
        decode=lambda results: rows.runs(results[0]),
        keys=tuple(sorted({run.concurrency_key for run in runs if run.concurrency_key is not None})),
        runs=tuple(sorted(run.id for run in runs)),
        wakes=Wake.WORK | Wake.EVENTS,
    )


def renew(leases: Sequence[Lease], *, lease: timedelta) -> Operation[list[LeaseState]]:
    """Extend leases to `lease` from now. One state a lease, in order. Safe to repeat."""
    params: dict[str, Param] = {"items": _items(leases), "lease_us": rows.micros(lease)}

    def decode(results: Sequence[Rows]) -> list[LeaseState]:
        found: dict[Any, Any] = {(row["id"], row["generation"]): row for row in results[0]}
        return [_state(found[item.run_id, item.generation]) for item in leases]

    return Operation(statements=(Statement("renew", params),), decode=decode)


def lapsed(leases: Sequence[Lease]) -> Operation[dict[Lease, LeaseState]]:
    """What became of those of these leases that are not in force any more: void, or (`BUSY`) run out."""

    def decode(results: Sequence[Rows]) -> dict[Lease, LeaseState]:
        found: Sequence[Any] = results[0]
        return {Lease(row["id"], row["generation"]): _state(row) for row in found}

    return Operation(statements=(Statement("lapsed", {"items": _items(leases)}),), decode=decode, readonly=True)


def _items(leases: Sequence[Lease]) -> Batch:
    return Batch(("id", "generation"), tuple(sorted((lease.run_id, lease.generation) for lease in leases)))


def _state(row: rows.AnyRow) -> LeaseState:
    if row["renewed"]:
        return LeaseState.RENEWED
    if row["same"] and row["status"] == RunStatus.LEASED:
        return LeaseState.BUSY
    return LeaseState.CANCELLED if row["same"] and row["status"] == RunStatus.CANCELLED else LeaseState.LOST
