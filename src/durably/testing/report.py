"""What a run did: its executions, the steps that were called in each, and what is stored of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Literal, TypeAlias, TypeVar

from durably.errors import RunCancelled, RunFailed, UsageError
from durably.model import Event, LogLine, Progress, Run, RunError, RunStatus

OutputT = TypeVar("OutputT")

Ended: TypeAlias = Literal["running", "completed", "failed", "cancelled", "crashed", "handed back"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCall:
    """One call of a step's function, or of what the script put in its place."""

    step: str
    """With its key: `insert[3]`."""
    args: tuple[object, ...]
    result: object = None
    error: BaseException | None = None
    """What it raised; None when it returned."""


@dataclass(slots=True, kw_only=True)
class ExecutionReport:
    """One execution of a run, from a claim to its end or to a crash."""

    generation: int
    attempt: int
    at: datetime
    calls: list[StepCall] = field(default_factory=list[StepCall])
    """In the order in which they ended."""
    executed: list[str] = field(default_factory=list[str])
    """Names of the steps whose function was called, in the order in which they started."""
    replayed: list[str] = field(default_factory=list[str])
    """Names of the steps whose result was stored before, in order."""
    progress: list[Progress] = field(default_factory=list[Progress])
    """Every call of `step.progress`; of many in a row the run itself keeps the last."""
    ended: Ended = "running"
    exception: BaseException | None = None
    """What left the job's function; None when it returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport(Generic[OutputT]):
    """What became of a run, and how."""

    run: Run[OutputT]
    executions: Sequence[ExecutionReport]
    events: Sequence[Event]
    logs: Sequence[LogLine]

    @property
    def status(self) -> RunStatus:
        """Where the run is in its life."""
        return self.run.status

    @property
    def output(self) -> OutputT:
        """What the job returned. Raises RunFailed, caused by what the job raised; RunCancelled; UsageError before."""
        run = self.run
        if run.status is RunStatus.FAILED:
            raise RunFailed(run.id, run.error) from self.exception
        if run.status is RunStatus.CANCELLED:
            raise RunCancelled(run.id)
        if run.output_json is None:
            raise UsageError(f"run {run.id} is {run.status}, it has no output yet")
        return run.types.decode_output(run.id, run.output_json)

    @property
    def error(self) -> RunError | None:
        """What the run failed with, as it is stored; None when it did not."""
        return self.run.error

    @property
    def exception(self) -> BaseException | None:
        """What left the job's function in its last execution: the object itself."""
        return self.executions[-1].exception if self.executions else None

    @property
    def executed(self) -> list[str]:
        """The steps whose function was called, over all executions, in order. A repeated one appears again."""
        return [name for execution in self.executions for name in execution.executed]

    @property
    def progress(self) -> list[Progress]:
        """Every call of `step.progress`, over all executions."""
        return [progress for execution in self.executions for progress in execution.progress]

    @property
    def messages(self) -> list[str]:
        """The messages of the run's log."""
        return [line.message for line in self.logs]

    @property
    def story(self) -> list[str]:
        """The stored events, in short: `run:trigger`, `step:start charge`, ..."""
        return [f"{event.type} {event.step or ''}".strip() for event in self.events]

    def calls(self, step: str) -> list[StepCall]:
        """The calls of a step's function, over all executions."""
        return [call for execution in self.executions for call in execution.calls if call.step == step]
