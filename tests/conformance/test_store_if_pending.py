"""`if_pending`: only runs of the same job and key that never started count."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from durably.model import Change, Disposition, IfPending, RunStatus, StoredRun
from durably.store import actions, leases, runs
from durably.store.keys import set_limit
from durably.store.operation import combine
from tests.support.races import run_on, wait_until_blocked
from tests.support.store import LEASE, Store, ids

MERGING: tuple[IfPending, ...] = ("skip", "replace", "reject")


async def a_waiting_run(store: Store, **options: object) -> StoredRun:
    """A run of key k that waits behind one that was claimed."""
    await store.leased(concurrency_key="k")
    return await store.trigger(concurrency_key="k", **options)


@pytest.mark.parametrize("if_pending", MERGING)
async def test_with_nobody_waiting_it_is_an_ordinary_trigger(store: Store, if_pending: IfPending) -> None:
    enqueued = await store.enqueue(concurrency_key="k", if_pending=if_pending)
    assert enqueued.disposition is Disposition.CREATED
    assert await store.event_types(enqueued.run) == ["run:trigger"]


async def test_queue_adds_a_run_behind_the_waiting_one(store: Store) -> None:
    await a_waiting_run(store)
    assert (await store.enqueue(concurrency_key="k")).disposition is Disposition.CREATED


async def test_skip_returns_the_waiting_run_and_tells_what_it_skipped(store: Store) -> None:
    waiting = await a_waiting_run(store, labels={"old": "1"})
    skipped = await store.enqueue(concurrency_key="k", if_pending="skip", input='{"n":2}', labels={"new": "2"})
    assert (skipped.disposition, skipped.run.id) == (Disposition.COALESCED, waiting.id)
    assert (skipped.run.input_json, skipped.run.labels) == ("1", {"old": "1"})
    [_, event] = await store.events(waiting)
    assert event.type == "run:coalesced"
    assert event.payload_json is not None
    assert json.loads(event.payload_json) == {"skippedInput": {"n": 2}, "skippedLabels": {"new": "2"}}


async def test_replace_gives_the_waiting_run_the_new_input_and_it_starts_with_that(store: Store) -> None:
    first = await store.leased(concurrency_key="k")
    waiting = await store.trigger(concurrency_key="k")
    replaced = await store.enqueue(concurrency_key="k", if_pending="replace", input="2")
    assert (replaced.disposition, replaced.run.id, replaced.run.input_json) == (Disposition.REPLACED, waiting.id, "2")
    await store.end(first)
    [started] = await store.claim()
    assert (started.id, started.input_json) == (waiting.id, "2")
    assert await store.event_types(waiting) == ["run:trigger", "run:replace", "run:leased"]


async def test_a_repeated_replace_happens_once(store: Store) -> None:
    waiting = await a_waiting_run(store)
    new = store.new(concurrency_key="k", if_pending="replace", input="2")
    first, again = await store.enqueue(new), await store.enqueue(new)
    assert (first.disposition, again.disposition) == (Disposition.REPLACED, Disposition.REPLACED)
    assert (await store.event_types(waiting)).count("run:replace") == 1


async def test_a_replace_that_is_repeated_after_the_run_started_is_still_that_replace(store: Store) -> None:
    first = await store.leased(concurrency_key="k")
    waiting = await store.trigger(concurrency_key="k")
    new = store.new(concurrency_key="k", if_pending="replace", input="2")
    await store.enqueue(new)
    await store.end(first)
    await store.claim()
    again = await store.enqueue(new)
    assert (again.disposition, again.run.id) == (Disposition.REPLACED, waiting.id)
    assert await store.value("SELECT count(*) FROM {runs}") == 2


async def test_reject_writes_nothing_and_names_the_waiting_run(store: Store) -> None:
    waiting = await a_waiting_run(store)
    before = await store.snapshot()
    rejected = await store.enqueue(concurrency_key="k", if_pending="reject", input="2")
    assert (rejected.disposition, rejected.run.id) == (None, waiting.id)
    assert await store.snapshot() == before


@pytest.mark.parametrize("if_pending", MERGING)
async def test_the_newest_waiting_run_is_the_one_that_counts(store: Store, if_pending: IfPending) -> None:
    await a_waiting_run(store)
    newest = await store.trigger(concurrency_key="k")
    assert (await store.enqueue(concurrency_key="k", if_pending=if_pending)).run.id == newest.id


@pytest.mark.parametrize("if_pending", MERGING)
async def test_a_run_that_only_waits_for_its_time_counts(store: Store, if_pending: IfPending) -> None:
    later = store.environment.now().replace(year=2999)
    waiting = await store.trigger(concurrency_key="k", run_at=later)
    assert (await store.enqueue(concurrency_key="k", if_pending=if_pending)).run.id == waiting.id


@pytest.mark.parametrize("if_pending", MERGING)
async def test_a_claimable_run_that_nobody_claimed_yet_counts(store: Store, if_pending: IfPending) -> None:
    waiting = await store.trigger(concurrency_key="k")
    assert waiting.hold is None
    assert (await store.enqueue(concurrency_key="k", if_pending=if_pending)).run.id == waiting.id


@pytest.mark.parametrize("if_pending", MERGING)
@pytest.mark.parametrize("status", list(RunStatus)[1:])
async def test_a_run_that_started_does_not_count(store: Store, if_pending: IfPending, status: RunStatus) -> None:
    before = await store.in_status(status, concurrency_key="k")
    enqueued = await store.enqueue(concurrency_key="k", if_pending=if_pending)
    assert enqueued.disposition is Disposition.CREATED
    assert await store.get(before) == before


@pytest.mark.parametrize("if_pending", MERGING)
async def test_a_run_that_was_handed_back_or_resumed_does_not_count(store: Store, if_pending: IfPending) -> None:
    resumed = await store.in_status(RunStatus.FAILED, concurrency_key="resumed")
    await store.resume(resumed)
    back = await store.leased(concurrency_key="back")
    await store.end(back, RunStatus.PENDING)
    for key in ("resumed", "back"):
        enqueued = await store.enqueue(concurrency_key=key, if_pending=if_pending)
        assert enqueued.disposition is Disposition.CREATED


@pytest.mark.parametrize("if_pending", MERGING)
async def test_runs_of_other_jobs_and_other_keys_do_not_count(store: Store, if_pending: IfPending) -> None:
    await store.trigger(job="other", concurrency_key="k")
    await store.trigger(concurrency_key="other")
    assert (await store.enqueue(concurrency_key="k", if_pending=if_pending)).disposition is Disposition.CREATED


@pytest.mark.parametrize("if_pending", MERGING)
async def test_without_a_concurrency_key_nobody_counts(store: Store, if_pending: IfPending) -> None:
    await store.trigger()
    assert (await store.enqueue(if_pending=if_pending)).disposition is Disposition.CREATED


@pytest.mark.parametrize("if_pending", MERGING)
async def test_the_idempotency_key_is_asked_first(store: Store, if_pending: IfPending) -> None:
    waiting = await a_waiting_run(store, idempotency_key="i")
    before = await store.snapshot()
    same = await store.enqueue(concurrency_key="k", if_pending=if_pending, idempotency_key="i")
    other = await store.enqueue(concurrency_key="k", if_pending=if_pending, idempotency_key="i", input="2")
    assert (same.disposition, same.run.id) == (Disposition.IDEMPOTENT, waiting.id)
    assert (other.disposition, other.run.id) == (None, waiting.id)
    assert await store.snapshot() == before


async def test_a_mixed_batch_is_what_its_items_would_be_one_after_the_other(store: Store) -> None:
    kinds: list[tuple[str, IfPending]] = [
        ("a", "skip"),
        ("a", "skip"),
        ("b", "queue"),
        ("b", "replace"),
        ("c", "reject"),
        ("c", "reject"),
        ("a", "queue"),
        ("b", "skip"),
        ("a", "replace"),
        ("d", "queue"),
    ]
    news = [
        store.new(concurrency_key=key, if_pending=kind, input=str(place)) for place, (key, kind) in enumerate(kinds)
    ]
    enqueued = await store.enqueue_batch(*news)
    made, joined, swapped = Disposition.CREATED, Disposition.COALESCED, Disposition.REPLACED
    expected = [made, joined, made, swapped, made, None, made, joined, swapped, made]
    assert [item.disposition for item in enqueued] == expected
    assert (await store.get(news[6].id)).input_json == "8"
    assert (await store.get(news[2].id)).input_json == "3"
    assert await store.is_sound()


@pytest.mark.parametrize("if_pending", MERGING)
async def test_a_race_leaves_one_waiting_run(store: Store, if_pending: IfPending) -> None:
    await store.leased(concurrency_key="k")
    databases = await store.others(6)
    news = [store.new(concurrency_key="k", if_pending=if_pending) for _ in range(18)]
    enqueued = await asyncio.gather(*(databases[place % 6].submit(runs.enqueue, new) for place, new in enumerate(news)))
    merged = {"skip": Disposition.COALESCED, "replace": Disposition.REPLACED}.get(if_pending)
    assert Counter(item.disposition for item in enqueued) == {Disposition.CREATED: 1, merged: 17}
    assert len({item.run.id for item in enqueued}) == 1
    assert await store.value("SELECT count(*) FROM {runs}") == 2
    assert await store.is_sound()


async def test_replacing_never_changes_a_run_that_is_being_claimed(store: Store) -> None:
    """Replaces race with claims: whatever a claim returned stays the input of that execution."""
    await store.database.run(set_limit("k", 100))
    databases = await store.others(4)

    async def replace_often(place: int) -> None:
        for turn in range(12):
            new = store.new(concurrency_key="k", if_pending="replace", input=f'"{place}.{turn}"')
            await databases[place].submit(runs.enqueue, new)

    async def claim_often() -> list[StoredRun]:
        return [run for _ in range(40) for run in await store.claim(database=databases[3])]

    async with asyncio.TaskGroup() as group:
        claiming = group.create_task(claim_often())
        for place in range(3):
            group.create_task(replace_often(place))
    claimed = claiming.result()
    claimed += await store.claim(limit=100)
    assert {run.id: run.input_json for run in claimed} == {run.id: (await store.get(run)).input_json for run in claimed}
    assert await store.is_sound()


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_a_replace_that_loses_every_target_to_claims_makes_a_run_of_its_own(store: Store) -> None:
    """Both waiting runs are claimed while the replace waits for their rows, one after the other."""
    await store.database.run(set_limit("k", 5))
    old, new = await store.trigger(concurrency_key="k"), await store.trigger(concurrency_key="k")
    newest, oldest = await store.connect(), await store.connect()
    await newest.execute("BEGIN")
    await oldest.execute("BEGIN")
    lease = leases.claim(["job"], limit=1, owner="x", token=store.environment.new_id(), lease=LEASE)
    assert ids(await run_on(oldest, store, lease)) == [old.id]
    assert ids(await run_on(newest, store, lease)) == [new.id]
    replacing = asyncio.create_task(store.enqueue(concurrency_key="k", if_pending="replace", input="2"))
    await wait_until_blocked(store, newest)
    await newest.execute("COMMIT")
    await wait_until_blocked(store, oldest)
    await oldest.execute("COMMIT")
    replaced = await replacing
    assert replaced.disposition is Disposition.CREATED
    assert [(await store.get(run)).input_json for run in (old, new)] == ["1", "1"]
    assert await store.is_sound()


@pytest.mark.parametrize("if_pending", ["skip", "reject"])
@pytest.mark.parametrize("has_older", [True, False])
async def test_a_trigger_and_a_cancel_of_the_run_that_it_met_in_one_commit(
    store: Store, if_pending: IfPending, *, has_older: bool
) -> None:
    """The trigger is told of the run that it met, whatever became of that one since, and of no other."""
    await a_waiting_run(store) if has_older else await store.leased(concurrency_key="k")
    met = await store.trigger(concurrency_key="k")
    new = store.new(concurrency_key="k", if_pending=if_pending)
    change = Change(run_id=met.id, concurrency_key="k", token=store.environment.new_id())
    both = combine([runs.enqueue.build([new]), actions.cancel.build([change])])
    both_results: list[Any] = await store.database.run(both)
    [enqueued], [changed] = both_results
    assert (enqueued.run.id, enqueued.disposition) == (
        met.id,
        Disposition.COALESCED if if_pending == "skip" else None,
    )
    assert changed.done
    assert ("run:coalesced" in await store.event_types(met)) == (if_pending == "skip")
