"""Functions of the user that are called with the events of this process.

A listener that fails or is slow harms nobody: its error is logged, and a coroutine function gets the events one after
the other in a task of its own, with a bounded queue before it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TypeAlias

from durably.model import Event, EventType

Listener: TypeAlias = Callable[[Event], object]

MAX_QUEUE = 1000
"""Events that may wait before an async listener; further ones are dropped for it, with a warning."""

_logger = logging.getLogger("durably.listeners")


class Listeners:
    """Who wants to hear of which type of event. Used in one event loop at a time."""

    def __init__(self, signal: Callable[[str], object] = lambda _run_id: None) -> None:
        """`signal` gets the id of each run that ended in this process, whoever listens: no event is made for that."""
        self.signal = signal
        self._calls: dict[EventType, list[_Call]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def on(self, type: EventType, fn: Listener) -> Callable[[], None]:  # noqa: A002  # the word of the events
        """Call `fn` with every event of `type` from now on. Returns the function that ends that."""
        call = _Call(fn, self._tasks)
        self._calls.setdefault(type, []).append(call)

        def unsubscribe() -> None:
            calls = self._calls.get(type, [])
            if call in calls:
                calls.remove(call)

        return unsubscribe

    def __bool__(self) -> bool:
        """Whether anybody listens to anything, or ever did."""
        return bool(self._calls)

    def wants(self, type: EventType) -> bool:  # noqa: A002  # the word of the events
        """Whether anybody listens to this type: making an event for nobody costs as much as storing it."""
        return bool(self._calls) and bool(self._calls.get(type))

    def emit(self, event: Event) -> None:
        """Call the listeners of the event's type, in the order in which they were added. Never raises."""
        for call in tuple(self._calls.get(event.type, ())):
            call.deliver(event)

    async def close(self, timeout: float = 1.0) -> None:
        """Let async listeners finish what they were given, at most `timeout` seconds; then cancel them."""
        if not self._tasks:
            return
        _, pending = await asyncio.wait(self._tasks, timeout=timeout)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


class _Call:
    """One listener with the events that wait for it."""

    def __init__(self, fn: Listener, tasks: set[asyncio.Task[None]]) -> None:
        self._fn = fn
        self._tasks = tasks
        self._waiting: deque[Coroutine[object, object, object]] = deque()
        self._is_draining = False

    def deliver(self, event: Event) -> None:
        """Call the listener, or put it in line when it is async."""
        try:
            result = self._fn(event)
        except Exception:
            _logger.exception("a listener for %s failed", event.type)
            return
        if inspect.iscoroutine(result):
            self._enqueue(result, event)

    def _enqueue(self, result: Coroutine[object, object, object], event: Event) -> None:
        if len(self._waiting) >= MAX_QUEUE:
            result.close()
            _logger.warning("a listener for %s is too slow: an event of run %s is dropped", event.type, event.run_id)
            return
        self._waiting.append(result)
        if not self._is_draining:
            self._is_draining = True
            task = asyncio.get_running_loop().create_task(self._drain(), name="durably-listener")
            self._tasks.add(task)  # the loop itself holds tasks only weakly
            task.add_done_callback(self._drained)

    async def _drain(self) -> None:
        while self._waiting:
            try:
                await self._waiting.popleft()
            except Exception:
                _logger.exception("an async listener failed")
        self._is_draining = False

    def _drained(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            self._is_draining = False
            while self._waiting:
                self._waiting.popleft().close()
