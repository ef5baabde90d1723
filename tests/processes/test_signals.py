"""SIGTERM and SIGINT: a worker stops in good order, and others continue at once (G6)."""

from __future__ import annotations

import signal
from time import monotonic

import pytest

from durably import Durably, EventType, Run, RunStatus
from tests.processes.jobs import async_chain, chain, sync_chain
from tests.support.processes import QUICK, STOPPING, Workers, until
from tests.support.stage import Stage
from tests.support.store import Store

LONG = 60.0
"""A lease, poll interval or grace in seconds that no test can wait for."""
SOON = 5.0

on_sqlite = pytest.mark.parametrize("store_kind", ["sqlite-file"], indirect=True)


@pytest.mark.parametrize(
    ("store_kind", "number"),
    [
        pytest.param("sqlite-file", signal.SIGTERM, id="sqlite-file-SIGTERM"),
        pytest.param("sqlite-file", signal.SIGINT, id="sqlite-file-SIGINT"),
        pytest.param("postgres", signal.SIGTERM, id="postgres-SIGTERM"),
    ],
    indirect=["store_kind"],
)
async def test_a_stopping_worker_ends_what_it_can_and_hands_back_the_rest_at_once(
    number: signal.Signals, durably: Durably, store: Store, stage: Stage, workers: Workers
) -> None:
    """G6: long before the lease ends. G13: nothing counts as a crash, and no attempt is burnt."""
    stopping = await workers.start(lease=LONG, grace=1)
    rest = await stage.held_at("in b", durably.trigger(async_chain))
    held = stage.hold("in b")
    ends, _ = await durably.trigger(chain), await held.reached()
    heir = await workers.start(lease=LONG)

    stopping.send(number)
    await stopping.says(STOPPING)
    told = monotonic()
    new = await durably.trigger(chain)
    held.release()
    assert await durably.result(ends, timeout=SOON)
    assert {visit.pid for visit in stage.visits if visit.run == ends.id} == {stopping.pid}
    again = await stage.visited("in b", run=rest.id, pid=heir.pid)
    assert again.at - told < 1 + SOON
    assert await stopping.ended() == 0

    assert [visit.facts["by"] for visit in stage.at("interrupted")] == ["CancelledError"]
    assert [visit.facts["by"] for visit in stage.at("refused")] == ["Stopping"]
    output = await durably.result(rest, timeout=SOON)
    assert output == [stage.at(point, run=rest.id)[-1].made for point in ("in a", "in b", "in c")]
    assert len(stage.at("in a", run=rest.id)) == 1
    stored = await store.get(rest.id)
    assert (stored.generation, stored.attempt, stored.crashes) == (2, 1, 0)
    await durably.result(new, timeout=SOON)
    assert {visit.pid for visit in stage.visits if visit.run == new.id} == {heir.pid}


@on_sqlite
async def test_a_second_signal_interrupts_now(durably: Durably, stage: Stage, workers: Workers) -> None:
    """G6: the grace is cut short."""
    worker = await workers.start(lease=LONG, grace=LONG)
    run = await stage.held_at("in b", durably.trigger(async_chain))
    worker.send(signal.SIGTERM)
    await worker.says(STOPPING)
    began = monotonic()
    assert await worker.stop() == 0
    assert monotonic() - began < SOON
    back = await durably.get_run(run)
    assert back is not None
    assert (back.status, back.attempt) == (RunStatus.PENDING, 0)
    events = [event.type async for event in durably.events(run=await ended(durably, run, workers))]
    assert events.count(EventType.RUN_RELEASE) == 1
    assert events.count(EventType.RUN_LEASED) == 2


async def ended(durably: Durably, run: Run[list[str]], workers: Workers) -> Run[list[str]]:
    """The run after a worker that was started for it has ended it."""
    await workers.start()
    return await durably.wait(run, timeout=40)


async def test_code_in_a_thread_keeps_its_lease_until_it_returns(
    durably: Durably, store: Store, stage: Stage, workers: Workers
) -> None:
    """G3: it cannot be interrupted, so its worker renews the lease, and nobody does the same beside it."""
    stopping = await workers.start(grace=0)
    held = stage.hold("in b")
    run, _ = await durably.trigger(sync_chain), await held.reached()
    heir = await workers.start()
    stopping.send(signal.SIGTERM)
    await stopping.says(STOPPING)
    first = (await store.get(run.id)).lease_expires_at
    assert first is not None

    async def has_been_renewed() -> bool:
        last = (await store.get(run.id)).lease_expires_at
        return last is not None and (last - first).total_seconds() > 2 * QUICK["lease"]

    await until(has_been_renewed, "two more leases")
    assert not stage.at("in b", pid=heir.pid)
    held.release()
    assert await stopping.ended() == 0
    output = await durably.result(run, timeout=40)
    [a], [b], [c] = stage.at("in a"), stage.at("in b"), stage.at("in c")
    assert (output, c.pid) == ([a.made, b.made, c.made], heir.pid)
    assert (await store.get(run.id)).crashes == 0


@on_sqlite
async def test_a_third_signal_ends_a_worker_whose_code_does_not_return(
    durably: Durably, stage: Stage, workers: Workers
) -> None:
    """Like a crash: what it did goes on elsewhere when its lease has run out (G6)."""
    stubborn = await workers.start(grace=LONG)
    run = await stage.held_at("in b", durably.trigger(sync_chain))
    stubborn.send(signal.SIGTERM)
    await stubborn.says(STOPPING)
    stubborn.send(signal.SIGTERM)
    await stubborn.says("interrupting what still runs")
    assert await stubborn.stop() == -signal.SIGTERM
    heir = await workers.start()
    assert await durably.result(run, timeout=40)
    assert [visit.pid for visit in stage.at("in b")] == [stubborn.pid, heir.pid]


async def test_an_idle_worker_ends_at_once(workers: Workers) -> None:
    """However long it polls, and however much grace it gives."""
    worker = await workers.start(poll_interval=LONG, grace=LONG)
    told = monotonic()
    assert await worker.stop() == 0
    assert monotonic() - told < SOON
