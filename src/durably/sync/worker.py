"""`SyncWorker` and `SyncEventStream`: a worker and a stream of events for blocking code."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from durably.jobs import Job
from durably.model import Event
from durably.runtime.following import EventStream
from durably.runtime.worker import Worker
from durably.sync.portal import Portal


class SyncWorker:
    """`Worker` for blocking code: it works in a thread of its own while the caller does something else.

    `with worker:` starts it and stops it at the end. A forked child has to start it anew.
    """

    def __init__(self, make: Callable[[], Worker], portal: Portal, running: set[SyncWorker]) -> None:
        """`make` gives a worker of this process; `running` is the set of those that have to be stopped at the end."""
        self._make = make
        self._portal = portal
        self._running = running
        self._registered: list[Job[Any, Any] | str] = []
        self._process = os.getpid()
        self._worker = make()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process == os.getpid():
            self.stop()

    @property
    def jobs(self) -> tuple[str, ...]:
        """See `Worker.jobs`."""
        return self._own().jobs

    @property
    def is_running(self) -> bool:
        """See `Worker.is_running`. False in a forked child until it is started there."""
        return self._own().is_running

    def register(self, job: Job[Any, Any] | str, *, replace: bool = False) -> None:
        """See `Worker.register`. With `replace=True` a cell of a notebook can be run again, without a second worker."""
        worker = self._own()

        async def register() -> None:
            worker.register(job, replace=replace)

        if worker.is_running:
            self._portal.call(register)
        else:
            worker.register(job, replace=replace)
        self._registered.append(job)

    def start(self) -> None:
        """See `Worker.start`."""
        self._portal.call(self._own().start)
        self._running.add(self)

    def ended(self) -> None:
        """See `Worker.ended`."""
        if self.is_running:
            self._portal.call(self._own().ended)

    def stop(self, grace: timedelta | None = None) -> None:
        """See `Worker.stop`. KeyboardInterrupt cuts the grace short."""
        if self._portal.is_running:
            try:
                self._portal.call(lambda: self._own().stop(grace))
            finally:
                self._running.discard(self)

    def process_one(self) -> bool:
        """See `Worker.process_one`."""
        return self._portal.call(self._own().process_one)

    def process_until_idle(self, *, max_runs: int | None = None, max_duration: timedelta | None = None) -> int:
        """See `Worker.process_until_idle`."""
        worker = self._own()
        return self._portal.call(lambda: worker.process_until_idle(max_runs=max_runs, max_duration=max_duration))

    def _own(self) -> Worker:
        """The worker of this process: what a fork brought along belongs to the parent's event loop."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._worker = self._make()
            for job in self._registered:
                self._worker.register(job, replace=True)
        return self._worker


class SyncEventStream:
    """`EventStream` for blocking code: `for event in stream`. It ends like the other; `close()` ends it early."""

    def __init__(self, stream: EventStream, portal: Portal) -> None:
        self._stream = stream
        self._portal = portal

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self._portal.call(self._next)
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        self._portal.call(self._stream.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream."""
        if self._portal.is_running:
            self._portal.call(self._stream.aclose)

    async def _next(self) -> Event | None:
        return await anext(self._stream, None)


def awaited(
    deps: Callable[[], AbstractContextManager[object] | AbstractAsyncContextManager[object]],
) -> Callable[[], AbstractAsyncContextManager[object]]:
    """Return the same as async context managers, which workers enter."""

    @asynccontextmanager
    async def enter() -> AsyncGenerator[object, None]:
        made = deps()
        if isinstance(made, AbstractAsyncContextManager):
            async with made as value:
                yield value
        else:
            with made as value:
                yield value

    return enter
