"""Sends what rides without haste: one timer for all runs of a worker, and none while nothing waits."""

from __future__ import annotations

import asyncio
from typing import Protocol

TICK_SECONDS = 0.01
"""What is added waits for one tick at least and two at most."""


class Flushable(Protocol):
    """Somebody with something to send that need not go at once."""

    def flush(self) -> None:
        """Send it now."""
        ...


class Flusher:
    """Flushes those that were added, if nothing else sent what they have meanwhile. Used in one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: dict[Flushable, None] = {}
        self._next: dict[Flushable, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, one: Flushable) -> None:
        """Flush this within 20 ms. Adding it again does not put that off."""
        if one not in self._due:
            self._next[one] = None
            if self._timer is None:
                self._timer = self._loop.call_later(TICK_SECONDS, self._tick)

    def drop(self, one: Flushable) -> None:
        """It has nothing to send any more."""
        self._next.pop(one, None)
        self._due.pop(one, None)

    def _tick(self) -> None:
        due, self._due, self._next = self._due, self._next, {}
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick) if self._due else None
        for one in tuple(due):
            one.flush()
