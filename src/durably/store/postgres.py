"""PostgreSQL through asyncpg: a connection for each lane, the database's own clock, LISTEN for wake-ups.

A transaction of one statement is sent bare, without BEGIN and COMMIT around it. A connection that failed is thrown
away; the caller repeats what was in doubt, which is safe (`store-rules`, section 1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import asyncpg

from durably.environment import Environment
from durably.errors import DatabaseRefused, DatabaseUnavailable, ValidationError
from durably.store import catalogue
from durably.store.engine import Channel, LockTimeout
from durably.store.migrate import Applied, Migration, Mode, migrations, pending
from durably.store.operation import Rows, Statement, Wake
from durably.store.postgres_bind import Block
from durably.store.postgres_connect import connect
from durably.store.postgres_wake import PostgresWaker
from durably.store.url import DatabaseUrl

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

_LOCK_TIMEOUT_MS = 100
_IDLE_TIMEOUT_MS = 5000
"""After so long within a transaction the server gives up on us: a machine that lost its power says no goodbye, and what
it has locked would stay locked."""
_SCHEMA_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")

# The tables' statistics lag behind a burst of runs, and a prepared statement keeps its plan. Every statement here is
# written for its index, so a plan that reads a whole table, or sorts what an index has in order, is never wanted.
# The order of locks and looks is made for READ COMMITTED, whatever somebody set as the default.
_ISOLATION: Literal["read_committed"] = "read_committed"
_PLANNER = (
    "SET enable_seqscan = off; SET enable_sort = off; SET jit = off; "
    "SET default_transaction_isolation = 'read committed'"
)
# Where the same few statements are sent all the time, they are planned once: planning took longer than executing. That
# plan expects few rows, so a loop within a loop is ruled out; and a bitmap, which locks runs in the order of their
# pages.
_HOT = {Channel.FAST, Channel.CLAIM}
_HOT_PLANNER = "SET plan_cache_mode = force_generic_plan; SET enable_nestloop = off; SET enable_bitmapscan = off"

_PASSING_CLASSES = {"08", "40", "53", "57", "58"}
"""Of SQLSTATE: connections, rollbacks, resources, the operator, the system. Not XX: what is corrupted stays so."""
_PASSING_STATES = {
    "25006",  # read-only: a standby, until another server is found under this name
    "25P03",  # idle in a transaction for too long
    "25P04",  # in a transaction for too long
    "26000",  # no such prepared statement: a pooler, or DISCARD ALL; a new connection knows where it is
    "42P05",  # or there is one already
}
_PASSING = (asyncpg.InterfaceError, asyncpg.exceptions.InternalClientError, OSError)
"""Of those that are not the server's. A TimeoutError is an OSError."""
_REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.exceptions.ObjectNotInPrerequisiteStateError,  # the database does not accept connections
    asyncpg.exceptions.ClientConfigurationError,
)


class PostgresEngine:
    """One PostgreSQL database, its tables in one schema."""

    is_shared = True
    is_parallel = True

    def __init__(self, url: DatabaseUrl, environment: Environment, schema: str) -> None:
        if not schema or not set(schema) <= _SCHEMA_LETTERS or schema[0].isdigit():
            raise ValidationError("schema", f"{schema!r} is no plain name: use lower-case letters, digits and _")
        self._url = url
        self._environment = environment
        self._schema = schema
        self._prefix = f'"{schema}".'
        self._sql = {name: Block(sqls) for name, sqls in catalogue.load("postgres", self._prefix).items()}
        self._links = {channel: _Link(url, channel) for channel in (Channel.FAST, Channel.KEYED, Channel.CLAIM)}
        self._waker = PostgresWaker(url, schema, environment)

    async def open(self, mode: Mode) -> None:
        """See `Engine`."""
        link = self._links[Channel.KEYED]
        for one in self._links.values():
            one.is_open = True
        async with link.lock:
            connection = await link.connected()
            known = migrations("postgres", self._prefix)
            while True:
                async with _translated(link):
                    left = await self._migrate_once(connection, known, mode)
                if not left:
                    return

    async def close(self) -> None:
        """See `Engine`."""
        try:
            await self._waker.close()
        finally:
            for link in self._links.values():
                link.is_open = False
            await asyncio.gather(*(link.close() for link in self._links.values()))

    async def transact(self, statements: Sequence[Statement], channel: Channel, *, readonly: bool) -> list[Rows]:
        """See `Engine`. Reads share the keyed lane's connection."""
        link = self._links.get(Channel.KEYED if channel is Channel.READ else channel)
        if link is not None:
            async with link.lock:
                return await self._transact(link, statements, readonly=readonly)
        aside = _Link(self._url, channel)
        aside.is_open = True
        try:
            return await self._transact(aside, statements, readonly=readonly)
        finally:
            await aside.close()

    async def _transact(self, link: _Link, statements: Sequence[Statement], *, readonly: bool) -> list[Rows]:
        connection = await link.connected()
        plan = [(sql, arguments) for statement in statements for sql, arguments in self._bind(statement)]
        async with _translated(link):
            if (len(plan) == 1 or readonly) and not link.is_pooled:
                return [await connection.fetch(sql, *arguments) for sql, arguments in plan]
            async with connection.transaction(isolation=_ISOLATION):
                if link.is_pooled:
                    await connection.execute(link.settings.replace("SET ", "SET LOCAL "))
                return [await connection.fetch(sql, *arguments) for sql, arguments in plan]

    def twin(self) -> PostgresEngine:
        """See `Engine`."""
        return PostgresEngine(self._url, self._environment, self._schema)

    def listen(self, callback: Callable[[Wake], None]) -> None:
        """See `Engine`."""
        self._waker.listen(callback)

    def notify(self, wake: Wake) -> None:
        """See `Engine`."""
        self._waker.notify(wake, self._links[Channel.KEYED].execute)

    def _bind(self, statement: Statement) -> list[tuple[str, list[object]]]:
        return self._sql[statement.name].bind(statement.params)

    async def _migrate_once(self, connection: Connection, known: Sequence[Migration], mode: Mode) -> int:
        """Apply the first missing migration in a transaction of its own. Returns how many are left."""
        prefix = self._prefix
        async with connection.transaction(isolation=_ISOLATION):
            await connection.execute("SET LOCAL lock_timeout = 0")  # another process may take its time to migrate
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"durably {self._schema}")
            exists = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{prefix}migrations")
            applied = await self._applied(connection) if exists else Applied(0, 0)
            missing = pending(known, applied, mode)
            if not missing:
                return 0
            if not exists:
                await connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{self._schema}"')
                await connection.execute(
                    f"CREATE TABLE {prefix}migrations (version integer PRIMARY KEY, name text NOT NULL, "
                    "serves integer NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
                )
            for statement in missing[0].statements:
                await connection.execute(statement)
            await connection.execute(
                f"INSERT INTO {prefix}migrations (version, name, serves) VALUES ($1, $2, $3)",  # noqa: S608  # a checked name
                missing[0].version,
                missing[0].name,
                missing[0].serves,
            )
            return len(missing) - 1

    async def _applied(self, connection: Connection) -> Applied:
        rows = await connection.fetch(
            "SELECT coalesce(max(version), 0) AS version, coalesce(max(serves), 0) AS serves "  # noqa: S608  # a checked name
            f"FROM {self._prefix}migrations"
        )
        return Applied(rows[0]["version"], rows[0]["serves"])


def settings(channel: Channel) -> str:
    """What a channel's connection is told first."""
    planner = f"{_PLANNER}; {_HOT_PLANNER}" if channel in _HOT else _PLANNER
    waits = 0 if channel is Channel.ASIDE else _LOCK_TIMEOUT_MS
    return f"{planner}; SET lock_timeout = {waits}; SET idle_in_transaction_session_timeout = {_IDLE_TIMEOUT_MS}"


class _Link:
    """One connection, made when it is needed and again after it failed; used by one transaction at a time."""

    def __init__(self, url: DatabaseUrl, channel: Channel) -> None:
        self._url = url
        self._raw: Connection | None = None
        self.lock = asyncio.Lock()
        self.is_open = False
        """A write that comes behind `close` makes no new connection, for nobody would close it."""
        self.is_pooled = False
        self.settings = settings(channel)

    async def connected(self) -> Connection:
        """The live connection. Raises DatabaseUnavailable."""
        if not self.is_open:
            raise DatabaseUnavailable("it is not open")
        if self._raw is None or self._raw.is_closed():
            async with _translated(self):
                self._raw = await connect(self._url)
                if not self.is_open:
                    raise ConnectionError("closed while it connected")
                self.is_pooled = await is_pooled(self._raw)
                if self.is_pooled:
                    await self.close()
                    self._raw = await connect(self._url, statement_cache_size=0)
                else:
                    await self._raw.execute(self.settings)
        return self._raw

    async def execute(self, sql: str, *arguments: object) -> None:
        """One statement between transactions."""
        async with self.lock:
            connection = await self.connected()
            async with _translated(self):
                if not self.is_pooled:
                    await connection.execute(sql, *arguments)
                    return
                async with connection.transaction():  # keeps what is prepared and executed in one session
                    await connection.execute(sql, *arguments)

    def drop(self) -> None:
        """Throw the connection away: its state is not known."""
        if self._raw is not None:
            self._raw.terminate()
            self._raw = None

    async def close(self) -> None:
        """Close in good order, or within two seconds in any case."""
        if self._raw is not None:
            raw, self._raw = self._raw, None
            try:
                await raw.close(timeout=2)
            except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                raw.terminate()


async def is_pooled(connection: Connection) -> bool:
    """Whether a pooler sits between: it hands out process ids of its own.

    Asked in the simple protocol: behind a pooler, a statement is prepared in one session and executed in another one.
    """
    pid = int(connection.get_server_pid())
    return await connection.execute(f"SELECT 1 WHERE pg_backend_pid() = {pid}") == "SELECT 0"


class _translated:  # noqa: N801  # used like a function
    """Turns asyncpg's errors into the engine's. Drops the connection when its state is not known."""

    def __init__(self, link: _Link) -> None:
        self._link = link

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, (DatabaseUnavailable, ValueError)):
            return  # a ValueError is a parameter that the driver cannot send: no fault of the connection
        if isinstance(error, asyncpg.LockNotAvailableError):
            raise LockTimeout from error
        if isinstance(error, _REFUSED):
            self._link.drop()
            raise DatabaseUnavailable(f"the server refused the connection: {_first_line(error)}") from error
        if _is_passing(error):
            if not isinstance(error, asyncpg.exceptions.TransactionRollbackError):
                self._link.drop()
            raise DatabaseUnavailable(_first_line(error)) from error
        if isinstance(error, asyncpg.PostgresError):
            is_constraint = isinstance(error, asyncpg.IntegrityConstraintViolationError)
            raise DatabaseRefused(_text(error) or type(error).__name__, is_constraint=is_constraint) from error
        if isinstance(error, asyncio.CancelledError):
            self._link.drop()


def _is_passing(error: BaseException) -> bool:
    """Whether asking again, later and maybe over another connection, may help."""
    if not isinstance(error, asyncpg.PostgresError):
        return isinstance(error, _PASSING)
    state = str(error.sqlstate)
    return state[:2] in _PASSING_CLASSES or state in _PASSING_STATES


def _first_line(error: BaseException) -> str:
    text = _text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _text(error: BaseException) -> str:
    """What the server says, without the details in the lines below, which may hold values."""
    return str(error).partition("\n")[0]
