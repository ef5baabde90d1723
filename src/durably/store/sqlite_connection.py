"""A connection to SQLite and its thread: transactions, migrations, and what SQLite's errors mean.

Every write transaction is BEGIN IMMEDIATE, or one statement, which takes the same lock before it reads: a deferred one
that upgrades gets "database is locked", which no timeout cures. SQLite's own busy handler is off.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from durably.environment import Environment, new_reentrant_lock
from durably.errors import DatabaseRefused, DatabaseUnavailable, SchemaError
from durably.store.migrate import Applied, Migration, Mode, pending
from durably.store.operation import Rows
from durably.store.sqlite_calls import Block, Calls, Opened, connect
from durably.store.sqlite_forks import before_forks
from durably.store.url import DatabaseUrl

if TYPE_CHECKING:
    from durably.environment import Executor

PREFIX = "durably_"
_BUSY_CODES = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_PASSING_CODES = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}


class Busy(Exception):  # not a fault: the writer tries again
    """Another process is writing."""


class SqliteConnection:
    """A connection and the one thread that uses it. All methods but `call`, `close` and `let_go` run in that thread."""

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
        self.in_use = new_reentrant_lock()
        before_forks(self)  # after the executor is made: what that does before a fork is done after this

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
        opened = self._connect(self._url)
        try:
            opened.raw.execute("PRAGMA busy_timeout = 0")
            opened.raw.execute("PRAGMA journal_mode = WAL")
            opened.raw.execute("PRAGMA temp_store = MEMORY")  # the calls, and what a statement may have to undo
            opened.raw.execute(f"PRAGMA synchronous = {self._url.synchronous}")  # a word that `parse_url` has checked
        except BaseException:
            opened.raw.close()
            raise
        self._raw, self._calls = opened.raw, opened.calls
        return []

    def let_go(self) -> None:
        """See `Forkable`. What is in memory would be lost, and has no locks that a child could mistake for its own."""
        if self._url.location != ":memory:":
            with suppress(sqlite3.Error):
                self._close()

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
        with self.in_use:
            raw, self._raw, self._calls = self._raw, None, None
            if raw is not None:
                raw.close()
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
            with self.in_use:
                return work()
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _BUSY_CODES:
                raise Busy from error
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
        f"CREATE TABLE IF NOT EXISTS {PREFIX}migrations "
        "(version INTEGER PRIMARY KEY, name TEXT NOT NULL, serves INTEGER NOT NULL, applied_at INTEGER NOT NULL)"
    )
    return _newest(raw)


def _has_migrations(raw: sqlite3.Connection) -> bool:
    named = raw.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (f"{PREFIX}migrations",))
    return named.fetchone() is not None


def _newest(raw: sqlite3.Connection) -> Applied:
    row = raw.execute(f"SELECT coalesce(max(version), 0), coalesce(max(serves), 0) FROM {PREFIX}migrations").fetchone()  # noqa: S608  # a constant prefix
    return Applied(row[0], row[1])


def _apply(raw: sqlite3.Connection, migration: Migration, now: int) -> None:
    for statement in migration.statements:
        raw.execute(statement)
    raw.execute(
        f"INSERT INTO {PREFIX}migrations (version, name, serves, applied_at) VALUES (?, ?, ?, ?)",  # noqa: S608  # a constant prefix
        (migration.version, migration.name, migration.serves, now),
    )
