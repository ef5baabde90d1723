"""The soak itself, for a few seconds: real workers, real faults, and what it must notice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.soak.fleet import Fleet
from bench.soak.probes import PostgresProbe, Probe, SqliteProbe, Values, memory, open_files
from bench.soak.run import soak
from bench.soak.settings import Soak, WorkerTask, parse
from durably.model import EventType
from tests.support.store import Store, a_step, an_event
from tools.postgres_server import PostgresServer

BOTH = {"rows_runs", "rows_events", "bytes", "wal", "backlog", "worker_memory", "worker_files", "client_memory", "rate"}
OF = {"postgres": BOTH | {"dead", "connections", "bytes_runs"}, "sqlite": BOTH | {"free"}}


def tiny(database: str) -> Soak:
    return parse(["--minutes", "0.1", "--every", "0.5", "--rate", "30", "--fault-every", "0.6", "--db", database])


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_a_few_seconds_with_faults_end_well_and_are_seen(database: str) -> None:
    seen: list[Values] = []
    outcome = await soak(tiny(database), database, lambda _, values: seen.append(values))
    assert outcome.findings == []
    assert outcome.counts["workers killed"] > 0
    assert outcome.counts["triggers"] > 20
    assert outcome.counts["ends"] > 20
    assert OF[database] <= set(seen[-1])
    assert {"claim", "lag"} <= set(outcome.points)
    assert {judged.verdict for judged in outcome.judge()} == {"too short"}


async def test_a_worker_that_dies_by_itself_is_a_finding(tmp_path: Path) -> None:
    fleet = Fleet(WorkerTask(url="nothing://at/all"), 1, tmp_path)
    async with asyncio.TaskGroup() as group:
        fleet.start(group)
        assert not await fleet.begun()
        await fleet.stop()
    assert fleet.deaths[0] == "worker 0 ended by itself, exit code 1"
    assert "unknown scheme 'nothing'" in (tmp_path / "worker-0.log").read_text("utf-8")


@pytest.fixture
async def probed(store: Store) -> tuple[Store, Probe]:
    if store.is_postgres:
        return store, PostgresProbe(store.url)
    return store, SqliteProbe(Path(store.url.removeprefix("sqlite:///")))


@pytest.mark.parametrize("store_kind", ["sqlite-file", "postgres"], indirect=True)
async def test_a_missing_event_and_a_run_that_has_not_ended_are_noticed(probed: tuple[Store, Probe]) -> None:
    store, probe = probed
    ended, _open = await store.leased(), await store.trigger()
    await store.end(ended)
    assert (await probe.left(), await probe.gaps()) == (1, 0)
    await store.sql(f"DELETE FROM {{events}} WHERE run_id = '{ended.id}' AND seq = 2")
    assert await probe.gaps() == 1
    values = await probe.look()
    assert (values["rows_runs"], values["rows_events"], values["backlog"]) == (2, 3, 1)


@pytest.mark.parametrize("store_kind", ["sqlite-file", "postgres"], indirect=True)
async def test_a_row_that_says_two_events_leaves_no_gap_and_hides_none(probed: tuple[Store, Probe]) -> None:
    store, probe = probed
    run = await store.leased()
    step = an_event(EventType.STEP_START), an_event(EventType.STEP_COMPLETE)
    await store.write(run, 1, steps=(a_step(run),), events=step)
    assert await probe.gaps() == 0
    await store.sql("UPDATE {events} SET started_at = created_at WHERE seq = 2")  # 1 is taken twice
    assert await probe.gaps() == 1
    await store.sql("UPDATE {events} SET started_at = NULL")  # 3 is missing
    assert await probe.gaps() == 1
    await store.sql("UPDATE {events} SET started_at = created_at WHERE seq = 4")
    await store.sql("DELETE FROM {events} WHERE seq < 3")
    assert await probe.gaps() == 0


async def test_connections_are_counted_and_terminated_but_those_of_others_are_not(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async with Store("postgres", postgres_url) as store, Store("postgres", postgres_server.create_database()) as other:
        await store.trigger()
        probe = PostgresProbe(store.url)
        assert (await probe.look())["connections"] == 1
        while not probe.terminated:
            await probe.terminate()
        await other.trigger()
        await store.trigger()
        assert probe.terminated == 1


def test_a_process_that_is_gone_has_no_memory() -> None:
    assert memory(None) is None
    assert memory(2**22 + 1) is None
    assert open_files(2**22 + 1) is None
