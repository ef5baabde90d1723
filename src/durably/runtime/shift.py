"""One stretch of work of a worker, from its start to its end: the loop that claims and executes.

A shift enters `deps` once, holds the keeper and the threads, and ends when it was told to stop, or has nothing left
to do (`Until`), and all its runs have ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

from durably.environment import Environment
from durably.errors import LeaseLost, Stopping
from durably.jobs import Registry
from durably.model import Lease, RunStatus, StoredRun
from durably.rules.schedule import backoff_seconds
from durably.runtime.claims import Claimed, Claims
from durably.runtime.execution import Execution, Workplace
from durably.runtime.keeper import Keeper
from durably.runtime.maintenance import Maintenance
from durably.runtime.reporting import Reporter
from durably.runtime.settings import Settings
from durably.runtime.threads import Threads
from durably.runtime.trigger import Children
from durably.store.database import Database
from durably.store.operation import Wake

STEP_THREADS = 32
"""Threads for plain functions beyond those that `def` jobs take."""
MAX_BACKOFF_SECONDS = 5.0

_logger = logging.getLogger("durably.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Until:
    """When a shift ends by itself: when nothing is claimable any more, or so many runs were executed."""

    runs: int | None = None


class Shift:
    """Claims runs and executes them."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        *,
        settings: Settings,
        environment: Environment,
        reporter: Reporter,
        deps: Callable[[], AbstractAsyncContextManager[object]] | None,
        until: Until | None,
    ) -> None:
        self._database = database
        self._registry = registry
        self._settings = settings
        self._environment = environment
        self._reporter = reporter
        self._deps = deps
        self._until = until
        self._jobs = registry.names
        self._claims = Claims(
            database, self._jobs, owner=environment.new_id(), settings=settings, environment=environment
        )
        self._maintenance = Maintenance(
            database,
            self._jobs,
            settings=settings,
            environment=environment,
            reporter=reporter,
            wake=self.wake,
            held=self._leases,
        )
        self._keeper = Keeper(database, settings=settings, environment=environment)
        self._running: dict[Execution, asyncio.Task[None]] = {}
        self._is_stopping = asyncio.Event()
        self._is_interrupting = False
        self._has_served = False
        self._woken = asyncio.Event()
        self._failures = 0
        self._next_full_look = 0.0
        self._started = 0
        self._error: Exception | None = None
        self.completed = 0
        """Runs that were executed and not handed back."""

    async def run(self, is_ready: asyncio.Future[None]) -> None:
        """Work until stopped. `is_ready` is set when everything is in place; an error before that is raised here."""
        threads = Threads(
            self._environment, name="durably-job", count=self._settings.max_concurrent_runs + STEP_THREADS
        )
        async with AsyncExitStack() as stack:
            stack.callback(threads.close)
            place = Workplace(
                database=self._database,
                environment=self._environment,
                settings=self._settings,
                reporter=self._reporter,
                threads=threads,
                children=Children(
                    self._database,
                    self._registry,
                    environment=self._environment,
                    reporter=self._reporter,
                    max_value_bytes=self._settings.max_value_bytes,
                ),
                deps=None if self._deps is None else await stack.enter_async_context(self._deps()),
            )
            self._keeper.start()
            stack.push_async_callback(self._keeper.stop)
            stack.callback(self._database.on_wake(self._on_wake))
            if not is_ready.done():
                is_ready.set_result(None)
            await self._work(place)

    async def _work(self, place: Workplace) -> None:
        async with asyncio.TaskGroup() as group:
            chores = self._maintenance.start(group) if self._until is None else []
            await self._serve(group, place)
            self._has_served = True
            if self._is_interrupting:
                self._interrupt_all()
            for chore in chores:
                chore.cancel()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Claim no more. The shift ends with its last run."""
        self._is_stopping.set()
        self.wake()

    def interrupt(self) -> None:
        """Interrupt the runs, so that they are handed back; code in threads ends at its next step.

        A claim under way is waited for: it would take back what is handed back.
        """
        self._is_interrupting = True
        self.stop()
        if self._has_served:
            self._interrupt_all()

    def _interrupt_all(self) -> None:
        for execution in tuple(self._running):
            execution.interrupt(Stopping(execution.stored.id))

    def wake(self) -> None:
        """Look for work at once."""
        self._woken.set()

    def unfinished(self) -> list[str]:
        """The runs under way, described."""
        return [execution.where() for execution in self._running]

    def _on_wake(self, wake: Wake) -> None:
        if Wake.WORK in wake:
            self._maintenance.look()
            self.wake()

    # --- the loop -------------------------------------------------------------------------------------------

    async def _serve(self, group: asyncio.TaskGroup, place: Workplace) -> None:
        while not self._is_stopping.is_set():
            self._woken.clear()
            free = self._free()
            try:
                claimed = await self._claim(free) if free else []
            except Exception as error:  # noqa: BLE001 - the border of a background loop: it must go on
                if self._until is not None:
                    self._error = error
                    return
                await self._back_off(error)
                continue
            self._has_recovered()
            for one in claimed:
                self._begin(one, group, place)
            if self._until is not None and not self._running:
                return
            await self._sleep()

    def _free(self) -> int:
        free = self._settings.max_concurrent_runs - len(self._running)
        if self._until is not None and self._until.runs is not None:
            free = min(free, self._until.runs - self._started)
        return free

    async def _claim(self, free: int) -> list[Claimed]:
        """Claim for all free slots. What ran out is looked at once per poll; by a shift until idle, at its end."""
        if self._until is not None:
            return await self._claims.take(free) or await self._claim_rest(free)
        now = asyncio.get_running_loop().time()
        is_full = now >= self._next_full_look
        claimed = await self._claims.take(free, held=self._leases() if is_full else None)
        if is_full:
            self._next_full_look = now + self._settings.poll_interval.total_seconds() * 0.7
        return claimed

    async def _claim_rest(self, free: int) -> list[Claimed]:
        await self._maintenance.release_due()
        await self._maintenance.fail_crashed()
        return await self._claims.take(free, held=self._leases())

    def _leases(self) -> list[Lease]:
        return [execution.tenure.lease for execution in self._running]

    def _begin(self, claimed: Claimed, group: asyncio.TaskGroup, place: Workplace) -> None:
        run = claimed.run
        job = self._registry.get(run.job)
        if job is None:
            _logger.error("run %s of job %r was claimed, but nobody here knows the job", run.id, run.job)
            return
        older = [task for execution, task in self._running.items() if self._is_outlived(execution, run)]
        execution = Execution(place, run, job, until=claimed.until)
        self._started += 1
        self._keeper.hold(execution.tenure)
        self._reporter.leased(run, self._settings.lease)
        if self._is_stopping.is_set():
            execution.interrupt(Stopping(run.id))
        self._running[execution] = group.create_task(self._execute(execution, older))

    def _is_outlived(self, execution: Execution, run: StoredRun) -> bool:
        """Whether this executes the same run under an older lease: it ran out here, and was claimed anew here."""
        if execution.stored.id != run.id:
            return False
        execution.interrupt(LeaseLost(run.id))
        return True

    async def _execute(self, execution: Execution, older: list[asyncio.Task[None]]) -> None:
        try:
            if older:
                await asyncio.wait(older)  # code in a thread may go on for long: never both at once
            status = await execution.run()
            if status is not None and status is not RunStatus.PENDING:
                self.completed += 1
        finally:
            self._keeper.drop(execution.tenure)
            self._running.pop(execution, None)
            self.wake()

    async def _sleep(self) -> None:
        """Until something is to do, at most for the poll interval."""
        poll = self._settings.poll_interval.total_seconds() * (0.75 + self._environment.random() / 2)
        try:
            async with asyncio.timeout(poll):
                await self._woken.wait()
        except TimeoutError:
            return

    def _has_recovered(self) -> None:
        """After an outage those who hold leases get a moment to renew them, before others take what has expired."""
        if self._failures:
            _logger.info("claiming works again")
            self._next_full_look = asyncio.get_running_loop().time() + self._settings.renewal_seconds
        self._failures = 0

    async def _back_off(self, error: Exception) -> None:
        """Report, and wait longer each time; wake-ups do not cut that short, for they would make it a hot loop."""
        self._failures += 1
        self._reporter.error("claim", error)
        wait = backoff_seconds(self._failures, self._environment.random(), cap=MAX_BACKOFF_SECONDS)
        try:
            async with asyncio.timeout(wait):
                await self._is_stopping.wait()
        except TimeoutError:
            return
