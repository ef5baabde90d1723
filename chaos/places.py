"""Databases to break: a file, or a database on a server of our own; and raw SQL, on a new connection each time."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from chaos.audit import Dialect, triggers
from tools.postgres_process import ServerProcess
from tools.postgres_server import PostgresServer

BUSY_SECONDS = 30.0


@dataclass(slots=True)
class Place:
    """A database. `server` is None for a file."""

    url: str
    server: PostgresServer | None = None
    process: ServerProcess | None = None
    file: Path | None = None

    @property
    def dialect(self) -> Dialect:
        """Which kind of database it is."""
        return "sqlite" if self.server is None else "postgres"

    @property
    def name(self) -> str:
        """The kind, for people."""
        return "SQLite" if self.server is None else "PostgreSQL"

    def running(self) -> ServerProcess:
        """The server's process. Raises RuntimeError where there is none."""
        if self.process is None:
            raise RuntimeError("this database has no server")
        return self.process

    def path(self) -> Path:
        """The database's file. Raises RuntimeError where there is none."""
        if self.file is None:
            raise RuntimeError("this database has no file")
        return self.file

    async def begin_audit(self) -> None:
        """Make the audit's table and triggers; durably's tables must be there."""
        for statement in triggers(self.dialect):
            await self.sql(statement)

    async def sql(self, text: str) -> list[dict[str, Any]]:
        """The rows of a statement; `{runs}` and so on are durably's tables."""
        for table in ("runs", "steps", "events", "concurrency_keys"):
            text = text.replace(f"{{{table}}}", f"durably.{table}" if self.server else f"durably_{table}")
        if self.server is None:
            return await asyncio.to_thread(_file_sql, self.path(), text)
        connection = await asyncpg.connect(self.url, timeout=BUSY_SECONDS)
        try:
            return [dict(row) for row in await connection.fetch(text)]
        finally:
            await connection.close()

    async def value(self, text: str) -> Any:  # noqa: ANN401 - whatever the statement says
        """The first column of the first row."""
        return next(iter((await self.sql(text))[0].values()))


def _file_sql(path: Path, text: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS)) as raw:
        raw.row_factory = sqlite3.Row
        return [dict(row) for row in raw.execute(text).fetchall()]


class Server:
    """A PostgreSQL server that scenarios share, started when the first one needs it. Always one of our own."""

    def __init__(self, parent: Path | None = None, **settings: str) -> None:
        self._parent = parent
        self._settings = settings
        self._process: ServerProcess | None = None

    def place(self) -> Place:
        """A new database on it."""
        if self._process is None:
            self._process = ServerProcess(self._settings, self._parent)
        if self._process.pid is None:
            self._process.stop("immediate")
            self._process.start()
        server = PostgresServer(self._process.url, self._process)
        return Place(server.create_database(), server, self._process)

    def close(self) -> None:
        """Stop it and remove its data. Safe to repeat."""
        if self._process is not None:
            self._process.close()
            self._process = None
