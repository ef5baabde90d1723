"""What cannot be part of a transaction is refused at once, says why, and leaves the transaction as it was."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import pytest
import sqlalchemy
from django.core.exceptions import SynchronousOnlyOperation

from durably import Durably, SchemaError, Step, SyncDurably, UsageError, job
from tests.support.lending import Django


@job("echo")
async def echo(step: Step, input: str) -> str:
    return input


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "app.db")) as opened:
        yield opened


@pytest.fixture
async def durably(tmp_path: Path) -> AsyncIterator[Durably]:
    async with Durably(f"sqlite:///{tmp_path}/app.db") as opened:
        yield opened


def not_connections(raw: sqlite3.Connection) -> list[object]:
    return ["sqlite:///app.db", 7, raw.cursor(), sqlalchemy.create_engine("sqlite://"), Durably("sqlite:///:memory:")]


async def test_what_is_no_connection_is_named(durably: Durably, raw: sqlite3.Connection) -> None:
    for wrong in not_connections(raw):
        with pytest.raises(UsageError, match=f"{type(wrong).__name__} is none that durably knows.*sqlite3"):
            await durably.trigger(echo, "a", connection=wrong)


async def test_a_password_of_the_connection_is_not_repeated(durably: Durably) -> None:
    with pytest.raises(UsageError) as caught:
        await durably.trigger(echo, "a", connection="postgresql://user:secret@host/name")
    assert "secret" not in str(caught.value)


async def test_a_connection_to_another_kind_of_database_is_refused(
    durably: Durably, raw: sqlite3.Connection, shared_postgres_url: str
) -> None:
    with closing(psycopg.connect(shared_postgres_url)) as other:
        with pytest.raises(UsageError, match="it is of PostgreSQL, and this Durably is on SQLite"):
            await durably.trigger(echo, "a", connection=other)
    async with Durably(shared_postgres_url) as on_postgres:
        with pytest.raises(UsageError, match="it is of SQLite, and this Durably is on PostgreSQL"):
            await on_postgres.trigger(echo, "a", connection=raw)


class MySql:
    """As much of Django's connection to another database as is looked at."""

    vendor = "mysql"
    in_atomic_block = True

    def cursor(self) -> None:
        raise AssertionError


async def test_a_database_that_durably_does_not_have_is_named(durably: Durably) -> None:
    with pytest.raises(UsageError, match="it is of mysql"):
        await durably.trigger(echo, "a", connection=MySql())


async def test_another_file_is_refused(durably: Durably, tmp_path: Path) -> None:
    async with Durably(f"sqlite:///{tmp_path}/other.db") as other:
        await other.get_runs()
    for path in (f"{tmp_path}/other.db", ":memory:"):
        with closing(sqlite3.connect(path)) as opened:
            with pytest.raises(UsageError, match=r"and that of this Durably sqlite:///.*app\.db"):
                await durably.trigger(echo, "a", connection=opened)


async def test_the_same_file_under_another_name_is_taken(durably: Durably, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "app.db")
    with closing(sqlite3.connect(tmp_path / "link.db")) as opened:
        await durably.trigger(echo, "a", connection=opened)
        opened.commit()
    assert len(await durably.get_runs()) == 1


async def test_another_postgres_database_is_refused_where_ours_is_known(
    shared_postgres_url: str, postgres_url: str
) -> None:
    async with Durably(shared_postgres_url) as durably, Durably(postgres_url) as other:
        await durably.open()
        await other.open()
        with closing(psycopg.connect(postgres_url)) as wrong, closing(psycopg.connect(shared_postgres_url)) as right:
            for _ in range(2):
                with pytest.raises(UsageError, match="leads to the tables of another database"):
                    await durably.trigger(echo, "a", connection=wrong)
                await durably.trigger(echo, "a", connection=right)
            await other.trigger(echo, "a", connection=wrong)  # the transaction is as it was


async def test_a_database_that_is_made_anew_is_known_after_a_close(postgres_url: str) -> None:
    durably = Durably(postgres_url)
    for _ in range(2):
        await durably.open()
        with closing(psycopg.connect(postgres_url)) as connection:
            await durably.trigger(echo, "a", connection=connection)
            await durably.close()
            connection.rollback()
            connection.execute("DROP SCHEMA durably CASCADE")
            connection.commit()


async def test_django_refuses_to_work_in_async_code(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    lending = Django(url)
    async with Durably(url) as durably:
        await durably.open()
        await lending.open()
        try:
            with pytest.raises(SynchronousOnlyOperation, match="sync_to_async"):
                await durably.trigger(echo, "a", connection=lending.connection)
        finally:
            await lending.close()
        assert await durably.get_runs() == []


async def test_sqlite_in_memory_is_refused() -> None:
    with closing(sqlite3.connect(":memory:")) as opened:
        async with Durably("sqlite:///:memory:") as in_memory:
            with pytest.raises(UsageError, match="has one connection, its own: use a file"):
                await in_memory.trigger(echo, "a", connection=opened)


def test_a_database_without_our_tables_says_what_to_do(tmp_path: Path, postgres_url: str) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as opened:
        opened.execute("CREATE TABLE orders (name TEXT)")
        opened.execute("INSERT INTO orders VALUES ('a')")
        durably = SyncDurably(f"sqlite:///{tmp_path}/app.db")
        with pytest.raises(UsageError, match=r"no tables of durably: open\(\) this Durably once"):
            durably.trigger(echo, "a", connection=opened)
        assert opened.in_transaction
        opened.commit()
        with durably:
            durably.trigger(echo, "a", connection=opened)
    with closing(psycopg.connect(postgres_url)) as connection:
        connection.execute("CREATE TABLE orders (name text)")
        durably = SyncDurably(postgres_url)
        with pytest.raises(UsageError, match="no tables of durably"):
            durably.trigger(echo, "a", connection=connection)
        connection.execute("INSERT INTO orders VALUES ('a')")  # the transaction is as it was


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with SyncDurably(f"sqlite:///{tmp_path}/app.db") as durably:
        durably.get_runs()
        with closing(sqlite3.connect(tmp_path / "app.db")) as opened:
            opened.execute("DELETE FROM durably_migrations")
            with pytest.raises(SchemaError, match="durably migrate"):
                durably.trigger(echo, "a", connection=opened)


async def test_blocking_code_takes_no_asynchronous_connection(durably: Durably, shared_postgres_url: str) -> None:
    await durably.get_runs()
    blocking = SyncDurably(shared_postgres_url)
    connection = await asyncpg.connect(shared_postgres_url)
    lite = await aiosqlite.connect(":memory:")
    try:
        for opened in (connection, lite):
            with pytest.raises(UsageError, match="SyncDurably takes blocking ones"):
                blocking.trigger(echo, "a", connection=opened)
            with pytest.raises(UsageError, match="SyncDurably takes blocking ones"):
                blocking.trigger_many(echo, ["a"], connection=opened)
            with pytest.raises(UsageError, match="SyncDurably takes blocking ones"):
                blocking.cancel("x", connection=opened)
            with pytest.raises(UsageError, match="SyncDurably takes blocking ones"):
                blocking.retrigger("x", connection=opened)
    finally:
        await connection.close()
        await lite.close()


async def test_an_input_that_is_wrong_leaves_the_transaction_as_it_was(
    durably: Durably, raw: sqlite3.Connection
) -> None:
    await durably.get_runs()
    raw.execute("CREATE TABLE orders (name TEXT)")
    raw.execute("INSERT INTO orders VALUES ('a')")
    wrong: Any = 7
    with pytest.raises(UsageError, match="input"):
        await durably.trigger(echo, wrong, connection=raw)
    with pytest.raises(UsageError, match=r"items\[1\]"):
        await durably.trigger_many(echo, ["a", wrong], connection=raw)
    raw.commit()
    assert raw.execute("SELECT count(*) FROM orders").fetchone() == (1,)
    assert await durably.get_runs() == []


def test_triggering_inside_starts_no_thread_and_opens_nothing(tmp_path: Path, raw: sqlite3.Connection) -> None:
    asyncio.run(_migrate(f"sqlite:///{tmp_path}/app.db"))
    durably = SyncDurably(f"sqlite:///{tmp_path}/app.db")
    durably.trigger(echo, "a", connection=raw)
    assert not durably._portal.is_running  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - nothing else tells


async def _migrate(url: str) -> None:
    async with Durably(url) as durably:
        await durably.open()
