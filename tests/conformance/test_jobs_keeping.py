"""How long things are kept: steps, logs, runs, events; retention, purge, delete."""

from __future__ import annotations

from datetime import timedelta

import pytest

from durably import Run, RunStatus, Step, ValidationError, job
from tests.support.app import App, MakeApp
from tests.support.bench import Gate, eventually

HOUR = timedelta(hours=1)


async def call(name: str) -> str:
    return name


@job("keeps")
async def keeps(step: Step, input: str) -> str:
    step.log.info("a line")
    result = await step.run("one", call, input)
    if input == "fail":
        raise ValueError("failed")
    return result


@job("drops", preserve_steps=False)
async def drops(step: Step, input: str) -> str:
    step.log.info("a line")
    result = await step.run("one", call, input)
    if input == "fail":
        raise ValueError("failed")
    return result


async def left(app: App, run: Run[str]) -> tuple[int, int]:
    """How many steps and log lines are there."""
    return len(await app.durably.get_steps(run)), len(await app.durably.get_logs(run))


async def test_steps_and_logs_live_as_long_as_the_run(app: App) -> None:
    """`preserve_steps=True`, the default: whatever the end of the run."""
    for given in ("done", "fail"):
        assert await left(app, await app.execute(keeps, given)) == (1, 1)


async def test_a_job_may_drop_the_steps_of_runs_that_completed(app: App) -> None:
    """`@job(preserve_steps=False)`: the output and the logs stay; counters still tell what was."""
    run = await app.execute(drops, "done")
    assert await left(app, run) == (0, 1)
    assert (run.output, run.completed_steps) == ("done", 1)


async def test_a_failed_run_keeps_its_steps_in_any_case(app: App) -> None:
    """G12: it may be resumed; then they go."""
    failed = await app.execute(drops, "fail")
    assert await left(app, failed) == (1, 1)
    again = await app.again(failed, drops)
    assert (again.status, again.attempt) == (RunStatus.FAILED, 2)
    assert (await left(app, failed))[0] == 1


async def test_durably_may_drop_the_steps_of_all_runs_that_completed(make_app: MakeApp) -> None:
    """`Durably(preserve_steps=False)`."""
    app = await make_app(preserve_steps=False)
    assert await left(app, await app.execute(keeps, "done")) == (0, 1)
    assert await left(app, await app.execute(keeps, "fail")) == (1, 1)


async def ended_runs(app: App) -> dict[str, Run[str]]:
    """One run of each end."""
    completed, failed = await app.execute(keeps, "done"), await app.execute(keeps, "fail")
    cancelled = await app.durably.cancel(await app.durably.trigger(keeps, "cancelled"))
    return {"completed": completed, "failed": failed, "cancelled": cancelled}


async def test_purge_deletes_what_ended_long_enough_ago_with_all_it_left(app: App) -> None:
    """One rule for all ends; what has not ended is never touched."""
    runs = await ended_runs(app)
    waiting = await app.durably.trigger(keeps, "waits")
    assert await app.durably.purge_runs(older_than=HOUR) == 0
    for run in runs.values():
        await app.age(run)
    assert await app.durably.purge_runs(older_than=HOUR) == 3

    assert [run.id for run in await app.durably.get_runs()] == [waiting.id]
    rows = await app.outside.snapshot()
    assert (rows["steps"], rows["logs"]) == ([], [])
    assert await app.outside.is_sound()


async def test_purge_can_be_limited_to_some_ends(app: App) -> None:
    """`statuses`: one or several."""
    runs = await ended_runs(app)
    assert await app.durably.purge_runs(older_than=timedelta(0), statuses="completed") == 1
    assert await app.durably.purge_runs(older_than=timedelta(0), statuses=["cancelled", "completed"]) == 1
    assert [run.id for run in await app.durably.get_runs()] == [runs["failed"].id]


@pytest.mark.parametrize("status", ["pending", "leased"])
async def test_runs_that_are_not_over_cannot_be_purged(app: App, status: str) -> None:
    """The error says so."""
    await app.durably.trigger(keeps, "waits")
    with pytest.raises(ValidationError, match=f"^statuses: .*{status} are not over"):
        await app.durably.purge_runs(older_than=timedelta(0), statuses=status)
    assert len(await app.durably.get_runs()) == 1


async def test_purge_takes_more_than_a_batch(app: App) -> None:
    """However many there are."""
    runs = await app.durably.trigger_many(keeps, ["x"] * 1100)
    await app.outside.sql("UPDATE {runs} SET status = 'cancelled', completed_at = created_at")
    assert await app.durably.purge_runs(older_than=timedelta(0)) == len(runs)
    assert await app.durably.get_runs() == []


async def test_a_worker_deletes_runs_beyond_their_retention(make_app: MakeApp) -> None:
    """`retain_runs`: one rule for all ends, also while every slot is busy."""
    app = await make_app(retain_runs=HOUR, max_concurrent_runs=1)
    gate = Gate()

    @job("busy")
    async def busy(step: Step) -> None:
        await gate.wait()

    old, young = await ended_runs(app), await ended_runs(app)
    for run in old.values():
        await app.age(run)
    holder = await app.durably.trigger(busy)

    async def is_purged() -> bool:
        return len(await app.durably.get_runs()) == len(young) + 1

    async with app.durably.worker([busy, keeps]):
        await eventually(is_purged)
        gate.opened.set()
        await app.wait(holder)

    assert {run.id for run in await app.durably.get_runs(keeps)} == {run.id for run in young.values()}


async def test_a_worker_deletes_events_beyond_their_retention(make_app: MakeApp) -> None:
    """`retain_events`: runs, steps and logs stay."""
    app = await make_app(retain_events=HOUR)
    run = await app.execute(keeps, "done")
    await app.outside.sql("UPDATE {events} SET created_at = created_at - 24 * {hour}")

    async def is_purged() -> bool:
        return await app.events(run) == []

    async with app.durably.worker([keeps]):
        await eventually(is_purged)
    assert await left(app, run) == (1, 1)
    assert (await app.get(run)).output == "done"


async def test_nothing_is_deleted_unless_it_was_asked_for(app: App) -> None:
    """Runs are kept for ever by default."""
    run = await app.execute(keeps, "done")
    for _ in range(400):
        await app.age(run)
    async with app.durably.worker([keeps]):
        assert await app.durably.trigger_and_wait(keeps, "another", timeout=20) == "another"
    assert await app.process(keeps) == 0
    assert len(await app.durably.get_runs()) == 2
