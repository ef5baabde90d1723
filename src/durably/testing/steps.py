"""The steps that a job gets in the harness: the real ones, with a script between them and their functions."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from inspect import isawaitable
from typing import Any

from durably.errors import LeaseLost
from durably.jobs import Target
from durably.model import Progress
from durably.rules.step_names import step_name
from durably.runtime.context import Step, SyncStep
from durably.runtime.execution import Execution
from durably.runtime.returns import is_async, return_type
from durably.runtime.steps import is_loop_running
from durably.testing.report import ExecutionReport, StepCall
from durably.testing.script import Crashes, Script, ScriptError, perform, perform_blocking


@dataclass(slots=True, kw_only=True)
class Direction:
    """What the steps of one execution are told to do, and where they note what they did."""

    execution: Execution
    report: ExecutionReport
    script: Script
    crashes: Crashes
    loop: asyncio.AbstractEventLoop
    is_blocking: bool
    """Whether it is a `def` job."""
    begun: Counter[str] = field(default_factory=Counter[str])
    """How often the function of each step was called."""
    fault: ScriptError | None = None
    """What is wrong with the test: raised by the harness, since the job may well catch it."""

    def wrap(self, step: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        """The step's function with the script around it; async if the function is."""
        return _async(self, step, fn) if is_async(fn) else partial(self.call, step, fn)

    def begin(self, step: str) -> object:
        """What this call is to come to."""
        self.begun[step] += 1
        self.report.executed.append(step)
        return self.script.outcome(step)

    def call(self, step: str, fn: Callable[..., Any], /, *args: object) -> object:
        """Do what the script says, or call the function; note it."""
        act = perform_blocking if self.is_blocking else perform
        try:
            result = act(self.begin(step), fn, args)
        except BaseException as error:
            if isinstance(error, ScriptError):
                self.fault = error
            self.note(step, args, None, error)
            raise
        if isawaitable(result):
            return _awaited(self, step, args, result)
        self.note(step, args, result, None)
        return result

    def note(self, step: str, args: tuple[object, ...], result: object, error: BaseException | None) -> None:
        """Write down a call, and die if it is time to."""
        self.report.calls.append(StepCall(step=step, args=args, result=result, error=error))
        if error is None and self.crashes.has_come(step, self.crashes.during):
            self.crash()

    def after(self, step: str, *, was_called: bool) -> None:
        """The result of a step is there, stored just now or before."""
        if not was_called:
            self.script.meet(step)
            self.report.replayed.append(step)
        elif self.crashes.has_come(step, self.crashes.after):
            self.crash()

    def crash(self) -> None:
        """End the execution as the death of its process does: nothing more is written, the lease runs out."""
        lost = LeaseLost(self.execution.stored.id)
        self.report.ended = "crashed"
        if is_loop_running(self.loop):
            self.execution.interrupt(lost)
        else:
            self.loop.call_soon_threadsafe(self.execution.interrupt, lost)
        raise lost


def _async(direction: Direction, step: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*args: object) -> object:
        result = direction.call(step, fn, *args)
        return await result if isawaitable(result) else result

    return call


async def _awaited(direction: Direction, step: str, args: tuple[object, ...], result: Any) -> object:  # noqa: ANN401 - an awaitable of anything
    try:
        value = await result
    except BaseException as error:
        direction.note(step, args, None, error)
        raise
    direction.note(step, args, value, None)
    return value


def _returns(fn: Callable[..., Any], returns: object) -> object:
    """The type that the step has without a script."""
    found = return_type(fn) if returns is None else returns
    return type(None) if found is None else found


def _is_step(fn: object) -> bool:
    return callable(fn) and not isinstance(fn, Target)


class ScriptedStep(Step[Any]):
    """A `Step` that does what the script says."""

    def __init__(self, step: Step[Any], direction: Direction) -> None:
        vars(self).update(vars(step))
        self._direction = direction

    async def run(self, name: str, fn: Any, *args: Any, **options: Any) -> Any:  # type: ignore[override] # noqa: ANN401 - its callers see `Step`
        """See `Step.run`."""
        if not _is_step(fn):
            return await super().run(name, fn, *args, **options)
        full = step_name(name, options.get("key"))
        options["returns"] = _returns(fn, options.get("returns"))
        count = self._direction.begun[full]
        value = await super().run(name, self._direction.wrap(full, fn), *args, **options)
        self._direction.after(full, was_called=self._direction.begun[full] > count)
        return value

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """See `Step.progress`."""
        super().progress(current, total, message)
        self._direction.report.progress.append(Progress(current=current, total=total, message=message))


class ScriptedSyncStep(SyncStep[Any]):
    """A `SyncStep` that does what the script says."""

    def __init__(self, step: SyncStep[Any], direction: Direction) -> None:
        vars(self).update(vars(step))
        self._direction = direction

    def run(self, name: str, fn: Any, *args: Any, **options: Any) -> Any:  # type: ignore[override] # noqa: ANN401 - its callers see `SyncStep`
        """See `SyncStep.run`."""
        if not _is_step(fn) or is_async(fn):
            return super().run(name, fn, *args, **options)
        full = step_name(name, options.get("key"))
        options["returns"] = _returns(fn, options.get("returns"))
        count = self._direction.begun[full]
        value = super().run(name, self._direction.wrap(full, fn), *args, **options)
        self._direction.after(full, was_called=self._direction.begun[full] > count)
        return value

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """See `SyncStep.progress`."""
        super().progress(current, total, message)
        self._direction.report.progress.append(Progress(current=current, total=total, message=message))
