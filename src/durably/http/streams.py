"""What the two event streams consist of: that of one run, and that of many."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Protocol, TypeAlias, TypeVar

from durably import Durably, Event, EventType, Run, Snapshot
from durably.http import wire
from durably.http.frames import OF_ONE_RUN, Frame, make_frame, thin_frame
from durably.http.hub import Hub, Subscriber, Wanted, full_frame

T = TypeVar("T")
Beginning: TypeAlias = AsyncGenerator[Sequence[Frame], None]

PAGE = 200
"""Events that are read at once for a client that resumes."""

_logger = logging.getLogger("durably.http")


class Stream(Protocol):
    """What one stream sends: first its beginning, then what its subscriber gets."""

    subscriber: Subscriber
    is_finished: bool
    """Whether nothing follows its beginning."""
    ends_with_run: bool
    """Whether it is over after the end of a run."""

    def joined(self) -> AbstractAsyncContextManager[None]:
        """Be there for what happens from now on."""
        ...

    def beginning(self) -> Beginning:
        """Yield what comes before all that the subscriber gets. Called within `joined`."""
        ...


class RunStream:
    """The stream of one run: its state as events, or what was missed after event number `after`; then what happens."""

    def __init__(self, durably: Durably, hub: Hub, run: Run[object], *, after: int | None, now: datetime) -> None:
        self.subscriber = Subscriber()
        self.is_finished = False
        self.ends_with_run = True
        self._durably = durably
        self._hub = hub
        self._run = run
        self._after = after
        self._now = now
        self._leased_at = run.started_at

    def joined(self) -> AbstractAsyncContextManager[None]:
        """See `Stream`."""
        return self._hub.run(self._run, self.subscriber)

    async def beginning(self) -> Beginning:
        """See `Stream`."""
        snapshot = await _undisturbed(self._durably.get_snapshot(self._run))
        if snapshot is None:  # it was deleted since it was looked up, after its end
            self.is_finished = True
            return
        self.subscriber.skip(snapshot.seq)
        after = self._after
        while after is not None and after < snapshot.seq:
            events = await _undisturbed(self._durably.get_events(run=self._run, after=after, limit=PAGE))
            if not events or events[0].seq != after + 1:  # they are not stored any more: the state has to do
                after = None
            else:
                yield [self._frame(event) for event in events if _is_past(event, snapshot)]
                after = min(events[-1].seq or 0, snapshot.seq)
        if after is None or after > snapshot.seq:
            yield self._state(snapshot)
        self.is_finished = snapshot.run.is_terminal

    def _frame(self, event: Event) -> Frame:
        if event.type is EventType.RUN_LEASED:
            self._leased_at = event.created_at
        return full_frame(event, input_json=self._run.input_json, leased_at=self._leased_at)

    def _state(self, snapshot: Snapshot[object]) -> list[Frame]:
        events = wire.snapshot_events(snapshot, self._now)
        return [
            make_frame(type_, self._run.id, json, number=snapshot.seq, cursor=snapshot.seq) for type_, json in events
        ]


class Feed:
    """The stream of many runs: what happens from now on, or after cursor `after`. It does not end."""

    def __init__(self, durably: Durably, hub: Hub, wanted: Wanted, *, after: int | None) -> None:
        self.subscriber = Subscriber()
        self.is_finished = False
        self.ends_with_run = False
        self._durably = durably
        self._hub = hub
        self._wanted = wanted
        self._after = after

    def joined(self) -> AbstractAsyncContextManager[None]:
        """See `Stream`."""
        if self._after is None or self._wanted[0] == frozenset():
            return self._hub.feed(self._wanted, self.subscriber)
        return self._resumed(self._after)

    async def beginning(self) -> Beginning:
        """See `Stream`. What was missed comes through the subscriber."""
        yield ()

    @asynccontextmanager
    async def _resumed(self, after: int) -> AsyncGenerator[None]:
        """Read for this subscriber alone, until it has come to where the others are.

        It counts as a member of the hub meanwhile, with a place of its own where nothing is handed out.
        """
        aside = Subscriber()
        aside.on_over = self.subscriber.end
        async with self._hub.feed(NOTHING, aside):
            catching_up = asyncio.create_task(self._catch_up(after), name="durably-feed")
            try:
                yield
            finally:
                catching_up.cancel()
                await asyncio.wait([catching_up])
                self._hub.leave(self._wanted, self.subscriber)

    async def _catch_up(self, after: int) -> None:
        jobs, labels = self._wanted
        try:
            async with self._durably.events(job=jobs, labels=dict(labels), after=after) as events:
                async for event in events:
                    await self.subscriber.put(thin_frame(event))
                    if self._hub.is_at(event):
                        self.subscriber.floor = event.id or 0
                        self._hub.join(self._wanted, self.subscriber)
                        return
        except Exception:  # the border of a background task
            _logger.exception("an event stream ends: what its client missed cannot be read")
            self.subscriber.end()


NOTHING: Wanted = (frozenset(), frozenset())


def _is_past(event: Event, snapshot: Snapshot[Any]) -> bool:
    return event.type in OF_ONE_RUN and event.seq is not None and event.seq <= snapshot.seq


def utc_now() -> datetime:
    """Return the time for what is made up now: the state of a run as events."""
    return datetime.now(UTC)  # noqa: TID251 - it is shown, and decides nothing


async def _undisturbed(reading: Coroutine[Any, Any, T]) -> T:
    """Do this to its end even if the client leaves: the connection that it reads from is shared."""
    task = asyncio.ensure_future(reading)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be there to hear of it
    return await asyncio.shield(task)
