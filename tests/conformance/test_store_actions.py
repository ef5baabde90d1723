"""G8, G10: what is done to runs from outside. Cancel, resume, delete, purge."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeAlias

import pytest

from durably.model import Change, Changed, RunStatus, StoredRun
from durably.store import actions, events
from durably.store.operation import Write
from tests.support.store import Store, a_checkpoint, an_end, ids

Action: TypeAlias = Write[Change, Changed]
Act: TypeAlias = Callable[[Store, StoredRun, str], Awaitable[Changed]]

ACTIONS: dict[str, tuple[Act, RunStatus]] = {
    "cancel": (Store.cancel, RunStatus.LEASED),
    "resume": (Store.resume, RunStatus.FAILED),
    "delete": (Store.delete, RunStatus.COMPLETED),
}


@pytest.mark.parametrize("name", ACTIONS)
async def test_an_action_repeated_with_the_same_token_is_done_once(store: Store, name: str) -> None:
    act, status = ACTIONS[name]
    run = await store.in_status(status, concurrency_key="k")
    token = store.environment.new_id()
    first = await act(store, run, token)
    before = await store.snapshot()
    again = await act(store, run, token)
    assert (first.done, again.done) == (True, True)
    assert await store.snapshot() == before
    assert await store.is_sound()


@pytest.mark.parametrize("name", ACTIONS)
async def test_an_action_by_a_second_request_is_not_done(store: Store, name: str) -> None:
    act, status = ACTIONS[name]
    run = await store.in_status(status, concurrency_key="k")
    await act(store, run, store.environment.new_id())
    before = await store.snapshot()
    assert not (await act(store, run, store.environment.new_id())).done
    assert await store.snapshot() == before


@pytest.mark.parametrize("name", ACTIONS)
async def test_an_action_on_a_run_that_is_not_there_says_so(store: Store, name: str) -> None:
    act, _ = ACTIONS[name]
    run = await store.in_status(RunStatus.COMPLETED)
    await store.delete(run)
    assert await act(store, run, store.environment.new_id()) == Changed(done=False, run=None)


async def test_a_cancelled_run_is_over(store: Store) -> None:
    run = await store.leased()
    changed = await store.cancel(run)
    assert changed.run == await store.get(run)
    assert changed.run is not None
    assert (changed.run.status, changed.run.hold, changed.run.lease_owner) == (RunStatus.CANCELLED, None, None)
    assert changed.run.completed_at is not None
    assert (await store.event_types(run))[-1] == "run:cancel"


async def test_an_action_that_is_not_allowed_returns_the_run_as_it_is(store: Store) -> None:
    run = await store.in_status(RunStatus.COMPLETED)
    assert await store.cancel(run) == Changed(done=False, run=run)
    assert await store.resume(run) == Changed(done=False, run=run)


async def test_a_resume_in_doubt_is_done_even_when_the_run_was_claimed_meanwhile(store: Store) -> None:
    run = await store.in_status(RunStatus.FAILED)
    token = store.environment.new_id()
    await store.resume(run, token)
    [claimed] = await store.claim()
    again = await store.resume(run, token)
    assert again == Changed(done=True, run=claimed)


async def test_a_resumed_run_is_as_good_as_new_but_keeps_its_history(store: Store) -> None:
    run = await store.in_status(RunStatus.FAILED)
    changed = await store.resume(run)
    assert changed.run is not None
    assert (changed.run.status, changed.run.error, changed.run.completed_at) == (RunStatus.PENDING, None, None)
    assert (changed.run.generation, changed.run.attempt, changed.run.crashes) == (1, 1, 0)
    assert (await store.event_types(run))[-1] == "run:resume"


async def test_many_actions_share_a_commit_and_stay_apart(store: Store) -> None:
    statuses = [RunStatus.PENDING, RunStatus.COMPLETED, RunStatus.LEASED, RunStatus.FAILED] * 3
    some = [await store.in_status(status, job=f"job-{place}") for place, status in enumerate(statuses)]
    changed = await asyncio.gather(*(store.cancel(run) for run in some))
    assert [change.done for change in changed] == [True, False, True, False] * 3
    assert [change.run.id for change in changed if change.run] == ids(some)


async def test_actions_of_two_kinds_on_one_run_in_one_batch_are_both_told_the_truth(store: Store) -> None:
    run = await store.in_status(RunStatus.FAILED, concurrency_key="k")
    resumed, cancelled = await asyncio.gather(store.resume(run), store.cancel(run))
    types = await store.event_types(run)
    assert resumed.done == ("run:resume" in types)
    assert cancelled.done == ("run:cancel" in types)
    assert await store.is_sound()


async def test_a_run_that_is_cancelled_and_deleted_in_one_batch_was_both(store: Store) -> None:
    run = await store.leased(concurrency_key="k")
    cancelled, deleted = await asyncio.gather(store.cancel(run), store.delete(run))
    types = await store.event_types(run)
    assert cancelled.done == ("run:cancel" in types)
    assert deleted.done == ("run:delete" in types)
    assert cancelled.run is not None
    assert cancelled.run.status is RunStatus.CANCELLED


async def test_the_same_request_twice_in_one_batch_is_done_once(store: Store) -> None:
    run = await store.leased()
    token = store.environment.new_id()
    changed = await asyncio.gather(store.cancel(run, token), store.cancel(run, token))
    assert [change.done for change in changed] == [True, True]
    assert (await store.event_types(run)).count("run:cancel") == 1


async def test_of_many_requests_at_once_one_is_done(store: Store) -> None:
    run = await store.leased(concurrency_key="k")
    databases = await store.others(5)
    changes = [Change(run_id=run.id, concurrency_key="k", token=store.environment.new_id()) for _ in range(10)]
    changed = await asyncio.gather(
        *(databases[place % 5].submit(actions.cancel, change) for place, change in enumerate(changes))
    )
    assert sorted(change.done for change in changed) == [False] * 9 + [True]
    assert (await store.event_types(run)).count("run:cancel") == 1
    assert await store.is_sound()


async def test_a_cancel_races_with_the_end_of_the_run_and_one_of_them_wins(store: Store) -> None:
    one, other = await store.others(2)
    for turn in range(10):
        run = await store.leased(job=f"job-{turn}", concurrency_key="k")
        change = Change(run_id=run.id, concurrency_key="k", token=store.environment.new_id())
        verdict, changed = await asyncio.gather(store.store(an_end(run), one), other.submit(actions.cancel, change))
        types = await store.event_types(run)
        assert changed.done == ("run:cancel" in types) != ("run:complete" in types)
        assert (verdict.value == "stored") == ("run:complete" in types)
    assert await store.is_sound()


# --- delete -----------------------------------------------------------------------------------------


async def test_deleting_a_run_removes_it_with_its_steps_and_logs_but_not_its_events(store: Store) -> None:
    run, other = await store.leased(), await store.leased()
    for each in (run, other):
        await store.store(a_checkpoint(each))
        await store.end(each, number=2)
    deleted = await store.delete(run)
    assert deleted.run is not None
    assert deleted.run.output_json == '"result"'
    assert not await store.exists(run)
    assert await store.steps(run) == []
    assert await store.database.read(events.load_logs(run.id)) == []
    assert (await store.event_types(run))[-1] == "run:delete"
    assert len(await store.steps(other)) == 1
    assert len(await store.database.read(events.load_logs(other.id))) == 1


async def test_events_of_a_deleted_run_stay_readable(store: Store) -> None:
    run = await store.leased(labels={"a": "b"})
    await store.store(a_checkpoint(run))
    await store.end(run, number=2)
    await store.delete(run)
    found = await store.events(run)
    assert [event.seq for event in found] == list(range(1, 8))
    assert {(event.job, event.labels["a"]) for event in found} == {("job", "b")}


async def test_a_deleted_run_waiting_in_nobodys_way(store: Store) -> None:
    first = await store.in_status(RunStatus.CANCELLED, concurrency_key="k")
    await store.delete(first)
    assert (await store.trigger(concurrency_key="k")).hold is None
    assert await store.is_sound()


# --- purge ------------------------------------------------------------------------------------------


async def purge(store: Store, status: RunStatus = RunStatus.COMPLETED, limit: int = 100) -> int:
    operation = actions.purge_runs(older_than=timedelta(hours=1), status=status, limit=limit)
    return await store.database.run(operation)


async def test_old_runs_are_purged_with_their_steps_and_logs(store: Store) -> None:
    old, young = await store.leased(), await store.leased()
    for run in (old, young):
        await store.store(a_checkpoint(run))
        await store.end(run, number=2)
    await store.age(old)
    assert await purge(store) == 1
    assert not await store.exists(old)
    assert await store.steps(old) == []
    assert (await store.event_types(old))[-1] == "run:delete"
    assert len(await store.steps(young)) == 1


@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED])
async def test_a_purge_takes_the_runs_of_one_status(store: Store, status: RunStatus) -> None:
    some = [await store.in_status(each) for each in RunStatus]
    await store.age(*some)
    assert await purge(store, status) == 1
    assert [await store.exists(run) for run in some] == [each is not status for each in RunStatus]


async def test_a_purge_goes_in_batches(store: Store) -> None:
    some = [await store.in_status(RunStatus.COMPLETED) for _ in range(5)]
    await store.age(*some)
    assert [await purge(store, limit=2) for _ in range(4)] == [2, 2, 1, 0]


async def test_purges_at_once_delete_each_run_once(store: Store) -> None:
    await store.enqueue_batch(*(store.new() for _ in range(20)))
    some = await store.claim(limit=20)
    await asyncio.gather(*(store.store(an_end(run)) for run in some))
    await store.age(*some)
    operation = actions.purge_runs(older_than=timedelta(hours=1), status=RunStatus.COMPLETED, limit=20)
    databases = await store.others(3)
    gone = await asyncio.gather(*(database.run(operation) for database in databases))
    assert sum(gone) == 20
    assert await store.value("SELECT count(*) FROM {events} WHERE type = 'run:delete'") == 20
