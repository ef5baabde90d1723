"""The clock, ids, chance and threads: the only module that touches the real ones.

Everything else is given an `Environment`, so that a simulation can replace it. Lint bans the standard
modules elsewhere. Threads are imported when the first one is started, because a browser has none.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Executor as Executor  # noqa: PLC0414  # others name the type through this module
    from concurrent.futures import Future

T = TypeVar("T")

_VERSION_7 = 0x7 << 76
_VARIANT = 0x2 << 62
_LAST_DIGITS = (1 << 48) - 1
_LARGEST_STEP = 1 << 16


class Environment(Protocol):
    """What the outside world offers. `SystemEnvironment` is the real one."""

    def now(self) -> datetime:
        """The wall clock as an aware UTC datetime. For display and for SQLite; never to judge a lease of Postgres."""
        ...

    def now_us(self) -> int:
        """The wall clock as integer microseconds since 1970."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; also runs while the process is stopped, where the system has one."""
        ...

    def new_id(self) -> str:
        """A UUIDv7: sorts by the millisecond it was made in, and by order within this process."""
        ...

    def new_ids(self, count: int) -> list[str]:
        """As many of them, in the order of making: they sort in it."""
        ...

    def random(self) -> float:
        """A number from 0 up to, not including, 1."""
        ...

    def executor(self, name: str, threads: int) -> Executor:
        """Threads named `name` to run blocking calls in. The caller shuts it down."""
        ...

    def wait(self, future: Future[T]) -> T:
        """Block this thread, not an event loop's, until the future is done. Returns its result, or raises."""
        ...

    def start_thread(self, name: str, target: Callable[[], None]) -> Thread:
        """Start a daemon thread and return a handle to join it."""
        ...

    def start_loop(
        self, name: str, main: Callable[[], Coroutine[Any, Any, None]], ended: Callable[[], None]
    ) -> tuple[asyncio.AbstractEventLoop, Thread]:
        """Run `main()` in an event loop of its own, in a daemon thread; `ended` is called there when it is over.

        Raises RuntimeError where there are no threads.
        """
        ...


class Thread(Protocol):
    """A started thread."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it ended, at most `timeout` seconds."""
        ...

    def is_alive(self) -> bool:
        """Whether it still runs."""
        ...


class SystemEnvironment:
    """The machine's clock, chance and threads."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()
        self._last_id = 0

    def now(self) -> datetime:
        """See `Environment`."""
        return datetime.now(UTC)

    def now_us(self) -> int:
        """See `Environment`."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """See `Environment`. CLOCK_BOOTTIME where there is one: a suspended laptop's leases expire too."""
        clock = getattr(time, "CLOCK_BOOTTIME", None)
        return time.monotonic() if clock is None else time.clock_gettime(clock)

    def new_id(self) -> str:
        """See `Environment`. 48 bits of milliseconds, then 12 + 62 bits that start random and count up within one."""
        return uuid7_text(self._next_id())

    def new_ids(self, count: int) -> list[str]:
        """See `Environment`. They are of one millisecond and count up: only their last twelve digits differ."""
        if not count:
            return []
        first = self._next_id()
        if (first & _LAST_DIGITS) + count * _LARGEST_STEP > _LAST_DIGITS:
            return [self.new_id() for _ in range(count)]
        steps = memoryview(os.urandom(2 * count)).cast("H")
        values = [first + place + sum_ for place, sum_ in enumerate(accumulate(steps))]
        self._last_id = values[-1]
        head = uuid7_text(first)[:-12]
        return [f"{head}{value & _LAST_DIGITS:012x}" for value in values]

    def _next_id(self) -> int:
        tail = int.from_bytes(os.urandom(10), "big") & ((1 << 74) - 1)
        value = (time.time_ns() // 1_000_000) << 74 | tail
        if value <= self._last_id:
            value = self._last_id + 1 + (tail & 0xFFFF)
        self._last_id = value
        return value

    def random(self) -> float:
        """See `Environment`."""
        return self._random.random()

    def executor(self, name: str, threads: int) -> Executor:
        """See `Environment`."""
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  # a browser has no threads

        return ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)

    def wait(self, future: Future[T]) -> T:
        """See `Environment`."""
        return future.result()

    def start_thread(self, name: str, target: Callable[[], None]) -> Thread:
        """See `Environment`."""
        import threading  # noqa: PLC0415  # a browser has no threads

        thread = threading.Thread(name=name, target=target, daemon=True)
        thread.start()
        return thread

    def start_loop(
        self, name: str, main: Callable[[], Coroutine[Any, Any, None]], ended: Callable[[], None]
    ) -> tuple[asyncio.AbstractEventLoop, Thread]:
        """See `Environment`."""
        loop = asyncio.new_event_loop()

        def work() -> None:
            try:
                with asyncio.Runner(loop_factory=lambda: loop) as runner, suppress(asyncio.CancelledError):
                    runner.run(main())
            finally:
                ended()

        try:
            return loop, self.start_thread(name, work)
        except RuntimeError:
            loop.close()
            raise


def new_lock() -> AbstractContextManager[object]:
    """A lock between threads."""
    import threading  # noqa: PLC0415  # a browser has no threads

    return threading.Lock()


def new_reentrant_lock() -> AbstractContextManager[object]:
    """A lock between threads, which who holds it may take again."""
    import threading  # noqa: PLC0415  # a browser has no threads

    return threading.RLock()


def before_exit(fn: Callable[[], object]) -> None:
    """Call `fn` when the interpreter is about to end, while threads still work."""
    import atexit  # noqa: PLC0415
    import importlib  # noqa: PLC0415
    import threading  # noqa: PLC0415  # a browser has no threads

    importlib.import_module("concurrent.futures.thread")  # who registers last is called first: let it be before us
    # atexit comes too late: the threads of executors have ended by then, and with them the writer of SQLite
    register: Callable[[Callable[[], object]], object] = getattr(threading, "_register_atexit", atexit.register)
    with suppress(RuntimeError):  # it is ending already
        register(fn)


def around_forks(before: Callable[[], object], after: Callable[[], object]) -> None:
    """Call `before` ahead of each fork of this process, and `after` behind it, in the parent and in the child."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=after, after_in_child=after)


def uuid7_text(value: int) -> str:
    """Spread 122 bits over the fields of a version 7 UUID (RFC 9562, section 5.7)."""
    stamp = value >> 74
    high = value >> 62 & 0xFFF
    low = value & ((1 << 62) - 1)
    text = f"{stamp << 80 | _VERSION_7 | high << 64 | _VARIANT | low:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
