"""The demo itself: an import begins, its worker is killed, another one goes on, and the tables are examined."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

from demo.app import LEASE
from demo.inputs import IMPORT_CSV, ImportInput, ImportOutput
from demo.proof import Check, Moment, check_events, check_executions, check_rows, finished_batches, step_of
from demo.report import show_events, show_steps
from demo.screen import Bar, Screen
from demo.source import Plan, read_all
from demo.tables import Tables, contents_of
from demo.workers import Worker, Workers
from durably import Durably, Event, EventType, Run

LOOK_SECONDS = 0.003
STALL_SECONDS = 60.0


class Stalled(Exception):
    """Nothing happens any more."""


class Story:
    """One import, from its trigger to the proof."""

    def __init__(self, durably: Durably, tables: Tables, plan: Plan, screen: Screen) -> None:
        self._durably = durably
        self._tables = tables
        self._plan = plan
        self._screen = screen
        self._events: list[Event] = []

    async def tell(self, workers: Workers) -> bool:
        """Do it all. Returns whether everything that must hold does."""
        run = await self._durably.trigger(IMPORT_CSV, ImportInput(path=self._plan.path))
        self._screen.say("run", f"{run.id}: {len(self._plan.batches)} batches, each one a step")
        with self._screen.bar(self._plan.rows) as bar:
            moment = await self._until_the_crash(run, await workers.start(), bar)
            crashed_at = time.monotonic()
            second = await workers.start()
            self._screen.say("worker 2", f"process {second.pid}, waits until the lease expires ({LEASE.seconds} s)")
            bar.label("waiting")
            await second.while_alive(self._read(run, bar, until=is_leased))
            self._screen.say("recovered", f"worker 2 has the run, {time.monotonic() - crashed_at:.1f} s after the kill")
            bar.label("worker 2")
            await second.while_alive(self._read(run, bar, until=lambda _: False))
            output = await self._durably.result(run)
        await second.stop()
        return await self._prove(run, output, moment)

    async def _until_the_crash(self, run: Run[ImportOutput], worker: Worker, bar: Bar) -> Moment:
        self._screen.say("worker 1", f"process {worker.pid}, imports")
        bar.label("worker 1")
        half = len(self._plan.batches) // 2
        await worker.while_alive(self._read(run, bar, until=is_leased))
        if half > 0:
            await worker.while_alive(self._read(run, bar, until=lambda event: is_end_of(event, step_of(half - 1))))
        await worker.while_alive(self._freeze_inside_a_step(run, worker))
        await worker.kill()
        moment = await self._look(run)
        names = ", ".join(step_of(batch) for batch in sorted(moment.interrupted))
        finished = f"worker 1 dies in {names}, {len(moment.finished)} batches are finished"
        self._screen.say("SIGKILL", finished, style="bold red")
        if moment.committed:
            self._screen.say("", "its rows are committed, its checkpoint is not: it will be repeated,")
            self._screen.say("", "harmlessly, for its insert is idempotent (ON CONFLICT DO NOTHING)")
        return moment

    async def _freeze_inside_a_step(self, run: Run[ImportOutput], worker: Worker) -> None:
        """Stop the worker where a crash is worst: after a batch has committed, before its checkpoint is stored."""
        while True:
            worker.freeze()
            moment = await self._look(run)
            if moment.committed:
                return
            if (await self._durably.get_run(run) or run).is_terminal:
                raise Stalled("the import was over before its worker could be killed: take a file with more rows")
            worker.thaw()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, run: Run[ImportOutput]) -> Moment:
        executions = await self._tables.executions()  # first: what is finished then was started before
        steps = await self._durably.get_steps(run)
        return Moment(finished=finished_batches(step.name for step in steps), executions=tuple(executions))

    async def _read(self, run: Run[ImportOutput], bar: Bar, *, until: Callable[[Event], bool]) -> None:
        """Read the events of the run from where the last reading ended, until one is found or the run has ended."""
        last = self._events[-1].seq if self._events else 0
        async with aclosing(self._durably.events(run=run, after=last)) as events:
            while True:
                try:
                    async with asyncio.timeout(STALL_SECONDS):
                        event = await anext(events, None)
                except TimeoutError as error:
                    raise Stalled(f"nothing has happened for {STALL_SECONDS:.0f} s") from error
                if event is None:
                    return
                self._events.append(event)
                if event.type is EventType.STEP_COMPLETE:
                    bar.show(self._rows_done())
                if until(event):
                    return

    def _rows_done(self) -> int:
        done = finished_batches(
            event.step for event in self._events if event.type is EventType.STEP_COMPLETE and event.step is not None
        )
        return sum(self._plan.batches[index].rows for index in done)

    async def _prove(self, run: Run[ImportOutput], output: ImportOutput, moment: Moment) -> bool:
        executions = await self._tables.executions()
        steps = await self._durably.get_steps(run)
        show_steps(self._screen, steps, executions, moment)
        show_events(self._screen, self._events)
        checks = [
            *check_rows(contents_of(read_all(self._plan)), await self._tables.contents()),
            Check(holds=output.rows == self._plan.rows, text=f"the job returned {output.rows:,} rows"),
            *check_executions(self._plan, moment, executions),
            *check_events(self._plan, self._events),
        ]
        self._screen.checks(checks)
        return all(check.holds for check in checks)


def is_leased(event: Event) -> bool:
    """Whether a worker has got the run."""
    return event.type is EventType.RUN_LEASED


def is_end_of(event: Event, step: str) -> bool:
    """Whether a step has been stored."""
    return event.type is EventType.STEP_COMPLETE and event.step == step
