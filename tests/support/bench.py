"""Workers on a store under test, and short words for what the tests want of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import timedelta
from typing import Any

from durably.environment import Environment, SystemEnvironment
from durably.jobs import Job, Registry, TriggerOptions, build_run
from durably.model import Change, Event, EventType, LogLine, RunStatus, StepRecord, StoredRun
from durably.runtime.listeners import Listeners
from durably.runtime.settings import Settings
from durably.runtime.worker import Worker
from durably.store import actions, events, runs, steps
from durably.store.database import Database

LEASE = timedelta(seconds=30)
SOON = timedelta(milliseconds=50)


class Bench:
    """A database with workers. Events of its processes are collected."""

    def __init__(self, database: Database, environment: Environment | None = None) -> None:
        self.database = database
        self.environment = environment or SystemEnvironment()
        self.listeners = Listeners()
        self.heard: list[Event] = []
        for type_ in EventType:
            self.listeners.on(type_, self.heard.append)

    def worker(
        self,
        *jobs: Job[Any, Any],
        database: Database | None = None,
        deps: Callable[[], AbstractAsyncContextManager[object]] | None = None,
        settings: Settings | None = None,
        **changes: Any,
    ) -> Worker:
        """A worker with quick polling; `changes` are fields of its Settings."""
        fields: dict[str, Any] = {"lease": LEASE, "poll_interval": SOON, **changes}
        settings = settings or Settings(**fields)
        return Worker(
            lambda: nullcontext(database or self.database),
            Registry(jobs),
            settings=settings,
            environment=self.environment,
            listeners=self.listeners,
            deps=deps,
        )

    async def trigger(self, job: Job[Any, Any], input: object = None, **options: Any) -> StoredRun:
        new = build_run(job, input, id=self.environment.new_id(), options=TriggerOptions(**options))
        return (await self.database.submit(runs.enqueue, new)).run

    async def execute(self, job: Job[Any, Any], input: object = None, **changes: Any) -> StoredRun:
        """Trigger a run and execute it once."""
        run = await self.trigger(job, input)
        await self.worker(job, **changes).process_one()
        return await self.run(run)

    async def run(self, run: StoredRun | str) -> StoredRun:
        found = await self.database.read(runs.get_run(run if isinstance(run, str) else run.id))
        assert found is not None
        return found

    async def until(self, run: StoredRun, *statuses: RunStatus, seconds: float = 40) -> StoredRun:
        """The run as soon as it has one of these statuses (none given: as soon as it has ended)."""

        async def has_come() -> bool:
            now = await self.run(run)
            return now.status in statuses if statuses else now.status.is_terminal

        await eventually(has_come, seconds=seconds)
        return await self.run(run)

    async def cancel(self, run: StoredRun, database: Database | None = None) -> None:
        change = Change(run_id=run.id, concurrency_key=run.concurrency_key, token=self.environment.new_id())
        assert (await (database or self.database).submit(actions.cancel, change)).done

    async def resume(self, run: StoredRun) -> None:
        change = Change(run_id=run.id, concurrency_key=run.concurrency_key, token=self.environment.new_id())
        assert (await self.database.submit(actions.resume, change)).done

    async def steps(self, run: StoredRun) -> list[StepRecord]:
        return list(await self.database.read(steps.load_steps(run.id)))

    async def step_names(self, run: StoredRun) -> list[str]:
        return [step.name for step in await self.steps(run) if step.output_json is not None]

    async def logs(self, run: StoredRun) -> list[LogLine]:
        return list(await self.database.read(events.load_logs(run.id, after_seq=0, limit=1000)))

    async def events(self, run: StoredRun) -> list[Event]:
        return list(await self.database.read(events.run_events(run.id, after_seq=0, limit=1000)))

    async def story(self, run: StoredRun) -> list[str]:
        """The run's events in short: `step:start read`, `run:complete`, ..."""
        return [f"{event.type} {event.step or ''}".strip() for event in await self.events(run)]

    def errors(self) -> list[str]:
        """What `worker:error` said."""
        return [event.payload_json or "" for event in self.heard if event.type is EventType.WORKER_ERROR]


async def eventually(condition: Callable[[], Any], *, seconds: float = 40) -> None:
    """Return once the condition holds; look again whenever the loop is idle."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.005)


class Gate:
    """A place where code under test waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self.opened.wait()


def names(found: Sequence[Event]) -> list[str]:
    return [str(event.type) for event in found]
