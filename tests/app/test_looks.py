"""Reading runs, and waiting for them across processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import pytest

from durably.app import Durably
from durably.errors import (
    RunCancelled,
    RunFailed,
    RunNotFound,
    SerializationError,
    UsageError,
    ValidationError,
    WrongStatus,
)
from durably.jobs import JobRef, job
from durably.model import Run, RunError, RunStatus
from durably.runtime.context import Step
from durably.runtime.tail import Tail

Finish = Callable[..., Awaitable[None]]


@dataclass(frozen=True)
class Named:
    name: str


NAME = JobRef("name", input=int, output=Named)
NO_RUN = "01900000-0000-7000-8000-000000000000"


async def test_wait_and_result_see_the_end_in_another_process(durably: Durably, finish: Finish) -> None:
    run = await durably.trigger(NAME, 1)
    waiting = [asyncio.ensure_future(durably.wait(run)) for _ in range(3)]
    result = asyncio.ensure_future(durably.result(run))
    await asyncio.sleep(0)
    await finish(run, output_json='{"name":"x"}')
    assert {ended.output for ended in await asyncio.gather(*waiting)} == {Named("x")}
    assert await result == Named("x")
    assert await durably.result(run.id) == {"name": "x"}


async def test_wait_learns_of_an_end_in_this_process_without_the_feed(
    durably: Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(_tail: Tail, _page: object, _before: object) -> None: ...

    async def plain(_step: Step, input: int) -> int:
        return input

    monkeypatch.setattr(Tail, "_hand_out", nothing)
    run, other = await durably.trigger("plain", 1), await durably.trigger("plain", 2)
    waiting = [asyncio.ensure_future(durably.wait(one)) for one in (run, other)]
    await asyncio.wait(waiting, timeout=0)
    await durably.cancel(other)
    assert (await waiting[1]).status is RunStatus.CANCELLED
    await durably.worker([job("plain")(plain)]).process_until_idle()
    assert (await waiting[0]).status is RunStatus.COMPLETED


async def test_result_raises_what_ended_the_run(durably: Durably, finish: Finish) -> None:
    failed, cancelled = await durably.trigger(NAME, 1), await durably.trigger("other", 2)
    await finish(failed, error=RunError(type="ValueError", message="broken", step="parse"))
    await durably.cancel(cancelled)
    with pytest.raises(RunFailed, match="failed in step 'parse': ValueError: broken") as caught:
        await durably.result(failed)
    assert caught.value.error is not None
    with pytest.raises(RunCancelled):
        await durably.result(cancelled)


async def test_result_of_a_value_that_no_longer_fits_is_an_error_and_the_run_stays_readable(
    durably: Durably, finish: Finish
) -> None:
    run = await durably.trigger(NAME, 1)
    await finish(run, output_json='{"title":"x"}')
    with pytest.raises(SerializationError, match=f"output of run {run.id}"):
        await durably.result(run)
    assert (await durably.wait(run)).status is RunStatus.COMPLETED
    assert await durably.result(run.id) == {"title": "x"}


async def test_trigger_and_wait_times_out_and_the_run_goes_on(durably: Durably) -> None:
    with pytest.raises(TimeoutError, match=r"has not ended within 0\.01 s"):
        await durably.trigger_and_wait(NAME, 1, timeout=0.01)
    assert [run.status for run in await durably.get_runs()] == [RunStatus.PENDING]


async def test_a_run_that_is_not_there_is_not_found(durably: Durably) -> None:
    for run_id in (NO_RUN, "nonsense", ""):
        assert await durably.get_run(run_id) is None
        calls: list[Awaitable[object]] = [
            durably.wait(run_id), durably.result(run_id), durably.get_steps(run_id), durably.get_logs(run_id),
            durably.cancel(run_id), durably.resume(run_id), durably.delete_run(run_id), durably.retrigger(run_id),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(RunNotFound):
                await call
    with pytest.raises(ValidationError, match="run"):
        await durably.get_run(cast("str", 3))


async def test_waiting_for_a_run_that_is_deleted_ends(durably: Durably) -> None:
    run = await durably.trigger(NAME, 1)
    ended = asyncio.ensure_future(durably.wait(run))
    stream = durably.events(run=run)
    assert (await anext(stream)).type == "run:trigger"
    await durably.cancel(run)
    assert (await ended).status is RunStatus.CANCELLED
    await durably.delete_run(run)
    assert [event.type async for event in stream] == ["run:cancel", "run:delete"]


async def test_pages_of_runs_neither_shift_nor_repeat(durably: Durably) -> None:
    runs = await durably.trigger_many("job", range(7))
    first = await durably.get_runs("job", limit=3)
    await durably.trigger("job", 99)
    second = await durably.get_runs("job", limit=3, before=first[-1])
    third = await durably.get_runs("job", limit=3, before=second[-1].id)
    assert [run.input for run in (*first, *second, *third)] == [run.input for run in reversed(runs)]


async def test_filters_are_anded_and_their_values_ored(durably: Durably) -> None:
    a = await durably.trigger("a", labels={"x": "1", "y": "1"}, concurrency_key="k")
    b = await durably.trigger("b", labels={"x": "1"})
    c = await durably.trigger("c")
    await durably.cancel(b)

    async def found(**filters: Any) -> list[str]:
        runs: list[Run[object]] = await durably.get_runs(**filters)
        return [run.id for run in runs]

    assert await found(job=["a", NAME, "c"]) == [c.id, a.id]
    assert await found(labels={"x": "1"}) == [b.id, a.id]
    assert await found(labels={"x": "1", "y": "1"}) == [a.id]
    assert await found(status="cancelled") == [b.id]
    assert await found(status=["pending", RunStatus.CANCELLED], labels={"x": "1"}) == [b.id, a.id]
    assert await found(concurrency_key="k") == [a.id]
    assert await found(job="a", status="cancelled") == []
    for field, value in (("limit", 1001), ("limit", 0), ("status", "done"), ("labels", {"a b": "c"})):
        with pytest.raises(ValidationError, match=field):
            await found(**{field: value})


async def test_steps_and_logs_of_a_run_without_any_are_empty(durably: Durably) -> None:
    run = await durably.trigger("job")
    assert await durably.get_steps(run) == []
    assert await durably.get_logs(run, after=3) == []
    with pytest.raises(ValidationError, match="after"):
        await durably.get_logs(run, after=-1)


async def test_actions_say_which_status_forbids_them(durably: Durably, finish: Finish) -> None:
    run = await durably.trigger(NAME, 1)
    with pytest.raises(WrongStatus, match="cannot delete pending run"):
        await durably.delete_run(run)
    with pytest.raises(WrongStatus, match="cannot resume pending run"):
        await durably.resume(run)
    await finish(run, error=RunError(type="E", message="m"), steps=("a",))
    with pytest.raises(WrongStatus, match="cannot cancel failed run"):
        await durably.cancel(run)
    resumed = await durably.resume(run)
    assert (resumed.status, resumed.input) == (RunStatus.PENDING, 1)
    cancelled = await durably.cancel(run)
    assert cancelled.status is RunStatus.CANCELLED
    with pytest.raises(WrongStatus, match="cannot cancel already cancelled run"):
        await durably.cancel(run)


async def test_of_two_who_cancel_at_once_one_is_told(durably: Durably) -> None:
    run = await durably.trigger("job")
    results = await asyncio.gather(*(durably.cancel(run) for _ in range(5)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Run", *["WrongStatus"] * 4]


async def test_purge_deletes_ended_runs_of_an_age(durably: Durably) -> None:
    runs = await durably.trigger_many("job", range(4))
    for run in runs[:3]:
        await durably.cancel(run)
    assert await durably.purge_runs(older_than=timedelta(hours=1)) == 0
    assert await durably.purge_runs(older_than=timedelta(0), statuses="completed") == 0
    assert await durably.purge_runs(older_than=timedelta(0)) == 3
    assert [run.id for run in await durably.get_runs()] == [runs[3].id]
    with pytest.raises(ValidationError, match="pending"):
        await durably.purge_runs(older_than=timedelta(0), statuses="pending")


async def test_a_limit_is_a_whole_number(durably: Durably) -> None:
    await durably.set_limit("key", 3)
    for limit in (-1, True, 1.5):
        with pytest.raises(ValidationError, match="limit"):
            await durably.set_limit("key", cast("int", limit))


async def test_events_takes_a_run_or_a_filter(durably: Durably) -> None:
    with pytest.raises(UsageError, match="either"):
        durably.events(run=NO_RUN, job="x")
    with pytest.raises(ValidationError, match="after"):
        durably.events(after=-1)
    with pytest.raises(RunNotFound):
        _ = [event async for event in durably.events(run=NO_RUN)]
