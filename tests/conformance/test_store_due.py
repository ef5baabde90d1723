"""Runs that wait for their start time."""

from __future__ import annotations

from datetime import timedelta

from durably.model import Hold, Outlook
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


async def test_due_runs_are_released(store: Store) -> None:
    soon, later = await store.trigger(delay=HOUR), await store.trigger(delay=2 * HOUR)
    await store.make_due(soon)
    released = await store.database.run(due.release_due(10))
    assert (released.released, released.keys) == (1, ())
    assert ids(await store.claim()) == [soon.id]
    assert (await store.get(later)).hold is Hold.TIME


async def test_without_waiting_runs_nothing_is_released(store: Store) -> None:
    await store.trigger()
    released = await store.database.run(due.release_due(10))
    assert (released.released, released.keys) == (0, ())


async def look(store: Store, *jobs: str, max_crashes: int = 2) -> Outlook:
    return await store.database.read(due.look(jobs or ("job",), max_crashes=max_crashes))


def what(outlook: Outlook) -> set[str]:
    """What a look found."""
    return {name for name in ("claimable", "expired", "crashed", "due", "next_due") if getattr(outlook, name)}


async def test_a_look_at_nothing_finds_nothing(store: Store) -> None:
    assert await look(store) == Outlook(claimable=False, expired=False, crashed=False, due=False, next_due=None)
    await store.leased()
    await store.trigger(job="unserved")
    await store.leased(job="elsewhere")
    await store.end(await store.leased())
    assert what(await look(store)) == set()


async def test_a_look_tells_what_is_claimable_and_only_by_these_jobs(store: Store) -> None:
    await store.trigger()
    await store.trigger(job="keyed", concurrency_key="k")
    await store.trigger(job="behind", concurrency_key="k")
    assert [what(await look(store, job)) for job in ("job", "keyed")] == [{"claimable"}] * 2
    assert what(await look(store, "behind", "absent")) == set()
    assert what(await look(store, "behind", "absent", "keyed")) == {"claimable"}


async def test_a_look_tells_what_expired_from_what_crashed_too_often(store: Store) -> None:
    once = await store.leased()
    twice = await store.taken_over(await store.leased(job="crashing"))
    assert what(await look(store, "job", "crashing")) == set()
    await store.expire(once, twice)
    assert what(await look(store)) == {"expired"}
    assert what(await look(store, "crashing")) == {"crashed"}
    assert what(await look(store, "job", "crashing")) == {"expired", "crashed"}
    assert what(await look(store, "job", "crashing", max_crashes=3)) == {"expired"}


async def test_a_look_tells_when_the_next_run_is_due(store: Store) -> None:
    """Whatever its job is: any worker releases it."""
    soon, later = await store.trigger(delay=HOUR), await store.trigger(job="elsewhere", delay=3 * HOUR)
    first = await look(store)
    assert what(first) == {"next_due"}
    assert first.next_due is not None
    assert timedelta(0) < first.next_due <= HOUR
    await store.make_due(soon)
    second = await look(store)
    assert what(second) == {"due", "next_due"}
    assert second.next_due is not None
    assert 2 * HOUR < second.next_due <= 3 * HOUR
    await store.make_due(later)
    assert what(await look(store)) == {"due"}


async def test_a_look_finds_due_runs_of_a_key_until_they_are_admitted(store: Store) -> None:
    [run] = [await store.trigger(delay=HOUR, concurrency_key="k")]
    await store.make_due(run)
    assert what(await look(store)) == {"due"}
    await store.database.run(due.admit_due(["k"]))
    assert what(await look(store)) == {"claimable"}


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
