"""A user with a database, a connection of a library to it, and a Durably beside it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import asyncpg
import pytest

from durably import Durably, Run, SyncDurably
from tests.support.lending import CREATE, LIBRARIES, Lending
from tests.support.store import TABLES, fill

Facade = Literal["async", "sync"]
SECONDS = 60.0


def pairs() -> Iterator[Any]:
    """Every library on its databases, with every facade that takes it."""
    for kind, libraries in LIBRARIES.items():
        for library in libraries:
            if not library.is_django:
                yield pytest.param((kind, library, "async"), id=f"{kind}-{library.__name__}-async")
            if library.is_blocking:
                yield pytest.param((kind, library, "sync"), id=f"{kind}-{library.__name__}-sync")


def libraries() -> Iterator[Any]:
    """Every library on its databases, with one facade: the blocking one where it can."""
    for kind, several in LIBRARIES.items():
        for library in several:
            facade = "sync" if library.is_blocking else "async"
            yield pytest.param((kind, library, facade), id=f"{kind}-{library.__name__}-{facade}")


class User:
    """A user who has a transaction open."""

    def __init__(self, kind: str, url: str, lending: Lending, facade: Facade) -> None:
        self.kind = kind
        self.url = url
        self.lending = lending
        self.durably = Durably(url, poll_interval=timedelta(milliseconds=50))
        self.blocking = SyncDurably(url)
        self._facade = facade

    @property
    def connection(self) -> Any:
        return self.lending.connection

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the facade with the user's connection."""
        options["connection"] = self.connection
        if self._facade == "async":
            return await getattr(self.durably, method)(*arguments, **options)
        return await self.lending.do(lambda: getattr(self.blocking, method)(*arguments, **options))

    async def trigger(self, *arguments: Any, **options: Any) -> Run[Any]:
        run: Run[Any] = await self.call("trigger", *arguments, **options)
        return run

    async def orders(self) -> list[str]:
        """The user's own rows that are committed."""
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as raw:
                return [name for (name,) in raw.execute("SELECT name FROM orders ORDER BY name")]
        connection = await asyncpg.connect(self.url)
        try:
            return [row["name"] for row in await connection.fetch("SELECT name FROM orders ORDER BY name")]
        finally:
            await connection.close()


async def prepare(kind: str, url: str) -> None:
    """Make the user's table, and empty all."""
    if kind == "sqlite":
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as raw:
            raw.execute(CREATE)
        return
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(CREATE)
        tables = ", ".join(f"{{{table}}}" for table in TABLES)
        await connection.execute(fill(f"TRUNCATE {tables}, orders RESTART IDENTITY", postgres=True))
    finally:
        await connection.close()


async def make_user(kind: str, url: str, library: type[Lending], facade: Facade) -> AsyncIterator[User]:
    found = User(kind, url, library(url), facade)
    async with found.durably:
        await prepare(kind, url)
        try:
            yield found
        finally:
            await found.lending.close()
            await asyncio.to_thread(found.blocking.close)


def url_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/app.db"
    url: str = request.getfixturevalue("shared_postgres_url")
    return url


@pytest.fixture(params=pairs())
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, type[Lending], Facade]:
    """Name a database, a library and a facade."""
    kind, library, facade = request.param
    return kind, url_of(kind, request, tmp_path), library, facade


@pytest.fixture(params=libraries())
def each_place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, type[Lending], Facade]:
    """Name a database and a library, with one facade."""
    kind, library, facade = request.param
    return kind, url_of(kind, request, tmp_path), library, facade


@pytest.fixture(params=["sqlite", "postgres"])
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, type[Lending], Facade]:
    """Name a database and the first of its libraries."""
    kind: str = request.param
    return kind, url_of(kind, request, tmp_path), LIBRARIES[kind][0], "async"


@pytest.fixture
async def user(place: tuple[str, str, type[Lending], Facade]) -> AsyncIterator[User]:
    """Give a user of each library with each facade, whose connection is not open yet."""
    async for found in make_user(*place):
        yield found


@pytest.fixture
async def each_user(each_place: tuple[str, str, type[Lending], Facade]) -> AsyncIterator[User]:
    """Give a user of each library with one facade."""
    async for found in make_user(*each_place):
        yield found


@pytest.fixture
async def any_user(any_place: tuple[str, str, type[Lending], Facade]) -> AsyncIterator[User]:
    """Give a user of the first library of each database."""
    async for found in make_user(*any_place):
        yield found
