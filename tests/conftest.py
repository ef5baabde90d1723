"""Fixtures for all tests. A missing PostgreSQL is an error, never a skip."""

from __future__ import annotations

import asyncio
import shutil
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from durably.environment import SystemEnvironment
from durably.store.database import Database, open_database
from tests.support import gate
from tests.support.gate import Gate
from tests.support.store import STORE_KINDS, TABLES, Store, StoreKind, fill
from tools.postgres_server import PostgresServer, start_server

if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it runs in the background with SIGINT ignored, and processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Give the server that a test process shares; a test that stops one starts its own."""
    with start_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Give a database of the test's own, empty."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give an empty database of either kind that processes can share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def go(tmp_path: Path) -> Iterator[Gate]:
    """Give a closed gate, the FIFO `go` in the test's folder, with a copy of the module for the programs there."""
    shutil.copy(gate.__file__, tmp_path)
    made = Gate(tmp_path / "go")
    yield made
    made.close()


@pytest.fixture(scope="session")
def shared_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Give a migrated database that is emptied before each use."""

    async def migrate() -> None:
        database = open_database(shared, environment=SystemEnvironment())
        await database.open()
        await database.close()

    shared = postgres_server.create_database()
    asyncio.run(migrate())
    yield shared
    postgres_server.drop_database(shared)


@pytest.fixture(params=STORE_KINDS)
def store_kind(request: pytest.FixtureRequest) -> StoreKind:
    """Say which database the test runs on: on every one, unless it is marked otherwise."""
    kind: StoreKind = request.param
    return kind


@pytest.fixture
def store_url(store_kind: StoreKind, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a database of that kind."""
    if store_kind == "postgres":
        url: str = request.getfixturevalue("shared_postgres_url")
        return url
    return f"sqlite:///{tmp_path / 'store.db'}" if store_kind == "sqlite-file" else "sqlite:///:memory:"


@pytest.fixture
async def store(store_kind: StoreKind, store_url: str) -> AsyncIterator[Store]:
    """Give an empty, open database with the words of `tests/support/store.py`."""
    async with Store(store_kind, store_url) as opened:
        if opened.is_postgres:
            tables = ", ".join(f"{{{table}}}" for table in TABLES)
            await opened.sql(fill(f"TRUNCATE {tables} RESTART IDENTITY", postgres=True))
        yield opened


@pytest.fixture
def database(store: Store) -> Database:
    """Give an empty, open database of each kind."""
    return store.database
