"""G14 on PostgreSQL, backlog by backlog: a claim reads the same rows and pages in front of a thousand and of many.

The statements are prepared, and planned, while the tables are empty: first they are looked at with those plans and no
statistics at all, then with the plans that PostgreSQL makes once the full tables were analyzed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg
import pytest

from bench.backlog.measure import RUNS
from bench.backlog.scenarios import KEYED, SERVED, Scenario
from durably.environment import SystemEnvironment
from durably.model import Ending, Lease, NewRun, RunStatus, RunWrite
from durably.store import due, leases, runs, steps
from durably.store.engine import Channel
from durably.store.operation import Operation
from durably.store.postgres import settings
from tests.support.bulk import run_id
from tests.support.plans import Prepared, nodes_of, pages_of, plan_of, prepare
from tests.support.store import LEASE, TABLES, Store
from tools.postgres_server import PostgresServer

FEW, MANY = 1_000, 20_000
KINDS = ("pending", "finished", "behind", "unserved", "later")
ENVIRONMENT = SystemEnvironment()
MORE_ROWS = len(SERVED)
"""A plan may look at the first run of each job, or at those jobs only that have one."""
MORE_PAGES = 40
"""A tree of many entries is a level deeper: a page more for each of the places that a statement looks up."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What an operation read."""

    rows: int
    pages: int


Costs = dict[str, Cost]


def operations(kind: str, size: int) -> dict[str, tuple[Channel, list[Operation[Any]]]]:
    """What the benchmark takes turns in, each as it is sent; who hands a slot over must have claimed its run."""
    claim = partial(leases.claim, owner="me", token=ENVIRONMENT.new_id(), lease=LEASE)
    new = [NewRun(id=ENVIRONMENT.new_id(), job=job, input_json="1") for job in SERVED]
    holder = Lease(run_id(1 + (size if kind in {"pending", "unserved"} else 0)), 1)
    ended = RunWrite(
        lease=holder, number=1, concurrency_key="busy", ending=Ending(status=RunStatus.COMPLETED, output_json="1")
    )
    next_of_key = claim((KEYED,), limit=1)
    return {
        "claim": (Channel.CLAIM, [claim(SERVED, limit=RUNS)]),
        "claim of a key's next": (Channel.CLAIM, [next_of_key]),
        "look": (Channel.KEYED, [due.look(SERVED, max_crashes=3)]),
        "trigger": (Channel.KEYED, [runs.enqueue.build(new)]),
        "hand over": (Channel.KEYED, [next_of_key, steps.write_keyed.build([ended])]),
    }


@asynccontextmanager
async def worker(url: str, channel: Channel) -> AsyncGenerator[Any]:
    """A connection as a channel has it."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(settings(channel))
        yield connection
    finally:
        await connection.close()


async def costs(url: str, kind: str, size: int) -> tuple[Costs, Costs]:
    """What the operations read without statistics, and with them."""
    async with (
        Store("postgres", url) as store,
        worker(url, Channel.CLAIM) as claims,
        worker(url, Channel.KEYED) as keyed,
    ):
        for table in TABLES:
            await store.sql(f"ALTER TABLE {{{table}}} SET (autovacuum_enabled = off)")
        by_channel = {Channel.CLAIM: claims, Channel.KEYED: keyed}
        made: list[tuple[str, Any, list[Prepared]]] = []
        for name, (channel, parts) in operations(kind, size).items():
            connection = by_channel[channel]
            prepared = [await prepare(connection, part, f"look_{len(made)}_{at}") for at, part in enumerate(parts)]
            made.append((name, connection, [one for several in prepared for one in several]))
        for text in Scenario(key=kind, title=kind, **{kind: size}).statements("postgres"):  # pyright: ignore[reportArgumentType] - a field's name
            await store.sql(text)
        plain = {name: await cost(connection, statements) for name, connection, statements in made}
        await store.sql("ANALYZE")
        return plain, {name: await cost(connection, statements) for name, connection, statements in made}


async def cost(connection: Any, statements: list[Prepared]) -> Cost:
    """Run the statements of an operation in a transaction that leaves nothing behind."""
    rows = pages = 0
    transaction = connection.transaction()
    await transaction.start()
    for statement in statements:
        plan = await plan_of(connection, statement.execute)
        rows += sum(node.rows for node in nodes_of(plan))
        pages += pages_of(plan)
    await transaction.rollback()
    return Cost(rows, pages)


@pytest.fixture(scope="module", params=KINDS)
def few_and_many(
    request: pytest.FixtureRequest, postgres_server: PostgresServer
) -> Iterator[list[tuple[Costs, Costs]]]:
    """What everything costs in front of a few and of many of a kind."""
    urls = [postgres_server.create_database() for _ in (FEW, MANY)]
    sizes = zip(urls, (FEW, MANY), strict=True)
    yield [asyncio.run(costs(url, request.param, size)) for url, size in sizes]
    for url in urls:
        postgres_server.drop_database(url)


@pytest.mark.parametrize("place", [0, 1], ids=["plain", "analyzed"])
def test_nothing_reads_more_in_front_of_a_longer_backlog(few_and_many: list[tuple[Costs, Costs]], place: int) -> None:
    few, many = (found[place] for found in few_and_many)
    assert all(many[name].pages for name in many)
    assert many["hand over"].rows > many["claim of a key's next"].rows > 0
    grown = {
        name: (few[name], many[name])
        for name in few
        if many[name].rows > few[name].rows + MORE_ROWS or many[name].pages > few[name].pages * 1.2 + MORE_PAGES
    }
    assert grown == {}
