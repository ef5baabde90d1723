"""Threads of a simulated process: real ones, of which one runs at a time, and only while the world waits for it.

The world hands over to a thread and waits until the thread hands back, for it has ended or has to wait itself: for a
future, or for virtual time. So nothing is ever done by two of them at once, and the order depends on the seed alone.
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

from durably.testing.world import Process

P = ParamSpec("P")
T = TypeVar("T")


class Buried(BaseException):
    """The world of a thread has ended."""


class SimulatedThread:
    """One thread of a process. It goes on only when the world says so, and never after the death of its process."""

    def __init__(self, process: Process, work: Callable[[], object]) -> None:
        import threading  # noqa: PLC0415  # a browser has no threads

        self._process = process
        self._work = work
        self._forth = threading.Lock()
        self._back = threading.Lock()
        self._forth.acquire()
        self._back.acquire()
        self._is_over = False
        self._is_buried = False
        self._thread = threading.Thread(name=f"simulated in {process.name}", target=self._run, daemon=True)
        self._thread.start()
        process.threads.append(self)

    def go_on(self) -> None:
        """Let it run until it ends or waits. Called by the world, outside of all loops."""
        if not self._is_over:
            self._forth.release()
            self._back.acquire()

    def wait(self, future: Future[T]) -> T:
        """Called in the thread: hand back until the future is done."""
        world, process = self._process.world, self._process
        future.add_done_callback(lambda _: world.call_later(0.0, self.go_on, process=process))
        self._hand_back()
        return future.result()

    def sleep(self, seconds: float) -> None:
        """Called in the thread: hand back for so much virtual time."""
        self._process.world.call_later(seconds, self.go_on, process=self._process)
        self._hand_back()

    def bury(self) -> None:
        """End it: whatever it waits for raises."""
        self._is_buried = True
        while not self._is_over:
            self.go_on()
        self._thread.join()

    def _hand_back(self) -> None:
        if not self._is_buried:
            self._back.release()
            self._forth.acquire()
        if self._is_buried:
            raise Buried

    def _run(self) -> None:
        self._forth.acquire()
        _running[get_ident()] = self
        try:
            if not self._is_buried:
                self._work()
        finally:
            self._is_over = True
            del _running[get_ident()]
            self._process.threads.remove(self)
            self._back.release()


_running: dict[int, SimulatedThread] = {}


def current_thread() -> SimulatedThread:
    """The simulated thread that calls. Raises RuntimeError in the world's own, which nothing may block."""
    thread = _running.get(get_ident())
    if thread is None:
        raise RuntimeError("this would block the world: only threads of its processes may wait")
    return thread


class SimulatedThreads(Executor):
    """Calls things in threads, each after a while; also while the loops of the process are busy."""

    def __init__(self, process: Process, delay: Callable[[], float]) -> None:
        self._process = process
        self._delay = delay

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `concurrent.futures.Executor`."""
        future: Future[T] = Future()

        def work() -> None:
            _settle(future, lambda: fn(*args, **kwargs))

        def begin() -> None:
            if future.set_running_or_notify_cancel():
                SimulatedThread(self._process, work).go_on()

        self._process.world.call_later(self._delay(), begin, process=self._process)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  # as its base has it
        """See `concurrent.futures.Executor`."""


class AtOnce(SimulatedThreads):
    """Calls things in the place of the caller."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `concurrent.futures.Executor`."""
        future: Future[T] = Future()
        _settle(future, lambda: fn(*args, **kwargs))
        return future


def _settle(future: Future[T], call: Callable[[], T]) -> None:
    """Do as an executor does."""
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001
        future.set_exception(error)
