"""Connections that their libraries let users set up in other ways: scoped sessions, raw cursors, pipelines."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import scoped_session, sessionmaker

from durably import Durably, Step, SyncDurably, UsageError, job

INPUT = {"%s": "$1 ? :x %"}


@job("echo")
async def echo(step: Step, input: dict[str, str]) -> dict[str, str]:
    return input


@pytest.fixture
def url(shared_postgres_url: str) -> str:
    return shared_postgres_url


def with_driver(url: str, driver: str) -> str:
    return url.replace("postgresql://", f"postgresql+{driver}://", 1)


def test_a_scoped_session_stands_for_the_one_of_the_thread(url: str) -> None:
    engine = sqlalchemy.create_engine(with_driver(url, "psycopg"))
    session = scoped_session(sessionmaker(engine))
    durably = SyncDurably(url)
    run = durably.trigger(echo, INPUT, connection=session)
    assert durably.get_run(run) is None
    session.commit()
    session.remove()
    found = durably.get_run(run)
    assert found is not None
    assert found.input == INPUT
    durably.close()
    engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_an_async_scoped_session_stands_for_the_one_of_the_task(url: str, driver: str) -> None:
    engine = create_async_engine(with_driver(url, driver))
    make: async_sessionmaker[AsyncSession] = async_sessionmaker(engine)
    session = async_scoped_session(make, asyncio.current_task)
    async with Durably(url) as durably:
        run = await durably.trigger(echo, INPUT, connection=session)
        assert await durably.get_run(run) is None
        await session.commit()
        await session.remove()
        found = await durably.get_run(run)
        assert found is not None
        assert found.input == INPUT
    await engine.dispose()


@pytest.mark.parametrize("factory", [psycopg.Cursor, psycopg.ClientCursor, psycopg.RawCursor])
def test_cursors_of_psycopg_take_what_they_take(url: str, factory: Any) -> None:
    durably = SyncDurably(url)
    with psycopg.connect(url, cursor_factory=factory) as connection:
        run = durably.trigger(echo, INPUT, connection=connection)
        connection.commit()
        assert durably.cancel(run, connection=connection).status == "cancelled"
    found = durably.get_run(run)
    assert found is not None
    assert (found.input, found.status) == (INPUT, "cancelled")
    durably.close()


@pytest.mark.parametrize("factory", [psycopg.AsyncCursor, psycopg.AsyncClientCursor, psycopg.AsyncRawCursor])
async def test_so_do_those_that_are_awaited(url: str, factory: Any) -> None:
    async with (
        Durably(url) as durably,
        await psycopg.AsyncConnection.connect(url, cursor_factory=factory) as connection,
    ):
        run = await durably.trigger(echo, INPUT, connection=connection)
        await connection.commit()
        found = await durably.get_run(run)
        assert found is not None
        assert found.input == INPUT


def test_a_pipeline_is_refused_and_the_transaction_goes_on(url: str) -> None:
    durably = SyncDurably(url)
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1")
        with connection.pipeline(), pytest.raises(UsageError, match="pipeline"):
            durably.trigger(echo, INPUT, connection=connection)
        assert connection.execute("SELECT 2").fetchone() == (2,)
        assert durably.trigger(echo, INPUT, connection=connection).input == INPUT
        connection.rollback()
