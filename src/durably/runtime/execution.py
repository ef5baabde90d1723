"""One leased run from its checkpoints to its end: `Execution.run()`.

User code runs in a task of its own and never raises out of it. What follows is decided by `rules.outcome` from a
value, and written after the user code is over, as often as it takes until the database has answered.
"""

from __future__ import annotations

import asyncio
import logging
from _thread import interrupt_main
from dataclasses import dataclass
from functools import partial
from typing import Any

from durably.environment import Environment
from durably.errors import (
    Cancelled,
    DatabaseUnavailable,
    Interrupt,
    LeaseLost,
    SerializationError,
    Stopping,
    UsageError,
)
from durably.jobs import Job
from durably.model import DraftEvent, Ending, EventType, Lease, LeaseState, RunStatus, StoredRun, Verdict
from durably.rules import outcome
from durably.runtime.context import Step, SyncStep
from durably.runtime.recorder import Recorder
from durably.runtime.reporting import Reporter
from durably.runtime.settings import Settings
from durably.runtime.steps import Steps
from durably.runtime.tenure import Tenure
from durably.runtime.threads import Raised, Result, Returned, Threads
from durably.runtime.trigger import Children
from durably.store.database import Database
from durably.store.runs import get_run
from durably.store.steps import cancel_step, load_steps, store_write

LAST_WORD_SECONDS = 5.0
"""How long what is only nice to have (why a lease ended, a `step:cancel`) may take."""

_logger = logging.getLogger("durably.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """What the executions of one worker share."""

    database: Database
    environment: Environment
    settings: Settings
    reporter: Reporter
    threads: Threads
    children: Children
    deps: object


class Execution:
    """A leased run in the hands of this worker. `tenure` is for the keeper, `interrupt` for whoever ends it."""

    def __init__(self, place: Workplace, run: StoredRun, job: Job[Any, Any], *, until: float) -> None:
        """`until` is where the belief in the lease ends, in monotonic seconds."""
        self.stored = run
        self.tenure = Tenure(
            Lease(run.id, run.generation), until=until, environment=place.environment, ended=self._lease_ended
        )
        self._place = place
        self._job = job
        self._recorder = Recorder(
            partial(store_write, place.database),
            self.tenure.lease,
            concurrency_key=run.concurrency_key,
            announce=partial(place.reporter.stored, run),
            refused=self._refused,
            failed=partial(place.reporter.error, "write", run=run),
        )
        self.steps = Steps(
            environment=place.environment,
            recorder=self._recorder,
            tenure=self.tenure,
            threads=place.threads,
            max_value_bytes=place.settings.max_value_bytes,
        )
        self._user: asyncio.Task[Result[object]] | None = None
        self._is_stopping = False
        self._limit: asyncio.Timeout | None = None
        self._was_interrupted_by_hand = False

    async def run(self) -> RunStatus | None:
        """Execute the run. Returns how it ended: `pending` when handed back, None when the lease was lost.

        When the waiting task is cancelled the run is handed back first. After a KeyboardInterrupt in user code it is
        handed back too, and the main thread interrupted: raised here it would stop the loop amid everything else.
        """
        work = asyncio.create_task(self._work(), name=f"durably-run-{self.stored.id}")
        was_cancelled = False
        while not work.done():
            try:
                await asyncio.wait({work})
            except asyncio.CancelledError:
                was_cancelled = True
                self.interrupt(Stopping(self.stored.id))
        status = work.result()
        if self._was_interrupted_by_hand:
            interrupt_main()
        if was_cancelled:
            raise asyncio.CancelledError
        return status

    def interrupt(self, reason: Interrupt) -> None:
        """End the user code: a cancelled task, and an Interrupt at its next step. Code in threads only sees that."""
        if isinstance(reason, Stopping):
            self._is_stopping = True
            self._set_limit()
        if self.steps.stop(reason) and self._user is not None:
            self._user.cancel()

    def where(self) -> str:
        """Which run this is and what it does, for messages."""
        names = ", ".join(self.steps.under_way) or "none"
        return f"run {self.stored.id} of job {self.stored.job!r} (step: {names})"

    # --- the course of an execution -------------------------------------------------------------------------

    async def _work(self) -> RunStatus | None:
        self._user = asyncio.create_task(self.call_user(), name=f"durably-job-{self.stored.id}")
        if self.steps.interrupt is not None:
            self._user.cancel()
        await asyncio.wait({self._user})
        finish = self._finish(self._user)
        await self._end_leftovers()
        if finish is None:
            await self._recorder.discard()
            return None
        ending = outcome.decide(finish, preserve_steps=self._job.preserve_steps and self._place.settings.preserve_steps)
        if ending is None:
            return await self._leave()
        return await self._write(ending)

    async def call_user(self) -> Result[object]:
        """Everything that an interrupt may end, the load of the checkpoints included."""
        place, run = self._place, self.stored
        if run.generation > 1 or run.completed_steps > 0:  # else nobody has executed it, and there is nothing to load
            self.steps.load(await place.database.read(load_steps(run.id), timeout=None))
        try:
            value = self._job.input_codec.decode(run.input_json, where="the stored input")
        except SerializationError as error:
            return Raised(error)
        if not self._job.is_async:
            blocking = SyncStep(self.steps, run, deps=place.deps, children=place.children)
            result, _ = await place.threads.call(partial(self._job.call, blocking, value))
            return result
        step = Step(self.steps, run, deps=place.deps, children=place.children)
        try:
            return Returned(await self._job.call(step, value))
        except BaseException as error:  # noqa: BLE001 - the border around the user's function
            return Raised(error)

    def _finish(self, user: asyncio.Task[Result[object]]) -> outcome.Finish | None:
        """What the user code came to; None when it could not even begin for a reason that is not its own."""
        interrupt = self.steps.interrupt
        if interrupt is not None and not isinstance(interrupt, Stopping):
            return outcome.Interrupted(interrupt)
        if user.cancelled():
            return outcome.Interrupted(Stopping(self.stored.id))
        if (fault := user.exception()) is not None:
            self._place.reporter.error("execute", _as_exception(fault), run=self.stored)
            return None
        result = user.result()
        if isinstance(result, Returned):
            return self._returned(result.value)
        if isinstance(result.error, KeyboardInterrupt):
            self._was_interrupted_by_hand = True
            return outcome.Interrupted(Stopping(self.stored.id))
        if interrupt is not None:
            return outcome.Interrupted(interrupt)
        return outcome.Raised(outcome.capture(result.error, step=self.steps.failures.step_of(result.error)))

    def _returned(self, value: object) -> outcome.Finish:
        try:
            text, _ = self._job.output_codec.round_trip(
                value, where=f"the output of job {self._job.name!r}", max_bytes=self._place.settings.max_value_bytes
            )
        except SerializationError as error:
            return outcome.Raised(outcome.capture(error))
        return outcome.Returned(text)

    async def _end_leftovers(self) -> None:
        """Cancel steps that the job left running (a `gather` that failed) and wait: nothing goes on behind an end."""
        self.steps.stop(LeaseLost(self.stored.id))
        tasks = [step.task for step in self.steps.under_way.values() if step.task is not None]
        left = [task for task in tasks if not task.done()]
        if left:
            _logger.warning("%s ended with steps under way: they are cancelled", self.where())
            for task in left:
                task.cancel()
            await asyncio.wait(left)

    # --- the end --------------------------------------------------------------------------------------------

    async def _write(self, ending: Ending) -> RunStatus | None:
        """Write the end, however long the database is away; a stopping worker does not wait longer than the lease."""
        try:
            async with asyncio.timeout(None) as self._limit:
                self._set_limit()
                verdict = await self._recorder.end(ending)
        except Exception as error:  # noqa: BLE001 - the border of a background loop: the lease runs out, others go on
            self._place.reporter.error("finish", error, run=self.stored)
            await self._recorder.discard()
            return None
        if verdict is Verdict.REFUSED:
            self.steps.interrupt = await self._why()
            return await self._leave()
        self._place.reporter.ended(self.stored, ending)
        return ending.status

    def _set_limit(self) -> None:
        if self._is_stopping and self._limit is not None and self._limit.when() is None:
            loop = asyncio.get_running_loop()
            self._limit.reschedule(loop.time() + self._place.settings.lease_seconds)

    async def _leave(self) -> RunStatus | None:
        """Write nothing but that a cancel interrupted these steps."""
        if isinstance(self.steps.interrupt, Cancelled):
            await self._recorder.settled(LAST_WORD_SECONDS)  # then it is known which of them were stored before it
        await self._recorder.discard()
        if not isinstance(self.steps.interrupt, Cancelled):
            _logger.warning("%s: the lease is lost, what was under way is dropped", self.where())
            return None
        for step in self.steps.cancelled:
            event = DraftEvent(
                type=EventType.STEP_CANCEL,
                at=self._place.environment.now(),
                step=step.name,
                position=step.position,
            )
            try:
                await self._place.database.run(cancel_step(self.tenure.lease, event), timeout=LAST_WORD_SECONDS)
            except (DatabaseUnavailable, UsageError) as error:
                self._place.reporter.error("cancel", error, run=self.stored)
            else:
                self._place.reporter.step_cancelled(self.stored, event)
        return RunStatus.CANCELLED

    def _lease_ended(self, state: LeaseState) -> None:
        """The keeper learned that the lease is void."""
        run_id = self.stored.id
        self.interrupt(Cancelled(run_id) if state is LeaseState.CANCELLED else LeaseLost(run_id))

    async def _refused(self) -> None:
        """A write was refused: find out why, so that the author learns the right reason at once."""
        if self.steps.interrupt is None or isinstance(self.steps.interrupt, Stopping):
            self.interrupt(await self._why())

    async def _why(self) -> Interrupt:
        run_id = self.stored.id
        try:
            run = await self._place.database.read(get_run(run_id), timeout=LAST_WORD_SECONDS)
        except (DatabaseUnavailable, UsageError):
            run = None
        if run is not None and run.status is RunStatus.CANCELLED and run.generation == self.stored.generation:
            return Cancelled(run_id)
        return LeaseLost(run_id)


def _as_exception(fault: BaseException) -> Exception:
    return fault if isinstance(fault, Exception) else RuntimeError(f"{type(fault).__name__}: {fault}")
