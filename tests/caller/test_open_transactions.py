"""Workers beside transactions of users that stay open: nobody waits who need not, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from durably import Disposition, Durably, RunCancelled, RunStatus, Step, SyncDurably, SyncStep, job
from durably.store.keys import find_drift
from tests.caller.conftest import SECONDS, User, make_user
from tests.support.bench import eventually
from tests.support.lending import LIBRARIES

QUICK = timedelta(milliseconds=50)


@job("plain")
async def plain(step: Step, input: int) -> int:
    return await step.run("plain", asyncio.sleep, 0, input, returns=int)


@job("keyed", concurrency_key="key")
async def keyed(step: Step, input: int) -> int:
    return await step.run("keyed", asyncio.sleep, 0, input, returns=int)


@pytest.fixture
async def pg_user(shared_postgres_url: str) -> AsyncIterator[User]:
    async for found in make_user("postgres", shared_postgres_url, LIBRARIES["postgres"][0], "async"):
        await found.lending.open()
        yield found


@pytest.fixture
async def lite_user(tmp_path: Path) -> AsyncIterator[User]:
    async for found in make_user("sqlite", f"sqlite:///{tmp_path}/app.db", LIBRARIES["sqlite"][0], "async"):
        yield found


async def drift(durably: Durably) -> list[str]:
    return await (await durably._database()).read(find_drift())  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - no API tells


async def test_a_key_goes_on_beside_an_open_transaction_that_uses_it(pg_user: User) -> None:
    """No row of a key is locked by it: neither a trigger nor a cancel of a run in its slot holds anybody up."""
    durably = pg_user.durably
    slotted = await durably.trigger(keyed, -1)
    inside = await pg_user.trigger(keyed, 0)
    await pg_user.call("cancel", slotted)
    others = [await durably.trigger("elsewhere", number, concurrency_key="other") for number in range(3)]
    async with durably.worker([keyed, plain]):
        await durably.set_limit("key", 2)
        waiting = await durably.trigger(keyed, 1)
        assert await durably.result(waiting, timeout=SECONDS) == 1
        assert await durably.trigger_and_wait(plain, 2, timeout=SECONDS) == 2
        await pg_user.lending.commit()
        assert await durably.result(inside, timeout=SECONDS) == 0
        assert (await durably.wait(slotted, timeout=SECONDS)).status is RunStatus.CANCELLED
        await eventually(lambda: has_no_drift(durably), seconds=SECONDS)
    assert len(others) == 3


async def has_no_drift(durably: Durably) -> bool:
    return not await drift(durably)


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_an_idempotency_key_waits_for_the_transaction_that_used_it(pg_user: User, ends: str) -> None:
    """Who uses the same key waits; what else is triggered meanwhile does not."""
    durably = pg_user.durably
    inside = await pg_user.trigger(plain, 1, idempotency_key="k")
    outside = asyncio.create_task(durably.trigger(plain, 1, idempotency_key="k"))
    async with durably.worker([plain]):
        assert await durably.trigger_and_wait(plain, 2, timeout=SECONDS, idempotency_key="else") == 2
        assert not outside.done()
        await getattr(pg_user.lending, ends)()
        run = await outside
        assert (run.id == inside.id) == (ends == "commit")
        assert run.disposition is (Disposition.IDEMPOTENT if ends == "commit" else Disposition.CREATED)
        assert await durably.result(run, timeout=SECONDS) == 1


async def test_a_connection_that_blocks_does_not_block_the_event_loop(pg_user: User) -> None:
    """It waits for a key that another transaction has, and that one is committed by the same event loop."""
    durably = pg_user.durably
    inside = await pg_user.trigger(plain, 1, idempotency_key="k")
    with closing(psycopg.connect(pg_user.url)) as blocking:
        waiting = asyncio.create_task(durably.trigger(plain, 1, idempotency_key="k", connection=blocking))
        await eventually(lambda: is_waiting_for_a_lock(pg_user), seconds=SECONDS)
        await pg_user.lending.commit()
        assert (await waiting).id == inside.id


async def is_waiting_for_a_lock(user: User) -> bool:
    raw = await asyncpg.connect(user.url)
    try:
        found = await raw.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(found)
    finally:
        await raw.close()


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_a_run_under_way_waits_for_the_transaction_that_cancels_it(pg_user: User, ends: str) -> None:
    """Its next step cannot be stored before it is known; other runs go on; then it is interrupted, or goes on too."""
    durably = pg_user.durably
    began, may_end = asyncio.Event(), asyncio.Event()

    @job("under-way")
    async def under_way(step: Step) -> str:
        await step.run("first", began.set)
        await may_end.wait()
        await step.run("second", str)
        return "done"

    async with durably.worker([under_way, plain]):
        run = await durably.trigger(under_way)
        await began.wait()
        await pg_user.call("cancel", run)
        may_end.set()
        for number in range(5):
            assert await durably.trigger_and_wait(plain, number, timeout=SECONDS) == number
        assert getattr(await durably.get_run(run), "status", None) is RunStatus.LEASED
        await getattr(pg_user.lending, ends)()
        if ends == "commit":
            with pytest.raises(RunCancelled):
                await durably.result(run, timeout=SECONDS)
            assert [step.name for step in await durably.get_steps(run) if step.name == "second"] == []
        else:
            assert await durably.result(run, timeout=SECONDS) == "done"


@pytest.mark.parametrize("job_", [plain, keyed])
async def test_workers_are_woken_by_the_commit(pg_user: User, job_: Any) -> None:
    async with Durably(pg_user.url, poll_interval=timedelta(minutes=5)) as durably:
        async with durably.worker([plain, keyed]):
            await durably.trigger_and_wait(plain, 0, timeout=SECONDS)
            run = await pg_user.trigger(job_, 1)
            await pg_user.lending.commit()
            assert await durably.result(run, timeout=SECONDS) == 1


async def test_a_late_commit_is_in_the_feed(pg_user: User) -> None:
    """Its events have older ids than what was committed meanwhile."""
    durably = pg_user.durably
    async with durably.events(job=plain) as events:
        late = await pg_user.trigger(plain, 1)
        early = await durably.trigger(plain, 2)
        assert (await anext(events)).run_id == early.id
        await pg_user.lending.commit()
        assert (await anext(events)).run_id == late.id


async def test_sqlite_waits_for_an_open_transaction_and_goes_on_after_it(lite_user: User) -> None:
    """SQLite has one writer: a transaction of the user's that has written holds up all others, but nothing is lost."""
    user = lite_user
    async with user.durably.worker([plain, keyed]):
        await user.durably.trigger_and_wait(plain, 0, timeout=SECONDS)
        await user.lending.open()
        inside = await user.trigger(keyed, 1)
        outside = asyncio.create_task(user.durably.trigger(keyed, 2))
        async with Durably(user.url) as second:  # opens, reads and looks all the same
            assert len(await second.get_runs()) == 1
        assert not outside.done()
        await user.lending.commit()
        assert await user.durably.result(inside, timeout=SECONDS) == 1
        assert await user.durably.result(await outside, timeout=SECONDS) == 2


async def test_a_slot_given_up_inside_is_given_back_before_the_run_is_deleted(any_user: User) -> None:
    user = any_user
    await user.lending.open()
    runs = [await user.durably.trigger(keyed, number) for number in range(3)]
    await user.call("cancel", runs[0])
    await user.lending.commit()
    assert await user.durably.purge_runs(older_than=timedelta(0)) == 0  # it still has its slot
    await user.durably.delete_run(runs[0])
    assert await drift(user.durably) == []
    assert await user.durably.worker([keyed]).process_until_idle() == 2


async def test_a_key_keeps_its_limit_among_transactions_that_come_and_go(any_user: User) -> None:
    """G7: users commit and roll back triggers and cancels, others trigger outside, two workers serve them all."""
    user = any_user
    active: list[int] = []

    @job("limited", concurrency_key=lambda number: f"key-{number % 3}")
    async def limited(step: Step, number: int) -> int:
        assert number % 3 not in active
        active.append(number % 3)
        try:
            return await step.run("enter", asyncio.sleep, 0, number, returns=int)
        finally:
            active.remove(number % 3)

    chance = random.Random(5)
    committed: list[str] = []
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(Durably(user.url, poll_interval=QUICK)) for _ in range(2)]
        for each in workers:
            await stack.enter_async_context(each.worker([limited]))
        await asyncio.gather(*(produce(user, limited, committed, random.Random(chance.random())) for _ in range(4)))
        for run_id in committed:
            ended = await user.durably.wait(run_id, timeout=SECONDS)
            assert ended.status in {RunStatus.COMPLETED, RunStatus.CANCELLED}, ended.error
        await eventually(lambda: has_no_drift(user.durably), seconds=SECONDS)
    assert len(await user.durably.get_runs(limit=1000)) == len(committed)


async def produce(user: User, limited: Any, committed: list[str], chance: random.Random) -> None:
    lending = LIBRARIES[user.kind][0](user.url)
    await lending.open()
    try:
        for _ in range(8):
            numbers = [chance.randrange(100) for _ in range(3)]
            inside = await user.durably.trigger_many(limited, numbers, connection=lending.connection)
            if chance.random() < 0.5:
                await user.durably.cancel(inside[0], connection=lending.connection)
            if chance.random() < 0.3:
                await lending.rollback()
            else:
                await lending.commit()
                committed += [run.id for run in inside]
            committed.append((await user.durably.trigger(limited, numbers[0])).id)
    finally:
        await lending.close()


def test_a_def_job_may_trigger_in_a_transaction_of_its_own(tmp_path: Path) -> None:
    """A step that writes to the user's tables and triggers, both or neither."""
    url = f"sqlite:///{tmp_path}/app.db"
    durably = SyncDurably(url, poll_interval=QUICK)

    def order(number: int) -> str:
        with closing(sqlite3.connect(f"{tmp_path}/app.db")) as raw, raw:
            raw.execute("CREATE TABLE IF NOT EXISTS orders (name TEXT)")
            raw.execute("INSERT INTO orders VALUES (?)", (number,))
            return durably.trigger(plain, number, connection=raw).id

    @job("ordering")
    def ordering(step: SyncStep, number: int) -> str:
        return step.run("order", order, number)

    with durably, durably.worker([ordering, plain]):
        run_id = durably.trigger_and_wait(ordering, 3, timeout=SECONDS)
        assert durably.result(run_id, timeout=SECONDS) == 3
