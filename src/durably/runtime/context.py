"""What a job's function gets: `Step` in an `async def`, `SyncStep` in a `def`.

This is the face of `Steps`: names, types and documentation. What the calls do is there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import ClassVar, Generic, Literal, TypeVarTuple, Unpack, overload

from typing_extensions import TypeVar

from durably.codec import to_json
from durably.errors import UsageError, ValidationError
from durably.jobs import Target, TriggerOptions
from durably.model import DraftEvent, EventType, Labels, LogEntry, Progress, StoredRun
from durably.rules.outcome import MAX_MESSAGE_BYTES, printable
from durably.runtime.log import StepLog
from durably.runtime.recorder import Entry
from durably.runtime.returns import function_of
from durably.runtime.steps import Key, Replayed, Steps, StepUnderWay, current_step, is_loop_running
from durably.runtime.trigger import Children, TriggerKeywords, options_of

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")
DepsT_co = TypeVar("DepsT_co", covariant=True, default=object)


class _Base(Generic[DepsT_co]):
    """What both colours of step have."""

    def __init__(self, steps: Steps, run: StoredRun, *, deps: DepsT_co, children: Children) -> None:
        self._steps = steps
        self._run = run
        self._deps = deps
        self._children = children
        self._log: StepLog | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._run.job!r}, {self._run.id!r})"

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self._run.id

    @property
    def attempt(self) -> int:
        """Which execution of the run this is, from 1; being handed back by a stopping worker does not count."""
        return self._run.attempt

    @property
    def labels(self) -> Labels:
        """The labels of the run."""
        return self._run.labels

    @property
    def deps(self) -> DepsT_co:
        """What the worker's `deps` provides; None if it has none."""
        return self._deps

    @property
    def idempotency_key(self) -> str:
        """A key for the outside world: the same whenever this step of this run is executed, else never."""
        step = self._current()
        return self._run.id if step is None else f"{self._run.id}:{step.name}"

    @property
    def aborted(self) -> bool:
        """Whether the run was cancelled, lost, or is to be handed back: long blocking code should return soon."""
        return self._steps.is_closed or self._steps.interrupt is not None

    @property
    def log(self) -> StepLog:
        """A standard LoggerAdapter whose lines go to logging (`durably.job`) and to the run's log.

        `extra={...}` becomes the line's data. Lines between steps are stored by the first execution that comes
        there; a replay only passes them on to logging, marked by `replay=True` on the record.
        """
        if self._log is None:
            self._log = StepLog(self._write_log, self._describe)
        return self._log

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the run is. Does not wait: many calls in a row are stored as the last one."""
        for name, value in (("current", current), ("total", total)):
            if value is not None and not _is_number(value):
                raise ValidationError(name, f"must be a finite number, not {value!r}")
        message = None if message is None else printable(str(message), max_bytes=MAX_MESSAGE_BYTES)
        if self._current() is None and self._steps.is_replaying:
            return
        fields = {"current": current, "total": total, "message": message}
        event = DraftEvent(
            type=EventType.RUN_PROGRESS,
            at=self._steps.environment.now(),
            payload_json=to_json({name: value for name, value in fields.items() if value is not None}),
        )
        progress = Progress(current=current, total=total, message=message)
        self._steps.note(Entry(event, progress=progress))

    async def _enqueue(self, job: Target[InputT, OutputT] | str, input: InputT, options: TriggerOptions) -> str:
        step = self._current()
        name = _trigger_name(job) if step is None else step.name
        return await self._children.trigger(self._run, name, job, input, options)

    def _current(self) -> StepUnderWay | None:
        step = current_step.get()
        return step if step is not None and step.run_id == self._run.id else None

    def _write_log(self, line: LogEntry) -> None:
        step = self._current()
        if step is None and self._steps.is_replaying:
            return
        event = DraftEvent(
            type=EventType.LOG_WRITE,
            at=self._steps.environment.now(),
            step=None if step is None else step.name,
            position=None if step is None else step.position,
            log=line,
        )
        self._steps.note(Entry(event))

    def _describe(self) -> dict[str, object]:
        step = self._current()
        return {
            "run_id": self._run.id,
            "job": self._run.job,
            "step": None if step is None else step.name,
            "attempt": self._run.attempt,
            "replay": step is None and self._steps.is_replaying,
        }


class Step(_Base[DepsT_co]):
    """What an `async def` job gets: its steps, progress, log and what the worker provides (`Step[Deps]`)."""

    colour: ClassVar[Literal["async"]] = "async"

    @overload
    async def run(
        self, name: str, fn: Callable[[Unpack[Ts]], object], *args: *Ts, returns: type[T], key: Key | None = None
    ) -> T: ...
    @overload
    async def run(
        self, name: str, fn: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts, key: Key | None = None
    ) -> T: ...
    @overload
    async def run(self, name: str, fn: Callable[[Unpack[Ts]], T], *args: *Ts, key: Key | None = None) -> T: ...
    async def run(
        self,
        name: str,
        fn: Callable[..., object],
        *args: object,
        key: Key | None = None,
        returns: object = None,
    ) -> object:
        """Return what `fn(*args)` returns, stored under `name`: in a replay `fn` is not called again.

        A plain function is called in a thread. In a loop give each round its `key`: `insert[0]`, `insert[1]`, ...
        The value is decoded to `returns`, else to the return annotation of `fn`, else to plain JSON. Raises what
        `fn` raises, DuplicateStep, and SerializationError for a value that JSON would change.
        """
        steps = self._steps
        function = function_of(name, fn, returns)
        step = steps.begin_new(name, key, function.codec)
        if step is None:
            begun = await steps.begin(name, key, function.codec)
            if isinstance(begun, Replayed):
                return begun.value
            step = begun
        return await steps.perform(step, fn, args, is_async=function.is_async)

    async def trigger(
        self,
        job: Target[InputT, OutputT] | str,
        input: InputT,
        *,
        key: Key | None = None,
        **options: Unpack[TriggerKeywords],
    ) -> str:
        """Trigger a run, exactly once also on replay; returns its id.

        It is the step `trigger:<job>`: `key` tells several triggers of one job apart. The other options, and what
        is raised, are those of `Durably.trigger`.
        """
        name = _trigger_name(job)
        return await self.run(name, self._enqueue, job, input, options_of(options), key=key)


class SyncStep(_Base[DepsT_co]):
    """What a `def` job gets, which runs in a thread: the same as `Step`, but its calls block."""

    colour: ClassVar[Literal["sync"]] = "sync"

    @overload
    def run(
        self, name: str, fn: Callable[[Unpack[Ts]], object], *args: *Ts, returns: type[T], key: Key | None = None
    ) -> T: ...
    @overload
    def run(self, name: str, fn: Callable[[Unpack[Ts]], T], *args: *Ts, key: Key | None = None) -> T: ...
    def run(
        self,
        name: str,
        fn: Callable[..., object],
        *args: object,
        key: Key | None = None,
        returns: object = None,
    ) -> object:
        """Return what `fn(*args)` returns, stored under `name`: in a replay `fn` is not called again.

        `fn` is called in the thread of the job. The rest is as in `Step.run`.
        """
        function = function_of(name, fn, returns)
        if function.is_async:
            raise UsageError(f"step {name!r}: a def job cannot run an async function; make the job an async def")
        begun = self._wait(self._steps.begin(name, key, function.codec))
        if isinstance(begun, Replayed):
            return begun.value
        token = current_step.set(begun)
        try:
            value = fn(*args)
        except BaseException as error:
            self._steps.loop.call_soon_threadsafe(self._steps.fail, begun, error)
            raise
        finally:
            current_step.reset(token)
        return self._wait(self._steps.complete(begun, value))

    def trigger(
        self,
        job: Target[InputT, OutputT] | str,
        input: InputT,
        *,
        key: Key | None = None,
        **options: Unpack[TriggerKeywords],
    ) -> str:
        """Trigger a run, exactly once also on replay; returns its id. See `Step.trigger`."""
        name = _trigger_name(job)
        return self.run(name, self._enqueue_blocking, job, input, options_of(options), key=key)

    def _enqueue_blocking(self, job: Target[InputT, OutputT] | str, input: InputT, options: TriggerOptions) -> str:
        return self._wait(self._enqueue(job, input, options))

    def _wait(self, work: Coroutine[object, object, T]) -> T:
        if is_loop_running(self._steps.loop):
            work.close()
            raise UsageError("a SyncStep blocks, so it cannot be used in the event loop: use it in its job's thread")
        steps = self._steps
        return steps.environment.wait(asyncio.run_coroutine_threadsafe(steps.bridge(work), steps.loop))


def _trigger_name(job: Target[InputT, OutputT] | str) -> str:
    return f"trigger:{job if isinstance(job, str) else job.name}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
