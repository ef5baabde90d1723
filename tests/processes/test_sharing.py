"""Several worker processes on one database: each run once, one run a key (G3, G7)."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

from durably import Durably, TriggerItem
from tests.processes.jobs import short
from tests.support.processes import Workers
from tests.support.stage import Stage
from tests.support.store import Store

KEYS = 15
RUNS = 300


async def test_each_run_is_executed_once_and_those_of_a_key_one_after_the_other_in_order(
    durably: Durably, store: Store, stage: Stage, workers: Workers
) -> None:
    """G3, G7: four workers and 300 runs, every second of which has a key; the stage has seen all in one order."""
    await workers.start_several(4, lease=10)
    keys = [f"key {index % KEYS}" if index % 2 else None for index in range(RUNS)]
    items = [TriggerItem[None](None, concurrency_key=key) for key in keys]
    runs = await durably.trigger_many(short, items)
    await asyncio.gather(*(durably.result(run, timeout=40) for run in runs))

    times = {point: {visit.run: visit for visit in stage.at(point)} for point in ("start", "end")}
    executed = Counter(visit.run for visit in stage.at("start"))
    assert executed == Counter(run.id for run in runs)
    for key in {item.concurrency_key for item in items} - {None}:
        of_key = [run.id for run in runs if run.concurrency_key == key]
        for earlier, later in pairwise(of_key):
            assert times["end"][earlier].at <= times["start"][later].at
    assert len({visit.pid for visit in stage.visits}) == 4
    assert await store.is_sound()
