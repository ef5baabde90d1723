"""G9: every state change is one event; a subscriber with a cursor misses none and sees each run's in order."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest

from durably import Event, EventType, Run, RunStatus, Step, UsageError, job
from durably.runtime.following import EventStream
from tests.support.app import App, within
from tests.support.bench import Gate, eventually

SHARED = ["sqlite-file", "postgres"]


async def call(name: str) -> str:
    return name


@job("work")
async def work(step: Step, input: str) -> str:
    step.log.info("a line", extra={"input": input})
    await step.run("one", call, input)
    step.progress(1, 2, "half")
    if input == "fail":
        await step.run("bad", int, "no number")
    return input


@job("steps")
async def only_steps(step: Step) -> None:
    for name in ("a", "b", "c"):
        await step.run(name, call, name)


async def take(stream: EventStream, count: int) -> list[Event]:
    return await within(collect(stream, count))


async def collect(stream: EventStream, count: int) -> list[Event]:
    return [await anext(stream) for _ in range(count)]


def names(events: list[Event]) -> list[str]:
    return [f"{event.type} {event.step or ''}".strip() for event in events]


async def test_the_events_of_a_run_tell_every_change_of_it(app: App) -> None:
    """G9: in order, numbered from 1 without gaps, each with what it adds."""
    run = await app.execute(work, "x", labels={"a": "b"})
    events = [event async for event in app.durably.events(run=run)]

    assert names(events) == [
        "run:trigger", "run:leased", "log:write", "step:start one", "step:complete one", "run:progress",
        "run:complete",
    ]  # fmt: skip
    assert [event.seq for event in events] == list(range(1, 8))
    assert [event.id for event in events] == sorted(event.id or 0 for event in events)
    assert {(event.run_id, event.job, event.labels["a"]) for event in events} == {(run.id, "work", "b")}
    leased, log, _, done, progress, end = (json.loads(event.payload_json or "null") for event in events[1:])
    assert (leased["generation"], leased["attempt"]) == (1, 1)
    assert log == {"level": "info", "message": "a line", "data": {"input": "x"}}
    assert done["output"] == "x"
    assert progress == {"current": 1, "total": 2, "message": "half"}
    assert end == {"output": "x"}


async def test_failure_resume_and_deletion_are_events_too(app: App) -> None:
    """G9: the story goes on after an end, and outlives the run."""
    run = await app.execute(work, "fail")
    await app.again(run, work)
    await app.durably.delete_run(run)
    told = names(await app.events(run))

    fails = ["step:start bad", "step:fail bad", "run:fail"]
    start = ["run:trigger", "run:leased", "log:write", "step:start one", "step:complete one", "run:progress", *fails]
    assert told[: len(start)] == start
    rest = [name for name in told[len(start) :] if name not in {"run:progress", "log:write"}]
    assert rest == ["run:resume", "run:leased", *fails, "run:delete"]
    assert [event.seq for event in await app.events(run)] == list(range(1, len(told) + 1))


async def test_the_events_of_a_run_can_be_followed_live_and_end_with_it(app: App) -> None:
    """G9: from any number of it on."""
    gate = Gate()

    @job("gated")
    async def gated(step: Step) -> None:
        await gate.wait()

    run = await app.durably.trigger(gated)
    async with app.durably.worker([gated]), app.durably.events(run=run) as stream:
        assert names(await take(stream, 2)) == ["run:trigger", "run:leased"]
        gate.opened.set()
        assert [event.type async for event in stream] == ["run:complete"]
    assert [event.seq async for event in app.durably.events(run=run, after=2)] == [3]
    assert [event async for event in app.durably.events(run=run, after=3)] == []


async def test_the_feed_begins_when_it_is_entered(app: App) -> None:
    """G9: nothing that happens from then on is missed; nothing from before is told."""
    await app.execute(work, "before")
    async with app.durably.events() as stream:
        run = await app.execute(work, "x")
        events = await take(stream, 7)
    assert {event.run_id for event in events} == {run.id}
    assert names(events)[-1] == "run:complete"


async def test_the_feed_can_be_filtered_by_job_and_labels(app: App) -> None:
    """G9, for subscribers that want a part."""

    @job("quiet")
    async def quiet(step: Step) -> None: ...

    async with (
        app.durably.events(job=quiet, after=0) as by_job,
        app.durably.events(job=["quiet", work], labels={"x": "1"}, after=0) as by_label,
        app.durably.events(labels={"x": "1", "y": "1"}, after=0) as by_labels,
    ):
        await app.execute(work, "a", labels={"x": "2"})
        one = await app.execute(work, "b", labels={"x": "1"})
        two = await app.execute(quiet, labels={"x": "1", "y": "1"})
        assert {event.run_id for event in await take(by_job, 3)} == {two.id}
        assert [event.run_id for event in await take(by_label, 10)] == [one.id] * 7 + [two.id] * 3
        assert {event.run_id for event in await take(by_labels, 3)} == {two.id}


async def test_a_subscriber_that_comes_back_with_its_cursor_misses_nothing(app: App) -> None:
    """G9: it reconnects after every few events, while other runs go on; each run's events are in order."""
    count = 12
    runs = await app.durably.trigger_many(work, [str(number) for number in range(count)])
    seen: defaultdict[str, list[int]] = defaultdict(list)
    ends: set[str] = set()
    cursor: int | None = 0

    async def read() -> None:
        nonlocal cursor
        while len(ends) < count:
            async with app.durably.events(after=cursor) as stream:
                for event in await collect(stream, 3):
                    if event.seq not in seen[event.run_id]:
                        seen[event.run_id].append(event.seq or 0)
                    if event.type is EventType.RUN_COMPLETE:
                        ends.add(event.run_id)
                    cursor = event.cursor
                    if len(ends) == count:
                        return

    async with app.durably.worker([work]):
        await within(read())
    assert dict(seen) == {run.id: list(range(1, 8)) for run in runs}


async def test_a_subscriber_may_come_back_after_any_event_also_after_a_start_that_has_no_row(app: App) -> None:
    """G9: what readers are told does not depend on how it is stored."""
    runs = [await app.execute(only_steps) for _ in range(2)]
    rows = await app.outside.value("SELECT count(*) FROM {events}")
    whole = await app.durably.get_events(after=0, limit=1000)
    assert names(whole[:9]) == [
        "run:trigger", "run:leased", "step:start a", "step:complete a", "step:start b", "step:complete b",
        "step:start c", "step:complete c", "run:complete",
    ]  # fmt: skip
    assert (len(whole), rows) == (18, 12)
    for place, event in enumerate(whole, 1):
        assert event.cursor == event.id
        assert await app.durably.get_events(after=event.cursor, limit=3) == whole[place : place + 3]
        async with app.durably.events(after=event.cursor) as stream:
            assert await take(stream, len(whole) - place) == whole[place:]
    for limit in range(1, len(whole) + 1):
        assert await app.durably.get_events(limit=limit) == whole[-limit:]
    mine = [replace(event, cursor=None) for event in whole if event.run_id == runs[1].id]
    for place in range(len(mine)):
        assert [event async for event in app.durably.events(run=runs[1], after=place)] == mine[place:]
        assert await app.durably.get_events(run=runs[1], after=place, limit=2) == mine[place : place + 2]
        assert await app.durably.get_events(run=runs[1], limit=place + 1) == mine[-place - 1 :]


@pytest.mark.parametrize("rows", [1, 2, 3])
async def test_the_newest_events_are_found_page_by_page(app: App, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    await app.execute(only_steps)
    whole = await app.durably.get_events(after=0, limit=1000)
    monkeypatch.setattr("durably.runtime.history.PAGE", rows)
    assert await app.durably.get_events(limit=1000) == whole
    assert await app.durably.get_events(job="steps", limit=4) == whole[-4:]


async def test_who_comes_back_between_a_start_and_its_end_is_told_what_happens_from_then_on(app: App) -> None:
    """G9: once, from what is stored to what comes."""
    await app.execute(only_steps)
    whole = await app.durably.get_events(after=0, limit=1000)
    [start] = [event for event in whole if names([event]) == ["step:start b"]]
    async with app.durably.events(after=start.cursor) as stream:
        assert names(await take(stream, 1)) == ["step:complete b"]
        again = await app.execute(only_steps)
        rest = await take(stream, 12)
    assert names(rest[:3]) == ["step:start c", "step:complete c", "run:complete"]
    assert [event.seq for event in rest[3:]] == list(range(1, 10))
    assert {event.run_id for event in rest[3:]} == {again.id}


@pytest.mark.parametrize("store_kind", SHARED, indirect=True)
async def test_the_feed_tells_what_every_process_does(app: App) -> None:
    """G9: triggered in one, executed in a second, cancelled and watched in a third."""
    triggering, executing = await app.another(), await app.another()
    async with app.durably.events() as stream, executing.worker([work]):
        run = await triggering.trigger(work, "x")
        told = names(await take(stream, 7))
    assert told[0] == "run:trigger"
    assert told[-1] == "run:complete"
    async with app.durably.events(run=run.id) as again:
        assert names(await take(again, 7)) == told


@pytest.mark.parametrize("store_kind", SHARED, indirect=True)
async def test_several_writers_at_once_are_all_told_of_and_each_run_in_order(app: App) -> None:
    """G9: three workers in three processes, one feed."""
    others = [await app.another() for _ in range(3)]
    seen: defaultdict[str, list[int]] = defaultdict(list)
    async with app.durably.events() as stream:
        for durably in others:
            await durably.trigger_many(work, [str(number) for number in range(10)])
        workers = [durably.worker([work], max_concurrent_runs=4) for durably in others]
        await asyncio.gather(*(worker.start() for worker in workers))
        for event in await take(stream, 30 * 7):
            seen[event.run_id].append(event.seq or 0)
        await asyncio.gather(*(worker.stop() for worker in workers))
    assert set(map(tuple, seen.values())) == {tuple(range(1, 8))}
    assert await app.outside.event_faults() == []


async def test_a_run_and_a_filter_cannot_both_be_asked_for(app: App) -> None:
    """A UsageError that says so."""
    run = await app.durably.trigger(work, "x")
    with pytest.raises(UsageError, match="either a run, or job and labels"):
        app.durably.events(run=run, job=work)


# --- listeners ----------------------------------------------------------------------------------------


async def test_listeners_hear_what_this_process_does(app: App) -> None:
    """`on`: by type, with the data of the event; until it is ended."""
    heard: list[Event] = []
    stop = app.durably.on("step:complete", heard.append)
    app.durably.on(EventType.RUN_COMPLETE, heard.append)
    run = await app.execute(work, "x", labels={"a": "b"})
    stop()
    await app.execute(work, "y")

    assert names(heard) == ["step:complete one", "run:complete", "run:complete"]
    assert (heard[0].run_id, heard[0].labels, heard[0].position) == (run.id, {"a": "b"}, 0)
    assert json.loads(heard[0].payload_json or "")["output"] == "x"


@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_a_listener_that_fails_harms_nobody(app: App, colour: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the run, nor the worker, nor other listeners; it is logged."""
    heard: list[str] = []

    def fail(event: Event) -> None:
        raise RuntimeError("a bad listener")

    async def fail_later(event: Event) -> None:
        raise RuntimeError("a bad listener")

    for type_ in EventType:
        app.durably.on(type_, fail if colour == "sync" else fail_later)
        app.durably.on(type_, lambda event: heard.append(event.type.value))
    run = await app.execute(work, "x")

    assert run.status is RunStatus.COMPLETED
    assert heard == [event.type.value for event in await app.events(run)]
    await eventually(lambda: "a bad listener" in caplog.text)


async def test_a_slow_listener_holds_nobody_up(app: App) -> None:
    """An async one gets its events one after the other, in a task of its own."""
    gate, heard = Gate(), list[str]()

    async def slow(event: Event) -> None:
        await gate.wait()
        heard.append(event.type.value)

    for type_ in ("run:leased", "run:complete"):
        app.durably.on(type_, slow)
    run = await app.execute(work, "x")
    assert (run.status, heard) == (RunStatus.COMPLETED, [])
    gate.opened.set()
    await eventually(lambda: len(heard) == 2)


@pytest.mark.parametrize("store_kind", SHARED, indirect=True)
async def test_listeners_hear_nothing_of_other_processes(app: App) -> None:
    """`on` is for this process; `events` is for all."""
    other = await app.another()
    run = await other.trigger(work, "x")
    await app.process(work, durably=other)
    assert (await app.wait(run)).status is RunStatus.COMPLETED
    assert app.heard == []


async def test_a_listener_may_use_the_durably_that_calls_it(app: App) -> None:
    """As when one run triggers the next."""
    done: list[Run[Any]] = []

    async def follow(event: Event) -> None:
        if len(done) < 2:
            done.append(await app.durably.trigger(work, f"after {event.run_id}"))

    app.durably.on(EventType.RUN_COMPLETE, follow)
    async with app.durably.worker([work]):
        await app.durably.trigger(work, "first")
        await eventually(lambda: len(done) == 2)
        for run in done:
            await app.wait(run)


async def test_closing_ends_those_who_wait_for_events(app: App) -> None:
    """With an error, not for ever."""
    async with app.durably.events() as stream:
        run = await app.durably.trigger(work, "x")
        assert names(await take(stream, 1)) == ["run:trigger"]
        reader = asyncio.ensure_future(collect(stream, 1))
        waiter = asyncio.ensure_future(app.durably.wait(run))
        await asyncio.sleep(0)
        await within(app.durably.close())
        for task in (reader, waiter):
            with pytest.raises(UsageError, match="closed"):
                await within(task)
