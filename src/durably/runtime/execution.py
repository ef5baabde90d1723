"""One leased run from its checkpoints to its end: `Execution.run()`.

User code runs in a task of its own and never raises out of it. What follows is decided by `rules.outcome` from a
value, and written after the user code is over, as often as it takes until the database has answered.
"""

from __future__ import annotations

import asyncio
import logging
from _thread import interrupt_main
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from durably.environment import Environment
from durably.errors import (
    Cancelled,
    DurablyError,
    Interrupt,
    LeaseLost,
    SerializationError,
    Stopping,
)
from durably.jobs import Job
from durably.model import DraftEvent, Ending, EventType, Lease, LeaseState, RunStatus, StoredRun, Verdict
from durably.rules import outcome
from durably.runtime import log
from durably.runtime.context import Step, SyncStep
from durably.runtime.flusher import Flusher
from durably.runtime.recorder import Entry, Recorder, Send
from durably.runtime.reporting import Reporter
from durably.runtime.settings import Settings
from durably.runtime.steps import Steps, is_loop_running
from durably.runtime.tenure import Tenure
from durably.runtime.threads import Raised, Result, Returned, Threads
from durably.runtime.trigger import Children
from durably.store.database import Database
from durably.store.runs import get_run
from durably.store.steps import cancel_step, load_steps

LAST_WORD_SECONDS = 5.0
"""How long what is only nice to have (why a lease ended, a `step:cancel`) may take."""

_logger = logging.getLogger("durably.worker")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """What the executions of one worker share."""

    database: Database
    environment: Environment
    settings: Settings
    reporter: Reporter
    threads: Threads
    children: Children
    loop: asyncio.AbstractEventLoop
    """Asking for the running loop is a system call, which is dear on some machines."""
    flusher: Flusher
    send: Send
    deps: object


class Execution:
    """A leased run in the hands of this worker. `tenure` is for the keeper, `interrupt` for whoever ends it."""

    # what most executions never change is not set for each of them
    older: asyncio.Task[None] | None = None
    """The execution of the same run here under an older lease. It ends first, however long its code takes."""
    _task: asyncio.Task[Any] | None = None
    """The task that runs user code, while it does."""
    _end: asyncio.Future[Verdict] | None = None
    _is_given_up = False
    _is_stopping = False
    _was_cancelled = False
    _was_interrupted_by_hand = False

    def __init__(
        self,
        place: Workplace,
        run: StoredRun,
        job: Job[Any, Any],
        *,
        until: float,
        over: Callable[[Execution], None],
    ) -> None:
        """`until` is where the belief in the lease ends, in monotonic seconds.

        `over` is told once, when no user code of the run goes on any more and its end is about to be written.
        """
        self.stored = run
        lease = Lease(run.id, run.generation)
        self.tenure = Tenure(lease, until=until, environment=place.environment, ended=self._lease_ended)
        self._place = place
        self._job = job
        self._over = over
        self._recorder = Recorder(
            place.send,
            lease,
            concurrency_key=run.concurrency_key,
            author=self,
            flusher=place.flusher,
            loop=place.loop,
        )
        self.steps = Steps(
            loop=place.loop,
            environment=place.environment,
            recorder=self._recorder,
            tenure=self.tenure,
            threads=place.threads,
            max_value_bytes=place.settings.max_value_bytes,
        )

    async def run(self) -> RunStatus | None:
        """Execute the run. Returns how it ended: `pending` when handed back, None when the lease was lost.

        When the task is cancelled the run is handed back first. After a KeyboardInterrupt in user code it is
        handed back too, and the main thread interrupted: raised here it would stop the loop amid everything else.
        """
        if self.older is not None:
            await self._patiently(self._place.loop.create_task(_ended(self.older)))
        finish = await self._user_code()
        self.steps.close()
        if self.steps.under_way:
            await self._patiently(self._place.loop.create_task(self._end_leftovers()))
        self._over(self)
        status = await self._conclude(finish)
        if self._was_interrupted_by_hand:
            interrupt_main()
        if self._was_cancelled:
            raise CancelledError
        return status

    def interrupt(self, reason: Interrupt) -> None:
        """End the user code: a cancelled task, and an Interrupt at its next step. Code in threads only sees that."""
        if isinstance(reason, Stopping):
            self._is_stopping = True
            self._limit_end()
        if self.steps.stop(reason) and self._task is not None:
            self._task.cancel()

    def release(self) -> None:
        """It is over. Takes apart what refers to each other, so that it is freed at once."""
        self._recorder.release()
        self.tenure.release()

    def where(self) -> str:
        """Which run this is and what it does, for messages."""
        names = ", ".join(self.steps.under_way) or "none"
        return f"run {self.stored.id} of job {self.stored.job!r} (step: {names})"

    # --- user code ------------------------------------------------------------------------------------------

    async def _user_code(self) -> outcome.Finish | None:
        """What the user code came to; None when it could not even begin for a reason that is not its own."""
        result: Result[object] | None = None
        fault: Exception | None = None
        if self.steps.interrupt is None:
            self._task = asyncio.current_task(self._place.loop)
            try:
                result = await self.call_user()
            except CancelledError:
                result = None
            except Exception as error:  # noqa: BLE001 - the border of a background task: reported, not lost
                fault = error
            task, self._task = self._task, None
            if task is not None and task.cancelling():
                await self._calm(task, result)
        if fault is not None:
            self._place.reporter.error("execute", fault, run=self.stored)
            return None
        return self._finish(result)

    async def _calm(self, task: asyncio.Task[Any], result: Result[object] | None) -> None:
        """Take the cancels off this task, which were meant for user code. One that was not ours hands the run back.

        The count says nothing about whose they are: a TaskGroup of the user's that fails leaves one behind.
        """
        was_cancelled = result is None or (isinstance(result, Raised) and isinstance(result.error, CancelledError))
        if was_cancelled and self.steps.interrupt is None:
            self._was_cancelled = True
            self.interrupt(Stopping(self.stored.id))
        with suppress(CancelledError):
            await asyncio.sleep(0)  # a cancel that was not delivered yet comes here
        while task.cancelling():
            task.uncancel()

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
            token = log.current.set(blocking)
            try:
                return (await place.threads.call(partial(self._job.call, blocking, value)))[0]
            finally:
                log.current.reset(token)
        step = Step(self.steps, run, deps=place.deps, children=place.children)
        token = log.current.set(step)
        try:
            return Returned(await self._job.call(step, value))
        except BaseException as error:
            if not is_loop_running(place.loop):
                raise  # the loop was closed with the run under way: nothing can be awaited any more
            return Raised(error)
        finally:
            log.current.reset(token)

    def _finish(self, result: Result[object] | None) -> outcome.Finish:
        """None is for user code that was interrupted before it began."""
        interrupt = self.steps.interrupt
        if interrupt is not None and not isinstance(interrupt, Stopping):
            return outcome.Interrupted(interrupt)
        if isinstance(result, Returned):
            return self._returned(result.value)
        if result is None:
            return outcome.Interrupted(Stopping(self.stored.id))
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
        tasks = [step.task for step in self.steps.under_way.values() if step.task is not None]
        left = [task for task in tasks if not task.done()]
        if left:
            _logger.warning("%s ended with steps under way: they are cancelled", self.where())
            for task in left:
                task.cancel()
            await asyncio.wait(left)

    async def _patiently(self, waited: asyncio.Future[T]) -> T:
        """Wait for this even when the task is cancelled; that is made up for at the end."""
        while True:
            try:
                return await asyncio.shield(waited)
            except CancelledError:
                if waited.cancelled():
                    raise
                self._was_cancelled = True
                self.interrupt(Stopping(self.stored.id))

    # --- the end --------------------------------------------------------------------------------------------

    async def _conclude(self, finish: outcome.Finish | None) -> RunStatus | None:
        if finish is None:
            self._recorder.discard()
            return None
        ending = outcome.decide(finish, preserve_steps=self._job.preserve_steps and self._place.settings.preserve_steps)
        if ending is None:
            return await self._patiently(self._place.loop.create_task(self._leave()))
        verdict = await self._write(ending)
        if verdict is Verdict.STORED:
            self._place.reporter.ended(self.stored, ending)
            return ending.status
        if verdict is None:
            self._recorder.discard()
            return None
        return await self._patiently(self._place.loop.create_task(self._find_why_and_leave()))

    async def _write(self, ending: Ending) -> Verdict | None:
        """Write the end, however long the database is away; a stopping worker does not wait longer than the lease."""
        self._end = self._recorder.end(ending)
        if self._is_stopping:
            self._limit_end()
        while True:
            try:
                return await self._end
            except CancelledError:  # it is waited for all the same
                if self._is_given_up:
                    error = TimeoutError("the database is away for longer than the lease")
                    self._place.reporter.error("finish", error, run=self.stored)
                    return None
                self._was_cancelled = True
                self._end = self._recorder.end_again()
                self.interrupt(Stopping(self.stored.id))
            except Exception as failed:  # noqa: BLE001 - the border of a background loop: the lease runs out, others go on
                self._place.reporter.error("finish", failed, run=self.stored)
                return None

    def _limit_end(self) -> None:
        if self._end is not None and not self._end.done():
            self._place.loop.call_later(self._place.settings.lease_seconds, self._give_up_end)

    def _give_up_end(self) -> None:
        if self._end is not None and not self._end.done():
            self._is_given_up = True
            self._end.cancel()

    async def _find_why_and_leave(self) -> RunStatus | None:
        self.steps.interrupt = await self._why()
        return await self._leave()

    async def _leave(self) -> RunStatus | None:
        """Write nothing but that a cancel interrupted these steps."""
        if isinstance(self.steps.interrupt, Cancelled):
            await self._recorder.settled(LAST_WORD_SECONDS)  # then it is known which of them were stored before it
        self._recorder.discard()
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
            except DurablyError as error:
                self._place.reporter.error("cancel", error, run=self.stored)
            else:
                self._place.reporter.step_cancelled(self.stored, event)
        return RunStatus.CANCELLED

    def _lease_ended(self, state: LeaseState) -> None:
        """The keeper learned that the lease is void."""
        run_id = self.stored.id
        self.interrupt(Cancelled(run_id) if state is LeaseState.CANCELLED else LeaseLost(run_id))

    # --- told by the recorder -------------------------------------------------------------------------------

    def announce(self, entries: Sequence[Entry]) -> None:
        """See `Author`."""
        self._place.reporter.stored(self.stored, entries)

    def write_failed(self, error: Exception) -> None:
        """See `Author`."""
        self._place.reporter.error("write", error, run=self.stored)

    async def refused(self) -> None:
        """See `Author`. A write was refused: find out why, so that the author learns the right reason at once."""
        if self.steps.interrupt is None or isinstance(self.steps.interrupt, Stopping):
            self.interrupt(await self._why())

    async def _why(self) -> Interrupt:
        run_id = self.stored.id
        try:
            run = await self._place.database.read(get_run(run_id), timeout=LAST_WORD_SECONDS)
        except DurablyError:
            run = None
        if run is not None and run.status is RunStatus.CANCELLED and run.generation == self.stored.generation:
            return Cancelled(run_id)
        return LeaseLost(run_id)


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task})
