"""Inputs, options, filters and ids that cannot be: a clear error that names the field, and nothing is written."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from durably import JobRef, RunNotFound, Step, TriggerItem, UsageError, ValidationError, job
from tests.support.app import NO_RUN, App, within


@dataclass(frozen=True)
class Order:
    number: int
    lines: tuple[str, ...] = ()


@job("order")
async def order(step: Step, input: Order) -> int:
    return input.number


async def refused(app: App, field: str, call: Callable[[], Awaitable[object]]) -> None:
    """Check that the call raises a ValidationError naming the field, and changes no table."""
    before = await app.outside.snapshot()
    with pytest.raises(ValidationError) as caught:
        await within(call())
    assert caught.value.field == field, caught.value
    assert len(str(caught.value)) < 600
    assert await app.outside.snapshot() == before


# --- triggers -----------------------------------------------------------------------------------------

NAN = float("nan")
INPUTS: list[tuple[Any, Any, str]] = [
    (order, {"number": "3"}, "input.number"),
    (order, {}, "input.number"),
    (order, {"number": 1, "lines": ["a", 2]}, "input.lines[1]"),
    (order, None, "input"),
    (order, 3, "input"),
    (order, Order("3"), "input.number"),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - the mistake
    (order, object(), "input"),
    (JobRef("order", input=list[int]), [1, "2"], "input[1]"),
    ("anything", {"a": [1, NAN]}, "input.a[1]"),
    ("anything", math.inf, "input"),
    ("anything", {"a": {1: "b"}}, "input.a[1]"),
    ("anything", ("a", "b"), "input"),
    ("anything", {"rows": [{"x": object()}]}, "input.rows[0].x"),
    ("anything", b"\xff\xfe", "input"),
    ("anything", "\ud800", "input"),
    ("anything", "x" * (1024 * 1024), "input"),
]


async def test_an_input_that_does_not_fit_is_refused_by_its_path(app: App, subtests: pytest.Subtests) -> None:
    """Wrong, lossy, unserialisable, too large: nothing is stored."""
    for target, given, field in INPUTS:
        with subtests.test(field=field):
            await refused(app, field, partial(app.durably.trigger, target, given))


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"idempotency_key": ""}, "idempotency_key"),
    ({"idempotency_key": "x" * 513}, "idempotency_key"),
    ({"idempotency_key": 7}, "idempotency_key"),
    ({"idempotency_key": "a\x00b"}, "idempotency_key"),
    ({"concurrency_key": ""}, "concurrency_key"),
    ({"concurrency_key": "\ud800"}, "concurrency_key"),
    ({"concurrency_key": ["k"]}, "concurrency_key"),
    ({"if_pending": "drop", "concurrency_key": "k"}, "if_pending"),
    ({"if_pending": "skip"}, "if_pending"),
    ({"labels": ["a"]}, "labels"),
    ({"labels": {"a b": "x"}}, "labels"),
    ({"labels": {"": "x"}}, "labels"),
    ({"labels": {"x" * 129: "x"}}, "labels"),
    ({"labels": {1: "x"}}, "labels"),
    ({"labels": {"a": 1}}, "labels.a"),
    ({"labels": {"a": None}}, "labels.a"),
    ({"labels": {"a": "x" * 513}}, "labels.a"),
    ({"labels": {"a": "\x00"}}, "labels.a"),
    ({"labels": {str(place): "x" for place in range(65)}}, "labels"),
    ({"priority": 1001}, "priority"),
    ({"priority": 1.5}, "priority"),
    ({"priority": True}, "priority"),
    ({"delay": 30}, "delay"),
    ({"delay": timedelta(seconds=-1)}, "delay"),
    ({"delay": timedelta(days=40_000)}, "delay"),
    ({"run_at": "tomorrow"}, "run_at"),
    ({"run_at": datetime(2030, 1, 1)}, "run_at"),  # noqa: DTZ001 - the mistake
    ({"run_at": datetime(2030, 1, 1, tzinfo=UTC), "delay": timedelta(1)}, "run_at"),
]


async def test_an_option_that_cannot_be_is_refused_by_name(app: App, subtests: pytest.Subtests) -> None:
    """Keys, labels, priorities, times; alone and as an item of many."""
    for options, field in OPTIONS:
        with subtests.test(options=options):
            await refused(app, field, partial(app.durably.trigger, order, Order(1), **options))
            items: list[Any] = [Order(0), TriggerItem(Order(1), **options)]
            await refused(app, f"items[1].{field}", partial(app.durably.trigger_many, order, items))


async def test_an_option_that_there_is_not_is_named_with_those_there_are(app: App) -> None:
    for trigger in (app.durably.trigger, app.durably.trigger_and_wait):
        options: dict[str, Any] = {"prio": 1}
        with pytest.raises(TypeError, match=r"no option 'prio'; its options are idempotency_key, .*priority"):
            await trigger(order, Order(1), **options)
    assert await app.durably.get_runs() == []


async def test_what_is_no_list_of_inputs_is_not_taken_letter_by_letter(app: App, subtests: pytest.Subtests) -> None:
    for items in ("abc", b"abc", {"a": 1}):
        with subtests.test(items=items):
            await refused(app, "items", partial(app.durably.trigger_many, "any", items))


NAMES: list[Any] = ["", " ", "a b", "-a", "x" * 129, "a\nb", "é", 3, None, {}, refused]


async def test_a_job_name_that_cannot_be_is_refused(app: App, subtests: pytest.Subtests) -> None:
    """Where it is decorated, referred to, and triggered."""
    for name in NAMES:
        with subtests.test(name=name):
            await refused(app, "job", partial(app.durably.trigger, name, 1))
            with pytest.raises(ValidationError, match=r"^job: "):
                JobRef(name, input=int, output=int)
            with pytest.raises(UsageError):
                job(name)


# --- looking and acting -------------------------------------------------------------------------------


FILTERS: list[tuple[str, Any]] = [
    ("limit", 0), ("limit", -1), ("limit", 1001), ("limit", "10"), ("limit", True),
    ("status", "done"), ("status", ["completed", ""]), ("status", 3),
    ("labels", {"a b": "c"}), ("labels", "a"),
    ("concurrency_key", ""), ("concurrency_key", "\x00"),
    ("job", "no such name!"), ("job", ["fine", 3]), ("job", 3),
    ("before", 7),
]  # fmt: skip


async def test_a_filter_that_cannot_be_is_refused_by_name(app: App, subtests: pytest.Subtests) -> None:
    """Never an empty page, never an error of the database."""
    await app.durably.trigger(order, Order(1))
    for field, value in FILTERS:
        with subtests.test(field=field, value=value):
            filters: dict[str, Any] = {field: value}
            await refused(app, field, partial(app.durably.get_runs, **filters))


async def test_a_page_before_what_is_no_id_is_not_found(app: App) -> None:
    """RunNotFound, on every database."""
    for before in ("no-id", "", "\x00"):
        with pytest.raises(RunNotFound):
            await app.durably.get_runs(before=before)


async def test_a_page_before_a_run_that_is_gone_is_the_page_of_its_time(app: App) -> None:
    """The cursor is the id itself: deleting the run does not break paging."""
    runs = await app.durably.trigger_many(order, [Order(number) for number in range(3)])
    await app.durably.cancel(runs[1])
    await app.durably.delete_run(runs[1])
    assert [run.id for run in await app.durably.get_runs(before=runs[1].id)] == [runs[0].id]


async def test_a_cursor_that_cannot_be_is_refused(app: App, subtests: pytest.Subtests) -> None:
    """Of logs, of a run's events, of the feed."""
    run = await app.durably.trigger(order, Order(1))
    wrong: list[Any] = [-1, "1", 1.5, True]
    for after in wrong:
        with subtests.test(after=after):
            await refused(app, "after", partial(app.durably.get_logs, run, after=after))
            await refused(app, "after", partial(first_event, app, run=run, after=after))
            await refused(app, "after", partial(first_event, app, after=after))


@pytest.mark.parametrize("after", [2**31, 2**63, 10**30])
async def test_a_cursor_beyond_everything_has_nothing_after_it(app: App, after: int) -> None:
    """However many digits it has: no database takes all of them."""
    run = await app.durably.trigger(order, Order(1))
    await app.durably.cancel(run)
    assert await app.durably.get_logs(run, after=after) == []
    assert await app.durably.get_events(run=run, after=after) == []
    assert await app.durably.get_events(after=after) == []
    assert [event async for event in app.durably.events(run=run, after=after)] == []


async def test_a_timeout_that_cannot_be_is_refused(app: App, subtests: pytest.Subtests) -> None:
    """Of whatever waits; nothing is triggered first."""
    run = await app.durably.trigger(order, Order(1))
    wrong: list[Any] = ["5", timedelta(seconds=5), True, NAN, math.inf, 10**400]
    for timeout in wrong:
        with subtests.test(timeout=timeout):
            await refused(app, "timeout", partial(app.durably.wait, run, timeout=timeout))
            await refused(app, "timeout", partial(app.durably.result, run, timeout=timeout))
            again = partial(app.durably.trigger_and_wait, order, Order(1), timeout=timeout)
            await refused(app, "timeout", again)


async def test_a_page_of_limits_after_what_is_no_key_is_refused(app: App, subtests: pytest.Subtests) -> None:
    """`get_limits`; the empty text is the beginning."""
    wrong: list[Any] = [5, "\ud800", "\0"]
    for after in wrong:
        with subtests.test(after=after):
            await refused(app, "after", partial(app.durably.get_limits, after=after))
    assert await app.durably.get_limits(after="") == []


async def first_event(app: App, **options: Any) -> object:
    return await anext(app.durably.events(**options))


async def test_what_is_no_run_and_no_id_is_refused(app: App, subtests: pytest.Subtests) -> None:
    """ValidationError naming `run`; a text that is no id is RunNotFound (test_jobs_looking.py)."""
    durably = app.durably
    calls: list[Callable[[Any], Awaitable[object]]] = [durably.get_run, durably.cancel, durably.wait, durably.get_steps]
    for run in (7, None, object(), b"0" * 36):
        with subtests.test(run=run):
            for call in calls:
                await refused(app, "run", partial(call, run))


LIMITS: list[tuple[str, Any, Any]] = [
    ("limit", "k", 2**31), ("limit", "k", 10**30),
    ("limit", "k", -1), ("limit", "k", 1.5), ("limit", "k", True), ("key", "", 1), ("key", 7, 1), ("key", "\x00", 1),
]  # fmt: skip


async def test_a_limit_that_cannot_be_is_refused(app: App, subtests: pytest.Subtests) -> None:
    """`set_limit`."""
    for field, key, limit in LIMITS:
        with subtests.test(key=key, limit=limit):
            await refused(app, field, partial(app.durably.set_limit, key, limit))


PURGES: list[tuple[str, dict[str, Any]]] = [
    ("older_than", {"older_than": timedelta(seconds=-1)}),
    ("older_than", {"older_than": 3600}),
    ("statuses", {"older_than": timedelta(0), "statuses": "pending"}),
    ("statuses", {"older_than": timedelta(0), "statuses": ["completed", "done"]}),
]


async def test_a_purge_that_cannot_be_is_refused(app: App, subtests: pytest.Subtests) -> None:
    """`purge_runs`: nothing is deleted."""
    await app.execute(order, Order(1))
    for field, options in PURGES:
        with subtests.test(options=options):
            await refused(app, field, partial(app.durably.purge_runs, **options))


async def test_a_run_of_another_job_is_not_read_with_the_wrong_types(app: App) -> None:
    """`get_run(id, job)` and `retrigger(id, job=...)`."""
    run = await app.execute(order, Order(1))
    other = JobRef("other", input=int, output=int)
    await refused(app, "job", lambda: app.durably.get_run(run.id, other))
    await refused(app, "job", lambda: app.durably.retrigger(run.id, job=other))


async def test_an_event_type_that_does_not_exist_is_refused(app: App) -> None:
    """`on`: the error lists those that do."""
    with pytest.raises(ValidationError, match="run:complete") as caught:
        app.durably.on("run:completed", print)
    assert caught.value.field == "type"


async def test_an_unknown_run_is_not_found_by_retrigger_from_a_step(app: App) -> None:
    """Before the step is looked for."""
    with pytest.raises(RunNotFound):
        await app.durably.retrigger(NO_RUN, from_step="a")
