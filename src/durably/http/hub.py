"""One reader of the events of all processes for all streams of a server.

However many streams are open, it is one subscription: no stream asks the database for what happens. A frame is made
once for all who get it. Who does not keep up is cut off, and told by the ids of the frames where to resume.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import TypeAlias

from durably import DatabaseUnavailable, Durably, Event, EventType, Run, UsageError
from durably.http import wire
from durably.http.frames import OF_ONE_RUN, Frame, make_frame, thin_frame
from durably.http.shutdown import server_is_stopping

MAX_FRAMES = 1000
MAX_BYTES = 4 * 1024 * 1024
"""What may wait for one subscriber."""
ENOUGH = 100
"""How many frames wait at most for one that catches up."""
TURN = 20_000
"""Deliveries after which others get their turn. Each takes 1 us; a stream that is woken for one frame takes 50."""
LOOK_SECONDS = 0.25
JOIN_SECONDS = 10.0

_logger = logging.getLogger("durably.http")

Wanted: TypeAlias = tuple[frozenset[str] | None, frozenset[tuple[str, str]]]
"""Names of jobs (None: any), and labels."""


class Subscriber:
    """The frames that one stream has yet to send, in a bounded buffer."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self.floor = 0
        """Frames up to this number are not taken from now on: the client gets them in another way."""
        self.is_over = False
        """Nothing more comes: it was cut off, or the server stops."""
        self.on_over: Callable[[], object] | None = None

    def offer(self, frame: Frame) -> None:
        """Buffer a frame; cut the subscriber off if there is no room for it."""
        if self.is_over or frame.number <= self.floor:
            return
        if self._frames and not self._has_room(frame, MAX_FRAMES):
            _logger.info("a stream is closed: its client does not keep up, and may resume after its last id")
            self.end()
            return
        self._frames.append(frame)
        self._bytes += len(frame.data)
        self._filled.set()

    async def put(self, frame: Frame) -> None:
        """Buffer a frame as soon as there is room: for what is read for this subscriber alone."""
        while self._frames and not self.is_over and not self._has_room(frame, ENOUGH):
            self._emptied.clear()
            await self._emptied.wait()
        self.offer(frame)

    def end(self) -> None:
        """Drop what waits: the subscriber resumes after the last frame that it got."""
        self._frames.clear()
        self._bytes = 0
        self.is_over = True
        self._filled.set()
        self._emptied.set()
        if self.on_over is not None:
            self.on_over()

    def skip(self, number: int) -> None:
        """Drop the frames up to this number, also those that wait."""
        self.floor = number
        while self._frames and self._frames[0].number <= number:
            self._bytes -= len(self._frames.popleft().data)

    def _has_room(self, frame: Frame, frames: int) -> bool:
        return len(self._frames) < frames and self._bytes + len(frame.data) <= MAX_BYTES

    async def take(self, until: float) -> list[Frame]:
        """Return what has come; nothing if nothing comes until this time of the loop, or when it is over."""
        if not self._frames and not self.is_over:
            self._filled.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._filled.wait()
        frames = list(self._frames)
        self._frames.clear()
        self._bytes = 0
        self._emptied.set()
        return frames


class _Channel:
    """The streams of one run, and what the frames of its events need beside the events."""

    def __init__(self, run: Run[object]) -> None:
        self.subscribers: set[Subscriber] = set()
        self.input_json: str | None = run.input_json
        self.leased_at: datetime | None = run.started_at


class Hub:
    """Hands the events of all processes out to streams. Reads only while there are any."""

    def __init__(self, durably: Durably) -> None:
        self._durably = durably
        self._channels: dict[str, _Channel] = {}
        self._feeds: dict[Wanted, set[Subscriber]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = asyncio.Event()
        self._delivered = 0
        self._last_id = 0
        """The newest event that was handed out."""
        self._is_settled = False
        """Whether an event was handed out before which nothing is missing: then it is known where the hub is."""
        self.is_closed = False

    @property
    def subscribers(self) -> int:
        """How many streams there are."""
        groups = [channel.subscribers for channel in self._channels.values()]
        return sum(len(group) for group in [*groups, *self._feeds.values()])

    @asynccontextmanager
    async def run(self, run: Run[object], subscriber: Subscriber) -> AsyncGenerator[None]:
        """Give the subscriber the events of a run. Nothing that is committed after entering is missed."""
        self._come_along()
        channel = self._channels.setdefault(run.id, _Channel(run))
        channel.subscribers.add(subscriber)
        try:
            await self._begin()
            yield
        finally:
            channel.subscribers.discard(subscriber)
            if not channel.subscribers:
                self._channels.pop(run.id, None)
            self._end_if_idle()

    @asynccontextmanager
    async def feed(self, wanted: Wanted, subscriber: Subscriber) -> AsyncGenerator[None]:
        """Give the subscriber the events of many runs. Nothing that is committed after entering is missed."""
        self._come_along()
        self.join(wanted, subscriber)
        try:
            await self._begin()
            yield
        finally:
            self.leave(wanted, subscriber)

    def join(self, wanted: Wanted, subscriber: Subscriber) -> None:
        """Give the subscriber the events of many runs from the next one on."""
        self._feeds.setdefault(wanted, set()).add(subscriber)

    def leave(self, wanted: Wanted, subscriber: Subscriber) -> None:
        """Forget the subscriber."""
        group = self._feeds.get(wanted, set())
        group.discard(subscriber)
        if not group:
            self._feeds.pop(wanted, None)
        self._end_if_idle()

    def is_at(self, event: Event) -> bool:
        """Whether who has seen everything up to `event` misses nothing by joining now."""
        return self._is_settled and event.id is not None and event.cursor == event.id >= self._last_id

    def close(self) -> None:
        """End all streams, and those that are still to come. `open` takes that back, as does another event loop."""
        with suppress(RuntimeError):  # where none is running
            self._come_along()
        self.is_closed = True
        self._end_all()

    def open(self) -> None:
        """Let streams begin."""
        self._come_along()
        self.is_closed = False

    def _come_along(self) -> None:
        """Begin anew in another event loop: the same application may be served again, in a test or a notebook."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None:
            self._channels, self._feeds, self._tasks = {}, {}, []
            self._ready = asyncio.Event()
            self.is_closed = False
        self._loop = loop

    async def _begin(self) -> None:
        if self.is_closed:
            self._end_all()
            return
        if not self._tasks:
            self._ready.clear()
            loop = asyncio.get_running_loop()
            reading = loop.create_task(self._read(), name="durably-hub")
            self._tasks = [reading, loop.create_task(self._watch_server(), name="durably-hub-server")]
        try:
            async with asyncio.timeout(JOIN_SECONDS):
                await self._ready.wait()
        except TimeoutError as error:
            raise DatabaseUnavailable(f"its events could not be read within {JOIN_SECONDS:g} seconds") from error

    def _end_if_idle(self) -> None:
        if not self._channels and not self._feeds:
            tasks, self._tasks = self._tasks, []
            for task in tasks:
                task.cancel()

    def _end_all(self) -> None:
        groups = [channel.subscribers for channel in self._channels.values()]
        for group in [*groups, *self._feeds.values()]:
            for subscriber in tuple(group):
                subscriber.end()

    async def _read(self) -> None:
        try:
            async with self._durably.events() as events:
                self._last_id, self._is_settled = 0, False
                self._ready.set()
                async for event in events:
                    await self._hand_out(event)
        except UsageError as error:
            _logger.info("event streams end: %s", error)
        except Exception:  # the border of a background task
            _logger.exception("event streams end: their events cannot be read")
        finally:
            if asyncio.current_task() in self._tasks:  # it ended by itself: the next stream begins anew
                self._tasks.pop().cancel()
                self._tasks = []
                self._ready.set()
                self._end_all()

    async def _watch_server(self) -> None:
        """End all streams when the server is told to stop: it waits for them before it says so to anybody else."""
        while not server_is_stopping():  # noqa: ASYNC110 - a server of somebody else tells nobody
            await asyncio.sleep(LOOK_SECONDS)
        self.close()

    async def _hand_out(self, event: Event) -> None:
        self._last_id = max(self._last_id, event.id or 0)
        self._is_settled = self._is_settled or event.cursor == event.id
        channel = self._channels.get(event.run_id)
        if channel is not None:
            await self._hand_to_run(channel, event)
        if self._feeds:
            self._hand_to_feeds(event)
        if self._delivered >= TURN:
            self._delivered = 0
            await asyncio.sleep(0)

    async def _hand_to_run(self, channel: _Channel, event: Event) -> None:
        if event.type is EventType.RUN_REPLACE:
            channel.input_json = None
        if event.type not in OF_ONE_RUN or event.seq is None:
            return
        if event.type is EventType.RUN_LEASED:
            channel.leased_at = event.created_at
            if channel.input_json is None:
                run = await self._durably.get_run(event.run_id)
                channel.input_json = "null" if run is None else run.input_json
        frame = full_frame(event, input_json=channel.input_json or "null", leased_at=channel.leased_at)
        self._delivered += len(channel.subscribers)
        for subscriber in channel.subscribers:
            subscriber.offer(frame)

    def _hand_to_feeds(self, event: Event) -> None:
        frame: Frame | None = None
        for (jobs, labels), group in self._feeds.items():
            if (jobs is None or event.job in jobs) and _has(event.labels, labels):
                frame = frame or thin_frame(event)
                self._delivered += len(group)
                for subscriber in group:
                    subscriber.offer(frame)


def full_frame(event: Event, *, input_json: str, leased_at: datetime | None) -> Frame:
    """Return the frame of an event for the stream of its run."""
    number = event.seq or 0
    json = wire.full_event(event, input_json=input_json, leased_at=leased_at)
    return make_frame(event.type, event.run_id, json, number=number, cursor=number)


def _has(labels: Mapping[str, str], wanted: frozenset[tuple[str, str]]) -> bool:
    return all(labels.get(key) == value for key, value in wanted)
