"""Steps: stored once, the same value always, named once, in parallel, and what is told when they fail."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import pytest

from durably.errors import DuplicateStep, SerializationError, UsageError, ValidationError
from durably.jobs import job
from durably.model import RunStatus, StepStatus
from durably.runtime.context import Step, SyncStep
from durably.runtime.steps import current_step
from tests.support.bench import Bench


@dataclass(frozen=True)
class Row:
    name: str
    tags: tuple[str, ...]


calls: list[str] = []


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


async def read(name: str) -> Row:
    calls.append(f"read {name}")
    return Row(name, ("a", "b"))


def returns_awaitable(name: str) -> Awaitable[Row]:
    return read(name)


def count(row: Row) -> int:
    calls.append(f"count {row.name}")
    return len(row.tags)


async def break_once(marker: str) -> str:
    calls.append(marker)
    if calls.count(marker) == 1:
        raise LookupError(marker)
    return marker


def without_duration(payload: Any) -> Any:
    """The store measures it on its own."""
    if payload is None:
        return None
    assert payload.pop("durationMs", 0) >= 0
    return payload


async def test_a_step_returns_the_same_value_on_replay_and_is_executed_once(bench: Bench) -> None:
    seen: list[object] = []

    @job("replayed")
    async def replayed(step: Step, input: str) -> int:
        row = await step.run("read", read, input)
        seen.append(row)
        await step.run("break", break_once, "x")
        return await step.run("count", count, row)

    failed = await bench.execute(replayed, "r")
    await bench.resume(failed)
    await bench.worker(replayed).process_one()

    run = await bench.run(failed)
    assert (run.status, run.output_json, run.attempt) == (RunStatus.COMPLETED, "2", 2)
    assert seen == [Row("r", ("a", "b"))] * 2
    assert calls == ["read r", "x", "x", "count r"]
    assert [(step.name, step.position) for step in await bench.steps(run)] == [("read", 0), ("break", 1), ("count", 2)]


async def test_the_events_of_a_run_tell_its_story_in_order(bench: Bench) -> None:
    @job("story")
    async def story(step: Step) -> None:
        step.log.info("before")
        await step.run("read", read, "r")
        step.progress(1)
        step.progress(2, 3, "two of three")
        await step.run("again", read, "r")

    run = await bench.execute(story)

    told = [
        "run:trigger", "run:leased", "log:write", "step:start read", "step:complete read", "run:progress",
        "step:start again", "step:complete again", "run:complete",
    ]  # fmt: skip
    assert await bench.story(run) == told
    assert [f"{event.type} {event.step or ''}".strip() for event in bench.heard] == told[1:]
    assert run.progress is not None
    assert (run.progress.current, run.progress.total, run.progress.message) == (2, 3, "two of three")
    stored = [json.loads(event.payload_json or "null") for event in (await bench.events(run))[1:]]
    heard = [json.loads(event.payload_json or "null") for event in bench.heard]
    for one, other in zip(stored, heard, strict=True):
        assert without_duration(one) == without_duration(other)


async def test_two_steps_of_one_name_are_an_error_and_keys_tell_them_apart(bench: Bench) -> None:
    @job("twice")
    async def twice(step: Step) -> list[str]:
        rows = [await step.run("read", read, str(i), key=i) for i in range(2)]
        with pytest.raises(DuplicateStep, match=r"read\[1\]"):
            await step.run("read", read, "again", key=1)
        with pytest.raises(DuplicateStep):
            await asyncio.gather(step.run("same", read, "1"), step.run("same", read, "2"))
        return [row.name for row in rows]

    run = await bench.execute(twice)

    assert run.output_json == '["0","1"]'
    assert await bench.step_names(run) == ["read[0]", "read[1]", "same"]


async def test_a_step_that_failed_may_run_again_under_its_name(bench: Bench) -> None:
    @job("again")
    async def again(step: Step) -> str:
        with pytest.raises(LookupError):
            await step.run("break", break_once, "x")
        return await step.run("break", break_once, "x")

    run = await bench.execute(again)

    assert run.status is RunStatus.COMPLETED
    [step] = await bench.steps(run)
    assert (step.name, step.status, step.position, step.output_json) == ("break", StepStatus.COMPLETED, 0, '"x"')
    assert (await bench.story(run))[2:] == [
        "step:start break", "step:fail break", "step:start break", "step:complete break", "run:complete",
    ]  # fmt: skip


async def test_the_step_whose_error_ended_the_run_is_reported_not_one_that_was_caught(bench: Bench) -> None:
    async def fail(text: str) -> None:
        raise ValueError(text)

    @job("fails")
    async def fails(step: Step) -> None:
        with pytest.raises(ValueError, match="first"):
            await step.run("caught", fail, "first")
        try:
            await step.run("second", fail, "second")
        except ValueError as error:
            raise RuntimeError("wrapped") from error

    run = await bench.execute(fails)

    assert run.error is not None
    assert (run.error.type, run.error.message, run.error.step) == ("RuntimeError", "wrapped", "second")
    assert run.error.traceback is not None
    assert "second" in run.error.traceback
    assert [(s.name, s.status, s.error and s.error.message) for s in await bench.steps(run)] == [
        ("caught", StepStatus.FAILED, "first"),
        ("second", StepStatus.FAILED, "second"),
    ]


async def test_an_error_between_steps_names_no_step(bench: Bench) -> None:
    @job("between")
    async def between(step: Step) -> None:
        await step.run("read", read, "r")
        raise ValueError("outside")

    run = await bench.execute(between)

    assert run.error is not None
    assert (run.status, run.error.message, run.error.step) == (RunStatus.FAILED, "outside", None)
    assert await bench.step_names(run) == ["read"]


async def test_a_value_that_json_would_change_is_an_error_naming_the_step(bench: Bench) -> None:
    def pairs() -> Any:
        return [("a", 1)]

    @job("lossy")
    async def lossy(step: Step) -> None:
        await step.run("pairs", pairs)

    run = await bench.execute(lossy)

    assert run.error is not None
    assert (run.error.type, run.error.step) == ("SerializationError", "pairs")
    assert "step 'pairs'" in run.error.message
    assert [step.status for step in await bench.steps(run)] == [StepStatus.FAILED]


async def test_a_value_over_the_limit_is_an_error_and_so_is_such_an_output(bench: Bench) -> None:
    @job("large")
    async def large(step: Step) -> str:
        with pytest.raises(SerializationError, match="at most 100"):
            await step.run("large", lambda: "x" * 200)
        return "y" * 200

    run = await bench.execute(large, max_value_bytes=100)

    assert run.error is not None
    assert (run.error.type, run.error.step) == ("SerializationError", None)
    assert "output of job 'large'" in run.error.message


async def test_returns_names_the_type_where_there_is_no_annotation(bench: Bench) -> None:
    @job("typed")
    async def typed(step: Step) -> bool:
        row = await step.run("row", lambda: Row("r", ("t",)), returns=Row)
        part = await step.run("part", functools.partial(read, "p"))
        made = await step.run("made", Row, "m", ("x",))
        later = await step.run("later", returns_awaitable, "l")
        return [type(value) for value in (row, part, made, later)] == [Row] * 4

    assert (await bench.execute(typed)).output_json == "true"


async def test_lines_between_steps_are_stored_once_although_a_replay_passes_them_again(bench: Bench) -> None:
    @job("logged")
    async def logged(step: Step) -> None:
        step.log.info("start")
        await step.run("read", read, "r")
        step.log.info("middle")
        await step.run("break", break_once, "x")
        step.log.info("end")

    failed = await bench.execute(logged)
    await bench.resume(failed)
    await bench.worker(logged).process_one()

    assert [line.message for line in await bench.logs(failed)] == ["start", "middle", "middle", "end"]


async def test_a_step_knows_its_run_and_a_key_for_the_outside_world(bench: Bench) -> None:
    @job("known")
    async def known(step: Step) -> list[Any]:
        outside = step.idempotency_key
        inside = await step.run("charge", lambda: step.idempotency_key, key=1)
        return [outside, inside, step.run_id, step.attempt, dict(step.labels), step.aborted]

    run = await bench.trigger(known, labels={"a": "b"})
    await bench.worker(known).process_one()

    expected = f'["{run.id}","{run.id}:charge[1]","{run.id}",1,{{"a":"b"}},false]'
    assert (await bench.run(run)).output_json == expected


async def test_plain_functions_run_in_threads_with_the_context_of_the_job(bench: Bench) -> None:
    @job("threads")
    async def threads(step: Step) -> list[str]:
        def where() -> str:
            under_way = current_step.get()
            return f"{under_way and under_way.name} {threading.current_thread() is threading.main_thread()}"

        return [await step.run("where", where), str(current_step.get())]

    assert (await bench.execute(threads)).output_json == '["where False","None"]'


async def test_a_def_job_runs_in_a_thread_and_so_do_its_steps(bench: Bench) -> None:
    @job("blocking")
    def blocking(step: SyncStep, input: str) -> list[Any]:
        row = step.run("first", lambda: Row(input, ()), returns=Row)
        step.log.info("a line")
        step.progress(1)
        same = step.run("where", threading.get_ident) == threading.get_ident()
        with pytest.raises(UsageError, match="async function"):
            step.run("async", read, "x").close()
        with pytest.raises(ValueError, match="boom"):
            step.run("boom", int, "boom")
        with pytest.raises(DuplicateStep):
            step.run("first", count, row)
        return [step.run("boom", int, "1"), same]

    run = await bench.execute(blocking, "r")

    assert run.output_json == "[1,true]", run.error
    assert await bench.story(run) == [
        "run:trigger", "run:leased", "step:start first", "step:complete first", "log:write", "run:progress",
        "step:start where", "step:complete where", "step:start boom", "step:fail boom", "step:start boom",
        "step:complete boom", "run:complete",
    ]  # fmt: skip


@pytest.mark.parametrize("error", [StopIteration("s"), SystemExit(3), asyncio.CancelledError(), GeneratorExit()])
@pytest.mark.parametrize("colour", ["async", "thread", "sync job"])
async def test_whatever_user_code_raises_fails_the_run_and_nothing_else(
    bench: Bench, error: BaseException, colour: str
) -> None:
    def block() -> None:
        raise error

    async def wait() -> None:
        raise error

    @job("raises")
    async def raises(step: Step) -> None:
        await step.run("it", wait if colour == "async" else block)

    @job("blocks")
    def blocks(step: SyncStep) -> None:
        step.run("it", block)

    run = await bench.execute(blocks if colour == "sync job" else raises)

    assert run.error is not None
    assert (run.status, run.error.step) == (RunStatus.FAILED, "it")
    assert bench.errors() == []


async def test_a_bad_name_key_or_progress_is_a_clear_error(bench: Bench) -> None:
    @job("bad")
    async def bad(step: Step) -> None:
        for name in ("", "x" * 257, "line\nbreak", "\ud800"):
            with pytest.raises(ValidationError, match="name"):
                await step.run(name, read, "r")
        with pytest.raises(ValidationError, match="key"):
            await step.run("read", read, "r", key=1.5)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType] - the mistake
        with pytest.raises(ValidationError, match="current"):
            step.progress(float("nan"))

    run = await bench.execute(bad)

    assert run.status is RunStatus.COMPLETED, run.error


async def test_a_step_left_behind_by_a_failed_gather_is_cancelled_before_the_run_ends(bench: Bench) -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            ended.append("slow")

    async def fast() -> None:
        await asyncio.sleep(0)
        raise ValueError("fast")

    @job("left")
    async def left(step: Step) -> None:
        await asyncio.gather(step.run("slow", slow), step.run("fast", fast))

    run = await bench.execute(left)

    assert ended == ["slow"]
    assert run.error is not None
    assert (run.error.step, await bench.story(run))[1][-2:] == ["step:fail fast", "run:fail"]


async def test_a_step_whose_store_was_cancelled_is_replayed_when_asked_for_again(bench: Bench) -> None:
    @job("late")
    async def late(step: Step) -> list[str]:
        under_way = asyncio.Event()

        async def signal(name: str) -> Row:
            under_way.set()
            return await read(name)

        task = asyncio.create_task(step.run("read", signal, "r"))
        await under_way.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return [(await step.run("read", read, "r")).name, *calls]

    run = await bench.execute(late)

    assert run.status is RunStatus.COMPLETED, run.error
    assert run.output_json == '["r","read r"]'
    assert await bench.step_names(run) == ["read"]
