"""`SyncDurably`: the same facade for blocking code: scripts, Flask, Django, notebooks.

It decides nothing and stores nothing itself: each method calls that of a `Durably` which lives in an event loop in a
thread of its own; what is done inside the caller's transaction is done in the caller's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack

from durably.app import Durably
from durably.app.environ import from_environment
from durably.environment import Environment
from durably.jobs import Job, listed
from durably.model import EventType
from durably.runtime.listeners import Listener
from durably.runtime.worker import Worker
from durably.store.url import Connect
from durably.sync.acts import SyncActs
from durably.sync.core import Inside
from durably.sync.looks import SyncLooks
from durably.sync.portal import Portal
from durably.sync.triggers import SyncTriggers
from durably.sync.worker import SyncEventStream, SyncWorker, awaited

__all__ = ["DurablyKeywords", "SyncDurably", "SyncEventStream", "SyncWorker"]


class DurablyKeywords(TypedDict, total=False):
    """The settings of `Durably`, described there."""

    migrate: Literal["auto", "check"]
    lease: timedelta | None
    renewal: timedelta | None
    poll_interval: timedelta
    max_concurrent_runs: int
    max_crashes: int
    retain_runs: timedelta | None
    retain_events: timedelta | None
    preserve_steps: bool
    max_value_bytes: int
    schema: str
    listen_url: str | None
    connect: Connect | None
    environment: Environment | None


class SyncDurably(SyncTriggers, SyncLooks, SyncActs):
    """Durable jobs on one database, for blocking code, from any number of threads. Its methods are those of `Durably`.

    Making one does no I/O and starts no thread: it is safe at import and before a fork. The thread is started and the
    database opened at the first use, in each process anew. `close()`, the end of a `with` block, or the end of the
    interpreter stop the workers that still run and disconnect; the next use connects again. It works where an event
    loop is running, as in a notebook, and blocks it meanwhile.
    """

    def __init__(self, url: str, **settings: Unpack[DurablyKeywords]) -> None:
        """Check all settings; they are those of `Durably`. Raises ValidationError naming the wrong one."""
        durably = Inside(url, **settings)
        super().__init__(durably, Portal(self.close, durably.close_here, durably.loop_in_use))
        self._running: set[SyncWorker] = set()
        self._depth = 0

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **settings: Any) -> Self:  # noqa: ANN401  # as __init__ has them
        """See `Durably.from_env`."""
        return from_environment(cls, environ, settings)

    def __repr__(self) -> str:
        return f"Sync{self._durably!r}"

    def __enter__(self) -> Self:
        self.open()
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self.close()

    @property
    def asynchronous(self) -> Durably:
        """The `Durably` behind it, for what takes one, such as `durably.http.create_app`.

        Whichever of the two is used first opens the database, and until it is closed both work in that event loop:
        the use of this `Durably` in another one is a UsageError.
        """
        return self._durably

    def open(self) -> None:
        """See `Durably.open`."""
        self._portal.call(self._durably.open)

    def close(self) -> None:
        """Stop the workers that still run, then close like `Durably.close`. In a forked child only what is its own.

        Other threads may use it, or close it, meanwhile: their calls end with a UsageError, or open it again.
        """
        if not self._portal.is_running:
            return
        self._portal.check_thread()
        with self._portal.closing:
            try:
                for worker in tuple(self._running):
                    worker.stop()
            finally:
                try:
                    own = self._portal.own_loop
                    if own is not None and self._durably.loop_in_use() in {None, own}:
                        self._portal.call(self._durably.close)
                finally:
                    self._portal.stop()

    def on(self, type: EventType | str, fn: Listener) -> Callable[[], None]:  # noqa: A002  # the word of the events
        """See `Durably.on`. `fn` is called in the thread of this object, so it may not use this object."""
        return self._durably.on(type, fn)

    def worker(
        self,
        jobs: Iterable[Job[Any, Any] | str],
        *,
        only: Iterable[str] = (),
        exclude: Iterable[str] = (),
        max_concurrent_runs: int | None = None,
        grace: timedelta | None = None,
        deps: Callable[[], AbstractContextManager[object] | AbstractAsyncContextManager[object]] | None = None,
    ) -> SyncWorker:
        """See `Durably.worker`. It works in the background: `with` it, or `start` and `stop` it."""
        several, kept, left_out = (
            listed(jobs, field="jobs"),
            listed(only, field="only"),
            listed(exclude, field="exclude"),
        )
        entered = awaited(deps) if callable(deps) else deps

        def make() -> Worker:
            return self._durably.worker(
                several,
                only=kept,
                exclude=left_out,
                max_concurrent_runs=max_concurrent_runs,
                grace=grace,
                deps=entered,
            )

        return SyncWorker(make, self._portal, self._running)
