"""The feed misses nothing and repeats nothing, whoever makes the events, however slow its reader is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from durably.app import Durably
from durably.errors import UsageError
from durably.model import Event
from durably.runtime import tail
from durably.runtime.following import EventStream


async def take(stream: EventStream, count: int) -> list[Event]:
    async with asyncio.timeout(20):
        return [await anext(stream) for _ in range(count)]


def ids(events: list[Event]) -> list[int]:
    return [event.id or 0 for event in events]


async def test_the_feed_is_live_once_it_is_entered(durably: Durably) -> None:
    await durably.trigger("before")
    async with durably.events() as stream:
        await durably.trigger("a", labels={"x": "1"})
        [event] = await take(stream, 1)
    assert (event.job, event.labels, event.type, event.seq) == ("a", {"x": "1"}, "run:trigger", 1)
    assert event.cursor == event.id


async def test_the_feed_shows_what_other_processes_do(durably: Durably, url: str) -> None:
    async with Durably(url) as other, durably.events() as stream:
        run = await other.trigger("a")
        await other.cancel(run)
        assert [event.type for event in await take(stream, 2)] == ["run:trigger", "run:cancel"]


async def test_the_feed_can_be_filtered(durably: Durably) -> None:
    async with durably.events(job=["a", "b"], labels={"x": "1"}) as stream:
        await durably.trigger("a")
        await durably.trigger("c", labels={"x": "1"})
        await durably.trigger("b", labels={"x": "1", "y": "2"})
        [event] = await take(stream, 1)
    assert event.job == "b"


@pytest.mark.parametrize("ahead", [1000, 2**40, 2**63])
async def test_a_cursor_of_a_database_that_is_no_more_means_from_now_on(durably: Durably, ahead: int) -> None:
    """As of one that was made anew, or restored, while its readers stayed: they would wait until it has caught up."""
    await durably.trigger("before")
    async with durably.events(after=ahead) as stream:
        run = await durably.trigger("a")
        [event] = await take(stream, 1)
    assert event.run_id == run.id


async def test_a_cursor_continues_where_it_was_taken(durably: Durably) -> None:
    await durably.trigger_many("job", range(10))
    async with durably.events(after=0) as stream:
        first = await take(stream, 4)
    async with durably.events(after=first[-1].cursor) as stream:
        rest = await take(stream, 6)
        await durably.trigger("job")
        [live] = await take(stream, 1)
    assert ids([*first, *rest]) == sorted({*ids(first), *ids(rest)})
    assert live.id == max(ids(rest)) + 2


async def test_catching_up_beside_writers_neither_misses_nor_repeats(
    durably: Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "PAGE", 7)
    monkeypatch.setattr("durably.runtime.following.PAGE", 7)
    await durably.trigger_many("job", range(50))
    streams = [durably.events(after=0) for _ in range(3)]

    async def write() -> None:
        for number in range(50):
            await durably.trigger("job", number)

    results = await asyncio.gather(write(), *(take(stream, 100) for stream in streams))
    for stream in streams:
        await stream.aclose()
    for got in results[1:]:
        assert got is not None
        assert sorted(ids(got)) == list(range(2, 202, 2))


async def test_a_slow_reader_is_detached_and_still_gets_everything_once(
    durably: Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "BUFFER", 20)
    async with durably.events() as slow, durably.events() as quick:
        for _ in range(10):
            await durably.trigger_many("job", range(10))
            await take(quick, 10)
        got = ids(await take(slow, 100))
        await durably.trigger("job")
        got += ids(await take(slow, 1))
    assert got == list(range(2, 204, 2))


async def test_the_tail_ends_with_its_last_reader(durably: Durably) -> None:
    async with durably.events():
        [tail_task] = [task for task in asyncio.all_tasks() if task.get_name() == "durably-tail"]
    await asyncio.wait_for(tail_task, 5)
    async with durably.events() as stream:
        await durably.trigger("job")
        await take(stream, 1)


async def test_closing_ends_readers_with_an_error(durably: Durably) -> None:
    run = await durably.trigger("job")
    async with durably.events() as stream:
        reader = asyncio.ensure_future(take(stream, 1))
        waiter = asyncio.ensure_future(durably.wait(run))
        with pytest.raises(TimeoutError):
            await durably.wait(run, timeout=0.2)
        await durably.close()
        for task in (reader, waiter):
            with pytest.raises(UsageError, match="closed"):
                await task


async def test_the_events_of_a_run_come_in_order_and_end_with_it(durably: Durably) -> None:
    run = await durably.trigger("job")
    stream = durably.events(run=run)
    assert (await take(stream, 1))[0].seq == 1
    await durably.cancel(run)
    assert [(event.seq, event.type) async for event in stream] == [(2, "run:cancel")]
    assert [event.seq async for event in durably.events(run=run, after=1)] == [2]
    assert [event.seq async for event in durably.events(run=run, after=2)] == []


@pytest.fixture
async def writer(postgres_url: str, durably: Durably) -> AsyncIterator[asyncpg.Connection]:
    await durably.get_runs()
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


INSERT = """
INSERT INTO durably.events (run_id, seq, type, job, created_at)
VALUES (gen_random_uuid(), 1, 'run:trigger', $1, now())
"""


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
async def test_an_event_that_commits_late_is_delivered_late_and_holds_nobody_up(
    durably: Durably, writer: asyncpg.Connection
) -> None:
    async with durably.events() as stream:
        late = writer.transaction()
        await late.start()
        await writer.execute(INSERT, "late")
        await durably.trigger_many("job", range(3))
        early = await take(stream, 3)
        await late.commit()
        [last] = await take(stream, 1)
    assert [event.job for event in early] == ["job"] * 3
    assert {event.cursor for event in early} == {0}
    assert (last.job, last.id, last.cursor) == ("late", 2, 8)


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
async def test_a_reader_that_begins_beside_a_late_event_gets_it(durably: Durably, writer: asyncpg.Connection) -> None:
    late = writer.transaction()
    await late.start()
    await writer.execute(INSERT, "late")
    await durably.trigger_many("job", range(3))
    async with durably.events() as fresh, durably.events(after=0) as old:
        assert ids(await take(old, 3)) == [4, 6, 8]
        await late.commit()
        await durably.trigger("job")
        assert ids(await take(old, 2)) == ids(await take(fresh, 2)) == [2, 10]


STEP = """
INSERT INTO durably.events (run_id, seq, type, job, step, position, started_at, created_at)
VALUES (gen_random_uuid(), 4, 'step:complete', $1, 'a', 0, now(), now())
"""


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
@pytest.mark.parametrize("look_back", [2, 400])
async def test_both_events_of_a_late_row_are_told_once_and_resumed_after_however_far_back_it_is(
    durably: Durably, writer: asyncpg.Connection, look_back: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "LOOK_BACK", look_back)
    await durably.trigger("first")
    late = writer.transaction()
    await late.start()
    await writer.execute(STEP, "late")
    await durably.trigger_many("job", range(3))
    async with durably.events(after=0) as stream:
        early = await take(stream, 4)
        await late.commit()
        start, end = await take(stream, 2)
        run = await durably.trigger("last")
        [last] = await take(stream, 1)
    assert [(event.id, event.cursor) for event in early] == [(2, 2), (6, 2), (8, 2), (10, 2)]
    assert [(event.id, event.type, event.seq, event.job) for event in (start, end)] == [
        (3, "step:start", 3, "late"),
        (4, "step:complete", 4, "late"),
    ]
    assert last.run_id == run.id
    assert (start.cursor, end.cursor, last.cursor) == (3, 10, 12)
    async with durably.events(after=start.cursor) as stream:
        assert ids(await take(stream, 5)) == [4, 6, 8, 10, 12]


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
async def test_an_event_that_never_commits_is_given_up(durably: Durably, writer: asyncpg.Connection) -> None:
    async with durably.events() as stream:
        lost = writer.transaction()
        await lost.start()
        await writer.execute(INSERT, "lost")
        await durably.trigger("job")
        assert [event.cursor for event in await take(stream, 1)] == [0]
        await lost.rollback()
        cursor: int | None = 0
        async with asyncio.timeout(20):
            while cursor == 0:
                await durably.trigger("job")
                cursor = (await take(stream, 1))[0].cursor
    assert cursor is not None
    assert cursor > 4


async def test_closing_a_stream_ends_the_iteration_of_somebody_else(durably: Durably) -> None:
    run = await durably.trigger("job")
    for stream in (durably.events(), durably.events(after=0), durably.events(run=run)):
        waits = asyncio.Event()

        async def read(stream: EventStream = stream, waits: asyncio.Event = waits) -> str:
            async with stream:
                waits.set()
                async for _ in stream:
                    pass
            return "over"

        reading = asyncio.create_task(read())
        await waits.wait()
        async with asyncio.timeout(20):
            await stream.aclose()
            assert await reading == "over"
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_reader_that_is_cancelled_while_its_stream_is_closed_is_cancelled(durably: Durably) -> None:
    stream = durably.events()
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    reading.cancel()
    await stream.aclose()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_reading_on_after_a_wait_was_cancelled_is_an_error_and_no_end(durably: Durably) -> None:
    run = await durably.trigger("job")
    for stream in (durably.events(), durably.events(run=run, after=1)):
        async with stream:
            reading = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            with pytest.raises(UsageError, match="a wait for its next event was cancelled: make a new one"):
                await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


def test_reading_on_in_another_event_loop_is_an_error_and_no_end(url: str) -> None:
    async def begin() -> EventStream:
        async with Durably(url) as durably:
            await durably.trigger("job")
            stream = durably.events(after=0)
            await anext(stream)
            return stream

    async def go_on(stream: EventStream) -> None:
        with pytest.raises(UsageError, match="its event loop has ended, or its SyncDurably was closed: make a new one"):
            await anext(stream)

    asyncio.run(go_on(asyncio.run(begin())))


async def test_a_stream_is_for_one_reader(durably: Durably) -> None:
    async with durably.events() as stream:
        reading = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        with pytest.raises(UsageError, match="somebody else"):
            await anext(stream)
        run = await durably.trigger("job")
        async with asyncio.timeout(20):
            assert (await reading).run_id == run.id


def test_a_stream_that_is_left_open_ends_with_its_loop_in_silence(url: str, caplog: pytest.LogCaptureFixture) -> None:
    kept = list[EventStream]()

    async def leave() -> None:
        durably = Durably(url)
        await durably.trigger("job")
        kept.append(durably.events(after=0))
        await anext(kept[0])
        await durably.close()

    asyncio.run(leave())
    assert caplog.text == ""
