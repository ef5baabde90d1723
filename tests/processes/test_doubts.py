"""Connections break after PostgreSQL has committed and before it could say so (G12)."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from durably import Durably, RunStatus
from tests.processes.jobs import QUICK_EVENTS, quick, short
from tests.support.processes import Workers
from tests.support.proxy import Proxy
from tests.support.stage import Stage
from tests.support.store import Store

pytestmark = pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)


async def test_a_claim_whose_answer_was_lost_is_read_back(
    durably: Durably, store: Store, stage: Stage, workers: Workers
) -> None:
    """G12: the run is leased and nobody knows; it need not wait until that lease has run out."""
    async with Proxy(store.url, stage.notify) as proxy:
        await workers.start(url=proxy.url, lease=60)
        run = await durably.trigger(quick, delay=timedelta(seconds=0.5))

        async def is_leased() -> bool:
            return (await store.get(run.id)).status is RunStatus.LEASED

        proxy.mute(is_leased)
        await stage.until(lambda: proxy.lost > 0, "the answer to the claim")
        proxy.cut()
        ended = await durably.wait(run, timeout=40)
        assert (ended.status, ended.generation, ended.attempt) == (RunStatus.COMPLETED, 1, 1)
        assert len(stage.at("tick")) == 3


async def test_writes_whose_answers_were_lost_are_neither_lost_nor_repeated(
    durably: Durably, store: Store, stage: Stage, workers: Workers
) -> None:
    """G12, G5, G9: under load; each step is executed once, each event is there once."""
    async with Proxy(store.url, stage.notify) as proxy:
        await workers.start_several(2, url=proxy.url, lease=60)
        runs = await durably.trigger_many(quick, [None] * 100)
        for count in range(30, 300, 45):
            await stage.visited("tick", count=count)
            proxy.mute()
            await stage.until(lambda: proxy.lost >= 3, "three lost answers")
            proxy.cut()
        await asyncio.gather(*(durably.result(run, timeout=40) for run in runs))
        assert Counter(visit.run for visit in stage.at("tick")) == {run.id: 3 for run in runs}
        for run in runs:
            assert [event.type async for event in durably.events(run=run)] == QUICK_EVENTS
        assert await store.is_sound()


async def test_a_worker_that_is_cut_off_within_a_transaction_holds_nobody_up_for_long(
    durably: Durably, store: Store, stage: Stage, workers: Workers
) -> None:
    """G6, G7: nobody tells the server that the other side is gone, while the row of the key is locked."""

    async def is_within_transaction() -> bool:
        sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in %'"
        return bool(await store.value(f"{sql} AND query LIKE '%concurrency_keys%'"))

    async with Proxy(store.url, stage.notify) as proxy:
        lost = await workers.start(url=proxy.url)
        held = stage.hold("end")
        run, _ = await durably.trigger(short, concurrency_key="key"), await held.reached()
        proxy.hold_back(is_within_transaction)
        held.release()
        await stage.until(lambda: proxy.kept > 0, "the end of the run, half sent")
        heir = await workers.start()
        await durably.result(run, timeout=40)
        assert await durably.trigger_and_wait(short, concurrency_key="key", timeout=40) == "go"
        assert {visit.pid for visit in stage.at("end")} == {lost.pid, heir.pid}
        proxy.let_through()
        assert await heir.stop() == 0
        assert await durably.trigger_and_wait(short, concurrency_key="key", timeout=40) == "go"
        assert await store.is_sound()
