"""Wall clocks of workers that are a minute apart: the database's clock judges every lease (G3)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from durably import Durably, Run
from tests.processes.jobs import chain, short
from tests.support.processes import Workers
from tests.support.stage import Stage
from tests.support.store import Store

pytestmark = pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)


async def test_workers_whose_clocks_are_a_minute_apart_never_share_a_run(
    durably: Durably, store: Store, stage: Stage, workers: Workers
) -> None:
    """G3: they hold runs for longer than a lease, and take only what a dead third left behind."""
    dying = await workers.start(concurrency=1)
    held = stage.hold("in b", times=9)
    runs: list[Run[Any]] = [await durably.trigger(chain)]
    await held.reached(1)
    slow = await workers.start(clock_shift=-30, concurrency=5)
    runs += await durably.trigger_many(chain, [None] * 5)
    await held.reached(6)
    fast = await workers.start(clock_shift=30, concurrency=10)
    runs += await durably.trigger_many(chain, [None] * 3)
    await held.reached(9)
    assert Counter(visit.pid for visit in held.visits) == {dying.pid: 1, slow.pid: 5, fast.pid: 3}

    await dying.kill()
    left = held.visits[0].run
    await stage.visited("in b", run=left, pid=fast.pid)  # so it looks for expired leases, and a lease has passed
    runs += await durably.trigger_many(short, [None] * 100)
    held.release()
    await asyncio.gather(*(durably.result(run, timeout=40) for run in runs))

    executions = Counter(visit.run for visit in stage.visits if visit.point in {"in b", "start"})
    assert {run: count for run, count in executions.items() if count > 1} == {left: 2}
    for run in runs:
        stored = await store.get(run.id)
        assert stored.generation == (2 if run.id == left else 1)
