"""Looking at runs, and waiting for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, overload

from durably.jobs import Job, Target
from durably.model import Event, Health, Labels, LogLine, Run, RunStatus, Snapshot, Stats, StepRecord
from durably.sync.core import SyncCore
from durably.sync.worker import SyncEventStream

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")


class SyncLooks(SyncCore):
    """The part of `SyncDurably` that reads."""

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
        offset: int = 0,
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
        offset: int = 0,
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
        offset: int = 0,
        limit: int = 100,
    ) -> list[Run[Any]]:
        """See `Durably.get_runs`."""
        get: Any = self._durably.get_runs
        which: dict[str, Any] = {"status": status, "labels": labels, "concurrency_key": concurrency_key}
        found: list[Run[Any]] = self._portal.call(lambda: get(job, **which, before=before, offset=offset, limit=limit))
        return found

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

    def get_events(
        self,
        *,
        run: Run[Any] | str | None = None,
        job: Target[Any, Any] | str | Iterable[Target[Any, Any] | str] | None = None,
        labels: Labels | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> list[Event]:
        """See `Durably.get_events`."""
        return self._portal.call(
            lambda: self._durably.get_events(run=run, job=job, labels=labels, after=after, limit=limit)
        )

    def get_jobs(self) -> tuple[Job[Any, Any], ...]:
        """See `Durably.get_jobs`."""
        return self._durably.get_jobs()

    def get_snapshot(self, run: Run[Any] | str) -> Snapshot[object] | None:
        """See `Durably.get_snapshot`."""
        return self._portal.call(lambda: self._durably.get_snapshot(run))

    def get_stats(
        self,
        job: Target[Any, Any] | str | Iterable[Target[Any, Any] | str] | None = None,
        *,
        labels: Labels | None = None,
    ) -> Stats:
        """See `Durably.get_stats`."""
        return self._portal.call(lambda: self._durably.get_stats(job, labels=labels))

    def get_health(self, *, timeout: float = 5.0) -> Health:
        """See `Durably.get_health`."""
        return self._portal.call(lambda: self._durably.get_health(timeout=timeout))
