"""One stretch of work of a worker, from its start to its end: the loop that claims and executes.

A shift enters `deps` once, holds the keeper and the threads, and ends when it was told to stop, or has nothing left
to do (`Until`), and all its runs have ended.

It asks the database for nothing on its own: it claims when it is woken, by a trigger, by slots that became free, or
by what maintenance found. A slot is free when the code of its run has ended, while the end is still being stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial

from durably.environment import Environment
from durably.errors import DatabaseUnavailable, LeaseLost, Stopping
from durably.jobs import Registry
from durably.model import Outlook, RunStatus, StoredRun
from durably.rules.schedule import backoff_seconds
from durably.runtime.claims import Claimed, Claims
from durably.runtime.execution import Execution, Workplace
from durably.runtime.flusher import Flusher
from durably.runtime.keeper import Keeper
from durably.runtime.maintenance import Maintenance
from durably.runtime.renewer import longest_backoff
from durably.runtime.reporting import Reporter
from durably.runtime.settings import Settings
from durably.runtime.threads import Threads
from durably.runtime.trigger import Children
from durably.store.database import Database
from durably.store.operation import Wake
from durably.store.steps import send_write

STEP_THREADS = 32
"""Threads for plain functions beyond those that `def` jobs take."""
_MANY = 32
"""Slots from which on they are filled in two halves."""

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
        self._jobs = registry.live_names
        self._claims = Claims(
            database, self._jobs, owner=environment.new_id(), settings=settings, environment=environment
        )
        self._running: dict[Execution, asyncio.Task[None]] = {}
        self._under_way: dict[str, Execution] = {}
        """Of each run the newest execution."""
        self._occupied: set[Execution] = set()
        """Those whose code has not ended: each takes a slot."""
        self._maintenance = Maintenance(
            database,
            self._jobs,
            settings=settings,
            environment=environment,
            reporter=reporter,
            found=self._on_outlook,
            wake=self.wake,
            held=self._under_way.keys,
        )
        self._keeper = Keeper(database, settings=settings, environment=environment)
        self._part = _part(settings.max_concurrent_runs, is_parallel=database.is_parallel)
        self._is_stopping = asyncio.Event()
        self._is_interrupting = False
        self._has_served = False
        self._woken = asyncio.Event()
        self._failures = 0
        self._has_expired = False
        self._started = 0
        self._error: Exception | None = None
        self._fault: asyncio.Future[None] = asyncio.get_running_loop().create_future()
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
                loop=asyncio.get_running_loop(),
                flusher=Flusher(),
                send=partial(send_write, self._database),
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
            fault = group.create_task(self._raise_fault())
            chores = self._maintenance.start(group) if self._until is None else []
            try:
                await self._serve(place)
                await self._recall(place)
                self._has_served = True
                if self._is_interrupting:
                    self._interrupt_all()
                for chore in chores:
                    chore.cancel()
            except BaseException:
                self._cancel_all()
                raise
            finally:
                await self._all_ended()
            fault.cancel()
        if self._error is not None:
            raise self._error

    async def _raise_fault(self) -> None:
        """Let the group end when an execution raised, which is a fault of ours.

        The tasks of runs are not the group's own: in it, each takes half as long again to make and to end.
        """
        await self._fault

    async def _all_ended(self) -> None:
        """Wait for the runs under way. Whoever cancels that cancels them, so that they are handed back."""
        was_cancelled = False
        while left := self._left():
            try:
                await asyncio.wait(left)
            except asyncio.CancelledError:
                was_cancelled = True
                self._cancel_all()
        if was_cancelled:
            raise asyncio.CancelledError

    def _left(self) -> list[asyncio.Task[None]]:
        """The tasks of runs under way. One that was cancelled before its first turn begins anew, and hands back."""
        for execution, task in tuple(self._running.items()):
            if task.cancelled():
                execution.interrupt(Stopping(execution.stored.id))
                self._running[execution] = asyncio.create_task(self._execute(execution))
        return [task for task in self._running.values() if not task.done()]

    def _cancel_all(self) -> None:
        for task in self._running.values():
            task.cancel()

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
            if self._free() > 0:
                self.wake()
            self._maintenance.look_soon()

    def _on_outlook(self, outlook: Outlook) -> None:
        self._has_expired = outlook.expired
        if (outlook.claimable or outlook.expired) and self._free() > 0:
            self.wake()

    # --- the loop -------------------------------------------------------------------------------------------

    async def _serve(self, place: Workplace) -> None:
        is_poll = False
        ahead: asyncio.Task[list[Claimed]] | None = None
        while ahead is not None or not self._is_stopping.is_set():
            self._woken.clear()
            free = min(self._free(), self._part)
            try:
                if ahead is not None:
                    claimed, ahead = await ahead, None
                else:
                    claimed = await self._claim(free, is_poll=is_poll) if free > 0 else []
            except Exception as error:  # noqa: BLE001 - the border of a background loop: it must go on
                ahead = None
                if self._until is not None:
                    self._error = error
                    return
                await self._back_off(error)
                continue
            if self._failures:
                _logger.info("claiming works again")
                self._failures = 0
            ahead = await self._claim_ahead(claimed)
            for one in claimed:
                self._begin(one, place)
            if self._claims.is_in_doubt and self._free() > 0:
                self.wake()
            if self._until is not None and self._is_done():
                return
            is_poll = False if ahead is not None else await self._rest()

    async def _recall(self, place: Workplace) -> None:
        """Hand back what a doubtful claim leased before the stop: its lease would run out, and count as a crash."""
        if not (self._is_stopping.is_set() and self._claims.is_in_doubt):
            return
        try:
            recalled = await self._claims.recall()
        except DatabaseUnavailable as error:
            self._reporter.error("claim", error)
            return
        for one in recalled:
            self._begin(one, place)

    async def _claim_ahead(self, claimed: Sequence[Claimed]) -> asyncio.Task[list[Claimed]] | None:
        """Where half of many slots was filled, begin to claim for the other half before these runs begin.

        So the database claims while this process computes.
        """
        free = min(self._free() - len(claimed), self._part)
        is_more = len(claimed) >= self._part < self._settings.max_concurrent_runs
        if not is_more or free <= 0 or self._until is not None or self._has_expired or self._is_stopping.is_set():
            return None
        ahead = asyncio.create_task(self._claim(free, is_poll=False))
        for _ in range(2):  # the task puts it into its lane, the lane's task sends it
            await asyncio.sleep(0)
        return ahead

    def _free(self) -> int:
        """How many runs may begin. Of those whose end is being stored there are at most as many as there are slots."""
        slots = self._settings.max_concurrent_runs
        free = min(slots - len(self._occupied), 2 * slots - len(self._running))
        if self._until is not None and self._until.runs is not None:
            free = min(free, self._until.runs - self._started)
        return free

    async def _claim(self, free: int, *, is_poll: bool) -> list[Claimed]:
        """Claim for all free slots; first what expired, if maintenance has found some."""
        if self._until is not None:
            return await self._claims.take(free) or await self._claim_rest(free, is_poll=is_poll)
        has_expired, self._has_expired = self._has_expired, False
        claimed = await self._claims.take(free, held=tuple(self._under_way) if has_expired else None)
        if has_expired and len(claimed) >= free:
            self._has_expired = True  # there may be more; else the next look says so
        return claimed

    async def _claim_rest(self, free: int, *, is_poll: bool) -> list[Claimed]:
        """What a shift until idle looks for when nothing is claimable: at its end, and once a poll before it."""
        if self._running and not is_poll:
            return []
        outlook = await self._maintenance.look_and_act()
        if not (outlook.claimable or outlook.due or outlook.crashed or outlook.expired):
            return []
        return await self._claims.take(free, held=tuple(self._under_way) if outlook.expired else None)

    def _is_done(self) -> bool:
        """Whether a shift until idle has nothing left. Runs that may be dead are claimable or failed before long."""
        return not self._running and (self._free() <= 0 or not self._maintenance.has_suspects)

    def _begin(self, claimed: Claimed, place: Workplace) -> None:
        run = claimed.run
        job = self._registry.get(run.job)
        if job is None:
            _logger.error("run %s of job %r was claimed, but nobody here knows the job", run.id, run.job)
            return
        execution = Execution(place, run, job, until=claimed.until, over=self._vacate)
        execution.older = self._outlived(run)
        self._started += 1
        self._occupied.add(execution)
        self._under_way[run.id] = execution
        self._keeper.hold(execution.tenure)
        self._reporter.leased(run, self._settings.lease)
        if self._is_stopping.is_set():
            execution.interrupt(Stopping(run.id))
        self._running[execution] = place.loop.create_task(self._execute(execution), name=f"durably-run-{run.id}")

    def _outlived(self, run: StoredRun) -> asyncio.Task[None] | None:
        """The execution of the same run under an older lease, interrupted: it was lost, and the run claimed anew here.

        That one may itself be waiting for a still older one.
        """
        older = self._under_way.get(run.id)
        if older is None:
            return None
        older.interrupt(LeaseLost(run.id))
        return self._running[older]

    async def _execute(self, execution: Execution) -> None:
        try:
            status = await execution.run()
            if status is not None and status is not RunStatus.PENDING:
                self.completed += 1
        except Exception as error:  # noqa: BLE001 - ends the shift
            if not self._fault.done():
                self._fault.set_exception(error)
        finally:
            self._end(execution)

    def _vacate(self, execution: Execution) -> None:
        """The code of a run has ended. However many end at once, the loop claims once for all their slots."""
        if execution in self._occupied:
            self._occupied.remove(execution)
            self.wake()

    def _end(self, execution: Execution) -> None:
        run = execution.stored
        self._keeper.drop(execution.tenure)
        self._vacate(execution)
        was_full = len(self._running) >= 2 * self._settings.max_concurrent_runs
        del self._running[execution]
        if self._under_way.get(run.id) is execution:
            del self._under_way[run.id]
        if was_full or (self._until is not None and not self._running):
            self.wake()
        execution.release()

    async def _rest(self) -> bool:
        """Until something is to do. Returns whether a poll is due instead: a shift until idle has no maintenance."""
        poll = self._settings.poll_interval.total_seconds() * (0.75 + self._environment.random() / 2)
        try:
            async with asyncio.timeout(None if self._until is None else poll):
                await self._woken.wait()
        except TimeoutError:
            return True
        return False

    async def _back_off(self, error: Exception) -> None:
        """Report, and wait longer each time; wake-ups do not cut that short, for they would make it a hot loop."""
        self._failures += 1
        self._maintenance.outage()
        self._reporter.error("claim", error)
        wait = backoff_seconds(self._failures, self._environment.random(), cap=longest_backoff(self._settings))
        try:
            async with asyncio.timeout(wait):
                await self._is_stopping.wait()
        except TimeoutError:
            return


def _part(slots: int, *, is_parallel: bool) -> int:
    """How many runs are claimed at once."""
    return (slots + 1) // 2 if is_parallel and slots >= _MANY else slots
