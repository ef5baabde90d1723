"""Looking at runs, and waiting for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar, overload

from durably.app.core import Core
from durably.errors import RunCancelled, RunFailed, RunNotFound, UsageError
from durably.jobs import Target
from durably.model import (
    Event,
    Labels,
    LogLine,
    Run,
    RunFilter,
    RunStatus,
    RunTypes,
    StepRecord,
    StoredRun,
)
from durably.rules.naming import check_key, check_labels
from durably.runtime.following import EventStream, follow_feed, follow_run, wait_for_end
from durably.runtime.reading import (
    MAX_PAGE,
    PLAIN_TYPES,
    check_count,
    check_cursor,
    check_page,
    check_run_id,
    check_statuses,
    check_timeout,
    find_run_id,
    names_of,
    to_run,
    types_in,
    types_of,
)
from durably.store import events as store_events
from durably.store import overview
from durably.store import runs as store_runs
from durably.store import steps as store_steps
from durably.store.database import Database

OutputT = TypeVar("OutputT")
ItemT = TypeVar("ItemT")


class Looks(Core):
    """The part of `Durably` that reads."""

    @overload
    async def wait(self, run: Run[OutputT], *, timeout: float | None = None) -> Run[OutputT]: ...
    @overload
    async def wait(self, run: str, *, timeout: float | None = None) -> Run[object]: ...
    async def wait(self, run: Run[Any] | str, *, timeout: float | None = None) -> Run[Any]:
        """Return the run once it is completed, failed or cancelled, in whatever process that happens.

        Raises RunNotFound, also when it is deleted meanwhile, and TimeoutError after `timeout` seconds; UsageError for
        a run that was triggered with `connection=` in a transaction which is not committed.
        """
        return to_run(await self._ended(run, timeout), _types_of(run))

    @overload
    async def result(self, run: Run[OutputT], *, timeout: float | None = None) -> OutputT: ...
    @overload
    async def result(self, run: str, *, timeout: float | None = None) -> object: ...
    async def result(self, run: Run[Any] | str, *, timeout: float | None = None) -> object:
        """Return what the run returned, once it completed.

        Raises RunFailed with the error that ended it, RunCancelled, RunNotFound, TimeoutError after `timeout` seconds,
        SerializationError when the stored value does not fit the type that the job has today, and UsageError for a run
        that was triggered with `connection=` in a transaction which is not committed.
        """
        ended = await self._ended(run, timeout)
        if ended.status is RunStatus.FAILED:
            raise RunFailed(ended.id, ended.error)
        if ended.status is RunStatus.CANCELLED:
            raise RunCancelled(ended.id)
        output: object = _types_of(run).decode_output(ended.id, ended.output_json or "null")
        return output

    @overload
    async def get_run(self, run: Run[OutputT]) -> Run[OutputT] | None: ...
    @overload
    async def get_run(self, run: str, job: Target[Any, OutputT]) -> Run[OutputT] | None: ...
    @overload
    async def get_run(self, run: str) -> Run[object] | None: ...
    async def get_run(self, run: Run[Any] | str, job: Target[Any, Any] | None = None) -> Run[Any] | None:
        """Return a run as it is now; None when there is no such run.

        Its input and output have the types of `job`, else they are plain JSON. Raises ValidationError when the run
        is of another job.
        """
        run_id = find_run_id(run)
        stored = None if run_id is None else await (await self._database()).read(store_runs.get_run(run_id))
        if stored is None:
            return None
        return to_run(stored, _types_of(run) if job is None else types_in(job, stored))

    @overload
    async def get_runs(
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
    async def get_runs(
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
    async def get_runs(
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
        """Return a page of the runs that meet all conditions, newest first; at most 1000.

        Several jobs or statuses mean any of them. The next page is the one `before` the last run of this one: pages
        neither shift nor repeat while runs come and go. `offset` skips that many runs, which takes longer the more
        they are. Raises ValidationError.
        """
        which = RunFilter(
            jobs=names_of(job),
            statuses=check_statuses(status),
            labels={} if labels is None else check_labels(labels),
            concurrency_key=None if concurrency_key is None else check_key(concurrency_key, field="concurrency_key"),
            before=None if before is None else check_run_id(before, field="before"),
            limit=check_page(limit),
        )
        database = await self._database()
        if check_count(offset, field="offset"):
            last = await database.read(overview.skip_runs(which, offset=min(offset, 1 << 40)))
            if last is None:
                return []
            which = replace(which, before=last)
        found = await database.read(store_runs.list_runs(which))
        types: RunTypes[Any] = types_of(job) if isinstance(job, Target) else PLAIN_TYPES
        return [to_run(stored, types) for stored in found]

    async def get_steps(self, run: Run[Any] | str) -> list[StepRecord]:
        """Return the finished steps of a run, in the order in which they started. Raises RunNotFound."""
        run_id = check_run_id(run)
        database = await self._database()
        return await _existing(database, run_id, await database.read(store_steps.load_steps(run_id)))

    async def get_logs(self, run: Run[Any] | str, *, after: int = 0, limit: int = MAX_PAGE) -> list[LogLine]:
        """Return a page of a run's log, oldest first; the next page is the one `after` the last `seq` of this one.

        Raises RunNotFound.
        """
        run_id = check_run_id(run)
        database = await self._database()
        start = check_cursor(after, of_run=True)
        operation = store_events.load_logs(run_id, after_seq=start, limit=check_page(limit))
        return await _existing(database, run_id, await database.read(operation))

    def events(
        self,
        *,
        run: Run[Any] | str | None = None,
        job: Target[Any, Any] | str | Iterable[Target[Any, Any] | str] | None = None,
        labels: Labels | None = None,
        after: int | None = None,
    ) -> EventStream:
        """Return the events of one run, or of all runs of some jobs with some labels, from every process, to iterate.

        The events of a `run` come from its first one on, or from `after` a `seq`, and end when the run has ended.
        The others come from now on, or from `after` the `cursor` of an event, and never end; a reader that goes on
        from a cursor may meet some again and misses none (`retain_events` permitting). Raises RunNotFound.
        """
        checked = None if after is None else check_cursor(after, of_run=run is not None)
        if run is not None:
            if job is not None or labels is not None:
                raise UsageError("events() takes either a run, or job and labels")
            return EventStream(self._events_of(check_run_id(run), checked or 0))
        return EventStream(self._feed(names_of(job), {} if labels is None else check_labels(labels), checked))

    async def _events_of(self, run_id: str, after: int) -> AsyncGenerator[Event | None, None]:
        async with (
            self._sessions.use(scoped=False) as session,
            aclosing(follow_run(session.database, session.tail, run_id, after=after)) as events,
        ):
            async for event in events:
                yield event

    async def _feed(
        self, jobs: tuple[str, ...], labels: Labels, after: int | None
    ) -> AsyncGenerator[Event | None, None]:
        def wants(event: Event) -> bool:
            return (not jobs or event.job in jobs) and labels.items() <= event.labels.items()

        async with (
            self._sessions.use(scoped=False) as session,
            aclosing(follow_feed(session.database, session.tail, wants, after=after)) as events,
        ):
            async for event in events:
                yield event

    async def _ended(self, run: Run[Any] | str, timeout: float | None) -> StoredRun:
        run_id, seconds = check_run_id(run), check_timeout(timeout)
        try:
            async with asyncio.timeout(seconds), self._sessions.use(scoped=False) as session:
                if isinstance(run, Run) and not run.is_committed:
                    await _check_committed(session.database, run, run_id)
                return await wait_for_end(session.database, session.tail, run_id)
        except TimeoutError as error:
            raise TimeoutError(f"run {run_id} has not ended within {timeout} s") from error


def _types_of(run: Run[Any] | str) -> RunTypes[Any]:
    return run.types if isinstance(run, Run) else PLAIN_TYPES


async def _check_committed(database: Database, run: Run[Any], run_id: str) -> None:
    """Raise UsageError for a run whose transaction has not ended, or was rolled back: the wait could not end."""
    stored = await database.read(store_runs.get_run(run_id))
    if stored is None or (run.is_terminal and not stored.status.is_terminal):
        raise UsageError(
            f"run {run_id} is not committed: commit the transaction that it was given with connection= before you wait "
            "(or was that rolled back?)"
        )


async def _existing(database: Database, run_id: str, found: list[ItemT]) -> list[ItemT]:
    """Tell a run without such things from one that does not exist."""
    if not found and await database.read(store_runs.get_run(run_id)) is None:
        raise RunNotFound(run_id)
    return found
