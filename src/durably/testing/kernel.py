"""Executes the runs of one database one after the other, in the caller's task and time.

No worker, no keeper, no timers: what a worker's loop and its maintenance do is done when it is asked for. Time passes
only when the clock is told so; a lease ends with a crash, or never.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeAlias

from durably.app import Durably
from durably.errors import UsageError
from durably.jobs import Job, Registry
from durably.model import Event, Run, RunStatus, StoredRun
from durably.runtime.claims import Claimed, Claims
from durably.runtime.context import Step, SyncStep
from durably.runtime.execution import Execution, Workplace
from durably.runtime.flusher import Flushable, Flusher
from durably.runtime.maintenance import Maintenance
from durably.runtime.reporting import Reporter
from durably.runtime.threads import Threads
from durably.runtime.trigger import Children
from durably.store.database import Database
from durably.store.due import look
from durably.store.events import run_events
from durably.store.steps import send_write
from durably.testing.clock import ManualClock
from durably.testing.report import Ended, ExecutionReport
from durably.testing.script import Crashes, Script
from durably.testing.steps import Direction, ScriptedStep, ScriptedSyncStep

THREADS = 40
_LOOK_AGAIN = timedelta(seconds=1)

_ENDED: dict[RunStatus | None, Ended] = {
    RunStatus.COMPLETED: "completed",
    RunStatus.FAILED: "failed",
    RunStatus.CANCELLED: "cancelled",
    RunStatus.PENDING: "handed back",
    None: "crashed",
}

Jobs: TypeAlias = "Job[Any, Any] | str | Iterable[Job[Any, Any] | str]"


class Unhurried(Flusher):
    """Sends nothing on a timer: what is not awaited rides on the run's next write, the same in every test."""

    def add(self, one: Flushable) -> None:
        """See `Flusher`."""


_executing: ContextVar[Kernel | None] = ContextVar("durably_harness", default=None)


class HarnessDurably(Durably):
    """A Durably that lends what the kernel needs, and is of no use after the block of the harness."""

    is_over = False

    def check_open(self) -> None:
        """Raise UsageError after the end of the block: a new database in memory would be opened, an empty one."""
        if self.is_over:
            raise UsageError("the block of this harness has ended, and its database is closed: ask within `async with`")

    async def _database(self) -> Database:
        self.check_open()
        return await super()._database()

    async def _ended(self, run: Run[Any] | str, timeout: float | None) -> StoredRun:
        found = await self.get_run(run)
        if timeout is None and found is not None and not found.is_terminal:
            raise UsageError(
                f"run {found.id} is {found.status}, and nothing executes it while this waits: await h.finish(run), "
                "or pass timeout="
            )
        return await super()._ended(run, timeout)

    async def kernel(self, jobs: Jobs, clock: ManualClock, deps: object) -> Kernel:
        """A kernel on the open database."""
        return Kernel(await self._database(), jobs, clock=clock, durably=self, deps=deps)

    def reporter(self, clock: ManualClock) -> Reporter:
        """What tells the listeners of this Durably."""
        return Reporter(self._listeners, clock)

    @property
    def settings(self) -> Any:  # noqa: ANN401 - read by the kernel only
        """The checked settings."""
        return self._settings


class Kernel:
    """Claims runs one by one and executes them."""

    def __init__(
        self, database: Database, jobs: Jobs, *, clock: ManualClock, durably: HarnessDurably, deps: object
    ) -> None:
        sources = (jobs,) if isinstance(jobs, Job | str) else tuple(jobs)
        self.worker = durably.worker(sources)
        """Never started: it lets the Durably know the jobs by their names."""
        known = Registry(sources)
        found = {name: known.get(name) for name in known.names}
        self.jobs = {name: job for name, job in found.items() if job is not None}
        self.script = Script()
        self.plans: dict[str, tuple[Script, Crashes]] = {}
        """What is scripted for one run alone."""
        self.reports: dict[str, list[ExecutionReport]] = {}
        """By run, in order."""
        self.executed_in_turn = 0
        self._turn = asyncio.Lock()
        self._durably = durably
        self._clock = clock
        self._database = database
        self._settings = durably.settings
        self._registry = Registry([_directed(job, self._dress, self._left) for job in self.jobs.values()])
        self._reporter = durably.reporter(clock)
        self._threads = Threads(clock, name="durably-harness", count=THREADS)
        self._place = self._workplace(deps)
        self._claims = Claims(database, known.names, owner=clock.new_id(), settings=self._settings, environment=clock)
        self._maintenance = Maintenance(
            database,
            known.names,
            settings=self._settings,
            environment=clock,
            reporter=self._reporter,
            found=lambda _: None,
            wake=lambda: None,
            held=tuple,
        )
        self._direction: Direction | None = None
        self._abandoned: dict[str, datetime] = {}
        """Crashed runs, and when their leases end."""

    def _workplace(self, deps: object) -> Workplace:
        return Workplace(
            database=self._database,
            environment=self._clock,
            settings=self._settings,
            reporter=self._reporter,
            threads=self._threads,
            children=Children(
                self._database,
                self._registry,
                environment=self._clock,
                reporter=self._reporter,
                max_value_bytes=self._settings.max_value_bytes,
            ),
            loop=asyncio.get_running_loop(),
            flusher=Unhurried(),
            send=partial(send_write, self._database),
            deps=deps,
        )

    def close(self) -> None:
        """Let go of the threads; nothing is executed any more."""
        self._durably.is_over = True
        self._threads.close()

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Let nobody else execute runs meanwhile. What a step executes is part of the turn of its run.

        Raises UsageError after the end of the harness.
        """
        self._durably.check_open()
        if _executing.get() is self:
            yield
            return
        async with self._turn:
            self.executed_in_turn = 0
            yield

    # --- one run after the other ------------------------------------------------------------------------

    async def execute_next(self) -> str | None:
        """Execute the run that is first in line now. Returns its id; None when nobody is."""
        outlook = await self._maintenance.look_and_act()
        while outlook.crashed:  # such a run is failed only after some time, in which nobody has renewed its lease
            self._clock.advance(_LOOK_AGAIN)
            outlook = await self._maintenance.look_and_act()
        claimed = await self._claims.take(1, held=())
        if not claimed:
            return None
        await self._execute(claimed[0])
        return claimed[0].run.id

    async def next_time(self) -> datetime | None:
        """When something will be claimable that is not now: a start time comes, or the lease of a crashed run ends."""
        outlook = await self._database.read(look(tuple(self.jobs), max_crashes=self._settings.max_crashes))
        now = self._clock.now()
        times = [time for time in self._abandoned.values() if time > now]  # the others have ended otherwise
        if outlook.next_due is not None:
            times.append(now + outlook.next_due)
        return min(times, default=None)

    async def events(self, run_id: str) -> list[Event]:
        """All stored events of a run, in order."""
        events: list[Event] = []
        while page := await self._database.read(run_events(run_id, after_seq=len(events))):
            events += page
        return events

    async def _execute(self, claimed: Claimed) -> None:
        run, job = claimed.run, self._registry.get(claimed.run.job)
        if job is None:
            raise LookupError(run.job)
        self._abandoned.pop(run.id, None)
        execution = Execution(self._place, run, job, until=claimed.until, over=_nobody)
        report = ExecutionReport(generation=run.generation, attempt=run.attempt, at=self._clock.now())
        self.reports.setdefault(run.id, []).append(report)
        self.executed_in_turn += 1
        script, crashes = self.plans.get(run.id) or (self.script, Crashes())
        outer = self._direction
        self._direction = direction = Direction(
            execution=execution,
            report=report,
            script=script,
            crashes=crashes,
            loop=self._place.loop,
            is_blocking=not job.is_async,
        )
        token = _executing.set(self)
        try:
            status = await asyncio.create_task(execution.run(), name=f"durably-run-{run.id}")
        except asyncio.CancelledError:
            report.ended = "handed back"
            raise
        finally:
            _executing.reset(token)
            self._direction = outer
        report.ended = _ENDED[status]
        if status is None and run.lease_expires_at is not None:
            self._abandoned[run.id] = run.lease_expires_at
        if direction.fault is not None:
            raise direction.fault

    def _dress(self, step: Step[Any] | SyncStep[Any]) -> Step[Any] | SyncStep[Any]:
        if self._direction is None:
            return step
        return (
            ScriptedStep(step, self._direction) if isinstance(step, Step) else ScriptedSyncStep(step, self._direction)
        )

    def _left(self, error: BaseException) -> None:
        if self._direction is not None:
            self._direction.report.exception = error


def _directed(
    job: Job[Any, Any], dress: Callable[[Any], object], left: Callable[[BaseException], None]
) -> Job[Any, Any]:
    """The job with another step in its hands, and an ear for what it raises."""
    fn = job.fn

    async def call(step: object, *given: object) -> object:
        try:
            return await fn(dress(step), *given)
        except BaseException as error:
            left(error)
            raise

    def call_blocking(step: object, *given: object) -> object:
        try:
            return fn(dress(step), *given)
        except BaseException as error:
            left(error)
            raise

    directed = copy.copy(job)
    directed.fn = call if job.is_async else call_blocking
    return directed


def _nobody(_execution: Execution) -> None:
    """There are no slots here."""
