"""G9: every state change is one event in the same commit; the feed misses none."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from durably.model import Event, EventType, RunStatus
from durably.rules.event_ids import row_of
from durably.store import events, runs
from tests.support.store import LEASE, Store, a_checkpoint


async def page(store: Store, after: int = 0, gaps: tuple[int, ...] = (), limit: int = 1000) -> tuple[Event, ...]:
    return (await store.database.read(events.feed(after=after, gaps=gaps, limit=limit))).events


async def test_a_whole_life_is_one_event_a_change(store: Store) -> None:
    run = await store.leased(concurrency_key="k")
    await store.enqueue(concurrency_key="k", if_pending="skip", job="other")
    await store.store(a_checkpoint(run))
    await store.end(run, RunStatus.PENDING, 2)
    [again] = await store.claim()
    again = await store.taken_over(again)
    await store.end(again, RunStatus.FAILED)
    await store.resume(run)
    await store.cancel(await store.get(run))
    await store.delete(run)
    steps = ["step:start", "log:write", "step:complete"]
    life = ["run:trigger", "run:leased", *steps, "run:release", "run:leased", "run:leased"]
    assert await store.event_types(run) == [*life, "run:fail", "run:resume", "run:cancel", "run:delete"]
    assert await store.is_sound()


async def test_an_event_says_what_happened_to_whom(store: Store) -> None:
    run = await store.leased(labels={"a": "b"})
    _, leased = await store.events(run)
    assert (leased.type, leased.run_id, leased.job, leased.labels) == (EventType.RUN_LEASED, run.id, "job", {"a": "b"})
    assert leased.payload_json is not None
    expected = {"owner": "me", "generation": 1, "attempt": 1, "leaseMs": LEASE // timedelta(milliseconds=1)}
    assert json.loads(leased.payload_json) == expected


async def test_a_runs_events_are_read_in_pages(store: Store) -> None:
    run = await store.leased()
    await store.store(a_checkpoint(run))
    first = await store.database.read(events.run_events(run.id, limit=2))
    rest = await store.database.read(events.run_events(run.id, after_seq=2, limit=100))
    assert [event.seq for event in first] == [1, 2]
    assert [event.seq for event in rest] == [3, 4, 5]


async def test_the_feed_gives_all_runs_events_in_pages_by_id(store: Store) -> None:
    for job in ("a", "b"):
        await store.store(a_checkpoint(await store.leased(job=job)))
    whole = await page(store)
    pages: list[Event] = []
    while found := await page(store, after=(pages[-1].id or 0) if pages else 0, limit=3):
        assert len({row_of(event.id or 0) for event in found}) <= 3
        pages += found
    assert tuple(pages) == whole
    assert [event.id for event in whole] == sorted(event.id or 0 for event in whole)
    assert len(whole) == 10


async def test_the_newest_event_is_told(store: Store) -> None:
    assert await store.database.read(events.last_event_id()) == 0
    await store.trigger()
    run = await store.leased()
    assert await store.database.read(events.last_event_id()) == (await store.events(run))[-1].id


async def test_a_reader_of_the_feed_misses_nothing_that_others_commit(store: Store) -> None:
    databases = await store.others(4)
    seen: dict[int, Event] = {}

    async def produce(place: int) -> None:
        for _ in range(15):
            await databases[place].submit(runs.enqueue, store.new(concurrency_key=f"k{place % 2}"))

    async def read() -> None:
        gaps: set[int] = set()
        while len(seen) < 60:  # bounded by the test's timeout
            newest = max(seen, default=0)
            for event in await page(store, after=newest, gaps=tuple(gaps)):
                seen[event.id or 0] = event
            gaps = set(range(1, max(seen, default=0))) - set(seen)

    await asyncio.gather(*(produce(place) for place in range(4)), read())
    assert len({event.run_id for event in seen.values()}) == 60


async def test_old_events_are_purged_oldest_first(store: Store) -> None:
    for _ in range(4):
        await store.trigger()
    await store.sql("UPDATE {events} SET created_at = created_at - {hour} * 2 WHERE id <= 3")
    operation = events.purge_events(older_than=timedelta(hours=1), limit=2)
    assert [await store.database.run(operation) for _ in range(3)] == [2, 1, 0]
    assert [event.id for event in await page(store)] == [8]


async def test_event_ids_are_not_used_again_after_a_purge(store: Store) -> None:
    run = await store.trigger()
    await store.database.run(events.purge_events(older_than=timedelta(days=-1), limit=10))
    await store.cancel(run)
    assert [event.id for event in await page(store)] == [4]


async def test_on_sqlite_there_is_nothing_to_wait_for(store: Store) -> None:
    if not store.is_postgres:
        assert await store.database.run(events.barrier()) == 0
        assert (await store.database.read(events.feed(after=0, gaps=()))).xmin == 0


# --- gaps: Postgres hands out ids before the commit --------------------------------------------------


OPEN_EVENT = (
    "INSERT INTO durably.events (run_id, seq, type, job, created_at)"
    " VALUES (gen_random_uuid(), 1, 'run:trigger', 'open', now())"
)


async def an_open_event(store: Store) -> Any:
    """A connection whose transaction has taken the next event id and is still open."""
    connection = await store.connect()
    await connection.execute("BEGIN")
    await connection.execute(OPEN_EVENT)
    return connection


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_a_gap_is_shown_and_filled_when_its_transaction_commits(store: Store) -> None:
    await store.trigger()
    open_transaction = await an_open_event(store)
    await store.trigger()
    assert [event.id for event in await page(store)] == [2, 6]
    assert await page(store, after=6, gaps=(3, 4)) == ()
    await open_transaction.execute("COMMIT")
    assert [(event.id, event.job) for event in await page(store, after=6, gaps=(3, 4))] == [(4, "open")]


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_the_barrier_is_passed_only_when_the_gap_can_not_be_filled_any_more(store: Store, end: str) -> None:
    open_transaction = await an_open_event(store)
    await store.trigger()
    feed = events.feed(after=0, gaps=(1, 2))
    barrier = await store.database.run(events.barrier())
    await store.trigger()
    assert (await store.database.read(feed)).xmin < barrier
    await open_transaction.execute(end)
    passed = await store.database.read(feed)
    assert passed.xmin >= barrier
    assert [event.id for event in passed.events] == ([2, 4, 6] if end == "COMMIT" else [4, 6])


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_the_barrier_is_above_a_transaction_that_began_last_and_still_runs(store: Store) -> None:
    """The transaction that shows the gap has a lower number than the one that may still fill it."""
    shows = await store.connect()
    await shows.execute("BEGIN")
    await shows.fetchval("SELECT pg_current_xact_id()::text")
    fills = await an_open_event(store)
    await shows.execute(OPEN_EVENT)
    await shows.execute("COMMIT")
    barrier = await store.database.run(events.barrier())
    assert (await store.database.read(events.feed(after=0, gaps=()))).xmin < barrier
    await fills.execute("COMMIT")
    assert (await store.database.read(events.feed(after=0, gaps=()))).xmin >= barrier


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_a_transaction_that_began_after_the_gap_holds_up_nobody(store: Store) -> None:
    await store.trigger()
    barrier = await store.database.run(events.barrier())
    await an_open_event(store)
    assert (await store.database.read(events.feed(after=0, gaps=()))).xmin >= barrier


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_gaps_come_first_and_the_page_keeps_its_limit(store: Store) -> None:
    for _ in range(6):
        await store.trigger()
    found = await page(store, after=6, gaps=(4, 2, 1, 99), limit=4)
    assert [event.id for event in found] == [2, 4, 8, 10]
