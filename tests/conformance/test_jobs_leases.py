"""G3, G4, G6, G13: one owner, whose writes are refused once it is not any more; and runs whose owner died."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from durably import Durably, Interrupt, Run, RunFailed, RunStatus, Step, job
from tests.support.app import App, MakeApp, within
from tests.support.bench import Gate, eventually
from tests.support.store import a_checkpoint

SHARED = ["sqlite-file", "postgres"]
SHORT = timedelta(milliseconds=300)

calls: list[str] = []


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


async def call(name: str) -> str:
    calls.append(name)
    return name


@job("two")
async def two(step: Step) -> list[str]:
    return [await step.run("first", call, "first"), await step.run("second", call, "second")]


async def take_over(app: App, other: Durably, run: Run[Any], job_: Any) -> None:
    """Let the lease of a run run out, and another worker execute it at once, before it is renewed."""

    async def has_moved_on() -> bool:
        await app.expire(run)
        await other.worker([job_]).process_one()
        return (await app.get(run)).generation > run.generation

    await eventually(has_moved_on)


async def test_a_run_whose_worker_died_continues_after_its_last_step(app: App) -> None:
    """G6: within lease and poll interval another worker has it; steps that are stored are not executed again."""
    run = await app.durably.trigger(two)
    dead = await app.die_with(run)
    await app.outside.store(a_checkpoint(dead, name="first", output='"by the dead one"'))
    await app.expire(run)

    async with app.durably.worker([two]):
        ended = await app.wait(run)

    assert (ended.output, ended.attempt, ended.generation) == (["by the dead one", "second"], 2, 2)
    assert calls == ["second"]


async def test_a_lease_in_force_is_left_alone(app: App) -> None:
    """G3: only an expired lease is taken over, however idle a worker is."""
    gate = Gate()

    @job("long")
    async def long(step: Step) -> int:
        await gate.wait()
        return step.attempt

    run = await app.durably.trigger(long)
    async with app.durably.worker([long]):
        await within(gate.reached.wait())
        assert await app.process(long) == 0
        gate.opened.set()
        assert await app.durably.result(run) == 1


@pytest.mark.parametrize("store_kind", SHARED, indirect=True)
async def test_who_lost_the_lease_stores_nothing_and_learns_it_at_once(app: App) -> None:
    """G4: the write of an older generation changes nothing; its code ends as with any interrupt."""
    gate, saw = Gate(), list[str]()

    @job("loses")
    async def loses(step: Step) -> str:
        if step.attempt > 1:
            return await step.run("new", call, "new")
        try:
            await gate.wait()
            await step.run("old", call, "old")
        except BaseException as error:
            saw.append(type(error).__name__)
            try:
                await step.run("older", call, "older")
            except Interrupt as interrupt:
                saw.append(type(interrupt).__name__)
            raise
        return "old"

    other = await app.another()
    run = await app.durably.trigger(loses)
    async with app.durably.worker([loses]):
        await within(gate.reached.wait())
        await take_over(app, other, await app.get(run), loses)
        gate.opened.set()
        await eventually(lambda: len(saw) == 2)

    ended = await app.get(run)
    assert (ended.status, ended.output, ended.attempt) == (RunStatus.COMPLETED, "new", 2)
    assert await app.step_names(run) == ["new"]
    assert saw[1] == "LeaseLost"
    assert [line for line in await app.story(run) if "old" in line] == []


@pytest.mark.parametrize("store_kind", SHARED, indirect=True)
async def test_an_old_owner_cannot_end_the_run(app: App) -> None:
    """G3, G4, G8: neither its success nor its failure counts."""
    gate = Gate()

    @job("ends")
    async def ends(step: Step) -> str:
        if step.attempt == 1:
            try:
                await gate.wait()
            except asyncio.CancelledError:
                raise RuntimeError("the old owner failed") from None
        return f"attempt {step.attempt}"

    other = await app.another()
    run = await app.durably.trigger(ends)
    async with app.durably.worker([ends]):
        await within(gate.reached.wait())
        await take_over(app, other, await app.get(run), ends)
        gate.opened.set()

    ended = await app.get(run)
    assert (ended.status, ended.output, ended.error) == (RunStatus.COMPLETED, "attempt 2", None)
    assert (await app.story(run)).count("run:complete") == 1


@pytest.mark.parametrize("store_kind", SHARED, indirect=True)
async def test_a_run_is_leased_by_one_worker_at_a_time_over_many(app: App) -> None:
    """G3, under a crowd of workers that poll as fast as they can."""
    inside: set[str] = set()
    executed: list[str] = []

    @job("exclusive")
    async def exclusive(step: Step) -> None:
        assert step.run_id not in inside
        inside.add(step.run_id)
        await step.run("yield", call, "x")
        inside.discard(step.run_id)
        executed.append(step.run_id)

    others = [await app.another(poll_interval=timedelta(milliseconds=5)) for _ in range(3)]
    runs = await app.durably.trigger_many(exclusive, [None] * 60)
    workers = [durably.worker([exclusive], max_concurrent_runs=7) for durably in (app.durably, *others)]
    await asyncio.gather(*(worker.start() for worker in workers))
    ended = [await app.wait(run) for run in runs]
    await asyncio.gather(*(worker.stop() for worker in workers))

    assert sorted(executed) == sorted(run.id for run in runs)
    assert {(run.status, run.attempt, run.generation) for run in ended} == {(RunStatus.COMPLETED, 1, 1)}


async def crash(app: App, run: Run[Any], *, times: int) -> None:
    """Be that many processes that take the run and die."""
    await app.die_with(run)
    for _ in range(times - 1):
        [again] = await app.outside.claim_expired(run.job)
        await app.outside.expire(again)


@pytest.mark.parametrize("key", [None, "key"])
async def test_a_run_that_keeps_killing_its_process_is_failed_and_says_so(make_app: MakeApp, key: str | None) -> None:
    """G13: after `max_crashes` leases that expired without a new checkpoint. Its key's slot is free again."""
    app = await make_app(lease=SHORT)
    run = await app.durably.trigger(two, concurrency_key=key)
    await crash(app, run, times=3)
    behind = await app.durably.trigger(two, concurrency_key=key)

    async with app.durably.worker([two]):
        with pytest.raises(RunFailed, match="3 times") as caught:
            await within(app.durably.result(run))
        assert (await app.wait(behind)).status is RunStatus.COMPLETED

    assert caught.value.error is not None
    assert caught.value.error.type == "WorkerCrashed"
    assert (await app.story(run))[-1] == "run:fail"
    assert await app.outside.is_sound()


async def test_a_crash_after_a_new_checkpoint_starts_the_count_anew(app: App) -> None:
    """G13: only crashes without progress count."""
    run = await app.durably.trigger(two)
    await crash(app, run, times=2)
    [third] = await app.outside.claim_expired("two")
    await app.outside.store(a_checkpoint(third, name="first", output='"first"'))
    await app.outside.expire(third)

    async with app.durably.worker([two]):
        ended = await app.wait(run)

    assert (ended.status, ended.attempt) == (RunStatus.COMPLETED, 4)


async def test_a_run_failed_by_crashes_can_be_resumed(make_app: MakeApp) -> None:
    """G8, G13: after the cause is mended."""
    app = await make_app(lease=SHORT)
    run = await app.durably.trigger(two)
    await crash(app, run, times=3)
    assert await app.process(two) == 0
    assert (await app.get(run)).status is RunStatus.FAILED

    assert (await app.again(run, two)).output == ["first", "second"]


async def test_interruptions_in_good_order_are_no_crashes(make_app: MakeApp) -> None:
    """G13: a run that is handed back again and again goes on for ever."""
    app = await make_app(max_crashes=1)
    reached: asyncio.Queue[int] = asyncio.Queue()
    gate = Gate()

    @job("patient")
    async def patient(step: Step) -> str:
        reached.put_nowait(step.attempt)
        await gate.wait()
        return "done"

    run = await app.durably.trigger(patient)
    for _ in range(3):
        worker = app.durably.worker([patient])
        await worker.start()
        assert await within(reached.get()) == 1
        await worker.stop(timedelta(0))
    gate.opened.set()
    await app.process(patient)

    ended = await app.get(run)
    assert (ended.status, ended.attempt, ended.generation) == (RunStatus.COMPLETED, 1, 4)


@pytest.mark.parametrize("poll", [timedelta(milliseconds=5), timedelta(seconds=60)])
async def test_a_late_renewal_that_nobody_beat_keeps_the_run(make_app: MakeApp, poll: timedelta) -> None:
    """G3: an expired lease that nobody took is renewed, and the run goes on as if nothing had been.

    Least of all does its own worker take it, however often that looks for expired leases.
    """
    app = await make_app(poll_interval=poll, max_crashes=1 if poll < SHORT else 3)
    gate = Gate()

    @job("late")
    async def late(step: Step) -> list[str]:
        first = await step.run("first", call, "first")
        await gate.wait()
        return [first, await step.run("second", call, "second")]

    run = await app.durably.trigger(late)
    async with app.durably.worker([late]) as worker:
        await within(gate.reached.wait())
        await app.expire(run)
        await eventually(is_renewed(app, run))
        gate.opened.set()
        ended = await app.wait(run)
        assert worker.is_running

    assert (ended.status, ended.attempt, ended.generation) == (RunStatus.COMPLETED, 1, 1)
    assert (await app.story(run)).count("run:leased") == 1


def is_renewed(app: App, run: Run[Any]) -> Callable[[], Awaitable[bool]]:
    """Whether the lease is in force by the clock of the database."""
    now = "clock_timestamp()" if app.is_postgres else "CAST(strftime('%s', 'now') AS INTEGER) * 1000000"

    async def look() -> bool:
        return bool(await app.outside.sql(f"SELECT 1 FROM {{runs}} WHERE id = '{run.id}' AND lease_expires_at > {now}"))

    return look
