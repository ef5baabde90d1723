"""One reader of the event feed for everybody in this process who waits for events.

It reads once per wake, and at least once a second, and only while somebody is there to read for. A `Watch` is told
that something happened to one run; a `Subscription` gets the events themselves, in a bounded buffer: one that does
not keep up is detached, and reads on from where it was by itself (`runtime.following`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from durably.environment import Environment
from durably.errors import DatabaseUnavailable, UsageError
from durably.model import Event, EventType, FeedPage
from durably.runtime.position import Position
from durably.store import events as store_events
from durably.store.database import Database
from durably.store.operation import Wake

PAGE = 500
"""Rows that are read at once: up to twice as many events."""
BUFFER = 2000
"""Events that may wait for a subscriber."""
LOOK_BACK = 400
"""How many ids before its start the tail checks for events that were still being written."""
MIN_INTERVAL = 0.01
"""Seconds between two reads: under load, one read serves many commits."""
MAX_BACKOFF = 5.0

_logger = logging.getLogger("durably.tail")


class Tail:
    """Reads the feed for watches and subscriptions. Starts with the first of them and ends with the last."""

    def __init__(self, database: Database, environment: Environment, *, poll_interval: float = 1.0) -> None:
        self._database = database
        self._environment = environment
        self._poll_interval = poll_interval
        self._watches: dict[str, set[Watch]] = {}
        self._subscriptions: set[Subscription] = set()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._ready = asyncio.Event()
        self._position = Position(0)
        self._floor = 0
        self._settles_at: int | None = None
        self._closed = False

    def watch(self, run_id: str, types: frozenset[EventType] | None = None) -> Watch:
        """Return a watch on a run's events of these types (None: all); `async with` it before looking at the run."""
        return Watch(self, run_id, types)

    def subscribe(self, wants: Callable[[Event], bool]) -> Subscription:
        """Begin to collect wanted events. The caller ends it with `unsubscribe`."""
        subscription = Subscription(wants)
        self._subscriptions.add(subscription)
        self._start()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription; it is allowed to be ended already."""
        self._subscriptions.discard(subscription)
        self._wake_if_alone()

    def join(self, subscription: Subscription, position: Position | None = None) -> None:
        """Make a subscription deliver exactly what a reader at `position` has not seen (None: from now on)."""
        position = self._position if position is None else position
        early = {gap: xmax for gap, xmax in position.gaps.items() if gap <= self._floor}
        self._position.add_gaps(early)
        subscription.join(position.copy(), cursor=min(early) - 1 if early else None)

    async def is_ahead(self, cursor: int) -> bool:
        """Whether no event has had this cursor yet: it is from a database that was made anew, or restored, since."""
        if cursor <= self._position.last:
            return False
        return cursor > await self._database.read(store_events.last_event_id())

    async def ready(self) -> None:
        """Return when the tail knows where the feed ends: whatever is committed from then on is delivered."""
        await self._ready.wait()
        self.check_open()

    def check_open(self) -> None:
        """Raise UsageError when the tail was closed."""
        if self._closed:
            raise UsageError("this Durably was closed while it was waited for events")

    async def close(self) -> None:
        """Stop reading. Whoever still waits gets a UsageError."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._ready.set()
        for subscription in self._subscriptions:
            subscription.close()
        self._signal_all()

    def add_watch(self, watch: Watch) -> None:
        """Tell `watch` of its run's events from now on."""
        self._watches.setdefault(watch.run_id, set()).add(watch)
        self._start()

    def remove_watch(self, watch: Watch) -> None:
        """Forget `watch`."""
        watches = self._watches.get(watch.run_id, set())
        watches.discard(watch)
        if not watches:
            self._watches.pop(watch.run_id, None)
        self._wake_if_alone()

    def signal(self, run_id: str) -> None:
        """Wake the watches of a run at once: what happened to it happened in this process."""
        for watch in self._watches.get(run_id, ()):
            watch.signal()

    def _start(self) -> None:
        self.check_open()
        if self._task is None or self._task.done():
            self._ready.clear()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="durably-tail")

    def _is_needed(self) -> bool:
        return bool(self._watches or self._subscriptions)

    def _wake_if_alone(self) -> None:
        if not self._is_needed():
            self._wake.set()

    async def _run(self) -> None:
        forget = self._database.on_wake(self._woken)
        failures = 0
        try:
            while self._is_needed():
                try:
                    await self._read()
                    failures = 0
                except DatabaseUnavailable as error:
                    failures += 1
                    _logger.warning("the event feed cannot be read, trying again: %s", error)
                except Exception:
                    failures += 1
                    _logger.exception("reading the event feed failed, trying again")
                await self._pause(failures)
        finally:
            forget()

    def _woken(self, wake: Wake) -> None:
        if wake & Wake.EVENTS:
            self._wake.set()

    async def _pause(self, failures: int) -> None:
        """Wait for a wake, or for the next poll; after failures for 0.1, 0.2, 0.4 ... 5 s, with jitter."""
        jitter = 0.75 + self._environment.random() / 2
        if failures:
            await asyncio.sleep(min(MAX_BACKOFF, 0.05 * 2.0**failures) * jitter)
            return
        if not self._is_needed():
            return
        await asyncio.sleep(MIN_INTERVAL)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._poll_interval * jitter):
                await self._wake.wait()

    async def _read(self) -> None:
        """Read what is new, and hand it out."""
        if not self._ready.is_set():
            await self._find_end()
        is_last = False
        while not is_last:
            self._wake.clear()
            before = self._position.copy()
            page, is_last = await read_page(self._database, before, timeout=10.0)
            self._hand_out(self._position.advance(page, is_last=is_last), before)
            await set_barrier(self._database, self._position, timeout=10.0)
            self._settle(page.xmin)

    async def _find_end(self) -> None:
        """Begin at the end of the feed, with a look back for ids that are handed out but not committed yet."""
        end = await self._database.read(store_events.last_event_id())
        settles_at = await self._database.read(store_events.barrier())
        position = Position(max(0, end - LOOK_BACK))
        page, _ = await read_page(self._database, position, limit=LOOK_BACK, timeout=10.0)
        position.advance(page, is_last=False)
        await set_barrier(self._database, position, timeout=10.0)
        self._position = position
        self._floor = max(end - LOOK_BACK, 0)
        self._settles_at = settles_at
        self._ready.set()

    def _settle(self, xmin: int) -> None:
        """Signal every watch once when the last writer from before the start has ended: the look back is short."""
        if self._settles_at is not None and xmin >= self._settles_at:
            self._settles_at = None
            self._signal_all()

    def _signal_all(self) -> None:
        for watches in self._watches.values():
            for watch in watches:
                watch.signal()

    def _hand_out(self, events: Sequence[Event], before: Position) -> None:
        for event in events:
            for watch in self._watches.get(event.run_id, ()):
                if watch.types is None or event.type in watch.types:
                    watch.signal()
        if events:
            for subscription in self._subscriptions:
                subscription.offer(events, before)


async def read_page(
    database: Database, position: Position, *, limit: int = PAGE, timeout: float | None
) -> tuple[FeedPage, bool]:
    """Read what comes after `position`, and its gaps. Also says whether that was all."""
    operation = store_events.feed(after=position.last, gaps=position.gaps, limit=limit)
    page = await database.read(operation, timeout=timeout)
    return page, not page.is_full


async def set_barrier(database: Database, position: Position, *, timeout: float | None) -> None:
    """Find out, for gaps that were just seen, when they can be given up."""
    if position.needs_barrier:
        position.set_barrier(await database.read(store_events.barrier(), timeout=timeout))


class Watch:
    """Learns that something happened to one run. Look at the run after entering, then after every `wait`."""

    def __init__(self, tail: Tail, run_id: str, types: frozenset[EventType] | None) -> None:
        self.run_id = run_id
        self.types = types
        self._tail = tail
        self._signal = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._tail.add_watch(self)
        try:
            await self._tail.ready()
        except BaseException:
            self._tail.remove_watch(self)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._tail.remove_watch(self)

    def signal(self) -> None:
        """Wake who waits; signals that nobody waited for count as one."""
        self._signal.set()

    async def wait(self) -> None:
        """Return when something happened since the last `wait` returned."""
        await self._signal.wait()
        self._signal.clear()
        self._tail.check_open()


class Subscription:
    """The events that one subscriber has yet to take, in a bounded buffer."""

    def __init__(self, wants: Callable[[Event], bool]) -> None:
        self._wants = wants
        self._buffer: deque[Event] = deque()
        self._filled = asyncio.Event()
        self._joined: Position | None = None
        self.resume: Position | None = None
        """Where to read on; set when the buffer was full, and nothing more comes."""

    def join(self, position: Position, *, cursor: int | None) -> None:
        """Deliver only what a reader at `position` has not seen; no cursor is to be beyond `cursor`."""
        buffered, self._buffer = self._buffer, deque()
        self._joined = position
        for event in buffered:
            limit = event.cursor if cursor is None or event.cursor is None else min(event.cursor, cursor)
            self._accept(replace(event, cursor=limit))

    def detach(self, position: Position) -> None:
        """Take no more events and drop those that came: the subscriber reads on from `position`."""
        self._buffer.clear()
        self.resume = position
        self._filled.set()

    def offer(self, events: Sequence[Event], before: Position) -> None:
        """Buffer what is wanted of `events`, or detach at `before`, where the tail was, if they do not fit."""
        wanted = [event for event in events if self._wants(event)]
        if self.resume is not None:
            return
        if len(self._buffer) + len(wanted) > BUFFER:
            self.resume = self._position_at(before)
            self._filled.set()
            return
        for event in wanted:
            self._accept(event)

    def close(self) -> None:
        """End what waits for events."""
        self.detach(Position(0))

    async def next(self) -> Event | None:
        """Return the next event; None when the subscription was detached and everything before that is taken."""
        while not self._buffer:
            if self.resume is not None:
                return None
            self._filled.clear()
            await self._filled.wait()
        return self._buffer.popleft()

    def _accept(self, event: Event) -> None:
        if self._joined is not None and event.id is not None:
            if self._joined.has_seen(event.id):
                return
            self._joined.fill(event.id)
        self._buffer.append(event)
        self._filled.set()

    def _position_at(self, tail: Position) -> Position:
        """Where this subscriber is when the tail is at `tail`: what either has seen, it has seen."""
        joined = self._joined
        if joined is None:
            return tail
        if tail.last < joined.last:
            return joined.copy()
        return Position(tail.last, {gap: xmax for gap, xmax in tail.gaps.items() if not joined.has_seen(gap)})
