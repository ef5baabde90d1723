"""The bare engine on SQLite: one thread that writes, one transaction for all that waits, on disk at each commit."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bench.subjects.floor_writes import Claimed, Writes
from durably import SystemEnvironment

T = TypeVar("T")

TABLES = """
DROP TABLE IF EXISTS floor_runs;
DROP TABLE IF EXISTS floor_steps;
CREATE TABLE floor_runs (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, input TEXT NOT NULL, status TEXT NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0, output TEXT, created_at INTEGER NOT NULL, completed_at INTEGER
);
CREATE INDEX floor_runs_claimable ON floor_runs (job, id) WHERE status = 'pending';
CREATE INDEX floor_runs_by_status ON floor_runs (status, job, id);
CREATE TABLE floor_steps (
    run_id TEXT NOT NULL, name TEXT NOT NULL, position INTEGER NOT NULL, output TEXT, generation INTEGER NOT NULL,
    completed_at INTEGER NOT NULL, PRIMARY KEY (run_id, name)
);
"""
STEP = """
INSERT INTO floor_steps (run_id, name, position, output, generation, completed_at)
SELECT ?1, ?2, ?3, ?4, ?5, ?6
FROM floor_runs r
WHERE r.id = ?1 AND r.status = 'leased' AND r.generation = ?5
ON CONFLICT (run_id, name) DO NOTHING
"""
END = """
UPDATE floor_runs SET status = 'completed', output = ?2, completed_at = ?4
WHERE id = ?1 AND +status = 'leased' AND generation = ?3
"""
CLAIM = """
UPDATE floor_runs SET status = 'leased', generation = generation + 1
WHERE id IN (SELECT id FROM floor_runs WHERE job = 'bench' AND status = 'pending' ORDER BY id LIMIT ?)
RETURNING id, input, generation
"""


class SqliteFloor:
    """See `Floor`."""

    def __init__(self, path: str) -> None:
        self._environment = SystemEnvironment()
        self._raw = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._thread = ThreadPoolExecutor(1)

    async def open(self) -> None:
        """See `Floor`."""

        def start() -> None:
            self._raw.execute("PRAGMA journal_mode = WAL")
            self._raw.execute("PRAGMA synchronous = FULL")
            self._raw.executescript(TABLES)

        await self._call(start)

    async def enqueue(self, inputs: list[str]) -> None:
        """See `Floor`."""
        rows = [(self._environment.new_id(), value, self._environment.now_us()) for value in inputs]

        def insert() -> None:
            self._raw.execute("BEGIN IMMEDIATE")
            self._raw.executemany(
                "INSERT INTO floor_runs (id, job, input, status, created_at) VALUES (?, 'bench', ?, 'pending', ?)", rows
            )
            self._raw.execute("COMMIT")

        await self._call(insert)

    async def commit(self, writes: Writes) -> list[Claimed]:
        """See `Floor`."""
        return await self._call(lambda: self._commit(writes))

    def _commit(self, writes: Writes) -> list[Claimed]:
        now = self._environment.now_us()
        claimed: list[Claimed] = []
        self._raw.execute("BEGIN IMMEDIATE")
        if writes.steps:
            self._raw.executemany(STEP, [(*row, now) for row in writes.steps])
        if writes.ends:
            self._raw.executemany(END, [(*row, now) for row in writes.ends])
        if writes.claim:
            claimed = [Claimed(*row) for row in self._raw.execute(CLAIM, (writes.claim,)).fetchall()]
        self._raw.execute("COMMIT")
        return claimed

    async def count_left(self) -> int:
        """See `Floor`."""
        sql = "SELECT count(*) FROM floor_runs WHERE status <> 'completed'"
        return await self._call(lambda: int(self._raw.execute(sql).fetchone()[0]))

    async def close(self) -> None:
        """See `Floor`."""
        await self._call(self._raw.close)
        self._thread.shutdown()

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
