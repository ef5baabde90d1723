"""The server that tests and the demo throw away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tools.postgres_process import free_port
from tools.postgres_server import PostgresServer, database_name, start_server

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DURABLY_TEST_POSTGRES", raising=False)
        with start_server({"max_connections": "23"}) as server:
            yield server


async def select(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_a_test_gets_an_empty_database_of_its_own(postgres_url: str) -> None:
    assert await select(postgres_url, "SELECT current_database()") == database_name(postgres_url)
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    assert await select(postgres_url, tables) == 0


async def test_commits_are_flushed_to_disk_as_in_production(own_server: PostgresServer) -> None:
    assert await select(own_server.url, "SHOW fsync") == "on"
    assert await select(own_server.url, "SHOW synchronous_commit") == "on"


async def test_settings_can_be_given(own_server: PostgresServer) -> None:
    assert await select(own_server.url, "SHOW max_connections") == "23"


async def test_committed_rows_survive_a_crash_of_the_server(own_server: PostgresServer) -> None:
    url = own_server.create_database()
    own_server.execute("CREATE TABLE kept AS SELECT 42 AS answer", url)
    own_server.restart("immediate")
    assert await select(url, "SELECT answer FROM kept") == 42
    own_server.drop_database(url)


async def test_a_stopped_server_refuses_connections_until_it_is_started(own_server: PostgresServer) -> None:
    own_server.stop()
    own_server.stop()
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await select(own_server.url, "SELECT 1")
    own_server.start()
    assert await select(own_server.url, "SELECT 1") == 1


async def test_a_database_is_dropped_although_somebody_is_connected(own_server: PostgresServer) -> None:
    url = own_server.create_database()
    connection = await asyncpg.connect(url)
    own_server.drop_database(url)
    own_server.drop_database(url)
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await select(url, "SELECT 1")
    connection.terminate()


def test_a_template_is_copied(own_server: PostgresServer) -> None:
    template = own_server.create_database()
    own_server.execute("CREATE TABLE copied AS SELECT 42 AS answer", template)
    copy = own_server.create_database(template=database_name(template))
    assert own_server.execute("SELECT answer FROM copied", copy) == "42"


def test_an_error_of_the_server_is_told(own_server: PostgresServer) -> None:
    with pytest.raises(RuntimeError, match='relation "nowhere" does not exist'):
        own_server.execute("SELECT * FROM nowhere")


def test_a_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DURABLY_TEST_POSTGRES", raising=False)
    with pytest.raises(RuntimeError, match="unrecognized configuration parameter"):
        start_server({"no_such_setting": "1"})


def test_a_server_that_is_given_is_used_but_never_stopped(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DURABLY_TEST_POSTGRES", own_server.url)
    with start_server() as given:
        assert not given.owned
        with pytest.raises(RuntimeError, match="not ours"):
            given.stop()
        given.drop_database(given.create_database())
    assert own_server.execute("SELECT 1") == "1"


def test_the_server_ends_with_its_starter_even_when_that_is_killed() -> None:
    script = (
        "from tools.postgres_process import ServerProcess\n"
        "server = ServerProcess({}); server.start(); print(server.folder, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        folder = Path(starter.stdout.readline().strip())
        assert folder.is_dir()
        starter.send_signal(signal.SIGKILL)
    while folder.exists():  # bounded by the test's timeout
        os.sched_yield()


def test_a_free_port_lies_below_those_of_outgoing_connections() -> None:
    assert 15_000 <= free_port() < 32_000
