"""What all parts of the facade share: settings, the open database, the listeners, and the jobs that are known here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any
from weakref import ref

from durably.environment import Environment
from durably.jobs import Registry, Target
from durably.model import Event, EventType, StoredRun
from durably.runtime.listeners import Listeners
from durably.runtime.session import Sessions
from durably.runtime.settings import Settings
from durably.store.database import Database
from durably.store.guest import Guest
from durably.store.migrate import Mode, script


class DatabaseSource:
    """Makes databases on the same data, which migrate it or only check it, and knows the SQL that the first do."""

    def __init__(self, open_with: Callable[..., Database], schema: str) -> None:
        self._open_with = open_with
        self._schema = schema

    def make(self, mode: Mode) -> Database:
        """A database that is not connected yet."""
        return self._open_with(migrate=mode)

    def script(self, *, after: int) -> str:
        """What `migrate="auto"` does to tables of this schema version (0: none)."""
        dialect = "postgres" if self.make("check").is_parallel else "sqlite"
        return script(dialect, self._schema, after=after)


class Core:
    """The state of a `Durably`."""

    def __init__(
        self,
        make: Callable[[], Database],
        environment: Environment,
        settings: Settings,
        *,
        source: DatabaseSource,
        guest: Guest,
    ) -> None:
        """`source` makes further databases on the same data, for those who look after it."""
        self._guest = guest
        self._environment = environment
        self._settings = settings
        self._sessions = Sessions(make, environment)
        guest.born = self._sessions.born
        self._source = source
        self._listeners = Listeners(self._sessions.signal)
        self._registries: list[ref[Registry]] = []

    @asynccontextmanager
    async def _connect(self) -> AsyncGenerator[Database, None]:
        """Lend the open database to a worker."""
        async with self._sessions.use(scoped=True) as session:
            yield session.database

    async def _database(self) -> Database:
        return (await self._sessions.get()).database

    def _target(self, job: Target[Any, Any] | str) -> Target[Any, Any] | str:
        """Replace the name of a job by the job, where a worker of this Durably has it; the newest worker's counts."""
        if not isinstance(job, str):
            return job
        registries = [registry for made in reversed(self._registries) if (registry := made()) is not None]
        found = (registry.get(job) for registry in registries)
        return next((known for known in found if known is not None), job)

    def _add_registry(self, registry: Registry) -> None:
        """Know the jobs of a worker for as long as it lives."""
        self._registries = [made for made in self._registries if made() is not None]
        self._registries.append(ref(registry))

    def _announce(self, type: EventType, run: StoredRun) -> None:  # noqa: A002  # the word of the events
        """Tell the listeners of this process, and who waits for the run here, what was done to it."""
        self._sessions.signal(run.id)
        at = self._environment.now()
        self._listeners.emit(Event(type=type, run_id=run.id, job=run.job, labels=run.labels, created_at=at))
