"""A process's surroundings in a simulated world: its clocks, its chance, its threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeVar

from durably.environment import Thread, uuid7_text
from durably.testing.threads import SimulatedThreads, current_thread
from durably.testing.world import Process, ProcessLoop

T = TypeVar("T")

BEGINNING = datetime(2030, 1, 1, tzinfo=UTC)
"""What the clocks of a world show when it begins."""
_BEGINNING_US = int(BEGINNING.timestamp()) * 1_000_000


class SimulatedEnvironment:
    """What one process sees of the outside world."""

    def __init__(
        self, process: Process, *, skew: float = 0.0, uptime: float = 0.0, thread_seconds: float = 0.0
    ) -> None:
        """`skew` is how far its wall clock is ahead, `uptime` what its monotonic clock showed at the beginning.

        A thread begins up to `thread_seconds` after it is asked to.
        """
        self.process = process
        self.skew = skew
        self._uptime = uptime
        self._thread_seconds = thread_seconds
        self._world = process.world
        self._chance = Random(f"{process.world.chance.random()} {process.name}")
        self._last_id = 0

    def now(self) -> datetime:
        """See `Environment`."""
        return BEGINNING + timedelta(microseconds=self._micros())

    def now_us(self) -> int:
        """See `Environment`."""
        return _BEGINNING_US + self._micros()

    def monotonic(self) -> float:
        """See `Environment`."""
        return self._uptime + self._world.now

    def new_id(self) -> str:
        """See `Environment`."""
        value = (self.now_us() // 1000) << 74 | self._chance.getrandbits(74)
        if value <= self._last_id:
            value = self._last_id + 1 + self._chance.getrandbits(16)
        self._last_id = value
        return uuid7_text(value)

    def new_ids(self, count: int) -> list[str]:
        """See `Environment`."""
        return [self.new_id() for _ in range(count)]

    def random(self) -> float:
        """See `Environment`."""
        return self._chance.random()

    def executor(self, name: str, threads: int) -> Executor:  # noqa: ARG002  # as many as it takes
        """See `Environment`."""
        return SimulatedThreads(self.process, lambda: self._chance.random() * self._thread_seconds)

    def wait(self, future: Future[T]) -> T:
        """See `Environment`. Meanwhile the world goes on."""
        return current_thread().wait(future)

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass in a thread, as `time.sleep` lets real time pass. Raises RuntimeError in a loop."""
        current_thread().sleep(seconds)

    def start_thread(self, name: str, target: Callable[[], None]) -> Thread:
        """See `Environment`."""
        raise RuntimeError(f"no thread {name!r} for {target!r}: a simulated process has only loops")

    def start_loop(
        self, name: str, main: Callable[[], Coroutine[Any, Any, None]], ended: Callable[[], None]
    ) -> tuple[asyncio.AbstractEventLoop, Thread]:
        """See `Environment`: another loop of the same process."""

        async def work() -> None:
            try:
                with suppress(asyncio.CancelledError):
                    await main()
            finally:
                ended()

        loop = self.process.start(work)
        return loop, _LoopThread(name, loop)

    def _micros(self) -> int:
        return round((self._world.now + self.skew) * 1_000_000)


class _LoopThread:
    """Stands for the thread of a loop."""

    def __init__(self, name: str, loop: ProcessLoop) -> None:
        self.name = name
        self._loop = loop

    def join(self, timeout: float | None = None) -> None:
        """Whoever waits like this would stop the world: the loop ends by itself."""

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return not self._loop.is_closed()
