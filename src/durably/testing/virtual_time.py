"""An event loop with virtual time: it never waits, it moves its clock to the next timer.

`asyncio.sleep`, `timeout` and `TaskGroup` work in it as they are: `asyncio.Runner(loop_factory=VirtualTimeLoop)`. A day
takes no time, and what happens in which order depends on nothing outside.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Where nothing is left to do now, the clock jumps to the next timer.

    What goes on outside holds the clock: calls in threads (`asyncio.to_thread`, `run_in_executor`) until they return,
    and, where no timer is left, open sockets. With neither, a loop that waits for ever raises Deadlock.

    Tasks and futures are numbered, and sets of them are in that order: no address decides who comes first.
    """

    def __init__(self, *, start: float = 0.0) -> None:
        """`start` is what the clock shows at first, in seconds."""
        self._virtual_now = start
        self._outside = 0
        self._numbers = 0
        super().__init__(_Selector(self))
        self._clock_resolution = 1e-6  # a float of many days knows no nanoseconds: what is due then would never come
        self.set_task_factory(_make_task)

    def time(self) -> float:
        """Seconds of virtual time."""
        return self._virtual_now

    def create_future(self) -> asyncio.Future[Any]:
        """See `asyncio.AbstractEventLoop`."""
        return NumberedFuture(self)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """See `asyncio.AbstractEventLoop`. The clock stands still until the call returns."""
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self._outside += 1
        future.add_done_callback(self._returned)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002  # see below
        """See `asyncio.AbstractEventLoop`. Waits as long as it takes."""
        self._outside += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._outside -= 1

    def next_number(self) -> int:
        """A number for the next task or future."""
        self._numbers += 1
        return self._numbers

    def has_made(self, task: asyncio.Task[Any]) -> None:
        """Called with every new task."""

    def idle(self, timeout: float | None, poll: Poll) -> list[tuple[selectors.SelectorKey, int]]:
        """Nothing can go on for `timeout` seconds (0: something can; None: there is no timer). Returns what is ready.

        `poll` asks the operating system, waiting as long as it is told to.
        """
        if timeout is not None and timeout <= 0:
            return poll(0)
        found = poll(None if self._outside else 0)
        if found or self._outside:
            return found
        if timeout is None:
            if self.sockets() == 0:
                raise Deadlock("nothing is left that could wake the loop: it would wait for ever")
            return poll(None)
        self._virtual_now += timeout
        return found

    def sockets(self) -> int:
        """How many files and sockets are watched, but for the loop's own."""
        return len(self._selector.get_map()) - 1

    def _returned(self, _: asyncio.Future[Any]) -> None:
        self._outside -= 1

    _selector: _Selector


class Deadlock(RuntimeError):
    """Everything in a loop with virtual time waits for something else in it."""


Poll = Callable[[float | None], list[tuple[selectors.SelectorKey, int]]]


class _Selector(selectors.DefaultSelector):
    """Asks the loop before it waits."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop
        self._poll = super().select

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return self._loop.idle(timeout, self._poll)


class NumberedFuture(asyncio.Future[Any]):
    """A future whose place in a set does not depend on its address."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._number = loop.next_number()
        super().__init__(loop=loop)

    __eq__ = object.__eq__

    def __hash__(self) -> int:
        return self._number


class NumberedTask(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address."""

    def __init__(self, loop: VirtualTimeLoop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> None:  # noqa: ANN401  # whatever this version of Python passes
        self._number = loop.next_number()
        super().__init__(coroutine, loop=loop, **options)

    __eq__ = object.__eq__

    def __hash__(self) -> int:
        return self._number


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> NumberedTask:  # noqa: ANN401  # as asyncio types it
    if not isinstance(loop, VirtualTimeLoop):
        raise TypeError("this makes tasks of a VirtualTimeLoop")
    task = NumberedTask(loop, coroutine, **options)
    loop.has_made(task)
    return task
