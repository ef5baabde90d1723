"""Looking after a database: diagnosis, limits, events without waiting, migrations by hand, what a purge would take."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import pytest

from durably import Durably, Finding, Level, RunNotFound, SchemaError, Step, UsageError, ValidationError, job
from tests.conformance.care_jobs import other, work
from tests.support.app import NO_RUN, App, within
from tests.support.bench import Gate

NOW = timedelta(0)


def bad(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.check, finding.level.value) for finding in findings if finding.level is not Level.OK]


# --- diagnosis --------------------------------------------------------------------------------------


async def test_a_database_in_order_is_ok_in_every_check(app: App) -> None:
    await app.execute(work, 1)
    findings = await app.durably.diagnose()
    assert bad(findings) == []
    assert [finding.check for finding in findings] == [
        "schema", "clock", "wake-ups", "slots", "leases", "jobs", "bloat", "autovacuum", "wal",
    ]  # fmt: skip
    assert all(finding.remedy is None for finding in findings)


async def test_expired_leases_that_nobody_takes_over_are_found_by_job(app: App) -> None:
    await app.die_with(await app.durably.trigger(work, 1))
    [found] = [finding for finding in await app.durably.diagnose() if finding.level is not Level.OK]
    assert (found.check, found.level) == ("leases", Level.PROBLEM)
    assert "1 run of 'work' expired up to" in found.message
    assert "start a worker that has 'work'" in str(found.remedy)


async def test_runs_of_a_job_that_nobody_has_are_found_at_once_when_the_jobs_are_given(app: App) -> None:
    await app.durably.trigger_many(work, [1, 2])
    await app.durably.trigger(other)
    assert bad(await app.durably.diagnose(jobs=[work, "other"])) == []
    [found] = [finding for finding in await app.durably.diagnose(jobs=["other"]) if finding.level is not Level.OK]
    assert (found.check, found.level) == ("jobs", Level.PROBLEM)
    assert "2 runs of 'work'" in found.message


async def test_runs_that_wait_long_while_none_of_the_job_is_executed_are_found(app: App) -> None:
    await app.durably.trigger(work, 1)
    await app.durably.trigger(other)
    assert bad(await app.durably.diagnose()) == []
    await app.outside.sql("UPDATE {runs} SET created_at = created_at - {hour} WHERE job = 'work'")
    [found] = [finding for finding in await app.durably.diagnose() if finding.level is not Level.OK]
    assert (found.check, found.level) == ("jobs", Level.WARNING)
    assert "1 run of 'work' waiting for 60 min" in found.message


async def test_a_job_that_is_executed_somewhere_is_served_however_long_its_queue(app: App) -> None:
    first, _ = await app.durably.trigger_many(work, [1, 2])
    await app.outside.sql("UPDATE {runs} SET created_at = created_at - {hour}")
    [claimed] = await app.outside.claim("work", limit=1)
    assert claimed.id == first.id
    assert bad(await app.durably.diagnose()) == []


async def test_miscounted_slots_are_found(app: App) -> None:
    await app.durably.trigger(work, 1, concurrency_key="k")
    await app.outside.sql("UPDATE {concurrency_keys} SET active = 5")
    [found] = [finding for finding in await app.durably.diagnose() if finding.level is not Level.OK]
    assert (found.check, found.level) == ("slots", Level.PROBLEM)
    assert found.message.endswith(": k")


async def test_a_diagnosis_writes_nothing(app: App) -> None:
    await app.execute(work, 1)
    before = await app.outside.snapshot()
    await app.durably.diagnose()
    assert await app.outside.snapshot() == before


async def test_a_database_without_tables_cannot_be_diagnosed(tmp_path: Path) -> None:
    durably = Durably(f"sqlite:///{tmp_path}/no.db", migrate="check")
    with pytest.raises(SchemaError, match=r"there is no database .*durably migrate"):
        await durably.diagnose()
    assert not os.listdir(tmp_path)  # noqa: PTH208 - a look from within a loop


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_autovacuum_that_somebody_turned_off_is_found(app: App) -> None:
    await app.outside.sql("ALTER TABLE {steps} SET (autovacuum_enabled = off)")
    try:
        [found] = [finding for finding in await app.durably.diagnose() if finding.level is not Level.OK]
    finally:
        await app.outside.sql("ALTER TABLE {steps} RESET (autovacuum_enabled)")
    assert (found.check, found.level, found.remedy) == (
        "autovacuum",
        Level.PROBLEM,
        "ALTER TABLE durably.steps RESET (autovacuum_enabled)",
    )


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_autovacuum_looks_at_our_tables_sooner_than_at_others(app: App) -> None:
    rows = await app.outside.sql(
        "SELECT c.relname, c.reloptions::text AS options FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'durably' AND c.relkind = 'r' AND c.relname <> 'migrations' ORDER BY 1"
    )
    assert [row["relname"] for row in rows] == ["concurrency_keys", "events", "logs", "runs", "steps"]
    assert all("autovacuum_vacuum_scale_factor=0.02" in row["options"] for row in rows)


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_dead_rows_and_bloated_indexes_are_measured(app: App) -> None:
    sizes = {table.name: table for table in await app.durably.table_sizes()}
    assert sorted(sizes) == [f"durably.{name}" for name in ("concurrency_keys", "events", "logs", "runs", "steps")]
    assert all(table.is_vacuumed and table.bytes > 0 for table in sizes.values())


async def test_the_health_of_indexes_is_read_where_there_are_statistics(app: App) -> None:
    await app.durably.trigger_many(work, range(50))
    if app.is_postgres:
        await app.outside.sql("ANALYZE {runs}")
        await app.outside.sql("REINDEX TABLE {runs}")
    assert bad(await app.durably.diagnose()) == []


# --- limits -----------------------------------------------------------------------------------------


async def test_limits_say_who_holds_slots_and_who_waits(app: App) -> None:
    await app.durably.set_limit("a", 2)
    for key in ("a", "a", "a", "b"):
        await app.durably.trigger(work, 1, concurrency_key=key)
    found = await app.durably.get_limits()
    assert [(one.key, one.limit, one.active, one.waiting) for one in found] == [("a", 2, 2, 1), ("b", 1, 1, 0)]


async def test_limits_come_in_pages(app: App) -> None:
    for key in "cab":
        await app.durably.set_limit(key, 5)
    first = await app.durably.get_limits(limit=2)
    rest = await app.durably.get_limits(after=first[-1].key, limit=2)
    assert [one.key for one in (*first, *rest)] == ["a", "b", "c"]
    with pytest.raises(ValidationError, match=r"^limit:"):
        await app.durably.get_limits(limit=0)


# --- events without waiting -------------------------------------------------------------------------


async def test_the_last_events_come_oldest_first(app: App) -> None:
    run = await app.execute(work, 1)
    events = await app.durably.get_events(limit=2)
    assert [event.type for event in events] == ["step:complete", "run:complete"]
    assert [event.type for event in await app.durably.get_events(run=run, limit=1)] == ["run:complete"]


async def test_events_after_a_cursor_miss_none(app: App) -> None:
    runs = [await app.execute(work, number) for number in range(3)]
    everything = await app.durably.get_events(limit=1000)
    assert len(everything) == 15
    read, cursor = 0, 0
    while page := await app.durably.get_events(after=cursor, limit=4):
        read += len(page)
        cursor = page[-1].cursor or 0
    assert read == 15
    of_run = await app.durably.get_events(run=runs[1], after=3)
    assert [event.seq for event in of_run] == [4, 5]


async def test_events_can_be_filtered_by_job_and_labels(app: App) -> None:
    await app.durably.trigger(other, labels={"tenant": "a"})
    await app.durably.trigger(work, 1, labels={"tenant": "a"})
    await app.durably.trigger(work, 1)
    assert len(await app.durably.get_events(job=work)) == 2
    assert len(await app.durably.get_events(job=[work, other])) == 3
    assert [event.job for event in await app.durably.get_events(labels={"tenant": "a"}, job="work")] == ["work"]
    assert len(await app.durably.get_events(labels={"tenant": "a"}, after=0)) == 2


async def test_a_run_with_more_events_than_a_page_gives_its_last(app: App) -> None:
    @job("many")
    async def many(step: Step) -> None:
        for number in range(12):
            await step.run("one", lambda: None, key=number)

    run = await app.execute(many)
    assert [event.seq for event in await app.durably.get_events(run=run, limit=5)] == [23, 24, 25, 26, 27]


async def test_events_of_a_run_that_never_was_are_not_found(app: App) -> None:
    with pytest.raises(RunNotFound):
        await app.durably.get_events(run=NO_RUN)
    with pytest.raises(UsageError, match="either a run"):
        await app.durably.get_events(run=NO_RUN, job=work)


# --- leases -----------------------------------------------------------------------------------------


async def test_a_run_tells_who_has_it_leased_and_until_when(app: App) -> None:
    gate = Gate()

    @job("holds")
    async def holds(_step: Step) -> None:
        await gate.wait()

    run = await app.durably.trigger(holds)
    assert (run.lease_owner, run.lease_expires_at, run.crashes) == (None, None, 0)
    async with app.durably.worker([holds]):
        await within(gate.reached.wait())
        leased = await app.get(run)
        assert leased.lease_owner
        assert leased.lease_expires_at is not None
        gate.opened.set()
        await app.wait(run)
    assert (await app.get(run)).lease_owner is None


# --- purging ----------------------------------------------------------------------------------------


async def test_a_purge_can_be_counted_first_and_limited(app: App) -> None:
    for number in range(5):
        await app.execute(work, number)
    await app.durably.cancel(await app.durably.trigger(work, 1))
    assert await app.durably.count_purgeable(older_than=NOW) == 6
    assert await app.durably.count_purgeable(older_than=NOW, statuses="cancelled") == 1
    assert await app.durably.count_purgeable(older_than=NOW, statuses=("cancelled", "cancelled")) == 1
    assert await app.durably.count_purgeable(older_than=timedelta(hours=1)) == 0
    assert await app.durably.purge_runs(older_than=NOW, limit=2) == 2
    assert await app.durably.purge_runs(older_than=NOW, limit=100) == 4
    with pytest.raises(ValidationError, match="pending are not over"):
        await app.durably.count_purgeable(older_than=NOW, statuses="pending")
    with pytest.raises(ValidationError, match=r"^limit:"):
        await app.durably.purge_runs(older_than=NOW, limit=0)


async def test_others_get_their_turn_between_the_batches_of_a_purge(app: App) -> None:
    await app.durably.trigger_many(work, [1] * 2600)
    await app.outside.sql("UPDATE {runs} SET status = 'cancelled', completed_at = created_at")
    seen: list[int] = []

    async def triggers() -> None:
        while True:
            await app.durably.trigger(other)
            seen.append(await app.durably.count_purgeable(older_than=NOW))

    task = asyncio.create_task(triggers())
    assert await app.durably.purge_runs(older_than=NOW) == 2600
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(set(seen)) > 2  # they saw it go in pieces
