"""G14 for lists: a page costs what it shows and a look-up for each job, whatever stands behind it.

A hundred or a thousand jobs have a hundred thousand runs, and a few of those runs failed. On PostgreSQL rows are
counted, under plans that were made while the tables were empty, that were made when their statistics knew one job and
one status only, and that know all; on SQLite the instructions of its machine.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypeAlias

import asyncpg
import pytest

from durably.model import RunFilter, RunStatus
from durably.store import overview, runs
from durably.store.engine import Channel
from durably.store.operation import Operation
from durably.store.postgres import settings
from tests.support.bulk import run_id
from tests.support.plans import Prepared, nodes_of, pages_of, plan_of, prepare
from tests.support.store import TABLES, Store, fill, inner_engine, private
from tools.postgres_server import PostgresServer

MANY = 100_000
FIRST = 2_000
"""Runs of one job that are there before all others."""
JOBS = (100, 1_000)
LIMIT, FAR = 50, 500
FAILED, COMPLETED, PENDING = RunStatus.FAILED, RunStatus.COMPLETED, RunStatus.PENDING

LISTS: Mapping[str, RunFilter] = MappingProxyType(
    {
        "a rare status": RunFilter(statuses=(FAILED,), limit=LIMIT),
        "the status of nearly all": RunFilter(statuses=(COMPLETED,), limit=LIMIT),
        "a next page of it": RunFilter(statuses=(COMPLETED,), before=run_id(FIRST + MANY // 2), limit=LIMIT),
        "three statuses": RunFilter(statuses=(FAILED, COMPLETED, RunStatus.LEASED), limit=LIMIT),
        "a status that none has": RunFilter(statuses=(PENDING,), limit=LIMIT),
        "a job": RunFilter(jobs=("job-7",), limit=LIMIT),
        "three jobs": RunFilter(jobs=("job-7", "first", "absent"), limit=LIMIT),
        "a job that has a rare status": RunFilter(jobs=("first",), statuses=(FAILED,), limit=LIMIT),
        "a job and a status": RunFilter(jobs=("job-7",), statuses=(COMPLETED,), limit=LIMIT),
    }
)
OPERATIONS: Mapping[str, Operation[Any]] = MappingProxyType(
    {title: runs.list_runs(which) for title, which in LISTS.items()}
    | {f"far in {title}": overview.skip_runs(which, offset=FAR) for title, which in LISTS.items()}
    | {
        "counts of a rare status": overview.count_runs(RunFilter(statuses=(FAILED,)), within=timedelta(0)),
        "counts of what none has": overview.count_runs(RunFilter(statuses=(PENDING,)), within=timedelta(0)),
    }
)


def parts_of(title: str, jobs: int) -> int:
    """How many parts of the index a list goes through: jobs times statuses."""
    which = LISTS.get(title.removeprefix("far in "), RunFilter(statuses=(FAILED,)))
    return len(which.jobs or range(jobs)) * len(which.statuses or RunStatus)


def most_rows(title: str, jobs: int) -> int:
    """What PostgreSQL may read: a look-up for each part, of each a share of the page, and what is missing of some."""
    parts, limit = parts_of(title, jobs), FAR if title.startswith("far in ") else LIMIT
    share = math.ceil(limit / math.sqrt(parts))
    return 2 * parts + parts * share + limit * math.ceil(limit / share) + 2 * limit


def crowd(jobs: int, many: int, *, postgres: bool) -> list[str]:
    """One job's runs, all completed; and then those of all others, of which the oldest, of ten jobs, failed."""
    numbers = "WITH RECURSIVE n (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
    ids = "('00000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid"
    now = "now()" if postgres else "1"
    text = f"""INSERT INTO {{runs}} (id, job, input, status, rank, created_at, seq, completed_at) {numbers}
               SELECT {ids if postgres else "printf('00000000-0000-7000-8000-%012x', i)"}, {{job}}, '1',
                      CASE WHEN i BETWEEN {FIRST + 1} AND {FIRST + 10} THEN 'failed' ELSE 'completed' END,
                      i, {now}, 1, {now} FROM n"""
    places = ((1, FIRST, "'first'"), (FIRST + 1, FIRST + many, f"'job-' || (i * 7919 % {jobs - 1})"))
    return [
        fill(text.replace("{first}", str(first)).replace("{last}", str(last)).replace("{job}", job), postgres=postgres)
        for first, last, job in places
    ]


# --- PostgreSQL --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """What a statement read."""

    rows: int
    pages: int
    is_walk: bool


Plans: TypeAlias = tuple[Any, dict[str, list[Prepared]]]
Found: TypeAlias = dict[tuple[str, str, str], Seen]


async def prepared(url: str, mode: str) -> Plans:
    """The operations' statements on a connection of their own, planned for the tables as they are now."""
    connection = await asyncpg.connect(url)
    await connection.execute(f"{settings(Channel.KEYED)}; SET plan_cache_mode = force_{mode}_plan")
    titles = enumerate(OPERATIONS)
    return connection, {title: await prepare(connection, OPERATIONS[title], f"look_{at}") for at, title in titles}


async def executed(regime: str, plans: Plans) -> Found:
    """What the statements read now, each run once."""
    connection, statements = plans
    found: Found = {}
    for title, one in [(title, one) for title, several in statements.items() for one in several]:
        plan = await plan_of(connection, one.execute)
        nodes = list(nodes_of(plan))
        found[regime, title, one.name] = Seen(
            rows=sum(node.rows for node in nodes),
            pages=pages_of(plan),
            is_walk=any(node.kind == "Seq Scan" for node in nodes),
        )
    await connection.close()
    return found


async def looks(url: str, jobs: int) -> Found:
    """What each statement reads, regime by regime."""
    async with Store("postgres", url) as store:
        for table in TABLES:
            await store.sql(f"ALTER TABLE {{{table}}} SET (autovacuum_enabled = off)")
        first, others = crowd(jobs, MANY, postgres=True)
        made = {"planned empty": await prepared(url, "generic")}
        await store.sql(first)
        await store.sql("ANALYZE")
        made["planned for one job"] = await prepared(url, "generic")
        await store.sql(others)
        made["one job known"] = await prepared(url, "custom")
        found = {key: seen for regime, plans in made.items() for key, seen in (await executed(regime, plans)).items()}
        await store.sql("ANALYZE")
        for mode in ("generic", "custom"):
            found |= await executed(f"all known, {mode}", await prepared(url, mode))
        return found


@pytest.fixture(scope="module", params=JOBS)
def seen(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[tuple[int, Found]]:
    url = postgres_server.create_database()
    yield request.param, asyncio.run(looks(url, request.param))
    postgres_server.drop_database(url)


def test_no_list_reads_more_than_its_page_and_a_share_of_each_part(seen: tuple[int, Found]) -> None:
    jobs, found = seen
    assert len(found) == 5 * (len(OPERATIONS) + 2 * 2)  # counts are three statements
    assert {key: one for key, one in found.items() if one.is_walk or one.rows > most_rows(key[1], jobs)} == {}


def test_no_list_passes_over_entries_of_the_index(seen: tuple[int, Found]) -> None:
    """What a scan steps over without a row is seen in the pages: some for each look-up, and few for each row."""
    jobs, found = seen
    assert {key: one for key, one in found.items() if one.pages > 3 * one.rows + 8 * parts_of(key[1], jobs) + 20} == {}


async def test_a_list_that_walks_would_be_noticed(postgres_url: str) -> None:
    """The way that PostgreSQL goes where it knows one job and one status: along all ids."""
    async with Store("postgres", postgres_url) as store:
        connection = await store.connect()
        for text in crowd(100, MANY, postgres=True):
            await store.sql(text)
        await connection.execute(settings(Channel.KEYED))
        text = "SELECT id FROM durably.runs WHERE status || '' = 'failed' ORDER BY id DESC LIMIT 50"
        plan = await plan_of(connection, text)
        assert sum(node.rows for node in nodes_of(plan)) > most_rows("far in a rare status", 100)


# --- SQLite ------------------------------------------------------------------------------------------


async def instructions(store: Store, operation: Operation[Any]) -> int:
    """Of SQLite's machine, once the engine knows the statement; in tens."""
    await store.database.read(operation)
    count = [0]

    def step() -> int:
        count[0] += 1
        return 0

    raw: sqlite3.Connection = private(private(inner_engine(store.database), "_writer"), "_raw")
    raw.set_progress_handler(step, 10)
    await store.database.read(operation)
    raw.set_progress_handler(None, 0)
    return count[0]


@pytest.mark.parametrize("known", ["nothing", "one job", "all"])
@pytest.mark.parametrize("jobs", JOBS)
async def test_a_list_on_sqlite_is_a_look_up_for_each_part_and_each_run(jobs: int, known: str) -> None:
    async with Store("sqlite-memory", "sqlite:///:memory:") as store:
        first, others = crowd(jobs, MANY, postgres=False)
        await store.sql(first)
        if known == "one job":
            await store.sql("ANALYZE")
        await store.sql(others)
        if known == "all":
            await store.sql("ANALYZE")
        costs = {title: await instructions(store, operation) for title, operation in OPERATIONS.items()}
        whole = await instructions(store, overview.count_runs(RunFilter(), within=timedelta(0)))
    limits = {title: FAR if title.startswith("far in ") else LIMIT for title in OPERATIONS}
    most = {title: 10 * (parts_of(title, jobs) + limit) + 100 for title, limit in limits.items()}
    assert {title: cost for title, cost in costs.items() if cost > most[title]} == {}
    assert whole > max(most.values())
