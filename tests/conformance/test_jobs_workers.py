"""G6 and the life of workers: start, stop, hand back, one run, until idle, several in one process."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from durably import Interrupt, RunStatus, Step, Stopping, UsageError, ValidationError, Worker, job
from tests.support.app import SECONDS, App, MakeApp, within
from tests.support.bench import Gate, eventually

NOW = timedelta(0)


async def call(name: str) -> str:
    return name


@job("echo")
async def echo(step: Step, input: str) -> str:
    return await step.run("echo", call, input)


async def test_a_worker_that_stops_hands_its_runs_back_and_that_counts_as_nothing(app: App) -> None:
    """G6, G13: another one continues at once after the last checkpoint, the attempt is unchanged."""
    gate, executed = Gate(), list[str]()

    async def note(name: str) -> str:
        executed.append(name)
        return name

    @job("long")
    async def long(step: Step) -> int:
        await step.run("first", note, "first")
        await gate.wait()
        await step.run("second", note, "second")
        return step.attempt

    run = await app.durably.trigger(long)
    worker = app.durably.worker([long])
    await worker.start()
    await within(gate.reached.wait())
    await worker.stop(NOW)

    handed_back = await app.get(run)
    assert (handed_back.status, handed_back.attempt, handed_back.completed_steps) == (RunStatus.PENDING, 0, 1)
    assert (await app.story(run))[-1] == "run:release"
    assert not worker.is_running
    gate.opened.set()
    async with app.durably.worker([long]):
        assert await app.durably.result(run, timeout=SECONDS) == 1
    assert executed == ["first", "second"]


async def test_runs_may_end_within_the_grace(app: App) -> None:
    """A stop in good order claims no more and lets what runs come to its end."""
    gate = Gate()

    @job("ends")
    async def ends(step: Step) -> str:
        await gate.wait()
        return await step.run("one", call, "one")

    first = await app.durably.trigger(ends)
    async with app.durably.worker([ends], max_concurrent_runs=1, grace=timedelta(seconds=SECONDS)) as worker:
        await within(gate.reached.wait())
        second = await app.durably.trigger(ends)
        stop = asyncio.ensure_future(worker.stop())
        await asyncio.sleep(0)
        gate.opened.set()
        await within(stop)

    assert (await app.get(first)).output == "one"
    assert (await app.get(second)).status is RunStatus.PENDING


async def test_code_learns_that_the_worker_stops(app: App) -> None:
    """It is interrupted like by a cancel; at its next step the reason is `Stopping`."""
    gate, reasons = Gate(), list[str]()

    @job("learns")
    async def learns(step: Step) -> None:
        try:
            await gate.wait()
        finally:
            try:
                await step.run("next", call, "next")
            except Interrupt as interrupt:
                reasons.append(type(interrupt).__name__)

    run = await app.durably.trigger(learns)
    async with app.durably.worker([learns], grace=NOW):
        await within(gate.reached.wait())
    assert reasons == [Stopping.__name__]
    assert (await app.get(run)).status is RunStatus.PENDING


async def test_a_block_that_is_left_by_an_error_stops_the_worker_too(app: App) -> None:
    """G6: the run is handed back; the error is the block's own."""
    gate = Gate()

    @job("waits")
    async def waits(step: Step) -> None:
        await gate.wait()

    run = await app.durably.trigger(waits)
    with pytest.raises(LookupError, match="mine"):
        await fail_beside(app.durably.worker([waits], grace=NOW), gate)
    assert (await app.get(run)).status is RunStatus.PENDING


async def fail_beside(worker: Worker, gate: Gate) -> None:
    async with worker:
        await within(gate.reached.wait())
        raise LookupError("mine")


async def test_process_one_executes_one_run(app: App) -> None:
    """And says whether there was one."""
    runs = await app.durably.trigger_many(echo, ["a", "b"])
    worker = app.durably.worker([echo])

    assert await worker.process_one() is True
    assert [(await app.get(run)).status.value for run in runs] == ["completed", "pending"]
    assert [await worker.process_one() for _ in range(2)] == [True, False]


async def test_process_until_idle_executes_all_that_is_claimable(app: App) -> None:
    """Also what the runs trigger; and says how many runs ended."""

    @job("parent")
    async def parent(step: Step, input: int) -> None:
        if input:
            await step.trigger("parent", input - 1)

    await app.durably.trigger(parent, 4)
    assert await app.durably.worker([parent]).process_until_idle() == 5
    assert {run.status for run in await app.durably.get_runs()} == {RunStatus.COMPLETED}
    assert await app.durably.worker([parent]).process_until_idle() == 0


async def test_process_until_idle_stops_after_so_many_runs(app: App) -> None:
    """`max_runs`."""
    await app.durably.trigger_many(echo, [str(number) for number in range(5)])
    worker = app.durably.worker([echo])
    assert [await worker.process_until_idle(max_runs=3) for _ in range(3)] == [3, 2, 0]


async def test_process_until_idle_stops_after_a_time_and_hands_back(app: App) -> None:
    """`max_duration`: what has not ended within the grace goes back, unharmed."""
    gate = Gate()

    @job("endless")
    async def endless(step: Step) -> None:
        await step.run("one", call, "one")
        await gate.wait()

    run = await app.durably.trigger(endless)
    worker = app.durably.worker([endless], grace=NOW)
    assert await within(worker.process_until_idle(max_duration=timedelta(milliseconds=300))) == 0

    handed_back = await app.get(run)
    assert (handed_back.status, handed_back.attempt) == (RunStatus.PENDING, 0)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("max_runs", {"max_runs": 0}),
        ("max_runs", {"max_runs": "1"}),
        ("max_duration", {"max_duration": NOW}),
        ("max_duration", {"max_duration": 5}),
    ],
)
async def test_limits_that_allow_nothing_are_refused(app: App, field: str, options: dict[str, object]) -> None:
    """The error names the limit."""
    run = await app.durably.trigger(echo, "a")
    with pytest.raises(ValidationError) as caught:
        await app.durably.worker([echo]).process_until_idle(**options)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - the mistake
    assert caught.value.field == field
    assert (await app.get(run)).status is RunStatus.PENDING


async def test_a_worker_keeps_its_slots_full_and_never_overfills_them(app: App) -> None:
    """`max_concurrent_runs` runs at a time; the next begins when one ends."""
    inside, most = set[str](), list[int]()
    gate = Gate()

    @job("counted")
    async def counted(step: Step) -> None:
        inside.add(step.run_id)
        most.append(len(inside))
        if len(inside) == 4:
            gate.opened.set()
        await gate.wait()
        inside.discard(step.run_id)

    runs = await app.durably.trigger_many(counted, [None] * 12)
    async with app.durably.worker([counted], max_concurrent_runs=4):
        for run in runs:
            await app.wait(run)
    assert max(most) == 4


async def test_two_workers_of_one_process_share_the_work(app: App) -> None:
    """Each with its own jobs and slots, on one Durably; either may stop before the other."""
    gate = Gate()

    @job("blocks")
    async def blocks(step: Step) -> None:
        await gate.wait()

    async with app.durably.worker([echo, blocks], max_concurrent_runs=1) as first:
        waiting = await app.durably.trigger(blocks)
        await within(gate.reached.wait())
        async with app.durably.worker([echo], max_concurrent_runs=1):
            assert await app.durably.trigger_and_wait(echo, "a", timeout=SECONDS) == "a"
        gate.opened.set()
        await app.wait(waiting)
        assert await app.durably.trigger_and_wait(echo, "b", timeout=SECONDS) == "b"
        assert first.is_running


async def test_a_worker_starts_once_and_may_start_again(app: App) -> None:
    """A second start is a UsageError; after a stop it works again."""
    worker = app.durably.worker([echo])
    await worker.start()
    with pytest.raises(UsageError, match="runs already"):
        await worker.start()
    await worker.stop()
    await worker.stop()
    await worker.start()
    assert await app.durably.trigger_and_wait(echo, "a", timeout=SECONDS) == "a"
    await worker.stop()


async def test_a_worker_opens_the_database_itself_and_leaves_it_closed(make_app: MakeApp, store_kind: str) -> None:
    """`async with durably.worker(...)` is all a script needs; SQLite in memory ends with it."""
    app = await make_app()
    if store_kind == "sqlite-memory":
        pytest.skip("its data ends with the connection")
    async with await app.another() as other, other.worker([echo]):
        run = await other.trigger(echo, "a")
        assert await other.result(run, timeout=SECONDS) == "a"
    assert (await app.get(run)).status is RunStatus.COMPLETED


async def test_a_worker_never_takes_runs_of_jobs_that_it_does_not_know(app: App) -> None:
    """A rolling deploy loses nothing: the run waits for a worker that has the job."""
    run = await app.durably.trigger("new-job", {"a": 1})
    async with app.durably.worker([echo]):
        await app.durably.trigger_and_wait(echo, "a", timeout=SECONDS)
        assert (await app.get(run)).status is RunStatus.PENDING

    @job("new-job")
    async def new_job(step: Step, input: dict[str, int]) -> int:
        return input["a"]

    async with app.durably.worker([new_job]):
        assert await app.durably.result(run, timeout=SECONDS) == 1


async def test_a_trigger_inside_of_the_process_does_not_wait_for_the_poll(make_app: MakeApp) -> None:
    """Wake-ups, not polling, start runs, report ends, and fill slots that became free."""
    app = await make_app(poll_interval=timedelta(minutes=10))
    async with app.durably.worker([echo], max_concurrent_runs=1):
        for name in ("a", "b"):
            assert await app.durably.trigger_and_wait(echo, name, timeout=40) == name
        runs = await app.durably.trigger_many(echo, ["c", "d", "e"])
        assert [await app.durably.result(run, timeout=40) for run in runs] == ["c", "d", "e"]


@pytest.mark.parametrize("store_kind", ["sqlite-file", "postgres"], indirect=True)
async def test_a_trigger_of_another_process_does_not_wait_for_the_poll(make_app: MakeApp) -> None:
    """Wake-ups cross processes, both ways: to the worker, and back to who waits for the result."""
    app = await make_app(poll_interval=timedelta(minutes=10))
    other = await app.another(poll_interval=timedelta(minutes=10))
    async with other.worker([echo]):
        assert await app.durably.trigger_and_wait(echo, "a", timeout=SECONDS) == "a"
        assert await app.durably.trigger_and_wait(echo, "b", timeout=SECONDS) == "b"


async def test_priority_goes_first_and_equals_go_in_order(app: App) -> None:
    """Higher first; a hundred units are worth more than a hundred minutes of waiting."""
    order: list[str] = []

    @job("ordered")
    async def ordered(step: Step, input: str) -> None:
        order.append(input)

    for name, priority in (("a", 0), ("b", 0), ("low", -5), ("high", 5), ("c", 0)):
        await app.durably.trigger(ordered, name, priority=priority)
    await app.process(ordered, max_concurrent_runs=1)
    assert order == ["high", "a", "b", "c", "low"]


async def test_modules_can_be_named_in_place_of_jobs(app: App) -> None:
    """They are imported when the worker starts, and all their jobs are served."""
    worker = app.durably.worker(["tests.support.some_jobs"])
    assert worker.jobs == ("some-async", "some-blocking")
    runs = [await app.durably.trigger(name, 2) for name in worker.jobs]
    await worker.process_until_idle()
    assert [await app.durably.result(run) for run in runs] == [3, 4]


async def test_runs_triggered_before_the_start_are_executed_at_once(app: App) -> None:
    """`start` returns when the worker is ready: runs triggered before are executed at once."""
    runs = await app.durably.trigger_many(echo, ["a", "b"])
    async with app.durably.worker([echo]):
        await eventually(lambda: sum(event.type == "run:complete" for event in app.heard) == 2)
    assert [(await app.get(run)).output for run in runs] == ["a", "b"]
