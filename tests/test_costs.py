"""What a run, a step and an idle worker cost, in counts that are the same on every machine: the benchmark's short form.

The bounds are two or three times what was measured: they fail on a gross regression, such as a read for each step or a
transaction for each event, and not on a batch that came out smaller. What it costs in time is `make bench`'s business.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest

from durably import Durably, Job, Step, job
from durably.environment import SystemEnvironment
from durably.store.database import open_database
from durably.store.leases import claim
from durably.store.operation import Lane
from tools.counting import Counts, counting

STEPS = 5
SQLITE_OR_POSTGRES = ["sqlite-file", "postgres"]
CHORES = ("find_drift", "purge_keys", "purge_events")
"""What a worker does when it starts, and then not for a minute or more."""
pytestmark = pytest.mark.parametrize("store_kind", SQLITE_OR_POSTGRES, indirect=True)


async def small_dict(number: int) -> dict[str, int]:
    return {"number": number}


@job("steps")
async def steps(step: Step, input: int) -> int:
    for number in range(STEPS):
        await step.run("step", small_dict, number, key=number)
    return input


@job("plain")
async def plain(_step: Step, input: int) -> int:
    return input


@pytest.fixture
def counts() -> Iterator[Counts]:
    with counting() as counted:
        yield counted


@pytest.fixture
async def durably(store_url: str, counts: Counts, store: object) -> AsyncIterator[Durably]:
    """A Durably on an empty database (`store` empties it), whose statements are counted; nothing is due meanwhile."""
    assert store is not None
    async with Durably(store_url, poll_interval=timedelta(seconds=60)) as opened:
        await opened.get_runs(limit=1)
        counts.clear()
        yield opened


@dataclass(frozen=True, slots=True)
class Cost:
    """What some runs cost, each number for one run."""

    transactions: float
    statements: float
    round_trips: float
    counts: Counts


async def cost_of(durably: Durably, work: Job[int, int], counts: Counts, *, runs: int, concurrency: int) -> Cost:
    """Drain a queue, and count what happened between the worker's start and the end of the last run."""
    triggered = await durably.trigger_many(work, range(runs))
    counts.clear()
    async with durably.worker([work], max_concurrent_runs=concurrency):
        await asyncio.gather(*(durably.wait(run, timeout=50) for run in triggered))
    feed = ("run_events", "feed", "get_run", "last_event_id", "feed_horizon", "feed_barrier")
    for beside in (*feed, "look", "lapsed", "renew", *CHORES):  # those who wait, and what is done now and then
        del counts.statements[beside]
    own = {name: times for name, times in counts.transactions.items() if name.split("+")[0] in counts.statements}
    counts.transactions.clear()
    counts.transactions.update(own)
    return Cost(
        sum(counts.transactions.values()) / runs,
        sum(counts.statements.values()) / runs,
        counts.round_trips / runs,
        counts,
    )


def writes_of(counts: Counts) -> int:
    """Transactions of the workers' own writes and claims."""
    return sum(times for name, times in counts.transactions.items() if "write_runs" in name or "claim" in name)


async def test_one_run_after_the_other_costs_a_transaction_a_step_and_few_more(
    durably: Durably, counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durably.runtime.flusher.TICK_SECONDS", 60.0)  # however slow the machine is, starts ride
    cost = await cost_of(durably, steps, counts, runs=20, concurrency=1)
    assert STEPS + 1 <= cost.transactions <= STEPS + 4  # each checkpoint, the end, a claim
    assert cost.statements <= STEPS + 4
    assert cost.round_trips <= STEPS + 6
    assert counts.of("write_runs") == 20 * (STEPS + 1)


async def test_a_hundred_runs_at_once_share_their_transactions(durably: Durably, counts: Counts) -> None:
    """Measured: 0.07 writes and claims a run on SQLite, 0.15 on PostgreSQL, for 5 checkpoints, an end and a claim."""
    cost = await cost_of(durably, steps, counts, runs=300, concurrency=100)
    assert writes_of(counts) / 300 <= 0.4
    assert cost.statements <= 0.5
    assert cost.round_trips <= 0.6


async def test_a_hundred_jobs_without_steps_at_once_share_their_transactions(durably: Durably, counts: Counts) -> None:
    """Measured: 0.014 writes and claims a run on SQLite, 0.044 on PostgreSQL."""
    cost = await cost_of(durably, plain, counts, runs=500, concurrency=100)
    assert writes_of(counts) / 500 <= 0.15
    assert cost.transactions <= 0.2
    assert cost.statements <= 0.2
    assert cost.round_trips <= 0.3


async def test_a_step_reads_nothing(durably: Durably, counts: Counts) -> None:
    await cost_of(durably, steps, counts, runs=20, concurrency=1)
    assert counts.of("load_steps") <= 20  # at most once a run, however many steps it has
    assert counts.rows["load_steps"] == 0


async def test_a_batch_of_triggers_is_one_transaction(durably: Durably, counts: Counts) -> None:
    await durably.trigger_many(plain, range(1000))
    assert sum(counts.transactions.values()) <= 3
    assert sum(counts.statements.values()) <= 12


async def test_an_idle_worker_asks_little_per_poll(store_url: str, counts: Counts, store: object) -> None:
    assert store is not None
    poll = timedelta(milliseconds=50)
    async with Durably(store_url, poll_interval=poll) as durably, durably.worker([plain]):
        await enough(lambda: counts.of("look") >= 5)
        await enough(lambda: all(counts.of(chore) for chore in CHORES))
        counts.clear()
        await enough(lambda: counts.of("look") >= 20)
        assert sum(counts.statements.values()) == counts.of("look")  # it writes nothing, and claims nothing
        assert counts.wakes == 0


async def test_a_worker_that_waits_asks_little_per_poll(store_url: str, counts: Counts, store: object) -> None:
    """It holds a lease, and its slots are full: a look at the work, and one at the leases."""
    assert store is not None
    begun = asyncio.Event()

    @job("waiting")
    async def waiting(_step: Step) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    poll = timedelta(milliseconds=500)
    async with Durably(store_url, poll_interval=poll, lease=timedelta(minutes=10)) as durably:
        await durably.trigger(waiting)
        async with durably.worker([waiting], max_concurrent_runs=1, grace=timedelta(0)):
            await begun.wait()
            await enough(lambda: all(counts.of(chore) for chore in CHORES))
            counts.clear()
            await enough(lambda: counts.of("look") >= 3 and counts.of("lapsed") >= 3)
            assert counts.of("renew") <= 1  # at once, for a lease that was held before the keeper's thread had begun
            looks = counts.of("look") + counts.of("lapsed") + counts.of("renew")
            assert sum(counts.statements.values()) == looks


async def enough(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.01)


async def test_a_claim_gives_back_no_more_rows_than_it_leases(store_url: str, counts: Counts, durably: Durably) -> None:
    await durably.trigger_many(plain, range(200))
    environment = SystemEnvironment()
    database = open_database(store_url, environment=environment)
    await database.open()
    counts.clear()
    lease = timedelta(seconds=30)
    operation = claim(["plain"], limit=7, owner="test", token=environment.new_id(), lease=lease)
    claimed = await database.run(operation, lane=Lane.FAST)
    await database.close()
    assert len(claimed) == counts.rows["claim"] == 7


async def test_a_step_leaves_few_objects_behind(durably: Durably, counts: Counts) -> None:
    """Blocks that are still allocated after the runs are over: caches may grow a little, runs must be gone."""
    await cost_of(durably, steps, counts, runs=100, concurrency=100)
    before = sys.getallocatedblocks()
    await cost_of(durably, steps, counts, runs=200, concurrency=100)
    assert (sys.getallocatedblocks() - before) / (200 * STEPS) <= 20
