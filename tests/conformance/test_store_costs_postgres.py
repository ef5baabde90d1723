"""G14 on PostgreSQL: every statement uses its index under any plan, and touches few rows however many there are.

Prepared statements keep a generic plan, and statistics lag behind bursts: so each statement is looked at with generic
and with custom plans, on tables that were analyzed while they were still empty, and on tables analyzed when full.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from durably.environment import SystemEnvironment
from durably.model import Ending, EventType, Lease, RunStatus, RunWrite, StepRecord, StepStatus
from durably.store import leases, steps
from durably.store.engine import Channel
from durably.store.operation import Operation, Statement
from durably.store.postgres import settings
from tests.support.bulk import number_of, operations, run_id, statements
from tests.support.plans import Node, bound, literal, nodes_of, plan_of, prepare
from tests.support.store import (
    AT,
    LEASE,
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


CHANNELS = {
    "claim": [Channel.CLAIM],
    "claim, nothing there": [Channel.CLAIM],
    "write_runs": [Channel.FAST, Channel.ASIDE],
}
"""Where an operation is sent, unless that is the keyed lane's connection. Each has settings of its own."""
LOOKED_AT = [(name, channel) for name in NAMES for channel in CHANNELS.get(name, [Channel.KEYED])]


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
    """A connection in a transaction that leaves nothing behind."""
    opened = await asyncpg.connect(filled_url)
    await opened.execute("BEGIN")
    yield opened
    await opened.execute("ROLLBACK")
    await opened.close()


async def nodes(
    connection: Any, name: str, mode: str | None, channel: Channel = Channel.KEYED
) -> list[tuple[str, list[Node]]]:
    """What each statement of an operation reads; they are run one after the other, as in its transaction."""
    await connection.execute(settings(channel))
    if mode is not None:
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
    plans = await explained(connection, operations(MANY, ENVIRONMENT.new_id())[name])
    return [(statement, list(nodes_of(plan))) for statement, plan in plans]


async def explained(connection: Any, operation: Operation[Any]) -> list[tuple[str, dict[str, Any]]]:
    """The plan of each statement of an operation as it was executed."""
    found: list[tuple[str, dict[str, Any]]] = []
    for statement in operation.plan():
        found += [(statement.name, each) for each in await _explained(connection, statement)]
    return found


async def _explained(connection: Any, statement: Statement) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for sql, arguments in bound(statement):
        await connection.execute(f"PREPARE looked_at AS {sql}")
        given = f"({', '.join(map(literal, arguments))})" if arguments else ""
        for _ in range(6):  # five custom plans, then PostgreSQL compares
            await connection.execute(f"EXPLAIN EXECUTE looked_at {given}")
        found.append(await plan_of(connection, f"EXECUTE looked_at {given}"))
        await connection.execute("DEALLOCATE looked_at")
    return found


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize(("name", "channel"), LOOKED_AT)
async def test_every_statement_uses_its_index(connection: Any, name: str, channel: Channel, mode: str) -> None:
    for statement, found in await nodes(connection, name, mode, channel):
        assert [node for node in found if node.kind == "Seq Scan" and node.of != "concurrency_keys"] == [], statement
        assert [node for node in found if node.rows > MOST_ROWS] == [], statement


OF_ALL_RUNS = {name for name in NAMES if name.startswith(("list by", "skip by", "count of"))} - {"list by label"}


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize(("name", "channel"), LOOKED_AT)
async def test_only_lists_go_through_the_index_of_all_runs(
    connection: Any, name: str, channel: Channel, mode: str
) -> None:
    """Who looks for claimable runs, or for leases, would meet what has been claimed, or has ended, since a vacuum."""
    await connection.execute(f"{settings(channel)}; SET LOCAL plan_cache_mode = {mode}")
    plans = await explained(connection, operations(MANY, ENVIRONMENT.new_id())[name])
    used = {part["Index Name"] for _, plan in plans for part in _parts(plan) if "Index Name" in part}
    assert ("runs_by_status" in used) == (name in OF_ALL_RUNS), used


async def test_a_plan_that_reads_everything_would_be_noticed(connection: Any) -> None:
    text = await connection.fetchval("EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM durably.runs WHERE output = 'x'")
    [node] = nodes_of(json.loads(text)[0]["Plan"])
    assert node.kind == "Seq Scan"
    assert node.rows > MOST_ROWS


def a_batch() -> Operation[Any]:
    """Checkpoints of 50 runs, of which 25 come with the run's end."""
    first = number_of("leased", MANY)
    both: list[RunWrite] = []
    for place in range(50):
        lease = Lease(run_id(first + place), 1)
        ending = Ending(status=RunStatus.COMPLETED, output_json="1") if place % 2 else None
        step = StepRecord(
            run_id=lease.run_id,
            name="b",
            position=1,
            status=StepStatus.COMPLETED,
            output_json="1",
            error=None,
            generation=1,
            started_at=AT,
            completed_at=AT,
        )
        events = (an_event(EventType.STEP_START, "b"), an_event(EventType.STEP_COMPLETE, "b"))
        both.append(RunWrite(lease=lease, number=1, steps=(step,), events=events, ending=ending))
    return steps.write_fast.build(both)


def _parts(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _parts(child)


async def test_a_batch_looks_up_its_runs_in_order_and_joins_nothing_row_by_row(
    connection: Any,
) -> None:
    await connection.execute(settings(Channel.FAST))
    [(_, plan)] = await explained(connection, a_batch())
    parts = [part for part in _parts(plan) if part["Actual Loops"] > 0]
    assert {part["Actual Loops"] for part in parts} == {1}
    indexes = {(part["Node Type"], part["Index Name"]) for part in parts if "Index Name" in part}
    assert indexes == {("Index Scan", "runs_pkey")}  # not a bitmap, which would lock them in another order


async def test_a_claim_looks_through_what_waits_once_and_then_goes_by_id(connection: Any) -> None:
    await connection.execute(settings(Channel.CLAIM))
    [(_, plan)] = await explained(connection, operations(MANY, ENVIRONMENT.new_id())["claim"])
    indexes = [part["Index Name"] for part in _parts(plan) if "Index Name" in part]
    assert sorted(indexes) == ["runs_claimable", "runs_pkey", "runs_pkey"]


async def test_what_is_sent_all_the_time_is_planned_once(connection: Any) -> None:
    await connection.execute(settings(Channel.FAST))
    [(sql, arguments)] = bound(a_batch().plan()[0])
    await connection.execute(f"PREPARE sent AS {sql}")
    for _ in range(3):
        await connection.execute(f"EXECUTE sent ({', '.join(map(literal, arguments))})")
    row = await connection.fetchrow(
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE name = 'sent'"
    )
    await connection.execute("DEALLOCATE sent")
    assert tuple(row) == (3, 0)


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
    async with Store("postgres", postgres_url) as store:
        filler = await store.connect()
        looks: list[tuple[str, Any, str]] = []
        for channel in {channel for _, channel in LOOKED_AT}:
            worker = await store.connect()
            await worker.execute(f"{settings(channel)}; SET plan_cache_mode = force_generic_plan")
            for name in [name for name, at in LOOKED_AT if at is channel]:
                operation = operations(MANY, ENVIRONMENT.new_id())[name]
                made = await prepare(worker, operation, f"look_{NAMES.index(name)}")
                looks += [(f"{name}: {one.name}", worker, one.execute) for one in made]
        for table in TABLES:
            await filler.execute(fill(f"ALTER TABLE {{{table}}} SET (autovacuum_enabled = off)", postgres=True))
        for text in statements(MANY, postgres=True):
            await filler.execute(text)
        dear: list[tuple[str, Node]] = []
        for name, worker, text in looks:
            await worker.execute("BEGIN")
            dear += [(name, node) for node in nodes_of(await plan_of(worker, text)) if node.rows > MOST_ROWS]
            await worker.execute("ROLLBACK")
        assert dear == []
