"""G5: what a lease holder writes is stored once, with its steps, logs, events and counters in one commit."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from durably.model import (
    Ending,
    EventType,
    Progress,
    RunError,
    RunStatus,
    StepRecord,
    StepStatus,
    StoredRun,
    Verdict,
)
from durably.store import events, runs, steps
from durably.store.operation import Lane
from tests.support.store import (
    AT,
    Store,
    a_checkpoint,
    a_failed_step,
    a_log,
    a_step,
    a_write,
    an_end,
    an_event,
)


async def test_a_checkpoint_is_stored_as_it_was_given(store: Store) -> None:
    run = await store.leased()
    step = a_step(run, "read[3]", 7, '{"n":1e16,"é":"\\u0000"}')
    assert await store.write(run, steps=(step,)) is Verdict.STORED
    assert await store.steps(run) == [step]


async def test_the_times_of_a_batch_keep_their_microseconds(store: Store) -> None:
    times = [
        datetime(year, 12, 31, 23, 59, 59, us, tzinfo=UTC) for year in (1970, 2026, 2199) for us in (1, 654321, 999999)
    ]
    written: list[tuple[StoredRun, StepRecord]] = []
    for at in times:
        run = await store.leased()
        written.append((run, replace(a_step(run), started_at=at, completed_at=at)))
    done = [an_event(EventType.STEP_COMPLETE, "step")]
    batch = steps.write_fast.build([a_write(run, steps=(step,), events=done) for run, step in written])
    assert await store.database.run(batch, lane=Lane.FAST) == [Verdict.STORED] * len(times)
    assert [await store.steps(run) for run, _ in written] == [[step] for _, step in written]


async def test_a_failed_step_keeps_its_error(store: Store) -> None:
    run = await store.leased()
    step = a_failed_step(run)
    await store.write(run, steps=(step,))
    assert await store.steps(run) == [step]


async def test_steps_are_loaded_in_the_order_in_which_they_started(store: Store) -> None:
    run = await store.leased()
    await store.write(run, steps=(a_step(run, "b", 2), a_step(run, "c", 0), a_step(run, "a", 1)))
    assert [step.name for step in await store.steps(run)] == ["c", "a", "b"]


async def test_a_failed_step_may_complete_later(store: Store) -> None:
    run = await store.leased()
    await store.write(run, 1, steps=(a_failed_step(run),))
    again = await store.taken_over(run)
    await store.write(again, 1, steps=(a_step(again),))
    assert await store.steps(run) == [a_step(again)]


async def test_a_completed_step_is_never_overwritten(store: Store) -> None:
    run = await store.leased()
    await store.write(run, 1, steps=(a_step(run, output='"first"'),))
    again = await store.taken_over(run)
    await store.write(again, 1, steps=(a_step(again, output='"second"'),))
    await store.write(again, 2, steps=(a_failed_step(again),))
    assert [step.output_json for step in await store.steps(run)] == ['"first"']


async def test_counters_follow_the_completed_steps(store: Store) -> None:
    run = await store.leased()
    await store.write(run, 1, steps=(a_step(run, "a", 0), a_step(run, "c", 2)))
    await store.write(run, 2, steps=(a_failed_step(run, "d", 3),))
    after = await store.get(run)
    assert (after.completed_steps, after.next_step) == (2, 3)


async def test_progress_is_the_last_one_given(store: Store) -> None:
    run = await store.leased()
    await store.write(run, 1, progress=Progress(current=1, total=4, message='half "way"'))
    assert (await store.get(run)).progress == Progress(current=1, total=4, message='half "way"')
    await store.write(run, 2, events=(an_event(),))
    await store.write(run, 3, progress=Progress(current=2.5))
    assert (await store.get(run)).progress == Progress(current=2.5)


async def test_events_and_logs_of_a_write_share_one_numbering(store: Store) -> None:
    run = await store.leased()
    await store.write(run, 1, events=(an_event(), a_log("one"), a_log("two", None)))
    await store.write(run, 2, events=(a_log("three"), an_event(EventType.STEP_FAIL)))
    logs = await store.database.read(events.load_logs(run.id))
    assert [(line.seq, line.message, line.step) for line in logs] == [
        (4, "one", "step"),
        (5, "two", None),
        (6, "three", "step"),
    ]
    assert [event.seq for event in await store.events(run)] == [1, 2, 3, 4, 5, 6, 7]
    assert await store.is_sound()


async def test_logs_are_read_in_pages(store: Store) -> None:
    run = await store.leased()
    await store.write(run, events=tuple(a_log(str(place)) for place in range(5)))
    first = await store.database.read(events.load_logs(run.id, limit=3))
    rest = await store.database.read(events.load_logs(run.id, after_seq=first[-1].seq))
    assert [line.message for line in first + rest] == ["0", "1", "2", "3", "4"]


async def test_a_log_line_comes_back_with_all_it_says(store: Store) -> None:
    run = await store.leased()
    await store.write(run, events=(a_log('NUL \0, lone \ud800, "é" 😀', data='{"a":[1]}'),))
    [line] = await store.database.read(events.load_logs(run.id))
    assert line.message == 'NUL \\x00, lone \\ud800, "é" 😀'
    assert (line.level, line.data_json, line.created_at, line.run_id) == ("info", '{"a":[1]}', AT, run.id)


async def test_events_carry_the_values_that_their_rows_refer_to(store: Store) -> None:
    run = await store.leased()
    await store.store(a_checkpoint(run, output='{"n":1}'))
    await store.end(run, number=2)
    found = {event.type: event for event in await store.events(run)}
    payloads = {kind: json.loads(event.payload_json or "null") for kind, event in found.items()}
    assert payloads[EventType.STEP_COMPLETE] == {"output": {"n": 1}, "durationMs": 1500}
    assert payloads[EventType.LOG_WRITE] == {"level": "info", "message": "in step"}
    assert payloads[EventType.RUN_COMPLETE] == {"output": "result"}
    assert (found[EventType.STEP_COMPLETE].step, found[EventType.STEP_COMPLETE].position) == ("step", 0)


async def test_a_completed_run_has_its_output_and_no_lease(store: Store) -> None:
    run = await store.leased()
    await store.end(run)
    ended = await store.get(run)
    assert (ended.status, ended.output_json, ended.error) == (RunStatus.COMPLETED, '"result"', None)
    assert (ended.lease_owner, ended.lease_expires_at) == (None, None)
    assert ended.completed_at is not None


async def test_a_failed_run_has_its_error_and_its_event_spares_the_traceback(store: Store) -> None:
    run = await store.leased()
    await store.end(run, RunStatus.FAILED)
    ended = await store.get(run)
    event = (await store.events(run))[-1]
    assert ended.error == RunError(type="ValueError", message="broke", traceback="Trace", step="step")
    assert json.loads(event.payload_json or "") == {"error": {"type": "ValueError", "message": "broke", "step": "step"}}


async def test_a_run_that_is_handed_back_counts_no_attempt(store: Store) -> None:
    run = await store.leased()
    await store.end(run, RunStatus.PENDING)
    back = await store.get(run)
    assert (back.status, back.attempt, back.generation, back.crashes) == (RunStatus.PENDING, 0, 1, 0)
    [again] = await store.claim()
    assert (again.attempt, again.generation, again.lease_owner) == (1, 2, "me")
    assert again.started_at == run.started_at


async def test_the_end_comes_in_the_same_commit_as_the_last_step(store: Store) -> None:
    run = await store.leased()
    ending = Ending(status=RunStatus.COMPLETED, output_json="1")
    await store.write(run, steps=(a_step(run),), events=(an_event(),), ending=ending)
    assert (await store.event_types(run))[-2:] == ["step:start", "run:complete"]
    assert len(await store.steps(run)) == 1


@pytest.mark.parametrize("keep", [True, False])
async def test_steps_are_deleted_at_the_end_when_the_job_wants_that(store: Store, *, keep: bool) -> None:
    run, bystander = await store.leased(), await store.leased()
    await store.store(a_checkpoint(bystander))
    await store.write(run, 1, steps=(a_step(run, "a", 0),))
    ending = Ending(status=RunStatus.COMPLETED, output_json="1", keep_steps=keep)
    await store.write(run, 2, steps=(a_step(run, "b", 1),), events=(a_log("stays"),), ending=ending)
    await store.write(run, 2, steps=(a_step(run, "b", 1),), events=(a_log("stays"),), ending=ending)
    names = [step.name for step in await store.steps(run)]
    assert [name for name in names if name == "a"] == (["a"] if keep else [])
    assert (await store.get(run)).completed_steps == 2
    assert len(await store.database.read(events.load_logs(run.id))) == 1
    assert len(await store.steps(bystander)) == 1


async def test_deleted_steps_of_the_last_write_are_gone_too(store: Store) -> None:
    run = await store.leased()
    ending = Ending(status=RunStatus.COMPLETED, output_json="1", keep_steps=False)
    await store.write(run, 1, steps=(a_step(run, "a", 0),), ending=ending)
    assert await store.steps(run) == []


@pytest.mark.parametrize("number", [1, 2])
async def test_a_repeated_write_is_stored_once(store: Store, number: int) -> None:
    run = await store.leased()
    await store.store(a_checkpoint(run, 1, "a", 0))
    await store.store(a_checkpoint(run, 2, "b", 1))
    before = await store.snapshot()
    assert await store.store(a_checkpoint(run, number, "a", 0)) is Verdict.STORED
    assert await store.snapshot() == before


@pytest.mark.parametrize("key", ["k", None], ids=["keyed", "plain"])
@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.PENDING])
async def test_a_repeated_end_counts_as_stored_and_changes_nothing(
    store: Store, status: RunStatus, key: str | None
) -> None:
    run = await store.leased(concurrency_key=key)
    await store.end(run, status)
    before = await store.snapshot()
    assert await store.end(run, status) is Verdict.STORED
    assert await store.snapshot() == before


async def test_writes_of_many_runs_share_a_commit_and_stay_apart(store: Store) -> None:
    await store.enqueue_batch(*(store.new() for _ in range(30)))
    claimed = await store.claim(limit=30)
    writes = [a_checkpoint(run, number, f"s{number}", number - 1) for number in (1, 2, 3) for run in claimed]
    verdicts = await asyncio.gather(*(store.store(write) for write in writes))
    await asyncio.gather(*(store.store(an_end(run, number=4)) for run in claimed))
    assert set(verdicts) == {Verdict.STORED}
    for run in claimed:
        assert [step.name for step in await store.steps(run)] == ["s1", "s2", "s3"]
    assert await store.value("SELECT count(*) FROM {runs} WHERE completed_steps = 3 AND status = 'completed'") == 30
    assert await store.is_sound()


async def test_runs_that_end_in_one_batch_keep_what_is_theirs(store: Store) -> None:
    claimed = [await store.leased(job=f"job{place}", labels={"place": str(place)}) for place in range(3)]
    endings = [Ending(status=RunStatus.COMPLETED, output_json=str(place)) for place in range(3)]
    writes = [a_write(run, 1, ending=ending) for run, ending in zip(claimed, endings, strict=True)]
    assert await store.database.submit_all(steps.write_fast, writes) == [Verdict.STORED] * 3
    for place, run in enumerate(claimed):
        after, told = await store.get(run), (await store.events(run))[-1]
        assert (after.output_json, after.labels) == (str(place), {"place": str(place)})
        assert (told.type, told.seq, told.job, told.labels) == (EventType.RUN_COMPLETE, 3, run.job, after.labels)
        assert told.created_at == after.completed_at
    assert await store.is_sound()


async def test_writes_of_one_run_in_one_batch_are_one_after_the_other(store: Store) -> None:
    run = await store.leased()
    writes = [
        a_write(run, number, events=(a_log(str(number)),), progress=Progress(current=number)) for number in (1, 2, 3)
    ]
    writes[2] = a_write(run, 3, events=(a_log("3"),), steps=(a_step(run),))
    await asyncio.gather(*(store.store(write) for write in writes))
    logs = await store.database.read(events.load_logs(run.id))
    after = await store.get(run)
    assert [line.message for line in logs] == ["1", "2", "3"]
    assert (after.progress, after.completed_steps) == (Progress(current=2), 1)
    assert await store.is_sound()


async def test_a_repeated_batch_of_one_run_is_stored_once(store: Store) -> None:
    run = await store.leased()
    writes = [a_checkpoint(run, number, f"s{number}", number - 1) for number in (1, 2, 3)]
    await asyncio.gather(*(store.store(write) for write in writes))
    before = await store.snapshot()
    assert await asyncio.gather(*(store.store(write) for write in writes)) == [Verdict.STORED] * 3
    assert await store.snapshot() == before


async def test_a_step_that_fails_and_completes_in_one_batch_is_completed(store: Store) -> None:
    run = await store.leased()
    failed, completed = a_write(run, 1, steps=(a_failed_step(run),)), a_write(run, 2, steps=(a_step(run),))
    await asyncio.gather(store.store(failed), store.store(completed))
    assert [step.status for step in await store.steps(run)] == [StepStatus.COMPLETED]
    assert (await store.get(run)).completed_steps == 1


async def test_a_resumed_run_keeps_its_checkpoints_and_logs(store: Store) -> None:
    run = await store.leased()
    await store.store(a_checkpoint(run))
    await store.end(run, RunStatus.FAILED, 2)
    await store.resume(run)
    [again] = await store.claim()
    assert [step.name for step in await store.database.read(steps.load_steps(run.id))] == ["step"]
    assert (again.completed_steps, again.next_step, again.error, again.attempt) == (1, 1, None, 2)
    assert len(await store.database.read(events.load_logs(run.id))) == 1


async def test_the_events_of_a_step_have_their_places_among_the_others(store: Store) -> None:
    run = await store.leased()
    start, done = EventType.STEP_START, EventType.STEP_COMPLETE
    kinds = [
        an_event(start, "a"),
        an_event(start, "b", position=1),
        a_log("in a", "a"),
        an_event(done, "b", position=1),
        an_event(done, "a"),
        an_event(EventType.LOG_WRITE, None, payload_json="{}"),
    ]
    records = (a_step(run, "b", 1), a_step(run, "a", 0))
    ending = Ending(status=RunStatus.COMPLETED, output_json="1")
    assert await store.write(run, 1, steps=records, events=tuple(kinds), ending=ending) is Verdict.STORED
    told = [(event.seq, event.type.value, event.step) for event in await store.events(run)]
    assert told[2:] == [
        (3, "step:start", "a"),
        (4, "step:start", "b"),
        (5, "log:write", "a"),
        (6, "step:complete", "b"),
        (7, "step:complete", "a"),
        (8, "log:write", None),
        (9, "run:complete", None),
    ]
    assert await store.is_sound()


async def test_a_step_that_failed_and_completed_in_one_write_has_all_its_events(store: Store) -> None:
    run = await store.leased()
    kinds = (EventType.STEP_START, EventType.STEP_FAIL, EventType.STEP_START, EventType.STEP_COMPLETE)
    await store.write(run, steps=(a_step(run),), events=tuple(an_event(kind) for kind in kinds))
    assert (await store.event_types(run))[2:] == [kind.value for kind in kinds]
    assert await store.is_sound()


async def test_a_new_run_made_of_an_old_one_says_how_much_it_took_over(store: Store) -> None:
    old = await store.leased()
    for number, name in enumerate("abc"):
        await store.store(a_checkpoint(old, number + 1, name, number))
    enqueued = await store.database.run(runs.retrigger(store.new(), (await store.steps(old))[:2]))
    assert (enqueued.run.completed_steps, enqueued.run.next_step) == (2, 2)
    assert enqueued.run == await store.get(enqueued.run)
