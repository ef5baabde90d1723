"""PostgreSQL goes away under workers with runs in progress, and comes back (G12)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from time import monotonic
from urllib.parse import urlsplit

import asyncpg
import pytest

from durably import Durably, Run
from tests.processes.jobs import QUICK_EVENTS, async_chain, chain, quick
from tests.support.bench import eventually
from tests.support.processes import QUICK, READY, Workers
from tests.support.stage import Stage
from tests.support.store import Store, StoreKind
from tools.postgres_server import PostgresServer, StopMode, database_name, start_server


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """Give a server that the tests of this module stop and start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DURABLY_TEST_POSTGRES", raising=False)
        with start_server() as server:
            yield server


@pytest.fixture
def store_kind() -> StoreKind:
    return "postgres"


@pytest.fixture
def store_url(own_server: PostgresServer) -> Iterator[str]:
    url = own_server.create_database()
    yield url
    own_server.drop_database(url)


class Decoy:
    """Stands where the server was, hangs up on everybody, and counts the calls."""

    def __init__(self) -> None:
        self.calls = 0

    @asynccontextmanager
    async def on(self, port: int) -> AsyncGenerator[None]:
        async with await asyncio.start_server(self._hang_up, "127.0.0.1", port):
            yield

    async def _hang_up(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls += 1
        writer.close()


async def check(durably: Durably, store: Store, stage: Stage, run: Run[list[str]]) -> None:
    """Assert that the run completed, and that nothing of it was executed twice."""
    output = await durably.result(run, timeout=40)
    assert output == [visit.made for point in ("in a", "in b", "in c") for visit in stage.at(point, run=run.id)]
    stored = await store.get(run.id)
    assert (stored.generation, stored.attempt, stored.crashes) == (1, 1, 0)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_runs_in_progress_outlive_a_restart_of_the_database(
    mode: StopMode, own_server: PostgresServer, durably: Durably, store: Store, stage: Stage, workers: Workers
) -> None:
    """G12: one step ends while the server is away, one after that; the worker also takes what is triggered then."""
    worker = await workers.start(lease=30)
    during = stage.hold("in b")
    first, _ = await durably.trigger(chain), await during.reached()
    after = stage.hold("in b")
    second, _ = await durably.trigger(async_chain), await after.reached()
    await asyncio.to_thread(own_server.stop, mode)
    during.release()
    await asyncio.to_thread(own_server.start)
    await stage.visited("in c", run=first.id)
    after.release()
    for run in (first, second, await durably.trigger(chain)):
        await check(durably, store, stage, run)
    assert not stage.at("interrupted")
    assert worker.is_alive


async def test_an_outage_longer_than_the_lease_is_no_hot_loop_and_fails_no_run(
    own_server: PostgresServer, durably: Durably, store: Store, stage: Stage, workers: Workers
) -> None:
    """G12: the attempts are counted where the server was; a lease that nobody else took is renewed late."""
    worker = await workers.start(max_crashes=1)
    held = stage.hold("in b")
    run, _ = await durably.trigger(chain), await held.reached()
    await asyncio.to_thread(own_server.stop)
    decoy, began = Decoy(), monotonic()
    async with decoy.on(port_of(own_server)):
        held.release()
        await worker.says('worker:error {"error":{"type":"DatabaseUnavailable"')
        lasted = monotonic() - began
    assert lasted > 2 * QUICK["lease"]
    assert decoy.calls < 20 * lasted
    await asyncio.to_thread(own_server.start)
    await check(durably, store, stage, run)
    await check(durably, store, stage, await durably.trigger(chain))


async def test_connections_that_are_cut_under_load_lose_and_repeat_nothing(
    own_server: PostgresServer, durably: Durably, stage: Stage, workers: Workers, store_url: str
) -> None:
    """G12, G5: every connection of the database is cut, again and again; each step is executed once all the same."""
    await workers.start_several(2, lease=30)
    admin = await asyncpg.connect(own_server.url)
    found = "pg_stat_activity WHERE datname = $1"
    kill = f"SELECT count(pg_terminate_backend(pid)) FROM {found} AND (SELECT count(*) FROM {found}) >= 2"

    async def cut() -> bool:
        killed: int = await admin.fetchval(kill, database_name(store_url))
        return killed >= 2

    runs = await durably.trigger_many(quick, [None] * 150)
    for count in range(40, 400, 40):
        await stage.visited("tick", count=count)
        await eventually(cut)  # as soon as there are two again: on a slow machine it takes a while
    await admin.close()
    await asyncio.gather(*(durably.result(run, timeout=40) for run in runs))
    assert Counter(visit.run for visit in stage.at("tick")) == {run.id: 3 for run in runs}
    for run in runs:
        ended = await durably.get_run(run)
        assert ended is not None
        assert (ended.generation, ended.attempt) == (1, 1)
        assert [event.type async for event in durably.events(run=run)] == QUICK_EVENTS


async def test_a_worker_that_starts_before_its_database_serves_when_that_is_there(
    own_server: PostgresServer, durably: Durably, stage: Stage, workers: Workers
) -> None:
    """Neither does it give up nor spin; and until then it can be stopped."""
    run = await durably.trigger(quick)
    await asyncio.to_thread(own_server.stop)
    patient, impatient = [await workers.launch() for _ in range(2)]
    await impatient.says("trying again")
    assert await impatient.stop() == 0
    await patient.says("trying again", count=2)
    await asyncio.to_thread(own_server.start)
    await patient.says(READY)
    assert len(patient.said("trying again")) < 5
    assert await durably.result(run, timeout=40)
    assert {visit.pid for visit in stage.visits} == {patient.pid}


def port_of(server: PostgresServer) -> int:
    """The port that it listens on when it runs."""
    port = urlsplit(server.url).port
    assert port is not None
    return port
