"""Slots: when they are free, and how many runs are claimed for them at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from durably.jobs import job
from durably.model import RunStatus
from durably.runtime.context import Step, SyncStep
from durably.store.engine import Channel, Engine
from durably.store.operation import Rows, Statement
from tests.support.bench import Bench, Gate, eventually
from tests.support.faults import FaultyEngine, has_ends
from tests.support.store import Store

HOUR = timedelta(hours=1)


class Watched:
    """A bench whose ends can be held up, and whose claims are noted."""

    def __init__(self) -> None:
        self.limits: list[int] = []
        """Of each claim: for how many slots it was."""
        self.are_ends_lost = False
        self.lost = 0
        self.shared = 0
        """Transactions in which a claim and a write were together."""

    def wrap(self, engine: Engine) -> Engine:
        faulty = FaultyEngine(engine)
        faulty.before = self.is_lost
        return faulty

    def is_lost(self, _number: int, statements: Sequence[Statement]) -> bool:
        self.limits += [int(str(each.params["limit"])) for each in statements if each.name == "claim"]
        names = {each.name for each in statements}
        self.shared += {"claim", "write_runs"} <= names
        is_lost = self.are_ends_lost and any(map(has_ends, statements))
        self.lost += is_lost
        return is_lost


@pytest.fixture
async def watched() -> Watched:
    return Watched()


@pytest.fixture
async def bench(store: Store, watched: Watched) -> Bench:
    return Bench(await store.through(watched.wrap))


@job("number")
async def number(_step: Step, input: int) -> int:
    return input


async def test_a_slot_is_free_when_the_code_has_ended_and_not_when_its_end_is_stored(
    bench: Bench, watched: Watched, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not store.is_postgres:
        pytest.skip("SQLite has one lane: the end and the next claim share a transaction, see below")
    monkeypatch.setattr("durably.runtime.maintenance.MIN_PAUSE_SECONDS", 60.0)  # no look helps
    begun, gates = list[int](), [asyncio.Event() for _ in range(4)]
    running = most = 0

    @job("gated")
    async def gated(_step: Step, input: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        begun.append(input)
        await gates[input].wait()
        running -= 1

    runs = [await bench.trigger(gated, place) for place in range(4)]
    watched.are_ends_lost = True
    async with bench.worker(gated, max_concurrent_runs=1, poll_interval=HOUR) as worker:
        shift = worker._shift  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - nothing else tells
        assert shift is not None
        try:
            await eventually(lambda: begun == [0])
            gates[0].set()
            await eventually(lambda: begun == [0, 1])  # while the end of the first one cannot be stored
            gates[1].set()
            await eventually(lambda: not shift._occupied)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above
            assert (shift._free(), len(shift._running)) == (0, 2)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - twice as many as slots: no more
        finally:
            watched.are_ends_lost = False
            for gate in gates:
                gate.set()
        for run in runs:
            assert (await bench.until(run)).status is RunStatus.COMPLETED

    assert watched.lost > 0
    assert (begun, most) == ([0, 1, 2, 3], 1)


async def test_where_there_is_one_lane_an_end_and_the_next_claim_share_a_transaction(
    bench: Bench, watched: Watched, store: Store
) -> None:
    if store.is_postgres:
        pytest.skip("PostgreSQL has a lane for claims, see above")
    runs = [await bench.trigger(number, place) for place in range(20)]
    async with bench.worker(number, max_concurrent_runs=1, poll_interval=HOUR):
        for run in runs:
            await bench.until(run)
    assert watched.shared >= 10


async def test_a_worker_that_stops_waits_until_the_ends_are_stored(bench: Bench, watched: Watched) -> None:
    run = await bench.trigger(number, 1)
    watched.are_ends_lost = True
    worker = bench.worker(number, grace=timedelta(seconds=30))
    await worker.start()
    await eventually(lambda: watched.lost > 0)
    stop = asyncio.create_task(worker.stop())
    before = watched.lost
    await eventually(lambda: watched.lost > before)
    assert not stop.done()
    watched.are_ends_lost = False
    await stop
    assert (await bench.run(run)).status is RunStatus.COMPLETED


async def test_process_until_idle_counts_runs_whose_end_was_stored_late(bench: Bench, watched: Watched) -> None:
    runs = [await bench.trigger(number, place) for place in range(5)]
    watched.are_ends_lost = True
    done = asyncio.create_task(bench.worker(number, max_concurrent_runs=2).process_until_idle())
    await eventually(lambda: watched.lost > 0)
    watched.are_ends_lost = False
    assert await done == 5
    assert {(await bench.run(run)).status for run in runs} == {RunStatus.COMPLETED}


async def test_runs_that_end_together_are_followed_by_one_claim(bench: Bench, watched: Watched) -> None:
    begun, gate = list[int](), Gate()

    @job("together")
    async def together(_step: Step, input: int) -> None:
        begun.append(input)
        if input < 30:
            await gate.opened.wait()

    runs = [await bench.trigger(together, place) for place in range(60)]
    async with bench.worker(together, max_concurrent_runs=30, poll_interval=HOUR):
        await eventually(lambda: len(begun) == 30)
        watched.limits.clear()
        gate.opened.set()
        for run in runs:
            await bench.until(run)
        assert watched.limits[0] == 30
        assert len(watched.limits) <= 10  # for the second thirty, whose ends are stored in a few transactions


class HeldClaim(FaultyEngine):
    """Holds the answer to the second claim back."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.claims = 0
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def transact(self, statements: Sequence[Statement], channel: Channel, *, readonly: bool) -> list[Rows]:
        rows = await super().transact(statements, channel, readonly=readonly)
        if any(each.name == "claim" for each in statements):
            self.claims += 1
            if self.claims == 2:
                self.reached.set()
                await self.go_on.wait()
        return rows


async def test_what_was_claimed_ahead_while_the_worker_stops_is_handed_back(store: Store) -> None:
    if not store.is_postgres:
        pytest.skip("SQLite has one lane: nothing is claimed ahead")
    engine = HeldClaim(store.engine())
    bench = Bench(await store.through(lambda _: engine))
    begun = list[int]()

    @job("endless")
    async def endless(_step: Step, input: int) -> None:
        begun.append(input)
        await asyncio.get_running_loop().create_future()

    runs = [await bench.trigger(endless, place) for place in range(50)]
    worker = bench.worker(endless, max_concurrent_runs=40, poll_interval=HOUR)
    await worker.start()
    await engine.reached.wait()
    await eventually(lambda: len(begun) == 20)  # they begin while the other half is being claimed
    stop = asyncio.create_task(worker.stop(timedelta(0)))
    await asyncio.sleep(0)
    engine.go_on.set()
    await stop
    after = [await bench.run(run) for run in runs]
    assert {(run.status, run.attempt) for run in after} == {(RunStatus.PENDING, 0)}
    assert sum(run.generation for run in after) == 40


async def test_code_in_a_thread_keeps_its_slot_until_it_has_ended(bench: Bench) -> None:
    running = most = 0

    @job("blocking")
    def blocking(step: SyncStep, _input: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        step.run("work", lambda: None)
        running -= 1

    runs = [await bench.trigger(blocking, place) for place in range(12)]
    async with bench.worker(blocking, max_concurrent_runs=1):
        for run in runs:
            await bench.until(run)
    assert most == 1


async def test_a_run_that_was_lost_and_claimed_anew_waits_for_its_older_code(store: Store) -> None:
    """Handed back by whoever took it over; the older code here may be in a thread and go on for long."""
    bench, gate, attempts = Bench(store.database), Gate(), list[str]()

    @job("stubborn")
    async def stubborn(_step: Step) -> None:
        attempts.append("begins")
        if len(attempts) == 1:
            while not gate.opened.is_set():
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    attempts.append("is told")
        attempts.append("ends")

    run = await bench.trigger(stubborn)
    async with bench.worker(stubborn, poll_interval=timedelta(milliseconds=10)):
        await gate.reached.wait()
        await store.sql(f"UPDATE {{runs}} SET status = 'pending', lease_expires_at = NULL WHERE id = '{run.id}'")
        try:
            await eventually(lambda: len(attempts) > 1)
            await bench.until(run, RunStatus.LEASED)
            before = list(attempts)
        finally:
            gate.opened.set()
        await bench.until(run)
    assert before == ["begins", "is told"]
    assert attempts == ["begins", "is told", "ends", "begins", "ends"]
