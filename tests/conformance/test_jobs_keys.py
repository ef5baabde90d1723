"""G7: for each concurrency key at most `limit` runs at any instant, over all workers and jobs; in order."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from durably import Durably, RunStatus, Step, job
from tests.support.app import SECONDS, App, within
from tests.support.bench import Gate, eventually


class Counter:
    """How many runs of a key are inside at once."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.order: list[str] = []

    async def visit(self, step: Step, name: str) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.order.append(name)
        await step.run("inside", asyncio.sleep, 0)
        self.inside -= 1


counter = Counter()


@pytest.fixture(autouse=True)
def fresh_counter() -> None:
    counter.__init__()  # type: ignore[misc]


@job("a")
async def job_a(step: Step, input: str) -> None:
    await counter.visit(step, f"a{input}")


@job("b")
async def job_b(step: Step, input: str) -> None:
    await counter.visit(step, f"b{input}")


async def durablys(app: App, count: int) -> list[Durably]:
    """As many processes as the database allows."""
    if app.kind == "sqlite-memory":
        return [app.durably] * count
    return [app.durably, *[await app.another() for _ in range(count - 1)]]


@pytest.mark.parametrize("limit", [1, 3])
async def test_at_most_limit_runs_of_a_key_run_at_once_over_jobs_and_workers(app: App, limit: int) -> None:
    """G7: with three workers and two jobs; and all of them run in the end."""
    await app.durably.set_limit("k", limit)
    several = await durablys(app, 3)
    runs = [
        await several[place % 3].trigger((job_a, job_b)[place % 2], str(place), concurrency_key="k")
        for place in range(30)
    ]
    workers = [durably.worker([job_a, job_b], max_concurrent_runs=5) for durably in several]
    await asyncio.gather(*(worker.start() for worker in workers))
    ended = [await app.wait(run) for run in runs]
    await asyncio.gather(*(worker.stop() for worker in workers))

    assert {run.status for run in ended} == {RunStatus.COMPLETED}
    assert counter.most <= limit
    assert limit == 1 or counter.most > 1
    assert await app.outside.is_sound()


async def test_runs_of_a_key_go_in_the_order_in_which_they_were_triggered(app: App) -> None:
    """G7, across jobs."""
    for place in range(6):
        await app.durably.trigger((job_a, job_b)[place % 2], str(place), concurrency_key="k")
    assert await app.process(job_a, job_b) == 6
    assert counter.order == ["a0", "b1", "a2", "b3", "a4", "b5"]


async def test_other_keys_and_runs_without_a_key_are_not_held_up(app: App) -> None:
    """G7: a busy key holds up its own runs only."""
    gate = Gate()

    @job("holds")
    async def holds(step: Step) -> None:
        await gate.wait()

    async with app.durably.worker([holds, job_a]):
        first = await app.durably.trigger(holds, concurrency_key="busy")
        await within(gate.reached.wait())
        held = await app.durably.trigger(job_a, "held", concurrency_key="busy")
        free = [
            await app.durably.trigger(job_a, "key", concurrency_key="free"),
            await app.durably.trigger(job_a, "none"),
        ]
        for run in free:
            assert (await app.wait(run)).status is RunStatus.COMPLETED
        waiting = await app.get(held)
        assert (waiting.status, waiting.hold) == (RunStatus.PENDING, "key")
        gate.opened.set()
        for run in (first, held):
            assert (await app.wait(run)).status is RunStatus.COMPLETED


@pytest.mark.parametrize("end", ["fails", "is cancelled", "is handed back and cancelled"])
async def test_a_slot_is_free_again_however_its_run_ends(app: App, end: str) -> None:
    """G7: a slot moves with the run that holds it."""
    gate = Gate()

    @job("ends")
    async def ends(step: Step) -> None:
        await gate.wait()
        raise ValueError("fails")

    holder = await app.durably.trigger(ends, concurrency_key="k")
    behind = await app.durably.trigger(job_a, "behind", concurrency_key="k")
    async with app.durably.worker([ends], grace=timedelta(0)):
        await within(gate.reached.wait())
        match end:
            case "fails":
                gate.opened.set()
            case "is cancelled":
                await app.durably.cancel(holder)
            case _:
                pass
        if end != "is handed back and cancelled":
            await app.wait(holder)
    if end == "is handed back and cancelled":
        assert (await app.get(behind)).hold == "key"
        await app.durably.cancel(holder)

    assert (await app.get(behind)).hold is None
    await app.process(job_a)
    assert (await app.get(behind)).status is RunStatus.COMPLETED
    assert await app.outside.is_sound()


async def test_a_raised_limit_lets_waiting_runs_go_at_once(app: App) -> None:
    """`set_limit`: up takes effect now."""
    gate, started = Gate(), list[str]()

    @job("waits")
    async def waits(step: Step, input: str) -> None:
        started.append(input)
        await gate.wait()

    runs = [await app.durably.trigger(waits, str(place), concurrency_key="k") for place in range(4)]
    async with app.durably.worker([waits]):
        await eventually(lambda: started == ["0"])
        await app.durably.set_limit("k", 3)
        await eventually(lambda: len(started) == 3)
        assert started == ["0", "1", "2"]
        gate.opened.set()
        for run in runs:
            await app.wait(run)


async def test_a_lowered_limit_lets_what_runs_go_on_and_no_more_begin(app: App) -> None:
    """`set_limit`: 0 lets none start; the limit is kept until it is set again."""
    first = await app.durably.trigger(job_a, "0", concurrency_key="k")
    await app.durably.set_limit("k", 0)
    second = await app.durably.trigger(job_a, "1", concurrency_key="k")
    await app.process(job_a)
    assert [(await app.get(run)).status.value for run in (first, second)] == ["completed", "pending"]

    await app.durably.set_limit("k", 1)
    assert await app.process(job_a) == 1
    assert (await app.get(second)).status is RunStatus.COMPLETED


async def test_a_run_that_is_triggered_while_unused_keys_are_forgotten_is_not_stranded(app: App) -> None:
    """G7: a worker forgets unused keys when it starts; that may happen in the very commit that stores the run."""
    for place in range(3):
        async with app.durably.worker([job_a]):
            run = await app.durably.trigger(job_a, str(place), concurrency_key=f"fresh {place}")
            assert (await app.wait(run)).status is RunStatus.COMPLETED


async def test_a_dead_worker_takes_no_slot_with_it(app: App) -> None:
    """G6, G7: the run goes on elsewhere in its own slot; those behind it wait their turn."""
    holder = await app.durably.trigger(job_a, "0", concurrency_key="k")
    await app.die_with(holder)
    behind = await app.durably.trigger(job_b, "1", concurrency_key="k")
    async with app.durably.worker([job_a, job_b]):
        await app.wait(behind)

    assert counter.order == ["a0", "b1"]
    assert (await app.get(holder)).attempt == 2


async def test_an_expired_lease_goes_before_a_newer_run_of_its_key(app: App) -> None:
    """G7: it is claimable as it is, however many runs of the key wait behind it; nobody fails it."""
    holder = await app.durably.trigger(job_a, "0", concurrency_key="k")
    await app.die_with(holder)
    newer = [await app.durably.trigger(job_a, str(place), concurrency_key="k") for place in range(1, 4)]
    assert await app.process(job_a) == 4

    assert counter.order == ["a0", "a1", "a2", "a3"]
    assert {(await app.get(run)).status for run in (holder, *newer)} == {RunStatus.COMPLETED}


async def test_a_resumed_run_waits_for_its_turn_like_any_other(app: App) -> None:
    """G7, G8: it held no slot while it was failed."""
    gate = Gate()

    @job("flaky")
    async def flaky(step: Step) -> None:
        if step.attempt == 1:
            raise ValueError("at first")
        await counter.visit(step, "flaky")

    @job("holds")
    async def holds(step: Step) -> None:
        await counter.visit(step, "holds")
        await gate.wait()

    failed = await app.execute(flaky, concurrency_key="k")
    holder = await app.durably.trigger(holds, concurrency_key="k")
    async with app.durably.worker([flaky, holds]):
        await within(gate.reached.wait())
        resumed = await app.durably.resume(failed)
        assert (resumed.status, resumed.hold) == (RunStatus.PENDING, "key")
        gate.opened.set()
        await app.wait(holder)
        assert (await app.durably.wait(failed, timeout=SECONDS)).status is RunStatus.COMPLETED
    assert (counter.most, counter.order) == (1, ["holds", "flaky"])
