"""Making runs: one, many, again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar, Unpack, overload

from durably.app.core import Core
from durably.errors import RunNotFound, UsageError, ValidationError
from durably.jobs import Target, build_run
from durably.model import Disposition, Enqueued, EventType, NewRun, Run, RunTypes, StoredRun
from durably.runtime.again import build_again, store_again
from durably.runtime.bulk import TriggerItem, build_runs, store_all
from durably.runtime.inside import store_again_inside, store_inside
from durably.runtime.reading import PLAIN_TYPES, check_run_id, to_run, to_runs, types_in, types_of
from durably.runtime.trigger import TriggerKeywords, check_conflict, options_of
from durably.store import runs as store_runs
from durably.store.guest import Talk
from durably.store.runs import NewlyStored

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")

_EVENTS = {
    Disposition.CREATED: EventType.RUN_TRIGGER,
    Disposition.COALESCED: EventType.RUN_COALESCED,
    Disposition.REPLACED: EventType.RUN_REPLACE,
}


class Triggers(Core):
    """The part of `Durably` that makes runs."""

    @overload
    async def trigger(
        self,
        job: Target[None, OutputT],
        input: None = None,
        *,
        connection: object = None,
        **options: Unpack[TriggerKeywords],
    ) -> Run[OutputT]: ...
    @overload
    async def trigger(
        self,
        job: Target[InputT, OutputT],
        input: InputT,
        *,
        connection: object = None,
        **options: Unpack[TriggerKeywords],
    ) -> Run[OutputT]: ...
    @overload
    async def trigger(
        self, job: str, input: object = None, *, connection: object = None, **options: Unpack[TriggerKeywords]
    ) -> Run[object]: ...
    async def trigger(
        self,
        job: Target[Any, Any] | str,
        input: object = None,
        *,
        connection: object = None,
        **options: Unpack[TriggerKeywords],
    ) -> Run[Any]:
        """Store a run of a job and return it, committed; its `disposition` says what the trigger did.

        A job may be given by name alone, for its code may be elsewhere. Its input is plain JSON then, checked by
        the job's type only where a worker of this Durably has the job. Raises ValidationError, IdempotencyConflict,
        PendingRunExists: nothing is stored then. Safe to repeat with an `idempotency_key`.

        With `connection`, an open one to the same database with a transaction of yours, the run is part of that
        transaction, and there if and only if you commit it: `is_committed` is False on what is returned. It takes
        sqlite3, aiosqlite, asyncpg, psycopg and psycopg2 connections, SQLAlchemy connections and sessions, and Django
        connections. Raises UsageError for others, and where there is no transaction. What the driver raises is passed
        on.
        """
        if connection is not None:
            return await self._guest.run_async(connection, self._talk_of_trigger(job, input, options))
        new = self._new(job, input, options)
        return _triggered(job, new, await self._store(new))

    def _new(self, job: Target[Any, Any] | str, input: object, options: TriggerKeywords) -> NewRun:
        return build_run(
            self._target(job),
            input,
            id=self._environment.new_id(),
            max_bytes=self._settings.max_value_bytes,
            options=options_of(options),
        )

    def _talk_of_trigger(self, job: Target[Any, Any] | str, input: object, options: TriggerKeywords) -> Talk[Run[Any]]:
        new = self._new(job, input, options)
        [enqueued] = yield from store_inside([new])
        return _triggered(job, new, enqueued, is_committed=False)

    @overload
    async def trigger_many(
        self, job: Target[InputT, OutputT], items: Iterable[TriggerItem[InputT]], *, connection: object = None
    ) -> list[Run[OutputT]]: ...
    @overload
    async def trigger_many(
        self, job: Target[InputT, OutputT], items: Iterable[InputT], *, connection: object = None
    ) -> list[Run[OutputT]]: ...
    @overload
    async def trigger_many(
        self, job: str, items: Iterable[object], *, connection: object = None
    ) -> list[Run[object]]: ...
    async def trigger_many(
        self, job: Target[Any, Any] | str, items: Iterable[object], *, connection: object = None
    ) -> list[Run[Any]]:
        """Store a run for each item, an input or a `TriggerItem`, and return them in order.

        All are checked before anything is stored, and are stored together. When one meets a conflict the others are
        stored all the same; then the first conflict is raised, and names its item. `connection`: see `trigger`.
        """
        if connection is not None:
            return await self._guest.run_async(connection, self._talk_of_trigger_many(job, items))
        chunks = self._news(job, items)
        stored = await store_all(await self._database(), chunks)
        if any(map(self._listeners.wants, _EVENTS.values())):
            for enqueued in chain.from_iterable(stored):
                self._announce_trigger(enqueued)
        return _all_triggered(job, chunks, stored)

    def _news(self, job: Target[Any, Any] | str, items: Iterable[object]) -> list[Sequence[NewRun]]:
        kind = type(items).__name__
        if isinstance(items, str | bytes | Mapping):
            raise ValidationError("items", f"must be inputs or TriggerItems, one for each run, not a {kind}")
        several = list(items)
        ids = self._environment.new_ids(len(several))
        return build_runs(self._target(job), several, ids=ids, max_bytes=self._settings.max_value_bytes)

    def _talk_of_trigger_many(self, job: Target[Any, Any] | str, items: Iterable[object]) -> Talk[list[Run[Any]]]:
        news = list(chain.from_iterable(self._news(job, items)))
        stored = yield from store_inside(news, is_many=True)
        return _all_triggered(job, [news], [stored], is_committed=False)

    @overload
    async def retrigger(
        self, run: Run[OutputT], *, from_step: str | None = None, connection: object = None
    ) -> Run[OutputT]: ...
    @overload
    async def retrigger(
        self, run: str, *, job: Target[Any, OutputT], from_step: str | None = None, connection: object = None
    ) -> Run[OutputT]: ...
    @overload
    async def retrigger(self, run: str, *, from_step: str | None = None, connection: object = None) -> Run[object]: ...
    async def retrigger(
        self,
        run: Run[Any] | str,
        *,
        job: Target[Any, Any] | None = None,
        from_step: str | None = None,
        connection: object = None,
    ) -> Run[Any]:
        """Store a new run with the input, labels, concurrency key and priority of an ended one, and return it.

        The input is checked by the type that the job has today, where `job` is given or a worker of this Durably has
        it. `from_step` copies the results of the steps that started before it, so they are not executed again.
        Raises RunNotFound, WrongStatus when the run has not ended, ValidationError. `connection`: see `trigger`.
        """
        if connection is not None:
            return await self._guest.run_async(connection, self._talk_of_retrigger(run, job, from_step))
        source_id = check_run_id(run)
        database = await self._database()
        source = await database.read(store_runs.get_run(source_id))
        if source is None:
            raise RunNotFound(source_id)
        types = _types_again(run, job, source)
        enqueued = await store_again(database, self._again(job, source), source_id=source_id, from_step=from_step)
        self._announce_trigger(enqueued)
        return to_run(enqueued.run, types, enqueued.disposition)

    def _again(self, job: Target[Any, Any] | None, source: StoredRun) -> NewRun:
        target = self._target(source.job) if job is None else job
        return build_again(target, source, id=self._environment.new_id(), max_bytes=self._settings.max_value_bytes)

    def _talk_of_retrigger(
        self, run: Run[Any] | str, job: Target[Any, Any] | None, from_step: str | None
    ) -> Talk[Run[Any]]:
        def build(source: StoredRun) -> NewRun:
            _types_again(run, job, source)
            return self._again(job, source)

        source, enqueued = yield from store_again_inside(check_run_id(run), build, from_step=from_step)
        return to_run(enqueued.run, _types_again(run, job, source), enqueued.disposition, is_committed=False)

    async def _store(self, new: NewRun) -> Enqueued:
        enqueued = await (await self._database()).submit(store_runs.enqueue, new)
        self._announce_trigger(enqueued)
        return enqueued

    async def _store_child(self, new: NewRun) -> StoredRun:
        """Store a run that a job triggers."""
        enqueued = await self._store(new)
        check_conflict(new, enqueued)
        return enqueued.run

    def _announce_trigger(self, enqueued: Enqueued) -> None:
        event = None if enqueued.disposition is None else _EVENTS.get(enqueued.disposition)
        if event is not None and self._listeners.wants(event):
            self._announce(event, enqueued.run)


def refuse_connection(options: Mapping[str, object]) -> None:
    """Raise UsageError for a wait that could not end: a run of the caller's transaction starts after its commit."""
    if "connection" in options:
        raise UsageError("trigger_and_wait takes no connection: trigger, commit, then wait for the result")


def _triggered(job: Target[Any, Any] | str, new: NewRun, enqueued: Enqueued, *, is_committed: bool = True) -> Run[Any]:
    types = PLAIN_TYPES if isinstance(job, str) else types_of(job)
    check_conflict(new, enqueued)
    return to_run(enqueued.run, types, enqueued.disposition, is_committed=is_committed)


def _all_triggered(
    job: Target[Any, Any] | str,
    chunks: Sequence[Sequence[NewRun]],
    stored: Sequence[Sequence[Enqueued]],
    *,
    is_committed: bool = True,
) -> list[Run[Any]]:
    """`stored` is what became of the runs in `chunks`, in chunks too."""
    if not all(isinstance(chunk, NewlyStored) for chunk in stored):
        pairs = zip(chain.from_iterable(chunks), chain.from_iterable(stored), strict=True)
        for index, (new, enqueued) in enumerate(pairs):
            check_conflict(new, enqueued, index=index)
    types = PLAIN_TYPES if isinstance(job, str) else types_of(job)
    return [run for chunk in stored for run in to_runs(chunk, types, is_committed=is_committed)]


def _types_again(run: Run[Any] | str, job: Target[Any, Any] | None, source: StoredRun) -> RunTypes[Any]:
    if job is not None:
        return types_in(job, source)
    return run.types if isinstance(run, Run) else PLAIN_TYPES
