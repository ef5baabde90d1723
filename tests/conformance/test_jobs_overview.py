"""A run at one moment, places in the list of runs, counts, and what the database says of itself."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from durably import RunNotFound, RunStatus, Step, ValidationError, job
from tests.support.app import NO_RUN, App


@job("one")
async def one(step: Step, number: int) -> int:
    return await step.run("double", lambda: number * 2)


@job("two")
async def two(step: Step) -> None:
    raise RuntimeError("it went wrong")


async def test_a_snapshot_is_where_events_continue(app: App) -> None:
    run = await app.durably.trigger(one, 1)
    before = await app.durably.get_snapshot(run)
    await app.process(one)
    after = await app.durably.get_snapshot(run.id)
    assert before is not None
    assert after is not None
    assert (before.seq, before.run.status, before.lease_owner) == (1, "pending", None)
    assert (after.run.status, after.run.output, after.lease_owner) == ("completed", 2, None)
    assert [event.seq async for event in app.durably.events(run=run, after=before.seq)] == list(range(2, after.seq + 1))
    assert await app.durably.get_events(run=run, after=after.seq) == []


async def test_a_snapshot_of_a_leased_run_tells_of_its_lease(app: App) -> None:
    run = await app.durably.trigger(one, 1)
    claimed = await app.die_with(run)
    snapshot = await app.durably.get_snapshot(run)
    assert snapshot is not None
    assert (snapshot.run.status, snapshot.lease_owner) == ("leased", claimed.lease_owner)
    assert snapshot.lease_expires_at is not None


async def test_there_is_no_snapshot_of_no_run(app: App) -> None:
    assert await app.durably.get_snapshot(NO_RUN) is None
    assert await app.durably.get_snapshot("nope") is None


async def test_events_come_in_pages_also_of_a_run_that_was_deleted(app: App) -> None:
    run = await app.execute(one, 1)
    await app.durably.delete_run(run)
    whole = await app.durably.get_events(run=run, after=0)
    assert whole[-1].type == "run:delete"
    first = await app.durably.get_events(run=run, after=0, limit=2)
    assert [*first, *await app.durably.get_events(run=run, after=first[-1].seq or 0)] == whole
    assert await app.durably.get_events(run=run, after=whole[-1].seq or 0) == []
    for after in (None, 0, 7):
        with pytest.raises(RunNotFound):
            await app.durably.get_events(run=NO_RUN, after=after)


async def test_an_offset_skips_runs_in_every_kind_of_list(app: App) -> None:
    for number in range(4):
        await app.durably.trigger(one, number, labels={"even": str(number % 2 == 0)})
        await app.durably.trigger(two)
    await app.durably.cancel((await app.durably.get_runs())[0])

    async def ids(**filters: object) -> list[str]:
        return [run.id for run in await app.durably.get_runs(**filters)]  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownVariableType, reportUnknownMemberType] - filters of every kind

    for filters in (
        {},
        {"job": one},
        {"job": [one, two]},
        {"status": "pending"},
        {"status": ["pending", "cancelled"]},
        {"labels": {"even": "True"}},
        {"job": "two", "status": "pending"},
    ):
        whole = await ids(**filters)
        assert len(whole) > 1
        for offset in (1, 2, len(whole) - 1, len(whole), 99, 10**30):
            assert await ids(**filters, offset=offset) == whole[offset:]
        assert await ids(**filters, offset=1, limit=1) == whole[1:2]
    with pytest.raises(ValidationError, match="offset"):
        await ids(offset=-1)


async def test_runs_are_counted_by_job_and_status(app: App) -> None:
    await app.execute(one, 1)
    await app.execute(two)
    oldest = await app.durably.trigger(one, 2, labels={"a": "b"})
    await app.durably.trigger(one, 3)
    stats = await app.durably.get_stats()
    assert stats.counts == {
        "one": {RunStatus.COMPLETED: 1, RunStatus.PENDING: 2},
        "two": {RunStatus.FAILED: 1},
    }
    assert stats.oldest_pending is not None
    assert stats.oldest_pending.id == oldest.id
    assert stats.ended == {RunStatus.COMPLETED: 1, RunStatus.FAILED: 1}
    assert (await app.durably.get_stats(two)).counts == {"two": {RunStatus.FAILED: 1}}
    assert (await app.durably.get_stats(two)).oldest_pending is None
    assert (await app.durably.get_stats(labels={"a": "b"})).counts == {"one": {RunStatus.PENDING: 1}}


async def test_what_ended_long_ago_does_not_count_as_throughput(app: App) -> None:
    await app.age(await app.execute(one, 1))
    stats = await app.durably.get_stats()
    assert (stats.ended, stats.counts) == ({}, {"one": {RunStatus.COMPLETED: 1}})


async def test_health_tells_who_works(app: App) -> None:
    empty = await app.durably.get_health()
    assert empty.schema_version == empty.code_version > 0
    assert empty.workers == ()
    await app.execute(one, 1)
    run = await app.durably.trigger(one, 1)
    held = await app.die_with(run)
    workers = (await app.durably.get_health()).workers
    assert {worker.owner: worker.runs for worker in workers}[held.lease_owner or ""] == 1
    assert sorted(worker.runs for worker in workers) == [0, 1]
    assert all(worker.seen_at > datetime(2020, 1, 1, tzinfo=UTC) for worker in workers)


async def test_the_jobs_of_workers_are_known_while_these_live(app: App) -> None:
    assert app.durably.get_jobs() == ()
    worker = app.durably.worker([two, one])
    assert app.durably.get_jobs() == (one, two)
    assert worker.jobs == ("one", "two")
