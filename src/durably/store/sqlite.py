"""SQLite through the standard library: one writer thread, one reader thread, wake-ups between processes.

A busy database is tried again after a random 0.1 to 4 ms, so that none starves.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from durably.environment import Environment
from durably.errors import DatabaseUnavailable, SchemaError
from durably.store import catalogue, rows
from durably.store.engine import Channel
from durably.store.migrate import Mode, migrations
from durably.store.operation import Batch, Rows, Scalar, Statement, Wake
from durably.store.sqlite_calls import Block, Opened, Parts, connect
from durably.store.sqlite_connection import PREFIX, Busy, SqliteConnection
from durably.store.url import DatabaseUrl

if TYPE_CHECKING:
    from durably.store.sqlite_wake import FileWaker

_BUSY_FOR = 10.0
_FIRST_WAIT, _LAST_WAIT = 0.0001, 0.004


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
        self._sql = catalogue.load("sqlite", PREFIX)
        self._parts = Parts(self._sql)
        self._texts: dict[tuple[str, frozenset[str]], tuple[str, ...]] = {}
        self._writer: SqliteConnection | None = None
        self._reader: SqliteConnection | None = None
        self._connections: WeakSet[SqliteConnection] = WeakSet() if shared_with is None else shared_with._connections  # noqa: SLF001  # with a twin's
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

    def _connection(self, name: str) -> SqliteConnection:
        made = SqliteConnection(self._url, self._environment, name, self._reconnect, self._connect)
        self._connections.add(made)
        return made

    def _reconnect(self) -> None:
        """Connect anew, all of this process: a file that was read-only stays so until all have let go of it."""
        for connection in tuple(self._connections) if self.is_shared else ():
            connection.reconnect()

    async def _retried(self, connection: SqliteConnection, work: Callable[[], list[Rows]]) -> list[Rows]:
        """Do blocking work in the connection's thread, again and again while another process writes."""
        give_up = asyncio.get_running_loop().time() + _BUSY_FOR
        wait = _FIRST_WAIT
        while True:
            try:
                return await connection.call(work)
            except Busy as error:
                if asyncio.get_running_loop().time() >= give_up:
                    raise DatabaseUnavailable(f"{self._url.shown} is locked by another process") from error
                await asyncio.sleep(wait * (0.5 + self._environment.random() / 2))
                wait = min(wait * 2, _LAST_WAIT)

    async def _migrate(self, connection: SqliteConnection, mode: Mode) -> None:
        known = migrations("sqlite", PREFIX)
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
