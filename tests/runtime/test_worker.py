"""Workers: slots, wake-ups, what they claim, dependencies, and the loops that nothing may starve."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from durably.errors import PendingRunExists, UsageError, ValidationError
from durably.jobs import job
from durably.model import RunFilter, RunStatus
from durably.runtime.context import Step, SyncStep
from durably.runtime.execution import Execution
from durably.runtime.settings import Settings
from durably.runtime.shift import Shift
from durably.store.leases import claim, claim_expired
from durably.store.runs import list_runs
from tests.runtime.worker_jobs import echo, other
from tests.support.bench import Bench, Gate, eventually
from tests.support.store import Store, private


async def test_a_worker_never_claims_jobs_that_it_does_not_know(bench: Bench) -> None:
    run = await bench.trigger(other)
    await bench.trigger(echo, 1)

    assert await bench.worker(echo).process_until_idle() == 1
    assert (await bench.run(run)).status is RunStatus.PENDING


async def test_all_slots_are_filled_in_one_claim_and_never_more(bench: Bench) -> None:
    running = 0
    most = 0
    gate = Gate()

    @job("slot")
    async def slot(_step: Step) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 3:
            gate.reached.set()
        await gate.opened.wait()
        running -= 1

    runs = [await bench.trigger(slot) for _ in range(8)]
    async with bench.worker(slot, max_concurrent_runs=3):
        async with asyncio.timeout(40):
            await gate.reached.wait()
        gate.opened.set()
        for run in runs:
            await bench.until(run)

    assert most == 3
    owners = [event.payload_json for event in bench.heard if event.type == "run:leased"]
    assert len(owners) == 8


async def test_a_trigger_wakes_the_worker_long_before_it_polls(bench: Bench, store: Store) -> None:
    async with bench.worker(echo, poll_interval=timedelta(hours=1)):
        here = await bench.trigger(echo, 1)
        await bench.until(here)
        if bench.database.is_shared:
            elsewhere = Bench(await store.another())
            await bench.until(await elsewhere.trigger(echo, 2))


async def test_a_delayed_run_starts_when_it_is_due_without_waiting_for_a_poll(bench: Bench) -> None:
    async with bench.worker(echo, poll_interval=timedelta(hours=1)):
        run = await bench.trigger(echo, 1, delay=timedelta(milliseconds=300))
        run = await bench.until(run)

    assert run.started_at is not None
    assert run.available_at is not None
    assert run.started_at >= run.available_at


async def test_busy_slots_do_not_starve_due_runs_of_a_key(bench: Bench) -> None:
    gate = Gate()

    @job("busy")
    async def busy(_step: Step) -> None:
        await gate.wait()

    await bench.trigger(busy)
    async with bench.worker(busy, echo, max_concurrent_runs=1):
        await gate.reached.wait()
        due = await bench.trigger(echo, 1, delay=timedelta(milliseconds=10), concurrency_key="k")

        async def is_released() -> bool:
            return (await bench.run(due)).hold is None

        await eventually(is_released)
        gate.opened.set()
        await bench.until(due)


async def test_runs_of_a_key_never_overlap_over_two_workers(bench: Bench, store: Store) -> None:
    active, overlaps = set[str](), list[str]()

    @job("keyed")
    async def keyed(step: Step, input: int) -> int:
        key = str(input % 3)
        if key in active:
            overlaps.append(key)
        active.add(key)
        await step.run("work", lambda: input)
        active.remove(key)
        return input

    second = Bench(await store.another())
    async with bench.worker(keyed, poll_interval=timedelta(seconds=1)), second.worker(keyed):
        runs = [await bench.trigger(keyed, i, concurrency_key=f"k{i % 3}") for i in range(30)]
        for run in runs:
            await bench.until(run)

    assert overlaps == []


async def test_an_expired_lease_is_taken_over_and_the_run_goes_on_after_its_last_step(
    bench: Bench, store: Store
) -> None:
    run = await bench.trigger(echo, 1)
    token = bench.environment.new_id()
    [dead] = await bench.database.run(claim(["echo"], limit=1, owner="dead", token=token, lease=timedelta(seconds=60)))
    await store.expire(dead)

    async with bench.worker(echo):
        run = await bench.until(run)

    assert (run.status, run.generation, run.crashes) == (RunStatus.COMPLETED, 2, 0)


async def test_a_run_that_keeps_crashing_is_failed(bench: Bench, store: Store) -> None:
    run = await bench.trigger(echo, 1)
    for _ in range(2):
        token = bench.environment.new_id()
        claims = (
            claim(["echo"], limit=1, owner="dead", token=token, lease=timedelta(seconds=60)),
            claim_expired(["echo"], limit=1, owner="dead", token=token, lease=timedelta(seconds=60), max_crashes=9),
        )
        found = [run for operation in claims for run in await bench.database.run(operation)]
        await store.expire(*found)

    async with bench.worker(echo, max_crashes=2, lease=timedelta(milliseconds=300)):
        run = await bench.until(run)

    assert run.error is not None
    assert (run.status, run.error.type) == (RunStatus.FAILED, "WorkerCrashed")
    assert "run:fail" in [event.type for event in bench.heard]


async def test_dependencies_are_entered_once_and_left_after_the_last_run(bench: Bench) -> None:
    log: list[str] = []

    @asynccontextmanager
    async def deps() -> AsyncGenerator[dict[str, str], None]:
        log.append("enter")
        yield {"pool": "p"}
        log.append("leave")

    @job("deps")
    async def needs(step: Step[dict[str, str]]) -> str:
        log.append("run")
        return step.deps["pool"]

    @job("sync-deps")
    def needs_too(step: SyncStep[dict[str, str]]) -> str:
        log.append("run")
        return step.deps["pool"]

    runs = [await bench.trigger(needs), await bench.trigger(needs_too)]
    async with bench.worker(needs, needs_too, deps=deps):
        outputs = [(await bench.until(run)).output_json for run in runs]

    assert outputs == ['"p"', '"p"']
    assert log == ["enter", "run", "run", "leave"]


async def test_dependencies_that_fail_are_raised_by_start(bench: Bench) -> None:
    @asynccontextmanager
    async def deps() -> AsyncGenerator[None, None]:
        if bench.heard == []:
            raise ConnectionError("no pool")
        yield

    worker = bench.worker(echo, deps=deps)
    with pytest.raises(ConnectionError, match="no pool"):
        await worker.start()
    assert not worker.is_running


async def test_a_worker_starts_once_and_can_start_again(bench: Bench) -> None:
    worker = bench.worker(echo)
    async with worker:
        with pytest.raises(UsageError, match="runs already"):
            await worker.start()
        await bench.until(await bench.trigger(echo, 1))
    async with worker:
        await bench.until(await bench.trigger(echo, 2))
    await worker.stop()


async def test_a_job_triggers_exactly_once_although_its_step_is_repeated(bench: Bench) -> None:
    attempts: list[int] = []

    @job("parent")
    async def parent(step: Step) -> list[str]:
        ids = [await step.trigger(echo, i, key=i, labels={"n": str(i)}) for i in range(2)]
        ids.append(await step.trigger("echo", 3))
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("once")
        return ids

    failed = await bench.execute(parent)
    await bench.resume(failed)
    await bench.worker(parent).process_one()

    run = await bench.run(failed)
    children = await bench.database.read(list_runs(RunFilter(jobs=("echo",))))
    assert len(children) == 3
    assert run.output_json is not None
    assert all(child.id in run.output_json for child in children)
    assert [child.input_json for child in children] == ["3", "1", "0"]


async def test_a_conflict_of_a_triggered_run_fails_its_step(bench: Bench) -> None:
    @job("conflict")
    def conflict(step: SyncStep) -> str:
        step.trigger(echo, 1, concurrency_key="k")
        with pytest.raises(PendingRunExists):
            step.trigger(echo, 2, key="b", concurrency_key="k", if_pending="reject")
        return step.trigger(echo, 2, key="b", concurrency_key="k")

    assert (await bench.execute(conflict)).status is RunStatus.COMPLETED


async def test_a_fault_of_ours_ends_the_worker_and_the_other_runs_are_handed_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    run_as_it_is = Execution.run

    @job("waits")
    async def waits(_step: Step) -> None:
        await gate.wait()

    async def faulty(execution: Execution) -> RunStatus | None:
        if execution.stored.job == other.name:
            raise RuntimeError("a fault")
        return await run_as_it_is(execution)

    monkeypatch.setattr(Execution, "run", faulty)
    handed_back = await bench.trigger(waits)
    worker = bench.worker(waits, other)
    await worker.start()
    await gate.reached.wait()
    await bench.trigger(other)
    async with asyncio.timeout(40):
        await worker.ended()

    assert (await bench.run(handed_back)).status is RunStatus.PENDING
    with pytest.raises(ExceptionGroup) as raised:
        await worker.stop()
    assert [str(error) for error in raised.value.exceptions] == ["a fault"]


@pytest.mark.parametrize("is_stopping", [False, True])
async def test_a_worker_whose_task_is_cancelled_hands_its_runs_back(bench: Bench, *, is_stopping: bool) -> None:
    gates = [Gate() for _ in range(3)]

    @job("waits")
    async def waits(_step: Step, input: int) -> None:
        await gates[input].wait()

    runs = [await bench.trigger(waits, number) for number in range(3)]
    others = asyncio.all_tasks()
    worker = bench.worker(waits)
    await worker.start()
    for gate in gates:
        await gate.reached.wait()
    [task] = [task for task in asyncio.all_tasks() - others if task.get_name() == "durably-worker"]
    stopping = asyncio.create_task(worker.stop(timedelta(hours=1))) if is_stopping else None
    if stopping is not None:
        await eventually(lambda: private(private(worker, "_shift"), "_has_served"))
    task.cancel()
    async with asyncio.timeout(40):
        await asyncio.gather(worker.ended(), *([] if stopping is None else [stopping]), return_exceptions=True)

    assert {(await bench.run(run)).status for run in runs} == {RunStatus.PENDING}


@pytest.mark.parametrize("is_whole_loop", [False, True])
async def test_a_run_whose_task_is_cancelled_before_it_begins_is_handed_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, is_whole_loop: bool
) -> None:
    """As when the loop is shut down in the same moment: `asyncio.run` cancels every task that it finds."""
    begin = Shift._begin  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the moment that is meant
    others, begun = asyncio.all_tasks(), list[asyncio.Task[None]]()

    def begin_and_cancel(shift: Shift, claimed: Any, place: Any) -> None:
        begin(shift, claimed, place)
        begun.extend(private(shift, "_running").values())
        for task in asyncio.all_tasks() - others if is_whole_loop else begun:
            if task.get_name() == "durably-worker" or task in begun:
                task.cancel()

    monkeypatch.setattr(Shift, "_begin", begin_and_cancel)
    run = await bench.trigger(other)
    worker = bench.worker(other)
    await worker.start()
    await eventually(lambda: bool(begun) and begun[0].done())
    async with asyncio.timeout(40):
        if is_whole_loop:
            await asyncio.gather(worker.ended(), return_exceptions=True)
        else:
            await worker.stop(timedelta(0))
    assert begun[0].cancelled()
    found = await bench.run(run)
    assert (found.status, found.generation, found.attempt, found.crashes) == (RunStatus.PENDING, 1, 0, 0)


async def test_old_runs_and_events_are_purged(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durably.runtime.maintenance.RETENTION_SECONDS", 0.01)
    run = await bench.execute(echo, 1)
    keep = timedelta(microseconds=1)
    async with bench.worker(echo, retain_runs=keep, retain_events=keep):

        async def is_gone() -> bool:
            return not await bench.story(run) and not await bench.database.read(list_runs(RunFilter()))

        await eventually(is_gone)


async def test_a_blocked_loop_loses_no_lease_and_is_named(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    if not bench.database.is_shared:
        pytest.skip("SQLite in memory has nobody to lose the lease to")

    def block() -> None:
        end = time.monotonic() + 1.8
        while time.monotonic() < end:
            pass

    async def blocking() -> None:
        block()

    @job("blocks")
    async def blocks(step: Step) -> None:
        await step.run("hog", blocking)

    run = await bench.trigger(blocks)
    async with bench.worker(blocks, lease=timedelta(milliseconds=600)):
        run = await bench.until(run)

    assert (run.status, run.attempt, run.generation) == (RunStatus.COMPLETED, 1, 1)
    assert "the event loop has been blocked" in caplog.text
    assert f"step 'hog' of run {run.id}" in caplog.text
    assert "test_worker.py" in caplog.text


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"lease": timedelta(milliseconds=99)}, "lease"),
        ({"lease": timedelta(seconds=3), "renewal": timedelta(seconds=1.1)}, "renewal"),
        ({"renewal": timedelta(0)}, "renewal"),
        ({"poll_interval": timedelta(0)}, "poll_interval"),
        ({"max_concurrent_runs": 0}, "max_concurrent_runs"),
        ({"max_crashes": True}, "max_crashes"),
        ({"max_value_bytes": 1.5}, "max_value_bytes"),
        ({"grace": timedelta(seconds=-1)}, "grace"),
        ({"retain_runs": timedelta(0)}, "retain_runs"),
    ],
)
def test_settings_that_cannot_work_are_refused_and_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**changes)
    assert caught.value.field == field
