"""SQLite through the standard library: one writer thread, one reader thread, wake-ups between processes.

Every write transaction is BEGIN IMMEDIATE, or one statement, which takes the same lock before it reads: a deferred one
that upgrades gets "database is locked", which no timeout cures. SQLite's own busy handler is off; a busy database is
retried after a random 0.1 to 4 ms, so that none starves.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from durably.environment import Environment
from durably.errors import DatabaseRefused, DatabaseUnavailable, SchemaError
from durably.store import catalogue, rows
from durably.store.engine import Channel
from durably.store.migrate import Applied, Migration, Mode, migrations, pending
from durably.store.operation import Batch, Rows, Scalar, Statement, Wake
from durably.store.sqlite_calls import Block, Calls, Opened, Parts, connect
from durably.store.url import DatabaseUrl

if TYPE_CHECKING:
    from durably.environment import Executor
    from durably.store.sqlite_wake import FileWaker

_PREFIX = "durably_"
_BUSY_FOR = 10.0
_FIRST_WAIT, _LAST_WAIT = 0.0001, 0.004
_BUSY_CODES = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_PASSING_CODES = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}


class _Busy(Exception):  # not a fault: the writer tries again
    """Another process is writing."""


class SqliteEngine:
    """One SQLite file, or one database in memory."""

    is_parallel = False

    def __init__(
        self,
        url: DatabaseUrl,
        environment: Environment,
        *,
        shared_with: SqliteEngine | None = None,
        connect: Callable[[DatabaseUrl], Opened] = connect,
    ) -> None:
        self._url = url
        self._connect = connect
        self._environment = environment
        self.is_shared = url.location != ":memory:"
        self._owner = shared_with
        self._sql = catalogue.load("sqlite", _PREFIX)
        self._parts = Parts(self._sql)
        self._texts: dict[tuple[str, frozenset[str]], tuple[str, ...]] = {}
        self._writer: _Connection | None = None
        self._reader: _Connection | None = None
        self._connections: WeakSet[_Connection] = WeakSet() if shared_with is None else shared_with._connections  # noqa: SLF001  # with a twin's
        self._waker = _waker(url, environment) if self.is_shared and shared_with is None else None

    async def open(self, mode: Mode) -> None:
        """See `Engine`."""
        if self._owner is not None and not self.is_shared:
            return
        if mode == "check" and self.is_shared and not _exists(self._url.location):
            remedy = 'open it once with migrate="auto", or make it with `durably migrate`'
            raise SchemaError(f"there is no database {self._url.shown}: {remedy}", version=0)
        self._writer = self._connection("durably-writer")
        await self._retried(self._writer, self._writer.open)
        await self._migrate(self._writer, mode)
        if self.is_shared and self._owner is None:
            self._reader = self._connection("durably-reader")
            await self._retried(self._reader, self._reader.open)

    async def close(self) -> None:
        """See `Engine`."""
        if self._waker is not None:
            self._waker.close()
        for connection in (self._reader, self._writer):
            if connection is not None:
                self._connections.discard(connection)
                await connection.close()
        self._reader = self._writer = None

    async def transact(self, statements: Sequence[Statement], channel: Channel, *, readonly: bool) -> list[Rows]:
        """See `Engine`."""
        writer = self._writer if self._writer is not None or self._owner is None else self._owner._writer  # noqa: SLF001  # a twin in memory shares it
        reading = readonly and channel is Channel.READ and self._reader is not None
        connection = self._reader if reading else writer
        if connection is None:
            raise DatabaseUnavailable("it is not open")
        plan = [self._bind(statement, place) for place, statement in enumerate(statements)]
        return await self._retried(connection, lambda: connection.transact(plan, readonly=readonly))

    def twin(self) -> SqliteEngine:
        """See `Engine`."""
        return SqliteEngine(self._url, self._environment, shared_with=self, connect=self._connect)

    def listen(self, callback: Callable[[Wake], None]) -> None:
        """See `Engine`."""
        if self._waker is not None:
            self._waker.listen(callback)

    def notify(self, wake: Wake) -> None:
        """See `Engine`."""
        if self._waker is not None:
            self._waker.notify(wake)

    def _connection(self, name: str) -> _Connection:
        made = _Connection(self._url, self._environment, name, self._reconnect, self._connect)
        self._connections.add(made)
        return made

    def _reconnect(self) -> None:
        """Connect anew, all of this process: a file that was read-only stays so until all have let go of it."""
        for connection in tuple(self._connections) if self.is_shared else ():
            connection.reconnect()

    async def _retried(self, connection: _Connection, work: Callable[[], list[Rows]]) -> list[Rows]:
        """Do blocking work in the connection's thread, again and again while another process writes."""
        give_up = asyncio.get_running_loop().time() + _BUSY_FOR
        wait = _FIRST_WAIT
        while True:
            try:
                return await connection.call(work)
            except _Busy as error:
                if asyncio.get_running_loop().time() >= give_up:
                    raise DatabaseUnavailable(f"{self._url.shown} is locked by another process") from error
                await asyncio.sleep(wait * (0.5 + self._environment.random() / 2))
                wait = min(wait * 2, _LAST_WAIT)

    async def _migrate(self, connection: _Connection, mode: Mode) -> None:
        known = migrations("sqlite", _PREFIX)
        now = self._environment.now_us()

        def apply() -> list[Rows]:
            connection.migrate(known, mode, now)
            return []

        await self._retried(connection, apply)

    def _bind(self, statement: Statement, place: int) -> Block:
        params, now = statement.params, self._environment.now_us()

        def scalar(name: str) -> object:
            value = now if name == "now" else place if name == "block" else params[name]
            return None if isinstance(value, Batch) else _value(value)

        parts = self._parts.of(statement.name, params)
        if parts is not None:
            made = [(part, calls) for part in parts if (calls := part.calls(params, scalar))]
            ahead = [part.collects(calls) for part, calls in made]
            return Block(
                parts=tuple(part for part, _ in made),
                calls=[calls for (_, calls), collected in zip(made, ahead, strict=True) if collected is None],
                collected=[collected for collected in ahead if collected is not None],
            )
        batches = {name: value.rows for name, value in params.items() if isinstance(value, Batch)}
        filled = frozenset(name for name, found in batches.items() if found)
        texts = self._texts.get((statement.name, filled))
        if texts is None:
            chosen = [catalogue.chosen(sql, filled) for sql in self._sql[statement.name]]
            texts = self._texts[statement.name, filled] = tuple(
                sql.text for sql in chosen if sql is not None and sql.text
            )
        bound = {name: scalar(name) for name in ("now", "block", *params)}
        bound.update({name: _encode(found) for name, found in batches.items()})
        return Block(texts=texts, params=bound)


def _exists(path: str) -> bool:
    return Path(path).exists()


def _waker(url: DatabaseUrl, environment: Environment) -> FileWaker:
    from durably.store.sqlite_wake import FileWaker  # noqa: PLC0415  # a browser has no sockets, and no file either

    return FileWaker(Path(url.location), environment)


def _value(param: Scalar | tuple[str, ...]) -> object:
    if isinstance(param, tuple):
        return _encode(param)
    return rows.micros_of_time(param) if isinstance(param, datetime) else param


def _micros(value: object) -> int:
    if isinstance(value, datetime):
        return rows.micros_of_time(value)
    message = f"no parameter: {type(value).__name__}"
    raise TypeError(message)


_encode = json.JSONEncoder(default=_micros, separators=(",", ":"), check_circular=False).encode


class _Connection:
    """A connection and the one thread that uses it. All methods but `call` and `close` run in that thread."""

    def __init__(
        self,
        url: DatabaseUrl,
        environment: Environment,
        name: str,
        on_readonly: Callable[[], None] = lambda: None,
        connect: Callable[[DatabaseUrl], Opened] = connect,
    ) -> None:
        self._url = url
        self._connect = connect
        self._on_readonly = on_readonly
        self._executor: Executor = environment.executor(name, 1)
        self._raw: sqlite3.Connection | None = None
        self._calls: Calls | None = None

    async def call(self, work: Callable[[], list[Rows]]) -> list[Rows]:
        """Run blocking work in the connection's thread; from any loop. What is given up before it began is not done."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Rows]] = loop.create_future()
        self._executor.submit(self._work, work, loop, answer)  # wrap_future takes 6 us more
        return await answer

    async def close(self) -> None:
        """Close the connection and end its thread."""
        with suppress(DatabaseUnavailable):
            await self.call(self._close)
        self._executor.shutdown(wait=False)

    def reconnect(self) -> None:
        """Disconnect soon; whoever comes after that connects again. Called in any thread."""
        with suppress(RuntimeError):  # it is being closed
            self._executor.submit(self._close)

    def open(self) -> list[Rows]:
        """Connect; in WAL mode, with every commit on disk unless the URL says otherwise."""
        if self._raw is None:
            opened = self._connect(self._url)
            self._raw, self._calls = opened.raw, opened.calls
        self._raw.execute("PRAGMA busy_timeout = 0")
        self._raw.execute("PRAGMA journal_mode = WAL")
        self._raw.execute("PRAGMA temp_store = MEMORY")  # the calls, and what a statement may have to undo
        self._raw.execute(f"PRAGMA synchronous = {self._url.synchronous}")  # one of three words, checked by `parse_url`
        return []

    def transact(self, plan: Sequence[Block], *, readonly: bool) -> list[Rows]:
        """One transaction, if possible in one call. A block's rows are those of its last statement that has any."""
        raw, calls = self._connected()
        calls.forget()
        for block in plan:
            calls.learn(block.parts)
        made = calls.as_one(plan) if not readonly else None
        try:
            if made is None:
                raw.execute("BEGIN" if readonly else "BEGIN IMMEDIATE")
                results = [_run(raw, block, calls, place) for place, block in enumerate(plan)]
                raw.execute("COMMIT")
                return results
            calls.collect(plan)
            raw.execute(*made)
            return [calls.found(place) for place in range(len(plan))]
        except BaseException:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            calls.drop_collected()
            raise

    def migrate(self, known: Sequence[Migration], mode: Mode, now: int) -> None:
        """Apply what is missing, in one transaction each, one process at a time.

        Where nothing is missing it does not wait for the lock, which somebody's long transaction may hold.
        """
        raw, _ = self._connected()
        if _has_migrations(raw) and not pending(known, _newest(raw), mode):
            return
        while True:
            raw.execute("BEGIN IMMEDIATE")
            try:
                missing = pending(known, _applied(raw), mode)
                if missing:
                    _apply(raw, missing[0], now)
                raw.execute("COMMIT")
            except BaseException:
                raw.execute("ROLLBACK")
                raise
            if len(missing) <= 1:
                return

    def _connected(self) -> tuple[sqlite3.Connection, Calls]:
        if self._raw is None:
            self.open()
        if self._raw is None or self._calls is None:
            raise DatabaseUnavailable("it is not open")
        return self._raw, self._calls

    def _close(self) -> list[Rows]:
        if self._raw is not None:
            self._raw.close()
            self._raw = self._calls = None
        return []

    def _work(
        self, work: Callable[[], list[Rows]], loop: asyncio.AbstractEventLoop, answer: asyncio.Future[list[Rows]]
    ) -> None:
        if answer.cancelled():
            return
        found: list[Rows] = []
        failed: BaseException | None = None
        try:
            found = self._translated(work)
        except BaseException as error:  # noqa: BLE001  # whatever it is belongs to the one who waits
            failed = error
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(_tell, answer, found, failed)

    def _translated(self, work: Callable[[], list[Rows]]) -> list[Rows]:
        try:
            return work()
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _BUSY_CODES:
                raise _Busy from error
            if code in _PASSING_CODES:
                if code == sqlite3.SQLITE_READONLY:
                    self._on_readonly()
                raise DatabaseUnavailable(f"{self._url.shown}: {error}") from error
            if code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
                raise SchemaError(f"{self._url.shown} is not a usable SQLite database: {error}") from error
            if not code:  # it is Python's module that complains, of how it is used
                raise
            is_constraint = code == sqlite3.SQLITE_CONSTRAINT
            raise DatabaseRefused(f"{self._url.shown}: {error}", is_constraint=is_constraint) from error


def _tell(answer: asyncio.Future[list[Rows]], found: list[Rows], failed: BaseException | None) -> None:
    if answer.done():
        return
    if failed is None:
        answer.set_result(found)
    else:
        answer.set_exception(failed)


def _run(raw: sqlite3.Connection, block: Block, calls: Calls, place: int) -> Rows:
    calls.collect([block])
    for statement in calls.statements(block.calls):
        raw.execute(*statement)
    found: Rows = ()
    for text in block.texts:
        cursor = raw.execute(text, block.params)
        if cursor.description is not None:
            found = cursor.fetchall()
    return calls.found(place) or found


def _applied(raw: sqlite3.Connection) -> Applied:
    raw.execute(
        f"CREATE TABLE IF NOT EXISTS {_PREFIX}migrations "
        "(version INTEGER PRIMARY KEY, name TEXT NOT NULL, serves INTEGER NOT NULL, applied_at INTEGER NOT NULL)"
    )
    return _newest(raw)


def _has_migrations(raw: sqlite3.Connection) -> bool:
    named = raw.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (f"{_PREFIX}migrations",))
    return named.fetchone() is not None


def _newest(raw: sqlite3.Connection) -> Applied:
    row = raw.execute(f"SELECT coalesce(max(version), 0), coalesce(max(serves), 0) FROM {_PREFIX}migrations").fetchone()  # noqa: S608  # a constant prefix
    return Applied(row[0], row[1])


def _apply(raw: sqlite3.Connection, migration: Migration, now: int) -> None:
    for statement in migration.statements:
        raw.execute(statement)
    raw.execute(
        f"INSERT INTO {_PREFIX}migrations (version, name, serves, applied_at) VALUES (?, ?, ?, ?)",  # noqa: S608  # a constant prefix
        (migration.version, migration.name, migration.serves, now),
    )
