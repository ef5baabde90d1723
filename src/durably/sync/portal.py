"""`Portal`: lets blocking code run coroutines, in one event loop: of a thread of its own, unless they belong elsewhere.

The thread starts with the first call, and each process has its own: a forked child finds none and starts one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakMethod

from durably.environment import SystemEnvironment, Thread, before_exit, new_lock, new_reentrant_lock
from durably.errors import UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future  # noqa: TID251 - a name for the type checker, nothing is loaded

T = TypeVar("T")

STOP_SECONDS = 10.0
"""How long a stop waits for the thread, which has nothing left to do by then."""
LOOK_SECONDS = 1.0
"""How often who waits looks whether the loop is still there: one of somebody else may end without a word."""
_CLOSED = "this SyncDurably was closed while it was used"


@dataclass(slots=True)
class _Home:
    """The loop of one process."""

    lock: Any = field(default_factory=new_lock)
    """Held while a call is handed to the loop, so that none comes after the last one that the loop takes."""
    closing: Any = field(default_factory=new_reentrant_lock)
    loop: asyncio.AbstractEventLoop | None = None
    thread: Thread | None = None
    is_stopping: bool = False
    calls: dict[asyncio.Task[Any], _Call[Any]] = field(default_factory=dict["asyncio.Task[Any]", "_Call[Any]"])
    """Those that are under way, by the tasks that end with them."""


class Portal:
    """Runs coroutines for blocking callers, from any thread but that of the loop."""

    def __init__(
        self,
        on_exit: Callable[[], object],
        on_end: Callable[[], Awaitable[object]],
        elsewhere: Callable[[], asyncio.AbstractEventLoop | None],
    ) -> None:
        """`on_exit` is called when the interpreter ends while the thread runs.

        `on_end` is awaited in the loop of the thread before that ends, when no call is under way. `elsewhere` says in
        which other loop calls have to run at the moment, if there is one.
        """
        self._on_exit = on_exit
        self._on_end = on_end
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

    @property
    def closing(self) -> AbstractContextManager[object]:
        """What only one thread of this process does at a time."""
        lock: AbstractContextManager[object] = self._home().closing
        return lock

    def call(self, fn: Callable[[], Awaitable[T]]) -> T:
        """Await what `fn` returns, and return or raise what comes of it.

        KeyboardInterrupt, or whatever else a signal handler raises here, cancels it and is raised when it has ended; a
        second one is raised at once. Raises UsageError when the loop ends before.
        """
        self.check_thread()
        call = _Call(fn, copy_context())
        answer, loop = self._submit(call)
        try:
            return _answered(answer, loop)
        except BaseException as error:
            if answer.cancelled():
                raise UsageError(_CLOSED) from error
            if not answer.done() and not loop.is_closed():
                loop.call_soon_threadsafe(call.cancel)
                with suppress(Exception):
                    answer.exception()
            raise

    def check_thread(self) -> None:
        """Raise UsageError in the loop where calls are executed: it would wait for itself."""
        with suppress(RuntimeError):
            if asyncio.get_running_loop() in {self._elsewhere(), self.own_loop}:
                raise UsageError(
                    "this SyncDurably was called from its own event loop, in an async job or a listener, where it "
                    "would wait for itself: use step.trigger, or a job that is a plain def"
                )

    def stop(self) -> None:
        """End the thread, and the calls that are under way there. The next call starts another one."""
        home = self._homes.get(os.getpid())
        if home is None:
            return
        with home.lock:
            thread = home.thread
            if home.loop is not None and not home.is_stopping:
                home.is_stopping = True
                home.loop.call_soon_threadsafe(home.loop.stop)
        if thread is not None:
            thread.join(STOP_SECONDS)

    def _home(self) -> _Home:
        return self._homes.get(os.getpid()) or self._homes.setdefault(os.getpid(), _Home())

    def _submit(self, call: _Call[T]) -> tuple[Future[T], asyncio.AbstractEventLoop]:
        """Hand a call to the loop that is to execute it: where one is ending, to the next one."""
        home = self._home()
        while True:
            with home.lock:
                loop = self._elsewhere()
                if loop is not None and loop is not home.loop:
                    return _handed(call, loop), loop
                if not home.is_stopping:
                    loop = home.loop or self._started(home)
                    call.calls = home.calls
                    return _handed(call, loop), loop
                ending = home.thread
            if ending is not None:
                ending.join(STOP_SECONDS)
                if ending.is_alive() and ending is home.thread:
                    raise UsageError("this SyncDurably is still being closed by somebody else")

    def _started(self, home: _Home) -> asyncio.AbstractEventLoop:
        if not self._is_registered:
            self._is_registered = True
            before_exit(_IfAlive(self._exit))
        loop = asyncio.new_event_loop()
        try:
            home.thread = SystemEnvironment().start_thread("durably-sync", lambda: self._serve(home, loop))
        except RuntimeError:
            loop.close()
            raise
        home.loop, home.calls = loop, {}
        return loop

    def _serve(self, home: _Home, loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            try:
                runner.get_loop().run_forever()
                runner.run(self._end(home.calls))
            finally:
                with home.lock:  # what is left of the loop waits for nobody who uses this object
                    home.loop, home.thread, home.is_stopping = None, None, False

    async def _end(self, calls: dict[asyncio.Task[Any], _Call[Any]]) -> None:
        """End the calls that came while it was closed, and close what they opened."""
        while calls:
            for call in tuple(calls.values()):
                call.cancel()
            await asyncio.wait(tuple(calls))
        await self._on_end()

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
        self.calls: dict[asyncio.Task[Any], _Call[Any]] = {}
        """Where it is noted while it is under way."""

    async def perform(self) -> T:
        whole = asyncio.current_task()
        if whole is not None:
            self.calls[whole] = self
            whole.add_done_callback(self.calls.pop)
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


def _handed(call: _Call[T], loop: asyncio.AbstractEventLoop) -> Future[T]:
    """Let the loop perform a call. Raises UsageError when it has ended."""
    performing = call.perform()
    try:
        return asyncio.run_coroutine_threadsafe(performing, loop)
    except RuntimeError as error:  # it belongs to somebody else, who has closed it just now
        performing.close()
        raise UsageError(_CLOSED) from error


def _answered(answer: Future[T], loop: asyncio.AbstractEventLoop) -> T:
    """Wait for the answer. Raises UsageError when the loop ends before, and says nothing."""
    while True:
        try:
            return answer.result(LOOK_SECONDS)
        except TimeoutError:
            if answer.done():
                return answer.result()
            if loop.is_closed():
                raise UsageError(_CLOSED) from None


class _IfAlive:
    """Calls a method of an object, unless that is gone. Its thread keeps a portal alive."""

    def __init__(self, method: Callable[[], object]) -> None:
        self._method = WeakMethod(method)

    def __call__(self) -> None:
        method = self._method()
        if method is not None:
            method()
