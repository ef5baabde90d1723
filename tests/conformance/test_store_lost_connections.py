"""Connections lost before or after a commit: everything is stored, and once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durably.errors import DatabaseUnavailable
from durably.model import Change, Disposition, NewRun, RunFilter, RunStatus, StoredRun, Verdict
from durably.store import actions, keys, leases, runs
from durably.store.operation import Lane, Write
from tests.support.store import (
    LEASE,
    Store,
    a_checkpoint,
    an_end,
)
from tests.support.wrapped import once, wrapped

# --- doubt ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["fail_before", "fail_after"])
async def test_a_trigger_whose_connection_is_lost_is_stored_once(store: Store, moment: str) -> None:
    engine = await wrapped(store)
    setattr(engine, moment, once("insert_runs"))
    enqueued = await store.enqueue_batch(store.new(), store.new(concurrency_key="k"), store.new(idempotency_key="i"))
    assert {item.disposition for item in enqueued} == {Disposition.CREATED}
    assert [await store.event_types(item.run) for item in enqueued] == [["run:trigger"]] * 3
    assert await store.database.read(keys.find_drift()) == []


@pytest.mark.parametrize("moment", ["fail_before", "fail_after"])
async def test_writes_whose_connection_is_lost_are_stored_once(store: Store, moment: str) -> None:
    engine = await wrapped(store)
    run, other = await store.leased(concurrency_key="k"), await store.leased()
    setattr(engine, moment, once("write_runs"))
    writes = (a_checkpoint(run, 1, "a", 0), a_checkpoint(other, 1), a_checkpoint(run, 2, "b", 1))
    assert await asyncio.gather(*(store.store(write) for write in writes)) == [Verdict.STORED] * 3
    assert [step.name for step in await store.steps(run)] == ["a", "b"]
    assert (await store.get(run)).completed_steps == 2
    assert (await store.event_types(run)).count("step:complete") == 2


@pytest.mark.parametrize("moment", ["fail_before", "fail_after"])
async def test_an_end_whose_connection_is_lost_happens_once(store: Store, moment: str) -> None:
    engine = await wrapped(store)
    run = await store.leased(concurrency_key="k")
    waiting = [await store.trigger(concurrency_key="k") for _ in range(2)]
    setattr(engine, moment, once("write_runs"))
    assert await store.store(an_end(run)) is Verdict.STORED
    assert [(await store.get(each)).hold is None for each in waiting] == [True, False]
    assert await store.event_types(run) == ["run:trigger", "run:leased", "run:complete"]


@pytest.mark.parametrize(
    ("write", "ends_as"), [(actions.cancel, "cancelled"), (actions.resume, "pending"), (actions.delete, None)]
)
async def test_an_action_whose_connection_is_lost_is_done_once(
    store: Store, write: Write[Change, Any], ends_as: str | None
) -> None:
    engine = await wrapped(store)
    run = await store.leased()
    if write is not actions.cancel:
        await store.store(an_end(run, RunStatus.FAILED))
    engine.fail_after = once(f"{write.name}_runs")
    changed = await store.change(write, run)
    assert changed.done
    found = await store.database.read(runs.get_run(run.id))
    assert (found and found.status.value) == ends_as
    assert len(set(await store.event_types(run))) == len(await store.event_types(run))


async def test_a_claim_whose_connection_is_lost_leases_nothing_twice(store: Store) -> None:
    engine = await wrapped(store)
    for _ in range(4):
        await store.trigger()
    engine.fail_after = once("claim")
    token = store.environment.new_id()
    operation = leases.claim(["job"], limit=2, owner="me", token=token, lease=LEASE)
    got: list[StoredRun] = []
    try:
        got = await store.database.run(operation, lane=Lane.FAST)
    except DatabaseUnavailable:
        got = await store.database.run(leases.claimed(["job"], token=token))
    assert len(got) == 2
    assert len(await store.claim()) == 2


async def test_a_database_that_stays_away_is_unavailable_after_the_timeout(store: Store) -> None:
    engine = await wrapped(store)
    engine.fail_before = lambda _: True
    with pytest.raises(DatabaseUnavailable):
        await store.database.submit(runs.enqueue, store.new(), timeout=0.05)
    with pytest.raises(DatabaseUnavailable):
        await store.database.read(runs.list_runs(RunFilter()), timeout=0.05)
    engine.fail_before = lambda _: False
    assert (await store.enqueue()).disposition is Disposition.CREATED


# --- lost connections for real ----------------------------------------------------------------------

TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_killed_connections_are_replaced(store: Store) -> None:
    run = await store.leased()
    for number in range(1, 4):
        await store.sql(TERMINATE)
        step = a_checkpoint(run, number, f"s{number}", number)
        results = await asyncio.gather(
            store.store(step), store.trigger(concurrency_key="k"), store.database.read(runs.get_run(run.id))
        )
        assert results[0] is Verdict.STORED
    assert len(await store.steps(run)) == 3
    assert await store.is_sound()


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_connections_killed_under_load_lose_and_repeat_nothing(store: Store) -> None:
    news = [store.new(concurrency_key=f"k{place % 5}") for place in range(300)]

    async def trigger(new: NewRun) -> Any:
        return await store.database.submit(runs.enqueue, new, timeout=30)

    tasks: list[asyncio.Task[Any]] = []
    for place, new in enumerate(news):
        tasks.append(asyncio.create_task(trigger(new)))
        if place % 60 == 0:
            await store.sql(TERMINATE)
    assert {(await task).disposition for task in tasks} == {Disposition.CREATED}
    assert await store.value("SELECT count(*) FROM {runs}") == 300
    assert await store.value("SELECT count(*) FROM {events}") == 300
    assert await store.is_sound()


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_a_connection_killed_in_the_middle_of_the_commit_is_replaced(store: Store) -> None:
    await store.sql("CREATE SEQUENCE durably.kills")
    await store.sql(
        "CREATE FUNCTION durably.kill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF nextval('durably.kills') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;"
        " RETURN NULL; END $$"
    )
    await store.sql(
        "CREATE CONSTRAINT TRIGGER kill AFTER INSERT ON durably.events DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION durably.kill()"
    )
    try:
        enqueued = await store.enqueue_batch(store.new(), store.new(concurrency_key="k"))
        kills = await store.value("SELECT last_value FROM durably.kills")
    finally:
        await store.sql("DROP FUNCTION durably.kill() CASCADE")
        await store.sql("DROP SEQUENCE durably.kills")
    assert kills == 3
    assert {item.disposition for item in enqueued} == {Disposition.CREATED}
    assert await store.value("SELECT count(*) FROM {events}") == 2
