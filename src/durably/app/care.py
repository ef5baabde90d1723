"""Looking after a database: migrations, diagnosis, limits, how much a purge would take, and events without waiting."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import Any

from durably.app.core import Core
from durably.errors import SchemaError, UsageError
from durably.jobs import Target
from durably.model import TERMINAL, Event, Finding, KeyLimit, Labels, Run, TableSize
from durably.rules.diagnosis import diagnose
from durably.rules.naming import check_delay, check_key, check_labels
from durably.runtime.acting import check_ended
from durably.runtime.diagnosis import read_condition
from durably.runtime.history import newest_events, next_events, run_events
from durably.runtime.reading import check_cursor, check_page, check_run_id, check_statuses, names_of
from durably.store import care
from durably.store.database import Database
from durably.store.migrate import Mode

_ENDED = tuple(sorted(TERMINAL))


class Care(Core):
    """The part of `Durably` for those who operate it."""

    async def migrate(self) -> tuple[str, ...]:
        """Bring the tables up to date and return the names of the migrations that were applied: none, the second time.

        Safe to repeat, and beside other processes that do the same. Raises SchemaError when the database is too new
        for this version of durably, DatabaseUnavailable.
        """
        before = await self._schema_version()
        async with self._opened("auto") as database:
            applied = await database.read(care.read_schema())
        return tuple(f"{each.version:04} {each.name}" for each in applied if each.version > before)

    async def migration_sql(self) -> str:
        """Return the SQL that `migrate` would execute, for people who run it themselves; "" when nothing is missing.

        Nothing is changed. Raises like `migrate`.
        """
        return self._source.script(after=await self._schema_version())

    async def _schema_version(self) -> int:
        try:
            async with self._opened("check") as database:
                return max((each.version for each in await database.read(care.read_schema())), default=0)
        except SchemaError as error:
            if error.version is None or error.is_too_new:
                raise
            return error.version

    @asynccontextmanager
    async def _opened(self, mode: Mode) -> AsyncGenerator[Database, None]:
        """Lend a database of its own, beside the one that may be open."""
        database = self._source.make(mode)
        try:
            await database.open()
            yield database
        finally:
            await database.close()

    async def diagnose(self, *, jobs: Iterable[Target[Any, Any] | str] | None = None) -> list[Finding]:
        """Look for what is wrong with the database and what works on it; each finding comes with its remedy.

        Every check says something, so an `ok` is a finding too. `jobs` are those that there are workers for: then
        runs of other jobs are reported as ones that nobody serves; without it only those that have waited for a
        minute. Writes nothing. Raises SchemaError when there are no tables yet, DatabaseUnavailable.
        """
        served = None if jobs is None else names_of(jobs)
        return diagnose(await read_condition(await self._database(), self._environment, served=served))

    async def table_sizes(self) -> list[TableSize]:
        """Return how large durably's tables are; on SQLite the file counts as one, in pages."""
        return await (await self._database()).read(care.read_tables())

    async def get_limits(self, *, after: str = "", limit: int = 100) -> list[KeyLimit]:
        """Return a page of the concurrency keys in use, in order; the next one is the one `after` the last key.

        A key that nobody uses and whose limit is the default is forgotten after a while.
        """
        start = check_key(after, field="after") if after else ""
        return await (await self._database()).read(care.list_limits(after=start, limit=check_page(limit)))

    async def count_purgeable(self, *, older_than: timedelta, statuses: str | Iterable[str] = _ENDED) -> int:
        """Return how many runs `purge_runs` would delete now."""
        checked = check_ended(check_statuses(statuses, field="statuses"))
        age = check_delay(older_than, field="older_than")
        return await (await self._database()).read(care.count_purgeable(older_than=age, statuses=checked), timeout=60)

    async def get_events(
        self,
        *,
        run: Run[Any] | str | None = None,
        job: Target[Any, Any] | str | Iterable[Target[Any, Any] | str] | None = None,
        labels: Labels | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> list[Event]:
        """Return a page of stored events, oldest first, without waiting for more: see `events` for that.

        The last ones, or the first ones `after` a `cursor` (of one run: a `seq`): `after=0` begins with the first, and
        the next page is the one after the last of this. With `job` or `labels` and without `after` the newest 10,000
        are looked through. Events of a deleted run stay for a while. Raises RunNotFound when nothing is known of `run`,
        ValidationError.
        """
        size = check_page(limit)
        start = None if after is None else check_cursor(after, of_run=run is not None)
        database = await self._database()
        if run is not None:
            if job is not None or labels is not None:
                raise UsageError("get_events() takes either a run, or job and labels")
            return await run_events(database, check_run_id(run), after=start, limit=size)
        names = names_of(job)
        wanted: Labels = {} if labels is None else check_labels(labels)

        def wants(event: Event) -> bool:
            return (not names or event.job in names) and wanted.items() <= event.labels.items()

        if start is None:
            return await newest_events(database, wants, limit=size)
        async with aclosing(next_events(database, wants, after=start)) as events:
            found: list[Event] = []
            async for event in events:
                found.append(event)
                if len(found) == size:
                    break
            return found
