"""What is looked at: processes by psutil, databases by SQL. Nothing here stays connected between two looks."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import asyncpg
import psutil

from durably.store.catalogue import fill_tables

TABLES = ("runs", "steps", "logs", "events", "concurrency_keys")
MIB = 1024 * 1024

Values = dict[str, float]
"""What was seen, by name; see verdict.SERIES."""

_COUNT = "SELECT count(*) FROM {#}"
_LEFT = "SELECT count(*) FROM {runs} WHERE status IN ('pending', 'leased')"
_GAPS = (
    "SELECT count(*) FROM (SELECT run_id FROM {events} GROUP BY run_id"
    " HAVING max(seq) - min(CASE WHEN started_at IS NULL THEN seq ELSE seq - 1 END) + 1"
    " <> count(*) + count(started_at)) g"
)


class Probe(Protocol):
    """How to look at one database."""

    async def look(self) -> Values:
        """Sizes, and what is special to the database."""
        ...

    async def left(self) -> int:
        """Runs that have not ended."""
        ...

    async def gaps(self) -> int:
        """Runs whose events, as far as they are kept, are not numbered without a gap."""
        ...


class SqliteProbe:
    """A file: each look is a short-lived connection."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def look(self) -> Values:
        """See `Probe`."""
        return await asyncio.to_thread(self._look)

    def _look(self) -> Values:
        found: Values = {f"rows_{table}": self._number(_COUNT.replace("#", table)) for table in TABLES}
        size = self._number("PRAGMA page_size")
        found["bytes"] = self._number("PRAGMA page_count") * size / MIB
        found["free"] = self._number("PRAGMA freelist_count") * size / MIB
        wal = self._file.with_name(f"{self._file.name}-wal")
        found["wal"] = wal.stat().st_size / MIB if wal.exists() else 0.0
        found["backlog"] = self._number(_LEFT)
        return found

    async def left(self) -> int:
        """See `Probe`."""
        return round(await asyncio.to_thread(self._number, _LEFT))

    async def gaps(self) -> int:
        """See `Probe`."""
        return round(await asyncio.to_thread(self._number, _GAPS))

    def _number(self, text: str) -> float:
        raw = sqlite3.connect(self._file, isolation_level=None, timeout=30)
        try:
            return float(raw.execute(fill_tables(text, "durably_")).fetchone()[0])
        finally:
            raw.close()


class PostgresProbe:
    """A database on a server of its own, seen from another database of the server."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.terminated = 0

    async def look(self) -> Values:
        """See `Probe`."""
        connection = await asyncpg.connect(self._url, server_settings={"application_name": "probe"})
        try:
            found: Values = {}
            for table in TABLES:
                name = f"durably.{table}"
                found[f"rows_{table}"] = await connection.fetchval(fill(_COUNT.replace("#", table)))
                size = await connection.fetchval("SELECT pg_total_relation_size($1::text::regclass)", name)
                found[f"bytes_{table}"] = size / MIB
            found["bytes"] = sum(value for name, value in found.items() if name.startswith("bytes_"))
            found["dead"] = await connection.fetchval(
                "SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_user_tables"
            )
            found["wal"] = await connection.fetchval("SELECT coalesce(sum(size), 0)::bigint FROM pg_ls_waldir()") / MIB
            found["connections"] = await connection.fetchval(_CONNECTIONS)
            found["backlog"] = await connection.fetchval(fill(_LEFT))
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            return found | server_memory(pid)
        finally:
            await connection.close()

    async def left(self) -> int:
        """See `Probe`."""
        return await self._number(fill(_LEFT))

    async def gaps(self) -> int:
        """See `Probe`."""
        return await self._number(fill(_GAPS))

    async def terminate(self) -> None:
        """Have the server end about half of the connections that others have to this database."""
        self.terminated += await self._number(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name <> 'probe' AND random() < 0.5"
        )

    async def _number(self, text: str) -> int:
        connection = await asyncpg.connect(self._url, server_settings={"application_name": "probe"})
        try:
            return int(await connection.fetchval(text))
        finally:
            await connection.close()


_CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'probe'"
    " AND backend_type = 'client backend'"
)


def fill(text: str) -> str:
    """The text with the names of PostgreSQL's tables."""
    return fill_tables(text, "durably.")


# --- processes ----------------------------------------------------------------------------------------------


def memory(pid: int | None) -> float | None:
    """Resident memory in MiB; None when the process is gone."""
    try:
        return None if pid is None else psutil.Process(pid).memory_info().rss / MIB
    except psutil.Error:
        return None


def open_files(pid: int | None) -> float | None:
    """Files and sockets that the process holds; None when it is gone."""
    try:
        return None if pid is None else float(psutil.Process(pid).num_fds())
    except psutil.Error:
        return None


def server_memory(backend: int) -> Values:
    """The private memory of all processes of the server, in MiB; nothing where it is another machine's, or secret."""
    try:
        postmaster = psutil.Process(backend).parent()
        if postmaster is None or "postgres" not in postmaster.name():
            return {}
        return {"server_memory": _private([postmaster, *postmaster.children(recursive=True)]) / MIB}
    except psutil.Error:
        return {}


def _private(processes: Iterable[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            total += process.memory_full_info().uss
        except psutil.NoSuchProcess:
            continue
    return total


def own_memory() -> float:
    """Resident memory of this process, which makes the load, in MiB."""
    return memory(os.getpid()) or 0.0
