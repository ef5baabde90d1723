"""A database that goes away: nothing is lost, nothing is done twice, and nobody spins."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from durably.errors import DatabaseRefused, DatabaseUnavailable
from durably.jobs import job
from durably.model import RunStatus
from durably.runtime.context import Step
from durably.store.engine import Channel, Engine
from durably.store.leases import claim_expired
from durably.store.operation import Rows, Statement
from tests.support.bench import Bench, Gate, eventually
from tests.support.faults import FaultyEngine
from tests.support.store import Store

calls: list[str] = []


def call(name: str) -> str:
    calls.append(name)
    return name


@job("three")
async def three(step: Step) -> list[str]:
    step.log.info("hello")
    names = [await step.run("one", call, "one")]
    names += await asyncio.gather(*(step.run("two", call, f"two{i}", key=i) for i in range(2)))
    await step.trigger("child", None)
    return names


@pytest.fixture
async def faulty(store: Store) -> tuple[FaultyEngine, Bench]:
    """Give an engine that can be broken, and a bench on it."""
    engines: list[FaultyEngine] = []

    def wrap(engine: Engine) -> Engine:
        engines.append(FaultyEngine(engine))
        return engines[0]

    calls.clear()
    database = await store.through(wrap)
    return engines[0], Bench(database)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 14))
async def test_any_lost_transaction_is_repeated_and_changes_nothing(
    faulty: tuple[FaultyEngine, Bench], moment: str, number: int
) -> None:
    engine, bench = faulty
    run = await bench.trigger(three)
    start = engine.count

    def is_lost(count: int, _: Sequence[Statement]) -> bool:
        return count == start + number

    setattr(engine, moment, is_lost)

    async with bench.worker(three):
        run = await bench.until(run)

    assert (run.status, run.output_json) == (RunStatus.COMPLETED, '["one","two0","two1"]'), run.error
    assert sorted(calls) == ["one", "two0", "two1"]
    assert await bench.story(run) == [
        "run:trigger", "run:leased", "log:write", "step:start one", "step:complete one", "step:start two[0]",
        "step:start two[1]", "step:complete two[0]", "step:complete two[1]", "step:start trigger:child",
        "step:complete trigger:child", "run:complete",
    ]  # fmt: skip
    assert [event.seq for event in await bench.events(run)] == list(range(1, 13))
    children = [event for event in bench.heard if event.type == "run:trigger"]
    assert len({event.run_id for event in children}) == 1


async def test_success_is_stored_when_the_database_comes_back(faulty: tuple[FaultyEngine, Bench]) -> None:
    engine, bench = faulty
    gate = Gate()

    @job("gated")
    async def gated(_step: Step) -> str:
        await gate.wait()
        return "done"

    run = await bench.trigger(gated)
    async with bench.worker(gated):
        await gate.reached.wait()
        engine.away(is_away=True)
        gate.opened.set()
        before = engine.count
        await eventually(lambda: engine.count > before + 2)
        engine.away(is_away=False)
        run = await bench.until(run)

    assert (run.status, run.output_json, run.attempt) == (RunStatus.COMPLETED, '"done"', 1)


async def test_no_step_starts_while_the_lease_is_uncertain(faulty: tuple[FaultyEngine, Bench]) -> None:
    engine, bench = faulty
    gate = Gate()

    @job("uncertain")
    async def uncertain(step: Step) -> list[str]:
        first = await step.run("first", call, "first")
        await gate.wait()
        return [first, await step.run("second", call, "second")]

    run = await bench.trigger(uncertain)
    async with bench.worker(uncertain, lease=timedelta(milliseconds=300)) as worker:
        await gate.reached.wait()
        engine.away(is_away=True)
        shift = worker._shift  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - nothing else tells
        assert shift is not None
        [execution] = shift._running  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above
        tenure = execution.tenure
        await eventually(lambda: not tenure.is_certain)
        gate.opened.set()
        twin = engine.twins[0]
        before = twin.count
        await eventually(lambda: twin.count >= before + 2)
        assert calls == ["first"]
        engine.away(is_away=False)
        run = await bench.until(run)

    assert (run.output_json, run.attempt, run.crashes) == ('["first","second"]', 1, 0)
    assert calls == ["first", "second"]


async def test_an_outage_is_reported_with_growing_pauses_and_work_goes_on_after_it(
    faulty: tuple[FaultyEngine, Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durably.runtime.maintenance.LOOK_SECONDS", 0.05)
    engine, bench = faulty

    async with bench.worker(three):
        engine.away(is_away=True)
        await eventually(lambda: sum('"look"' in error for error in bench.errors()) >= 3)
        assert engine.count < 100
        engine.away(is_away=False)
        run = await bench.until(await bench.trigger(three))

    assert run.status is RunStatus.COMPLETED
    assert all("DatabaseUnavailable" in error for error in bench.errors())


async def test_a_claim_in_doubt_is_read_back(
    faulty: tuple[FaultyEngine, Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durably.runtime.claims.CLAIM_SECONDS", 1.0)
    engine, bench = faulty
    lost: list[int] = []

    def lose(number: int, statements: object) -> bool:
        if "'claim'" in str(statements) and not lost:
            lost.append(number)
            return True
        return False

    run = await bench.trigger(three)
    engine.after = lose
    async with bench.worker(three):
        run = await bench.until(run)

    assert (run.status, run.generation, run.attempt) == (RunStatus.COMPLETED, 1, 1)


async def test_what_a_doubtful_claim_got_does_not_wait_for_further_claims(
    faulty: tuple[FaultyEngine, Bench],
) -> None:
    engine, bench = faulty
    run = await bench.trigger(three)
    engine.after = lambda _, statements: "'claim'" in str(statements)  # for as long as it takes
    async with bench.worker(three):
        run = await bench.until(run)

    assert (run.status, run.generation) == (RunStatus.COMPLETED, 1)


async def test_what_a_doubtful_claim_leased_is_handed_back_by_a_worker_that_stops(
    faulty: tuple[FaultyEngine, Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durably.runtime.claims.CLAIM_SECONDS", 2.0)
    engine, bench = faulty
    run = await bench.trigger(three)
    engine.after = lambda _, statements: "'claim'" in str(statements)
    engine.before = lambda _, statements: "'claimed'" in str(statements)
    worker = bench.worker(three)
    await worker.start()
    await eventually(lambda: any('"claim"' in error for error in bench.errors()))
    stopping = asyncio.create_task(worker.stop(timedelta(0)))
    await asyncio.sleep(0)
    engine.before = engine.after = lambda _, _statements: False
    await stopping

    run = await bench.run(run)
    assert (run.status, run.generation, run.attempt, run.crashes) == (RunStatus.PENDING, 1, 0, 0)
    assert calls == []


async def test_a_single_execution_says_that_the_database_is_away(
    faulty: tuple[FaultyEngine, Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durably.runtime.claims.CLAIM_SECONDS", 0.05)
    engine, bench = faulty
    engine.before = lambda _, statements: "'claim'" in str(statements)

    with pytest.raises(DatabaseUnavailable):
        await bench.worker(three).process_one()


async def test_a_worker_that_stops_does_not_wait_for_a_database_for_ever(faulty: tuple[FaultyEngine, Bench]) -> None:
    engine, bench = faulty
    gate = Gate()

    @job("gated")
    async def gated(_step: Step) -> None:
        await gate.wait()

    run = await bench.trigger(gated)
    worker = bench.worker(gated, lease=timedelta(milliseconds=300))
    await worker.start()
    await gate.reached.wait()
    engine.away(is_away=True)
    async with asyncio.timeout(20):
        await worker.stop(timedelta(0))
    engine.away(is_away=False)

    assert (await bench.run(run)).status is RunStatus.LEASED
    assert any("finish" in error for error in bench.errors())
    [again] = await bench.database.run(
        claim_expired(
            ["gated"], limit=1, owner="other", token=bench.environment.new_id(), lease=timedelta(1), max_crashes=3
        )
    )
    assert again.id == run.id


class RefusalCounter(FaultyEngine):
    """Counts what a constraint refused."""

    refused = 0

    async def transact(self, statements: Sequence[Statement], channel: Channel, *, readonly: bool) -> list[Rows]:
        try:
            return await super().transact(statements, channel, readonly=readonly)
        except DatabaseRefused as error:
            self.refused += error.is_constraint
            raise


async def test_a_step_that_failed_before_is_stored_at_the_first_attempt(store: Store) -> None:
    """Its holder knows of its row: from this execution, or from an earlier one."""
    counters: list[RefusalCounter] = []

    def wrap(engine: Engine) -> Engine:
        counters.append(RefusalCounter(engine))
        return counters[-1]

    bench = Bench(await store.through(wrap))
    failures = iter([True, False, True])

    @job("stumbles")
    async def stumbles(step: Step) -> None:
        def stumble() -> None:
            if next(failures, False):
                raise ValueError("again")

        try:
            await step.run("caught", stumble)
        except ValueError:
            await step.run("caught", stumble)
        await step.run("not caught", stumble)

    run = await bench.execute(stumbles)
    assert run.status is RunStatus.FAILED
    await bench.resume(run)
    await bench.worker(stumbles).process_one()

    assert (await bench.run(run)).status is RunStatus.COMPLETED
    assert await bench.step_names(run) == ["caught", "not caught"]
    assert counters[0].refused == 0
