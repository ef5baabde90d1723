"""Every operation in every status, against the one table that says what is allowed: `rules/transitions.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from durably.model import TERMINAL, Lease, LeaseState, Progress, RunStatus, StoredRun, Verdict
from durably.rules.transitions import TRANSITIONS, OperationName, may
from durably.store import leases, runs
from tests.support.store import LEASE, Store

Drive: TypeAlias = Callable[[Store, StoredRun], Awaitable[bool]]
"""Does the operation as well as the run's state allows. Returns whether the operation said that it was done."""


async def claim(store: Store, run: StoredRun) -> bool:
    return run.id in [got.id for got in await store.claim()]


async def claim_expired(store: Store, run: StoredRun) -> bool:
    await store.expire(run)
    return run.id in [got.id for got in await store.claim_expired()]


async def fail_crashed(store: Store, run: StoredRun) -> bool:
    await store.expire(run)
    return bool(await store.database.run(leases.fail_crashed([run], max_crashes=1)))


async def renew(store: Store, run: StoredRun) -> bool:
    renewed = await store.database.run(leases.renew([Lease(run.id, run.generation)], lease=LEASE))
    return renewed == [LeaseState.RENEWED]


async def write(store: Store, run: StoredRun) -> bool:
    return await store.write(run, 9, progress=Progress(current=9)) is Verdict.STORED


def ending(status: RunStatus) -> Drive:
    async def end(store: Store, run: StoredRun) -> bool:
        return await store.end(run, status, 9) is Verdict.STORED

    return end


async def replace(store: Store, run: StoredRun) -> bool:
    enqueued = await store.enqueue(concurrency_key="k", if_pending="replace", input="2")
    return enqueued.run.id == run.id


async def cancel(store: Store, run: StoredRun) -> bool:
    return (await store.cancel(run)).done


async def resume(store: Store, run: StoredRun) -> bool:
    return (await store.resume(run)).done


async def retrigger(store: Store, run: StoredRun) -> bool:
    again = await store.database.run(runs.retrigger(store.new(), await store.steps(run)))
    return again.run.id != run.id


async def delete(store: Store, run: StoredRun) -> bool:
    return (await store.delete(run)).done


DRIVES: dict[OperationName, Drive] = {
    OperationName.CLAIM: claim,
    OperationName.CLAIM_EXPIRED: claim_expired,
    OperationName.FAIL_CRASHED: fail_crashed,
    OperationName.RENEW: renew,
    OperationName.WRITE: write,
    OperationName.COMPLETE: ending(RunStatus.COMPLETED),
    OperationName.FAIL: ending(RunStatus.FAILED),
    OperationName.RELEASE: ending(RunStatus.PENDING),
    OperationName.REPLACE: replace,
    OperationName.CANCEL: cancel,
    OperationName.RESUME: resume,
    OperationName.RETRIGGER: retrigger,
    OperationName.DELETE: delete,
}
PAIRS = [(status, name) for status in RunStatus for name in OperationName]
ASKED_FIRST = {(status, OperationName.RETRIGGER) for status in RunStatus if status not in TERMINAL}
"""Refused before the store is asked: a new run does not concern the old one's row."""


def test_every_operation_is_driven() -> None:
    assert set(DRIVES) == set(OperationName)


@pytest.mark.parametrize(("status", "name"), [pair for pair in PAIRS if may(*pair)])
async def test_an_allowed_operation_leads_where_the_table_says(
    store: Store, status: RunStatus, name: OperationName
) -> None:
    run = await store.in_status(status, concurrency_key="k")
    assert await DRIVES[name](store, run)
    found = await store.database.read(runs.get_run(run.id))
    assert (None if found is None else found.status) is TRANSITIONS[status, name]
    assert await store.is_sound()


@pytest.mark.parametrize(("status", "name"), [pair for pair in PAIRS if not may(*pair) and pair not in ASKED_FIRST])
async def test_an_operation_that_is_not_allowed_changes_nothing(
    store: Store, status: RunStatus, name: OperationName
) -> None:
    run = await store.in_status(status, concurrency_key="k")
    types = await store.event_types(run)
    assert not await DRIVES[name](store, run)
    if name is OperationName.CLAIM_EXPIRED or name is OperationName.FAIL_CRASHED:
        run = await store.get(run)
    assert await store.get(run) == run
    assert await store.event_types(run) == types
    assert await store.is_sound()
