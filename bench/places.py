"""Databases to measure on: each measurement gets a fresh one, on the same server or in the same folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.postgres_server import PostgresServer, start_server


@dataclass(frozen=True, slots=True)
class Places:
    """The server, if one is needed, and a folder."""

    folder: Path
    server: PostgresServer | None

    @contextmanager
    def fresh(self, database: str) -> Generator[str]:
        """An empty database: a URL, or the path of a file that does not exist yet. It is removed afterwards."""
        if database == "postgres":
            if self.server is None:
                raise RuntimeError("no server was started")
            url = self.server.create_database()
            try:
                self.server.execute("CHECKPOINT")
                yield url
            finally:
                self.server.drop_database(url)
        else:
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            try:
                yield str(folder / "bench.db")
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def version(self, database: str) -> str:
        """The database's name and version."""
        if database == "postgres" and self.server is not None:
            return f"PostgreSQL {self.server.execute('SHOW server_version').split()[0]}"
        import sqlite3  # noqa: PLC0415 - only its version is wanted here

        return f"SQLite {sqlite3.sqlite_version}"

    def settings(self, database: str) -> str:
        """What the database was told about durability."""
        if database == "postgres" and self.server is not None:
            names = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
            return ", ".join(f"{name}={self.server.execute(f'SHOW {name}')}" for name in names)
        return "journal_mode=WAL, synchronous=FULL"


@contextmanager
def open_places(databases: tuple[str, ...]) -> Generator[Places]:
    """Start what is needed; gone at the end. PostgreSQL runs with its default settings."""
    folder = Path(tempfile.mkdtemp(prefix="durably-bench-"))
    server = start_server() if "postgres" in databases else None
    try:
        yield Places(folder, server)
    finally:
        if server is not None:
            server.close()
        shutil.rmtree(folder, ignore_errors=True)
