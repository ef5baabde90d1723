"""Whoever waits for something rides through an outage of the database."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from durably.app import Durably
from durably.jobs import job
from durably.runtime.context import Step
from tools.postgres_server import start_server


def double(number: int) -> int:
    return 2 * number


@job("slow")
async def slow(step: Step, number: int) -> int:
    for place in range(3):
        number = await step.run("double", double, number, key=place)
    return number


@pytest.mark.timeout(120)
async def test_waiting_and_the_feed_survive_a_restart_of_postgres() -> None:
    with start_server() as server:
        url = server.create_database()
        async with Durably(url) as durably, durably.events(after=0) as stream:
            run = await durably.trigger(slow, 1, delay=timedelta(seconds=1))
            result = asyncio.ensure_future(durably.result(run))
            assert (await anext(stream)).type == "run:trigger"
            with pytest.raises(TimeoutError):
                await durably.wait(run, timeout=0.2)
            server.stop("immediate")
            with pytest.raises(TimeoutError):
                await durably.wait(run, timeout=1)
            server.start()
            async with durably.worker([slow]), asyncio.timeout(60):
                assert await result == 8
                while (await anext(stream)).type != "run:complete":
                    pass


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
async def test_waiting_survives_the_loss_of_all_connections(durably: Durably, postgres_url: str) -> None:
    run = await durably.trigger(slow, 1)
    result = asyncio.ensure_future(durably.result(run))
    killer = await asyncpg.connect(postgres_url)
    async with asyncio.timeout(60), durably.worker([slow]):
        for _ in range(5):
            await killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
            await durably.trigger(slow, 1)
        assert await result == 8
        assert {await durably.result(one) for one in await durably.get_runs(slow)} == {8}
    await killer.close()
