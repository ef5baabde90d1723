"""Listening on PostgreSQL goes on, whatever happens to its connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from durably.environment import SystemEnvironment
from durably.store import postgres_wake
from durably.store.operation import Wake
from durably.store.postgres_wake import PostgresWaker
from durably.store.url import parse_url
from tests.support.store import Store

LISTENERS = (
    "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'COMMIT%'"
)


@pytest.fixture
async def heard(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Queue[Wake]]:
    """Give what a waker calls back with. It tries again at once, and looks after its connection once an hour."""
    monkeypatch.setattr(postgres_wake, "_FIRST_RETRY", 0.01)
    monkeypatch.setattr(postgres_wake, "_CHECK_EVERY", 3600.0)
    waker = PostgresWaker(parse_url(postgres_url), "durably", SystemEnvironment())
    wakes: asyncio.Queue[Wake] = asyncio.Queue()
    waker.listen(wakes.put_nowait)
    yield wakes
    await waker.close()


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the first attempt to listen fail, as asyncpg does when it is cut off in the wrong moment."""
    add_listener = asyncpg.Connection.add_listener
    met: list[str] = []

    async def breaking(self: Any, channel: str, callback: Any) -> None:
        if not met:
            met.append(channel)
            raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")
        await add_listener(self, channel, callback)

    monkeypatch.setattr(asyncpg.Connection, "add_listener", breaking)
    return met


async def test_an_error_within_the_driver_does_not_end_the_listening(
    broken: list[str], heard: asyncio.Queue[Wake]
) -> None:
    assert await heard.get() == Wake.WORK | Wake.EVENTS | Wake.CANCEL
    assert broken == ["durably_durably"]


async def test_a_connection_that_the_server_ended_is_made_again_at_once(
    heard: asyncio.Queue[Wake], postgres_url: str
) -> None:
    await heard.get()
    async with Store("postgres", postgres_url) as store:
        assert await store.value(f"SELECT count(pg_terminate_backend(pid)) {LISTENERS}") >= 1
        assert await heard.get() == Wake.WORK | Wake.EVENTS | Wake.CANCEL
        await store.trigger()
        assert await heard.get() & Wake.WORK
