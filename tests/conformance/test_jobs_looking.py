"""Looking at runs: pages, filters, steps, logs, waiting, results."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from durably import Durably, JobRef, Run, RunCancelled, RunFailed, RunNotFound, RunStatus, Step, StepStatus, job
from tests.support.app import NO_RUN, SECONDS, App, within
from tests.support.bench import Gate, eventually


@dataclass(frozen=True)
class Doubled:
    value: int


@job("double")
async def double(step: Step, input: int) -> Doubled:
    step.log.info("doubling %d", input, extra={"input": input})
    if input < 0:
        raise ValueError("negative")
    return await step.run("double", lambda: Doubled(input * 2), returns=Doubled)


@job("other")
async def other(step: Step, input: int) -> int:
    return input


async def test_pages_are_newest_first_and_neither_shift_nor_repeat(app: App) -> None:
    """While runs come, go and end."""
    runs = await app.durably.trigger_many(double, range(10))
    first = await app.durably.get_runs(double, limit=4)
    await app.durably.trigger_many(double, range(10, 13))
    await app.process(double)
    second = await app.durably.get_runs(double, limit=4, before=first[-1])
    await app.durably.delete_run(second[-1])
    third = await app.durably.get_runs(double, limit=4, before=second[-1].id)

    seen = [run.id for run in (*first, *second, *third)]
    assert seen == [run.id for run in reversed(runs)]
    assert await app.durably.get_runs(double, before=third[-1]) == []


async def test_runs_of_one_moment_are_all_seen_once(app: App) -> None:
    """Pages go by time and id: those stored in one transaction have one time."""
    runs = await app.durably.trigger_many(double, range(60))
    await app.outside.sql("UPDATE {runs} SET created_at = (SELECT max(created_at) FROM {runs})")
    seen: list[str] = []
    page = await app.durably.get_runs(limit=7)
    while page:
        seen += [run.id for run in page]
        page = await app.durably.get_runs(limit=7, before=page[-1])
    assert sorted(seen) == sorted(run.id for run in runs)


async def test_a_page_without_a_limit_has_a_hundred_runs(app: App) -> None:
    """And at most a thousand, on every database."""
    await app.durably.trigger_many(double, range(101))
    assert len(await app.durably.get_runs()) == 100
    assert len(await app.durably.get_runs(limit=1000)) == 101


async def test_filters_are_anded_and_their_values_ored(app: App) -> None:
    """By job, status, labels and concurrency key."""
    a = await app.durably.trigger(double, 1, labels={"x": "1", "y": "1"}, concurrency_key="k")
    b = await app.durably.trigger(double, -1, labels={"x": "1"})
    c = await app.durably.trigger(other, 1, labels={"x": "2"})
    await app.durably.cancel(c)
    await app.process(double)

    async def found(job: Any = None, **filters: Any) -> list[str]:
        return [run.id for run in await app.durably.get_runs(job, **filters)]

    assert await found() == [c.id, b.id, a.id]
    assert await found(double) == [b.id, a.id]
    assert await found("other") == await found(JobRef("other", input=int, output=int)) == [c.id]
    assert await found([double, "other"]) == [c.id, b.id, a.id]
    assert await found([]) == [c.id, b.id, a.id]
    assert await found(status="failed") == [b.id]
    assert await found(status=[RunStatus.COMPLETED, "cancelled"]) == [c.id, a.id]
    assert await found(labels={"x": "1"}) == [b.id, a.id]
    assert await found(labels={"x": "1", "y": "1"}) == [a.id]
    assert await found(labels={"x": "3"}) == []
    assert await found(concurrency_key="k") == [a.id]
    assert await found(double, status="completed", labels={"x": "1"}, concurrency_key="k") == [a.id]
    assert await found("no-such-job") == []


async def test_a_run_tells_its_whole_life(app: App) -> None:
    """Every field, after the end."""
    before = datetime.now(UTC)
    run = await app.execute(double, 4, labels={"a": "b"}, priority=2, idempotency_key="i", concurrency_key="c")

    assert (run.job, run.input, run.output, run.error) == ("double", 4, Doubled(8), None)
    assert (run.status, run.hold, run.is_terminal) == (RunStatus.COMPLETED, None, True)
    assert (run.labels, run.priority, run.idempotency_key, run.concurrency_key) == ({"a": "b"}, 2, "i", "c")
    assert (run.attempt, run.generation, run.next_step, run.completed_steps) == (1, 1, 1, 1)
    assert run.started_at is not None
    assert run.completed_at is not None
    assert before <= run.created_at <= run.started_at <= run.completed_at
    assert run.created_at.utcoffset() is not None


async def test_the_same_run_is_plain_json_where_the_job_is_not_given(app: App) -> None:
    """`get_run(id)` has not the types; `get_run(id, job)` has; None for no run."""
    run = await app.execute(double, 4)
    plain = await app.durably.get_run(run.id)
    typed = await app.durably.get_run(run.id, double)
    assert plain is not None
    assert typed is not None
    assert (plain.output, typed.output) == ({"value": 8}, Doubled(8))
    assert await app.durably.get_run(run.id.upper()) == plain
    assert await app.durably.get_run(NO_RUN) is None


async def test_steps_tell_how_they_ended_and_when(app: App) -> None:
    """`get_steps`: finished ones, with their JSON."""

    @job("mixed")
    async def mixed(step: Step) -> None:
        await step.run("good", lambda: {"a": 1})
        await step.run("bad", int, "no number")

    run = await app.execute(mixed)
    good, bad = await app.durably.get_steps(run)

    assert (good.run_id, good.name, good.position, good.generation) == (run.id, "good", 0, 1)
    assert (good.status, good.output_json, good.error) == (StepStatus.COMPLETED, '{"a":1}', None)
    assert good.started_at <= good.completed_at <= bad.completed_at
    assert bad.error is not None
    assert (bad.status, bad.output_json, bad.error.type) == (StepStatus.FAILED, None, "ValueError")
    assert await app.durably.get_steps(run.id) == [good, bad]


async def test_logs_come_in_pages_in_their_order(app: App) -> None:
    """`get_logs`: level, message, data and step of each line."""

    @job("talks")
    async def talks(step: Step) -> None:
        step.log.debug("not kept")
        step.log.info("one %s", "!")
        await step.run("inside", lambda: step.log.warning("two", extra={"rows": [1, 2]}))
        step.log.error("three")

    run = await app.execute(talks)
    lines = await app.durably.get_logs(run)

    assert [(line.message, line.level, line.step) for line in lines] == [
        ("one !", "info", None), ("two", "warning", "inside"), ("three", "error", None),
    ]  # fmt: skip
    assert json.loads(lines[1].data_json or "") == {"rows": [1, 2]}
    assert await app.durably.get_logs(run, limit=1) == lines[:1]
    assert await app.durably.get_logs(run, after=lines[0].seq, limit=1) == lines[1:2]
    assert await app.durably.get_logs(run, after=lines[-1].seq) == []


async def test_a_run_without_steps_and_logs_has_empty_lists(app: App) -> None:
    """Not the same as no such run."""
    run = await app.durably.trigger(other, 1)
    assert (await app.durably.get_steps(run), await app.durably.get_logs(run)) == ([], [])


async def test_a_run_that_is_not_there_is_not_found_whatever_its_id_looks_like(
    app: App, subtests: pytest.Subtests
) -> None:
    """On every database alike: RunNotFound, never an error of the database."""
    await app.durably.trigger(other, 1)
    durably = app.durably
    actions: list[Callable[[str], Awaitable[object]]] = [
        durably.wait, durably.result, durably.get_steps, durably.get_logs, durably.cancel, durably.resume,
        durably.delete_run, durably.retrigger, partial(first_event, durably),
    ]  # fmt: skip
    before = await app.outside.snapshot()
    for run_id in (NO_RUN, "no-id", "", "' OR 1=1 --", "\x00", "0" * 36, "ü"):
        with subtests.test(run_id=run_id):
            assert await durably.get_run(run_id) is None
            for action in actions:
                with pytest.raises(RunNotFound) as caught:
                    await within(action(run_id))
                assert caught.value.run_id == run_id
    assert await app.outside.snapshot() == before


async def first_event(durably: Durably, run_id: str) -> object:
    return await anext(durably.events(run=run_id))


async def test_wait_returns_every_end_and_result_raises_what_is_none(app: App) -> None:
    """`wait` returns the run; `result` its value, RunFailed or RunCancelled."""
    good, bad, dropped = [await app.durably.trigger(double, number) for number in (1, -1, 0)]
    await app.durably.cancel(dropped)
    async with app.durably.worker([double]):
        ended = [await app.wait(run) for run in (good, bad, dropped)]
        assert [run.status.value for run in ended] == ["completed", "failed", "cancelled"]
        assert await app.durably.result(good) == Doubled(2)
        with pytest.raises(RunFailed, match="ValueError: negative") as failed:
            await app.durably.result(bad)
        with pytest.raises(RunCancelled) as cancelled:
            await app.durably.result(dropped)
    assert failed.value.error == ended[1].error
    assert (failed.value.run_id, cancelled.value.run_id) == (bad.id, dropped.id)


async def test_many_may_wait_for_one_run(app: App) -> None:
    """All are told."""
    gate = Gate()

    @job("gated")
    async def gated(step: Step) -> int:
        await gate.wait()
        return 7

    run = await app.durably.trigger(gated)
    async with app.durably.worker([gated]):
        waiting = [asyncio.ensure_future(app.durably.result(run, timeout=SECONDS)) for _ in range(20)]
        await within(gate.reached.wait())
        gate.opened.set()
        assert await within(asyncio.gather(*waiting)) == [7] * 20


async def test_waiting_may_be_limited_and_the_run_goes_on(app: App) -> None:
    """TimeoutError; the run is neither cancelled nor lost."""
    run = await app.durably.trigger(double, 1)
    with pytest.raises(TimeoutError, match=run.id):
        await app.durably.wait(run, timeout=0.01)
    with pytest.raises(TimeoutError, match=run.id):
        await app.durably.result(run, timeout=0.01)
    with pytest.raises(TimeoutError):
        await app.durably.trigger_and_wait(double, 2, timeout=0.01)
    assert await app.process(double) == 2
    assert await app.durably.result(run) == Doubled(2)


async def test_waiting_ends_when_the_run_is_deleted(app: App) -> None:
    """With its last status, or with RunNotFound, not for ever."""
    run = await app.durably.trigger(double, 1)
    waiting = asyncio.ensure_future(app.durably.wait(run))
    await asyncio.sleep(0)
    await app.durably.cancel(run)
    await app.durably.delete_run(run)
    [ended] = await within(asyncio.gather(waiting, return_exceptions=True))
    assert isinstance(ended, RunNotFound) or (isinstance(ended, Run) and ended.status is RunStatus.CANCELLED)


async def test_waiting_for_a_resumed_run_waits_for_its_new_end(app: App) -> None:
    """A failed run is over until it is resumed."""

    @job("second")
    async def second(step: Step) -> int:
        if step.attempt == 1:
            raise ValueError("at first")
        return 2

    run = await app.execute(second)
    assert (await app.wait(run)).status is RunStatus.FAILED
    await app.durably.resume(run)
    waiting = asyncio.ensure_future(app.durably.result(run, timeout=SECONDS))
    async with app.durably.worker([second]):
        assert await within(waiting) == 2


@pytest.mark.parametrize("store_kind", ["sqlite-file", "postgres"], indirect=True)
async def test_waiting_sees_the_end_in_another_process(app: App) -> None:
    """G9: whoever executes it."""
    other_process = await app.another()
    run = await app.durably.trigger(double, 3)
    waiting = asyncio.ensure_future(app.durably.result(run, timeout=SECONDS))
    async with other_process.worker([double]):
        assert await within(waiting) == Doubled(6)


async def test_progress_and_logs_can_be_read_while_the_run_goes_on(app: App) -> None:
    """They are stored soon, without waiting for the next step."""
    gate = Gate()

    @job("slow")
    async def slow(step: Step) -> None:
        step.log.info("begun")
        step.progress(1, 2, "half")
        await gate.wait()

    run = await app.durably.trigger(slow)
    async with app.durably.worker([slow]):
        await within(gate.reached.wait())

        async def is_told() -> bool:
            now = await app.get(run)
            return now.progress is not None and now.progress.message == "half"

        await eventually(is_told)
        assert [line.message for line in await app.durably.get_logs(run)] == ["begun"]
        gate.opened.set()
        await app.wait(run)
