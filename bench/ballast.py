"""Ended runs by the million, made where they are stored: what months of work leave behind."""

from __future__ import annotations

import sqlite3

CHUNK = 100_000

_RUN = (
    "id, job, input, status, rank, created_at, started_at, completed_at, output, completed_steps, next_step, attempt,"
    " generation, seq"
)
_SQLITE = f"""
WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)
INSERT INTO durably_runs ({_RUN})
SELECT printf('01900000-%04x-7000-8000-%012x', i / 65536, i), 'old', '{{"n":1}}',
       CASE WHEN i % 50 THEN 'completed' ELSE 'failed' END, i,
       1700000000000000 + i * 1000, 1700000000000000 + i * 1000, 1700000001000000 + i * 1000, '"done"', 3, 3, 1, 1, 9
FROM n
"""  # noqa: S608  # constants
_SQLITE_STEPS = """
INSERT INTO durably_steps (run_id, name, position, status, output, generation, started_at, completed_at)
SELECT r.id, s.value, 0, 'completed', '"a result of some length, as results are"', 1, r.started_at, r.completed_at
FROM durably_runs r CROSS JOIN json_each('["step[0]","step[1]","step[2]"]') s
WHERE r.rank BETWEEN :first AND :last AND r.job = 'old'
"""
_POSTGRES = f"""
INSERT INTO durably.runs ({_RUN})
SELECT ('01900000-' || lpad(to_hex(i / 65536), 4, '0') || '-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, 'old',
       '{{"n":1}}', CASE WHEN i % 50 = 0 THEN 'failed' ELSE 'completed' END, i,
       to_timestamp(1700000000 + i / 1000.0), to_timestamp(1700000000 + i / 1000.0),
       to_timestamp(1700000001 + i / 1000.0), '"done"', 3, 3, 1, 1, 9
FROM generate_series($1::integer, $2::integer) i
"""  # noqa: S608  # constants
_POSTGRES_STEPS = """
INSERT INTO durably.steps (run_id, name, position, status, output, generation, started_at, completed_at)
SELECT r.id, 'step[' || s || ']', s, 'completed', '"a result of some length, as results are"', 1, r.started_at,
       r.completed_at
FROM durably.runs r CROSS JOIN generate_series(0, 2) s
WHERE r.rank BETWEEN $1::integer AND $2::integer AND r.job = 'old'
"""


async def fill(url: str, runs: int) -> None:
    """Store so many ended runs with three steps each, years old."""
    chunks = [(first, min(first + CHUNK, runs) - 1) for first in range(0, runs, CHUNK)]
    if url.startswith("sqlite"):
        raw = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        for first, last in chunks:
            for statement in (_SQLITE, _SQLITE_STEPS):
                raw.execute(statement, {"first": first, "last": last})
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        raw.close()
        return
    import asyncpg  # noqa: PLC0415  # an extra

    connection = await asyncpg.connect(url)
    for first, last in chunks:
        for statement in (_POSTGRES, _POSTGRES_STEPS):
            await connection.execute(statement, first, last, timeout=600)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
