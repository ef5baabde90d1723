"""G4: a write by an older generation changes nothing, and its author learns it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeAlias

import pytest

from durably.model import (
    Change,
    Ending,
    EventType,
    Lease,
    LeaseState,
    Progress,
    RunStatus,
    RunWrite,
    StoredRun,
    Verdict,
)
from durably.store import actions, leases, steps
from durably.store.operation import Lane
from tests.support.races import run_on, wait_until_blocked
from tests.support.store import LEASE, Store, a_checkpoint, a_failed_step, a_write, an_end, an_event, with_generation

Overtake: TypeAlias = Callable[[Store, StoredRun], Awaitable[object]]


async def deleted(store: Store, run: StoredRun) -> None:
    await store.cancel(run)
    await store.delete(run)


async def handed_back(store: Store, run: StoredRun) -> None:
    await store.write(run, 7, ending=Ending(status=RunStatus.PENDING))
    await store.claim()


async def failed_and_resumed(store: Store, run: StoredRun) -> None:
    await store.end(run, RunStatus.FAILED, 7)
    await store.resume(run)
    await store.claim()


OVERTAKEN: dict[str, Overtake] = {
    "taken over": Store.taken_over,
    "cancelled": Store.cancel,
    "deleted": deleted,
    "handed back and claimed": handed_back,
    "failed, resumed and claimed": failed_and_resumed,
}


def writes_of(run: StoredRun, number: int) -> dict[str, RunWrite]:
    return {
        "checkpoint": a_checkpoint(run, number, "new", 1),
        "failed step": a_write(run, number, steps=(a_failed_step(run, "new", 1),)),
        "event": a_write(run, number, events=(an_event(),)),
        "progress": a_write(run, number, progress=Progress(current=9)),
        "completed": an_end(run, RunStatus.COMPLETED, number),
        "failed": an_end(run, RunStatus.FAILED, number),
        "handed back": an_end(run, RunStatus.PENDING, number),
        "completed without steps": a_write(
            run, number, ending=Ending(status=RunStatus.COMPLETED, output_json="1", keep_steps=False)
        ),
    }


@pytest.mark.parametrize("key", ["k", None], ids=["keyed", "plain"])
@pytest.mark.parametrize("overtaken", OVERTAKEN)
async def test_a_write_by_an_older_generation_is_refused_and_changes_nothing(
    store: Store, overtaken: str, key: str | None
) -> None:
    run = await store.leased(concurrency_key=key, labels={"a": "b"})
    await store.trigger(job="other", concurrency_key=key)
    await store.store(a_checkpoint(run))
    await OVERTAKEN[overtaken](store, run)
    before = await store.snapshot()
    for name, write in writes_of(run, 9).items():
        assert await store.store(write) is Verdict.REFUSED, name
        assert await store.snapshot() == before, name


async def test_a_write_by_a_generation_that_never_was_is_refused(store: Store) -> None:
    run = await store.leased()
    before = await store.snapshot()
    for generation in (0, 2):
        assert await store.store(a_checkpoint(with_generation(run, generation))) is Verdict.REFUSED
    assert await store.snapshot() == before


async def test_a_late_write_is_stored_when_the_lease_ran_out_but_nobody_took_it(store: Store) -> None:
    run = await store.leased()
    await store.expire(run)
    assert await store.store(a_checkpoint(run)) is Verdict.STORED


async def test_a_refused_write_in_a_batch_leaves_the_others_stored(store: Store) -> None:
    lost, kept = await store.leased(), await store.leased()
    await store.taken_over(lost)
    verdicts = await asyncio.gather(*(store.store(a_checkpoint(run)) for run in (lost, kept)))
    assert verdicts == [Verdict.REFUSED, Verdict.STORED]
    assert await store.steps(lost) == []
    assert len(await store.steps(kept)) == 1


async def test_of_ends_in_one_batch_those_are_refused_that_were_overtaken(store: Store) -> None:
    lost, ended, waiting, *kept = [await store.leased() for _ in range(8)]
    await store.taken_over(lost)
    await store.end(ended)
    await store.store(a_checkpoint(waiting, 2))
    before = [await store.get(run) for run in (lost, ended, waiting)]
    ends = [an_end(run) for run in (lost, *kept, ended, waiting)]
    assert await store.database.submit_all(steps.write_fast, ends) == [Verdict.REFUSED] + [Verdict.STORED] * 7
    assert [await store.get(run) for run in (lost, ended, waiting)] == before
    for run in kept:
        assert await store.event_types(run) == ["run:trigger", "run:leased", "run:complete"]
    assert await store.is_sound()


async def test_writes_of_two_generations_in_one_batch_store_the_newer(store: Store) -> None:
    run = await store.leased()
    again = await store.taken_over(run)
    old, new = a_checkpoint(run, 5, output='"old"'), a_checkpoint(again, 1, output='"new"')
    verdicts = await asyncio.gather(*(store.store(write) for write in (old, new, old)))
    assert verdicts == [Verdict.REFUSED, Verdict.STORED, Verdict.REFUSED]
    assert [step.output_json for step in await store.steps(run)] == ['"new"']


async def test_a_renewal_by_an_older_generation_changes_nothing(store: Store) -> None:
    run = await store.leased()
    await store.taken_over(run)
    before = await store.snapshot()
    assert await store.database.run(leases.renew([Lease(run.id, 1)], lease=LEASE)) == [LeaseState.LOST]
    assert await store.snapshot() == before


async def test_after_a_cancel_the_last_generation_may_note_the_step_it_left_once(store: Store) -> None:
    run = await store.leased()
    await store.cancel(run)
    event = an_event(EventType.STEP_CANCEL, "left", position=3)
    for _ in range(2):
        await store.database.run(steps.cancel_step(Lease(run.id, 1), event))
    noted = (await store.events(run))[-1]
    assert (noted.type, noted.step, noted.position, noted.seq) == (EventType.STEP_CANCEL, "left", 3, 4)
    assert await store.is_sound()


@pytest.mark.parametrize("status", [status for status in RunStatus if status is not RunStatus.CANCELLED])
async def test_a_cancelled_step_is_noted_for_cancelled_runs_only(store: Store, status: RunStatus) -> None:
    run = await store.in_status(status)
    before = await store.snapshot()
    await store.database.run(steps.cancel_step(Lease(run.id, run.generation), an_event(EventType.STEP_CANCEL)))
    assert await store.snapshot() == before


async def test_a_cancelled_step_is_noted_by_the_last_generation_only(store: Store) -> None:
    run = await store.leased()
    await store.cancel(await store.taken_over(run))
    before = await store.snapshot()
    await store.database.run(steps.cancel_step(Lease(run.id, 1), an_event(EventType.STEP_CANCEL)))
    assert await store.snapshot() == before


async def test_writers_and_takers_at_once_never_both_win(store: Store) -> None:
    """Each generation writes its own step; whatever is stored was stored before the next generation began."""
    await store.enqueue_batch(*(store.new() for _ in range(15)))
    claimed = await store.claim(limit=15, lease=timedelta(0))
    writer, taker = await store.others(2)
    writes = [a_checkpoint(run, 1, f"generation-{run.generation}") for run in claimed]
    *verdicts, taken = await asyncio.gather(
        *(store.store(write, writer) for write in writes), store.claim_expired(limit=15, database=taker)
    )
    later = await store.claim_expired(limit=15, database=taker)  # those that a writer had locked were passed over
    assert len(taken) + len(later) == 15
    for run, verdict in zip(claimed, verdicts, strict=True):
        found = await store.event_types(run)
        assert ("step:complete" in found) == (verdict is Verdict.STORED)
        assert found[-1] == "run:leased"


# --- the lock of the fence, held for real -----------------------------------------------------------

Steal: TypeAlias = Callable[[Store, StoredRun], Any]


def steal_by_claim(store: Store, _: StoredRun) -> Any:
    token = store.environment.new_id()
    return leases.claim_expired(["job"], limit=1, owner="x", token=token, lease=LEASE, max_crashes=9)


def steal_by_cancel(store: Store, run: StoredRun) -> Any:
    token = store.environment.new_id()
    return actions.cancel.build([Change(run_id=run.id, concurrency_key=run.concurrency_key, token=token)])


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
@pytest.mark.parametrize("steal", [steal_by_claim, steal_by_cancel])
@pytest.mark.parametrize("what", ["checkpoint", "progress", "completed", "handed back"])
async def test_a_write_that_waited_for_the_row_is_refused_when_the_lease_went_meanwhile(
    store: Store, steal: Steal, what: str
) -> None:
    run = await store.leased()
    await store.expire(run)
    thief = await store.connect()
    await thief.execute("BEGIN")
    await run_on(thief, store, steal(store, run))
    writing = asyncio.create_task(store.store(writes_of(run, 1)[what]))
    await wait_until_blocked(store, thief)
    await thief.execute("COMMIT")
    before = await store.snapshot()
    assert await writing is Verdict.REFUSED
    assert await store.snapshot() == before


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_a_write_that_waited_for_the_row_is_stored_when_the_lease_stayed(store: Store) -> None:
    run = await store.leased()
    thief = await store.connect()
    await thief.execute("BEGIN")
    await run_on(thief, store, leases.renew([Lease(run.id, 1)], lease=LEASE))
    writing = asyncio.create_task(store.store(a_checkpoint(run)))
    await wait_until_blocked(store, thief)
    await thief.execute("COMMIT")
    assert await writing is Verdict.STORED
    assert await store.is_sound()


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_a_write_that_waited_for_itself_is_stored_once(store: Store) -> None:
    """The connection died while the first was being committed; it was repeated before the server had done that."""
    run = await store.leased()
    first = await store.connect()
    await first.execute("BEGIN")
    await run_on(first, store, steps.write_fast.build([a_checkpoint(run)]))
    again = asyncio.create_task(store.store(a_checkpoint(run)))
    await wait_until_blocked(store, first)
    await first.execute("COMMIT")
    assert await again is Verdict.STORED
    assert len(await store.steps(run)) == 1
    assert await store.is_sound()


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_a_cancel_that_waited_for_the_end_of_a_run_is_not_done(store: Store) -> None:
    run = await store.leased()
    holder = await store.connect()
    await holder.execute("BEGIN")
    await run_on(holder, store, steps.write_fast.build([an_end(run)]))
    cancelling = asyncio.create_task(store.cancel(run))
    await wait_until_blocked(store, holder)
    await holder.execute("COMMIT")
    changed = await cancelling
    assert changed.run is not None
    assert (changed.done, changed.run.status) == (False, RunStatus.COMPLETED)
    assert "run:cancel" not in await store.event_types(run)


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_a_claim_passes_over_a_row_that_somebody_holds(store: Store) -> None:
    held, free = await store.trigger(), await store.trigger()
    holder = await store.connect()
    await holder.execute("BEGIN")
    await holder.execute(f"SELECT 1 FROM durably.runs WHERE id = '{held.id}' FOR UPDATE")
    assert [run.id for run in await store.claim()] == [free.id]


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_a_renewal_passes_over_rows_that_somebody_holds_and_says_so(store: Store) -> None:
    held, free = await store.leased(), await store.leased()
    holder = await store.connect()
    await holder.execute("BEGIN")
    await holder.execute(f"SELECT 1 FROM durably.runs WHERE id = '{held.id}' FOR UPDATE")
    renewal = leases.renew([Lease(held.id, 1), Lease(free.id, 1)], lease=LEASE)
    states = await store.database.run(renewal, lane=Lane.FAST)
    assert states == [LeaseState.BUSY, LeaseState.RENEWED]


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_a_write_that_waits_steps_aside_and_the_lane_goes_on(store: Store) -> None:
    held, free = await store.leased(), await store.leased()
    holder = await store.connect()
    await holder.execute("BEGIN")
    await holder.execute(f"SELECT 1 FROM durably.runs WHERE id = '{held.id}' FOR UPDATE")
    waiting = asyncio.create_task(store.store(a_checkpoint(held)))
    for number in range(1, 6):
        assert await store.store(a_checkpoint(free, number, f"s{number}", number)) is Verdict.STORED
    assert not waiting.done()
    await holder.execute("ROLLBACK")
    assert await waiting is Verdict.STORED


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
@pytest.mark.parametrize("together", [1, 2, 5])
async def test_writes_that_wait_keep_their_order(store: Store, together: int) -> None:
    """`together` writes meet the lock in one batch, with others between them; more follow while they wait."""
    held, free = await store.leased(), await store.leased()
    holder = await store.connect()
    await holder.execute("BEGIN")
    await holder.execute(f"SELECT 1 FROM durably.runs WHERE id = '{held.id}' FOR UPDATE")
    numbers = range(1, 11)
    tasks: list[asyncio.Task[Verdict]] = []
    for number in numbers:
        tasks.append(asyncio.create_task(store.store(a_checkpoint(held, number, f"s{number}", number))))
        tasks.append(asyncio.create_task(store.store(a_checkpoint(free, number, f"s{number}", number))))
        if number == together:
            await wait_until_blocked(store, holder)
    await asyncio.gather(*tasks[1::2])
    await holder.execute("ROLLBACK")
    assert set(await asyncio.gather(*tasks)) == {Verdict.STORED}
    assert [step.position for step in await store.steps(held)] == list(numbers)
    completed = [event.position for event in await store.events(held) if event.type is EventType.STEP_COMPLETE]
    assert completed == list(numbers)
    assert await store.is_sound()


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_a_trigger_that_waits_for_a_key_does_not_hold_up_others(store: Store) -> None:
    await store.trigger(concurrency_key="k")
    holder = await store.connect()
    await holder.execute("BEGIN")
    await holder.execute("SELECT 1 FROM durably.concurrency_keys FOR UPDATE")
    waiting = asyncio.create_task(store.trigger(concurrency_key="k"))
    plain = [await store.trigger() for _ in range(3)]
    keyed = await store.trigger(concurrency_key="other")
    assert not waiting.done()
    await holder.execute("ROLLBACK")
    await waiting
    assert len({run.id for run in (*plain, keyed)}) == 4
    assert await store.is_sound()
