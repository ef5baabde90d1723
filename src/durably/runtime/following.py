"""What waits for events: the end of a run, a run's own events, and the feed over all runs. All of it rests on the tail.

The order that misses nothing is the same everywhere: register first, look at the store second, wait third.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Self

from durably.errors import RunNotFound, UsageError
from durably.model import Event, EventType, StoredRun
from durably.runtime.position import Position
from durably.runtime.tail import PAGE, Subscription, Tail, read_page, set_barrier
from durably.store import events as store_events
from durably.store import runs as store_runs
from durably.store.database import Database

ENDS = frozenset({EventType.RUN_COMPLETE, EventType.RUN_FAIL, EventType.RUN_CANCEL, EventType.RUN_DELETE})
"""After one of these a run has nothing more to say, unless it is resumed."""
_ELSEWHERE = "its event loop has ended, or its SyncDurably was closed"


async def wait_for_end(database: Database, tail: Tail, run_id: str) -> StoredRun:
    """Return the run once it is terminal. Raises RunNotFound when there is none, or no more."""
    run = await _load(database, run_id)
    if run.status.is_terminal:
        return run
    async with tail.watch(run_id, ENDS) as watch:
        while True:
            run = await _load(database, run_id, timeout=None)
            if run.status.is_terminal:
                return run
            await watch.wait()


async def _load(database: Database, run_id: str, *, timeout: float | None = 10.0) -> StoredRun:
    run = await database.read(store_runs.get_run(run_id), timeout=timeout)
    if run is None:
        raise RunNotFound(run_id)
    return run


async def follow_run(
    database: Database, tail: Tail, run_id: str, *, after: int = 0
) -> AsyncGenerator[Event | None, None]:
    """Yield a run's events after number `after` of it, then the new ones; end when the run has ended.

    Yields None once, when nothing can be missed any more. Raises RunNotFound when nothing is known of the run.
    """
    async with tail.watch(run_id) as watch:
        run = await database.read(store_runs.get_run(run_id))
        is_over = run is None or run.status.is_terminal
        yield None
        is_known = run is not None
        while True:
            page = await database.read(store_events.run_events(run_id, after_seq=after, limit=PAGE), timeout=None)
            for event in page:
                after = after if event.seq is None else event.seq
                is_over = event.type in ENDS or (is_over and event.type is not EventType.RUN_RESUME)
                yield event
            is_known = is_known or bool(page)
            if not is_known:
                raise RunNotFound(run_id)
            if len(page) == PAGE:
                continue
            if is_over:
                return
            await watch.wait()


async def follow_feed(
    database: Database, tail: Tail, wants: Callable[[Event], bool], *, after: int | None
) -> AsyncGenerator[Event | None, None]:
    """Yield the wanted events of all runs after cursor `after` (None: from now on), for ever.

    A cursor that no event has had yet means from now on: the database that it was taken from is no more. Yields None
    once, when nothing can be missed any more.
    """
    position = None if after is None else Position(after)
    is_ready = False
    while True:
        subscription = tail.subscribe(wants)
        try:
            await tail.ready()
            if not is_ready and after is not None and await tail.is_ahead(after):
                position = None
            if position is None:
                tail.join(subscription)
            if not is_ready:
                is_ready = True
                yield None
            if position is not None:
                for event in await _history_page(database, tail, subscription, position):
                    if wants(event):
                        yield event
            while (live := await subscription.next()) is not None:
                yield live
        finally:
            tail.unsubscribe(subscription)
        tail.check_open()
        position = subscription.resume or position


async def _history_page(database: Database, tail: Tail, subscription: Subscription, position: Position) -> list[Event]:
    """Read on from `position`. With the last page the subscription is joined, before that it is detached."""
    page, is_last = await read_page(database, position, timeout=None)
    events = position.advance(page, is_last=is_last)
    await set_barrier(database, position, timeout=None)
    if is_last and subscription.resume is None:
        tail.join(subscription, position)
    else:
        subscription.detach(position)
    return events


class EventStream:
    """The events of a run or of all runs: `async for event in stream`.

    With `async with durably.events(...) as stream` nothing that happens after entering is missed; without, nothing
    after the first event was asked for. It is for one reader; `aclose` may come from somebody else. Whoever reads on
    after a wait for an event was cancelled (by a timeout, say), or in another event loop, gets a UsageError.
    """

    def __init__(self, events: AsyncGenerator[Event | None, None]) -> None:
        self._events = events
        self._reader: asyncio.Task[object] | None = None
        """The task that waits for the next event."""
        self._is_over = False
        """Whether it was closed, has ended or has failed."""
        self._is_cut = False
        """Whether a wait for an event was cancelled: that event would be missing."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._left = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while (event := await self._next()) is None:
            pass
        return event

    async def __aenter__(self) -> Self:
        await self._next()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the stream, also for a task that waits for its next event."""
        self._is_over = True
        reader = self._reader
        if reader is not None and reader is not asyncio.current_task():
            self._left.clear()
            reader.cancel()
            await self._left.wait()
        await self._events.aclose()

    async def _next(self) -> Event | None:
        self._check()
        reader = self._reader = asyncio.current_task()
        cancelled = 0 if reader is None else reader.cancelling()
        try:
            return await anext(self._events)
        except asyncio.CancelledError:
            if reader is None or not self._is_over or reader.uncancel() > cancelled:
                self._is_cut = True
                raise
            raise StopAsyncIteration from None
        except BaseException:
            self._is_over = True
            raise
        finally:
            self._reader = None
            self._left.set()

    def _check(self) -> None:
        """Raise UsageError where reading on would look like the end of the events."""
        if self._reader is not None:
            raise UsageError("this stream of events is read by somebody else: make one for each reader")
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._is_over or not (self._is_cut or self._loop is not loop):
            return
        why = "a wait for its next event was cancelled" if self._is_cut else _ELSEWHERE
        raise UsageError(
            f"this stream of events cannot be read on, since {why}: make a new one, `after` its last event"
        )
