"""A step that ran through is one row of events, and two events for whoever reads."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from durably.model import DraftEvent, Event, EventType, RunStatus, RunWrite, StoredRun, Verdict
from durably.store import care, events, steps
from durably.store.database import Database
from tests.support.store import AT, Store, a_failed_step, a_log, a_step, a_write, an_event

START, DONE = EventType.STEP_START, EventType.STEP_COMPLETE
TOOK = timedelta(milliseconds=1500)


def a_pair(run: StoredRun, number: int, name: str, position: int = 0, *, is_told: bool = False) -> RunWrite:
    """A step that ran through; with `is_told` its start was written before."""
    step = replace(a_step(run, name, position), started_at=AT - TOOK, completed_at=AT)
    start = DraftEvent(type=START, at=AT - TOOK, step=name, position=position)
    end = an_event(DONE, name, position=position)
    return a_write(run, number, steps=(step,), events=(end,) if is_told else (start, end))


def a_start(run: StoredRun, number: int, name: str, position: int = 0) -> RunWrite:
    return a_write(run, number, events=(DraftEvent(type=START, at=AT - TOOK, step=name, position=position),))


async def store_together(database: Database, *writes: RunWrite) -> list[Verdict]:
    return list(await database.submit_all(steps.write_fast, writes))


async def feed(store: Store, after: int = 0, gaps: tuple[int, ...] = (), limit: int = 1000) -> list[Event]:
    return list((await store.database.read(events.feed(after=after, gaps=gaps, limit=limit))).events)


async def rows_of(store: Store, run: StoredRun) -> int:
    count: int = await store.value(f"SELECT count(*) FROM {{events}} WHERE run_id = '{run.id}' AND step IS NOT NULL")
    return count


def ids(found: list[Event]) -> list[int]:
    return [event.id or 0 for event in found]


def numbers(found: list[Event]) -> list[int]:
    return [event.seq or 0 for event in found]


@pytest.fixture
async def whole(store: Store) -> list[Event]:
    """Events of two runs: steps that ran through, one that was slow, and one with a line of log."""
    run, other = await store.leased(), await store.leased(labels={"a": "b"})
    await store.store(a_pair(run, 1, "one"))
    await store_together(store.database, a_pair(run, 2, "two", 1), a_pair(other, 1, "one"))
    await store.store(a_start(run, 3, "slow", 2))
    await store.store(a_pair(other, 2, "two", 1))
    await store.store(a_pair(run, 4, "slow", 2, is_told=True))
    logged = a_pair(run, 5, "logged", 3)
    start, end = logged.events
    await store.store(replace(logged, events=(start, a_log("in it", "logged"), end)))
    await store.end(run, RunStatus.COMPLETED, 6)
    assert await store.is_sound()
    return await feed(store)


# --- what is written ----------------------------------------------------------------------------------


async def test_a_step_that_ran_through_is_one_row_and_two_events(store: Store) -> None:
    run = await store.leased(labels={"a": "b"})
    await store.store(a_pair(run, 1, "one", 4))
    start, end = (await store.events(run))[2:]
    assert await rows_of(store, run) == 1
    assert (start.type, start.seq, start.created_at, start.payload_json) == (START, 3, AT - TOOK, None)
    assert (end.type, end.seq, end.created_at) == (DONE, 4, AT)
    assert end.payload_json == '{"output":"out","durationMs":1500.0}'
    for event in (start, end):
        assert (event.run_id, event.job, event.labels) == (run.id, "job", {"a": "b"})
        assert (event.step, event.position) == ("one", 4)
    assert ids([start, end]) == [5, 6]


@pytest.mark.parametrize("way", ["alone", "with others", "one after the other", "beside logs"])
async def test_however_it_is_stored_it_says_the_same(store: Store, way: str) -> None:
    run, other = await store.leased(), await store.leased()
    one, two = a_pair(run, 1, "one"), a_pair(run, 2, "two", 1)
    if way == "alone":
        await store.store(one)
        await store.store(two)
    elif way == "one after the other":
        await store_together(store.database, one, two)
    else:
        beside = a_pair(other, 1, "x") if way == "with others" else a_write(other, events=(a_log("x"),))
        await store_together(store.database, one, beside)
        await store.store(two)
    told = [(event.seq, event.type, event.step, event.created_at) for event in (await store.events(run))[2:]]
    assert told == [
        (3, START, "one", AT - TOOK),
        (4, DONE, "one", AT),
        (5, START, "two", AT - TOOK),
        (6, DONE, "two", AT),
    ]
    assert await rows_of(store, run) == 2
    assert await store.is_sound()


@pytest.mark.parametrize("is_batched", [False, True], ids=["alone", "with the next step"])
async def test_a_start_that_was_told_before_is_told_once(store: Store, is_batched: bool) -> None:  # noqa: FBT001
    run = await store.leased()
    await store.store(a_start(run, 1, "slow"))
    rest = (a_pair(run, 2, "slow", is_told=True), a_pair(run, 3, "next", 1))
    for batch in (rest,) if is_batched else tuple((one,) for one in rest):
        await store_together(store.database, *batch)
    told = [(event.seq, event.type.value, event.step) for event in (await store.events(run))[2:]]
    assert told == [(3, START, "slow"), (4, DONE, "slow"), (5, START, "next"), (6, DONE, "next")]
    assert await store.is_sound()


async def test_what_was_stored_in_doubt_is_not_told_twice(store: Store) -> None:
    run = await store.leased()
    pairs = [a_pair(run, 1, "one"), a_pair(run, 2, "two", 1)]
    for write in (*pairs, *pairs):
        assert await store.store(write) is Verdict.STORED
    assert await store_together(store.database, *pairs) == [Verdict.STORED] * 2
    assert numbers(await store.events(run)) == [1, 2, 3, 4, 5, 6]
    assert await store.is_sound()


async def test_a_void_lease_tells_neither_event(store: Store) -> None:
    run = await store.leased()
    again = await store.taken_over(run)
    assert await store.store(a_pair(run, 1, "one")) is Verdict.REFUSED
    assert await store_together(store.database, a_pair(run, 1, "one"), a_pair(run, 2, "two")) == [Verdict.REFUSED] * 2
    await store.store(a_pair(again, 1, "one"))
    assert (await store.event_types(run))[3:] == [START, DONE]
    assert await store.is_sound()


async def test_the_next_number_follows_the_second_event(store: Store) -> None:
    run = await store.leased()
    await store.store(a_pair(run, 1, "one"))
    await store.cancel(run)
    cancelled = an_event(EventType.STEP_CANCEL, "two", position=1)
    for _ in range(2):
        await store.database.run(steps.cancel_step(run_lease(run), cancelled))
    assert await store.event_types(run) == [
        "run:trigger", "run:leased", "step:start", "step:complete", "run:cancel", "step:cancel",
    ]  # fmt: skip
    assert numbers(await store.events(run)) == [1, 2, 3, 4, 5, 6]
    assert await store.is_sound()


def run_lease(run: StoredRun) -> Any:
    return a_write(run).lease


async def test_the_start_is_told_as_long_as_its_end_also_when_the_run_is_gone(store: Store) -> None:
    run = await store.leased()
    await store.store(a_pair(run, 1, "one"))
    await store.end(run, RunStatus.COMPLETED, 2)
    before = [(event.type, event.created_at) for event in await store.events(run)]
    await store.delete(run)
    assert [(event.type, event.created_at) for event in await store.events(run)][:-1] == before


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE {events} SET started_at = NULL WHERE step IS NOT NULL",
        "UPDATE {events} SET started_at = created_at WHERE type = 'run:leased'",
    ],
    ids=["a start is lost", "a number is taken twice"],
)
async def test_what_no_index_sees_is_noticed_by_the_queries_of_all_tests(store: Store, tampering: str) -> None:
    run = await store.leased()
    await store.store(a_pair(run, 1, "one"))
    assert await store.is_sound()
    await store.sql(tampering)
    assert {str(row["run_id"]) for row in await store.event_faults()} == {run.id}


# --- what is read -------------------------------------------------------------------------------------


async def test_ids_grow_and_are_unique_and_numbers_have_no_gap(store: Store, whole: list[Event]) -> None:
    assert ids(whole) == sorted(set(ids(whole)))
    by_run: dict[str, list[int]] = {}
    for event in whole:
        by_run.setdefault(event.run_id, []).append(event.seq or 0)
    assert all(found == list(range(1, len(found) + 1)) for found in by_run.values())
    assert [len(found) for found in by_run.values()] == [12, 6]
    assert await store.database.read(events.last_event_id()) == ids(whole)[-1]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_a_page_of_a_run_begins_and_ends_at_any_event(store: Store, whole: list[Event], limit: int) -> None:
    every = [event for event in whole if event.run_id == whole[0].run_id]
    for after in range(len(every) + 1):
        found = await store.database.read(events.run_events(every[0].run_id, after_seq=after, limit=limit))
        assert found == every[after : after + limit]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_the_feed_resumes_after_any_event(store: Store, whole: list[Event], limit: int) -> None:
    for place, after in enumerate((0, *ids(whole))):
        found: list[Event] = []
        while page := await feed(store, ids(found)[-1] if found else after, limit=limit):
            found += page
        assert found == whole[place:]


async def test_a_page_of_the_feed_holds_whole_rows_and_says_when_it_is_full(store: Store, whole: list[Event]) -> None:
    page = await store.database.read(events.feed(after=ids(whole)[3], gaps=(), limit=2))
    assert [event.type for event in page.events] == [START, DONE, START, DONE]
    assert page.is_full
    rest = await store.database.read(events.feed(after=ids(whole)[3], gaps=(), limit=100))
    assert rest.events == tuple(whole[4:])
    assert not rest.is_full


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_the_feed_is_read_backwards_from_any_event(store: Store, whole: list[Event], limit: int) -> None:
    for place, before in enumerate((*ids(whole), 2**62)):
        found = await store.database.read(care.recent_events(before=before, limit=limit))
        assert found == whole[max(place - limit, 0) : place][::-1]


async def test_a_purge_takes_both_events_of_a_row_or_none(store: Store, whole: list[Event]) -> None:
    purge = events.purge_events(older_than=timedelta(days=-1), limit=1)
    left = whole
    while left:
        assert await store.database.run(purge) == 1
        before, left = left, await feed(store)
        gone = before[: len(before) - len(left)]
        assert before[len(gone) :] == left
        assert [event.type for event in gone] == [START, DONE] or len(gone) == 1
    assert await store.database.run(purge) == 0
    await store.trigger()
    assert (await feed(store))[0].id == ids(whole)[-1] + 2


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_a_gap_that_a_pair_fills_gives_what_was_asked_for(store: Store) -> None:
    run = await store.leased()
    writer = await store.connect()
    await writer.execute("BEGIN")
    await writer.execute(
        "INSERT INTO durably.events (run_id, seq, type, job, step, position, started_at, created_at)"
        " VALUES (gen_random_uuid(), 2, 'step:complete', 'open', 'a', 0, now(), now())"
    )
    await store.store(a_pair(run, 1, "one"))
    assert ids(await feed(store)) == [2, 4, 7, 8]
    assert await feed(store, after=8, gaps=(5, 6)) == []
    await writer.execute("COMMIT")
    assert ids(await feed(store, after=8, gaps=(5, 6))) == [5, 6]
    assert ids(await feed(store, after=8, gaps=(6,))) == [6]
    assert ids(await feed(store, after=7, gaps=(6,))) == [6, 8]


async def test_a_step_that_has_a_row_already_is_stored_beside_new_ones(store: Store) -> None:
    failed, completed, new = [await store.leased() for _ in range(3)]
    await store.write(failed, 1, steps=(a_failed_step(failed, "a"),))
    await store.write(completed, 1, steps=(a_step(completed, "a", output='"first"'),))
    together = [a_pair(run, 2, "a") for run in (failed, completed, new)]

    assert await store_together(store.database, *together) == [Verdict.STORED] * 3

    outputs = [step.output_json for run in (failed, completed, new) for step in await store.steps(run)]
    assert outputs == ['"out"', '"first"', '"out"']
    for run in (failed, completed, new):
        told = await store.database.read(events.run_events(run.id))
        assert [event.type for event in told][-2:] == [START, DONE]
