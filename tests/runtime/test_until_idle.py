"""A worker that ends by itself: one run, so many runs, until nothing is left."""

from __future__ import annotations

from datetime import timedelta

from durably.jobs import job
from durably.model import RunStatus
from durably.runtime.context import Step
from tests.runtime.worker_jobs import echo
from tests.support.bench import Bench, Gate


async def test_process_one_says_whether_there_was_a_run(bench: Bench) -> None:
    worker = bench.worker(echo)
    run = await bench.trigger(echo, 1)

    assert [await worker.process_one(), await worker.process_one()] == [True, False]
    assert (await bench.run(run)).output_json == "1"


async def test_process_until_idle_does_everything_claimable_or_so_many_runs(bench: Bench) -> None:
    for i in range(7):
        await bench.trigger(echo, i)
    worker = bench.worker(echo, max_concurrent_runs=2)

    assert await worker.process_until_idle(max_runs=3) == 3
    assert await worker.process_until_idle() == 4
    assert await worker.process_until_idle() == 0


async def test_process_until_idle_takes_what_its_runs_trigger_and_what_is_due(bench: Bench) -> None:
    @job("parent")
    async def parent(step: Step, input: int) -> str | None:
        return await step.trigger(parent, input - 1) if input else None

    await bench.trigger(parent, 2)
    await bench.trigger(echo, 1, delay=timedelta(microseconds=1))

    assert await bench.worker(parent, echo).process_until_idle() == 4


async def test_process_until_idle_hands_back_what_takes_too_long(bench: Bench) -> None:
    gate = Gate()

    @job("long")
    async def long(_step: Step) -> None:
        await gate.wait()

    run = await bench.trigger(long)
    worker = bench.worker(long, grace=timedelta(0))

    assert await worker.process_until_idle(max_duration=timedelta(milliseconds=50)) == 0
    assert (await bench.run(run)).status is RunStatus.PENDING
