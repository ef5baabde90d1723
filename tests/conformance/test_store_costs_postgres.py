"""G14 on PostgreSQL: every statement uses its index under any plan, and touches few rows however many there are.

Prepared statements keep a generic plan, and statistics lag behind bursts: so each statement is looked at with generic
and with custom plans, on tables that were analyzed while they were still empty, and on tables analyzed when full.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import asyncpg
import pytest

from durably.environment import SystemEnvironment
from durably.store import leases
from durably.store.operation import Statement
from durably.store.postgres import PostgresEngine
from durably.store.url import parse_url
from tests.support.bulk import operations, statements
from tests.support.store import (
    LEASE,
    SCHEMA,
    TABLES,
    Store,
    a_checkpoint,
    an_event,
    fill,
    inner_engine,
    lease_of,
    private,
)
from tools.postgres_server import PostgresServer

ENVIRONMENT = SystemEnvironment()
MANY = 5_000
NAMES = list(operations(MANY, "x"))
MOST_ROWS = 1500
"""Rows that one statement may touch; the operations change up to 50 runs, each with a few rows beside it."""


KEEPS_CUSTOM = {"list by job", "list by job, next page"}
"""Without the value of LIMIT the plan is so much dearer that PostgreSQL keeps to custom plans: looked at is that."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a plan that reads a table or an index."""

    kind: str
    of: str
    rows: int
    """Rows it read, those that it dropped included."""


@pytest.fixture(scope="module", params=["analyzed empty", "analyzed full"])
def filled_url(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.create_database()
    asyncio.run(_fill(url, analyze_full=request.param == "analyzed full"))
    yield url
    postgres_server.drop_database(url)


async def _fill(url: str, *, analyze_full: bool) -> None:
    async with Store("postgres", url):
        connection = await asyncpg.connect(url)
        for table in TABLES:
            await connection.execute(fill(f"ALTER TABLE {{{table}}} SET (autovacuum_enabled = off)", postgres=True))
        await connection.execute("ANALYZE")
        for statement in statements(MANY, postgres=True):
            await connection.execute(statement)
        if analyze_full:
            await connection.execute("ANALYZE")
        await connection.close()


@pytest.fixture
async def connection(filled_url: str) -> AsyncIterator[Any]:
    """A connection with the settings of the engine's own."""
    opened = await asyncpg.connect(filled_url)
    link = PostgresEngine(parse_url(filled_url), ENVIRONMENT, SCHEMA)._links  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the engine's settings
    await opened.execute(next(iter(link.values())).settings)
    await opened.execute("BEGIN")
    yield opened
    await opened.execute("ROLLBACK")
    await opened.close()


async def nodes(connection: Any, url: str, name: str, mode: str) -> list[tuple[str, list[Node]]]:
    """What each statement of an operation reads; they are run one after the other, as in its transaction."""
    engine = PostgresEngine(parse_url(url), ENVIRONMENT, SCHEMA)
    mode = "auto" if name in KEEPS_CUSTOM else mode
    await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
    found: list[tuple[str, list[Node]]] = []
    for statement in operations(MANY, ENVIRONMENT.new_id())[name].plan():
        found += [(statement.name, each) for each in await _explained(connection, engine, statement)]
    return found


async def _explained(connection: Any, engine: PostgresEngine, statement: Statement) -> list[list[Node]]:
    found: list[list[Node]] = []
    for sql, arguments in engine._bind(statement):  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the engine's own binding
        await connection.execute(f"PREPARE looked_at AS {sql}")
        given = f"({', '.join(map(literal, arguments))})" if arguments else ""
        for _ in range(6):  # five custom plans, then PostgreSQL compares
            await connection.execute(f"EXPLAIN EXECUTE looked_at {given}")
        text = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE looked_at {given}")
        await connection.execute("DEALLOCATE looked_at")
        found.append(list(_nodes(json.loads(text)[0]["Plan"])))
    return found


def _nodes(plan: dict[str, Any]) -> Iterator[Node]:
    of = plan.get("Relation Name") or plan.get("Index Name")
    if of and "Scan" in plan["Node Type"]:
        dropped = sum(count for key, count in plan.items() if key.startswith("Rows Removed"))
        yield Node(plan["Node Type"], of, round((plan["Actual Rows"] + dropped) * plan["Actual Loops"]))
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def literal(value: object) -> str:
    """The value as SQL; its type is that of the parameter."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return literal("{" + ",".join(map(_element, cast("list[object]", value))) + "}")
    if isinstance(value, datetime):
        return literal(value.isoformat())
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


def _element(value: object) -> str:
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return "NULL" if value is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize("name", NAMES)
async def test_every_statement_uses_its_index(connection: Any, filled_url: str, name: str, mode: str) -> None:
    for statement, found in await nodes(connection, filled_url, name, mode):
        assert [node for node in found if node.kind == "Seq Scan" and node.of != "concurrency_keys"] == [], statement
        assert [node for node in found if node.rows > MOST_ROWS] == [], statement


async def test_a_plan_that_reads_everything_would_be_noticed(connection: Any) -> None:
    text = await connection.fetchval("EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM durably.runs WHERE output = 'x'")
    [node] = _nodes(json.loads(text)[0]["Plan"])
    assert node.kind == "Seq Scan"
    assert node.rows > MOST_ROWS


# --- HOT updates ------------------------------------------------------------------------------------


async def updates(store: Store) -> tuple[int, int]:
    """Updates of runs so far, and how many of them touched no index."""
    await store.sql("SELECT pg_stat_clear_snapshot(), pg_stat_force_next_flush()")
    [row] = await store.sql(
        "SELECT pg_stat_get_tuples_updated(c.oid) AS updated, pg_stat_get_tuples_hot_updated(c.oid) AS hot"
        " FROM pg_class c WHERE c.oid = 'durably.runs'::regclass"
    )
    return row["updated"], row["hot"]


async def flushed(store: Store) -> None:
    """Let the store's own sessions report what they did."""
    for link in private(inner_engine(store.database), "_links").values():
        await link.execute("SELECT pg_stat_force_next_flush()")


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_renewals_and_checkpoints_touch_no_index(store: Store) -> None:
    run = await store.leased(concurrency_key="k", labels={"a": "b"})
    await store.sql("VACUUM {runs}")
    await flushed(store)
    before = await updates(store)
    for number in range(1, 6):
        await store.database.run(leases.renew([lease_of(run)], lease=LEASE))
        await store.store(a_checkpoint(run, number, f"s{number}", number))
        await store.write(run, number + 100, events=(an_event(),)) if number == 5 else None
    await flushed(store)
    after = await updates(store)
    assert after[0] - before[0] == 11
    assert after[1] - before[1] == 11


@pytest.mark.parametrize("store_kind", ["postgres"], indirect=True)
async def test_a_claim_does_touch_an_index_and_is_counted(store: Store) -> None:
    await store.trigger()
    await flushed(store)
    before = await updates(store)
    await store.claim()
    await flushed(store)
    after = await updates(store)
    assert (after[0] - before[0], after[1] - before[1]) == (1, 0)


async def test_plans_that_were_made_while_the_tables_were_empty_still_use_their_indexes(postgres_url: str) -> None:
    """A worker prepares its statements on an empty database, keeps their plans, and then the burst comes."""
    engine = PostgresEngine(parse_url(postgres_url), ENVIRONMENT, SCHEMA)
    async with Store("postgres", postgres_url) as store:
        worker, filler = await store.connect(), await store.connect()
        await worker.execute(f"{next(iter(engine._links.values())).settings}; SET plan_cache_mode = force_generic_plan")  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the engine's settings
        looks: list[tuple[str, str]] = []
        for name in NAMES:
            for statement in operations(MANY, ENVIRONMENT.new_id())[name].plan():
                for sql, arguments in engine._bind(statement):  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the engine's own binding
                    given = f"({', '.join(map(literal, arguments))})" if arguments else ""
                    await worker.execute(f"PREPARE look_{len(looks)} AS {sql}")
                    await worker.execute(f"EXPLAIN EXECUTE look_{len(looks)} {given}")
                    looks.append((f"{name}: {statement.name}", f"EXECUTE look_{len(looks)} {given}"))
        for table in TABLES:
            await filler.execute(fill(f"ALTER TABLE {{{table}}} SET (autovacuum_enabled = off)", postgres=True))
        for text in statements(MANY, postgres=True):
            await filler.execute(text)
        await worker.execute("BEGIN")
        dear = [(name, node) for name, text in looks for node in await _dear(worker, text)]
        assert dear == []


async def _dear(connection: Any, execute: str) -> list[Node]:
    text = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {execute}")
    return [node for node in _nodes(json.loads(text)[0]["Plan"]) if node.rows > MOST_ROWS]
