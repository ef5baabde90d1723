"""G7: at most `limit` runs of a key are leased at any instant; the others wait in order."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from durably.model import Change, Hold, RunStatus, StoredRun
from durably.store import actions, due, keys, runs
from tests.support.store import Store, an_end, ids

TERMINAL_ENDS = (RunStatus.COMPLETED, RunStatus.FAILED)


async def with_limit(store: Store, limit: int, count: int, key: str = "k") -> list[StoredRun]:
    """That many runs of a key with this limit."""
    await store.database.run(keys.set_limit(key, limit))
    return [await store.trigger(concurrency_key=key) for _ in range(count)]


async def active(store: Store, key: str = "k") -> int:
    counted: int = await store.value(f"SELECT active FROM {{concurrency_keys}} WHERE key = '{key}'")
    return counted


@pytest.mark.parametrize("limit", [1, 3])
async def test_no_more_runs_of_a_key_are_claimable_than_its_limit(store: Store, limit: int) -> None:
    triggered = await with_limit(store, limit, 5)
    assert [run.hold for run in triggered] == [None] * limit + [Hold.KEY] * (5 - limit)
    assert ids(await store.claim()) == ids(triggered[:limit])
    assert await store.claim() == []
    assert await active(store) == limit


async def test_a_key_is_shared_by_all_jobs(store: Store) -> None:
    first = await store.trigger(job="a", concurrency_key="k")
    second = await store.trigger(job="b", concurrency_key="k")
    [leased] = await store.claim("a", "b")
    assert leased.id == first.id
    await store.end(leased)
    assert ids(await store.claim("a", "b")) == [second.id]


async def test_keys_do_not_hold_up_each_other(store: Store) -> None:
    triggered = [await store.trigger(concurrency_key=key) for key in ("a", "b", None, "c")]
    assert ids(await store.claim()) == ids(triggered)


@pytest.mark.parametrize("limit", [1, 3])
async def test_waiting_runs_go_in_the_order_in_which_they_came(store: Store, limit: int) -> None:
    triggered = await with_limit(store, limit, 7)
    served: list[str] = []
    while claimed := await store.claim(limit=1):
        served += ids(claimed)
        await store.end(claimed[0])
    assert served == ids(triggered)
    assert await store.is_sound()


async def test_a_waiting_run_of_higher_priority_goes_first(store: Store) -> None:
    first = await store.leased(concurrency_key="k")
    plain = await store.trigger(concurrency_key="k")
    urgent = await store.trigger(concurrency_key="k", priority=9)
    await store.end(first)
    [second] = await store.claim()
    await store.end(second)
    assert ids([second, *await store.claim()]) == [urgent.id, plain.id]


@pytest.mark.parametrize("status", TERMINAL_ENDS)
async def test_the_end_of_a_run_passes_its_slot_on(store: Store, status: RunStatus) -> None:
    first = await store.leased(concurrency_key="k")
    second = await store.trigger(concurrency_key="k")
    await store.end(first, status)
    assert (await store.get(second)).hold is None
    assert await active(store) == 1
    assert await store.is_sound()


@pytest.mark.parametrize("status", TERMINAL_ENDS)
async def test_the_last_end_leaves_the_slot_free(store: Store, status: RunStatus) -> None:
    await store.end(await store.leased(concurrency_key="k"), status)
    assert await active(store) == 0
    assert (await store.trigger(concurrency_key="k")).hold is None


async def test_a_refused_end_frees_no_slot(store: Store) -> None:
    run = await store.leased(concurrency_key="k")
    waiting = await store.trigger(concurrency_key="k")
    await store.taken_over(run)
    await store.end(run)
    assert await active(store) == 1
    assert (await store.get(waiting)).hold is Hold.KEY


async def test_a_repeated_end_frees_the_slot_once(store: Store) -> None:
    first = await store.leased(concurrency_key="k")
    await store.trigger(concurrency_key="k")
    third = await store.trigger(concurrency_key="k")
    for _ in range(3):
        await store.end(first)
    assert await active(store) == 1
    assert (await store.get(third)).hold is Hold.KEY


async def test_a_run_that_is_handed_back_keeps_its_slot(store: Store) -> None:
    first = await store.leased(concurrency_key="k")
    second = await store.trigger(concurrency_key="k")
    await store.end(first, RunStatus.PENDING)
    assert (await store.get(second)).hold is Hold.KEY
    assert ids(await store.claim()) == [first.id]
    assert await store.is_sound()


async def test_a_run_that_is_taken_over_keeps_its_slot(store: Store) -> None:
    first = await store.leased(concurrency_key="k")
    second = await store.trigger(concurrency_key="k")
    await store.taken_over(first)
    assert (await store.get(second)).hold is Hold.KEY
    assert await store.is_sound()


async def test_cancelling_the_holder_passes_its_slot_on(store: Store) -> None:
    first = await store.leased(concurrency_key="k")
    second = await store.trigger(concurrency_key="k")
    await store.cancel(first)
    assert ids(await store.claim()) == [second.id]
    assert await store.is_sound()


async def test_cancelling_a_run_that_has_a_slot_but_no_lease_passes_it_on(store: Store) -> None:
    first, second = await with_limit(store, 1, 2)
    await store.cancel(first)
    assert ids(await store.claim()) == [second.id]
    assert await store.is_sound()


async def test_cancelling_a_waiting_run_frees_nothing(store: Store) -> None:
    _, second, third = await with_limit(store, 1, 3)
    await store.cancel(second)
    assert (await store.get(third)).hold is Hold.KEY
    assert await active(store) == 1


async def test_a_resumed_run_waits_for_its_key(store: Store) -> None:
    failed = await store.in_status(RunStatus.FAILED, concurrency_key="k")
    holder = await store.leased(concurrency_key="k")
    resumed = await store.resume(failed)
    assert resumed.run is not None
    assert resumed.run.hold is Hold.KEY
    await store.end(holder)
    assert ids(await store.claim()) == [failed.id]
    assert await store.is_sound()


async def test_a_resumed_run_takes_a_free_slot_at_once(store: Store) -> None:
    failed = await store.in_status(RunStatus.FAILED, concurrency_key="k")
    resumed = await store.resume(failed)
    assert resumed.run is not None
    assert resumed.run.hold is None
    assert await active(store) == 1


async def test_a_resumed_run_without_a_key_is_claimable(store: Store) -> None:
    failed = await store.in_status(RunStatus.FAILED)
    await store.resume(failed)
    assert ids(await store.claim()) == [failed.id]


async def test_a_raised_limit_lets_waiting_runs_move_up(store: Store) -> None:
    triggered = await with_limit(store, 1, 5)
    await store.database.run(keys.set_limit("k", 3))
    assert ids(await store.claim()) == ids(triggered[:3])
    assert await store.is_sound()


async def test_a_lowered_limit_takes_nothing_away_and_holds_until_it_is_met(store: Store) -> None:
    triggered = await with_limit(store, 3, 5)
    leased = await store.claim()
    await store.database.run(keys.set_limit("k", 1))
    await store.end(leased[0])
    await store.end(leased[1])
    assert await store.claim() == []
    await store.end(leased[2])
    assert ids(await store.claim()) == [triggered[3].id]
    assert await store.is_sound()


async def test_a_limit_of_zero_stops_a_key_until_it_is_raised(store: Store) -> None:
    [waiting] = await with_limit(store, 0, 1)
    assert waiting.hold is Hold.KEY
    assert await store.claim() == []
    assert await store.is_sound()
    await store.database.run(keys.set_limit("k", 1))
    assert ids(await store.claim()) == [waiting.id]


async def test_a_due_run_waits_for_its_key(store: Store) -> None:
    holder = await store.leased(concurrency_key="k")
    timed = await store.trigger(concurrency_key="k", delay=timedelta(hours=1))
    await store.make_due(timed)
    await store.database.run(due.admit_due(["k"]))
    assert (await store.get(timed)).hold is Hold.KEY
    await store.end(holder)
    assert ids(await store.claim()) == [timed.id]
    assert await store.is_sound()


async def test_a_run_that_waits_for_its_time_takes_no_slot(store: Store) -> None:
    await store.trigger(concurrency_key="k", delay=timedelta(hours=1))
    assert (await store.trigger(concurrency_key="k")).hold is None
    assert await store.is_sound()


async def test_a_batch_of_many_keys_fills_every_one_to_its_limit(store: Store) -> None:
    await store.database.run(keys.set_limit("b", 3))
    await store.database.run(keys.set_limit("c", 0))
    news = [store.new(concurrency_key=key, priority=place) for place in range(5) for key in "abc"]
    await store.enqueue_batch(*news)
    claimed = await store.claim(limit=100)
    urgent = {key: [new.id for new in reversed(news) if new.concurrency_key == key] for key in "abc"}
    assert sorted(ids(claimed)) == sorted([urgent["a"][0], *urgent["b"][:3]])
    assert await store.is_sound()


async def test_runs_that_end_in_one_batch_hand_their_slots_on_together(store: Store) -> None:
    await with_limit(store, 3, 9)
    leased = await store.claim()
    await asyncio.gather(*(store.store(an_end(run)) for run in leased))
    assert len(await store.claim()) == 3
    assert await store.is_sound()


async def test_triggers_and_ends_of_one_key_at_once_leave_nobody_behind(store: Store) -> None:
    databases = await store.others(4)
    for _ in range(8):
        [holder] = await store.claim(limit=1) or [await store.leased(concurrency_key="k")]
        new = store.new(concurrency_key="k")
        await asyncio.gather(
            store.store(an_end(holder), databases[0]),
            databases[1].submit(runs.enqueue, new),
            databases[2].run(keys.set_limit("other", 1)),
            databases[3].submit(runs.enqueue, store.new(concurrency_key="k")),
        )
    while claimed := await store.claim(limit=1):
        await store.end(claimed[0])
    assert await store.value("SELECT count(*) FROM {runs} WHERE status <> 'completed'") == 0
    assert await store.is_sound()


async def test_a_race_of_two_ends_for_one_run_frees_one_slot(store: Store) -> None:
    first = await store.leased(concurrency_key="k")
    await store.trigger(concurrency_key="k")
    await store.trigger(concurrency_key="k")
    one, other = await store.others(2)
    await asyncio.gather(
        store.store(an_end(first), one),
        other.submit(actions.cancel, Change(run_id=first.id, concurrency_key="k", token=store.environment.new_id())),
    )
    assert await active(store) == 1
    assert len(await store.claim()) == 1
    assert await store.is_sound()


async def test_a_drifted_counter_is_found_and_mended(store: Store) -> None:
    triggered = await with_limit(store, 1, 2)
    await store.sql("UPDATE {concurrency_keys} SET active = 7")
    assert await store.database.read(keys.find_drift()) == ["k"]
    assert await store.database.run(keys.audit_keys(["k"])) == ["k"]
    assert await active(store) == 1
    assert await store.is_sound()
    assert ids(await store.claim()) == [triggered[0].id]


async def test_a_run_beside_a_free_slot_is_found_and_admitted(store: Store) -> None:
    _, stranded = await with_limit(store, 1, 2)
    await store.sql('UPDATE {concurrency_keys} SET "limit" = 2')
    assert await store.database.read(keys.find_drift()) == ["k"]
    assert await store.database.run(keys.audit_keys(["k"])) == []
    assert (await store.get(stranded)).hold is None
    assert await store.is_sound()


async def test_a_sound_database_has_nothing_to_mend(store: Store) -> None:
    await with_limit(store, 1, 3)
    before = await store.snapshot()
    assert await store.database.read(keys.find_drift()) == []
    assert await store.database.run(keys.audit_keys(["k"])) == []
    assert await store.snapshot() == before


async def test_keys_that_nobody_uses_are_forgotten(store: Store) -> None:
    await store.end(await store.leased(concurrency_key="idle"))
    await store.trigger(concurrency_key="used")
    await with_limit(store, 5, 0, "limited")
    await with_limit(store, 0, 1, "stopped")
    assert await store.database.run(keys.purge_keys(10)) == 1
    left = [row["key"] for row in await store.sql("SELECT key FROM {concurrency_keys} ORDER BY key")]
    assert left == ["limited", "stopped", "used"]


async def test_forgetting_keys_beside_triggers_strands_nobody(store: Store) -> None:
    databases = await store.others(3)

    async def trigger_and_end(database: int) -> None:
        for _ in range(15):
            await databases[database].submit(runs.enqueue, store.new(f"job-{database}", concurrency_key="k"))
            for run in await store.claim(f"job-{database}", database=databases[database]):
                await store.store(an_end(run), databases[database])

    async def forget() -> None:
        for _ in range(30):
            await databases[2].run(keys.purge_keys(10))

    await asyncio.gather(trigger_and_end(0), trigger_and_end(1), forget())
    assert await store.is_sound()
    while claimed := await store.claim("job-0", "job-1", limit=1):
        await store.end(claimed[0])
    assert await store.value("SELECT count(*) FROM {runs} WHERE status <> 'completed'") == 0
