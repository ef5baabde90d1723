"""A Durably under test, as users have it, and short words for what the tests want of it.

Everything goes through the public API. What it cannot do comes from `outside`: letting time pass, being a process that
died, looking at all rows of all tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

from durably import Durably, Event, EventType, Job, Run, RunStatus, SystemEnvironment
from durably.model import StoredRun
from durably.store.database import Database
from durably.store.engine import Engine
from tests.support.bench import eventually
from tests.support.faults import FaultyEngine
from tests.support.store import LEASE, Store, StoreKind, fill

OutputT = TypeVar("OutputT")

SOON = timedelta(milliseconds=50)
SECONDS = 20.0
"""How long a test waits for something that must come."""
NO_RUN = "01900000-0000-7000-8000-000000000000"

Wrap: TypeAlias = Callable[[Engine], Engine]
MakeApp: TypeAlias = Callable[..., Awaitable["App"]]
"""Opens an app; takes the settings of Durably, and `wrap` for its engine."""


class App:
    """A Durably, open, on an empty database."""

    def __init__(self, kind: StoreKind, url: str, durably: Durably, stack: AsyncExitStack) -> None:
        self.kind: StoreKind = kind
        self.url = url
        self.durably = durably
        self._stack = stack
        self._outside: Store | None = None
        self.heard: list[Event] = []
        for type_ in EventType:
            durably.on(type_, self.heard.append)

    @property
    def is_postgres(self) -> bool:
        return self.kind == "postgres"

    @property
    def outside(self) -> Store:
        """The same database, past the API."""
        assert self._outside is not None
        return self._outside

    async def look(self) -> None:
        """Connect `outside`; SQLite in memory has only the one connection."""
        database = await self.durably._database()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the only way into memory
        engine: Any = database._engine  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above
        if isinstance(engine, FaultyEngine):
            database = Database(engine._engine, SystemEnvironment(), "auto", self.url, LEASE)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - past the faults
        self._outside = Store(self.kind, self.url)
        self._outside.database = database
        self._stack.push_async_exit(self._outside)

    async def another(self, *, wrap: Wrap | None = None, **settings: Any) -> Durably:
        """Another Durably on the same data, as another process has it. SQLite in memory has no such thing."""
        assert self.kind != "sqlite-memory"
        return await self._stack.enter_async_context(make_durably(self.url, wrap=wrap, **settings))

    # --- running ------------------------------------------------------------------------------------

    async def process(self, *jobs: Job[Any, Any], durably: Durably | None = None, **options: Any) -> int:
        """Execute all runs that can be claimed now."""
        return await (durably or self.durably).worker(jobs, **options).process_until_idle()

    async def execute(self, job: Job[Any, OutputT], input: Any = None, **options: Any) -> Run[OutputT]:
        """Trigger a run, execute it once, and return it."""
        run = await self.durably.trigger(job, input, **options)
        await self.process(job)
        return await self.get(run)

    async def again(self, run: Run[OutputT], job: Job[Any, OutputT]) -> Run[OutputT]:
        """Resume a failed run, execute it once more, and return it."""
        await self.durably.resume(run)
        await self.process(job)
        return await self.get(run)

    async def get(self, run: Run[OutputT]) -> Run[OutputT]:
        found = await self.durably.get_run(run)
        assert found is not None
        return found

    async def wait(self, run: Run[OutputT]) -> Run[OutputT]:
        return await self.durably.wait(run, timeout=SECONDS)

    async def until(self, run: Run[OutputT], status: RunStatus) -> Run[OutputT]:
        """The run as soon as it has this status."""

        async def has_come() -> bool:
            return (await self.get(run)).status is status

        await eventually(has_come, seconds=SECONDS)
        return await self.get(run)

    # --- what happened ------------------------------------------------------------------------------

    async def story(self, run: Run[Any]) -> list[str]:
        """The run's events so far, in short: `step:start read`, `run:complete`, ..."""
        return [f"{event.type} {event.step or ''}".strip() for event in await self.events(run)]

    async def events(self, run: Run[Any]) -> list[Event]:
        return await self.outside.events(as_stored(run))

    async def step_names(self, run: Run[Any]) -> list[str]:
        """The steps whose result is stored."""
        return [step.name for step in await self.durably.get_steps(run) if step.output_json is not None]

    def errors(self) -> list[str]:
        """What `worker:error` said."""
        return [event.payload_json or "" for event in self.heard if event.type is EventType.WORKER_ERROR]

    # --- what happens outside -----------------------------------------------------------------------

    async def die_with(self, run: Run[Any]) -> StoredRun:
        """Be a process that claims the run and dies: its lease has run out, nobody renews it."""
        [claimed] = [got for got in await self.outside.claim(run.job) if got.id == run.id]
        await self.outside.expire(claimed)
        return claimed

    async def expire(self, run: Run[Any]) -> None:
        """Let the run's lease run out."""
        await self.outside.expire(as_stored(run))

    async def make_due(self, run: Run[Any]) -> None:
        """Let the run's start time pass."""
        await self.outside.make_due(as_stored(run))

    async def age(self, run: Run[Any]) -> None:
        """Make the run's end a day older."""
        await self.outside.age(as_stored(run))

    async def empty(self) -> None:
        """Empty the tables that the tests of a process share."""
        tables = ("runs", "steps", "logs", "events", "concurrency_keys")
        names = ", ".join(f"{{{table}}}" for table in tables)
        await self.outside.sql(fill(f"TRUNCATE {names} RESTART IDENTITY", postgres=True))


def make_durably(url: str, *, wrap: Wrap | None = None, **settings: Any) -> Durably:
    """A Durably that polls quickly; `wrap` puts an engine of the test's around the real one."""
    options: dict[str, Any] = {"poll_interval": SOON} | settings
    durably = Durably(url, **options)
    if wrap is not None:
        sessions: Any = durably._sessions  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - faults come from below the API
        make = sessions._make

        def wrapped() -> Any:
            database = make()
            database._engine = wrap(database._engine)  # noqa: SLF001 - as above
            return database

        sessions._make = wrapped
    return durably


def as_stored(run: Run[Any]) -> StoredRun:
    """Enough of a stored run to name it."""
    fields = {name: getattr(run, name) for name in StoredRun.__dataclass_fields__ if hasattr(run, name)}
    return StoredRun(**fields)


async def within(awaitable: Awaitable[OutputT], *, seconds: float = SECONDS) -> OutputT:
    """What the awaitable gives, soon or not at all."""
    async with asyncio.timeout(seconds):
        return await awaitable
