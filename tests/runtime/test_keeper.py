"""The keeper: renewals, belief, cancels and locked rows, each on the real database."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from durably.environment import SystemEnvironment, Thread
from durably.jobs import job
from durably.model import Lease, LeaseState, RunStatus, StoredRun
from durably.runtime.context import Step
from durably.runtime.keeper import Keeper
from durably.runtime.settings import Settings
from durably.runtime.tenure import Tenure
from durably.store.engine import Engine
from durably.store.leases import claim
from durably.store.operation import Statement
from tests.support.bench import Bench, eventually
from tests.support.faults import FaultyEngine
from tests.support.store import Store

SHORT = timedelta(milliseconds=300)


@job("kept")
async def kept(_step: Step) -> None:
    return None


class Holder:
    """A claimed run, its tenure, and what the keeper said of it."""

    def __init__(self, bench: Bench, run: StoredRun) -> None:
        self.run = run
        self.ended: list[LeaseState] = []
        self.tenure = Tenure(
            Lease(run.id, run.generation),
            until=bench.environment.monotonic() + SHORT.total_seconds(),
            environment=bench.environment,
            ended=self.ended.append,
        )


class NoThreads(SystemEnvironment):
    def start_thread(self, name: str, target: Callable[[], None]) -> Thread:
        raise RuntimeError(f"can't start new thread {name} for {target}")


@pytest.fixture(params=["thread", "task"])
async def keeper(bench: Bench, request: pytest.FixtureRequest) -> AsyncIterator[Keeper]:
    environment = SystemEnvironment() if request.param == "thread" else NoThreads()
    made = Keeper(bench.database, settings=Settings(lease=SHORT), environment=environment)
    made.start()
    yield made
    await made.stop()


async def hold(bench: Bench, keeper: Keeper, lease: timedelta = SHORT) -> Holder:
    await bench.trigger(kept)
    token = bench.environment.new_id()
    [run] = await bench.database.run(claim(["kept"], limit=1, owner="me", token=token, lease=lease))
    holder = Holder(bench, run)
    keeper.hold(holder.tenure)
    return holder


async def test_leases_are_renewed_again_and_again(bench: Bench, keeper: Keeper) -> None:
    holders = [await hold(bench, keeper) for _ in range(3)]
    ends = [(await bench.run(holder.run)).lease_expires_at for holder in holders]

    async def are_later() -> bool:
        now = [(await bench.run(holder.run)).lease_expires_at for holder in holders]
        return all(
            new is not None and old is not None and new - old > SHORT for old, new in zip(ends, now, strict=True)
        )

    await eventually(are_later)
    assert all(holder.tenure.is_certain and holder.ended == [] for holder in holders)


async def test_a_cancel_and_a_lost_lease_are_told_apart(bench: Bench, keeper: Keeper) -> None:
    cancelled, lost = await hold(bench, keeper), await hold(bench, keeper)
    await bench.cancel(cancelled.run)
    await bench.database.run(
        claim([], limit=1, owner="x", token=bench.environment.new_id(), lease=SHORT)
    )  # nothing; the next statement takes the other run away by hand
    keeper.drop(lost.tenure)
    stale = Holder(bench, lost.run)
    stale.tenure.lease = Lease(lost.run.id, lost.run.generation - 1)
    keeper.hold(stale.tenure)

    await eventually(lambda: cancelled.ended == [LeaseState.CANCELLED] and stale.ended == [LeaseState.LOST])


async def renewal(bench: Bench, holder: Holder) -> None:
    """Wait for the next renewal of a lease."""
    first = (await bench.run(holder.run)).lease_expires_at

    async def is_later() -> bool:
        return (await bench.run(holder.run)).lease_expires_at != first

    await eventually(is_later)


async def test_what_was_dropped_is_not_renewed(bench: Bench, keeper: Keeper, store: Store) -> None:
    dropped, other = await hold(bench, keeper), await hold(bench, keeper)
    keeper.drop(dropped.tenure)
    await renewal(bench, other)  # the one that may be under way
    await renewal(bench, other)
    await store.expire(dropped.run)
    before = (await bench.run(dropped.run)).lease_expires_at
    await renewal(bench, other)
    assert (await bench.run(dropped.run)).lease_expires_at == before


async def test_a_locked_row_delays_its_own_renewal_only(bench: Bench, keeper: Keeper, store: Store) -> None:
    if not store.is_postgres:
        pytest.skip("SQLite has no row locks")
    locked, free = await hold(bench, keeper), await hold(bench, keeper)
    connection = await store.connect()
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"SELECT 1 FROM durably.runs WHERE id = '{locked.run.id}' FOR UPDATE")

    await eventually(lambda: not locked.tenure.is_certain)
    await eventually(lambda: free.tenure.is_certain)
    await transaction.rollback()
    await eventually(lambda: locked.tenure.is_certain)
    assert locked.ended == free.ended == []


async def test_who_waits_for_certainty_goes_on_with_the_renewal(bench: Bench, keeper: Keeper) -> None:
    holder = await hold(bench, keeper)
    holder.tenure._until = 0.0  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the belief runs out
    assert not holder.tenure.is_certain
    async with asyncio.timeout(40):
        await holder.tenure.certain()


async def test_a_late_renewal_keeps_a_run_that_nobody_took(bench: Bench, keeper: Keeper, store: Store) -> None:
    holder = await hold(bench, keeper)
    await store.expire(holder.run)
    holder.tenure._until = 0.0  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above
    await eventually(lambda: holder.tenure.is_certain)
    run = await bench.run(holder.run)
    assert (run.status, run.generation, holder.ended) == (RunStatus.LEASED, holder.run.generation, [])


async def test_who_holds_and_drops_signals_the_thread_only_when_it_sleeps(
    bench: Bench, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[object] = []
    send = keeper._send  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - what is counted
    renewer = keeper._renewer  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - whether it sleeps

    def count(fn: Callable[..., object], *args: object) -> None:
        if fn != renewer.look:  # wake-ups of other databases come too
            sent.append(fn)
        send(fn, *args)

    monkeypatch.setattr(keeper, "_send", count)
    await eventually(lambda: renewer._is_asleep)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above
    first = await hold(bench, keeper)
    for _ in range(1000):
        other = Holder(bench, first.run)
        keeper.hold(other.tenure)
        keeper.drop(other.tenure)
    await renewal(bench, first)
    assert len(sent) == 1
    keeper.drop(first.tenure)
    await eventually(lambda: renewer._is_asleep)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above
    assert len(sent) == 1
    second = await hold(bench, keeper)
    await renewal(bench, second)
    assert len(sent) == 2


async def test_a_run_that_blocks_the_loop_as_soon_as_it_begins_is_watched(bench: Bench) -> None:
    keeper = Keeper(bench.database, settings=Settings(lease=SHORT), environment=bench.environment)
    renewer = keeper._renewer  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - whether it sleeps, and goes on
    keeper.start()
    first = await hold(bench, keeper)
    keeper.drop(first.tenure)
    await eventually(lambda: renewer._is_asleep)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above

    async def block() -> bool:
        """Hold the loop until the thread goes on."""
        end = bench.environment.monotonic() + 20
        while not (is_watched := renewer._holding.is_set()) and bench.environment.monotonic() < end:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above
            pass
        return is_watched

    keeper.hold(first.tenure)
    assert await asyncio.create_task(block())
    await keeper.stop()


async def test_its_thread_watches_nothing_while_nothing_is_held(bench: Bench) -> None:
    keeper = Keeper(bench.database, settings=Settings(lease=SHORT), environment=bench.environment)
    waiters: Any = vars(keeper._renewer._holding)["_waiters"]  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - nothing else tells
    keeper.start()
    await eventually(lambda: bool(waiters))
    first = await hold(bench, keeper)
    await eventually(lambda: not waiters)
    keeper.drop(first.tenure)
    await eventually(lambda: bool(waiters))
    await keeper.stop()


@pytest.fixture
async def slow(store: Store) -> AsyncIterator[tuple[FaultyEngine, Bench, Keeper]]:
    """Give a keeper that has no renewal to do during a test, and its engine."""
    engines: list[FaultyEngine] = []

    def wrap(engine: Engine) -> Engine:
        engines.append(FaultyEngine(engine))
        return engines[-1]

    bench = Bench(await store.through(wrap))
    made = Keeper(bench.database, settings=Settings(lease=timedelta(hours=1)), environment=bench.environment)
    made.start()
    yield engines[0].twins[0], bench, made
    await made.stop()


async def test_between_renewals_it_looks_for_cancels_without_writing(
    slow: tuple[FaultyEngine, Bench, Keeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durably.runtime.renewer.LOOK_SECONDS", 0.02)
    engine, bench, keeper = slow
    asked: list[str] = []

    def note(_number: int, statements: Sequence[Statement]) -> bool:
        asked.extend(each.name for each in statements)
        return False

    engine.before = note
    holder = await hold(bench, keeper, lease=timedelta(hours=1))
    await eventually(lambda: len(asked) >= 5)
    assert asked.count("renew") <= 1  # at once, for a lease that was held before its thread had begun
    assert set(asked) <= {"lapsed", "renew"}
    asked.clear()

    monkeypatch.setattr(keeper._renewer, "look", lambda: None)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the wake-up gets lost
    await bench.cancel(holder.run)
    await eventually(lambda: holder.ended == [LeaseState.CANCELLED])
    assert set(asked) == {"lapsed"}


async def test_a_wake_up_tells_it_of_a_cancel_at_once(
    slow: tuple[FaultyEngine, Bench, Keeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durably.runtime.renewer.LOOK_SECONDS", 3600.0)
    _, bench, keeper = slow
    holder = await hold(bench, keeper, lease=timedelta(hours=1))
    await bench.cancel(holder.run)
    await eventually(lambda: holder.ended == [LeaseState.CANCELLED])


async def test_a_cancel_that_comes_before_it_is_awake_is_learnt_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durably.runtime.renewer.LOOK_SECONDS", 3600.0)
    settings = Settings(lease=timedelta(hours=1))
    keeper = Keeper(bench.database, settings=settings, environment=NoThreads())
    await bench.trigger(kept)
    token = bench.environment.new_id()
    [run] = await bench.database.run(claim(["kept"], limit=1, owner="me", token=token, lease=settings.lease))
    await bench.cancel(run)
    keeper.start()
    holder = Holder(bench, run)
    await hold_while_asleep(keeper, holder)
    await eventually(lambda: holder.ended == [LeaseState.CANCELLED])
    await keeper.stop()


async def hold_while_asleep(keeper: Keeper, holder: Holder) -> None:
    """Hold a lease, and tell of a cancel in the same turn of the loop, so that the renewer is still asleep."""
    renewer = keeper._renewer  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - whether it sleeps
    await eventually(lambda: bool(vars(renewer)["_is_asleep"]))
    assert renewer.hold(holder.tenure)
    renewer.wake()
    renewer.look()


async def test_it_stops_at_once_and_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durably.runtime.keeper.STOP_SECONDS", 3600.0)
    keeper = Keeper(bench.database, settings=Settings(lease=timedelta(hours=1)), environment=bench.environment)
    keeper.start()
    await hold(bench, keeper, lease=timedelta(hours=1))
    async with asyncio.timeout(40):
        await keeper.stop()
        await keeper.stop()


class LateThread(SystemEnvironment):
    """Its threads begin when they may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_begin = threading.Event()
        self.started: list[Thread] = []

    def start_thread(self, name: str, target: Callable[[], None]) -> Thread:
        def late() -> None:
            self.may_begin.wait()
            target()

        self.started.append(super().start_thread(name, late))
        return self.started[0]


async def test_it_stops_when_it_is_told_so_before_its_thread_has_begun(bench: Bench) -> None:
    late = LateThread()
    keeper = Keeper(bench.database, settings=Settings(), environment=late)
    keeper.start()
    stop = asyncio.create_task(keeper.stop())
    await asyncio.sleep(0)  # now it was told
    late.may_begin.set()
    await stop
    assert not late.started[0].is_alive()


async def test_a_loop_that_is_blocked_for_ten_leases_lets_its_runs_go(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not bench.database.is_shared:
        pytest.skip("the keeper shares the connection")
    monkeypatch.setattr("durably.runtime.watch.LEASES", 0.5)
    monkeypatch.setattr("durably.runtime.watch.BLOCKED_SECONDS", 0.1)
    monkeypatch.setattr("durably.runtime.watch.ASK_SECONDS", 0.02)
    keeper = Keeper(bench.database, settings=Settings(lease=SHORT), environment=bench.environment)
    keeper.start()

    async def block() -> None:
        end = bench.environment.monotonic() + 1
        while bench.environment.monotonic() < end and "let go" not in caplog.text:
            pass

    holder = await hold(bench, keeper)
    with caplog.at_level(logging.WARNING):
        await asyncio.create_task(block())
    await eventually(lambda: holder.ended == [LeaseState.LOST])
    assert "blocked" in caplog.text
    assert "code outside of jobs" in caplog.text
    await keeper.stop()
