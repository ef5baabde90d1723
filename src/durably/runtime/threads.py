"""Blocking calls in threads. A call that began is waited for, come what may: a thread cannot be interrupted.

The pool is made with the first call: a process without threads (a browser) meets it only when it needs one.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from durably.environment import Environment

if TYPE_CHECKING:
    from concurrent.futures import Executor  # noqa: TID251 - a name for the type checker, nothing is loaded

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Returned(Generic[T_co]):
    """User code came to its end."""

    value: T_co


@dataclass(frozen=True, slots=True)
class Raised:
    """User code raised, whatever it was: also SystemExit, which would stop the loop if it got there."""

    error: BaseException


Result: TypeAlias = Returned[T_co] | Raised


class Threads:
    """A pool of threads for user code."""

    def __init__(self, environment: Environment, *, name: str, count: int) -> None:
        self._environment = environment
        self._name = name
        self._count = count
        self._pool: Executor | None = None

    async def call(self, fn: Callable[[], T]) -> tuple[Result[T], bool]:
        """What became of `fn()` in a thread, and whether the waiting task was cancelled meanwhile.

        Cancelled before the call began, it raises CancelledError; after that the call is waited for.
        """
        if self._pool is None:
            self._pool = self._environment.executor(self._name, self._count)
        call = self._pool.submit(contextvars.copy_context().run, _capture, fn)
        done = asyncio.wrap_future(call)
        was_cancelled = False
        while not done.done():
            try:
                await asyncio.wait({done})
            except asyncio.CancelledError:
                if call.cancel():
                    raise
                was_cancelled = True
        return done.result(), was_cancelled

    def close(self) -> None:
        """Let go of the threads; those that still run end with their call."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None


def _capture(fn: Callable[[], T]) -> Result[T]:
    """Keep exceptions away from the future: it cannot carry a StopIteration, its waiter would hang."""
    try:
        return Returned(fn())
    except BaseException as error:  # noqa: BLE001 - the border around the user's function
        return Raised(error)
