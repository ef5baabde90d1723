"""`Durably`: everything a user does to runs, over one database. It connects the parts and decides nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from durably.app.acts import Acts
from durably.app.care import Care
from durably.app.core import DatabaseSource
from durably.app.environ import from_environment
from durably.app.looks import Looks
from durably.app.overview import Overview
from durably.app.triggers import Triggers, refuse_connection
from durably.environment import Environment, SystemEnvironment
from durably.errors import ValidationError
from durably.jobs import Job, Registry, Target
from durably.model import EventType
from durably.runtime.listeners import Listener
from durably.runtime.reading import check_timeout
from durably.runtime.settings import Settings, check_lease, check_schema
from durably.runtime.trigger import TriggerKeywords
from durably.runtime.worker import Worker
from durably.store.database import open_database
from durably.store.guest import Guest
from durably.store.url import Connect, parse_url

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")


class Durably(Triggers, Looks, Overview, Acts, Care):
    """Durable jobs on one database: triggers runs, looks at them, acts on them, and makes workers.

    Making one does no I/O and starts no thread: it is safe at import and before a fork. The database is opened at
    the first use, in the event loop that is running then, and closed by `close()`, or at the end of the last
    `async with` block of it or of its workers; the next use opens it again. Use in another event loop is a UsageError
    until it is closed or its loop has ended. A forked child opens the database anew.
    """

    def __init__(  # noqa: PLR0913  # a user looks for every setting here, with its type and default
        self,
        url: str,
        *,
        migrate: Literal["auto", "check"] = "auto",
        lease: timedelta | None = None,
        renewal: timedelta | None = None,
        poll_interval: timedelta = timedelta(seconds=1),
        max_concurrent_runs: int = 10,
        max_crashes: int = 3,
        retain_runs: timedelta | None = None,
        retain_events: timedelta | None = timedelta(days=7),
        preserve_steps: bool = True,
        max_value_bytes: int = 1024 * 1024,
        schema: str = "durably",
        listen_url: str | None = None,
        connect: Connect | None = None,
        environment: Environment | None = None,
    ) -> None:
        """Check all settings; they are described at `Settings`. Raises ValidationError naming the wrong one.

        `url` is `sqlite:///path.db`, `sqlite:///:memory:` or `postgresql://user@host/name`; `listen_url` a direct
        connection for LISTEN where that leads to a pooler. `connect` is an async function that is called in place of
        `asyncpg.connect`, with the same arguments, for every new connection: it may fetch today's password. A `lease`
        is 5 s on SQLite and 30 s on Postgres if it is not given. `migrate="check"` refuses a database whose tables are
        not up to date. `preserve_steps=False` drops the stored steps of runs that completed.
        """
        if migrate not in {"auto", "check"}:
            raise ValidationError("migrate", f'{migrate!r} must be "auto" or "check"')
        check_lease(lease)
        check_schema(schema)
        environment = environment or SystemEnvironment()
        make = partial(open_database, url, environment=environment, schema=schema, listen_url=listen_url)
        source = DatabaseSource(partial(make, connect=connect, lease=lease), schema)
        database = source.make(migrate)
        settings = Settings(
            lease=database.default_lease if lease is None else lease,
            renewal=renewal,
            poll_interval=poll_interval,
            max_concurrent_runs=max_concurrent_runs,
            max_crashes=max_crashes,
            max_value_bytes=max_value_bytes,
            preserve_steps=preserve_steps,
            retain_runs=retain_runs,
            retain_events=retain_events,
        )
        guest = Guest(parse_url(url), environment, schema)
        super().__init__(partial(source.make, migrate), environment, settings, source=source, guest=guest)
        self._shown = database.shown
        self._scopes: list[AsyncExitStack] = []

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **settings: Any) -> Self:  # noqa: ANN401  # as __init__ has them
        """Return a Durably with the settings of the environment: DURABLY_URL, DURABLY_LEASE=30s and so on.

        Every setting that is text, a number or a duration has a variable; docs/configuration.md lists them. `settings`
        wins over the environment; `environ` replaces that of the process. Raises ValidationError naming the variable
        that is wrong or missing. A variable that looks misspelt is logged.
        """
        return from_environment(cls, environ, settings)

    def __repr__(self) -> str:
        return f"Durably({self._shown!r})"

    async def __aenter__(self) -> Self:
        scope = AsyncExitStack()
        await scope.enter_async_context(self._connect())
        self._scopes.append(scope)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._scopes.pop().aclose()
        await self._listeners.close()

    async def open(self) -> None:
        """Connect and bring the tables up to date now, rather than at the first use. Safe to repeat.

        Raises SchemaError, DatabaseUnavailable.
        """
        await self._sessions.get()

    async def close(self) -> None:
        """Write what was submitted, end what waits for events, disconnect. The next use connects again."""
        await self._sessions.close()
        await self._listeners.close()

    def on(self, type: EventType | str, fn: Listener) -> Callable[[], None]:  # noqa: A002  # the word of the events
        """Call `fn` with every event of this type that this process makes. Returns the function that ends that.

        What `fn` raises is logged. An async `fn` gets one event after the other, in a task of its own.
        """
        if not callable(fn):
            raise ValidationError("fn", f"must be a function, not a {fn.__class__.__name__}")
        try:
            return self._listeners.on(EventType(type), fn)
        except ValueError as error:
            raise ValidationError("type", f"{error}: must be one of {', '.join(EventType)}") from error

    def worker(
        self,
        jobs: Iterable[Job[Any, Any] | str],
        *,
        only: Iterable[str] = (),
        exclude: Iterable[str] = (),
        max_concurrent_runs: int | None = None,
        grace: timedelta | None = None,
        deps: Callable[[], AbstractAsyncContextManager[object]] | None = None,
    ) -> Worker:
        """Return a worker for these jobs: `Job` objects, or names of modules that are imported when it starts.

        `async with` it, or `start` and `stop` it. `only` keeps the jobs with these names, `exclude` leaves some out;
        both take patterns (`mail-*`), and each must match a job. `deps` makes an async context manager that the worker
        enters; jobs read its value as `step.deps`. The rest is as in the settings of this object if it is not given.
        """
        if deps is not None and not callable(deps):
            raise ValidationError("deps", f"must be a function that returns a context manager, not {deps!r}")
        settings = self._settings
        if max_concurrent_runs is not None:
            settings = replace(settings, max_concurrent_runs=max_concurrent_runs)
        if grace is not None:
            settings = replace(settings, grace=grace)
        registry = Registry(jobs, only=only, exclude=exclude)
        self._add_registry(registry)
        return Worker(
            self._connect,
            registry,
            settings=settings,
            environment=self._environment,
            listeners=self._listeners,
            deps=deps,
        )

    @overload
    async def trigger_and_wait(
        self,
        job: Target[None, OutputT],
        input: None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[TriggerKeywords],
    ) -> OutputT: ...
    @overload
    async def trigger_and_wait(
        self,
        job: Target[InputT, OutputT],
        input: InputT,
        *,
        timeout: float | None = None,
        **options: Unpack[TriggerKeywords],
    ) -> OutputT: ...
    @overload
    async def trigger_and_wait(
        self, job: str, input: object = None, *, timeout: float | None = None, **options: Unpack[TriggerKeywords]
    ) -> object: ...
    async def trigger_and_wait(
        self,
        job: Target[Any, Any] | str,
        input: object = None,
        *,
        timeout: float | None = None,
        **options: Unpack[TriggerKeywords],
    ) -> object:
        """Trigger a run and return what it returns. Raises like `trigger` and `result`; after a timeout it goes on."""
        refuse_connection(options)
        check_timeout(timeout)
        run = await self.trigger(job, input, **options)
        return await self.result(run, timeout=timeout)
