"""`harness`: runs jobs to their end in a test, without a worker and without real time.

Everything is real but the time: the steps, the checkpoints, the SQLite database in memory that they are stored in, and
what the job itself calls. Runs are executed one after the other, in the event loop of the test, beside whatever
drivers it uses.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar, Unpack, overload

from durably.app import Durably
from durably.errors import JobNotFound, RunNotFound, UsageError, ValidationError
from durably.jobs import Target
from durably.model import LogLine, Run
from durably.runtime.reading import check_run_id
from durably.runtime.trigger import TriggerKeywords
from durably.testing.clock import ManualClock
from durably.testing.kernel import HarnessDurably, Jobs, Kernel
from durably.testing.report import ExecutionReport, RunReport
from durably.testing.script import Crashes, Script, names_of

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")

LEASE = timedelta(seconds=30)


@asynccontextmanager
async def harness(
    jobs: Jobs,
    *,
    deps: object = None,
    steps: Mapping[str, object] | None = None,
    clock: ManualClock | None = None,
    url: str = "sqlite:///:memory:",
    max_executions: int = 100,
    max_runs: int = 1000,
    **settings: Any,  # noqa: ANN401 - as typed by `Durably`
) -> AsyncGenerator[Harness]:
    """Lend a `Harness` for these jobs: `Job` objects, or names of modules.

    Jobs read `deps` itself as `step.deps`. `steps` says what steps come to, in every run: a value that is returned, an
    exception that is raised, a function that is called instead, or several of these with `in_turn`. At the end each
    name in it must have been met: ScriptError. The time is that of `clock`, and stands still unless it is moved. A run
    that is executed more than `max_executions` times is given up, and so is a call that executes more than `max_runs`
    times, as it does when a job triggers itself without a delay. `settings` are those of `Durably`.
    """
    if not url.startswith("sqlite:"):
        raise ValidationError("url", "the harness sets the time, and PostgreSQL judges by its own: use sqlite:///...")
    clock = clock or ManualClock()
    options: dict[str, Any] = {"lease": LEASE} | settings
    async with HarnessDurably(url, environment=clock, **options) as durably:
        kernel = await durably.kernel(jobs, clock, deps)
        kernel.script = Script(steps)
        held = Harness(durably, clock, kernel, max_executions=max_executions, max_runs=max_runs)
        try:
            yield held
        finally:
            kernel.close()
        kernel.script.check(held.steps_seen())


class Harness:
    """Triggers runs and executes them. Made by `harness`; used in the event loop in which it was made."""

    def __init__(
        self, durably: Durably, clock: ManualClock, kernel: Kernel, *, max_executions: int, max_runs: int
    ) -> None:
        self.durably = durably
        """For everything else that is done to runs: `cancel`, `resume`, `get_steps`, `set_limit`, ..."""
        self.clock = clock
        self._kernel = kernel
        self._max_executions = max_executions
        self._max_runs = max_runs

    def __repr__(self) -> str:
        return f"Harness({', '.join(sorted(self._kernel.jobs))})"

    @property
    def now(self) -> datetime:
        """The time of the harness, in UTC."""
        return self.clock.now()

    @overload
    async def run(
        self,
        job: Target[None, OutputT],
        input: None = None,
        *,
        steps: Mapping[str, object] | None = None,
        crash_after: str | Iterable[str] = (),
        crash_during: str | Iterable[str] = (),
        **options: Unpack[TriggerKeywords],
    ) -> RunReport[OutputT]: ...
    @overload
    async def run(
        self,
        job: Target[InputT, OutputT],
        input: InputT,
        *,
        steps: Mapping[str, object] | None = None,
        crash_after: str | Iterable[str] = (),
        crash_during: str | Iterable[str] = (),
        **options: Unpack[TriggerKeywords],
    ) -> RunReport[OutputT]: ...
    async def run(
        self,
        job: Target[Any, Any],
        input: object = None,
        *,
        steps: Mapping[str, object] | None = None,
        crash_after: str | Iterable[str] = (),
        crash_during: str | Iterable[str] = (),
        **options: Unpack[TriggerKeywords],
    ) -> RunReport[Any]:
        """Trigger a run, execute it to its end, and tell what it did. The clock moves on to whatever it waits for.

        It raises nothing for a run that failed: ask the report for its `output`. `steps` adds to the harness's
        script, for this run. `crash_after` names steps after which the process dies: their result is stored, and the
        run is continued by a next execution, with a new generation. With `crash_during` the step's function was called
        and its result is not stored, so that it is called again. Each name counts once; one that never comes is a
        ScriptError, as is a step in `steps` that was never met. The other options are those of `Durably.trigger`.
        """
        script = Script(steps, beside=self._kernel.script)
        crashes = Crashes(names_of(crash_after), names_of(crash_during))
        run = await self.trigger(job, input, **options)
        self._kernel.plans[run.id] = script, crashes
        try:
            report = await self.finish(run)
        finally:
            self._kernel.plans.pop(run.id, None)
        seen = self.steps_seen(run)
        script.check(seen)
        crashes.check(seen)
        return report

    @overload
    async def trigger(
        self, job: Target[None, OutputT], input: None = None, **options: Unpack[TriggerKeywords]
    ) -> Run[OutputT]: ...
    @overload
    async def trigger(
        self, job: Target[InputT, OutputT], input: InputT, **options: Unpack[TriggerKeywords]
    ) -> Run[OutputT]: ...
    async def trigger(
        self, job: Target[Any, Any], input: object = None, **options: Unpack[TriggerKeywords]
    ) -> Run[Any]:
        """Store a run, and execute nothing yet: `finish`, `settle` and `advance` do that.

        Raises JobNotFound for a job that the harness was not given, and what `Durably.trigger` raises.
        """
        name = _name_of(job)
        if name not in self._kernel.jobs:
            raise JobNotFound(name, tuple(self._kernel.jobs))
        return await self.durably.trigger(job, input, **options)

    @overload
    async def finish(self, run: Run[OutputT]) -> RunReport[OutputT]: ...
    @overload
    async def finish(self, run: str) -> RunReport[object]: ...
    async def finish(self, run: Run[Any] | str) -> RunReport[Any]:
        """Execute runs, in the order in which a worker does, until this one has ended, and tell what it did.

        Raises RunNotFound, and UsageError when it waits for something that only the test can do, or when too much was
        executed.
        """
        async with self._kernel.turn():
            found = await self._find(run)
            while not found.is_terminal:
                executed = await self._execute_next()
                found = await self._find(run)
                if executed is None and not found.is_terminal:
                    self._move_to(await self._time_for(found))
        return await self.report(run)

    async def settle(self) -> list[RunReport[object]]:
        """Execute what can be executed now, without letting time pass. Tells about the runs that were executed."""
        async with self._kernel.turn():
            executed = await self._settle()
        return [await self.report(run_id) for run_id in executed]

    async def advance(self, by: timedelta) -> list[RunReport[object]]:
        """Let time pass, and execute on the way what becomes due, each at its time. Tells about those runs."""
        _check_duration(by)
        async with self._kernel.turn():
            end = self.now + by
            executed = await self._settle()
            while (time := await self._kernel.next_time()) is not None and time <= end:
                self._move_to(time)
                executed |= await self._settle()
            self._move_to(end)
        return [await self.report(run_id) for run_id in executed]

    @overload
    async def report(self, run: Run[OutputT]) -> RunReport[OutputT]: ...
    @overload
    async def report(self, run: str) -> RunReport[object]: ...
    async def report(self, run: Run[Any] | str) -> RunReport[Any]:
        """What the run did so far; a run that a job triggered is known by its id. Raises RunNotFound."""
        found = await self._find(run)
        return RunReport(
            run=found,
            executions=self.executions(found),
            events=await self._kernel.events(found.id),
            logs=await self._logs(found.id),
        )

    def executions(self, run: Run[Any] | str) -> list[ExecutionReport]:
        """The executions of a run so far."""
        return list(self._kernel.reports.get(check_run_id(run), ()))

    def steps_seen(self, run: Run[Any] | str | None = None) -> list[str]:
        """The steps that were executed, of one run or of all."""
        reports = self._kernel.reports.values() if run is None else [self.executions(run)]
        return [name for executions in reports for execution in executions for name in execution.executed]

    def story(self) -> str:
        """What happened so far, run by run, for the message of a test that failed."""
        lines: list[str] = []
        for run_id, executions in self._kernel.reports.items():
            lines.append(f"run {run_id}")
            for one in executions:
                steps = [*(f"({name})" for name in one.replayed), *_told(one)]
                error = f": {one.exception!r}" if one.exception is not None and one.ended == "failed" else ""
                lines.append(f"  generation {one.generation} at {one.at:%Y-%m-%d %H:%M:%S}: {one.ended}{error}")
                lines.append(f"    {', '.join(steps) or 'no steps'}")
        return "\n".join(lines) or "no run was executed"

    async def _settle(self) -> dict[str, None]:
        """Ids in the order in which the runs were executed first."""
        executed: dict[str, None] = {}
        while (run_id := await self._execute_next()) is not None:
            executed[run_id] = None
        return executed

    async def _execute_next(self) -> str | None:
        run_id = await self._kernel.execute_next()
        if run_id is None:
            return None
        if len(self._kernel.reports[run_id]) > self._max_executions:
            raise UsageError(
                f"run {run_id} was executed {self._max_executions} times and has not ended: {self.story()}"
            )
        if self._kernel.executed_in_turn > self._max_runs:
            raise UsageError(
                f"{self._max_runs} executions, and there is still more to execute, as run {run_id} of job "
                f"{(await self._find(run_id)).job!r}: does a job trigger itself without end? (max_runs= allows more)"
            )
        return run_id

    async def _find(self, run: Run[Any] | str) -> Run[Any]:
        """The run as it is now, with the types of its job."""
        found: Run[Any] | None = await self.durably.get_run(run)
        if found is None:
            raise RunNotFound(check_run_id(run))
        job = None if isinstance(run, Run) else self._kernel.jobs.get(found.job)
        return found if job is None else await self.durably.get_run(found.id, job) or found

    async def _logs(self, run_id: str) -> list[LogLine]:
        lines: list[LogLine] = []
        while page := await self.durably.get_logs(run_id, after=lines[-1].seq if lines else 0):
            lines += page
        return lines

    def _move_to(self, time: datetime) -> None:
        self.clock.advance(max(time - self.now, timedelta(0)))

    async def _time_for(self, run: Run[Any]) -> datetime:
        """The next time at which something happens. Raises UsageError when that is never."""
        time = await self._kernel.next_time()
        if time is not None:
            return time
        reason = f"it is {run.status}" if run.hold is None else f"it is {run.status} and waits for: {run.hold}"
        if run.hold == "key":
            reason += f" (no slot of concurrency key {run.concurrency_key!r} comes free: is its limit 0?)"
        raise UsageError(f"run {run.id} of job {run.job!r} has not ended, and nothing will happen by itself: {reason}")


def _told(execution: ExecutionReport) -> list[str]:
    """The executed steps and what each raised; calls of one step end in the order in which they began."""
    errors: dict[str, deque[BaseException | None]] = defaultdict(deque)
    for call in execution.calls:
        errors[call.step].append(call.error)
    told: list[str] = []
    for name in execution.executed:
        error = errors[name].popleft() if errors[name] else None
        told.append(name if error is None else f"{name} raised {error!r}")
    return told


def _name_of(job: object) -> str:
    if not isinstance(job, Target):
        raise ValidationError("job", f"must be the object that @job made, not {job!r}")
    return job.name


def _check_duration(by: object) -> None:
    if not isinstance(by, timedelta):
        raise ValidationError("by", f"must be a timedelta, not {by!r}")
    if by < timedelta(0):
        raise ValidationError("by", f"{by} must not be negative")
