"""The database alone: commits of one row, one after the other, with the settings that all others have too."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable

import asyncpg

from bench.task import Answer, Task, serve


async def postgres(url: str) -> tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[object]]]:
    """Return what commits a row, and what ends that."""
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE IF NOT EXISTS commits (number bigint NOT NULL)")
    return lambda: connection.execute("INSERT INTO commits VALUES (1)"), connection.close


async def sqlite(path: str) -> tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[object]]]:
    """Return what commits a row, and what ends that."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS commits (number INTEGER NOT NULL)")

    async def commit() -> None:
        connection.execute("INSERT INTO commits VALUES (1)")

    async def close() -> None:
        connection.close()

    return commit, close


async def count(task: Task) -> Answer:
    """Commit for as long as the task says."""
    commit, close = await (postgres if task.is_postgres else sqlite)(task.url)
    for _ in range(50):
        await commit()
    begin = time.perf_counter()
    done = 0
    while (seconds := time.perf_counter() - begin) < task.seconds:
        await commit()
        done += 1
    await close()
    return {"rate": done / seconds}


if __name__ == "__main__":
    serve(lambda task: asyncio.run(count(task)))
