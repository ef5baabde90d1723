"""`harness`: runs jobs to their end in a test, without a worker and without real time.

Everything is real but the time: the steps, the checkpoints, the SQLite database in memory that they are stored in, and
what the job itself calls. Runs are executed one after the other, in the event loop of the test, beside whatever
drivers it uses.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar, Unpack, overload

from durably.app import Durably
from durably.errors import JobNotFound, UsageError, ValidationError
from durably.jobs import Target
from durably.model import Event, Run
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
    **settings: Any,  # noqa: ANN401 - as typed by `Durably`
) -> AsyncGenerator[Harness]:
    """Lend a `Harness` for these jobs: `Job` objects, or names of modules.

    Jobs read `deps` itself as `step.deps`. `steps` says what steps come to, in every run: a value that is returned, an
    exception that is raised, a function that is called instead, or several of these with `in_turn`. At the end each
    name in it must have been met: ScriptError. The time is that of `clock`, and stands still unless it is moved. A run
    that is executed more than `max_executions` times is given up. `settings` are those of `Durably`.
    """
    if not url.startswith("sqlite:"):
        raise ValidationError("url", "the harness sets the time, and PostgreSQL judges by its own: use sqlite:///...")
    clock = clock or ManualClock()
    options: dict[str, Any] = {"lease": LEASE} | settings
    async with HarnessDurably(url, environment=clock, **options) as durably:
        kernel = await durably.kernel(jobs, clock, deps)
        kernel.script = Script(steps)
        held = Harness(durably, clock, kernel, max_executions=max_executions)
        try:
            yield held
        finally:
            kernel.close()
        kernel.script.check(held.steps_seen())


class Harness:
    """Triggers runs and executes them. Made by `harness`; used in the event loop in which it was made."""

    def __init__(self, durably: Durably, clock: ManualClock, kernel: Kernel, *, max_executions: int) -> None:
        self.durably = durably
        """For everything else that is done to runs: `cancel`, `resume`, `get_steps`, `set_limit`, ..."""
        self.clock = clock
        self._kernel = kernel
        self._max_executions = max_executions

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
        run = await self.trigger(job, input, **options)
        kernel, general = self._kernel, self._kernel.script
        kernel.script = script = Script(steps, beside=general)
        kernel.crashes = crashes = Crashes(names_of(crash_after), names_of(crash_during))
        try:
            report = await self.finish(run)
        finally:
            kernel.script, kernel.crashes = general, Crashes()
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
        if job.name not in self._kernel.jobs:
            raise JobNotFound(job.name, tuple(self._kernel.jobs))
        return await self.durably.trigger(job, input, **options)

    async def finish(self, run: Run[OutputT]) -> RunReport[OutputT]:
        """Execute runs, in the order in which a worker does, until this one has ended, and tell what it did.

        Raises UsageError when it waits for something that only the test can do, or was executed too often.
        """
        while not (found := await self.report(run)).run.is_terminal:
            if await self._execute_next() is not None:
                continue
            time = await self._kernel.next_time()
            if time is None:
                raise UsageError(self._stuck(found.run))
            self._move_to(time)
        return found

    async def settle(self) -> list[RunReport[object]]:
        """Execute what can be executed now, without letting time pass. Tells about the runs that were executed."""
        executed: dict[str, None] = {}
        while (run_id := await self._execute_next()) is not None:
            executed[run_id] = None
        return [await self._report(run_id) for run_id in executed]

    async def advance(self, by: timedelta) -> list[RunReport[object]]:
        """Let time pass, and execute on the way what becomes due, each at its time. Tells about those runs."""
        if by < timedelta(0):
            raise ValidationError("by", f"{by} must not be negative")
        end = self.now + by
        executed = {report.run.id: None for report in await self.settle()}
        while (time := await self._kernel.next_time()) is not None and time <= end:
            self._move_to(time)
            executed |= {report.run.id: None for report in await self.settle()}
        self._move_to(end)
        return [await self._report(run_id) for run_id in executed]

    async def report(self, run: Run[OutputT]) -> RunReport[OutputT]:
        """What the run did so far. Raises RunNotFound."""
        found = await self.durably.get_run(run)
        return RunReport(
            run=run if found is None else found,
            executions=self.executions(run),
            events=await self._events(run.id),
            logs=[] if found is None else await self.durably.get_logs(run),
        )

    def executions(self, run: Run[Any]) -> list[ExecutionReport]:
        """The executions of a run so far."""
        return list(self._kernel.reports.get(run.id, ()))

    def steps_seen(self, run: Run[Any] | None = None) -> list[str]:
        """The steps that were executed, of one run or of all."""
        reports = [self._kernel.reports.get(run.id, [])] if run is not None else self._kernel.reports.values()
        return [name for executions in reports for execution in executions for name in execution.executed]

    def story(self) -> str:
        """What happened so far, run by run, for the message of a test that failed."""
        lines: list[str] = []
        for run_id, executions in self._kernel.reports.items():
            lines.append(f"run {run_id}")
            for one in executions:
                steps = [f"({name})" for name in one.replayed] + [_told(name, one) for name in one.executed]
                error = f": {one.exception!r}" if one.exception is not None and one.ended == "failed" else ""
                lines.append(f"  generation {one.generation} at {one.at:%Y-%m-%d %H:%M:%S}: {one.ended}{error}")
                lines.append(f"    {', '.join(steps) or 'no steps'}")
        return "\n".join(lines) or "no run was executed"

    async def _execute_next(self) -> str | None:
        run_id = await self._kernel.execute_next()
        if run_id is not None and len(self._kernel.reports[run_id]) > self._max_executions:
            raise UsageError(
                f"run {run_id} was executed {self._max_executions} times and has not ended: {self.story()}"
            )
        return run_id

    async def _report(self, run_id: str) -> RunReport[object]:
        found = await self.durably.get_run(run_id)
        if found is None:
            raise UsageError(f"run {run_id} was deleted while the harness executed it")
        typed = await self.durably.get_run(run_id, self._kernel.jobs[found.job])
        return await self.report(found if typed is None else typed)

    async def _events(self, run_id: str) -> list[Event]:
        return await self._kernel.events(run_id)

    def _move_to(self, time: datetime) -> None:
        self.clock.advance(max(time - self.now, timedelta(0)))

    def _stuck(self, run: Run[Any]) -> str:
        reason = f"it is {run.status}" if run.hold is None else f"it is {run.status} and waits for: {run.hold}"
        if run.hold == "key":
            reason += f" (no slot of concurrency key {run.concurrency_key!r} comes free: is its limit 0?)"
        return f"run {run.id} of job {run.job!r} has not ended, and nothing will happen by itself: {reason}"


def _told(name: str, execution: ExecutionReport) -> str:
    errors = [call.error for call in execution.calls if call.step == name and call.error is not None]
    return f"{name} raised {errors[-1]!r}" if errors else name
