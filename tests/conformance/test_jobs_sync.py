"""Jobs and steps that block: in threads, with the same guarantees, and told when they should end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from durably import DuplicateStep, Interrupt, RunStatus, Step, StepStatus, SyncStep, UsageError, job
from tests.support.app import SECONDS, App, within
from tests.support.bench import eventually

calls: list[str] = []
request: ContextVar[str] = ContextVar("request", default="none")


@pytest.fixture(autouse=True)
def no_calls() -> Iterator[None]:
    calls.clear()
    yield
    calls.clear()


@dataclass(frozen=True)
class Row:
    name: str


def make(name: str) -> Row:
    calls.append(name)
    return Row(name)


def fail(name: str) -> Row:
    calls.append(name)
    raise ValueError(name)


@job("blocking")
def blocking(step: SyncStep, input: int) -> list[Row]:
    step.log.info("making %d", input)
    rows = [step.run("make", make, str(place), key=place) for place in range(input)]
    step.progress(input, input)
    if step.attempt == 1:
        step.run("fail", fail, "fail")
    return rows


async def test_a_def_job_keeps_every_promise_of_an_async_one(app: App) -> None:
    """G5, G11, G12: stored once, same types on replay, resumed after the last checkpoint."""
    failed = await app.execute(blocking, 3)
    assert failed.error is not None
    assert (failed.error.message, failed.error.step) == ("fail", "fail")

    run = await app.again(failed, blocking)

    assert (run.status, run.output) == (RunStatus.COMPLETED, [Row("0"), Row("1"), Row("2")])
    assert calls == ["0", "1", "2", "fail"]
    assert run.progress is not None
    assert (run.progress.current, run.progress.total) == (3, 3)
    assert [(step.name, step.status) for step in await app.durably.get_steps(run)] == [
        ("make[0]", StepStatus.COMPLETED), ("make[1]", StepStatus.COMPLETED), ("make[2]", StepStatus.COMPLETED),
        ("fail", StepStatus.FAILED),
    ]  # fmt: skip
    assert [line.message for line in await app.durably.get_logs(run)] == ["making 3"]


async def test_blocking_code_does_not_block_the_event_loop(app: App) -> None:
    """A def job and a plain function in a step wait for each other through the loop: neither may hold it."""
    job_waits, step_waits = threading.Event(), threading.Event()

    @job("waits")
    def waits(step: SyncStep) -> bool:
        job_waits.set()
        return step.run("wait", step_waits.wait, SECONDS)

    @job("answers")
    async def answers(step: Step) -> bool:
        found = await step.run("wait", job_waits.wait, SECONDS)
        step_waits.set()
        return found

    runs = [await app.durably.trigger(waits), await app.durably.trigger(answers)]
    await app.process(waits, answers)

    assert [await app.durably.result(run) for run in runs] == [True, True]


async def test_threads_see_the_context_of_the_code_that_starts_them(app: App) -> None:
    """Context variables that the job set are there in its plain functions."""

    @job("context")
    async def context(step: Step) -> list[str]:
        request.set("of the job")
        return [await step.run("sync", request.get), await step.run("async", get_request)]

    async def get_request() -> str:
        return request.get()

    @job("context-sync")
    def context_sync(step: SyncStep) -> list[str]:
        request.set("of the def job")
        return [step.run("sync", request.get)]

    assert (await app.execute(context)).output == ["of the job"] * 2
    assert (await app.execute(context_sync)).output == ["of the def job"]
    assert request.get() == "none"


async def test_a_def_job_sees_that_it_was_cancelled_and_ends_at_its_next_step(app: App) -> None:
    """G10: a thread cannot be interrupted; it sees `aborted`, and no further step is stored."""
    gate = threading.Event()
    seen: list[bool] = []

    @job("long")
    def long(step: SyncStep) -> None:
        step.run("first", make, "first")
        seen.append(step.aborted)
        gate.set()
        until_aborted(step)
        seen.append(step.aborted)
        step.run("second", make, "second")

    run = await app.durably.trigger(long)
    async with app.durably.worker([long]):
        assert await asyncio.to_thread(gate.wait, SECONDS)
        await app.durably.cancel(run)
        await eventually(lambda: len(seen) == 2)

    assert (await app.get(run)).status is RunStatus.CANCELLED
    assert (seen, calls) == ([False, True], ["first"])
    assert await app.step_names(run) == ["first"]


async def test_a_blocking_step_that_was_cancelled_is_not_stored(app: App) -> None:
    """G10: the function ends by itself; what it returns is dropped, and `step:cancel` says so."""
    started = threading.Event()

    @job("blocks")
    async def blocks(step: Step) -> None:
        def block() -> str:
            started.set()
            until_aborted(step)
            return "too late"

        await step.run("block", block)

    run = await app.durably.trigger(blocks)
    async with app.durably.worker([blocks]):
        assert await asyncio.to_thread(started.wait, SECONDS)
        await app.durably.cancel(run)

    assert await app.durably.get_steps(run) == []
    assert (await app.story(run))[-2:] == ["run:cancel", "step:cancel block"]


def until_aborted(step: Step | SyncStep) -> None:
    """Block until the run is to end, as long-running code may do."""
    for _ in range(20_000):
        if step.aborted:
            return
        threading.Event().wait(0.001)
    raise AssertionError("nobody said that the run is over")


async def test_a_stopping_worker_keeps_the_lease_until_the_thread_returns(app: App) -> None:
    """G3, G6: nobody else does the same thing beside the thread; then the run is handed back, attempt unchanged."""
    started, goes_on = threading.Event(), threading.Event()

    @job("stubborn")
    def stubborn(step: SyncStep) -> str:
        started.set()
        if step.attempt == 1 and not goes_on.is_set():
            goes_on.wait(SECONDS)
        return step.run("end", str, "end")

    run = await app.durably.trigger(stubborn)
    worker = app.durably.worker([stubborn])
    await worker.start()
    assert await asyncio.to_thread(started.wait, SECONDS)
    stop = asyncio.ensure_future(worker.stop(timedelta(0)))
    await asyncio.wait({stop}, timeout=0.2)
    assert not stop.done()
    assert (await app.get(run)).status is RunStatus.LEASED
    goes_on.set()
    await within(stop)

    handed_back = await app.get(run)
    assert (handed_back.status, handed_back.attempt) == (RunStatus.PENDING, 0)
    await app.process(stubborn)
    ended = await app.get(run)
    assert (ended.output, ended.attempt, ended.generation) == ("end", 1, 2)


async def test_a_def_job_cannot_swallow_the_end_with_except_exception(app: App) -> None:
    """G10: `Interrupt` is no `Exception`."""
    started, goes_on = threading.Event(), threading.Event()
    reached: list[str] = []

    @job("greedy")
    def greedy(step: SyncStep) -> None:
        started.set()
        goes_on.wait(SECONDS)
        try:
            step.run("late", make, "late")
        except Exception:  # noqa: BLE001 - what users write
            reached.append("swallowed")
        except Interrupt as interrupt:
            reached.append(type(interrupt).__name__)
            raise

    run = await app.durably.trigger(greedy)
    async with app.durably.worker([greedy]):
        assert await asyncio.to_thread(started.wait, SECONDS)
        await app.durably.cancel(run)
        goes_on.set()

    assert reached == ["Cancelled"]
    assert (await app.get(run)).status is RunStatus.CANCELLED


async def test_steps_of_a_def_job_have_one_name_each(app: App) -> None:
    """G5, for def jobs; a failed step is tried again under its name."""

    @job("names")
    def names(step: SyncStep) -> list[Row]:
        with pytest.raises(ValueError, match="flaky"):
            step.run("flaky", fail, "flaky")
        rows = [step.run("flaky", make, "flaky")]
        with pytest.raises(DuplicateStep, match="flaky"):
            step.run("flaky", make, "again")
        return rows

    assert (await app.execute(names)).output == [Row("flaky")]


async def test_colours_that_do_not_mix_are_clear_errors(app: App) -> None:
    """An async function in a def job is an error that names the step, not a coroutine as its result."""

    async def later() -> str:
        return "later"

    @job("mixed")
    def mixed(step: SyncStep) -> str:
        mistaken: Any = later
        with pytest.raises(UsageError, match=r"'later'.*async"):
            step.run("later", mistaken)
        return "fine"

    assert (await app.execute(mixed)).output == "fine"
