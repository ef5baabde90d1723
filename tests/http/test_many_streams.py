"""Ten thousand streams cost one tail and one query a wake-up, and none of them misses or repeats anything."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from starlette.types import Message

from durably import Durably, Event, EventType
from durably.http import create_app, frames, hub
from durably.http.app import DurablyApp
from tests.http.jobs import JOBS, Gate, echo
from tests.support.asgi import Listener
from tests.support.http import RawClient, Site, quick, site, until, work

MANY = 10_000


@pytest.fixture
async def app(durably: Durably) -> AsyncIterator[DurablyApp]:
    """Give an application that thins nothing out, without a server."""
    made = create_app(durably, jobs=JOBS, sse_throttle=0)
    yield made
    made.close_streams()
    await until(lambda: not made.streams)


async def counted(durably: Durably, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count what is read from the database, by the name of the last statement."""
    database = await durably._database()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - what is counted
    reads = Counter[str]()
    read = database.read

    async def counting(operation: Any, **options: Any) -> Any:
        reads[operation.statements[-1].name] += 1
        return await read(operation, **options)

    monkeypatch.setattr(database, "read", counting)
    return reads


def tasks(name: str) -> int:
    return sum(task.get_name() == name for task in asyncio.all_tasks())


def ids(listener: Listener) -> list[int]:
    return [int(line[4:]) for line in listener.body.split(b"\n") if line.startswith(b"id: ")]


async def leave(listeners: Sequence[Listener]) -> None:
    await asyncio.gather(*(listener.leave() for listener in listeners))


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_ten_thousand_streams_cost_one_tail_and_one_query_a_wake_up(
    app: DurablyApp, durably: Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await durably.trigger(echo, 1)
    reads = await counted(durably, monkeypatch)
    first = Listener(app, "/runs/subscribe")
    await first.begun()  # the reader is there
    of_run = [Listener(app, "/subscribe", {"runId": run.id}) for _ in range(MANY // 50)]
    await until(lambda: reads["run_snapshot"] == len(of_run))
    feeds = [first, *(Listener(app, "/runs/subscribe") for _ in range(MANY - len(of_run) - 1))]
    for listener in (*of_run, *feeds):
        await listener.begun()
    assert app.streams == MANY
    assert [tasks(f"durably-{name}") for name in ("stream", "hub", "tail")] == [MANY, 1, 1]
    reads.clear()
    await durably.cancel(run)
    for listener in feeds:
        await listener.told(b"run:cancel")
    await asyncio.gather(*(listener.task for listener in of_run))
    assert all(listener.is_complete for listener in of_run)
    assert 1 <= reads["feed"] <= 10, reads  # the wake-up, and polls on a slow machine
    assert sum(reads.values()) <= 20, reads
    assert len({tuple(ids(listener)) for listener in feeds}) == 1
    await leave(feeds)
    assert app.streams == 0
    await until(lambda: not tasks("durably-tail"))


async def test_streams_over_sockets_cost_one_reader(served: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = await served.trigger("echo", 1)
    paths = [f"/subscribe?runId={run_id}", "/runs/subscribe"] * 100
    async with AsyncExitStack() as opened:
        clients = [await opened.enter_async_context(RawClient(served.port, path)) for path in paths]
        await until(lambda: tasks("durably-stream") == len(clients))
        assert (tasks("durably-hub"), tasks("durably-tail")) == (1, 1)
        reads = await counted(served.durably, monkeypatch)
        await work(served.durably, echo)
        for client in clients:
            await client.read_until(b"run:complete")
        assert reads["feed"] < 30
        assert sum(reads.values()) < 60, reads
    await until(lambda: not served.app.streams)


async def test_who_has_the_headers_misses_nothing_that_is_committed_then(app: DurablyApp, durably: Durably) -> None:
    committed = list[str]()

    async def commit(message: Message) -> None:
        if message["type"] == "http.response.start":
            committed.append((await durably.trigger(echo, 1)).id)

    for params in ({}, {"jobName": "echo"}, {"lastEventId": "0"}):
        listener = Listener(app, "/runs/subscribe", params, on_send=commit)
        await until(lambda: committed and committed[-1].encode() in listener.body)  # noqa: B023 - it is over then
        await listener.leave()


async def test_what_the_state_covers_is_not_told_again(
    app: DurablyApp, durably: Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens between joining and looking is told by the look, and only by it."""
    gate, run = Gate(), await durably.trigger("gated")
    subscribers = list[hub.Subscriber]()
    read = durably.get_snapshot

    async def late(run: Any) -> Any:
        async with asyncio.timeout(20):
            await gate.reached.wait()
        return await read(run)

    def offered(subscriber: hub.Subscriber, frame: frames.Frame) -> None:
        subscribers.append(subscriber)
        offer(subscriber, frame)

    offer = hub.Subscriber.offer
    monkeypatch.setattr(hub.Subscriber, "offer", offered)
    monkeypatch.setattr(durably, "get_snapshot", late)
    resumed = Listener(app, "/subscribe", {"runId": run.id, "lastEventId": "1"})
    await resumed.begun()
    async with durably.worker([gate.job()]):
        await until(lambda: len(subscribers) >= 3)  # leased, a step begun and ended: before it looks
        await gate.reached.wait()
        await until(lambda: resumed.body)
        gate.opened.set()
        await until(lambda: resumed.is_complete)
    stored = [
        event.seq for event in await durably.get_events(run=run, after=0, limit=1000) if event.type in frames.OF_ONE_RUN
    ]
    assert ids(resumed) == stored


async def test_what_was_read_before_joining_the_others_is_not_told_again(
    app: DurablyApp, durably: Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A feed that catches up may be ahead of the hub when it joins."""
    go_on = asyncio.Event()
    go_on.set()
    hand_out = hub.Hub._hand_out  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - held up

    async def slowly(self: hub.Hub, event: Event) -> None:
        await go_on.wait()
        await hand_out(self, event)

    monkeypatch.setattr(hub.Hub, "_hand_out", slowly)
    first = Listener(app, "/runs/subscribe")
    await until(lambda: first.messages)
    await durably.trigger(echo, 1)
    await until(lambda: ids(first))
    go_on.clear()
    await durably.trigger(echo, 2)
    resumed = Listener(app, "/runs/subscribe", {"lastEventId": str(ids(first)[0])})
    await until(lambda: ids(resumed))
    await until(lambda: not tasks("durably-feed"))  # it has joined
    go_on.set()
    await durably.trigger(echo, 3)
    await until(lambda: len(ids(first)) == 3 and ids(first)[-1] in ids(resumed))
    assert ids(resumed) == ids(first)[1:]
    await leave([first, resumed])


def test_what_waits_for_a_subscriber_is_bounded() -> None:
    def frame(number: int, size: int) -> frames.Frame:
        return frames.Frame(EventType.LOG_WRITE, "r", number, number, b"x" * size)

    for size in (1, hub.MAX_BYTES // 7):
        subscriber, over = hub.Subscriber(), list[int]()
        subscriber.on_over = lambda: over.append(1)  # noqa: B023 - this one
        taken = 0
        while not subscriber.is_over and taken <= hub.MAX_FRAMES:
            taken += 1
            subscriber.offer(frame(taken, size))
        assert over == [1]
        assert taken <= hub.MAX_FRAMES + 1
        assert taken * size <= hub.MAX_BYTES + size


async def test_a_second_application_has_a_reader_of_its_own(url: str) -> None:
    durably = quick(url)
    async with site(durably, jobs=JOBS) as one, site(durably, jobs=JOBS) as two:
        async with one.feed() as here, two.feed() as there:
            await until(lambda: one.app.streams and two.app.streams)
            await one.trigger("echo", 1)
            assert (await here.take(1))[0].data == (await there.take(1))[0].data
