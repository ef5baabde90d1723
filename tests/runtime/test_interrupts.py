"""Cancel, lost lease, and a worker that stops: user code ends at once, and nothing is stored that must not be."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from datetime import timedelta

import pytest

from durably.errors import Cancelled, Interrupt, LeaseLost
from durably.jobs import job
from durably.model import RunStatus, StepStatus, StoredRun
from durably.runtime.context import Step, SyncStep
from durably.runtime.worker import Worker
from durably.store.leases import claim_expired
from tests.support.bench import Bench, Gate, eventually
from tests.support.store import Store

NOW = timedelta(0)


def is_aborted(worker: Worker, run: StoredRun) -> bool:
    """Whether the interrupt has reached the run's execution."""
    shift = worker._shift  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - nothing else tells before the code ends
    running = [] if shift is None else list(shift._running)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above
    return any(one.stored.id == run.id and one.steps.interrupt is not None for one in running)


async def test_a_cancel_interrupts_the_step_and_stores_nothing_more(bench: Bench, store: Store) -> None:
    gate, ended = Gate(), asyncio.Event()

    async def slow() -> None:
        try:
            await gate.wait()
        finally:
            ended.set()

    @job("slow")
    async def job_(step: Step) -> None:
        await step.run("first", lambda: 1)
        await step.run("slow", slow)

    run = await bench.trigger(job_)
    async with bench.worker(job_):
        await eventually(lambda: "slow" in [event.step for event in bench.heard])
        await bench.cancel(run, await store.another())
        async with asyncio.timeout(40):
            await ended.wait()
        await eventually(lambda: "step:cancel" in [event.type for event in bench.heard])

    run = await bench.run(run)
    assert run.status is RunStatus.CANCELLED
    assert await bench.story(run) == [
        "run:trigger", "run:leased", "step:start first", "step:complete first", "step:start slow", "run:cancel",
        "step:cancel slow",
    ]  # fmt: skip
    assert [(step.name, step.status) for step in await bench.steps(run)] == [("first", StepStatus.COMPLETED)]


async def test_code_that_swallows_the_cancellation_ends_at_its_next_step(bench: Bench) -> None:
    gate, seen = Gate(), list[BaseException]()

    @job("stubborn")
    async def stubborn(step: Step) -> None:
        try:
            await step.run("slow", gate.wait)
        except asyncio.CancelledError as error:
            seen.append(error)
        try:
            await step.run("next", lambda: 1)
        except Exception as error:  # noqa: BLE001 - this is what users write
            seen.append(error)
        except Interrupt as error:
            seen.append(error)
            raise

    run = await bench.trigger(stubborn)
    async with bench.worker(stubborn):
        await gate.reached.wait()
        await bench.cancel(run)
        await eventually(lambda: len(seen) == 2)

    assert [type(error) for error in seen] == [asyncio.CancelledError, Cancelled]
    assert await bench.steps(run) == []


@pytest.mark.parametrize("what", ["def job", "plain step"])
async def test_blocking_code_sees_the_cancel_and_stops_at_its_next_step(bench: Bench, what: str) -> None:
    reached, opened, seen = asyncio.Event(), threading.Event(), list[object]()
    loop = asyncio.get_running_loop()

    def block(step: Step | SyncStep) -> None:
        loop.call_soon_threadsafe(reached.set)
        opened.wait(20)
        seen.append(step.aborted)

    @job("blocking")
    def blocking(step: SyncStep) -> None:
        step.run("first", block, step)
        seen.append("not reached")

    @job("stepping")
    async def stepping(step: Step) -> None:
        await step.run("first", block, step)
        seen.append("not reached")

    job_ = blocking if what == "def job" else stepping
    run = await bench.trigger(job_)
    async with bench.worker(job_) as worker:
        await reached.wait()
        await bench.cancel(run)
        await eventually(lambda: is_aborted(worker, run))
        opened.set()

    assert seen == [True]
    assert (await bench.run(run)).status is RunStatus.CANCELLED
    assert await bench.steps(run) == []
    assert (await bench.story(run))[-1] == "step:cancel first"


async def take_away(bench: Bench, store: Store, run: StoredRun) -> StoredRun:
    """Let the lease expire and claim the run for somebody else, before the keeper renews it."""
    taken: list[StoredRun] = []
    while not taken:
        await store.expire(await bench.run(run))
        token, hour = bench.environment.new_id(), timedelta(hours=1)
        taken = await bench.database.run(
            claim_expired([run.job], limit=1, owner="other", token=token, lease=hour, max_crashes=99)
        )
    return taken[0]


async def test_a_lost_lease_is_learned_at_the_next_write_and_nothing_of_it_is_stored(
    bench: Bench, store: Store
) -> None:
    gate, seen = Gate(), list[BaseException]()

    @job("loser")
    async def loser(step: Step) -> None:
        await step.run("first", lambda: 1)
        try:
            await gate.wait()
            step.log.info("too late")
            await step.run("second", lambda: 2)
        except BaseException as error:
            seen.append(error)
            raise

    run = await bench.trigger(loser)
    async with bench.worker(loser, poll_interval=timedelta(hours=1)):
        await gate.reached.wait()
        taken = await take_away(bench, store, run)
        gate.opened.set()
        await eventually(lambda: bool(seen))

    now = await bench.run(run)
    assert isinstance(seen[0], LeaseLost | asyncio.CancelledError)
    assert (now.status, now.generation, now.lease_owner) == (RunStatus.LEASED, taken.generation, "other")
    assert await bench.step_names(run) == ["first"]
    assert "log:write" not in await bench.story(run)


async def test_stop_hands_runs_back_at_once_and_that_is_no_crash_and_no_attempt(bench: Bench) -> None:
    gate, seen = Gate(), list[str]()

    def note(text: str) -> int:
        seen.append(text)
        return 1

    @job("handed")
    async def handed(step: Step) -> int:
        first = await step.run("first", note, "first")
        await step.run("slow", gate.wait)
        return first

    run = await bench.trigger(handed)
    worker = bench.worker(handed)
    await worker.start()
    await gate.reached.wait()
    await worker.stop(NOW)

    back = await bench.run(run)
    assert (back.status, back.attempt, back.crashes) == (RunStatus.PENDING, 0, 0)
    assert (await bench.story(run))[-1] == "run:release"
    assert not worker.is_running

    gate.opened.set()
    async with bench.worker(handed):
        done = await bench.until(run)
    assert (done.status, done.attempt, seen) == (RunStatus.COMPLETED, 1, ["first"])


async def test_runs_end_within_the_grace(bench: Bench) -> None:
    gate = Gate()

    @job("graceful")
    async def graceful(step: Step) -> int:
        await step.run("slow", gate.wait)
        return await step.run("last", lambda: 2)

    run = await bench.trigger(graceful)
    worker = bench.worker(graceful)
    await worker.start()
    await gate.reached.wait()
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.stop(timedelta(seconds=30)))
        await asyncio.sleep(0)
        gate.opened.set()

    assert (await bench.run(run)).output_json == "2"


async def test_a_blocking_step_that_ends_after_the_stop_is_stored_before_the_run_is_handed_back(bench: Bench) -> None:
    reached, opened = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def block() -> str:
        loop.call_soon_threadsafe(reached.set)
        opened.wait(20)
        return "worth keeping"

    @job("kept")
    async def kept(step: Step) -> None:
        await step.run("block", block)
        await step.run("never", lambda: 1)

    run = await bench.trigger(kept)
    worker = bench.worker(kept)
    await worker.start()
    await reached.wait()
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.stop(NOW))
        await eventually(lambda: is_aborted(worker, run))
        assert (await bench.run(run)).status is RunStatus.LEASED
        opened.set()

    assert (await bench.run(run)).status is RunStatus.PENDING
    assert await bench.step_names(run) == ["block"]


async def test_a_value_returned_in_spite_of_the_stop_completes_the_run(bench: Bench) -> None:
    gate = Gate()

    @job("returns")
    async def returns(_step: Step) -> str:
        with suppress(asyncio.CancelledError):
            await gate.wait()
        return "in spite"

    run = await bench.trigger(returns)
    worker = bench.worker(returns)
    await worker.start()
    await gate.reached.wait()
    await worker.stop(NOW)

    assert (await bench.run(run)).output_json == '"in spite"'


async def test_an_error_caused_by_the_stop_is_no_failure(bench: Bench) -> None:
    gate = Gate()

    @job("clumsy")
    async def clumsy(_step: Step) -> None:
        try:
            await gate.wait()
        except asyncio.CancelledError as error:
            raise ValueError("cleaning up failed") from error

    run = await bench.trigger(clumsy)
    worker = bench.worker(clumsy)
    await worker.start()
    await gate.reached.wait()
    await worker.stop(NOW)

    assert (await bench.run(run)).status is RunStatus.PENDING


async def test_a_cancelled_block_hands_runs_back(bench: Bench) -> None:
    gate = Gate()

    @job("block")
    async def block(_step: Step) -> None:
        await gate.wait()

    async def work() -> None:
        async with bench.worker(block, grace=NOW):
            await asyncio.get_running_loop().create_future()

    run = await bench.trigger(block)
    task = asyncio.create_task(work())
    await gate.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (await bench.run(run)).status is RunStatus.PENDING


@pytest.mark.parametrize("how", ["process_one", "process_until_idle"])
async def test_cancelling_a_single_execution_hands_its_run_back(bench: Bench, how: str) -> None:
    gate = Gate()

    @job("single")
    async def single(_step: Step) -> None:
        await gate.wait()

    run = await bench.trigger(single)
    worker = bench.worker(single)
    task = asyncio.create_task(worker.process_one() if how == "process_one" else worker.process_until_idle())
    await gate.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (await bench.run(run)).status is RunStatus.PENDING


async def test_stopping_says_what_it_waits_for(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durably.runtime.worker.PATIENCE_SECONDS", 0.01)
    reached, opened = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def block() -> None:
        loop.call_soon_threadsafe(reached.set)
        opened.wait(20)

    @job("waiting")
    async def waiting(step: Step) -> None:
        await step.run("block", block)

    run = await bench.trigger(waiting)
    worker = bench.worker(waiting)
    await worker.start()
    await reached.wait()
    with caplog.at_level(logging.WARNING):
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.stop(NOW))
            await eventually(lambda: f"run {run.id} of job 'waiting' (step: block)" in caplog.text)
            opened.set()

    assert "still waits for user code" in caplog.text
