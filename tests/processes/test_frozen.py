"""A worker is frozen (SIGSTOP) past its lease, another takes its run over; then it wakes up (G3, G4)."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from durably import Durably, Job
from durably.store.url import parse_url
from tests.processes.jobs import async_chain, sync_chain
from tests.support.processes import WorkerProcess, Workers, step_started, until
from tests.support.stage import Stage
from tests.support.store import Store


async def rows_of(store: Store, run_id: str) -> list[object]:
    """All that is stored for a run, but for the end of its lease, which its new owner renews."""
    tables = await store.snapshot()
    rows: list[object] = [row for table in ("steps", "logs", "events") for row in tables[table] if run_id in row]
    return [*rows, replace(await store.get(run_id), lease_expires_at=None)]


async def freeze_between_writes(worker: WorkerProcess, store: Store) -> None:
    """Freeze a worker, but not within a transaction: until it wakes up nobody else could get at what it has locked."""

    async def is_frozen() -> bool:
        await worker.freeze()
        if await (no_transaction_is_open(store) if store.is_postgres else asyncio.to_thread(is_unlocked, store.url)):
            return True
        worker.thaw()
        return False

    await until(is_frozen, "a moment without a transaction")


async def no_transaction_is_open(store: Store) -> bool:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in %'"
    return bool(await store.value(sql) == 0)


def is_unlocked(url: str) -> bool:
    with closing(sqlite3.connect(parse_url(url).location, timeout=0.5, isolation_level=None)) as raw:
        try:
            raw.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
    return True


@pytest.mark.parametrize(
    ("job", "goes_on"),
    [pytest.param(async_chain, False, id="interrupted"), pytest.param(sync_chain, True, id="writing-late")],
)
async def test_a_worker_that_wakes_up_late_writes_nothing_and_works_on(
    job: Job[None, list[str]], *, goes_on: bool, durably: Durably, store: Store, stage: Stage, workers: Workers
) -> None:
    """G3, G4: one is interrupted where it waits, the other comes back with the result of its step."""
    late = await workers.start()
    in_b, in_c = stage.hold("in b"), stage.hold("in c")
    run = await durably.trigger(job)
    await in_b.reached()
    await freeze_between_writes(late, store)
    [heir] = await workers.start_several(1)
    assert (await in_c.reached()).pid == heir.pid
    await step_started(durably, run, "c")
    before = await rows_of(store, run.id)

    if goes_on:
        in_b.release()
    late.thaw()
    assert (await stage.visited("refused", pid=late.pid)).facts == {"by": "LeaseLost"}
    [interrupted] = stage.at("interrupted", pid=late.pid)
    assert interrupted.facts["by"] == ("LeaseLost" if goes_on else "CancelledError")
    assert await rows_of(store, run.id) == before
    assert not stage.at("in more")

    in_c.release()
    output = await durably.result(run, timeout=40)
    assert output == [stage.at(point)[-1].made for point in ("in a", "in b", "in c")]
    after = await rows_of(store, run.id)
    assert await heir.stop() == 0
    new = await durably.trigger(job)
    await durably.result(new, timeout=40)
    assert {visit.pid for visit in stage.visits if visit.run == new.id} == {late.pid}
    assert await rows_of(store, run.id) == after
