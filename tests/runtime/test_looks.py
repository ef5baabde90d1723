"""Looks: what an idle worker asks, what it does with what it finds, and whom it gives up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from durably.environment import SystemEnvironment
from durably.errors import DatabaseRefused
from durably.jobs import job
from durably.model import Lease, Outlook, RunStatus, StoredRun
from durably.runtime.context import Step
from durably.runtime.maintenance import Maintenance
from durably.runtime.renewer import longest_backoff
from durably.runtime.reporting import Reporter
from durably.runtime.settings import Settings
from durably.store.engine import Channel, Engine
from durably.store.leases import renew
from durably.store.operation import Rows, Statement
from tests.support.bench import Bench, Gate, eventually, names
from tests.support.faults import FaultyEngine
from tests.support.store import LEASE, Store

HOUR = timedelta(hours=1)
SETTINGS = Settings(lease=timedelta(seconds=30), poll_interval=timedelta(seconds=10), max_crashes=1)


@job("job")
async def simple(_step: Step) -> None:
    return None


class MovedClock(SystemEnvironment):
    """A monotonic clock that is put forward by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Watchful:
    """The maintenance of a worker that executes nothing, and what it was told."""

    def __init__(self, bench: Bench, held: frozenset[str] = frozenset()) -> None:
        self.clock = MovedClock()
        self.found: list[Outlook] = []
        self.wakes = 0
        self.maintenance = Maintenance(
            bench.database,
            ["job"],
            settings=SETTINGS,
            environment=self.clock,
            reporter=Reporter(bench.listeners, bench.environment),
            found=self.found.append,
            wake=self.wake,
            held=lambda: held,
        )

    def wake(self) -> None:
        self.wakes += 1

    async def look(self, *, after: float) -> None:
        self.clock.ahead += after
        await self.maintenance.look_and_act()


async def dead(store: Store) -> StoredRun:
    run = await store.leased()
    await store.expire(run)
    return run


# --- runs that keep killing their process ------------------------------------------------------------------


async def test_a_run_is_given_up_after_it_was_seen_unchanged_for_long_enough(bench: Bench, store: Store) -> None:
    run, watchful = await dead(store), Watchful(bench)
    await watchful.look(after=0)
    await watchful.look(after=14)
    assert (await store.get(run)).status is RunStatus.LEASED
    assert watchful.maintenance.has_suspects
    await watchful.look(after=2)
    assert (await store.get(run)).status is RunStatus.FAILED
    await watchful.look(after=0)
    assert not watchful.maintenance.has_suspects


def test_long_enough_is_a_renewal_that_hangs_and_the_longest_pause_after_it() -> None:
    assert SETTINGS.renewal_seconds + longest_backoff(SETTINGS) == 15
    short = Settings(lease=timedelta(milliseconds=300))
    assert longest_backoff(short) == short.renewal_seconds == 0.1


async def test_a_holder_that_comes_back_after_an_outage_keeps_its_run(bench: Bench, store: Store) -> None:
    run, watchful = await dead(store), Watchful(bench)
    await watchful.look(after=0)
    await watchful.look(after=10)
    await bench.database.run(renew([Lease(run.id, run.generation)], lease=LEASE))
    await watchful.look(after=10)
    assert (await store.get(run)).status is RunStatus.LEASED
    assert not watchful.maintenance.has_suspects


async def test_a_lease_that_was_renewed_and_ran_out_between_two_looks_is_suspected_anew(
    bench: Bench, store: Store
) -> None:
    run, watchful = await dead(store), Watchful(bench)
    await watchful.look(after=0)
    await bench.database.run(renew([Lease(run.id, run.generation)], lease=LEASE))
    await store.expire(run)
    await watchful.look(after=18)
    assert (await store.get(run)).status is RunStatus.LEASED
    await watchful.look(after=18)
    assert (await store.get(run)).status is RunStatus.FAILED


async def test_time_in_which_nobody_looked_counts_little(bench: Bench, store: Store) -> None:
    """All processes of a machine may have been stopped together: the holder wakes up with whoever looks."""
    run, watchful = await dead(store), Watchful(bench)
    watchful.maintenance._settings = Settings(lease=timedelta(minutes=10), max_crashes=1)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - polls each second
    await watchful.look(after=0)
    await watchful.look(after=3600)
    assert (await store.get(run)).status is RunStatus.LEASED


async def test_an_outage_between_two_looks_begins_the_suspicion_anew(bench: Bench, store: Store) -> None:
    run, watchful = await dead(store), Watchful(bench)
    await watchful.look(after=0)
    watchful.maintenance.outage()
    await watchful.look(after=18)
    assert (await store.get(run)).status is RunStatus.LEASED


async def test_a_run_under_way_here_is_not_given_up(bench: Bench, store: Store) -> None:
    run = await dead(store)
    watchful = Watchful(bench, held=frozenset({run.id}))
    await watchful.look(after=0)
    await watchful.look(after=18)
    assert (await store.get(run)).status is RunStatus.LEASED


async def test_process_until_idle_stays_until_it_knows_that_a_run_is_dead(bench: Bench, store: Store) -> None:
    run = await dead(store)
    worker = bench.worker(simple, lease=timedelta(milliseconds=300), max_crashes=1)
    assert await worker.process_until_idle() == 0
    assert (await store.get(run)).status is RunStatus.FAILED


# --- expired leases ----------------------------------------------------------------------------------------


async def test_what_expired_is_told_but_not_soon_after_an_outage(
    bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await dead(store)
    watchful = Watchful(bench)
    monkeypatch.setattr(watchful.maintenance, "_settings", Settings(lease=timedelta(seconds=30)))
    assert (await watchful.maintenance.look_and_act()).expired
    watchful.maintenance.outage()
    assert not (await watchful.maintenance.look_and_act()).expired
    assert not (await watchful.maintenance.look_and_act()).expired
    watchful.maintenance._spared_until = 0.0  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - a renewal interval later
    assert (await watchful.maintenance.look_and_act()).expired


async def test_a_worker_never_takes_its_own_run_as_expired(store: Store) -> None:
    """Not even when its keeper cannot renew it: the renewal is late, and nobody else was faster."""
    engines: list[FaultyEngine] = []
    taken: list[Statement] = []

    def wrap(engine: Engine) -> Engine:
        engines.append(FaultyEngine(engine))
        return engines[0]

    def note(_number: int, statements: Sequence[Statement]) -> bool:
        taken.extend(each for each in statements if each.name == "claim_expired")
        return False

    gate = Gate()

    @job("held")
    async def held(step: Step) -> str:
        await step.run("wait", gate.wait)
        return "done"

    bench = Bench(await store.through(wrap))
    run = await bench.trigger(held)
    async with bench.worker(held, lease=timedelta(milliseconds=300), poll_interval=timedelta(milliseconds=10)):
        await gate.reached.wait()
        engines[0].twins[0].is_away = True
        engines[0].before = note
        await eventually(lambda: len(taken) >= 3)
        engines[0].twins[0].is_away = False
        gate.opened.set()
        run = await bench.until(run)
    assert (run.status, run.generation, run.attempt, run.crashes) == (RunStatus.COMPLETED, 1, 1, 0)


class Late(FaultyEngine):
    """Answers late that runs were failed for their crashes, or that they cannot be."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.answer = Gate()
        self.refuses = False

    async def transact(self, statements: Sequence[Statement], channel: Channel, *, readonly: bool) -> list[Rows]:
        found = await super().transact(statements, channel, readonly=readonly)
        if any(each.name == "fail_crashed" for each in statements):
            await self.answer.wait()
            if self.refuses:
                raise DatabaseRefused("no")
        return found


@pytest.mark.parametrize("store_kind", ["sqlite-file", "postgres"], indirect=True)
@pytest.mark.parametrize("refuses", [False, True])
async def test_who_listens_hears_of_a_run_that_is_failed_while_its_worker_stops(store: Store, *, refuses: bool) -> None:
    late = Late(store.engine())
    late.refuses = refuses
    bench = Bench(await store.through(lambda _: late))
    run, watchful = await dead(store), Watchful(bench)
    await watchful.look(after=0)
    look = asyncio.create_task(watchful.look(after=20))
    await late.answer.reached.wait()
    look.cancel()
    late.answer.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await look
    assert (await store.get(run)).status is RunStatus.FAILED
    assert names(bench.heard) == ([] if refuses else ["run:fail"])


# --- what it costs -----------------------------------------------------------------------------------------


@asynccontextmanager
async def counted(store: Store) -> AsyncGenerator[tuple[Bench, Counter[str]]]:
    """A bench whose statements are counted."""
    counts: Counter[str] = Counter()

    def count(_number: int, statements: Sequence[Statement]) -> bool:
        counts.update(each.name for each in statements)
        return False

    def wrap(engine: Engine) -> Engine:
        faulty = FaultyEngine(engine)
        faulty.before = count
        return faulty

    yield Bench(await store.through(wrap)), counts


async def test_wake_ups_under_load_cause_few_looks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durably.runtime.maintenance.MIN_PAUSE_SECONDS", 30.0)
    async with counted(store) as (bench, counts), bench.worker(simple, poll_interval=HOUR):
        await eventually(lambda: counts["look"] == 1)
        for run in [await bench.trigger(simple) for _ in range(20)]:
            await bench.until(run)
        assert counts["claim"] >= 10
        assert counts["look"] == 1


async def test_a_wake_up_with_full_slots_asks_for_nothing(store: Store) -> None:
    gate = Gate()

    @job("busy")
    async def busy(_step: Step) -> None:
        await gate.wait()

    async with counted(store) as (bench, counts), bench.worker(busy, max_concurrent_runs=1, poll_interval=HOUR):
        first = await bench.trigger(busy)
        await gate.reached.wait()
        looks, claims = counts["look"], counts["claim"]
        last = [await bench.trigger(busy) for _ in range(5)][-1]
        await eventually(lambda: counts["look"] > looks)  # one of them might be due earlier
        assert counts["claim"] == claims
        gate.opened.set()
        await bench.until(first)
        await bench.until(last)


async def test_an_idle_worker_looks_and_claims_nothing(store: Store) -> None:
    poll = timedelta(milliseconds=5)
    async with counted(store) as (bench, counts), bench.worker(simple, poll_interval=poll):
        await eventually(lambda: counts["look"] >= 20)
        assert counts["claim"] <= 2  # at the start, and when it hears of others
