"""Clients that do not read, or go away: what waits for them is bounded, and freed."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import pytest
from starlette.types import Message

from durably import Durably
from durably.http import hub
from durably.http.sse import open_stream
from durably.http.streams import Beginning
from tests.http.jobs import JOBS
from tests.support.http import RawClient, Site, site, until

FILLER: dict[str, Any] = {"concurrencyKey": "k", "coalesce": "skip"}
LONG = "x" * 500_000
ENOUGH = 60
"""Events of that length that no buffers of the system hold."""


def held(served: Site, *clients: RawClient) -> int:
    """Return how many of these clients' connections the server holds."""
    open_now: set[Any] = {getattr(connection, "client", None) for connection in served.server.server_state.connections}
    return sum(client.name in open_now for client in clients)


def tasks(name: str) -> int:
    return sum(task.get_name() == name for task in asyncio.all_tasks())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give clients little room and little time."""
    monkeypatch.setattr(hub, "MAX_BYTES", 100_000)
    monkeypatch.setattr("durably.http.sse.FAREWELL_SECONDS", 0.2)


@pytest.mark.usefixtures("impatient")
async def test_a_client_that_does_not_read_is_cut_off_and_resumes(durably: Durably) -> None:
    async with site(durably, jobs=JOBS, sse_throttle=0) as served:
        run_id = await served.trigger("echo", 0, concurrencyKey="k")
        async with RawClient(served.port, "/runs/subscribe") as client:
            await until(lambda: served.app.streams)
            count = 0
            while served.app.streams:
                assert count < ENOUGH, "the stream goes on, and what waits for it grows"
                count += 1
                await served.trigger("echo", LONG, **FILLER)
            received = await client.read_all()
        blocks = received.split(b"\n\n")[:-1]
        ids = [int(line[4:]) for block in blocks for line in block.split(b"\n") if line.startswith(b"id: ")]
        assert len(ids) < count
        async with served.feed(after=str(ids[-1] if ids else 2)) as feed:
            rest = [int(frame.id or 0) for frame in await feed.take(count - len(ids))]
        assert [*ids, *rest] == list(range(4, 4 + 2 * count, 2))
        assert (await served.run(run_id))["status"] == "pending"


@pytest.mark.usefixtures("impatient")
async def test_what_waits_for_a_client_that_never_reads_is_freed(durably: Durably) -> None:
    """Closing its connection would wait until it has read everything."""
    async with site(durably, jobs=JOBS, sse_throttle=0) as served:
        await served.trigger("echo", 0, concurrencyKey="k")
        async with RawClient(served.port, "/runs/subscribe") as client:
            assert held(served, client)
            for _ in range(ENOUGH):
                await served.trigger("echo", LONG, **FILLER)
            await until(lambda: not held(served, client))
        assert not tasks("durably-stream")


class Stuck:
    """A connection to a client that reads no more, as a server has it, and a stream on it."""

    is_finished = False
    ends_with_run = False

    def __init__(self) -> None:
        self.subscriber = hub.Subscriber()
        self.transport = self
        self.sent: list[Message] = []
        self.is_full = self.is_aborted = False
        self._never = asyncio.Event()

    async def receive(self) -> Message:
        await self._never.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.is_full:
            await self._never.wait()
        self.sent.append(message)

    def abort(self) -> None:
        self.is_aborted = True

    def joined(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def beginning(self) -> Beginning:
        yield []


@pytest.mark.usefixtures("impatient")
async def test_the_last_word_to_a_client_that_reads_no_more_takes_no_longer() -> None:
    """It was cut off while nothing was being sent to it: what was sent last is still with the server."""
    stuck = Stuck()
    response = await open_stream(stuck, throttle=0, keep_alive=60)
    answering = asyncio.create_task(response({"type": "http"}, stuck.receive, stuck.send))
    await until(lambda: tasks("durably-stream") and len(stuck.sent) == 2)
    stuck.is_full = True
    stuck.subscriber.end()
    await until(lambda: stuck.is_aborted)
    await answering
    assert not tasks("durably-stream")


def nothing(_transport: object) -> None:
    """Leave the socket as it is."""


async def test_a_client_that_reads_nothing_is_given_up_though_its_buffer_has_room(
    durably: Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durably.http.line.SILENT_SECONDS", 0.5)
    monkeypatch.setattr("durably.http.line._watch", nothing)  # the system would do it too
    monkeypatch.setattr(hub, "MAX_BYTES", ENOUGH * 2 * len(LONG))
    async with site(durably, jobs=JOBS, sse_throttle=0) as served:
        run_id = await served.trigger("echo", 0, concurrencyKey="k")
        async with (
            RawClient(served.port, "/runs/subscribe") as one,
            RawClient(served.port, "/runs/subscribe?lastEventId=0") as two,
            RawClient(served.port, f"/subscribe?runId={run_id}") as idle,
        ):
            await until(lambda: served.app.streams == held(served, one, two, idle) == 3)
            for _ in range(ENOUGH):
                await served.trigger("echo", LONG, **FILLER)
            await until(lambda: not held(served, one, two))
            assert served.app.streams == held(served, idle) == 1  # there was nothing to read for it


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has it")
async def test_the_system_ends_a_connection_whose_client_has_vanished(
    served: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durably.http.line.SILENT_SECONDS", 12)
    async with RawClient(served.port, "/runs/subscribe"):
        await until(lambda: served.app.streams)
        await until(lambda: 12_000 in user_timeouts(served))


def user_timeouts(served: Site) -> set[int]:
    """Return what the system was told about the server's connections, in milliseconds."""
    transports: list[Any] = [connection.transport for connection in served.server.server_state.connections]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] - every protocol of HTTP has it
    found: list[socket.socket] = [transport.get_extra_info("socket") for transport in transports]
    return {one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for one in found}


@pytest.mark.parametrize("way", ["FIN", "RST"])
async def test_a_client_that_leaves_frees_everything_within_a_second(served: Site, way: str) -> None:
    run_id = await served.trigger("greet", {"name": "ada"})
    async with served.feed():  # what listens for other processes begins with the first stream, and stays
        await until(lambda: served.app.streams)
    await until(lambda: not tasks("durably-tail"))
    before = len(asyncio.all_tasks())
    for path in (f"/subscribe?runId={run_id}", "/runs/subscribe", "/runs/subscribe?lastEventId=0"):
        async with RawClient(served.port, path) as client:
            await until(lambda: served.app.streams == held(served, client) == 1)
            # nothing is sent meanwhile: keep-alive comes after 15 s
            leave = {"FIN": client.finish, "RST": client.abort}[way]
            leave()
            async with asyncio.timeout(10):
                await until(lambda: not served.app.streams and not held(served, client))
    await until(lambda: len(asyncio.all_tasks()) <= before)
