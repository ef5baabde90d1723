"""`Portal`: lets blocking code run coroutines, in one event loop: of a thread of its own, unless they belong elsewhere.

The thread starts with the first call, and each process has its own: a forked child finds none and starts one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakMethod

from durably.environment import SystemEnvironment, Thread, before_exit, new_lock
from durably.errors import UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future  # noqa: TID251 - a name for the type checker, nothing is loaded

T = TypeVar("T")

STOP_SECONDS = 10.0
"""How long a stop waits for the thread, which has nothing left to do by then."""


@dataclass(slots=True)
class _Home:
    """The loop of one process."""

    lock: Any = field(default_factory=new_lock)
    loop: asyncio.AbstractEventLoop | None = None
    thread: Thread | None = None


class Portal:
    """Runs coroutines for blocking callers, from any thread but that of the loop."""

    def __init__(
        self, on_exit: Callable[[], object], elsewhere: Callable[[], asyncio.AbstractEventLoop | None]
    ) -> None:
        """`on_exit` is called when the interpreter ends while the thread runs.

        `elsewhere` says in which other loop calls have to run at the moment, if there is one.
        """
        self._on_exit = on_exit
        self._elsewhere = elsewhere
        self._homes: dict[int, _Home] = {}
        self._is_registered = False

    @property
    def is_running(self) -> bool:
        """Whether there is a loop in this process."""
        return self.own_loop is not None or self._elsewhere() is not None

    @property
    def own_loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop of the thread, where there is one in this process."""
        home = self._homes.get(os.getpid())
        return None if home is None else home.loop

    def call(self, fn: Callable[[], Awaitable[T]]) -> T:
        """Await what `fn` returns, and return or raise what comes of it.

        KeyboardInterrupt, or whatever else a signal handler raises here, cancels it and is raised when it has ended; a
        second one is raised at once.
        """
        loop = self._running_loop()
        call = _Call(fn, copy_context())
        answer: Future[T] = asyncio.run_coroutine_threadsafe(call.perform(), loop)
        try:
            return answer.result()
        except BaseException as error:
            if answer.cancelled():
                raise UsageError("this SyncDurably was closed while it was used") from error
            if not answer.done():
                loop.call_soon_threadsafe(call.cancel)
                with suppress(Exception):
                    answer.exception()
            raise

    def stop(self) -> None:
        """End the thread. The next call starts another one."""
        home = self._homes.get(os.getpid())
        if home is None:
            return
        with home.lock:
            loop, thread, home.loop, home.thread = home.loop, home.thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(STOP_SECONDS)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        loop = self._elsewhere() or self._loop_at_home()
        with suppress(RuntimeError):
            if asyncio.get_running_loop() is loop:
                raise UsageError(
                    "this SyncDurably was called from its own event loop, in an async job or a listener, where it "
                    "would wait for itself: use step.trigger, or a job that is a plain def"
                )
        return loop

    def _loop_at_home(self) -> asyncio.AbstractEventLoop:
        home = self._homes.get(os.getpid()) or self._homes.setdefault(os.getpid(), _Home())
        with home.lock:
            if home.loop is None:
                home.loop, home.thread = self._started()
            return home.loop

    def _started(self) -> tuple[asyncio.AbstractEventLoop, Thread]:
        if not self._is_registered:
            self._is_registered = True
            before_exit(_IfAlive(self._exit))
        loop = asyncio.new_event_loop()
        return loop, SystemEnvironment().start_thread("durably-sync", lambda: self._serve(loop))

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.get_loop().run_forever()

    def _exit(self) -> None:
        if self.own_loop is not None:
            with suppress(Exception):
                self._on_exit()


class _Call(Generic[T]):
    """One coroutine, in a task that can be cancelled without losing sight of its end."""

    def __init__(self, fn: Callable[[], Awaitable[T]], context: Context) -> None:
        self._fn = fn
        self._context = context
        self._task: asyncio.Task[T] | None = None
        self._is_cancelled = False

    async def perform(self) -> T:
        self._task = asyncio.get_running_loop().create_task(self._await(), context=self._context)
        if self._is_cancelled:
            self._task.cancel()
        await asyncio.wait({self._task})
        return self._task.result()

    def cancel(self) -> None:
        self._is_cancelled = True
        if self._task is not None:
            self._task.cancel()

    async def _await(self) -> T:
        return await self._fn()


class _IfAlive:
    """Calls a method of an object, unless that is gone. Its thread keeps a portal alive."""

    def __init__(self, method: Callable[[], object]) -> None:
        self._method = WeakMethod(method)

    def __call__(self) -> None:
        method = self._method()
        if method is not None:
            method()
