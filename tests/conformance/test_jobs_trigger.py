"""G1, G2: what a trigger promises; delay, several at once, what happens to a run of the same key that waits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durably import (
    Conflict,
    Disposition,
    Durably,
    IdempotencyConflict,
    JobRef,
    PendingRunExists,
    RunStatus,
    Step,
    TriggerItem,
    ValidationError,
    job,
)
from tests.support.app import SECONDS, App, MakeApp, within
from tests.support.bench import Gate, eventually


@dataclass(frozen=True)
class Order:
    number: int
    note: str = ""


@job("order")
async def order(step: Step, input: Order) -> int:
    return input.number


@job("other")
async def other(step: Step, input: Order) -> None: ...


async def test_a_run_is_committed_when_trigger_returns(app: App) -> None:
    """G1: whoever looks from outside sees it, with its first event."""
    run = await app.durably.trigger(order, Order(1))

    [row] = await app.outside.sql("SELECT id, status FROM {runs}")
    assert (str(row["id"]), row["status"]) == (run.id, "pending")
    assert await app.story(run) == ["run:trigger"]
    assert (run.status, run.disposition, run.attempt) == (RunStatus.PENDING, Disposition.CREATED, 0)


@pytest.mark.parametrize("store_kind", ["sqlite-file", "postgres"], indirect=True)
async def test_a_triggered_run_outlives_the_durably_that_triggered_it(app: App) -> None:
    """G1."""
    durably = await app.another()
    run = await durably.trigger(order, Order(1))
    await durably.close()
    assert (await app.execute(order, Order(2))).output == 2
    assert (await app.get(run)).output == 1


async def test_one_run_for_a_key_under_any_race(app: App) -> None:
    """G2: fifty triggers at once, from several processes where there are any."""
    durablys = [app.durably] if app.kind == "sqlite-memory" else [app.durably, *[await app.another() for _ in range(3)]]
    triggers = [durablys[place % len(durablys)].trigger(order, Order(1), idempotency_key="k") for place in range(50)]
    runs = await asyncio.gather(*triggers)

    assert len({run.id for run in runs}) == 1
    assert sorted(str(run.disposition) for run in runs) == ["created"] + ["idempotent"] * 49
    assert len(await app.durably.get_runs()) == 1
    assert await app.story(runs[0]) == ["run:trigger"]


async def test_a_key_with_another_input_is_a_conflict_that_names_key_and_run(app: App) -> None:
    """G2: not a silent old run; the old one is not touched."""
    run = await app.durably.trigger(order, Order(1), idempotency_key="k")
    before = await app.outside.snapshot()

    with pytest.raises(IdempotencyConflict, match=f"'k' of job 'order' .*{run.id}") as caught:
        await app.durably.trigger(order, Order(2), idempotency_key="k")

    assert isinstance(caught.value, Conflict)
    assert (caught.value.job, caught.value.key, caught.value.run_id) == ("order", "k", run.id)
    assert await app.outside.snapshot() == before


async def test_a_race_of_different_inputs_for_a_key_has_one_winner(app: App) -> None:
    """G2: everybody else gets the conflict."""
    triggers = (app.durably.trigger(order, Order(number), idempotency_key="k") for number in range(10))
    results = await asyncio.gather(*triggers, return_exceptions=True)

    assert sorted(type(result).__name__ for result in results) == ["IdempotencyConflict"] * 9 + ["Run"]
    [run] = await app.durably.get_runs(order)
    assert {result.run_id for result in results if isinstance(result, IdempotencyConflict)} == {run.id}


async def test_the_same_input_is_the_same_however_it_is_written(app: App) -> None:
    """G2: typed or plain, fields in any order, defaults given or left out."""
    _worker = app.durably.worker([order])  # a name alone is resolved where a worker has the job
    inputs: list[tuple[Any, Any]] = [
        (order, Order(1)),
        ("order", {"number": 1}),
        ("order", {"note": "", "number": 1}),
        (JobRef("order", input=Order), Order(1)),
    ]
    runs = [await app.durably.trigger(target, given, idempotency_key="k") for target, given in inputs]
    assert len({run.id for run in runs}) == 1
    plain: list[Any] = [{"a": 1, "b": [{"c": 2, "d": 3}]}, {"b": [{"d": 3, "c": 2}], "a": 1}]
    runs = [await app.durably.trigger("elsewhere", given, idempotency_key="k") for given in plain]
    assert len({run.id for run in runs}) == 1


async def test_a_key_belongs_to_its_job(app: App) -> None:
    """G2: (job, key)."""
    first = await app.durably.trigger(order, Order(1), idempotency_key="k")
    second = await app.durably.trigger(other, Order(2), idempotency_key="k")
    assert first.id != second.id


async def test_a_key_stays_used_when_the_run_has_ended(app: App) -> None:
    """G2: the old run is returned with its result, whatever came of it."""
    run = await app.execute(order, Order(7), idempotency_key="k")
    again = await app.durably.trigger(order, Order(7), idempotency_key="k")

    assert (again.id, again.disposition, again.status) == (run.id, Disposition.IDEMPOTENT, RunStatus.COMPLETED)
    assert await app.durably.result(again) == 7
    with pytest.raises(IdempotencyConflict):
        await app.durably.trigger(order, Order(8), idempotency_key="k")


# --- if_pending ---------------------------------------------------------------------------------------


async def test_skip_returns_the_run_that_waits(app: App) -> None:
    """`if_pending="skip"`: it is left as it is, and an event tells what was skipped."""
    first = await app.durably.trigger(order, Order(1), concurrency_key="k", labels={"a": "1"})
    second = await app.durably.trigger(order, Order(2), concurrency_key="k", labels={"b": "2"}, if_pending="skip")

    assert (second.id, second.disposition) == (first.id, Disposition.COALESCED)
    assert (second.input, second.labels) == (Order(1), {"a": "1"})
    assert await app.story(first) == ["run:trigger", "run:coalesced"]
    assert "skippedInput" in ((await app.events(first))[1].payload_json or "")


async def test_replace_gives_the_run_that_waits_the_new_input(app: App) -> None:
    """`if_pending="replace"`: it keeps its id and its place."""
    first = await app.durably.trigger(order, Order(1), concurrency_key="k")
    second = await app.durably.trigger(order, Order(2), concurrency_key="k", if_pending="replace")

    assert (second.id, second.disposition, second.input) == (first.id, Disposition.REPLACED, Order(2))
    assert await app.story(first) == ["run:trigger", "run:replace"]
    await app.process(order)
    assert await app.durably.result(first) == 2


async def test_reject_raises_and_names_the_run_that_waits(app: App) -> None:
    """`if_pending="reject"`."""
    first = await app.durably.trigger(order, Order(1), concurrency_key="k")
    before = await app.outside.snapshot()
    with pytest.raises(PendingRunExists) as caught:
        await app.durably.trigger(order, Order(2), concurrency_key="k", if_pending="reject")
    assert (caught.value.job, caught.value.key, caught.value.run_id) == ("order", "k", first.id)
    assert await app.outside.snapshot() == before


@pytest.mark.parametrize("if_pending", ["skip", "replace", "reject"])
async def test_only_runs_of_the_same_job_and_key_that_never_started_count(app: App, if_pending: Any) -> None:
    """A running one, an ended one, one of another job or key, one that was handed back: a new run is stored."""
    gate = Gate()

    @job("order")
    async def slow(step: Step, input: Order) -> int:
        await gate.wait()
        return input.number

    done = await app.durably.trigger(order, Order(0), concurrency_key="k")
    await app.process(order)
    await app.durably.trigger(other, Order(1), concurrency_key="k")
    await app.durably.trigger(order, Order(1), concurrency_key="another")
    await app.durably.cancel((await app.durably.get_runs(other))[0])
    running = await app.durably.trigger(order, Order(2), concurrency_key="k")
    async with app.durably.worker([slow], grace=timedelta(0)):
        await within(gate.reached.wait())
        new = await app.durably.trigger(order, Order(3), concurrency_key="k", if_pending=if_pending)
        assert (new.disposition, new.hold) == (Disposition.CREATED, "key")
        await app.durably.cancel(new)
    assert (await app.get(running)).status is RunStatus.PENDING
    new = await app.durably.trigger(order, Order(4), concurrency_key="k", if_pending=if_pending)
    assert new.disposition is Disposition.CREATED
    assert new.id not in {done.id, running.id}


@pytest.mark.parametrize("if_pending", ["skip", "replace", "reject"])
async def test_of_many_at_once_one_run_waits(app: App, if_pending: Any) -> None:
    """`if_pending`, under a race: one is created, everybody else meets it."""
    triggers = [
        app.durably.trigger(order, Order(number), concurrency_key="k", if_pending=if_pending) for number in range(20)
    ]
    results = await asyncio.gather(*triggers, return_exceptions=True)

    [run] = await app.durably.get_runs(order)
    expected = {"skip": "coalesced", "replace": "replaced", "reject": "PendingRunExists"}[if_pending]
    told = [type(one).__name__ if isinstance(one, BaseException) else str(one.disposition) for one in results]
    assert sorted(told) == sorted(["created"] + [expected] * 19)
    assert await app.outside.is_sound()
    assert run.status is RunStatus.PENDING


# --- delay --------------------------------------------------------------------------------------------


async def test_a_delayed_run_waits_and_starts_when_it_is_due(make_app: MakeApp) -> None:
    """`delay`: not before, and without waiting for a poll."""
    app = await make_app(poll_interval=timedelta(minutes=10))
    run = await app.durably.trigger(order, Order(1), delay=timedelta(seconds=0.4))
    assert run.hold == "time"
    assert run.available_at is not None
    assert await app.process(order) == 0
    async with app.durably.worker([order]):
        ended = await within(app.durably.wait(run), seconds=SECONDS)
    assert ended.started_at is not None
    assert run.available_at <= ended.started_at


async def test_a_run_can_be_given_its_start_time(app: App) -> None:
    """`run_at`: in any zone; one in the past means at once."""
    far = datetime(2100, 1, 1, 12, tzinfo=UTC)
    later = await app.durably.trigger(order, Order(1), run_at=far.astimezone(tz=None))
    at_once = await app.durably.trigger(order, Order(2), run_at=datetime(2000, 1, 1, tzinfo=UTC))

    assert await app.process(order) == 1
    assert (await app.get(at_once)).status is RunStatus.COMPLETED
    waiting = await app.get(later)
    assert (waiting.status, waiting.hold, waiting.available_at) == (RunStatus.PENDING, "time", far)
    await app.make_due(later)
    assert await app.process(order) in {0, 1}


async def test_a_delayed_run_of_a_key_waits_for_its_time_and_then_for_its_turn(app: App) -> None:
    """G7 with `delay`: it takes no slot before it is due."""
    later = await app.durably.trigger(order, Order(1), concurrency_key="k", delay=timedelta(hours=1))
    now = await app.durably.trigger(order, Order(2), concurrency_key="k")
    assert (later.hold, now.hold) == ("time", None)
    assert await app.process(order) == 1
    await app.make_due(later)
    async with app.durably.worker([order]):
        assert await within(app.durably.result(later)) == 1


# --- many ---------------------------------------------------------------------------------------------


async def test_many_are_stored_in_order_and_each_can_have_options(app: App) -> None:
    """`trigger_many`: inputs, or `TriggerItem`s with more to say."""
    items: list[Any] = [Order(0), TriggerItem(Order(1), labels={"a": "b"}, priority=5, idempotency_key="k"), Order(2)]
    runs = await app.durably.trigger_many(order, items)

    assert [run.input for run in runs] == [Order(0), Order(1), Order(2)]
    assert (runs[1].labels, runs[1].priority, runs[1].idempotency_key) == ({"a": "b"}, 5, "k")
    assert await app.process(order) == 3
    assert [await app.durably.result(run) for run in runs] == [0, 1, 2]


@pytest.mark.parametrize("name", ["order", order])
async def test_many_are_told_as_they_are_stored_and_to_listeners(app: App, name: Any) -> None:
    """More than are stored at once; of a job whose code is here, or elsewhere."""
    heard: list[str] = []
    app.durably.on("run:trigger", lambda event: heard.append(event.run_id))
    runs = await app.durably.trigger_many(name, [{"number": number, "note": ""} for number in range(1500)])

    assert [run.input_json for run in runs] == [f'{{"number":{number},"note":""}}' for number in range(1500)]
    assert {run.disposition for run in runs} == {Disposition.CREATED}
    stored = await app.durably.get_runs(limit=1000)
    stored += await app.durably.get_runs(limit=1000, before=stored[-1])
    assert [replace(run, disposition=None) for run in runs] == stored[::-1]
    assert len({id(run.labels) for run in runs}) == 1500, "each has labels of its own"
    await eventually(lambda: len(heard) == 1500)
    assert heard == [run.id for run in runs]


async def test_one_bad_input_of_thousands_is_named_and_nothing_stored(app: App) -> None:
    """Inputs are looked at together; which one is bad is found out for the error."""
    inputs: list[Any] = [{"number": number} for number in range(2000)]
    inputs[1517] = {"number": "517"}
    with pytest.raises(ValidationError) as caught:
        await app.durably.trigger_many(order, inputs)
    assert caught.value.field == "items[1517].input.number"
    assert await app.durably.get_runs() == []


@dataclass(frozen=True)
class WithInput:
    input: int
    labels: str = "not labels"


async def test_an_input_with_fields_named_like_options_is_just_an_input(app: App) -> None:
    """Items are told apart by their type, never by their shape."""

    @job("shape")
    async def shape(step: Step, input: WithInput) -> int:
        return input.input

    items: list[Any] = [WithInput(1), TriggerItem(WithInput(2))]
    runs = await app.durably.trigger_many(shape, items)
    await app.process(shape)
    assert [await app.durably.result(run) for run in runs] == [1, 2]
    assert {tuple(run.labels) for run in runs} == {()}


async def test_an_unknown_option_of_an_item_is_an_error(app: App) -> None:
    """Not silently dropped."""
    with pytest.raises(TypeError, match="colour"):
        TriggerItem(Order(1), colour="red")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue] - the mistake
    with pytest.raises(TypeError, match="colour"):
        await app.durably.trigger(order, Order(1), colour="red")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue] - the mistake
    assert await app.durably.get_runs() == []


async def test_a_trigger_from_inside_of_a_job_is_like_any_other(app: App) -> None:
    """A job may use the Durably of its process, as any code may: then it is not exactly once."""

    @job("outer")
    async def outer(step: Step, input: str) -> str:
        return (await step.run("trigger", trigger_order, app.durably)).upper()

    async def trigger_order(durably: Durably) -> str:
        return (await durably.trigger(order, Order(1), labels={"by": "job"})).id

    run = await app.execute(outer, "x")
    await eventually(lambda: any(event.type == "run:trigger" and event.job == "order" for event in app.heard))
    assert run.output == (await app.durably.get_runs(order))[0].id.upper()
