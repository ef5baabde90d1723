"""`Worker`: executes runs. Start and stop it, use it as a context manager, or let it do what there is to do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from durably.environment import Environment
from durably.errors import UsageError, ValidationError
from durably.jobs import Job, Registry
from durably.runtime.listeners import Listeners
from durably.runtime.reporting import Reporter
from durably.runtime.settings import Settings, check_span
from durably.runtime.shift import Shift, Until
from durably.store.database import Database

PATIENCE_SECONDS = 10.0
"""How often a stop that cannot end says what it waits for."""

_logger = logging.getLogger("durably.worker")


class Worker:
    """Claims runs of its jobs, as many at a time as it has slots, and executes them.

    `async with worker:` starts it and stops it at the end, also when the block is left by an exception or cancelled.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[Database]],
        registry: Registry,
        *,
        settings: Settings,
        environment: Environment,
        listeners: Listeners,
        deps: Callable[[], AbstractAsyncContextManager[object]] | None = None,
    ) -> None:
        """`connect` lends an open database from start to stop.

        `deps` makes the context manager whose value jobs read as `step.deps`; it is entered at each start.
        """
        self._connect = connect
        self._registry = registry
        self._settings = settings
        self._environment = environment
        self._reporter = Reporter(listeners, environment)
        self._deps = deps
        self._shift: Shift | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_starting = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def jobs(self) -> tuple[str, ...]:
        """The names of its jobs, sorted. Raises UsageError, DuplicateJob for jobs that cannot be had."""
        return self._registry.names

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._task is not None and not self._task.done()

    def register(self, job: Job[Any, Any] | str, *, replace: bool = False) -> None:
        """Serve one more job, or all those of a module; also while it runs, where it looks for their runs at once.

        With `replace` the job takes the place of one of the same name, as when a cell of a notebook is run again: runs
        that begin from now on execute it, those under way end with the code they began with. Raises DuplicateJob
        without it, UsageError for what is no job.
        """
        self._registry.add(job, replace=replace)
        if self._shift is not None:
            self._shift.wake()

    async def start(self) -> None:
        """Open the database, enter `deps` and begin to work; returns once that is done.

        Raises what `deps` raises, UsageError for jobs that cannot be had, SchemaError, DatabaseUnavailable.
        """
        await self._start(None)

    async def ended(self) -> None:
        """Return once it has ended: by `stop`, or by a fault, which `stop` then raises."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def stop(self, grace: timedelta | None = None) -> None:
        """Claim no more, let runs end within `grace`, then interrupt the rest and hand them back.

        Others continue them at once, and it counts as no crash. Returns when no user code runs any more: code in a
        thread cannot be interrupted, so it is waited for. Cancelling `stop` cuts the grace short. Raises what made
        the worker end by itself, if anything did.
        """
        grace = self._settings.grace if grace is None else grace
        check_span(grace, field="grace")
        if grace < timedelta(0):
            raise ValidationError("grace", f"{grace} must not be negative; 0 interrupts runs at once")
        shift, task = self._shift, self._task
        if shift is None or task is None:
            return
        shift.stop()
        try:
            await asyncio.wait({task}, timeout=grace.total_seconds())
        finally:
            shift.interrupt()
            await _end_of(task, shift)
        if self._task is task:
            self._shift = self._task = None
        task.result()

    async def process_one(self) -> bool:
        """Claim one run and execute it to its end. Returns whether there was one. Raises DatabaseUnavailable."""
        return await self.process_until_idle(max_runs=1) > 0

    async def process_until_idle(self, *, max_runs: int | None = None, max_duration: timedelta | None = None) -> int:
        """Execute runs until none is claimable; for cron and serverless. Returns how many ended here.

        After `max_runs` runs no more are claimed, nor after `max_duration`: then runs have the usual grace, and what
        has not ended is handed back, as with `stop`. Raises DatabaseUnavailable.
        """
        if max_runs is not None and not _is_count(max_runs):
            raise ValidationError("max_runs", f"{max_runs!r} must be a whole number, at least 1; None means no limit")
        if max_duration is not None:
            check_span(max_duration, field="max_duration")
        if max_duration is not None and max_duration <= timedelta(0):
            raise ValidationError("max_duration", f"{max_duration} must be over 0; None means no limit")
        shift, task = await self._start(Until(runs=max_runs))
        try:
            await asyncio.wait({task}, timeout=None if max_duration is None else max_duration.total_seconds())
        except asyncio.CancelledError:
            await self.stop(timedelta(0))
            raise
        await self.stop()
        return shift.completed

    async def _start(self, until: Until | None) -> tuple[Shift, asyncio.Task[None]]:
        if self.is_running or self._is_starting:
            raise UsageError("this worker runs already: stop() it first, or make another one")
        self._is_starting = True
        try:
            return await self._begin(until)
        finally:
            self._is_starting = False

    async def _begin(self, until: Until | None) -> tuple[Shift, asyncio.Task[None]]:
        async with AsyncExitStack() as stack:
            shift = Shift(
                await stack.enter_async_context(self._connect()),
                self._registry,
                settings=self._settings,
                environment=self._environment,
                reporter=self._reporter,
                deps=self._deps,
                until=until,
            )
            is_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(_run(shift, is_ready, stack.pop_all()), name="durably-worker")
        self._shift, self._task = shift, task
        try:
            await asyncio.wait({is_ready, task}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.stop(timedelta(0))
            raise
        if not is_ready.done():
            self._shift = self._task = None
            task.result()
        return shift, task


def _is_count(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and given >= 1


async def _run(shift: Shift, is_ready: asyncio.Future[None], connection: AsyncExitStack) -> None:
    async with connection:
        await shift.run(is_ready)


async def _end_of(task: asyncio.Task[None], shift: Shift) -> None:
    """Wait for the shift to end, and say now and then what it waits for."""
    while not task.done():
        await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
        if not task.done():
            _logger.warning("the worker still waits for user code to end: %s", "; ".join(shift.unfinished()))
