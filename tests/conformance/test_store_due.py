"""Runs that wait for their start time."""

from __future__ import annotations

from datetime import timedelta

from durably.model import Hold
from durably.store import due
from tests.support.store import Store, ids

HOUR = timedelta(hours=1)


async def test_a_delayed_run_is_held_until_its_time(store: Store) -> None:
    run = await store.trigger(delay=HOUR)
    assert run.hold is Hold.TIME
    assert run.available_at == run.created_at + HOUR
    assert await store.claim() == []


async def test_a_run_at_a_time_is_held_until_then(store: Store) -> None:
    at = store.environment.now().replace(microsecond=123456) + HOUR
    run = await store.trigger(run_at=at)
    assert (run.hold, run.available_at) == (Hold.TIME, at)


async def test_due_runs_are_released_and_the_next_one_is_told(store: Store) -> None:
    soon, later = await store.trigger(delay=HOUR), await store.trigger(delay=2 * HOUR)
    await store.make_due(soon)
    released = await store.database.run(due.release_due(10))
    assert (released.released, released.keys) == (1, ())
    assert released.next_in is not None
    assert HOUR < released.next_in <= 2 * HOUR
    assert ids(await store.claim()) == [soon.id]
    assert (await store.get(later)).hold is Hold.TIME


async def test_without_waiting_runs_there_is_no_next(store: Store) -> None:
    await store.trigger()
    released = await store.database.run(due.release_due(10))
    assert (released.released, released.keys, released.next_in) == (0, (), None)


async def test_no_more_runs_are_released_than_asked(store: Store) -> None:
    runs = [await store.trigger(delay=HOUR) for _ in range(3)]
    await store.make_due(*runs)
    assert [(await store.database.run(due.release_due(2))).released for _ in range(3)] == [2, 1, 0]


async def test_due_runs_of_a_key_are_told_by_key_and_stay_held(store: Store) -> None:
    runs = [await store.trigger(delay=HOUR, concurrency_key=key) for key in ("a", "b", "a")]
    await store.make_due(*runs)
    released = await store.database.run(due.release_due(10))
    assert (released.released, released.keys) == (0, ("a", "b"))
    assert {(await store.get(run)).hold for run in runs} == {Hold.TIME}


async def test_admitted_due_runs_take_the_free_slots_of_their_keys(store: Store) -> None:
    runs = [await store.trigger(delay=HOUR, concurrency_key=key) for key in ("a", "b", "a")]
    later = await store.trigger(delay=HOUR, concurrency_key="a")
    await store.make_due(*runs)
    await store.database.run(due.admit_due(["a", "b"]))
    assert [(await store.get(run)).hold for run in (*runs, later)] == [None, None, Hold.KEY, Hold.TIME]
    assert await store.is_sound()


async def test_admitting_a_key_leaves_other_keys_alone(store: Store) -> None:
    runs = [await store.trigger(delay=HOUR, concurrency_key=key) for key in ("a", "b")]
    await store.make_due(*runs)
    await store.database.run(due.admit_due(["a"]))
    assert (await store.get(runs[1])).hold is Hold.TIME


async def test_a_due_run_ranks_by_its_start_time(store: Store) -> None:
    early = await store.trigger(delay=HOUR)
    await store.make_due(early)
    now = await store.trigger()
    await store.database.run(due.release_due(10))
    assert ids(await store.claim()) == [now.id, early.id]


async def test_a_due_run_is_released_once_beside_others(store: Store) -> None:
    runs = [await store.trigger(delay=HOUR) for _ in range(10)]
    await store.make_due(*runs)
    one, other = await store.others(2)
    found = [await database.run(due.release_due(7)) for database in (one, other)]
    assert sum(released.released for released in found) == 10


async def test_a_cancelled_run_is_never_released(store: Store) -> None:
    run = await store.trigger(delay=HOUR)
    await store.cancel(run)
    await store.make_due(run)
    assert (await store.database.run(due.release_due(10))).released == 0
