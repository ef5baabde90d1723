"""`SyncDurably`: the same facade for blocking code: scripts, Flask, Django, notebooks.

It decides nothing and stores nothing itself: each method calls that of a `Durably` which lives in an event loop in a
thread of its own; what is done inside the caller's transaction is done in the caller's thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack, overload

from durably.app import Durably
from durably.environment import Environment
from durably.jobs import Job, Target
from durably.model import EventType, Labels, LogLine, Run, RunStatus, StepRecord
from durably.runtime.bulk import TriggerItem
from durably.runtime.listeners import Listener
from durably.runtime.trigger import TriggerKeywords
from durably.sync.portal import Portal
from durably.sync.worker import SyncEventStream, SyncWorker, awaited

__all__ = ["SyncDurably", "SyncEventStream", "SyncWorker"]

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")


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
    environment: Environment | None


class _Inside(Durably):
    """A Durably whose talks over connections of users can be held by blocking code."""

    def trigger_inside(
        self, connection: object, job: Target[Any, Any] | str, input: object, options: TriggerKeywords
    ) -> Run[Any]:
        """Trigger over a connection that blocks."""
        return self._guest.run(connection, self._talk_of_trigger(job, input, options))

    def trigger_many_inside(
        self, connection: object, job: Target[Any, Any] | str, items: Iterable[object]
    ) -> list[Run[Any]]:
        """Trigger many over a connection that blocks."""
        return self._guest.run(connection, self._talk_of_trigger_many(job, items))

    def retrigger_inside(
        self, connection: object, run: Run[Any] | str, job: Target[Any, Any] | None, from_step: str | None
    ) -> Run[Any]:
        """Retrigger over a connection that blocks."""
        return self._guest.run(connection, self._talk_of_retrigger(run, job, from_step))

    def cancel_inside(self, connection: object, run: Run[Any] | str) -> Run[Any]:
        """Cancel over a connection that blocks."""
        return self._guest.run(connection, self._talk_of_cancel(run))


class SyncDurably:
    """Durable jobs on one database, for blocking code, from any number of threads. Its methods are those of `Durably`.

    Making one does no I/O and starts no thread: it is safe at import and before a fork. The thread is started and the
    database opened at the first use, in each process anew. `close()`, the end of a `with` block, or the end of the
    interpreter stop the workers that still run and disconnect; the next use connects again. It works where an event
    loop is running, as in a notebook, and blocks it meanwhile.
    """

    def __init__(self, url: str, **settings: Unpack[DurablyKeywords]) -> None:
        """Check all settings; they are those of `Durably`. Raises ValidationError naming the wrong one."""
        self._durably = _Inside(url, **settings)
        self._portal = Portal(self.close)
        self._running: set[SyncWorker] = set()
        self._depth = 0

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
        """The `Durably` behind it, for what takes one, such as `durably worker app:durably.asynchronous`.

        While this object is open it belongs to this object's event loop, and its use in another one is a UsageError.
        """
        return self._durably

    def open(self) -> None:
        """See `Durably.open`."""
        self._portal.call(self._durably.open)

    def close(self) -> None:
        """Stop the workers that still run, then close like `Durably.close`. In a forked child only what is its own."""
        if not self._portal.is_running:
            return
        try:
            for worker in tuple(self._running):
                worker.stop()
        finally:
            try:
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
        max_concurrent_runs: int | None = None,
        grace: timedelta | None = None,
        deps: Callable[[], AbstractContextManager[object] | AbstractAsyncContextManager[object]] | None = None,
    ) -> SyncWorker:
        """See `Durably.worker`. It works in the background: `with` it, or `start` and `stop` it."""
        several = tuple(jobs)
        entered = None if deps is None else awaited(deps)
        return SyncWorker(
            lambda: self._durably.worker(several, max_concurrent_runs=max_concurrent_runs, grace=grace, deps=entered),
            self._portal,
            self._running,
        )

    # --- making runs ----------------------------------------------------------------------------------------

    @overload
    def trigger(
        self,
        job: Target[None, OutputT],
        input: None = None,
        *,
        connection: object = None,
        **options: Unpack[TriggerKeywords],
    ) -> Run[OutputT]: ...
    @overload
    def trigger(
        self,
        job: Target[InputT, OutputT],
        input: InputT,
        *,
        connection: object = None,
        **options: Unpack[TriggerKeywords],
    ) -> Run[OutputT]: ...
    @overload
    def trigger(
        self, job: str, input: object = None, *, connection: object = None, **options: Unpack[TriggerKeywords]
    ) -> Run[object]: ...
    def trigger(
        self,
        job: Target[Any, Any] | str,
        input: object = None,
        *,
        connection: object = None,
        **options: Unpack[TriggerKeywords],
    ) -> Run[Any]:
        """See `Durably.trigger`."""
        if connection is not None:
            return self._durably.trigger_inside(connection, job, input, options)
        return self._portal.call(lambda: self._durably.trigger(job, input, **options))

    @overload
    def trigger_many(
        self, job: Target[InputT, OutputT], items: Iterable[TriggerItem[InputT]], *, connection: object = None
    ) -> list[Run[OutputT]]: ...
    @overload
    def trigger_many(
        self, job: Target[InputT, OutputT], items: Iterable[InputT], *, connection: object = None
    ) -> list[Run[OutputT]]: ...
    @overload
    def trigger_many(self, job: str, items: Iterable[object], *, connection: object = None) -> list[Run[object]]: ...
    def trigger_many(
        self, job: Target[Any, Any] | str, items: Iterable[object], *, connection: object = None
    ) -> list[Run[Any]]:
        """See `Durably.trigger_many`."""
        several = list(items)
        if connection is not None:
            return self._durably.trigger_many_inside(connection, job, several)
        many: Callable[..., Awaitable[list[Run[Any]]]] = self._durably.trigger_many
        return self._portal.call(lambda: many(job, several))

    @overload
    def trigger_and_wait(
        self,
        job: Target[None, OutputT],
        input: None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[TriggerKeywords],
    ) -> OutputT: ...
    @overload
    def trigger_and_wait(
        self,
        job: Target[InputT, OutputT],
        input: InputT,
        *,
        timeout: float | None = None,
        **options: Unpack[TriggerKeywords],
    ) -> OutputT: ...
    @overload
    def trigger_and_wait(
        self, job: str, input: object = None, *, timeout: float | None = None, **options: Unpack[TriggerKeywords]
    ) -> object: ...
    def trigger_and_wait(
        self,
        job: Target[Any, Any] | str,
        input: object = None,
        *,
        timeout: float | None = None,
        **options: Unpack[TriggerKeywords],
    ) -> object:
        """See `Durably.trigger_and_wait`."""
        return self._portal.call(lambda: self._durably.trigger_and_wait(job, input, timeout=timeout, **options))

    @overload
    def retrigger(
        self, run: Run[OutputT], *, from_step: str | None = None, connection: object = None
    ) -> Run[OutputT]: ...
    @overload
    def retrigger(
        self, run: str, *, job: Target[Any, OutputT], from_step: str | None = None, connection: object = None
    ) -> Run[OutputT]: ...
    @overload
    def retrigger(self, run: str, *, from_step: str | None = None, connection: object = None) -> Run[object]: ...
    def retrigger(
        self,
        run: Run[Any] | str,
        *,
        job: Target[Any, Any] | None = None,
        from_step: str | None = None,
        connection: object = None,
    ) -> Run[Any]:
        """See `Durably.retrigger`."""
        if connection is not None:
            return self._durably.retrigger_inside(connection, run, job, from_step)
        again: Any = self._durably.retrigger
        stored: Run[Any] = self._portal.call(lambda: again(run, job=job, from_step=from_step))
        return stored

    # --- looking --------------------------------------------------------------------------------------------

    @overload
    def wait(self, run: Run[OutputT], *, timeout: float | None = None) -> Run[OutputT]: ...
    @overload
    def wait(self, run: str, *, timeout: float | None = None) -> Run[object]: ...
    def wait(self, run: Run[Any] | str, *, timeout: float | None = None) -> Run[Any]:
        """See `Durably.wait`."""
        return self._portal.call(lambda: self._durably.wait(run, timeout=timeout))

    @overload
    def result(self, run: Run[OutputT], *, timeout: float | None = None) -> OutputT: ...
    @overload
    def result(self, run: str, *, timeout: float | None = None) -> object: ...
    def result(self, run: Run[Any] | str, *, timeout: float | None = None) -> object:
        """See `Durably.result`."""
        return self._portal.call(lambda: self._durably.result(run, timeout=timeout))

    @overload
    def get_run(self, run: Run[OutputT]) -> Run[OutputT] | None: ...
    @overload
    def get_run(self, run: str, job: Target[Any, OutputT]) -> Run[OutputT] | None: ...
    @overload
    def get_run(self, run: str) -> Run[object] | None: ...
    def get_run(self, run: Run[Any] | str, job: Target[Any, Any] | None = None) -> Run[Any] | None:
        """See `Durably.get_run`."""
        get: Any = self._durably.get_run
        found: Run[Any] | None = self._portal.call(lambda: get(run, job))
        return found

    @overload
    def get_runs(
        self,
        job: Target[Any, OutputT],
        *,
        status: RunStatus | str | Iterable[str] | None = None,
        labels: Labels | None = None,
        concurrency_key: str | None = None,
        before: Run[Any] | str | None = None,
        limit: int = 100,
    ) -> list[Run[OutputT]]: ...
    @overload
    def get_runs(
        self,
        job: str | Iterable[Target[Any, Any] | str] | None = None,
        *,
        status: RunStatus | str | Iterable[str] | None = None,
        labels: Labels | None = None,
        concurrency_key: str | None = None,
        before: Run[Any] | str | None = None,
        limit: int = 100,
    ) -> list[Run[object]]: ...
    def get_runs(
        self,
        job: Target[Any, Any] | str | Iterable[Target[Any, Any] | str] | None = None,
        *,
        status: RunStatus | str | Iterable[str] | None = None,
        labels: Labels | None = None,
        concurrency_key: str | None = None,
        before: Run[Any] | str | None = None,
        limit: int = 100,
    ) -> list[Run[Any]]:
        """See `Durably.get_runs`."""
        get: Callable[..., Awaitable[list[Run[Any]]]] = self._durably.get_runs
        return self._portal.call(
            lambda: get(job, status=status, labels=labels, concurrency_key=concurrency_key, before=before, limit=limit)
        )

    def get_steps(self, run: Run[Any] | str) -> list[StepRecord]:
        """See `Durably.get_steps`."""
        return self._portal.call(lambda: self._durably.get_steps(run))

    def get_logs(self, run: Run[Any] | str, *, after: int = 0, limit: int = 1000) -> list[LogLine]:
        """See `Durably.get_logs`."""
        return self._portal.call(lambda: self._durably.get_logs(run, after=after, limit=limit))

    def events(
        self,
        *,
        run: Run[Any] | str | None = None,
        job: Target[Any, Any] | str | Iterable[Target[Any, Any] | str] | None = None,
        labels: Labels | None = None,
        after: int | None = None,
    ) -> SyncEventStream:
        """See `Durably.events`. The stream blocks until the next event comes; KeyboardInterrupt ends it."""
        return SyncEventStream(self._durably.events(run=run, job=job, labels=labels, after=after), self._portal)

    # --- acting ---------------------------------------------------------------------------------------------

    @overload
    def cancel(self, run: Run[OutputT], *, connection: object = None) -> Run[OutputT]: ...
    @overload
    def cancel(self, run: str, *, connection: object = None) -> Run[object]: ...
    def cancel(self, run: Run[Any] | str, *, connection: object = None) -> Run[Any]:
        """See `Durably.cancel`."""
        if connection is not None:
            return self._durably.cancel_inside(connection, run)
        return self._portal.call(lambda: self._durably.cancel(run))

    @overload
    def resume(self, run: Run[OutputT]) -> Run[OutputT]: ...
    @overload
    def resume(self, run: str) -> Run[object]: ...
    def resume(self, run: Run[Any] | str) -> Run[Any]:
        """See `Durably.resume`."""
        return self._portal.call(lambda: self._durably.resume(run))

    def delete_run(self, run: Run[Any] | str) -> None:
        """See `Durably.delete_run`."""
        self._portal.call(lambda: self._durably.delete_run(run))

    def purge_runs(
        self, *, older_than: timedelta, statuses: str | Iterable[str] = ("cancelled", "completed", "failed")
    ) -> int:
        """See `Durably.purge_runs`."""
        return self._portal.call(lambda: self._durably.purge_runs(older_than=older_than, statuses=statuses))

    def set_limit(self, key: str, limit: int) -> None:
        """See `Durably.set_limit`."""
        self._portal.call(lambda: self._durably.set_limit(key, limit))
