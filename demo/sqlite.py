"""The tables in an SQLite file. Each call has a connection of its own, in a thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar

from demo.source import Row
from demo.tables import COUNT, EXECUTIONS, INSERT, ROWS, Contents, Digest, Execution, definitions

T = TypeVar("T")

BUSY_SECONDS = 10.0


class SqliteTables:
    """See `Tables`."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def create(self, columns: Sequence[str]) -> None:
        """See `Tables`."""

        def create(connection: sqlite3.Connection) -> None:
            for definition in definitions(columns, "INTEGER PRIMARY KEY"):
                connection.execute(definition)

        await self._call(create)

    async def insert(self, first_row: int, rows: Sequence[Row], *, batch: int, attempt: int) -> int:
        """See `Tables`."""
        marks = ", ".join("?" * (len(rows[0]) + 1))
        numbered = [(number, *row) for number, row in enumerate(rows, start=first_row)]

        def insert(connection: sqlite3.Connection) -> None:
            started = connection.execute("INSERT INTO executions (batch, attempt) VALUES (?, ?)", (batch, attempt))
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(INSERT.format(values=f"VALUES ({marks})"), numbered)
            connection.execute("UPDATE executions SET committed = 1 WHERE id = ?", (started.lastrowid,))
            connection.execute("COMMIT")

        await self._call(insert)
        return len(rows)

    async def executions(self) -> list[Execution]:
        """See `Tables`."""

        def executions(connection: sqlite3.Connection) -> list[Execution]:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'executions'").fetchone():
                return []
            return [
                Execution(id=id, batch=batch, attempt=attempt, committed=bool(committed))
                for id, batch, attempt, committed in connection.execute(EXECUTIONS)
            ]

        return await self._call(executions)

    async def contents(self) -> Contents:
        """See `Tables`."""

        def contents(connection: sqlite3.Connection) -> Contents:
            rows, distinct = connection.execute(COUNT).fetchone()
            digest = Digest()
            for row in connection.execute(ROWS):
                digest.add(row[1:])
            return Contents(rows=rows, distinct=distinct, digest=digest.text())

        return await self._call(contents)

    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def call() -> T:
            # isolation_level=None: a transaction begins where it says BEGIN, all else commits at once
            with closing(sqlite3.connect(self._path, isolation_level=None, timeout=BUSY_SECONDS)) as connection:
                return work(connection)

        return await asyncio.to_thread(call)
