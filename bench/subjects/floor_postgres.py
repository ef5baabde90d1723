"""The bare engine on PostgreSQL: one connection, one statement a transaction, arrays for the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from bench.subjects.floor_writes import Claimed, Writes
from durably import SystemEnvironment

if TYPE_CHECKING:
    from typing import TypeAlias

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

TABLES = """
DROP SCHEMA IF EXISTS floor CASCADE;
CREATE SCHEMA floor;
CREATE TABLE floor.runs (
    id uuid PRIMARY KEY, job text NOT NULL, input text NOT NULL, status text NOT NULL,
    generation integer NOT NULL DEFAULT 0, output text, created_at timestamptz NOT NULL, completed_at timestamptz
) WITH (fillfactor = 70);
CREATE INDEX runs_claimable ON floor.runs (job, id) WHERE status = 'pending';
CREATE INDEX runs_leased ON floor.runs (job) WHERE status = 'leased';
CREATE INDEX runs_by_status ON floor.runs (status COLLATE "C", job COLLATE "C", id);
CREATE TABLE floor.steps (
    run_id uuid NOT NULL, name text NOT NULL, position integer NOT NULL, output text, generation integer NOT NULL,
    completed_at timestamptz NOT NULL, PRIMARY KEY (run_id, name)
);
"""

HELD = """held AS MATERIALIZED (
    SELECT r.id FROM unnest($1::uuid[], $2::integer[]) AS i (id, generation)
    CROSS JOIN LATERAL (
        SELECT x.id FROM floor.runs x
        WHERE x.id = i.id AND x.status = 'leased' AND x.generation = i.generation
        FOR NO KEY UPDATE
    ) r
)"""
STEPS = """step AS (
    INSERT INTO floor.steps (run_id, name, position, output, generation, completed_at)
    SELECT i.run_id, i.name, i.position, i.output, i.generation, clock_timestamp()
    FROM unnest($3::uuid[], $4::text[], $5::integer[], $6::text[], $7::integer[])
         AS i (run_id, name, position, output, generation)
    JOIN held ON held.id = i.run_id
    ON CONFLICT (run_id, name) DO NOTHING
)"""
ENDS = """ended AS (
    UPDATE floor.runs r
    SET status = 'completed', output = i.output, completed_at = clock_timestamp()
    FROM unnest($8::uuid[], $9::text[], $10::integer[]) AS i (id, output, generation)
    WHERE r.id = i.id AND r.status = 'leased' AND r.generation = i.generation
)"""
CLAIM = """chosen AS MATERIALIZED (
    SELECT r.id FROM floor.runs r
    WHERE r.job = 'bench' AND r.status = 'pending'
    ORDER BY r.id
    LIMIT $11::integer
    FOR NO KEY UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE floor.runs r
    SET status = 'leased', generation = r.generation + 1
    FROM chosen
    WHERE r.id = chosen.id AND r.status = 'pending'
    RETURNING r.id::text, r.input, r.generation
)"""


class PostgresFloor:
    """See `Floor`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._environment = SystemEnvironment()
        self._raw: Connection | None = None

    @property
    def _connection(self) -> Connection:
        if self._raw is None:
            raise RuntimeError("it is not open")
        return self._raw

    async def open(self) -> None:
        """See `Floor`."""
        self._raw = await asyncpg.connect(self._url)
        await self._connection.execute(TABLES)
        await self._connection.execute("SET enable_seqscan = off; SET jit = off")

    async def enqueue(self, inputs: list[str]) -> None:
        """See `Floor`."""
        await self._connection.execute(
            "INSERT INTO floor.runs (id, job, input, status, created_at)"
            " SELECT i.id, 'bench', i.input, 'pending', clock_timestamp()"
            " FROM unnest($1::uuid[], $2::text[]) AS i (id, input)",
            [self._environment.new_id() for _ in inputs],
            inputs,
        )

    async def commit(self, writes: Writes) -> list[Claimed]:
        """See `Floor`. One statement, made of the parts that have something to do."""
        arguments: list[object] = []
        parts: list[str] = []
        if writes.steps:
            held = list({(row[0], row[4]) for row in writes.steps})
            arguments += [list(column) for column in zip(*sorted(held), strict=True)]
            arguments += [list(column) for column in zip(*writes.steps, strict=True)]
            parts += [HELD, STEPS]
        if writes.ends:
            arguments += [list(column) for column in zip(*writes.ends, strict=True)]
            parts.append(ENDS)
        if writes.claim:
            arguments.append(writes.claim)
            parts.append(CLAIM)
        if not parts:
            return []
        select = "SELECT id, input, generation FROM claimed ORDER BY id" if writes.claim else "SELECT 1 WHERE false"
        rows = await self._connection.fetch(_numbered(f"WITH {', '.join(parts)} {select}"), *arguments)
        return [Claimed(row["id"], row["input"], row["generation"]) for row in rows]

    async def count_left(self) -> int:
        """See `Floor`."""
        left: int = await self._connection.fetchval(
            "SELECT count(*) FROM floor.runs WHERE status <> 'completed'",
        )
        return left

    async def close(self) -> None:
        """See `Floor`."""
        await self._connection.close()


_known: dict[str, str] = {}


def _numbered(sql: str) -> str:
    """The same with its parameters counted from 1, whatever parts were left out."""
    if sql not in _known:
        text, place = sql, 0
        for number in range(1, 12):
            if f"${number}::" in text:
                place += 1
                text = text.replace(f"${number}::", f"${place}::")
        _known[sql] = text
    return _known[sql]
