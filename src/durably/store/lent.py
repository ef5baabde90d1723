"""Connections that users lend us with their transaction: of which library they are, and how to talk over them.

A connection is recognised by its interface; no library is imported for it. Over each of them a statement with text and
numbers as arguments gives one value: the first column of the first row. What a driver raises is the user's to handle.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from durably.errors import UsageError

T = TypeVar("T")

Dialect: TypeAlias = Literal["sqlite", "postgres"]
Style: TypeAlias = Literal["qmark", "format", "dollar"]
Arguments: TypeAlias = Sequence[str | int | None]

_IDLE = 0
"""What libpq says of a connection without a transaction."""
KINDS = (
    "sqlite3, aiosqlite, asyncpg, psycopg and psycopg2 connections, SQLAlchemy connections and sessions, and Django "
    "connections (not an engine, a pool or a cursor)"
)


class Lent(Protocol):
    """A connection that blocks."""

    dialect: Dialect
    style: Style
    is_bound: bool
    """Whether it belongs to the thread that made it."""

    def value(self, sql: str, arguments: Arguments) -> object:
        """The first column of the first row; None when there is no row."""
        ...

    def has_transaction(self) -> bool:
        """Whether what it writes next waits for a commit of the user's. Asked after the first statement."""
        ...


@runtime_checkable
class LentAsync(Protocol):
    """A connection that is awaited."""

    dialect: Dialect
    style: Style

    async def avalue(self, sql: str, arguments: Arguments) -> object:
        """See `Lent.value`."""
        ...

    def has_transaction(self) -> bool:
        """See `Lent`."""
        ...


class Bridge:
    """A connection of SQLAlchemy's asyncio: it is awaited as a whole, and within that it is one that blocks."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    async def run(self, work: Callable[[Lent], T]) -> T:
        """Call `work` with the connection as one that blocks."""

        def blocking(raw: Any) -> T:
            return work(_Sqlalchemy(raw))

        result: T = await self._raw.run_sync(blocking)
        return result


def recognise(connection: Any) -> Lent | LentAsync | Bridge:
    """How to talk over this connection. Raises UsageError for what is none, or is of a database that we have not."""
    if _has(connection, "in_atomic_block", "vendor", "cursor"):
        return _Django(connection)
    if _has(connection, "registry", "session_factory"):
        connection = connection.registry()  # a scoped session stands for that of the thread, or of the task
    if _has(connection, "run_sync", "commit"):
        return Bridge(connection)
    if _has(connection, "exec_driver_sql", "dialect") or _has(connection, "get_bind", "connection"):
        return _Sqlalchemy(connection)
    if _has(connection, "is_in_transaction", "fetchval"):
        return _Asyncpg(connection)
    is_async = inspect.iscoroutinefunction(getattr(connection, "commit", None))
    if _has(connection, "pgconn", "info", "cursor"):
        return _PsycopgAsync(connection) if is_async else _Psycopg(connection)
    if _has(connection, "pgconn_ptr", "info", "cursor"):
        return _Psycopg2(connection)
    if _has(connection, "in_transaction", "isolation_level", "cursor"):
        return _Aiosqlite(connection) if is_async else _Sqlite(connection)
    raise UsageError(f"connection: {_described(connection)} is none that durably knows; it takes {KINDS}")


def _has(value: Any, *names: str) -> bool:
    return all(hasattr(value, name) for name in names)


def _described(value: Any) -> str:
    module, name = value.__class__.__module__, value.__class__.__name__
    return str(name) if module == "builtins" else f"{module}.{name}"


def _dialect(name: str) -> Dialect:
    if name == "sqlite":
        return "sqlite"
    if name == "postgresql":
        return "postgres"
    raise UsageError(f"connection: it is of {name}, and durably works on SQLite and PostgreSQL")


def _first(row: Any) -> object:
    """The first column of a tuple, or of what a row factory of the user's makes of one."""
    if row is None or isinstance(row, str | bytes):
        return row
    first: object = next(iter(row.values()), None) if hasattr(row, "values") else row[0]
    return first


def _tuples(_cursor: object) -> Callable[[Sequence[object]], tuple[object, ...]]:
    """A row factory of psycopg's kind."""
    return tuple


def _driver_has_transaction(raw: Any) -> bool:
    """Ask a driver's connection, whichever it is; True when it does not tell."""
    if hasattr(raw, "is_in_transaction"):
        return bool(raw.is_in_transaction())
    if _has(raw, "in_transaction", "isolation_level"):
        return _sqlite_has_transaction(raw)
    status = getattr(getattr(raw, "info", None), "transaction_status", None)
    return status is None or int(status) != _IDLE


def _sqlite_has_transaction(raw: Any) -> bool:
    """Python's sqlite3 begins one by itself before it writes, unless it was told not to."""
    begins = raw.isolation_level is not None and getattr(raw, "autocommit", None) is not True
    return begins or bool(raw.in_transaction)


class _Sqlite:
    """A connection of sqlite3, or of a module like it."""

    dialect: Dialect = "sqlite"
    style: Style = "qmark"
    is_bound = True

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def value(self, sql: str, arguments: Arguments) -> object:
        cursor = self._raw.cursor()
        try:
            cursor.row_factory = None
            return _first(cursor.execute(sql, arguments).fetchone())
        finally:
            cursor.close()

    def has_transaction(self) -> bool:
        return _sqlite_has_transaction(self._raw)


class _Aiosqlite:
    dialect: Dialect = "sqlite"
    style: Style = "qmark"

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    async def avalue(self, sql: str, arguments: Arguments) -> object:
        async with self._raw.cursor() as cursor:
            cursor.row_factory = None
            await cursor.execute(sql, arguments)
            return _first(await cursor.fetchone())

    def has_transaction(self) -> bool:
        return _sqlite_has_transaction(self._raw)


class _Asyncpg:
    """A connection, or what a pool lends in its place."""

    dialect: Dialect = "postgres"
    style: Style = "dollar"

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    async def avalue(self, sql: str, arguments: Arguments) -> object:
        found: object = await self._raw.fetchval(sql, *arguments)
        return found

    def has_transaction(self) -> bool:
        return bool(self._raw.is_in_transaction())


def _psycopg_style(raw: Any) -> Style:
    """The style of psycopg's cursors: raw ones take PostgreSQL's own. Raises UsageError where nothing has an answer."""
    if raw.pgconn.pipeline_status:
        raise UsageError("connection: it is in pipeline mode, where no statement is answered at once: leave that first")
    bases = getattr(raw.cursor_factory, "__mro__", ())
    return "dollar" if any(base.__name__ == "RawCursorMixin" for base in bases) else "format"


class _Psycopg:
    """A connection of psycopg 3. It begins a transaction with the first statement, unless autocommit is on."""

    dialect: Dialect = "postgres"
    is_bound = False

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.style: Style = _psycopg_style(raw)

    def value(self, sql: str, arguments: Arguments) -> object:
        with self._raw.cursor(row_factory=_tuples) as cursor:
            cursor.execute(sql, arguments)
            return None if cursor.description is None else _first(cursor.fetchone())

    def has_transaction(self) -> bool:
        return _driver_has_transaction(self._raw)


class _Psycopg2:
    """A connection of psycopg2, whose cursors take their factory in another way. Its rows have names or places."""

    dialect: Dialect = "postgres"
    style: Style = "format"
    is_bound = False

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def has_transaction(self) -> bool:
        return _driver_has_transaction(self._raw)

    def value(self, sql: str, arguments: Arguments) -> object:
        with self._raw.cursor() as cursor:
            cursor.execute(sql, arguments)
            return None if cursor.description is None else _first(cursor.fetchone())


class _PsycopgAsync:
    dialect: Dialect = "postgres"

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.style: Style = _psycopg_style(raw)

    async def avalue(self, sql: str, arguments: Arguments) -> object:
        async with self._raw.cursor(row_factory=_tuples) as cursor:
            await cursor.execute(sql, arguments)
            return None if cursor.description is None else _first(await cursor.fetchone())

    def has_transaction(self) -> bool:
        return _driver_has_transaction(self._raw)


class _Django:
    """`django.db.connection`. Its cursors take `%s` for every database."""

    style: Style = "format"
    is_bound = True

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.dialect: Dialect = _dialect(raw.vendor)

    def value(self, sql: str, arguments: Arguments) -> object:
        with self._raw.cursor() as cursor:
            cursor.execute(sql, arguments)
            return None if cursor.description is None else _first(cursor.fetchone())

    def has_transaction(self) -> bool:
        return bool(self._raw.in_atomic_block) or not self._raw.get_autocommit()


class _Sqlalchemy:
    """A connection or a session. It begins a transaction with the first statement, unless autocommit is on."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw if hasattr(raw, "exec_driver_sql") else raw.connection()
        dialect = self._raw.dialect
        self.dialect: Dialect = _dialect(dialect.name)
        self.is_bound = self.dialect == "sqlite"
        self.style: Style = "format"
        if self.dialect == "sqlite":
            self.style = "qmark"
        elif dialect.paramstyle == "numeric_dollar":
            self.style = "dollar"

    def value(self, sql: str, arguments: Arguments) -> object:
        result = self._raw.exec_driver_sql(sql, tuple(arguments))
        return result.scalar() if result.returns_rows else None

    def has_transaction(self) -> bool:
        return _driver_has_transaction(self._raw.connection.driver_connection)
