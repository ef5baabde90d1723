"""G5: a step is stored once, executed once, named once; what fails, and who is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from durably import DuplicateStep, EventType, RunStatus, Step, StepStatus, job
from tests.support.app import App
from tests.support.bench import Gate

calls: list[str] = []


@pytest.fixture(autouse=True)
def no_calls() -> Iterator[None]:
    calls.clear()
    yield
    calls.clear()


async def call(name: str) -> str:
    calls.append(name)
    return name


async def fail(text: str) -> str:
    calls.append(text)
    raise ValueError(text)


async def fail_at_first(name: str) -> str:
    calls.append(name)
    if calls.count(name) == 1:
        raise LookupError(f"{name} failed")
    return name


async def test_a_step_that_returned_is_committed(app: App) -> None:
    """G5: whoever looks after `step.run` returned finds the step stored."""

    @job("looks")
    async def looks(step: Step) -> list[str]:
        await step.run("one", call, "one")
        return [found.name for found in await app.durably.get_steps(step.run_id)]

    assert (await app.execute(looks)).output == ["one"]


async def test_a_step_that_returned_is_never_executed_again(app: App) -> None:
    """G5: neither after a failure, nor after a second one."""

    @job("three")
    async def three(step: Step) -> list[str]:
        first = await step.run("first", call, "first")
        if step.attempt < 3:
            raise RuntimeError("once more")
        return [first, await step.run("second", call, "second")]

    run = await app.again(await app.again(await app.execute(three), three), three)

    assert (run.output, run.attempt) == (["first", "second"], 3), run.error
    assert calls == ["first", "second"]
    assert (run.completed_steps, run.next_step) == (2, 2)


async def test_a_step_that_failed_is_tried_again_by_user_code_under_its_name(app: App) -> None:
    """G5: a failed step gives its name back, and leaves one stored step."""

    @job("retries")
    async def retries(step: Step) -> str:
        try:
            return await step.run("flaky", fail_at_first, "flaky")
        except LookupError:
            return await step.run("flaky", fail_at_first, "flaky")

    run = await app.execute(retries)

    assert (run.status, run.output, calls) == (RunStatus.COMPLETED, "flaky", ["flaky", "flaky"])
    [stored] = await app.durably.get_steps(run)
    assert (stored.name, stored.status, stored.error) == ("flaky", StepStatus.COMPLETED, None)
    assert (await app.story(run))[2:] == [
        "step:start flaky", "step:fail flaky", "step:start flaky", "step:complete flaky", "run:complete",
    ]  # fmt: skip


async def test_a_failed_step_is_executed_again_on_resume(app: App) -> None:
    """G5: only a completed step is never executed again."""

    @job("resumes")
    async def resumes(step: Step) -> str:
        return await step.run("flaky", fail_at_first, "flaky")

    failed = await app.execute(resumes)
    [step] = await app.durably.get_steps(failed)
    assert step.error is not None
    assert (step.status, step.error.type, step.error.message) == (StepStatus.FAILED, "LookupError", "flaky failed")

    assert (await app.again(failed, resumes)).output == "flaky"
    [step] = await app.durably.get_steps(failed)
    assert (step.status, step.error, step.generation) == (StepStatus.COMPLETED, None, 2)


async def test_a_failed_step_that_was_caught_is_not_the_step_that_failed_the_run(app: App) -> None:
    """The step reported is the one whose error ended the run."""

    @job("catches")
    async def catches(step: Step) -> None:
        with pytest.raises(ValueError, match="harmless"):
            await step.run("optional", fail, "harmless")
        await step.run("fine", call, "fine")
        await step.run("fatal", fail, "deadly")

    run = await app.execute(catches)

    assert run.error is not None
    assert (run.error.type, run.error.message, run.error.step) == ("ValueError", "deadly", "fatal")
    [event] = [event for event in await app.events(run) if event.type is EventType.RUN_FAIL]
    assert json.loads(event.payload_json or "")["error"]["step"] == "fatal"
    assert [(step.name, step.status.value) for step in await app.durably.get_steps(run)] == [
        ("optional", "failed"), ("fine", "completed"), ("fatal", "failed"),
    ]  # fmt: skip


async def test_an_error_after_a_caught_one_names_no_step(app: App) -> None:
    """The step reported is the one whose error ended the run; here none did."""

    @job("between")
    async def between(step: Step) -> None:
        with pytest.raises(ValueError, match="harmless"):
            await step.run("optional", fail, "harmless")
        raise RuntimeError("between steps")

    run = await app.execute(between)

    assert run.error is not None
    assert (run.error.message, run.error.step) == ("between steps", None)


async def test_a_task_group_reports_the_step_that_failed_in_it(app: App) -> None:
    """The step reported is the one whose error ended the run, also from inside of an ExceptionGroup."""

    @job("group")
    async def group(step: Step) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(step.run("good", call, "good"))
            tasks.create_task(step.run("bad", fail, "in a group"))

    run = await app.execute(group)

    assert run.error is not None
    assert (run.error.type, run.error.step) == ("ExceptionGroup", "bad")
    assert "ValueError: in a group" in (run.error.traceback or "")


async def test_two_steps_of_one_name_are_an_error_that_names_it(app: App) -> None:
    """G5: never the first one's result."""

    @job("loop")
    async def loop(step: Step) -> None:
        for name in ("a", "b"):
            await step.run("insert", call, name)

    run = await app.execute(loop)

    assert run.error is not None
    assert (run.status, run.error.type) == (RunStatus.FAILED, "DuplicateStep")
    assert "'insert'" in run.error.message
    assert "key=" in run.error.message
    assert calls == ["a"]


async def test_two_steps_of_one_name_are_an_error_on_replay_too(app: App) -> None:
    """G5: a replayed step holds its name like an executed one."""
    caught: list[int] = []

    @job("replays")
    async def replays(step: Step) -> None:
        await step.run("insert", call, "a")
        with pytest.raises(DuplicateStep, match="insert"):
            await step.run("insert", call, "b")
        caught.append(step.attempt)
        if step.attempt == 1:
            raise RuntimeError("once more")

    await app.again(await app.execute(replays), replays)

    assert (caught, calls) == ([1, 2], ["a"])


async def test_keys_tell_the_rounds_of_a_loop_apart(app: App) -> None:
    """G5: each round is a step of its own, stored as insert[0], insert[1], ..."""

    @job("keyed")
    async def keyed(step: Step) -> list[str]:
        found = [await step.run("insert", call, str(place), key=place) for place in range(3)]
        found.append(await step.run("insert", call, "text", key="eu/west 1"))
        return [*found, await step.run("insert", call, "none")]

    run = await app.execute(keyed)

    assert run.output == ["0", "1", "2", "text", "none"], run.error
    assert await app.step_names(run) == ["insert[0]", "insert[1]", "insert[2]", "insert[eu/west 1]", "insert"]


async def test_steps_are_listed_in_the_order_in_which_they_started(app: App) -> None:
    """Not in the order in which they ended."""
    gate = Gate()

    async def slow() -> None:
        await gate.wait()

    @job("order")
    async def order(step: Step) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(step.run("slow", slow))
            await gate.reached.wait()
            await step.run("quick", call, "quick")
            gate.opened.set()
        await step.run("last", call, "last")

    run = await app.execute(order)

    steps = await app.durably.get_steps(run)
    assert [(step.name, step.position) for step in steps] == [("slow", 0), ("quick", 1), ("last", 2)]
    assert steps[1].completed_at <= steps[0].completed_at
    assert run.next_step == 3


@pytest.mark.parametrize("how", ["gather", "TaskGroup"])
async def test_what_parallel_steps_log_and_report_belongs_to_them(app: App, how: str) -> None:
    """Logs go to the right step, however the steps are interleaved; progress is that of the run."""
    started: list[int] = []
    everybody = asyncio.Event()

    @job("parallel")
    async def parallel(step: Step) -> None:
        async def work(place: int) -> None:
            step.log.info("begin %d", place, extra={"place": place})
            started.append(place)
            if len(started) == 5:
                everybody.set()
            await everybody.wait()
            await asyncio.to_thread(step.log.warning, "in a thread %d", place)
            step.progress(place, 5)
            step.log.info("end %d", place)

        step.log.info("before")
        if how == "gather":
            await asyncio.gather(*(step.run("work", work, place, key=place) for place in range(5)))
        else:
            async with asyncio.TaskGroup() as group:
                for place in range(5):
                    group.create_task(step.run("work", work, place, key=place))
        step.log.info("after")

    run = await app.execute(parallel)

    assert run.status is RunStatus.COMPLETED, run.error
    logs = await app.durably.get_logs(run)
    for place in range(5):
        lines = [(line.message, line.level) for line in logs if line.step == f"work[{place}]"]
        assert lines == [(f"begin {place}", "info"), (f"in a thread {place}", "warning"), (f"end {place}", "info")]
    assert [line.message for line in logs if line.step is None] == ["before", "after"]
    assert [line.seq for line in logs] == sorted(line.seq for line in logs)
    assert run.progress is not None
    assert run.progress.total == 5


async def test_the_last_progress_stays_with_the_run(app: App) -> None:
    """Many in a row are stored as the last one; the event tells it to subscribers."""

    @job("progress")
    async def progress(step: Step) -> None:
        for done in range(100):
            step.progress(done, 100, f"row {done}")
        await step.run("one", call, "one")
        step.progress(100)

    run = await app.execute(progress)

    assert run.progress is not None
    assert (run.progress.current, run.progress.total, run.progress.message) == (100, None, None)
    told = [json.loads(event.payload_json or "") for event in await app.events(run) if event.type == "run:progress"]
    assert told == [{"current": 99, "total": 100, "message": "row 99"}, {"current": 100}]


async def test_a_step_has_a_stable_key_for_the_outside_world(app: App) -> None:
    """The same on every execution of the step, another for every step."""
    keys: list[str] = []

    @job("charges")
    async def charges(step: Step) -> None:
        async def charge() -> None:
            keys.append(step.idempotency_key)
            if len(keys) == 1:
                raise ConnectionError("was it charged?")

        await step.run("charge", charge)
        await step.run("charge", charge, key="again")

    run = await app.again(await app.execute(charges), charges)

    assert keys == [f"{run.id}:charge", f"{run.id}:charge", f"{run.id}:charge[again]"]


async def test_a_failed_run_keeps_message_type_traceback_and_step(app: App) -> None:
    """G12: whatever ends a run is stored so that it can be mended; frames of durably itself are left out."""

    @job("broken")
    async def broken(step: Step) -> None:
        try:
            await step.run("divide", lambda: 1 / 0)
        except ZeroDivisionError as error:
            raise RuntimeError("cannot \x00 divide \ud800") from error

    run = await app.execute(broken)

    assert run.error is not None
    assert (run.error.type, run.error.message) == ("RuntimeError", "cannot \\x00 divide \\ud800")
    assert run.error.step == "divide"
    assert run.error.traceback is not None
    assert "ZeroDivisionError: division by zero" in run.error.traceback
    assert "test_jobs_steps.py" in run.error.traceback
    assert "durably/runtime" not in run.error.traceback


async def test_more_steps_logs_and_events_than_a_page_are_all_kept(app: App) -> None:
    """G5, G9, for a long run."""

    @job("long")
    async def long(step: Step) -> int:
        for place in range(1200):
            step.log.info("line %d", place)
        await asyncio.gather(*(step.run("part", call, str(place), key=place) for place in range(300)))
        return len(calls)

    run = await app.execute(long)

    assert run.output == 300, run.error
    assert len(await app.durably.get_steps(run)) == 300
    first = await app.durably.get_logs(run)
    rest = await app.durably.get_logs(run, after=first[-1].seq)
    assert [line.message for line in (*first, *rest)] == [f"line {place}" for place in range(1200)]
    seqs = [event.seq async for event in app.durably.events(run=run)]
    assert seqs == list(range(1, 1 + 2 + 1200 + 600 + 1))
