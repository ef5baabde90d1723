"""The jobs that the worker processes of these tests run.

Each tells the test where it is (`points`); the test decides who is held there, goes on, or dies. Code that is
interrupted tells by what, and tries one more step: the answer to that is told too.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from durably import EventType, Step, SyncStep, job
from tests.processes.points import reach, reach_async, visit, visit_async

T = TypeVar("T")

STEPS = ("a", "b", "c")
QUICK_EVENTS = [
    EventType.RUN_TRIGGER,
    EventType.RUN_LEASED,
    *([EventType.STEP_START, EventType.STEP_COMPLETE] * 3),
    EventType.RUN_COMPLETE,
]
"""What an undisturbed run of `quick` leaves."""


@job("chain")
async def chain(step: Step) -> list[str]:
    """Three steps in threads, with code between them."""

    async def work() -> list[str]:
        made: list[str] = []
        for name in STEPS:
            made.append(await step.run(name, visit, f"in {name}", step.run_id))
            await reach_async(f"after {name}", step.run_id)
        return made

    return await _witnessed(step, work)


@job("async-chain")
async def async_chain(step: Step) -> list[str]:
    """Three async steps: an interrupt ends them while they wait."""

    async def work() -> list[str]:
        return [await step.run(name, visit_async, f"in {name}", step.run_id) for name in STEPS]

    return await _witnessed(step, work)


@job("sync-chain")
def sync_chain(step: SyncStep) -> list[str]:
    """Three steps of a job in a thread, which nobody can interrupt."""
    try:
        return [step.run(name, visit, f"in {name}", step.run_id) for name in STEPS]
    except BaseException as error:
        reach("interrupted", step.run_id, by=type(error).__name__)
        try:
            step.run("more", visit, "in more", step.run_id)
        except BaseException as second:
            reach("refused", step.run_id, by=type(second).__name__)
            raise
        raise


@job("attentive")
def attentive(step: SyncStep) -> list[str]:
    """Blocking code that looks at `aborted` now and then, as long blocking code should."""

    def watch() -> str:
        reach("in watch", step.run_id)
        never = threading.Event()
        while not step.aborted:
            never.wait(0.01)
        reach("saw aborted", step.run_id)
        return "seen"

    try:
        return [step.run("watch", watch), step.run("more", visit, "in more", step.run_id)]
    except BaseException as error:
        reach("interrupted", step.run_id, by=type(error).__name__)
        raise


@job("blocking")
async def blocking(step: Step) -> str:
    """An async step that blocks the event loop until the test lets it go on."""

    async def block() -> str:
        return reach("blocks the loop", step.run_id)

    return await step.run("block", block)


@job("short")
async def short(step: Step) -> str:
    """One step that tells its start and its end."""

    def work() -> str:
        reach("start", step.run_id)
        return reach("end", step.run_id)

    return await step.run("work", work)


@job("quick")
async def quick(step: Step) -> str:
    """Three steps that only tell that they were executed."""
    made = [await step.run("tick", visit, "tick", step.run_id, key=number) for number in range(3)]
    return made[-1]


async def _witnessed(step: Step, work: Callable[[], Awaitable[T]]) -> T:
    """Do the work of a job; tell what interrupts it, and what one more step is answered."""
    try:
        return await work()
    except BaseException as error:
        reach("interrupted", step.run_id, by=type(error).__name__)
        try:
            await step.run("more", visit, "in more", step.run_id)
        except BaseException as second:
            reach("refused", step.run_id, by=type(second).__name__)
            raise
        raise
