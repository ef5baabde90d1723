"""G10: after a cancel nothing more of the run is stored, and its code is interrupted; G8: what has ended stays so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from durably import (
    Cancelled,
    Durably,
    Interrupt,
    LeaseLost,
    Run,
    RunCancelled,
    RunNotFound,
    RunStatus,
    Step,
    WrongStatus,
    job,
)
from tests.support.app import App, within
from tests.support.bench import Gate, eventually

SHARED = ["sqlite-file", "postgres"]
INTERRUPTED_WITHIN = 5.0
"""A second is promised; the machine under test may be busy."""


async def call(name: str) -> str:
    return name


class Watched:
    """What became of code that was to be interrupted."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.ended = asyncio.Event()
        self.saw: list[str] = []

    async def slow(self) -> str:
        try:
            await self.gate.wait()
        except BaseException as error:
            self.saw.append(type(error).__name__)
            raise
        finally:
            self.ended.set()
        return "too late"


async def running(app: App, watched: Watched, run: Run[Any]) -> None:
    """Wait until the code is in its slow step, and that is stored: what a cancel drops is then known."""
    await within(watched.gate.reached.wait())

    async def is_told() -> bool:
        return "step:start slow" in await app.story(run)

    await eventually(is_told)


async def test_a_cancelled_run_that_waits_is_never_executed(app: App) -> None:
    """G10, for a pending run."""
    executed: list[str] = []

    @job("waits")
    async def waits(step: Step) -> None:
        executed.append(step.run_id)

    run = await app.durably.trigger(waits)
    cancelled = await app.durably.cancel(run)

    assert (cancelled.status, cancelled.completed_at is not None) == (RunStatus.CANCELLED, True)
    assert await app.process(waits) == 0
    assert (executed, await app.story(run)) == ([], ["run:trigger", "run:cancel"])
    with pytest.raises(RunCancelled, match=run.id):
        await app.durably.result(run)


async def test_a_cancel_interrupts_the_code_and_no_further_step_is_stored(app: App) -> None:
    """G10: steps stored before stay; `step:cancel` comes after `run:cancel`, and nothing after that."""
    watched = Watched()

    @job("slow")
    async def slow(step: Step) -> None:
        await step.run("first", call, "first")
        await step.run("slow", watched.slow)

    run = await app.durably.trigger(slow)
    async with app.durably.worker([slow]):
        await running(app, watched, run)
        await app.durably.cancel(run)
        await within(watched.ended.wait(), seconds=INTERRUPTED_WITHIN)

    assert watched.saw == ["CancelledError"]
    assert await app.step_names(run) == ["first"]
    assert await app.story(run) == [
        "run:trigger", "run:leased", "step:start first", "step:complete first", "step:start slow", "run:cancel",
        "step:cancel slow",
    ]  # fmt: skip
    ended = await app.get(run)
    assert (ended.status, ended.error, ended.output) == (RunStatus.CANCELLED, None, None)


async def test_every_step_under_way_is_told_to_be_cancelled(app: App) -> None:
    """G10, for parallel steps."""
    gate, started = Gate(), list[int]()

    async def wait(place: int) -> None:
        started.append(place)
        await gate.wait()

    @job("parallel")
    async def parallel(step: Step) -> None:
        async with asyncio.TaskGroup() as group:
            for place in range(3):
                group.create_task(step.run("wait", wait, place, key=place))

    run = await app.durably.trigger(parallel)
    async with app.durably.worker([parallel]):
        await eventually(lambda: len(started) == 3)
        await app.durably.cancel(run)

    story = await app.story(run)
    told = story[story.index("run:cancel") + 1 :]
    assert sorted(told) == [f"step:cancel wait[{place}]" for place in range(3)]
    assert await app.durably.get_steps(run) == []


async def test_a_step_that_ends_as_its_run_is_cancelled_is_told_to_be_cancelled(app: App) -> None:
    """G10: whether the interrupt or the refused checkpoint comes first; the step is not stored."""

    @job("cancels-itself")
    async def cancels_itself(step: Step) -> None:
        async with asyncio.TaskGroup() as group:
            for place in range(2):
                group.create_task(step.run("cancel", cancel, step.run_id, place, key=place))

    async def cancel(run_id: str, place: int) -> str:
        if place == 0:
            await app.durably.cancel(run_id)
        return "too late"

    for _ in range(5):
        run = await app.execute(cancels_itself)
        assert run.status is RunStatus.CANCELLED
        story = await app.story(run)
        assert "step:cancel cancel[0]" in story[story.index("run:cancel") + 1 :]
        told = [str(event.step) for event in await app.events(run) if event.type in {"step:complete", "step:cancel"}]
        assert sorted(told) == ["cancel[0]", "cancel[1]"]
        assert "cancel[0]" not in await app.step_names(run)


async def test_code_that_swallows_the_cancellation_ends_at_its_next_step(app: App) -> None:
    """G10: also with `except CancelledError`, also with `except Exception` around the next step."""
    watched = Watched()

    @job("stubborn")
    async def stubborn(step: Step) -> str:
        try:
            await step.run("slow", watched.slow)
        except asyncio.CancelledError:
            watched.saw.append("swallowed")
        try:
            await step.run("next", call, "next")
        except Exception:  # noqa: BLE001 - what users write
            watched.saw.append("swallowed again")
        except Interrupt as interrupt:
            watched.saw.append(type(interrupt).__name__)
            raise
        return "unreachable"

    run = await app.durably.trigger(stubborn)
    async with app.durably.worker([stubborn]):
        await running(app, watched, run)
        await app.durably.cancel(run)
        await eventually(lambda: len(watched.saw) == 3)

    assert watched.saw == ["CancelledError", "swallowed", "Cancelled"]
    assert await app.durably.get_steps(run) == []
    assert (await app.story(run))[-2:] == ["run:cancel", "step:cancel slow"]


async def test_what_code_returns_in_spite_of_a_cancel_is_dropped(app: App) -> None:
    """G8, G10: the run stays cancelled, its output is not stored; logs and progress neither."""
    watched = Watched()

    @job("returns")
    async def returns(step: Step) -> str:
        step.log.info("before")
        try:
            await step.run("slow", watched.slow)
        except BaseException:  # noqa: BLE001 - the worst that users write
            step.log.info("after")
            step.progress(1)
        return "done all the same"

    run = await app.durably.trigger(returns)
    async with app.durably.worker([returns]):
        await running(app, watched, run)
        await app.durably.cancel(run)
        await within(watched.ended.wait(), seconds=INTERRUPTED_WITHIN)

    ended = await app.get(run)
    assert (ended.status, ended.output, ended.progress) == (RunStatus.CANCELLED, None, None)
    assert [line.message for line in await app.durably.get_logs(run)] == ["before"]
    assert app.errors() == []


async def test_code_may_clean_up_when_it_is_cancelled(app: App) -> None:
    """G10: the interrupt is a normal asyncio cancellation; what `finally` awaits is awaited."""
    watched, cleaned = Watched(), list[str]()

    @job("cleans")
    async def cleans(step: Step) -> None:
        try:
            await step.run("slow", watched.slow)
        finally:
            await asyncio.sleep(0)
            cleaned.append("temporary files")

    run = await app.durably.trigger(cleans)
    async with app.durably.worker([cleans]):
        await running(app, watched, run)
        await app.durably.cancel(run)
        await eventually(lambda: cleaned)
    assert (await app.get(run)).status is RunStatus.CANCELLED


@pytest.mark.parametrize("store_kind", SHARED, indirect=True)
async def test_a_cancel_in_another_process_arrives_as_a_cancel(app: App) -> None:
    """G10: the code is interrupted soon, and the reason is the cancel, not a lost lease."""
    watched, reasons = Watched(), list[str]()

    @job("elsewhere")
    async def elsewhere(step: Step) -> None:
        try:
            await step.run("slow", watched.slow)
        finally:
            try:
                await step.run("next", call, "next")
            except Interrupt as interrupt:
                reasons.append(type(interrupt).__name__)

    run = await app.durably.trigger(elsewhere)
    other = await app.another()
    async with app.durably.worker([elsewhere]):
        await running(app, watched, run)
        await other.cancel(run.id)
        await within(watched.ended.wait(), seconds=INTERRUPTED_WITHIN)

    assert reasons == [Cancelled.__name__]
    assert (await app.story(run))[-2:] == ["run:cancel", "step:cancel slow"]


@pytest.mark.parametrize("by", ["itself", "another process"])
async def test_a_run_that_was_cancelled_and_deleted_while_it_runs_stores_nothing_more(app: App, by: str) -> None:
    """G4, G10: a missing run is a lost lease. The next side effect does not happen."""
    if app.kind == "sqlite-memory" and by == "another process":
        pytest.skip("no other process sees SQLite in memory")
    watched, side_effects = Watched(), list[str]()

    @job("deleted")
    async def deleted(step: Step) -> None:
        try:
            await step.run("slow", watched.slow)
        except asyncio.CancelledError:
            watched.saw.append("swallowed")
        try:
            await step.run("charge", side_effects.append, "charged")
        except Interrupt as interrupt:
            watched.saw.append(type(interrupt).__name__)
            raise

    run = await app.durably.trigger(deleted)
    durably = app.durably if by == "itself" else await app.another()
    async with app.durably.worker([deleted]):
        await running(app, watched, run)
        await durably.cancel(run.id)
        await durably.delete_run(run.id)
        await within(watched.ended.wait(), seconds=INTERRUPTED_WITHIN)
        await eventually(lambda: len(watched.saw) == 3)

    assert watched.saw[-1] in {Cancelled.__name__, LeaseLost.__name__}
    assert side_effects == []
    assert await app.durably.get_run(run) is None
    rows = await app.outside.snapshot()
    assert (rows["runs"], rows["steps"], rows["logs"]) == ([], [], [])
    story = await app.story(run)
    assert story[story.index("run:delete") + 1 :] in ([], ["step:cancel slow"])


async def ended_run(app: App, status: RunStatus) -> Run[None]:
    @job("ends")
    async def ends(step: Step) -> None:
        if status is RunStatus.FAILED:
            raise ValueError("failed")

    if status is not RunStatus.CANCELLED:
        return await app.execute(ends)
    return await app.durably.cancel(await app.durably.trigger(ends))


@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED])
async def test_a_run_that_has_ended_never_changes(app: App, status: RunStatus) -> None:
    """G8: save failed -> pending by an explicit `resume`."""
    run = await ended_run(app, status)
    before = await app.outside.snapshot()
    actions: dict[str, Callable[[Durably], Awaitable[object]]] = {"cancel": lambda durably: durably.cancel(run)}
    if status is not RunStatus.FAILED:
        actions["resume"] = lambda durably: durably.resume(run)

    for name, action in actions.items():
        with pytest.raises(WrongStatus) as caught:
            await action(app.durably)
        error = caught.value
        assert (error.operation, error.run_id, error.status) == (name, run.id, status)

    assert await app.outside.snapshot() == before
    assert run.status is status


async def test_a_run_that_has_not_ended_is_neither_resumed_nor_retriggered_nor_deleted(app: App) -> None:
    """G8, the other way round: pending and leased."""
    gate = Gate()

    @job("open")
    async def open_(step: Step) -> None:
        await gate.wait()

    run = await app.durably.trigger(open_)
    async with app.durably.worker([open_]):
        await within(gate.reached.wait())
        for action in (app.durably.resume, app.durably.retrigger, app.durably.delete_run):
            with pytest.raises(WrongStatus, match=f"leased run: {run.id}"):
                await action(run)
        gate.opened.set()
        assert (await app.wait(run)).status is RunStatus.COMPLETED


async def test_of_a_cancel_and_an_end_at_once_one_wins_and_the_other_is_told(app: App) -> None:
    """G8: whichever comes first, the run has one end, and its events tell one story."""

    @job("quick")
    async def quick(step: Step) -> str:
        return await step.run("one", call, "one")

    async with app.durably.worker([quick]):
        for _ in range(20):
            run = await app.durably.trigger(quick)
            await eventually(has_started(app, run))
            [cancelled] = await asyncio.gather(app.durably.cancel(run), return_exceptions=True)
            ended = await app.wait(run)
            ends = [event.type for event in await app.events(run) if event.type in {"run:complete", "run:cancel"}]
            if isinstance(cancelled, WrongStatus):
                assert (cancelled.status, ended.status, ends) == ("completed", "completed", ["run:complete"])
            else:
                assert (ended.status, ends) == (RunStatus.CANCELLED, ["run:cancel"])


def has_started(app: App, run: Run[Any]) -> Callable[[], bool]:
    """Whether a step of the run was told to have started."""
    return lambda: any(event.run_id == run.id and event.type == "step:start" for event in app.heard)


async def test_a_deleted_run_is_gone_with_all_that_it_left(app: App) -> None:
    """Steps and logs go, its events stay to be read, its idempotency key is free again."""

    @job("leaves")
    async def leaves(step: Step) -> None:
        step.log.info("a line")
        await step.run("one", call, "one")

    run = await app.execute(leaves, idempotency_key="k")
    await app.durably.delete_run(run)

    assert await app.durably.get_run(run) is None
    for look in (app.durably.get_steps, app.durably.get_logs, app.durably.cancel, app.durably.delete_run):
        with pytest.raises(RunNotFound):
            await look(run)
    rows = await app.outside.snapshot()
    assert (rows["runs"], rows["steps"], rows["logs"]) == ([], [], [])
    assert (await app.story(run))[-1] == "run:delete"
    assert (await app.durably.trigger(leaves, idempotency_key="k")).id != run.id
