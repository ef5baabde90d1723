"""G1, G2: a trigger is durable and idempotent. What is stored, and what an idempotency key guards."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from operator import attrgetter
from typing import Any

import pytest

from durably.model import Change, Disposition, Hold, RunStatus
from durably.store import actions, runs
from tests.support.store import AT, Store, a_checkpoint, a_failed_step, a_write, ids

HOUR = timedelta(hours=1)


async def test_a_triggered_run_is_stored_as_it_was_given(store: Store) -> None:
    new = store.new("work", input='{"a":1e16}', concurrency_key="k", idempotency_key="i", labels={"x": "y"}, priority=3)
    stored = (await store.enqueue(new)).run
    assert (stored.job, stored.input_json, stored.status) == ("work", '{"a":1e16}', RunStatus.PENDING)
    assert (stored.concurrency_key, stored.idempotency_key, stored.priority) == ("k", "i", 3)
    assert (stored.labels, stored.generation, stored.attempt) == ({"x": "y"}, 0, 0)
    assert stored == await store.get(new.id)


@pytest.mark.parametrize("options", [{}, {"delay": HOUR}, {"run_at": AT}, {"labels": {"a": "b"}, "priority": -1}])
async def test_a_run_without_keys_is_told_without_being_read_back(store: Store, options: dict[str, Any]) -> None:
    stored = (await store.enqueue(**options)).run
    assert stored == await store.get(stored)


async def test_a_trigger_is_one_event(store: Store) -> None:
    run = await store.trigger(labels={"a": "b"})
    [event] = await store.events(run)
    assert (event.type, event.seq, event.job, event.labels) == ("run:trigger", 1, "job", {"a": "b"})
    assert event.created_at == run.created_at


@pytest.mark.parametrize(
    "text", ['"\\u0000"', '"é😀"', "1e400", "123456789012345678901234567890", '{"b":1,"a":1,"b":2}']
)
async def test_values_come_back_as_the_very_text_that_was_given(store: Store, text: str) -> None:
    stored = (await store.enqueue(input=text, concurrency_key="k")).run
    assert stored.input_json == text
    [claimed] = await store.claim()
    assert claimed.input_json == text


async def test_labels_with_any_letters_come_back(store: Store) -> None:
    labels = {'quo"te': "back\\slash", "é": "😀", "": "{}"}
    run = await store.trigger(labels=labels)
    assert (await store.get(run)).labels == labels
    assert (await store.events(run))[0].labels == labels


async def test_an_enqueue_repeated_with_the_same_ids_creates_once(store: Store) -> None:
    items = [store.new(), store.new(idempotency_key="i"), store.new(concurrency_key="k")]
    first = await store.enqueue_batch(*items)
    again = await store.enqueue_batch(*items)
    assert {item.disposition for item in first + again} == {Disposition.CREATED}
    assert [item.run.id for item in again] == [item.id for item in items]
    assert await store.value("SELECT count(*) FROM {events}") == 3
    assert await store.is_sound()


async def test_a_repeated_enqueue_does_not_disturb_a_run_that_started(store: Store) -> None:
    new = store.new(concurrency_key="k")
    await store.enqueue(new)
    [run] = await store.claim()
    again = await store.enqueue(new)
    assert again.disposition is Disposition.CREATED
    assert again.run == run


async def test_the_same_idempotency_key_is_the_same_run(store: Store) -> None:
    run = await store.trigger(idempotency_key="i")
    again = await store.enqueue(idempotency_key="i")
    assert (again.disposition, again.run.id) == (Disposition.IDEMPOTENT, run.id)
    assert await store.event_types(run) == ["run:trigger"]


async def test_an_idempotency_key_with_another_input_is_a_conflict_that_names_the_run(store: Store) -> None:
    run = await store.trigger(idempotency_key="i", input="1")
    again = await store.enqueue(idempotency_key="i", input="2")
    assert (again.disposition, again.run.id, again.run.input_json) == (None, run.id, "1")


async def test_an_idempotency_key_lasts_beyond_the_end_of_its_run(store: Store) -> None:
    run = await store.leased(idempotency_key="i")
    await store.end(run)
    assert (await store.enqueue(idempotency_key="i")).disposition is Disposition.IDEMPOTENT
    await store.delete(run)
    assert (await store.enqueue(idempotency_key="i")).disposition is Disposition.CREATED


async def test_an_idempotency_key_belongs_to_its_job(store: Store) -> None:
    await store.trigger(job="a", idempotency_key="i")
    assert (await store.enqueue(job="b", idempotency_key="i")).disposition is Disposition.CREATED


async def test_one_batch_creates_one_run_for_an_idempotency_key(store: Store) -> None:
    enqueued = await store.enqueue_batch(*(store.new(idempotency_key="i") for _ in range(20)))
    assert Counter(item.disposition for item in enqueued) == {Disposition.CREATED: 1, Disposition.IDEMPOTENT: 19}
    assert len({item.run.id for item in enqueued}) == 1


async def test_one_batch_tells_each_item_of_a_key_whether_its_input_differs(store: Store) -> None:
    first, same, other = await store.enqueue_batch(
        store.new(idempotency_key="i"), store.new(idempotency_key="i"), store.new(idempotency_key="i", input="2")
    )
    assert [first.disposition, same.disposition, other.disposition] == [
        Disposition.CREATED,
        Disposition.IDEMPOTENT,
        None,
    ]
    assert other.run.id == first.run.id


async def test_a_race_for_idempotency_keys_creates_one_run_each(store: Store) -> None:
    databases = await store.others(6)
    names = [f"i{place}" for place in range(25)]
    orders = [names, names[::-1]] * 3  # opposite orders: they would deadlock if the store did not sort
    items = [
        database.submit(runs.enqueue, store.new(idempotency_key=name, concurrency_key="k"))
        for database, order in zip(databases, orders, strict=True)
        for name in order
    ]
    enqueued = await asyncio.gather(*items)
    assert Counter(item.disposition for item in enqueued) == {Disposition.CREATED: 25, Disposition.IDEMPOTENT: 125}
    assert len({item.run.id for item in enqueued}) == 25
    assert await store.value("SELECT count(*) FROM {events}") == 25
    assert await store.is_sound()


async def test_a_race_with_different_inputs_creates_one_and_refuses_the_others(store: Store) -> None:
    databases = await store.others(6)
    news = [store.new(idempotency_key="i", input=str(place % 2)) for place in range(6)]
    raced = zip(databases, news, strict=True)
    enqueued = await asyncio.gather(*(database.submit(runs.enqueue, new) for database, new in raced))
    [winner] = [item.run for item in enqueued if item.disposition is Disposition.CREATED]
    assert {item.run.id for item in enqueued} == {winner.id}
    for new, item in zip(news, enqueued, strict=True):
        assert (item.disposition is None) == (new.input_json != winner.input_json)


async def test_runs_are_served_by_priority_then_age(store: Store) -> None:
    plain, urgent, low, urgent_later = [await store.trigger(priority=priority) for priority in (0, 5, -5, 5)]
    assert ids(await store.claim()) == [urgent.id, urgent_later.id, plain.id, low.id]


async def test_one_unit_of_priority_is_worth_a_minute_of_age(store: Store) -> None:
    waited = await store.trigger(run_at=store.environment.now() - timedelta(seconds=70))
    urgent = await store.trigger(priority=1)
    await store.sql(f"UPDATE {{runs}} SET rank = rank - 70000000 WHERE id = '{waited.id}'")
    assert ids(await store.claim()) == [waited.id, urgent.id]


async def test_a_start_time_in_the_past_is_no_head_start(store: Store) -> None:
    first = await store.trigger()
    late = await store.trigger(run_at=AT)
    assert late.hold is None
    assert late.available_at == AT
    assert ids(await store.claim()) == [first.id, late.id]


async def test_a_retriggered_run_starts_with_the_checkpoints_that_it_is_given(store: Store) -> None:
    """Every value as it was: no text, time or number is changed on the way."""
    source = await store.leased()
    outputs = ("1e16", '"\\u0000 %s ?"', '{"b":1,"a":12345678901234567890}')
    for place, output in enumerate(outputs):
        await store.store(a_checkpoint(source, place + 1, f"{place} \u20ac % ? \x1f", place, output=output))
    kept = await store.steps(source)
    new = store.new()
    enqueued = await store.database.run(runs.retrigger(new, kept[:2]))
    copied = await store.steps(enqueued.run)
    said = attrgetter("name", "position", "status", "output_json", "error", "started_at", "completed_at")
    assert [said(step) for step in copied] == [said(step) for step in kept[:2]]
    assert {(step.run_id, step.generation) for step in copied} == {(new.id, 0)}
    assert ((await store.get(new.id)).completed_steps, (await store.get(new.id)).next_step) == (2, 2)


async def test_a_retriggered_run_has_its_checkpoints_though_the_other_run_is_gone(store: Store) -> None:
    source = await store.leased()
    await store.store(a_checkpoint(source, 1, "a", 0))
    kept = await store.steps(source)
    await store.cancel(source)
    assert (await store.delete(source)).done
    enqueued = await store.database.run(runs.retrigger(store.new(), kept))
    assert [step.name for step in await store.steps(enqueued.run)] == ["a"]
    assert (enqueued.run.completed_steps, enqueued.run.next_step) == (1, 1)


async def test_a_retrigger_repeated_with_the_same_id_happens_once(store: Store) -> None:
    source = await store.leased()
    await store.store(a_checkpoint(source, 1, "a", 0))
    await store.write(source, 2, steps=(a_failed_step(source, "b", 1),))
    operation = runs.retrigger(store.new(concurrency_key="k"), (await store.steps(source))[:1])
    first, again = await store.database.run(operation), await store.database.run(operation)
    assert (first.disposition, again.disposition) == (Disposition.CREATED, Disposition.CREATED)
    assert [step.name for step in await store.steps(first.run)] == ["a"]
    assert await store.event_types(first.run) == ["run:trigger"]


async def test_a_retriggered_run_that_started_gets_no_more_checkpoints(store: Store) -> None:
    source = await store.leased(job="source")
    await store.store(a_checkpoint(source, 1, "a", 0))
    new, kept = store.new(), await store.steps(source)
    await store.database.run(runs.retrigger(new, []))
    [started] = await store.claim()
    again = await store.database.run(runs.retrigger(new, kept))
    assert (again.run.id, await store.steps(started)) == (started.id, [])
    assert (await store.get(started)).completed_steps == 0


async def test_a_write_of_the_copy_leaves_its_source_alone(store: Store) -> None:
    source = await store.leased(job="source")
    await store.write(source, 1, steps=(*a_checkpoint(source, 1, "a", 0).steps, a_failed_step(source, "b", 1)))
    await store.database.run(runs.retrigger(store.new(), (await store.steps(source))[:1]))
    [copy] = await store.claim()
    await store.store(a_write(copy, 1, steps=a_checkpoint(copy, 1, "b", 1).steps))
    assert [(step.name, step.status.value) for step in await store.steps(source)] == [
        ("a", "completed"),
        ("b", "failed"),
    ]


async def test_a_run_that_is_held_by_its_key_says_so(store: Store) -> None:
    first, second = await store.trigger(concurrency_key="k"), await store.trigger(concurrency_key="k")
    assert (first.hold, second.hold) == (None, Hold.KEY)


@pytest.mark.parametrize("options", [{}, {"labels": {"a": "b"}}, {"concurrency_key": "k"}, {"idempotency_key": "i"}])
async def test_a_repeated_enqueue_does_not_bring_a_deleted_run_back(store: Store, options: dict[str, Any]) -> None:
    """The commit of the first attempt was in doubt; until the second one the run was executed and deleted."""
    new = store.new(**options)
    run = (await store.enqueue(new)).run
    await store.claim()
    await store.cancel(run)
    await store.delete(run)
    again = await store.enqueue(new)
    assert (again.run.id, again.disposition) == (new.id, Disposition.CREATED)
    assert not await store.exists(run)
    assert await store.event_types(run) == ["run:trigger", "run:leased", "run:cancel", "run:delete"]
    assert await store.is_sound()


async def test_a_repeated_enqueue_of_a_deleted_run_is_not_taken_for_a_waiting_one(store: Store) -> None:
    new = store.new(concurrency_key="k")
    run = (await store.enqueue(new)).run
    await store.cancel(run)
    await store.delete(run)
    waiting = await store.trigger(concurrency_key="k")
    again = await store.enqueue(new)
    assert (again.run.id, again.disposition) == (new.id, Disposition.CREATED)
    assert await store.event_types(waiting) == ["run:trigger"]


async def test_an_idempotent_trigger_is_told_of_the_run_that_is_deleted_in_the_same_commit(store: Store) -> None:
    """One trigger, many in one call, and others beside it in the commit."""
    run = await store.in_status(RunStatus.COMPLETED, idempotency_key="i")
    items = [store.new(), store.new(idempotency_key="i"), store.new(concurrency_key="k")]
    change = Change(run_id=run.id, concurrency_key=None, token=store.environment.new_id())
    many = store.database.submit_all(runs.enqueue, items)
    one = store.database.submit(runs.enqueue, store.new(idempotency_key="i"))
    several, single, deleted = await asyncio.gather(many, one, store.database.submit(actions.delete, change))
    assert [(found.run.id, found.disposition) for found in several] == [
        (items[0].id, Disposition.CREATED),
        (run.id, Disposition.IDEMPOTENT),
        (items[2].id, Disposition.CREATED),
    ]
    assert (single.run.id, single.disposition) == (run.id, Disposition.IDEMPOTENT)
    assert deleted.done
    assert not await store.exists(run)


async def test_a_retrigger_and_a_purge_of_its_source_in_one_commit_do_both(store: Store) -> None:
    run = await store.in_status(RunStatus.COMPLETED)
    await store.age(run)
    new = store.new()
    purge = actions.purge_runs(older_than=HOUR, status=RunStatus.COMPLETED, limit=10)
    purged, again = await asyncio.gather(
        store.database.run(purge), store.database.run(runs.retrigger(new, await store.steps(run)))
    )
    assert (purged, again.run.id, again.disposition) == (1, new.id, Disposition.CREATED)


async def test_new_runs_among_which_some_are_there_are_stored_and_these_left_alone(store: Store) -> None:
    """Nobody looks before runs are stored for the first time: what is there makes the database refuse all at first."""
    before = [store.new() for _ in range(3)]
    await store.enqueue_batch(*before)
    [leased, *_] = await store.claim(limit=1)
    cancelled = await store.get(before[2].id)
    await store.cancel(cancelled)
    await store.delete(cancelled)
    fresh = [store.new() for _ in range(4)]
    items = [fresh[0], before[0], fresh[1], before[1], before[2], *fresh[2:]]
    enqueued = await store.enqueue_batch(*items)
    assert [item.run.id for item in enqueued] == [item.id for item in items]
    assert {item.disposition for item in enqueued} == {Disposition.CREATED}
    assert await store.get(before[0].id) == leased
    assert not await store.exists(cancelled)
    assert [await store.event_types(item.run) for item in (enqueued[0], enqueued[3])] == [["run:trigger"]] * 2
    assert await store.value("SELECT count(*) FROM {runs}") == 6
    later = await store.enqueue_batch(store.new(), store.new())
    assert [await store.get(item.run) for item in later] == [item.run for item in later]
    assert await store.value("SELECT count(*) FROM {runs}") == 8, "nothing of what was refused is stored later"
    assert await store.is_sound()


async def test_new_runs_that_are_there_do_not_disturb_the_writes_beside_them(store: Store) -> None:
    there = [store.new() for _ in range(3)]
    await store.enqueue_batch(*there)
    over = await store.in_status(RunStatus.COMPLETED)
    change = Change(run_id=over.id, concurrency_key=None, token=store.environment.new_id())
    many = store.database.submit_all(runs.enqueue, [*there, store.new()])
    ones = [store.database.submit(runs.enqueue, new) for new in (there[0], store.new(), store.new(labels={"a": "b"}))]
    one_by_one = asyncio.gather(*ones)
    stored, changed = await asyncio.gather(many, store.database.submit(actions.delete, change))
    assert {item.disposition for item in (*stored, *await one_by_one)} == {Disposition.CREATED}
    assert changed.done
    assert await store.value("SELECT count(*) FROM {runs}") == 6
    assert await store.is_sound()
