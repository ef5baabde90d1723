"""Connections of users, one library after the other, with the same words for each: begin, insert, commit, roll back."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiosqlite
import asyncpg
import django
import psycopg
import psycopg2
import psycopg2.extras
import sqlalchemy
from django.conf import settings
from django.db.utils import ConnectionHandler
from psycopg.rows import DictRow, dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

T = TypeVar("T")

CREATE = "CREATE TABLE IF NOT EXISTS orders (name TEXT PRIMARY KEY)"


class Lending(ABC):
    """A connection of the user's. `is_blocking`: SyncDurably takes it too."""

    is_blocking = False
    is_django = False

    def __init__(self, url: str) -> None:
        self.url = url
        self.stack = AsyncExitStack()
        self.connection: Any = None

    @property
    def path(self) -> str:
        return self.url.removeprefix("sqlite:///")

    @abstractmethod
    async def open(self, *, autocommit: bool = False) -> None:
        """Connect. What is written next waits for `commit`, unless autocommit is on."""

    async def execute(self, sql: str) -> None:
        found = self.connection.execute(sql)
        if inspect.isawaitable(found):
            await found

    async def insert(self, name: str) -> None:
        """Write a row of the user's own."""
        await self.execute(f"INSERT INTO orders (name) VALUES ('{name}')")

    async def commit(self) -> None:
        await self._end("commit")

    async def rollback(self) -> None:
        await self._end("rollback")

    async def _end(self, how: str) -> None:
        found = getattr(self.connection, how)()
        if inspect.isawaitable(found):
            await found

    async def do(self, fn: Callable[[], T]) -> T:
        """Call blocking code in the connection's thread."""
        return fn()

    async def close(self) -> None:
        await self.stack.aclose()


# --- SQLite -----------------------------------------------------------------------------------------------


class Sqlite3(Lending):
    is_blocking = True

    async def open(self, *, autocommit: bool = False) -> None:
        self.connection = sqlite3.connect(self.path, isolation_level=None if autocommit else "DEFERRED")
        self.stack.callback(self.connection.close)


class Sqlite3Hostile(Sqlite3):
    """Rows are of a class of its own, texts are bytes, and types are guessed from what columns are called."""

    async def open(self, *, autocommit: bool = False) -> None:
        detect = sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES
        self.connection = sqlite3.connect(
            self.path, isolation_level=None if autocommit else "IMMEDIATE", detect_types=detect
        )
        self.connection.row_factory = sqlite3.Row
        self.connection.text_factory = bytes
        self.stack.callback(self.connection.close)


class Aiosqlite(Lending):
    async def open(self, *, autocommit: bool = False) -> None:
        self.connection = await aiosqlite.connect(self.path, isolation_level=None if autocommit else "DEFERRED")
        self.connection.row_factory = aiosqlite.Row
        self.stack.push_async_callback(self.connection.close)


# --- PostgreSQL -------------------------------------------------------------------------------------------


class Asyncpg(Lending):
    _transaction: Any = None

    async def open(self, *, autocommit: bool = False) -> None:
        self.connection = await asyncpg.connect(self.url)
        self.stack.push_async_callback(self.connection.close)
        if not autocommit:
            self._transaction = self.connection.transaction()
            await self._transaction.start()

    async def _end(self, how: str) -> None:
        """What comes next is another transaction, as with the other libraries."""
        await getattr(self._transaction, how)()
        self._transaction = self.connection.transaction()
        await self._transaction.start()


class AsyncpgPooled(Asyncpg):
    """Lent by a pool, with codecs of the user's and a search path that leads elsewhere."""

    async def open(self, *, autocommit: bool = False) -> None:
        pool = await self.stack.enter_async_context(asyncpg.create_pool(self.url, min_size=1, max_size=1))
        self.connection = await self.stack.enter_async_context(pool.acquire())
        for type_ in ("json", "jsonb", "timestamptz", "uuid"):
            await self.connection.set_type_codec(type_, schema="pg_catalog", encoder=str, decoder=len, format="text")
        await self.connection.execute("SET search_path = public; SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'")
        if not autocommit:
            self._transaction = self.connection.transaction()
            await self._transaction.start()


class Psycopg(Lending):
    is_blocking = True

    async def open(self, *, autocommit: bool = False) -> None:
        self.connection = psycopg.connect(self.url, autocommit=autocommit)
        self.stack.callback(self.connection.close)


class PsycopgHostile(Psycopg):
    async def open(self, *, autocommit: bool = False) -> None:
        self.connection = psycopg.Connection[DictRow].connect(
            self.url, autocommit=autocommit, row_factory=dict_row, cursor_factory=psycopg.ClientCursor[DictRow]
        )
        self.stack.callback(self.connection.close)


class Psycopg2(Lending):
    is_blocking = True
    factory: Any = None

    async def open(self, *, autocommit: bool = False) -> None:
        self.connection = psycopg2.connect(self.url, cursor_factory=self.factory)
        self.connection.autocommit = autocommit
        self.stack.callback(self.connection.close)

    async def execute(self, sql: str) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(sql)


class Psycopg2Hostile(Psycopg2):
    factory = psycopg2.extras.RealDictCursor


class PsycopgAsync(Lending):
    async def open(self, *, autocommit: bool = False) -> None:
        self.connection = await psycopg.AsyncConnection[DictRow].connect(
            self.url, autocommit=autocommit, row_factory=dict_row
        )
        self.stack.push_async_callback(self.connection.close)


# --- SQLAlchemy -------------------------------------------------------------------------------------------


class Sqlalchemy(Lending):
    is_blocking = True
    driver = "psycopg"

    def engine_url(self) -> str:
        return self.url.replace("postgresql://", f"postgresql+{self.driver}://")

    async def open(self, *, autocommit: bool = False) -> None:
        options = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
        engine = sqlalchemy.create_engine(self.engine_url(), **options)
        self.stack.callback(engine.dispose)
        self.connection = self.connect(engine)
        self.stack.callback(self.connection.close)

    def connect(self, engine: sqlalchemy.Engine) -> Any:
        return engine.connect()

    async def execute(self, sql: str) -> None:
        found = self.connection.execute(sqlalchemy.text(sql))
        if inspect.isawaitable(found):
            await found


class SqlalchemyPsycopg2(Sqlalchemy):
    driver = "psycopg2"


class SqlalchemySession(Sqlalchemy):
    def connect(self, engine: sqlalchemy.Engine) -> Any:
        return Session(engine)


class SqlalchemyAsync(Sqlalchemy):
    is_blocking = False
    driver = "asyncpg"

    def engine_url(self) -> str:
        return super().engine_url().replace("sqlite://", "sqlite+aiosqlite://")

    async def open(self, *, autocommit: bool = False) -> None:
        options = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
        engine = create_async_engine(self.engine_url(), **options)
        self.stack.push_async_callback(engine.dispose)
        self.connection = await self.stack.enter_async_context(self.connect_async(engine))

    def connect_async(self, engine: Any) -> Any:
        return engine.connect()


class SqlalchemyAsyncSession(SqlalchemyAsync):
    def connect_async(self, engine: Any) -> Any:
        return AsyncSession(engine)


class SqlalchemyAsyncPsycopg(SqlalchemyAsyncSession):
    driver = "psycopg"


# --- Django -----------------------------------------------------------------------------------------------


class Django(Lending):
    """Its connections belong to a thread, and refuse to work in one with an event loop."""

    is_blocking = True
    is_django = True

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._thread = ThreadPoolExecutor(1)
        self._atomic = ExitStack()

    async def open(self, *, autocommit: bool = False) -> None:
        if not settings.configured:
            settings.configure()
            django.setup()
        await self.do(lambda: self._open(autocommit=autocommit))

    def _open(self, *, autocommit: bool) -> None:
        parts = urlsplit(self.url)
        if parts.scheme == "sqlite":
            database: dict[str, Any] = {"ENGINE": "django.db.backends.sqlite3", "NAME": self.path}
        else:
            database = {"ENGINE": "django.db.backends.postgresql", "NAME": parts.path[1:], "HOST": parts.hostname,
                        "PORT": parts.port, "USER": parts.username, "PASSWORD": parts.password or ""}  # fmt: skip
        self.connection = ConnectionHandler({"default": database})["default"]
        self.connection.connect()
        if not autocommit:
            self.connection.set_autocommit(False, force_begin_transaction_with_broken_autocommit=True)

    async def execute(self, sql: str) -> None:
        await self.do(lambda: self.connection.cursor().execute(sql))

    async def _end(self, how: str) -> None:
        await self.do(getattr(self.connection, how))

    async def do(self, fn: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, fn)

    async def close(self) -> None:
        if self.connection is not None:
            await self.do(self.connection.close)
        self._thread.shutdown()


LIBRARIES: dict[str, Sequence[type[Lending]]] = {
    "sqlite": (
        Sqlite3,
        Sqlite3Hostile,
        Aiosqlite,
        Sqlalchemy,
        SqlalchemySession,
        SqlalchemyAsync,
        SqlalchemyAsyncSession,
        Django,
    ),
    "postgres": (
        Asyncpg,
        AsyncpgPooled,
        Psycopg,
        PsycopgHostile,
        Psycopg2,
        Psycopg2Hostile,
        PsycopgAsync,
        Sqlalchemy,
        SqlalchemyPsycopg2,
        SqlalchemySession,
        SqlalchemyAsync,
        SqlalchemyAsyncSession,
        SqlalchemyAsyncPsycopg,
        Django,
    ),
}
