"""The tables in a PostgreSQL database. Each call has a connection of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from demo.source import Row
from demo.tables import COUNT, EXECUTIONS, INSERT, ROWS, Contents, Digest, Execution, definitions


class PostgresTables:
    """See `Tables`."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def create(self, columns: Sequence[str]) -> None:
        """See `Tables`."""
        async with self._connection() as connection:
            for definition in definitions(columns, "BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY"):
                await connection.execute(definition)

    async def insert(self, first_row: int, rows: Sequence[Row], *, batch: int, attempt: int) -> int:
        """See `Tables`."""
        numbers = range(first_row, first_row + len(rows))
        columns = [list(values) for values in zip(*rows, strict=True)]
        arrays = ", ".join(["$1::bigint[]", *(f"${index}::text[]" for index in range(2, len(columns) + 2))])
        rows_of = f"SELECT * FROM unnest({arrays})"  # noqa: S608  # numbered parameters
        start = "INSERT INTO executions (batch, attempt) VALUES ($1, $2) RETURNING id"
        async with self._connection() as connection:
            execution = await connection.fetchval(start, batch, attempt)
            async with connection.transaction():
                await connection.execute(INSERT.format(values=rows_of), list(numbers), *columns)
                await connection.execute("UPDATE executions SET committed = 1 WHERE id = $1", execution)
        return len(rows)

    async def executions(self) -> list[Execution]:
        """See `Tables`."""
        async with self._connection() as connection:
            if await connection.fetchval("SELECT to_regclass('executions')") is None:
                return []
            return [
                Execution(id=id, batch=batch, attempt=attempt, committed=bool(committed))
                for id, batch, attempt, committed in await connection.fetch(EXECUTIONS)
            ]

    async def contents(self) -> Contents:
        """See `Tables`."""
        digest = Digest()
        async with self._connection() as connection, connection.transaction(isolation="repeatable_read"):
            rows, distinct = await connection.fetchrow(COUNT) or (0, 0)
            async for row in connection.cursor(ROWS):
                digest.add(tuple(row)[1:])
        return Contents(rows=rows, distinct=distinct, digest=digest.text())

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[asyncpg.Connection]:
        connection = await asyncpg.connect(self._url)
        try:
            yield connection
        finally:
            await connection.close()
