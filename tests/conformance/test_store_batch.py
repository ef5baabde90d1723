"""Group commit: many writes are few transactions, a bad one fails alone, a commit in doubt is resolved by repeating."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from typing import Any, cast

import pytest

from durably.errors import DatabaseUnavailable, UsageError
from durably.model import Disposition, EventType, NewRun, RunFilter, StepStatus, Verdict
from durably.store import leases, runs, steps
from durably.store.engine import Channel
from durably.store.operation import Lane, Operation, Statement
from durably.store.postgres_connect import connect
from durably.store.url import DatabaseUrl
from tests.support.store import (
    LEASE,
    Store,
    a_checkpoint,
    a_failed_step,
    a_step,
    a_write,
    an_event,
    ids,
    inner_engine,
    private,
)
from tests.support.wrapped import wrapped


async def test_many_triggers_at_once_are_few_transactions(store: Store) -> None:
    engine = await wrapped(store)
    await store.enqueue_batch(*(store.new() for _ in range(500)))
    assert len(engine.counted) <= 3
    assert len(await store.database.read(runs.list_runs(RunFilter(limit=1000)))) == 500


async def test_many_checkpoints_at_once_are_few_transactions(store: Store) -> None:
    engine = await wrapped(store)
    await store.enqueue_batch(*(store.new() for _ in range(100)))
    claimed = await store.claim(limit=100)
    engine.counted.clear()
    await asyncio.gather(*(store.store(a_checkpoint(run)) for run in claimed))
    assert len(engine.counted) <= 3


async def test_what_arrives_during_a_commit_goes_with_the_next(store: Store) -> None:
    engine = await wrapped(store)
    first = asyncio.create_task(store.enqueue())
    await asyncio.sleep(0)
    await asyncio.gather(first, *(store.enqueue() for _ in range(20)))
    assert len(engine.counted) <= 3


async def test_who_writes_on_as_soon_as_it_is_answered_finds_the_lane_awake(store: Store) -> None:
    """A task less, and a turn of the loop, for each step of a run that is alone."""
    run = await store.leased()
    begun: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        begun.append(work.__qualname__)
        return asyncio.Task(work, loop=loop, **options)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(cast("Any", factory))
    try:
        for number in range(1, 6):
            await store.write(run, number)
    finally:
        loop.set_task_factory(None)
    assert begun.count("Batcher._drain") <= 1


async def test_one_write_is_one_transaction(store: Store) -> None:
    engine = await wrapped(store)
    run = await store.leased()
    engine.counted.clear()
    await store.store(a_checkpoint(run))
    assert engine.counted == [("write_runs",)]


def bad_runs(store: Store) -> list[NewRun]:
    """Runs that no database, or this one, can store."""
    without_job = replace(store.new(), job=cast("str", None))
    nul = replace(store.new(), job="NUL \0")
    return [without_job, nul] if store.is_postgres else [without_job]


async def test_a_bad_item_fails_alone_wherever_it_stands(store: Store) -> None:
    bad = bad_runs(store)
    for place in (0, 5, 10):
        news = [store.new(idempotency_key=f"{place}.{number}") for number in range(10)]
        news[place:place] = bad
        tasks = [store.database.submit(runs.enqueue, new) for new in news]
        became = await asyncio.gather(*tasks, return_exceptions=True)
        failed = [new for new, result in zip(news, became, strict=True) if isinstance(result, Exception)]
        assert failed == bad
    assert await store.value("SELECT count(*) FROM {runs}") == 30
    assert await store.is_sound()


async def test_a_bad_write_of_a_lease_holder_fails_alone(store: Store) -> None:
    good, bad = await store.leased(), await store.leased()
    [step] = a_checkpoint(bad).steps
    broken = replace(a_checkpoint(bad), steps=(replace(step, position=cast("int", None)), step))
    stored, failed = await asyncio.gather(store.store(a_checkpoint(good)), store.store(broken), return_exceptions=True)
    assert stored is Verdict.STORED
    assert isinstance(failed, Exception)
    assert not isinstance(failed, DatabaseUnavailable)
    assert await store.store(a_checkpoint(bad)) is Verdict.STORED


async def test_what_is_there_already_is_done_otherwise_together_with_what_is_beside_it(store: Store) -> None:
    """Refused once, then all of it with care: nothing is taken apart, or each commit in doubt would be many."""
    engine = await wrapped(store)
    new, run, other = store.new(), await store.leased(), await store.leased()
    await store.enqueue(new)
    engine.counted.clear()
    became, changed, left = await asyncio.gather(store.enqueue(new), store.cancel(run), store.cancel(other))
    assert (became.run.id, became.disposition, changed.done, left.done) == (new.id, Disposition.CREATED, True, True)
    assert [names[-1] for names in engine.counted] == ["read_changed", "read_changed"]
    assert ["insert_new_runs" in names for names in engine.counted] == [True, False]
    assert await store.event_types(became.run) == ["run:trigger"]


async def test_what_was_collected_for_a_refused_transaction_is_not_there_for_the_next(store: Store) -> None:
    engine = await wrapped(store)
    known, news = store.new(), [store.new() for _ in range(150)]
    await store.enqueue_batch(known)
    await store.enqueue_batch(known, *news)
    engine.counted.clear()
    await store.enqueue_batch(*(store.new() for _ in range(150)))
    assert engine.counted == [("insert_new_runs",)]


async def test_a_step_that_has_a_row_is_stored_together_with_what_is_beside_it(store: Store) -> None:
    """Its holder does not say that the step failed before."""
    engine = await wrapped(store)
    run, waiting = await store.leased(), await store.trigger()
    await store.write(run, 1, steps=(a_failed_step(run, "a", 0),))
    done = an_event(EventType.STEP_COMPLETE, "a", position=0)
    again = a_write(
        run, 2, steps=(a_step(run, "a", 0),), events=(an_event(EventType.STEP_START, "a", position=0), done)
    )
    engine.counted.clear()
    claiming = leases.claim(["job"], limit=1, owner="me", token=store.environment.new_id(), lease=LEASE)
    stored, claimed = await asyncio.gather(store.store(again), store.database.run(claiming, lane=Lane.FAST))
    assert (stored, ids(claimed)) == (Verdict.STORED, [waiting.id])
    assert [set(names) for names in engine.counted] == [{"write_runs", "claim"}] * 2
    assert [step.status for step in await store.steps(run)] == [StepStatus.COMPLETED]


async def test_a_bad_operation_leaves_the_writes_beside_it_alone(store: Store) -> None:
    broken: Operation[None] = Operation(
        statements=(Statement("set_limit", {"key": "k", "limit": -1}),), decode=lambda _: None, keys=("k",)
    )
    enqueued, failed = await asyncio.gather(store.enqueue(), store.database.run(broken), return_exceptions=True)
    assert not isinstance(enqueued, BaseException)
    assert isinstance(failed, Exception)
    assert await store.value("SELECT count(*) FROM {runs}") == 1


async def test_a_write_that_its_caller_gave_up_is_not_stored_later(store: Store) -> None:
    engine = await wrapped(store)
    run = await store.leased()
    engine.fail_before = lambda _: True
    with pytest.raises(DatabaseUnavailable):
        await steps.store_write(store.database, a_checkpoint(run), timeout=0.05)
    engine.fail_before = lambda _: False
    await store.enqueue()
    assert await store.steps(run) == []


async def test_closing_waits_for_what_was_submitted(store: Store) -> None:
    other = await store.another()
    tasks = [asyncio.create_task(other.submit(runs.enqueue, store.new())) for _ in range(10)]
    await asyncio.sleep(0)
    await other.close()
    assert {(await task).disposition for task in tasks} == {Disposition.CREATED}
    assert await store.value("SELECT count(*) FROM {runs}") == 10


async def test_nothing_connects_again_behind_a_close(store: Store) -> None:
    """Nobody would close that connection."""
    other = await store.another()
    await other.submit(runs.enqueue, store.new())
    await other.close()
    with pytest.raises(UsageError, match="closed"):
        await other.submit(runs.enqueue, store.new())
    with pytest.raises(UsageError, match="closed"):
        await other.run(leases.claim(["j"], limit=1, owner="w", token=store.environment.new_id(), lease=LEASE))
    with pytest.raises(UsageError, match="closed"):
        await other.read(runs.get_run(store.environment.new_id()))
    assert await store.value("SELECT count(*) FROM {runs}") == 1


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_a_connection_that_is_made_during_a_close_is_closed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    go_on = asyncio.Event()

    async def slowly(url: DatabaseUrl, **options: Any) -> Any:
        made.set_result(await connect(url, **options))
        await go_on.wait()
        return made.result()

    engine = store.engine()
    await engine.open("check")
    monkeypatch.setattr("durably.store.postgres.connect", slowly)
    look = asyncio.create_task(engine.transact((Statement("feed_horizon", {}),), Channel.FAST, readonly=True))
    connection = await made
    await engine.close()
    go_on.set()
    with pytest.raises(DatabaseUnavailable):
        await look
    assert connection.is_closed()


@pytest.mark.parametrize("store_kind", ["sqlite-file"], indirect=True)
async def test_a_locked_file_is_waited_for(store: Store) -> None:
    other = await store.another()
    blocker = sqlite3.connect(store.url.removeprefix("sqlite:///"), isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(other.submit(runs.enqueue, store.new()))
    assert await store.database.read(runs.list_runs(RunFilter())) == []
    assert not writing.done()
    blocker.execute("COMMIT")
    blocker.close()
    assert (await writing).disposition is Disposition.CREATED


@pytest.mark.parametrize("store_kind", ["sqlite-file"], indirect=True)
async def test_a_write_takes_the_lock_of_the_file_before_it_reads_and_a_look_never_does(store: Store) -> None:
    begun: list[str] = []
    for name in ("_writer", "_reader"):
        connection: sqlite3.Connection = private(private(inner_engine(store.database), name), "_raw")
        connection.set_trace_callback(lambda text: begun.append(text) if text.startswith("BEGIN") else None)
    await store.enqueue(concurrency_key="k")
    await store.claim()
    await store.database.read(runs.list_runs(RunFilter()))
    assert begun == ["BEGIN IMMEDIATE", "BEGIN"]  # the claim is one statement: see test_store_costs_sqlite
