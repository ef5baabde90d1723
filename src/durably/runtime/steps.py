"""The steps of one execution: what is stored already, what is under way, and why no more may start.

Everything here happens in the worker's loop. A step's name is taken from its start on; a step that failed or was
cancelled gives its name back. What a run logs between steps while it replays was stored the first time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from inspect import isawaitable
from typing import TypeAlias, TypeVar

from durably.codec import Codec, to_json
from durably.environment import Environment
from durably.errors import Cancelled, DuplicateStep, Interrupt, LeaseLost, SerializationError, Stopping
from durably.model import DraftEvent, EventType, Lease, RunError, StepRecord, StepStatus, Verdict
from durably.rules.outcome import capture
from durably.rules.step_names import step_name
from durably.runtime.failures import Failures
from durably.runtime.recorder import Entry, Recorder
from durably.runtime.tenure import Tenure
from durably.runtime.threads import Raised, Threads

T = TypeVar("T")

Key: TypeAlias = str | int


@dataclass(slots=True, eq=False)
class StepUnderWay:
    """A step between its start and its end."""

    run_id: str
    name: str
    position: int
    codec: Codec[object]
    started_at: datetime
    task: asyncio.Task[object] | None
    """The task that runs it; None for the steps of a job in a thread."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a step returned when it was executed."""

    value: object


current_step: ContextVar[StepUnderWay | None] = ContextVar("durably_step", default=None)


class Steps:
    """What the steps of one execution share."""

    # what most executions never change is not set for each of them
    is_closed = False
    """Whether the user code is over, so that no step may start any more."""
    interrupt: Interrupt | None = None
    cancelled: Sequence[StepUnderWay] = ()
    """Steps that a cancel of the run interrupted, in the order in which they ended."""
    _bridges: frozenset[asyncio.Task[object]] = frozenset()
    _late: dict[str, asyncio.Future[Verdict]] | None = None
    """Steps whose task was cancelled while their result was being stored."""
    _to_replay = 0
    _next = 0

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        environment: Environment,
        recorder: Recorder,
        tenure: Tenure,
        threads: Threads,
        max_value_bytes: int,
    ) -> None:
        self.lease: Lease = tenure.lease
        self.loop = loop
        self.environment = environment
        self.under_way: dict[str, StepUnderWay] = {}
        self._recorder = recorder
        self._tenure = tenure
        self._threads = threads
        self.max_bytes = max_value_bytes
        self._stored: dict[str, StepRecord] = {}
        self._used: set[str] = set()

    def load(self, records: Sequence[StepRecord]) -> None:
        """Take over what earlier executions stored."""
        self._stored = {record.name: record for record in records}
        self._to_replay = sum(record.status is StepStatus.COMPLETED for record in records)

    @cached_property
    def failures(self) -> Failures:
        """Which step each exception left."""
        return Failures()

    @property
    def is_replaying(self) -> bool:
        """Whether the code has not yet come as far as an earlier execution did."""
        return self._to_replay > 0

    def stop(self, reason: Interrupt) -> bool:
        """Let no step start any more, and free the threads that wait for the loop. Returns whether that is new."""
        if self.interrupt is not None and (not isinstance(self.interrupt, Stopping) or isinstance(reason, Stopping)):
            return False
        self.interrupt = reason
        self._free_threads()
        return True

    def close(self) -> None:
        """The user code is over: no step begins behind the end."""
        self.is_closed = True
        if self._bridges:
            self._free_threads()

    def _free_threads(self) -> None:
        for task in self._bridges:
            task.cancel()

    def check(self) -> None:
        """Raise the Interrupt if there is one."""
        if self.interrupt is not None:
            raise type(self.interrupt)(self.lease.run_id)
        if self.is_closed:
            raise LeaseLost(self.lease.run_id)

    # --- the life of a step ---------------------------------------------------------------------------------

    def begin_new(self, name: str, key: Key | None, codec: Codec[object]) -> StepUnderWay | None:
        """Start a step that can start at once; None when `begin` has to take a closer look. Raises ValidationError."""
        full = step_name(name, key)
        if self.interrupt is not None or self.is_closed or self._late or not self._tenure.is_certain:
            return None
        if full in self._used or full in self._stored:
            return None
        self._used.add(full)
        return self._start(full, codec, self._next)

    async def begin(self, name: str, key: Key | None, codec: Codec[object]) -> StepUnderWay | Replayed:
        """Start a step, or find what it returned before. Raises DuplicateStep, or the Interrupt."""
        self.check()
        full = step_name(name, key)
        if full in self._used:
            raise DuplicateStep(full)
        self._used.add(full)
        try:
            return await self._resume(full, codec)
        except BaseException:
            self._used.discard(full)
            raise

    async def _resume(self, name: str, codec: Codec[object]) -> StepUnderWay | Replayed:
        late = self._late.pop(name, None) if self._late else None
        if late is not None and await asyncio.shield(late) is Verdict.REFUSED:
            self.check()
        record = self._stored.get(name)
        if record is not None and record.output_json is not None:
            value = codec.decode(record.output_json, where=f"step {name!r}")
            del self._stored[name]
            self._to_replay -= 1
            self._next = max(self._next, record.position + 1)
            return Replayed(value)
        if not self._tenure.is_certain:
            await self._tenure.certain()
            self.check()
        return self._start(name, codec, self._next if record is None else record.position)

    def _start(self, name: str, codec: Codec[object], position: int) -> StepUnderWay:
        step = StepUnderWay(
            run_id=self.lease.run_id,
            name=name,
            position=position,
            codec=codec,
            started_at=self.environment.now(),
            task=asyncio.current_task(self.loop),
        )
        self._next = max(self._next, position + 1)
        self._to_replay = 0
        self.under_way[name] = step
        self._recorder.add(Entry(_event(EventType.STEP_START, step, step.started_at)))
        return step

    async def perform(
        self, step: StepUnderWay, fn: Callable[..., object], args: tuple[object, ...], *, is_async: bool
    ) -> object:
        """Call the function of a step that began, and store what became of it."""
        token = current_step.set(step)
        try:
            if is_async:
                result = fn(*args)
                value, was_cancelled = (await result if isawaitable(result) else result), False
            else:
                value, was_cancelled = await self._call_in_thread(fn, args)
        except SystemExit as error:
            # let through it would end the process: a library that gives up must not take the worker along
            failure = RuntimeError(f"step {step.name!r} raised SystemExit({error.code!r})")
            self.fail(step, failure)
            raise failure from error
        except BaseException as error:
            self.fail(step, error)
            raise
        finally:
            current_step.reset(token)
        value = await self.complete(step, value)
        if was_cancelled:
            raise asyncio.CancelledError
        return value

    async def _call_in_thread(self, fn: Callable[..., object], args: tuple[object, ...]) -> tuple[object, bool]:
        outcome, was_cancelled = await self._threads.call(partial(fn, *args))
        if isinstance(outcome, Raised):
            raise outcome.error
        value = outcome.value
        return (await value if isawaitable(value) else value), was_cancelled

    async def complete(self, step: StepUnderWay, value: object) -> object:
        """Store what the step returned; returns what a replay returns. Raises SerializationError, or the Interrupt."""
        if self.is_closed or (self.interrupt is not None and not isinstance(self.interrupt, Stopping)):
            self._leave(step)
            self.check()
        try:
            text, decoded = step.codec.round_trip(value, where=f"step {step.name!r}", max_bytes=self.max_bytes)
        except SerializationError as error:
            self.fail(step, error)
            raise
        record = self._record(step, StepStatus.COMPLETED, text, None)
        entry = Entry(_event(EventType.STEP_COMPLETE, step, record.completed_at), step=record)
        stored = self._recorder.store(entry)
        del self.under_way[step.name]
        try:
            verdict = await stored
        except asyncio.CancelledError:
            # the write goes on: if the step is asked for again, it is waited for and replayed
            stored = self._recorder.again(entry)
            stored.add_done_callback(partial(self._learn, step))
            self._late = self._late or {}
            self._late[step.name], self._stored[step.name] = stored, record
            self._used.discard(step.name)
            raise
        if verdict is Verdict.REFUSED:
            self._leave(step)
            self.check()
            raise LeaseLost(self.lease.run_id)
        return decoded

    def fail(self, step: StepUnderWay, error: BaseException) -> None:
        """Note that the step raised. That is stored with the next write, unless the run was interrupted."""
        self._leave(step)
        self._used.discard(step.name)
        if self.is_closed or self.interrupt is not None or isinstance(error, Interrupt):
            return
        self.failures.add(error, step.name)
        described = capture(error, step=step.name)
        record = self._stored[step.name] = self._record(step, StepStatus.FAILED, None, described)
        event = _event(EventType.STEP_FAIL, step, record.completed_at, _payload(described))
        self._recorder.add(Entry(event, step=record))

    def _learn(self, step: StepUnderWay, stored: asyncio.Future[Verdict]) -> None:
        """Take note of what became of a write that nobody waits for; an error was reported by the recorder."""
        if not stored.cancelled() and stored.exception() is None and stored.result() is Verdict.REFUSED:
            self._leave(step)

    def _leave(self, step: StepUnderWay) -> None:
        self.under_way.pop(step.name, None)
        if isinstance(self.interrupt, Cancelled):
            self.cancelled = (*self.cancelled, step)

    def _record(
        self, step: StepUnderWay, status: StepStatus, output_json: str | None, error: RunError | None
    ) -> StepRecord:
        return StepRecord(
            run_id=step.run_id,
            name=step.name,
            position=step.position,
            status=status,
            output_json=output_json,
            error=error,
            generation=self.lease.generation,
            started_at=step.started_at,
            completed_at=self.environment.now(),
            replaces=step.name in self._stored,
        )

    # --- from other threads ---------------------------------------------------------------------------------

    async def bridge(self, work: Awaitable[T]) -> T:
        """Do `work` for a thread that waits for it; an interrupt ends the wait."""
        task = asyncio.current_task()
        if task is not None:
            self._bridges |= {task}
            task.add_done_callback(self._has_crossed)
        try:
            return await work
        except asyncio.CancelledError:
            self.check()
            raise

    def _has_crossed(self, task: asyncio.Task[object]) -> None:
        self._bridges -= {task}

    def note(self, entry: Entry) -> None:
        """Let a log line or progress ride on the next write, from whatever thread it comes."""
        if is_loop_running(self.loop):
            self._recorder.add(entry)
        else:
            with suppress(RuntimeError):  # the loop is closed: the process ends
                self.loop.call_soon_threadsafe(self._recorder.add, entry)


def is_loop_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this is called in the thread of `loop`."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _event(type: EventType, step: StepUnderWay, at: datetime, payload: str | None = None) -> DraftEvent:  # noqa: A002 - the word of the events
    return DraftEvent(type=type, at=at, step=step.name, position=step.position, payload_json=payload)


def _payload(error: RunError) -> str:
    return to_json({"error": {"type": error.type, "message": error.message}})
